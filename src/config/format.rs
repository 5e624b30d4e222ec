//! How values are read that are stricter than their type: URLs, header names, networks, status codes.
//!
//! Each format is a type without values that a field names behind `as`.

mod metric;
mod net;
mod text;
mod word;

pub use metric::{HeaderLabels, JsonPointer, MetricSelector, StageName};
pub use net::{Address, HealthPath, HealthScheme, Ipv6Prefix, Network, Port, ServerUrl};
pub use text::{
    AbsolutePath, CookieAttribute, CookieName, HeaderMap, HeaderName, HeaderValue, Label, Method, MetricPrefix,
    Optional, UserEntry,
};
pub use word::{LogLevelWord, NotYet, RuleSyntax, SameSiteWord};

use std::time::Duration;

use super::decode::Decoder;
use super::node::{Node, shorten, shorten_to};
use super::scalar::bad_duration;
use super::settings::{Format, Setting};
use crate::units::byte_size::parse_bytes;
use crate::units::duration::{format_go, parse_signed};

/// Why a value is refused, and how to mend it.
pub(super) struct Refusal(String, String);

/// A refusal with its help.
pub(super) fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(message.into(), help.into()))
}

/// Declares a format: what is read first, what its values are called, and the check that turns one into the other.
/// A value that the check refuses spoils its object, not its file.
macro_rules! refined {
    ($(#[doc = $doc:literal])+ $name:ident: $base:ty => $ty:ty, $type_name:literal, $check:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub struct $name;

        impl $crate::config::settings::Format<$ty> for $name {
            fn type_name() -> String {
                $type_name.to_owned()
            }
            fn decode(
                node: &$crate::config::node::Node,
                decoder: &mut $crate::config::decode::Decoder<'_>,
            ) -> Option<$ty> {
                let base = <$base as $crate::config::settings::Setting>::decode(node, decoder)?;
                let check: fn($base) -> Result<$ty, $crate::config::format::Refusal> = $check;
                match check(base) {
                    Ok(value) => Some(value),
                    Err($crate::config::format::Refusal(message, help)) => {
                        let message = format!("`{}`: {message}", decoder.name());
                        decoder.invalid(node.span.clone(), message, help);
                        None
                    }
                }
            }
            fn show(value: &$ty) -> Option<String> {
                $crate::config::settings::Setting::show(value)
            }
        }
    };
}
use refined;

refined! {
    /// A priority that leaves the numbers above to Gantry's own routers.
    RouterPriority: i64 => i64, "whole number", |priority| {
        const HIGHEST: i64 = i64::MAX - 1000;
        if priority > HIGHEST {
            return refuse(format!("{priority} is above {HIGHEST}"), "choose a smaller number");
        }
        Ok(priority)
    }
}

refined! {
    /// A number from 0.
    NotNegative: i64 => i64, "whole number from 0", |number| {
        if number < 0 {
            return refuse(format!("{number} is below 0"), "write 0 or more");
        }
        Ok(number)
    }
}

refined! {
    /// A number from 1.
    AtLeastOne: u32 => u32, "whole number from 1", |number| {
        if number == 0 {
            return refuse("0 is too few", "write 1 or more");
        }
        Ok(number)
    }
}

refined! {
    /// A status code that has a name.
    KnownStatus: i64 => u16, "status code", |code| {
        let known = u16::try_from(code).ok().and_then(|code| http::StatusCode::from_u16(code).ok());
        match known.filter(|code| code.canonical_reason().is_some()) {
            Some(code) => Ok(code.as_u16()),
            None => refuse(format!("{code} is no known status code"), "write a code such as 403, 404 or 503"),
        }
    }
}

refined! {
    /// The status that a health check wants; 0 means 200 to 399.
    HealthStatus: i64 => Option<u16>, "status code", |code| match u16::try_from(code) {
        Ok(0) => Ok(None),
        Ok(code @ 100..=599) => Ok(Some(code)),
        _ => refuse(format!("{code} is no status code"), "write a code from 100 to 599, or leave the key out"),
    }
}

refined! {
    /// `200` or `400-499`.
    StatusRange: String => String, "status code or range", |text| {
        let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (100..=599).contains(code));
        let (from, to) = text.split_once('-').unwrap_or((&text, &text));
        match (code(from), code(to)) {
            (Some(from), Some(to)) if from <= to => Ok(text),
            _ => refuse(format!("`{}` is no status code and no range", shorten(&text)), "write 404 or 500-599"),
        }
    }
}

refined! {
    /// Bounds of a histogram's buckets.
    Buckets: Vec<f64> => Vec<f64>, "list of seconds", |bounds| {
        if bounds.len() > 100 {
            return refuse(format!("{} bounds are too many", bounds.len()), "write 100 at most");
        }
        if bounds.windows(2).any(|pair| pair[0] >= pair[1]) {
            return refuse("the bounds do not rise", "sort them, and write each once");
        }
        Ok(bounds)
    }
}

/// Bytes, bare or with a unit (`16KiB`).
#[derive(Debug)]
pub struct ByteSize;

impl Format<u64> for ByteSize {
    fn type_name() -> String {
        "bytes".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<u64> {
        let text = decoder.text(node, "a number of bytes")?;
        let bytes = parse_bytes(text);
        if let Err(why) = &bytes {
            let message = format!("`{}`: {}", decoder.name(), shorten_to(why, 200));
            decoder.error(
                node.span.clone(),
                message,
                "write bytes, such as 1048576, or with a unit, such as 16KiB",
            );
        }
        bytes.ok()
    }
    fn show(value: &u64) -> Option<String> {
        value.show()
    }
}

/// A duration above 0; Traefik takes its default instead of another one, and so does Gantry.
#[derive(Debug)]
pub struct Positive;

impl Format<Duration> for Positive {
    fn type_name() -> String {
        Duration::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Duration> {
        let text = decoder.text(node, "a duration")?;
        match parse_signed(text) {
            Err(why) => bad_duration(node, &why, decoder),
            Ok(duration) if duration.negative || duration.magnitude.is_zero() => {
                let message = format!("`{}` must be above 0; its default holds", decoder.name());
                decoder.warn(node.span.clone(), message, "write a duration such as 10s");
            }
            Ok(duration) => return Some(duration.magnitude),
        }
        None
    }
    fn show(value: &Duration) -> Option<String> {
        value.show()
    }
}

/// A flush period: negative means at once.
#[derive(Debug)]
pub struct FlushInterval;

impl Format<Option<Duration>> for FlushInterval {
    fn type_name() -> String {
        Duration::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Option<Duration>> {
        let text = decoder.text(node, "a duration")?;
        match parse_signed(text) {
            Ok(duration) => Some((!duration.negative).then_some(duration.magnitude)),
            Err(why) => {
                bad_duration(node, &why, decoder);
                None
            }
        }
    }
    fn show(value: &Option<Duration>) -> Option<String> {
        value.map(format_go)
    }
}
