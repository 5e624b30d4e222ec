//! The first look at a request: what is refused before anything is routed, and the one form of what is not.
//!
//! hyper parses; policy is here (threats: Host, targets, codings, underscores, the HTTP/2 bomb).

use ::http::uri::{PathAndQuery, Uri};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::Response;
use super::error;
use super::target::Refused;
use crate::config::static_config::UnderscoreHeaders;
use crate::listen::entry_point::EntryPoint;

/// Most fields of an HTTP/2 request, cookie crumbs included: the decoded size alone does not stop the HTTP/2 bomb.
const MAX_FIELDS: usize = 512;

/// Brings a request's head into its one form.
///
/// # Errors
/// The answer, where the request is refused. Answers without a body, as Go's server gives them.
pub fn sanitise(request: &mut ::http::request::Parts, entry_point: &EntryPoint) -> Result<(), Box<Response>> {
    let http2 = request.version == Version::HTTP_2;
    if http2 && request.headers.len() > MAX_FIELDS {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    if request.method == Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED);
    }
    host(request)?;
    if request.uri.path() == "*" {
        // RFC 9110, 9.3.7: it asks the server itself.
        return refuse(if request.method == Method::OPTIONS { StatusCode::OK } else { StatusCode::BAD_REQUEST });
    }
    codings(&request.headers, http2)?;
    target(request, entry_point)?;
    underscores(&mut request.headers, entry_point.underscores)?;
    if let Some(expect) = request.headers.remove(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return refuse(StatusCode::EXPECTATION_FAILED);
    }
    if request.headers.get(header::USER_AGENT).is_some_and(HeaderValue::is_empty) {
        request.headers.remove(header::USER_AGENT);
    }
    if http2 {
        join_crumbs(&mut request.headers);
    }
    Ok(())
}

fn refuse(status: StatusCode) -> Result<(), Box<Response>> {
    Err(Box::new(error::empty(status)))
}

/// RFC 9112, 3.2: exactly one Host with HTTP/1.1, and the target's authority before it.
fn host(request: &mut ::http::request::Parts) -> Result<(), Box<Response>> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (first, more) = (hosts.next(), hosts.next().is_some());
    if more {
        return refuse(StatusCode::BAD_REQUEST);
    }
    let http2 = request.version == Version::HTTP_2;
    if let Some(authority) = request.uri.authority() {
        if authority.as_str().contains('@') {
            return refuse(StatusCode::BAD_REQUEST);
        }
        // RFC 9113, 8.3.1: :authority and Host must not differ.
        if http2 && first.is_some_and(|h| !h.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
            return refuse(StatusCode::BAD_REQUEST);
        }
        if let Ok(value) = HeaderValue::from_str(authority.as_str()) {
            request.headers.insert(header::HOST, value);
        }
    } else if first.is_none() && matches!(request.version, Version::HTTP_11 | Version::HTTP_2) {
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
    if strategy == UnderscoreHeaders::Keep || !headers.keys().any(|n| n.as_str().contains('_')) {
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
