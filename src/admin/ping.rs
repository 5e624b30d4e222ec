//! `/ping`: 200 `OK` for every method while Gantry serves; `terminatingStatusCode` once it drains.

use std::sync::atomic::{AtomicBool, Ordering};

use ::http::StatusCode;

use crate::http::body::ResponseBody;
use crate::http::{Response, error};

/// The answer's state.
#[derive(Debug)]
pub struct Ping {
    terminating: AtomicBool,
    terminating_status: StatusCode,
}

impl Ping {
    /// `terminating_status` is `ping.terminatingStatusCode`.
    #[must_use]
    pub fn new(terminating_status: u16) -> Self {
        let terminating_status = StatusCode::from_u16(terminating_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self {
            terminating: AtomicBool::new(false),
            terminating_status,
        }
    }

    /// The drain begins.
    pub fn terminate(&self) {
        self.terminating.store(true, Ordering::Relaxed);
    }

    /// The answer as of now.
    #[must_use]
    pub fn answer(&self) -> Response {
        let status = if self.terminating.load(Ordering::Relaxed) {
            self.terminating_status
        } else {
            StatusCode::OK
        };
        let text = status.canonical_reason().unwrap_or_default();
        error::with_body(status, ResponseBody::full(text))
    }
}
