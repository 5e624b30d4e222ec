//! The rule syntax of Traefik v2: recognised only to tell its users the v3 spelling.

use super::matcher::{Argument, Kind};
use crate::units::regex::GoRegex;

/// The text in backticks, or in double quotes when it contains a backtick or a carriage return.
pub fn quote(text: &str) -> String {
    if !text.contains(['`', '\r']) {
        return format!("`{text}`");
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\r' => quoted.push_str("\\r"),
            '\n' => quoted.push_str("\\n"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The error message and the help for a matcher that v3 does not have under this name, in any case.
pub fn old_name(name: &str, arguments: &[Argument]) -> Option<(String, String)> {
    let new = match name.to_ascii_lowercase().as_str() {
        "hostheader" => "Host",
        "headers" => "Header",
        "headersregexp" => "HeaderRegexp",
        "hostsni" | "hostsniregexp" | "alpn" => {
            let message = format!("`{name}` is a matcher of TCP routers");
            return Some((
                message,
                "an HTTP router matches the host with Host(`example.com`)".to_owned(),
            ));
        }
        _ => return None,
    };
    let quoted: Vec<String> = arguments.iter().map(|argument| quote(&argument.value)).collect();
    let spelling = match (new, quoted.as_slice()) {
        (_, []) if new == "Host" => "Host(`example.com`)".to_owned(),
        (_, []) => format!("{new}(`name`, `value`)"),
        ("Host", hosts) => hosts
            .iter()
            .map(|host| format!("Host({host})"))
            .collect::<Vec<_>>()
            .join(" || "),
        (_, both) => format!("{new}({})", both.join(", ")),
    };
    Some((
        format!("`{name}` is a matcher of Traefik v2"),
        format!("in v3 it is written {spelling}"),
    ))
}

/// A piece of a v2 template.
enum Piece<'a> {
    Literal(&'a str),
    /// `{name}` or `{name:regexp}`.
    Variable {
        regexp: Option<&'a str>,
    },
}

/// The help for an argument in which `{name:regexp}` stands; `None` when there is none.
pub fn template(kind: Kind, value: &str) -> Option<String> {
    let pieces = pieces(value);
    let has_regexp = pieces
        .iter()
        .any(|piece| matches!(piece, Piece::Variable { regexp: Some(_) }));
    has_regexp.then(|| spelling(kind, &pieces))
}

/// Whether `{name}` stands in the text.
pub fn has_placeholder(value: &str) -> bool {
    pieces(value)
        .iter()
        .any(|piece| matches!(piece, Piece::Variable { .. }))
}

/// The help for an argument in which `{name}` stands.
pub fn placeholder(kind: Kind, value: &str) -> String {
    format!("if a variable part is meant: {}", spelling(kind, &pieces(value)))
}

fn pieces(value: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut literal_from = 0;
    let mut at = 0;
    while let Some(offset) = value[at..].find('{') {
        let open = at + offset;
        match variable(&value[open..]) {
            Some((regexp, length)) => {
                found.push(Piece::Literal(&value[literal_from..open]));
                found.push(Piece::Variable { regexp });
                at = open + length;
                literal_from = at;
            }
            None => at = open + 1,
        }
    }
    found.push(Piece::Literal(&value[literal_from..]));
    found
}

/// `{name}` or `{name:regexp}` at the start of the text: the expression and the length. Braces in it are balanced.
fn variable(text: &str) -> Option<(Option<&str>, usize)> {
    let body = &text[1..];
    let name_end = body.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))?;
    if !body.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    if body[name_end..].starts_with('}') {
        return Some((None, name_end + 2));
    }
    let regexp = body[name_end..].strip_prefix(':')?;
    let mut depth = 1_usize;
    let end = regexp.find(|c| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth - 1,
            _ => depth,
        };
        depth == 0
    })?;
    Some((Some(&regexp[..end]), 1 + name_end + 1 + end + 1))
}

fn spelling(kind: Kind, pieces: &[Piece<'_>]) -> String {
    let (name, part) = match kind {
        Kind::Host | Kind::HostRegexp => ("HostRegexp", r"[^.]+"),
        _ => ("PathRegexp", "[^/]+"),
    };
    let mut pattern = String::from("^");
    for piece in pieces {
        match piece {
            Piece::Literal(text) => pattern.push_str(&regex::escape(text).replace(r"\-", "-")),
            Piece::Variable { regexp } => {
                let inner = regexp.unwrap_or(part);
                let wrapped = inner.contains('|');
                pattern.push_str(&if wrapped {
                    format!("(?:{inner})")
                } else {
                    inner.to_owned()
                });
            }
        }
    }
    if kind != Kind::PathPrefix {
        pattern.push('$');
    }
    if GoRegex::new(&pattern).is_err() {
        return format!("in v3 it is written {name}(`regexp`)");
    }
    format!("in v3 it is written {name}({})", quote(&pattern))
}
