//! `ipAllowList`: lets only requests from some addresses pass.
//!
//! Invariant: a request whose address cannot be told is refused.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::source::AddressStrategy;
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::IpAllowList as Config;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};
use crate::units::net::CidrSet;

/// The middleware.
#[derive(Debug)]
pub struct IpAllowList {
    allowed: CidrSet,
    strategy: AddressStrategy,
    reject: StatusCode,
}

/// Builds it from its configuration.
///
/// # Errors
/// See [`IpAllowList::new`].
pub fn build(config: &Config, _context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    Ok(Arc::new(IpAllowList::new(config)?))
}

impl IpAllowList {
    /// The middleware.
    ///
    /// # Errors
    /// No `sourceRange`, an entry that is neither an address nor a network, a status without a name.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        if config.source_range.is_empty() {
            return Err(BuildError::new(
                "ipAllowList.sourceRange",
                "no address may pass: `sourceRange` is empty",
            ));
        }
        let allowed = CidrSet::parse(&config.source_range)
            .map_err(|message| BuildError::new("ipAllowList.sourceRange", message))?;
        let strategy = AddressStrategy::new(config.ip_strategy.as_ref(), "ipAllowList.ipStrategy")?;
        let reject = StatusCode::from_u16(config.reject_status_code)
            .ok()
            .filter(|status| status.canonical_reason().is_some() && !status.is_informational())
            .ok_or_else(|| {
                let message = format!("{} is no HTTP status code of an answer", config.reject_status_code);
                BuildError::new("ipAllowList.rejectStatusCode", message)
            })?;
        Ok(Self {
            allowed,
            strategy,
            reject,
        })
    }

    /// Whether a request may pass.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap, peer: IpAddr) -> bool {
        self.strategy
            .address(headers, peer)
            .is_some_and(|address| self.allowed.contains(address))
    }

    fn refuse(&self) -> Response {
        match self.reject {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => error::empty(self.reject),
            status => error::status_text(status),
        }
    }
}

impl Middleware for IpAllowList {
    fn handle<'a>(&'a self, request: Request, exchange: &'a mut Exchange, next: Next<'a>) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            if self.allows(request.headers(), exchange.peer_ip()) {
                next.run(request, exchange).await
            } else {
                self.refuse()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::middleware::IpStrategy;

    fn config(ranges: &[&str]) -> Config {
        Config {
            source_range: ranges.iter().map(|range| (*range).to_owned()).collect(),
            ..Config::default()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_peer_counts_by_default() {
        let list = IpAllowList::new(&config(&["10.0.0.0/8", "2001:db8::/32"])).unwrap();
        let headers = HeaderMap::new();
        for (peer, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8::1", true),
        ] {
            assert_eq!(list.allows(&headers, ip(peer)), expected, "{peer}");
        }
        let response = list.refuse();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn an_address_that_cannot_be_told_is_refused() {
        let strategy = IpStrategy {
            depth: 1,
            ..IpStrategy::default()
        };
        let list = IpAllowList::new(&Config {
            ip_strategy: Some(strategy),
            ..config(&["0.0.0.0/0", "::/0"])
        })
        .unwrap();
        let mut headers = HeaderMap::new();
        assert!(!list.allows(&headers, ip("10.0.0.1")), "too short");
        headers.insert("x-forwarded-for", "unknown".parse().unwrap());
        assert!(!list.allows(&headers, ip("10.0.0.1")), "no address");
        headers.insert("x-forwarded-for", "unknown, 192.0.2.1".parse().unwrap());
        assert!(list.allows(&headers, ip("10.0.0.1")));
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let path = |config: &Config| IpAllowList::new(config).unwrap_err().path;
        assert_eq!(path(&config(&[])), "ipAllowList.sourceRange");
        assert_eq!(path(&config(&["10.0.0.1/33"])), "ipAllowList.sourceRange");
        for status in [0, 100, 299, 999] {
            let config = Config {
                reject_status_code: status,
                ..config(&["10.0.0.1"])
            };
            assert_eq!(path(&config), "ipAllowList.rejectStatusCode", "{status}");
        }
        assert!(
            IpAllowList::new(&Config {
                reject_status_code: 418,
                ..config(&["10.0.0.1"])
            })
            .is_ok()
        );
    }
}
