//! Clients that write what they are told and read strictly what comes.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use super::DEADLINE;
use super::certificate::{AnyCertificate, Certificate};
use super::message::{Body, Framing, Head, framing, latin1, read_body, read_head};

trait Stream: Read + Write + Send + std::fmt::Debug {}
impl<T: Read + Write + Send + std::fmt::Debug> Stream for T {}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub head: Head,
    pub framing: Framing,
    pub body: Body,
    /// Heads with status 1xx that came before.
    pub interim: Vec<Head>,
    /// Whether the body was whole.
    pub whole: bool,
}

impl Reply {
    /// The value of a field that came at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        latin1(&self.body.bytes)
    }

    #[track_caller]
    pub fn assert_status(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{:?}\n{}", self.head, self.text());
        self
    }

    #[track_caller]
    pub fn assert_body(&self, text: &str) -> &Self {
        assert_eq!(self.text(), text);
        self
    }
}

/// A connection for raw bytes.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<Box<dyn Stream>>,
    socket: TcpStream,
    certificate: Option<Vec<u8>>,
    protocol: Option<Vec<u8>>,
    resumed: bool,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = open(address, None).unwrap();
        let stream = socket.try_clone().unwrap();
        Self {
            reader: BufReader::new(Box::new(stream)),
            socket,
            certificate: None,
            protocol: None,
            resumed: false,
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).unwrap();
        self
    }

    /// Sends bytes that the gateway may not want to read.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())?;
        self.reader.get_mut().flush()
    }

    /// Sends a GET and reads its answer.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Reply {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n"))
            .reply()
    }

    /// Reads an answer to anything but HEAD.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.try_reply("GET").unwrap()
    }

    /// Reads an answer to a request with this method.
    pub fn try_reply(&mut self, method: &str) -> io::Result<Reply> {
        let mut interim = Vec::new();
        loop {
            let head = read_head(&mut self.reader)?.ok_or(ErrorKind::UnexpectedEof)?;
            let mut parts = head.first.splitn(3, ' ');
            let _version = parts.next();
            let status = parts.next().and_then(|status| status.parse().ok());
            let status = status.ok_or_else(|| io::Error::other(format!("status line {:?}", head.first)))?;
            if (100..200).contains(&status) && status != 101 {
                interim.push(head);
                continue;
            }
            let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
            let framing = if bodiless {
                Framing::None
            } else {
                framing(&head, Framing::Close)?
            };
            let mut body = Body::default();
            let whole = read_body(&mut self.reader, framing, &mut body);
            return Ok(Reply {
                status,
                head,
                framing,
                body,
                interim,
                whole: whole.is_ok(),
            });
        }
    }

    /// Whether the gateway ends the connection without another byte; fails when it does neither in time.
    #[track_caller]
    pub fn is_ended(&mut self) -> bool {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(n) => n == 0,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection stays open")
            }
            Err(_) => true,
        }
    }

    /// Reads as many bytes as are asked for.
    #[track_caller]
    pub fn read(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).unwrap();
        latin1(&bytes)
    }

    /// Ends the connection by a reset, as a killed client's kernel does with unread data.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    /// Waits for bytes no longer than this from now on.
    pub fn patience(&mut self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).unwrap();
    }

    /// Waits for room to write no longer than this from now on.
    pub fn write_patience(&mut self, time: Duration) {
        self.socket.set_write_timeout(Some(time)).unwrap();
    }

    /// The server's certificate (DER).
    pub fn certificate(&self) -> &[u8] {
        self.certificate.as_deref().expect("a TLS connection")
    }

    /// Whether the handshake has resumed an earlier session.
    pub const fn resumed(&self) -> bool {
        self.resumed
    }

    /// The protocol that ALPN chose.
    pub fn protocol(&self) -> Option<&str> {
        std::str::from_utf8(self.protocol.as_deref()?).ok()
    }
}

fn open(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&address.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    Ok(socket.into())
}

/// A request on a connection of its own.
#[derive(Clone, Debug)]
pub struct Request {
    address: SocketAddr,
    source: Option<IpAddr>,
    method: String,
    target: String,
    host: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
}

impl Request {
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        Self {
            address,
            source: None,
            method: method.into(),
            target: target.into(),
            host: "app.test".into(),
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    /// A body with its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A body in chunks.
    pub fn chunked(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.chunked = true;
        self
    }

    /// HTTP basic authentication.
    pub fn basic(self, user: &str, password: &str) -> Self {
        use base64::Engine as _;
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.header("Authorization", &format!("Basic {token}"))
    }

    /// Comes from another address of the loopback.
    pub fn from(mut self, source: &str) -> Self {
        self.source = Some(source.parse().unwrap());
        self
    }

    /// The bytes of the request.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.host);
        for (name, value) in &self.headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        if self.chunked {
            bytes += "Transfer-Encoding: chunked\r\n";
        } else if !self.body.is_empty() || self.method == "POST" || self.method == "PUT" {
            bytes += &format!("Content-Length: {}\r\n", self.body.len());
        }
        let mut bytes = (bytes + "\r\n").into_bytes();
        if self.chunked {
            for chunk in self.body.chunks(1000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    #[track_caller]
    pub fn send(self) -> Reply {
        let what = format!("{} {}", self.method, self.target);
        self.try_send().unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    pub fn try_send(self) -> io::Result<Reply> {
        let socket = open(self.address, self.source)?;
        let stream = socket.try_clone()?;
        let mut client = Client {
            reader: BufReader::new(Box::new(stream)),
            socket,
            certificate: None,
            protocol: None,
            resumed: false,
        };
        // An answer may come before the body is read to its end.
        let _early = client.try_send(self.bytes());
        client.try_reply(&self.method)
    }
}

/// A TLS connection to be made.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(super) address: SocketAddr,
    pub(super) name: String,
    protocols: Vec<Vec<u8>>,
    versions: Vec<&'static rustls::SupportedProtocolVersion>,
    shows: Option<Arc<CertifiedKey>>,
    sessions: Option<Arc<ClientConfig>>,
}

impl Tls {
    pub fn new(address: SocketAddr, name: &str) -> Self {
        Self {
            address,
            name: name.into(),
            protocols: Vec::new(),
            versions: rustls::ALL_VERSIONS.to_vec(),
            shows: None,
            sessions: None,
        }
    }

    /// The protocols to offer by ALPN.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// The only version to offer.
    pub fn version(mut self, version: &'static rustls::SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// The certificate to show when the gateway asks for one.
    pub fn showing(mut self, certificate: &Certificate) -> Self {
        self.shows = Some(certificate.certified());
        self
    }

    /// Remembers sessions: what is made of clones of this resumes them.
    pub fn remembering(mut self) -> Self {
        self.sessions = Some(Arc::new(self.config()));
        self
    }

    /// The status of the answer to a GET on a new connection, or why there is none. By TLS 1.3 the gateway judges a
    /// client's certificate after the client's own part of the handshake.
    pub fn try_get(self, host: &str, target: &str) -> io::Result<Reply> {
        let mut client = self.try_connect()?;
        client.try_send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
        client.try_reply("GET")
    }

    pub(super) fn config(&self) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&self.versions);
        let verifier = Arc::new(AnyCertificate(provider));
        let mut config = builder
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols.clone_from(&self.protocols);
        if let Some(shown) = &self.shows {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(shown)));
        }
        config
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.name.clone()).unwrap()
    }

    /// Shakes hands, for HTTP/1.1.
    #[track_caller]
    pub fn connect(self) -> Client {
        self.try_connect().unwrap()
    }

    pub fn try_connect(self) -> io::Result<Client> {
        let mut socket = open(self.address, None)?;
        let config = self.sessions.clone().unwrap_or_else(|| Arc::new(self.config()));
        let mut connection = ClientConnection::new(config, self.server_name()).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let certificate = connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|der| der.to_vec());
        let protocol = connection.alpn_protocol().map(<[u8]>::to_vec);
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let twin = socket.try_clone()?;
        let stream = StreamOwned::new(connection, socket);
        Ok(Client {
            reader: BufReader::new(Box::new(stream)),
            socket: twin,
            certificate,
            protocol,
            resumed,
        })
    }
}
