//! The story of a request: sanitise → route → middlewares and service → answer → accounting.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderValue, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::{ClientBody, RequestBody};
use super::exchange::Exchange;
use super::present::Present;
use super::served::ServedBody;
use super::stream::Taking;
use super::worker::Worker;
use super::{Request, Response, access, error, forwarded, hop_by_hop, sanitise};
use crate::listen::connection::{ConnState, ConnectionInfo};
use crate::middleware::Next;
use crate::observe::metrics::{MethodLabel, ProtocolLabel};
use crate::rule::{Facts, normalise_host, routing_path};

/// Serves one request of `connection`. `taking` is told when the answer waits for the client, where streams share one.
///
/// # Errors
/// Never: whatever goes wrong becomes an answer.
pub async fn serve(
    worker: &Rc<Worker>,
    connection: &Rc<ConnectionInfo>,
    state: &Arc<ConnState>,
    taking: Option<Rc<Taking>>,
    request: ::http::Request<Incoming>,
) -> Result<::http::Response<ServedBody>, Infallible> {
    let mut exchange = Box::new(Exchange::new(
        Rc::clone(worker),
        Rc::clone(connection),
        worker.snapshot(),
    ));
    exchange.active = Some(state.start());
    let (parts, body) = request.into_parts();
    exchange.takes_interim = parts.version == Version::HTTP_11;
    exchange.method = MethodLabel::of(&parts.method);
    let version = parts.version;
    // A router may log where its entry point does not: who is right shows at the end.
    if worker.access_log.is_some() {
        exchange.log = Some(access::facts(worker, &parts));
    }
    let response = tell(&mut exchange, parts, body).await;
    Ok(finish(exchange, response, version, taking))
}

/// From the request's head to the answer's head.
async fn tell(exchange: &mut Exchange, mut parts: Parts, body: Incoming) -> Response {
    let connection = Rc::clone(&exchange.connection);
    let entry_point = &connection.entry_point;
    if !body.is_end_stream() {
        exchange.client_body = Some(Rc::new(RefCell::new(body)));
    }

    // 1. One form: what is refused before anything is routed.
    let present = Present::scan(&parts.headers);
    if let Err(answer) = sanitise::sanitise(&mut parts, entry_point, present) {
        return *answer;
    }

    // 2. What concerns this hop only goes before Gantry adds its own fields, so that no client can name those away.
    // RFC 9110, 7.8: HTTP/1.0 has no upgrades.
    if present.has(Present::HOP_BY_HOP) {
        exchange.middlewares_only = hop_by_hop::kept(&parts.headers, &entry_point.keep_connection);
        let upgrade = hop_by_hop::strip_request(&mut parts.headers, &entry_point.keep_connection);
        exchange.upgrade = upgrade.filter(|_| parts.version == Version::HTTP_11);
    }
    let told = present.has(Present::IDENTITY);
    let believed = told && entry_point.trust.covers(connection.peer.ip());
    if told && !believed {
        forwarded::drop_untrusted(&mut parts.headers);
    }
    forwarded::fill_in(&mut parts.headers, &connection, exchange.upgrade.as_ref(), !believed);
    if let Some(log) = &mut exchange.log {
        access::keep_request_headers(log, &parts.headers);
    }
    exchange.header_values = exchange.worker.metrics.header_values(&parts.headers);
    exchange.append_forwarded_for = entry_point.append_forwarded_for;
    exchange.protocol = match &exchange.upgrade {
        Some(protocol) if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") => ProtocolLabel::Websocket,
        None if !present.has(Present::STREAMING) => ProtocolLabel::Http,
        _ => ProtocolLabel::of(&parts.headers),
    };

    // 3. The router, by the snapshot that this exchange keeps to its end.
    let snapshot = Arc::clone(&exchange.snapshot);
    let plan = &snapshot.entry_points[entry_point.index];
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .and_then(normalise_host);
    let host = host.as_deref().unwrap_or_default();
    if let Some(tls) = &connection.tls
        && plan.tls.options_for_host(host) != tls.options_id
    {
        // RFC 9110, 15.5.20: this host has other TLS options than the name that the handshake was for.
        return error::plain(StatusCode::MISDIRECTED_REQUEST, "Misdirected Request");
    }
    let path = routing_path(parts.uri.path());
    let facts = Facts {
        host,
        path: &path,
        method: parts.method.as_str(),
        headers: &parts.headers,
        query: parts.uri.query(),
        client_ip: connection.peer.ip(),
    };
    let routers = if connection.tls.is_some() {
        &plan.secure
    } else {
        &plan.plain
    };
    let Some(router) = routers.find(&facts) else {
        return error::not_found();
    };
    if router.client_auth != 0 && connection.tls.as_ref().map(|tls| tls.client_auth_id) != Some(router.client_auth) {
        // The options of this host ask for less than those of this router, such as those of a wildcard that the host
        // falls under. Nobody has shown the certificate that the router wants.
        return error::plain(StatusCode::MISDIRECTED_REQUEST, "Misdirected Request");
    }
    let router = Arc::clone(router);
    exchange.router = Some(Arc::clone(&router));

    // 4. Through the middlewares to the service.
    let body = match &exchange.client_body {
        None => RequestBody::Empty,
        Some(body) => RequestBody::Client(Box::new(ClientBody::new(
            Rc::clone(body),
            Rc::clone(&exchange.meter),
            entry_point.body_limits,
            Rc::clone(&exchange.worker.deadlines),
        ))),
    };
    let request = Request::from_parts(parts, body);
    if router.middlewares.is_empty() {
        return router.service.handle(request, exchange).await;
    }
    Next::new(&router.middlewares, &router.service)
        .run(request, exchange)
        .await
}

/// From the answer's head to the body that hyper writes. The exchange lives on in the body.
fn finish(
    mut exchange: Box<Exchange>,
    response: Response,
    version: Version,
    taking: Option<Rc<Taking>>,
) -> ::http::Response<ServedBody> {
    let (mut head, body) = response.into_parts();
    exchange.status = head.status.as_u16();
    if let Some(active) = &exchange.active {
        active.connection().on_answer();
    }
    if version == Version::HTTP_2 {
        if exchange.uses_up_connection()
            && let Some(active) = &exchange.active
        {
            active.connection().retire();
        }
    } else {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // hyper needs it; the server's own Connection may have named more.
            head.headers
                .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        } else if exchange.must_close(&body) {
            head.headers
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    if let Some(log) = exchange.log.as_mut().filter(|log| log.keep_headers) {
        log.downstream_headers = head.headers.clone();
    }
    // A middleware may have put another answer in the place of a 101: then there is no tunnel.
    let tunnel = exchange
        .tunnel
        .take()
        .filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS);
    if let Some(tunnel) = tunnel {
        super::tunnel::spawn(tunnel, exchange);
        return ::http::Response::from_parts(head, ServedBody::finished());
    }
    ::http::Response::from_parts(head, ServedBody::new(body, exchange, taking))
}
