//! What the data plane runs on: immutable, shared by all workers, replaced as a whole.

use std::sync::Arc;

use crate::middleware::Middleware;
use crate::observe::metrics::RouterSeries;
use crate::router::Index;
use crate::service::Service;
use crate::service::load_balancer::LoadBalancer;
use crate::tls::server::ServerTls;

/// Compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Which reload it came from.
    pub generation: u64,
    /// The plans of the entry points, in the order of their indices.
    pub entry_points: Vec<EntryPointPlan>,
    /// Every load balancer, for the probes.
    pub balancers: Vec<Arc<LoadBalancer>>,
}

/// What one entry point does with requests.
#[derive(Debug)]
pub struct EntryPointPlan {
    /// Routers for clear text.
    pub plain: Index<Arc<RouterPlan>>,
    /// Routers for TLS.
    pub secure: Index<Arc<RouterPlan>>,
    /// Certificates and options.
    pub tls: ServerTls,
}

/// A router, ready to run.
#[derive(Clone, Debug)]
pub struct RouterPlan {
    /// Its qualified name, `mri@file`.
    pub name: String,
    /// The qualified name of its service.
    pub service_name: String,
    /// Its middlewares, those of the entry point first.
    pub middlewares: Vec<Arc<dyn Middleware>>,
    /// Its service.
    pub service: Service,
    /// What its TLS options ask of clients, see `TlsSetup::client_auth_of`; 0 is nothing.
    pub client_auth: u32,
    /// Its series; internal routers have none.
    pub series: Option<RouterSeries>,
    /// Whether its requests are counted.
    pub metrics: bool,
    /// Whether its requests are logged.
    pub access_logs: bool,
}
