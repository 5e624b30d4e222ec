//! The last body: what hyper writes to the client. It counts, keeps the exchange alive to its end, and leaves somebody
//! behind to drain what a client still sends and nobody read.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::body::{BodyError, ResponseBody, SharedIncoming};
use super::exchange::Exchange;
use super::stream::Taking;
use crate::listen::connection::Active;
use crate::listen::deadline::within;

/// How long the rest of a request's body is read after its answer, so that the client gets to see the answer: closing a
/// socket with unread bytes resets the connection, and the answer with it; and of an HTTP/2 client that is told to stop
/// (RST_STREAM with NO_ERROR, RFC 9113, 8.1) many a one forgets the answer, curl 7.88 among them.
const LINGER: Duration = Duration::from_secs(5);
/// How much of it is read.
const LINGER_BYTES: u64 = 256 * 1024 * 1024;

/// A counted body.
pub struct ServedBody {
    inner: ResponseBody,
    exchange: Option<Box<Exchange>>,
    rest: Option<SharedIncoming>,
    taking: Option<Rc<Taking>>,
    /// An error that waits for what came before it to be written.
    failed: Option<BodyError>,
}

impl ServedBody {
    /// The answer's body with its exchange.
    #[must_use]
    pub fn new(inner: ResponseBody, mut exchange: Box<Exchange>, taking: Option<Rc<Taking>>) -> Self {
        let rest = exchange.client_body.take();
        let mut body = Self {
            inner,
            exchange: Some(exchange),
            rest,
            taking,
            failed: None,
        };
        if body.inner.is_end_stream() {
            body.complete();
        } else if let Some(taking) = &body.taking {
            taking.begin();
        }
        body
    }

    /// An empty body whose exchange lives on elsewhere.
    #[must_use]
    pub fn finished() -> Self {
        Self {
            inner: ResponseBody::Empty,
            exchange: None,
            rest: None,
            taking: None,
            failed: None,
        }
    }

    fn complete(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.complete = true;
        }
    }
}

impl Drop for ServedBody {
    fn drop(&mut self) {
        let (Some(exchange), Some(rest)) = (&mut self.exchange, self.rest.take()) else {
            return;
        };
        let meter = &exchange.meter;
        if exchange.complete && !meter.ended.get() && !meter.failed.get() && !rest.borrow().is_end_stream() {
            let deadlines = Rc::clone(&exchange.worker.deadlines);
            // The connection is still at this request: what arrives is no late head. A client that closes its side now
            // has sent its all and is about to read.
            let active = exchange.active.take().inspect(Active::unwatch);
            tokio::task::spawn_local(async move {
                within(&deadlines, LINGER, drain(rest)).await;
                drop(active);
            });
        }
    }
}

/// Reads and drops what a client still sends. As long as this holds the body, hyper keeps the connection open.
async fn drain(rest: SharedIncoming) {
    let mut read = 0;
    while read < LINGER_BYTES {
        match poll_fn(|cx| Pin::new(&mut *rest.borrow_mut()).poll_frame(cx)).await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => return,
        }
    }
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(taking) = &self.taking {
            if matches!(polled, Poll::Ready(Some(Ok(_)))) {
                taking.begin()
            } else {
                taking.end()
            }
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut self.exchange) {
                    exchange.bytes_out += data.len() as u64;
                }
                if self.inner.is_end_stream() {
                    self.complete();
                }
            }
            Poll::Ready(Some(Err(e))) => {
                tracing::debug!("an answer broke off: {e}");
                // hyper drops what it has not written yet on an error: let it write the head and the part that came.
                if let Poll::Ready(Some(Err(error))) = polled {
                    self.failed = Some(error);
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            Poll::Ready(None) => self.complete(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
