//! One answer on its way into the store: what a worker does with each of its pieces.
//!
//! A worker never waits. A piece takes the store's lock for a moment, to find room; in memory it is copied without the
//! lock, on disk it goes into the thread's queue. Whatever goes wrong, the answer is given up, and its room with it.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;

use super::Store;
use super::disk::Job;
use crate::observe::metrics::Dropped;

/// Bytes that wait for the disk at most; what would exceed it is not kept.
const QUEUED_BYTES: u64 = 16 << 20;
/// A mask in memory lies in segments of at most as many bytes.
pub(super) const SEGMENT: usize = 256 << 10;

/// An answer that is being kept. Dropped before [`Capture::finish`], nothing of it stays.
#[derive(Debug)]
pub struct Capture {
    store: Arc<Store>,
    id: u128,
    bytes: u64,
    /// Finished, or given up.
    over: bool,
    pieces: Pieces,
}

#[derive(Debug)]
pub(super) enum Pieces {
    /// Full segments, and the one that is being filled.
    Memory(Vec<Vec<u8>>, Vec<u8>),
    Disk(SyncSender<Job>),
}

impl Capture {
    pub(super) fn new(store: Arc<Store>, id: u128, pieces: Pieces) -> Self {
        Self {
            store,
            id,
            bytes: 0,
            over: false,
            pieces,
        }
    }

    /// Keeps the next piece, or gives up.
    pub fn push(&mut self, piece: &Bytes) {
        if self.over || piece.is_empty() {
            return;
        }
        let length = piece.len() as u64;
        let mut inner = self.store.shared.lock();
        let (gone, reserved) = inner.reserve(self.id, self.bytes + length);
        let taken = reserved.and_then(|()| match &self.pieces {
            Pieces::Memory(..) => Ok(()),
            Pieces::Disk(_) if inner.queued + length > QUEUED_BYTES => Err(Dropped::Io),
            Pieces::Disk(jobs) => {
                let (id, bytes) = (self.id, piece.clone());
                jobs.try_send(Job::Piece { id, bytes }).map_err(|_| Dropped::Io)?;
                inner.queued += length;
                Ok(())
            }
        });
        drop(inner);
        drop(gone);
        match (taken, &mut self.pieces) {
            (Err(why), _) => self.give_up(Some(why)),
            (Ok(()), Pieces::Memory(full, last)) => copy(piece, full, last),
            (Ok(()), Pieces::Disk(_)) => {}
        }
        self.bytes += length;
    }

    /// The answer is whole.
    pub fn finish(mut self) {
        if self.over {
            return;
        }
        if self.bytes == 0 {
            return self.give_up(None);
        }
        self.over = true;
        match &mut self.pieces {
            Pieces::Memory(full, last) => {
                last.shrink_to_fit();
                full.push(std::mem::take(last));
                let segments = std::mem::take(full).into();
                self.store.shared.land(self.id, self.bytes, Some(segments));
            }
            Pieces::Disk(jobs) => {
                let (id, bytes) = (self.id, self.bytes);
                if jobs.try_send(Job::Finish { id, bytes }).is_err() {
                    self.give_up(Some(Dropped::Io));
                }
            }
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
        if let Pieces::Memory(full, last) = &mut self.pieces {
            (*full, *last) = (Vec::new(), Vec::new());
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

fn copy(mut piece: &[u8], full: &mut Vec<Vec<u8>>, last: &mut Vec<u8>) {
    while !piece.is_empty() {
        if last.len() == SEGMENT {
            full.push(std::mem::take(last));
        }
        let (now, later) = piece.split_at(piece.len().min(SEGMENT - last.len()));
        last.extend_from_slice(now);
        piece = later;
    }
}
