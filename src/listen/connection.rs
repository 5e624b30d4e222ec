//! What is known of a connection: for its requests ([`ConnectionInfo`]) and for the worker's sweep ([`ConnState`]).

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use ::http::HeaderValue;
use atomic_waker::AtomicWaker;

use super::deadline::Clock;
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
    multiplexed: AtomicBool,
    waker: AtomicWaker,
    header_timeout: u64,
    idle_timeout: u64,
    write_timeout: u64,
    grace: Duration,
    fd: RawFd,
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX / 4)
}

impl ConnState {
    /// A connection that was just accepted: its first head is awaited.
    #[must_use]
    pub fn new(entry_point: &EntryPoint, clock: Arc<Clock>, fd: RawFd) -> Arc<Self> {
        let header_timeout = millis(entry_point.header_timeout);
        let deadline = if header_timeout == 0 { 0 } else { clock.now() + header_timeout };
        Arc::new(Self {
            clock,
            phase: AtomicU8::new(Phase::Head as u8),
            deadline: AtomicU64::new(deadline),
            active_since: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            stalled_since: AtomicU64::new(0),
            verdict: AtomicU8::new(0),
            draining: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            header_timeout,
            idle_timeout: millis(entry_point.idle_timeout),
            write_timeout: millis(entry_point.write_timeout),
            grace: entry_point.life_cycle.grace_time_out,
            fd,
        })
    }

    /// Whether its entry point's `graceTimeOut` is over so long after the drain began; zero means no limit.
    #[must_use]
    pub fn grace_is_over(&self, draining_for: Duration) -> bool {
        !self.grace.is_zero() && draining_for >= self.grace
    }

    /// The connection speaks HTTP/2: it notices by itself when its peer goes.
    pub fn set_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
        self.set(Phase::Idle, self.idle_timeout);
    }

    /// Bytes arrived: between two requests, they begin a head.
    pub fn on_read(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 && !self.multiplexed.load(Ordering::Relaxed) {
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

    fn set(&self, phase: Phase, timeout: u64) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        let at = if timeout == 0 { 0 } else { self.clock.now().saturating_add(timeout) };
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

    /// Asks the connection to close after what it is doing.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.waker.wake();
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
