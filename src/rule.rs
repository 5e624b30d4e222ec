//! The rule language of Traefik v3: text → expression → a predicate over one request's [`Facts`].
//!
//! ```text
//! rule    = all *( "||" all )
//! all     = unary *( "&&" unary )
//! unary   = *"!" ( "(" rule ")" | Name "(" argument *( "," argument ) ")" )
//! ```
//!
//! Invariants: parsing is the only way to a [`Rule`], so a rule is always well formed; nesting and length are
//! bounded, so neither parsing nor matching can overflow the stack; matching is pure, never fails and allocates only
//! for percent-encoded query values of more than 512 bytes under `QueryRegexp` and for header values that are not
//! UTF-8.
//! Negations are pushed down to the matchers while parsing (`!` distributes over groups, as in Traefik), so that
//! every analysis sees only `&&`, `||` and possibly negated matchers.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use ::http::HeaderMap;
use thiserror::Error;

pub mod host;
pub mod legacy;
pub mod matcher;
pub mod needs;
pub mod normal;
pub mod parser;
pub mod path;
pub mod query;
pub mod suspicion;
pub mod token;

pub use host::{HostPattern, normalise_host};
pub use matcher::Matcher;
pub use needs::{Needs, PathNeed};
pub use path::routing_path;

/// The longest rule, in bytes.
pub const MAX_LENGTH: usize = 64 * 1024;
/// How deeply parentheses may be nested.
pub const MAX_NESTING: usize = 64;

/// What a rule can ask about one request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The host as [`normalise_host`] gives it: lower-case, without port, brackets and trailing dot; `""` for none.
    pub host: &'a str,
    /// The routing path, as [`routing_path`] makes it from the escaped path.
    pub path: &'a str,
    /// The method as it was sent.
    pub method: &'a str,
    /// The header fields. `Host` is not looked at.
    pub headers: &'a HeaderMap,
    /// The query as it was sent, without the `?`.
    pub query: Option<&'a str>,
    /// The peer, or the source that the PROXY protocol gave; never `X-Forwarded-For`.
    pub client_ip: IpAddr,
}

/// Why a rule was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct RuleError {
    /// What is wrong.
    pub message: String,
    /// Where, as byte offsets into the rule's text.
    pub span: Range<usize>,
    /// What to write instead.
    pub help: Option<String>,
}

/// Something that is allowed but surely not meant, such as a matcher that never matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleWarning {
    /// What is suspicious.
    pub message: String,
    /// Where, as byte offsets into the rule's text.
    pub span: Range<usize>,
    /// What to write instead.
    pub help: Option<String>,
}

/// A rule as a tree; `!` stands only at the leaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// One matcher, possibly negated.
    Match {
        /// What is asked.
        matcher: Matcher,
        /// Whether the answer is turned round.
        negated: bool,
    },
    /// `&&`: two or more.
    All(Vec<Self>),
    /// `||`: two or more.
    Any(Vec<Self>),
}

/// A parsed rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    text: String,
    root: Expression,
    warnings: Vec<RuleWarning>,
}

/// Parses a rule.
///
/// # Errors
/// The first mistake in the text: its syntax, an unknown matcher, a wrong number of arguments, an empty or bad
/// argument.
pub fn parse(text: &str) -> Result<Rule, RuleError> {
    let parsed = parser::parse(text)?;
    Ok(Rule {
        text: text.to_owned(),
        root: parsed.root,
        warnings: parsed.warnings,
    })
}

/// The priority of a rule whose router sets none: the bytes of its text, blanks too
/// (Traefik takes Go's `len`).
pub fn default_priority(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

impl Rule {
    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The expression.
    pub fn expression(&self) -> &Expression {
        &self.root
    }

    /// What looks like a mistake although it is allowed.
    pub fn warnings(&self) -> &[RuleWarning] {
        &self.warnings
    }

    /// Whether the request satisfies the rule.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.root.matches(facts)
    }

    /// The host names that the rule's `Host` matchers name outside of a negation, in order and without repetition,
    /// as TLS options and ACME need them. Includes wildcards (`*.example.com`), not the catch-all `*`.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        self.root.visit(&mut |matcher, negated| {
            if let (Matcher::Host(pattern), false) = (matcher, negated)
                && *pattern != HostPattern::Any
            {
                let name = pattern.to_string();
                if !hosts.contains(&name) {
                    hosts.push(name);
                }
            }
        });
        hosts
    }

    /// Whether [`Rule::hosts`] names any host.
    pub fn has_host(&self) -> bool {
        !self.hosts().is_empty()
    }

    /// What every matching request must have, for the router index.
    pub fn needs(&self) -> Needs {
        needs::analyse(&self.root)
    }

    /// The rule in a form in which two rules that differ only in spelling, quotes, blanks, parentheses, repetitions
    /// or the order of `&&` and `||` operands are equal. It is a valid rule itself.
    pub fn normalised(&self) -> String {
        normal::Normal::of(&self.root).to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Expression {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Match { matcher, negated } => matcher.matches(facts) != *negated,
            Self::All(parts) => parts.iter().all(|part| part.matches(facts)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(facts)),
        }
    }

    /// Calls `seen` for every matcher, in the order of the text, with whether it is negated.
    pub fn visit<'a>(&'a self, seen: &mut dyn FnMut(&'a Matcher, bool)) {
        match self {
            Self::Match { matcher, negated } => seen(matcher, *negated),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.visit(seen)),
        }
    }
}

#[cfg(test)]
mod tests;
