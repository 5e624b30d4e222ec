//! Masks on disk: one file a mask, written by the store's own thread.
//!
//! A file is written under another name and renamed when it is whole. It begins with who its mask belongs to, so that the
//! next process can take it over. A crash leaves files that the next start removes; files of anybody else are left alone.
//!
//! Layout, numbers in little-endian: 16 bytes [`MAGIC`]; the length of the mask (8 bytes); the length of the names
//! (4 bytes); the names as a JSON object; the mask.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Dropped, Kept, Shared, expires};
use crate::model::feedback::Index;
use crate::model::version::Identity;

const MAGIC: &[u8; 16] = b"gantry mask v1\r\n";
/// Bytes before the names.
const FIXED: usize = 28;
/// Where the mask's length stands.
const LENGTH_AT: u64 = 16;
/// Bytes of names that are believed.
const LONGEST_NAMES: usize = 64 << 10;
/// How long the thread sleeps at most while files wait to be removed.
const IDLE: Duration = Duration::from_secs(1);

/// What stays as it is in the name of a service's folder.
const IN_NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'@').remove(b'-').remove(b'_');

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

/// The name of the folder that holds the masks of `service`: different for different services.
pub(super) fn folder_name(service: &str) -> String {
    utf8_percent_encode(service, IN_NAMES).to_string()
}

/// What a file begins with. The mask's length is filled in when it is whole.
pub(super) fn header(id: u128, names: &Identity) -> Vec<u8> {
    let names = json!({
        "id": format!("{id:032x}"), "model": names.model, "version": names.version, "service": names.service,
    });
    let names = names.to_string();
    let mut header = Vec::with_capacity(FIXED + names.len());
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&u64::MAX.to_le_bytes());
    header.extend_from_slice(&(names.len() as u32).to_le_bytes());
    header.extend_from_slice(names.as_bytes());
    header
}

fn mask_path(folder: &Path, id: u128) -> PathBuf {
    folder.join(format!("{id:032x}.mask"))
}

fn part_path(folder: &Path, id: u128) -> PathBuf {
    folder.join(format!("{id:032x}.part"))
}

/// Reads the mask of `id`, which has `bytes` bytes. `None`: it has been removed.
pub(super) fn read(folder: &Path, id: u128, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(mask_path(folder, id)) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let head = Head::read(&mut file)?.ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?;
    if head.bytes != bytes {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut mask = Vec::with_capacity(usize::try_from(bytes).map_err(|_| ErrorKind::OutOfMemory)?);
    file.take(bytes).read_to_end(&mut mask)?;
    Ok(Some(mask).filter(|mask| mask.len() as u64 == bytes))
}

/// What a file says of its mask.
struct Head {
    names: Identity,
    id: String,
    bytes: u64,
    /// Where the mask begins.
    offset: u64,
}

impl Head {
    /// Reads it; the file then stands at the mask. `None`: this is no file of ours.
    fn read(file: &mut File) -> io::Result<Option<Self>> {
        let mut fixed = [0; FIXED];
        match file.read_exact(&mut fixed) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let (magic, rest) = fixed.split_at(MAGIC.len());
        let (bytes, length) = rest.split_at(8);
        let bytes = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        if magic != MAGIC || length > LONGEST_NAMES {
            return Ok(None);
        }
        let mut names = vec![0; length];
        file.read_exact(&mut names)?;
        let Ok(names) = serde_json::from_slice::<Value>(&names) else {
            return Ok(None);
        };
        let text = |key: &str| names[key].as_str().unwrap_or_default().to_owned();
        Ok(Some(Self {
            id: text("id"),
            names: Identity {
                model: text("model"),
                version: text("version"),
                service: text("service"),
            },
            bytes,
            offset: (FIXED + length) as u64,
        }))
    }
}

/// The thread that writes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    folder: PathBuf,
    files: HashMap<u128, File>,
    /// What an earlier process kept was looked through.
    adopted: bool,
    /// The disk's trouble was told of.
    warned: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, folder: PathBuf) -> Self {
        Self {
            shared,
            folder,
            files: HashMap::new(),
            adopted: false,
            warned: false,
        }
    }

    /// Starts the thread. It ends when the store is dropped.
    pub(super) fn start(mut self, jobs: Receiver<Job>, index: &Arc<Index>) -> io::Result<()> {
        // The index holds the store, and the thread ends with the store: it must not hold the index.
        let index = Arc::downgrade(index);
        let run = move || {
            if let Some(index) = index.upgrade() {
                self.adopt(&index);
            }
            self.run(&jobs, &index);
        };
        thread::Builder::new().name("gantry-masks".to_owned()).spawn(run)?;
        Ok(())
    }

    fn run(&mut self, jobs: &Receiver<Job>, index: &Weak<Index>) {
        loop {
            let next = jobs.recv_timeout(IDLE);
            // A folder that could not be read may be mended since: what is in it must expire, too.
            if !self.adopted
                && matches!(next, Ok(Job::Begin { .. }))
                && let Some(index) = index.upgrade()
            {
                self.adopt(&index);
            }
            match next {
                Ok(job) => self.perform(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.remove_doomed();
        }
    }

    fn perform(&mut self, job: Job) {
        match job {
            Job::Begin { id, header } => {
                if self.shared.lock().under_way.contains_key(&id) {
                    let begun = self.create(id, &header);
                    self.note(id, begun);
                }
            }
            Job::Piece { id, bytes } => {
                let written = self.files.get_mut(&id).map(|file| file.write_all(&bytes));
                self.shared.lock().queued -= bytes.len() as u64;
                if let Some(written) = written {
                    self.note(id, written);
                }
            }
            Job::Finish { id, bytes } => {
                if let Some(file) = self.files.remove(&id) {
                    let landed = self.land(id, bytes, &file);
                    self.warned &= landed.is_err();
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

    /// Tells of the first of several errors in a row; the mask is lost.
    fn note(&mut self, id: u128, result: io::Result<()>) {
        let Err(e) = result else { return };
        if !std::mem::replace(&mut self.warned, true) {
            let (service, folder) = (&self.shared.service, self.folder.display());
            tracing::warn!(%service, %folder, "a mask cannot be kept (answers are not affected): {e}");
        }
        self.files.remove(&id);
        self.shared.abandon(id, Some(Dropped::Io));
    }

    fn remove_doomed(&mut self) {
        let doomed = std::mem::take(&mut self.shared.lock().doomed);
        for id in doomed {
            self.files.remove(&id);
            let paths = [part_path(&self.folder, id), mask_path(&self.folder, id)];
            for removed in paths.iter().map(fs::remove_file) {
                if let Err(e) = removed.as_ref()
                    && e.kind() != ErrorKind::NotFound
                {
                    let (service, folder) = (&self.shared.service, self.folder.display());
                    tracing::warn!(%service, %folder, "a mask that must not be kept any longer cannot be removed: {e}");
                }
            }
        }
    }

    /// Takes over what an earlier process kept.
    fn adopt(&mut self, index: &Index) {
        let entries = match make_folder(&self.folder).and_then(|()| fs::read_dir(&self.folder)) {
            Ok(entries) => entries,
            Err(e) => {
                if !std::mem::replace(&mut self.warned, true) {
                    let (service, folder) = (&self.shared.service, self.folder.display());
                    tracing::warn!(%service, %folder, "the kept masks cannot be read: {e}");
                }
                return;
            }
        };
        self.adopted = true;
        let mut found: Vec<(u128, Head)> = Vec::new();
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(parse);
            let kind = path.extension().and_then(|kind| kind.to_str());
            match (id, kind) {
                // Its process ended in the middle of it, unless it is one of this process.
                (Some(id), Some("part")) if !self.shared.lock().under_way.contains_key(&id) => {
                    let _ = fs::remove_file(path);
                }
                (Some(id), Some("mask")) => match self.inspect(&path, id) {
                    Ok(Found::Good(head)) => found.push((id, head)),
                    Ok(Found::Foreign) => {}
                    Ok(Found::Useless) | Err(_) => {
                        let _ = fs::remove_file(path);
                    }
                },
                _ => {}
            }
        }
        // The youngest first: what this process has kept meanwhile is younger than all of them.
        found.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
        for (id, head) in found {
            let kept = Kept {
                version: index.version(head.names),
                bytes: head.bytes,
                segments: None,
            };
            let mut inner = self.shared.lock();
            inner.keep_oldest(id, kept);
            while inner.bytes > inner.limits.max_bytes && inner.evict().is_some() {}
        }
    }

    fn inspect(&self, path: &Path, id: u128) -> io::Result<Found> {
        let mut file = File::open(path)?;
        let Some(head) = Head::read(&mut file)? else {
            return Ok(Found::Foreign);
        };
        if head.names.service != self.shared.service || parse(&head.id) != Some(id) {
            return Ok(Found::Foreign);
        }
        let whole = head.offset.checked_add(head.bytes) == Some(file.seek(SeekFrom::End(0))?);
        let keep_for = self.shared.lock().limits.keep_for;
        let fresh = expires(id, keep_for) > SystemTime::now();
        Ok(if whole && fresh {
            Found::Good(head)
        } else {
            Found::Useless
        })
    }
}

/// A file with the name of a mask.
enum Found {
    /// A mask to be kept.
    Good(Head),
    /// Expired, or not whole.
    Useless,
    /// Somebody else's.
    Foreign,
}

/// An id as file names have it: 32 hexadecimal digits.
fn parse(text: &str) -> Option<u128> {
    let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
