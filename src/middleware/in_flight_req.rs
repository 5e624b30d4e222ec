//! `inFlightReq`: so many requests at a time from one source.
//!
//! Invariants: a permit is given back when the answer's body has ended or the request was dropped, whichever way it
//! went; a source without requests takes no memory; numbers belong to one use of the middleware, in one router, as in
//! Traefik, and outlive reloads, also ones that change the amount.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;

use super::source::{Criterion, Source};
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::InFlightReq as Config;
use crate::http::body::ResponseBody;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

const SHARDS: usize = 64;

/// The middleware.
#[derive(Debug)]
pub struct InFlightReq {
    /// As configured, for the answer; less than 1 lets nothing pass.
    amount: i64,
    criterion: Criterion,
    running: Arc<Running>,
}

/// Builds it from its configuration.
///
/// # Errors
/// A `sourceCriterion` that cannot be used.
pub fn build(config: &Config, context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    let criterion = Criterion::new(
        config.source_criterion.as_ref(),
        Criterion::Host,
        "inFlightReq.sourceCriterion",
    )?;
    if config.amount < 1 {
        context
            .warnings
            .push("inFlightReq: without an `amount` of at least 1, each request is refused".to_owned());
    }
    let key = format!("{} {} {criterion:?}", context.router, context.name);
    let running = context.runtime.state("inFlightReq", key, Running::default);
    Ok(Arc::new(InFlightReq {
        amount: config.amount,
        criterion,
        running,
    }))
}

impl Middleware for InFlightReq {
    fn handle<'a>(&'a self, request: Request, exchange: &'a mut Exchange, next: Next<'a>) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let amount = usize::try_from(self.amount).unwrap_or(0);
            let permit = self
                .criterion
                .with_source(request.headers(), exchange.peer_ip(), |source| {
                    Running::admit(&self.running, source, amount)
                });
            let Some(permit) = permit else { return self.refuse() };
            exchange.hold(permit);
            next.run(request, exchange).await
        })
    }
}

impl InFlightReq {
    fn refuse(&self) -> Response {
        let body = ResponseBody::full(format!("max connections reached: {}", self.amount));
        error::with_body(StatusCode::TOO_MANY_REQUESTS, body)
    }
}

/// Requests that run, by the key of their source. No entry is 0.
type Counts = HashMap<Box<[u8]>, usize>;

/// How many requests of each source are running.
#[derive(Debug)]
pub struct Running {
    hasher: RandomState,
    shards: Box<[Mutex<Counts>]>,
}

impl Default for Running {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Running {
    /// Lets a request of `source` in if fewer than `amount` are running.
    #[must_use]
    pub fn admit(running: &Arc<Self>, source: &Source<'_>, amount: usize) -> Option<Permit> {
        source.with_key(|key| {
            let mut shard = running.shard(key);
            match shard.get_mut(key) {
                Some(count) if *count >= amount => return None,
                Some(count) => *count += 1,
                None if amount == 0 => return None,
                None => drop(shard.insert(key.into(), 1)),
            }
            Some(Permit {
                running: Arc::clone(running),
                key: key.into(),
            })
        })
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Counts> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request that runs; dropping it makes room for the next one.
#[derive(Debug)]
pub struct Permit {
    running: Arc<Running>,
    key: Box<[u8]>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shard = self.running.shard(&self.key);
        if let Some(count) = shard.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted_apart() {
        let running = Arc::new(Running::default());
        let admit = |source: &str, amount| Running::admit(&running, &Source::Text(source.as_bytes()), amount);
        let first = admit("a", 2).unwrap();
        let second = admit("a", 2).unwrap();
        assert!(admit("a", 2).is_none());
        assert!(admit("a", 3).is_some(), "a reload that raises the amount counts on");
        let other = admit("b", 2).unwrap();
        drop(first);
        assert!(admit("a", 2).is_some());
        drop((second, other));
        assert!(admit("c", 0).is_none());
        assert!(running.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn threads_never_pass_the_amount() {
        let running = Arc::new(Running::default());
        let at_once = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Some(permit) = Running::admit(&running, &Source::Text(b"x"), 3) {
                            assert!(at_once.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3);
                            at_once.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!(running.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn the_refusal_names_the_amount() {
        let middleware = InFlightReq {
            amount: 3,
            criterion: Criterion::Host,
            running: Arc::default(),
        };
        let response = middleware.refuse();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(matches!(response.into_body(), ResponseBody::Full(body) if body == "max connections reached: 3"));
    }
}
