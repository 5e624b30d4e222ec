//! The mask in an answer: found by its first bytes, and handed to the store that keeps it for feedback.
//!
//! Only an answer that is whole is kept, and of a multipart answer the first part that is a volume.

use bytes::Bytes;

use super::feedback::Recorder;
use super::masks::Capture;
use super::parameters;
use crate::imaging::nifti;

/// How many bytes tell a NIfTI file or a gzip stream.
const MAGIC_BYTES: usize = 4;

/// Looks for the mask of one answer.
#[derive(Debug)]
pub struct MaskTap {
    recorder: Recorder,
    id: u128,
    /// The answer's length, where the mask is all of it.
    length: Option<u64>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Before a body or part that may be one.
    Between,
    /// Its first bytes, too few to tell; and whether its type lets a gzip stream be a mask.
    Beginning(Vec<u8>, bool),
    /// This is the mask.
    Within(Capture),
    /// The mask is through; what is left is the rest of the answer.
    Through(Capture),
    /// What comes is no mask, up to the next part.
    Other,
    /// Nothing more will be kept.
    Over,
}

impl MaskTap {
    /// A tap for the answer to `id`.
    #[must_use]
    pub fn new(recorder: &Recorder, id: u128, length: Option<u64>) -> Self {
        Self {
            recorder: recorder.clone(),
            id,
            length,
            state: State::Between,
        }
    }

    /// A body or part of this type begins.
    pub fn begin(&mut self, content_type: Option<&str>) {
        if matches!(self.state, State::Between) {
            self.state = State::Beginning(Vec::new(), may_be_volume(content_type));
        }
    }

    /// Its next bytes.
    pub fn data(&mut self, data: &Bytes) {
        match &mut self.state {
            State::Within(capture) => {
                capture.push(data);
                if capture.is_over() {
                    self.state = State::Over;
                }
            }
            State::Beginning(first, gzip) => {
                first.extend_from_slice(&data[..data.len().min(MAGIC_BYTES)]);
                if first.len() < MAGIC_BYTES {
                    return;
                }
                let is_mask = nifti::is_nifti(first) || (*gzip && nifti::is_gzip(first));
                let before = first.len() - data.len().min(MAGIC_BYTES);
                let before = Bytes::copy_from_slice(&first[..before]);
                if !is_mask {
                    self.state = State::Other;
                    return;
                }
                self.state = match self.recorder.begin(self.id, self.length) {
                    Some(mut capture) => {
                        capture.push(&before);
                        capture.push(data);
                        State::Within(capture)
                    }
                    None => State::Over,
                };
            }
            State::Between | State::Through(_) | State::Other | State::Over => {}
        }
    }

    /// It is whole.
    pub fn end(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Between) {
            State::Within(capture) | State::Through(capture) => State::Through(capture),
            State::Over => State::Over,
            State::Between | State::Beginning(..) | State::Other => State::Between,
        };
    }

    /// The answer is whole: its mask is kept.
    pub fn keep(self) {
        if let State::Through(capture) = self.state {
            capture.finish();
        }
    }
}

/// Whether a gzip stream of this type may be a volume: many things are compressed, and most of them are texts.
fn may_be_volume(content_type: Option<&str>) -> bool {
    let Some(kind) = content_type.map(|text| parameters::head(text).to_ascii_lowercase()) else {
        return true;
    };
    kind.is_empty()
        || kind == "application/octet-stream"
        || kind == "binary/octet-stream"
        || kind.contains("gzip")
        || kind.contains("nifti")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::feedback::Index;
    use super::super::masks::{Limits, Store};
    use super::super::version;
    use super::*;
    use crate::observe::metrics::{Metrics, MetricsOptions};

    fn recorder() -> (Recorder, Arc<Store>) {
        let index = Arc::new(Index::new());
        let limits = Limits {
            max_bytes: 1 << 20,
            keep_for: Duration::from_secs(3600),
        };
        let store = Arc::new(Store::new("s@file", None, limits));
        let masks = Some((Arc::clone(&store), limits));
        let recorder = Recorder::new(Arc::clone(&index), version::fixture("1"), masks);
        let series = Metrics::new(MetricsOptions::default()).model("seg", "1", "s@file");
        index.announce([(&recorder, &series)]);
        (recorder, store)
    }

    fn kept(store: &Store, id: u128) -> Option<Vec<u8>> {
        store.read(id, Duration::ZERO).expect("memory")
    }

    fn id() -> u128 {
        uuid::Uuid::now_v7().as_u128()
    }

    #[test]
    fn the_first_volume_of_a_whole_answer_is_kept() {
        let (recorder, store) = recorder();
        let id = id();
        let mut tap = MaskTap::new(&recorder, id, None);
        let parts: [(&str, &[&[u8]]); 4] = [
            ("application/json", &[b"{}"]),
            ("application/json", &[&[0x1f, 0x8b, 8, 0, 1]]),
            ("application/octet-stream", &[&[0x5c], &[1, 0], &[0, 7], &[8]]),
            ("application/octet-stream", &[&[0x5c, 1, 0, 0, 9]]),
        ];
        for (kind, pieces) in parts {
            tap.begin(Some(kind));
            for piece in pieces {
                tap.data(&Bytes::copy_from_slice(piece));
            }
            tap.end();
        }
        assert_eq!(kept(&store, id), None);
        tap.keep();
        assert_eq!(kept(&store, id), Some(vec![0x5c, 1, 0, 0, 7, 8]));
    }

    #[test]
    fn what_is_no_volume_or_breaks_off_is_not() {
        let (recorder, store) = recorder();
        for (bytes, whole) in [
            (&b"text"[..], true),
            (b"", true),
            (&[0x5c, 1], true),
            (&[0x5c, 1, 0, 0, 1], false),
        ] {
            let id = id();
            let mut tap = MaskTap::new(&recorder, id, Some(5));
            tap.begin(None);
            tap.data(&Bytes::copy_from_slice(bytes));
            if whole {
                tap.end();
                tap.keep();
            } else {
                drop(tap);
            }
            assert_eq!(kept(&store, id), None, "{bytes:?}");
        }
    }

    #[test]
    fn compressed_texts_are_no_volumes() {
        for kind in [
            None,
            Some("application/gzip"),
            Some("application/x-nifti; a=b"),
            Some("Application/Octet-Stream"),
        ] {
            assert!(may_be_volume(kind), "{kind:?}");
        }
        for kind in [
            "application/json",
            "text/html; charset=utf-8",
            "multipart/mixed; boundary=x",
        ] {
            assert!(!may_be_volume(Some(kind)), "{kind}");
        }
    }
}
