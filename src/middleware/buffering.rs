//! `buffering`: bounds on the sizes of bodies.
//!
//! Traefik reads whole bodies, and spills them to disk, before anything goes on. Gantry holds back only what it has
//! to know:
//! - a body that announces its length is judged by it and streams;
//! - a body of unknown length is held until it ends or outgrows its `mem…BodyBytes`; one that ends in time goes on
//!   with a Content-Length, as in Traefik;
//! - one that outgrows it streams and is counted. A request that passes its limit then gets 413, unless the server has
//!   answered before; an answer that passes its limit then is cut off, since its head is on its way. Spilling to
//!   disk instead is not built.
//!
//! Invariants: at most the larger of `mem…BodyBytes` and 64 KiB of a body is held; no byte beyond a limit reaches the
//! other side.

pub mod held;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;

use self::held::{Held, Outgrown};
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::Buffering as Config;
use crate::http::body::{BodyError, RequestBody, ResponseBody};
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

/// A stream holds as much in any case.
const LEAST_HELD: u64 = 64 << 10;

/// The middleware.
#[derive(Debug)]
pub struct Buffering {
    request: Bounds,
    response: Bounds,
}

/// What applies to one direction, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    /// The largest body that may pass.
    max: Option<u64>,
    /// How much of a body of unknown length is held.
    hold: u64,
}

/// Builds it from its configuration.
///
/// # Errors
/// None.
pub fn build(config: &Config, _context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    Ok(Arc::new(Buffering::new(config)))
}

impl Buffering {
    /// The middleware.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            request: Bounds::new(config.max_request_body_bytes, config.mem_request_body_bytes),
            response: Bounds::new(config.max_response_body_bytes, config.mem_response_body_bytes),
        }
    }

    /// The request with a bounded body, and whether the bound was passed, which may turn out later.
    async fn bound_request(&self, request: Request) -> Result<(Request, Rc<Cell<bool>>), Response> {
        let outgrown = Rc::new(Cell::new(false));
        let (mut parts, body) = request.into_parts();
        if let Some(length) = body.size_hint().exact() {
            if self.request.refuses(length) {
                return Err(error::status_text(StatusCode::PAYLOAD_TOO_LARGE));
            }
            return Ok((Request::from_parts(parts, body), outgrown));
        }
        let body = match held::collect(body, self.request.max, self.request.hold).await {
            Ok(Held::Whole(bytes)) => {
                set_length(&mut parts.headers, bytes.len());
                RequestBody::Full(bytes)
            }
            Ok(Held::Part(body)) => RequestBody::boxed(body.tell(Rc::clone(&outgrown))),
            Err(Outgrown::Limit) => return Err(error::status_text(StatusCode::PAYLOAD_TOO_LARGE)),
            Err(Outgrown::Broken(error)) => return Err(broken_request(&error)),
        };
        Ok((Request::from_parts(parts, body), outgrown))
    }

    /// The answer with a bounded body.
    async fn bound_response(&self, response: Response) -> Response {
        let status = response.status();
        let bodiless =
            status.is_informational() || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        if self.response.max.is_none() || bodiless {
            return response;
        }
        if let Some(length) = response.body().size_hint().exact() {
            let refused = self.response.refuses(length);
            return if refused {
                error::status_text(StatusCode::INTERNAL_SERVER_ERROR)
            } else {
                response
            };
        }
        let (mut parts, body) = response.into_parts();
        let body = match held::collect(body, self.response.max, self.response.hold).await {
            Ok(Held::Whole(bytes)) => {
                set_length(&mut parts.headers, bytes.len());
                ResponseBody::full(bytes)
            }
            Ok(Held::Part(body)) => ResponseBody::boxed(body),
            Err(Outgrown::Limit) => return error::status_text(StatusCode::INTERNAL_SERVER_ERROR),
            Err(Outgrown::Broken(_)) => return error::status_text(StatusCode::BAD_GATEWAY),
        };
        Response::from_parts(parts, body)
    }
}

impl Middleware for Buffering {
    fn handle<'a>(&'a self, request: Request, exchange: &'a mut Exchange, next: Next<'a>) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let head = request.method() == Method::HEAD;
            let (request, outgrown) = match self.bound_request(request).await {
                Ok(bounded) => bounded,
                Err(refusal) => return refusal,
            };
            let response = next.run(request, exchange).await;
            if outgrown.get() {
                return error::status_text(StatusCode::PAYLOAD_TOO_LARGE);
            }
            if head {
                response
            } else {
                self.bound_response(response).await
            }
        })
    }
}

impl Bounds {
    fn new(max: u64, hold: u64) -> Self {
        Self {
            max: Some(max).filter(|max| *max > 0),
            hold: hold.max(LEAST_HELD),
        }
    }

    fn refuses(self, length: u64) -> bool {
        self.max.is_some_and(|max| length > max)
    }
}

fn set_length(headers: &mut HeaderMap, length: usize) {
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
}

/// The answer to a request whose body did not arrive.
fn broken_request(error: &BodyError) -> Response {
    match error {
        BodyError::TooLarge(_) => error::status_text(StatusCode::PAYLOAD_TOO_LARGE),
        BodyError::Timeout | BodyError::TooSlow => error::status_text(StatusCode::REQUEST_TIMEOUT),
        BodyError::Malformed(_) => error::status_text(StatusCode::BAD_REQUEST),
        // Nobody reads this answer; the log does.
        BodyError::Client(_) | BodyError::Server(_) => {
            error::status_text(StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST))
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::held::tests::Pieces;
    use super::*;

    fn buffering(max: u64, hold: u64) -> Buffering {
        let bounds = Bounds {
            max: Some(max).filter(|max| *max > 0),
            hold,
        };
        Buffering {
            request: bounds,
            response: bounds,
        }
    }

    fn chunked(pieces: &[&'static str]) -> Request {
        http::Request::new(RequestBody::boxed(Pieces::new(pieces)))
    }

    #[tokio::test]
    async fn announced_lengths_are_judged_at_once() {
        let full = |text: &'static str| http::Request::new(RequestBody::Full(text.into()));
        assert!(buffering(10, 1).bound_request(full("0123456789")).await.is_ok());
        let refusal = buffering(10, 1).bound_request(full("0123456789x")).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(buffering(0, 1).bound_request(full("0123456789x")).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_gets_one() {
        let (request, outgrown) = buffering(10, 64)
            .bound_request(chunked(&["hello", "hello"]))
            .await
            .unwrap();
        assert_eq!(request.headers()[header::CONTENT_LENGTH], "10");
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "hellohello");
        assert!(!outgrown.get());
        let refusal = buffering(10, 64)
            .bound_request(chunked(&["hello", "hello", "x"]))
            .await
            .unwrap_err();
        assert_eq!(refusal.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_limit_that_is_passed_while_streaming_is_told() {
        let (request, outgrown) = buffering(10, 6)
            .bound_request(chunked(&["hello", "hello", "x"]))
            .await
            .unwrap();
        assert!(!request.headers().contains_key(header::CONTENT_LENGTH));
        let error = request.into_body().collect().await.unwrap_err();
        assert_eq!(error, BodyError::TooLarge(10));
        assert!(outgrown.get());
    }

    #[tokio::test]
    async fn answers() {
        let answer = |body| http::Response::new(body);
        let chunked = |pieces: &[&'static str]| answer(ResponseBody::boxed(Pieces::new(pieces)));
        let bound = |hold, response| async move { buffering(10, hold).bound_response(response).await };
        assert_eq!(bound(64, answer(ResponseBody::full("0123456789"))).await.status(), 200);
        assert_eq!(bound(64, answer(ResponseBody::full("0123456789x"))).await.status(), 500);
        let whole = bound(64, chunked(&["hello", "hello"])).await;
        assert_eq!(whole.headers()[header::CONTENT_LENGTH], "10");
        assert_eq!(bound(64, chunked(&["hello", "hello", "x"])).await.status(), 500);
        let cut = bound(6, chunked(&["hello", "hello", "x"])).await;
        assert_eq!(cut.status(), 200);
        assert_eq!(cut.into_body().collect().await.unwrap_err(), BodyError::TooLarge(10));
    }
}
