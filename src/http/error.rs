//! Answers that Gantry makes by itself, with the bodies of the Traefik reference (part C1).

use ::http::{HeaderValue, StatusCode, header};

use super::Response;
use super::body::ResponseBody;

/// An answer whose body is the status text, without a Content-Type: `502` says `Bad Gateway`.
#[must_use]
pub fn status_text(status: StatusCode) -> Response {
    let text = match status.as_u16() {
        // Go's texts, where they differ from the http crate's.
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        416 => "Requested Range Not Satisfiable",
        499 => "Client Closed Request",
        _ => status.canonical_reason().unwrap_or_default(),
    };
    with_body(status, ResponseBody::full(text))
}

/// An answer in the manner of Go's `http.Error`: plain text with a line feed, and `nosniff`.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let mut body: String = text.into();
    body.push('\n');
    let mut response = with_body(status, ResponseBody::full(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response {
    with_body(status, ResponseBody::empty())
}

/// No router matches.
#[must_use]
pub fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "404 page not found")
}

/// No server can take the request.
#[must_use]
pub fn no_available_server() -> Response {
    plain(StatusCode::SERVICE_UNAVAILABLE, "no available server")
}

/// An answer with `body`.
#[must_use]
pub fn with_body(status: StatusCode, body: ResponseBody) -> Response {
    let mut response = ::http::Response::new(body);
    *response.status_mut() = status;
    response
}
