//! The caps on combinations of labels: a server chooses its codes, a client its method and protocol, and neither may
//! make series without end.
//!
//! All workers share one set of combinations for each scope, so that they agree on which have series of their own. A
//! worker asks only when it meets a combination that it has no cells for; once a scope is full, its set changes no more
//! and the worker keeps it, so that a flood of new combinations takes no lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use super::cells::ScopeId;
use super::header_labels::HeaderSet;
use super::labels::Key;
use super::lock;
use super::registry::Labels;

/// Most combinations of code, method and protocol in one scope. All that make sense for a service are a few dozen.
const MOST: usize = 200;
/// Most combinations of those with the values of header labels in one scope.
const MOST_WITH_HEADERS: usize = 1000;

/// A set that changes no more; sorted.
pub(super) type Frozen<K> = Arc<[K]>;

/// A key with the values of header labels.
pub(super) type Headed = (Key, HeaderSet);

#[derive(Debug)]
enum Set<K> {
    Open(BTreeSet<K>),
    Full(Frozen<K>),
}

impl<K: Copy + Ord> Set<K> {
    /// The frozen set where it is full and `key` came too late or is found in it; `None` where `key` is in from now on.
    fn admit(&mut self, key: K, most: usize, warn: impl FnOnce()) -> Option<Frozen<K>> {
        if let Self::Open(keys) = self {
            if keys.contains(&key) || keys.len() < most {
                keys.insert(key);
                return None;
            }
            *self = Self::Full(keys.iter().copied().collect());
            warn();
        }
        match self {
            Self::Open(_) => None,
            Self::Full(keys) => Some(Arc::clone(keys)),
        }
    }
}

#[derive(Debug)]
struct Scope {
    /// For the warning.
    name: String,
    keys: Set<Key>,
    headed: Set<Headed>,
}

/// The combinations of all scopes.
#[derive(Debug, Default)]
pub(super) struct Caps {
    scopes: Mutex<HashMap<ScopeId, Scope>>,
}

impl Caps {
    /// A scope exists from now on.
    pub(super) fn add(&self, id: ScopeId, labels: &Labels) {
        lock(&self.scopes).entry(id).or_insert_with(|| Scope {
            name: labels.to_string(),
            keys: Set::Open(BTreeSet::new()),
            headed: Set::Open(BTreeSet::new()),
        });
    }

    /// Forgets the scopes that `stays` does not hold for.
    pub(super) fn retain(&self, stays: impl Fn(ScopeId) -> bool) {
        lock(&self.scopes).retain(|id, _| stays(*id));
    }

    /// Asks for series of `key`. `None`: it has some; else the set of all that have.
    pub(super) fn admit(&self, id: ScopeId, key: Key) -> Option<Frozen<Key>> {
        let mut scopes = lock(&self.scopes);
        // A scope that is gone is shown no more: it need not grow.
        let Some(Scope { name, keys, .. }) = scopes.get_mut(&id) else {
            return Some(Arc::from([]));
        };
        keys.admit(key, MOST, || {
            tracing::warn!(
                "metrics: {name} has {MOST} combinations of code, method and protocol: requests with further ones are \
                 counted under code=\"other\""
            );
        })
    }

    /// The same for a key with the values of header labels.
    pub(super) fn admit_headed(&self, id: ScopeId, key: Headed) -> Option<Frozen<Headed>> {
        let mut scopes = lock(&self.scopes);
        let Some(Scope { name, headed, .. }) = scopes.get_mut(&id) else {
            return Some(Arc::from([]));
        };
        headed.admit(key, MOST_WITH_HEADERS, || {
            tracing::warn!(
                "metrics: {name} has {MOST_WITH_HEADERS} combinations of code, method, protocol and header labels: \
                 requests with further ones are counted under \"other\" in the header labels"
            );
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_changes_no_more_and_warns_once() {
        let mut set = Set::Open(BTreeSet::new());
        let mut warnings = 0;
        for key in [3, 1, 3, 2, 1, 4, 5, 2] {
            let full = set.admit(key, 3, || warnings += 1);
            match full {
                None => assert!(warnings == 0 && key < 4),
                Some(keys) => assert_eq!(*keys, [1, 2, 3]),
            }
        }
        assert_eq!(warnings, 1);
    }

    #[test]
    fn a_scope_that_is_gone_admits_nothing() {
        let caps = Caps::default();
        let id = ScopeId { index: 0, epoch: 1 };
        let key = Key::OTHER;
        assert_eq!(caps.admit(id, key).as_deref(), Some(&[][..]));
        caps.add(id, &Labels::EntryPoint("web".to_owned()));
        assert!(caps.admit(id, key).is_none());
        caps.retain(|_| false);
        assert!(caps.admit(id, key).is_some());
    }
}
