//! Raw bytes in, raw bytes out: requests to a scripted server on a loopback socket.

use std::sync::Arc;

use ::http::HeaderMap;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::http::body::RequestBody;
use crate::service::server::{Server, fixture};
use crate::upstream::http1_head::write_request;
use crate::upstream::pool::Pools;
use crate::upstream::pump::Framing;

/// What an exchange came to.
#[derive(Debug, Default, PartialEq)]
struct Told {
    status: u16,
    body: String,
    trailers: Option<HeaderMap>,
    /// The body ended in an error.
    broken: bool,
    /// Connections that came back to the pool.
    idle: usize,
}

struct Pair {
    pools: Rc<Pools>,
    server: Arc<Server>,
    near: TcpStream,
    far: TcpStream,
    options: SendOptions,
}

async fn pair() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    let near = TcpStream::connect(address).await.expect("a connection");
    let (far, _) = listener.accept().await.expect("a peer");
    let deadlines = Deadlines::new();
    let options = SendOptions {
        upgrading: false,
        header_timeout: Duration::ZERO,
        interim: None,
        deadlines: Rc::clone(&deadlines),
    };
    Pair {
        pools: Pools::new(deadlines, crate::observe::metrics::IdleConnections::default()),
        server: fixture(address.port()),
        near,
        far,
        options,
    }
}

fn pump(method: &Method, body: RequestBody) -> Pump {
    let framing = Framing::of(method, &body);
    let mut head = Vec::new();
    write_request(&mut head, method, ("", None), b"h", &HeaderMap::new(), framing, None);
    Pump::new(head, body, framing)
}

/// Sends a request with `body` to a server that reads it whole, says `script`, and closes if `close`.
async fn exchange(method: Method, body: RequestBody, script: &[u8], close: bool) -> Result<Told, SendError> {
    let Pair {
        pools,
        server,
        near,
        mut far,
        options,
    } = pair().await;
    let ticket = Ticket::new(Rc::clone(&pools), server);
    far.write_all(script).await.expect("room");
    if close {
        far.shutdown().await.expect("a connection");
    }
    let wire = Box::new(Wire::new(Stream::Plain(near)));
    let answer = send(wire, &method, pump(&method, body), ticket, &options).await?;
    let Answer::Response(head, mut body) = answer else {
        panic!("an upgrade")
    };
    let mut told = Told {
        status: head.status.as_u16(),
        ..Told::default()
    };
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => told.body.push_str(std::str::from_utf8(&data).expect("text")),
            Ok(Err(frame)) => told.trailers = frame.into_trailers().ok(),
            Err(_) => {
                told.broken = true;
                break;
            }
        }
    }
    drop(body);
    told.idle = pools.idle();
    Ok(told)
}

async fn get(script: &str) -> Told {
    exchange(Method::GET, RequestBody::Empty, script.as_bytes(), false)
        .await
        .expect(script)
}

#[tokio::test]
async fn an_answer_ends_where_its_framing_says_and_its_connection_is_kept() {
    for (script, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            "a",
        ),
    ] {
        let told = get(script).await;
        assert_eq!(
            (told.status, told.body.as_str(), told.broken, told.idle),
            (200, body, false, 1),
            "{script}"
        );
    }
    for script in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    ] {
        assert_eq!(get(script).await.idle, 1, "{script}");
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_never_reach_the_next_request() {
    for script in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nevil",
    ] {
        assert_eq!(get(script).await.idle, 0, "{script}");
    }
    let script = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let head = exchange(Method::HEAD, RequestBody::Empty, script, false)
        .await
        .expect("an answer");
    assert_eq!((head.body.as_str(), head.idle), ("", 0));
}

#[tokio::test]
async fn a_connection_that_says_close_or_is_ambiguous_is_not_kept() {
    for (script, body) in [
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
            "a",
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", "a"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "a",
        ),
    ] {
        let told = get(script).await;
        assert_eq!(
            (told.body.as_str(), told.broken, told.idle),
            (body, false, 0),
            "{script}"
        );
    }
    let until_close = exchange(Method::GET, RequestBody::Empty, b"HTTP/1.1 200 OK\r\n\r\nall", true).await;
    let told = until_close.expect("an answer");
    assert_eq!((told.body.as_str(), told.broken, told.idle), ("all", false, 0));
}

#[tokio::test]
async fn a_cut_body_is_an_error_and_no_end() {
    for script in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX",
    ] {
        let told = exchange(Method::GET, RequestBody::Empty, script.as_bytes(), true)
            .await
            .expect(script);
        assert!(
            told.broken && told.body == "abc" && told.idle == 0,
            "{script}: {told:?}"
        );
    }
}

#[tokio::test]
async fn trailers_come_through() {
    let told = get("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-T: v\r\n\r\n").await;
    assert_eq!(told.trailers.expect("trailers")["x-t"], "v");
    assert_eq!(told.idle, 1);
}

#[tokio::test]
async fn what_is_no_answer_is_told_apart() {
    let garbage = exchange(Method::GET, RequestBody::Empty, b"<html>\r\n\r\n", false).await;
    assert!(matches!(garbage, Err(SendError::Garbage(_))), "{garbage:?}");
    for script in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let protocol = exchange(Method::GET, RequestBody::Empty, script.as_bytes(), true).await;
        assert!(
            matches!(protocol, Err(SendError::Protocol(_))),
            "{script}: {protocol:?}"
        );
    }
    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(2000);
    let flood = exchange(Method::GET, RequestBody::Empty, flood.as_bytes(), false).await;
    assert!(matches!(flood, Err(SendError::Protocol(_))), "{flood:?}");
    let closed = exchange(Method::GET, RequestBody::Empty, b"", true).await;
    assert!(matches!(closed, Err(SendError::Closed { .. })), "{closed:?}");
}

/// A server that answers before it has read the body: its answer counts, and its connection is not kept.
#[tokio::test]
async fn an_early_answer_counts() {
    let script = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\nno";
    let told = exchange(Method::POST, RequestBody::boxed(Never), script, false)
        .await
        .expect("an answer");
    assert_eq!((told.status, told.body.as_str(), told.idle), (413, "no", 0));
}

/// A body whose bytes never come.
struct Never;

impl http_body::Body for Never {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Pending
    }
}
