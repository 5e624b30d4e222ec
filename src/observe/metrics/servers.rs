//! Stand-in until the counters of servers are there.

use super::Metrics;

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

impl Metrics {
    /// Counts a server's `/metrics` that could not be read.
    pub fn scrape_error(&self, _service: &str, _url: &str, _reason: ScrapeError) {}
}
