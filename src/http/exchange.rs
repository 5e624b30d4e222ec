//! The context of one request, from its first byte to its log line.
//!
//! An [`Exchange`] is filled in as the request moves on. It ends when the answer's body ended or was dropped; its
//! `Drop` does the accounting, so that no path, also not a client that went away, escapes metrics and log.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body::Body as _;
use smallvec::SmallVec;

use super::access;
use super::body::{BodyMeter, ResponseBody, SharedIncoming};
use super::worker::Worker;
use crate::compile::snapshot::{RouterPlan, Snapshot};
use crate::listen::connection::{Active, ConnectionInfo};
use crate::observe::metrics::{
    HeaderValues, MethodLabel, ModelDone, ModelRun, ProtocolLabel, RequestDone, TlsLabels, VariantSeries,
};
use crate::service::Upstream;
use crate::service::server::InFlight;
use crate::upstream::upgrade::Tunnel;

/// nginx's code for a client that went away before the answer, as Traefik logs it too.
pub const CLIENT_CLOSED: u16 = 499;

/// What the access log wants to know of the request, taken before anything changes it. Only made when there is an
/// access log.
#[derive(Debug, Default)]
pub struct LogFacts {
    /// The method.
    pub method: Method,
    /// The request target as it came.
    pub target: Uri,
    /// The Host as it came.
    pub host: String,
    /// `HTTP/1.1` and so on.
    pub version: &'static str,
    /// Whether any header is wanted.
    pub keep_headers: bool,
    /// The request's headers, if wanted.
    pub request_headers: HeaderMap,
    /// The headers of the server's answer, if wanted.
    pub origin_headers: HeaderMap,
    /// The headers of the answer to the client, if wanted.
    pub downstream_headers: HeaderMap,
}

/// What a server answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// Its status; 502, 504 and so on when Gantry had to answer for it.
    pub status: u16,
    /// Time from the choice of the server to the end of its answer's head.
    pub duration: Duration,
}

/// One request and its answer.
pub struct Exchange {
    /// The worker that serves the connection.
    pub worker: Rc<Worker>,
    /// The connection it came on.
    pub connection: Rc<ConnectionInfo>,
    /// The configuration that this exchange sees, from first to last.
    pub snapshot: Arc<Snapshot>,
    /// When the request's head was complete.
    pub started: Instant,
    /// The client's body, as far as it was read.
    pub meter: Rc<BodyMeter>,
    /// The router that matched.
    pub router: Option<Arc<RouterPlan>>,
    /// The service (a load balancer) and server that took the request last.
    pub upstream: Option<Upstream>,
    /// The children of weighted services on the way there, outermost first. Whoever tries a request again empties it.
    pub variants: SmallVec<[VariantSeries; 4]>,
    /// The user that authenticated, for the log.
    pub user: Option<String>,
    /// What the server answered.
    pub origin: Option<Origin>,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Status sent to the client; 0 while there is none.
    pub status: u16,
    /// Body bytes handed to the client.
    pub bytes_out: u64,
    /// The answer's body came to its end.
    pub complete: bool,
    /// The method, folded into the fixed set.
    pub method: MethodLabel,
    /// The protocol as metrics name it.
    pub protocol: ProtocolLabel,
    /// The values of the metrics' header labels.
    pub header_values: HeaderValues,
    /// A running inference, for the `model_*` series.
    pub model_run: Option<ModelRun>,
    /// The id that a request to a model was given.
    pub request_id: Option<uuid::Uuid>,
    /// The client understands interim answers, and can be sent them: it speaks HTTP/1.1.
    pub takes_interim: bool,
    /// The connection is busy with it.
    pub active: Option<Active>,
    /// The request runs on a server.
    pub in_flight: Option<InFlight>,
    /// The protocol that the client asks to switch to.
    pub upgrade: Option<HeaderValue>,
    /// The tunnel that a server agreed to.
    pub tunnel: Option<Tunnel>,
    /// X-Forwarded-For gets the peer's address appended before a server sees it. Off where the entry point or a
    /// `headers` middleware says so.
    pub append_forwarded_for: bool,
    /// Fields of this hop that only the middlewares may see.
    pub middlewares_only: Vec<HeaderName>,
    /// The connection is to be closed after the answer.
    pub close: bool,
    /// The client's body as hyper receives it, for draining what nobody read.
    pub client_body: Option<SharedIncoming>,
    /// For the access log.
    pub log: Option<Box<LogFacts>>,
    /// Whatever must live until the answer's end: permits, counters.
    held: Vec<Box<dyn Any>>,
}

impl Exchange {
    /// A new exchange on `connection`.
    #[must_use]
    pub fn new(worker: Rc<Worker>, connection: Rc<ConnectionInfo>, snapshot: Arc<Snapshot>) -> Self {
        Self {
            worker,
            connection,
            snapshot,
            started: Instant::now(),
            meter: Rc::new(BodyMeter::default()),
            router: None,
            upstream: None,
            variants: SmallVec::new(),
            user: None,
            origin: None,
            retries: 0,
            status: 0,
            bytes_out: 0,
            complete: false,
            method: MethodLabel::of(&Method::GET),
            protocol: ProtocolLabel::default(),
            header_values: HeaderValues::default(),
            model_run: None,
            request_id: None,
            takes_interim: false,
            active: None,
            in_flight: None,
            upgrade: None,
            tunnel: None,
            append_forwarded_for: true,
            middlewares_only: Vec::new(),
            close: false,
            client_body: None,
            log: None,
            held: Vec::new(),
        }
    }

    /// The peer's address: the TCP peer, or what the PROXY protocol of a trusted peer said; IPv4-mapped IPv6 as IPv4.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.connection.peer
    }

    /// The peer's IP.
    #[must_use]
    pub fn peer_ip(&self) -> IpAddr {
        self.connection.peer.ip()
    }

    /// Whether the client came over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.connection.tls.is_some()
    }

    /// Whether the connection closes after the answer `body`: it was asked for, it has served its share, or too much of
    /// the client's body was left unread (Go's server draws the line at the same 256 KiB).
    #[must_use]
    pub fn must_close(&self, body: &ResponseBody) -> bool {
        const LEFT: u64 = 256 * 1024;
        let used_up = self.uses_up_connection();
        // A streamed answer may still be waiting for the rest of the upload.
        let at_hand = !matches!(body, ResponseBody::Boxed(_));
        let unread = self.client_body.as_ref().filter(|_| at_hand && !self.meter.ended.get());
        let left = unread.map(|b| b.borrow().size_hint().upper().unwrap_or(u64::MAX));
        let draining = self.active.as_ref().is_some_and(Active::is_draining);
        self.close || draining || used_up || left.is_some_and(|n| n > LEFT)
    }

    /// Counts the request, and says whether the connection has served its share with it: `keepAliveMaxRequests` and
    /// `keepAliveMaxTime`.
    #[must_use]
    pub fn uses_up_connection(&self) -> bool {
        let entry_point = &self.connection.entry_point;
        let requests = self.connection.requests.get() + 1;
        self.connection.requests.set(requests);
        let used_up = entry_point.keep_alive_max_requests != 0 && requests >= entry_point.keep_alive_max_requests;
        let too_old = !entry_point.keep_alive_max_time.is_zero()
            && self.connection.since.elapsed() >= entry_point.keep_alive_max_time;
        used_up || too_old
    }

    /// Keeps `thing` until the answer ended: an in-flight permit, a counter that must go down again.
    pub fn hold(&mut self, thing: impl Any) {
        self.held.push(Box::new(thing));
    }

    /// Ends the accounting: metrics and the log line. Called once, when the exchange is dropped.
    fn account(&mut self) {
        let duration = self.started.elapsed();
        if self.status == 0 {
            // Nobody is left to hear an answer: the client went away.
            self.status = CLIENT_CLOSED;
        }
        let tls = self.connection.tls.as_ref().map(|tls| TlsLabels {
            version: tls.version,
            cipher: tls.cipher,
        });
        let router = self.router.as_deref();
        let metered = router.map_or(self.connection.entry_point.metrics, |r| r.metrics);
        let service = self.upstream.as_ref().map(|u| &u.balancer);
        if metered {
            self.worker.metrics.request(&RequestDone {
                entry_point: Some(self.connection.entry_point.series),
                router: router.and_then(|r| r.series),
                service: service.map(|s| s.series),
                variants: &self.variants,
                headers: self.header_values,
                code: self.status,
                method: self.method,
                protocol: self.protocol,
                duration,
                service_duration: None,
                bytes_in: self.meter.bytes.get(),
                bytes_out: self.bytes_out,
                tls,
            });
        }
        if let Some(run) = self.model_run.take() {
            let done = ModelDone {
                code: self.status,
                duration,
                request_bytes: self.meter.bytes.get(),
                response_bytes: self.bytes_out,
            };
            run.finish(done, Instant::now());
        }
        if let Some(facts) = self.log.take() {
            access::write(self, &facts, duration);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.account();
    }
}
