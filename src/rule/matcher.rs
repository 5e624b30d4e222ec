//! The matchers: their names and arguments, and what each of them asks.

use std::fmt;
use std::ops::Range;

use ::http::HeaderName;
use ::http::header::HOST;
use ipnet::IpNet;

use super::{Facts, HostPattern, RuleError, RuleWarning, legacy, query, suspicion};
use crate::units::net::parse_network;
use crate::units::regex::GoRegex;

/// The names that v3 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ``Host(`example.com`)``
    Host,
    /// ``HostRegexp(`^.+\.example\.com$`)``
    HostRegexp,
    /// ``Path(`/exact`)``
    Path,
    /// ``PathPrefix(`/prefix`)``
    PathPrefix,
    /// ``PathRegexp(`\.png$`)``
    PathRegexp,
    /// ``Method(`GET`)``
    Method,
    /// ``Header(`name`, `value`)``
    Header,
    /// ``HeaderRegexp(`name`, `regexp`)``
    HeaderRegexp,
    /// ``Query(`name`, `value`)`` or ``Query(`name`)``
    Query,
    /// ``QueryRegexp(`name`, `regexp`)`` or ``QueryRegexp(`name`)``
    QueryRegexp,
    /// ``ClientIP(`10.0.0.0/8`)``
    ClientIp,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Host,
        Self::HostRegexp,
        Self::Path,
        Self::PathPrefix,
        Self::PathRegexp,
        Self::Method,
        Self::Header,
        Self::HeaderRegexp,
        Self::Query,
        Self::QueryRegexp,
        Self::ClientIp,
    ];

    /// The name as Traefik's documentation writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "Host",
            Self::HostRegexp => "HostRegexp",
            Self::Path => "Path",
            Self::PathPrefix => "PathPrefix",
            Self::PathRegexp => "PathRegexp",
            Self::Method => "Method",
            Self::Header => "Header",
            Self::HeaderRegexp => "HeaderRegexp",
            Self::Query => "Query",
            Self::QueryRegexp => "QueryRegexp",
            Self::ClientIp => "ClientIP",
        }
    }

    /// How many arguments it takes, at least and at most.
    fn arity(self) -> (usize, usize) {
        match self {
            Self::Header | Self::HeaderRegexp => (2, 2),
            Self::Query | Self::QueryRegexp => (1, 2),
            _ => (1, 1),
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Header => "Header(`name`, `value`)",
            Self::HeaderRegexp => "HeaderRegexp(`name`, `regexp`)",
            Self::Query => "Query(`name`, `value`), or Query(`name`) for an empty value",
            Self::QueryRegexp => "QueryRegexp(`name`, `regexp`)",
            _ => "one argument",
        }
    }

    /// Traefik knows a name as written, all lower, all upper and in title case.
    fn is_called(self, name: &str) -> bool {
        let canonical = self.name();
        let lower = canonical.to_ascii_lowercase();
        let title = name
            .strip_prefix(&canonical[..1])
            .is_some_and(|rest| *rest == lower[1..]);
        name == canonical || name == lower || title || name == canonical.to_ascii_uppercase()
    }
}

/// One argument of a matcher as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its value, unquoted.
    pub value: String,
    /// Whether byte offsets into the value are offsets into the source after the opening quote.
    pub verbatim: bool,
    /// Where it stands, with its quotes.
    pub span: Range<usize>,
}

impl Argument {
    fn error(&self, message: impl Into<String>, help: Option<String>) -> RuleError {
        RuleError {
            message: message.into(),
            span: self.span.clone(),
            help,
        }
    }

    /// The place of a byte offset into the value, up to the closing quote.
    fn span_from(&self, position: usize) -> Range<usize> {
        if !self.verbatim {
            return self.span.clone();
        }
        let end = self.span.end.saturating_sub(1);
        let start = (self.span.start + 1 + position).min(end);
        if start == end { end..self.span.end } else { start..end }
    }

    fn regex(&self) -> Result<GoRegex, RuleError> {
        GoRegex::new(&self.value).map_err(|error| RuleError {
            message: format!("bad regular expression: {}", error.message),
            span: self.span_from(error.position),
            help: None,
        })
    }
}

/// Finds the matcher of a name and checks the number of its arguments and that none is empty.
///
/// # Errors
/// With "did you mean" for an unknown name, and the v3 spelling for one of v2.
pub fn resolve(name: &str, name_span: Range<usize>, arguments: &[Argument]) -> Result<Kind, RuleError> {
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.is_called(name)) else {
        return Err(unknown(name, name_span, arguments));
    };
    if arguments.is_empty() {
        // Also the case of a name without parentheses, of which the parser has more to say.
        return Ok(kind);
    }
    if let Some(empty) = arguments.iter().find(|argument| argument.value.is_empty()) {
        return Err(empty.error(format!("an argument of `{}` is empty", kind.name()), None));
    }
    Ok(kind)
}

fn unknown(name: &str, span: Range<usize>, arguments: &[Argument]) -> RuleError {
    if let Some((message, help)) = legacy::old_name(name, arguments) {
        return RuleError {
            message,
            span,
            help: Some(help),
        };
    }
    let closest = Kind::ALL
        .into_iter()
        .map(|kind| {
            (
                strsim::damerau_levenshtein(&kind.name().to_lowercase(), &name.to_lowercase()),
                kind.name(),
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3));
    let help = match closest {
        Some((0, known)) => format!("matcher names are case-sensitive: write `{known}`"),
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => format!("matchers are {}", Kind::ALL.map(Kind::name).join(", ")),
    };
    RuleError {
        message: format!("unknown matcher `{name}`"),
        span,
        help: Some(help),
    }
}

/// A header name in a rule. `None` for one that no request can have, such as `Host`, which is not a header here.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldName {
    written: String,
    name: Option<HeaderName>,
}

impl FieldName {
    /// Reads any text; see the type for those that name nothing.
    pub fn new(written: &str) -> Self {
        let name = HeaderName::from_bytes(written.as_bytes())
            .ok()
            .filter(|name| *name != HOST);
        Self {
            written: written.to_ascii_lowercase(),
            name,
        }
    }

    /// Whether a request can have this header.
    pub fn is_possible(&self) -> bool {
        self.name.is_some()
    }
}

/// One matcher with its arguments, compiled.
#[derive(Clone, Debug, PartialEq)]
pub enum Matcher {
    /// The host equals, or is one label under, or is anything.
    Host(HostPattern),
    /// The lower-cased host contains a match.
    HostRegexp(GoRegex),
    /// The routing path equals.
    Path(String),
    /// The routing path begins with; a plain string prefix.
    PathPrefix(String),
    /// The routing path contains a match.
    PathRegexp(GoRegex),
    /// The method equals this one (upper-case).
    Method(String),
    /// Any value of the header equals.
    Header(FieldName, String),
    /// Any value of the header contains a match.
    HeaderRegexp(FieldName, GoRegex),
    /// Any value of the query parameter equals; `""` is what one argument asks.
    Query(String, String),
    /// Any value of the query parameter contains a match.
    QueryRegexp(String, GoRegex),
    /// The peer is in the network.
    ClientIp(IpNet),
}

impl Matcher {
    /// Compiles a call; `span` is the whole of it.
    ///
    /// # Errors
    /// For a wrong number of arguments and for an argument that the matcher cannot take.
    pub fn build(
        kind: Kind,
        arguments: &[Argument],
        span: Range<usize>,
        warnings: &mut Vec<RuleWarning>,
    ) -> Result<Self, RuleError> {
        let (min, max) = kind.arity();
        let (Some(first), true) = (arguments.first(), (min..=max).contains(&arguments.len())) else {
            return Err(wrong_count(kind, arguments, span));
        };
        let second = arguments.get(1);
        let value = || second.map(|argument| argument.value.clone()).unwrap_or_default();
        if matches!(kind, Kind::Host | Kind::HostRegexp | Kind::Path | Kind::PathPrefix)
            && let Some(help) = legacy::template(kind, &first.value)
        {
            let message = format!("`{{name:regexp}}` in `{}` is the syntax of Traefik v2", kind.name());
            return Err(first.error(message, Some(help)));
        }
        suspicion::note(kind, first, second, warnings);
        Ok(match (kind, second) {
            (Kind::Host, _) => Self::Host(HostPattern::parse(&first.value).map_err(|why| first.error(why, None))?),
            (Kind::HostRegexp, _) if !first.value.is_ascii() => {
                return Err(first.error("a host has no characters outside of ASCII", None));
            }
            (Kind::HostRegexp, _) => Self::HostRegexp(first.regex()?),
            (Kind::Path, _) => Self::Path(absolute(kind, first)?),
            (Kind::PathPrefix, _) => Self::PathPrefix(absolute(kind, first)?),
            (Kind::PathRegexp, _) => Self::PathRegexp(first.regex()?),
            (Kind::Method, _) => Self::Method(first.value.to_uppercase()),
            (Kind::Header, _) => Self::Header(FieldName::new(&first.value), value()),
            (Kind::HeaderRegexp, Some(pattern)) => Self::HeaderRegexp(FieldName::new(&first.value), pattern.regex()?),
            (Kind::QueryRegexp, Some(pattern)) => Self::QueryRegexp(first.value.clone(), pattern.regex()?),
            (Kind::Query | Kind::QueryRegexp | Kind::HeaderRegexp, _) => Self::Query(first.value.clone(), value()),
            (Kind::ClientIp, _) => Self::ClientIp(parse_network(&first.value).map_err(|why| first.error(why, None))?),
        })
    }

    /// Whether the request satisfies the matcher.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Host(pattern) => pattern.matches(facts.host),
            Self::HostRegexp(regex) => regex.is_match(facts.host),
            Self::Path(path) => facts.path == path,
            Self::PathPrefix(prefix) => facts.path.starts_with(prefix.as_str()),
            Self::PathRegexp(regex) => regex.is_match(facts.path),
            Self::Method(method) => facts.method == method,
            Self::Header(field, value) => any_value(field, facts, |found| found == value.as_bytes()),
            Self::HeaderRegexp(field, regex) => any_value(field, facts, |found| match std::str::from_utf8(found) {
                Ok(text) => regex.is_match(text),
                Err(_) => regex.is_match(&String::from_utf8_lossy(found)),
            }),
            Self::Query(name, value) => facts.query.is_some_and(|query| query::has_value(query, name, value)),
            Self::QueryRegexp(name, regex) => facts
                .query
                .is_some_and(|query| query::any_value(query, name, |value| regex.is_match(value))),
            Self::ClientIp(network) => network.contains(&facts.client_ip.to_canonical()),
        }
    }
}

fn any_value(field: &FieldName, facts: &Facts<'_>, mut accept: impl FnMut(&[u8]) -> bool) -> bool {
    let Some(name) = &field.name else { return false };
    facts.headers.get_all(name).iter().any(|value| accept(value.as_bytes()))
}

fn absolute(kind: Kind, argument: &Argument) -> Result<String, RuleError> {
    if argument.value.starts_with('/') {
        return Ok(argument.value.clone());
    }
    let help = format!(
        "write {}({})",
        kind.name(),
        legacy::quote(&format!("/{}", argument.value))
    );
    Err(argument.error(
        format!("the path `{}` does not begin with `/`", argument.value),
        Some(help),
    ))
}

fn wrong_count(kind: Kind, arguments: &[Argument], span: Range<usize>) -> RuleError {
    let (min, max) = kind.arity();
    let wanted = match (min, max) {
        (1, 1) => "1 argument".to_owned(),
        (2, 2) => "2 arguments".to_owned(),
        _ => format!("{min} or {max} arguments"),
    };
    let help = match max {
        1 if arguments.len() > 1 => {
            let calls: Vec<String> = arguments
                .iter()
                .map(|a| format!("{}({})", kind.name(), legacy::quote(&a.value)))
                .collect();
            format!("write {}", calls.join(" || "))
        }
        1 => format!("write {}(`...`)", kind.name()),
        _ => format!("write {}", kind.usage()),
    };
    RuleError {
        message: format!("`{}` takes {wanted}, found {}", kind.name(), arguments.len()),
        span,
        help: Some(help),
    }
}

/// The canonical spelling, which parses back to the same matcher.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = legacy::quote;
        match self {
            Self::Host(pattern) => write!(f, "Host({})", quote(&pattern.to_string())),
            Self::HostRegexp(regex) => write!(f, "HostRegexp({})", quote(regex.as_str())),
            Self::Path(path) => write!(f, "Path({})", quote(path)),
            Self::PathPrefix(prefix) => write!(f, "PathPrefix({})", quote(prefix)),
            Self::PathRegexp(regex) => write!(f, "PathRegexp({})", quote(regex.as_str())),
            Self::Method(method) => write!(f, "Method({})", quote(method)),
            Self::Header(field, value) => write!(f, "Header({}, {})", quote(&field.written), quote(value)),
            Self::HeaderRegexp(field, regex) => {
                write!(f, "HeaderRegexp({}, {})", quote(&field.written), quote(regex.as_str()))
            }
            Self::Query(name, value) if value.is_empty() => write!(f, "Query({})", quote(name)),
            Self::Query(name, value) => write!(f, "Query({}, {})", quote(name), quote(value)),
            Self::QueryRegexp(name, regex) => write!(f, "QueryRegexp({}, {})", quote(name), quote(regex.as_str())),
            Self::ClientIp(network) => write!(f, "ClientIP({})", quote(&network.to_string())),
        }
    }
}
