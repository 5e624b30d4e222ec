//! Header names, cookies, labels and other texts that must not hold just anything.

use std::collections::BTreeMap;

use super::super::node::shorten;
use super::{Refusal, refined, refuse};
use crate::config::decode::Decoder;
use crate::config::node::{Node, Value};
use crate::config::settings::{Format, Setting};

refined! {
    /// A header's name.
    HeaderName: String => String, "header name", |text| header_name(&text).map(|()| text)
}

pub(super) fn header_name(text: &str) -> Result<(), Refusal> {
    if http::HeaderName::from_bytes(text.as_bytes()).is_ok() {
        return Ok(());
    }
    refuse(
        format!("`{}` is no header name", shorten(text)),
        "a header's name has letters, digits and dashes only, such as X-Request-Id",
    )
}

refined! {
    /// A header's value.
    HeaderValue: String => String, "header value", |text| header_value(&text)
}

/// The value as it can be sent: line breaks become blanks, blanks at both ends go, as Go's `net/http` does it. YAML's
/// blocks (`>`, `|`) end in a line break.
fn header_value(text: &str) -> Result<String, Refusal> {
    let value = text.replace(['\r', '\n'], " ").trim_matches([' ', '\t']).to_owned();
    if http::HeaderValue::from_bytes(value.as_bytes()).is_ok() {
        return Ok(value);
    }
    refuse("the value holds a control character", "take it out")
}

refined! {
    /// The name of a cookie.
    CookieName: String => String, "cookie name", |text| {
        // A cookie's name is a token, as a header's name is (RFC 6265, section 4.1.1).
        if text.is_empty() || http::HeaderName::from_bytes(text.as_bytes()).is_ok() {
            return Ok(text);
        }
        refuse(format!("`{}` is no cookie name", shorten(&text)), "use letters, digits, dashes and underscores")
    }
}

refined! {
    /// An attribute of a cookie.
    CookieAttribute: String => String, "text", |text| {
        if text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';') {
            return Ok(text);
        }
        refuse("a cookie's attribute holds neither `;` nor control characters", "take them out")
    }
}

refined! {
    /// A value of a metric's label.
    Label: String => String, "text", |text| {
        const LONGEST: usize = 200;
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return refuse("the label is too long or holds control characters", "write a short name in one line");
        }
        Ok(text)
    }
}

refined! {
    /// A request method.
    Method: String => String, "method", |text| match http::Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text),
        Err(_) => refuse(format!("`{}` is no method", shorten(&text)), "write GET, HEAD or the like"),
    }
}

refined! {
    /// A path that begins with a slash.
    AbsolutePath: String => String, "path", |text| {
        if text.starts_with('/') && !text.chars().any(|c| c.is_control() || c == ' ') {
            return Ok(text);
        }
        refuse(format!("`{}` is no path", shorten(&text)), "begin it with a slash, such as /metrics")
    }
}

refined! {
    /// The first part of the metrics' names.
    MetricPrefix: String => String, "name", |text| {
        if is_label_name(&text) {
            return Ok(text);
        }
        refuse(
            format!("`{}` cannot begin the name of a metric", shorten(&text)),
            "use letters, digits and underscores: gantry or traefik",
        )
    }
}

/// Whether Prometheus takes a text as a label's name, or as the beginning of a metric's.
pub(super) fn is_label_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A text that may be empty, otherwise read by another format.
#[derive(Debug)]
pub struct Optional<F>(F);

impl<F: Format<String>> Format<String> for Optional<F> {
    fn type_name() -> String {
        F::type_name()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<String> {
        match &node.value {
            Value::Scalar(text, _) if text.is_empty() => Some(String::new()),
            _ => F::decode(node, decoder),
        }
    }
    fn show(value: &String) -> Option<String> {
        value.show()
    }
}

/// `name:hash`, which no log may show.
#[derive(Debug)]
pub struct UserEntry;

impl Format<String> for UserEntry {
    fn type_name() -> String {
        "name:hash".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<String> {
        let text = String::decode(node, decoder)?;
        if text
            .split_once(':')
            .is_some_and(|(name, hash)| !name.is_empty() && !hash.is_empty())
        {
            return Some(text);
        }
        let message = format!("`{}` is no user: it is not written as name:hash", decoder.name());
        decoder.invalid_secret(node.span.clone(), message, "`gantry hash-password` makes such an entry");
        None
    }
    fn show(_: &String) -> Option<String> {
        None
    }
}

/// Header names to values.
#[derive(Debug)]
pub struct HeaderMap;

impl Format<BTreeMap<String, String>> for HeaderMap {
    fn type_name() -> String {
        "header names to values".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<BTreeMap<String, String>> {
        let mut map = BTreeMap::<String, String>::decode(node, decoder)?;
        let mut seen = std::collections::BTreeSet::new();
        for entry in node.entries() {
            if let Err(Refusal(message, help)) = header_name(&entry.key) {
                decoder.invalid(entry.key_span.clone(), message, help);
            } else if !seen.insert(entry.key.to_ascii_lowercase()) {
                let message = format!("the header `{}` stands here twice", shorten(&entry.key));
                decoder.invalid(
                    entry.key_span.clone(),
                    message,
                    "keep one of the two: case makes no difference",
                );
            }
            let Some(value) = map.get_mut(&entry.key) else { continue };
            match header_value(value) {
                Ok(sent) => *value = sent,
                Err(Refusal(message, help)) => {
                    let message = format!("`{}`: {message}", shorten(&entry.key));
                    decoder.invalid(entry.value.span.clone(), message, help);
                }
            }
        }
        Some(map)
    }
    fn show(_: &BTreeMap<String, String>) -> Option<String> {
        None
    }
    const SCALAR: bool = false;
    const TAKES_NOTHING: bool = true;
}
