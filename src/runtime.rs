//! State that outlives snapshots, by identity: what a reload must not touch.
//!
//! A snapshot asks for its state while it is compiled and gets the object that the snapshot before it had, as long as
//! identity and type are the same. What two generations in a row did not ask for is dropped.
//! The lock here is taken by the control plane only; the data plane holds the `Arc`s.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many generations state stays without anybody asking for it.
const KEEP: u64 = 2;

struct Held {
    object: Arc<dyn Any + Send + Sync>,
    generation: u64,
}

/// The registry of long-lived state.
#[derive(Default)]
pub struct Runtime {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    generation: u64,
    held: HashMap<(&'static str, String), Held>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Runtime {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of `kind` with identity `key`, made by `make` if there is none yet.
    ///
    /// `key` holds everything that makes the state meaningful, settings included where a change of them makes the old
    /// state worthless. State of another type under the same key is replaced.
    pub fn state<T: Send + Sync + 'static>(
        &self,
        kind: &'static str,
        key: impl Into<String>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = inner.generation;
        let id = (kind, key.into());
        if let Some(held) = inner.held.get_mut(&id)
            && let Ok(object) = Arc::clone(&held.object).downcast::<T>()
        {
            held.generation = generation;
            return object;
        }
        let object = Arc::new(make());
        inner.held.insert(
            id,
            Held {
                object: object.clone(),
                generation,
            },
        );
        object
    }

    /// A new generation begins: called before a compile whose snapshot is to be served.
    pub fn next_generation(&self) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.generation += 1;
        inner.generation
    }

    /// Drops what the last generations did not ask for.
    pub fn sweep(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = inner.generation.saturating_sub(KEEP);
        inner.held.retain(|_, held| held.generation > oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn state_survives_generations_that_ask_for_it_and_goes_when_none_does() {
        let runtime = Runtime::new();
        runtime.next_generation();
        runtime
            .state("counter", "a", || AtomicU32::new(0))
            .store(7, Ordering::Relaxed);
        for _ in 0..5 {
            runtime.next_generation();
            assert_eq!(
                runtime
                    .state("counter", "a", || AtomicU32::new(0))
                    .load(Ordering::Relaxed),
                7
            );
            runtime.sweep();
        }
        for _ in 0..=KEEP {
            runtime.next_generation();
            runtime.sweep();
        }
        assert_eq!(
            runtime
                .state("counter", "a", || AtomicU32::new(0))
                .load(Ordering::Relaxed),
            0
        );
    }
}
