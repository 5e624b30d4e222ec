//! A number in a JSON text, found by its JSON Pointer (RFC 6901), without a tree of the text: memory does not grow with
//! what a model server sends, and the whole text is checked on the way.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON Pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// What stands where a pointer points.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// Something else: an object, a list, true, false or null.
    Other,
    /// Nothing is there.
    Nothing,
}

/// The text is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is no JSON")]
pub struct Malformed;

impl Pointer {
    /// The pointer that `text` writes: empty, or steps that begin with `/` each, with `~1` for `/` and `~0` for `~`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = text.split('/');
        let before = steps.next()?;
        before
            .is_empty()
            .then(|| Self(steps.map(|step| step.replace("~1", "/").replace("~0", "~")).collect()))
    }

    /// What stands there in `text`. Of keys that come twice, the last counts, as with most parsers.
    ///
    /// # Errors
    /// The text is no JSON, or nested deeper than 128 on the pointer's way.
    pub fn find(&self, text: &[u8]) -> Result<Found, Malformed> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let found = Walk(&self.0).deserialize(&mut deserializer).map_err(|_| Malformed)?;
        deserializer.end().map_err(|_| Malformed)?;
        Ok(found)
    }
}

/// The rest of the way to what is looked for.
#[derive(Clone, Copy)]
struct Walk<'p>(&'p [String]);

impl Walk<'_> {
    /// A value that holds no others: what is looked for, or the way ends too early.
    fn leaf<E>(self, found: Found) -> Result<Found, E> {
        Ok(if self.0.is_empty() { found } else { Found::Nothing })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        self.leaf(Found::Other)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        self.leaf(Found::Other)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Found, E> {
        self.leaf(Found::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Found, E> {
        self.leaf(Found::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Found, E> {
        self.leaf(Found::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        self.leaf(Found::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let Some((step, rest)) = self.0.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Other);
        };
        let mut found = Found::Nothing;
        while let Some(same) = map.next_key_seed(Is(step))? {
            if same {
                found = map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let Some((step, rest)) = self.0.split_first() else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Found::Other);
        };
        let wanted = index(step);
        let mut at = 0;
        loop {
            if Some(at) == wanted {
                let Some(found) = list.next_element_seed(Walk(rest))? else {
                    return Ok(Found::Nothing);
                };
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(found);
            }
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(Found::Nothing);
            }
            at += 1;
        }
    }
}

/// Whether a key is this one.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// A step as the index of a list: digits without a zero in front. `-`, behind the last element, never is one.
fn index(step: &str) -> Option<usize> {
    let right = step.bytes().all(|b| b.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
    right.then(|| step.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(pointer: &str, text: &str) -> Result<Found, Malformed> {
        Pointer::parse(pointer).expect("a pointer").find(text.as_bytes())
    }

    #[test]
    fn finds_what_rfc_6901_says() {
        // Section 5 of the RFC, with numbers for values.
        let text =
            r#"{"foo": [7, 8], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}"#;
        for (pointer, number) in [
            ("/foo/0", 7.0),
            ("/foo/1", 8.0),
            ("/", 0.0),
            ("/a~1b", 1.0),
            ("/c%d", 2.0),
            ("/e^f", 3.0),
            ("/g|h", 4.0),
            ("/i\\j", 5.0),
            ("/k\"l", 6.0),
            ("/ ", 7.0),
            ("/m~0n", 8.0),
        ] {
            assert_eq!(find(pointer, text), Ok(Found::Number(number)), "{pointer}");
        }
        for pointer in ["", "/foo"] {
            assert_eq!(find(pointer, text), Ok(Found::Other), "{pointer}");
        }
        for pointer in [
            "/foo/2", "/foo/-", "/foo/00", "/foo/+1", "/foo/x", "/foo/0/x", "/bar", "/m~1n", "/foo/",
        ] {
            assert_eq!(find(pointer, text), Ok(Found::Nothing), "{pointer}");
        }
        assert_eq!(Pointer::parse("foo"), None);
    }

    #[test]
    fn values_of_every_kind() {
        assert_eq!(find("", "0.25"), Ok(Found::Number(0.25)));
        assert_eq!(find("", "-3"), Ok(Found::Number(-3.0)));
        assert_eq!(find("/a", r#"{"a": "0.\u0039"}"#), Ok(Found::Text("0.9".into())));
        for other in ["true", "null", "[[]]", r#"{"x": {"y": []}}"#] {
            assert_eq!(find("", other), Ok(Found::Other), "{other}");
        }
        assert_eq!(find("/a", r#"{"a": 1, "b": {"a": 3}, "a": 2}"#), Ok(Found::Number(2.0)));
        assert_eq!(find("/a", "\u{feff}{\"a\": 1}"), Ok(Found::Number(1.0)));
    }

    #[test]
    fn what_is_no_json_is_told_wherever_it_breaks() {
        for broken in [
            "",
            "{",
            r#"{"a": 1"#,
            r#"{"a": 1} x"#,
            r#"{"b": tru, "a": 1}"#,
            r#"{"a": 1, "b": [1,]}"#,
            "NaN",
        ] {
            assert_eq!(find("/a", broken), Err(Malformed), "{broken}");
        }
        assert_eq!(Pointer(vec!["a".into()]).find(b"{\"a\": \"\xff\"}"), Err(Malformed));
        let deep = "[".repeat(1_000_000);
        assert_eq!(find("/a", &deep), Err(Malformed));
        assert_eq!(find(&"/0".repeat(100_000), &deep), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_parser_that_builds_a_tree(
            text in "[\\[\\]{}:,\"ab01. ]{0,24}",
            pointer in "(/[ab01-]{0,2}){0,3}",
        ) {
            let tree = serde_json::from_str::<serde_json::Value>(&text);
            let found = find(&pointer, &text);
            match tree {
                Err(_) => proptest::prop_assert_eq!(found, Err(Malformed)),
                Ok(tree) => {
                    let expected = match tree.pointer(&pointer) {
                        None => Found::Nothing,
                        Some(serde_json::Value::Number(number)) => Found::Number(number.as_f64().unwrap_or(f64::NAN)),
                        Some(serde_json::Value::String(text)) => Found::Text(text.clone()),
                        Some(_) => Found::Other,
                    };
                    proptest::prop_assert_eq!(found, Ok(expected));
                }
            }
        }
    }
}
