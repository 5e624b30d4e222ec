//! A scrape as a whole: one rendering at a time, on a blocking thread, for all who wait for it.
//!
//! Whoever asks often or at many connections at once cannot use up the blocking threads: there is one, and those who asked
//! before it began share what it wrote. An answer is never older than its request, so nobody misses what they did before.

use std::io::Write;
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinError, spawn_blocking};

use super::{Format, Metrics};

/// The form of the answer to a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// What the series are written in.
    pub format: Format,
    /// Whether that is compressed.
    pub gzip: bool,
}

/// The last answers, while somebody still holds them. The lock is fair: each waits for those before.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Vec<Answer>>>);

#[derive(Debug)]
struct Answer {
    encoding: Encoding,
    begun: Instant,
    text: Weak<Text>,
}

#[derive(Debug)]
struct Text(Vec<u8>);

/// `Bytes` that keep the text alive.
struct Holder(Arc<Text>);

impl AsRef<[u8]> for Holder {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl Metrics {
    /// The series as of now. It may be called on any thread with a tokio runtime, and dropped at any time.
    ///
    /// # Errors
    /// When the rendering panicked, or the runtime ends.
    pub async fn scrape(self: &Arc<Self>, encoding: Encoding) -> Result<Bytes, JoinError> {
        let arrived = Instant::now();
        let answers = Arc::clone(&self.answers.0).lock_owned().await;
        if let Some(text) = shared(&answers, encoding, arrived) {
            return Ok(text);
        }
        let metrics = Arc::clone(self);
        // The lock goes along: a scraper that leaves does not let the next one in before its thread is free again.
        spawn_blocking(move || metrics.answer(encoding, answers)).await
    }

    fn answer(&self, encoding: Encoding, mut answers: OwnedMutexGuard<Vec<Answer>>) -> Bytes {
        let begun = Instant::now();
        let mut text = self.render(encoding.format, begun);
        if encoding.gzip {
            text = compress(&text);
        }
        let text = Arc::new(Text(text));
        answers.retain(|answer| answer.encoding != encoding && answer.text.strong_count() > 0);
        answers.push(Answer {
            encoding,
            begun,
            text: Arc::downgrade(&text),
        });
        Bytes::from_owner(Holder(text))
    }
}

/// The answer to another scrape that began after this one had arrived.
fn shared(answers: &[Answer], encoding: Encoding, arrived: Instant) -> Option<Bytes> {
    let answer = answers
        .iter()
        .find(|answer| answer.encoding == encoding && answer.begun >= arrived)?;
    Some(Bytes::from_owner(Holder(answer.text.upgrade()?)))
}

/// At the fastest level: series repeat themselves so much that a better one gains little.
fn compress(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::super::MetricsOptions;
    use super::*;

    const PLAIN: Encoding = Encoding {
        format: Format::OpenMetrics,
        gzip: false,
    };
    const GZIP: Encoding = Encoding { gzip: true, ..PLAIN };

    /// Runs tasks on this thread, and as many blocking ones as they like.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// How many renderings there were: each is another buffer.
    fn different(texts: &[Bytes]) -> usize {
        let mut places: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
        places.sort_unstable();
        places.dedup();
        places.len()
    }

    #[test]
    fn those_who_wait_share_one_rendering() {
        let metrics = Metrics::new(MetricsOptions::default());
        let texts = block_on(async {
            let held = Arc::clone(&metrics.answers.0).lock_owned().await;
            let waiting: Vec<_> = (0..50)
                .map(|n| {
                    let metrics = Arc::clone(&metrics);
                    let encoding = if n % 2 == 0 { PLAIN } else { GZIP };
                    tokio::spawn(async move { metrics.scrape(encoding).await.unwrap() })
                })
                .collect();
            // All of them have arrived once each was polled.
            tokio::task::yield_now().await;
            drop(held);
            let mut texts = Vec::new();
            for waiting in waiting {
                texts.push(waiting.await.unwrap());
            }
            texts
        });
        assert_eq!(different(&texts), 2, "one of each form");
        assert!(texts[0].ends_with(b"# EOF\n"));
        let mut unpacked = Vec::new();
        GzDecoder::new(&texts[1][..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked.ends_with(b"# EOF\n"));
    }

    #[test]
    fn an_answer_is_not_older_than_its_request() {
        let metrics = Metrics::new(MetricsOptions::default());
        let (first, second) = block_on(async {
            let first = metrics.scrape(PLAIN).await.unwrap();
            metrics.access_log_dropped().add(7);
            (first, metrics.scrape(PLAIN).await.unwrap())
        });
        let has = |text: &Bytes| String::from_utf8_lossy(text).contains("gantry_access_log_dropped_lines_total 7\n");
        assert!(!has(&first) && has(&second));
    }

    #[test]
    #[allow(clippy::await_holding_lock, reason = "it is what the blocking thread waits for")]
    fn a_scraper_that_leaves_keeps_its_place_until_its_thread_is_free() {
        let metrics = Metrics::new(MetricsOptions::default());
        block_on(async {
            // Rendering stops at this lock.
            let busy = super::super::lock(&metrics.cells);
            let leaving = tokio::spawn({
                let metrics = Arc::clone(&metrics);
                async move { metrics.scrape(PLAIN).await }
            });
            tokio::task::yield_now().await;
            leaving.abort();
            assert!(leaving.await.unwrap_err().is_cancelled());
            assert!(metrics.answers.0.try_lock().is_err(), "still rendering");
            drop(busy);
            metrics.scrape(PLAIN).await.unwrap();
        });
    }

    #[test]
    fn answers_are_not_kept_after_they_were_sent() {
        let metrics = Metrics::new(MetricsOptions::default());
        block_on(async {
            let text = metrics.scrape(PLAIN).await.unwrap();
            assert_eq!(metrics.answers.0.lock().await[0].text.strong_count(), 1);
            drop(text);
            assert_eq!(metrics.answers.0.lock().await[0].text.strong_count(), 0);
        });
    }
}
