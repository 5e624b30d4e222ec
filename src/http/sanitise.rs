//! The first look at a request: what is refused before anything is routed, and the one form of what is not.
//!
//! hyper parses; policy is here (threats: Host, targets, codings, underscores, the HTTP/2 bomb).

use ::http::uri::{PathAndQuery, Uri};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::Response;
use super::error;
use super::present::Present;
use super::target::Refused;
use crate::config::static_config::UnderscoreHeaders;
use crate::listen::entry_point::EntryPoint;

/// Most fields of an HTTP/2 request, cookie crumbs included: the decoded size alone does not stop the HTTP/2 bomb.
const MAX_FIELDS: usize = 512;

/// Brings a request's head into its one form.
///
/// # Errors
/// The answer, where the request is refused. Answers without a body, as Go's server gives them.
pub fn sanitise(
    request: &mut ::http::request::Parts,
    entry_point: &EntryPoint,
    present: Present,
) -> Result<(), Box<Response>> {
    let http2 = request.version == Version::HTTP_2;
    if http2 && request.headers.len() > MAX_FIELDS {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    if request.method == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    host(request, present)?;
    if request.uri.path() == "*" {
        // RFC 9110, 9.3.7: it asks the server itself.
        return refuse(if request.method == Method::OPTIONS {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        });
    }
    if present.has(Present::TRANSFER_ENCODING) {
        codings(&request.headers, http2)?;
    }
    target(request, entry_point)?;
    if present.has(Present::UNDERSCORE) {
        underscores(&mut request.headers, entry_point.underscores)?;
    }
    if present.has(Present::EXPECT)
        && let Some(expect) = request.headers.remove(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return refuse(StatusCode::EXPECTATION_FAILED);
    }
    if present.has(Present::EMPTY_USER_AGENT) {
        request.headers.remove(header::USER_AGENT);
    }
    if http2 && present.has(Present::COOKIE) {
        join_crumbs(&mut request.headers);
    }
    Ok(())
}

fn refuse(status: StatusCode) -> Result<(), Box<Response>> {
    Err(Box::new(error::empty(status)))
}

/// RFC 9112, 3.2: exactly one Host with HTTP/1.1, and the target's authority before it.
fn host(request: &mut ::http::request::Parts, present: Present) -> Result<(), Box<Response>> {
    if present.has(Present::SECOND_HOST) {
        return refuse(StatusCode::BAD_REQUEST);
    }
    let http2 = request.version == Version::HTTP_2;
    // Also where the target is absolute: RFC 9112, 3.2, and Go's server.
    if !present.has(Present::HOST) && request.version == Version::HTTP_11 {
        return refuse(StatusCode::BAD_REQUEST);
    }
    if let Some(authority) = request.uri.authority() {
        if authority.as_str().contains('@') {
            return refuse(StatusCode::BAD_REQUEST);
        }
        // RFC 9113, 8.3.1: :authority and Host must not differ.
        let first = request.headers.get(header::HOST);
        if http2 && first.is_some_and(|h| !h.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
            return refuse(StatusCode::BAD_REQUEST);
        }
        if let Ok(value) = HeaderValue::from_str(authority.as_str()) {
            request.headers.insert(header::HOST, value);
        }
    } else if http2 && !present.has(Present::HOST) {
        return refuse(StatusCode::BAD_REQUEST);
    }
    match request.headers.get(header::HOST) {
        Some(host) if !host.as_bytes().iter().all(|&b| is_host_byte(b)) => refuse(StatusCode::BAD_REQUEST),
        _ => Ok(()),
    }
}

/// The bytes of a host and port (RFC 3986, 3.2.2), as Go's server allows them.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

/// hyper looks at the last coding only; anything but `chunked` alone is refused here (reference, C1: 501).
fn codings(headers: &HeaderMap, http2: bool) -> Result<(), Box<Response>> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if !http2 && one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ if http2 => refuse(StatusCode::BAD_REQUEST),
        _ => refuse(StatusCode::NOT_IMPLEMENTED),
    }
}

fn target(request: &mut ::http::request::Parts, entry_point: &EntryPoint) -> Result<(), Box<Response>> {
    let absolute = request.uri.scheme().is_some();
    if let Some(scheme) = request.uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return refuse(StatusCode::BAD_REQUEST);
    }
    let Some(target) = request.uri.path_and_query() else {
        if !absolute {
            return refuse(StatusCode::BAD_REQUEST);
        }
        request.uri = origin_form(PathAndQuery::from_static("/"));
        return Ok(());
    };
    match entry_point.targets.normalise(target) {
        Ok(None) if !absolute => Ok(()),
        Ok(None) => {
            request.uri = origin_form(target.clone());
            Ok(())
        }
        Ok(Some(target)) => {
            request.uri = origin_form(target);
            Ok(())
        }
        Err(Refused::Malformed | Refused::EncodedCharacter) => refuse(StatusCode::BAD_REQUEST),
    }
}

fn origin_form(target: PathAndQuery) -> Uri {
    Uri::from(target)
}

fn underscores(headers: &mut HeaderMap, strategy: UnderscoreHeaders) -> Result<(), Box<Response>> {
    if strategy == UnderscoreHeaders::Keep {
        return Ok(());
    }
    if strategy == UnderscoreHeaders::Reject {
        return Err(Box::new(error::plain(StatusCode::BAD_REQUEST, "Bad Request")));
    }
    let names: Vec<HeaderName> = headers.keys().filter(|n| n.as_str().contains('_')).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    Ok(())
}

/// RFC 9113, 8.2.3: cookie crumbs become one line again.
fn join_crumbs(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let mut joined = first.as_bytes().to_vec();
    let mut many = false;
    for crumb in crumbs {
        many = true;
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if many && let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::static_config::EntryPoint as Settings;
    use crate::observe::metrics::{Metrics, MetricsOptions};

    fn entry_point(change: impl FnOnce(&mut Settings)) -> EntryPoint {
        let mut settings = Settings::default();
        change(&mut settings);
        let series = Metrics::new(MetricsOptions::default()).entry_point("web");
        EntryPoint::new(0, "web", &settings, HeaderValue::from_static("here"), series).expect("an entry point")
    }

    /// The head that comes out, or the status of the answer.
    fn sanitised(
        entry_point: &EntryPoint,
        request: (&str, &str, Version),
        fields: &[(&str, &str)],
    ) -> Result<::http::request::Parts, u16> {
        let (method, target, version) = request;
        let mut builder = ::http::Request::builder().method(method).uri(target).version(version);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let (mut parts, ()) = builder.body(()).expect("a request").into_parts();
        let present = Present::scan(&parts.headers);
        match sanitise(&mut parts, entry_point, present) {
            Ok(()) => Ok(parts),
            Err(answer) => Err(answer.status().as_u16()),
        }
    }

    const HTTP1: Version = Version::HTTP_11;
    const HTTP2: Version = Version::HTTP_2;

    #[test]
    fn refuses_what_is_ambiguous() {
        let entry_point = entry_point(|_| {});
        let many: Vec<(String, &str)> = (0..=MAX_FIELDS).map(|i| (format!("x-{i}"), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let host = ("host", "a");
        for (request, fields, status) in [
            (("GET", "/", HTTP1), &[][..], 400),
            (("GET", "http://a/", HTTP1), &[], 400),
            (("GET", "/", HTTP1), &[host, host], 400),
            (("GET", "/", HTTP1), &[("host", "a/b")], 400),
            (("GET", "/", HTTP1), &[("host", "u@a")], 400),
            (("GET", "http://u@a/", HTTP1), &[host], 400),
            (("GET", "ftp://a/", HTTP1), &[host], 400),
            (("GET", "/%zz", HTTP1), &[host], 400),
            (("GET", "*", HTTP1), &[host], 400),
            (("OPTIONS", "*", HTTP1), &[host], 200),
            (("CONNECT", "a:1", HTTP1), &[host], 405),
            (("GET", "/", HTTP1), &[host, ("expect", "much")], 417),
            (
                ("POST", "/", HTTP1),
                &[host, ("transfer-encoding", "gzip, chunked")],
                501,
            ),
            (
                ("POST", "/", HTTP1),
                &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                501,
            ),
            (("GET", "/", HTTP2), &[], 400),
            (("GET", "http://a/", HTTP2), &[("host", "b")], 400),
            (("POST", "http://a/", HTTP2), &[("transfer-encoding", "chunked")], 400),
            (("GET", "http://a/", HTTP2), &many, 431),
        ] {
            let got = sanitised(&entry_point, request, fields).map(|parts| parts.uri);
            assert_eq!(got, Err(status), "{request:?} {fields:?}");
        }
    }

    #[test]
    fn brings_the_rest_into_one_form() {
        let entry_point = entry_point(|_| {});
        let parts = |request, fields: &[(&str, &str)]| sanitised(&entry_point, request, fields).expect("a request");
        let absolute = parts(("GET", "http://b:1//x/../y?q", HTTP1), &[("host", "a")]);
        assert_eq!(
            (absolute.uri, &absolute.headers["host"]),
            (Uri::from_static("/y?q"), &HeaderValue::from_static("b:1"))
        );
        let bare = parts(("GET", "http://b", HTTP1), &[("host", "a")]);
        assert_eq!(bare.uri, "/");
        let h2 = parts(
            ("GET", "https://b/", HTTP2),
            &[("host", "B"), ("cookie", "a=1"), ("cookie", "b=2")],
        );
        assert_eq!(
            (&h2.headers["host"], &h2.headers["cookie"]),
            (&"b".parse().expect("a value"), &"a=1; b=2".parse().expect("a value"))
        );
        let old = parts(
            ("GET", "/", Version::HTTP_10),
            &[("user-agent", ""), ("expect", "100-Continue")],
        );
        assert!(old.headers.is_empty(), "{:?}", old.headers);
    }

    #[test]
    fn underscores_are_kept_deleted_or_refused() {
        for (strategy, expected) in [
            (UnderscoreHeaders::Keep, Ok(true)),
            (UnderscoreHeaders::Delete, Ok(false)),
            (UnderscoreHeaders::Reject, Err(400)),
        ] {
            let entry_point = entry_point(|settings| settings.http.underscore_headers_strategy = strategy);
            let got = sanitised(&entry_point, ("GET", "/", HTTP1), &[("host", "a"), ("x_user", "me")]);
            assert_eq!(got.map(|parts| parts.headers.contains_key("x_user")), expected);
        }
    }
}
