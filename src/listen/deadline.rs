//! Coarse deadlines: one clock and one sweep per worker instead of a timer per request.
//!
//! A deadline is armed with a plain store. The worker sweeps its slab every [`SWEEP`] and wakes the tasks whose time
//! has come, so a deadline is met within one sweep after its time and costs nothing while it does not fire.
//!
//! The coarse clock is as old as the last sweep: times that are reckoned from it come up to one sweep early, which is
//! nothing to a timeout of seconds. [`Deadline::arm_after`] asks the real clock: its timeouts may be short.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// How often a worker looks at its deadlines: the precision of every timeout that uses them.
pub const SWEEP: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Slot {
    /// Milliseconds of the worker's clock; 0 is "not armed".
    at: u64,
    fired: bool,
    waker: Option<Waker>,
}

/// A duration in the unit of the workers' clocks; one beyond all measure is far from overflowing when it is added to.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// A worker's coarse clock, for those who may not hold an `Rc`.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    swept: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            swept: AtomicU64::new(1),
        }
    }
}

impl Clock {
    /// Milliseconds since the worker started, as of the last sweep.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.swept.load(Ordering::Relaxed)
    }

    /// Milliseconds since the worker started, as of now: for what begins a time that must not come early, be the last
    /// sweep as old as a process that was stopped for a while makes it.
    #[must_use]
    pub fn exactly_now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }
}

/// All deadlines of one worker, and its coarse clock.
#[derive(Debug)]
pub struct Deadlines {
    clock: Arc<Clock>,
    slots: RefCell<Slab<Slot>>,
}

impl Deadlines {
    /// A clock that starts at 1 ms: 0 means "never".
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            clock: Arc::default(),
            slots: RefCell::new(Slab::new()),
        })
    }

    /// Milliseconds since the worker started, as of the last sweep.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// The clock alone.
    #[must_use]
    pub fn clock(&self) -> Arc<Clock> {
        Arc::clone(&self.clock)
    }

    /// A deadline that is not armed yet.
    #[must_use]
    pub fn insert(self: &Rc<Self>) -> Deadline {
        let key = self.slots.borrow_mut().insert(Slot::default());
        Deadline {
            set: Rc::clone(self),
            key,
        }
    }

    /// Lets `ms` pass on the coarse clock at once: tests that wait for real see what else the machine does.
    #[cfg(test)]
    pub fn pass(&self, ms: u64) {
        self.clock.swept.fetch_add(ms, Ordering::Relaxed);
    }

    /// A worker's that started `ago`, and has not swept since.
    #[cfg(test)]
    #[must_use]
    pub fn started(ago: Duration) -> Rc<Self> {
        let start = Instant::now().checked_sub(ago).expect("a moment");
        let swept = AtomicU64::new(1);
        Rc::new(Self {
            clock: Arc::new(Clock { start, swept }),
            slots: RefCell::new(Slab::new()),
        })
    }

    fn exactly_now(&self) -> u64 {
        self.clock.exactly_now()
    }

    /// Moves the clock and wakes whoever is late. Called by the worker's sweep.
    pub fn sweep(&self) {
        let now = self.exactly_now();
        self.clock.swept.store(now, Ordering::Relaxed);
        let mut woken = Vec::new();
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if slot.at != 0 && now >= slot.at {
                slot.at = 0;
                slot.fired = true;
                woken.extend(slot.waker.take());
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }
}

/// One deadline; leaves its worker's set when dropped.
#[derive(Debug)]
pub struct Deadline {
    set: Rc<Deadlines>,
    key: usize,
}

impl Deadline {
    /// Fires at `at` milliseconds of the worker's clock.
    pub fn arm(&self, at: u64) {
        let mut slots = self.set.slots.borrow_mut();
        let slot = &mut slots[self.key];
        slot.at = at.max(1);
        slot.fired = false;
    }

    /// Fires `after` from now, never earlier.
    pub fn arm_after(&self, after: Duration) {
        let after = millis(after);
        self.arm(self.set.exactly_now().saturating_add(after).saturating_add(1));
    }

    /// Never fires, until armed again.
    pub fn disarm(&self) {
        let mut slots = self.set.slots.borrow_mut();
        let slot = &mut slots[self.key];
        slot.at = 0;
        slot.fired = false;
    }

    /// Ready once the deadline has fired; else the task is woken when it does.
    pub fn poll_fired(&self, cx: &Context<'_>) -> Poll<()> {
        let mut slots = self.set.slots.borrow_mut();
        let slot = &mut slots[self.key];
        if slot.fired {
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => slot.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.set.slots.borrow_mut().remove(self.key);
    }
}

/// Runs `future`, but not longer than `limit`; `None` when the time ran out. A zero limit is no limit.
pub async fn within<F: Future>(deadlines: &Rc<Deadlines>, limit: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    if limit.is_zero() {
        return Some(future.await);
    }
    let mut deadline = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(out) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(out));
        }
        let deadline = deadline.get_or_insert_with(|| {
            let d = deadlines.insert();
            d.arm_after(limit);
            d
        });
        deadline.poll_fired(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_once_its_time_has_come_and_frees_its_slot() {
        let set = Deadlines::new();
        let deadline = set.insert();
        let cx = Context::from_waker(Waker::noop());
        deadline.arm(u64::MAX);
        set.sweep();
        assert!(deadline.poll_fired(&cx).is_pending());
        deadline.arm(1);
        set.sweep();
        assert!(deadline.poll_fired(&cx).is_ready());
        drop(deadline);
        assert!(set.slots.borrow().is_empty());
    }

    #[test]
    fn a_short_time_is_not_cut_by_the_age_of_the_coarse_clock() {
        let set = Deadlines::new();
        let old = Instant::now();
        while old.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        // No sweep since the start: the coarse clock still says 1 ms.
        let deadline = set.insert();
        deadline.arm_after(Duration::from_secs(10));
        assert!(set.slots.borrow()[deadline.key].at >= 10_021);
        deadline.arm_after(Duration::MAX);
        set.sweep();
        assert!(deadline.poll_fired(&Context::from_waker(Waker::noop())).is_pending());
    }
}
