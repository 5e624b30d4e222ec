//! Active health checks. Probes run on the control thread, at once and in parallel; their history is the server's and
//! survives reloads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::Empty;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::load_balancer::LoadBalancer;
use super::server::{Health, Scheme, Server};
use crate::config::dynamic::HealthCheck;
use crate::observe::metrics::Metrics;
use crate::upstream::dns::Dns;
use crate::upstream::fetch;

/// Most redirects that a check follows, as Go's client does.
const MAX_REDIRECTS: usize = 10;
/// Probes begin within this part of their interval, so that many servers are not asked in the same instant.
const JITTER: u32 = 20;

/// A compiled `healthCheck`.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthPlan {
    settings: HealthCheck,
}

impl HealthPlan {
    /// Compiles the settings.
    #[must_use]
    pub fn new(settings: &HealthCheck) -> Self {
        Self {
            settings: settings.clone(),
        }
    }

    fn uri(&self, server: &Server) -> Result<(Uri, bool), String> {
        let settings = &self.settings;
        let own = if server.scheme == Scheme::H2c {
            "h2c"
        } else {
            server.scheme.as_str()
        };
        let scheme = if settings.scheme.is_empty() {
            own
        } else {
            settings.scheme.as_str()
        };
        let port = settings.port.unwrap_or(server.port);
        let uri = fetch::url(scheme, &server.host, port, &settings.path)?;
        Ok((uri, scheme == "h2c"))
    }

    fn is_good(&self, status: StatusCode) -> bool {
        match self.settings.status {
            Some(wanted) if wanted != 0 => status.as_u16() == wanted,
            _ => (200..400).contains(&status.as_u16()),
        }
    }
}

/// The running checks, by what makes them equal: an unchanged one never notices a reload.
#[derive(Default)]
pub struct Prober {
    running: HashMap<String, (HealthPlan, JoinHandle<()>)>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").field("running", &self.running.len()).finish()
    }
}

impl Prober {
    /// Starts the checks of `balancers` that do not run yet and stops those that are gone. Called on the control thread,
    /// inside its runtime.
    pub fn update(&mut self, balancers: &[Arc<LoadBalancer>], metrics: &Arc<Metrics>) {
        let mut wanted = HashMap::new();
        for balancer in balancers {
            for server in &balancer.servers {
                match &balancer.health_check {
                    Some(plan) => {
                        let key = format!("{} {} {}", balancer.name, server.url, server.transport.identity);
                        wanted.insert(key, (plan, balancer, server));
                    }
                    None => server.state.set_health(Health::Unknown),
                }
            }
        }
        self.running.retain(|key, (plan, task)| {
            let stays = wanted.get(key).is_some_and(|(new, ..)| *new == plan);
            if !stays {
                task.abort();
                if !wanted.contains_key(key) {
                    let mut names = key.split(' ');
                    if let (Some(service), Some(url)) = (names.next(), names.next()) {
                        metrics.remove_server_up(service, url);
                    }
                }
            }
            stays
        });
        for (key, (plan, balancer, server)) in wanted {
            self.running.entry(key).or_insert_with(|| {
                let check = Check {
                    plan: plan.clone(),
                    service: balancer.name.clone(),
                    server: Arc::clone(server),
                    metrics: Arc::clone(metrics),
                };
                (plan.clone(), tokio::spawn(check.run()))
            });
        }
    }
}

struct Check {
    plan: HealthPlan,
    service: String,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
}

impl Check {
    async fn run(self) {
        let dns = Dns::default();
        let gauge = self.metrics.server_up(&self.service, &self.server.url);
        let probes = self.metrics.probes(&self.service, &self.server.url);
        let settings = &self.plan.settings;
        tokio::time::sleep(settings.interval.min(Duration::from_secs(10)).mul_f64(fastrand::f64()) / JITTER).await;
        loop {
            let result = timeout(settings.timeout, self.probe(&dns)).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {:?}", settings.timeout)));
            probes.count(result.is_ok());
            let up = self.judge(&result);
            gauge.set(if up { 1.0 } else { 0.0 });
            let pause = if up {
                settings.interval
            } else {
                settings.unhealthy_interval.unwrap_or(settings.interval)
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Counts the result and says whether the server is up now. A server that nothing is known of is believed at once,
    /// either way.
    fn judge(&self, result: &Result<(), String>) -> bool {
        let (state, settings) = (&self.server.state, &self.plan.settings);
        let before = state.health();
        let enough = |count: usize, needed: u32| before == Health::Unknown || count >= needed as usize;
        let (now, count) = if result.is_ok() {
            state.bad.store(0, Ordering::Relaxed);
            let good = state.good.fetch_add(1, Ordering::Relaxed) + 1;
            (
                if enough(good, settings.rise) {
                    Health::Up
                } else {
                    before
                },
                good,
            )
        } else {
            state.good.store(0, Ordering::Relaxed);
            let bad = state.bad.fetch_add(1, Ordering::Relaxed) + 1;
            (
                if enough(bad, settings.fall) {
                    Health::Down
                } else {
                    before
                },
                bad,
            )
        };
        if now != before {
            state.set_health(now);
            match result {
                Ok(()) => tracing::info!(service = %self.service, server = %self.server.url, "server is up"),
                Err(e) => {
                    tracing::warn!(service = %self.service, server = %self.server.url, failures = count, "server is down: {e}")
                }
            }
        }
        now == Health::Up
    }

    async fn probe(&self, dns: &Dns) -> Result<(), String> {
        let (mut uri, h2c) = self.plan.uri(&self.server)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = fetch::send(dns, &self.server.transport.tls, &uri, h2c, |h2| self.request(&uri, h2)).await?;
            let location = response
                .headers()
                .get(header::LOCATION)
                .filter(|_| response.status().is_redirection());
            match location.filter(|_| self.plan.settings.follow_redirects) {
                Some(location) => uri = join(&uri, location)?,
                None if self.plan.is_good(response.status()) => return Ok(()),
                None => return Err(format!("status {}", response.status().as_u16())),
            }
        }
        Err(format!("more than {MAX_REDIRECTS} redirects"))
    }

    fn request(&self, uri: &Uri, h2: bool) -> Result<Request<Empty<Bytes>>, String> {
        let settings = &self.plan.settings;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::from_bytes(settings.method.as_bytes()).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        let authority = uri.authority().map(|a| a.as_str().to_owned()).unwrap_or_default();
        let host = if settings.hostname.is_empty() {
            authority
        } else {
            settings.hostname.clone()
        };
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name).map_err(|e| e.to_string())?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|e| e.to_string())?);
        }
        let host = match headers.remove(header::HOST) {
            Some(host) => host,
            None => HeaderValue::try_from(host).map_err(|e| e.to_string())?,
        };
        fetch::aim(&mut request, uri, host, h2)?;
        Ok(request)
    }
}

/// Where a redirect leads: an absolute URL or a path on the same server.
fn join(base: &Uri, location: &HeaderValue) -> Result<Uri, String> {
    let location = location.to_str().map_err(|_| "a redirect to nowhere")?;
    let uri: Uri = location.parse().map_err(|e| format!("a redirect to {location}: {e}"))?;
    if uri.scheme().is_some() {
        return Ok(uri);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = uri.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::MetricsOptions;
    use crate::service::server::fixture;

    fn check(change: impl FnOnce(&mut HealthCheck)) -> Check {
        let mut settings = HealthCheck::default();
        change(&mut settings);
        Check {
            plan: HealthPlan::new(&settings),
            service: "s@file".into(),
            server: fixture(8000),
            metrics: Metrics::new(MetricsOptions::default()),
        }
    }

    #[test]
    fn a_server_that_nothing_is_known_of_is_believed_at_once_and_then_by_rise_and_fall() {
        let check = check(|settings| (settings.rise, settings.fall) = (2, 3));
        let (good, bad) = (Ok(()), Err("no".to_owned()));
        let health = |result: &Result<(), String>| {
            check.judge(result);
            check.server.state.health()
        };
        assert_eq!(check.server.state.health(), Health::Unknown);
        assert_eq!(health(&bad), Health::Down);
        assert_eq!(
            [health(&good), health(&bad), health(&good), health(&good)],
            [Health::Down, Health::Down, Health::Down, Health::Up]
        );
        assert_eq!(
            [health(&bad), health(&bad), health(&good), health(&bad)],
            [Health::Up; 4]
        );
        assert_eq!([health(&bad), health(&bad)], [Health::Up, Health::Down]);
        check.server.state.set_health(Health::Unknown);
        assert_eq!(health(&good), Health::Up);
    }

    #[test]
    fn the_check_goes_where_the_settings_say() {
        let uri = |change: fn(&mut HealthCheck)| check(change).plan.uri(&fixture(8000)).expect("a URI");
        assert_eq!(
            uri(|s| s.path = "/h?x=1".into()),
            (Uri::from_static("http://127.0.0.1:8000/h?x=1"), false)
        );
        assert_eq!(
            uri(|s| (s.port, s.path) = (Some(9), "h".into())).0,
            "http://127.0.0.1:9/h"
        );
        assert_eq!(uri(|s| s.scheme = "https".into()).0, "https://127.0.0.1:8000/");
    }

    #[test]
    fn the_host_is_the_configured_one_over_both_protocols() {
        let target = Uri::from_static("http://127.0.0.1:8000/h");
        let named = check(|settings| settings.hostname = "model.test".into());
        let http1 = named.request(&target, false).expect("a request");
        assert_eq!(
            (http1.uri(), &http1.headers()["host"]),
            (&Uri::from_static("/h"), &"model.test".parse().expect("a value"))
        );
        let http2 = named.request(&target, true).expect("a request");
        assert_eq!(
            (http2.uri(), http2.headers().len()),
            (&Uri::from_static("http://model.test/h"), 0)
        );
        let by_header = check(|settings| settings.headers = [("Host".into(), "other.test".into())].into());
        assert_eq!(
            by_header.request(&target, true).expect("a request").uri(),
            "http://other.test/h"
        );
        assert_eq!(check(|_| {}).request(&target, true).expect("a request").uri(), &target);
    }

    #[test]
    fn redirects_lead_to_paths_and_to_other_servers() {
        let base = Uri::from_static("http://a:1/x");
        let to = |location: &'static str| join(&base, &HeaderValue::from_static(location)).map(|uri| uri.to_string());
        assert_eq!(to("/y?z"), Ok("http://a:1/y?z".to_owned()));
        assert_eq!(to("https://b/"), Ok("https://b/".to_owned()));
        assert!(to("").is_err());
    }
}
