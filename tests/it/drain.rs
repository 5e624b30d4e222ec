//! The end: SIGTERM finishes what is in flight, a second signal does not wait.

use std::time::{Duration, Instant};

use crate::harness::backend::pattern;
use crate::harness::message::hash;
use crate::harness::*;

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_with_0() {
    let backend = Backend::start();
    let mut gateway = gateway().to(&backend).run();
    let mut waiting = gateway.client();
    waiting.send("GET /?delay=1500 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut uploading = gateway.client();
    let body = pattern(8 << 20);
    uploading.send(format!(
        "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    uploading.send(&body[..1 << 20]);
    let mut h2 = gateway.h2();
    let stream = h2.begin("/?delay=1500");
    assert_eventually!(backend.count() == 3);
    gateway.signal("TERM");
    assert_eventually!(std::net::TcpStream::connect(gateway.web()).is_err());
    uploading.send(&body[1 << 20..]).reply().assert_status(200);
    waiting.reply().assert_status(200);
    stream.reply().assert_status(200);
    let uploaded = backend.seen().into_iter().find(|seen| seen.path() == "/up").unwrap();
    assert_eq!(uploaded.body.hash, hash(&body));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn idle_connections_are_ended_at_once() {
    let backend = Backend::start();
    let mut gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.get("/").assert_status(200);
    let h2 = gateway.h2();
    let start = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(client.is_ended());
    assert!(h2.ends());
}

#[test]
fn the_grace_time_ends() {
    let backend = Backend::start();
    let mut gateway = gateway()
        .to(&backend)
        .web("transport: {lifeCycle: {graceTimeOut: 500ms}}")
        .run();
    let mut client = gateway.client();
    client.send("GET /?delay=60000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eventually!(backend.count() == 1);
    let start = Instant::now();
    gateway.signal("TERM");
    gateway.wait();
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(10)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    assert!(client.try_reply("GET").map_or(true, |reply| reply.status >= 500));
}

#[test]
fn requests_are_accepted_for_the_request_accept_grace_timeout() {
    let backend = Backend::start();
    let mut gateway = gateway()
        .to(&backend)
        .web("transport: {lifeCycle: {requestAcceptGraceTimeout: 1500ms}}")
        .run();
    let start = Instant::now();
    gateway.signal("TERM");
    while start.elapsed() < Duration::from_millis(700) {
        gateway.get("/").send().assert_status(200);
    }
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(1300), "{:?}", start.elapsed());
}

#[test]
fn ping_tells_that_the_gateway_ends() {
    let backend = Backend::start();
    let mut gateway = gateway()
        .to(&backend)
        .web("transport: {lifeCycle: {requestAcceptGraceTimeout: 1500ms}}")
        .run();
    gateway.admin("/ping").assert_status(200).assert_body("OK");
    gateway.signal("TERM");
    if gateway::is_gantry() {
        // The admin entry point has no grace time of its own here, so this may come too late to be asked at all.
        assert_eventually!(gateway.try_admin("/ping").is_none_or(|reply| reply.status == 503));
    }
    gateway.wait();
}

#[test]
fn a_second_signal_does_not_wait() {
    only_gantry!();
    let backend = Backend::start();
    for signal in ["TERM", "INT"] {
        backend.forget();
        let mut gateway = gateway()
            .to(&backend)
            .web("transport: {lifeCycle: {graceTimeOut: 60s}}")
            .run();
        let mut client = gateway.client();
        client.send("GET /?delay=60000 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eventually!(backend.count() == 1);
        gateway.signal(signal);
        assert_eventually!(std::net::TcpStream::connect(gateway.web()).is_err());
        assert!(gateway.is_alive());
        let start = Instant::now();
        gateway.signal(signal);
        gateway.wait();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
