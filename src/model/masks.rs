//! `keepMasks`: the answers of a model, kept for a while so that a ground-truth mask can be compared with them.
//!
//! One store a service, in memory or in a folder. It outlives reloads. A worker that captures an answer never waits:
//! in memory it copies, on disk it hands pieces to the store's own thread through a bounded queue. What finds no room,
//! or what the disk is too slow for, is not kept; the answer itself goes its way.
//!
//! Invariants: all masks of a service together, those under way included, have at most `maxBytes` bytes, and the oldest
//! make room for the newest; nothing is kept longer than `for`; a mask is kept whole or not at all.

mod capture;
mod disk;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::capture::Capture;
use self::capture::Pieces;
use self::disk::{Job, Writer};
use super::feedback::Index;
use super::version::Version;
use crate::observe::metrics::Dropped;

/// Bytes of the largest mask that is kept: a larger one could not be compared.
pub const LARGEST: u64 = 512 << 20;
/// Most answers of a service that are captured at the same time.
pub const UNDER_WAY: usize = 64;
/// Pieces that wait for the disk at most.
const QUEUED_PIECES: usize = 1024;

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
    on_disk: bool,
    inner: Mutex<Inner>,
    /// An answer is under way no more.
    landed: Condvar,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    /// Whether masks are taken at all: not before the snapshot is served, and not when it went.
    open: bool,
    kept: HashMap<u128, Kept>,
    /// The ids of `kept` in the order that they came.
    order: VecDeque<u128>,
    under_way: HashMap<u128, UnderWay>,
    /// Bytes of all of them.
    bytes: u64,
    /// Bytes that wait for the disk.
    queued: u64,
    /// Whose files the thread removes.
    doomed: Vec<u128>,
}

#[derive(Debug)]
struct Kept {
    version: Arc<Version>,
    bytes: u64,
    /// `None`: it is on disk.
    segments: Option<Arc<[Vec<u8>]>>,
}

#[derive(Debug)]
struct UnderWay {
    version: Arc<Version>,
    reserved: u64,
}

impl Store {
    /// A store that is not open yet. Without `dir` it is in memory; with one its files are in a folder below it, named
    /// like the service.
    #[must_use]
    pub fn new(service: &str, dir: Option<PathBuf>, limits: Limits) -> Self {
        let inner = Inner {
            limits,
            open: false,
            kept: HashMap::new(),
            order: VecDeque::new(),
            under_way: HashMap::new(),
            bytes: 0,
            queued: 0,
            doomed: Vec::new(),
        };
        Self {
            shared: Arc::new(Shared {
                service: service.to_owned(),
                on_disk: dir.is_some(),
                inner: Mutex::new(inner),
                landed: Condvar::new(),
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

    /// Changed limits apply to the next mask, and with the next sweep to what is kept.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.lock().limits = limits;
    }

    /// Takes masks from now on. On disk, the thread is started, and takes over what an earlier process kept.
    pub(super) fn open(&self, index: &Arc<Index>) {
        if let Some(disk) = &self.disk
            && disk.jobs.get().is_none()
        {
            let (sender, jobs) = sync_channel(QUEUED_PIECES);
            let writer = Writer::new(Arc::clone(&self.shared), disk.folder.clone());
            if let Err(e) = writer.start(jobs, index) {
                tracing::error!(service = self.service(), "cannot start a thread to keep masks: {e}");
                return;
            }
            let _ = disk.jobs.set(sender);
        }
        self.shared.lock().open = true;
    }

    /// Takes no more masks, and removes those that are kept.
    pub(super) fn close(&self) {
        let mut inner = self.shared.lock();
        inner.open = false;
        let mut gone: Vec<Kept> = Vec::new();
        while let Some(kept) = inner.evict() {
            gone.push(kept);
        }
        let under_way: Vec<u128> = inner.under_way.keys().copied().collect();
        for id in under_way {
            inner.take_under_way(id);
            if self.shared.on_disk {
                inner.doomed.push(id);
            }
        }
        drop(inner);
        self.shared.landed.notify_all();
        self.wake();
    }

    /// Begins to keep the answer to `id`; `length` is its length, where that is known.
    #[must_use]
    pub fn begin(self: &Arc<Self>, id: u128, version: &Arc<Version>, length: Option<u64>) -> Option<Capture> {
        let pieces = match &self.disk {
            None => Pieces::Memory(Vec::new(), Vec::new()),
            Some(disk) => Pieces::Disk(disk.jobs.get()?.clone()),
        };
        let mut inner = self.shared.lock();
        if !inner.open || inner.under_way.contains_key(&id) || inner.kept.contains_key(&id) {
            return None;
        }
        if inner.under_way.len() >= UNDER_WAY {
            version.dropped(Dropped::Full);
            return None;
        }
        let new = UnderWay {
            version: Arc::clone(version),
            reserved: 0,
        };
        inner.under_way.insert(id, new);
        let (gone, reserved) = inner.reserve(id, length.unwrap_or(0));
        let begun = match (&pieces, reserved) {
            (_, Err(why)) => Err(why),
            (Pieces::Disk(jobs), Ok(())) => {
                let header = disk::header(id, &version.names);
                jobs.try_send(Job::Begin { id, header }).map_err(|_| Dropped::Io)
            }
            (Pieces::Memory(..), Ok(())) => Ok(()),
        };
        if let Err(why) = begun {
            inner.take_under_way(id);
            version.dropped(why);
        }
        drop(inner);
        drop(gone);
        begun.ok()?;
        Some(Capture::new(Arc::clone(self), id, pieces))
    }

    /// Whose mask is kept under `id`.
    #[must_use]
    pub fn version_of(&self, id: u128) -> Option<Arc<Version>> {
        let inner = self.shared.lock();
        inner.kept.get(&id).map(|kept| Arc::clone(&kept.version))
    }

    /// The mask that is kept under `id`. Blocks: it waits up to `wait` for an answer that is under way, and reads the
    /// disk.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(&self, id: u128, wait: Duration) -> io::Result<Option<Vec<u8>>> {
        let inner = self.shared.lock();
        let inner = self
            .shared
            .landed
            .wait_timeout_while(inner, wait, |inner| inner.under_way.contains_key(&id));
        let (inner, _) = inner.unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = inner.kept.get(&id) else {
            return Ok(None);
        };
        if expires(id, inner.limits.keep_for) <= SystemTime::now() {
            return Ok(None);
        }
        let (segments, bytes) = (kept.segments.clone(), kept.bytes);
        drop(inner);
        match (segments, &self.disk) {
            (Some(segments), _) => Ok(Some(segments.concat())),
            (None, Some(disk)) => disk::read(&disk.folder, id, bytes),
            (None, None) => Ok(None),
        }
    }

    /// Removes what has expired, or is beyond a bound that was lowered.
    pub(super) fn sweep(&self, now: SystemTime) {
        let mut inner = self.shared.lock();
        let mut gone = Vec::new();
        while let Some(oldest) = inner.order.front().copied() {
            if inner.bytes <= inner.limits.max_bytes && expires(oldest, inner.limits.keep_for) > now {
                break;
            }
            gone.extend(inner.evict());
        }
        let any = !inner.doomed.is_empty();
        drop(inner);
        if any {
            self.wake();
        }
    }

    /// Waits until what was given to the disk is there, or `limit` is over.
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
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `id` is whole, and kept. Whether anybody still wants it.
    fn land(&self, id: u128, bytes: u64, segments: Option<Arc<[Vec<u8>]>>) -> bool {
        let mut inner = self.lock();
        let wanted = inner.take_under_way(id);
        if let Some(version) = &wanted {
            let version = Arc::clone(version);
            inner.keep(
                id,
                Kept {
                    version,
                    bytes,
                    segments,
                },
            );
        }
        drop(inner);
        self.landed.notify_all();
        wanted.is_some()
    }

    /// The answer to `id` is not kept.
    fn abandon(&self, id: u128, why: Option<Dropped>) {
        let mut inner = self.lock();
        if let Some(version) = inner.take_under_way(id) {
            if self.on_disk {
                inner.doomed.push(id);
            }
            if let Some(why) = why {
                version.dropped(why);
            }
        }
        drop(inner);
        self.landed.notify_all();
    }
}

impl Inner {
    fn keep(&mut self, id: u128, kept: Kept) {
        self.bytes += kept.bytes;
        kept.version.keep(kept.bytes);
        self.order.push_back(id);
        self.kept.insert(id, kept);
    }

    /// Takes over a mask that is older than all others.
    fn keep_oldest(&mut self, id: u128, kept: Kept) {
        self.keep(id, kept);
        self.order.rotate_right(1);
    }

    /// Sees to it that the answer to `id` has room for `bytes` bytes. What had to go is dropped by the caller, without the
    /// lock.
    fn reserve(&mut self, id: u128, bytes: u64) -> (Vec<Kept>, Result<(), Dropped>) {
        let mut gone = Vec::new();
        let limits = self.limits;
        let Some(under_way) = self.under_way.get(&id) else {
            // Given up from the other side: the disk failed, or the store was closed.
            return (gone, Err(Dropped::Io));
        };
        let more = bytes.saturating_sub(under_way.reserved);
        if bytes > limits.max_bytes.min(LARGEST) {
            return (gone, Err(Dropped::TooLarge));
        }
        let others: u64 = self.under_way.values().map(|other| other.reserved).sum();
        if others + more > limits.max_bytes {
            return (gone, Err(Dropped::Full));
        }
        while self.bytes + more > limits.max_bytes {
            match self.evict() {
                Some(kept) => gone.push(kept),
                None => break,
            }
        }
        self.bytes += more;
        if let Some(under_way) = self.under_way.get_mut(&id) {
            under_way.reserved += more;
        }
        (gone, Ok(()))
    }

    /// Removes the oldest mask.
    fn evict(&mut self) -> Option<Kept> {
        let id = self.order.pop_front()?;
        let kept = self.kept.remove(&id)?;
        self.bytes -= kept.bytes;
        kept.version.drop_kept(kept.bytes);
        if kept.segments.is_none() {
            self.doomed.push(id);
        }
        Some(kept)
    }

    /// The answer to `id` is under way no more.
    fn take_under_way(&mut self, id: u128) -> Option<Arc<Version>> {
        let under_way = self.under_way.remove(&id)?;
        self.bytes -= under_way.reserved;
        Some(under_way.version)
    }
}

/// When the mask of `id` expires: an id begins with the milliseconds since 1970 at which it was made.
fn expires(id: u128, keep_for: Duration) -> SystemTime {
    let made = UNIX_EPOCH.checked_add(Duration::from_millis((id >> 80) as u64));
    made.and_then(|made| made.checked_add(keep_for)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
