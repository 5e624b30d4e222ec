//! One request without a body and its answer, on a connection of its own: for what Gantry itself asks of servers, such
//! as health and metrics. What clients ask goes through [`forward`](super::forward), which reuses connections.
//!
//! Runs on the control thread as well as on workers, so nothing here belongs to either. Dropping the future ends the
//! connection.

use std::time::Duration;

use ::http::uri::Authority;
use ::http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::dns::Dns;
use crate::http::content_coding::{Coding, InflateError};
use crate::service::server::{Scheme, Server};
use crate::tls::client::ClientTls;
use crate::tls::server::Alpn;

/// Most redirects that [`get`] follows, from `/metrics` to `/metrics/` for example.
const MAX_REDIRECTS: usize = 3;
/// 0.0.4 is what every library writes; a server that has OpenMetrics only may send that.
const ACCEPT: &str = "text/plain;version=0.0.4, application/openmetrics-text;version=1.0.0;q=0.5, */*;q=0.1";
const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));
/// How long a server may take, as Prometheus tells it too.
pub const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// Why there is nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, no answer, or one that broke off.
    #[error("{0}")]
    Unreachable(String),
    /// The time was over.
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// Another status than 200.
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    /// More bytes than are taken.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// A `Content-Encoding` that is not gzip, or gzip that is broken.
    #[error("{0}")]
    Encoding(String),
}

/// A URL on a host. `scheme` may be `h2c`, which is `http` in a URL.
///
/// # Errors
/// When the parts make no URL.
pub fn url(scheme: &str, host: &str, port: u16, path: &str) -> Result<Uri, String> {
    let scheme = if scheme == "h2c" { "http" } else { scheme };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let host = Server::bracketed(host);
    let text = format!("{scheme}://{host}:{port}{slash}{path}");
    text.parse().map_err(|e| format!("{text}: {e}"))
}

/// Connects to the host of `uri` and sends what `request` makes; it is told whether the connection speaks HTTP/2.
/// There is no time limit here.
///
/// # Errors
/// With the last reason why there is no answer.
pub async fn send(
    dns: &Dns,
    tls: &ClientTls,
    uri: &Uri,
    h2c: bool,
    request: impl Fn(bool) -> Result<Request<Empty<Bytes>>, String>,
) -> Result<Response<Incoming>, String> {
    let host = uri.host().ok_or("no host")?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let mut last = "no address".to_owned();
    for ip in dns.lookup(host).await.map_err(|e| e.to_string())? {
        match TcpStream::connect((ip, port)).await {
            Ok(tcp) if secure => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let connected = tls.connect(tcp, bare, false).await;
                let (tls, alpn) = connected.map_err(|e| e.to_string())?;
                let h2 = alpn == Alpn::H2;
                return exchange(TokioIo::new(tls), h2, request(h2)?).await;
            }
            Ok(tcp) => return exchange(TokioIo::new(tcp), h2c, request(h2c)?).await,
            Err(e) => last = e.to_string(),
        }
    }
    Err(last)
}

async fn exchange<I>(io: I, h2: bool, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    if h2 {
        let handshake = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        return sender.send_request(request).await.map_err(|e| e.to_string());
    }
    let (mut sender, connection) = http1::handshake(io).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// Gives `request` its target: the path over HTTP/1.1, the whole URL with `host` over HTTP/2.
///
/// # Errors
/// When `host` is none.
pub fn aim(request: &mut Request<Empty<Bytes>>, uri: &Uri, host: HeaderValue, h2: bool) -> Result<(), String> {
    if h2 {
        let mut parts = uri.clone().into_parts();
        parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|e| e.to_string())?);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|e| e.to_string())?;
    } else {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

/// A 200 whose body was not read yet.
#[derive(Debug)]
pub struct Answer {
    response: Response<Incoming>,
    until: Instant,
    limit: Duration,
}

/// What a server sent, still compressed.
#[derive(Debug)]
pub struct Fetched {
    /// The `Content-Type`, empty where there is none.
    pub content_type: String,
    coding: Coding,
    body: Bytes,
}

/// Asks `server` for the metrics at `path`. `limit` is for everything until the body's end.
///
/// Redirects are followed on the server itself; a server cannot send Gantry anywhere else.
///
/// # Errors
/// See [`FetchError`].
pub async fn get(dns: &Dns, server: &Server, path: &str, limit: Duration) -> Result<Answer, FetchError> {
    let until = Instant::now() + limit;
    let h2c = server.scheme == Scheme::H2c;
    let mut uri = url(server.scheme.as_str(), &server.host, server.port, path).map_err(FetchError::Unreachable)?;
    for _ in 0..=MAX_REDIRECTS {
        let make = |h2| request(server, &uri, limit, h2);
        let sent = timeout_at(until, send(dns, &server.transport.tls, &uri, h2c, make)).await;
        let response = sent
            .map_err(|_| FetchError::Timeout(limit))?
            .map_err(FetchError::Unreachable)?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Answer { response, until, limit });
        }
        let location = response
            .headers()
            .get(header::LOCATION)
            .filter(|_| status.is_redirection());
        let next = location.and_then(|location| redirected(server, &uri, location));
        uri = next.ok_or(FetchError::Status(status))?;
    }
    Err(FetchError::Unreachable(format!("more than {MAX_REDIRECTS} redirects")))
}

fn request(server: &Server, uri: &Uri, limit: Duration, h2: bool) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::new(Empty::new());
    aim(&mut request, uri, server.authority.clone(), h2)?;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let seconds = HeaderValue::try_from(format!("{:.3}", limit.as_secs_f64()));
    headers.insert(SCRAPE_TIMEOUT, seconds.map_err(|e| e.to_string())?);
    Ok(request)
}

/// Where a redirect leads, if that is on the server.
fn redirected(server: &Server, from: &Uri, location: &HeaderValue) -> Option<Uri> {
    let location: Uri = location.to_str().ok()?.parse().ok()?;
    let here = location
        .authority()
        .is_none_or(|to| to.as_str().as_bytes() == server.authority.as_bytes() || Some(to) == from.authority());
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(location.into_parts().path_and_query?);
    Uri::from_parts(parts).ok().filter(|_| here)
}

impl Answer {
    /// Reads the body, of at most `max` bytes as they come.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn read(self, max: usize) -> Result<Fetched, FetchError> {
        let limit = self.limit;
        let read = timeout_at(self.until, body(self.response, max)).await;
        read.unwrap_or(Err(FetchError::Timeout(limit)))
    }
}

async fn body(response: Response<Incoming>, max: usize) -> Result<Fetched, FetchError> {
    let text = |name| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().trim().to_owned()
    };
    let content_type = text(header::CONTENT_TYPE);
    let encoding = text(header::CONTENT_ENCODING);
    let coding = Coding::of(Some(&encoding));
    if !matches!(coding, Coding::Plain | Coding::Gzip) {
        let message = format!("the encoding {encoding:?} was not asked for");
        return Err(FetchError::Encoding(message));
    }
    let mut incoming = response.into_body();
    let mut body = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|e| FetchError::Unreachable(format!("the answer broke off: {e}")))?;
        if let Some(data) = frame.data_ref() {
            if body.len() + data.len() > max {
                return Err(FetchError::TooLarge(max));
            }
            body.extend_from_slice(data);
        }
    }
    let body = body.freeze();
    Ok(Fetched {
        content_type,
        coding,
        body,
    })
}

impl Fetched {
    /// The body, inflated to at most `max` bytes. Takes a while for a large one: not for a worker's own thread.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn inflate(self, max: usize) -> Result<Bytes, FetchError> {
        if self.coding == Coding::Plain {
            return Ok(self.body);
        }
        let inflated = self.coding.inflate(&self.body, max);
        inflated.map(Bytes::from).map_err(|error| match error {
            InflateError::TooLarge => FetchError::TooLarge(max),
            error => FetchError::Encoding(format!("broken gzip: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::service::server::fixture;

    /// Answers each connection in turn, and gives what was asked.
    async fn serve(answers: Vec<Vec<u8>>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                asked.push(String::from_utf8(head).expect("UTF-8"));
                let _ = stream.write_all(&answer).await;
                if answer.is_empty() {
                    // Hangs until the other side goes.
                    let _ = stream.read_u8().await;
                }
            }
            asked
        });
        (port, serving)
    }

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        let mut answer = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
        answer.extend_from_slice(body);
        answer
    }

    async fn fetch(answers: Vec<Vec<u8>>, max: usize, limit: Duration) -> (Result<Bytes, FetchError>, Vec<String>) {
        let (port, serving) = serve(answers).await;
        let (dns, server) = (Dns::default(), fixture(port));
        let fetched = async {
            let answer = get(&dns, &server, "/metrics?a=b", limit).await?;
            answer.read(max).await?.inflate(max)
        };
        (fetched.await, serving.await.expect("the server"))
    }

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn an_answer_is_read_plain_or_inflated() {
        let (body, asked) = fetch(vec![answer("200 OK", b"a 1\n")], 100, LONG).await;
        assert_eq!(body, Ok(Bytes::from_static(b"a 1\n")));
        for part in [
            "GET /metrics?a=b HTTP/1.1\r\n",
            "host: h\r\n",
            "accept-encoding: gzip\r\n",
            "seconds: 10.000\r\n",
        ] {
            assert!(asked[0].contains(part), "{asked:?}");
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b'#'; 1 << 20]).expect("bytes");
        let bomb = gzip.finish().expect("bytes");
        let head = "200 OK\r\nContent-Encoding: gzip";
        let (body, _) = fetch(vec![answer(head, &bomb)], 1 << 20, LONG).await;
        assert_eq!(body.map(|b| b.len()), Ok(1 << 20));
        let (body, _) = fetch(vec![answer(head, &bomb)], (1 << 20) - 1, LONG).await;
        assert_eq!(body, Err(FetchError::TooLarge((1 << 20) - 1)));
        let (body, _) = fetch(vec![answer(head, &bomb[..bomb.len() / 2])], 1 << 20, LONG).await;
        assert!(matches!(body, Err(FetchError::Encoding(_))), "{body:?}");
        let (body, _) = fetch(vec![answer("200 OK\r\nContent-Encoding: br", b"x")], 100, LONG).await;
        assert!(matches!(body, Err(FetchError::Encoding(_))), "{body:?}");
    }

    #[tokio::test]
    async fn what_is_no_answer_says_why() {
        let (body, _) = fetch(vec![answer("200 OK", &[b'#'; 101])], 100, LONG).await;
        assert_eq!(body, Err(FetchError::TooLarge(100)));
        let (body, _) = fetch(vec![answer("503 Sorry", b"")], 100, LONG).await;
        assert_eq!(body, Err(FetchError::Status(StatusCode::SERVICE_UNAVAILABLE)));
        let (body, _) = fetch(vec![answer("200 OK\r\nContent-Length: 9", b"a 1\n")], 100, LONG).await;
        assert!(matches!(body, Err(FetchError::Unreachable(_))), "{body:?}");
        let short = Duration::from_millis(20);
        let (body, _) = fetch(vec![Vec::new()], 100, short).await;
        assert_eq!(body, Err(FetchError::Timeout(short)));
    }

    #[tokio::test]
    async fn a_server_that_speaks_http2_is_asked_in_http2() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let text = format!("{} ", request.uri()).repeat(100_000);
                Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(Bytes::from(text))))
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = served.serve_connection(TokioIo::new(stream), service).await;
        });
        let mut server = std::sync::Arc::into_inner(fixture(port)).expect("one owner");
        server.scheme = Scheme::H2c;
        let answer = get(&Dns::default(), &server, "/metrics", LONG)
            .await
            .expect("an answer");
        let body = answer
            .read(10 << 20)
            .await
            .expect("a body")
            .inflate(10 << 20)
            .expect("a body");
        assert_eq!(body, "http://h/metrics ".repeat(100_000));
    }

    #[tokio::test]
    async fn redirects_stay_on_the_server() {
        let to = |location: &str| answer(&format!("307 Elsewhere\r\nLocation: {location}"), b"");
        let good = answer("200 OK", b"a 1\n");
        for location in ["/metrics/", "http://h/metrics/"] {
            let (body, asked) = fetch(vec![to(location), good.clone()], 100, LONG).await;
            assert_eq!(body, Ok(Bytes::from_static(b"a 1\n")));
            assert!(asked[1].starts_with("GET /metrics/ HTTP/1.1\r\n"), "{asked:?}");
        }
        let (body, _) = fetch(vec![to("http://other.test/metrics")], 100, LONG).await;
        assert_eq!(body, Err(FetchError::Status(StatusCode::TEMPORARY_REDIRECT)));
        let (body, _) = fetch(vec![to("/metrics"); MAX_REDIRECTS + 1], 100, LONG).await;
        assert!(matches!(body, Err(FetchError::Unreachable(_))), "{body:?}");
    }
}
