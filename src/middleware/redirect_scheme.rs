//! `redirectScheme`, and the redirections of entry points (`http.redirections.entryPoint`): sends the client to the
//! same place under another scheme or port.
//!
//! Invariant: the client is only sent elsewhere; a request that is where it should be passes, so that no redirection
//! leads to itself.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::RedirectScheme as Config;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

/// The middleware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectScheme {
    /// Lower-case.
    scheme: String,
    /// Absent when it is the scheme's own.
    port: Option<String>,
    permanent: bool,
}

/// Builds it from its configuration.
///
/// # Errors
/// See [`RedirectScheme::new`].
pub fn build(config: &Config, _context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    Ok(Arc::new(RedirectScheme::new(
        &config.scheme,
        &config.port,
        config.permanent,
    )?))
}

/// The port that `http.redirections.entryPoint.to` means: `:8443`, or the name of an entry point, whose port
/// `port_of` knows.
///
/// # Errors
/// `to` is neither.
pub fn entry_point_port(to: &str, port_of: impl FnOnce(&str) -> Option<u16>) -> Result<u16, String> {
    match to.strip_prefix(':') {
        Some(port) => port
            .parse()
            .map_err(|_| format!("`{to}` is no port; write it as `:8443`")),
        None => port_of(to).ok_or_else(|| format!("there is no entry point `{to}`")),
    }
}

impl RedirectScheme {
    /// The middleware. An empty `port`, and the scheme's own, mean that the target has none.
    ///
    /// # Errors
    /// The scheme is empty or none, or the port is no number of a port.
    pub fn new(scheme: &str, port: &str, permanent: bool) -> Result<Self, BuildError> {
        let wrong = |key: &str, message: String| BuildError::new(format!("redirectScheme.{key}"), message);
        if scheme.is_empty() {
            return Err(wrong("scheme", "the scheme is missing, such as `https`".to_owned()));
        }
        // RFC 3986, section 3.1.
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(in_scheme) {
            return Err(wrong("scheme", format!("`{scheme}` is no scheme of a URL")));
        }
        if !port.is_empty() && port.parse::<u16>().is_err() {
            return Err(wrong("port", format!("`{port}` is no port")));
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = own_port(&scheme, Some(port).filter(|port| !port.is_empty())).map(str::to_owned);
        Ok(Self {
            scheme,
            port,
            permanent,
        })
    }

    /// Where the request should have gone; `None` when it is right where it is.
    fn location(&self, uri: &Uri, headers: &HeaderMap, tls: bool) -> Option<String> {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let (host, port) = split_port(host);
        let scheme = current_scheme(headers, tls);
        if scheme == self.scheme && own_port(scheme, port) == self.port.as_deref() {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let colon = if self.port.is_some() { ":" } else { "" };
        let port = self.port.as_deref().unwrap_or_default();
        Some(format!("{}://{host}{colon}{port}{path}", self.scheme))
    }

    fn redirect(&self, method: &Method, location: &str) -> Response {
        // Only GET may be repeated as GET (RFC 9110, section 15.4).
        let status = match (method == Method::GET, self.permanent) {
            (true, false) => StatusCode::FOUND,
            (true, true) => StatusCode::MOVED_PERMANENTLY,
            (false, false) => StatusCode::TEMPORARY_REDIRECT,
            (false, true) => StatusCode::PERMANENT_REDIRECT,
        };
        let Ok(location) = HeaderValue::from_bytes(location.as_bytes()) else {
            return error::status_text(StatusCode::BAD_REQUEST);
        };
        let mut response = error::status_text(status);
        response.headers_mut().insert(header::LOCATION, location);
        response
    }
}

impl Middleware for RedirectScheme {
    fn handle<'a>(&'a self, request: Request, exchange: &'a mut Exchange, next: Next<'a>) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            match self.location(request.uri(), request.headers(), exchange.is_secure()) {
                Some(location) => self.redirect(request.method(), &location),
                None => next.run(request, exchange).await,
            }
        })
    }
}

/// The scheme that the client used: X-Forwarded-Proto (the entry point let only trusted peers set it) wins over the
/// connection's own. WebSockets begin as HTTP requests, so `wss` means https here.
fn current_scheme(headers: &HeaderMap, tls: bool) -> &'static str {
    let forwarded = headers
        .get("x-forwarded-proto")
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let is = |names: [&str; 2]| names.iter().any(|name| forwarded.eq_ignore_ascii_case(name.as_bytes()));
    if is(["https", "wss"]) || (tls && !is(["http", "ws"])) {
        "https"
    } else {
        "http"
    }
}

/// The port, unless it is the scheme's own.
fn own_port<'a>(scheme: &str, port: Option<&'a str>) -> Option<&'a str> {
    port.filter(|port| !matches!((scheme, *port), ("http", "80") | ("https", "443")))
}

/// Host and port of a Host header; an IPv6 address keeps its brackets.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && (name.ends_with(']') || !name.contains(':')) => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(to: &RedirectScheme, host: &'static str, proto: Option<&'static str>, tls: bool) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(proto) = proto {
            headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
        }
        to.location(&Uri::from_static("/a/b?x=1%20;y"), &headers, tls)
    }

    /// Answers of Traefik 3.7.15.
    #[test]
    fn locations() {
        let plain = RedirectScheme::new("https", "", false).unwrap();
        let port = RedirectScheme::new("https", "8443", true).unwrap();
        let http = RedirectScheme::new("http", "", false).unwrap();
        let shouted = RedirectScheme::new("HTTPS", "443", false).unwrap();
        for (to, host, proto, expected) in [
            (&plain, "app.test", None, Some("https://app.test/a/b?x=1%20;y")),
            (&plain, "app.test:8080", None, Some("https://app.test/a/b?x=1%20;y")),
            (&plain, "[::1]:8080", None, Some("https://[::1]/a/b?x=1%20;y")),
            (&plain, "[::1]", None, Some("https://[::1]/a/b?x=1%20;y")),
            (&plain, "app.test", Some("https"), None),
            (&plain, "app.test", Some("WSS"), None),
            (&plain, "app.test:443", Some("https"), None),
            (&plain, "app.test", Some("ws"), Some("https://app.test/a/b?x=1%20;y")),
            (&shouted, "app.test", None, Some("https://app.test/a/b?x=1%20;y")),
            (&shouted, "app.test", Some("https"), None),
            (&port, "app.test:8080", None, Some("https://app.test:8443/a/b?x=1%20;y")),
            (
                &port,
                "app.test",
                Some("https"),
                Some("https://app.test:8443/a/b?x=1%20;y"),
            ),
            (&port, "app.test:8443", Some("https"), None),
            (&http, "app.test:80", None, None),
            (&http, "app.test", None, None),
            (&http, "app.test:8080", None, Some("http://app.test/a/b?x=1%20;y")),
            (
                &http,
                "app.test:443",
                Some("https"),
                Some("http://app.test/a/b?x=1%20;y"),
            ),
        ] {
            assert_eq!(
                location(to, host, proto, false).as_deref(),
                expected,
                "{to:?} {host} {proto:?}"
            );
        }
        assert_eq!(location(&plain, "app.test", None, true), None);
        assert!(
            location(&plain, "app.test", Some("http"), true).is_some(),
            "TLS ended before a trusted peer spoke http"
        );
    }

    #[test]
    fn statuses() {
        let status = |method, permanent| {
            let response = RedirectScheme::new("https", "", permanent)
                .unwrap()
                .redirect(&method, "https://x/");
            assert_eq!(response.headers()[header::LOCATION], "https://x/");
            response.status().as_u16()
        };
        assert_eq!(status(Method::GET, false), 302);
        assert_eq!(status(Method::GET, true), 301);
        assert_eq!(status(Method::HEAD, false), 307);
        assert_eq!(status(Method::POST, true), 308);
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let path = |scheme, port| RedirectScheme::new(scheme, port, false).unwrap_err().path;
        assert_eq!(path("", ""), "redirectScheme.scheme");
        assert_eq!(path("ht tp", ""), "redirectScheme.scheme");
        assert_eq!(path("1http", ""), "redirectScheme.scheme");
        assert_eq!(path("https", "https"), "redirectScheme.port");
        assert_eq!(path("https", "70000"), "redirectScheme.port");
    }

    #[test]
    fn ports_of_entry_points() {
        let known = |name: &str| (name == "websecure").then_some(8443);
        assert_eq!(entry_point_port("websecure", known), Ok(8443));
        assert_eq!(entry_point_port(":443", known), Ok(443));
        assert!(entry_point_port("nowhere", known).is_err());
        assert!(entry_point_port(":x", known).is_err());
    }
}
