//! `loadBalancer`: servers behind one name.

use std::sync::Arc;

use ::http::header;

use super::Upstream;
use super::health::HealthPlan;
use super::server::{Health, Server};
use super::sticky::{StickyCookie, Wish};
use super::wrr::Cursor;
use crate::http::exchange::Exchange;
use crate::http::{Request, Response, error};
use crate::model::ModelPlan;
use crate::observe::metrics::ServiceSeries;
use crate::upstream::forward::forward;

/// A load balancer of a snapshot.
#[derive(Debug)]
pub struct LoadBalancer {
    /// Its qualified name, `mri@file`.
    pub name: String,
    /// The servers, in the order of their URLs; those without weight are not among them.
    pub servers: Vec<Arc<Server>>,
    /// Their weights.
    pub weights: Vec<i64>,
    /// The position of the round robin.
    pub cursor: Arc<Cursor>,
    /// `passHostHeader`
    pub pass_host_header: bool,
    /// `sticky.cookie`
    pub sticky: Option<StickyCookie>,
    /// `healthCheck`
    pub health_check: Option<HealthPlan>,
    /// Its series.
    pub series: ServiceSeries,
    /// What makes it a model.
    pub model: Option<Arc<ModelPlan>>,
    /// `metrics`
    pub metrics: Option<MetricsPlan>,
}

/// A compiled `metrics`: where the servers' own metrics are.
#[derive(Debug)]
pub struct MetricsPlan {
    /// The path on each server, with its query.
    pub path: String,
    /// `model.name`; empty without.
    pub model: String,
    /// `model.version`; empty without.
    pub version: String,
    /// Every server, in the order of their URLs: those without weight too, since they run.
    pub servers: Vec<Arc<Server>>,
}

impl LoadBalancer {
    /// Chooses a server and brings the request there.
    pub async fn handle(self: &Arc<Self>, mut request: Request, exchange: &mut Exchange) -> Response {
        // Boxed: services without a model must not pay for it with a larger future.
        let inference = self
            .model
            .as_ref()
            .map(|model| Box::new(model.begin(&mut request, exchange)));
        let wish = self.wish(&request);
        let chosen = wish.map(Wish::member).or_else(|| self.pick());
        let server = chosen.map(|i| Arc::clone(&self.servers[i]));
        exchange.upstream = Some(Upstream {
            balancer: Arc::clone(self),
            server: server.clone(),
        });
        let mut response = match &server {
            None => error::no_available_server(),
            Some(server) => {
                if let Some(model) = &self.model {
                    exchange.model_run = Some(model.start());
                }
                let sticky = self.sticky.as_ref().filter(|_| !matches!(wish, Some(Wish::Member(_))));
                let cookie = sticky.and_then(|sticky| sticky.set(&server.sticky));
                let mut response = forward(self, server, request, exchange).await;
                if let Some(cookie) = cookie {
                    response.headers_mut().append(header::SET_COOKIE, cookie);
                }
                response
            }
        };
        if let (Some(model), Some(inference)) = (&self.model, inference) {
            model.finish(*inference, &mut response);
        }
        response
    }

    /// The server that the cookie names, if it can serve.
    fn wish(&self, request: &Request) -> Option<Wish> {
        let sticky = self.sticky.as_ref()?;
        let members = self.servers.iter().map(|s| (s.url.as_str(), s.sticky.as_str()));
        sticky
            .wish(request.headers(), members)
            .filter(|w| self.servers[w.member()].state.health() != Health::Down)
    }

    /// The next server by weighted round robin.
    ///
    /// A server that was not checked yet gets traffic only while none of its siblings is known to be up.
    fn pick(&self) -> Option<usize> {
        if let [server] = self.servers.as_slice() {
            return (server.state.health() != Health::Down).then_some(0);
        }
        let wanted = if self.health_check.is_none() {
            Health::Unknown
        } else if self.servers.iter().any(|s| s.state.health() == Health::Up) {
            Health::Up
        } else {
            Health::Unknown
        };
        self.cursor.next(&self.weights, |i| {
            let health = self.servers[i].state.health();
            health == wanted || (wanted == Health::Unknown && health == Health::Up)
        })
    }

    /// Whether any server may be up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.servers.iter().any(|s| s.state.health() != Health::Down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dynamic::HealthCheck;
    use crate::observe::metrics::{Metrics, MetricsOptions};
    use crate::service::server::fixture;

    /// Whom ten requests go to where the servers are in these states.
    fn shares(checked: bool, states: &[Health]) -> Vec<usize> {
        let servers: Vec<_> = (1..).take(states.len()).map(fixture).collect();
        for (server, state) in servers.iter().zip(states) {
            server.state.set_health(*state);
        }
        let balancer = LoadBalancer {
            name: "s@file".into(),
            weights: vec![1; servers.len()],
            cursor: Arc::new(Cursor::new(servers.len())),
            pass_host_header: true,
            sticky: None,
            health_check: checked.then(|| HealthPlan::new(&HealthCheck::default())),
            series: Metrics::new(MetricsOptions::default()).service("s@file"),
            model: None,
            metrics: None,
            servers,
        };
        let mut counts = vec![0; states.len()];
        for _ in 0..10 {
            if let Some(i) = balancer.pick() {
                counts[i] += 1;
            }
        }
        assert_eq!(balancer.is_up(), counts.iter().sum::<usize>() == 10);
        counts
    }

    #[test]
    fn unknown_servers_get_traffic_only_while_no_sibling_is_known_to_be_up() {
        use Health::{Down, Unknown, Up};
        for (states, expected) in [
            (&[Unknown, Unknown][..], &[5, 5][..]),
            (&[Unknown, Up], &[0, 10]),
            (&[Unknown, Down], &[10, 0]),
            (&[Up, Up, Down], &[5, 5, 0]),
            (&[Down, Down], &[0, 0]),
            (&[Down], &[0]),
            (&[Unknown], &[10]),
        ] {
            assert_eq!(shares(true, states), expected, "{states:?}");
        }
        assert_eq!(shares(false, &[Unknown, Unknown]), [5, 5]);
        assert_eq!(shares(true, &[]), [0; 0]);
    }
}
