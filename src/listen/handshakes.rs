//! How many TLS handshakes a worker has under way at a time.
//!
//! A handshake holds up to 64 KiB of what its client has sent, before anything is known of the client. So there is room
//! for a number of them; who comes then waits, with its bytes in the kernel. While somebody waits, handshakes that have
//! taken long are ended: whoever opens connections and says nothing, or says it byte by byte, takes nobody's place for
//! long. Without that, a handshake has the time until the first request's head (`headerTimeout`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::connection::{ConnState, Verdict};

/// Handshakes of one worker at a time: 256 MiB if each client sends as much as it can, some 40 MiB with ordinary hellos.
/// Even if a handshake takes two seconds, a core cannot compute the 2000 a second that this leaves room for and serve too.
const ROOM: usize = 4096;
/// How long a handshake may take while others wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// Handshakes that are ended for others are told of at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A worker's handshakes.
#[derive(Debug)]
pub struct Handshakes {
    room: Semaphore,
    waiting: Cell<usize>,
    next: Cell<u64>,
    /// By number, so the oldest comes first.
    running: RefCell<BTreeMap<u64, (Instant, Arc<ConnState>)>>,
    logged: Cell<Option<Instant>>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Handshakes {
    fn with_room(room: usize) -> Self {
        Self {
            room: Semaphore::new(room),
            waiting: Cell::new(0),
            next: Cell::new(0),
            running: RefCell::default(),
            logged: Cell::new(None),
        }
    }

    /// Waits for room for the handshake of this connection, and holds it until the answer is dropped.
    pub async fn begin(&self, state: &Arc<ConnState>) -> Running<'_> {
        let permit = match self.room.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let _waiting = Waiting::new(&self.waiting);
                // It is closed by nobody, so there is no error.
                self.room.acquire().await.ok()
            }
        };
        let number = self.next.get();
        self.next.set(number + 1);
        let mut running = self.running.borrow_mut();
        running.insert(number, (Instant::now(), Arc::clone(state)));
        Running {
            handshakes: self,
            number,
            _permit: permit,
        }
    }

    /// Ends handshakes that take long while others wait for room: as many as wait, the oldest first. Called by the
    /// worker's sweep.
    pub fn sweep(&self, now: Instant) {
        let waiting = self.waiting.get();
        if waiting == 0 {
            return;
        }
        let running = self.running.borrow();
        let long = running
            .values()
            .take_while(|(since, _)| now.saturating_duration_since(*since) >= PATIENCE)
            .take(waiting);
        let mut ended = 0;
        for (_, state) in long {
            state.end(Verdict::Late);
            ended += 1;
        }
        let quiet = |at: Instant| now.saturating_duration_since(at) < LOG_EVERY;
        if ended > 0 && !self.logged.get().is_some_and(quiet) {
            self.logged.set(Some(now));
            tracing::warn!(
                "{waiting} clients wait for a TLS handshake: {ended} handshakes that took longer than {} s are ended",
                PATIENCE.as_secs()
            );
        }
    }
}

/// Somebody who waits for room, until it is dropped.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A handshake that is under way, until it is dropped.
#[derive(Debug)]
pub struct Running<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.handshakes.running.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use ::http::HeaderValue;

    use super::*;
    use crate::config::static_config::EntryPoint as Settings;
    use crate::listen::deadline::Deadlines;
    use crate::listen::entry_point::EntryPoint;
    use crate::observe::metrics::{Metrics, MetricsOptions};

    fn connection() -> Arc<ConnState> {
        let series = Metrics::new(MetricsOptions::default()).entry_point("web");
        let host = HeaderValue::from_static("here");
        let entry_point = EntryPoint::new(0, "web", &Settings::default(), host, series).unwrap();
        ConnState::new(&entry_point, Deadlines::new().clock(), 0)
    }

    fn is_ended(state: &ConnState) -> bool {
        state.poll(&Context::from_waker(Waker::noop())) == Verdict::Late
    }

    #[test]
    fn who_takes_long_makes_room_for_who_waits_and_for_nobody_else() {
        let cx = &mut Context::from_waker(Waker::noop());
        let handshakes = Handshakes::with_room(2);
        let states = [connection(), connection(), connection()];
        let mut running = Vec::new();
        for state in &states[..2] {
            match pin!(handshakes.begin(state)).poll(cx) {
                Poll::Ready(handshake) => running.push(handshake),
                Poll::Pending => panic!("there is room"),
            }
        }
        let late = Instant::now() + PATIENCE;
        handshakes.sweep(late);
        assert!(!states.iter().any(|state| is_ended(state)), "nobody waits");
        {
            let mut third = pin!(handshakes.begin(&states[2]));
            assert!(third.as_mut().poll(cx).is_pending());
            handshakes.sweep(Instant::now());
            assert!(!states.iter().any(|state| is_ended(state)), "it is early");
            handshakes.sweep(late);
            assert!(is_ended(&states[0]) && !is_ended(&states[1]), "one waits, one goes");
            drop(running.remove(0));
            assert!(third.as_mut().poll(cx).is_ready());
        }
        let fourth = connection();
        {
            let _room = running.remove(0);
            let mut gone = pin!(handshakes.begin(&fourth));
            assert!(gone.as_mut().poll(cx).is_ready(), "the third has ended");
            assert_eq!(handshakes.waiting.get(), 0);
        }
        assert!(handshakes.running.borrow().is_empty());
        assert_eq!(handshakes.room.available_permits(), 2);
    }

    #[test]
    fn who_leaves_does_not_wait_any_more() {
        let cx = &mut Context::from_waker(Waker::noop());
        let handshakes = Handshakes::with_room(0);
        {
            let state = connection();
            let mut waits = pin!(handshakes.begin(&state));
            assert!(waits.as_mut().poll(cx).is_pending());
            assert_eq!(handshakes.waiting.get(), 1);
        }
        assert_eq!(handshakes.waiting.get(), 0);
    }
}
