//! `addPrefix`: puts a prefix in front of the path.

use std::sync::Arc;

use http::{StatusCode, Uri};

use super::path::{self, Ambiguous};
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::AddPrefix as Config;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

/// The middleware.
#[derive(Debug)]
pub struct AddPrefix {
    prefix: String,
}

/// Builds it from its configuration.
///
/// # Errors
/// An empty prefix, or one with dot segments.
pub fn build(config: &Config, _context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    Ok(Arc::new(AddPrefix::new(config)?))
}

impl AddPrefix {
    /// The middleware.
    ///
    /// # Errors
    /// An empty prefix, or one with dot segments: each request would be refused.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        let wrong = |message| BuildError::new("addPrefix.prefix", message);
        if config.prefix.is_empty() {
            return Err(wrong("the prefix is empty"));
        }
        if path::add_prefix("/", &config.prefix).is_err() {
            return Err(wrong("a prefix cannot hold the segments `.` and `..`"));
        }
        Ok(Self {
            prefix: config.prefix.clone(),
        })
    }

    fn rewrite(&self, uri: &Uri) -> Result<Uri, Ambiguous> {
        path::with_path(uri, &path::add_prefix(uri.path(), &self.prefix)?).ok_or(Ambiguous)
    }
}

impl Middleware for AddPrefix {
    fn handle<'a>(
        &'a self,
        mut request: Request,
        exchange: &'a mut Exchange,
        next: Next<'a>,
    ) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let Ok(uri) = self.rewrite(request.uri()) else {
                return error::plain(StatusCode::BAD_REQUEST, "Bad Request");
            };
            *request.uri_mut() = uri;
            next.run(request, exchange).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_stays() {
        let middleware = AddPrefix::new(&Config {
            prefix: "foo".to_owned(),
        })
        .unwrap();
        assert_eq!(middleware.rewrite(&Uri::from_static("/x?y=1")).unwrap(), "/foo/x?y=1");
    }

    #[test]
    fn prefixes_that_cannot_be_used() {
        for prefix in ["", "/a/../b", "/."] {
            assert!(
                AddPrefix::new(&Config {
                    prefix: prefix.to_owned()
                })
                .is_err(),
                "{prefix}"
            );
        }
    }
}
