//! Regression tests, each named after what a hostile client or a broken backend once did.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::backend::pattern;
use crate::harness::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// HTTP/2 frame by frame, for what no library sends.
struct Frames(TcpStream);

/// One frame.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frames {
    fn connect(gateway: &Gateway, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(gateway.web()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut frames = Self(stream);
        frames.0.write_all(PREFACE).unwrap();
        frames.send(SETTINGS, 0, 0, settings);
        frames
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).unwrap();
    }

    /// A request for `path`; `more` goes behind its pseudo-fields.
    fn request(&mut self, stream: u32, method: u8, path: &str, end: bool, more: &[u8]) {
        let mut block = vec![method, 0x86, 0x41, 1, b'a', 0x04, u8::try_from(path.len()).unwrap()];
        block.extend(path.as_bytes());
        block.extend(more);
        self.send(HEADERS, 4 | u8::from(end), stream, &block);
    }

    fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream,
            payload,
        })
    }

    #[track_caller]
    fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return frame;
            }
            seen.push((frame.kind, frame.flags, frame.stream));
        }
        panic!("the connection ended after {seen:?}");
    }
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

#[test]
fn a_body_behind_the_answer_to_head_goes_to_nobody() {
    let backend = Scripted::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Body: poison\r\n\r\npoison");
    let gateway = gateway().server(&backend.url()).run();
    let mut client = gateway.client();
    for _ in 0..5 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = client.try_reply("HEAD").unwrap();
        assert_eq!(reply.status, 200);
        client.get("/").assert_status(200).assert_body("poison");
    }
}

#[test]
fn interim_answers_without_an_end() {
    let backend = Scripted::start(|connection| {
        connection.head();
        while connection
            .write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            .is_ok()
        {}
    });
    let gateway = gateway().server(&backend.url()).run();
    gateway.get("/").send().assert_status(502);
}

#[test]
fn a_preface_that_stops_is_ended_by_the_header_timeout() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .web("transport: {respondingTimeouts: {headerTimeout: 500ms}}")
        .run();
    for part in [&b"P"[..], b"PRI", b"PRI ", &PREFACE[..20], PREFACE] {
        let mut client = TcpStream::connect(gateway.web()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.write_all(part).unwrap();
        // It may say its settings before it ends the connection; a reset is an end, a timeout is none.
        let ended = client.read_to_end(&mut Vec::new());
        let open = ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!open, "{part:?}: it is still open");
    }
    // One that is whole is not.
    let mut frames = Frames::connect(&gateway, b"");
    std::thread::sleep(Duration::from_secs(1));
    frames.request(1, GET, "/", true, b"");
    frames.until(|frame| frame.kind == HEADERS && frame.stream == 1);
}

#[test]
fn an_h2_refusal_does_not_reset_a_client_that_is_still_sending() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/only`)");
    let gateway = gateway().dynamic(&yaml).run();
    let mut frames = Frames::connect(&gateway, b"");
    // content-length: 300000
    frames.request(1, POST, "/none", false, b"\x0f\x0d\x06300000");
    let end =
        frames.until(|frame| frame.stream == 1 && matches!(frame.kind, DATA | RST_STREAM) && frame.flags & 1 == 1);
    assert_eq!(end.kind, DATA);
    // Its body may still come: every byte of it is taken.
    for _ in 0..30 {
        frames.send(DATA, 0, 1, &pattern(1000));
    }
    frames.send(PING, 0, 0, b"12345678");
    let next = frames.until(|frame| matches!(frame.kind, PING | RST_STREAM));
    assert_eq!((next.kind, next.payload.as_slice()), (PING, &b"12345678"[..]));
}

#[test]
fn an_h2_window_that_stays_shut_ends_its_stream_alone() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .web("transport: {respondingTimeouts: {idleTimeout: 800ms}}")
        .run();
    // SETTINGS_INITIAL_WINDOW_SIZE: 0
    let mut frames = Frames::connect(&gateway, &[0, 4, 0, 0, 0, 0]);
    let start = Instant::now();
    frames.request(1, GET, "/?n=100000", true, b"");
    // A stream that waits for its backend is not meant, whatever its window.
    frames.request(3, GET, "/?delay=2500&n=0", true, b"");
    let reset = frames.until(|frame| frame.kind == RST_STREAM);
    assert_eq!(reset.stream, 1);
    assert!(start.elapsed() >= Duration::from_millis(600), "{:?}", start.elapsed());
    let answer = frames.until(|frame| frame.stream == 3);
    assert_eq!(answer.kind, HEADERS);
}

#[test]
fn an_upload_that_goes_on_after_its_refusal_is_no_late_head() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/only`)");
    let gateway = gateway()
        .dynamic(&yaml)
        .web("transport: {respondingTimeouts: {headerTimeout: 400ms}}")
        .run();
    let mut client = gateway.client();
    client.send("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n");
    client.try_reply("POST").unwrap().assert_status(404);
    for _ in 0..20 {
        client.send(pattern(1000));
        std::thread::sleep(Duration::from_millis(60));
    }
    client.get("/only").assert_status(200);
}

#[test]
fn sigterm_with_hundreds_of_connections_in_the_accept_queue() {
    let backend = Backend::start();
    let mut gateway = gateway().to(&backend).run();
    gateway.signal("STOP");
    let mut clients: Vec<_> = (0..400)
        .map(|_| {
            let mut client = gateway.client();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    gateway.signal("TERM");
    gateway.signal("CONT");
    for client in &mut clients {
        client.reply().assert_status(200);
    }
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_connection_that_never_spoke_does_not_hold_up_the_end() {
    only_gantry!();
    let backend = Backend::start();
    let mut gateway = gateway().to(&backend).run();
    let _silent = gateway.client();
    let _tls = TcpStream::connect(gateway.websecure()).unwrap();
    gateway.get("/").send().assert_status(200);
    let start = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[test]
fn each_entry_point_has_its_own_grace_time() {
    only_gantry!();
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
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
