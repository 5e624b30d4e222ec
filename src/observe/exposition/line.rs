//! One line of an exposition.

use std::borrow::Cow;

use super::{Dialect, Kind, MAX_LABELS, Sample};

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    /// `# HELP name text`
    Help(&'a str, Cow<'a, str>),
    /// `# TYPE name type`
    Type(&'a str, Declared),
    /// `# EOF`
    Eof,
    /// Anything else after `#`, and blanks. `# UNIT` is among them: the unit is part of the name.
    Comment,
    /// A value.
    Sample(Sample<'a>),
}

/// A type as it was declared: those of OpenMetrics that 0.0.4 does not have keep their names until samples are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Plain(Kind),
    Info,
    StateSet,
    GaugeHistogram,
}

impl Declared {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Plain(Kind::Counter),
            "gauge" => Self::Plain(Kind::Gauge),
            "histogram" => Self::Plain(Kind::Histogram),
            "summary" => Self::Plain(Kind::Summary),
            "untyped" | "unknown" => Self::Plain(Kind::Untyped),
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            "gaugehistogram" => Self::GaugeHistogram,
            _ => return None,
        })
    }
}

/// Reads a line that has no line feed.
pub(super) fn read(line: &str, dialect: Dialect) -> Result<Line<'_>, String> {
    let line = line.trim_start_matches(BLANK);
    match line.strip_prefix('#') {
        None if line.is_empty() => Ok(Line::Comment),
        None => sample(line, dialect).map(Line::Sample),
        Some(comment) => metadata(comment),
    }
}

const BLANK: [char; 2] = [' ', '\t'];

fn metadata(comment: &str) -> Result<Line<'_>, String> {
    // `#HELP` without a blank is an ordinary comment.
    let Some(words) = comment.strip_prefix(BLANK) else {
        return Ok(Line::Comment);
    };
    let (keyword, rest) = word(words.trim_start_matches(BLANK));
    let (name, rest) = word(rest);
    match keyword {
        "EOF" if name.is_empty() => Ok(Line::Eof),
        "HELP" | "TYPE" if !is_name(name, true) => Err(format!("{} is no name of a metric", quoted(name))),
        "HELP" => Ok(Line::Help(name, unescape(rest))),
        "TYPE" => match Declared::of(rest.trim_end_matches(BLANK)) {
            Some(declared) => Ok(Line::Type(name, declared)),
            None => Err(format!("{} is no type of a metric", quoted(rest))),
        },
        _ => Ok(Line::Comment),
    }
}

/// The text up to a blank, and what follows the blanks.
fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_at(text.find(BLANK).unwrap_or(text.len()));
    (word, rest.trim_start_matches(BLANK))
}

fn sample(line: &str, dialect: Dialect) -> Result<Sample<'_>, String> {
    let end = line
        .find(|c: char| c == '{' || BLANK.contains(&c))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err(format!("{} is no name of a metric", quoted(name)));
    }
    let rest = rest.trim_start_matches(BLANK);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    let (text, rest) = word(rest.trim_start_matches(BLANK));
    let value = number(text).ok_or_else(|| format!("{} is no number", quoted(text)))?;
    after_value(rest, dialect)?;
    Ok(Sample { name, labels, value })
}

/// A timestamp, and in OpenMetrics an exemplar: checked, since garbage there means that the line is not what it seems.
fn after_value(rest: &str, dialect: Dialect) -> Result<(), String> {
    let (timestamp, exemplar) = match rest.split_once('#') {
        Some((before, after)) if dialect == Dialect::OpenMetrics => (before, Some(after)),
        _ => (rest, None),
    };
    let timestamp = timestamp.trim_end_matches(BLANK);
    let is_time = |text: &str| match dialect {
        Dialect::Text004 => text.parse::<i64>().is_ok(),
        Dialect::OpenMetrics => number(text).is_some_and(f64::is_finite),
    };
    if !timestamp.is_empty() && !is_time(timestamp) {
        return Err(format!("{} is no timestamp", quoted(timestamp)));
    }
    let Some(exemplar) = exemplar else { return Ok(()) };
    let opened = exemplar.trim_start_matches(BLANK).strip_prefix('{');
    let (_, rest) = labels(opened.ok_or("an exemplar without labels")?)?;
    let (value, time) = word(rest.trim_start_matches(BLANK));
    let time = time.trim_end_matches(BLANK);
    match number(value).is_some() && (time.is_empty() || is_time(time)) {
        true => Ok(()),
        false => Err("an exemplar without a number".to_owned()),
    }
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Labels after their `{`, and what follows their `}`. A comma may stand after the last one.
fn labels(mut rest: &str) -> Result<(Labels<'_>, &str), String> {
    let mut found: Labels<'_> = Vec::new();
    loop {
        rest = rest.trim_start_matches(BLANK);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((found, after));
        }
        let (name, after) = rest.split_once('=').ok_or("labels without an end")?;
        let name = name.trim_end_matches(BLANK);
        if !is_name(name, false) {
            return Err(format!("{} is no name of a label", quoted(name)));
        }
        if name == "__name__" || found.iter().any(|(known, _)| *known == name) {
            return Err(format!("the label `{name}` cannot stand here"));
        }
        if found.len() == MAX_LABELS {
            return Err(format!("more than {MAX_LABELS} labels"));
        }
        let opened = after.trim_start_matches(BLANK).strip_prefix('"');
        let text = opened.ok_or_else(|| format!("the value of `{name}` is not in quotes"))?;
        let end = closing_quote(text).ok_or_else(|| format!("the value of `{name}` has no end"))?;
        found.push((name, unescape(&text[..end])));
        rest = text[end + 1..].trim_start_matches(BLANK);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return Err(format!("{} follows the label `{name}`", quoted(rest))),
        }
    }
}

/// Where the quoted text ends.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Takes `\\`, `\"` and `\n` for what they stand for. Another backslash is one, as in Prometheus' parser.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let plain = match (character, characters.peek()) {
            ('\\', Some('\\')) => '\\',
            ('\\', Some('"')) => '"',
            ('\\', Some('n')) => '\n',
            _ => {
                out.push(character);
                continue;
            }
        };
        characters.next();
        out.push(plain);
    }
    Cow::Owned(out)
}

/// A number in Go's notation without underscores and hexadecimal digits; `+Inf`, `-Inf`, `NaN`.
pub(super) fn number(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    // Go's parser has no room for 1e999; Rust's takes it for infinity.
    let spelt_out = text.bytes().any(|byte| byte.is_ascii_digit());
    (value.is_finite() || !spelt_out).then_some(value)
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`, with colons for metrics.
pub(super) fn is_name(text: &str, metric: bool) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (metric && byte == b':');
    text.bytes().all(may) && !text.bytes().next().is_none_or(|byte| byte.is_ascii_digit())
}

/// A piece of the text for a message: escaped, and short.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    let shown: String = text.chars().take(SHOWN).collect();
    let dots = if shown.len() < text.len() { "…" } else { "" };
    format!("`{}{dots}`", shown.escape_debug())
}
