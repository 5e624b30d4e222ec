//! Which router gets a request: the one of highest priority whose rule the request satisfies.
//!
//! [`Index`] answers that in a time that does not depend on the number of routers, as long as their rules name hosts
//! or paths: it looks only at rules whose needed host and path the request has. [`shadowed`] finds routers that can
//! never be reached.

pub mod index;
pub mod tree;

use std::collections::HashMap;
use std::sync::Arc;

pub use index::Index;

use crate::rule::Rule;

/// A router as the index takes it.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// What a request must satisfy.
    pub rule: Arc<Rule>,
    /// Higher wins; among equals the earlier entry wins.
    pub priority: i64,
    /// What [`Index::find`] returns.
    pub value: T,
}

/// Routers that no request can reach because another one of the same entry point has an equal rule (but for
/// spelling and the order of operands) and a higher priority, or the same one and an earlier place.
///
/// Returns pairs of positions: the unreachable router, and the one that takes its requests. Conservative: a router
/// that is not listed may be unreachable all the same. Linear in the length of the rules.
pub fn shadowed<T>(entries: &[Entry<T>]) -> Vec<(usize, usize)> {
    let normalised: Vec<String> = entries.iter().map(|entry| entry.rule.normalised()).collect();
    let mut winners: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    for (position, text) in normalised.iter().enumerate() {
        winners
            .entry(text)
            .and_modify(|winner| {
                if entries[position].priority > entries[*winner].priority {
                    *winner = position;
                }
            })
            .or_insert(position);
    }
    let by_position = normalised.iter().enumerate();
    by_position
        .filter_map(|(position, text)| winners.get(text.as_str()).map(|winner| (position, *winner)))
        .filter(|(position, winner)| position != winner)
        .collect()
}

#[cfg(test)]
mod tests;
