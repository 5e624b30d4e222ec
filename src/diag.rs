//! A diagnostic: what is wrong with the configuration, where it stands in which file, and how to mend it.
//!
//! Every stage that reads configuration collects these; `gantry check`, the start and a reload print them.
//! Invariants: a diagnostic says what to do, not only what is wrong; text of the file never reaches a terminal with
//! its control characters.

mod render;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The configuration, or one object of it, cannot be used.
    Error,
    /// It can be used, and does something the user may not expect.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A text that configuration was read from.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The name to print: the file's name as the user wrote it.
    pub name: String,
    /// The whole text, without a byte order mark.
    pub text: String,
}

impl Source {
    /// A named text. A byte order mark at its front is taken off.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Arc::new(Self {
            name: name.into(),
            text,
        })
    }

    /// Line and column of a byte offset, both counted from 1, the column in characters.
    #[must_use]
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let line = self.line_at(offset);
        let offset = offset.min(self.text.len());
        let number = memchr::memchr_iter(b'\n', &self.text.as_bytes()[..line.start]).count() + 1;
        let column = self.text[line.start..]
            .char_indices()
            .take_while(|(at, _)| line.start + at < offset)
            .count()
            + 1;
        (number, column)
    }

    /// The byte range of the line that holds an offset, without its line break.
    #[must_use]
    pub fn line_at(&self, offset: usize) -> Range<usize> {
        let bytes = self.text.as_bytes();
        let offset = offset.min(bytes.len());
        let start = memchr::memrchr(b'\n', &bytes[..offset]).map_or(0, |at| at + 1);
        let mut end = memchr::memchr(b'\n', &bytes[offset..]).map_or(bytes.len(), |at| offset + at);
        if end > start && bytes[end - 1] == b'\r' {
            end -= 1;
        }
        start..end
    }
}

/// A place in a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The text.
    pub source: Arc<Source>,
    /// Byte offsets in it.
    pub span: Range<usize>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where in the configuration: `http.routers.r.rule`, `http.routers.r.middlewares[0]`. May be empty.
    pub path: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where in which file, when it is known.
    pub location: Option<Location>,
    /// The path of the one router, service, middleware, transport or TLS option that an error spoils
    /// (`http.services.s`), when the rest of the file can still be used.
    pub object: Option<Box<str>>,
    /// Whether the line holds a secret and is not shown.
    pub secret: bool,
}

impl Diagnostic {
    fn new(severity: Severity, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity,
            message: message.into(),
            path: path.into(),
            help: None,
            location: None,
            object: None,
            secret: false,
        }
    }

    /// An error at a configuration path.
    #[must_use]
    pub fn error(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, path, message)
    }

    /// A warning at a configuration path.
    #[must_use]
    pub fn warning(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, path, message)
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds where it stands.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }

    /// Narrows an error to one object.
    #[must_use]
    pub fn spoiling(mut self, object: impl Into<Box<str>>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// For machines: `severity`, `message`, `path`, and `file`, `line`, `column`, `help` (null where unknown).
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let place = self
            .location
            .as_ref()
            .map(|at| (at.source.name.as_str(), at.source.line_column(at.span.start)));
        serde_json::json!({
            "severity": self.severity.as_str(),
            "message": self.message,
            "path": self.path,
            "file": place.map(|(file, _)| file),
            "line": place.map(|(_, (line, _))| line),
            "column": place.map(|(_, (_, column))| column),
            "help": self.help,
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render::diagnostic(self, f)
    }
}

/// The candidate that a mistyped word is most likely meant to be, if one is near enough.
#[must_use]
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Words longer than this are no typos of anything.
    const LONGEST: usize = 64;
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    let length = lower.chars().count();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (length.max(candidate.len()) / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let source = Source::new("f", "\u{feff}a: é\r\n\tb: 漢x");
        assert_eq!(source.line_column(0), (1, 1));
        assert_eq!(source.line_column(source.text.find('é').unwrap()), (1, 4));
        assert_eq!(source.line_column(source.text.find('x').unwrap()), (2, 6));
        assert_eq!(source.line_column(999), (2, 7), "past the end is the end");
        assert_eq!(&source.text[source.line_at(0)], "a: é");
    }

    #[test]
    fn suggestions() {
        let keys = ["rule", "service", "entryPoints", "middlewares"];
        for (word, want) in [
            ("rul", Some("rule")),
            ("RULES", Some("rule")),
            ("entrypoint", Some("entryPoints")),
            ("middelwares", Some("middlewares")),
            ("banana", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(word, keys), want, "{word}");
        }
    }

    #[test]
    fn json_has_each_key_also_without_a_place() {
        let json = Diagnostic::warning("a.b", "hm").to_json();
        for key in ["severity", "message", "path", "file", "line", "column", "help"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let source = Source::new("f.yml", "a: 1\nb: 2");
        let json = Diagnostic::error("b", "no")
            .help("yes")
            .at(Location { source, span: 8..9 })
            .to_json();
        assert_eq!(json["line"], 2);
        assert_eq!(json["column"], 4);
        assert_eq!(json["file"], "f.yml");
        assert_eq!(json["severity"], "error");
    }
}
