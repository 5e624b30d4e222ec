//! HTTP/2 streams whose client does not take what it is sent.
//!
//! A client that keeps a stream's window shut holds a request, its permits and a connection to a server for as long as it
//! answers pings (the second half of the HTTP/2 bomb). hyper asks for a body's next frame only once there is room, so a
//! body that was not asked again for `idleTimeout` has such a client: its stream is reset, the others go on.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::listen::deadline::{Deadlines, millis};

/// Since when an answer waits for its client, in milliseconds of the worker's clock; 0 while it does not.
#[derive(Debug)]
pub struct Taking {
    since: Cell<u64>,
    deadlines: Rc<Deadlines>,
}

impl Taking {
    /// The client has something to take.
    pub fn begin(&self) {
        self.since.set(self.deadlines.now());
    }

    /// The client took it: whatever is waited for now, it is not the client.
    pub fn end(&self) {
        self.since.set(0);
    }
}

/// hyper's executor for the streams of one connection.
#[derive(Debug, Clone)]
pub struct StreamExecutor {
    deadlines: Rc<Deadlines>,
    limit: Duration,
    /// What the service made for the stream that hyper is about to spawn: both happen in one poll, in this order.
    next: Rc<RefCell<Option<Rc<Taking>>>>,
}

impl StreamExecutor {
    /// Streams are reset after `limit`; zero: never.
    #[must_use]
    pub fn new(deadlines: Rc<Deadlines>, limit: Duration) -> Self {
        Self {
            deadlines,
            limit,
            next: Rc::default(),
        }
    }

    /// Called by the service for a new request.
    #[must_use]
    pub fn taking(&self) -> Rc<Taking> {
        let taking = Rc::new(Taking {
            since: Cell::new(0),
            deadlines: Rc::clone(&self.deadlines),
        });
        self.next.replace(Some(Rc::clone(&taking)));
        taking
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        match self.next.take().filter(|_| !self.limit.is_zero()) {
            Some(taking) => drop(tokio::task::spawn_local(bounded(future, taking, self.limit))),
            None => drop(tokio::task::spawn_local(future)),
        }
    }
}

/// Runs a stream until its end, or until its client has taken nothing for `limit`.
async fn bounded<F: Future<Output = ()>>(stream: F, taking: Rc<Taking>, limit: Duration) {
    let limit = millis(limit);
    let mut stream = pin!(stream);
    let mut deadline = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let since = taking.since.get();
        if since == 0 {
            deadline = None;
            return Poll::Pending;
        }
        if taking.deadlines.now() >= since.saturating_add(limit) {
            tracing::debug!("a stream is reset: its client takes nothing");
            return Poll::Ready(());
        }
        let deadline = deadline.get_or_insert_with(|| taking.deadlines.insert());
        deadline.arm(since.saturating_add(limit));
        deadline.poll_fired(cx)
    })
    .await;
}
