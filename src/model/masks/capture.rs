//! One answer on its way into a mask store. A worker calls this between two pieces of a body: nothing here waits.
//!
//! A piece is a slice of the buffer that its server's bytes were read into, which may be a megabyte for a slice of a few
//! bytes. So pieces are copied together before anything holds them for longer; on disk, pieces of a segment or more go
//! to the thread as they are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;

use super::writer::Job;
use super::{QUEUED_BYTES, SEGMENT, Shared, Store};
use crate::observe::metrics::Dropped;

/// An answer that is being kept. Dropped before [`Capture::finish`], nothing of it stays.
#[derive(Debug)]
pub struct Capture {
    pub(super) store: Arc<Store>,
    pub(super) id: u128,
    pub(super) bytes: u64,
    /// Finished, or given up.
    pub(super) over: bool,
    pub(super) pieces: Pieces,
}

#[derive(Debug)]
pub(super) enum Pieces {
    Memory(Segments),
    /// The thread's queue, and what is not on its way there yet.
    Disk(SyncSender<Job>, Vec<u8>),
}

impl Capture {
    /// Keeps the next piece, or gives up.
    pub fn push(&mut self, piece: &Bytes) {
        if self.over || piece.is_empty() {
            return;
        }
        let shared = &self.store.shared;
        self.bytes += piece.len() as u64;
        let mut ledger = shared.lock();
        let (gone, reserved) = ledger.reserve(self.id, self.bytes);
        drop(ledger);
        drop(gone);
        let taken = reserved.and_then(|()| match &mut self.pieces {
            Pieces::Memory(segments) => {
                segments.append(piece);
                Ok(())
            }
            Pieces::Disk(jobs, gathered) if gathered.len() + piece.len() > SEGMENT => {
                send(shared, jobs, self.id, take(gathered))?;
                if piece.len() < SEGMENT {
                    gathered.extend_from_slice(piece);
                    return Ok(());
                }
                send(shared, jobs, self.id, piece.clone())
            }
            Pieces::Disk(_, gathered) => {
                gathered.extend_from_slice(piece);
                Ok(())
            }
        });
        if let Err(why) = taken {
            self.give_up(Some(why));
        }
    }

    /// The answer is whole.
    pub fn finish(mut self) {
        if self.over {
            return;
        }
        if self.bytes == 0 {
            return self.give_up(None);
        }
        let (id, bytes, shared) = (self.id, self.bytes, &self.store.shared);
        let handed_over = match &mut self.pieces {
            Pieces::Memory(segments) => {
                shared.land(id, bytes, Some(std::mem::take(segments).finish()));
                Ok(())
            }
            Pieces::Disk(jobs, gathered) => send(shared, jobs, id, take(gathered)).and_then(|()| {
                let finish = Job::Finish { id, bytes };
                jobs.try_send(finish).map_err(|_| shared.falls_behind())
            }),
        };
        match handed_over {
            Ok(()) => self.over = true,
            Err(why) => self.give_up(Some(why)),
        }
    }

    /// Whether it was given up: nothing more needs to be pushed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Keeps nothing of the answer; `why` is counted.
    fn give_up(&mut self, why: Option<Dropped>) {
        self.over = true;
        self.store.shared.abandon(self.id, why);
        match &mut self.pieces {
            Pieces::Memory(segments) => *segments = Segments::default(),
            Pieces::Disk(_, gathered) => *gathered = Vec::new(),
        }
        self.store.wake();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.over {
            self.give_up(None);
        }
    }
}

/// Hands a piece to the thread, if the queue has room.
fn send(shared: &Shared, jobs: &SyncSender<Job>, id: u128, bytes: Bytes) -> Result<(), Dropped> {
    let length = bytes.len() as u64;
    if length == 0 {
        return Ok(());
    }
    // Counted before the thread can have written it. Two workers may both find that there is no room where there was room
    // for one of them; a mask is lost then, never a bound.
    let queued = shared.queued.fetch_add(length, Ordering::Relaxed) + length;
    if queued > QUEUED_BYTES || jobs.try_send(Job::Piece { id, bytes }).is_err() {
        shared.queued.fetch_sub(length, Ordering::Relaxed);
        return Err(shared.falls_behind());
    }
    Ok(())
}

/// What was gathered, in a buffer of its size: a queue of small masks must not hold large buffers.
fn take(gathered: &mut Vec<u8>) -> Bytes {
    std::mem::take(gathered).into_boxed_slice().into()
}

/// A mask in memory: full segments, and the one that is being filled. A mask grows without being copied as a whole.
#[derive(Debug, Default)]
pub(super) struct Segments {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Segments {
    fn append(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.last.len() == SEGMENT {
                self.full.push(std::mem::take(&mut self.last));
            }
            let (now, later) = piece.split_at(piece.len().min(SEGMENT - self.last.len()));
            let needed = self.last.len() + now.len();
            if needed > self.last.capacity() {
                // It doubles, and never beyond a segment: a full one has no spare room.
                let capacity = needed.max(self.last.capacity() * 2).min(SEGMENT);
                self.last.reserve_exact(capacity - self.last.len());
            }
            self.last.extend_from_slice(now);
            piece = later;
        }
    }

    /// All of it, without spare room.
    fn finish(mut self) -> Arc<[Vec<u8>]> {
        self.last.shrink_to_fit();
        self.full.push(self.last);
        self.full.into()
    }
}
