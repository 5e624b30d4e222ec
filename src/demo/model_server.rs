//! A stand-in model server: takes a brain volume, answers its mask, as a container with a trained network would.
//!
//! HTTP/1.1 on an ordinary tokio runtime (single- or multi-threaded):
//!
//! | request | answer |
//! |---|---|
//! | `POST /segment`, a `.nii` or `.nii.gz` volume | 200, the mask in the same form; `X-Model-Version`, `Server-Timing`, and `X-Model-Dice` where the volume is a phantom whose truth is known |
//! | | 422 where the body is no volume, 413 above [`MAX_BODY_BYTES`], 503 above [`MAX_BODY_BYTES_IN_HAND`], 408 where it stalls |
//! | `GET /health` | 200 `ok` |
//! | `GET /metrics` | Prometheus text: requests by code, seconds, the last Dice |
//!
//! Segmentation runs on the blocking pool, [`MAX_AT_ONCE`] at a time; the others wait, as they would for a GPU.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::phantom::Phantom;
pub use super::segment::ModelVersion;
use super::segment::{dice, segment};
use crate::imaging::nifti::{self, Voxels};

/// The largest request body: 512 MiB.
pub const MAX_BODY_BYTES: u64 = 512 << 20;

/// Bytes of request bodies held at the same time, over all connections: 1 GiB. Who asks for more is told to come back.
pub const MAX_BODY_BYTES_IN_HAND: u64 = 1 << 30;

/// Segmentations that run at the same time.
pub const MAX_AT_ONCE: usize = 2;

/// Connections served at the same time; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long a body may bring nothing.
const BODY_IDLE: Duration = Duration::from_secs(60);

/// How long running requests may take after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

const MODEL_DICE: HeaderName = HeaderName::from_static("x-model-dice");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

type Answer = Response<Full<Bytes>>;

/// Serves `version` on `listener` until `shutdown` resolves; running requests then have five seconds to end.
pub async fn serve(listener: TcpListener, version: ModelVersion, shutdown: impl Future<Output = ()> + Send) {
    let server = Arc::new(Server::new(version));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        if let Some((stream, _peer, slot)) = accepted {
            let (server, stopped) = (Arc::clone(&server), stopped.clone());
            connections.spawn(async move {
                connection(stream, server, stopped).await;
                drop(slot);
            });
        }
    }
    drop((listener, stop));
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::debug!("model server {}: requests were cut off at shutdown", version.as_str());
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are written whole: waiting for more would only delay their last packet.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, slot))
        }
        Err(error) => {
            tracing::debug!("model server: accept: {error}");
            // Out of file descriptors, most likely: give running requests the time to free some.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, server: Arc<Server>, mut stopped: watch::Receiver<()>) {
    let service = hyper::service::service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(Io(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        // The sender went: finish the request that runs, take no further one.
        _ = stopped.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("model server: connection: {error}");
    }
}

/// What all connections share.
#[derive(Debug)]
struct Server {
    version: ModelVersion,
    running: Arc<Semaphore>,
    in_hand: Arc<Budget>,
    metrics: Metrics,
}

impl Server {
    fn new(version: ModelVersion) -> Self {
        Self {
            version,
            running: Arc::new(Semaphore::new(MAX_AT_ONCE)),
            in_hand: Arc::new(Budget::new(MAX_BODY_BYTES_IN_HAND)),
            metrics: Metrics::default(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut answer = match request.uri().path() {
            "/segment" if request.method() == Method::POST => {
                let answer = self
                    .segment(request.into_body())
                    .await
                    .unwrap_or_else(Refusal::into_answer);
                self.metrics.count(answer.status());
                answer
            }
            "/segment" => wrong_method("POST"),
            "/health" if get => text(StatusCode::OK, "ok\n"),
            "/metrics" if get => self.metrics.answer(self.version),
            "/health" | "/metrics" => wrong_method("GET, HEAD"),
            _ => text(
                StatusCode::NOT_FOUND,
                "POST /segment, GET /health and GET /metrics are here\n",
            ),
        };
        answer
            .headers_mut()
            .insert(MODEL_VERSION, HeaderValue::from_static(self.version.as_str()));
        answer
    }

    async fn segment(&self, body: Incoming) -> Result<Answer, Refusal> {
        let (volume, in_hand) = self.read(body).await?;
        let permit = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Refusal::Failed)?;
        let version = self.version;
        let started = Instant::now();
        // Permit and bytes go along: a client that leaves does not make room while its volume is still being computed.
        let computing = tokio::task::spawn_blocking(move || {
            let _until_done = (permit, in_hand);
            compute(&volume, version)
        });
        let mask = computing.await.map_err(|_| Refusal::Failed)??;
        let took = started.elapsed();
        self.metrics.segmented(took, mask.dice);
        let mut answer = mask.into_answer();
        let timing = format!("segment;dur={:.1}", took.as_secs_f64() * 1e3);
        if let Ok(timing) = HeaderValue::try_from(timing) {
            answer.headers_mut().insert(SERVER_TIMING, timing);
        }
        Ok(answer)
    }

    /// The whole body, and what it takes of the bytes in hand.
    async fn read(&self, mut body: Incoming) -> Result<(Vec<u8>, Held), Refusal> {
        if body.size_hint().lower() > MAX_BODY_BYTES {
            return Err(Refusal::TooLarge);
        }
        let mut held = Held {
            budget: Arc::clone(&self.in_hand),
            bytes: 0,
        };
        let mut volume = Vec::new();
        loop {
            let frame = tokio::time::timeout(BODY_IDLE, body.frame())
                .await
                .map_err(|_| Refusal::Stalled)?;
            let Some(frame) = frame else { return Ok((volume, held)) };
            let Ok(data) = frame.map_err(|_| Refusal::CutShort)?.into_data() else {
                continue;
            };
            let length = data.len() as u64;
            if volume.len() as u64 + length > MAX_BODY_BYTES {
                return Err(Refusal::TooLarge);
            }
            if !held.grow(length) {
                return Err(Refusal::Busy);
            }
            volume.extend_from_slice(&data);
        }
    }
}

/// A finished mask.
#[derive(Debug)]
struct Mask {
    file: Vec<u8>,
    gzip: bool,
    dice: Option<f64>,
}

/// The work itself, on a blocking thread.
fn compute(file: &[u8], version: ModelVersion) -> Result<Mask, Refusal> {
    let volume = nifti::decode(file).map_err(Refusal::NotAVolume)?;
    let phantom = Phantom::of(&volume);
    let (geometry, gzip) = (volume.geometry.clone(), volume.gzip);
    let mask = segment(volume, version);
    let dice = phantom.and_then(|phantom| dice(&mask, &phantom.brain()));
    let description = format!("gantry demo mask, model version {}", version.as_str());
    let file = nifti::encode(&geometry, &description, Voxels::Uint8(&mask), gzip).map_err(|_| Refusal::Failed)?;
    Ok(Mask { file, gzip, dice })
}

impl Mask {
    fn into_answer(self) -> Answer {
        let kind = if self.gzip {
            "application/gzip"
        } else {
            "application/octet-stream"
        };
        let mut answer = Response::new(Full::new(self.file.into()));
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(Ok(value)) = self.dice.map(|dice| HeaderValue::try_from(format!("{dice:.4}"))) {
            answer.headers_mut().insert(MODEL_DICE, value);
        }
        answer
    }
}

/// Why there is no mask.
#[derive(Debug)]
enum Refusal {
    NotAVolume(nifti::Error),
    TooLarge,
    Busy,
    Stalled,
    CutShort,
    Failed,
}

impl Refusal {
    fn into_answer(self) -> Answer {
        let close = (CONNECTION, HeaderValue::from_static("close"));
        let (status, message, header) = match self {
            Self::NotAVolume(error) => {
                return text(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    format!("cannot segment this: {error}\n"),
                );
            }
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "a volume may have 512 MiB at most\n",
                close,
            ),
            Self::Busy => {
                let later = (RETRY_AFTER, HeaderValue::from_static("1"));
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many volumes are being sent at the same time\n",
                    later,
                )
            }
            Self::Stalled => (StatusCode::REQUEST_TIMEOUT, "the volume stopped coming\n", close),
            Self::CutShort => (StatusCode::BAD_REQUEST, "the volume broke off\n", close),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "the segmentation failed\n", close),
        };
        let mut answer = text(status, message);
        answer.headers_mut().insert(header.0, header.1);
        answer
    }
}

fn text(status: StatusCode, message: impl Into<Bytes>) -> Answer {
    let message = message.into();
    let length = HeaderValue::from(message.len());
    let mut answer = Response::new(Full::new(message));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // Said here, because hyper leaves it out of the answer to a HEAD request.
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed} here\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// A number of bytes that may be held at the same time.
#[derive(Debug)]
struct Budget {
    left: AtomicU64,
}

impl Budget {
    const fn new(bytes: u64) -> Self {
        Self {
            left: AtomicU64::new(bytes),
        }
    }
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Held {
    /// Takes `bytes` more, unless that is more than is left.
    fn grow(&mut self, bytes: u64) -> bool {
        let taken = self
            .budget
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_ok() {
            self.bytes += bytes;
        }
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Every status that `POST /segment` can end with.
const CODES: [StatusCode; 7] = [
    StatusCode::OK,
    StatusCode::BAD_REQUEST,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNPROCESSABLE_ENTITY,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// What `/metrics` tells.
#[derive(Debug, Default)]
struct Metrics {
    requests: [AtomicU64; CODES.len()],
    masks: Mutex<Masks>,
}

/// What `/metrics` tells of the masks that were made.
#[derive(Clone, Copy, Debug, Default)]
struct Masks {
    count: u64,
    seconds: f64,
    last_dice: Option<f64>,
}

impl Metrics {
    fn count(&self, status: StatusCode) {
        if let Some(index) = CODES.iter().position(|&code| code == status) {
            self.requests[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn segmented(&self, took: Duration, dice: Option<f64>) {
        let mut masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.count += 1;
        masks.seconds += took.as_secs_f64();
        masks.last_dice = dice.or(masks.last_dice);
    }

    fn answer(&self, version: ModelVersion) -> Answer {
        let mut answer = text(StatusCode::OK, self.render(version));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer
    }

    fn render(&self, version: ModelVersion) -> String {
        use std::fmt::Write as _;
        let version = version.as_str();
        let mut page = String::from("# HELP segment_requests_total Requests to /segment, by status.\n");
        page.push_str("# TYPE segment_requests_total counter\n");
        for (code, requests) in CODES.iter().zip(&self.requests) {
            let requests = requests.load(Ordering::Relaxed);
            let code = code.as_u16();
            let _ = writeln!(
                page,
                "segment_requests_total{{version=\"{version}\",code=\"{code}\"}} {requests}"
            );
        }
        let Masks {
            count,
            seconds,
            last_dice,
        } = *self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        page.push_str("# HELP segment_duration_seconds Computing time of a mask.\n");
        page.push_str("# TYPE segment_duration_seconds summary\n");
        let _ = writeln!(page, "segment_duration_seconds_sum{{version=\"{version}\"}} {seconds}");
        let _ = writeln!(page, "segment_duration_seconds_count{{version=\"{version}\"}} {count}");
        if let Some(dice) = last_dice {
            page.push_str("# HELP validation_dice Dice coefficient of the last mask whose truth was known.\n");
            page.push_str("# TYPE validation_dice gauge\n");
            let _ = writeln!(page, "validation_dice{{version=\"{version}\"}} {dice}");
        }
        page
    }
}

/// A tokio socket as hyper wants it. Reads through a buffer of its own: safe code cannot hand hyper's over, and a
/// stand-in can afford the copy.
#[derive(Debug)]
struct Io(TcpStream);

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; 16 << 10];
        let length = space.len().min(buffer.remaining());
        let mut read = ReadBuf::new(&mut space[..length]);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut read))?;
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    const SMALL: Phantom = Phantom {
        seed: 42,
        size: [48, 56, 48],
    };

    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        serving: JoinHandle<()>,
    }

    async fn start(version: ModelVersion) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, version, async {
            let _ = stopped.await;
        }));
        Running { address, stop, serving }
    }

    impl Running {
        /// Sends raw bytes and reads the answer until the server closes.
        async fn raw(&self, request: &[u8]) -> Reply {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request).await.unwrap();
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await.unwrap();
            let end = reply
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .expect("a whole head");
            let head = String::from_utf8(reply[..end].to_ascii_lowercase()).unwrap();
            Reply {
                head,
                body: reply.split_off(end + 4),
            }
        }

        async fn send(&self, method: &str, path: &str, body: &[u8]) -> Reply {
            let length = body.len();
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: model\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            self.raw(&[head.as_bytes(), body].concat()).await
        }
    }

    /// An answer; the head in lower case.
    struct Reply {
        head: String,
        body: Vec<u8>,
    }

    impl Reply {
        fn status(&self) -> u16 {
            self.head[9..12].parse().unwrap()
        }

        fn header(&self, name: &str) -> Option<&str> {
            self.head
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        }

        fn text(&self) -> &str {
            std::str::from_utf8(&self.body).unwrap()
        }
    }

    #[tokio::test]
    async fn a_phantom_goes_in_and_a_mask_with_its_dice_comes_out() {
        let truth = SMALL.brain();
        for version in [ModelVersion::V1, ModelVersion::V2] {
            let server = start(version).await;
            for gzip in [false, true] {
                let reply = server.send("POST", "/segment", &SMALL.encode(gzip).unwrap()).await;
                assert_eq!(reply.status(), 200);
                assert_eq!(reply.header("x-model-version"), Some(version.as_str()));
                let kind = if gzip {
                    "application/gzip"
                } else {
                    "application/octet-stream"
                };
                assert_eq!(reply.header("content-type"), Some(kind));
                let mask = nifti::decode(&reply.body).unwrap();
                assert_eq!((mask.gzip, &mask.geometry), (gzip, &SMALL.geometry()));
                let mask: Vec<u8> = mask.voxels.iter().map(|&voxel| voxel as u8).collect();
                let dice = dice(&mask, &truth).unwrap();
                assert_eq!(reply.header("x-model-dice"), Some(format!("{dice:.4}").as_str()));
                let timing = reply.header("server-timing").expect("the time that it took");
                assert!(timing.starts_with("segment;dur="), "{timing}");
                assert!(dice > 0.7, "{dice}");
            }
            let metrics = server.send("GET", "/metrics", b"").await;
            let label = format!("version=\"{}\"", version.as_str());
            assert!(
                metrics
                    .text()
                    .contains(&format!("segment_requests_total{{{label},code=\"200\"}} 2\n"))
            );
            assert!(
                metrics
                    .text()
                    .contains(&format!("segment_duration_seconds_count{{{label}}} 2\n"))
            );
            assert!(metrics.text().contains(&format!("validation_dice{{{label}}} 0.")));
        }
    }

    #[tokio::test]
    async fn a_volume_without_a_known_truth_gets_a_mask_and_no_dice() {
        let image = SMALL.image();
        let file = nifti::encode(&SMALL.geometry(), "somebody", Voxels::Int16(&image), true).unwrap();
        let reply = start(ModelVersion::V1).await.send("POST", "/segment", &file).await;
        assert_eq!((reply.status(), reply.header("x-model-dice")), (200, None));
    }

    #[tokio::test]
    async fn what_is_no_volume_is_refused_with_a_reason() {
        let server = start(ModelVersion::V1).await;
        for (body, reason) in [
            (&b""[..], "not a NIfTI-1 file"),
            (b"patient: none", "not a NIfTI-1 file"),
            (&[0x1f, 0x8b, 8, 0, 1, 2, 3], "gzip stream is damaged"),
            (&SMALL.encode(false).unwrap()[..9_000], "of voxels are there"),
        ] {
            let reply = server.send("POST", "/segment", body).await;
            assert_eq!(reply.status(), 422);
            assert!(reply.text().contains(reason), "{}", reply.text());
        }
        let metrics = server.send("GET", "/metrics", b"").await;
        assert!(metrics.text().contains("code=\"422\"} 4\n"), "{}", metrics.text());
        assert!(!metrics.text().contains("validation_dice"));
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_told_so() {
        let server = start(ModelVersion::V2).await;
        let health = server.send("GET", "/health", b"").await;
        assert_eq!((health.status(), health.text()), (200, "ok\n"));
        let head = server.send("HEAD", "/health?x=1", b"").await;
        assert_eq!(
            (head.status(), head.header("content-length"), head.body.len()),
            (200, Some("3"), 0)
        );
        let wrong = server.send("GET", "/segment", b"").await;
        assert_eq!((wrong.status(), wrong.header("allow")), (405, Some("post")));
        assert_eq!(server.send("DELETE", "/metrics", b"").await.status(), 405);
        assert_eq!(server.send("POST", "/", b"").await.status(), 404);
    }

    #[tokio::test]
    async fn a_chunked_body_is_read_and_a_connection_serves_twice() {
        let server = start(ModelVersion::V1).await;
        let file = SMALL.encode(true).unwrap();
        let (first, second) = file.split_at(1_000);
        let mut request = b"GET /health HTTP/1.1\r\nHost: m\r\n\r\nPOST /segment HTTP/1.1\r\nHost: m\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for part in [first, second] {
            request.extend(format!("{:x}\r\n", part.len()).bytes());
            request.extend(part);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        let replies = server.raw(&request).await;
        assert_eq!(replies.status(), 200);
        let second = replies.body.strip_prefix(b"ok\n").expect("the first answer's body");
        assert!(second.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }

    #[tokio::test]
    async fn a_body_that_is_announced_too_large_is_not_waited_for() {
        let server = start(ModelVersion::V1).await;
        let length = MAX_BODY_BYTES + 1;
        let head = format!("POST /segment HTTP/1.1\r\nHost: m\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(server.raw(head.as_bytes()).await.status(), 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_answered_408() {
        let server = start(ModelVersion::V1).await;
        let reply = server
            .raw(b"POST /segment HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\n123")
            .await;
        assert_eq!(reply.status(), 408);
    }

    #[tokio::test]
    async fn a_client_that_breaks_off_leaves_nothing_behind() {
        let server = Arc::new(Server::new(ModelVersion::V1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client
            .write_all(b"POST /segment HTTP/1.1\r\nHost: m\r\nContent-Length: 9000\r\n\r\n123")
            .await
            .unwrap();
        drop(client);
        let (_stop, stopped) = watch::channel(());
        connection(stream, Arc::clone(&server), stopped).await;
        assert_eq!(server.in_hand.left.load(Ordering::Relaxed), MAX_BODY_BYTES_IN_HAND);
        assert_eq!(server.running.available_permits(), MAX_AT_ONCE);
    }

    #[test]
    fn bytes_in_hand_are_bounded_and_given_back() {
        let budget = Arc::new(Budget::new(10));
        let mut first = Held {
            budget: Arc::clone(&budget),
            bytes: 0,
        };
        let mut second = Held { budget, bytes: 0 };
        assert!(first.grow(6) && second.grow(4));
        assert!(!first.grow(1));
        drop(second);
        assert!(first.grow(4) && !first.grow(1));
    }

    #[tokio::test]
    async fn shutdown_ends_idle_connections_and_lets_running_requests_finish() {
        let server = start(ModelVersion::V1).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        let mut running = TcpStream::connect(server.address).await.unwrap();
        let file = SMALL.encode(false).unwrap();
        let head = format!(
            "POST /segment HTTP/1.1\r\nHost: m\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            file.len()
        );
        running.write_all(head.as_bytes()).await.unwrap();
        let mut go_on = [0; 25];
        running.read_exact(&mut go_on).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        server.stop.send(()).unwrap();
        running.write_all(&file).await.unwrap();
        let mut reply = Vec::new();
        running.read_to_end(&mut reply).await.unwrap();
        assert!(reply.starts_with(b"HTTP/1.1 200 OK\r\n"));
        idle.read_to_end(&mut Vec::new()).await.unwrap();
        server.serving.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
