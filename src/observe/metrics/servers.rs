//! What is known of each server, by service and URL: health, probes, requests under way, scrapes that failed.
//!
//! All of it is bounded by the configuration: a server that no snapshot serves has no series.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::{Counter, Gauge, Metrics, lock};

/// Service (qualified) and URL.
pub(super) type ServerName = (String, String);

/// A server that counts its requests; asked at each scrape.
pub trait ServerLoad: Debug + Send + Sync {
    /// Requests that run on the server at present.
    fn in_flight(&self) -> usize;
}

/// A server of the snapshot that is served.
#[derive(Clone, Debug)]
pub struct ServedServer {
    /// The service's qualified name.
    pub service: String,
    /// The server's URL, as the configuration writes it.
    pub url: String,
    /// Its requests.
    pub load: Arc<dyn ServerLoad>,
}

/// The results of a server's health checks, as counters.
#[derive(Debug, Default)]
pub struct Probes {
    pub(super) succeeded: Counter,
    pub(super) failed: Counter,
}

impl Probes {
    /// Counts one probe.
    pub fn count(&self, ok: bool) {
        if ok { &self.succeeded } else { &self.failed }.add(1);
    }
}

/// Why the metrics of a server could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScrapeError {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// An answer, but not 200.
    Status,
    /// More than Gantry is willing to read.
    TooLarge,
    /// A content encoding that Gantry does not read, or one that is broken.
    Encoding,
    /// Not the text format, or not UTF-8.
    Malformed,
    /// The series that was looked for is not there.
    Missing,
}

impl ScrapeError {
    /// Every reason, in the order of the labels.
    pub const ALL: [Self; 7] = [
        Self::Encoding,
        Self::Malformed,
        Self::Missing,
        Self::Status,
        Self::Timeout,
        Self::TooLarge,
        Self::Unreachable,
    ];

    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Encoding => "encoding",
            Self::Malformed => "malformed",
            Self::Missing => "missing",
        }
    }
}

/// A served server with its failed scrapes.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) load: Arc<dyn ServerLoad>,
    pub(super) scrape_errors: BTreeMap<ScrapeError, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Servers {
    pub(super) up: BTreeMap<ServerName, Arc<Gauge>>,
    pub(super) probes: BTreeMap<ServerName, Arc<Probes>>,
    pub(super) served: BTreeMap<ServerName, Served>,
}

fn name(service: &str, url: &str) -> ServerName {
    (service.to_owned(), url.to_owned())
}

impl Metrics {
    /// The gauge of a server with a health check; the same object for the same labels.
    pub fn server_up(&self, service: &str, url: &str) -> Arc<Gauge> {
        Arc::clone(lock(&self.servers).up.entry(name(service, url)).or_default())
    }

    /// The probes of a server with a health check; the same object for the same labels.
    pub fn probes(&self, service: &str, url: &str) -> Arc<Probes> {
        Arc::clone(lock(&self.servers).probes.entry(name(service, url)).or_default())
    }

    /// Removes gauge and probes of a server whose health is no longer probed.
    pub fn remove_server_up(&self, service: &str, url: &str) {
        let mut servers = lock(&self.servers);
        servers.up.remove(&name(service, url));
        servers.probes.remove(&name(service, url));
    }

    /// Replaces the servers that have requests and scrapes to tell of: those of the snapshot that was installed. What
    /// stays keeps its counts.
    pub fn set_servers(&self, servers: impl IntoIterator<Item = ServedServer>) {
        let mut known = lock(&self.servers);
        let mut old = std::mem::take(&mut known.served);
        let served = servers.into_iter().map(|ServedServer { service, url, load }| {
            let name = (service, url);
            let scrape_errors = old.remove(&name).map(|served| served.scrape_errors);
            let served = Served {
                load,
                scrape_errors: scrape_errors.unwrap_or_default(),
            };
            (name, served)
        });
        known.served = served.collect();
    }

    /// Counts a server's `/metrics` that could not be read. A server that is not served is none to count.
    pub fn scrape_error(&self, service: &str, url: &str, reason: ScrapeError) {
        if let Some(served) = lock(&self.servers).served.get_mut(&name(service, url)) {
            *served.scrape_errors.entry(reason).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::{Format, MetricsOptions};
    use super::*;

    #[derive(Debug)]
    struct Busy(usize);

    impl ServerLoad for Busy {
        fn in_flight(&self) -> usize {
            self.0
        }
    }

    fn served(url: &str, requests: usize) -> ServedServer {
        ServedServer {
            service: "s@file".to_owned(),
            url: url.to_owned(),
            load: Arc::new(Busy(requests)),
        }
    }

    #[test]
    fn servers_have_series_while_they_are_served() {
        let metrics = Metrics::new(MetricsOptions::default());
        let text = || String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        metrics.scrape_error("s@file", "http://a", ScrapeError::Status);
        metrics.set_servers([served("http://a", 2), served("http://b", 0)]);
        metrics.scrape_error("s@file", "http://a", ScrapeError::TooLarge);
        metrics.set_servers([served("http://a", 3), served("http://b", 0)]);
        metrics.scrape_error("s@file", "http://a", ScrapeError::TooLarge);
        let shown = text();
        for line in [
            "gantry_service_server_in_flight{service=\"s@file\",url=\"http://a\"} 3\n",
            "gantry_service_server_in_flight{service=\"s@file\",url=\"http://b\"} 0\n",
            "gantry_scrape_errors_total{reason=\"too_large\",service=\"s@file\",url=\"http://a\"} 2\n",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        assert!(!shown.contains("reason=\"status\""), "it was not served yet");
        metrics.set_servers([served("http://b", 0)]);
        assert!(!text().contains("http://a"));
    }

    #[test]
    fn probes_end_with_the_health_check() {
        let metrics = Metrics::new(MetricsOptions::default());
        let text = || String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        metrics.probes("s@file", "http://a").count(true);
        metrics.probes("s@file", "http://a").count(false);
        metrics.probes("s@file", "http://a").count(false);
        let labels = |result| format!("probes_total{{result=\"{result}\",service=\"s@file\",url=\"http://a\"}}");
        assert!(text().contains(&format!("{} 1\n", labels("success"))));
        assert!(text().contains(&format!("{} 2\n", labels("failure"))));
        metrics.remove_server_up("s@file", "http://a");
        assert!(!text().contains("probes_total"));
    }
}
