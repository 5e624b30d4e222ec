//! One connection from accept to close: what it speaks, TLS, and hyper on top.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use ::http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::connection::{ConnState, ConnectionInfo, Verdict};
use super::entry_point::EntryPoint;
use super::io::{Io, Socket};
use crate::http::serve::serve;
use crate::http::stream::StreamExecutor;
use crate::http::worker::Worker;
use crate::tls::server::{AcceptError, Alpn, TlsInfo};

/// After this, a first byte that may or may not become HTTP/2's preface is looked at again; each further pause is twice as
/// long, up to [`PREFACE_PAUSE_MAX`]: a thousand clients that say `PR` and no more must cost next to nothing.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// The longest such pause.
const PREFACE_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Room for body pieces in hyper, beyond the head.
const MAX_BUFFER: usize = 1024 * 1024 + 4096;
/// Slack above `maxHeaderBytes`, as Go's server has it.
const HEADER_SLACK: usize = 4096;
/// Largest header list of an HTTP/2 request, whatever `maxHeaderBytes` says (the HTTP/2 bomb).
const MAX_HEADER_LIST: usize = 64 * 1024;

/// What a client speaks first.
enum Greeting {
    Tls,
    Http1,
    Http2,
}

/// Serves a connection until it ends. Errors end here: they are the peer's affair.
///
/// The connection counts from the call on, not only from the first poll, so that no drain can miss it.
pub fn serve_connection(
    worker: Rc<Worker>,
    entry_point: Arc<EntryPoint>,
    tcp: TcpStream,
    peer: SocketAddr,
) -> impl Future<Output = ()> {
    let _ = tcp.set_nodelay(true);
    let state = ConnState::new(&entry_point, worker.deadlines.clock(), tcp.as_raw_fd());
    let registered = worker.register(&state, entry_point.series);
    async move {
        let _registered = registered;
        serve_registered(worker, entry_point, tcp, peer, state).await;
    }
}

async fn serve_registered(
    worker: Rc<Worker>,
    entry_point: Arc<EntryPoint>,
    tcp: TcpStream,
    peer: SocketAddr,
    state: Arc<ConnState>,
) {
    let serving = async {
        match run(&worker, &entry_point, tcp, peer, &state).await {
            Ok(()) => {}
            Err(e) => tracing::debug!(entry_point = %entry_point.name, %peer, "connection ended: {e}"),
        }
    };
    let mut serving = pin!(serving);
    // Everything below runs inside this one future, so that a verdict ends all of it, whatever it waits for.
    poll_fn(|cx| match state.poll(cx) {
        Verdict::None => serving.as_mut().poll(cx),
        verdict => {
            tracing::debug!(entry_point = %entry_point.name, %peer, ?verdict, "connection closed");
            Poll::Ready(())
        }
    })
    .await;
}

async fn run(
    worker: &Rc<Worker>,
    entry_point: &Arc<EntryPoint>,
    tcp: TcpStream,
    peer: SocketAddr,
    state: &Arc<ConnState>,
) -> io::Result<()> {
    let greeting = greeting(&tcp).await?;
    let (socket, tls) = match greeting {
        Greeting::Tls => {
            let _room = worker.handshakes.begin(state).await;
            let local = tcp.local_addr().ok().map(|a| a.ip().to_canonical());
            let snapshot = worker.snapshot();
            let plan = &snapshot.entry_points[entry_point.index];
            let mut handshake = Handshake {
                worker,
                entry_point,
                ok: false,
            };
            let accepted = plan.tls.accept(tcp, local).await;
            handshake.ok = matches!(accepted, Ok(_) | Err(AcceptError::Proven));
            let (stream, info) = accepted.map_err(io::Error::other)?;
            (Socket::Tls(Box::new(stream)), Some(info))
        }
        Greeting::Http1 | Greeting::Http2 => (Socket::Plain(tcp), None),
    };
    let multiplexed = match &tls {
        Some(info) => info.alpn == Alpn::H2,
        None => matches!(greeting, Greeting::Http2),
    };
    let info = Rc::new(connection_info(entry_point, peer, tls));
    let io = TokioIo::new(Io::new(socket, Arc::clone(state)));
    let served = if multiplexed {
        http2(worker, &info, state, io).await
    } else {
        http1(worker, &info, state, io).await
    };
    served.map_err(io::Error::other)
}

/// A TLS handshake, counted when it is over. One that is given up, as by a deadline, failed.
struct Handshake<'a> {
    worker: &'a Worker,
    entry_point: &'a EntryPoint,
    ok: bool,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.worker.metrics.handshake(self.entry_point.series, self.ok);
    }
}

fn connection_info(entry_point: &Arc<EntryPoint>, peer: SocketAddr, tls: Option<TlsInfo>) -> ConnectionInfo {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    ConnectionInfo {
        peer_address: peer.to_string(),
        peer,
        peer_text: HeaderValue::try_from(peer.ip().to_string()).expect("an IP address is a header value"),
        entry_point: Arc::clone(entry_point),
        tls,
        since: Instant::now(),
        requests: Cell::new(0),
    }
}

/// Looks at the first bytes without taking them: a TLS record, HTTP/2's preface, or something for the HTTP/1 parser.
async fn greeting(tcp: &TcpStream) -> io::Result<Greeting> {
    const HANDSHAKE: u8 = 22;
    let mut first = [0; 4];
    let mut pause = PREFACE_PAUSE;
    loop {
        let n = tcp.peek(&mut first).await?;
        match &first[..n] {
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            [HANDSHAKE, ..] => return Ok(Greeting::Tls),
            b"PRI " => return Ok(Greeting::Http2),
            some if b"PRI ".starts_with(some) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PREFACE_PAUSE_MAX);
            }
            _ => return Ok(Greeting::Http1),
        }
    }
}

async fn http1(
    worker: &Rc<Worker>,
    info: &Rc<ConnectionInfo>,
    state: &Arc<ConnState>,
    io: TokioIo<Io>,
) -> hyper::Result<()> {
    let entry_point = &info.entry_point;
    let max_header = entry_point.max_header_bytes.saturating_add(HEADER_SLACK);
    let mut builder = http1::Builder::new();
    // The deadlines are ours: one sweep for all instead of a timer per head.
    builder
        .header_read_timeout(None)
        .max_header_size(max_header)
        .max_buf_size(MAX_BUFFER.max(max_header));
    let service = service_fn(|request| serve(worker, info, state, None, request));
    let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
    let mut told = false;
    poll_fn(|cx| {
        // A new connection may have a request on its way: its answer will say that the connection closes.
        if state.is_draining() && !told && info.requests.get() > 0 {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
}

async fn http2(
    worker: &Rc<Worker>,
    info: &Rc<ConnectionInfo>,
    state: &Arc<ConnState>,
    io: TokioIo<Io>,
) -> hyper::Result<()> {
    state.set_multiplexed();
    let entry_point = &info.entry_point;
    let executor = StreamExecutor::new(Rc::clone(&worker.deadlines), entry_point.idle_timeout);
    let mut builder = http2::Builder::new(executor.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(entry_point.max_concurrent_streams)
        .max_header_list_size(u32::try_from(entry_point.max_header_bytes.min(MAX_HEADER_LIST)).unwrap_or(u32::MAX))
        .header_table_size(entry_point.header_table_size)
        .initial_connection_window_size(16 * 1024 * 1024)
        .initial_stream_window_size(4 * 1024 * 1024)
        .max_frame_size(64 * 1024)
        .max_send_buf_size(1024 * 1024)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let service = {
        let (worker, info, state) = (Rc::clone(worker), Rc::clone(info), Arc::clone(state));
        service_fn(move |request| {
            let (worker, info, state) = (Rc::clone(&worker), Rc::clone(&info), Arc::clone(&state));
            let taking = executor.taking();
            async move { serve(&worker, &info, &state, Some(taking), request).await }
        })
    };
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut told = false;
    poll_fn(|cx| {
        if state.is_draining() && !told {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
}
