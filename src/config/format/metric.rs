//! What points into answers and metrics: JSON pointers, names of metrics, labels and stages.

use std::collections::BTreeMap;

use super::super::node::shorten;
use super::text::{header_name, is_label_name};
use super::{Refusal, refined, refuse};
use crate::config::decode::Decoder;
use crate::config::node::Node;
use crate::config::settings::{Format, Setting};
use crate::observe::exposition::selector::Selector;

refined! {
    /// A JSON pointer (RFC 6901): empty for the whole document, or reference tokens that begin with a slash each.
    JsonPointer: String => String, "JSON pointer", |text| {
        let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if (text.is_empty() || text.starts_with('/')) && escapes && text.len() <= 500 {
            return Ok(text);
        }
        let help = "begin it with a slash, such as /metrics/dice; `~` is written ~0, and `/` in a key ~1 (RFC 6901)";
        refuse(format!("`{}` is no JSON pointer", shorten(&text)), help)
    }
}

refined! {
    /// A metric, as `name` or `name{label="value", …}`.
    MetricSelector: String => String, "metric", |text| {
        let (name, labels) = text.split_at(text.find('{').unwrap_or(text.len()));
        let closed = labels.is_empty() || labels.ends_with('}');
        let fits = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':'))
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
        };
        let help = "write validation_dice, or validation_dice{split=\"test\"}";
        if fits(name.trim_end()) && closed && text.len() <= 500 {
            return match Selector::parse(&text) {
                Ok(_) => Ok(text),
                Err(error) => refuse(error.to_string(), help),
            };
        }
        refuse(format!("`{}` names no metric", shorten(&text)), help)
    }
}

refined! {
    /// A name of `Server-Timing`: a token (RFC 9110, section 5.6.2).
    StageName: String => String, "name of a stage", |text| {
        if text.len() <= 64 && http::HeaderName::from_bytes(text.as_bytes()).is_ok() {
            return Ok(text);
        }
        refuse(format!("`{}` is no name of a stage", shorten(&text)), "write it as the server does: preprocess")
    }
}

/// Labels of Traefik's series, and what Prometheus keeps for itself.
const TAKEN: [&str; 9] = [
    "code",
    "method",
    "protocol",
    "entrypoint",
    "router",
    "service",
    "variant",
    "le",
    "quantile",
];

/// Most labels from headers: each multiplies the series.
const MAX_HEADER_LABELS: usize = 8;

/// Label names to header names.
#[derive(Debug)]
pub struct HeaderLabels;

impl Format<BTreeMap<String, String>> for HeaderLabels {
    fn type_name() -> String {
        "label names to header names".to_owned()
    }
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<BTreeMap<String, String>> {
        let map = BTreeMap::<String, String>::decode(node, decoder)?;
        for entry in node.entries() {
            let label = entry.key.as_str();
            if !is_label_name(label) || label.starts_with("__") {
                let message = format!("`{}` is no name of a label", shorten(label));
                let help =
                    "use letters, digits and underscores, such as tenant; names that begin with __ are Prometheus' own";
                decoder.error(entry.key_span.clone(), message, help);
            } else if TAKEN.contains(&label) {
                let message = format!("the label `{label}` is taken");
                decoder.error(entry.key_span.clone(), message, "choose another name");
            }
            if let Some(header) = map.get(label)
                && let Err(Refusal(message, help)) = header_name(header)
            {
                decoder.error(
                    entry.value.span.clone(),
                    format!("`{}`: {message}", shorten(label)),
                    help,
                );
            }
        }
        if map.len() > MAX_HEADER_LABELS {
            let message = format!("{} labels from headers are too many", map.len());
            let help = format!("keep {MAX_HEADER_LABELS} at most: each multiplies the series");
            decoder.error(node.span.clone(), message, help);
        }
        Some(map)
    }
    fn show(_: &BTreeMap<String, String>) -> Option<String> {
        None
    }
    const SCALAR: bool = false;
    const TAKES_NOTHING: bool = true;
}
