//! A backend that does with its connections exactly what a script says: half answers, silence, resets, garbage.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::message::{Body, Framing, Head, framing, read_body, read_head};

/// A backend of raw bytes.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<Head>>>,
}

/// One connection in the hands of a script.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    heads: Arc<Mutex<Vec<Head>>>,
}

impl Scripted {
    /// Runs `script` on each connection, on a thread of its own.
    pub fn start(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let heads = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let (stop, record) = (stopped.clone(), heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let mut connection = Connection {
                    reader: BufReader::new(stream),
                    heads: record.clone(),
                };
                let script = script.clone();
                std::thread::spawn(move || script(&mut connection));
            }
        });
        Self {
            address,
            stopped,
            heads,
        }
    }

    /// Answers each request with these bytes.
    pub fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |connection| {
            while connection.request().is_some() {
                if connection.write(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// Answers the first request of each connection with these bytes, and ends the connection.
    pub fn answering_once(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |connection| {
            if connection.request().is_some() {
                let _gone = connection.write(&bytes);
            }
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of all requests that were read.
    pub fn heads(&self) -> Vec<Head> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect(self.address);
    }
}

impl Connection {
    /// Reads a request with its body; `None` at the end of the connection.
    pub fn request(&mut self) -> Option<Body> {
        let head = self.head()?;
        let mut body = Body::default();
        let framing = framing(&head, Framing::None).ok()?;
        read_body(&mut self.reader, framing, &mut body).ok()?;
        Some(body)
    }

    /// Reads a head and leaves the body.
    pub fn head(&mut self) -> Option<Head> {
        let head = read_head(&mut self.reader).ok()??;
        self.heads.lock().unwrap().push(head.clone());
        Some(head)
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Ends the connection with a reset.
    pub fn reset(&mut self) {
        socket2::SockRef::from(self.reader.get_ref())
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    }

    /// Reads a body of this length.
    pub fn body(&mut self, length: u64) -> std::io::Result<Body> {
        let mut body = Body::default();
        read_body(&mut self.reader, Framing::Length(length), &mut body).map(|()| body)
    }

    /// Waits until the gateway ends the connection, without reading what it sends.
    pub fn wait_for_reset(&self) {
        // Writing nothing tells nothing; the error queue of the socket does.
        let socket = socket2::SockRef::from(self.reader.get_ref());
        let deadline = std::time::Instant::now() + super::DEADLINE;
        while std::time::Instant::now() < deadline {
            let state = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
            if socket.take_error().is_ok_and(|error| error.is_some()) || !self.is_established(&state) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Whether the kernel's table of sockets holds this connection as open in both directions.
    fn is_established(&self, table: &str) -> bool {
        let hex = |address: SocketAddr| {
            let std::net::IpAddr::V4(ip) = address.ip() else {
                return String::new();
            };
            format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), address.port())
        };
        let stream = self.reader.get_ref();
        let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
            return false;
        };
        let wanted = format!("{} {} 01", hex(own), hex(peer));
        table.lines().any(|line| line.contains(&wanted))
    }
}
