//! Bodies: the same bytes with the same framing on the other side, for every pair of protocols.

use crate::harness::backend::pattern;
use crate::harness::h2::H2Backend;
use crate::harness::message::{Framing, hash};
use crate::harness::*;

/// What one side sends: a body and how it is delimited.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Nothing,
    Length(usize),
    Unknown(usize),
}

const SENT: [Sent; 6] = [
    Sent::Nothing,
    Sent::Length(0),
    Sent::Length(1),
    Sent::Length(300_000),
    Sent::Unknown(0),
    Sent::Unknown(300_000),
];

enum Server {
    One(Backend),
    Two(H2Backend),
}

impl Server {
    fn url(&self) -> String {
        match self {
            Self::One(backend) => backend.url(),
            Self::Two(backend) => backend.url(),
        }
    }

    fn last(&self) -> Seen {
        match self {
            Self::One(backend) => backend.last(),
            Self::Two(backend) => backend.last(),
        }
    }
}

fn send(gateway: &Gateway, h2: bool, method: &str, target: &str, sent: Sent) -> Reply {
    let (length, bytes) = match sent {
        Sent::Nothing => (None, None),
        Sent::Length(n) => (Some(n.to_string()), Some(pattern(n))),
        Sent::Unknown(n) => (None, Some(pattern(n))),
    };
    if h2 {
        let headers: Vec<_> = length
            .iter()
            .map(|length| ("content-length", length.as_str()))
            .collect();
        return gateway.h2().send(method, target, &headers, bytes.as_deref());
    }
    let request = gateway.request(method, target);
    match sent {
        Sent::Nothing => request.send(),
        Sent::Length(0) => request.header("Content-Length", "0").send(),
        Sent::Length(_) => request.body(bytes.unwrap_or_default()).send(),
        Sent::Unknown(_) => request.chunked(bytes.unwrap_or_default()).send(),
    }
}

fn each_pair(check: impl Fn(&Gateway, &Server, bool, bool)) {
    for (server, h2_server) in [
        (Server::One(Backend::start()), false),
        (Server::Two(H2Backend::start()), true),
    ] {
        let gateway = gateway().server(&server.url()).run();
        for h2_client in [false, true] {
            check(&gateway, &server, h2_client, h2_server);
        }
    }
}

#[test]
fn request_bodies_keep_their_bytes_and_their_framing() {
    each_pair(|gateway, server, h2_client, h2_server| {
        for method in ["PUT", "PATCH", "GET"] {
            for sent in SENT {
                let what = format!("h2 client {h2_client}, h2 server {h2_server}: {method} {sent:?}");
                send(gateway, h2_client, method, "/", sent)
                    .assert_status(200)
                    .assert_body("hello");
                let seen = server.last();
                let (bytes, framings): (_, &[Framing]) = match sent {
                    // No body and a length of zero mean the same (RFC 9110 section 8.6).
                    Sent::Nothing | Sent::Length(0) => (0, &[Framing::Length(0), Framing::None]),
                    Sent::Length(n) => (n, &[Framing::Length(n as u64)]),
                    // An end known before the head was forwarded is as good as a length.
                    Sent::Unknown(0) => (
                        0,
                        &[Framing::Chunked, Framing::Stream, Framing::None, Framing::Length(0)],
                    ),
                    Sent::Unknown(n) => (
                        n,
                        if h2_server {
                            &[Framing::Stream]
                        } else {
                            &[Framing::Chunked]
                        },
                    ),
                };
                assert!(framings.contains(&seen.framing), "{what}: {:?}", seen.framing);
                assert_eq!(seen.method, method);
                assert_eq!(
                    (seen.body.len, seen.body.hash),
                    (bytes as u64, hash(&pattern(bytes))),
                    "{what}"
                );
            }
        }
    });
}

#[test]
fn a_post_without_a_body_says_so() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.post("/", "").send().assert_status(200);
    assert_eq!(backend.last().framing, Framing::Length(0));
}

#[test]
fn answers_keep_their_bytes_and_their_framing() {
    each_pair(|gateway, _, h2_client, h2_server| {
        for (target, length, known) in [
            ("/?n=0", 0, true),
            ("/?n=1", 1, true),
            ("/?n=300000", 300_000, true),
            ("/?n=300000&chunked", 300_000, false),
        ] {
            let what = format!("h2 client {h2_client}, h2 server {h2_server}: {target}");
            let reply = send(gateway, h2_client, "GET", target, Sent::Nothing);
            reply.assert_status(200);
            assert!(reply.whole, "{what}");
            assert_eq!(
                (reply.body.len, reply.body.hash),
                (length, hash(&pattern(length as usize))),
                "{what}"
            );
            let wanted = match (known, h2_client) {
                (true, _) => Framing::Length(length),
                (false, true) => Framing::Stream,
                (false, false) => Framing::Chunked,
            };
            assert_eq!(reply.framing, wanted, "{what}");
        }
    });
}

#[test]
fn answers_without_a_body() {
    each_pair(|gateway, _, h2_client, h2_server| {
        let what = format!("h2 client {h2_client}, h2 server {h2_server}");
        let reply = send(gateway, h2_client, "HEAD", "/?n=300000", Sent::Nothing);
        reply.assert_status(200);
        assert_eq!(reply.header("content-length"), Some("300000"), "{what}");
        for status in [204, 304] {
            let target = format!("/?status={status}&header=ETag:x");
            let reply = send(gateway, h2_client, "GET", &target, Sent::Nothing);
            reply.assert_status(status).assert_body("");
            assert_eq!(reply.header("content-length"), None, "{what}: {status}");
            assert_eq!(reply.header("etag"), Some("x"), "{what}: {status}");
        }
    });
}

#[test]
fn a_connection_stays_in_step_after_each_kind_of_answer() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    for round in 0..3 {
        for target in ["/?n=10", "/?n=2000&chunked", "/?status=204", "/?status=304", "/?n=0"] {
            let reply = client.get(target);
            assert!(reply.whole && reply.status < 400, "{round} {target}");
        }
        client
            .send("HEAD /?n=5 HTTP/1.1\r\nHost: a\r\n\r\n")
            .try_reply("HEAD")
            .unwrap()
            .assert_status(200);
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let backend = Scripted::answering_once("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    let gateway = gateway().server(&backend.url()).run();
    let reply = gateway.get("/").send();
    assert_eq!(
        (reply.text().as_str(), reply.framing, reply.whole),
        ("until the end", Framing::Chunked, true)
    );
}

#[test]
fn trailers_of_the_answer_reach_an_h2_client() {
    let backend = H2Backend::start();
    let gateway = gateway().server(&backend.url()).run();
    let reply = gateway.h2().send(
        "GET",
        "/?chunked&n=10&trailer=X-Model-Dice:0.97",
        &[("te", "trailers")],
        None,
    );
    reply.assert_status(200);
    assert_eq!(reply.body.trailers, [("x-model-dice".to_owned(), "0.97".to_owned())]);
}

#[test]
fn trailers_of_the_answer_reach_an_http1_client_that_wants_them() {
    only_gantry!();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Model-Dice\r\n\r\n\
                  2\r\nok\r\n0\r\nX-Model-Dice: 0.97\r\n\r\n";
    for (te, trailers) in [("TE: trailers\r\n", 1), ("", 0)] {
        let backend = Scripted::answering_once(answer);
        let gateway = gateway().server(&backend.url()).run();
        let reply = gateway
            .client()
            .send(format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\n"))
            .reply();
        assert_eq!((reply.text().as_str(), reply.whole), ("ok", true));
        assert_eq!(reply.body.trailers.len(), trailers, "{te}");
    }
}

#[test]
fn large_bodies_flow_both_ways_without_being_held() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.post("/", pattern(1 << 20)).send().assert_status(200);
    let before = gateway.resident();
    let body = pattern(64 << 20);
    gateway.post("/?n=10", body.clone()).send().assert_status(200);
    assert_eq!(backend.last().body.hash, hash(&body));
    let reply = gateway.get("/?n=67108864").send();
    assert_eq!((reply.body.len, reply.body.hash), (64 << 20, hash(&body)));
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{} MiB more resident", grown >> 20);
}

#[test]
fn expect_continue_is_answered_once_the_body_is_wanted() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(
        client.read("HTTP/1.1 100 Continue\r\n\r\n".len()),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.send("abc").reply().assert_status(200);
    assert_eq!(backend.last().body.bytes, b"abc");
}
