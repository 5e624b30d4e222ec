//! From a [`Node`] tree to the structs, by the rules of Traefik's decoder: keys match without case, scalars may be
//! quoted, lists may be written with commas.
//!
//! Invariants: decoding goes on after an error, so that one run finds them all; a key is decoded, refused or warned
//! about, never passed over; an error spoils either the file or one object of it, and says so.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::node::{Entry, Node, Value, shorten};
use super::settings::{Format, Keys};
use crate::diag::{Diagnostic, Location, Severity, Source, did_you_mean};

/// Diagnostics kept of one file; what comes after is counted only.
const MOST_DIAGNOSTICS: usize = 500;

/// Maps whose entries Traefik judges one by one: an entry with a bad value is dropped alone.
const OBJECTS: [&str; 5] = [
    "http.routers",
    "http.services",
    "http.middlewares",
    "http.serversTransports",
    "tls.options",
];

/// The state of decoding one file.
#[derive(Debug)]
pub struct Decoder<'a> {
    source: &'a Arc<Source>,
    path: String,
    /// The place of the key, or of the list item, that is being read.
    here: Range<usize>,
    /// The object that is being read.
    object: Option<String>,
    broken: BTreeSet<String>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    left_out: usize,
    /// Whether a key without a value counts as absent, whatever it is the key of: dynamic files.
    nothing_is_absent: bool,
    /// Keys of the other kind of file, for a hint at the top level.
    other: (&'static str, Option<&'static Keys>),
}

/// The keys of a section that were found.
#[derive(Debug)]
pub struct Found<'n> {
    /// Canonical key and entry, in the order of the file.
    pub entries: Vec<(&'static str, &'n Entry)>,
    /// Whether all keys of the section are known.
    pub complete: bool,
}

impl<'a> Decoder<'a> {
    /// A decoder for one text; `other` names the other kind of file and its keys; `nothing_is_absent` is Traefik's rule
    /// for dynamic files, where `tls:` says nothing and `tls: {}` does.
    #[must_use]
    pub fn new(source: &'a Arc<Source>, other: (&'static str, Option<&'static Keys>), nothing_is_absent: bool) -> Self {
        Self {
            source,
            path: String::new(),
            here: 0..0,
            object: None,
            broken: BTreeSet::new(),
            diagnostics: Vec::new(),
            errors: 0,
            left_out: 0,
            nothing_is_absent,
            other,
        }
    }

    /// What was found, and the paths of the objects that were dropped.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Diagnostic>, BTreeSet<String>) {
        if self.left_out > 0 {
            let message = format!("{} more errors and warnings are not shown", self.left_out);
            self.diagnostics
                .push(Diagnostic::error("", message).help("mend the first ones and run again"));
        }
        let place = |diagnostic: &Diagnostic| diagnostic.location.as_ref().map_or(usize::MAX, |at| at.span.start);
        self.diagnostics.sort_by_key(place);
        (self.diagnostics, self.broken)
    }

    /// The place of the key or list item that is being read.
    #[must_use]
    pub fn here(&self) -> Range<usize> {
        self.here.clone()
    }

    /// The last key of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit_once('.').map_or(self.path.as_str(), |(_, last)| last)
    }

    /// The whole path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.is_error());
        if self.diagnostics.len() < MOST_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        } else {
            self.left_out += 1;
        }
    }

    fn diagnostic(&self, severity: Severity, span: Range<usize>, message: String, help: Option<String>) -> Diagnostic {
        Diagnostic {
            severity,
            message,
            path: self.path.clone(),
            help,
            location: Some(Location {
                source: Arc::clone(self.source),
                span,
            }),
            object: None,
            secret: false,
        }
    }

    /// An error that spoils the file.
    pub fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let diagnostic = self.diagnostic(Severity::Error, span, message.into(), Some(help.into()));
        self.report(diagnostic);
    }

    /// An error that spoils the object that is being read; outside of objects, the file.
    pub fn invalid(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let mut diagnostic = self.diagnostic(Severity::Error, span, message.into(), Some(help.into()));
        diagnostic.object = self.object.as_deref().map(Box::from);
        if let Some(object) = &self.object {
            self.broken.insert(object.clone());
        }
        self.report(diagnostic);
    }

    /// A warning.
    pub fn warn(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let diagnostic = self.diagnostic(Severity::Warning, span, message.into(), Some(help.into()));
        self.report(diagnostic);
    }

    /// A value of the wrong type.
    pub fn wrong(&mut self, node: &Node, expected: &str) {
        let what = match self.name() {
            "" => "the file".to_owned(),
            name => format!("`{name}`"),
        };
        let message = format!("{what} must be {expected}, not {}", node.describe());
        let diagnostic = self.diagnostic(Severity::Error, node.span.clone(), message, Some(mend(node, expected)));
        self.report(diagnostic);
    }

    /// An error of a value that no log may show: the message names the place, the line is not printed.
    pub fn invalid_secret(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.invalid(span, message, help);
        if let Some(last) = self.diagnostics.last_mut().filter(|_| self.left_out == 0) {
            last.secret = true;
        }
    }

    /// Something that Traefik knows and Gantry does not build yet: never ignored.
    pub fn unsupported(&mut self, span: Range<usize>, what: &str, instead: &str) {
        self.error(
            span,
            format!("`{}` is known, not supported yet", shorten(what)),
            instead,
        );
    }

    /// The text of a scalar; anything else is an error.
    pub fn text<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(text, _) => Some(text),
            _ => {
                self.wrong(node, expected);
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T>(
        &mut self,
        node: &Node,
        read: impl Fn(&str) -> Option<T>,
        words: &[&'static str],
        unsupported: &[(&str, &str)],
    ) -> Option<T> {
        let expected = format!("one of: {}", words.join(", "));
        let text = self.text(node, &expected)?;
        if let Some(value) = read(text) {
            return Some(value);
        }
        if let Some((word, instead)) = unsupported.iter().find(|(word, _)| *word == text) {
            self.unsupported(node.span.clone(), &format!("{}: {word}", self.name()), instead);
            return None;
        }
        let known = words.iter().copied().chain(unsupported.iter().map(|(word, _)| *word));
        let help = did_you_mean(text, known).map_or(expected, |word| format!("did you mean `{word}`?"));
        self.invalid(
            node.span.clone(),
            format!("`{}` cannot be `{}`", self.name(), shorten(text)),
            help,
        );
        None
    }

    /// Reads one key of a section into its field. False when its value has an error of its own.
    pub fn key<T, F: Format<T>>(&mut self, key: &'static str, entry: &Entry, field: &mut T) -> bool {
        self.inside(key, entry, |decoder| {
            if entry.value.is_null() && !F::TAKES_NOTHING {
                let message = format!("`{key}` has no value; its default holds");
                decoder.warn(entry.key_span.clone(), message, "give it a value, or take the key out");
                return true;
            }
            let errors = decoder.errors;
            match F::decode(&entry.value, decoder) {
                Some(value) => *field = value,
                None => return decoder.errors == errors,
            }
            true
        })
    }

    /// Whether an entry says anything: in a dynamic file one without a value counts as absent, with a warning.
    pub fn says_something(&mut self, entry: &Entry) -> bool {
        if !self.nothing_is_absent || !entry.value.is_null() {
            return true;
        }
        self.inside(&entry.key, entry, |decoder| {
            let message = format!("`{}` has no value and counts as absent", shorten(&entry.key));
            let help = "give it a value (`{}` if there is nothing to set in it), or take it out";
            decoder.warn(entry.key_span.clone(), message, help);
        });
        false
    }

    fn inside<R>(&mut self, key: &str, entry: &Entry, read: impl FnOnce(&mut Self) -> R) -> R {
        let (length, here) = (
            self.path.len(),
            std::mem::replace(&mut self.here, entry.key_span.clone()),
        );
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let result = read(self);
        self.path.truncate(length);
        self.here = here;
        result
    }

    /// Reads one item of a list.
    pub fn item<R>(&mut self, index: usize, node: &Node, read: impl FnOnce(&mut Self) -> R) -> R {
        let place = node
            .entries()
            .first()
            .map_or_else(|| node.span.clone(), |entry| entry.key_span.clone());
        let (length, here) = (self.path.len(), std::mem::replace(&mut self.here, place));
        self.path.push_str(&format!("[{index}]"));
        let result = read(self);
        self.path.truncate(length);
        self.here = here;
        result
    }

    /// Reads one entry of a map of named things; `None` as well when the entry is an object that has an error.
    pub fn named<T>(&mut self, entry: &Entry, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let is_object = self.object.is_none() && OBJECTS.contains(&self.path.as_str());
        self.inside(&entry.key, entry, |decoder| {
            if is_object {
                decoder.object = Some(decoder.path.clone());
            }
            let mut value = read(decoder);
            if is_object
                && decoder
                    .object
                    .take()
                    .is_some_and(|object| decoder.broken.contains(&object))
            {
                value = None;
            }
            value
        })
    }

    /// The keys of a section. Refuses what is no section, unknown and unsupported keys, and keys given twice.
    pub fn section<'n>(&mut self, node: &'n Node, keys: &'static Keys) -> Option<Found<'n>> {
        let entries = match &node.value {
            Value::Null => &[],
            Value::Mapping(entries) => entries.as_slice(),
            _ => {
                let known = list(keys);
                self.wrong(node, &format!("a section with keys ({known})"));
                return None;
            }
        };
        let entries: Vec<&Entry> = entries.iter().filter(|entry| self.says_something(entry)).collect();
        if entries.is_empty() && !keys.may_be_empty {
            self.error(
                self.here(),
                format!("`{}` cannot be a standalone element: it has no keys", self.name()),
                format!("give it a key ({}), or take it out", list(keys)),
            );
            return None;
        }
        let mut found = Found {
            entries: Vec::with_capacity(entries.len()),
            complete: true,
        };
        for entry in entries {
            match self.known(entry, keys) {
                Some(key) if found.entries.iter().any(|(seen, _)| *seen == key) => {
                    // The same spelling twice is refused by the YAML reader. Two spellings are Traefik's case: both
                    // are read, and the later one wins where they disagree.
                    let message = format!("`{}` stands here again: keys match in any letter case", entry.key);
                    self.warn(
                        entry.key_span.clone(),
                        message,
                        "keep one of the two: the later one wins",
                    );
                    found.entries.push((key, entry));
                }
                Some(key) => found.entries.push((key, entry)),
                None => found.complete &= self.left_alone(entry, keys),
            }
        }
        Some(found)
    }

    fn known(&self, entry: &Entry, keys: &'static Keys) -> Option<&'static str> {
        keys.fields
            .iter()
            .map(|field| field.key)
            .find(|key| key.eq_ignore_ascii_case(&entry.key))
    }

    /// A key that is no field: warned about or refused. True when the section is whole without it.
    fn left_alone(&mut self, entry: &Entry, keys: &'static Keys) -> bool {
        let find = |list: &'static [(&'static str, &'static str)]| {
            list.iter().find(|(key, _)| key.eq_ignore_ascii_case(&entry.key))
        };
        let top = self.path.is_empty();
        if top && entry.key.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-")) {
            return true;
        }
        let span = entry.key_span.clone();
        self.inside(&entry.key, entry, |decoder| {
            if let Some((key, why)) = find(keys.inert) {
                decoder.warn(span, format!("`{key}` has no effect"), *why);
                return true;
            }
            if let Some((key, instead)) = find(keys.unsupported) {
                decoder.unsupported(span, key, instead);
                return false;
            }
            let help = decoder.unknown_help(&entry.key, keys, top);
            let message = if entry.key.is_empty() {
                "a key is empty".to_owned()
            } else {
                format!("unknown key `{}`", shorten(&entry.key))
            };
            decoder.error(span, message, help);
            false
        })
    }

    fn unknown_help(&self, key: &str, keys: &'static Keys, top: bool) -> String {
        let same = |field: &&super::settings::Field| field.key.eq_ignore_ascii_case(key);
        if top && let (file, Some(other)) = self.other {
            let unsupported = other.unsupported.iter().any(|(name, _)| name.eq_ignore_ascii_case(key));
            if unsupported || other.fields.iter().any(|field| same(&field)) {
                return format!("`{key}` belongs into the {file}");
            }
        }
        let names = keys.fields.iter().map(|field| field.key);
        let names = names.chain(keys.unsupported.iter().chain(keys.inert).map(|(name, _)| *name));
        if let Some(near) = did_you_mean(key, names) {
            return format!("did you mean `{near}`?");
        }
        let holds = |field: &&super::settings::Field| {
            (field.keys)().is_some_and(|inner| inner.fields.iter().any(|inner| same(&inner)))
        };
        if let Some(parent) = keys.fields.iter().find(holds) {
            return format!("`{key}` belongs into `{}`", parent.key);
        }
        if top {
            return format!("known here: {}; keys of your own begin with `x-`", list(keys));
        }
        format!("known here: {}", list(keys))
    }
}

/// How to turn what was found into what was expected.
fn mend(node: &Node, expected: &str) -> String {
    let text = match &node.value {
        Value::Null => "give it a value, or take the key out",
        Value::Scalar(..) if expected.starts_with("a list") => {
            "write one item a line below the key, each with `- ` before it"
        }
        Value::Scalar(..) if expected.contains("keys") => "write its keys below it, one a line, indented",
        Value::Scalar(..) if expected.contains("names") => "write `name: value` below it, one a line, indented",
        Value::Scalar(..) if expected.contains("number") => "write digits, such as 10",
        Value::Sequence(_) if expected.contains("keys") || expected.contains("names") => {
            "take the `- ` or the brackets away: these are keys, not list items"
        }
        Value::Sequence(_) => "write one value, without `- ` and without brackets",
        Value::Mapping(_) if expected.starts_with("a list") => "put `- ` before each item, or write [a, b]",
        Value::Mapping(_) => "write one value behind the key; a text that holds `: ` or begins with { needs quotes",
        Value::Scalar(..) => return format!("write {expected}"),
    };
    text.to_owned()
}

/// The keys of a section for a message.
fn list(keys: &Keys) -> String {
    const MOST: usize = 12;
    let names: Vec<&str> = keys.fields.iter().map(|field| field.key).take(MOST).collect();
    let more = if keys.fields.len() > MOST { ", …" } else { "" };
    if names.is_empty() {
        "none".to_owned()
    } else {
        format!("{}{more}", names.join(", "))
    }
}
