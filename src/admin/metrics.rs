//! `/metrics`: rendered away from the worker, so that a scrape holds up no request.

use std::sync::Arc;
use std::time::Instant;

use ::http::{HeaderValue, StatusCode, header};

use crate::http::body::ResponseBody;
use crate::http::{Request, Response, error};
use crate::observe::metrics::{Metrics, negotiate};

/// The series as of now, in the format that `Accept` asks for; to every method, as at Traefik.
pub async fn answer(metrics: &Arc<Metrics>, request: &Request) -> Response {
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let format = negotiate(accept);
    let metrics = Arc::clone(metrics);
    match tokio::task::spawn_blocking(move || metrics.render(format, Instant::now())).await {
        Ok(text) => {
            let mut response = error::with_body(StatusCode::OK, ResponseBody::full(text));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            response
        }
        Err(e) => {
            tracing::error!("cannot render the metrics: {e}");
            error::status_text(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
