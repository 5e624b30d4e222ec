//! Metrics: every name in one place, and the registry that compile, workers and the scraper share.
//!
//! Names, labels and types are Traefik's under a prefix of the operator's choice, plus the `model_*` series (no prefix)
//! and `process_*`. The work is split by who does it:
//!
//! * The control thread turns labels into small handles at each compile ([`Metrics::entry_point`] and its siblings).
//! * A worker counts through [`WorkerMetrics`]: cells that only it writes, found by handle, without a lock.
//! * A scrape ([`Metrics::render`]) sums the cells of all workers.
//!
//! Invariants: a series never goes backwards while it exists. A series whose router, service or model no generation
//! asks for vanishes [`LINGER`] after it was last asked for; when it comes back later, it starts at zero. Label values
//! come from the configuration and from fixed sets, never from a request.

pub mod cells;
pub mod encode;
pub mod labels;
pub mod model;
pub mod process;
mod registry;
mod render;
mod render_model;
pub mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use cells::{EntryPointSeries, RequestDone, RouterSeries, ServiceSeries, WorkerMetrics};
pub use encode::{Format, negotiate};
pub use labels::{MethodLabel, ProtocolLabel, TlsLabels};
pub use model::{AccuracySource, Dropped, FeedbackKind, ModelDone, ModelRun, ModelSeries, Quality, Rejection};

use cells::Published;
use encode::{Family, Kind};
use model::Models;
use process::Process;
use registry::{Labels, Registry};

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

    pub(super) const BUILD: Family = Family::new("build_info", Kind::Gauge, "1, with the version as a label.");
    pub(super) const RELOADS: Family = Family::new("config_reloads", Kind::Counter, "Configurations applied.");
    pub(super) const LAST_RELOAD: Family = Family::new(
        "config_last_reload_success",
        Kind::Gauge,
        "Unix time of the last configuration applied.",
    );
    pub(super) const LAST_RELOAD_OK: Family = Family::new(
        "config_last_reload_successful",
        Kind::Gauge,
        "Whether the last change of the configuration was applied: 1 or 0.",
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
    pub(super) const LOG_DROPPED: Family = Family::new(
        "access_log_dropped_lines",
        Kind::Counter,
        "Access log lines that were dropped because the disk or the reader could not keep up.",
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
    /// `addServicesLabels`. Default: true.
    pub services: bool,
}

impl Default for MetricsOptions {
    fn default() -> Self {
        Self {
            prefix: "gantry".to_owned(),
            buckets: DEFAULT_BUCKETS.to_vec(),
            entry_points: true,
            routers: false,
            services: true,
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

#[derive(Debug, Default)]
struct Reloads {
    applied: u64,
    last_applied: Option<SystemTime>,
    last_failed: bool,
}

/// The metrics of the process. One object, shared by all threads.
#[derive(Debug)]
pub struct Metrics {
    options: MetricsOptions,
    /// Upper bounds of request durations, sorted: in seconds for the labels, in nanoseconds for the workers.
    bounds: Vec<f64>,
    bounds_nanos: Arc<[u64]>,
    registry: Mutex<Registry>,
    workers: Mutex<Vec<Arc<Mutex<Vec<Published>>>>>,
    models: Mutex<Models>,
    servers: Mutex<BTreeMap<(String, String), Arc<Gauge>>>,
    certificates: Mutex<Vec<CertificateLabels>>,
    reloads: Mutex<Reloads>,
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
        let bounds_nanos = bounds.iter().map(|bound| (bound * 1e9).round() as u64).collect();
        Arc::new(Self {
            options,
            bounds,
            bounds_nanos,
            registry: Mutex::default(),
            workers: Mutex::default(),
            models: Mutex::default(),
            servers: Mutex::default(),
            certificates: Mutex::default(),
            reloads: Mutex::default(),
            log_dropped: Arc::default(),
            process: Process::new(),
        })
    }

    /// The handle of an entry point. Entry points never vanish: the static configuration names them.
    pub fn entry_point(&self, name: &str) -> EntryPointSeries {
        EntryPointSeries(lock(&self.registry).resolve(Labels::EntryPoint(name.to_owned())))
    }

    /// The handle of a router with its service; both names qualified (`r@file`).
    pub fn router(&self, router: &str, service: &str) -> RouterSeries {
        let labels = Labels::Router {
            router: router.to_owned(),
            service: service.to_owned(),
        };
        RouterSeries(if self.options.routers {
            lock(&self.registry).resolve(labels)
        } else {
            cells::ScopeId::NONE
        })
    }

    /// The handle of a service; its name qualified (`s@file`).
    pub fn service(&self, service: &str) -> ServiceSeries {
        let labels = Labels::Service(service.to_owned());
        ServiceSeries(if self.options.services {
            lock(&self.registry).resolve(labels)
        } else {
            cells::ScopeId::NONE
        })
    }

    /// The series of a model's version behind a service.
    pub fn model(&self, model: &str, version: &str, service: &str) -> ModelSeries {
        lock(&self.models).resolve(model, version, service)
    }

    /// Closes a generation: call it once after each compile whose snapshot was installed, never for one that failed.
    /// What was not asked for since the last call is on its way out.
    pub fn next_generation(&self, now: Instant) {
        lock(&self.registry).next_generation(now);
        lock(&self.models).next_generation(now);
    }

    /// The gauge of a server with a health check; the same object for the same labels.
    pub fn server_up(&self, service: &str, url: &str) -> Arc<Gauge> {
        let key = (service.to_owned(), url.to_owned());
        Arc::clone(lock(&self.servers).entry(key).or_default())
    }

    /// Removes the gauge of a server whose health is no longer probed.
    pub fn remove_server_up(&self, service: &str, url: &str) {
        lock(&self.servers).remove(&(service.to_owned(), url.to_owned()));
    }

    /// Replaces the list of certificates in use.
    pub fn set_certificates(&self, mut certificates: Vec<CertificateLabels>) {
        certificates.sort();
        // The same certificate may be named by several files: a series must stand once.
        certificates.dedup_by(|a, b| (&a.cn, &a.serial, &a.sans) == (&b.cn, &b.serial, &b.sans));
        *lock(&self.certificates) = certificates;
    }

    /// Notes that a change of the configuration was applied (`ok`), or refused.
    pub fn reload(&self, ok: bool, now: SystemTime) {
        let mut reloads = lock(&self.reloads);
        reloads.last_failed = !ok;
        if ok {
            reloads.applied += 1;
            reloads.last_applied = Some(now);
        }
    }

    /// Counts access log lines that were dropped; the access log holds it.
    pub fn access_log_dropped(&self) -> Arc<Counter> {
        Arc::clone(&self.log_dropped)
    }

    /// The writing side for one thread. Its cells stay in the sums when the thread ends.
    pub fn worker(&self) -> WorkerMetrics {
        let published = Arc::default();
        lock(&self.workers).push(Arc::clone(&published));
        WorkerMetrics::new(Arc::clone(&self.bounds_nanos), self.options.entry_points, published)
    }
}

/// Metrics go on after a panic elsewhere: every guarded value is valid between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
