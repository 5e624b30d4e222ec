//! What the operator asks: `/ping` and `/metrics`, and about the servers' own metrics `/sd` and `/federate`; and what
//! somebody tells who knows how good an answer was: `/feedback`.

pub mod federate;
pub mod feedback;
pub mod metrics;
pub mod ping;
pub mod sd;
mod shelf;

use ::http::{HeaderValue, StatusCode, header};

use crate::http::body::ResponseBody;
use crate::http::{Response, error};

/// An answer in JSON, with a line feed for whoever reads it in a terminal. It is true now, and nobody may keep it.
fn json(status: StatusCode, mut text: Vec<u8>) -> Response {
    text.push(b'\n');
    let mut response = error::with_body(status, ResponseBody::full(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
