//! The file that keeps accounts and certificates, in the layout of Traefik's `acme.json`:
//! `{RESOLVER: {Account, Certificates: [{domain: {main, sans}, certificate, key, Store}]}}`, both certificate and key
//! base64 of PEM. What Gantry needs beside it stands under `RESOLVER.Gantry`, which Traefik ignores.
//!
//! Invariants: whatever is not known stays as it is; the file is replaced as a whole, readable for its owner only; one
//! that cannot be read is never written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::schedule::Attempts;

/// Bytes of the longest file: some ten thousand certificates.
const LONGEST: u64 = 128 << 20;
/// `EBUSY` of Linux: a file that is a mount point of its own cannot be renamed over.
const EBUSY: i32 = libc::EBUSY;

/// Why a storage file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StorageError {
    #[error("cannot open the storage `{0}`: {1}")]
    Io(PathBuf, #[source] io::Error),
    #[error("the storage `{path}` is open to other users (mode {mode:03o}): chmod 600 {path}", path = .0.display(), mode = .1)]
    Open(PathBuf, u32),
    #[error("the storage `{0}` is damaged and stays as it is: {1}; restore it from a backup, or move it away")]
    Damaged(PathBuf, String),
}

/// One certificate of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its names as the file has them, the main one first.
    pub(super) names: Vec<String>,
    /// The chain in PEM.
    pub(super) certificate: Vec<u8>,
    /// The key in PEM.
    pub(super) key: Vec<u8>,
}

/// The contents of the file, of which one resolver's part is used.
#[derive(Debug)]
pub(super) struct Storage {
    path: PathBuf,
    resolver: String,
    root: Map<String, Value>,
}

impl Storage {
    /// Reads the file for a resolver, and makes an empty one where there is none.
    pub(super) fn open(path: &Path, resolver: &str) -> Result<Self, StorageError> {
        let failed = |error| StorageError::Io(path.to_owned(), error);
        // Through a symlink, so that the file itself is replaced and not the link.
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write(path, b"{}").map_err(failed)?;
                path.canonicalize().map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let failed = |error| StorageError::Io(path.clone(), error);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StorageError::Open(path, mode));
        }
        let mut text = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut text).map_err(failed)?;
        let damaged = |why: String| StorageError::Damaged(path.clone(), why);
        if text.len() as u64 > LONGEST {
            return Err(damaged(format!("it has more than {LONGEST} bytes")));
        }
        let root = match text.iter().all(u8::is_ascii_whitespace) {
            true => Value::Object(Map::new()),
            false => serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?,
        };
        let Value::Object(root) = root else {
            return Err(damaged("it holds no JSON object".to_owned()));
        };
        let part = root.get(resolver);
        if part.is_some_and(|part| !part.is_object() && !part.is_null()) {
            return Err(damaged(format!("`{resolver}` is no JSON object")));
        }
        let list = part.and_then(|part| part.get("Certificates"));
        if list.is_some_and(|list| !list.is_array() && !list.is_null()) {
            return Err(damaged(format!("`{resolver}.Certificates` is no list")));
        }
        let resolver = resolver.to_owned();
        Ok(Self { path, resolver, root })
    }

    /// The file itself: absolute, through symlinks.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn part(&self) -> Option<&Map<String, Value>> {
        self.root.get(&self.resolver)?.as_object()
    }

    fn part_mut(&mut self) -> &mut Map<String, Value> {
        object(self.root.entry(self.resolver.clone()).or_insert(Value::Null))
    }

    /// The resolver's certificates; an entry that cannot be read is left where it is.
    pub(super) fn certificates(&self) -> Vec<Stored> {
        let list = self.part().and_then(|part| part.get("Certificates")?.as_array());
        list.into_iter().flatten().filter_map(stored).collect()
    }

    /// Puts a certificate in the place of the one with the same names.
    pub(super) fn put(&mut self, new: &Stored) {
        let list = self.part_mut().entry("Certificates").or_insert(Value::Null);
        if !list.is_array() {
            *list = Value::Array(Vec::new());
        }
        let Some(list) = list.as_array_mut() else { return };
        let same = |entry: &Value| stored(entry).is_some_and(|old| sorted(&old.names) == sorted(&new.names));
        let (main, sans) = new
            .names
            .split_first()
            .map_or(("", &[][..]), |(main, sans)| (main, sans));
        let mut domain = json!({ "main": main });
        if !sans.is_empty() {
            domain["sans"] = json!(sans);
        }
        let index = list.iter().position(same).unwrap_or_else(|| {
            list.push(json!({ "Store": "default" }));
            list.len() - 1
        });
        let entry = object(&mut list[index]);
        entry.insert("domain".to_owned(), domain);
        entry.insert("certificate".to_owned(), STANDARD.encode(&new.certificate).into());
        entry.insert("key".to_owned(), STANDARD.encode(&new.key).into());
    }

    fn own(&self) -> Option<&Map<String, Value>> {
        self.part()?.get("Gantry")?.as_object()
    }

    fn own_mut(&mut self) -> &mut Map<String, Value> {
        object(self.part_mut().entry("Gantry").or_insert(Value::Null))
    }

    /// Gantry's account at the authority with this directory.
    pub(super) fn account(&self, directory: &str) -> Option<&Value> {
        let account = self.own()?.get("account")?;
        (account.get("directory")?.as_str()? == directory).then_some(account)
    }

    /// Whether the file holds an account of Traefik's.
    pub(super) fn has_other_account(&self) -> bool {
        self.part()
            .and_then(|part| part.get("Account"))
            .is_some_and(Value::is_object)
    }

    /// Keeps an account, or forgets it. Failures were with the account before: they are forgotten too.
    pub(super) fn set_account(&mut self, account: Option<Value>) {
        let own = self.own_mut();
        match account {
            Some(account) => own.insert("account".to_owned(), account),
            None => own.remove("account"),
        };
    }

    /// The failed attempts for these names.
    pub(super) fn attempts(&self, names: &str) -> Attempts {
        let read = || {
            let entry = self.own()?.get("attempts")?.get(names)?;
            let next = entry.get("next")?.as_u64()?;
            Some(Attempts {
                failures: entry.get("failures")?.as_u64()?.try_into().ok()?,
                next: UNIX_EPOCH.checked_add(Duration::from_secs(next)),
            })
        };
        read().unwrap_or_default()
    }

    /// Keeps the failed attempts of each set of names; what is not among them is forgotten.
    pub(super) fn set_attempts<'a>(&mut self, all: impl Iterator<Item = (&'a String, Attempts)>) {
        let entry = |(names, attempts): (&'a String, Attempts)| {
            let next = attempts.next?.duration_since(UNIX_EPOCH).ok()?.as_secs();
            Some((names.clone(), json!({"failures": attempts.failures, "next": next})))
        };
        let entries: Map<String, Value> = all.filter_map(entry).collect();
        match entries.is_empty() {
            true if self.own().is_none() => {}
            true => drop(self.own_mut().remove("attempts")),
            false => drop(self.own_mut().insert("attempts".to_owned(), entries.into())),
        }
    }

    /// What is to be written, and where: the caller does so on a thread that may wait.
    pub(super) fn to_write(&self) -> (PathBuf, Vec<u8>) {
        let text = serde_json::to_vec_pretty(&self.root).unwrap_or_default();
        (self.path.clone(), text)
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object")
}

fn stored(entry: &Value) -> Option<Stored> {
    let domain = entry.get("domain")?;
    let main = domain.get("main").and_then(Value::as_str);
    let sans = domain.get("sans").and_then(Value::as_array);
    let names = main
        .into_iter()
        .chain(sans.into_iter().flatten().filter_map(Value::as_str));
    let bytes = |key| STANDARD.decode(entry.get(key)?.as_str()?).ok();
    Some(Stored {
        names: names.map(str::to_owned).collect(),
        certificate: bytes("certificate")?,
        key: bytes("key")?,
    })
}

/// The names in lower case, in order: two certificates are for the same names when these are equal.
pub(super) fn sorted(names: &[String]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    names
}

/// Replaces the file as a whole, on disk when this returns. Where the file is a mount point (a container with the one
/// file from outside) it can only be written in place.
pub(super) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.new"));
    let written = write_new(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    match written {
        Ok(()) => {
            // The rename itself is on disk once the folder is.
            File::open(folder)?.sync_all()
        }
        Err(error) => {
            let _ = std::fs::remove_file(&beside);
            if error.raw_os_error() != Some(EBUSY) {
                return Err(error);
            }
            let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
            file.write_all(text)?;
            file.sync_all()
        }
    }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Seconds since 1970 as a time. What lies before 1970 or after the year 9999 is cut: a date in a certificate can lie
/// there by its time zone, and could not be written as text.
pub(super) fn time(seconds: i64) -> SystemTime {
    const END: u64 = 253_402_300_799;
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(END))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.json");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    /// As Traefik writes it.
    const TRAEFIK: &str = r#"{"le": {"Account": {"Email": "a@b.test", "PrivateKey": "AA=="}, "Certificates": [
        {"domain": {"main": "a.test", "sans": ["B.test"]}, "certificate": "Y2VydA==", "key": "a2V5", "Store": "default", "more": 1},
        {"domain": {"main": "c.test"}, "certificate": "*", "key": "a2V5", "Store": "default"}
    ]}, "other": {"Account": null, "Certificates": null}}"#;

    #[test]
    fn what_is_not_known_stays() {
        let (_dir, path) = file(TRAEFIK, 0o600);
        let mut storage = Storage::open(&path, "le").unwrap();
        assert!(storage.has_other_account());
        let [stored] = &storage.certificates()[..] else {
            panic!("one of the two can be read");
        };
        assert_eq!((&stored.certificate[..], &stored.key[..]), (&b"cert"[..], &b"key"[..]));
        let names = ["b.test", "a.test"].map(str::to_owned).to_vec();
        let new = |certificate: &[u8], names: Vec<String>| Stored {
            names,
            certificate: certificate.to_vec(),
            key: b"k".to_vec(),
        };
        storage.put(&new(b"new", names));
        storage.put(&new(b"third", vec!["d.test".to_owned()]));
        storage.set_account(Some(json!({"directory": "https://ca", "id": "1"})));
        let (to, text) = storage.to_write();
        write(&to, &text).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let root: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(root["le"]["Account"]["Email"], "a@b.test");
        assert!(root["other"].is_object());
        let list = root["le"]["Certificates"].as_array().unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!((&list[0]["more"], &list[0]["certificate"]), (&json!(1), &json!("bmV3")));
        assert_eq!(list[2]["domain"], json!({"main": "d.test"}));
        let again = Storage::open(&path, "le").unwrap();
        assert!(again.account("https://ca").is_some() && again.account("https://other").is_none());
    }

    #[test]
    fn attempts_outlive_the_process() {
        let (_dir, path) = file("", 0o600);
        let mut storage = Storage::open(&path, "le").unwrap();
        let failed = Attempts {
            failures: 3,
            next: Some(time(1_900_000_000)),
        };
        let names = "a.test".to_owned();
        storage.set_attempts([(&names, failed)].into_iter());
        let (to, text) = storage.to_write();
        write(&to, &text).unwrap();
        let mut again = Storage::open(&path, "le").unwrap();
        assert_eq!(again.attempts("a.test"), failed);
        assert_eq!(again.attempts("b.test"), Attempts::default());
        again.set_attempts(std::iter::empty());
        assert_eq!(again.attempts("a.test"), Attempts::default());
    }

    #[test]
    fn what_cannot_be_used_is_never_written_to() {
        for (text, mode, expected) in [
            ("{}", 0o644, "mode 644"),
            ("{\"le\": ", 0o600, "damaged"),
            ("[]", 0o600, "no JSON object"),
            ("{\"le\": 1}", 0o600, "`le` is no JSON object"),
            ("{\"le\": {\"Certificates\": {}}}", 0o600, "is no list"),
        ] {
            let (_dir, path) = file(text, mode);
            let error = Storage::open(&path, "le").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let error = Storage::open(Path::new("/nowhere/acme.json"), "le").unwrap_err();
        assert!(error.to_string().contains("cannot open the storage"), "{error}");
    }

    #[test]
    fn times_can_be_written() {
        for (seconds, expected) in [
            (i64::MIN, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (1_893_456_000, "Tue, 01 Jan 2030 00:00:00 GMT"),
            (253_402_300_800, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (i64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(httpdate::fmt_http_date(time(seconds)), expected);
        }
    }

    #[test]
    fn a_file_that_lacks_is_made_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.json");
        Storage::open(&path, "le").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
