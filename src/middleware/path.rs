//! Changing a request's path so that everyone reads the same thing from it.
//!
//! The gateway keeps one form of the path: the escaped one, normalised before routing. Traefik keeps two, as Go's
//! `net/url` does (decoded, and escaped where the default escapes would differ); the functions here give the escaped
//! path that Traefik's pair would be sent as.
//!
//! Invariants: a changed path begins with `/`; it never contains a segment `.` or `..` (threats.md, section 2); the
//! query is not touched.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

/// Why a path cannot be changed as configured; the request gets 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// Cuts `prefix` (decoded) off the escaped `path`. `None` when the path does not begin with it.
///
/// # Errors
/// What is left begins with an encoded slash or backslash or with a dot segment, or holds a dot segment: servers
/// disagree about what it means, and routing has decided already.
pub fn strip_prefix(path: &str, prefix: &str) -> Option<Result<String, Ambiguous>> {
    let rest = cut(path, prefix.as_bytes())?;
    let decoded = percent_decode_str(rest.trim_start_matches('/'));
    let first: Vec<u8> = decoded.take_while(|byte| !matches!(byte, b'/' | b'\\')).collect();
    let starts_encoded = first.is_empty() && !rest.trim_start_matches('/').is_empty();
    if starts_encoded || is_dot_segment(&first) {
        return Some(Err(Ambiguous));
    }
    Some(finish(with_leading_slash(rest).into_owned()))
}

/// Puts `prefix` (decoded, as it is configured) in front of the escaped `path`.
///
/// Where the prefix holds characters that have to be escaped, encoded slashes and the like in `path` are decoded:
/// Traefik's pair of paths falls apart there, and servers behind it have seen the decoded form ever since.
///
/// # Errors
/// The result has a dot segment.
pub fn add_prefix(path: &str, prefix: &str) -> Result<String, Ambiguous> {
    let decoded = [prefix.as_bytes(), &decode(path)].concat();
    let raw = format!("{prefix}{path}");
    let raw_is_used = escape(&decode(path)) != path && is_escaped(&raw) && decode(&raw) == decoded;
    let new = if raw_is_used { raw } else { escape(&decoded) };
    finish(with_leading_slash(&new).into_owned())
}

/// The URI with another path and its own query.
#[must_use]
pub fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a segment of the path, decoded, is `.` or `..`.
#[must_use]
pub fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| is_dot_segment(&decode(segment)))
}

fn is_dot_segment(segment: &[u8]) -> bool {
    matches!(segment, b"." | b"..")
}

fn finish(path: String) -> Result<String, Ambiguous> {
    if has_dot_segment(&path) {
        Err(Ambiguous)
    } else {
        Ok(path)
    }
}

fn with_leading_slash(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(format!("/{path}"))
    }
}

fn decode(path: &str) -> Cow<'_, [u8]> {
    percent_decode_str(path).into()
}

/// What of the escaped `path` stands behind the decoded `prefix`.
fn cut<'a>(path: &'a str, prefix: &[u8]) -> Option<&'a str> {
    let mut at = 0;
    for expected in prefix {
        let byte = path.as_bytes().get(at)?;
        let (decoded, length) = match byte {
            b'%' => (percent_decode_str(path.get(at..at + 3)?).next()?, 3),
            byte => (*byte, 1),
        };
        if decoded != *expected {
            return None;
        }
        at += length;
    }
    path.get(at..)
}

/// Go's `url.URL.EscapedPath` for a path without a raw form: unreserved characters and `$&+,/:;=@` stay.
fn escape(decoded: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut escaped = String::with_capacity(decoded.len());
    for byte in decoded {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(byte) {
            escaped.push(char::from(*byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes all");
        }
    }
    escaped
}

/// Go's test whether a raw path is well escaped and may be sent as it is.
fn is_escaped(raw: &str) -> bool {
    raw.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn strips(path: &str, prefix: &str, expected: Option<Result<&str, Ambiguous>>) {
        assert_eq!(
            strip_prefix(path, prefix),
            expected.map(|path| path.map(str::to_owned)),
            "{path} {prefix}"
        );
    }

    /// Answers of Traefik 3.7.15, but where it forwards what the last block refuses.
    #[test]
    fn stripping() {
        strips("/api/x", "/api", Some(Ok("/x")));
        strips("/api", "/api", Some(Ok("/")));
        strips("/api/", "/api", Some(Ok("/")));
        strips("/apiary", "/api", Some(Ok("/ary")));
        strips("/trail/x", "/trail/", Some(Ok("/x")));
        strips("/trail", "/trail/", None);
        strips("/other", "/api", None);
        strips("/a%20b/c%2Fd", "/a b", Some(Ok("/c%2Fd")));
        strips("/enc/x%2Fy", "/enc", Some(Ok("/x%2Fy")));
        strips("/enc/%C3%A9", "/enc", Some(Ok("/%C3%A9")));
        strips("/%C3%A9/x", "/é", Some(Ok("/x")));
        strips("/strip.../x", "/strip", Some(Ok("/.../x")));
        strips("/strip..;/x", "/strip", Some(Ok("/..;/x")));

        strips("/strip../admin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip./admin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip%2F..%2Fadmin/x", "/strip", Some(Err(Ambiguous)));

        strips("/strip%2Fadmin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip/%2Fadmin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip%5Cadmin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip..%2Fadmin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip/..%2Fadmin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip%2E%2E/admin/x", "/strip", Some(Err(Ambiguous)));
        strips("/strip..%5Cadmin", "/strip", Some(Err(Ambiguous)));
        strips("/strip%", "/strip%", None);
    }

    #[test]
    fn adding() {
        let adds = |path, prefix| add_prefix(path, prefix);
        assert_eq!(adds("/x", "/foo").as_deref(), Ok("/foo/x"));
        assert_eq!(adds("/x", "foo").as_deref(), Ok("/foo/x"));
        assert_eq!(adds("/x%2Fy", "/foo").as_deref(), Ok("/foo/x%2Fy"));
        assert_eq!(adds("/x", "/a b/é").as_deref(), Ok("/a%20b/%C3%A9/x"));
        assert_eq!(adds("/x%2Fy", "/a b/é").as_deref(), Ok("/a%20b/%C3%A9/x/y"));
        assert_eq!(adds("/q/x", "/x?y#z%41").as_deref(), Ok("/x%3Fy%23z%2541/q/x"));
        assert_eq!(adds("/x", "/a%20b").as_deref(), Ok("/a%2520b/x"));
        assert_eq!(adds("/pc/x", "/y//z/").as_deref(), Ok("/y//z//pc/x"));
        assert_eq!(
            adds("/..%2Fx", "/a b"),
            Err(Ambiguous),
            "decoding must not make a dot segment"
        );
        assert_eq!(adds("/x", "/a/.."), Err(Ambiguous));
    }

    #[test]
    fn the_query_stays() {
        let with = |uri: &'static str| with_path(&Uri::from_static(uri), "/new").unwrap().to_string();
        assert_eq!(with("/old?a=1"), "/new?a=1");
        assert_eq!(with("/old?"), "/new?");
        assert_eq!(with("/old"), "/new");
        assert_eq!(with("http://host/old?a"), "http://host/new?a");
    }

    #[test]
    fn dot_segments_in_any_spelling() {
        for path in ["/.", "/..", "/a/../b", "/a/%2e%2E/b", "/a/.%2e", "/%2e"] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in ["/", "/a/b", "/...", "/.a", "/a..", "/..;x"] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
