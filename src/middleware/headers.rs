//! `headers`: sets and removes headers of requests and answers, answers CORS preflights ([`cors`]), sends security
//! headers ([`security`]).
//!
//! Order, as in Traefik: a preflight is answered; request headers are changed; the host is checked; the rest of the
//! chain runs; security headers, then custom response headers, then CORS headers are put on the answer. So a later
//! step sees what an earlier one did: `customResponseHeaders` can take a security header off again.

pub mod cors;
pub mod security;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use self::cors::Cors;
use self::security::Security;
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::Headers as Config;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

/// The middleware.
#[derive(Debug)]
pub struct Headers {
    request: Edits,
    response: Edits,
    cors: Option<Cors>,
    security: Option<Security>,
    /// An empty `X-Forwarded-For` among the request headers: none is sent, not even with the peer alone.
    no_forwarded_for: bool,
}

/// Builds it from its configuration.
///
/// # Errors
/// See [`Headers::new`].
pub fn build(config: &Config, _context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    Ok(Arc::new(Headers::new(config)?))
}

impl Headers {
    /// The middleware.
    ///
    /// # Errors
    /// Nothing is configured; a header's name or value, or a regular expression, cannot be used.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let request = Edits::new(&config.custom_request_headers, "headers.customRequestHeaders")?;
        let response = Edits::new(&config.custom_response_headers, "headers.customResponseHeaders")?;
        let (cors, security) = (Cors::new(config)?, Security::new(config)?);
        if request.is_empty() && response.is_empty() && cors.is_none() && security.is_none() {
            return Err(BuildError::new(
                "headers",
                "nothing is set: the middleware would do nothing",
            ));
        }
        let no_forwarded_for = request.removes("x-forwarded-for");
        Ok(Self {
            request,
            response,
            cors,
            security,
            no_forwarded_for,
        })
    }

    /// What happens before the rest of the chain; an answer ends it.
    fn before(&self, request: &mut Request, tls: bool) -> ControlFlow<Response, After> {
        if let Some(answer) = self
            .cors
            .as_ref()
            .and_then(|cors| cors.preflight(request.method(), request.headers()))
        {
            return ControlFlow::Break(answer);
        }
        self.request.apply(request.headers_mut());
        let headers = request.headers();
        let after = After {
            origin: self.cors.as_ref().and_then(|_| headers.get(header::ORIGIN).cloned()),
            tls: self
                .security
                .as_ref()
                .is_some_and(|security| security.is_tls(headers, tls)),
        };
        match &self.security {
            Some(security) if !security.allows_host(headers) => {
                let mut refusal = security::bad_host();
                self.finish(&mut refusal, &after);
                ControlFlow::Break(refusal)
            }
            _ => ControlFlow::Continue(after),
        }
    }

    /// What happens to the answer.
    fn after(&self, response: &mut Response, after: &After) {
        if let Some(security) = &self.security {
            security.apply(response.headers_mut(), after.tls);
        }
        self.finish(response, after);
    }

    fn finish(&self, response: &mut Response, after: &After) {
        let headers = response.headers_mut();
        self.response.apply(headers);
        if let Some(cors) = &self.cors {
            cors.apply(headers, after.origin.as_ref());
        }
    }
}

/// What the second half of the work has to know of the request.
#[derive(Debug)]
struct After {
    origin: Option<HeaderValue>,
    tls: bool,
}

impl Middleware for Headers {
    fn handle<'a>(
        &'a self,
        mut request: Request,
        exchange: &'a mut Exchange,
        next: Next<'a>,
    ) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let after = match self.before(&mut request, exchange.is_secure()) {
                ControlFlow::Continue(after) => after,
                ControlFlow::Break(answer) => return answer,
            };
            exchange.append_forwarded_for &= !self.no_forwarded_for;
            let mut response = next.run(request, exchange).await;
            self.after(&mut response, &after);
            response
        })
    }
}

/// Headers to set (a value) and to remove (none).
#[derive(Debug, Default)]
struct Edits(Vec<(HeaderName, Option<HeaderValue>)>);

impl Edits {
    fn new(config: &BTreeMap<String, String>, path: &str) -> Result<Self, BuildError> {
        let edits = config.iter().map(|(name, text)| {
            let at = || format!("{path}.{name}");
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| BuildError::new(at(), format!("`{name}` is no name of a header")))?;
            let value = if text.is_empty() { None } else { Some(value(text, at)?) };
            Ok((header, value))
        });
        edits.collect::<Result<_, _>>().map(Self)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn removes(&self, name: &str) -> bool {
        self.0.iter().any(|(header, value)| header == name && value.is_none())
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            match value {
                Some(value) => drop(headers.insert(name, value.clone())),
                // Traefik's Host is no header that could be removed.
                None if name == header::HOST => {}
                None => drop(headers.remove(name)),
            }
        }
    }
}

/// A header's value from the configuration. Line breaks, as YAML's block texts bring them, become blanks.
fn value(text: &str, path: impl FnOnce() -> String) -> Result<HeaderValue, BuildError> {
    let one_line = text.trim().replace(['\r', '\n'], " ");
    HeaderValue::from_bytes(one_line.as_bytes())
        .map_err(|_| BuildError::new(path(), "a header's value holds no control characters"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body::{RequestBody, ResponseBody};

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn request(headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = http::Request::new(RequestBody::Empty);
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn custom_headers_are_set_and_removed() {
        let config = Config {
            custom_request_headers: map(&[("X-A", "1"), ("host", "other.host"), ("cookie", "")]),
            custom_response_headers: map(&[("X-R", "r\n"), ("Server", "")]),
            ..Config::default()
        };
        let middleware = Headers::new(&config).unwrap();
        let mut request = request(&[("host", "app.test"), ("x-a", "x"), ("x-a", "y"), ("cookie", "a=b")]);
        let after = middleware.before(&mut request, false).continue_value().unwrap();
        let headers = request.headers();
        assert_eq!(headers["host"], "other.host");
        assert_eq!(headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1"]);
        assert!(!headers.contains_key("cookie"));
        assert!(!middleware.no_forwarded_for);

        let mut response = http::Response::new(ResponseBody::empty());
        response.headers_mut().insert("server", HeaderValue::from_static("x"));
        middleware.after(&mut response, &after);
        assert_eq!(response.headers()["x-r"], "r");
        assert!(!response.headers().contains_key("server"));
    }

    #[test]
    fn an_emptied_forwarded_for_is_not_sent_at_all() {
        let config = Config {
            custom_request_headers: map(&[("X-Forwarded-For", ""), ("Host", "")]),
            ..Config::default()
        };
        let mut request = request(&[("host", "app.test"), ("x-forwarded-for", "1.2.3.4")]);
        let middleware = Headers::new(&config).unwrap();
        middleware.before(&mut request, false).continue_value().unwrap();
        assert!(!request.headers().contains_key("x-forwarded-for"));
        assert!(middleware.no_forwarded_for);
        assert_eq!(request.headers()["host"], "app.test");
    }

    #[test]
    fn a_bad_host_gets_custom_headers_but_no_security_headers() {
        let config = Config {
            allowed_hosts: vec!["app.test".to_owned()],
            frame_deny: true,
            custom_response_headers: map(&[("X-R", "r")]),
            ..Config::default()
        };
        let refusal = Headers::new(&config)
            .unwrap()
            .before(&mut request(&[("host", "bad.test")]), false)
            .break_value()
            .unwrap();
        assert_eq!(refusal.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(refusal.headers()["x-r"], "r");
        assert!(!refusal.headers().contains_key("x-frame-options"));
    }

    #[test]
    fn custom_headers_win_over_security_headers() {
        let config = Config {
            content_type_nosniff: true,
            custom_response_headers: map(&[("X-Content-Type-Options", "")]),
            ..Config::default()
        };
        let middleware = Headers::new(&config).unwrap();
        let mut response = http::Response::new(ResponseBody::empty());
        middleware.after(
            &mut response,
            &After {
                origin: None,
                tls: false,
            },
        );
        assert!(response.headers().is_empty());
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let path = |config: Config| Headers::new(&config).unwrap_err().path;
        assert_eq!(path(Config::default()), "headers");
        let bad = Config {
            custom_request_headers: map(&[("bad name", "1")]),
            ..Config::default()
        };
        assert_eq!(path(bad), "headers.customRequestHeaders.bad name");
        let bad = Config {
            custom_response_headers: map(&[("X-A", "a\0b")]),
            ..Config::default()
        };
        assert_eq!(path(bad), "headers.customResponseHeaders.X-A");
    }
}
