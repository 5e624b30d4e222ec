//! One request to one server: connection, attempts, and what a failure means for the client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::request::Parts;
use ::http::uri::{PathAndQuery, Scheme as UriScheme, Uri};
use ::http::{HeaderValue, Method, StatusCode, header};

use super::dial::{DialError, Dialled, dial};
use super::http1::{Answer, SendError, SendOptions, Wire, send};
use super::http1_head::write_request;
use super::http2::{self, Unanswered};
use super::pool::Ticket;
use super::pump::{Framing, Pump};
use super::stream::Stream;
use super::upgrade;
use crate::http::body::{BodyError, RequestBody};
use crate::http::exchange::{Exchange, Origin};
use crate::http::target::without_semicolons;
use crate::http::{Request, Response, error, forwarded, hop_by_hop};
use crate::service::load_balancer::LoadBalancer;
use crate::service::server::Server;

/// Most connections that one request tries while idle ones turn out to be dead.
const MAX_TRIES: u32 = 4;

/// Why a server gave no answer that can be passed on.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No connection.
    #[error("no connection: {0}")]
    Dial(#[from] DialError),
    /// The connection broke before an answer.
    #[error("the connection broke before an answer: {0}")]
    Closed(String),
    /// `responseHeaderTimeout` passed.
    #[error("no answer within responseHeaderTimeout")]
    Timeout,
    /// Not HTTP.
    #[error("{0}")]
    Garbage(String),
    /// HTTP that breaks its own rules.
    #[error("{0}")]
    Protocol(String),
    /// The client's body failed.
    #[error("{0}")]
    Body(BodyError),
}

impl ForwardError {
    /// What the client is told (reference, C1).
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Dial(DialError::Timeout) | Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Dial(_) | Self::Closed(_) | Self::Protocol(_) => StatusCode::BAD_GATEWAY,
            Self::Garbage(_) | Self::Body(BodyError::Server(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::Timeout | BodyError::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Self::Body(BodyError::Malformed(_)) => StatusCode::BAD_REQUEST,
            Self::Body(BodyError::Client(_)) => StatusCode::from_u16(499).expect("499 is a valid status code"),
        }
    }
}

/// Brings `request` to `server` and its answer back.
pub async fn forward(
    balancer: &LoadBalancer,
    server: &Arc<Server>,
    request: Request,
    exchange: &mut Exchange,
) -> Response {
    exchange.in_flight = Some(server.state.start());
    let begun = Instant::now();
    let (mut parts, body) = request.into_parts();
    if let Some(target) = parts.uri.path_and_query().and_then(without_semicolons) {
        parts.uri = Uri::from(target);
    }
    for name in &exchange.middlewares_only {
        parts.headers.remove(name);
    }
    if exchange.append_forwarded_for {
        forwarded::append_peer(&mut parts.headers, &exchange.connection);
    }
    let result = exchange_with(balancer, server, parts, body, exchange).await;
    let duration = begun.elapsed();
    match result {
        Ok(mut response) => {
            exchange.origin = Some(Origin {
                status: response.status().as_u16(),
                duration,
            });
            if let Some(log) = exchange.log.as_mut().filter(|log| log.keep_headers) {
                log.origin_headers = response.headers().clone();
            }
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                hop_by_hop::strip_response(response.headers_mut());
            }
            if response.status() == StatusCode::NOT_MODIFIED {
                // As Go's server: they describe a body that is not sent.
                response.headers_mut().remove(header::CONTENT_TYPE);
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            response
        }
        Err(failure) => {
            let status = failure.status();
            exchange.origin = Some(Origin {
                status: status.as_u16(),
                duration,
            });
            tracing::debug!(service = %balancer.name, server = %server.url, status = status.as_u16(), "{failure}");
            if matches!(failure, ForwardError::Body(_)) {
                exchange.close = true;
            }
            error::status_text(status)
        }
    }
}

async fn exchange_with(
    balancer: &LoadBalancer,
    server: &Arc<Server>,
    mut parts: Parts,
    mut body: RequestBody,
    exchange: &mut Exchange,
) -> Result<Response, ForwardError> {
    let pools = &exchange.worker.pools;
    let shared = if exchange.upgrade.is_none() {
        pools.http2(server)
    } else {
        None
    };
    if let Some(sender) = shared {
        match http2::send(sender, balancer, server, parts, body, exchange).await {
            Err(Unanswered::Unsent(request)) => (parts, body) = *request,
            answered => {
                exchange.worker.metrics.connection_reused(balancer.series);
                return Ok(answered?);
            }
        }
    }
    let wire = match pools.take(server) {
        Some(wire) => {
            exchange.worker.metrics.connection_reused(balancer.series);
            wire
        }
        None => match fresh(balancer, server, exchange).await? {
            Fresh::Http1(wire) => wire,
            Fresh::Http2(stream) => {
                let connected = http2::connect(stream, server, exchange).await;
                exchange.worker.metrics.dialled(balancer.series, connected.is_ok());
                let sender = connected?;
                return Ok(http2::send(sender, balancer, server, parts, body, exchange).await?);
            }
        },
    };
    http1(balancer, server, parts, body, exchange, wire).await
}

enum Fresh {
    Http1(Box<Wire>),
    Http2(Stream),
}

async fn fresh(balancer: &LoadBalancer, server: &Server, exchange: &Exchange) -> Result<Fresh, ForwardError> {
    let dialled = dial(&exchange.worker, server, exchange.upgrade.is_some()).await;
    if !matches!(dialled, Ok(Dialled { http2: true, .. })) {
        // With HTTP/2, the handshake has yet to succeed.
        exchange.worker.metrics.dialled(balancer.series, dialled.is_ok());
    }
    let Dialled { stream, http2 } = dialled?;
    Ok(if http2 {
        Fresh::Http2(stream)
    } else {
        Fresh::Http1(Box::new(Wire::new(stream)))
    })
}

/// The request over HTTP/1.1, on `wire` or, when that turns out to be dead, on others.
///
/// A request is sent again only while it is certain that no server began to work on it: nothing went out, or the method
/// is idempotent (RFC 9110, 9.2.2), its body untouched, and the connection an idle one that closed before any answer.
async fn http1(
    balancer: &LoadBalancer,
    server: &Arc<Server>,
    mut parts: Parts,
    body: RequestBody,
    exchange: &mut Exchange,
    mut wire: Box<Wire>,
) -> Result<Response, ForwardError> {
    let framing = Framing::of(&parts.method, &body);
    let head = |out: &mut Vec<u8>, parts: &Parts, exchange: &Exchange| {
        let host = host_of(balancer, server, parts);
        let target = (server.base_path.as_str(), parts.uri.path_and_query());
        write_request(
            out,
            &parts.method,
            target,
            host.as_bytes(),
            &parts.headers,
            framing,
            exchange.upgrade.as_ref(),
        );
    };
    let options = SendOptions {
        upgrading: exchange.upgrade.is_some(),
        interim: exchange
            .active
            .as_ref()
            .filter(|_| exchange.takes_interim)
            .map(|a| Arc::clone(a.connection())),
        header_timeout: server.transport.response_header_timeout,
        deadlines: exchange.worker.deadlines.clone(),
    };
    let mut out = std::mem::take(&mut wire.out);
    head(&mut out, &parts, exchange);
    let mut pump = Pump::new(out, body, framing);
    for tries in 1.. {
        let ticket = Ticket::new(exchange.worker.pools.clone(), server.clone());
        let reused = wire.reused;
        match send(wire, &parts.method, pump, ticket, &options).await {
            Ok(Answer::Response(head, body)) => return Ok(Response::from_parts(head, body)),
            Ok(Answer::Upgraded(head, wire)) => return upgrade::accept(head, *wire, &mut parts, exchange),
            Err(SendError::Closed { error, pump: old }) => {
                let again = reused && tries < MAX_TRIES && (!old.has_written() || is_idempotent(&parts.method));
                if !again {
                    return Err(ForwardError::Closed(error.to_string()));
                }
                let mut out = Vec::new();
                head(&mut out, &parts, exchange);
                pump = old.restart(out).map_err(|_| ForwardError::Closed(error.to_string()))?;
                wire = match fresh(balancer, server, exchange).await? {
                    Fresh::Http1(wire) => wire,
                    Fresh::Http2(_) => return Err(ForwardError::Protocol("the server changed to HTTP/2".into())),
                };
            }
            Err(SendError::Timeout) => return Err(ForwardError::Timeout),
            Err(SendError::Body(e)) => return Err(ForwardError::Body(e)),
            Err(SendError::Garbage(e)) => return Err(ForwardError::Garbage(e)),
            Err(SendError::Protocol(e)) => return Err(ForwardError::Protocol(e)),
        }
    }
    unreachable!("the loop returns")
}

fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ]
    .contains(method)
}

/// The Host that the server sees.
pub(super) fn host_of<'a>(balancer: &LoadBalancer, server: &'a Server, parts: &'a Parts) -> &'a HeaderValue {
    match parts.headers.get(header::HOST) {
        Some(host) if balancer.pass_host_header && !host.is_empty() => host,
        _ => &server.authority,
    }
}

/// An absolute URI for HTTP/2.
pub(super) fn absolute_uri(server: &Server, host: &HeaderValue, parts: &Parts) -> Result<Uri, ForwardError> {
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = format!("{}{path}", server.base_path);
    let scheme = if server.scheme.as_str() == "https" {
        UriScheme::HTTPS
    } else {
        UriScheme::HTTP
    };
    Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(path)
        .build()
        .map_err(|e| ForwardError::Protocol(e.to_string()))
}

/// Longest wait for an HTTP/2 handshake beyond the connection itself.
pub(super) const HTTP2_HANDSHAKE: Duration = Duration::from_secs(10);
