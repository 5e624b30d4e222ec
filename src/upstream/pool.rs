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
use crate::listen::deadline::{Deadlines, millis};
use crate::observe::metrics::IdleConnections;
use crate::service::server::Server;

struct Idle {
    wire: Box<Wire>,
    /// When it is too old, in milliseconds of the worker's clock.
    until: u64,
}

/// A shared HTTP/2 connection.
struct Shared {
    sender: SendRequest<RequestBody>,
    /// When nobody has used it for too long, in milliseconds of the worker's clock.
    until: u64,
}

/// The pools of one worker.
pub struct Pools {
    deadlines: Rc<Deadlines>,
    gauge: IdleConnections,
    http1: RefCell<HashMap<u64, Vec<Idle>, foldhash::fast::FixedState>>,
    http2: RefCell<HashMap<u64, Shared, foldhash::fast::FixedState>>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools")
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

impl Pools {
    /// Empty pools; `gauge` tells how many idle HTTP/1.1 connections are in them.
    #[must_use]
    pub fn new(deadlines: Rc<Deadlines>, gauge: IdleConnections) -> Rc<Self> {
        Rc::new(Self {
            deadlines,
            gauge,
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
            self.gauge.add(-1);
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
        let shared = pools.get_mut(&server.pool)?;
        if shared.sender.is_closed() {
            pools.remove(&server.pool);
            return None;
        }
        shared.until = self.idle_until(server);
        Some(shared.sender.clone())
    }

    /// Shares a new HTTP/2 connection.
    pub fn put_http2(&self, server: &Server, sender: SendRequest<RequestBody>) {
        let until = self.idle_until(server);
        self.http2.borrow_mut().insert(server.pool, Shared { sender, until });
    }

    /// When a connection to `server` that is used now has been idle for too long.
    fn idle_until(&self, server: &Server) -> u64 {
        let idle = millis(server.transport.idle_timeout);
        if idle == 0 {
            u64::MAX
        } else {
            self.deadlines.now().saturating_add(idle)
        }
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
        self.gauge.set(self.idle());
        // What runs on a connection that is let go ends first: hyper closes it behind its last stream.
        self.http2
            .borrow_mut()
            .retain(|_, shared| shared.until > now && !shared.sender.is_closed());
    }

    /// Closes every idle connection.
    pub fn clear(&self) {
        self.http1.borrow_mut().clear();
        self.gauge.set(0);
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
        let until = self.idle_until(server);
        pool.push(Idle { wire, until });
        self.gauge.add(1);
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        self.gauge.set(0);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::client::conn::http2::handshake;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::http::local::LocalExecutor;
    use crate::service::server::fixture;
    use crate::upstream::stream::Stream;
    use crate::upstream::transport::Transport;

    async fn connection() -> (Box<Wire>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let near = TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("a connection");
        let (far, _) = listener.accept().await.expect("a peer");
        (Box::new(Wire::new(Stream::Plain(near))), far)
    }

    /// A server whose idle connections live for `idle`, at most `max` of them.
    fn server(idle: Duration, max: Option<usize>) -> Arc<Server> {
        let mut server = Arc::into_inner(fixture(1)).expect("the only one");
        let transport = Arc::into_inner(server.transport).expect("the only one");
        server.transport = Arc::new(Transport {
            idle_timeout: idle,
            max_idle: max,
            ..transport
        });
        Arc::new(server)
    }

    /// Lets the worker's clock pass 20 ms.
    async fn later(deadlines: &Deadlines) {
        let from = deadlines.now();
        while deadlines.now() < from + 20 {
            tokio::task::yield_now().await;
            deadlines.sweep();
        }
    }

    #[tokio::test]
    async fn only_connections_that_are_still_silent_are_kept() {
        let pools = Pools::new(Deadlines::new(), IdleConnections::default());
        let server = server(Duration::ZERO, Some(3));
        let mut far = Vec::new();
        for i in 0..4 {
            let (mut wire, peer) = connection().await;
            wire.out = vec![i];
            far.push(peer);
            Ticket::new(Rc::clone(&pools), Arc::clone(&server)).give_back(wire);
        }
        assert_eq!(pools.idle(), 3, "no more than maxIdleConnsPerHost");
        // One is closed, and one speaks although nobody asked.
        far[2].shutdown().await.expect("a connection");
        far[1]
            .write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            .await
            .expect("room");
        while pools.idle() > 1 {
            tokio::task::yield_now().await;
            pools.sweep();
        }
        let wire = pools.take(&server).expect("the one that is left");
        assert_eq!((wire.out[0], wire.reused, pools.idle()), (0, true, 0));
        assert!(pools.take(&server).is_none());
    }

    #[tokio::test]
    async fn idle_connections_end_by_their_timeout_and_where_none_is_wanted() {
        let deadlines = Deadlines::new();
        let pools = Pools::new(Rc::clone(&deadlines), IdleConnections::default());
        let (first, _far) = connection().await;
        let (second, _other) = connection().await;
        let short = server(Duration::from_millis(10), Some(3));
        Ticket::new(Rc::clone(&pools), Arc::clone(&short)).give_back(first);
        Ticket::new(Rc::clone(&pools), server(Duration::ZERO, None)).give_back(second);
        assert_eq!(pools.idle(), 1);
        later(&deadlines).await;
        pools.sweep();
        assert_eq!(pools.idle(), 0);
    }

    #[test]
    fn a_shared_connection_is_let_go_once_nobody_has_used_it_for_its_timeout() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        runtime.expect("a runtime").block_on(async {
            let deadlines = Deadlines::new();
            let pools = Pools::new(Rc::clone(&deadlines), IdleConnections::default());
            let server = server(Duration::from_millis(10), Some(1));
            let (near, _far) = tokio::io::duplex(1024);
            let (sender, connection) = handshake(LocalExecutor, TokioIo::new(near)).await.expect("a handshake");
            tokio::task::spawn_local(connection);
            pools.put_http2(&server, sender);
            assert!(pools.http2(&server).is_some());
            later(&deadlines).await;
            pools.sweep();
            assert!(pools.http2(&server).is_none());
        });
    }
}
