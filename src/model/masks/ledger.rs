//! The books of a mask store: what is kept, what is under way, and how many bytes that is.
//!
//! Does no input or output, and is only ever locked for a moment: what has to go is handed out, so that it is freed, or
//! removed from the disk, without the lock.
//!
//! Invariants: `bytes` is the sum of what is kept and what is reserved; everything that may have a file and is neither kept
//! nor under way any more is in `doomed`, until the store's thread takes it from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{LARGEST, Limits, MOST_KEPT};
use crate::model::version::Version;
use crate::observe::metrics::Dropped;

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) limits: Limits,
    /// Whether masks are taken at all: not before the snapshot is served, and not when it went.
    pub(super) open: bool,
    /// By id, and so by age: an id begins with the time at which it was made.
    pub(super) kept: BTreeMap<u128, Kept>,
    pub(super) under_way: HashMap<u128, UnderWay>,
    /// Bytes of all of them.
    pub(super) bytes: u64,
    /// Whose files the thread removes.
    pub(super) doomed: Vec<u128>,
    on_disk: bool,
}

/// A mask that is whole.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) version: Arc<Version>,
    pub(super) bytes: u64,
    /// `None`: it is on disk.
    pub(super) segments: Option<Arc<[Vec<u8>]>>,
}

/// A mask that is still coming.
#[derive(Debug)]
pub(super) struct UnderWay {
    version: Arc<Version>,
    reserved: u64,
}

impl Ledger {
    pub(super) fn new(limits: Limits, on_disk: bool) -> Self {
        Self {
            limits,
            open: false,
            kept: BTreeMap::new(),
            under_way: HashMap::new(),
            bytes: 0,
            doomed: Vec::new(),
            on_disk,
        }
    }

    /// Whether `id` is kept, or under way.
    pub(super) fn knows(&self, id: u128) -> bool {
        self.under_way.contains_key(&id) || self.kept.contains_key(&id)
    }

    /// The answer to `id` is under way.
    pub(super) fn begin(&mut self, id: u128, version: &Arc<Version>) {
        let new = UnderWay {
            version: Arc::clone(version),
            reserved: 0,
        };
        self.under_way.insert(id, new);
    }

    /// Sees to it that the answer to `id` has room for `bytes` bytes; gives what had to go for it.
    pub(super) fn reserve(&mut self, id: u128, bytes: u64) -> (Vec<Kept>, Result<(), Dropped>) {
        let most = self.limits.max_bytes;
        let Some(under_way) = self.under_way.get(&id) else {
            // Given up from the other side: the disk failed, or the store was closed.
            return (Vec::new(), Err(Dropped::Io));
        };
        let more = bytes.saturating_sub(under_way.reserved);
        if bytes > most.min(LARGEST) {
            return (Vec::new(), Err(Dropped::TooLarge));
        }
        let reserved: u64 = self.under_way.values().map(|answer| answer.reserved).sum();
        if reserved + more > most {
            return (Vec::new(), Err(Dropped::Full));
        }
        self.bytes += more;
        if let Some(under_way) = self.under_way.get_mut(&id) {
            under_way.reserved += more;
        }
        (self.make_room(), Ok(()))
    }

    /// The answer to `id` is whole. `None`: nobody wants it any more. Else what had to go for it.
    pub(super) fn land(&mut self, id: u128, bytes: u64, segments: Option<Arc<[Vec<u8>]>>) -> Option<Vec<Kept>> {
        let version = self.release(id)?;
        let kept = Kept {
            version,
            bytes,
            segments,
        };
        Some(self.keep(id, kept))
    }

    /// Keeps a mask; gives what had to go for it.
    pub(super) fn keep(&mut self, id: u128, kept: Kept) -> Vec<Kept> {
        self.bytes += kept.bytes;
        kept.version.keep(kept.bytes);
        self.kept.insert(id, kept);
        self.make_room()
    }

    /// The answer to `id` is under way no more, and nothing of it stays.
    pub(super) fn abandon(&mut self, id: u128) -> Option<Arc<Version>> {
        let version = self.release(id)?;
        if self.on_disk {
            self.doomed.push(id);
        }
        Some(version)
    }

    /// The oldest mask that is kept.
    pub(super) fn oldest(&self) -> Option<u128> {
        self.kept.first_key_value().map(|(id, _)| *id)
    }

    /// Removes the oldest mask.
    pub(super) fn evict(&mut self) -> Option<Kept> {
        let (id, kept) = self.kept.pop_first()?;
        self.bytes -= kept.bytes;
        kept.version.drop_kept(kept.bytes);
        if self.on_disk {
            self.doomed.push(id);
        }
        Some(kept)
    }

    fn make_room(&mut self) -> Vec<Kept> {
        let mut gone = Vec::new();
        while self.bytes > self.limits.max_bytes || self.kept.len() > MOST_KEPT {
            match self.evict() {
                Some(kept) => gone.push(kept),
                None => break,
            }
        }
        gone
    }

    fn release(&mut self, id: u128) -> Option<Arc<Version>> {
        let under_way = self.under_way.remove(&id)?;
        self.bytes -= under_way.reserved;
        Some(under_way.version)
    }
}

/// When the mask of `id` expires: an id begins with the milliseconds since 1970 at which it was made.
pub(super) fn expires(id: u128, keep_for: Duration) -> SystemTime {
    let made = UNIX_EPOCH.checked_add(Duration::from_millis((id >> 80) as u64));
    made.and_then(|made| made.checked_add(keep_for)).unwrap_or(UNIX_EPOCH)
}
