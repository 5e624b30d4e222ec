//! Arguments that are allowed but surely not meant: `gantry check` warns of them.

use std::net::Ipv6Addr;

use super::matcher::{Argument, FieldName, Kind};
use super::{RuleWarning, legacy, routing_path};

/// Notes arguments with which the matcher can never match, or not what was meant.
pub(super) fn note(kind: Kind, first: &Argument, second: Option<&Argument>, warnings: &mut Vec<RuleWarning>) {
    let value = first.value.as_str();
    let mut warn = |message: String, help: Option<String>| {
        warnings.push(RuleWarning {
            message,
            span: first.span.clone(),
            help,
        });
    };
    match kind {
        Kind::Host if value.contains([':', '/', ' ', '?', '#', '@']) && !is_ipv6(value) => {
            let help = "write the host name alone, without scheme, port and path".to_owned();
            warn(format!("no host is ever equal to `{value}`"), Some(help));
        }
        Kind::HostRegexp if has_upper_case_literal(value) => {
            let help = format!("write {}", legacy::quote(&value.to_ascii_lowercase()));
            warn(
                "hosts are lower-case when they are matched; this expression never matches".to_owned(),
                Some(help),
            );
        }
        Kind::Path | Kind::PathPrefix if value.contains(['?', '#']) => {
            let help = "use Query(`name`, `value`) for the query".to_owned();
            warn(
                format!("a path never contains `?` or `#`: `{value}` never matches"),
                Some(help),
            );
        }
        Kind::Path | Kind::PathPrefix if legacy::has_placeholder(value) => {
            warn(
                format!("braces stand for themselves in `{}`", kind.name()),
                Some(legacy::placeholder(kind, value)),
            );
        }
        Kind::Path | Kind::PathPrefix if routing_path(value) != value => {
            let decoded = routing_path(value);
            let help = format!("write {}", legacy::quote(&decoded));
            warn(
                "paths are decoded before they are matched (but for reserved characters)".to_owned(),
                Some(help),
            );
        }
        Kind::Header | Kind::HeaderRegexp if !FieldName::new(value).is_possible() => {
            let help = value
                .eq_ignore_ascii_case("host")
                .then(|| "use the Host matcher".to_owned());
            warn(
                format!("`{value}` is not a header of a request; this never matches"),
                help,
            );
        }
        Kind::Query | Kind::QueryRegexp if second.is_none() => {
            if let Some((name, value)) = value.split_once('=') {
                let help = format!("write Query({}, {})", legacy::quote(name), legacy::quote(value));
                warn(
                    "with one argument the value must be empty, and `=` is part of the name".to_owned(),
                    Some(help),
                );
            }
        }
        _ => {}
    }
}

fn is_ipv6(value: &str) -> bool {
    value
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<Ipv6Addr>()
        .is_ok()
}

/// Whether an upper-case letter stands for itself in the expression; conservative: groups with flags or names and
/// classes are not looked into.
fn has_upper_case_literal(pattern: &str) -> bool {
    if pattern.contains("(?") {
        return false;
    }
    let mut in_class = false;
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('Q' | 'p' | 'P' | 'x') => return false,
                _ => continue,
            },
            '[' => in_class = true,
            ']' => in_class = false,
            '|' => return false,
            _ if c.is_ascii_uppercase() && !in_class => return true,
            _ => {}
        }
    }
    false
}
