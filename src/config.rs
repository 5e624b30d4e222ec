//! What the user wrote: the structs of this module are the configuration's documentation and its schema.
//!
//! A text becomes a tree with places ([`yaml`]), the tree becomes structs ([`decode`], declared by `settings!`), the
//! structs of several files become one ([`merge()`]). What the values mean together (does this service exist?) is
//! `compile`'s matter.
//!
//! Invariants: only [`Resources::load`] does IO; only `config/yaml.rs` knows the YAML crate; no text, however broken,
//! makes anything here panic, hang or use memory out of proportion; decoding finds all errors of a file.

#[macro_use]
pub mod settings;

pub mod decode;
pub mod dynamic;
pub mod entry_point;
pub mod format;
pub mod log;
pub mod merge;
pub mod metrics;
pub mod middleware;
pub mod model;
pub mod node;
pub mod resources;
pub mod router;
pub mod scalar;
pub mod service;
pub mod spans;
pub mod static_config;
pub mod tls;
pub mod transport;
pub mod yaml;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use merge::{Merged, merge};
pub use resources::{Resources, folders, references, static_references};
pub use spans::SpanMap;

use crate::diag::{Diagnostic, Location, Source, did_you_mean};
use decode::Decoder;
use dynamic::Dynamic;
use node::{Node, Value};
use settings::{Keys, Setting};
use static_config::Static;

/// A decoded file.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// What it says. Objects with an error of their own are left out; see [`Self::is_usable`].
    pub value: T,
    /// Where its values stand.
    pub spans: SpanMap,
    /// The text.
    pub source: Arc<Source>,
    /// All that is wrong with it, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// Paths of the objects that were left out (`http.middlewares.m`).
    pub broken: BTreeSet<String>,
}

impl<T> Decoded<T> {
    /// Whether the file as a whole can be used: no error, but such that spoil one object only.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self
            .diagnostics
            .iter()
            .any(|diagnostic| diagnostic.is_error() && diagnostic.object.is_none())
    }

    /// Whether there is any error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Where a path stands.
    #[must_use]
    pub fn locate(&self, path: &str) -> Location {
        self.spans.locate(path)
    }

    /// Adds its place to a diagnostic that has none.
    #[must_use]
    pub fn attach(&self, diagnostic: Diagnostic) -> Diagnostic {
        self.spans.attach(diagnostic)
    }
}

/// Decodes a dynamic file. An empty text is a valid empty configuration.
#[must_use]
pub fn decode_dynamic(name: &str, text: &str) -> Decoded<Dynamic> {
    decode(name, text, ("static file (`gantry.yaml`)", Static::keys()), true)
}

/// Decodes a static file.
#[must_use]
pub fn decode_static(name: &str, text: &str) -> Decoded<Static> {
    decode(name, text, ("dynamic file (`providers.file`)", Dynamic::keys()), false)
}

fn decode<T: Setting + Default>(
    name: &str,
    text: &str,
    other: (&'static str, Option<&'static Keys>),
    is_dynamic: bool,
) -> Decoded<T> {
    let source = Source::new(name, text);
    let spans = SpanMap::new(Arc::clone(&source));
    let tree = match yaml::parse(&source) {
        Ok(tree) => tree,
        Err(diagnostics) => {
            return Decoded {
                value: T::default(),
                spans,
                source,
                diagnostics,
                broken: BTreeSet::new(),
            };
        }
    };
    let mut decoder = Decoder::new(&source, other, is_dynamic);
    let mut value = T::default();
    if let Some(tree) = tree {
        if is_dynamic && source.text.contains("{{") {
            refuse_templates(&tree, &mut decoder);
        }
        value = T::decode(&tree, &mut decoder).unwrap_or_default();
    }
    let (diagnostics, broken) = decoder.finish();
    Decoded {
        value,
        spans,
        source,
        diagnostics,
        broken,
    }
}

/// Traefik runs dynamic files through Go's templates; to take one as it is would be to take `{{ env "PASSWORD" }}` for
/// a password.
fn refuse_templates(node: &Node, decoder: &mut Decoder<'_>) {
    match &node.value {
        Value::Scalar(text, _) if text.contains("{{") => {
            decoder.unsupported(node.span.clone(), "{{ … }}", yaml::TEMPLATE);
        }
        Value::Null | Value::Scalar(..) => {}
        Value::Sequence(items) => items.iter().for_each(|item| refuse_templates(item, decoder)),
        Value::Mapping(entries) => entries.iter().for_each(|entry| {
            if entry.key.contains("{{") {
                decoder.unsupported(entry.key_span.clone(), "{{ … }}", yaml::TEMPLATE);
            }
            refuse_templates(&entry.value, decoder);
        }),
    }
}

/// What kind of file a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entry points, providers, logs.
    Static,
    /// Routers, services, middlewares, certificates.
    Dynamic,
    /// Neither can be told.
    Unknown,
}

/// Tells the kind of a file by its top-level keys; those of a broken file are found by their place at the margin.
#[must_use]
pub fn recognise(text: &str) -> Kind {
    let source = Source::new("", text);
    let keys: Vec<String> = match yaml::parse(&source) {
        Ok(Some(tree)) => tree.entries().iter().map(|entry| entry.key.clone()).collect(),
        Ok(None) => Vec::new(),
        Err(_) => {
            let margin = |line: &&str| line.starts_with(|c: char| c.is_ascii_alphabetic());
            let lines = source
                .text
                .lines()
                .filter(margin)
                .filter_map(|line| line.split_once(':'));
            lines.map(|(key, _)| key.trim().to_owned()).collect()
        }
    };
    let (statics, dynamics) = (names(Static::keys()), names(Dynamic::keys()));
    let count = |names: &[&'static str]| {
        keys.iter()
            .filter(|key| names.iter().any(|name| name.eq_ignore_ascii_case(key)))
            .count()
    };
    match (count(&statics), count(&dynamics)) {
        (0, 0) => {
            let all = || statics.iter().chain(&dynamics).copied();
            match keys.iter().find_map(|key| did_you_mean(key, all())) {
                Some(near) if dynamics.contains(&near) => Kind::Dynamic,
                Some(_) => Kind::Static,
                None => Kind::Unknown,
            }
        }
        (statics, dynamics) if dynamics >= statics => Kind::Dynamic,
        _ => Kind::Static,
    }
}

/// Whether a text is a mapping with at least one key. Keys that begin with `x-` do not count.
#[must_use]
pub fn has_keys(text: &str) -> bool {
    let tree = yaml::parse(&Source::new("", text)).ok().flatten();
    tree.is_some_and(|tree| {
        let own = |key: &str| key.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"));
        tree.entries().iter().any(|entry| !own(&entry.key))
    })
}

fn names(keys: Option<&'static Keys>) -> Vec<&'static str> {
    let Some(keys) = keys else { return Vec::new() };
    keys.fields
        .iter()
        .map(|field| field.key)
        .chain(keys.unsupported.iter().map(|(key, _)| *key))
        .collect()
}

#[cfg(test)]
mod tests;
