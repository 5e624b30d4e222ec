//! Masks on disk: one file a mask, in a folder for each service.
//!
//! A file is written under another name and renamed when it is whole. It begins with who its mask belongs to, so that the
//! next process can take it over. Names of files and folders are made here, of an id's digits and of escaped letters: none
//! leads out of the folder.
//!
//! Layout, numbers in little-endian: 16 bytes [`MAGIC`]; the length of the mask (8 bytes); the length of the names
//! (4 bytes); the names as a JSON object; the mask.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{LARGEST, expires};
use crate::model::version::Identity;

const MAGIC: &[u8; 16] = b"gantry mask v1\r\n";
/// Bytes before the names.
const FIXED: usize = 28;
/// Where the mask's length stands.
pub(super) const LENGTH_AT: u64 = 16;
/// Bytes of names that are believed.
const LONGEST_NAMES: usize = 64 << 10;

/// What stays as it is in the name of a service's folder.
const IN_NAMES: &AsciiSet = &NON_ALPHANUMERIC.remove(b'@').remove(b'-').remove(b'_');

/// The name of the folder that holds the masks of `service`: different for different services.
pub(super) fn folder_name(service: &str) -> String {
    utf8_percent_encode(service, IN_NAMES).to_string()
}

/// Makes the folder of a service where it lacks. It is for this user alone, also where it was there.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // A link would lead out of the folder that the operator named.
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "it is a link, not a folder"));
    }
    if found.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The file of a mask that is whole.
pub(super) fn mask_path(folder: &Path, id: u128) -> PathBuf {
    folder.join(format!("{id:032x}.mask"))
}

/// The file of a mask that is being written.
pub(super) fn part_path(folder: &Path, id: u128) -> PathBuf {
    folder.join(format!("{id:032x}.part"))
}

/// What a file with the name of ours holds, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Mask(u128),
    Part(u128),
}

impl Named {
    /// `None`: a name that Gantry does not give.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let id = parse(path.file_stem()?.to_str()?)?;
        match path.extension().and_then(OsStr::to_str)? {
            "mask" => Some(Self::Mask(id)),
            "part" => Some(Self::Part(id)),
            _ => None,
        }
    }
}

/// An id as file names have it: 32 hexadecimal digits.
fn parse(text: &str) -> Option<u128> {
    let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
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

/// Opens a file, and nothing else that may have its name: a link leads elsewhere, and a pipe never ends.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// Reads the mask of `id`, which has `bytes` bytes. `None`: it has been removed.
pub(super) fn read(folder: &Path, id: u128, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match open(&mask_path(folder, id)) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let head = match Head::read(&mut file)? {
        Some(head) if head.bytes == bytes && head.id == Some(id) => head,
        _ => return Err(ErrorKind::InvalidData.into()),
    };
    let mut mask = Vec::new();
    let room = usize::try_from(head.bytes).map_err(|_| ErrorKind::OutOfMemory)?;
    mask.try_reserve_exact(room).map_err(|_| ErrorKind::OutOfMemory)?;
    file.take(bytes).read_to_end(&mut mask)?;
    match mask.len() as u64 == bytes {
        true => Ok(Some(mask)),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// What a file says of its mask.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) names: Identity,
    pub(super) bytes: u64,
    id: Option<u128>,
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
            id: parse(&text("id")),
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

/// A file with the name of ours.
#[derive(Debug)]
pub(super) enum Found {
    /// A mask to be kept.
    Good(Head),
    /// Ours, and expired, or not whole.
    Useless,
    /// Somebody else's.
    Foreign,
}

/// Looks at a file that has the name of the mask of `id`.
pub(super) fn inspect(path: &Path, id: u128, service: &str, keep_for: Duration) -> io::Result<Found> {
    let mut file = open(path)?;
    let head = match Head::read(&mut file) {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(Found::Foreign),
        // Ours by its first bytes, and cut within the names.
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(Found::Useless),
        Err(e) => return Err(e),
    };
    if head.names.service != service || head.id != Some(id) {
        return Ok(Found::Foreign);
    }
    let whole = head.offset.checked_add(head.bytes) == Some(file.seek(SeekFrom::End(0))?);
    let sound = whole && (1..=LARGEST).contains(&head.bytes);
    match sound && expires(id, keep_for) > SystemTime::now() {
        true => Ok(Found::Good(head)),
        false => Ok(Found::Useless),
    }
}

/// Whether a file with the name of a part is what a crash has left: it begins as ours do, as far as it goes.
pub(super) fn is_part(path: &Path) -> io::Result<bool> {
    let mut first = Vec::new();
    open(path)?.take(MAGIC.len() as u64).read_to_end(&mut first)?;
    Ok(MAGIC.starts_with(&first))
}
