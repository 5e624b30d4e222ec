//! Words and switches that Traefik takes in its own way, and those that Gantry must not take silently.

use super::super::node::shorten;
use crate::config::decode::Decoder;
use crate::config::log::LogLevel;
use crate::config::node::Node;
use crate::config::service::SameSite;
use crate::config::settings::{Format, Setting};

/// The language of rules.
#[derive(Debug)]
pub struct RuleSyntax;

impl Format<String> for RuleSyntax {
    fn type_name() -> String {
        "word".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<String> {
        let text = String::decode(node, decoder)?;
        match text.as_str() {
            "v3" | "" => return Some("v3".to_owned()),
            "v2" => decoder.unsupported(
                node.span.clone(),
                "v2",
                "write the rule in the v3 language and take the key out: one argument a matcher \
                 (Host(`a`) || Host(`b`)), regular expressions in HostRegexp, PathRegexp, HeaderRegexp and QueryRegexp, \
                 Header and Query with key and value apart",
            ),
            _ => {
                // As at Traefik: whatever is not `v2` means v3.
                let message = format!("`{}: {}` means v3", decoder.name(), shorten(&text));
                decoder.warn(node.span.clone(), message, "write v3, or leave the key out");
                return Some("v3".to_owned());
            }
        }
        None
    }
    fn show(value: &String) -> Option<String> {
        value.show()
    }
    fn words() -> &'static [&'static str] {
        &["v3"]
    }
}

/// The SameSite attribute: what Traefik does not know it leaves out.
#[derive(Debug)]
pub struct SameSiteWord;

impl Format<Option<SameSite>> for SameSiteWord {
    fn type_name() -> String {
        "word".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Option<SameSite>> {
        let text = decoder.text(node, "one of: none, lax, strict")?;
        let word = SameSite::from_word(&text.to_ascii_lowercase());
        if word.is_none() && !text.is_empty() {
            let message = format!("`sameSite` cannot be `{}`; the attribute is left out", shorten(text));
            decoder.warn(node.span.clone(), message, "write none, lax or strict");
        }
        Some(word)
    }
    fn show(value: &Option<SameSite>) -> Option<String> {
        value.as_ref().and_then(Setting::show)
    }
    fn words() -> &'static [&'static str] {
        SameSite::words()
    }
}

/// A log level in any case: with one that it does not know Traefik starts all the same.
#[derive(Debug)]
pub struct LogLevelWord;

impl Format<LogLevel> for LogLevelWord {
    fn type_name() -> String {
        "word".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<LogLevel> {
        let expected = format!("one of: {}", LogLevel::words().join(", "));
        let text = decoder.text(node, &expected)?;
        let level = LogLevel::from_word(&text.to_ascii_uppercase());
        if level.is_none() {
            let message = format!("`level` cannot be `{}`; `ERROR` holds", shorten(text));
            decoder.warn(node.span.clone(), message, expected);
        }
        level
    }
    fn show(value: &LogLevel) -> Option<String> {
        value.show()
    }
    fn words() -> &'static [&'static str] {
        LogLevel::words()
    }
}

/// A switch that cannot be switched on yet.
#[derive(Debug)]
pub struct NotYet;

impl Format<bool> for NotYet {
    fn type_name() -> String {
        "false".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<bool> {
        let on = bool::decode(node, decoder)?;
        if on {
            let what = format!("{}: true", decoder.path());
            decoder.unsupported(node.span.clone(), &what, "write false, or take the key out");
            return None;
        }
        Some(on)
    }
    fn show(value: &bool) -> Option<String> {
        value.show()
    }
}
