//! Raw bytes in; a verdict, and what the backend saw, out (threats.md, sections 1 and 2).
//!
//! The fixtures in `tests/fixtures/wire` hold one request each. The first line says what has to happen:
//! `refuse STATUS…` (one of them, or the connection is just ended; nothing reaches the backend),
//! `forward N TARGET…` (N requests reach the backend, with these targets), or `safe` (either; but what reaches the
//! backend has clean framing and no more requests than the gateway answered). `gantry` behind it: other gateways
//! differ. In the rest, line ends count as CR LF, and `\r \n \0 \t \xNN` mean the byte.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::harness::*;

/// How long nothing must come before a gateway counts as silent.
const SILENCE: Duration = Duration::from_millis(700);

#[derive(Debug)]
struct Case {
    name: String,
    verdict: Vec<String>,
    only_gantry: bool,
    bytes: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let mut verdict: Vec<_> = first.split(' ').map(str::to_owned).collect();
    let only_gantry = verdict.last().is_some_and(|word| word == "gantry");
    if only_gantry {
        verdict.pop();
    }
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    Case {
        name,
        verdict,
        only_gantry,
        bytes: unescape(rest),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' => bytes.extend_from_slice(b"\r\n"),
            '\\' => match rest.next().unwrap() {
                'r' => bytes.push(b'\r'),
                'n' => bytes.push(b'\n'),
                '0' => bytes.push(0),
                't' => bytes.push(b'\t'),
                // A line that goes on: neither byte.
                '\n' => {}
                'x' => {
                    let hex: String = rest.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&hex, 16).unwrap());
                }
                other => panic!("unknown escape {other}"),
            },
            c => bytes.extend_from_slice(c.to_string().as_bytes()),
        }
    }
    bytes
}

/// At most `most` answers, as far as they come before the connection ends or falls silent; and whether it did that.
fn answers(gateway: &Gateway, bytes: &[u8], most: usize) -> (Vec<Reply>, bool) {
    let mut client = gateway.client();
    client.patience(SILENCE);
    // What is refused need not be read to its end. (A half-closed connection would count as a client that went.)
    let _refused = client.try_send(bytes);
    let mut replies = Vec::new();
    while replies.len() < most {
        match client.try_reply("GET") {
            Ok(reply) => replies.push(reply),
            Err(error) => {
                return (
                    replies,
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                );
            }
        }
    }
    (replies, false)
}

#[test]
fn fixtures() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| !case.only_gantry || gateway::is_gantry()) {
        backend.forget();
        let most = match case.verdict[0].as_str() {
            "forward" => case.verdict.len() - 1,
            "refuse" => 1,
            _ => 3,
        };
        let (replies, silent) = answers(&gateway, &case.bytes, most);
        assert_eventually!(backend.is_idle(), "{}", case.name);
        // The next request on a new connection must find the gateway and the backend in step.
        let marker = format!("/marker/{}", case.name);
        let after = gateway.get(&marker).send();
        assert_eventually!(backend.is_idle(), "{}", case.name);
        let seen = backend.seen();
        // What never came to its end at the backend was answered to nobody.
        let seen: Vec<_> = seen
            .iter()
            .filter(|seen| case.verdict[0] != "safe" || seen.outcome == Outcome::Answered)
            .collect();
        let targets: Vec<_> = seen.iter().map(|seen| seen.target.as_str()).collect();
        let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
        let judged = judge(case, &statuses, &targets, &marker, after.status);
        let hangs = silent && case.verdict[0] == "refuse";
        if let Err(why) = judged.and(if hangs {
            Err("neither an answer nor an end")
        } else {
            Ok(())
        }) {
            wrong.push(format!(
                "{}: {why}; wanted {:?}, answers {statuses:?}, backend {targets:?}",
                case.name, case.verdict
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn judge(case: &Case, statuses: &[u16], targets: &[&str], marker: &str, after: u16) -> Result<(), &'static str> {
    let [targets @ .., last] = targets else {
        return Err("the marker did not arrive");
    };
    if after != 200 || *last != marker {
        return Err("the next request was harmed");
    }
    if targets.iter().any(|target| target.contains("smuggled")) {
        return Err("smuggled");
    }
    match case.verdict[0].as_str() {
        "refuse" => {
            let allowed: Vec<u16> = case.verdict[1..].iter().map(|status| status.parse().unwrap()).collect();
            if !targets.is_empty() {
                return Err("reached the backend");
            }
            if !statuses.iter().all(|status| allowed.contains(status)) || statuses.len() > 1 {
                return Err("another answer");
            }
            Ok(())
        }
        "forward" => {
            let wanted: Vec<_> = case.verdict[1..].iter().map(String::as_str).collect();
            if targets != wanted {
                Err("other requests")
            } else {
                Ok(())
            }
        }
        "safe" if targets.len() > statuses.len() => Err("more requests than answers"),
        "safe" => Ok(()),
        other => panic!("unknown verdict {other}"),
    }
}

#[test]
fn a_request_with_both_lengths_is_the_last_of_its_connection() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let reply = client.reply();
    reply.assert_status(200);
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(client.is_ended());
    assert_eq!(
        backend.last().head.all("content-length").len() + backend.last().head.all("transfer-encoding").len(),
        1
    );
}

#[test]
fn the_body_of_a_refused_request_is_never_read_as_a_request() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/only`)");
    let gateway = gateway().dynamic(&yaml).run();
    let hidden = "GET /only HTTP/1.1\r\nHost: a\r\n\r\n";
    let bytes = format!(
        "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let (replies, _) = answers(&gateway, bytes.as_bytes(), 2);
    assert_eq!(replies.len(), 1);
    replies[0].assert_status(404);
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_body_that_breaks_its_chunks_ends_the_backends_request_uncleanly() {
    for broken in [
        "5\r\nhello\r\nZZ\r\n",
        "5\r\nhelloX",
        "5;\nx\r\nhello\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let backend = Backend::start();
        let gateway = gateway().to(&backend).run();
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{broken}");
        let (replies, _) = answers(&gateway, bytes.as_bytes(), 2);
        assert!(
            replies.iter().all(|reply| reply.status >= 400),
            "{broken:?}: {replies:?}"
        );
        assert_eventually!(
            backend.seen().iter().all(|seen| seen.outcome == Outcome::Gone),
            "{broken:?}"
        );
    }
}

#[test]
fn a_second_answer_of_the_backend_goes_to_nobody() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let backend = Scripted::answering(two);
    let gateway = gateway().server(&backend.url()).run();
    let mut client = gateway.client();
    for _ in 0..5 {
        client.get("/").assert_status(200).assert_body("first");
    }
}

#[test]
fn an_answer_that_comes_while_the_connection_is_idle_goes_to_nobody() {
    let (late, arrived) = std::sync::mpsc::channel();
    let late = std::sync::Mutex::new(late);
    let backend = Scripted::start(move |connection| {
        while connection.request().is_some() {
            if connection
                .write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
                .is_err()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
            let _closed = connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            let _unheard = late.lock().unwrap().send(());
        }
    });
    let gateway = gateway().server(&backend.url()).run();
    let mut client = gateway.client();
    for _ in 0..3 {
        client.get("/").assert_status(200).assert_body("first");
        arrived.recv_timeout(DEADLINE).unwrap();
    }
}

#[test]
fn h2_requests_that_are_malformed_never_reach_the_backend() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for (name, value) in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
    ] {
        let answer = gateway.h2().try_send("GET", "/", &[(name, value)], None);
        let refused = answer.as_ref().map_or(true, |reply| reply.status == 400);
        assert!(
            refused || (name == "te" && backend.last().header("te").is_none()),
            "{name}: {answer:?}"
        );
    }
    let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
    gateway.h2().send("GET", "/", &cookies, None).assert_status(200);
    assert_eq!(backend.last().head.all("cookie"), ["a=1; b=2"]);
}
