//! What every request that satisfies a rule must have: the keys under which the router index keeps the rule.
//!
//! The analysis is conservative: a request without any of the needed hosts (or paths) surely does not satisfy the
//! rule; a request with one of them still has to be asked.

use super::{Expression, HostPattern, Matcher};

/// More alternatives than this for the host are not told.
pub const MAX_HOSTS: usize = 1024;
/// More alternatives than this for the path are not told.
pub const MAX_PATHS: usize = 64;

/// A path that a request must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathNeed {
    /// Exactly this one.
    Exact(String),
    /// One that begins with this.
    Prefix(String),
}

impl PathNeed {
    fn length(&self) -> usize {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path.len(),
        }
    }
}

/// Necessary conditions; `None` says nothing, `Some` is a list of alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// One of these hosts; never [`HostPattern::Any`].
    pub hosts: Option<Vec<HostPattern>>,
    /// One of these paths.
    pub paths: Option<Vec<PathNeed>>,
}

/// Finds the needs of an expression.
pub(super) fn analyse(root: &Expression) -> Needs {
    Needs {
        hosts: alternatives(root, MAX_HOSTS, &host_of, &|hosts| {
            hosts
                .iter()
                .filter(|host| matches!(host, HostPattern::Wildcard(_)))
                .count()
        }),
        // Of two conditions with equally many alternatives the longer paths narrow more.
        paths: alternatives(root, MAX_PATHS, &path_of, &|paths| {
            usize::MAX - paths.iter().map(PathNeed::length).min().unwrap_or(0)
        }),
    }
}

fn host_of(matcher: &Matcher) -> Option<HostPattern> {
    match matcher {
        Matcher::Host(HostPattern::Any) => None,
        Matcher::Host(pattern) => Some(pattern.clone()),
        _ => None,
    }
}

fn path_of(matcher: &Matcher) -> Option<PathNeed> {
    match matcher {
        Matcher::Path(path) => Some(PathNeed::Exact(path.clone())),
        Matcher::PathPrefix(prefix) => Some(PathNeed::Prefix(prefix.clone())),
        _ => None,
    }
}

/// Alternatives of which every satisfying request has one. Under `&&` any part's list is right, and the shortest is
/// taken (then the one of the lowest `cost`); under `||` every part must have one, and they add up.
fn alternatives<T: Clone + Ord>(
    expression: &Expression,
    max: usize,
    leaf: &dyn Fn(&Matcher) -> Option<T>,
    cost: &dyn Fn(&[T]) -> usize,
) -> Option<Vec<T>> {
    match expression {
        Expression::Match { negated: true, .. } => None,
        Expression::Match {
            matcher,
            negated: false,
        } => leaf(matcher).map(|need| vec![need]),
        Expression::All(parts) => parts
            .iter()
            .filter_map(|part| alternatives(part, max, leaf, cost))
            .min_by_key(|found| (found.len(), cost(found))),
        Expression::Any(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(alternatives(part, max, leaf, cost)?);
            }
            all.sort_unstable();
            all.dedup();
            (all.len() <= max).then_some(all)
        }
    }
}
