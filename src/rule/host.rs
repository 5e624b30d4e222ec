//! Host names: how a request's host is brought into one form, and what a `Host` matcher accepts.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// Brings the value of a Host field or `:authority` into the form that [`super::Facts::host`] needs: lower-case,
/// without the port, without the brackets of an IPv6 address, without one trailing dot.
///
/// `None` is a value that no request may have (RFC 9110 7.2 asks for 400): blanks, control or non-ASCII characters,
/// user information, an IPv6 address without brackets, a port that is no number. An empty value, which RFC 9112
/// allows for targets without an authority, stays empty.
pub fn normalise_host(value: &str) -> Option<Cow<'_, str>> {
    if let Some(after_bracket) = value.strip_prefix('[') {
        let (address, port) = after_bracket.split_once(']')?;
        let bare = address.split_once('%').map_or(address, |(bare, _zone)| bare);
        if bare.parse::<Ipv6Addr>().is_err() || !address.bytes().all(is_host_byte_or_colon) {
            return None;
        }
        let valid_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return valid_port.then(|| lower(address));
    }
    let name = match value.split_once(':') {
        Some((name, port)) if !name.is_empty() && is_port(port) => name,
        Some(_) => return None,
        None => value,
    };
    if name == "." || !name.bytes().all(is_host_byte) {
        return None;
    }
    Some(lower(name.strip_suffix('.').unwrap_or(name)))
}

/// Digits up to 65535, or nothing: RFC 3986 3.2.3 allows an empty port.
fn is_port(text: &str) -> bool {
    text.is_empty() || (text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok())
}

/// RFC 3986 3.2.2 `reg-name`.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

fn is_host_byte_or_colon(byte: u8) -> bool {
    byte == b':' || is_host_byte(byte)
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

/// The argument of a `Host` matcher.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// `*`: any host, also none.
    Any,
    /// This host; lower-case, no trailing dot.
    Exact(String),
    /// `*.suffix`: exactly one more label in front; the suffix is kept without `*.`.
    Wildcard(String),
}

impl HostPattern {
    /// Reads the argument: case and one trailing dot do not matter, nor do the brackets of an IPv6 address.
    ///
    /// # Errors
    /// For characters outside of ASCII and for a `*` that is not the whole first label.
    pub fn parse(argument: &str) -> Result<Self, String> {
        if !argument.is_ascii() {
            return Err(format!(
                "`{argument}` has characters outside of ASCII; write the name in punycode (xn--...)"
            ));
        }
        let name = argument.to_ascii_lowercase();
        let name = name.strip_suffix('.').filter(|name| !name.is_empty()).unwrap_or(&name);
        if name == "*" {
            return Ok(Self::Any);
        }
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let name = bare.filter(|bare| bare.parse::<Ipv6Addr>().is_ok()).unwrap_or(name);
        let (is_wildcard, rest) = match name.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, name),
        };
        if rest.contains('*') || rest.is_empty() {
            return Err(format!(
                "in `{argument}`, `*` may only stand for the whole first label, as in *.example.com"
            ));
        }
        let rest = rest.to_owned();
        Ok(if is_wildcard {
            Self::Wildcard(rest)
        } else {
            Self::Exact(rest)
        })
    }

    /// Whether a normalised host satisfies the pattern.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => host == name,
            Self::Wildcard(suffix) => parent(host) == Some(suffix),
        }
    }
}

/// The host without its first label, which must not be empty.
pub fn parent(host: &str) -> Option<&str> {
    host.split_once('.')
        .filter(|(label, _)| !label.is_empty())
        .map(|(_, rest)| rest)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_hosts() {
        let table = [
            ("example.com", Some("example.com")),
            ("EXAMPLE.com:8080", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("Example.Com.:443", Some("example.com")),
            ("example.com..", Some("example.com.")),
            ("example.com:", Some("example.com")),
            ("", Some("")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]", Some("::1")),
            ("[::1]:8443", Some("::1")),
            ("[2001:DB8::A]:", Some("2001:db8::a")),
            ("[fe80::1%25eth0]:1", Some("fe80::1%25eth0")),
            ("a_b-c~d", Some("a_b-c~d")),
            (".", None),
            (":80", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[::1]:x", None),
            ("[host]", None),
            ("[]", None),
            ("a:b", None),
            ("a:80:80", None),
            ("a:65536", None),
            ("a:+80", None),
            ("a b", None),
            ("a\tb", None),
            ("user@host", None),
            ("a/b", None),
            ("a#b", None),
            ("a?b", None),
            ("é.com", None),
            ("a\\b", None),
        ];
        for (value, expected) in table {
            assert_eq!(normalise_host(value).as_deref(), expected, "{value:?}");
        }
        assert!(matches!(normalise_host("example.com:80"), Some(Cow::Borrowed(_))));
    }

    #[test]
    fn patterns_accept_hosts() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("example.com", &["example.com"], &["a.example.com", "", "example.org"]),
            ("Example.COM.", &["example.com"], &[]),
            (
                "*.example.com",
                &["a.example.com"],
                &["example.com", "a.b.example.com", ".example.com", ""],
            ),
            ("*.Example.com.", &["a.example.com"], &[]),
            ("*", &["", "a", "a.b"], &[]),
            ("[::1]", &["::1"], &["[::1]"]),
            ("::1", &["::1"], &[]),
            ("*.2.3.4", &["1.2.3.4"], &[]),
        ];
        for (pattern, yes, no) in table {
            let pattern = HostPattern::parse(pattern).expect("valid");
            assert!(yes.iter().all(|host| pattern.matches(host)), "{pattern}");
            assert!(!no.iter().any(|host| pattern.matches(host)), "{pattern}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["é.com", "a.*.com", "*a.com", "**.example.com", "*.*.com", "*.", "a*"] {
            match HostPattern::parse(bad) {
                // "*." is "*" with a trailing dot.
                Ok(pattern) => assert_eq!((bad, pattern), ("*.", HostPattern::Any)),
                Err(message) => assert!(message.contains(bad), "{message}"),
            }
        }
    }
}
