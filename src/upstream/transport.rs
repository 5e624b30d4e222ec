//! How servers are connected to: a `serversTransport`, compiled.

use std::sync::Arc;
use std::time::Duration;

use crate::tls::client::ClientTls;

/// Compiled settings of a `serversTransport`.
#[derive(Debug)]
pub struct Transport {
    /// `forwardingTimeouts.dialTimeout`: resolving, connecting and the TLS handshake. Zero: none.
    pub dial_timeout: Duration,
    /// `forwardingTimeouts.responseHeaderTimeout`: from the request's end to the answer's head. Zero: none.
    pub response_header_timeout: Duration,
    /// `forwardingTimeouts.idleConnTimeout`.
    pub idle_timeout: Duration,
    /// `forwardingTimeouts.readIdleTimeout`: an HTTP/2 connection that is silent for so long is pinged. Zero: none.
    pub read_idle_timeout: Duration,
    /// `forwardingTimeouts.pingTimeout`.
    pub ping_timeout: Duration,
    /// Idle connections kept per server and worker; `None`: none are kept.
    pub max_idle: Option<usize>,
    /// TLS settings for `https` servers.
    pub tls: Arc<ClientTls>,
    /// Everything above as text: connections are shared only between equal transports.
    pub identity: String,
}
