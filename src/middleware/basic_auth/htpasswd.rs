//! User lists in the format of Apache's `htpasswd`: `name:hash`, one user a line.
//!
//! Schemes as in Traefik: bcrypt (`$2a$`, `$2b$`, `$2x$`, `$2y$`), Apache's MD5 (`$apr1$`), md5-crypt (`$1$`) and
//! `{SHA}`. A hash of any other form stays in the list as one that nothing matches, so that the user is locked out
//! while the other users of the list go on working; the list reports it as a warning.
//!
//! Invariants: a comparison of secrets takes the same time wherever they differ; nothing in here panics on any
//! password or hash; a password that bcrypt would read only in part (more than 72 bytes, or a NUL) is refused.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq as _;

use super::md5_crypt::{CRYPT64, md5_crypt};

/// Longest password that bcrypt reads to its end, bytes.
pub const BCRYPT_MAX_PASSWORD: usize = 72;

/// The salt and check value of the dummy that stands in for a bcrypt hash: any well-formed pair costs the same.
const BCRYPT_FILLER: &str = "abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// One stored password hash, checked for its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// bcrypt with its cost (4–31); the text is the whole hash.
    Bcrypt {
        /// log2 of the number of rounds.
        cost: u32,
        /// The hash as it was written.
        text: String,
    },
    /// md5-crypt: `$1$`, or Apache's `$apr1$`.
    Md5 {
        /// `$1$` or `$apr1$`.
        magic: &'static str,
        /// Up to eight bytes.
        salt: Vec<u8>,
        /// The 22 characters after the salt.
        digest: Vec<u8>,
    },
    /// `{SHA}`: unsalted SHA-1.
    Sha1([u8; 20]),
    /// A form that is not known: no password matches.
    Unknown,
}

impl Hash {
    /// Reads a hash as it stands in a user list.
    ///
    /// # Errors
    /// Why the hash can match no password, for a warning.
    pub fn parse(text: &str) -> Result<Self, String> {
        if ["$2a$", "$2b$", "$2x$", "$2y$"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            return parse_bcrypt(text);
        }
        if let Some(encoded) = text.strip_prefix("{SHA}") {
            let digest = STANDARD
                .decode(encoded)
                .ok()
                .and_then(|bytes| <[u8; 20]>::try_from(bytes).ok());
            return digest
                .map(Self::Sha1)
                .ok_or_else(|| "`{SHA}` wants 28 characters of base64 behind it".to_owned());
        }
        for magic in ["$apr1$", "$1$"] {
            if let Some(rest) = text.strip_prefix(magic) {
                return parse_md5(magic, rest);
            }
        }
        Err(match text {
            "" => "the hash is empty".to_owned(),
            _ if text.starts_with('$') || text.starts_with('{') => {
                "this kind of hash is not supported (known: bcrypt, apr1, $1$, {SHA})".to_owned()
            }
            _ => "this is not a password hash; `gantry hash-password` makes one".to_owned(),
        })
    }

    /// Whether the password fits. Expensive for all kinds but `{SHA}`: see [`Hash::is_cheap`].
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt { text, .. } => {
                password.len() <= BCRYPT_MAX_PASSWORD
                    && !password.contains(&0)
                    && bcrypt::verify(password, text).unwrap_or(false)
            }
            Self::Md5 { magic, salt, digest } => md5_crypt(magic.as_bytes(), salt, password)
                .as_slice()
                .ct_eq(digest)
                .into(),
            Self::Sha1(digest) => <[u8; 20]>::from(Sha1::digest(password)).ct_eq(digest).into(),
            Self::Unknown => false,
        }
    }

    /// Whether a check is so cheap (about a microsecond) that it may run on a worker.
    #[must_use]
    pub fn is_cheap(&self) -> bool {
        matches!(self, Self::Sha1(_) | Self::Unknown)
    }

    /// A hash of the same kind and cost that belongs to nobody.
    fn dummy(&self) -> Self {
        match self {
            Self::Bcrypt { cost, .. } => Self::Bcrypt {
                cost: *cost,
                text: format!("$2b${cost:02}${BCRYPT_FILLER}"),
            },
            Self::Md5 { magic, .. } => Self::Md5 {
                magic,
                salt: b"saltsalt".to_vec(),
                digest: vec![b'.'; 22],
            },
            Self::Sha1(_) => Self::Sha1([0; 20]),
            Self::Unknown => Self::Unknown,
        }
    }

    /// Rank by time taken: orders kinds, and bcrypt by its cost.
    fn expense(&self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Sha1(_) => 1,
            Self::Md5 { .. } => 2,
            Self::Bcrypt { cost, .. } => 3 + cost,
        }
    }
}

fn parse_bcrypt(text: &str) -> Result<Hash, String> {
    let (cost, rest) = text
        .get(4..6)
        .zip(text.get(6..))
        .ok_or("the bcrypt hash is cut short")?;
    let cost: u32 = cost.parse().map_err(|_| "the bcrypt hash has no cost of two digits")?;
    if !(4..=31).contains(&cost) {
        return Err(format!("bcrypt cost {cost} is not within 4 and 31"));
    }
    let body = rest.strip_prefix('$').unwrap_or_default();
    if body.len() != 53 || !body.bytes().all(|byte| CRYPT64.contains(&byte)) {
        return Err("the bcrypt hash is malformed: 53 characters of salt and check value follow the cost".to_owned());
    }
    Ok(Hash::Bcrypt {
        cost,
        text: text.to_owned(),
    })
}

fn parse_md5(magic: &'static str, rest: &str) -> Result<Hash, String> {
    let malformed = || format!("the {magic} hash is malformed: a salt of up to 8 characters, `$`, 22 characters");
    let (salt, digest) = rest.split_once('$').ok_or_else(malformed)?;
    if salt.len() > 8 || digest.len() != 22 || !digest.bytes().all(|byte| CRYPT64.contains(&byte)) {
        return Err(malformed());
    }
    Ok(Hash::Md5 {
        magic,
        salt: salt.as_bytes().to_vec(),
        digest: digest.as_bytes().to_vec(),
    })
}

/// The users of one `basicAuth`, and the dummy hash that unknown names are checked against.
#[derive(Clone, Debug)]
pub struct Users {
    users: HashMap<String, Arc<Hash>>,
    dummy: Arc<Hash>,
}

/// One entry that nobody can log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UselessEntry {
    /// The user's name.
    pub user: String,
    /// Why no password matches.
    pub reason: String,
}

/// An entry that is no `name:hash`; the list is refused as a whole, as in Traefik.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedEntry {
    /// Its position in what [`Users::parse`] was given, from 0.
    pub index: usize,
    /// What is wrong, without the entry's text: it may be a password.
    pub reason: &'static str,
}

impl Users {
    /// Reads `name:hash` entries; the last one of a name counts. Entries that nothing can match are kept, and
    /// reported beside the list.
    ///
    /// # Errors
    /// The first entry that is not exactly one name, one colon and one hash.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<(Self, Vec<UselessEntry>), MalformedEntry> {
        let mut users = HashMap::new();
        let mut useless = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let malformed = |reason| MalformedEntry { index, reason };
            let (name, hash) = entry
                .split_once(':')
                .ok_or_else(|| malformed("a user is written `name:hash`"))?;
            if hash.contains(':') {
                return Err(malformed("a user is written `name:hash`, with one colon"));
            }
            if name.chars().any(char::is_control) {
                return Err(malformed("a user's name holds no control characters"));
            }
            let hash = Hash::parse(hash).unwrap_or_else(|reason| {
                useless.push(UselessEntry {
                    user: name.to_owned(),
                    reason,
                });
                Hash::Unknown
            });
            users.insert(name.to_owned(), Arc::new(hash));
        }
        let dearest = users.values().max_by_key(|hash| hash.expense());
        let dummy = Arc::new(dearest.map_or(Hash::Unknown, |hash| hash.dummy()));
        Ok((Self { users, dummy }, useless))
    }

    /// The lines of a users file that count: trimmed, without blank ones and comments (`#`).
    pub fn lines(text: &str) -> impl Iterator<Item = &str> {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
    }

    /// Whether there is no user at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The hashes to verify for a name, so that an unknown name costs what a known one costs.
    #[must_use]
    pub fn candidate(&self, name: &str) -> Candidate {
        let Some(hash) = self.users.get(name) else {
            return Candidate {
                hash: None,
                dummy: Some(Arc::clone(&self.dummy)),
            };
        };
        let cheaper = hash.expense() < self.dummy.expense();
        Candidate {
            hash: Some(Arc::clone(hash)),
            dummy: cheaper.then(|| Arc::clone(&self.dummy)),
        }
    }
}

/// What one login attempt is verified against.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The user's own hash; `None` for unknown users.
    hash: Option<Arc<Hash>>,
    /// What is verified, in vain, after the own hash did not fit: it makes all failures equally slow.
    dummy: Option<Arc<Hash>>,
}

impl Candidate {
    /// Whether the password is the user's. Takes as long for unknown users as for known ones.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        if self.hash.as_ref().is_some_and(|hash| hash.verify(password)) {
            return true;
        }
        if let Some(dummy) = &self.dummy {
            std::hint::black_box(dummy.verify(password));
        }
        false
    }

    /// Whether all that has to be verified is cheap enough for a worker.
    #[must_use]
    pub fn is_cheap(&self) -> bool {
        self.hash.iter().chain(&self.dummy).all(|hash| hash.is_cheap())
    }

    /// Bytes that stand for the stored hash in cache keys: another hash, other bytes; none for unknown users.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        match self.hash.as_deref() {
            None => b"?".to_vec(),
            Some(Hash::Unknown) => b"-".to_vec(),
            Some(Hash::Sha1(digest)) => [b"s", &digest[..]].concat(),
            Some(Hash::Bcrypt { text, .. }) => text.as_bytes().to_vec(),
            Some(Hash::Md5 { magic, salt, digest }) => [magic.as_bytes(), salt, b"$", digest].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hash: &str, password: &str) {
        let hash = Hash::parse(hash).unwrap();
        assert!(hash.verify(password.as_bytes()), "{hash:?}");
        assert!(!hash.verify(format!("{password}x").as_bytes()));
        assert!(!hash.verify(b"other"));
    }

    /// Made with `htpasswd -nb{m,B,s}` and `openssl passwd`.
    #[test]
    fn hashes_made_by_apache_and_openssl() {
        check("$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "test");
        check("$apr1$oSY3B1jz$9lkCWNATfDwqnVh.mfTll0", "pässwörd");
        check("$apr1$7SxZ95SW$hFQ1uwQA.dtpSdO8ut4YJ.", "");
        check(
            "$apr1$SUTilHcj$44aM2cQqPJdaJMDBXIfCp0",
            "a-long-password-of-more-than-sixteen-bytes",
        );
        check("$apr1$12345678$zbBEMgfXu4mAHPrplrtNt.", "x");
        check("$1$abcd$ClBW/xSEVLcxkw/mPCQ88/", "hello world");
        check("$1$longsalt$XjH0XjSGvGpbsAh3yhUEz0", &"y".repeat(100));
        check("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "secret");
        check("$2y$04$NHZ71pdU2lRg1inQUzjzueUwNLrjysdiepOLwhTk5kQLtCm775p56", "secret");
        check(
            "$2y$04$K9paKn5ay2Y7/51BDvCATuqHZWbDro4no5r1JDReEwHLUWLTs4mpS",
            "pässwörd",
        );
        check("$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "secret");
        check("$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a", "secret");
    }

    #[test]
    fn bcrypt_reads_the_whole_password_or_nothing() {
        let full = "a".repeat(72);
        let hash = Hash::parse(&bcrypt::hash(&full, 4).unwrap()).unwrap();
        assert!(hash.verify(full.as_bytes()));
        assert!(
            !hash.verify(format!("{full}b").as_bytes()),
            "bytes after the 72nd would be ignored"
        );
        let hash = Hash::parse("$2y$04$NHZ71pdU2lRg1inQUzjzueUwNLrjysdiepOLwhTk5kQLtCm775p56").unwrap();
        assert!(!hash.verify(b"secret\0junk"), "crypt(3) stops at a NUL");
    }

    #[test]
    fn hashes_that_nothing_matches() {
        for bad in [
            "",
            "secret",
            "$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA",
            "{SHA}short",
            "{SSHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "$2y$",
            "$2y$é",
            "$2y$99$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
            "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0",
            "$2y$05$äbcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0",
            "$apr1$nodollar",
            "$apr1$toolongsalt$IgXLP6ewTrSuBkTrqE8wj/",
            "$1$salt$short",
        ] {
            assert!(Hash::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_with_unknown_hashes_still_works() {
        let (users, useless) = Users::parse(["pl:secret", "sh:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="]).unwrap();
        assert_eq!(useless.len(), 1);
        assert_eq!(useless[0].user, "pl");
        assert!(users.candidate("sh").verify(b"secret"));
        assert!(!users.candidate("pl").verify(b"secret"));
        assert!(!users.candidate("nobody").verify(b"secret"));
    }

    #[test]
    fn entries_that_are_no_users() {
        assert_eq!(Users::parse(["a:{SHA}x", "justname"]).unwrap_err().index, 1);
        assert!(Users::parse(["a:b:c"]).is_err());
        assert!(Users::parse(["a\u{7}:b"]).is_err());
    }

    #[test]
    fn the_last_entry_of_a_name_counts() {
        let entries = [
            "u:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/",
        ];
        let (users, _) = Users::parse(entries).unwrap();
        assert!(users.candidate("u").verify(b"test"));
        assert!(!users.candidate("u").verify(b"secret"));
    }

    #[test]
    fn lines_of_a_users_file() {
        let lines: Vec<_> = Users::lines("# comment\r\n\r\n  a:b  \n#x\nc:d").collect();
        assert_eq!(lines, ["a:b", "c:d"]);
    }

    #[test]
    fn failures_cost_the_same_for_known_and_unknown_users() {
        let bcrypt = "b:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
        let (users, _) = Users::parse([bcrypt, "s:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "pl:secret"]).unwrap();
        for name in ["s", "pl", "nobody"] {
            let candidate = users.candidate(name);
            assert!(
                matches!(candidate.dummy.as_deref(), Some(Hash::Bcrypt { cost: 5, .. })),
                "{name}"
            );
            assert!(!candidate.is_cheap(), "{name}");
        }
        assert!(users.candidate("b").dummy.is_none(), "its own hash is as expensive");
        let dummy = users.dummy.as_ref();
        assert!(
            bcrypt::verify(
                "x",
                match dummy {
                    Hash::Bcrypt { text, .. } => text,
                    _ => "",
                }
            )
            .is_ok()
        );
    }

    #[test]
    fn fingerprints_tell_hashes_apart() {
        let (users, _) = Users::parse([
            "a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/",
            "b:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        ])
        .unwrap();
        assert_ne!(users.candidate("a").fingerprint(), users.candidate("b").fingerprint());
        assert_ne!(users.candidate("a").fingerprint(), users.candidate("x").fingerprint());
    }
}
