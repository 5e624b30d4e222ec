//! Status codes and bodies of what goes wrong (reference, C1).

use std::time::{Duration, Instant};

use crate::harness::*;

#[track_caller]
fn assert_plain(reply: &Reply, status: u16, body: &str) {
    reply.assert_status(status).assert_body(body);
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
}

#[track_caller]
fn assert_bare(reply: &Reply, status: u16, body: &str) {
    reply.assert_status(status).assert_body(body);
    assert_eq!(reply.header("content-type"), None);
}

#[test]
fn no_router() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/only`)");
    let gateway = gateway().dynamic(&yaml).run();
    assert_plain(&gateway.get("/").send(), 404, "404 page not found\n");
    assert_plain(&gateway.post("/", "body").send(), 404, "404 page not found\n");
    gateway
        .h2()
        .get("/x")
        .assert_status(404)
        .assert_body("404 page not found\n");
    gateway.get("/only").send().assert_status(200);
}

#[test]
fn no_server() {
    let gateway = gateway().dynamic(&gateway::all_to(&[])).run();
    assert_plain(&gateway.get("/").send(), 503, "no available server\n");
}

#[test]
fn connection_refused() {
    let down = format!("http://{}", Backend::down());
    let gateway = gateway().server(&down).run();
    assert_bare(&gateway.get("/").send(), 502, "Bad Gateway");
    assert_bare(&gateway.post("/", "abc").send(), 502, "Bad Gateway");
    let reply = gateway.request("HEAD", "/").send();
    reply.assert_status(502).assert_body("");
    gateway.h2().get("/").assert_status(502).assert_body("Bad Gateway");
}

#[test]
fn a_name_that_does_not_resolve() {
    let gateway = gateway().server("http://no-such-host.invalid").run();
    assert_bare(&gateway.get("/").send(), 502, "Bad Gateway");
}

#[test]
fn resets_ends_and_rubbish_of_the_backend() {
    let backend = Scripted::answering_once("");
    let gateway = gateway().server(&backend.url()).run();
    assert_bare(&gateway.post("/", "x").send(), 502, "Bad Gateway");
    // Traefik says 500 to some of these; what counts is that none of it reaches the client.
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "rubbish\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad field\r\n\r\n",
    ] {
        let backend = Scripted::answering_once(answer);
        let gateway = crate::harness::gateway().server(&backend.url()).run();
        let reply = gateway.post("/", "x").send();
        assert!(matches!(reply.status, 500 | 502), "{answer:?}: {reply:?}");
    }
    let backend = Scripted::start(|connection| {
        connection.request();
        connection.reset();
    });
    let gateway = crate::harness::gateway().server(&backend.url()).run();
    assert_bare(&gateway.post("/", "x").send(), 502, "Bad Gateway");
}

#[test]
fn no_answer_in_time() {
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .top("serversTransport: {forwardingTimeouts: {responseHeaderTimeout: 200ms}}")
        .run();
    assert_bare(&gateway.get("/?delay=3000").send(), 504, "Gateway Timeout");
    gateway.get("/").send().assert_status(200);
    assert_eventually!(backend.seen()[0].outcome == Outcome::Gone);
}

#[test]
fn no_connection_in_time() {
    // An address of TEST-NET on the loopback's route would need the network; a full backlog does not.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..8)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _pending = socket.connect(&address.into());
            socket
        })
        .collect();
    let gateway = gateway()
        .server(&format!("http://{address}"))
        .top("serversTransport: {forwardingTimeouts: {dialTimeout: 300ms}}")
        .run();
    let start = Instant::now();
    assert_bare(&gateway.get("/").send(), 504, "Gateway Timeout");
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
}

#[test]
fn a_cut_answer_is_not_made_whole() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let reply = gateway.get("/?n=100000&cut").send();
    reply.assert_status(200);
    assert!(!reply.whole);
    let reply = gateway.h2().get("/?n=100000&cut");
    assert!(!reply.whole);
    let cut = Scripted::answering_once("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let gateway = crate::harness::gateway().server(&cut.url()).run();
    let reply = gateway.get("/").send();
    assert_eq!((reply.status, reply.whole), (200, false));
}

#[test]
fn an_idle_connection_that_the_backend_closed_is_not_an_error() {
    let mut backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for _ in 0..5 {
        gateway.get("/").send().assert_status(200);
        backend.stop();
        backend.restart();
        gateway.post("/", "x").send().assert_status(200);
    }
}

#[test]
fn a_get_is_tried_again_when_a_kept_connection_turns_out_dead_and_a_post_never_twice() {
    // Answers the first request of a connection, and ends it on reading the second.
    let backend = Scripted::start(|connection| {
        if connection.request().is_some() {
            let _gone = connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            connection.head();
        }
    });
    let gateway = gateway().server(&backend.url()).run();
    let mut client = gateway.client();
    client.get("/1").assert_status(200);
    client.get("/2").assert_status(200);
    client
        .send("POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        .reply()
        .assert_status(502);
    let posts = backend
        .heads()
        .iter()
        .filter(|head| head.first.starts_with("POST"))
        .count();
    assert_eq!(posts, 1);
}

#[test]
fn a_certificate_that_cannot_be_verified_is_a_bad_gateway() {
    only_gantry!();
    let backend = Scripted::answering_once("not TLS");
    let gateway = gateway().server(&backend.url().replace("http", "https")).run();
    assert_bare(&gateway.get("/").send(), 502, "Bad Gateway");
}

#[test]
fn broken_objects_take_only_their_routers_away() {
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers:\n    rule: {{rule: \"Pfad(`/rule`)\", service: s}}\n    service: {{rule: \
             \"PathPrefix(`/service`)\", service: none}}\n    middleware: {{rule: \"PathPrefix(`/middleware`)\", \
             service: s, middlewares: [none]}}\n    regex: {{rule: \"PathRegexp(`/reg(ex`)\", service: s}}\n    ok: \
             {{rule: \"PathPrefix(`/ok`)\", service: s}}\n  services: {{s: {{loadBalancer: {{servers: [{{url: \
             \"{}\"}}]}}}}}}\n",
            backend.url()
        ))
        .run();
    for path in ["/rule", "/service", "/middleware", "/regex"] {
        gateway.get(path).send().assert_status(404);
    }
    gateway.get("/ok").send().assert_status(200);
}

#[test]
fn the_answer_of_an_early_backend_arrives_although_it_does_not_read() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let reply = gateway.post("/?early&status=413&n=7", backend::pattern(3 << 20)).send();
    reply.assert_status(413);
    assert_eq!(reply.body.len, 7);
}
