//! `basicAuth`.

use std::time::{Duration, Instant};

use crate::harness::*;

/// Password `secret` in every kind of hash that counts, `admin` with `test`.
const USERS: &str = "[\"admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\", \
                     \"bc:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\", \
                     \"bb:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\", \
                     \"sh:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\", \"ap:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0\", \
                     \"m1:$1$saltsalt$9xy1btjgzLYfb7hivXtC//\"]";

fn guarded(backend: &Backend, keys: &str) -> String {
    gateway::all_to(&[&backend.url()])
        .replace("service: s}", "service: s, middlewares: [auth]}")
        .replace(
            "  services",
            &format!("  middlewares: {{auth: {{basicAuth: {{{keys}}}}}}}\n  services"),
        )
}

#[test]
fn every_kind_of_hash() {
    let backend = Backend::start();
    let gateway = gateway().dynamic(&guarded(&backend, &format!("users: {USERS}"))).run();
    gateway.get("/").basic("admin", "test").send().assert_status(200);
    for user in ["bc", "bb", "sh", "ap", "m1"] {
        gateway.get("/").basic(user, "secret").send().assert_status(200);
        gateway.get("/").basic(user, "wrong").send().assert_status(401);
        gateway.get("/").basic(user, "").send().assert_status(401);
    }
    gateway.get("/").basic("nobody", "secret").send().assert_status(401);
}

#[test]
fn the_challenge() {
    let backend = Backend::start();
    let gateway = gateway().dynamic(&guarded(&backend, &format!("users: {USERS}"))).run();
    let reply = gateway.get("/").send();
    reply.assert_status(401).assert_body("401 Unauthorized\n");
    assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"traefik\""));
    assert_eq!(reply.header("content-type"), Some("text/plain"));
    assert_eq!(backend.count(), 0);
}

#[test]
fn rubbish_is_refused() {
    let backend = Backend::start();
    let gateway = gateway().dynamic(&guarded(&backend, &format!("users: {USERS}"))).run();
    for value in [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YWRtaW4=",
        "Bearer YWRtaW46dGVzdA==",
        "Basic \u{e9}",
        "YWRtaW46dGVzdA==",
    ] {
        gateway
            .get("/")
            .header("Authorization", value)
            .send()
            .assert_status(401);
    }
    gateway
        .get("/")
        .header("Authorization", "basic YWRtaW46dGVzdA==")
        .send()
        .assert_status(200);
    assert_eq!(backend.count(), 1);
}

#[test]
fn realm_header_field_and_removed_header() {
    let backend = Backend::start();
    let keys = format!("users: {USERS}, realm: models, headerField: X-WebAuth-User, removeHeader: true");
    let gateway = gateway().dynamic(&guarded(&backend, &keys)).run();
    assert_eq!(
        gateway.get("/").send().header("www-authenticate"),
        Some("Basic realm=\"models\"")
    );
    gateway
        .get("/")
        .basic("admin", "test")
        .header("x-webauth-user", "spoof")
        .send()
        .assert_status(200);
    assert_eq!(backend.last().header("x-webauth-user"), Some("admin"));
    assert_eq!(backend.last().header("authorization"), None);
}

#[test]
fn users_from_a_file_and_the_list_wins() {
    let backend = Backend::start();
    let gateway = gateway()
        .file(
            "users.txt",
            "# comment\n\n  ap:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0  \nadmin:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n",
        )
        .dynamic(&guarded(
            &backend,
            "usersFile: \"{dir}/users.txt\", users: [\"admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\"]",
        ))
        .run();
    gateway.get("/").basic("ap", "secret").send().assert_status(200);
    gateway.get("/").basic("admin", "test").send().assert_status(200);
    gateway.get("/").basic("admin", "secret").send().assert_status(401);
}

#[test]
fn a_changed_users_file_counts() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway()
        .file("users.txt", "sh:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
        .dynamic(&guarded(&backend, "usersFile: \"{dir}/users.txt\""))
        .run();
    gateway.get("/").basic("sh", "secret").send().assert_status(200);
    gateway.write("users.txt", "new:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n");
    assert_eventually!(gateway.get("/").basic("new", "secret").send().status == 200);
    gateway.get("/").basic("sh", "secret").send().assert_status(401);
}

#[test]
fn broken_users_take_the_router_away_and_never_open_it() {
    let backend = Backend::start();
    for keys in ["users: []", "usersFile: \"{dir}/gone\"", "users: [\"justname\"]"] {
        let gateway = gateway().dynamic(&guarded(&backend, keys)).run();
        gateway.get("/").send().assert_status(404);
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_password_with_a_nul_or_beyond_72_bytes_is_another_password() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().dynamic(&guarded(&backend, &format!("users: {USERS}"))).run();
    gateway.get("/").basic("bc", "secret\0junk").send().assert_status(401);
    gateway
        .get("/")
        .basic("bc", &format!("secret{}", "\0".repeat(80)))
        .send()
        .assert_status(401);
}

/// bcrypt, cost 11, of `secret`: some 100 ms a guess.
fn expensive() -> String {
    format!("users: [\"bc:{}\"]", bcrypt::hash("secret", 11).unwrap())
}

#[test]
fn guesses_do_not_stop_open_routes() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = guarded(&backend, &expensive()).replace(
        "routers: {",
        "routers: {open: {rule: \"Path(`/open`)\", service: s, priority: 1000}, ",
    );
    let gateway = gateway().dynamic(&yaml).run();
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    let status = gateway.get("/").basic("bc", "guess").send().status;
                    assert!(matches!(status, 401 | 429 | 503), "{status}");
                }
            });
        }
        for _ in 0..30 {
            let start = Instant::now();
            gateway.get("/open").send().assert_status(200);
            slowest = slowest.max(start.elapsed());
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[test]
fn a_known_password_is_not_hashed_again() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().dynamic(&guarded(&backend, &expensive())).run();
    gateway.get("/").basic("bc", "secret").send().assert_status(200);
    let start = Instant::now();
    for _ in 0..50 {
        gateway.get("/").basic("bc", "secret").send().assert_status(200);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn an_unknown_user_costs_what_a_known_one_costs() {
    let backend = Backend::start();
    let gateway = gateway().dynamic(&guarded(&backend, &expensive())).run();
    let time = |user: &str| {
        // The least of several: what else the machine does only adds.
        let times = (0..4).map(|i| {
            let start = Instant::now();
            gateway
                .get("/")
                .basic(user, &format!("guess{i}{user}"))
                .send()
                .assert_status(401);
            start.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let (known, unknown) = (time("bc"), time("nobody"));
    assert!(unknown > known / 4 && known > unknown / 4, "{known:?} {unknown:?}");
}
