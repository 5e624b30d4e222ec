//! `/.well-known/acme-challenge/{token}`: what an ACME authority asks for to see that a name leads here (RFC 8555
//! section 8.3).

use ::http::{HeaderValue, StatusCode, header};

use crate::http::body::ResponseBody;
use crate::http::{Response, error};
use crate::tls::challenge::Challenges;

/// Where the authority asks.
pub const PREFIX: &str = "/.well-known/acme-challenge/";

/// The answer to a request for `path`: 404 for a token that no order waits for.
#[must_use]
pub fn answer(challenges: &Challenges, path: &str) -> Response {
    let token = path.strip_prefix(PREFIX).unwrap_or_default();
    let Some(text) = challenges.answer(token) else {
        return error::not_found();
    };
    let mut response = error::with_body(StatusCode::OK, ResponseBody::full(text.to_string()));
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn only_tokens_that_wait_are_answered() {
        let challenges = Arc::new(Challenges::default());
        let _proof = challenges.http("a-token", "a-token.thumb");
        let status = |path: &str| answer(&challenges, path).status();
        assert_eq!(status("/.well-known/acme-challenge/a-token"), StatusCode::OK);
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/other",
            "/.well-known/acme-challenge/a-token/",
            "/a-token",
        ] {
            assert_eq!(status(path), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
