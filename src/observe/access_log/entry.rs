//! What a line of the access log is made of.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// A request that is over. Everything is borrowed: nothing is copied but into the line.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// When its head was read.
    pub start: SystemTime,
    /// From then to the last byte of the response.
    pub duration: Duration,
    /// The client's address and port, as text: made once a connection.
    pub client_addr: &'a str,
    /// `ClientHost` where it is not the address of `client_addr`: what a trusted `X-Forwarded-For` says.
    pub client_host: Option<&'a str>,
    /// The user that an authentication found.
    pub user: Option<&'a str>,
    /// The `Host` header, empty where the request had none.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query as they came.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The name of the entry point.
    pub entry_point: &'a str,
    /// The id that Gantry gave it: requests to models have one. JSON only; Traefik has no such field.
    pub request_id: Option<&'a str>,
    /// Bytes of the request body that were read.
    pub request_size: u64,
    /// The status code that the client got.
    pub status: u16,
    /// Bytes of the response body that the client was sent.
    pub response_size: u64,
    /// How often it was tried again.
    pub retry_attempts: u32,
    /// The qualified name of the router that matched.
    pub router: Option<&'a str>,
    /// What was asked to answer.
    pub service: Option<Service<'a>>,
    /// What it answered.
    pub origin: Option<Origin<'a>>,
    /// The client's TLS.
    pub tls: Option<Tls<'a>>,
    /// The headers of the request.
    pub request_headers: Option<&'a HeaderMap>,
    /// The headers that the client was sent.
    pub response_headers: Option<&'a HeaderMap>,
}

/// The server that a request went to.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    /// The qualified name of the service.
    pub name: &'a str,
    /// The server's URL.
    pub url: &'a str,
    /// The server's host and port.
    pub addr: &'a str,
}

/// The answer of a server.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its status code.
    pub status: u16,
    /// Bytes of its body.
    pub size: u64,
    /// How long it took.
    pub duration: Duration,
    /// Its headers.
    pub headers: Option<&'a HeaderMap>,
}

/// The TLS of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// `1.3`.
    pub version: &'a str,
    /// The cipher suite.
    pub cipher: &'a str,
    /// The subject of the client's certificate.
    pub client_subject: Option<&'a str>,
}

#[cfg(test)]
pub(super) fn example() -> Entry<'static> {
    Entry {
        start: SystemTime::UNIX_EPOCH + Duration::new(1_136_214_245, 5),
        duration: Duration::from_millis(42),
        client_addr: "192.0.2.7:40000",
        client_host: None,
        user: None,
        host: "mri.example.com",
        method: "POST",
        path: "/segment",
        protocol: "HTTP/1.1",
        scheme: "http",
        entry_point: "web",
        request_id: None,
        request_size: 5,
        status: 200,
        response_size: 7,
        retry_attempts: 0,
        router: None,
        service: None,
        origin: None,
        tls: None,
        request_headers: None,
        response_headers: None,
    }
}
