//! Services: what routers point at. A service chooses a server; `upstream` brings the request there.

pub mod health;
pub mod load_balancer;
pub mod server;
pub mod sticky;
pub mod weighted;
pub mod wrr;

use std::sync::Arc;

use crate::http::exchange::Exchange;
use crate::http::{Request, Response, error};
use load_balancer::LoadBalancer;
use server::Server;
use weighted::Weighted;

/// A service of any kind.
#[derive(Debug, Clone)]
pub enum Service {
    /// Servers.
    LoadBalancer(Arc<LoadBalancer>),
    /// Services with weights.
    Weighted(Arc<Weighted>),
    /// Something that Gantry answers by itself.
    Internal(Internal),
}

/// Gantry's own services.
#[derive(Debug, Clone)]
pub enum Internal {
    /// `ping@internal`
    Ping(Arc<crate::admin::ping::Ping>),
    /// `prometheus@internal`
    Prometheus(Arc<crate::observe::metrics::Metrics>),
    /// `sd@internal`
    Discovery,
    /// `federate@internal`
    Federate(Arc<crate::admin::federate::Federate>),
    /// `/feedback/{request-id}`
    Feedback(Arc<crate::admin::feedback::Feedback>),
    /// `acme-http@internal`: proofs for ACME authorities.
    Acme(Arc<crate::tls::challenge::Challenges>),
    /// `noop@internal`: 418, for routers whose middleware always answers.
    Noop,
}

/// The load balancer and the server that took a request.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The service.
    pub balancer: Arc<LoadBalancer>,
    /// The server; `None` when none was to be had.
    pub server: Option<Arc<Server>>,
}

impl Service {
    /// Handles `request`.
    pub async fn handle(&self, request: Request, exchange: &mut Exchange) -> Response {
        match self {
            Self::LoadBalancer(balancer) => balancer.handle(request, exchange).await,
            Self::Weighted(weighted) => Box::pin(weighted.handle(request, exchange)).await,
            Self::Internal(Internal::Ping(ping)) => ping.answer(),
            Self::Internal(Internal::Prometheus(metrics)) => crate::admin::metrics::answer(metrics, &request).await,
            Self::Internal(Internal::Discovery) => crate::admin::sd::answer(&exchange.snapshot),
            Self::Internal(Internal::Federate(federate)) => federate.answer(&request, &exchange.snapshot).await,
            Self::Internal(Internal::Feedback(feedback)) => feedback.answer(request).await,
            Self::Internal(Internal::Acme(challenges)) => crate::admin::acme::answer(challenges, request.uri().path()),
            Self::Internal(Internal::Noop) => error::empty(::http::StatusCode::IM_A_TEAPOT),
        }
    }

    /// Whether a request could be served at present. Health always flows up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::LoadBalancer(balancer) => balancer.is_up(),
            Self::Weighted(weighted) => weighted.is_up(),
            Self::Internal(_) => true,
        }
    }
}
