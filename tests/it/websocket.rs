//! Upgrades: WebSocket and whatever else two ends agree on.

use crate::harness::backend::accept_key;
use crate::harness::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn upgrade(protocol: &str, more: &str) -> String {
    format!(
        "GET /chat{more} HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

#[test]
fn a_websocket_is_opened_and_bytes_flow_both_ways() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    let reply = client.send(upgrade("websocket", "")).reply();
    reply.assert_status(101);
    assert_eq!(reply.header("upgrade"), Some("websocket"));
    assert_eq!(reply.header("sec-websocket-accept"), Some(accept_key(KEY).as_str()));
    for text in ["hello", "again", &"x".repeat(50_000)] {
        assert_eq!(client.send(text).read(text.len()), text);
    }
    let seen = backend.last();
    assert_eq!(seen.header("x-forwarded-proto"), Some("ws"));
    assert_eq!(
        seen.header("connection").map(str::to_ascii_lowercase).as_deref(),
        Some("upgrade")
    );
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
}

#[test]
fn another_protocol_is_as_good() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.send(upgrade("myproto", "")).reply().assert_status(101);
    assert_eq!(client.send("raw").read(3), "raw");
}

#[test]
fn a_refusal_is_an_ordinary_answer() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    let reply = client.send(upgrade("websocket", "?noup&status=426&n=3")).reply();
    reply.assert_status(426);
    assert_eq!(reply.body.len, 3);
}

#[test]
fn the_end_of_one_side_ends_the_other() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.send(upgrade("websocket", "")).reply().assert_status(101);
    drop(client);
    assert_eventually!(backend.last().outcome != Outcome::Running);
    let closing = Scripted::start(|connection| {
        connection.head();
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye";
        let _gone = connection.write(head.as_bytes());
    });
    let gateway = crate::harness::gateway().server(&closing.url()).run();
    let mut client = gateway.client();
    client.send(upgrade("websocket", "")).reply().assert_status(101);
    assert_eq!(client.read(3), "bye");
    assert!(client.is_ended());
}

#[test]
fn an_open_tunnel_survives_a_reload() {
    let (one, two) = (Backend::start(), Backend::start());
    let gateway = gateway().to(&one).run();
    let mut client = gateway.client();
    client.send(upgrade("websocket", "")).reply().assert_status(101);
    assert_eq!(client.send("before").read(6), "before");
    gateway.reload(&gateway::all_to(&[&two.url()]));
    assert_eventually!(gateway.get("/").send().status == 200 && two.count() > 0);
    assert_eq!(client.send("after").read(5), "after");
}

#[test]
fn a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let backend =
        Scripted::answering_once("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    let gateway = gateway().server(&backend.url()).run();
    let reply = gateway.get("/").send();
    assert!(matches!(reply.status, 500 | 502), "{reply:?}");
}

#[test]
fn bytes_behind_an_upgrade_wait_for_the_101() {
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    let reply = client.send(upgrade("websocket", "?noup") + hidden).reply();
    reply.assert_status(200);
    // What follows is another request of this client or nothing at all, but never one of a tunnel.
    let _second = client.try_reply("GET");
    assert!(
        backend
            .seen()
            .iter()
            .all(|seen| !seen.target.contains("smuggled") || seen.header("x-real-ip").is_some())
    );
}
