//! Which server gets a request: shares, stickiness, health.

use std::collections::BTreeMap;

use crate::harness::*;

/// Backends that answer with their own name.
fn named(names: &[&str]) -> Vec<Backend> {
    let named = names.iter().map(|name| {
        let name = (*name).to_owned();
        Backend::answering(move |seen| {
            let answer = backend::by_query(seen);
            if answer.status == 200 {
                answer.body(name.clone())
            } else {
                answer
            }
        })
    });
    named.collect()
}

/// How many of `count` requests each backend answered.
fn shares(gateway: &Gateway, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let reply = gateway.get("/").send();
        reply.assert_status(200);
        *shares.entry(reply.text()).or_default() += 1;
    }
    shares
}

fn map(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn equal_servers_get_exactly_equal_shares_in_every_window() {
    let backends = named(&["a", "b", "c"]);
    let gateway = gateway().balancing(&backends.iter().collect::<Vec<_>>()).run();
    let order: Vec<_> = (0..30).map(|_| gateway.get("/").send().text()).collect();
    for window in order.chunks(3) {
        assert!(
            ["a", "b", "c"]
                .iter()
                .all(|name| window.iter().any(|other| other == name)),
            "{order:?}"
        );
    }
}

#[test]
fn shares_are_exact_over_all_connections() {
    let backends = named(&["a", "b"]);
    let gateway = gateway().balancing(&backends.iter().collect::<Vec<_>>()).run();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = gateway.client();
                for _ in 0..25 {
                    client.get("/").assert_status(200);
                }
            });
        }
    });
    assert_eq!((backends[0].count(), backends[1].count()), (100, 100));
}

#[test]
fn servers_have_weights() {
    let backends = named(&["a", "b", "c"]);
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: s}}}}\n  services: {{s: {{loadBalancer: \
             {{servers: [{{url: \"{}\", weight: 3}}, {{url: \"{}\", weight: 1}}, {{url: \"{}\", weight: 0}}]}}}}}}\n",
            backends[0].url(),
            backends[1].url(),
            backends[2].url()
        ))
        .run();
    for _ in 0..3 {
        assert_eq!(shares(&gateway, 4), map(&[("a", 3), ("b", 1)]));
    }
}

/// Two services behind a weighted one.
fn canary(backends: &[Backend], old: u32, new: u32, more: &str) -> String {
    format!(
        "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: w}}}}\n  services:\n    w: {{weighted: \
         {{{more}services: [{{name: old, weight: {old}}}, {{name: new, weight: {new}}}]}}}}\n    old: {{loadBalancer: \
         {{servers: [{{url: \"{}\"}}]}}}}\n    new: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n",
        backends[0].url(),
        backends[1].url()
    )
}

#[test]
fn ninety_to_ten_is_exact() {
    let backends = named(&["old", "new"]);
    let gateway = gateway().dynamic(&canary(&backends, 90, 10, "")).run();
    for _ in 0..3 {
        assert_eq!(shares(&gateway, 100), map(&[("old", 90), ("new", 10)]));
    }
}

#[test]
fn editing_weights_moves_the_shares() {
    let backends = named(&["old", "new"]);
    let gateway = gateway().dynamic(&canary(&backends, 90, 10, "")).run();
    assert_eq!(shares(&gateway, 100), map(&[("old", 90), ("new", 10)]));
    gateway.reload(&canary(&backends, 1, 1, ""));
    assert_eq!(shares(&gateway, 40), map(&[("old", 20), ("new", 20)]));
    gateway.reload(&canary(&backends, 0, 1, ""));
    assert_eq!(shares(&gateway, 20), map(&[("new", 20)]));
}

#[test]
fn weighted_services_nest() {
    let backends = named(&["a", "b", "c"]);
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: top}}}}\n  services:\n    top: {{weighted: \
             {{services: [{{name: mid, weight: 1}}, {{name: c, weight: 1}}]}}}}\n    mid: {{weighted: {{services: \
             [{{name: a, weight: 3}}, {{name: b, weight: 1}}]}}}}\n    a: {{loadBalancer: {{servers: [{{url: \
             \"{}\"}}]}}}}\n    b: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n    c: {{loadBalancer: {{servers: \
             [{{url: \"{}\"}}]}}}}\n",
            backends[0].url(),
            backends[1].url(),
            backends[2].url()
        ))
        .run();
    assert_eq!(shares(&gateway, 40), map(&[("a", 15), ("b", 5), ("c", 20)]));
}

#[test]
fn a_sticky_cookie_keeps_its_server() {
    let backends = named(&["a", "b"]);
    let sticky =
        "loadBalancer: {sticky: {cookie: {name: st, secure: true, httpOnly: true, sameSite: lax, maxAge: 60}}, ";
    let yaml = gateway::all_to(&[&backends[0].url(), &backends[1].url()]).replace("loadBalancer: {", sticky);
    let gateway = gateway().dynamic(&yaml).run();
    let first = gateway.get("/").send();
    let cookie = first.header("set-cookie").unwrap().to_owned();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax");
    let value = pair.strip_prefix("st=").unwrap();
    let url = if first.text() == "a" {
        backends[0].url()
    } else {
        backends[1].url()
    };
    assert_eq!(value, sha256_prefix(&url));
    for _ in 0..5 {
        let reply = gateway.get("/").header("Cookie", &format!("x=1; {pair}; y=2")).send();
        reply.assert_body(&first.text());
        assert_eq!(reply.header("set-cookie"), None);
    }
    let other = gateway.get("/").header("Cookie", "st=unknown").send();
    assert!(other.header("set-cookie").is_some());
}

fn sha256_prefix(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_sticky_cookie_has_a_default_name_and_chooses_among_services() {
    let backends = named(&["old", "new"]);
    let gateway = gateway()
        .dynamic(&canary(&backends, 1, 1, "sticky: {cookie: {}}, "))
        .run();
    let first = gateway.get("/").send();
    let cookie = first.header("set-cookie").unwrap();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    let (name, value) = pair.split_once('=').unwrap();
    assert_eq!((name.len(), &name[..1], attributes), (6, "_", "Path=/"));
    // The name of the child, with or without its provider.
    let names = [first.text(), format!("{}@file", first.text())].map(|name| sha256_prefix(&name));
    assert!(names.iter().any(|name| name == value), "{value}");
    for _ in 0..4 {
        gateway
            .get("/")
            .header("Cookie", pair)
            .send()
            .assert_body(&first.text());
    }
}

#[test]
fn a_sticky_server_that_fails_its_check_is_left() {
    let backends = named(&["a", "b"]);
    let sticky = "loadBalancer: {sticky: {cookie: {name: st}}, healthCheck: {path: /health, interval: 100ms}, ";
    let yaml = gateway::all_to(&[&backends[0].url(), &backends[1].url()]).replace("loadBalancer: {", sticky);
    let gateway = gateway().dynamic(&yaml).run();
    let first = gateway.get("/").send();
    let pair = first
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let (down, other) = if first.text() == "a" {
        (&backends[0], "b")
    } else {
        (&backends[1], "a")
    };
    down.set(|_| Answer::new(500));
    assert_eventually!(gateway.get("/").header("Cookie", &pair).send().text() == other);
}

fn checked(backends: &[Backend]) -> String {
    let urls: Vec<_> = backends.iter().map(Backend::url).collect();
    let check = "loadBalancer: {healthCheck: {path: /health, interval: 100ms}, ";
    gateway::all_to(&urls.iter().map(String::as_str).collect::<Vec<_>>()).replace("loadBalancer: {", check)
}

#[test]
fn a_server_that_fails_its_check_gets_nothing_until_it_is_back() {
    let backends = named(&["a", "b"]);
    let gateway = gateway().dynamic(&checked(&backends)).run();
    assert_eventually!(backends.iter().all(|backend| backend.checks() > 0));
    backends[1].set(|seen| Answer::new(if seen.path() == "/health" { 503 } else { 200 }).body("b"));
    assert_eventually!(shares(&gateway, 4) == map(&[("a", 4)]));
    backends[1].set(|_| Answer::new(200).body("b"));
    assert_eventually!(shares(&gateway, 4) == map(&[("a", 2), ("b", 2)]));
}

#[test]
fn with_all_servers_down_the_answer_is_503_and_the_metric_says_so() {
    let backends = named(&["a", "b"]);
    let gateway = gateway().dynamic(&checked(&backends)).run();
    for backend in &backends {
        backend.set(|seen| Answer::new(if seen.path() == "/health" { 404 } else { 200 }));
    }
    assert_eventually!(gateway.get("/").send().status == 503);
    gateway.get("/").send().assert_body("no available server\n");
    for backend in &backends {
        assert_eventually!(gateway.metric(&["service_server_up", &backend.url()]) == Some(0.0));
    }
    backends[0].set(backend::by_query);
    assert_eventually!(gateway.metric(&["service_server_up", &backends[0].url()]) == Some(1.0));
    assert_eventually!(gateway.get("/").send().status == 200);
}

#[test]
fn the_check_is_sent_as_configured() {
    let backend = Backend::answering(|seen| Answer::new(if seen.target == "/health?deep=1" { 204 } else { 200 }));
    let check = "loadBalancer: {healthCheck: {path: \"/health?deep=1\", interval: 100ms, method: HEAD, status: 204, \
                 hostname: check.test, headers: {X-Check: \"1\"}}, ";
    let yaml = gateway::all_to(&[&backend.url()]).replace("loadBalancer: {", check);
    let gateway = gateway().dynamic(&yaml).run();
    assert_eventually!(backend.checks() > 1);
    let seen = backend.last_check();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("HEAD", "/health?deep=1"));
    assert_eq!(
        seen.header("host")
            .map(|host| host.split(':').next().unwrap_or_default()),
        Some("check.test")
    );
    assert_eq!(seen.header("x-check"), Some("1"));
    gateway.get("/").send().assert_status(200);
}

#[test]
fn the_first_check_comes_at_once_and_a_bad_server_gets_no_traffic() {
    only_gantry!();
    let backends = named(&["a", "b"]);
    backends[1].set(|seen| Answer::new(if seen.path() == "/health" { 500 } else { 200 }).body("b"));
    let yaml = checked(&backends).replace("interval: 100ms", "interval: 1h");
    let gateway = gateway().dynamic(&yaml).run();
    assert_eventually!(backends.iter().all(|backend| backend.checks() == 1));
    assert_eventually!(shares(&gateway, 4) == map(&[("a", 4)]));
    // A reload neither forgets that nor asks again.
    gateway.reload(&yaml.replace("service: s}", "service: s, priority: 7}"));
    assert_eq!(shares(&gateway, 10), map(&[("a", 10)]));
    assert_eq!(backends[0].checks(), 1);
}

#[test]
fn rise_and_fall() {
    only_gantry!();
    let backends = named(&["a", "b"]);
    let yaml = checked(&backends).replace("interval: 100ms", "interval: 100ms, rise: 3, fall: 3");
    let gateway = gateway().dynamic(&yaml).run();
    // The first check is believed at once, so it must be over: the second one comes after it.
    assert_eventually!(backends.iter().all(|backend| backend.checks() >= 2));
    assert_eq!(shares(&gateway, 2), map(&[("a", 1), ("b", 1)]));
    let failed = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = failed.clone();
    // Two failures in a row, then a success, again and again: never three.
    backends[1].set(move |seen| {
        let fails = seen.path() == "/health" && count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 3 < 2;
        Answer::new(if fails { 500 } else { 200 }).body("b")
    });
    assert_eventually!(failed.load(std::sync::atomic::Ordering::SeqCst) >= 9);
    assert_eq!(shares(&gateway, 10), map(&[("a", 5), ("b", 5)]));
}

#[test]
fn health_flows_up_through_weighted_services() {
    only_gantry!();
    let backends = named(&["old", "new"]);
    let check = "loadBalancer: {healthCheck: {path: /health, interval: 100ms}, ";
    let yaml = canary(&backends, 1, 1, "").replace("loadBalancer: {", check);
    let gateway = gateway().dynamic(&yaml).run();
    backends[0].set(|seen| Answer::new(if seen.path() == "/health" { 500 } else { 200 }).body("old"));
    assert_eventually!(shares(&gateway, 6) == map(&[("new", 6)]));
}
