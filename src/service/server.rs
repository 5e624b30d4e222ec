//! One server: a backend URL of a load balancer, and what is known of it beyond any snapshot.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use ::http::HeaderValue;

use crate::observe::metrics::ServerLoad;
use crate::upstream::transport::Transport;

/// The scheme of a server's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`: HTTP/1.1 in clear text.
    Http,
    /// `https`: HTTP/1.1 or HTTP/2, as ALPN decides.
    Https,
    /// `h2c`: HTTP/2 in clear text.
    H2c,
}

impl Scheme {
    /// As it is written in a URL that HTTP/2 carries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http | Self::H2c => "http",
            Self::Https => "https",
        }
    }
}

/// Whether a server answers its health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Not checked, or not checked yet.
    Unknown = 0,
    /// Up.
    Up = 1,
    /// Down.
    Down = 2,
}

/// What outlives snapshots: keyed by service and URL.
#[derive(Debug, Default)]
pub struct ServerState {
    health: AtomicU8,
    in_flight: AtomicUsize,
    /// Consecutive good and bad probes; only the prober writes.
    pub(crate) good: AtomicUsize,
    pub(crate) bad: AtomicUsize,
}

impl ServerState {
    /// What the last checks said.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    /// Sets it.
    pub fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    /// Requests that run on the server at present.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more request until the guard is dropped.
    #[must_use]
    pub fn start(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

impl ServerLoad for ServerState {
    fn in_flight(&self) -> usize {
        self.in_flight()
    }
}

/// A request that runs on a server.
#[derive(Debug)]
pub struct InFlight(Arc<ServerState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One server of a load balancer.
#[derive(Debug)]
pub struct Server {
    /// The URL as it was configured: its name in metrics, logs and sticky cookies.
    pub url: String,
    /// The URL's scheme.
    pub scheme: Scheme,
    /// Host to connect to, and to verify against.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// `host` or `host:port` as a Host header says it (without the scheme's default port only if the URL had none).
    pub authority: HeaderValue,
    /// Path that is put before the request's, with `preservePath`; empty otherwise.
    pub base_path: String,
    /// Value in sticky cookies: the first 16 hex digits of the URL's SHA-256.
    pub sticky: String,
    /// Identity of its connection pool.
    pub pool: u64,
    /// How it is connected to.
    pub transport: Arc<Transport>,
    /// What is known of it.
    pub state: Arc<ServerState>,
}

impl Server {
    /// A host as URLs write it: an IPv6 address in brackets.
    #[must_use]
    pub fn bracketed(host: &str) -> Cow<'_, str> {
        match host.contains(':') && !host.starts_with('[') {
            true => Cow::Owned(format!("[{host}]")),
            false => Cow::Borrowed(host),
        }
    }
}

/// A clear-text server on the loopback interface, for tests.
#[cfg(test)]
pub(crate) fn fixture(port: u16) -> Arc<Server> {
    use crate::config::Resources;
    use crate::config::dynamic::ServersTransport;
    use crate::tls::{cache::TlsCache, client::ClientTls};
    use std::time::Duration;

    let settings = ServersTransport {
        insecure_skip_verify: true,
        ..ServersTransport::default()
    };
    let (tls, _) = ClientTls::build(&settings, "t", &Resources::default(), &TlsCache::new());
    let transport = Transport {
        dial_timeout: Duration::ZERO,
        response_header_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        read_idle_timeout: Duration::ZERO,
        ping_timeout: Duration::ZERO,
        max_idle: Some(2),
        tls: Arc::new(tls.expect("TLS settings")),
        identity: String::new(),
    };
    Arc::new(Server {
        url: format!("http://127.0.0.1:{port}"),
        scheme: Scheme::Http,
        host: "127.0.0.1".into(),
        port,
        authority: HeaderValue::from_static("h"),
        base_path: String::new(),
        sticky: String::new(),
        pool: u64::from(port),
        transport: Arc::new(transport),
        state: Arc::new(ServerState::default()),
    })
}
