//! `stripPrefix`: cuts a prefix off the path and says so in `X-Forwarded-Prefix`.
//!
//! Invariant: what is left is never a path that server and router could read differently; such requests get 400.

use std::sync::Arc;

use http::uri::Uri;
use http::{HeaderName, HeaderValue, StatusCode};

use super::path::{self, Ambiguous};
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::StripPrefix as Config;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The middleware.
#[derive(Debug)]
pub struct StripPrefix {
    prefixes: Vec<(String, HeaderValue)>,
}

/// Builds it from its configuration. `forceSlash` changes nothing that a server sees: an empty path is sent as `/`.
///
/// # Errors
/// A prefix that no header can carry.
pub fn build(config: &Config, _context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    Ok(Arc::new(StripPrefix::new(config)?))
}

impl StripPrefix {
    /// The middleware.
    ///
    /// # Errors
    /// A prefix that no header can carry.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let prefixes = config.prefixes.iter().enumerate().map(|(index, prefix)| {
            let value = HeaderValue::from_bytes(prefix.trim().as_bytes()).map_err(|_| {
                BuildError::new(
                    format!("stripPrefix.prefixes[{index}]"),
                    "a prefix holds no control characters",
                )
            })?;
            Ok((prefix.clone(), value))
        });
        Ok(Self {
            prefixes: prefixes.collect::<Result<_, _>>()?,
        })
    }

    /// The new URI and the header that tells of it; `None` when no prefix fits.
    fn rewrite(&self, uri: &Uri) -> Option<Result<(Uri, &HeaderValue), Ambiguous>> {
        let (stripped, header) = self
            .prefixes
            .iter()
            .find_map(|(prefix, header)| path::strip_prefix(uri.path(), prefix).map(|stripped| (stripped, header)))?;
        Some(stripped.and_then(|path| Ok((path::with_path(uri, &path).ok_or(Ambiguous)?, header))))
    }
}

impl Middleware for StripPrefix {
    fn handle<'a>(
        &'a self,
        mut request: Request,
        exchange: &'a mut Exchange,
        next: Next<'a>,
    ) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            match self.rewrite(request.uri()) {
                None => {}
                Some(Err(Ambiguous)) => return error::plain(StatusCode::BAD_REQUEST, "Bad Request"),
                Some(Ok((uri, header))) => {
                    *request.uri_mut() = uri;
                    request.headers_mut().append(X_FORWARDED_PREFIX, header.clone());
                }
            }
            next.run(request, exchange).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_is_cut() {
        let prefixes = ["/api", "/api/v1", "/trail/", " /blank "].map(str::to_owned).to_vec();
        let middleware = StripPrefix::new(&Config {
            prefixes,
            ..Config::default()
        })
        .unwrap();
        let rewrite = |uri| middleware.rewrite(&Uri::from_static(uri));
        let (uri, header) = rewrite("/api/v1/x?y=1").unwrap().unwrap();
        assert_eq!(uri, "/v1/x?y=1");
        assert_eq!(header, "/api");
        assert!(rewrite("/trail").is_none());
        assert_eq!(rewrite("/api../x").unwrap(), Err(Ambiguous));
    }

    #[test]
    fn prefixes_that_cannot_be_used() {
        let prefixes = vec!["/a".to_owned(), "/b\nc".to_owned()];
        let error = StripPrefix::new(&Config {
            prefixes,
            ..Config::default()
        })
        .unwrap_err();
        assert_eq!(error.path, "stripPrefix.prefixes[1]");
    }
}
