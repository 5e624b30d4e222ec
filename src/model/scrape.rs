//! Accuracy from the servers' own metrics: `accuracy` and `confidence` entries with `from: scrape`.
//!
//! A task on the control thread for each server, path and interval asks for the metrics and takes the gauges that the
//! entries name. Each server is a sample of its version. What cannot be had is counted with its reason; the log says so
//! when a server begins to fail and when it has recovered, not each time.
//!
//! An unchanged task never notices a reload.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::source::{Origin, Source};
use super::{Identity, ModelPlan};
use crate::observe::exposition::Family;
use crate::observe::exposition::selector::Selector;
use crate::observe::metrics::{AccuracySource, Metrics, ModelSeries, Quality, Rejection, ScrapeError};
use crate::service::load_balancer::LoadBalancer;
use crate::service::server::Server;
use crate::upstream::dns::Dns;
use crate::upstream::scrape::{self, ScrapeFailure};

/// The longest that a scrape may take, as in Prometheus; less where the interval is shorter.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest interval.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Scrapes begin within this part of their interval, so that many servers are not asked in the same instant.
const JITTER: u32 = 20;
/// Bodies that are held in memory at the same time.
const READING: usize = 32;
/// The most series that one gauge may mean. More are a label that nobody thought of.
const MAX_MATCHES: usize = 64;

/// The running scrapes.
#[derive(Debug)]
pub struct Scraper {
    running: HashMap<Key, (Plan, JoinHandle<()>)>,
    reading: Arc<Semaphore>,
}

impl Default for Scraper {
    fn default() -> Self {
        Self {
            running: HashMap::new(),
            reading: Arc::new(Semaphore::new(READING)),
        }
    }
}

/// What shares one request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    service: String,
    url: String,
    transport: String,
    path: String,
    interval: Duration,
}

/// What is looked for in the answer, and where it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    identity: Arc<Identity>,
    gauges: Arc<Vec<Gauge>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Gauge {
    quality: Quality,
    label: String,
    selector: Selector,
}

impl Scraper {
    /// Starts the scrapes of `balancers` that do not run yet and stops those that are gone or changed. Called on the
    /// control thread, inside its runtime.
    pub fn update(&mut self, balancers: &[Arc<LoadBalancer>], metrics: &Arc<Metrics>) {
        let wanted = wanted(balancers);
        self.running.retain(|key, (plan, task)| {
            let stays = wanted.get(key).is_some_and(|wanted| wanted.plan == *plan);
            if !stays {
                task.abort();
            }
            stays
        });
        for (key, Wanted { plan, series, server }) in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            let scrape = Scrape {
                key: key.clone(),
                gauges: Arc::clone(&plan.gauges),
                series,
                server,
                metrics: Arc::clone(metrics),
                reading: Arc::clone(&self.reading),
                failing: false,
            };
            self.running.insert(key, (plan, tokio::spawn(scrape.run())));
        }
    }
}

struct Wanted {
    plan: Plan,
    series: ModelSeries,
    server: Arc<Server>,
}

fn wanted(balancers: &[Arc<LoadBalancer>]) -> HashMap<Key, Wanted> {
    let mut wanted = HashMap::new();
    for balancer in balancers {
        let Some(model) = &balancer.model else { continue };
        for (path, interval, gauges) in requests(model) {
            let gauges = Arc::new(gauges);
            for server in &balancer.servers {
                let key = Key {
                    service: balancer.name.clone(),
                    url: server.url.clone(),
                    transport: server.transport.identity.clone(),
                    path: path.to_owned(),
                    interval,
                };
                let plan = Plan {
                    identity: Arc::clone(&model.identity),
                    gauges: Arc::clone(&gauges),
                };
                let (series, server) = (model.series.clone(), Arc::clone(server));
                wanted.insert(key, Wanted { plan, series, server });
            }
        }
    }
    wanted
}

/// The requests that a model's entries need of each server: those with the same path and interval share one.
fn requests(model: &ModelPlan) -> Vec<(&str, Duration, Vec<Gauge>)> {
    let mut requests: Vec<(&str, Duration, Vec<Gauge>)> = Vec::new();
    for Source { quality, origin, label } in &model.sources {
        let Origin::Scrape { path, gauge, interval } = origin else {
            continue;
        };
        // The configuration has refused what is no selector.
        let Ok(selector) = Selector::parse(gauge) else { continue };
        let gauge = Gauge {
            quality: *quality,
            label: label.clone(),
            selector,
        };
        match requests
            .iter_mut()
            .find(|(p, i, _)| (*p, *i) == (path.as_str(), *interval))
        {
            Some((_, _, gauges)) => gauges.push(gauge),
            None => requests.push((path, *interval, vec![gauge])),
        }
    }
    requests
}

struct Scrape {
    key: Key,
    gauges: Arc<Vec<Gauge>>,
    series: ModelSeries,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    reading: Arc<Semaphore>,
    failing: bool,
}

/// The values of each gauge, and how many there would have been.
type Found = Vec<(Vec<f64>, usize)>;

impl Scrape {
    async fn run(mut self) {
        let dns = Dns::default();
        let interval = self.key.interval.max(MIN_INTERVAL);
        let limit = interval.min(TIMEOUT);
        tokio::time::sleep(limit.mul_f64(fastrand::f64()) / JITTER).await;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let found = self.read(&dns, limit).await;
            let problems = self.take(found, Instant::now());
            self.tell(&problems);
        }
    }

    async fn read(&self, dns: &Dns, limit: Duration) -> Result<Found, ScrapeFailure> {
        let answer = scrape::ask(dns, &self.server, &self.key.path, limit).await?;
        let _reading = self.reading.acquire().await;
        let gauges = Arc::clone(&self.gauges);
        scrape::read(answer, std::future::ready(()), move |families| find(families, &gauges)).await
    }

    /// Counts samples and failures, and says what is wrong.
    fn take(&self, found: Result<Found, ScrapeFailure>, now: Instant) -> Vec<String> {
        let (from, series) = (AccuracySource::Scraped, &self.series);
        let failed = |reason| self.metrics.scrape_error(&self.key.service, &self.key.url, reason);
        let found = match found {
            Ok(found) => found,
            Err(failure) => {
                failed(failure.reason);
                self.gauges
                    .iter()
                    .for_each(|_| series.reject(from, rejection(failure.reason)));
                return vec![failure.text];
            }
        };
        let mut problems = Vec::new();
        for (gauge, (values, matches)) in self.gauges.iter().zip(found) {
            let selector = &gauge.selector;
            if matches > MAX_MATCHES {
                series.reject(from, Rejection::TooLarge);
                problems.push(format!("`{selector}` means {matches} series: name a label, or fewer"));
            } else if values.is_empty() {
                series.reject(from, Rejection::Missing);
                failed(ScrapeError::Missing);
                problems.push(format!("`{selector}` is not there"));
            }
            for value in values {
                series.sample(gauge.quality, from, &gauge.label, value, now);
                if !(0.0..=1.0).contains(&value) {
                    problems.push(format!("`{selector}` is {value}, which is not from 0 to 1"));
                }
            }
        }
        problems
    }

    fn tell(&mut self, problems: &[String]) {
        let Key { service, url, path, .. } = &self.key;
        let failing = !problems.is_empty();
        match (std::mem::replace(&mut self.failing, failing), failing) {
            (false, true) => {
                let problems = problems.join("; ");
                tracing::warn!(%service, server = %url, %path, "accuracy cannot be scraped: {problems}");
            }
            (true, false) => tracing::info!(%service, server = %url, %path, "accuracy is scraped again"),
            _ => {}
        }
    }
}

fn find(families: &[Family<'_>], gauges: &[Gauge]) -> Found {
    let samples = || families.iter().flat_map(|family| &family.samples);
    let one = |gauge: &Gauge| {
        let mut values: Vec<f64> = Vec::new();
        let matching = samples().filter(|sample| gauge.selector.is_of(sample));
        let matches = matching.map(|sample| values.push(sample.value)).count();
        if matches > MAX_MATCHES {
            values.clear();
        }
        (values, matches)
    };
    gauges.iter().map(one).collect()
}

fn rejection(reason: ScrapeError) -> Rejection {
    match reason {
        ScrapeError::Unreachable | ScrapeError::Timeout | ScrapeError::Status => Rejection::Unreachable,
        ScrapeError::TooLarge => Rejection::TooLarge,
        ScrapeError::Encoding => Rejection::Encoding,
        ScrapeError::Malformed => Rejection::Malformed,
        ScrapeError::Missing => Rejection::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dynamic::{ModelName, SampleOrigin, SampleSource, Service};
    use crate::observe::exposition::{Dialect, parse};
    use crate::observe::metrics::{Format, MetricsOptions};
    use crate::service::server::fixture;
    use crate::service::wrr::Cursor;

    fn source(gauge: &str, path: &str) -> SampleSource {
        SampleSource {
            from: SampleOrigin::Scrape,
            gauge: gauge.to_owned(),
            path: path.to_owned(),
            label: gauge.split('{').next().unwrap_or_default().to_owned(),
            ..SampleSource::default()
        }
    }

    fn balancer(metrics: &Metrics, version: &str, accuracy: Vec<SampleSource>) -> Arc<LoadBalancer> {
        let settings = Service {
            model: Some(ModelName {
                name: "seg".to_owned(),
                version: version.to_owned(),
            }),
            confidence: vec![source("sure", "/metrics")],
            accuracy,
            ..Service::default()
        };
        let servers = vec![fixture(1), fixture(2)];
        Arc::new(LoadBalancer {
            name: "s@file".to_owned(),
            weights: vec![1, 1],
            cursor: Arc::new(Cursor::new(2)),
            pass_host_header: true,
            sticky: None,
            health_check: None,
            series: metrics.service("s@file"),
            model: ModelPlan::new(&settings, "s@file", metrics).map(Arc::new),
            metrics: None,
            servers,
        })
    }

    #[tokio::test]
    async fn a_reload_leaves_what_did_not_change_alone() {
        let metrics = Metrics::new(MetricsOptions::default());
        let mut scraper = Scraper::default();
        let mut after = |version: &str, accuracy: Vec<SampleSource>| {
            scraper.update(&[balancer(&metrics, version, accuracy)], &metrics);
            let mut running: Vec<_> = scraper
                .running
                .iter()
                .map(|(key, (_, task))| (key.path.clone(), key.url.clone(), task.id()))
                .collect();
            running.sort();
            running
        };
        let dice = || vec![source("dice", "/metrics")];
        let first = after("1", dice());
        assert_eq!(first.len(), 2, "accuracy and confidence share a request to each server");
        assert_eq!(after("1", dice()), first);
        let more = after("1", [dice(), vec![source("dice", "/more")]].concat());
        assert_eq!((more.len(), &more[..2]), (4, &first[..]));
        let version = after("2", dice());
        assert!(
            version.len() == 2 && version[0].2 != first[0].2,
            "another version is another series"
        );
        scraper.update(&[], &metrics);
        assert!(scraper.running.is_empty());
    }

    #[test]
    fn gauges_are_taken_and_failures_counted_with_their_reason() {
        let metrics = Metrics::new(MetricsOptions::default());
        let accuracy = ["dice{split=\"test\"}", "gone", "nan", "high"];
        let accuracy = accuracy.map(|gauge| source(gauge, "/metrics")).to_vec();
        let balancer = balancer(&metrics, "1", accuracy);
        let (key, Wanted { plan, series, server }) = wanted(&[balancer]).into_iter().next().expect("a scrape");
        let mut scrape = Scrape {
            key,
            gauges: plan.gauges,
            series,
            server,
            metrics: Arc::clone(&metrics),
            reading: Arc::new(Semaphore::new(1)),
            failing: false,
        };
        let text = "dice{split=\"test\"} 0.75\ndice{split=\"train\"} 1\nnan NaN\nhigh 1.5\nsure 0.5\n";
        let take = |text: &str| {
            let families = parse(text.as_bytes(), Dialect::Text004).expect("an exposition");
            scrape.take(Ok(find(&families, &scrape.gauges)), Instant::now())
        };
        assert_eq!(
            take(text),
            [
                "`gone` is not there",
                "`nan` is NaN, which is not from 0 to 1",
                "`high` is 1.5, which is not from 0 to 1"
            ]
        );
        let many: String = (0..=MAX_MATCHES).map(|i| format!("gone{{i=\"{i}\"}} 0\n")).collect();
        assert!(take(&(text.to_owned() + &many))[0].contains("means 65 series"));
        let failure = ScrapeFailure {
            reason: ScrapeError::Status,
            text: "status 503".to_owned(),
        };
        assert_eq!(scrape.take(Err(failure), Instant::now()), ["status 503"]);
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).expect("UTF-8");
        let rest = "model=\"seg\",service=\"s@file\",source=\"scraped\",version=\"1\"}";
        for (line, value) in [
            (format!("model_accuracy{{label=\"dice\",{rest}"), "0.75"),
            (format!("model_confidence{{label=\"sure\",{rest}"), "0.5"),
            (format!("model_accuracy_samples_count{{label=\"dice\",{rest}"), "2"),
        ] {
            assert!(text.contains(&format!("{line} {value}\n")), "{line}\n{text}");
        }
        for (reason, count) in [
            ("missing", 1),
            ("not_a_number", 2),
            ("out_of_range", 2),
            ("too_large", 1),
            ("unreachable", 5),
        ] {
            let found = text
                .lines()
                .find(|l| l.starts_with("model_accuracy_rejected_total{") && l.contains(reason));
            assert!(
                found.is_some_and(|line| line.ends_with(&format!(" {count}"))),
                "{reason}\n{text}"
            );
        }
        scrape.tell(&["x".to_owned()]);
        assert!(scrape.failing);
        scrape.tell(&[]);
        assert!(!scrape.failing);
    }
}
