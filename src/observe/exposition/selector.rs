//! Series selectors as in PromQL: `name{label="v",other=~"a|b"}`.

use crate::units::regex::GoRegex;

use super::Sample;
use super::line::is_name;

/// The longest selector, in bytes.
pub const MAX_SELECTOR: usize = 4096;
/// The most matchers of one selector.
const MAX_MATCHERS: usize = 32;
/// The most regular expressions that one request may bring along, in all its selectors.
pub const MAX_EXPRESSIONS: usize = 64;
/// The compiled size of one of them, in bytes: who asks for metrics needs no password.
const MAX_COMPILED: usize = 128 << 10;
/// The label that holds a metric's name.
const NAME: &str = "__name__";

/// Which series are meant. Two are equal when they were written alike.
#[derive(Clone, Debug)]
pub struct Selector {
    source: String,
    matchers: Vec<(String, Matcher)>,
}

#[derive(Clone, Debug)]
enum Matcher {
    Equal(String),
    NotEqual(String),
    Like(GoRegex),
    NotLike(GoRegex),
}

/// Why a selector was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{selector}` is no selector: {message}")]
pub struct SelectorError {
    selector: String,
    message: String,
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Selector {}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Selector {
    /// Reads a selector; regular expressions match the whole value, as in Prometheus.
    ///
    /// # Errors
    /// When it is none, when it is empty, and when it is longer than [`MAX_SELECTOR`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let error = |message: String| SelectorError {
            selector: text.chars().take(80).flat_map(char::escape_debug).collect(),
            message,
        };
        if text.len() > MAX_SELECTOR {
            return Err(error(format!("it is longer than {MAX_SELECTOR} bytes")));
        }
        let matchers = read(text).map_err(error)?;
        let source = text.to_owned();
        Ok(Self { source, matchers })
    }

    /// How many regular expressions it has.
    #[must_use]
    pub fn expressions(&self) -> usize {
        let is_one = |matcher: &Matcher| matches!(matcher, Matcher::Like(_) | Matcher::NotLike(_));
        self.matchers.iter().filter(|(_, matcher)| is_one(matcher)).count()
    }

    /// Whether a series is meant. `label` gives the value of a label, empty where there is none.
    pub fn matches<'l>(&self, name: &'l str, label: impl Fn(&str) -> &'l str) -> bool {
        self.matchers.iter().all(|(of, matcher)| {
            let value = if of == NAME { name } else { label(of) };
            match matcher {
                Matcher::Equal(wanted) => value == wanted,
                Matcher::NotEqual(unwanted) => value != unwanted,
                Matcher::Like(pattern) => pattern.is_match(value),
                Matcher::NotLike(pattern) => !pattern.is_match(value),
            }
        })
    }

    /// Whether a sample is meant, as it stands.
    #[must_use]
    pub fn is_of(&self, sample: &Sample<'_>) -> bool {
        self.matches(sample.name, |label| sample.label(label))
    }
}

fn read(text: &str) -> Result<Vec<(String, Matcher)>, String> {
    let text = text.trim();
    let (name, rest) = text.split_at(text.find('{').unwrap_or(text.len()));
    let name = name.trim_end();
    let mut matchers = Vec::new();
    if !name.is_empty() {
        if !is_name(name, true) {
            return Err(format!("`{}` is no name of a metric", name.escape_debug()));
        }
        matchers.push((NAME.to_owned(), Matcher::Equal(name.to_owned())));
    }
    if let Some(mut rest) = rest.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                if !after.is_empty() {
                    return Err("something follows its `}`".to_owned());
                }
                break;
            }
            let (matcher, after) = matcher(rest)?;
            matchers.push(matcher);
            if matchers.len() > MAX_MATCHERS {
                return Err(format!("it has more than {MAX_MATCHERS} matchers"));
            }
            rest = after.trim_start();
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None if rest.starts_with('}') => {}
                None => return Err("a `,` or a `}` is missing".to_owned()),
            }
        }
    }
    match matchers.is_empty() {
        true => Err("it is empty".to_owned()),
        false => Ok(matchers),
    }
}

fn matcher(text: &str) -> Result<((String, Matcher), &str), String> {
    let at = text.find(['=', '!']).ok_or("a label has no value")?;
    let (name, rest) = text.split_at(at);
    let name = name.trim_end();
    if !is_name(name, false) {
        return Err(format!("`{}` is no name of a label", name.escape_debug()));
    }
    let operators = ["=~", "!~", "!=", "="];
    let operator = operators.into_iter().find(|operator| rest.starts_with(operator));
    let operator = operator.ok_or("an operator is one of = != =~ !~")?;
    let (value, after) = string(rest[operator.len()..].trim_start())?;
    let pattern = || {
        // By itself first: `a)|(b` would get out of the group.
        let alone = GoRegex::within(&value, MAX_COMPILED);
        let whole = alone.and_then(|_| GoRegex::within(&format!("^(?s:{value})$"), MAX_COMPILED));
        whole.map_err(|e| format!("`{}`: {e}", value.escape_debug()))
    };
    let matcher = match operator {
        "=~" => Matcher::Like(pattern()?),
        "!~" => Matcher::NotLike(pattern()?),
        "!=" => Matcher::NotEqual(value),
        _ => Matcher::Equal(value),
    };
    Ok(((name.to_owned(), matcher), after))
}

/// A string of PromQL, and what follows it.
fn string(text: &str) -> Result<(String, &str), String> {
    let mut characters = text.char_indices();
    let quote = characters
        .next()
        .map(|(_, c)| c)
        .filter(|c| matches!(c, '"' | '\'' | '`'));
    let quote = quote.ok_or("a value is not in quotes")?;
    let mut value = String::new();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Ok((value, &text[at + 1..]));
        }
        if character != '\\' || quote == '`' {
            value.push(character);
            continue;
        }
        value.push(match characters.next().map(|(_, c)| c) {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some(plain @ ('\\' | '"' | '\'')) => plain,
            _ => return Err("an unknown escape in a value: write a backslash as \\\\".to_owned()),
        });
    }
    Err("a value has no closing quote".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, name: &str, labels: &[(&str, &str)]) -> bool {
        let selector = Selector::parse(selector).expect("a selector");
        selector.matches(name, |wanted| {
            let found = labels.iter().find(|(name, _)| *name == wanted);
            found.map_or("", |(_, value)| value)
        })
    }

    #[test]
    fn an_expression_that_compiles_to_megabytes_is_refused() {
        for small in ["a|b|c", ".*mri.*", "[a-z0-9_]{1,40}", "\\\\pL+", "host-(1|2|3):\\\\d+"] {
            let selector = Selector::parse(&format!("{{a=~\"{small}\",b!=\"\",c!~\"{small}\"}}")).expect(small);
            assert_eq!(selector.expressions(), 2);
        }
        for large in ["\\\\pL{40}", ".{1000}"] {
            let error = Selector::parse(&format!("{{a=~\"{large}\"}}")).expect_err(large);
            assert!(error.to_string().contains("large"), "{error}");
        }
    }

    #[test]
    fn series_are_selected_as_in_promql() {
        let labels = &[("label", "tumour"), ("fold", "3")];
        for (selector, expected) in [
            ("validation_dice", true),
            ("dice", false),
            (" validation_dice { label = \"tumour\" , } ", true),
            ("{label='tumour'}", true),
            ("{__name__=~\"validation_.*\"}", true),
            ("{__name__=~\"validation\"}", false),
            ("{fold!=\"3\"}", false),
            ("{fold=~`[0-4]`,label!~\"edema|core\"}", true),
            ("{missing=\"\"}", true),
            ("{missing!=\"\"}", false),
        ] {
            assert_eq!(matches(selector, "validation_dice", labels), expected, "{selector}");
        }
        assert!(matches("{a=\"\\\"}\\\\\"}", "m", &[("a", "\"}\\")]));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in [
            "",
            "{}",
            "a b",
            "1a",
            "{a}",
            "{a=b}",
            "{a=\"b}",
            "{a=\"b\"",
            "{a=\"b\"}c",
            "{a=~\"(\"}",
            "{a=~\"a)(b\"}",
            "{a<\"b\"}",
            "{a=\"\\x\"}",
            "{=\"a\"}",
            "{a=\"b\" c=\"d\"}",
            "é",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        assert!(Selector::parse(&"a".repeat(MAX_SELECTOR + 1)).is_err());
        assert!(Selector::parse(&format!("{{{}}}", "a=\"\",".repeat(33))).is_err());
    }
}
