//! Certificates, clients and handshakes for the tests of `tls`.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use super::server::{AcceptError, ServerTls, TlsInfo};
use super::verify::AnyServer;
use crate::config::Resources;
use crate::diag::Diagnostic;

/// A certificate authority of the tests.
pub(super) struct Authority {
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key as PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

pub(super) fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn leaf(&self, common_name: &str, names: &[&str]) -> Pair {
        self.leaf_until(common_name, names, 2090)
    }

    pub(super) fn leaf_until(&self, common_name: &str, names: &[&str], year: i32) -> Pair {
        let mut params = params(common_name, names);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.sign(&params)
    }

    /// A certificate with these parameters.
    pub(super) fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A self-signed certificate, marked as an authority as `openssl req -x509` does it.
pub(super) fn self_signed_authority(names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = params("self", names);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Pair {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// Runs `openssl` with an input and returns what it prints.
pub(super) fn openssl(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tests need openssl");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

/// Resources without any file.
pub(super) fn no_files() -> Resources {
    Resources::default()
}

/// Each diagnostic in one line: `error path: message`.
pub(super) fn lines(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|d| format!("{:?} {}: {}", d.severity, d.path, d.message).to_lowercase())
        .collect()
}

/// What a test client offers.
pub(super) struct Client {
    pub(super) sni: Option<&'static str>,
    pub(super) alpn: &'static [&'static str],
    pub(super) tls12: bool,
    pub(super) tls13: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            sni: Some("a.test"),
            alpn: &[],
            tls12: true,
            tls13: true,
        }
    }
}

impl Client {
    pub(super) fn named(sni: &'static str) -> Self {
        Self {
            sni: Some(sni),
            ..Self::default()
        }
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let judge = AnyServer(provider.signature_verification_algorithms);
        let versions: Vec<_> = [(self.tls13, &TLS13), (self.tls12, &TLS12)]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, v)| *v)
            .collect();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge))
            .with_no_client_auth();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = self.sni.is_some();
        Arc::new(config)
    }
}

/// What came of a handshake, seen from both sides.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) info: Result<TlsInfo, AcceptError>,
    /// Common name of the certificate that the client was shown.
    pub(super) certificate: Option<String>,
    /// What the client got instead of a connection.
    pub(super) client_error: Option<String>,
}

/// One handshake over a pipe in memory, with `ping` one way and `pong` the other.
pub(super) async fn shake(server: &ServerTls, client: &Client) -> Outcome {
    shake_with(server, client.config(), client.sni, None).await
}

pub(super) async fn shake_with(
    server: &ServerTls,
    config: Arc<ClientConfig>,
    sni: Option<&'static str>,
    local: Option<std::net::IpAddr>,
) -> Outcome {
    let (client_io, server_io) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(sni.unwrap_or("nobody.test")).unwrap();
    let serve = async {
        let (mut stream, info) = server.accept(server_io, local).await?;
        let mut got = [0; 4];
        if stream.read_exact(&mut got).await.is_ok() {
            stream.write_all(b"pong").await.unwrap();
            stream.shutdown().await.unwrap();
        }
        Ok(info)
    };
    let (info, (certificate, client_error)) = tokio::join!(serve, talk(client_io, config, name));
    Outcome {
        info,
        certificate,
        client_error,
    }
}

async fn talk(
    io: DuplexStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> (Option<String>, Option<String>) {
    let mut stream = match tokio_rustls::TlsConnector::from(config).connect(name, io).await {
        Ok(stream) => stream,
        Err(error) => return (None, Some(error.to_string())),
    };
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let name = leaf
        .subject()
        .iter_common_name()
        .last()
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned();
    let mut answer = Vec::new();
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => assert_eq!(answer, b"pong"),
        Err(error) => return (Some(name), Some(error.to_string())),
    }
    (Some(name), None)
}

/// A pipe that counts the reads that bring bytes.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.0).poll_read(cx, into);
        if polled.is_ready() {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Sends a body from a client to a server; says how much came and how many reads of the connection it took.
pub(super) async fn upload(body: usize) -> (usize, usize) {
    let (setup, _) = super::setup::TlsSetup::build(&Default::default(), &no_files(), &super::cache::TlsCache::new());
    let server = setup.entry_point([]).0;
    let (client_io, server_io) = tokio::io::duplex(256 * 1024);
    let reads = Arc::new(AtomicUsize::new(0));
    let name = ServerName::try_from("a.test").unwrap();
    let client = async {
        let mut stream = tokio_rustls::TlsConnector::from(Client::default().config())
            .connect(name, client_io)
            .await?;
        stream.write_all(&vec![7; body]).await?;
        stream.shutdown().await
    };
    let serve = async {
        let (mut stream, _) = server
            .accept(Counted(server_io, Arc::clone(&reads)), None)
            .await
            .unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got.len()
    };
    let (client, got) = tokio::join!(client, serve);
    client.unwrap();
    (got, reads.load(Ordering::Relaxed))
}
