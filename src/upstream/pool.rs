//! Idle connections of one worker, by pool identity (scheme, authority, transport).
//!
//! A connection comes back only when both messages ended cleanly; whatever speaks while it is idle is dropped. Each
//! worker has its own pools, so that taking and giving costs no lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http2::SendRequest;

use super::http1::Wire;
use crate::http::body::RequestBody;
use crate::listen::deadline::Deadlines;
use crate::service::server::Server;

struct Idle {
    wire: Box<Wire>,
    /// When it is too old, in milliseconds of the worker's clock.
    until: u64,
}

/// The pools of one worker.
pub struct Pools {
    deadlines: Rc<Deadlines>,
    http1: RefCell<HashMap<u64, Vec<Idle>, foldhash::fast::FixedState>>,
    http2: RefCell<HashMap<u64, SendRequest<RequestBody>, foldhash::fast::FixedState>>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools")
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

impl Pools {
    /// Empty pools.
    #[must_use]
    pub fn new(deadlines: Rc<Deadlines>) -> Rc<Self> {
        Rc::new(Self {
            deadlines,
            http1: RefCell::default(),
            http2: RefCell::default(),
        })
    }

    /// The freshest idle connection to `server` that is still silent.
    #[must_use]
    pub fn take(&self, server: &Server) -> Option<Box<Wire>> {
        let mut pools = self.http1.borrow_mut();
        let pool = pools.get_mut(&server.pool)?;
        let now = self.deadlines.now();
        while let Some(mut idle) = pool.pop() {
            if idle.until > now && idle.wire.stream.is_silent() {
                return Some(idle.wire);
            }
        }
        None
    }

    /// The shared HTTP/2 connection to `server`, if it is alive.
    #[must_use]
    pub fn http2(&self, server: &Server) -> Option<SendRequest<RequestBody>> {
        let mut pools = self.http2.borrow_mut();
        let sender = pools.get(&server.pool)?;
        if sender.is_closed() {
            pools.remove(&server.pool);
            return None;
        }
        Some(sender.clone())
    }

    /// Shares a new HTTP/2 connection.
    pub fn put_http2(&self, server: &Server, sender: SendRequest<RequestBody>) {
        self.http2.borrow_mut().insert(server.pool, sender);
    }

    /// Number of idle HTTP/1.1 connections.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.http1.borrow().values().map(Vec::len).sum()
    }

    /// Closes what is too old or was closed by its server. Called about once a second.
    pub fn sweep(&self) {
        let now = self.deadlines.now();
        self.http1.borrow_mut().retain(|_, pool| {
            pool.retain_mut(|idle| idle.until > now && idle.wire.stream.is_silent());
            !pool.is_empty()
        });
        self.http2.borrow_mut().retain(|_, sender| !sender.is_closed());
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        self.http1.borrow_mut().clear();
        self.http2.borrow_mut().clear();
    }

    fn give_back(&self, server: &Server, mut wire: Box<Wire>) {
        let Some(max) = server.transport.max_idle else { return };
        // Bytes behind an answer belong to no request: they would be taken for the answer to the next one.
        if !wire.buf.is_empty() {
            return;
        }
        let mut pools = self.http1.borrow_mut();
        let pool = pools.entry(server.pool).or_default();
        if pool.len() >= max {
            return;
        }
        wire.reused = true;
        let idle = u64::try_from(server.transport.idle_timeout.as_millis()).unwrap_or(u64::MAX / 4);
        let until = if idle == 0 {
            u64::MAX
        } else {
            self.deadlines.now().saturating_add(idle)
        };
        pool.push(Idle { wire, until });
    }
}

/// The right to bring a connection back.
#[derive(Debug)]
pub struct Ticket {
    pools: Rc<Pools>,
    server: Arc<Server>,
}

impl Ticket {
    /// A ticket for one connection to `server`.
    #[must_use]
    pub fn new(pools: Rc<Pools>, server: Arc<Server>) -> Self {
        Self { pools, server }
    }

    /// Brings the connection back.
    pub fn give_back(self, wire: Box<Wire>) {
        self.pools.give_back(&self.server, wire);
    }
}
