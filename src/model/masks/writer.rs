//! The thread of a mask store on disk: writes masks, removes them, and takes over what an earlier process kept.
//!
//! Nothing is synced: after a power cut a mask may be lost or cut, and the next start removes what is cut. Kept masks are
//! for measuring; waiting for the disk would cost more of them.
//!
//! Invariants: only this thread changes the folder; what must go is removed before anything more is written, so files
//! together never exceed `maxBytes` (beside their heads); a file is removed only if its name and its head say that it is
//! this service's.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::disk::{self, Found, Head, LENGTH_AT, Named, make_folder, mask_path, part_path};
use super::ledger::Kept;
use super::{Dropped, MOST_KEPT, Shared, Trouble};
use crate::model::feedback::Index;

/// How long the thread sleeps at most while files wait to be removed.
const IDLE: Duration = Duration::from_secs(1);
/// After what time a file that could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    /// A mask begins.
    Begin { id: u128, header: Vec<u8> },
    /// It goes on.
    Piece { id: u128, bytes: Bytes },
    /// It is whole, and has so many bytes.
    Finish { id: u128, bytes: u64 },
    /// There is something to be removed.
    Wake,
    /// Answers once all before it is done.
    Flush(SyncSender<()>),
}

/// The thread that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    folder: PathBuf,
    files: HashMap<u128, File>,
    /// What an earlier process kept was looked through.
    adopted: bool,
    /// Masks cannot be written.
    failing: Trouble,
    /// Masks cannot be removed: these, to be tried again then.
    staying: Trouble,
    stuck: Vec<u128>,
    again: Instant,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, folder: PathBuf) -> Self {
        Self {
            shared,
            folder,
            files: HashMap::new(),
            adopted: false,
            failing: Trouble::default(),
            staying: Trouble::default(),
            stuck: Vec::new(),
            again: Instant::now(),
        }
    }

    /// Starts the thread. It ends when the store is dropped.
    pub(super) fn start(mut self, jobs: Receiver<Job>, index: &Arc<Index>) -> io::Result<()> {
        // The index holds the store, and the thread ends with the store: it must not hold the index.
        let index = Arc::downgrade(index);
        let run = move || {
            self.adopt(&index);
            self.run(&jobs, &index);
        };
        thread::Builder::new().name("gantry-masks".to_owned()).spawn(run)?;
        Ok(())
    }

    fn run(&mut self, jobs: &Receiver<Job>, index: &Weak<Index>) {
        loop {
            let next = jobs.recv_timeout(IDLE);
            // A folder that could not be read may be mended since: what is in it must expire, too.
            if !self.adopted && matches!(next, Ok(Job::Begin { .. })) {
                self.adopt(index);
            }
            self.remove_doomed();
            match next {
                Ok(job) => self.perform(job),
                Err(RecvTimeoutError::Timeout) => self.shared.keeps_up(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    fn perform(&mut self, job: Job) {
        match job {
            Job::Begin { id, header } => {
                if !self.adopted {
                    // Its folder is none, which was told of.
                    self.shared.abandon(id, Some(Dropped::Io));
                } else if self.shared.lock().under_way.contains_key(&id) {
                    let begun = self.create(id, &header);
                    self.note(id, begun);
                }
            }
            Job::Piece { id, bytes } => {
                let written = self.files.get_mut(&id).map(|file| file.write_all(&bytes));
                self.shared.queued.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                if let Some(written) = written {
                    self.note(id, written);
                }
            }
            Job::Finish { id, bytes } => {
                if let Some(file) = self.files.remove(&id) {
                    let landed = self.land(id, bytes, &file);
                    if landed.is_ok() {
                        self.failing.ends();
                    }
                    self.note(id, landed);
                }
            }
            Job::Wake => {}
            Job::Flush(done) => {
                self.remove_doomed();
                let _ = done.try_send(());
            }
        }
    }

    fn create(&mut self, id: u128, header: &[u8]) -> io::Result<()> {
        let path = part_path(&self.folder, id);
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = open().or_else(|e| match e.kind() {
            ErrorKind::NotFound => make_folder(&self.folder).and_then(|()| open()),
            _ => Err(e),
        })?;
        file.write_all(header)?;
        self.files.insert(id, file);
        Ok(())
    }

    fn land(&self, id: u128, bytes: u64, file: &File) -> io::Result<()> {
        file.write_all_at(&bytes.to_le_bytes(), LENGTH_AT)?;
        let path = mask_path(&self.folder, id);
        fs::rename(part_path(&self.folder, id), &path)?;
        if !self.shared.land(id, bytes, None) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The mask is lost if that is an error.
    fn note(&mut self, id: u128, result: io::Result<()>) {
        let Err(e) = result else { return };
        if self.failing.begins() {
            let (service, folder) = (&self.shared.service, self.folder.display());
            tracing::warn!(%service, %folder, "a mask cannot be kept (answers are not affected): {e}");
        }
        self.files.remove(&id);
        self.shared.abandon(id, Some(Dropped::Io));
    }

    fn remove_doomed(&mut self) {
        let mut doomed = std::mem::take(&mut self.shared.lock().doomed);
        if self.again <= Instant::now() {
            doomed.append(&mut self.stuck);
            self.again = Instant::now() + AGAIN;
        }
        for id in doomed {
            self.files.remove(&id);
            let paths = [part_path(&self.folder, id), mask_path(&self.folder, id)];
            if let Some(e) = paths.iter().find_map(|path| self.remove(path).err()) {
                self.stays(&e, id);
            }
        }
        if self.stuck.is_empty() {
            self.staying.ends();
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(e),
            _ => Ok(()),
        }
    }

    fn stays(&mut self, e: &io::Error, id: u128) {
        if self.stuck.len() < MOST_KEPT {
            self.stuck.push(id);
        }
        if self.staying.begins() {
            let (service, folder) = (&self.shared.service, self.folder.display());
            tracing::error!(%service, %folder, "a mask that must not be kept any longer cannot be removed: {e}");
        }
    }

    /// Takes over what an earlier process kept.
    fn adopt(&mut self, index: &Weak<Index>) {
        let Some(index) = index.upgrade() else { return };
        let entries = match make_folder(&self.folder).and_then(|()| fs::read_dir(&self.folder)) {
            Ok(entries) => entries,
            Err(e) => {
                if self.failing.begins() {
                    let (service, folder) = (&self.shared.service, self.folder.display());
                    tracing::error!(%service, %folder, "masks cannot be kept (answers are not affected): {e}");
                }
                return;
            }
        };
        self.adopted = true;
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let Some(named) = Named::of(&path) else { continue };
            let (id, is_of_use) = match named {
                Named::Mask(id) => (id, self.adopt_mask(&path, id, &index)),
                Named::Part(id) => {
                    let left_over = !self.files.contains_key(&id) && disk::is_part(&path).unwrap_or(false);
                    (id, !left_over)
                }
            };
            if !is_of_use && let Err(e) = self.remove(&path) {
                self.stays(&e, id);
            }
        }
    }

    /// Whether the file stays.
    fn adopt_mask(&self, path: &Path, id: u128, index: &Index) -> bool {
        let keep_for = self.shared.lock().limits.keep_for;
        match disk::inspect(path, id, &self.shared.service, keep_for) {
            Ok(Found::Good(head)) => self.take_over(id, head, index),
            Ok(Found::Useless) => false,
            // What cannot be read may be anybody's.
            Ok(Found::Foreign) | Err(_) => true,
        }
    }

    fn take_over(&self, id: u128, head: Head, index: &Index) -> bool {
        let kept = Kept {
            version: index.version(head.names),
            bytes: head.bytes,
            segments: None,
        };
        let mut ledger = self.shared.lock();
        // `keepMasks` may have been taken out meanwhile, and whoever did that wants nothing to stay.
        let open = ledger.open;
        if open && !ledger.knows(id) {
            let gone = ledger.keep(id, kept);
            drop(ledger);
            drop(gone);
        }
        open
    }
}
