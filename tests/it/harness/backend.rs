//! A backend that records what reaches it, byte for byte, and answers as it is told.
//!
//! It answers by the query of the request unless [`Backend::answering`] says otherwise:
//! `status=503 delay=200 (ms) n=5000 (bytes of body) header=Name:Value (repeatable) chunked close trailer=Name:Value
//! cut (promise n, send half, end) reset early (answer before the body is read) noup (refuse an upgrade)`.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::message::{Body, Framing, Head, framing, read_body, read_head};

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// One request as it reached a backend.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: String,
    pub head: Head,
    pub framing: Framing,
    pub body: Body,
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is still being read or answered.
    Running,
    /// It was read and answered whole.
    Answered,
    /// The gateway went away first, or sent a broken body.
    Gone,
}

impl Seen {
    /// The value of a field that came at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    /// The names of all fields in lower case, sorted.
    pub fn names(&self) -> Vec<String> {
        self.head.names()
    }

    /// The target up to the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The decoded values of a key of the query.
    fn query<'a>(&'a self, key: &str) -> Vec<&'a str> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.query(key).first()?.parse().ok()
    }

    fn flag(&self, key: &str) -> bool {
        !self.query(key).is_empty()
    }
}

/// What a backend answers.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub form: Form,
    pub delay: Duration,
    pub trailers: Vec<(String, String)>,
    /// Heads with status 1xx to send first.
    pub interim: Vec<String>,
}

/// How an answer is put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Length,
    Chunked,
    Close,
    /// Half of what was promised, then the end of the connection.
    Cut,
    /// A reset in the place of an answer.
    Reset,
    /// 101, then everything comes back as it went.
    Upgrade,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            form: Form::Length,
            delay: Duration::ZERO,
            trailers: Vec::new(),
            interim: Vec::new(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn interim(mut self, head: &str) -> Self {
        self.interim.push(head.into());
        self
    }
}

/// What the query of the request asks for; 200 with a short body where it asks for nothing.
pub fn by_query(seen: &Seen) -> Answer {
    let mut answer = Answer::new(seen.number("status").and_then(|s| s.try_into().ok()).unwrap_or(200));
    let len = seen.number("n").and_then(|n| n.try_into().ok());
    answer.body = len.map_or_else(|| b"hello".to_vec(), pattern);
    answer.delay = Duration::from_millis(seen.number("delay").unwrap_or(0));
    let pairs = |key| {
        let pairs = seen.query(key).into_iter().filter_map(|pair| pair.split_once(':'));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect::<Vec<_>>()
    };
    answer.headers = pairs("header");
    answer.trailers = pairs("trailer");
    let forms = [
        ("chunked", Form::Chunked),
        ("close", Form::Close),
        ("cut", Form::Cut),
        ("reset", Form::Reset),
    ];
    for (key, form) in forms {
        if seen.flag(key) {
            answer.form = form;
        }
    }
    if seen.head.one("upgrade").is_some() && !seen.flag("noup") {
        answer.form = Form::Upgrade;
    }
    answer
}

/// `len` bytes that are not all the same.
pub fn pattern(len: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..=250).collect();
    let mut bytes = block.repeat(len / block.len() + 1);
    bytes.truncate(len);
    bytes
}

/// An HTTP/1.1 backend on a port of its own.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Mutex<Arc<Handler>>,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    stopped: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// Answers by the query.
    pub fn start() -> Self {
        Self::answering(by_query)
    }

    /// Answers as told.
    pub fn answering(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            address,
            shared: Shared::serve(listener, Arc::new(handler)),
        }
    }

    /// An address that refuses connections.
    pub fn down() -> SocketAddr {
        // Bound and never listening for the rest of the process.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        std::mem::forget(socket);
        address
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers differently from now on.
    pub fn set(&self, handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        *self.shared.handler.lock().unwrap() = Arc::new(handler);
    }

    /// Everything that reached this backend but health checks (`/health`), and probes of readiness that came before
    /// their router did.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        let counts = |seen: &&Seen| seen.path() != "/health" && !seen.target.starts_with("/__ready");
        seen.iter().filter(counts).cloned().collect()
    }

    /// Whether every request was read and answered, or given up.
    pub fn is_idle(&self) -> bool {
        self.seen().iter().all(|seen| seen.outcome != Outcome::Running)
    }

    /// How many requests reached this backend.
    pub fn count(&self) -> usize {
        self.seen().len()
    }

    /// How many health checks reached this backend.
    pub fn checks(&self) -> usize {
        self.shared
            .seen
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| seen.path() == "/health")
            .count()
    }

    /// The last health check.
    pub fn last_check(&self) -> Seen {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .rfind(|seen| seen.path() == "/health")
            .cloned()
            .expect("no check reached the backend")
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("no request reached the backend")
    }

    /// Forgets what it saw.
    pub fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    /// Stops listening and ends every connection.
    pub fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _wake = TcpStream::connect(self.address);
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ended = connection.shutdown(std::net::Shutdown::Both);
        }
        let address = self.address;
        crate::assert_eventually!(TcpStream::connect(address).is_err());
    }

    /// Listens again on the same port.
    pub fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let handler = self.shared.handler.lock().unwrap().clone();
        self.shared = Shared::serve(listener, handler);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(listener: TcpListener, handler: Arc<Handler>) -> Arc<Self> {
        let shared = Arc::new(Self {
            handler: Mutex::new(handler),
            seen: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let serving = serving.clone();
                std::thread::spawn(move || serving.connection(stream));
            }
        });
        shared
    }

    fn connection(&self, stream: TcpStream) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true).unwrap();
        if let Ok(twin) = stream.try_clone() {
            self.connections.lock().unwrap().push(twin);
        }
        let mut reader = BufReader::new(stream);
        while let Ok(Some(head)) = read_head(&mut reader) {
            if !self.exchange(head, &mut reader) {
                break;
            }
        }
        let _ended = reader.get_ref().shutdown(std::net::Shutdown::Both);
    }

    /// Reads one request and answers it. Returns whether the connection may be used again.
    fn exchange(&self, head: Head, reader: &mut BufReader<TcpStream>) -> bool {
        let mut parts = head.first.splitn(3, ' ').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let (method, target, version) = (part(), part(), part());
        let framing = framing(&head, Framing::None).unwrap_or_else(|error| panic!("what the gateway sent: {error}"));
        let outcome = Outcome::Running;
        let close = head
            .one("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let mut seen = Seen {
            method,
            target,
            version,
            head,
            framing,
            body: Body::default(),
            outcome,
        };
        let index = {
            let mut all = self.seen.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        let read = if seen.flag("early") {
            Ok(())
        } else {
            read_body(reader, framing, &mut seen.body)
        };
        self.update(index, &seen);
        let written = read.and_then(|()| {
            let answer = (self.handler.lock().unwrap().clone())(&seen);
            wait(reader.get_ref(), answer.delay)?;
            write(reader, &seen, &answer).map(|()| answer.form)
        });
        seen.outcome = if written.is_ok() {
            Outcome::Answered
        } else {
            Outcome::Gone
        };
        self.update(index, &seen);
        let reusable = matches!(written, Ok(Form::Length | Form::Chunked));
        reusable && !close && !seen.flag("early") && !self.stopped.load(Ordering::SeqCst)
    }

    fn update(&self, index: usize, seen: &Seen) {
        if let Some(known) = self.seen.lock().unwrap().get_mut(index) {
            known.clone_from(seen);
        }
    }
}

/// Waits before an answer; an error when the gateway goes away meanwhile.
fn wait(stream: &TcpStream, delay: Duration) -> io::Result<()> {
    let until = Instant::now() + delay;
    while Instant::now() < until {
        stream.set_read_timeout(Some(Duration::from_millis(10)))?;
        let peeked = stream.peek(&mut [0]);
        stream.set_read_timeout(None)?;
        match peeked {
            Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(_) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write(reader: &mut BufReader<TcpStream>, seen: &Seen, answer: &Answer) -> io::Result<()> {
    if answer.form == Form::Reset {
        socket2::SockRef::from(reader.get_ref()).set_linger(Some(Duration::ZERO))?;
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if answer.form == Form::Upgrade {
        return upgrade(reader, seen);
    }
    let bodiless = seen.method == "HEAD" || answer.status == 204 || answer.status == 304;
    let mut head = String::new();
    for interim in &answer.interim {
        head += &format!("HTTP/1.1 {interim}\r\n\r\n");
    }
    head += &format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match answer.form {
        Form::Chunked => head += "Transfer-Encoding: chunked\r\n",
        Form::Close => head += "Connection: close\r\n",
        _ if answer.status == 204 || answer.status == 304 => {}
        _ => head += &format!("Content-Length: {}\r\n", answer.body.len()),
    }
    let mut out = head.into_bytes();
    out.extend_from_slice(b"\r\n");
    match answer.form {
        _ if bodiless => {}
        Form::Chunked => {
            for chunk in answer.body.chunks(1000) {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n");
            for (name, value) in &answer.trailers {
                out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        Form::Cut => out.extend_from_slice(&answer.body[..answer.body.len() / 2]),
        _ => out.extend_from_slice(&answer.body),
    }
    reader.get_mut().write_all(&out)
}

fn upgrade(reader: &mut BufReader<TcpStream>, seen: &Seen) -> io::Result<()> {
    let protocol = seen.header("upgrade").unwrap_or_default();
    let key = seen.header("sec-websocket-key").map(accept_key);
    let accept = key
        .map(|key| format!("Sec-WebSocket-Accept: {key}\r\n"))
        .unwrap_or_default();
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{accept}\r\n");
    reader.get_mut().write_all(head.as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            n => reader.get_mut().write_all(&buffer[..n])?,
        }
    }
}

/// RFC 6455 section 4.2.2.
pub fn accept_key(key: &str) -> String {
    use base64::Engine as _;
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    base64::engine::general_purpose::STANDARD.encode(digest)
}
