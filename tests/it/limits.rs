//! Bounds on what a client can make the gateway hold, and deadlines for clients that are slow or gone.

use std::time::{Duration, Instant};

use crate::harness::backend::pattern;
use crate::harness::*;

fn timeouts(keys: &str) -> String {
    format!("transport: {{respondingTimeouts: {{{keys}}}}}")
}

#[test]
fn header_fields_that_are_too_large() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).web("http: {maxHeaderBytes: 2000}").run();
    gateway
        .get("/")
        .header("X-Big", &"p".repeat(300))
        .send()
        .assert_status(200);
    gateway
        .get("/")
        .header("X-Big", &"p".repeat(7000))
        .send()
        .assert_status(431);
    gateway.get(&format!("/{}", "p".repeat(7000))).send().assert_status(431);
    assert_eq!(backend.count(), 1);
}

#[test]
fn header_fields_of_60_kib_pass_by_default() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway
        .get("/")
        .header("X-Big", &"p".repeat(60_000))
        .send()
        .assert_status(200);
    assert_eq!(backend.last().header("x-big").map(str::len), Some(60_000));
}

#[test]
fn a_head_without_an_end_is_cut_off_and_others_are_served() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    let mut sent = client.try_send("GET / HTTP/1.1\r\nHost: a\r\n");
    let filler = "X-Fill: 0123456789abcdef\r\n".repeat(1000);
    for _ in 0..200 {
        sent = sent.and_then(|()| client.try_send(&filler));
    }
    let refused = client.try_reply("GET");
    assert!(refused.as_ref().is_ok_and(|reply| reply.status == 431) || sent.is_err() || refused.is_err());
    gateway.get("/").send().assert_status(200);
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_slow_head_is_ended_by_the_header_timeout() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).web(&timeouts("headerTimeout: 400ms")).run();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let start = Instant::now();
    // A byte now and then does not extend the deadline.
    while start.elapsed() < Duration::from_secs(10) && client.try_send("x").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_connection_that_says_nothing_is_ended() {
    let backend = Backend::start();
    let keys = if gateway::is_gantry() {
        "headerTimeout: 300ms, idleTimeout: 300ms"
    } else {
        "readTimeout: 300ms"
    };
    let gateway = gateway().to(&backend).web(&timeouts(keys)).run();
    let mut client = gateway.client();
    let silent = client.try_reply("GET");
    assert!(silent.is_err() || silent.is_ok_and(|reply| reply.status == 408));
}

#[test]
fn an_idle_connection_is_ended_by_the_idle_timeout() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).web(&timeouts("idleTimeout: 500ms")).run();
    let mut client = gateway.client();
    client.get("/").assert_status(200);
    let start = Instant::now();
    client.get("/").assert_status(200);
    assert!(client.is_ended(), "bytes came");
    let open = start.elapsed();
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(5)).contains(&open),
        "{open:?}"
    );
}

#[test]
fn two_hundred_slow_heads_do_not_slow_others() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let slow: Vec<_> = (0..200)
        .map(|_| {
            let mut client = gateway.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
            client
        })
        .collect();
    let start = Instant::now();
    for _ in 0..50 {
        gateway.get("/").send().assert_status(200);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(slow);
    assert_eq!(backend.count(), 50);
}

#[test]
fn a_body_that_stops_is_ended_by_the_body_idle_timeout() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).web(&timeouts("bodyIdleTimeout: 400ms")).run();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
    let start = Instant::now();
    let reply = client.try_reply("POST");
    assert!(
        reply.is_err() || reply.is_ok_and(|reply| reply.status == 408),
        "another answer"
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eventually!(backend.last().outcome == Outcome::Gone);
}

#[test]
fn a_body_that_comes_slowly_but_surely_is_never_ended() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).web(&timeouts("bodyIdleTimeout: 500ms")).run();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n");
    for _ in 0..20 {
        client.send("x");
        std::thread::sleep(Duration::from_millis(60));
    }
    client.reply().assert_status(200);
    assert_eq!(backend.last().body.len, 20);
}

#[test]
fn a_backend_that_reads_slowly_does_not_run_the_body_timer() {
    only_gantry!();
    // It takes nothing for longer than the client would be given.
    let backend = Scripted::start(|connection| {
        connection.head();
        std::thread::sleep(Duration::from_millis(1200));
        let answer = connection.body(16 << 20).map_or("500 No", |_| "200 OK");
        let _gone = connection.write(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    });
    let gateway = gateway()
        .server(&backend.url())
        .web(&timeouts("bodyIdleTimeout: 300ms"))
        .run();
    gateway.post("/", pattern(16 << 20)).send().assert_status(200);
}

#[test]
fn a_body_below_the_least_rate_is_ended() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).web(&timeouts("minBodyRate: 100KiB")).run();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) && client.try_send("x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() < Duration::from_secs(25), "never ended");
    assert_eventually!(backend.last().outcome == Outcome::Gone);
    gateway.post("/", pattern(1 << 20)).send().assert_status(200);
}

#[test]
fn a_client_that_goes_while_it_waits_ends_the_backends_request() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.send("GET /?delay=60000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eventually!(backend.count() == 1);
    drop(client);
    assert_eventually!(backend.last().outcome == Outcome::Gone);
}

#[test]
fn a_client_that_goes_in_the_middle_of_its_upload_ends_the_backends_request() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for reset in [true, false] {
        backend.forget();
        let mut client = gateway.client();
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n")
            .send(pattern(64 << 10));
        assert_eventually!(backend.count() == 1);
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        assert_eventually!(backend.last().outcome == Outcome::Gone);
    }
}

#[test]
fn a_client_that_goes_while_its_upload_is_held_back_ends_the_backends_request() {
    only_gantry!();
    let (ended, end) = std::sync::mpsc::channel();
    let ended = std::sync::Mutex::new(ended);
    // Reads the head and never the body.
    let backend = Scripted::start(move |connection| {
        connection.head();
        connection.wait_for_reset();
        let _unheard = ended.lock().unwrap().send(());
    });
    let gateway = gateway().server(&backend.url()).run();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n");
    client.patience(Duration::from_secs(1));
    // Until nothing more fits in the buffers on the way.
    client.write_patience(Duration::from_millis(500));
    while client.try_send(pattern(64 << 10)).is_ok() {}
    client.reset();
    end.recv_timeout(DEADLINE).expect("the backend's request goes on");
}

#[test]
fn an_h2_client_that_resets_its_stream_ends_the_backends_request() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.h2();
    let pending = client.begin("/?delay=60000");
    assert_eventually!(backend.count() == 1);
    pending.reset();
    assert_eventually!(backend.last().outcome == Outcome::Gone);
    client.get("/").assert_status(200);
}

#[test]
fn a_client_that_does_not_read_holds_no_memory() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.get("/?n=1000000").send().assert_status(200);
    let before = gateway.resident();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.client();
            client.send("GET /?n=20000000 HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    assert_eventually!(backend.count() == 21);
    let mut grown = 0;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        grown = grown.max(gateway.resident().saturating_sub(before));
    }
    assert!(grown < 64 << 20, "{} MiB for 20 readers", grown >> 20);
    drop(clients);
    assert_eventually!(backend.is_idle());
}

#[test]
fn too_large_bodies_are_refused_by_buffering() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()])
        .replace("service: s}", "service: s, middlewares: [b]}")
        .replace(
            "  services",
            "  middlewares: {b: {buffering: {maxRequestBodyBytes: 1000}}}\n  services",
        );
    let gateway = gateway().dynamic(&yaml).run();
    gateway.post("/", pattern(1000)).send().assert_status(200);
    let reply = gateway.post("/", pattern(1001)).send();
    reply.assert_status(413).assert_body("Request Entity Too Large");
    gateway.post("/", "").chunked(pattern(5000)).send().assert_status(413);
    assert_eventually!(backend.is_idle());
    let seen = backend.seen();
    let answered = seen.iter().filter(|seen| seen.outcome == Outcome::Answered);
    assert_eq!(answered.count(), 1);
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/only`)");
    let gateway = gateway().dynamic(&yaml).run();
    for _ in 0..10 {
        gateway.post("/none", pattern(200_000)).send().assert_status(404);
    }
}

#[test]
fn in_flight_requests() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()])
        .replace("service: s}", "service: s, middlewares: [f]}")
        .replace(
            "  services",
            "  middlewares: {f: {inFlightReq: {amount: 2}}}\n  services",
        );
    let gateway = gateway().dynamic(&yaml).run();
    let mut held: Vec<_> = (0..2).map(|_| gateway.client()).collect();
    for client in &mut held {
        client.send("GET /?delay=60000 HTTP/1.1\r\nHost: app.test\r\n\r\n");
    }
    assert_eventually!(backend.count() == 2);
    gateway
        .get("/")
        .send()
        .assert_status(429)
        .assert_body("max connections reached: 2");
    // By default hosts are counted apart.
    gateway.get("/").host("other.test").send().assert_status(200);
    held.pop();
    assert_eventually!(gateway.get("/").send().status == 200);
}

#[test]
fn many_fields_in_one_h2_head_are_refused() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let names: Vec<_> = (0..600).map(|i| format!("x-{i}")).collect();
    let headers: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let answer = gateway.h2().try_send("GET", "/", &headers, None);
    assert!(answer.as_ref().map_or(true, |reply| reply.status == 431), "{answer:?}");
    assert_eq!(backend.count(), 0);
    gateway.h2().send("GET", "/", &headers[..100], None).assert_status(200);
}

#[test]
fn a_connection_has_its_share_of_time_and_requests_by_http2_too() {
    let backend = Backend::start();
    for line in ["keepAliveMaxTime: 1ms", "keepAliveMaxRequests: 3"] {
        let gateway = gateway().to(&backend).web(&format!("transport: {{{line}}}")).run();
        let mut client = gateway.h2();
        client.get("/").assert_status(200);
        // What is sent before the client has heard of it is served.
        assert_eventually!(client.try_send("GET", "/", &[], None).is_err(), "{line}");
    }
}
