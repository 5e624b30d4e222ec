//! Sticky sessions by cookie, on both levels, with Traefik's names and values.

use std::fmt::Write as _;

use ::http::{HeaderMap, HeaderValue, header};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::config::dynamic::{Cookie, SameSite};

/// A compiled `sticky.cookie`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyCookie {
    name: String,
    attributes: String,
}

/// What a request's cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This member; its cookie is up to date.
    Member(usize),
    /// This member, told in an older spelling: the cookie is to be rewritten.
    Outdated(usize),
}

impl Wish {
    /// The member.
    #[must_use]
    pub fn member(self) -> usize {
        match self {
            Self::Member(i) | Self::Outdated(i) => i,
        }
    }
}

impl StickyCookie {
    /// Compiles `cookie` for the service with the qualified name `service`.
    #[must_use]
    pub fn new(cookie: &Cookie, service: &str) -> Self {
        let name = if cookie.name.is_empty() {
            default_name(service)
        } else {
            cookie.name.clone()
        };
        let mut attributes = String::new();
        // RFC 6265, 5.2.3: a leading dot says nothing; Go's cookies leave it out.
        let domain = cookie.domain.strip_prefix('.').unwrap_or(&cookie.domain);
        for (key, value) in [("Path", cookie.path.as_str()), ("Domain", domain)] {
            if !value.is_empty() {
                let _ = write!(attributes, "; {key}={value}");
            }
        }
        if cookie.max_age != 0 {
            let _ = write!(attributes, "; Max-Age={}", cookie.max_age.max(0));
        }
        if cookie.http_only {
            attributes.push_str("; HttpOnly");
        }
        if cookie.secure {
            attributes.push_str("; Secure");
        }
        attributes.push_str(match cookie.same_site {
            Some(SameSite::None) => "; SameSite=None",
            Some(SameSite::Lax) => "; SameSite=Lax",
            Some(SameSite::Strict) => "; SameSite=Strict",
            None => "",
        });
        Self { name, attributes }
    }

    /// What the request asks for, among `members`: (name, present value) pairs.
    pub fn wish<'a>(&self, headers: &HeaderMap, members: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Wish> {
        let value = self.value(headers)?;
        let mut older = None;
        for (i, (name, present)) in members.enumerate() {
            if value == present {
                return Some(Wish::Member(i));
            }
            if value == name || value == fnv64(name) || value == fnv64(&fnv64(name)) {
                older = Some(Wish::Outdated(i));
            }
        }
        older
    }

    fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(';'))
            .find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                (name.trim() == self.name).then(|| value.trim().trim_matches('"'))
            })
    }

    /// The `Set-Cookie` that ties the client to the member with this value.
    #[must_use]
    pub fn set(&self, value: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("{}={value}{}", self.name, self.attributes)).ok()
    }
}

fn default_name(service: &str) -> String {
    let digest = Sha1::digest(format!("_TRAEFIK_BACKEND_{service}"));
    let mut name = "_".to_owned();
    name.push_str(&hex(&digest)[..5]);
    name
}

/// The value that stands for a member: the first 16 hex digits of its SHA-256.
#[must_use]
pub fn value_of(name: &str) -> String {
    hex(&Sha256::digest(name))[..16].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// FNV-1 with 64 bits, in hex: how Traefik wrote cookies before it used SHA-256.
fn fnv64(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
    });
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::try_from(cookie).expect("a value"));
        headers
    }

    #[test]
    fn cookies_look_as_traefik_writes_them() {
        let cookie = Cookie {
            name: "c".into(),
            path: "/x".into(),
            domain: ".d.test".into(),
            secure: true,
            http_only: true,
            same_site: Some(SameSite::None),
            max_age: 5,
        };
        let set = StickyCookie::new(&cookie, "s@file").set("v").expect("a value");
        assert_eq!(
            set,
            "c=v; Path=/x; Domain=d.test; Max-Age=5; HttpOnly; Secure; SameSite=None"
        );
        let plain = StickyCookie::new(
            &Cookie {
                max_age: -1,
                ..Cookie::default()
            },
            "s@file",
        );
        assert_eq!(plain.name.len(), 6);
        assert!(plain.name.starts_with('_'));
        assert!(
            plain
                .set("v")
                .expect("a value")
                .to_str()
                .expect("ascii")
                .ends_with("=v; Path=/; Max-Age=0")
        );
    }

    #[test]
    fn wishes_are_read_in_present_and_older_spellings() {
        let sticky = StickyCookie::new(
            &Cookie {
                name: "c".into(),
                ..Cookie::default()
            },
            "s@file",
        );
        let urls = ["http://a", "http://b"];
        let values = urls.map(value_of);
        let members = || urls.iter().copied().zip(values.iter().map(String::as_str));
        let wish = |cookie: &str| sticky.wish(&headers(cookie), members());
        assert_eq!(wish(&format!("x=1; c={}", values[1])), Some(Wish::Member(1)));
        assert_eq!(wish("c=http://a"), Some(Wish::Outdated(0)));
        assert_eq!(wish(&format!("c={}", fnv64("http://b"))), Some(Wish::Outdated(1)));
        assert_eq!(wish("c=nobody"), None);
        assert_eq!(wish("cc=http://a"), None);
    }
}
