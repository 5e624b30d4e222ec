//! Looks at a query without taking it apart: names and values are compared in their encoded form.
//!
//! As Go's `url.ParseQuery`: `+` is a blank, a pair with a malformed escape is skipped, and `;` separates pairs
//! like `&` does (Traefik turns it into `&` first).

use std::borrow::Cow;

use super::path::hex;

/// Values longer than this are decoded on the heap.
const STACK: usize = 512;

/// Whether any pair has this name and exactly this value.
pub fn has_value(query: &str, name: &str, value: &str) -> bool {
    values(query, name).any(|encoded| equals(encoded, value))
}

/// Whether any pair has this name and a value that the predicate accepts.
pub fn any_value(query: &str, name: &str, mut accept: impl FnMut(&str) -> bool) -> bool {
    values(query, name).any(|encoded| with_decoded(encoded, &mut accept))
}

/// The encoded values of the well-formed pairs with this name.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.split(['&', ';']).filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (is_well_formed(key) && is_well_formed(value) && equals(key, name)).then_some(value)
    })
}

fn is_well_formed(encoded: &str) -> bool {
    let mut rest = encoded.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        match rest[at..] {
            [_, high, low, ..] if hex(high).is_some() && hex(low).is_some() => rest = &rest[at + 3..],
            _ => return false,
        }
    }
    true
}

/// The decoded bytes of a well-formed text.
fn decode(encoded: &str) -> impl Iterator<Item = u8> {
    let mut bytes = encoded.bytes();
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (bytes.next().and_then(hex)?, bytes.next().and_then(hex)?);
                high << 4 | low
            }
            other => other,
        })
    })
}

fn equals(encoded: &str, plain: &str) -> bool {
    decode(encoded).eq(plain.bytes())
}

fn with_decoded(encoded: &str, accept: &mut impl FnMut(&str) -> bool) -> bool {
    if !encoded.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return accept(encoded);
    }
    let mut stack = [0; STACK];
    let heap: Vec<u8>;
    // Decoding never makes a text longer.
    let decoded = if encoded.len() <= STACK {
        let mut length = 0;
        for (slot, byte) in stack.iter_mut().zip(decode(encoded)) {
            *slot = byte;
            length += 1;
        }
        &stack[..length]
    } else {
        heap = decode(encoded).collect();
        &heap[..]
    };
    let text = std::str::from_utf8(decoded).map_or_else(|_| String::from_utf8_lossy(decoded), Cow::Borrowed);
    accept(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_values() {
        let table = [
            ("a=1", "a", "1", true),
            ("a=1", "a", "", false),
            ("a", "a", "", true),
            ("a=", "a", "", true),
            ("a=1&a=2", "a", "2", true),
            ("b=1;a=2", "a", "2", true),
            ("a=b=c", "a", "b=c", true),
            ("a=x+y", "a", "x y", true),
            ("a=x%20y", "a", "x y", true),
            ("a=x%2By", "a", "x+y", true),
            ("%61=%31", "a", "1", true),
            ("a+b=1", "a b", "1", true),
            ("a%3Db=1", "a=b", "1", true),
            ("A=1", "a", "1", false),
            ("a=%zz", "a", "%zz", false),
            ("a=%zz&a=1", "a", "1", true),
            ("%zz=1&a=1", "a", "1", true),
            ("a=%4", "a", "%4", false),
            ("a=%", "a", "%", false),
            ("", "a", "", false),
            ("&&a=1", "a", "1", true),
            ("a=é", "a", "é", true),
            ("a=%C3%A9", "a", "é", true),
            ("aa=1", "a", "1", false),
            ("a=11", "a", "1", false),
        ];
        for (query, name, value, expected) in table {
            assert_eq!(has_value(query, name, value), expected, "{query} {name} {value}");
        }
    }

    #[test]
    fn gives_decoded_values() {
        let long = "+".repeat(STACK + 1);
        assert!(any_value(&format!("a={long}"), "a", |value| value == " ".repeat(STACK + 1)));
        assert!(any_value(&format!("a={}", &long[..STACK]), "a", |value| value
            == " ".repeat(STACK)));
        assert!(any_value("a=%ff", "a", |value| value == "\u{fffd}"));
        assert!(any_value("a=1&a=%32", "a", |value| value == "2"));
        assert!(!any_value("b=1", "a", |_| true));
    }
}
