//! `rateLimit`.

use crate::harness::*;

fn limited(backend: &Backend, keys: &str) -> String {
    gateway::all_to(&[&backend.url()])
        .replace("service: s}", "service: s, middlewares: [limit]}")
        .replace(
            "  services",
            &format!("  middlewares: {{limit: {{rateLimit: {{{keys}}}}}}}\n  services"),
        )
}

fn count(gateway: &Gateway, requests: usize) -> (usize, usize) {
    let statuses: Vec<_> = (0..requests).map(|_| gateway.get("/").send().status).collect();
    let of = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(of(200) + of(429), requests, "{statuses:?}");
    (of(200), of(429))
}

#[test]
fn the_burst_passes_and_no_more() {
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&limited(&backend, "average: 1, period: 1m, burst: 5"))
        .run();
    assert_eq!(count(&gateway, 12), (5, 7));
    assert_eq!(backend.count(), 5);
    let reply = gateway.get("/").send();
    reply.assert_status(429).assert_body("Too Many Requests");
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(
        reply.header("x-retry-in").is_some_and(|value| value.ends_with('s')),
        "{reply:?}"
    );
}

#[test]
fn the_average_comes_back() {
    let backend = Backend::start();
    let gateway = gateway().dynamic(&limited(&backend, "average: 10, burst: 3")).run();
    count(&gateway, 20);
    assert_eventually!(gateway.get("/").send().status == 200);
}

#[test]
fn an_average_of_zero_is_no_limit() {
    let backend = Backend::start();
    let gateway = gateway().dynamic(&limited(&backend, "average: 0")).run();
    assert_eq!(count(&gateway, 50), (50, 0));
}

#[test]
fn sources_are_counted_apart() {
    let backend = Backend::start();
    let keys = "average: 1, period: 1m, burst: 1";
    let gateway = gateway().dynamic(&limited(&backend, keys)).run();
    for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
        gateway.get("/").from(source).send().assert_status(200);
        gateway.get("/").from(source).send().assert_status(429);
    }
    let by_header = crate::harness::gateway()
        .dynamic(&limited(
            &backend,
            &format!("{keys}, sourceCriterion: {{requestHeaderName: X-Key}}"),
        ))
        .run();
    for key in ["a", "b"] {
        by_header.get("/").header("X-Key", key).send().assert_status(200);
        by_header.get("/").header("X-Key", key).send().assert_status(429);
    }
    let by_host = crate::harness::gateway()
        .dynamic(&limited(
            &backend,
            &format!("{keys}, sourceCriterion: {{requestHost: true}}"),
        ))
        .run();
    for host in ["a.test", "b.test"] {
        by_host.get("/").host(host).send().assert_status(200);
        by_host.get("/").host(host).send().assert_status(429);
    }
}

#[test]
fn the_depth_counts_from_the_right() {
    let backend = Backend::start();
    let keys = "average: 1, period: 1m, burst: 1, sourceCriterion: {ipStrategy: {depth: 1}}";
    let gateway = gateway()
        .web("forwardedHeaders: {insecure: true}")
        .dynamic(&limited(&backend, keys))
        .run();
    let send = |list: &str| gateway.get("/").header("X-Forwarded-For", list).send().status;
    assert_eq!(send("1.1.1.1, 2.2.2.2"), 200);
    assert_eq!(send("3.3.3.3, 2.2.2.2"), 429);
    assert_eq!(send("2.2.2.2, 1.1.1.1"), 200);
}

#[test]
fn buckets_survive_a_reload() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = limited(&backend, "average: 1, period: 1h, burst: 5");
    let gateway = gateway().dynamic(&yaml).run();
    assert_eq!(count(&gateway, 3), (3, 0));
    gateway.reload(&yaml.replace("service: s,", "priority: 9, service: s,"));
    assert_eq!(count(&gateway, 5), (2, 3));
}

#[test]
fn all_workers_count_together() {
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&limited(&backend, "average: 1, period: 1h, burst: 40"))
        .run();
    let passed = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (ok, _) = count(&gateway, 20);
                passed.fetch_add(ok, std::sync::atomic::Ordering::SeqCst);
            });
        }
    });
    assert_eq!(passed.into_inner(), 40);
}
