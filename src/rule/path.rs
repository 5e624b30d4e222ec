//! The routing path: the form of a request's path on which path matchers work.

use std::borrow::Cow;

/// What stays percent-encoded: the reserved characters of RFC 3986 2.2 and the percent sign.
const RESERVED: &[u8] = b":/?#[]@!$&'()*+,;=%";

/// Decodes every escape of an escaped path except those of reserved characters, which stay, with upper-case digits.
///
/// So ``Path(`/a b`)`` matches `/a%20b`, while `%2F` never becomes a slash. Bytes that do not form UTF-8 stay
/// encoded too, and the percent sign of a malformed escape becomes `%25` (the server refuses such paths before
/// routing), so that two different paths never become one. The function is idempotent.
pub fn routing_path(escaped_path: &str) -> Cow<'_, str> {
    if !escaped_path.contains('%') {
        return Cow::Borrowed(escaped_path);
    }
    let bytes = escaped_path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match escape(&bytes[at..]) {
            Some(value) if RESERVED.contains(&value) => {
                push_escape(&mut decoded, value);
                at += 3;
            }
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None if byte == b'%' => {
                push_escape(&mut decoded, byte);
                at += 1;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8(decoded).unwrap_or_else(|error| encode_invalid(error.as_bytes())))
}

fn escape(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

fn encode_invalid(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        chunk.invalid().iter().for_each(|byte| push_escape(&mut out, *byte));
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decodes_all_but_reserved_characters() {
        let table = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a%20b", "/a b"),
            ("/%41", "/A"),
            ("/%7Euser", "/~user"),
            ("/%C3%A9", "/é"),
            ("/%c3%a9", "/é"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%3a%2f%3f%23%5b%5d%40", "/%3A%2F%3F%23%5B%5D%40"),
            (
                "/%21%24%26%27%28%29%2a%2b%2c%3b%3d%25",
                "/%21%24%26%27%28%29%2A%2B%2C%3B%3D%25",
            ),
            ("/%252f", "/%252f"),
            ("/%7B%7D%7C%5C%5E%60%22%3C%3E", "/{}|\\^`\"<>"),
            ("/%00", "/\0"),
            ("/%ff", "/%FF"),
            ("/%c3x", "/%C3x"),
            ("/%C3é", "/%C3é"),
            ("/%e2%82", "/%E2%82"),
            ("/%", "/%25"),
            ("/%4", "/%254"),
            ("/%4%31", "/%2541"),
            ("/%zz", "/%25zz"),
        ];
        for (escaped, expected) in table {
            assert_eq!(routing_path(escaped), expected, "{escaped}");
        }
        assert!(matches!(routing_path("/a"), Cow::Borrowed("/a")));
    }

    proptest! {
        #[test]
        fn is_idempotent_and_never_gains_a_separator(path in "(/|%2[fF]|%25|%[0-9a-f]{2}|[a-zé.;]){0,12}") {
            let once = routing_path(&path);
            prop_assert_eq!(routing_path(&once), once.as_ref());
            for separator in ['/', '?', '#', ';'] {
                prop_assert_eq!(once.matches(separator).count(), path.matches(separator).count());
            }
        }

        #[test]
        fn is_idempotent_for_any_text(path in "[%0-9a-fA-Fé/]{0,20}") {
            let once = routing_path(&path);
            prop_assert_eq!(routing_path(&once), once.as_ref());
        }
    }
}
