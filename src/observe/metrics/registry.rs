//! Which scopes exist, and where their cells are. Touched by the control thread only.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::LINGER;
use super::cells::ScopeId;

/// What a scope is. The order is that of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Labels {
    EntryPoint(String),
    Router {
        router: String,
        service: String,
    },
    Service(String),
    /// A child of a weighted service.
    Variant {
        service: String,
        variant: String,
    },
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EntryPoint(name) => write!(f, "entry point {name}"),
            Self::Router { router, service } => write!(f, "router {router} with service {service}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Variant { service, variant } => write!(f, "variant {variant} of service {service}"),
        }
    }
}

#[derive(Debug)]
struct Scope {
    /// `None` while the place is free.
    labels: Option<Labels>,
    epoch: u32,
    asked: bool,
    gone_since: Option<Instant>,
}

/// Places of scopes.
#[derive(Debug, Default)]
pub(super) struct Registry {
    scopes: Vec<Scope>,
    places: HashMap<Labels, u32>,
    free: Vec<u32>,
    weights: Weights,
    /// Those of the snapshot that is being compiled.
    next_weights: Weights,
}

/// Weights by weighted service and child.
pub(super) type Weights = BTreeMap<(String, String), i64>;

impl Registry {
    /// The place of a scope, made where there is none; it counts as asked for in this generation.
    pub(super) fn resolve(&mut self, labels: Labels) -> ScopeId {
        if let Some(index) = self.places.get(&labels) {
            let scope = &mut self.scopes[*index as usize];
            scope.asked = true;
            scope.gone_since = None;
            return ScopeId {
                index: *index,
                epoch: scope.epoch,
            };
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.scopes.push(Scope {
                labels: None,
                epoch: 0,
                asked: false,
                gone_since: None,
            });
            self.scopes.len() as u32 - 1
        });
        self.places.insert(labels.clone(), index);
        let scope = &mut self.scopes[index as usize];
        *scope = Scope {
            labels: Some(labels),
            epoch: scope.epoch + 1,
            asked: true,
            gone_since: None,
        };
        ScopeId {
            index,
            epoch: scope.epoch,
        }
    }

    /// What was not asked for since the last call is gone from now on.
    pub(super) fn next_generation(&mut self, now: Instant) {
        for scope in &mut self.scopes {
            let permanent = matches!(scope.labels, Some(Labels::EntryPoint(_)));
            if !std::mem::take(&mut scope.asked) && !permanent && scope.labels.is_some() {
                scope.gone_since.get_or_insert(now);
            }
        }
        self.weights = std::mem::take(&mut self.next_weights);
        self.sweep(now);
    }

    /// A child of a weighted service has this weight in the next generation; one that stands there twice the sum.
    pub(super) fn weigh(&mut self, service: &str, variant: &str, weight: i64) {
        let key = (service.to_owned(), variant.to_owned());
        let sum = self.next_weights.entry(key).or_default();
        *sum = sum.saturating_add(weight);
    }

    /// The weights of the generation that is served.
    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Frees the places of what went long ago.
    pub(super) fn sweep(&mut self, now: Instant) {
        for (index, scope) in self.scopes.iter_mut().enumerate() {
            let over = scope
                .gone_since
                .is_some_and(|since| now.saturating_duration_since(since) >= LINGER);
            if over && let Some(labels) = scope.labels.take() {
                scope.gone_since = None;
                self.places.remove(&labels);
                self.free.push(index as u32);
            }
        }
    }

    /// All scopes that exist, in no order.
    pub(super) fn scopes(&self) -> impl Iterator<Item = (ScopeId, &Labels)> {
        self.scopes.iter().enumerate().filter_map(|(index, scope)| {
            let id = ScopeId {
                index: index as u32,
                epoch: scope.epoch,
            };
            Some((id, scope.labels.as_ref()?))
        })
    }

    /// The labels of a scope; none if its place is free or has another tenant.
    pub(super) fn labels(&self, id: ScopeId) -> Option<&Labels> {
        let scope = self.scopes.get(id.index as usize)?;
        scope.labels.as_ref().filter(|_| scope.epoch == id.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Labels {
        Labels::Service(name.to_owned())
    }

    #[test]
    fn a_scope_lingers_then_goes_and_may_come_back_in_time() {
        let mut registry = Registry::default();
        let now = Instant::now();
        let a = registry.resolve(service("a"));
        let web = registry.resolve(Labels::EntryPoint("web".to_owned()));
        registry.next_generation(now);
        assert_eq!(registry.resolve(service("a")), a);
        registry.next_generation(now);
        registry.next_generation(now);
        registry.sweep(now + LINGER / 2);
        assert!(registry.labels(a).is_some());
        assert_eq!(registry.resolve(service("a")), a, "back in time: the series goes on");
        registry.sweep(now + LINGER * 2);
        assert!(registry.labels(a).is_some());
        registry.next_generation(now);
        registry.next_generation(now);
        registry.sweep(now + LINGER);
        assert!(registry.labels(a).is_none());
        assert!(registry.labels(web).is_some(), "entry points stay");
        let b = registry.resolve(service("b"));
        assert_eq!((b.index, b.epoch), (a.index, a.epoch + 1));
        assert_ne!(registry.resolve(service("a")).index, b.index);
    }
}
