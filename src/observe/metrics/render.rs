//! A scrape's second half: sums, written family by family.

use std::time::Instant;

use super::cells::{BUCKETS, BYTES_IN, BYTES_OUT, SUM, event};
use super::encode::{Encoder, Family, Format, Labels as Text};
use super::gateway;
use super::labels::Key;
use super::registry::Labels;
use super::sum::{Sums, Words};
use super::{Metrics, lock, own, render_model, scoped, single, unix_seconds};

/// What Traefik does not have stands under Gantry's own name whatever the prefix: with `traefik`, exactly Traefik's series
/// are there, and none that a later Traefik may give another meaning.
pub(super) const OWN: &str = "gantry_";

/// The children of weighted services.
const VARIANT: &str = "variant_";

impl Metrics {
    /// The series in a format. It takes milliseconds where there are many: call it on a blocking thread.
    pub fn render(&self, format: Format, now: Instant) -> Vec<u8> {
        let mut encoder = Encoder::new(format);
        let prefix = format!("{}_", self.options.prefix);
        self.render_single(&mut encoder, &prefix);
        self.render_scopes(&mut encoder, &prefix, now);
        self.render_workers(&mut encoder);
        self.render_feedback(&mut encoder);
        let models = lock(&self.models).read(now);
        render_model::render(&mut encoder, &models);
        self.process.encode(&mut encoder);
        encoder.finish()
    }

    fn render_scopes(&self, encoder: &mut Encoder, prefix: &str, now: Instant) {
        let format = encoder.format();
        let mut cells = lock(&self.cells);
        let scopes = self.collect(&mut cells, now);
        let entry_points = cells.sums(&scopes, format, |labels| matches!(labels, Labels::EntryPoint(_)));
        let routers = cells.sums(&scopes, format, |labels| matches!(labels, Labels::Router { .. }));
        let services = cells.sums(&scopes, format, |labels| matches!(labels, Labels::Service(_)));
        let variants = cells.sums(&scopes, format, |labels| matches!(labels, Labels::Variant { .. }));
        drop(cells);
        self.render_scope(encoder, &format!("{prefix}entrypoint_"), &entry_points);
        render_connections(encoder, prefix, &entry_points);
        gateway::render_handshakes(encoder, &entry_points);
        self.render_scope(encoder, &format!("{prefix}router_"), &routers);
        self.render_scope(encoder, &format!("{prefix}service_"), &services);
        encoder.family(prefix, single::RETRIES);
        for (labels, words) in &services.events {
            encoder.count(&with_scope(Text::default(), labels), words[event::RETRY]);
        }
        gateway::render_dialled(encoder, &services);
        self.render_servers(encoder, prefix);
        self.render_own_servers(encoder);
        self.render_scope(encoder, &format!("{OWN}{VARIANT}"), &variants);
        gateway::render_weights(encoder, scopes.weights());
    }

    fn render_single(&self, encoder: &mut Encoder, prefix: &str) {
        encoder.family(OWN, own::LOG_DROPPED);
        encoder.count(&Text::default(), self.log_dropped.get());
        encoder.family(OWN, own::BUILD);
        encoder.count(&Text::default().with("version", env!("CARGO_PKG_VERSION")), 1);
        let reloads = lock(&self.reloads);
        encoder.family(prefix, single::LAST_RELOAD);
        if let Some(time) = reloads.last_applied {
            encoder.sample(&Text::default(), unix_seconds(time).floor());
        }
        encoder.family(OWN, own::LAST_RELOAD_OK);
        encoder.count(&Text::default(), u64::from(!reloads.last_failed));
        encoder.family(prefix, single::RELOADS);
        encoder.count(&Text::default(), reloads.applied);
        drop(reloads);
        self.render_reloads(encoder);
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
            .map(|requests| request_labels(requests.labels, requests.key))
            .collect();
        let count = |words: &Words| words[BUCKETS..].iter().sum();
        let mut counters = |family: Family, value: &dyn Fn(&Words) -> u64| {
            encoder.family(prefix, family);
            for (requests, labels) in sums.requests.iter().zip(&labels) {
                encoder.count(labels, value(&requests.words));
            }
        };
        // A variant has no header labels.
        let is_headed = !self.shared.header_labels.is_empty() && !prefix.ends_with(VARIANT);
        if !is_headed {
            counters(scoped::REQUESTS, &count);
        }
        counters(scoped::REQUEST_BYTES, &|words| words[BYTES_IN]);
        counters(scoped::RESPONSE_BYTES, &|words| words[BYTES_OUT]);
        encoder.family(prefix, scoped::DURATION);
        for (requests, labels) in sums.requests.iter().zip(&labels) {
            let sum = requests.words[SUM] as f64 / 1e9;
            encoder.histogram(labels, &self.bounds, &requests.words[BUCKETS..], sum, &requests.native);
        }
        self.render_headed(encoder, prefix, sums);
        encoder.family(prefix, scoped::REQUESTS_TLS);
        for (scope, tls, words) in &sums.tls {
            let labels = with_scope(Text::default(), scope);
            encoder.count(
                &labels.with("tls_cipher", tls.cipher).with("tls_version", tls.version),
                words[0],
            );
        }
    }

    /// The requests where header labels tell them apart further.
    fn render_headed(&self, encoder: &mut Encoder, prefix: &str, sums: &Sums<'_>) {
        if sums.headed.is_empty() {
            return;
        }
        encoder.family(prefix, scoped::REQUESTS);
        let texts = self.shared.header_labels.texts();
        for (scope, key, set, words) in &sums.headed {
            let labels = texts.get(set).into_iter().flatten();
            let labels = labels.fold(request_labels(scope, *key), |text, (label, value)| {
                text.with(label, value)
            });
            encoder.count(&labels, words[0]);
        }
    }

    fn render_servers(&self, encoder: &mut Encoder, prefix: &str) {
        encoder.family(prefix, single::SERVER_UP);
        for ((service, url), gauge) in &lock(&self.servers).up {
            encoder.sample(&Text::default().with("service", service).with("url", url), gauge.get());
        }
    }
}

/// Labels in alphabetical order, as Prometheus' own clients write them.
fn request_labels(scope: &Labels, key: Key) -> Text {
    let text = Text::default().with("code", key.code(&mut itoa::Buffer::new()));
    let rest = |text: Text| text.with("method", key.method()).with("protocol", key.protocol());
    match scope {
        Labels::EntryPoint(_) => rest(with_scope(text, scope)),
        Labels::Router { .. } | Labels::Service(_) | Labels::Variant { .. } => with_scope(rest(text), scope),
    }
}

pub(super) fn with_scope(text: Text, scope: &Labels) -> Text {
    match scope {
        Labels::EntryPoint(name) => text.with("entrypoint", name),
        Labels::Router { router, service } => text.with("router", router).with("service", service),
        Labels::Service(service) => text.with("service", service),
        Labels::Variant { service, variant } => text.with("service", service).with("variant", variant),
    }
}

fn render_connections(encoder: &mut Encoder, prefix: &str, entry_points: &Sums<'_>) {
    encoder.family(prefix, single::CONNECTIONS);
    for (scope, words) in &entry_points.events {
        let labels = with_scope(Text::default(), scope).with("protocol", "TCP");
        // The opening may not be visible yet where the closing, on another worker, is.
        encoder.count(&labels, words[event::OPENED].saturating_sub(words[event::CLOSED]));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, SystemTime};

    use http::Method;

    use super::super::protobuf::tests::{Value, decode};
    use super::super::{
        AccuracySource, CertificateLabels, HeaderValues, MethodLabel, MetricsOptions, ModelDone, ProtocolLabel,
        Quality, RequestDone, TlsLabels, negotiate,
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
        metrics.reload_took(Duration::from_millis(3));
        metrics.feedback(super::super::FeedbackResult::Accepted);
        worker.handshake(metrics.entry_point("web"), true);
        for service in ["s1@file", "s\"2\\@file"] {
            let handle = metrics.service(service);
            let variants = [metrics.variant("w@file", service, 1)];
            metrics.probes(service, "http://127.0.0.1:1").count(true);
            worker.retry(handle);
            for code in [200, 404, 503] {
                worker.request(&RequestDone {
                    entry_point: Some(metrics.entry_point("web")),
                    router: Some(metrics.router("r@file", service)),
                    service: Some(handle),
                    variants: &variants,
                    headers: HeaderValues::default(),
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
        metrics.next_generation(now);
        let certificate = CertificateLabels {
            cn: "a.test".to_owned(),
            serial: "1".to_owned(),
            sans: "a.test,b.test".to_owned(),
            not_after: 1_900_000_000,
        };
        metrics.set_certificates(vec![certificate.clone(), certificate]);
        metrics
    }

    /// What `promtool check metrics` says; nothing where it is not installed, unless `GANTRY_TEST_PEERS=required`.
    fn promtool(text: &[u8]) -> String {
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                let required = std::env::var_os("GANTRY_TEST_PEERS").is_some_and(|peers| peers == "required");
                assert!(!required, "promtool does not start: {error}");
                return String::new();
            }
        };
        child.stdin.take().unwrap().write_all(text).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        said
    }

    #[test]
    fn promtool_has_nothing_to_say() {
        let text = busy("gantry").render(Format::Text004, Instant::now());
        let said = promtool(&text);
        assert_eq!(said, "", "{}", String::from_utf8_lossy(&text));
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
        let own = text.lines().filter_map(|line| line.strip_prefix("# TYPE gantry_"));
        let own: Vec<_> = own.filter_map(|line| Some(line.split_once(' ')?.0)).collect();
        assert_eq!(
            own,
            [
                "access_log_dropped_lines_total",
                "build_info",
                "config_last_reload_successful",
                "config_reload_duration_seconds",
                "config_reload_failures_total",
                "tls_handshakes_total",
                "service_connection_failures_total",
                "service_connections_opened_total",
                "service_connections_reused_total",
                "service_server_probes_total",
                "variant_requests_total",
                "variant_requests_bytes_total",
                "variant_responses_bytes_total",
                "variant_request_duration_seconds",
                "variant_weight",
                "metrics_overflow_total",
                "upstream_connections_idle",
                "feedback_requests_total",
            ]
        );
    }

    /// Quotes, backslashes, line ends, other control characters, and what is left of bytes that are no UTF-8.
    fn evil() -> String {
        String::from_utf8_lossy(b"a\"b\\c\nd\\n\r\0{e},f=\"g\\\xff\xc3").into_owned()
    }

    fn with_evil_labels() -> std::sync::Arc<Metrics> {
        let metrics = busy("gantry");
        let evil = evil();
        let now = Instant::now();
        metrics.server_up(&evil, &evil).set(0.0);
        let model = metrics.model(&evil, &evil, &evil);
        model.sample(Quality::Accuracy, AccuracySource::Reported, &evil, 0.5, now);
        drop(model.start(now));
        metrics.set_certificates(vec![CertificateLabels {
            cn: evil.clone(),
            serial: evil.clone(),
            sans: evil.clone(),
            not_after: 1,
        }]);
        let service = Some(metrics.service(&evil));
        let done = RequestDone {
            entry_point: None,
            router: None,
            service,
            variants: &[],
            headers: HeaderValues::default(),
            code: 200,
            method: MethodLabel::of(&Method::GET),
            protocol: ProtocolLabel::Http,
            duration: Duration::from_millis(1),
            service_duration: None,
            bytes_in: 0,
            bytes_out: 0,
            tls: None,
        };
        metrics.worker().request(&done);
        metrics
    }

    #[test]
    fn no_label_value_breaks_a_format() {
        let metrics = with_evil_labels();
        let now = Instant::now();
        let text = metrics.render(Format::Text004, now);
        assert_eq!(promtool(&text), "");
        let escaped = "a\\\"b\\\\c\\nd\\\\n\r\0{e},f=\\\"g\\\\\u{fffd}\u{fffd}";
        let line = format!("gantry_service_server_up{{service=\"{escaped}\",url=\"{escaped}\"}} 0\n");
        for text in [text, metrics.render(Format::OpenMetrics, now)] {
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(&line), "{text}");
            let count = format!(
                "gantry_service_request_duration_seconds_count{{code=\"200\",method=\"GET\",protocol=\"http\",service=\"{escaped}\"}} 1\n"
            );
            assert!(text.contains(&count), "{text}");
            let well_formed = |line: &str| {
                line.starts_with("# ")
                    || line
                        .rsplit_once(' ')
                        .is_some_and(|(_, value)| value.parse::<f64>().is_ok())
            };
            // Not `lines`: a carriage return ends no line here.
            let mut broken = text
                .split_terminator('\n')
                .filter(|line| *line != "# EOF" && !well_formed(line));
            assert_eq!(broken.next(), None);
        }
        let families = decode(&metrics.render(Format::Protobuf, now));
        for (family, label) in [
            ("gantry_service_server_up", "url"),
            ("gantry_service_requests_total", "service"),
            ("gantry_service_request_duration_seconds", "service"),
            ("gantry_tls_certs_not_after", "cn"),
            ("model_accuracy_samples", "label"),
            ("model_requests_total", "version"),
        ] {
            let family = families.iter().find(|it| it.name.as_deref() == Some(family)).unwrap();
            let mut labels = family.metric.iter().flat_map(|metric| &metric.label);
            let found = labels.any(|pair| pair.name.as_deref() == Some(label) && pair.value == Some(evil()));
            assert!(found, "{family:?}");
        }
    }

    #[test]
    fn all_formats_say_the_same() {
        let metrics = busy("gantry");
        let now = Instant::now();
        let text = String::from_utf8(metrics.render(Format::Text004, now)).unwrap();
        let families = decode(&metrics.render(Format::Protobuf, now));
        let headers = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let named = families.iter().map(|family| {
            let kind = ["counter", "gauge", "", "", "histogram"][family.kind.unwrap() as usize];
            format!("{} {kind}", family.name.as_deref().unwrap())
        });
        assert_eq!(headers.collect::<Vec<_>>(), named.collect::<Vec<_>>());
        let metrics = |name: &str| {
            &families
                .iter()
                .find(|it| it.name.as_deref() == Some(name))
                .unwrap()
                .metric
        };
        let requests = metrics("gantry_service_requests_total");
        assert_eq!(requests.len(), 6);
        assert!(
            requests
                .iter()
                .all(|metric| metric.counter == Some(Value { value: Some(1.0) }))
        );
        for metric in metrics("gantry_service_request_duration_seconds") {
            let histogram = metric.histogram.as_ref().unwrap();
            assert_eq!((histogram.sample_count, histogram.sample_sum), (Some(1), Some(0.2)));
            // 0.2 is at most 2^(-18/8), which is 0.21.
            assert_eq!(histogram.positive_span[0].offset, Some(-18));
            let classic: Vec<_> = histogram.bucket.iter().map(|b| b.cumulative_count.unwrap()).collect();
            assert_eq!(classic, [0, 1, 1, 1, 1]);
        }
        let accuracy = metrics("model_accuracy_samples")[0].histogram.as_ref().unwrap();
        assert_eq!((accuracy.sample_count, accuracy.sample_sum), (Some(1), Some(0.93)));
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
        assert_eq!(
            lock(&metrics.cells).len(),
            3 + 1 + 1,
            "codes, TLS and connections of the entry point"
        );
    }
}
