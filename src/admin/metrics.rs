//! `/metrics`: rendered away from the worker, so that a scrape holds up no request.

use std::sync::Arc;

use ::http::header::{self, HeaderName};
use ::http::{HeaderValue, StatusCode};

use super::shelf;
use crate::http::{Request, Response, error};
use crate::observe::metrics::{Encoding, Metrics, negotiate, wants_gzip};

/// The series as of now, in the form that `Accept` and `Accept-Encoding` ask for; to every method, as at Traefik.
pub async fn answer(metrics: &Arc<Metrics>, request: &Request) -> Response {
    let encoding = Encoding {
        format: negotiate(fields(request, &header::ACCEPT)),
        gzip: wants_gzip(fields(request, &header::ACCEPT_ENCODING)),
    };
    match metrics.scrape(encoding).await {
        Ok(text) => {
            let mut response = error::with_body(StatusCode::OK, shelf::lend(text));
            let headers = response.headers_mut();
            let kind = HeaderValue::from_static(encoding.format.content_type());
            headers.insert(header::CONTENT_TYPE, kind);
            if encoding.gzip {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
        Err(e) => {
            tracing::error!("cannot render the metrics: {e}");
            error::status_text(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// All fields of a name that are text.
fn fields<'a>(request: &'a Request, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = request.headers().get_all(name).iter();
    values.filter_map(|value| value.to_str().ok())
}
