//! `keepMasks`: the answers of a model, kept for a while so that a ground-truth mask can be compared with them.
//!
//! One store a service, in memory or in a folder. It outlives reloads. A worker that captures an answer never waits:
//! in memory it copies, on disk it hands pieces to the store's own thread through a bounded queue. What finds no room,
//! or what the disk is too slow for, is not kept; the answer itself goes its way.
//!
//! Invariants: all masks of a service together, those under way included, have at most `maxBytes` bytes, and the oldest
//! make room for the newest; nothing is kept longer than `for`; a mask is kept whole or not at all; no lock is held while
//! something is read, written or freed.

mod capture;
mod disk;
mod ledger;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use self::capture::Capture;
use self::capture::{Pieces, Segments};
use self::ledger::{Ledger, expires};
use self::writer::{Job, Writer};
use super::feedback::Index;
use super::version::Version;
use crate::observe::metrics::Dropped;

/// Bytes of the largest mask that is kept: a larger one could not be compared.
pub const LARGEST: u64 = 512 << 20;
/// Most masks that a service keeps, however small they are: each costs some 200 bytes of memory beside its own, and on disk
/// a file.
pub const MOST_KEPT: usize = 100_000;
/// Most answers of a service that are captured at the same time.
pub const UNDER_WAY: usize = 64;
/// Bytes that wait for the disk at most; what would exceed it is not kept.
const QUEUED_BYTES: u64 = 16 << 20;
/// Pieces that wait for the disk at most.
const QUEUED_PIECES: usize = 1024;
/// A mask in memory lies in segments of at most as many bytes, and smaller pieces go to the disk together. While an answer
/// is under way, it may hold half of that beside what is reserved for it.
const SEGMENT: usize = 256 << 10;
/// Masks that are removed before others get at the store.
const BATCH: usize = 128;
/// A trouble that comes and goes is told of once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// `maxBytes` and `for` of `keepMasks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all masks of the service together.
    pub max_bytes: u64,
    /// How long a mask is kept.
    pub keep_for: Duration,
}

/// The masks of one service.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    /// Where there is a folder.
    disk: Option<Disk>,
}

#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    /// The thread's queue, once it runs.
    jobs: OnceLock<SyncSender<Job>>,
}

/// What the store and its thread share.
#[derive(Debug)]
struct Shared {
    service: String,
    ledger: Mutex<Ledger>,
    /// An answer is under way no more.
    landed: Condvar,
    /// Bytes that wait for the disk.
    queued: AtomicU64,
    /// The disk does not keep up.
    behind: Mutex<Trouble>,
}

impl Store {
    /// A store that is not open yet. Without `dir` it is in memory; with one its files are in a folder below it, named
    /// like the service.
    #[must_use]
    pub fn new(service: &str, dir: Option<PathBuf>, limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                service: service.to_owned(),
                ledger: Mutex::new(Ledger::new(limits, dir.is_some())),
                landed: Condvar::new(),
                queued: AtomicU64::new(0),
                behind: Mutex::default(),
            }),
            disk: dir.map(|dir| Disk {
                folder: dir.join(disk::folder_name(service)),
                jobs: OnceLock::new(),
            }),
        }
    }

    /// The qualified name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Changed limits apply at once, also to what is kept.
    pub fn set_limits(&self, limits: Limits) {
        let before = std::mem::replace(&mut self.shared.lock().limits, limits);
        if before != limits {
            self.sweep(SystemTime::now());
        }
    }

    /// Takes masks from now on. On disk, the thread is started, and takes over what an earlier process kept.
    pub(super) fn open(&self, index: &Arc<Index>) {
        // The thread removes what it finds for a store that is not open.
        self.shared.lock().open = true;
        if let Some(disk) = &self.disk
            && disk.jobs.get().is_none()
        {
            let (sender, jobs) = sync_channel(QUEUED_PIECES);
            let writer = Writer::new(Arc::clone(&self.shared), disk.folder.clone());
            match writer.start(jobs, index) {
                Ok(()) => _ = disk.jobs.set(sender),
                Err(e) => tracing::error!(service = self.service(), "cannot start a thread to keep masks: {e}"),
            }
        }
    }

    /// Takes no more masks, and removes those that are kept.
    pub(super) fn close(&self) {
        let mut ledger = self.shared.lock();
        ledger.open = false;
        let under_way: Vec<u128> = ledger.under_way.keys().copied().collect();
        for id in under_way {
            ledger.abandon(id);
        }
        drop(ledger);
        self.shared.landed.notify_all();
        self.evict_while(|_, _| true);
    }

    /// Begins to keep the answer to `id`; `length` is its length, where that is known.
    #[must_use]
    pub fn begin(self: &Arc<Self>, id: u128, version: &Arc<Version>, length: Option<u64>) -> Option<Capture> {
        let jobs = self.disk.as_ref().map(|disk| disk.jobs.get().cloned());
        let mut ledger = self.shared.lock();
        if !ledger.open || ledger.knows(id) {
            return None;
        }
        let pieces = match jobs {
            None => Pieces::Memory(Segments::default()),
            Some(Some(jobs)) => Pieces::Disk(jobs, Vec::new()),
            Some(None) => {
                drop(ledger);
                version.dropped(Dropped::Io);
                return None;
            }
        };
        if ledger.under_way.len() >= UNDER_WAY {
            drop(ledger);
            version.dropped(Dropped::Full);
            return None;
        }
        ledger.begin(id, version);
        let (gone, reserved) = ledger.reserve(id, length.unwrap_or(0));
        drop(ledger);
        drop(gone);
        let begun = reserved.and_then(|()| match &pieces {
            Pieces::Memory(_) => Ok(()),
            Pieces::Disk(jobs, _) => {
                let header = disk::header(id, &version.names);
                let begin = Job::Begin { id, header };
                jobs.try_send(begin).map_err(|_| self.shared.falls_behind())
            }
        });
        if let Err(why) = begun {
            self.shared.abandon(id, Some(why));
            return None;
        }
        Some(Capture {
            store: Arc::clone(self),
            id,
            bytes: 0,
            over: false,
            pieces,
        })
    }

    /// Whose mask is kept under `id`.
    #[must_use]
    pub fn version_of(&self, id: u128) -> Option<Arc<Version>> {
        let ledger = self.shared.lock();
        ledger.kept.get(&id).map(|kept| Arc::clone(&kept.version))
    }

    /// The mask that is kept under `id`. Blocks: it waits up to `wait` for an answer that is under way, and reads the
    /// disk.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(&self, id: u128, wait: Duration) -> io::Result<Option<Vec<u8>>> {
        let ledger = self.shared.lock();
        let ledger = self
            .shared
            .landed
            .wait_timeout_while(ledger, wait, |ledger| ledger.under_way.contains_key(&id));
        let (ledger, _) = ledger.unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = ledger.kept.get(&id) else {
            return Ok(None);
        };
        if expires(id, ledger.limits.keep_for) <= SystemTime::now() {
            return Ok(None);
        }
        let (segments, bytes) = (kept.segments.clone(), kept.bytes);
        drop(ledger);
        match (segments, &self.disk) {
            (Some(segments), _) => Ok(Some(segments.concat())),
            (None, Some(disk)) => disk::read(&disk.folder, id, bytes),
            (None, None) => Ok(None),
        }
    }

    /// Removes what has expired.
    pub(super) fn sweep(&self, now: SystemTime) {
        self.evict_while(|ledger, oldest| {
            ledger.bytes > ledger.limits.max_bytes || expires(oldest, ledger.limits.keep_for) <= now
        });
    }

    /// Removes the oldest masks while they shall go. Workers get the lock in between.
    fn evict_while(&self, goes: impl Fn(&Ledger, u128) -> bool) {
        let mut more = true;
        while more {
            let mut ledger = self.shared.lock();
            let mut gone = Vec::new();
            while gone.len() < BATCH && ledger.oldest().is_some_and(|oldest| goes(&ledger, oldest)) {
                gone.extend(ledger.evict());
            }
            drop(ledger);
            more = gone.len() == BATCH;
        }
        self.wake();
    }

    /// Waits until what was given to the disk is there, or `limit` is over. Blocks.
    pub(super) fn flush(&self, limit: Duration) {
        let Some(jobs) = self.disk.as_ref().and_then(|disk| disk.jobs.get()) else {
            return;
        };
        let (done, flushed) = sync_channel(1);
        let deadline = Instant::now() + limit;
        while jobs.try_send(Job::Flush(done.clone())).is_err() {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Lets the thread see what is doomed. A full queue wakes it by itself.
    fn wake(&self) {
        if let Some(jobs) = self.disk.as_ref().and_then(|disk| disk.jobs.get()) {
            let _ = jobs.try_send(Job::Wake);
        }
    }
}

impl Shared {
    /// What is guarded is valid between two statements, also after a panic elsewhere.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `id` is whole, and kept. Whether anybody still wants it.
    fn land(&self, id: u128, bytes: u64, segments: Option<Arc<[Vec<u8>]>>) -> bool {
        let mut ledger = self.lock();
        let gone = ledger.land(id, bytes, segments);
        drop(ledger);
        self.landed.notify_all();
        gone.is_some()
    }

    /// The answer to `id` is not kept.
    fn abandon(&self, id: u128, why: Option<Dropped>) {
        let version = self.lock().abandon(id);
        if let (Some(version), Some(why)) = (version, why) {
            version.dropped(why);
        }
        self.landed.notify_all();
    }

    /// The disk's queue is full: tells when that begins.
    fn falls_behind(&self) -> Dropped {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = behind.begins();
        drop(behind);
        if begins {
            let service = &self.service;
            tracing::warn!(%service, "the disk is too slow: masks are not kept (answers are not affected)");
        }
        Dropped::Io
    }

    /// The disk has nothing more to do.
    fn keeps_up(&self) {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).ends();
    }
}

/// A trouble that is told of when it begins.
#[derive(Debug, Default)]
struct Trouble {
    lasts: bool,
    told: Option<Instant>,
}

impl Trouble {
    /// It is there: whether to tell of it.
    fn begins(&mut self) -> bool {
        let quiet = self.lasts || self.told.is_some_and(|told| told.elapsed() < QUIET);
        self.lasts = true;
        if !quiet {
            self.told = Some(Instant::now());
        }
        !quiet
    }

    fn ends(&mut self) {
        self.lasts = false;
    }
}

#[cfg(test)]
mod tests;
