//! A new connection to a server.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::stream::Stream;
use crate::http::worker::Worker;
use crate::listen::deadline::within;
use crate::listen::socket::keep_alive;
use crate::service::server::{Scheme, Server};
use crate::tls::server::Alpn;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Refused, unreachable, no such name.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// `dialTimeout` passed.
    #[error("no connection within dialTimeout")]
    Timeout,
    /// The TLS handshake failed: among others, a certificate that cannot be verified.
    #[error("TLS: {0}")]
    Tls(String),
}

/// A connected socket, and whether the server chose HTTP/2.
#[derive(Debug)]
pub struct Dialled {
    /// The socket.
    pub stream: Stream,
    /// ALPN said `h2`, or the server is an `h2c` one.
    pub http2: bool,
}

/// Connects to `server` within its transport's `dialTimeout`. `http1_only`: the request asks for an upgrade, which
/// HTTP/2 has none of.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(worker: &Worker, server: &Server, http1_only: bool) -> Result<Dialled, DialError> {
    within(
        &worker.deadlines,
        server.transport.dial_timeout,
        connect(worker, server, http1_only),
    )
    .await
    .unwrap_or(Err(DialError::Timeout))
}

async fn connect(worker: &Worker, server: &Server, http1_only: bool) -> Result<Dialled, DialError> {
    let tcp = connect_tcp(worker, server).await?;
    match server.scheme {
        Scheme::Http => Ok(Dialled {
            stream: Stream::Plain(tcp),
            http2: false,
        }),
        Scheme::H2c => Ok(Dialled {
            stream: Stream::Plain(tcp),
            http2: true,
        }),
        Scheme::Https => {
            let connected = server.transport.tls.connect(tcp, &server.host, http1_only).await;
            let (tls, alpn) = connected.map_err(|e| DialError::Tls(e.to_string()))?;
            Ok(Dialled {
                stream: Stream::Tls(Box::new(tls)),
                http2: alpn == Alpn::H2,
            })
        }
    }
}

async fn connect_tcp(worker: &Worker, server: &Server) -> io::Result<TcpStream> {
    let mut last = None;
    for ip in worker.dns.lookup(&server.host).await? {
        match TcpStream::connect(SocketAddr::new(ip, server.port)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
                return Ok(stream);
            }
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no address")))
}
