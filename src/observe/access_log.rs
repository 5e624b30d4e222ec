//! The access log: one line a request, in Traefik's three formats.
//!
//! A worker formats lines by hand into a buffer of its own and hands full buffers to the thread of a [`Sink`]; it never
//! waits. Where Gantry differs from Traefik: values of the query are redacted unless the configuration keeps them
//! (`fields.queryParameters.defaultMode: keep`), every byte is escaped, times are UTC, and a slow disk costs lines
//! (counted as `access_log_dropped_lines_total`), never requests.

pub mod entry;
pub mod fields;
pub mod format;

use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

pub use entry::{Entry, Origin, Service, Tls};
pub use fields::{FIELD_NAMES, FieldOptions, Mode};

use super::clock::Clock;
use super::metrics::Counter;
use super::sink::{Sender, Sink};
use fields::Fields;

/// A buffer of this size is handed over: waking the thread costs as much as a dozen lines.
const BATCH_BYTES: usize = 64 * 1024;
/// A line waits no longer than this for the next one; [`AccessLogWriter::flush`] is for the last of a burst.
const HAND_OVER: Duration = Duration::from_millis(200);
/// So many lines of each [`HAND_OVER`] leave at once: while little is asked, the lines of all workers stand in the order
/// in which the requests ended.
const AT_ONCE: usize = 32;

/// What `accessLog` of the static configuration says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLogOptions {
    /// `format`. Default: common.
    pub format: Format,
    /// `filePath`; standard output where absent.
    pub file_path: Option<PathBuf>,
    /// `bufferingSize`: lines that are handed over together at most. 0, the default: as many as fit 64 KiB. No line
    /// waits longer than about 200 ms in any case.
    pub buffering_size: usize,
    /// `filters`.
    pub filters: FilterOptions,
    /// `fields`.
    pub fields: FieldOptions,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Common Log Format, with Traefik's fields after it.
    #[default]
    Common,
    /// Common Log Format with referer and user agent.
    GenericClf,
    /// One JSON object a line.
    Json,
}

/// `accessLog.filters`: a line is kept where any of them holds; all are where none is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterOptions {
    /// Codes and ranges: `200`, `300-302`.
    pub status_codes: Vec<String>,
    /// Keeps requests that were tried again.
    pub retry_attempts: bool,
    /// Keeps requests that took longer; 0 is off.
    pub min_duration: Duration,
}

/// The access log of the process. Dropping it writes what waits.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    sink: Sink,
}

#[derive(Debug)]
struct Shared {
    format: Format,
    fields: Fields,
    filters: Filters,
    batch_lines: usize,
    /// Requests since the start, also those whose lines are filtered out.
    requests: AtomicU64,
}

impl AccessLog {
    /// Opens the file and starts the thread. `dropped` counts lost lines (`Metrics::access_log_dropped`).
    ///
    /// # Errors
    /// Where the file cannot be opened, or a filter's status code is none ([`ErrorKind::InvalidInput`]).
    pub fn new(options: &AccessLogOptions, dropped: Arc<Counter>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            format: options.format,
            fields: Fields::new(&options.fields),
            filters: Filters::new(&options.filters)?,
            batch_lines: if options.buffering_size == 0 {
                usize::MAX
            } else {
                options.buffering_size
            },
            requests: AtomicU64::new(0),
        });
        let sink = Sink::open("access-log", options.file_path.as_deref(), dropped)?;
        Ok(Self { shared, sink })
    }

    /// The writing side for one worker.
    pub fn writer(&self) -> AccessLogWriter {
        AccessLogWriter {
            shared: Arc::clone(&self.shared),
            sender: self.sink.sender(),
            clock: Clock::default(),
            buffer: Vec::new(),
            lines: 0,
            handed_over: SystemTime::UNIX_EPOCH,
            at_once: 0,
        }
    }

    /// Opens the file anew, as SIGUSR1 asks for.
    pub fn reopen(&self) {
        self.sink.reopen();
    }

    /// Waits until what the workers handed over is written, at most `limit`. Whether it is written.
    pub fn flush(&self, limit: Duration) -> bool {
        self.sink.flush(limit)
    }
}

/// Writes the lines of one worker. Call [`Self::flush`] from a timer of about 200 ms; dropping it flushes too.
#[derive(Debug)]
pub struct AccessLogWriter {
    shared: Arc<Shared>,
    sender: Sender,
    clock: Clock,
    buffer: Vec<u8>,
    lines: usize,
    /// When [`HAND_OVER`] began.
    handed_over: SystemTime,
    /// Lines since then that left at once.
    at_once: usize,
}

impl AccessLogWriter {
    /// Writes the line of a request that is over.
    pub fn log(&mut self, entry: &Entry<'_>) {
        let count = self.shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.shared.filters.keep(entry) {
            return;
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve(BATCH_BYTES + BATCH_BYTES / 8);
        }
        format::line(
            &mut self.buffer,
            &mut self.clock,
            self.shared.format,
            &self.shared.fields,
            entry,
            count,
        );
        self.lines += 1;
        let now = entry.start + entry.duration;
        // A clock that was set back ends the wait too.
        let due = now
            .duration_since(self.handed_over)
            .map_or(true, |since| since >= HAND_OVER);
        if due {
            (self.handed_over, self.at_once) = (now, 0);
        }
        if self.at_once < AT_ONCE || self.buffer.len() >= BATCH_BYTES || self.lines >= self.shared.batch_lines {
            self.at_once += 1;
            self.flush();
        }
    }

    /// Hands over what waits.
    /// Whether any header is written: their copies cost something.
    #[must_use]
    pub fn wants_headers(&self) -> bool {
        !self.shared.fields.no_headers()
    }

    /// Hands the buffered lines over.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.lines = 0;
            let few = self.buffer.len() < BATCH_BYTES / 8;
            let batch = if few {
                self.buffer.as_slice().to_vec()
            } else {
                std::mem::take(&mut self.buffer)
            };
            self.buffer.clear();
            self.sender.send(batch);
        }
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

#[derive(Debug)]
struct Filters {
    codes: Vec<RangeInclusive<u16>>,
    retries: bool,
    min_duration: Option<Duration>,
}

impl Filters {
    fn new(options: &FilterOptions) -> io::Result<Self> {
        let items = options.status_codes.iter().flat_map(|item| item.split(','));
        let codes = items.map(|item| {
            let (low, high) = item.split_once('-').unwrap_or((item, item));
            match (low.trim().parse(), high.trim().parse()) {
                (Ok(low), Ok(high)) if low <= high => Ok(low..=high),
                _ => Err(io::Error::new(
                    ErrorKind::InvalidInput,
                    format!("accessLog.filters.statusCodes: {item:?} is no status code and no range such as 400-499"),
                )),
            }
        });
        let min_duration = Some(options.min_duration).filter(|duration| !duration.is_zero());
        Ok(Self {
            codes: codes.collect::<io::Result<_>>()?,
            retries: options.retry_attempts,
            min_duration,
        })
    }

    fn keep(&self, entry: &Entry<'_>) -> bool {
        (self.codes.is_empty() && !self.retries && self.min_duration.is_none())
            || self.codes.iter().any(|range| range.contains(&entry.status))
            || (self.retries && entry.retry_attempts > 0)
            || self.min_duration.is_some_and(|least| entry.duration > least)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::entry::example;
    use super::*;

    fn options(path: &Path) -> AccessLogOptions {
        AccessLogOptions {
            format: Format::Json,
            file_path: Some(path.to_owned()),
            ..Default::default()
        }
    }

    fn counts(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        let read = |line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["RequestCount"]
                .as_u64()
                .unwrap()
        };
        text.lines().map(read).collect()
    }

    #[test]
    fn the_first_lines_leave_at_once_and_a_burst_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::new(&options(&path), Arc::default()).unwrap();
        let mut writer = log.writer();
        let entry = example();
        let at_once = AT_ONCE as u64;
        for _ in 0..at_once + 2 {
            writer.log(&entry);
        }
        assert!(log.flush(Duration::from_secs(20)));
        assert!(counts(&path).into_iter().eq(1..=at_once));
        writer.log(&Entry {
            start: entry.start + HAND_OVER,
            ..entry
        });
        for _ in 0..at_once {
            writer.log(&entry);
        }
        assert!(log.flush(Duration::from_secs(20)));
        let all = 2 * at_once + 3;
        assert!(
            counts(&path).into_iter().eq(1..=all),
            "a clock that was set back does not hold lines"
        );
        for _ in 0..at_once + 1 {
            writer.log(&entry);
        }
        drop(writer);
        drop(log);
        assert!(counts(&path).into_iter().eq(1..=all + at_once + 1));
    }

    #[test]
    fn workers_number_their_requests_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::new(
            &AccessLogOptions {
                buffering_size: 7,
                ..options(&path)
            },
            Arc::default(),
        )
        .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut writer = log.writer();
                    (0..100).for_each(|_| writer.log(&example()));
                });
            }
        });
        assert!(log.flush(Duration::from_secs(20)));
        let mut counts = counts(&path);
        counts.sort_unstable();
        assert_eq!(counts, (1..=300).collect::<Vec<_>>());
    }

    #[test]
    fn filters_keep_what_any_of_them_names() {
        let filters = |codes: &[&str], retry_attempts, millis| {
            Filters::new(&FilterOptions {
                status_codes: codes.iter().map(|&code| code.to_owned()).collect(),
                retry_attempts,
                min_duration: Duration::from_millis(millis),
            })
        };
        let entry = |status, retry_attempts, millis| Entry {
            status,
            retry_attempts,
            duration: Duration::from_millis(millis),
            ..example()
        };
        assert!(filters(&[], false, 0).unwrap().keep(&entry(200, 0, 1)));
        let some = filters(&["404", "500-503, 505"], true, 10).unwrap();
        assert!(!some.keep(&entry(200, 0, 10)));
        assert!(some.keep(&entry(404, 0, 1)) && some.keep(&entry(503, 0, 1)) && some.keep(&entry(505, 0, 1)));
        assert!(!some.keep(&entry(504, 0, 1)));
        assert!(some.keep(&entry(200, 1, 1)) && some.keep(&entry(200, 0, 11)));
        for wrong in ["", "abc", "500-400", "1-", "70000"] {
            assert_eq!(
                filters(&[wrong], false, 0).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{wrong}"
            );
        }
    }
}
