//! An entry point's settings, compiled once at the start: entry points are static configuration.

use std::net::IpAddr;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};

use crate::config::static_config::{EntryPoint as Settings, LifeCycle, UnderscoreHeaders};
use crate::http::body::BodyLimits;
use crate::http::target::TargetRules;
use crate::observe::metrics::EntryPointSeries;
use crate::units::net::CidrSet;

/// Whose X-Forwarded-* are believed.
#[derive(Debug, Clone)]
pub enum Trust {
    /// `forwardedHeaders.insecure`
    Everybody,
    /// `forwardedHeaders.trustedIPs`
    Listed(CidrSet),
}

impl Trust {
    /// Whether `peer` is believed.
    #[must_use]
    pub fn covers(&self, peer: IpAddr) -> bool {
        match self {
            Self::Everybody => true,
            Self::Listed(set) => !set.is_empty() && set.contains(peer),
        }
    }
}

/// A compiled entry point.
#[derive(Debug)]
pub struct EntryPoint {
    /// Its place among the entry points, and in each snapshot's plans.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// `host:port` as it was configured, without the protocol.
    pub address: String,
    /// `reusePort`: other processes may listen on the address too.
    pub reuse_port: bool,
    /// This machine's name, for X-Forwarded-Server.
    pub host_name: HeaderValue,
    /// How request targets are read.
    pub targets: TargetRules,
    /// `http.underscoreHeadersStrategy`
    pub underscores: UnderscoreHeaders,
    /// Whose X-Forwarded-* are believed.
    pub trust: Trust,
    /// `forwardedHeaders.connection`: names in Connection that stay.
    pub keep_connection: Vec<HeaderName>,
    /// Whether X-Forwarded-For gets the peer appended.
    pub append_forwarded_for: bool,
    /// Limits on request bodies.
    pub body_limits: BodyLimits,
    /// From a request's first byte to the end of its head, and from accept to there on a new connection.
    pub header_timeout: Duration,
    /// Between two requests, and while a client does not take what it is sent.
    pub idle_timeout: Duration,
    /// From a request's head to its answer's end; zero: none.
    pub write_timeout: Duration,
    /// `http.maxHeaderBytes`
    pub max_header_bytes: usize,
    /// `http2.maxConcurrentStreams`
    pub max_concurrent_streams: u32,
    /// `http2.maxDecoderHeaderTableSize`
    pub header_table_size: u32,
    /// `transport.keepAliveMaxTime`; zero: none.
    pub keep_alive_max_time: Duration,
    /// `transport.keepAliveMaxRequests`; zero: none.
    pub keep_alive_max_requests: u64,
    /// `transport.lifeCycle`
    pub life_cycle: LifeCycle,
    /// Its series.
    pub series: EntryPointSeries,
    /// `observability.metrics`
    pub metrics: bool,
    /// `observability.accessLogs`
    pub access_logs: bool,
}

impl EntryPoint {
    /// Compiles an entry point.
    ///
    /// # Errors
    /// When a trusted address or a header name is none (decoding has looked at both already).
    pub fn new(
        index: usize,
        name: &str,
        settings: &Settings,
        host_name: HeaderValue,
        series: EntryPointSeries,
    ) -> Result<Self, String> {
        let transport = &settings.transport;
        let timeouts = &transport.responding_timeouts;
        let forwarded = &settings.forwarded_headers;
        let trust = if forwarded.insecure {
            Trust::Everybody
        } else {
            Trust::Listed(CidrSet::parse(&forwarded.trusted_ips)?)
        };
        let keep_connection = forwarded.connection.iter().map(|n| HeaderName::try_from(n.as_str()));
        let http = &settings.http;
        let read_timeout = timeouts.read_timeout.unwrap_or_default();
        let header_timeout = match (timeouts.header_timeout, read_timeout) {
            (h, r) if h.is_zero() => r,
            (h, r) if r.is_zero() => h,
            (h, r) => h.min(r),
        };
        let address = settings.address.split('/').next().unwrap_or_default().to_owned();
        Ok(Self {
            index,
            name: name.to_owned(),
            address,
            reuse_port: settings.reuse_port,
            host_name,
            targets: TargetRules::new(
                http.sanitize_path,
                &http.encoded_characters,
                http.encode_query_semicolons,
            ),
            underscores: http.underscore_headers_strategy,
            trust,
            keep_connection: keep_connection.collect::<Result<_, _>>().map_err(|e| e.to_string())?,
            append_forwarded_for: !forwarded.not_append_x_forwarded_for,
            body_limits: BodyLimits {
                idle: timeouts.body_idle_timeout,
                min_rate: timeouts.min_body_rate,
                total: read_timeout,
            },
            header_timeout,
            idle_timeout: timeouts.idle_timeout,
            write_timeout: timeouts.write_timeout,
            max_header_bytes: usize::try_from(http.max_header_bytes).unwrap_or(usize::MAX >> 1).max(1),
            max_concurrent_streams: settings.http2.max_concurrent_streams,
            header_table_size: settings.http2.max_decoder_header_table_size,
            keep_alive_max_time: transport.keep_alive_max_time,
            keep_alive_max_requests: transport.keep_alive_max_requests,
            life_cycle: transport.life_cycle.clone(),
            series,
            metrics: settings.observability.metrics,
            access_logs: settings.observability.access_logs,
        })
    }
}
