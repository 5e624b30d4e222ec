//! How the plain types are read: text, switches, numbers, durations, lists, maps.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::Decoder;
use super::node::{Node, Value, shorten_to};
use super::settings::{Format, Keys, Plain, Setting};
use crate::units::duration::{format_go, parse_duration, parse_signed};

impl Setting for String {
    fn type_name() -> String {
        "text".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        decoder.text(node, "a text").map(str::to_owned)
    }
    fn show(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.clone())
    }
}

/// The spellings of Go's `strconv.ParseBool`.
#[must_use]
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

impl Setting for bool {
    fn type_name() -> String {
        "true or false".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "true or false")?;
        let flag = go_bool(text);
        if flag.is_none() {
            decoder.wrong(node, "true or false");
        }
        flag
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A whole number in decimal, or as YAML writes it: `0x1F`, `0o17`, `0b1`, `1_000`.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ => (10, digits),
    };
    if digits.is_empty() || digits.starts_with(['_', '+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -value } else { value })
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Setting for $ty {
            fn type_name() -> String {
                "whole number".to_owned()
            }
            fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
                let text = decoder.text(node, "a whole number")?;
                let Some(number) = integer(text) else {
                    decoder.wrong(node, "a whole number");
                    return None;
                };
                let value = Self::try_from(number).ok();
                if value.is_none() {
                    decoder.wrong(node, &format!("a whole number from {} to {}", Self::MIN, Self::MAX));
                }
                value
            }
            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, usize, i64);

impl Setting for f64 {
    fn type_name() -> String {
        "number".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "a number")?;
        let value = text.parse().ok().filter(|number: &Self| number.is_finite());
        if value.is_none() {
            decoder.wrong(node, "a number");
        }
        value
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for Duration {
    fn type_name() -> String {
        "duration".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.text(node, "a duration")?;
        match parse_duration(text) {
            Ok(duration) => Some(duration),
            // As at Traefik: what is a duration, but one that cannot be, spoils its object only.
            Err(why) if parse_signed(text).is_ok() => {
                let message = format!("`{}`: {}", decoder.name(), shorten_to(&why, 200));
                decoder.invalid(node.span.clone(), message, "write 0 or more, such as 500ms or 10s");
                None
            }
            Err(why) => {
                bad_duration(node, &why, decoder);
                None
            }
        }
    }
    fn show(&self) -> Option<String> {
        Some(format_go(*self))
    }
}

/// Refuses a duration.
pub(super) fn bad_duration(node: &Node, why: &str, decoder: &mut Decoder<'_>) {
    let message = format!("`{}`: {}", decoder.name(), shorten_to(why, 200));
    decoder.error(
        node.span.clone(),
        message,
        "write a number with a unit, such as 500ms, 10s, 1m30s or 2h",
    );
}

/// An optional value, read by another format.
#[derive(Debug)]
pub struct Opt<F>(F);

impl<T: Default, F: Format<T>> Format<Option<T>> for Opt<F> {
    fn type_name() -> String {
        F::type_name()
    }
    /// A section that may be empty is also switched by `true` and `false`, as Traefik does it.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Option<T>> {
        if F::keys().is_some_and(|keys| keys.may_be_empty)
            && let Value::Scalar(text, _) = &node.value
            && let Some(present) = go_bool(text)
        {
            return Some(present.then(T::default));
        }
        F::decode(node, decoder).map(Some)
    }
    fn show(value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(F::show)
    }
    fn keys() -> Option<&'static Keys> {
        F::keys()
    }
    fn words() -> &'static [&'static str] {
        F::words()
    }
    const SCALAR: bool = F::SCALAR;
    const TAKES_NOTHING: bool = F::TAKES_NOTHING;
}

impl<T: Setting + Default> Setting for Option<T> {
    fn type_name() -> String {
        T::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        <Opt<Plain> as Format<Self>>::decode(node, decoder)
    }
    fn show(&self) -> Option<String> {
        <Opt<Plain> as Format<Self>>::show(self)
    }
    fn keys() -> Option<&'static Keys> {
        T::keys()
    }
    fn words() -> &'static [&'static str] {
        T::words()
    }
    const SCALAR: bool = T::SCALAR;
    const TAKES_NOTHING: bool = T::TAKES_NOTHING;
}

impl<T: Setting> Setting for Box<T> {
    fn type_name() -> String {
        T::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        T::decode(node, decoder).map(Self::new)
    }
    fn show(&self) -> Option<String> {
        T::show(self)
    }
    fn keys() -> Option<&'static Keys> {
        T::keys()
    }
    const SCALAR: bool = T::SCALAR;
    const TAKES_NOTHING: bool = T::TAKES_NOTHING;
}

/// A list whose items are read by another format.
#[derive(Debug)]
pub struct List<F>(F);

impl<T, F: Format<T>> Format<Vec<T>> for List<F> {
    fn type_name() -> String {
        format!("list of {}", F::type_name())
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Vec<T>> {
        let mut all = true;
        let mut read = |index: usize, item: &Node, decoder: &mut Decoder<'_>| {
            let value = decoder.item(index, item, |decoder| F::decode(item, decoder));
            all &= value.is_some();
            value
        };
        let values = match &node.value {
            Value::Sequence(items) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| read(index, item, decoder))
                .collect(),
            Value::Scalar(text, plain) if F::SCALAR => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                let part = |word: &str| Node::new(node.span.clone(), Value::Scalar(word.to_owned(), *plain));
                words
                    .enumerate()
                    .filter_map(|(index, word)| read(index, &part(word), decoder))
                    .collect()
            }
            _ => {
                decoder.wrong(
                    node,
                    if F::SCALAR {
                        "a list"
                    } else {
                        "a list: begin each item with `- `"
                    },
                );
                return None;
            }
        };
        all.then_some(values)
    }
    fn show(value: &Vec<T>) -> Option<String> {
        let items: Vec<String> = value.iter().filter_map(F::show).collect();
        (!items.is_empty()).then(|| items.join(", "))
    }
    fn keys() -> Option<&'static Keys> {
        F::keys()
    }
    fn words() -> &'static [&'static str] {
        F::words()
    }
    const SCALAR: bool = false;
}

impl<T: Setting> Setting for Vec<T> {
    fn type_name() -> String {
        <List<Plain> as Format<Self>>::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        <List<Plain> as Format<Self>>::decode(node, decoder)
    }
    fn show(&self) -> Option<String> {
        <List<Plain> as Format<Self>>::show(self)
    }
    fn keys() -> Option<&'static Keys> {
        T::keys()
    }
    fn words() -> &'static [&'static str] {
        T::words()
    }
    const SCALAR: bool = false;
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn type_name() -> String {
        if T::keys().is_some() {
            "named sections".to_owned()
        } else {
            format!("names to {}", T::type_name())
        }
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let entries = match &node.value {
            Value::Null => &[],
            Value::Mapping(entries) => entries.as_slice(),
            _ => {
                decoder.wrong(node, "names with a value each (`name: …`)");
                return None;
            }
        };
        let mut map = Self::new();
        for entry in entries {
            if entry.key.trim().is_empty() {
                decoder.error(entry.key_span.clone(), "a name is empty", "give it a name");
            } else if decoder.says_something(entry)
                && let Some(value) = decoder.named(entry, |decoder| T::decode(&entry.value, decoder))
            {
                map.insert(entry.key.clone(), value);
            }
        }
        Some(map)
    }
    fn show(&self) -> Option<String> {
        None
    }
    fn keys() -> Option<&'static Keys> {
        T::keys()
    }
    fn words() -> &'static [&'static str] {
        T::words()
    }
    const SCALAR: bool = false;
    const TAKES_NOTHING: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_as_yaml_writes_them() {
        for (text, want) in [
            ("0", Some(0)),
            ("-12", Some(-12)),
            ("+3", Some(3)),
            ("0x1F", Some(31)),
            ("0o17", Some(15)),
            ("0b101", Some(5)),
            ("1_000", Some(1000)),
            ("", None),
            ("-", None),
            ("1.0", None),
            ("_1", None),
            ("--1", None),
            ("12a", None),
            ("99999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(integer(text), want, "{text}");
        }
    }

    #[test]
    fn switches_as_go_spells_them() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(go_bool(text), Some(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(go_bool(text), Some(false), "{text}");
        }
        for text in ["yes", "on", "tRue", ""] {
            assert_eq!(go_bool(text), None, "{text}");
        }
    }
}
