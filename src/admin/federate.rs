//! `/federate`: the servers' own metrics as one text, read when it is asked for.
//!
//! All servers are asked at once, each within its own time, so that one that is slow, huge or broken costs nobody else:
//! it is missing from the text, its `gantry_federate_up` is 0, a remark at the end says why, and the failure is counted.
//!
//! Bounds: `ASKED` requests at a time; of all of them together `READING` bodies in memory and `PARSING` threads;
//! for each `ASKING` connections, [`MAX_EXPRESSIONS`] regular expressions and `MAX_TEXT` bytes of answer, which waits for
//! its reader on the `shelf`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::sd::targets;
use super::shelf;
use crate::compile::snapshot::Snapshot;
use crate::http::{Request, Response, error};
use crate::observe::exposition::merge::{Merge, Part, TargetLabels};
use crate::observe::exposition::selector::{MAX_EXPRESSIONS, Selector};
use crate::observe::metrics::{Format, Metrics, ScrapeError};
use crate::rule::query;
use crate::service::load_balancer::{LoadBalancer, MetricsPlan};
use crate::service::server::Server;
use crate::upstream::dns::Dns;
use crate::upstream::fetch::SCRAPE_TIMEOUT;
use crate::upstream::scrape::{self, ScrapeFailure};

/// Requests that are worked on at the same time: two Prometheus with two jobs each.
const ASKED: usize = 4;
/// Connections of one request at the same time.
const ASKING: usize = 128;
/// Bodies that are held in memory at the same time, over all requests.
const READING: usize = 16;
/// Threads that parse at the same time, over all requests.
const PARSING: usize = 2;
/// The most bytes of one answer.
const MAX_TEXT: usize = 64 << 20;
/// The most `match[]` of a request.
const MAX_SELECTORS: usize = 64;
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What of Prometheus' own time limit is kept for the way back.
const MARGIN: Duration = Duration::from_millis(500);

/// What all requests for `/federate` share; it outlives snapshots.
#[derive(Debug)]
pub struct Federate {
    metrics: Arc<Metrics>,
    asked: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    parsing: Arc<Semaphore>,
}

impl Federate {
    /// `metrics` counts the failures.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            asked: Arc::new(Semaphore::new(ASKED)),
            reading: Arc::new(Semaphore::new(READING)),
            parsing: Arc::new(Semaphore::new(PARSING)),
        }
    }

    /// The metrics of the servers of `snapshot` that `request` asks for.
    pub async fn answer(&self, request: &Request, snapshot: &Snapshot) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = error::status_text(StatusCode::METHOD_NOT_ALLOWED);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return response;
        }
        let limit = patience(request.headers());
        let until = Instant::now() + limit;
        let Ok(Ok(asked)) = timeout_at(until, Arc::clone(&self.asked).acquire_owned()).await else {
            let message = format!("{ASKED} requests for /federate are being answered: ask again, or less often");
            return error::plain(StatusCode::SERVICE_UNAVAILABLE, message);
        };
        // Compiling what it asks for may take longer than a worker may stand still; the turn goes along.
        let query = request.uri().query().unwrap_or_default().to_owned();
        let compiled = tokio::task::spawn_blocking(move || (Wanted::of(&query), asked)).await;
        let (wanted, _asked) = match compiled {
            Ok((Ok(wanted), asked)) => (wanted, asked),
            Ok((Err(message), _)) => return error::plain(StatusCode::BAD_REQUEST, message),
            Err(e) => {
                tracing::error!("cannot read the query of /federate: {e}");
                return error::status_text(StatusCode::INTERNAL_SERVER_ERROR);
            }
        };
        let targets = targets(snapshot).filter(|(balancer, plan, _)| wanted.includes(balancer, plan));
        let targets: Vec<Target> = targets
            .map(|(balancer, plan, server)| Target::new(balancer, plan, server))
            .collect();
        let read = self.read(&targets, wanted.selectors, until).await;
        let metrics = Arc::clone(&self.metrics);
        match tokio::task::spawn_blocking(move || merge(&metrics, &targets, read)).await {
            Ok(text) => {
                let mut response = error::with_body(StatusCode::OK, shelf::lend(text));
                let kind = HeaderValue::from_static(Format::Text004.content_type());
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            Err(e) => {
                tracing::error!("cannot merge the servers' metrics: {e}");
                error::status_text(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    /// Reads all targets at once. When this is dropped, because the client went, so are the connections.
    async fn read(&self, targets: &[Target], selectors: Vec<Selector>, until: Instant) -> Vec<Read> {
        let job = Arc::new(Job {
            dns: Dns::default(),
            selectors,
            until,
            asking: Semaphore::new(ASKING),
            reading: Arc::clone(&self.reading),
            parsing: Arc::clone(&self.parsing),
            bytes: AtomicUsize::new(0),
        });
        let mut running = JoinSet::new();
        for (index, target) in targets.iter().enumerate() {
            let (job, target) = (Arc::clone(&job), target.clone());
            running.spawn(async move { (index, job.target(target).await) });
        }
        let mut read: Vec<Option<Read>> = targets.iter().map(|_| None).collect();
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok((index, result)) => read[index] = Some(result),
                Err(e) => tracing::error!("cannot read a server's metrics: {e}"),
            }
        }
        let lost = || Err(too_late());
        read.into_iter().map(|result| result.unwrap_or_else(lost)).collect()
    }
}

type Read = Result<Part, ScrapeFailure>;

/// What one request has in common with all its targets.
struct Job {
    dns: Dns,
    selectors: Vec<Selector>,
    until: Instant,
    asking: Semaphore,
    reading: Arc<Semaphore>,
    parsing: Arc<Semaphore>,
    /// Bytes of the answer so far.
    bytes: AtomicUsize,
}

impl Job {
    async fn target(self: Arc<Self>, target: Target) -> Read {
        let until = self.until;
        timeout_at(until, self.read(&target))
            .await
            .unwrap_or_else(|_| Err(too_late()))
    }

    async fn read(self: &Arc<Self>, target: &Target) -> Read {
        let asking = self.asking.acquire().await;
        let left = self.until.saturating_duration_since(Instant::now());
        let answer = scrape::ask(&self.dns, &target.server, &target.path, left).await?;
        // Only what has answered counts as read: a server that hangs keeps no other from its turn.
        drop(asking);
        let _reading = self.reading.acquire().await;
        let (job, labels) = (Arc::clone(self), target.labels.clone());
        let part = scrape::read(answer, Arc::clone(&self.parsing).acquire_owned(), move |families| {
            Part::new(families, &labels, &job.selectors, || Instant::now() >= job.until)
        });
        let part = part.await?.ok_or_else(too_late)?;
        if self.bytes.fetch_add(part.len(), Ordering::Relaxed) + part.len() > MAX_TEXT {
            return Err(ScrapeFailure {
                reason: ScrapeError::TooLarge,
                text: format!("the whole answer would have more than {MAX_TEXT} bytes: ask with match[]"),
            });
        }
        Ok(part)
    }
}

fn too_late() -> ScrapeFailure {
    ScrapeFailure {
        reason: ScrapeError::Timeout,
        text: "no answer in time".to_owned(),
    }
}

/// One server that is read.
#[derive(Debug, Clone)]
struct Target {
    service: String,
    server: Arc<Server>,
    path: String,
    labels: TargetLabels,
}

impl Target {
    fn new(balancer: &LoadBalancer, plan: &MetricsPlan, server: &Arc<Server>) -> Self {
        let labels = TargetLabels::default()
            .with("service", &balancer.name)
            .with("model", &plan.model)
            .with("version", &plan.version)
            .with("server", &server.url);
        Self {
            service: balancer.name.clone(),
            server: Arc::clone(server),
            path: plan.path.clone(),
            labels,
        }
    }
}

/// Puts together what was read, in the order of the targets, and counts what was not.
fn merge(metrics: &Metrics, targets: &[Target], read: Vec<Read>) -> String {
    let mut merge = Merge::default();
    for (target, read) in targets.iter().zip(read) {
        let (service, url) = (&target.service, &target.server.url);
        merge.up(&target.labels, read.is_ok());
        match read {
            Ok(part) => {
                for conflict in merge.add(part) {
                    merge.note(&format!("{service} {url}: {conflict}: left out"));
                    metrics.scrape_error(service, url, ScrapeError::Malformed);
                }
            }
            Err(failure) => {
                merge.note(&format!("{service} {url}: {failure}"));
                metrics.scrape_error(service, url, failure.reason);
            }
        }
    }
    merge.finish()
}

/// How long the servers may take: 5 s, or what Prometheus leaves if that is less.
fn patience(headers: &HeaderMap) -> Duration {
    let asked = headers
        .get(SCRAPE_TIMEOUT)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let asked = asked.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    match asked.filter(|asked| !asked.is_zero()) {
        Some(asked) => asked.saturating_sub(MARGIN).max(asked / 2).min(PATIENCE),
        None => PATIENCE,
    }
}

/// What a request asks for.
#[derive(Debug)]
struct Wanted {
    selectors: Vec<Selector>,
    services: Vec<String>,
    models: Vec<String>,
}

impl Wanted {
    fn of(text: &str) -> Result<Self, String> {
        let all = |name: &str| {
            let mut values = Vec::new();
            query::any_value(text, name, |value| {
                values.push(value.to_owned());
                false
            });
            values
        };
        let selectors = all("match[]");
        if selectors.len() > MAX_SELECTORS {
            return Err(format!("more than {MAX_SELECTORS} match[]: ask for less at a time"));
        }
        let mut expressions = 0;
        let parsed = selectors.iter().map(|text| {
            let selector =
                Selector::parse(text).map_err(|e| format!("match[]: {e}; write it as name{{label=\"value\"}}"))?;
            expressions += selector.expressions();
            match expressions > MAX_EXPRESSIONS {
                true => Err(format!("match[]: more than {MAX_EXPRESSIONS} regular expressions")),
                false => Ok(selector),
            }
        });
        let selectors: Result<_, _> = parsed.collect();
        Ok(Self {
            selectors: selectors?,
            services: all("service"),
            models: all("model"),
        })
    }

    /// Services are named as in files, with `@file` or without.
    fn includes(&self, balancer: &LoadBalancer, plan: &MetricsPlan) -> bool {
        let local = balancer.name.split('@').next().unwrap_or_default();
        let named = |name: &String| *name == balancer.name || name == local;
        (self.services.is_empty() || self.services.iter().any(named))
            && (self.models.is_empty() || self.models.contains(&plan.model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_prometheus_own_less_the_way_back() {
        let limit = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SCRAPE_TIMEOUT, HeaderValue::try_from(value).expect("a value"));
            patience(&headers)
        };
        assert_eq!(patience(&HeaderMap::new()), PATIENCE);
        assert_eq!(limit("10"), PATIENCE);
        assert_eq!(limit("2"), Duration::from_millis(1500));
        assert_eq!(limit("0.4"), Duration::from_millis(200));
        for odd in ["-1", "NaN", "inf", "1e300", "x", "0"] {
            assert_eq!(limit(odd), PATIENCE, "{odd}");
        }
    }

    #[test]
    fn a_query_is_read() {
        let wanted = Wanted::of("match[]=up&match%5B%5D=%7Ba%3D~%22b.*%22%7D&service=mri&model=seg&other=1");
        let wanted = wanted.expect("a query");
        let selectors: Vec<_> = wanted.selectors.iter().map(ToString::to_string).collect();
        assert_eq!(selectors, ["up", "{a=~\"b.*\"}"]);
        assert_eq!(
            (wanted.services, wanted.models),
            (vec!["mri".to_owned()], vec!["seg".to_owned()])
        );
        assert!(Wanted::of("").expect("a query").selectors.is_empty());
        let error = Wanted::of("match[]=%7B").expect_err("no selector");
        assert!(error.starts_with("match[]: `{` is no selector"), "{error}");
        assert!(Wanted::of(&"match[]=a&".repeat(MAX_SELECTORS + 1)).is_err());
    }

    #[test]
    fn hundreds_of_expressions_are_refused_before_they_are_compiled() {
        let eight = "match[]={a=~\"b.\",c=~\"b.\",d=~\"b.\",e=~\"b.\",f!~\"b.\",g!~\"b.\",h!~\"b.\",i!~\"b.\"}&";
        assert!(Wanted::of(&eight.repeat(MAX_EXPRESSIONS / 8)).is_ok());
        let error = Wanted::of(&eight.repeat(MAX_EXPRESSIONS / 8 + 1)).expect_err("too many");
        assert_eq!(error, "match[]: more than 64 regular expressions");
    }
}
