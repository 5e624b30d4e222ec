//! Dynamic configuration: what a provider delivers and a reload replaces.

use std::collections::BTreeMap;

pub use super::middleware::{
    AddPrefix, BasicAuth, Buffering, Chain, Headers, InFlightReq, IpAllowList, IpStrategy, Middleware, RateLimit,
    RedirectScheme, SourceCriterion, StripPrefix,
};
pub use super::router::{Router, RouterObservability, RouterTls, TlsDomain};
pub use super::service::{
    Cookie, HealthCheck, HealthMode, KeepMasks, LoadBalancer, ModelName, ResponseForwarding, SameSite, SampleOrigin,
    SampleSource, Server, ServerTiming, Service, ServiceMetrics, Sticky, Strategy, Weighted, WeightedHealthCheck,
    WeightedService,
};
pub use super::tls::{Certificate, ClientAuth, ClientAuthType, Tls, TlsOptions, TlsStore, TlsVersion};
pub use super::transport::{CertificatePair, ForwardingTimeouts, ServersTransport};

settings! {
    /// A dynamic file, or several merged into one.
    pub struct Dynamic [empty] {
        /// HTTP routers, services, middlewares and transports.
        "http" => http: Http;
        /// Certificates and TLS options.
        "tls" => tls: Tls;
    }
    unsupported {
        "tcp": "Gantry routes HTTP only so far; nothing of this file is used while the section stands in it: take it out";
        "udp": "Gantry routes HTTP only so far; nothing of this file is used while the section stands in it: take it out";
    }
}

settings! {
    /// Everything that concerns HTTP requests.
    pub struct Http [empty] {
        /// Routers by name: which request goes to which service.
        "routers" => routers: BTreeMap<String, Router>;
        /// Services by name: where requests are sent.
        "services" => services: BTreeMap<String, Service>;
        /// Middlewares by name: what is done to a request on its way.
        "middlewares" => middlewares: BTreeMap<String, Middleware>;
        /// Transports by name: how Gantry connects to servers.
        "serversTransports" => servers_transports: BTreeMap<String, ServersTransport>;
    }
}
