//! `rateLimit`: so many requests in so much time from one source, with bursts; a token bucket each.
//!
//! Invariants: buckets belong to one use of the middleware, in one router, as in Traefik, and outlive reloads as
//! long as the limit and the criterion stay the same; memory is bounded ([`table`]).

pub mod gcra;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};

use self::gcra::{Decision, Limit};
use self::table::Table;
use super::source::Criterion;
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::RateLimit as Config;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};
use crate::units::duration::format_go;

const X_RETRY_IN: HeaderName = HeaderName::from_static("x-retry-in");

/// The middleware.
#[derive(Debug)]
pub struct RateLimit {
    criterion: Criterion,
    /// `None`: no limit.
    table: Option<Arc<Table>>,
}

/// Builds it from its configuration.
///
/// # Errors
/// A `sourceCriterion` that cannot be used.
pub fn build(config: &Config, context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    let criterion = Criterion::new(
        config.source_criterion.as_ref(),
        Criterion::peer(),
        "rateLimit.sourceCriterion",
    )?;
    let table = Limit::new(config.average, config.period, config.burst).map(|limit| {
        let key = format!("{} {} {limit:?} {criterion:?}", context.router, context.name);
        context.runtime.state("rateLimit", key, || Table::new(limit))
    });
    Ok(Arc::new(RateLimit { criterion, table }))
}

impl RateLimit {
    fn decide(&self, request: &Request, exchange: &Exchange) -> Decision {
        let Some(table) = &self.table else {
            return Decision::Pass(Duration::ZERO);
        };
        self.criterion
            .with_source(request.headers(), exchange.peer_ip(), |source| table.take(source))
    }
}

impl Middleware for RateLimit {
    fn handle<'a>(&'a self, request: Request, exchange: &'a mut Exchange, next: Next<'a>) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            match self.decide(&request, exchange) {
                Decision::Refuse(wait) => return refuse(wait),
                Decision::Pass(wait) if !wait.is_zero() => tokio::time::sleep(wait).await,
                Decision::Pass(_) => {}
            }
            next.run(request, exchange).await
        })
    }
}

fn refuse(wait: Duration) -> Response {
    let mut response = error::status_text(StatusCode::TOO_MANY_REQUESTS);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    // "µs" is not ASCII, but header values are bytes.
    if let Ok(text) = HeaderValue::from_bytes(format_go(wait).as_bytes()) {
        headers.insert(X_RETRY_IN, text);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_when_to_come_back() {
        let headers = |wait| {
            let response = refuse(wait);
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            let text = |name| String::from_utf8(response.headers()[name].as_bytes().to_vec()).unwrap();
            (text(header::RETRY_AFTER), text(X_RETRY_IN))
        };
        let owned = |seconds: &str, text: &str| (seconds.to_owned(), text.to_owned());
        assert_eq!(
            headers(Duration::from_nanos(59_993_721_305)),
            owned("60", "59.993721305s")
        );
        assert_eq!(headers(Duration::from_nanos(6_999_463_760)), owned("7", "6.99946376s"));
        assert_eq!(headers(Duration::from_nanos(999_420_776)), owned("1", "999.420776ms"));
        assert_eq!(headers(Duration::from_secs(60)), owned("60", "1m0s"));
        assert_eq!(headers(Duration::from_micros(5)), owned("1", "5µs"));
    }
}
