//! HTTP/2, spoken by the `h2` crate alone: a client, and a backend with prior knowledge.

use std::hash::DefaultHasher;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::backend::{Answer, Form, Outcome, Seen, by_query};
use super::client::{Reply, Tls};
use super::message::{Body, Framing, Head};
use super::{DEADLINE, message};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// A client connection.
pub struct H2 {
    sender: h2::client::SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    scheme: &'static str,
}

impl std::fmt::Debug for H2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H2").finish_non_exhaustive()
    }
}

impl H2 {
    /// With prior knowledge.
    pub fn connect(address: SocketAddr) -> Self {
        RUNTIME.block_on(async {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            Self {
                sender,
                connection: tokio::spawn(connection),
                scheme: "http",
            }
        })
    }

    /// Over TLS; `h2` must have been offered.
    pub fn over(tls: &Tls) -> Self {
        RUNTIME.block_on(async {
            let stream = TcpStream::connect(tls.address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.config()));
            let stream = connector.connect(tls.server_name(), stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            Self {
                sender,
                connection: tokio::spawn(connection),
                scheme: "https",
            }
        })
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Reply {
        self.send("GET", target, &[], None)
    }

    /// Sends a request, for another host where `target` is a whole URL; `body` without a `content-length` among the headers goes without one.
    #[track_caller]
    pub fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        self.try_send(method, target, headers, body).unwrap()
    }

    pub fn try_send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Reply, h2::Error> {
        let uri = match target.split_once("://") {
            Some(_) => target.to_owned(),
            None => format!("{}://app.test{target}", self.scheme),
        };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.version(http::Version::HTTP_2).body(()).unwrap();
        let exchange = exchange(self.sender.clone(), request, body.map(<[u8]>::to_vec));
        RUNTIME.block_on(async {
            tokio::time::timeout(DEADLINE, exchange)
                .await
                .expect("no answer in time")
        })
    }

    /// Begins a request on the connection and leaves it open; the answer is read by [`Pending::reply`].
    pub fn begin(&mut self, target: &str) -> Pending {
        let request = Request::builder()
            .uri(format!("{}://app.test{target}", self.scheme))
            .body(())
            .unwrap();
        Pending(RUNTIME.spawn(exchange(self.sender.clone(), request, None)))
    }

    /// Whether the gateway ends the connection.
    pub fn ends(self) -> bool {
        drop(self.sender);
        RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, self.connection).await.is_ok() })
    }
}

/// A request that runs in the background.
#[derive(Debug)]
pub struct Pending(JoinHandle<Result<Reply, h2::Error>>);

impl Pending {
    /// Gives the request up: its stream is reset.
    pub fn reset(self) {
        self.0.abort();
    }

    #[track_caller]
    pub fn reply(self) -> Reply {
        let Self(task) = self;
        RUNTIME.block_on(async { tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap().unwrap() })
    }
}

async fn exchange(
    sender: h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Vec<u8>>,
) -> Result<Reply, h2::Error> {
    let mut sender = sender.ready().await?;
    let head = request.method() == "HEAD";
    let (response, mut stream) = sender.send_request(request, body.is_none())?;
    if let Some(body) = body {
        // The answer may come before the body is read to its end.
        let _early = send_all(&mut stream, body.into(), true).await;
    }
    let response = response.await?;
    let status = response.status().as_u16();
    let fields = fields(response.headers());
    let head_of = Head {
        first: format!("HTTP/2.0 {status}"),
        fields,
    };
    let framing = match head_of.one("content-length") {
        _ if head => Framing::None,
        Some(length) => Framing::Length(length.parse().unwrap_or(u64::MAX)),
        None => Framing::Stream,
    };
    let (body, whole) = receive(response.into_body()).await;
    Ok(Reply {
        status,
        head: head_of,
        framing,
        body,
        interim: Vec::new(),
        whole,
    })
}

async fn send_all(stream: &mut h2::SendStream<Bytes>, mut body: Bytes, end: bool) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.transpose()?.unwrap_or(0);
        if room > 0 {
            stream.send_data(body.split_to(room.min(body.len())), false)?;
        }
    }
    if end {
        stream.send_data(Bytes::new(), true)
    } else {
        Ok(())
    }
}

async fn receive(mut stream: h2::RecvStream) -> (Body, bool) {
    let mut body = Body {
        hash: message::hash(b""),
        ..Body::default()
    };
    let mut hasher = DefaultHasher::new();
    while let Some(data) = stream.data().await {
        let Ok(data) = data else { return (body, false) };
        body.push(&data, &mut hasher);
        let _closed = stream.flow_control().release_capacity(data.len());
    }
    match stream.trailers().await {
        Ok(trailers) => body.trailers = trailers.map(|trailers| fields(&trailers)).unwrap_or_default(),
        Err(_) => return (body, false),
    }
    (body, true)
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| message::latin1(value.as_bytes());
    headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .collect()
}

/// A backend that speaks HTTP/2 with prior knowledge only.
#[derive(Debug)]
pub struct H2Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: JoinHandle<()>,
}

impl H2Backend {
    /// Answers by the query, as [`super::Backend`] does.
    pub fn start() -> Self {
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        let serving = RUNTIME.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, record.clone()));
            }
        });
        Self { address, seen, serving }
    }

    pub fn url(&self) -> String {
        format!("h2c://{}", self.address)
    }

    pub fn last(&self) -> Seen {
        self.seen
            .lock()
            .unwrap()
            .last()
            .cloned()
            .expect("no request reached the backend")
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn connection(stream: TcpStream, record: Arc<Mutex<Vec<Seen>>>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve(request, respond, record.clone()));
    }
}

async fn serve(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: Arc<Mutex<Vec<Seen>>>,
) {
    let (parts, stream) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("*", |target| target.as_str())
        .to_owned();
    let mut headers = fields(&parts.headers);
    headers.extend(
        parts
            .uri
            .authority()
            .map(|host| (":authority".to_owned(), host.to_string())),
    );
    let head = Head {
        first: format!("{} {target} HTTP/2.0", parts.method),
        fields: headers,
    };
    let framing = match head.one("content-length") {
        Some(length) => Framing::Length(length.parse().unwrap_or(u64::MAX)),
        None if stream.is_end_stream() => Framing::None,
        None => Framing::Stream,
    };
    let (body, whole) = receive(stream).await;
    let outcome = if whole { Outcome::Answered } else { Outcome::Gone };
    let (method, version) = (parts.method.to_string(), "HTTP/2.0".to_owned());
    let seen = Seen {
        method,
        target,
        version,
        head,
        framing,
        body,
        outcome,
    };
    let answer = by_query(&seen);
    let bodiless = seen.method == "HEAD";
    record.lock().unwrap().push(seen);
    tokio::time::sleep(answer.delay).await;
    let _gone = respond_with(&mut respond, answer, bodiless).await;
}

async fn respond_with(
    respond: &mut h2::server::SendResponse<Bytes>,
    answer: Answer,
    bodiless: bool,
) -> Result<(), h2::Error> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let empty = bodiless || matches!(answer.status, 204 | 304);
    if answer.form == Form::Length && !matches!(answer.status, 204 | 304) {
        response = response.header("content-length", answer.body.len());
    }
    let mut stream = respond.send_response(response.body(()).unwrap(), empty)?;
    if empty {
        return Ok(());
    }
    if answer.trailers.is_empty() {
        return send_all(&mut stream, answer.body.into(), true).await;
    }
    send_all(&mut stream, answer.body.into(), false).await?;
    let mut trailers = HeaderMap::new();
    for (name, value) in &answer.trailers {
        trailers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    stream.send_trailers(trailers)
}

/// A backend that answers `over TLS` to everything, by HTTP/1.1 in TLS.
#[derive(Debug)]
pub struct TlsBackend {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl TlsBackend {
    pub fn start(certificate: &super::certificate::Certificate) -> Self {
        use rustls::pki_types::pem::PemObject as _;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![certificate.der.clone().into()];
        let config = config
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = RUNTIME.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut buffer = [0; 8192];
                    // Requests without a body come in one piece here.
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nover TLS";
                        if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, serving }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for TlsBackend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
