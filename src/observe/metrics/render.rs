//! A scrape: the cells of all workers, summed, sorted and written.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cells::{BUCKETS, BYTES_IN, BYTES_OUT, SUM, ScopeId, Series};
use super::encode::{Encoder, Family, Format, Labels as Text};
use super::labels::{Key, TlsLabels};
use super::registry::{Labels, Registry};
use super::{Metrics, lock, render_model, scoped, single, unix_seconds};

/// The words of one series, summed over the workers.
type Words = Vec<u64>;

/// The sums of one kind of scope, sorted.
#[derive(Default)]
struct Sums<'a> {
    requests: Vec<(&'a Labels, Key, Words)>,
    tls: Vec<(&'a Labels, TlsLabels, Words)>,
    events: Vec<(&'a Labels, Words)>,
}

/// What Traefik does not have stands under Gantry's own name whatever the prefix: with `traefik`, exactly Traefik's series
/// are there, and none that a later Traefik may give another meaning.
const OWN: &str = "gantry_";

impl Metrics {
    /// The answer to a scrape. Call it on the control thread.
    pub fn render(&self, format: Format, now: Instant) -> Vec<u8> {
        let mut encoder = Encoder::new(format);
        let prefix = format!("{}_", self.options.prefix);
        self.render_single(&mut encoder, &prefix);
        let mut registry = lock(&self.registry);
        registry.sweep(now);
        let registry = &*registry;
        let totals = self.gather(registry);
        let entry_points = sums(&totals, registry, |labels| matches!(labels, Labels::EntryPoint(_)));
        let routers = sums(&totals, registry, |labels| matches!(labels, Labels::Router { .. }));
        let services = sums(&totals, registry, |labels| matches!(labels, Labels::Service(_)));
        self.render_scope(&mut encoder, &format!("{prefix}entrypoint_"), &entry_points);
        render_connections(&mut encoder, &prefix, &entry_points);
        self.render_scope(&mut encoder, &format!("{prefix}router_"), &routers);
        self.render_scope(&mut encoder, &format!("{prefix}service_"), &services);
        encoder.family(&prefix, single::RETRIES);
        for (labels, words) in &services.events {
            encoder.count(&with_scope(Text::default(), labels), words[0]);
        }
        self.render_servers(&mut encoder, &prefix);
        render_model::render(&mut encoder, &lock(&self.models).read(now));
        self.process.encode(&mut encoder);
        encoder.finish()
    }

    /// Adds up the workers, and lets go of cells whose scope is no more.
    fn gather(&self, registry: &Registry) -> HashMap<(ScopeId, Series), Words> {
        let mut totals: HashMap<(ScopeId, Series), Words> = HashMap::new();
        for worker in lock(&self.workers).iter() {
            lock(worker).retain(|published| {
                if registry.labels(published.id).is_none() {
                    return false;
                }
                let total = totals.entry((published.id, published.series)).or_default();
                total.resize(published.block.len(), 0);
                for (sum, word) in total.iter_mut().zip(published.block.iter()) {
                    *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
                }
                true
            });
        }
        totals
    }

    fn render_single(&self, encoder: &mut Encoder, prefix: &str) {
        encoder.family(OWN, single::LOG_DROPPED);
        encoder.count(&Text::default(), self.log_dropped.get());
        encoder.family(OWN, single::BUILD);
        encoder.count(&Text::default().with("version", env!("CARGO_PKG_VERSION")), 1);
        let reloads = lock(&self.reloads);
        encoder.family(prefix, single::LAST_RELOAD);
        if let Some(time) = reloads.last_applied {
            encoder.sample(&Text::default(), unix_seconds(time).floor());
        }
        encoder.family(OWN, single::LAST_RELOAD_OK);
        encoder.count(&Text::default(), u64::from(!reloads.last_failed));
        encoder.family(prefix, single::RELOADS);
        encoder.count(&Text::default(), reloads.applied);
        drop(reloads);
        encoder.family(prefix, single::CERTIFICATES);
        for certificate in lock(&self.certificates).iter() {
            let labels = Text::default().with("cn", &certificate.cn);
            let labels = labels
                .with("sans", &certificate.sans)
                .with("serial", &certificate.serial);
            encoder.sample(&labels, certificate.not_after as f64);
        }
    }

    /// The five families that every kind of scope has.
    fn render_scope(&self, encoder: &mut Encoder, prefix: &str, sums: &Sums<'_>) {
        let labels: Vec<_> = sums
            .requests
            .iter()
            .map(|(scope, key, _)| request_labels(scope, *key))
            .collect();
        let count = |words: &Words| words[BUCKETS..].iter().sum();
        let mut counters = |family: Family, value: &dyn Fn(&Words) -> u64| {
            encoder.family(prefix, family);
            for ((_, _, words), labels) in sums.requests.iter().zip(&labels) {
                encoder.count(labels, value(words));
            }
        };
        counters(scoped::REQUESTS, &count);
        counters(scoped::REQUEST_BYTES, &|words| words[BYTES_IN]);
        counters(scoped::RESPONSE_BYTES, &|words| words[BYTES_OUT]);
        encoder.family(prefix, scoped::DURATION);
        for ((_, _, words), labels) in sums.requests.iter().zip(&labels) {
            encoder.histogram(labels, &self.bounds, &words[BUCKETS..], words[SUM] as f64 / 1e9);
        }
        encoder.family(prefix, scoped::REQUESTS_TLS);
        for (scope, tls, words) in &sums.tls {
            let labels = with_scope(Text::default(), scope);
            encoder.count(
                &labels.with("tls_cipher", tls.cipher).with("tls_version", tls.version),
                words[0],
            );
        }
    }

    fn render_servers(&self, encoder: &mut Encoder, prefix: &str) {
        encoder.family(prefix, single::SERVER_UP);
        for ((service, url), gauge) in lock(&self.servers).iter() {
            encoder.sample(&Text::default().with("service", service).with("url", url), gauge.get());
        }
    }
}

/// The sums of the scopes that `kind` picks, in the order of their labels.
fn sums<'a>(totals: &HashMap<(ScopeId, Series), Words>, registry: &'a Registry, kind: fn(&Labels) -> bool) -> Sums<'a> {
    let mut sums = Sums::default();
    for ((id, series), words) in totals {
        let Some(labels) = registry.labels(*id).filter(|labels| kind(labels)) else {
            continue;
        };
        match series {
            Series::Requests(key) => sums.requests.push((labels, *key, words.clone())),
            Series::Tls(tls) => sums.tls.push((labels, *tls, words.clone())),
            Series::Events => sums.events.push((labels, words.clone())),
        }
    }
    sums.requests.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    sums.tls.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    sums.events.sort_unstable_by(|a, b| a.0.cmp(b.0));
    sums
}

/// Labels in alphabetical order, as Prometheus' own clients write them.
fn request_labels(scope: &Labels, key: Key) -> Text {
    let code = key.code();
    let text = Text::default().with("code", itoa::Buffer::new().format(code));
    let rest = |text: Text| {
        text.with("method", key.method().as_str())
            .with("protocol", key.protocol().as_str())
    };
    match scope {
        Labels::EntryPoint(_) => rest(with_scope(text, scope)),
        Labels::Router { .. } | Labels::Service(_) => with_scope(rest(text), scope),
    }
}

fn with_scope(text: Text, scope: &Labels) -> Text {
    match scope {
        Labels::EntryPoint(name) => text.with("entrypoint", name),
        Labels::Router { router, service } => text.with("router", router).with("service", service),
        Labels::Service(service) => text.with("service", service),
    }
}

fn render_connections(encoder: &mut Encoder, prefix: &str, entry_points: &Sums<'_>) {
    encoder.family(prefix, single::CONNECTIONS);
    for (scope, words) in &entry_points.events {
        let labels = with_scope(Text::default(), scope).with("protocol", "TCP");
        // The opening may not be visible yet where the closing, on another worker, is.
        encoder.count(&labels, words[0].saturating_sub(words[1]));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, SystemTime};

    use http::Method;

    use super::super::{
        AccuracySource, CertificateLabels, MethodLabel, MetricsOptions, ModelDone, ProtocolLabel, Quality, RequestDone,
        TlsLabels, negotiate,
    };
    use super::*;

    fn busy(prefix: &str) -> std::sync::Arc<Metrics> {
        let options = MetricsOptions {
            prefix: prefix.to_owned(),
            routers: true,
            ..Default::default()
        };
        let metrics = Metrics::new(options);
        let worker = metrics.worker();
        let now = Instant::now();
        for service in ["s1@file", "s\"2\\@file"] {
            let handle = metrics.service(service);
            worker.retry(handle);
            for code in [200, 404, 503] {
                worker.request(&RequestDone {
                    entry_point: Some(metrics.entry_point("web")),
                    router: Some(metrics.router("r@file", service)),
                    service: Some(handle),
                    code,
                    method: MethodLabel::of(&Method::GET),
                    protocol: ProtocolLabel::Http,
                    duration: Duration::from_millis(250),
                    service_duration: Some(Duration::from_millis(200)),
                    bytes_in: 1,
                    bytes_out: 2,
                    tls: Some(TlsLabels {
                        version: "1.3",
                        cipher: "TLS_AES_128_GCM_SHA256",
                    }),
                });
            }
            metrics.server_up(service, "http://127.0.0.1:1").set(1.0);
            let model = metrics.model("mri", "2.0.1", service);
            model.sample(Quality::Accuracy, AccuracySource::Reported, "dice", 0.93, now);
            let run = model.start(now);
            let duration = Duration::from_millis(1500);
            run.finish(
                ModelDone {
                    code: 200,
                    duration,
                    request_bytes: 7,
                    response_bytes: 8,
                },
                now,
            );
        }
        worker.connection_opened(metrics.entry_point("web"));
        metrics.reload(true, SystemTime::now());
        let certificate = CertificateLabels {
            cn: "a.test".to_owned(),
            serial: "1".to_owned(),
            sans: "a.test,b.test".to_owned(),
            not_after: 1_900_000_000,
        };
        metrics.set_certificates(vec![certificate.clone(), certificate]);
        metrics
    }

    #[test]
    fn promtool_has_nothing_to_say() {
        if Command::new("promtool").arg("--version").output().is_err() {
            return;
        }
        let text = busy("gantry").render(Format::Text004, Instant::now());
        let mut child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&text).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{said}\n{}",
            String::from_utf8_lossy(&text)
        );
    }

    #[test]
    fn traefiks_series_have_traefiks_names_and_labels() {
        let text = String::from_utf8(busy("traefik").render(Format::Text004, Instant::now())).unwrap();
        for line in [
            "traefik_config_reloads_total 1\n",
            "traefik_open_connections{entrypoint=\"web\",protocol=\"TCP\"} 1\n",
            "traefik_tls_certs_not_after{cn=\"a.test\",sans=\"a.test,b.test\",serial=\"1\"} 1900000000\n",
            "traefik_entrypoint_requests_total{code=\"404\",entrypoint=\"web\",method=\"GET\",protocol=\"http\"} 2\n",
            "traefik_entrypoint_requests_tls_total{entrypoint=\"web\",tls_cipher=\"TLS_AES_128_GCM_SHA256\",tls_version=\"1.3\"} 6\n",
            "traefik_router_requests_total{code=\"200\",method=\"GET\",protocol=\"http\",router=\"r@file\",service=\"s1@file\"} 1\n",
            "traefik_service_request_duration_seconds_bucket{code=\"200\",method=\"GET\",protocol=\"http\",service=\"s1@file\",le=\"0.3\"} 1\n",
            "traefik_service_retries_total{service=\"s\\\"2\\\\@file\"} 1\n",
            "traefik_service_server_up{service=\"s1@file\",url=\"http://127.0.0.1:1\"} 1\n",
            "model_accuracy{label=\"dice\",model=\"mri\",service=\"s1@file\",source=\"reported\",version=\"2.0.1\"} 0.93\n",
            "model_inference_time_seconds{model=\"mri\",service=\"s1@file\",version=\"2.0.1\"} 1.5\n",
            "model_requests_total{code=\"200\",model=\"mri\",service=\"s1@file\",version=\"2.0.1\"} 1\n",
            "model_in_flight{model=\"mri\",service=\"s1@file\",version=\"2.0.1\"} 0\n",
            "gantry_config_last_reload_successful 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert_eq!(text.matches("traefik_tls_certs_not_after{").count(), 1);
        let own = [
            "gantry_access_log_dropped_lines",
            "gantry_build_info",
            "gantry_config_last_reload_successful",
        ];
        let others = text.lines().filter(|line| line.contains("gantry_"));
        let others: Vec<_> = others
            .filter(|line| !own.iter().any(|name| line.contains(name)))
            .collect();
        assert!(others.is_empty(), "{others:?}");
    }

    #[test]
    fn a_refused_reload_keeps_the_time_of_the_last_good_one() {
        let metrics = Metrics::new(MetricsOptions::default());
        metrics.reload(true, std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500));
        metrics.reload(false, SystemTime::now());
        let text = String::from_utf8(metrics.render(Format::Text004, Instant::now())).unwrap();
        assert!(
            text.contains("gantry_config_last_reload_success 1700000000\n"),
            "{text}"
        );
        assert!(text.contains("gantry_config_last_reload_successful 0\n"), "{text}");
        assert!(text.contains("gantry_config_reloads_total 1\n"), "{text}");
    }

    #[test]
    fn the_output_is_stable_and_openmetrics_has_every_family_once() {
        let metrics = busy("gantry");
        let format = negotiate(Some("application/openmetrics-text"));
        let stable = |text: Vec<u8>| {
            let text = String::from_utf8(text).unwrap();
            text.lines()
                .filter(|line| !line.starts_with("process_"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let now = Instant::now();
        let lines = stable(metrics.render(format, now));
        assert_eq!(lines, stable(metrics.render(format, now)));
        let mut families: Vec<_> = lines.iter().filter(|line| line.starts_with("# TYPE ")).collect();
        let all = families.len();
        families.dedup();
        families.sort();
        families.dedup();
        assert_eq!(families.len(), all);
        assert!(lines.contains(&"# TYPE gantry_service_requests counter".to_owned()));
        assert_eq!(lines.last().map(String::as_str), Some("# EOF"));
        let mut samples: Vec<_> = lines
            .iter()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, _)| name)
            .collect();
        samples.retain(|name| !name.starts_with('#'));
        let all = samples.len();
        samples.sort_unstable();
        samples.dedup();
        assert_eq!(samples.len(), all, "no series stands twice");
    }

    #[test]
    fn cells_of_scopes_that_went_are_let_go() {
        let metrics = busy("gantry");
        let now = Instant::now();
        metrics.next_generation(now);
        metrics.next_generation(now);
        let late = now + super::super::LINGER;
        let before = String::from_utf8(metrics.render(Format::Text004, now)).unwrap();
        assert!(before.contains("gantry_service_requests_total{") && before.contains("model_requests_total{"));
        let after = String::from_utf8(metrics.render(Format::Text004, late)).unwrap();
        assert!(!after.contains("gantry_service_requests_total{"), "{after}");
        assert!(!after.contains("model_"), "{after}");
        assert!(after.contains("gantry_entrypoint_requests_total{"), "{after}");
        let kept: usize = lock(&metrics.workers).iter().map(|worker| lock(worker).len()).sum();
        assert_eq!(kept, 3 + 1 + 1, "codes, TLS and connections of the entry point");
    }
}
