//! A server's metrics, fetched and read: what the accuracy scraper and `/federate` have in common.

use std::time::Duration;

use super::dns::Dns;
use super::fetch::{self, Answer, FetchError};
use crate::observe::exposition::{Dialect, Family, MAX_BODY, ParseError, parse};
use crate::observe::metrics::ScrapeError;
use crate::service::server::Server;

/// Why a server's metrics could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ScrapeFailure {
    /// The reason that is counted.
    pub reason: ScrapeError,
    /// For a person.
    pub text: String,
}

impl From<FetchError> for ScrapeFailure {
    fn from(error: FetchError) -> Self {
        let reason = match &error {
            FetchError::Unreachable(_) => ScrapeError::Unreachable,
            FetchError::Timeout(_) => ScrapeError::Timeout,
            FetchError::Status(_) => ScrapeError::Status,
            FetchError::TooLarge(_) => ScrapeError::TooLarge,
            FetchError::Encoding(_) => ScrapeError::Encoding,
        };
        let text = error.to_string();
        Self { reason, text }
    }
}

impl From<ParseError> for ScrapeFailure {
    fn from(error: ParseError) -> Self {
        let reason = match error.too_large {
            true => ScrapeError::TooLarge,
            false => ScrapeError::Malformed,
        };
        let text = error.to_string();
        Self { reason, text }
    }
}

/// Asks `server` for its metrics; `limit` is for the whole answer.
///
/// # Errors
/// See [`ScrapeFailure`].
pub async fn ask(dns: &Dns, server: &Server, path: &str, limit: Duration) -> Result<Answer, ScrapeFailure> {
    Ok(fetch::get(dns, server, path, limit).await?)
}

/// Reads the answer's body and hands its families to `take`, on a thread that may take its time. `before_parsing`
/// resolves when that thread may be asked for; what it gives is held until the thread is done, also where nobody waits for it
/// any more.
///
/// # Errors
/// See [`ScrapeFailure`].
pub async fn read<T: Send + 'static, P: Send + 'static>(
    answer: Answer,
    before_parsing: impl Future<Output = P>,
    take: impl FnOnce(&[Family<'_>]) -> T + Send + 'static,
) -> Result<T, ScrapeFailure> {
    let fetched = answer.read(MAX_BODY).await?;
    let dialect = Dialect::of(&fetched.content_type);
    let turn = before_parsing.await;
    let parsing = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let text = fetched.inflate(MAX_BODY)?;
        let families = parse(&text, dialect)?;
        Ok(take(&families))
    });
    parsing.await.unwrap_or_else(|e| {
        let text = format!("a bug in Gantry: {e}");
        let reason = ScrapeError::Malformed;
        Err(ScrapeFailure { reason, text })
    })
}
