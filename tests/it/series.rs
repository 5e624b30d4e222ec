//! Which series there are: what peers choose never makes more than a bounded number, and what a reload does to them.

use crate::harness::*;

/// The lines of `/metrics` that begin with `name`, without those of the harness's own requests.
fn lines(gateway: &Gateway, name: &str) -> Vec<String> {
    let text = gateway.admin("/metrics").text();
    text.lines()
        .filter(|line| line.starts_with(name) && !line.contains("zzready") && !line.contains("entrypoint=\"ready\""))
        .map(str::to_owned)
        .collect()
}

fn sum(lines: &[String]) -> f64 {
    lines
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Sends requests over a few connections, many at once. `request` gives the text of the n-th.
fn flood(gateway: &Gateway, count: usize, request: impl Fn(usize) -> String) {
    const AT_ONCE: usize = 50;
    let mut clients: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    for batch in 0..count.div_ceil(AT_ONCE) {
        let client = &mut clients[batch % 4];
        let range = batch * AT_ONCE..count.min((batch + 1) * AT_ONCE);
        client.send(range.clone().map(&request).collect::<String>());
        for _ in range {
            client.try_reply("GET").unwrap();
        }
    }
}

#[test]
fn hosts_paths_methods_and_header_values_without_end_make_few_series() {
    only_gantry!();
    const COUNT: usize = 5000;
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .metrics("metrics: {prometheus: {addRoutersLabels: true, headerLabels: {site: X-Site}}}")
        .run();
    flood(&gateway, COUNT, |n| {
        format!(
            "VERB{n} /path/{n}?q={n} HTTP/1.1\r\nHost: host-{n}.test\r\nX-Site: made-up-{n}\r\nUser-Agent: agent-{n}\r\n\r\n"
        )
    });
    let service = "gantry_service_requests_total{";
    assert_eventually!(sum(&lines(&gateway, service)) == COUNT as f64);
    for scope in ["entrypoint", "router", "service"] {
        let found = lines(&gateway, &format!("gantry_{scope}_requests_total{{"));
        let made_up = found.iter().filter(|line| line.contains("site=\"made-up-")).count();
        let others: Vec<_> = found
            .iter()
            .filter(|line| line.contains("site=\"other\""))
            .cloned()
            .collect();
        assert_eq!((made_up, others.len()), (100, 1), "{scope}: {found:?}");
        assert_eq!(sum(&others), COUNT as f64 - 100.0);
    }
    let text = gateway.admin("/metrics").text();
    assert!(text.lines().count() < 1500, "{}", text.lines().count());
    for secret in ["host-", "path/", "VERB", "agent-"] {
        assert!(!text.contains(secret), "{secret}\n{text}");
    }
    assert_eq!(
        gateway.metric(&["gantry_metrics_overflow_total"]),
        Some(COUNT as f64 - 100.0)
    );
    assert_eq!(gateway.log().matches("the label `site` has 100 values").count(), 1);
}

#[test]
fn header_labels_take_what_the_client_sent_and_are_empty_without() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()])
        .replace("service: s}", "service: s, middlewares: [h]}")
        .replace(
            "  services:",
            "  middlewares: {h: {headers: {customRequestHeaders: {X-Site: ours}}}}\n  services:",
        );
    let gateway = gateway()
        .dynamic(&yaml)
        .metrics("metrics: {prometheus: {addRoutersLabels: true, headerLabels: {site: X-Site}}}")
        .run();
    gateway.get("/").header("X-Site", "north").send().assert_status(200);
    gateway.get("/").header("x-site", "north").send().assert_status(200);
    gateway.get("/").send().assert_status(200);
    let value = |scope: &str, site: &str| {
        let own = match scope {
            "entrypoint" => "entrypoint=\"web\"",
            _ => "service=\"s@file\"",
        };
        let name = format!("{}_{scope}_requests_total{{", gateway::prefix());
        gateway.metric(&[&name, "code=\"200\"", &format!("site=\"{site}\""), own])
    };
    assert_eventually!(value("entrypoint", "north") == Some(2.0));
    assert_eq!(value("entrypoint", ""), Some(1.0));
    if gateway::is_gantry() {
        assert_eq!((value("service", "north"), value("service", "ours")), (Some(2.0), None));
        assert_eq!((value("router", "north"), value("router", "")), (Some(2.0), Some(1.0)));
    }
    let others = lines(&gateway, &format!("{}_service_requests_bytes_total", gateway::prefix()));
    assert!(others.iter().all(|line| !line.contains("site=")), "{others:?}");
}

#[test]
fn header_labels_with_quotes_bytes_and_length_stay_readable() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .metrics("metrics: {prometheus: {headerLabels: {site: X-Site}}}")
        .run();
    let mut client = gateway.client();
    let values: [&[u8]; 4] = [b"a\"b\\c", b"\xff\xfe", &[b'x'; 3000], "\u{e4}".as_bytes()];
    for value in values {
        let request = [b"GET / HTTP/1.1\r\nHost: a\r\nX-Site: ", value, b"\r\n\r\n"].concat();
        client.send(request).reply().assert_status(200);
    }
    let service = || lines(&gateway, "gantry_service_requests_total{");
    let shown = |text: &str| {
        // The harness reads bytes as Latin-1.
        let text: String = text.bytes().map(char::from).collect();
        service().iter().any(|line| line.contains(&format!("site=\"{text}\"")))
    };
    assert_eventually!(sum(&service()) == 4.0);
    for text in [r#"a\"b\\c"#, "\u{fffd}\u{fffd}", &"x".repeat(64), "\u{e4}"] {
        assert!(shown(text), "{text}: {:?}", service());
    }
}

#[test]
fn a_server_with_five_hundred_codes_is_capped() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let codes: Vec<usize> = (200..700).filter(|code| ![204, 205, 304].contains(code)).collect();
    flood(&gateway, codes.len() * 2, |n| {
        format!("GET /?status={} HTTP/1.1\r\nHost: a\r\n\r\n", codes[n % codes.len()])
    });
    let service = "gantry_service_requests_total{";
    assert_eventually!(sum(&lines(&gateway, service)) == 2.0 * codes.len() as f64);
    assert_eq!(lines(&gateway, service).len(), 201);
    assert_eq!(
        lines(&gateway, "gantry_service_request_duration_seconds_count{").len(),
        201
    );
    let other = [
        "code=\"other\"",
        "method=\"other\"",
        "protocol=\"other\"",
        "service=\"s@file\"",
    ];
    let parts = [&[service][..], &other].concat();
    let beyond = gateway.metric(&parts).unwrap();
    assert!(beyond > 300.0, "{beyond}");
    assert_eq!(gateway.metric(&["gantry_metrics_overflow_total"]), Some(beyond));
    assert_eq!(
        gateway
            .log()
            .matches("metrics: service s@file has 200 combinations")
            .count(),
        1
    );
}

/// Two services behind a weighted one.
fn canary(backends: &[Backend; 2], weights: [u32; 2]) -> String {
    let [old, new] = backends.each_ref().map(Backend::url);
    format!(
        "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: w}}}}\n  services:\n    \
         w: {{weighted: {{services: [{{name: old, weight: {}}}, {{name: new, weight: {}}}]}}}}\n    \
         old: {{loadBalancer: {{servers: [{{url: \"{old}\"}}]}}}}\n    \
         new: {{loadBalancer: {{servers: [{{url: \"{new}\"}}]}}}}\n",
        weights[0], weights[1]
    )
}

#[test]
fn variants_are_counted_by_their_weights_and_go_on_after_a_reload() {
    only_gantry!();
    let backends = [Backend::start(), Backend::start()];
    let gateway = gateway().dynamic(&canary(&backends, [90, 10])).run();
    let value = |name: &str, variant: &str| {
        let variant = format!("variant=\"{variant}@file\"");
        gateway.metric(&[&format!("gantry_variant_{name}{{"), "service=\"w@file\"", &variant])
    };
    let get = |_| "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    flood(&gateway, 200, get);
    assert_eventually!(value("requests_total", "old") == Some(180.0));
    assert_eventually!(value("requests_total", "new") == Some(20.0));
    assert_eq!(
        (value("weight", "old"), value("weight", "new")),
        (Some(90.0), Some(10.0))
    );
    assert_eq!(value("request_duration_seconds_count", "new"), Some(20.0));
    assert_eq!(value("responses_bytes_total", "new"), Some(100.0));
    gateway.reload(&canary(&backends, [0, 1]));
    flood(&gateway, 30, get);
    assert_eventually!(value("requests_total", "new") == Some(50.0));
    assert_eq!(value("requests_total", "old"), Some(180.0));
    assert_eq!((value("weight", "old"), value("weight", "new")), (Some(0.0), Some(1.0)));
    gateway.reload(&gateway::all_to(&[&backends[0].url()]));
    // The snapshot serves a moment before the metrics are told of it.
    assert_eventually!((value("weight", "old"), value("weight", "new")) == (None, None));
    assert_eq!(
        value("requests_total", "new"),
        Some(50.0),
        "the last increments can still be scraped"
    );
}

#[test]
fn connections_to_servers_are_counted() {
    only_gantry!();
    let backend = Backend::start();
    let down = Backend::down();
    let gateway = gateway().to(&backend).run();
    let value = |name: &str| gateway.metric(&[&format!("gantry_service_{name}{{"), "service=\"s@file\""]);
    let mut client = gateway.client();
    for _ in 0..10 {
        client.get("/").assert_status(200);
    }
    assert_eventually!(value("connections_reused_total") == Some(9.0));
    assert_eq!(value("connections_opened_total"), Some(1.0));
    assert_eq!(value("connection_failures_total"), Some(0.0));
    assert_eventually!(
        gateway
            .metric(&["gantry_upstream_connections_idle"])
            .is_some_and(|idle| idle >= 1.0)
    );
    gateway.reload(&gateway::all_to(&[&format!("http://{down}")]));
    client.get("/").assert_status(502);
    assert_eventually!(value("connection_failures_total") == Some(1.0));
    assert_eq!(
        value("connections_opened_total"),
        Some(1.0),
        "a reload keeps what was counted"
    );
}

#[test]
fn requests_on_a_server_and_its_probes_show_while_it_is_served() {
    only_gantry!();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::answering(move |seen| {
        if seen.path() == "/slow" {
            let _released = wait.lock().unwrap().recv_timeout(DEADLINE);
        }
        Answer::new(200)
    });
    let check = "loadBalancer: {healthCheck: {path: /health, interval: 100ms}, ";
    let yaml = gateway::all_to(&[&backend.url()]).replace("loadBalancer: {", check);
    let gateway = gateway().dynamic(&yaml).run();
    let url = format!("url=\"{}\"", backend.url());
    let value = |name: &str, more: &str| {
        let name = format!("gantry_service_server_{name}{{");
        gateway.metric(&[&name, "service=\"s@file\"", &url, more])
    };
    assert_eventually!(value("probes_total", "result=\"success\"").is_some_and(|probes| probes >= 2.0));
    assert_eq!(value("probes_total", "result=\"failure\""), Some(0.0));
    assert_eq!(value("in_flight", ""), Some(0.0));
    let mut client = gateway.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eventually!(value("in_flight", "") == Some(1.0));
    release.send(()).unwrap();
    client.reply().assert_status(200);
    assert_eventually!(value("in_flight", "") == Some(0.0));
    gateway.reload(&gateway::all_to(&["http://127.0.0.1:1"]));
    assert_eq!(value("in_flight", ""), None);
    assert_eventually!(value("probes_total", "").is_none());
}

#[test]
fn handshakes_are_counted_by_their_end() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("service: s}", "service: s, tls: {}}");
    let gateway = gateway().dynamic(&yaml).run();
    let value = |result: &str| {
        let result = format!("result=\"{result}\"");
        gateway.metric(&["gantry_tls_handshakes_total{", "entrypoint=\"websecure\"", &result])
    };
    gateway.tls("a.test").connect().get("/").assert_status(200);
    let mut rubbish = Client::connect(gateway.websecure());
    rubbish.send([22, 3, 1, 0, 5, 1, 2, 3, 4, 5]);
    assert_eventually!(value("failure") == Some(1.0));
    assert_eventually!(value("success") == Some(1.0));
}

#[test]
fn reloads_tell_their_failures_and_their_time() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let value = |name: &str| gateway.metric(&[name]);
    assert_eq!(value("gantry_config_reload_failures_total"), Some(0.0));
    assert!(value("gantry_config_reload_duration_seconds").is_some_and(|time| time > 0.0 && time < 60.0));
    gateway.edit("http: {routers: {r: {rulle: x}}}");
    assert_eventually!(value("gantry_config_reload_failures_total") == Some(1.0));
}

#[test]
fn internal_services_are_counted_and_logged_only_on_request() {
    let run = |internals: bool| {
        let gateway = gateway()
            .metrics(&format!("metrics: {{addInternals: {internals}, prometheus: {{addRoutersLabels: true}}}}"))
            .top(&format!("accessLog: {{addInternals: {internals}, filePath: \"{{dir}}/access.log\"}}"))
            .dynamic("http: {routers: {own: {rule: \"Path(`/own`)\", service: ping@internal, observability: {metrics: true}}}}")
            .run();
        gateway.admin("/ping").assert_status(200);
        gateway.get("/own").send().assert_status(200);
        gateway.get("/none").send().assert_status(404);
        let log = || std::fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
        assert_eventually!(log().contains("/none"));
        let counted = |entry_point: &str| {
            let name = format!("{}_entrypoint_requests_total{{", gateway::prefix());
            let entry_point = format!("entrypoint=\"{entry_point}\"");
            gateway.metric(&[&name, "code=\"200\"", &entry_point]).is_some()
        };
        if internals {
            assert_eventually!(log().contains("/own") && log().contains("/ping"));
            assert_eventually!(counted("web") && counted("traefik"));
        }
        (
            log().contains("/own"),
            log().contains("/ping"),
            counted("web"),
            counted("traefik"),
        )
    };
    assert_eq!(run(false), (false, false, false, false));
    assert_eq!(run(true), (true, true, true, true));
}
