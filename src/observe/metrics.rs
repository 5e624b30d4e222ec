//! Metrics: every name in one place, and the registry that compile, workers and the scraper share.
//!
//! Names, labels and types are Traefik's under a prefix of the operator's choice, plus the `model_*` series (no prefix)
//! and `process_*`. The work is split by who does it:
//!
//! * The control thread turns labels into small handles at each compile ([`Metrics::entry_point`] and its siblings).
//! * A worker counts through [`WorkerMetrics`]: cells that only it writes, found by handle, without a lock.
//! * A scrape ([`Metrics::scrape`]) sums the cells of all workers and writes them, away from the workers.
//!
//! Invariants: a series never goes backwards while it exists. A series whose router, service or model no generation
//! asks for vanishes [`LINGER`] after it was last asked for; when it comes back later, it starts at zero. Label values
//! come from the configuration and from fixed sets. The two exceptions are header labels, which the operator asks for, and
//! the labels of feedback, which come from who has its token. Whatever a peer chooses of a label (code, method, protocol, a
//! header) has a cap, with `other` for the rest; of feedback, the labels beyond its cap are not taken.

mod block_map;
mod cap;
pub mod cells;
pub mod encode;
mod gateway;
pub mod header_labels;
pub mod labels;
pub mod model;
pub mod native;
mod negotiate;
pub mod process;
mod protobuf;
mod registry;
mod render;
mod render_model;
mod scrape;
pub mod servers;
mod sum;
pub mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderName;

pub use cells::{
    EntryPointSeries, IdleConnections, RequestDone, RouterSeries, ServiceSeries, VariantSeries, WorkerMetrics,
};
pub use encode::Format;
pub use gateway::FeedbackResult;
pub use header_labels::HeaderValues;
pub use labels::{MethodLabel, ProtocolLabel, TlsLabels};
pub use model::{AccuracySource, Dropped, FeedbackKind, ModelDone, ModelRun, ModelSeries, Quality, Rejection};
pub use negotiate::{negotiate, wants_gzip};
pub use scrape::Encoding;
pub use servers::{Probes, ScrapeError, ServedServer, ServerLoad};

use cap::Caps;
use cells::{ScopeId, Shared, Shown};
use encode::{Family, Kind};
use gateway::{Feedback, Reloads};
use header_labels::HeaderLabels;
use model::Models;
use process::Process;
use registry::{Labels, Registry};
use scrape::Answers;
use servers::Servers;
use sum::Cells;

/// How long a series stays on `/metrics` after its router, service or model went: long enough for every Prometheus
/// to scrape the last increments.
pub const LINGER: Duration = Duration::from_secs(5 * 60);

/// The buckets of request durations where the configuration names none, in seconds (Traefik's default).
pub const DEFAULT_BUCKETS: [f64; 4] = [0.1, 0.3, 1.2, 5.0];

/// The buckets of `model_inference_duration_seconds`: an inference takes from 50 ms to ten minutes.
pub const INFERENCE_BUCKETS: [f64; 13] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// The buckets of `model_accuracy_samples`: fine where models are told apart.
pub const ACCURACY_BUCKETS: [f64; 12] = [0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0];

/// The families that exist once for entry points, routers and services: `{prefix}_{scope}_{name}`.
mod scoped {
    use super::{Family, Kind};

    pub(super) const REQUESTS: Family = Family::new(
        "requests",
        Kind::Counter,
        "Requests, by status code, protocol and method.",
    );
    pub(super) const REQUESTS_TLS: Family = Family::new(
        "requests_tls",
        Kind::Counter,
        "Requests over TLS, by version and cipher suite.",
    );
    pub(super) const DURATION: Family = Family::new(
        "request_duration_seconds",
        Kind::Histogram,
        "Time from a request's head to the end of its response, by status code, protocol and method.",
    );
    pub(super) const REQUEST_BYTES: Family = Family::new(
        "requests_bytes",
        Kind::Counter,
        "Size of request bodies in bytes, by status code, protocol and method.",
    );
    pub(super) const RESPONSE_BYTES: Family = Family::new(
        "responses_bytes",
        Kind::Counter,
        "Size of response bodies in bytes, by status code, protocol and method.",
    );
}

/// The families that stand alone under the prefix: `{prefix}_{name}`.
mod single {
    use super::{Family, Kind};

    pub(super) const RELOADS: Family = Family::new("config_reloads", Kind::Counter, "Configurations applied.");
    pub(super) const LAST_RELOAD: Family = Family::new(
        "config_last_reload_success",
        Kind::Gauge,
        "Unix time of the last configuration applied.",
    );
    pub(super) const CONNECTIONS: Family = Family::new(
        "open_connections",
        Kind::Gauge,
        "Open connections, by entry point and protocol.",
    );
    pub(super) const CERTIFICATES: Family = Family::new(
        "tls_certs_not_after",
        Kind::Gauge,
        "Unix time at which a certificate expires.",
    );
    pub(super) const RETRIES: Family = Family::new(
        "service_retries",
        Kind::Counter,
        "Requests that were tried again on a service.",
    );
    pub(super) const SERVER_UP: Family = Family::new(
        "service_server_up",
        Kind::Gauge,
        "Whether a server with a health check is up: 1 or 0.",
    );
}

/// The families that Traefik has none of: `gantry_{name}`, whatever the prefix.
mod own {
    use super::{Family, Kind};

    pub(super) const BUILD: Family = Family::new("build_info", Kind::Gauge, "1, with the version as a label.");
    pub(super) const LAST_RELOAD_OK: Family = Family::new(
        "config_last_reload_successful",
        Kind::Gauge,
        "Whether the last change of the configuration was applied: 1 or 0.",
    );
    pub(super) const LOG_DROPPED: Family = Family::new(
        "access_log_dropped_lines",
        Kind::Counter,
        "Access log lines that were dropped because the disk or the reader could not keep up.",
    );
    pub(super) const RELOAD_FAILURES: Family = Family::new(
        "config_reload_failures",
        Kind::Counter,
        "Changes of the configuration that were refused, in whole or in part.",
    );
    pub(super) const RELOAD_DURATION: Family = Family::new(
        "config_reload_duration_seconds",
        Kind::Gauge,
        "Time that the last reload took, from reading to serving.",
    );
    pub(super) const OVERFLOW: Family = Family::new(
        "metrics_overflow",
        Kind::Counter,
        "Requests that were counted under `other` because a cap on labels was reached.",
    );
    pub(super) const HANDSHAKES: Family = Family::new(
        "tls_handshakes",
        Kind::Counter,
        "TLS handshakes with clients, by result.",
    );
    pub(super) const DIALLED: Family = Family::new(
        "service_connections_opened",
        Kind::Counter,
        "Connections to servers that were made for requests.",
    );
    pub(super) const REUSED: Family = Family::new(
        "service_connections_reused",
        Kind::Counter,
        "Requests that went over a connection to a server that was there before.",
    );
    pub(super) const DIAL_FAILED: Family = Family::new(
        "service_connection_failures",
        Kind::Counter,
        "Connections to servers that could not be made.",
    );
    pub(super) const IDLE: Family = Family::new(
        "upstream_connections_idle",
        Kind::Gauge,
        "Idle HTTP/1.1 connections to servers.",
    );
    pub(super) const PROBES: Family = Family::new(
        "service_server_probes",
        Kind::Counter,
        "Health checks of a server, by result.",
    );
    pub(super) const SERVER_IN_FLIGHT: Family = Family::new(
        "service_server_in_flight",
        Kind::Gauge,
        "Requests that run on a server.",
    );
    pub(super) const VARIANT_WEIGHT: Family = Family::new(
        "variant_weight",
        Kind::Gauge,
        "Configured weight of a child of a weighted service.",
    );
    pub(super) const FEEDBACK: Family =
        Family::new("feedback_requests", Kind::Counter, "Requests with feedback, by result.");
    pub(super) const SCRAPE_ERRORS: Family = Family::new(
        "scrape_errors",
        Kind::Counter,
        "Metrics of a server that could not be read, by reason.",
    );
}

/// The families of models, without a prefix.
mod models {
    use super::{Family, Kind};

    pub(super) const DURATION: Family = Family::new(
        "model_inference_duration_seconds",
        Kind::Histogram,
        "Time from a request's head to the end of the model's answer.",
    );
    pub(super) const TIME: Family = Family::new(
        "model_inference_time_seconds",
        Kind::Gauge,
        "Mean time of the inferences that ended in the last 60 s, longer running ones included.",
    );
    pub(super) const ACCURACY: Family = Family::new(
        "model_accuracy",
        Kind::Gauge,
        "Mean accuracy of the samples of the last 15 min.",
    );
    pub(super) const ACCURACY_AGE: Family = Family::new(
        "model_accuracy_age_seconds",
        Kind::Gauge,
        "Time since the newest accuracy sample.",
    );
    pub(super) const ACCURACY_SAMPLES: Family =
        Family::new("model_accuracy_samples", Kind::Histogram, "Accuracy samples.");
    pub(super) const REJECTED: Family = Family::new(
        "model_accuracy_rejected",
        Kind::Counter,
        "Samples of accuracy or confidence that could not be had, by reason.",
    );
    pub(super) const CONFIDENCE: Family = Family::new(
        "model_confidence",
        Kind::Gauge,
        "Mean confidence of the model in its answers of the last 15 min.",
    );
    pub(super) const CONFIDENCE_SAMPLES: Family =
        Family::new("model_confidence_samples", Kind::Histogram, "Confidence samples.");
    pub(super) const VOXELS: Family = Family::new(
        "model_voxels",
        Kind::Counter,
        "Voxels of the volumes that a model has answered.",
    );
    pub(super) const STAGE: Family = Family::new(
        "model_stage_duration_seconds",
        Kind::Histogram,
        "Time that a stage of the model's work took, as its Server-Timing says.",
    );
    pub(super) const FEEDBACK: Family =
        Family::new("model_feedback", Kind::Counter, "Feedback that was taken, by kind.");
    pub(super) const BOTH_EMPTY: Family = Family::new(
        "model_feedback_both_empty",
        Kind::Counter,
        "Feedback in which neither mask has a voxel of the label.",
    );
    pub(super) const MASKS: Family = Family::new("model_masks_kept", Kind::Gauge, "Masks that are kept for feedback.");
    pub(super) const MASK_BYTES: Family = Family::new(
        "model_masks_kept_bytes",
        Kind::Gauge,
        "Size of the masks that are kept in bytes.",
    );
    pub(super) const MASKS_DROPPED: Family = Family::new(
        "model_masks_dropped",
        Kind::Counter,
        "Masks that were not kept, by reason.",
    );
    pub(super) const REQUESTS: Family =
        Family::new("model_requests", Kind::Counter, "Requests to a model, by status code.");
    pub(super) const REQUEST_BYTES: Family = Family::new(
        "model_request_bytes",
        Kind::Counter,
        "Size of the request bodies sent to a model in bytes.",
    );
    pub(super) const RESPONSE_BYTES: Family = Family::new(
        "model_response_bytes",
        Kind::Counter,
        "Size of a model's response bodies in bytes.",
    );
    pub(super) const IN_FLIGHT: Family =
        Family::new("model_in_flight", Kind::Gauge, "Requests that a model is working on.");
}

/// The families that every Prometheus client has: `process_{name}`.
mod process_names {
    use super::{Family, Kind};

    pub(super) const CPU: Family = Family::new(
        "cpu_seconds",
        Kind::Counter,
        "User and system CPU time spent in seconds.",
    );
    pub(super) const MAX_FDS: Family = Family::new("max_fds", Kind::Gauge, "Maximum number of open file descriptors.");
    pub(super) const OPEN_FDS: Family = Family::new("open_fds", Kind::Gauge, "Number of open file descriptors.");
    pub(super) const RESIDENT: Family =
        Family::new("resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
    pub(super) const START: Family = Family::new(
        "start_time_seconds",
        Kind::Gauge,
        "Unix time of the start of the process.",
    );
    pub(super) const VIRTUAL: Family =
        Family::new("virtual_memory_bytes", Kind::Gauge, "Virtual memory size in bytes.");
}

/// What `metrics.prometheus` of the static configuration says.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsOptions {
    /// What names start with, without the underscore. Default: `gantry`; `traefik` makes Traefik's dashboards and
    /// alerts work unchanged. Characters that a metric name cannot have become underscores.
    pub prefix: String,
    /// Upper bounds of request durations in seconds. Default: [`DEFAULT_BUCKETS`].
    pub buckets: Vec<f64>,
    /// `addEntryPointsLabels`. Default: true.
    pub entry_points: bool,
    /// `addRoutersLabels`. Default: false.
    pub routers: bool,
    /// `addServicesLabels`, for services and the variants of weighted ones. Default: true.
    pub services: bool,
    /// `headerLabels`: labels of `*_requests_total` and the request headers that their values come from. Default: none.
    pub header_labels: BTreeMap<String, HeaderName>,
}

impl Default for MetricsOptions {
    fn default() -> Self {
        Self {
            prefix: "gantry".to_owned(),
            buckets: DEFAULT_BUCKETS.to_vec(),
            entry_points: true,
            routers: false,
            services: true,
            header_labels: BTreeMap::new(),
        }
    }
}

/// A gauge that any thread may set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The value last set, 0 before that.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// A counter that any thread may raise. For rare events: the hot path has [`WorkerMetrics`].
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A certificate in use, as the labels of `tls_certs_not_after`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateLabels {
    /// The subject's common name, empty where it has none.
    pub cn: String,
    /// The serial number.
    pub serial: String,
    /// The alternative names, joined by commas.
    pub sans: String,
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
}

/// The metrics of the process. One object, shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    options: MetricsOptions,
    /// Upper bounds of request durations in seconds, sorted.
    bounds: Vec<f64>,
    shared: Shared,
    registry: Mutex<Registry>,
    /// What each worker shows; its blocks are those that it made since the last scrape.
    workers: Mutex<Vec<Arc<Shown>>>,
    /// All that was made before. Only scrapes lock it.
    cells: Mutex<Cells>,
    answers: Answers,
    models: Mutex<Models>,
    servers: Mutex<Servers>,
    certificates: Mutex<Vec<CertificateLabels>>,
    reloads: Mutex<Reloads>,
    feedback: Feedback,
    log_dropped: Arc<Counter>,
    process: Process,
}

impl Metrics {
    /// The registry, still empty.
    pub fn new(mut options: MetricsOptions) -> Arc<Self> {
        options.prefix = encode::sanitise_name(&options.prefix);
        let mut bounds = options.buckets.clone();
        bounds.retain(|bound| bound.is_finite() && *bound >= 0.0);
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let shared = Shared {
            bounds: bounds.iter().map(|bound| (bound * 1e9).round() as u64).collect(),
            entry_points: options.entry_points,
            caps: Arc::new(Caps::default()),
            header_labels: HeaderLabels::new(&options.header_labels),
        };
        Arc::new(Self {
            options,
            bounds,
            shared,
            registry: Mutex::default(),
            workers: Mutex::default(),
            cells: Mutex::default(),
            answers: Answers::default(),
            models: Mutex::default(),
            servers: Mutex::default(),
            certificates: Mutex::default(),
            reloads: Mutex::default(),
            feedback: Feedback::default(),
            log_dropped: Arc::default(),
            process: Process::new(),
        })
    }

    /// The handle of an entry point. Entry points never vanish: the static configuration names them.
    pub fn entry_point(&self, name: &str) -> EntryPointSeries {
        EntryPointSeries(self.scope(true, Labels::EntryPoint(name.to_owned())))
    }

    /// The handle of a router with its service; both names qualified (`r@file`).
    pub fn router(&self, router: &str, service: &str) -> RouterSeries {
        let labels = Labels::Router {
            router: router.to_owned(),
            service: service.to_owned(),
        };
        RouterSeries(self.scope(self.options.routers, labels))
    }

    /// The handle of a service; its name qualified (`s@file`).
    pub fn service(&self, service: &str) -> ServiceSeries {
        ServiceSeries(self.scope(self.options.services, Labels::Service(service.to_owned())))
    }

    /// The handle of a child of a weighted service; both names qualified. `weight` is shown once the snapshot that is
    /// being compiled is served; the weights of a child that stands there twice are added.
    pub fn variant(&self, service: &str, variant: &str, weight: i64) -> VariantSeries {
        let labels = Labels::Variant {
            service: service.to_owned(),
            variant: variant.to_owned(),
        };
        if self.options.services {
            lock(&self.registry).weigh(service, variant, weight);
        }
        VariantSeries(self.scope(self.options.services, labels))
    }

    fn scope(&self, is_counted: bool, labels: Labels) -> ScopeId {
        if !is_counted {
            return ScopeId::NONE;
        }
        let id = lock(&self.registry).resolve(labels.clone());
        self.shared.caps.add(id, &labels);
        id
    }

    /// The series of a model's version behind a service.
    pub fn model(&self, model: &str, version: &str, service: &str) -> ModelSeries {
        lock(&self.models).resolve(model, version, service)
    }

    /// Closes a generation: call it once after each compile whose snapshot was installed, never for one that failed.
    /// What was not asked for since the last call is on its way out.
    pub fn next_generation(&self, now: Instant) {
        let mut registry = lock(&self.registry);
        registry.next_generation(now);
        self.shared.caps.retain(|id| registry.labels(id).is_some());
        drop(registry);
        lock(&self.models).next_generation(now);
    }

    /// Replaces the list of certificates in use.
    pub fn set_certificates(&self, mut certificates: Vec<CertificateLabels>) {
        certificates.sort();
        // The same certificate may be named by several files: a series must stand once.
        certificates.dedup_by(|a, b| (&a.cn, &a.serial, &a.sans) == (&b.cn, &b.serial, &b.sans));
        *lock(&self.certificates) = certificates;
    }

    /// Counts access log lines that were dropped; the access log holds it.
    pub fn access_log_dropped(&self) -> Arc<Counter> {
        Arc::clone(&self.log_dropped)
    }

    /// The writing side for one thread. Its cells stay in the sums when the thread ends.
    pub fn worker(&self) -> WorkerMetrics {
        let shown = Arc::default();
        lock(&self.workers).push(Arc::clone(&shown));
        WorkerMetrics::new(self.shared.clone(), shown)
    }
}

/// Metrics go on after a panic elsewhere: every guarded value is valid between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
