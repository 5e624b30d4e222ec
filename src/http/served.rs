//! The last body: what hyper writes to the client. It counts, keeps the exchange alive to its end, and leaves somebody
//! behind to drain what a client still sends and nobody read.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Version;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::body::{BodyError, ResponseBody, SharedIncoming};
use super::exchange::Exchange;
use crate::listen::deadline::within;

/// How long the rest of a request's body is read after its answer, so that the client gets to see the answer: closing a
/// socket with unread bytes resets the connection, and the answer with it.
const LINGER: Duration = Duration::from_secs(5);
/// How much of it is read.
const LINGER_BYTES: u64 = 256 * 1024 * 1024;

/// A counted body.
pub struct ServedBody {
    inner: ResponseBody,
    exchange: Option<Box<Exchange>>,
    rest: Option<SharedIncoming>,
    /// An error that waits for what came before it to be written.
    failed: Option<BodyError>,
}

impl ServedBody {
    /// The answer's body with its exchange.
    #[must_use]
    pub fn new(inner: ResponseBody, mut exchange: Box<Exchange>, version: Version) -> Self {
        let rest = exchange.client_body.take().filter(|_| version != Version::HTTP_2);
        let mut body = Self {
            inner,
            exchange: Some(exchange),
            rest,
            failed: None,
        };
        if body.inner.is_end_stream() {
            body.complete();
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
            // The connection stays busy meanwhile: these bytes begin no head, and no head's deadline.
            let active = exchange.active.take();
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
