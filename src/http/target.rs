//! The request target in its one normal form (reference, C5; RFC 3986, 6.2.2).
//!
//! What comes out is used for routing, for the middlewares and towards the server: a second form would be a way around
//! a router. The steps are Traefik's: decode unreserved escapes, upper-case the others, remove dot segments and empty
//! segments, then refuse what the entry point does not allow.

use std::borrow::Cow;

use ::http::uri::PathAndQuery;
use bytes::Bytes;

use crate::config::static_config::EncodedCharacters;

/// Why a target is refused; the answer is 400 in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// An escape that is none, or a path that does not begin with a slash.
    Malformed,
    /// An encoded character that the entry point does not allow.
    EncodedCharacter,
}

/// How an entry point reads targets.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetRules {
    /// `sanitizePath`
    pub sanitize: bool,
    /// Encoded characters that are refused, upper-case, without their `%`.
    pub refused: Vec<[u8; 2]>,
    /// `encodeQuerySemicolons`
    pub encode_query_semicolons: bool,
}

impl TargetRules {
    /// Compiles an entry point's settings.
    #[must_use]
    pub fn new(sanitize: bool, allowed: &EncodedCharacters, encode_query_semicolons: bool) -> Self {
        let table = [
            (allowed.allow_encoded_slash, *b"2F"),
            (allowed.allow_encoded_back_slash, *b"5C"),
            (allowed.allow_encoded_null_character, *b"00"),
            (allowed.allow_encoded_semicolon, *b"3B"),
            (allowed.allow_encoded_percent, *b"25"),
            (allowed.allow_encoded_question_mark, *b"3F"),
            (allowed.allow_encoded_hash, *b"23"),
        ];
        let refused = table
            .into_iter()
            .filter(|(allowed, _)| !allowed)
            .map(|(_, code)| code)
            .collect();
        Self {
            sanitize,
            refused,
            encode_query_semicolons,
        }
    }

    /// The normal form of `target`; `None` when it is in that form already.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn normalise(&self, target: &PathAndQuery) -> Result<Option<PathAndQuery>, Refused> {
        let path = normal_path(target.path(), self.sanitize)?;
        for code in &self.refused {
            if has_escape(&path, *code) {
                return Err(Refused::EncodedCharacter);
            }
        }
        let semicolons = self.encode_query_semicolons && target.query().is_some_and(|q| q.contains(';'));
        if matches!(path, Cow::Borrowed(_)) && !semicolons {
            return Ok(None);
        }
        let query = target.query().map(|q| {
            if semicolons {
                q.replace(';', "%3B")
            } else {
                q.to_owned()
            }
        });
        joined(path.into_owned(), query).map(Some)
    }
}

/// The target as servers get it: `;` in the query separates like `&`, and is written so. `None`: nothing changes.
#[must_use]
pub fn without_semicolons(target: &PathAndQuery) -> Option<PathAndQuery> {
    let query = target.query().filter(|q| q.contains(';'))?;
    joined(target.path().to_owned(), Some(query.replace(';', "&"))).ok()
}

fn joined(mut path: String, query: Option<String>) -> Result<PathAndQuery, Refused> {
    if let Some(query) = query {
        path.push('?');
        path.push_str(&query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(path)).map_err(|_| Refused::Malformed)
}

/// Whether the escaped `path` holds `%code`.
fn has_escape(path: &str, code: [u8; 2]) -> bool {
    path.as_bytes().windows(3).any(|w| w[0] == b'%' && w[1..] == code)
}

/// Whether a byte stays as it is in a path; others are escaped.
fn stays(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@[]/".contains(&byte)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The normal form of an escaped path.
///
/// # Errors
/// When it does not begin with a slash or holds an escape that is none.
pub fn normal_path(path: &str, sanitize: bool) -> Result<Cow<'_, str>, Refused> {
    if !path.starts_with('/') {
        return Err(Refused::Malformed);
    }
    let clean = path.bytes().all(stays);
    let decoded = if clean {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(normal_escapes(path)?)
    };
    if !sanitize || !needs_sanitizing(&decoded) {
        return Ok(decoded);
    }
    Ok(Cow::Owned(remove_dots(&decoded)))
}

/// Decodes unreserved escapes, upper-cases the others, and escapes what must not stand in a path.
fn normal_escapes(path: &str) -> Result<String, Refused> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(path.len() + 16);
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let (value, escaped) = if byte == b'%' {
            let mut digit = || {
                bytes
                    .next()
                    .and_then(|b| char::from(b).to_digit(16))
                    .ok_or(Refused::Malformed)
            };
            let (high, low) = (digit()?, digit()?);
            (u8::try_from(high * 16 + low).map_err(|_| Refused::Malformed)?, true)
        } else {
            (byte, false)
        };
        let plain = if escaped { is_unreserved(value) } else { stays(value) };
        if plain {
            out.push(char::from(value));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(value >> 4)]));
            out.push(char::from(HEX[usize::from(value & 15)]));
        }
    }
    Ok(out)
}

fn needs_sanitizing(path: &str) -> bool {
    let bytes = path.as_bytes();
    memchr::memchr_iter(b'/', bytes).any(|i| matches!(bytes.get(i + 1), Some(b'/' | b'.')))
}

/// Removes empty segments and dot segments (RFC 3986, 5.2.4, with `//` read as `/`). As at Traefik, a dot segment at the
/// end leaves no slash behind: `/a/.` is `/a`, so that a router for `Path(`/a`)` sees it.
fn remove_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let slash = path.ends_with('/') && !kept.is_empty();
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if slash || out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str) -> String {
        normal_path(path, true).expect(path).into_owned()
    }

    #[test]
    fn paths_get_one_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//", "/"),
            ("//host/x", "/host/x"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/b/..", "/a"),
            ("/a/b/../", "/a/"),
            ("/a/.", "/a"),
            ("/..", "/"),
            ("/a//b/", "/a/b/"),
            ("/%41%2e%2E/b", "/A../b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2f..%2fb", "/a%2F..%2Fb"),
            ("/a|b^c\"\\{}`", "/a%7Cb%5Ec%22%5C%7B%7D%60"),
            ("/[x];y:z", "/[x];y:z"),
            ("/...", "/..."),
            ("/.a", "/.a"),
        ] {
            assert_eq!(normal(path), expected, "{path}");
        }
        assert_eq!(normal_path("/a/../b//%41", false).expect("a path"), "/a/../b//A");
        for bad in ["/a%zz", "/a%", "/a%2", "nopath", "*"] {
            assert_eq!(normal_path(bad, true), Err(Refused::Malformed), "{bad}");
        }
    }

    #[test]
    fn encoded_characters_are_refused_where_the_entry_point_says_so() {
        let allowed = EncodedCharacters {
            allow_encoded_slash: false,
            ..EncodedCharacters::default()
        };
        let rules = TargetRules::new(true, &allowed, false);
        let target = |t: &'static str| rules.normalise(&PathAndQuery::from_static(t));
        assert_eq!(target("/a%2Fb"), Err(Refused::EncodedCharacter));
        assert_eq!(target("/a%2fb"), Err(Refused::EncodedCharacter));
        assert_eq!(target("/a%5cb").expect("a target").expect("changed"), "/a%5Cb");
        assert_eq!(target("/a?x=%2F"), Ok(None));
        assert_eq!(target("/?a=1;b=2"), Ok(None));
        let encoding = TargetRules::new(true, &EncodedCharacters::default(), true);
        let encoded = encoding.normalise(&PathAndQuery::from_static("/?a=1;b=2"));
        assert_eq!(encoded.expect("a target").expect("changed"), "/?a=1%3Bb=2");
        let sent = without_semicolons(&PathAndQuery::from_static("/a;x?a=1;b=2")).expect("changed");
        assert_eq!(sent, "/a;x?a=1&b=2");
        assert_eq!(target("/?"), Ok(None));
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_leaves_no_dots(path in "/[a-c./%2eEfF5]{0,24}") {
            if let Ok(once) = normal_path(&path, true) {
                prop_assert_eq!(normal_path(&once, true).expect("still a path"), once.clone());
                prop_assert!(once.split('/').all(|s| s != "." && s != ".."), "{}", once);
                prop_assert!(!once.contains("//"));
            }
        }
    }
}
