//! The index over all routers of an entry point.
//!
//! A rule is kept under the hosts that it needs (in a hash map; wildcards under the name that follows `*.`), or
//! among those that need none; and there in a tree under the paths that it needs. A look-up probes at most three
//! trees, and asks only rules that could beat what was found so far. It allocates nothing.
//!
//! Invariant, held by a property test: the answer is that of asking every rule in order of precedence.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Entry;
use super::tree::{Forest, NONE, NodeId};
use crate::rule::{Facts, HostPattern, Needs, PathNeed, Rule, host};

/// A rule with more combinations of needed host and path than this is kept by its hosts alone.
const MAX_COMBINATIONS: usize = 4096;

/// Finds the router for a request.
#[derive(Debug)]
pub struct Index<T> {
    /// By rank: in order of precedence.
    routers: Vec<(Arc<Rule>, T)>,
    forest: Forest,
    exact: HashMap<Box<str>, NodeId, RandomState>,
    wildcard: HashMap<Box<str>, NodeId, RandomState>,
    /// The rules that need no host.
    anywhere: NodeId,
}

impl<T> Index<T> {
    /// Builds the index: higher priority first, then in the order given.
    pub fn build(mut entries: Vec<Entry<T>>) -> Self {
        entries.sort_by_key(|entry| Reverse(entry.priority));
        let mut forest = Forest::default();
        let anywhere = forest.plant();
        let mut index = Self {
            routers: Vec::with_capacity(entries.len()),
            forest,
            exact: HashMap::default(),
            wildcard: HashMap::default(),
            anywhere,
        };
        for entry in entries {
            index.add(entry);
        }
        index.forest.shrink();
        index
    }

    fn add(&mut self, entry: Entry<T>) {
        let rank = u32::try_from(self.routers.len()).expect("fewer than 2^32 routers");
        let Needs { hosts, paths } = entry.rule.needs();
        let host_count = hosts.as_ref().map_or(1, Vec::len);
        let paths = paths.filter(|paths| paths.len() * host_count <= MAX_COMBINATIONS);
        let paths = paths.unwrap_or_else(|| vec![PathNeed::Prefix(String::new())]);
        let roots = match &hosts {
            None => vec![self.anywhere],
            Some(hosts) => hosts.iter().map(|host| self.root(host)).collect(),
        };
        for root in roots {
            for path in &paths {
                match path {
                    PathNeed::Exact(path) => self.forest.insert(root, path, true, rank),
                    PathNeed::Prefix(path) => self.forest.insert(root, path, false, rank),
                }
            }
        }
        self.routers.push((entry.rule, entry.value));
    }

    /// The tree of a needed host.
    fn root(&mut self, host: &HostPattern) -> NodeId {
        let (map, name) = match host {
            HostPattern::Any => return self.anywhere,
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Wildcard(suffix) => (&mut self.wildcard, suffix),
        };
        if let Some(root) = map.get(name.as_str()) {
            return *root;
        }
        let root = self.forest.plant();
        map.insert(name.as_str().into(), root);
        root
    }

    /// The value of the router that gets the request.
    pub fn find(&self, facts: &Facts<'_>) -> Option<&T> {
        let mut accept = |rank: u32| self.routers[rank as usize].0.matches(facts);
        let exact = self.exact.get(facts.host);
        let wildcard = host::parent(facts.host).and_then(|parent| self.wildcard.get(parent));
        let mut best = NONE;
        for root in [exact, wildcard, Some(&self.anywhere)].into_iter().flatten() {
            best = self.forest.find(*root, facts.path, best, &mut accept);
        }
        self.routers.get(best as usize).map(|(_, value)| value)
    }

    /// How many routers there are.
    pub fn len(&self) -> usize {
        self.routers.len()
    }

    /// Whether there is no router.
    pub fn is_empty(&self) -> bool {
        self.routers.is_empty()
    }

    /// The routers in order of precedence.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Rule>, &T)> {
        self.routers.iter().map(|(rule, value)| (rule, value))
    }
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self::build(Vec::new())
    }
}
