//! From an exchange to its line in the access log.

use std::time::{Duration, SystemTime};

use ::http::request::Parts;
use ::http::{HeaderMap, Version};

use super::exchange::{Exchange, LogFacts};
use super::worker::Worker;
use crate::observe::access_log::{Entry, Origin, Service, Tls};

/// What the log wants of a request, before anything changes it.
#[must_use]
pub fn facts(worker: &Worker, request: &Parts) -> Box<LogFacts> {
    let keep_headers = worker
        .access_log
        .as_ref()
        .is_some_and(|log| log.borrow().wants_headers());
    let host = request.headers.get(::http::header::HOST).and_then(|h| h.to_str().ok());
    let host = host.or_else(|| request.uri.authority().map(|a| a.as_str()));
    Box::new(LogFacts {
        method: request.method.clone(),
        target: request.uri.clone(),
        host: host.unwrap_or_default().to_owned(),
        version: version(request.version),
        keep_headers,
        ..LogFacts::default()
    })
}

/// The request's fields for the log, once those of this hop are gone and Gantry's own are there. Host has keys of its own.
pub fn keep_request_headers(facts: &mut LogFacts, headers: &HeaderMap) {
    if facts.keep_headers {
        facts.request_headers = headers.clone();
        facts.request_headers.remove(::http::header::HOST);
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// Writes the line of an exchange that is over.
pub fn write(exchange: &Exchange, facts: &LogFacts, duration: Duration) {
    let Some(log) = &exchange.worker.access_log else { return };
    let connection = &exchange.connection;
    if !exchange
        .router
        .as_ref()
        .map_or(connection.entry_point.access_logs, |router| router.access_logs)
    {
        return;
    }
    let upstream = exchange.upstream.as_ref();
    let service = upstream
        .and_then(|u| u.server.as_ref().map(|server| (u, server)))
        .map(|(u, server)| Service {
            name: &u.balancer.name,
            url: &server.url,
            addr: server.authority.to_str().unwrap_or_default(),
        });
    let (id, mut id_text) = (exchange.request_id, uuid::Uuid::encode_buffer());
    let headers = |map| facts.keep_headers.then_some(map);
    let path = facts
        .target
        .path_and_query()
        .map_or(facts.target.path(), |p| p.as_str());
    log.borrow_mut().log(&Entry {
        start: SystemTime::now()
            .checked_sub(duration)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        duration,
        client_addr: &connection.peer_address,
        client_host: None,
        user: exchange.user.as_deref(),
        host: &facts.host,
        method: facts.method.as_str(),
        path,
        protocol: facts.version,
        scheme: if connection.tls.is_some() { "https" } else { "http" },
        entry_point: &connection.entry_point.name,
        request_id: id.map(|id| &*id.hyphenated().encode_lower(&mut id_text)),
        request_size: exchange.meter.bytes.get(),
        status: exchange.status,
        response_size: exchange.bytes_out,
        retry_attempts: exchange.retries,
        router: exchange.router.as_ref().map(|router| router.name.as_str()),
        service,
        origin: exchange.origin.map(|origin| Origin {
            status: origin.status,
            size: exchange.bytes_out,
            duration: origin.duration,
            headers: headers(&facts.origin_headers),
        }),
        tls: connection.tls.as_ref().map(|tls| Tls {
            version: tls.version,
            cipher: tls.cipher,
            client_subject: tls.client.as_ref().map(|client| client.subject.as_str()),
        }),
        request_headers: headers(&facts.request_headers),
        response_headers: headers(&facts.downstream_headers),
    });
}
