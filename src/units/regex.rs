//! Regular expressions in Go's RE2 syntax, run by the `regex` crate.
//!
//! The two dialects differ in small ways (`\Q..\E`, octal escapes, `{` as a literal, ASCII `\w` and `\b`, nested
//! classes, Go's limits), so a pattern is read by Go's grammar here and written anew for the crate; see
//! [`translate`]. Matching is linear in the length of the text, and the compiled size is bounded.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

pub mod translate;

/// The longest pattern that is accepted, in bytes.
pub const MAX_PATTERN: usize = 16 * 1024;
/// The compiled size of one expression at most, in bytes.
const SIZE_LIMIT: usize = 10 << 20;
/// What matching remembers at most, in bytes: the default of the `regex` crate.
const DFA_LIMIT: usize = 2 << 20;

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct RegexError {
    /// What is wrong, in Go's terms.
    pub message: String,
    /// Where, as a byte offset into the pattern as it was written.
    pub position: usize,
}

impl RegexError {
    fn new(message: impl Into<String>, position: usize) -> Self {
        Self {
            message: message.into(),
            position,
        }
    }
}

/// A compiled regular expression with Go's meaning.
#[derive(Clone)]
pub struct GoRegex {
    source: String,
    compiled: regex::Regex,
    /// Names by group number; group 0 is the whole match.
    names: Vec<Option<String>>,
}

impl GoRegex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When Go's `regexp.Compile` refuses the pattern, when it is longer than [`MAX_PATTERN`], or when its compiled
    /// form is too large.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        Self::within(pattern, SIZE_LIMIT)
    }

    /// Compiles a pattern of a stranger: its compiled form takes at most `size` bytes, and so does what is remembered
    /// while it matches.
    ///
    /// # Errors
    /// As [`GoRegex::new`].
    pub fn within(pattern: &str, size: usize) -> Result<Self, RegexError> {
        if pattern.len() > MAX_PATTERN {
            return Err(RegexError::new(
                format!("the expression is longer than {MAX_PATTERN} bytes"),
                MAX_PATTERN,
            ));
        }
        let translated = translate::translate(pattern)?;
        let compiled = regex::RegexBuilder::new(&translated.pattern)
            .size_limit(size)
            .dfa_size_limit(size.min(DFA_LIMIT))
            .build()
            .map_err(|error| RegexError::new(describe(&error), 0))?;
        Ok(Self {
            source: pattern.to_owned(),
            compiled,
            names: translated.names,
        })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the expression matches anywhere in the text (Go's `MatchString`).
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The leftmost match.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.compiled.find(text).map(|found| found.as_str())
    }

    /// Replaces every match by the template, expanded as Go's `ReplaceAllString` does: `$1`, `${1}`, `$name`,
    /// `${name}` and `$$`. `$1x` is the group named `1x`; an unknown or unmatched group is empty; a `$` that begins
    /// none of these stays.
    pub fn replace_all<'t>(&self, text: &'t str, template: &str) -> Cow<'t, str> {
        self.compiled.replace_all(text, |captures: &regex::Captures<'_>| {
            let mut expanded = String::new();
            self.expand(captures, template, &mut expanded);
            expanded
        })
    }

    /// The template expanded with the leftmost match of the text, or `None` when there is no match.
    pub fn expand_first(&self, text: &str, template: &str) -> Option<String> {
        let captures = self.compiled.captures(text)?;
        let mut expanded = String::new();
        self.expand(&captures, template, &mut expanded);
        Some(expanded)
    }

    fn expand(&self, captures: &regex::Captures<'_>, template: &str, out: &mut String) {
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            if let Some(after_second) = after.strip_prefix('$') {
                out.push('$');
                rest = after_second;
            } else if let Some((name, after_name)) = template_name(after) {
                out.push_str(self.group(captures, name));
                rest = after_name;
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
    }

    fn group<'t>(&self, captures: &regex::Captures<'t>, name: &str) -> &'t str {
        let text = |index: usize| captures.get(index).map(|found| found.as_str());
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit()) && (name.len() == 1 || !name.starts_with('0'));
        if is_number {
            return name.parse().ok().and_then(text).unwrap_or("");
        }
        let index = self.names.iter().position(|known| known.as_deref() == Some(name));
        index.and_then(text).unwrap_or("")
    }
}

impl fmt::Debug for GoRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GoRegex({:?})", self.source)
    }
}

impl fmt::Display for GoRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl PartialEq for GoRegex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// What Go's `extract` does: the longest name after a `$`, and the text after it.
fn template_name(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let body = braced.unwrap_or(text);
    // Go: unicode.IsLetter, unicode.IsDigit or an underscore.
    let end = body
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(body.len());
    let (name, rest) = body.split_at(end);
    if name.is_empty() {
        return None;
    }
    match braced {
        Some(_) => rest.strip_prefix('}').map(|rest| (name, rest)),
        None => Some((name, rest)),
    }
}

fn describe(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => {
            "the expression is too large when compiled; use smaller repetitions".to_owned()
        }
        // The crate prints the whole pattern first; its last line says what is wrong.
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or("invalid expression");
            last.trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(pattern: &str) -> GoRegex {
        GoRegex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error} at {}", error.position))
    }

    #[test]
    fn replaces_as_go_does() {
        let table = [
            ("a(x*)b", "-ab-axxb-", "T", "-T-T-"),
            ("a(x*)b", "-ab-axxb-", "$1", "--xx-"),
            ("a(x*)b", "-ab-axxb-", "$1W", "---"),
            ("a(x*)b", "-ab-axxb-", "${1}W", "-W-xxW-"),
            ("a(?P<name>x*)b", "axxb", "$name-${name}", "xx-xx"),
            ("a(?<1W>x*)b", "axxb", "$1W", "xx"),
            ("a", "a", "$$1", "$1"),
            ("a", "a", "$", "$"),
            ("a", "a", "$-", "$-"),
            ("a", "a", "${1", "${1"),
            ("a", "a", "${}", "${}"),
            ("(a)", "a", "$2|$01|$0", "||a"),
            ("(a)", "a", "$99999999999999999999", ""),
            ("(a)|(b)", "b", "[$1$2]", "[b]"),
            ("a*", "baaac", "x", "xbxcx"),
            ("^/api/(.*)", "/api/v1/x", "/$1", "/v1/x"),
            (
                "^https?://(www\\.)?example\\.com/(.*)",
                "http://www.example.com/a",
                "https://example.com/${2}",
                "https://example.com/a",
            ),
        ];
        for (pattern, text, template, expected) in table {
            assert_eq!(
                regex(pattern).replace_all(text, template),
                expected,
                "{pattern} {template}"
            );
        }
    }

    #[test]
    fn finds_and_expands_the_leftmost_match() {
        let pair = regex("(?P<key>\\w+)=(\\w+)");
        assert_eq!(pair.find("; a=1; b=2"), Some("a=1"));
        assert_eq!(pair.find("none"), None);
        assert_eq!(pair.expand_first("; a=1; b=2", "$2:$key").as_deref(), Some("1:a"));
        assert_eq!(pair.expand_first("none", "x"), None);
        assert!(matches!(regex("z").replace_all("abc", "y"), Cow::Borrowed("abc")));
    }

    #[test]
    fn sizes_are_bounded() {
        let long = "a".repeat(MAX_PATTERN + 1);
        assert!(GoRegex::new(&long).expect_err("long").message.contains("longer than"));
        let large = GoRegex::new(r"(?:\pL{500}\pL{500}){1}(?:\pL{1000}){1}\pL{1000}\pL{1000}\pL{1000}\pL{1000}");
        assert!(large.expect_err("large").message.contains("too large"));
        let deep = format!("{}a{}", "(".repeat(5000), ")".repeat(5000));
        assert!(GoRegex::new(&deep).is_err());
    }

    #[test]
    fn shows_its_source() {
        assert_eq!(format!("{0} {0:?}", regex("a+")), "a+ GoRegex(\"a+\")");
        assert_eq!(regex("a+"), regex("a+"));
        assert_eq!(regex("a+").as_str(), "a+");
    }
}
