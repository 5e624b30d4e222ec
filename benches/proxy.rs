//! One request through the real binary and back, over one kept connection: the latency that Gantry adds to loopback.
//!
//! `cargo bench --bench proxy`. The `direct` rows are the same requests without Gantry: compare rows of one run only.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n{\"mask\": \"somewhere\"}";

/// A backend that answers each head with the same 20 bytes.
fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    port
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 8192];
    let mut pending = Vec::new();
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..n]);
        while let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            pending.drain(..end + 4);
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

struct Gateway {
    child: Child,
    folder: PathBuf,
}

impl Gateway {
    fn start(port: u16, backend: u16, middlewares: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("gantry-bench-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let dynamic = folder.join("dynamic.yaml");
        let text = format!(
            "http:\n  routers:\n    r: {{rule: \"Host(`bench.local`) && PathPrefix(`/segment`)\", service: s, middlewares: [{middlewares}]}}\n  \
             middlewares:\n    auth: {{basicAuth: {{users: [\"admin:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=\"]}}}}\n    limit: {{rateLimit: {{average: 1000000, burst: 1000000}}}}\n  \
             services:\n    s: {{loadBalancer: {{servers: [{{url: \"http://127.0.0.1:{backend}\"}}]}}}}\n"
        );
        std::fs::write(&dynamic, text).expect("a file");
        let file = folder.join("gantry.yaml");
        let settings = format!(
            "entryPoints: {{web: {{address: \"127.0.0.1:{port}\"}}}}\nproviders: {{file: {{filename: \"{}\"}}}}\n",
            dynamic.display()
        );
        std::fs::write(&file, settings).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_gantry"))
            .arg(format!("--configFile={}", file.display()))
            .args(["--workers", "1"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the gateway starts");
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the gateway does not open its port");
            thread::yield_now();
        }
        Self { child, folder }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Client(TcpStream);

impl Client {
    fn new(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self(stream)
    }

    fn get(&mut self) {
        const REQUEST: &[u8] = b"GET /segment/1 HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: bench\r\nAuthorization: Basic YWRtaW46dGVzdA==\r\n\r\n";
        self.0.write_all(REQUEST).expect("room");
        let mut buffer = [0; 2048];
        let mut got = 0;
        while !buffer[..got].ends_with(b"somewhere\"}") {
            let n = self.0.read(&mut buffer[got..]).expect("an answer");
            assert!(n > 0, "the answer ends early");
            got += n;
        }
        assert!(
            buffer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&buffer[..got])
        );
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port()
}

fn round_trips(criterion: &mut Criterion) {
    let backend = backend();
    let mut group = criterion.benchmark_group("round trip");
    let mut direct = Client::new(backend);
    group.bench_function("direct", |b| b.iter(|| direct.get()));
    for (name, middlewares) in [("router", ""), ("basicAuth, rateLimit", "auth, limit")] {
        let port = free_port();
        let _gateway = Gateway::start(port, backend, middlewares);
        let mut client = Client::new(port);
        group.bench_function(name, |b| b.iter(|| client.get()));
    }
    group.finish();
}

criterion_group!(benches, round_trips);
criterion_main!(benches);
