//! Bodies in both directions.
//!
//! Bodies stream: nothing here holds more than one frame. Every wrapper forwards `size_hint` and `is_end_stream`,
//! otherwise a Content-Length would turn into chunks on the next hop.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::listen::deadline::{Deadline, Deadlines, millis};

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client went away in the middle of its body.
    #[error("the client's body broke off: {0}")]
    Client(String),
    /// The client broke the framing of its body.
    #[error("the client's body is malformed: {0}")]
    Malformed(String),
    /// The body is larger than a limit that applies to it (bytes).
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// The client sent nothing for longer than `bodyIdleTimeout`, or the whole body took longer than `readTimeout`.
    #[error("the client's body took too long")]
    Timeout,
    /// The client sends slower than `minBodyRate`.
    #[error("the client's body comes too slowly")]
    TooSlow,
    /// The server's answer broke off.
    #[error("the server's answer broke off: {0}")]
    Server(String),
}

/// A body of any kind, boxed. Not `Send`.
pub type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>;

/// What a client sends.
#[derive(Default)]
pub enum RequestBody {
    /// No body at all.
    #[default]
    Empty,
    /// A body that is at hand.
    Full(Bytes),
    /// The client's body, as it arrives.
    Client(Box<ClientBody>),
    /// A body that a middleware wrapped.
    Boxed(BoxBody),
}

impl std::fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "RequestBody::Empty",
            Self::Full(_) => "RequestBody::Full",
            Self::Client(_) => "RequestBody::Client",
            Self::Boxed(_) => "RequestBody::Boxed",
        })
    }
}

impl RequestBody {
    /// Wraps a body.
    pub fn boxed(body: impl Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self::Boxed(Box::pin(body))
    }

    /// Whether no byte will come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty) || self.is_end_stream()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(take_full(bytes)),
            Self::Client(body) => body.poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Client(body) => body.inner.borrow().is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Client(body) => body.inner.borrow().size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

/// What the client gets.
#[derive(Default)]
pub enum ResponseBody {
    /// No body at all.
    #[default]
    Empty,
    /// A body that is at hand.
    Full(Bytes),
    /// A stream: a server's answer, or what a middleware made of it.
    Boxed(BoxBody),
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "ResponseBody::Empty",
            Self::Full(_) => "ResponseBody::Full",
            Self::Boxed(_) => "ResponseBody::Boxed",
        })
    }
}

impl ResponseBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self::Empty
    }

    /// A body that is at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(bytes.into())
    }

    /// Wraps a body.
    pub fn boxed(body: impl Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self::Boxed(Box::pin(body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(take_full(bytes)),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

fn take_full(bytes: &mut Bytes) -> Option<Result<Frame<Bytes>, BodyError>> {
    let bytes = std::mem::take(bytes);
    if bytes.is_empty() {
        None
    } else {
        Some(Ok(Frame::data(bytes)))
    }
}

/// What of a client's body has passed, seen from outside of the body.
#[derive(Debug, Default)]
pub struct BodyMeter {
    /// Bytes that arrived so far.
    pub bytes: Cell<u64>,
    /// The body was read to its end.
    pub ended: Cell<bool>,
    /// The body ended in an error.
    pub failed: Cell<bool>,
}

/// The limits on a client's body, from the entry point.
#[derive(Debug, Clone, Copy, Default)]
pub struct BodyLimits {
    /// Longest pause between two pieces, `transport.respondingTimeouts.bodyIdleTimeout`. Zero: none.
    pub idle: Duration,
    /// Slowest rate in bytes per second, `minBodyRate`, counted while Gantry waits for the client. Zero: none.
    pub min_rate: u64,
    /// Longest time for the whole body while Gantry waits for the client, `readTimeout`. Zero: none.
    pub total: Duration,
}

/// How long a body may be slower than `minBodyRate` before it is refused: a slow start is no attack.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// What hyper receives, shared with the exchange: what nobody read is drained after the answer, so that a client that
/// still sends gets to see it.
pub type SharedIncoming = Rc<RefCell<Incoming>>;

/// The client's body with its clocks.
///
/// The clocks run only while Gantry waits for the client (`poll_frame` returned `Pending`), never while Gantry
/// holds the body back because the server is slow.
pub struct ClientBody {
    inner: SharedIncoming,
    meter: Rc<BodyMeter>,
    limits: BodyLimits,
    deadlines: Rc<Deadlines>,
    /// The armed deadline, made at the first wait.
    deadline: Option<Deadline>,
    /// Time spent waiting for the client so far, in milliseconds.
    waited: u64,
    /// When the present wait began, in milliseconds of the worker's clock.
    waiting_since: Option<u64>,
}

impl ClientBody {
    /// A body that `hyper` receives.
    #[must_use]
    pub fn new(inner: SharedIncoming, meter: Rc<BodyMeter>, limits: BodyLimits, deadlines: Rc<Deadlines>) -> Self {
        Self {
            inner,
            meter,
            limits,
            deadlines,
            deadline: None,
            waited: 0,
            waiting_since: None,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut *self.inner.borrow_mut()).poll_frame(cx);
        match polled {
            Poll::Pending => self.poll_wait(cx),
            Poll::Ready(frame) => {
                self.end_wait();
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            self.meter.bytes.set(self.meter.bytes.get() + data.len() as u64);
                        }
                        if self.inner.borrow().is_end_stream() {
                            self.meter.ended.set(true);
                        }
                    }
                    Some(Err(_)) => self.meter.failed.set(true),
                    None => self.meter.ended.set(true),
                }
                Poll::Ready(frame.map(|f| f.map_err(|e| client_error(&e))))
            }
        }
    }

    fn end_wait(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += self.deadlines.now().saturating_sub(since);
            if let Some(deadline) = &self.deadline {
                deadline.disarm();
            }
        }
    }

    /// The client has nothing for us: start or check the clocks.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let now = self.deadlines.now();
        let fresh = self.waiting_since.is_none();
        let since = *self.waiting_since.get_or_insert(now);
        let waited = self.waited + now.saturating_sub(since);
        let mut at = u64::MAX;
        if !self.limits.idle.is_zero() {
            at = at.min(since + millis(self.limits.idle));
        }
        if !self.limits.total.is_zero() {
            at = at.min((since + millis(self.limits.total)).saturating_sub(self.waited));
        }
        let allowed = (self.meter.bytes.get().saturating_mul(1000)).checked_div(self.limits.min_rate);
        if let Some(allowed) = allowed {
            at = at.min((since + millis(RATE_GRACE) + allowed).saturating_sub(self.waited));
        }
        if at == u64::MAX {
            return Poll::Pending;
        }
        if now >= at {
            self.meter.failed.set(true);
            let slow = allowed.is_some_and(|allowed| waited > millis(RATE_GRACE) + allowed);
            return Poll::Ready(Some(Err(if slow { BodyError::TooSlow } else { BodyError::Timeout })));
        }
        let deadline = self.deadline.get_or_insert_with(|| self.deadlines.insert());
        if fresh {
            deadline.arm(at);
        }
        ready!(deadline.poll_fired(cx));
        self.meter.failed.set(true);
        Poll::Ready(Some(Err(BodyError::Timeout)))
    }
}

fn client_error(error: &hyper::Error) -> BodyError {
    // A chunk that cannot be parsed is the client's fault; everything else means that it went.
    let source = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    let malformed = source.is_some_and(|io| {
        matches!(
            io.kind(),
            std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData
        )
    });
    if error.is_parse() || malformed {
        BodyError::Malformed(error.to_string())
    } else {
        BodyError::Client(error.to_string())
    }
}
