//! The files that configuration refers to, read before it is compiled.
//!
//! Invariants: nothing but [`Resources::load`] and [`Resources::with_folders`] does IO; a file that cannot be read is an
//! entry that says why, so that only what needs it is spoiled.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::dynamic::Dynamic;
use super::static_config::Static;

/// Bytes of the longest file: a bundle of certificate authorities has 250 KB.
const LONGEST: u64 = 8 << 20;

/// Contents of files by the name that the configuration gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    files: BTreeMap<String, Result<Arc<[u8]>, String>>,
    folders: BTreeMap<String, Result<(), String>>,
    issued: Vec<Arc<Issued>>,
}

/// A certificate that a certificates resolver has got.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The chain in PEM, the server's own certificate first.
    pub certificate: Vec<u8>,
    /// Its private key in PEM.
    pub key: Vec<u8>,
    /// Whose it is, for messages: the resolver and the main name.
    pub about: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued({})", self.about)
    }
}

impl Resources {
    /// Reads files. Relative names start at the working directory, as in Traefik.
    #[must_use]
    pub fn load(paths: impl IntoIterator<Item = String>) -> Self {
        let mut files = BTreeMap::new();
        for path in paths {
            files.entry(path).or_insert_with_key(|path| read(path));
        }
        Self {
            files,
            ..Self::default()
        }
    }

    /// Adds the certificates that resolvers have got.
    #[must_use]
    pub fn with_issued(mut self, issued: Vec<Arc<Issued>>) -> Self {
        self.issued = issued;
        self
    }

    /// The certificates that resolvers have got.
    #[must_use]
    pub fn issued(&self) -> &[Arc<Issued>] {
        &self.issued
    }

    /// Looks whether files can be written into folders. One that lacks is made, for this user alone, where `make` says so;
    /// else it is taken for good.
    #[must_use]
    pub fn with_folders(mut self, paths: impl IntoIterator<Item = String>, make: bool) -> Self {
        for path in paths {
            self.folders
                .entry(path)
                .or_insert_with_key(|path| try_folder(path, make));
        }
        self
    }

    /// Why files cannot be written into a folder, where they cannot. One that was not looked at has no fault.
    #[must_use]
    pub fn folder_error(&self, path: &str) -> Option<&str> {
        self.folders.get(path)?.as_ref().err().map(String::as_str)
    }

    /// Contents that are known already: for tests and the demo.
    pub fn insert(&mut self, path: impl Into<String>, content: impl Into<Arc<[u8]>>) {
        self.files.insert(path.into(), Ok(content.into()));
    }

    /// A file's content, or why it could not be read. `None`: it was not asked for.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Result<&Arc<[u8]>, &str>> {
        self.files.get(path).map(|file| file.as_ref().map_err(String::as_str))
    }

    /// The names of the files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The content of a value that is either a file's name or the PEM text itself.
    ///
    /// # Errors
    /// Says why the file could not be read.
    pub fn file_or_content<'a>(&'a self, value: &'a str) -> Result<Cow<'a, [u8]>, String> {
        if is_content(value) {
            return Ok(Cow::Borrowed(value.as_bytes()));
        }
        match self.get(value) {
            Some(Ok(content)) => Ok(Cow::Borrowed(content)),
            Some(Err(why)) => Err(why.to_owned()),
            None => Err(format!("the file `{value}` was not read")),
        }
    }
}

/// Whether a value is PEM text rather than a file's name.
fn is_content(value: &str) -> bool {
    value.contains("-----BEGIN")
}

fn read(path: &str) -> Result<Arc<[u8]>, String> {
    let failed = |error: &std::io::Error| format!("cannot read `{path}`: {error}");
    let metadata = std::fs::metadata(path).map_err(|error| failed(&error))?;
    if !metadata.is_file() {
        return Err(format!("cannot read `{path}`: it is no regular file"));
    }
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(LONGEST + 1)
        .read_to_end(&mut content)
        .map_err(|error| failed(&error))?;
    if content.len() as u64 > LONGEST {
        return Err(format!("cannot read `{path}`: it has more than {LONGEST} bytes"));
    }
    Ok(content.into())
}

fn try_folder(path: &str, make: bool) -> Result<(), String> {
    let folder = Path::new(path);
    if !make && !folder.exists() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| format!("cannot make the folder `{path}`: {error}"))?;
    let probe = folder.join(format!(".gantry-{}", std::process::id()));
    // Only ever a file of our own: where others may write, a link of that name could lead to any file.
    let _ = std::fs::remove_file(&probe);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe);
    written.map_err(|error| format!("cannot write into the folder `{path}`: {error}"))?;
    std::fs::remove_file(&probe).map_err(|error| format!("cannot remove a file from the folder `{path}`: {error}"))
}

/// The folders that a dynamic configuration wants files to be written into.
#[must_use]
pub fn folders(config: &Dynamic) -> Vec<String> {
    let masks = config
        .http
        .services
        .values()
        .filter_map(|service| service.keep_masks.as_ref());
    files(masks.map(|masks| &masks.dir))
}

/// The files that a dynamic configuration refers to.
#[must_use]
pub fn references(config: &Dynamic) -> Vec<String> {
    let users = config
        .http
        .middlewares
        .values()
        .filter_map(|m| m.basic_auth.as_ref())
        .map(|auth| &auth.users_file);
    let authorities = config
        .http
        .servers_transports
        .values()
        .flat_map(|transport| &transport.root_cas);
    let own = config
        .http
        .servers_transports
        .values()
        .flat_map(|transport| &transport.certificates);
    let own = own.flat_map(|pair| [&pair.cert_file, &pair.key_file]);
    let stores = config
        .tls
        .stores
        .values()
        .filter_map(|store| store.default_certificate.as_ref());
    let certificates = config.tls.certificates.iter().chain(stores);
    let certificates = certificates.flat_map(|certificate| [&certificate.cert_file, &certificate.key_file]);
    let clients = config
        .tls
        .options
        .values()
        .filter_map(|options| options.client_auth.as_ref());
    let clients = clients.flat_map(|auth| auth.ca_files.iter().chain(&auth.crl_files));
    files(users.chain(authorities).chain(own).chain(certificates).chain(clients))
}

/// The files that a static configuration refers to.
#[must_use]
pub fn static_references(config: &Static) -> Vec<String> {
    let token = config.feedback.iter().map(|feedback| &feedback.token_file);
    files(config.servers_transport.root_cas.iter().chain(token))
}

fn files<'a>(values: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut paths: Vec<String> = values
        .filter(|value| !value.is_empty() && !is_content(value))
        .cloned()
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode_dynamic;

    #[test]
    fn references_are_the_files_that_are_named() {
        let text = "
http:
  middlewares:
    a: {basicAuth: {usersFile: /etc/users}}
  serversTransports:
    t: {rootCAs: [ca.pem, \"-----BEGIN CERTIFICATE-----\"], certificates: [{certFile: o.pem, keyFile: o.key}]}
tls:
  certificates: [{certFile: c.pem, keyFile: k.pem}, {certFile: c.pem, keyFile: k.pem}]
  stores: {default: {defaultCertificate: {certFile: d.pem, keyFile: k.pem}}}
  options: {m: {clientAuth: {caFiles: [clients.pem], crlFiles: [revoked.pem]}}}
";
        let decoded = decode_dynamic("f.yml", text);
        assert!(decoded.diagnostics.is_empty(), "{:?}", decoded.diagnostics);
        assert_eq!(
            references(&decoded.value),
            [
                "/etc/users",
                "c.pem",
                "ca.pem",
                "clients.pem",
                "d.pem",
                "k.pem",
                "o.key",
                "o.pem",
                "revoked.pem"
            ]
        );
    }

    #[test]
    fn a_file_is_read_once_and_a_missing_one_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users").to_str().unwrap().to_owned();
        std::fs::write(&path, "a:b").unwrap();
        let missing = folder.path().join("none").to_str().unwrap().to_owned();
        let here = folder.path().to_str().unwrap().to_owned();
        let resources = Resources::load([path.clone(), missing.clone(), here.clone()]);
        assert_eq!(&**resources.get(&path).unwrap().unwrap(), b"a:b");
        assert!(resources.get(&missing).unwrap().unwrap_err().contains("none"));
        assert!(resources.get(&here).unwrap().unwrap_err().contains("regular"));
        assert!(resources.get("other").is_none());
        let probe = folder.path().join(format!(".gantry-{}", std::process::id()));
        std::os::unix::fs::symlink(&path, &probe).unwrap();
        let tried = Resources::default().with_folders([folder.path().to_str().unwrap().to_owned()], true);
        assert!(tried.folders.values().all(Result::is_ok) && !probe.exists());
        assert_eq!(std::fs::read(&path).unwrap(), b"a:b", "a link leads to no other file");
        let made = folder.path().join("a/b");
        let (made, below) = (made.to_str().unwrap().to_owned(), format!("{path}/below"));
        let looked = Resources::default().with_folders([made.clone()], false);
        assert!(looked.folder_error(&made).is_none() && !Path::new(&made).exists());
        let tried = Resources::default().with_folders([made.clone(), below.clone()], true);
        assert!(tried.folder_error(&made).is_none());
        assert_eq!(
            std::fs::read_dir(&made).unwrap().count(),
            0,
            "nothing stays of the trial"
        );
        assert!(tried.folder_error(&below).unwrap().contains("below"));
        assert_eq!(&*resources.file_or_content(&path).unwrap(), b"a:b");
        assert_eq!(&*resources.file_or_content("-----BEGIN X").unwrap(), b"-----BEGIN X");
        assert!(resources.file_or_content(&missing).is_err());
    }
}
