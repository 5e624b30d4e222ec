//! What is known of a connection: for its requests ([`ConnectionInfo`]) and for the worker's sweep ([`ConnState`]).

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;
use std::time::Instant;

use ::http::HeaderValue;
use atomic_waker::AtomicWaker;

use super::deadline::{Clock, millis};
use super::entry_point::EntryPoint;
use crate::tls::server::TlsInfo;

/// What the requests of a connection share.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The peer; IPv4-mapped IPv6 addresses as IPv4.
    pub peer: SocketAddr,
    /// The peer's address and port as text, for the log.
    pub peer_address: String,
    /// The peer's IP as text.
    pub peer_text: HeaderValue,
    /// Where it came in.
    pub entry_point: Arc<EntryPoint>,
    /// TLS, if it is.
    pub tls: Option<TlsInfo>,
    /// When it was accepted.
    pub since: Instant,
    /// Requests so far.
    pub requests: Cell<u64>,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Between two requests, or before the first.
    Idle = 0,
    /// A head is arriving.
    Head = 1,
    /// A request is being answered.
    Active = 2,
}

/// Why a connection is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It may go on.
    None = 0,
    /// A deadline passed.
    Late = 1,
    /// The peer closed its side.
    Gone = 2,
    /// The drain's time is over.
    Aborted = 3,
}

/// What the bytes, the requests and the sweep of a connection tell each other. `Sync`, since hyper may hand the bytes
/// to an upgraded connection; in fact only its worker touches it.
#[derive(Debug)]
pub struct ConnState {
    clock: Arc<Clock>,
    phase: AtomicU8,
    /// In milliseconds of the clock; 0 is none.
    deadline: AtomicU64,
    /// Since when requests run; 0 while none does.
    active_since: AtomicU64,
    active: AtomicUsize,
    /// Since when a write waits for the peer; 0 while none does.
    stalled_since: AtomicU64,
    verdict: AtomicU8,
    draining: AtomicBool,
    /// When the drain ends it; 0 is never.
    abort_at: AtomicU64,
    multiplexed: AtomicBool,
    /// Bytes of an HTTP/2 client's preface so far.
    greeted: AtomicUsize,
    waker: AtomicWaker,
    /// An answer's bytes may still be in hyper's buffer.
    unflushed: AtomicBool,
    has_interim: AtomicBool,
    /// Interim answers (1xx) that are to go out before the answer.
    interim: Mutex<Vec<u8>>,
    header_timeout: u64,
    idle_timeout: u64,
    write_timeout: u64,
    grace: u64,
    fd: RawFd,
}

/// Longest wait for the rest of a head once the drain has begun, in milliseconds.
const DRAINING_HEAD: u64 = 2_000;
/// Length of HTTP/2's connection preface with the head of the SETTINGS frame that ends it (RFC 9113, 3.4).
const PREFACE: usize = 24 + 9;

impl ConnState {
    /// A connection that was just accepted: its first head is awaited.
    #[must_use]
    pub fn new(entry_point: &EntryPoint, clock: Arc<Clock>, fd: RawFd) -> Arc<Self> {
        let header_timeout = millis(entry_point.header_timeout);
        let deadline = if header_timeout == 0 {
            0
        } else {
            clock.exactly_now().saturating_add(header_timeout)
        };
        Arc::new(Self {
            clock,
            phase: AtomicU8::new(Phase::Head as u8),
            deadline: AtomicU64::new(deadline),
            active_since: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            stalled_since: AtomicU64::new(0),
            verdict: AtomicU8::new(0),
            draining: AtomicBool::new(false),
            abort_at: AtomicU64::new(0),
            multiplexed: AtomicBool::new(false),
            greeted: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            unflushed: AtomicBool::new(false),
            has_interim: AtomicBool::new(false),
            interim: Mutex::default(),
            header_timeout,
            idle_timeout: millis(entry_point.idle_timeout),
            write_timeout: millis(entry_point.write_timeout),
            grace: millis(entry_point.life_cycle.grace_time_out),
            fd,
        })
    }

    /// The connection speaks HTTP/2: it notices by itself when its peer goes. The deadline for its first head holds until
    /// its preface is through.
    pub fn set_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    /// `n` bytes arrived: between two requests of HTTP/1, they begin a head.
    pub fn on_read(&self, n: usize) {
        let phase = self.phase.load(Ordering::Relaxed);
        if self.multiplexed.load(Ordering::Relaxed) {
            if phase == Phase::Head as u8 && self.greeted.fetch_add(n, Ordering::Relaxed) + n >= PREFACE {
                self.set(Phase::Idle, self.idle_timeout);
            }
        } else if phase == Phase::Idle as u8 {
            self.set(Phase::Head, self.header_timeout);
        }
    }

    /// A write waits for the peer, or does not any more.
    pub fn on_write(&self, stalled: bool) {
        if stalled {
            if self.stalled_since.load(Ordering::Relaxed) == 0 {
                self.stalled_since.store(self.clock.now(), Ordering::Relaxed);
            }
        } else if self.stalled_since.load(Ordering::Relaxed) != 0 {
            self.stalled_since.store(0, Ordering::Relaxed);
        }
    }

    /// An answer goes into hyper's buffer.
    pub fn on_answer(&self) {
        self.unflushed.store(true, Ordering::Relaxed);
    }

    /// hyper's buffer is empty.
    pub fn on_flush(&self) {
        self.unflushed.store(false, Ordering::Relaxed);
    }

    /// Queues an interim answer, as bytes, to be written before the answer to the request that runs. It is dropped where
    /// the answer before it (to a pipelined request) may not be out yet: hyper's buffer cannot be looked into.
    pub fn push_interim(&self, bytes: &[u8]) {
        const MOST: usize = 64 * 1024;
        if self.unflushed.load(Ordering::Relaxed) || self.multiplexed.load(Ordering::Relaxed) {
            return;
        }
        let mut interim = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        if interim.len() + bytes.len() <= MOST {
            interim.extend_from_slice(bytes);
            self.has_interim.store(true, Ordering::Relaxed);
        }
    }

    /// Takes what [`Self::push_interim`] queued, if there is some.
    pub fn take_interim(&self) -> Option<Vec<u8>> {
        self.has_interim
            .swap(false, Ordering::Relaxed)
            .then(|| std::mem::take(&mut *self.interim.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn set(&self, phase: Phase, timeout: u64) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        let at = if timeout == 0 {
            0
        } else {
            self.clock.now().saturating_add(timeout)
        };
        self.deadline.store(at, Ordering::Relaxed);
    }

    /// A request begins.
    #[must_use]
    pub fn start(self: &Arc<Self>) -> Active {
        if self.active.fetch_add(1, Ordering::Relaxed) == 0 {
            self.active_since.store(self.clock.now(), Ordering::Relaxed);
            self.set(Phase::Active, self.write_timeout);
        }
        Active(Arc::clone(self))
    }

    /// Registers the connection's task and says whether it must end.
    pub fn poll(&self, cx: &Context<'_>) -> Verdict {
        self.waker.register(cx.waker());
        match self.verdict.load(Ordering::Relaxed) {
            0 => Verdict::None,
            1 => Verdict::Late,
            2 => Verdict::Gone,
            _ => Verdict::Aborted,
        }
    }

    /// Whether the connection is to close after what it is doing.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Asks the connection to close after what it is doing; its entry point's `graceTimeOut` begins. One whose client has
    /// not finished a head must hurry: a connection that is merely open would hold the drain up to its end.
    pub fn drain(&self) {
        // After a pause of the process, by the clock of the last sweep all these times would be over already, and whoever
        // waits with a request in the socket would be reset.
        let now = self.clock.exactly_now();
        let at = if self.grace == 0 {
            0
        } else {
            now.saturating_add(self.grace)
        };
        self.abort_at.store(at, Ordering::Relaxed);
        self.draining.store(true, Ordering::Relaxed);
        if self.phase.load(Ordering::Relaxed) == Phase::Head as u8 {
            let deadline = self.deadline.load(Ordering::Relaxed);
            let hurried = now.saturating_add(DRAINING_HEAD);
            self.deadline.store(
                if deadline == 0 { hurried } else { deadline.min(hurried) },
                Ordering::Relaxed,
            );
        }
        self.waker.wake();
    }

    /// Asks an HTTP/2 connection to take no more requests; those that run have the time that they need.
    pub fn retire(&self) {
        if !self.draining.swap(true, Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// Ends the connection.
    pub fn end(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Ends the connection if a deadline passed.
    pub fn check(&self) {
        let now = self.clock.now();
        let deadline = self.deadline.load(Ordering::Relaxed);
        let stalled = self.stalled_since.load(Ordering::Relaxed);
        let late = deadline != 0 && now >= deadline;
        if late || (stalled != 0 && self.idle_timeout != 0 && now >= stalled.saturating_add(self.idle_timeout)) {
            self.end(Verdict::Late);
        }
        let abort_at = self.abort_at.load(Ordering::Relaxed);
        if abort_at != 0 && now >= abort_at {
            self.end(Verdict::Aborted);
        }
    }

    /// The socket whose peer is to be watched: a request of an HTTP/1 connection has been running for a while.
    #[must_use]
    pub fn watched(&self) -> Option<RawFd> {
        let since = self.active_since.load(Ordering::Relaxed);
        let watched = since != 0 && since < self.clock.now() && !self.multiplexed.load(Ordering::Relaxed);
        watched.then_some(self.fd)
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Active(Arc<ConnState>);

impl Active {
    /// The request is answered, and only the rest of its body is still read: a client that closes its side now is not
    /// gone.
    pub fn unwatch(&self) {
        self.0.active_since.store(0, Ordering::Relaxed);
    }

    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<ConnState> {
        &self.0
    }

    /// Whether the connection is to close after this request.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.is_draining()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let state = &self.0;
        if state.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.active_since.store(0, Ordering::Relaxed);
            state.set(Phase::Idle, state.idle_timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::static_config::EntryPoint as Settings;
    use crate::listen::deadline::Deadlines;
    use crate::observe::metrics::{Metrics, MetricsOptions};

    const HEADER: u64 = 60_000;
    const IDLE: u64 = 240_000;
    /// How long the worker has stood still when a connection comes: longer than any deadline.
    const PAUSE: Duration = Duration::from_secs(600);

    /// A fresh connection and the clock that it looks at.
    fn connection(write_timeout: u64) -> (Arc<ConnState>, std::rc::Rc<Deadlines>) {
        let mut settings = Settings::default();
        let timeouts = &mut settings.transport.responding_timeouts;
        timeouts.header_timeout = Duration::from_millis(HEADER);
        timeouts.idle_timeout = Duration::from_millis(IDLE);
        timeouts.write_timeout = Duration::from_millis(write_timeout);
        let series = Metrics::new(MetricsOptions::default()).entry_point("web");
        let entry_point = EntryPoint::new(0, "web", &settings, HeaderValue::from_static("here"), series);
        let deadlines = Deadlines::started(PAUSE);
        let state = ConnState::new(&entry_point.expect("an entry point"), deadlines.clock(), 0);
        deadlines.sweep();
        (state, deadlines)
    }

    /// Whether the connection is ended once `ms` more have passed.
    fn ends_after(state: &ConnState, deadlines: &Deadlines, ms: u64) -> bool {
        deadlines.pass(ms);
        state.check();
        state.poll(&Context::from_waker(std::task::Waker::noop())) == Verdict::Late
    }

    #[test]
    fn the_first_head_and_each_later_one_have_their_deadline() {
        let (state, clock) = connection(0);
        assert!(ends_after(&state, &clock, HEADER + 1), "nothing came");
        let (state, clock) = connection(0);
        drop(state.start());
        assert!(!ends_after(&state, &clock, HEADER + 1), "between two requests");
        state.on_read(1);
        assert!(ends_after(&state, &clock, HEADER + 1), "a head that does not end");
    }

    #[test]
    fn times_begin_now_however_long_the_worker_stood_still() {
        let (state, clock) = connection(0);
        assert!(!ends_after(&state, &clock, 0), "it has just been accepted");
        let grace = state.grace;
        state.drain();
        assert!(
            !ends_after(&state, &clock, DRAINING_HEAD / 2),
            "its head may be in the socket"
        );
        assert!(
            ends_after(&state, &clock, grace - DRAINING_HEAD),
            "the head does not come"
        );
        assert!(grace > DRAINING_HEAD);
    }

    #[test]
    fn a_running_request_has_none_but_write_timeout_and_then_the_connection_idles() {
        let (state, clock) = connection(0);
        let (first, second) = (state.start(), state.start());
        state.on_read(1);
        drop(first);
        assert!(!ends_after(&state, &clock, IDLE + 1), "a stream runs");
        assert!(state.watched().is_some());
        drop(second);
        assert!(state.watched().is_none());
        assert!(ends_after(&state, &clock, IDLE + 1), "idle for too long");
        let (state, clock) = connection(5);
        let _active = state.start();
        assert!(ends_after(&state, &clock, 6), "writeTimeout");
    }

    #[test]
    fn a_client_that_takes_nothing_is_ended_after_the_idle_time() {
        let (state, clock) = connection(0);
        let _active = state.start();
        state.on_write(true);
        state.on_write(false);
        assert!(!ends_after(&state, &clock, IDLE + 1));
        state.on_write(true);
        state.on_write(true);
        assert!(ends_after(&state, &clock, IDLE + 1));
    }

    #[test]
    fn reads_begin_no_head_where_requests_are_multiplexed() {
        let (state, clock) = connection(0);
        state.set_multiplexed();
        state.on_read(PREFACE - 1);
        state.on_read(1);
        state.on_read(1);
        assert!(!ends_after(&state, &clock, HEADER + 1));
        assert!(ends_after(&state, &clock, IDLE), "no stream for too long");
    }

    #[test]
    fn a_preface_that_stops_has_the_deadline_of_a_head() {
        let (state, clock) = connection(0);
        state.set_multiplexed();
        state.on_read(PREFACE - 1);
        assert!(ends_after(&state, &clock, HEADER + 1));
    }
}
