//! `serversTransports.NAME` → handshakes with `https` servers.
//!
//! Roots: `rootCAs` if given (and only those, as in Traefik), otherwise those of the system, otherwise Mozilla's list
//! that is built in (a `scratch` image has none of its own).

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, danger::ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::bulk::BulkIo;
use super::cache::{Fingerprint, TlsCache};
use super::cipher::{Protocol, Wanted};
use super::keys::{Identity, certificates_from_pem};
use super::options::WRITE_LIMIT;
use super::server::Alpn;
use super::setup::{UNREADABLE, load_pair};
use super::verify::{AnyServer, TrustedServers};
use crate::config::Resources;
use crate::config::dynamic::ServersTransport;
use crate::diag::Diagnostic;

/// A connection to a server after the handshake.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<BulkIo<IO>>;

/// How Gantry speaks TLS to the servers of one transport. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Offers h2 and http/1.1, or only the latter (`disableHTTP2`).
    config: Arc<ClientConfig>,
    /// Offers http/1.1 only.
    http1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    fingerprint: Fingerprint,
}

/// Why a server could not be reached by TLS. All are answered 502 to the client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The host of the URL cannot be a server name.
    #[error("`{0}` cannot be a TLS server name")]
    Name(String),
    /// The server's certificate is not believed: unknown issuer, wrong name, expired.
    #[error("the server's certificate is not trusted: {}", certificate_reason(.0))]
    Certificate(#[source] rustls::Error),
    /// The two sides do not understand each other.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The connection broke during the handshake.
    #[error("connection lost during the TLS handshake: {0}")]
    Io(#[source] io::Error),
}

fn certificate_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => reason.to_string(),
        other => other.to_string(),
    }
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner @ (rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)) => {
                Self::Certificate(inner.clone())
            }
            Some(inner) => Self::Tls(inner.clone()),
            None => Self::Io(error),
        }
    }
}

impl ClientTls {
    /// Translates the TLS settings of the transport at `path` (such as `http.serversTransports.t`).
    ///
    /// `None` means that they cannot be used: an error is among the diagnostics, and the services with this transport
    /// must not be served.
    pub fn build(
        transport: &ServersTransport,
        path: &str,
        resources: &Resources,
        cache: &TlsCache,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let mut diagnostics = Vec::new();
        let built = Self::try_build(transport, path, resources, cache, &mut diagnostics);
        (built, diagnostics)
    }

    fn try_build(
        transport: &ServersTransport,
        path: &str,
        resources: &Resources,
        cache: &TlsCache,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Self> {
        let protocol = Wanted {
            min: transport.min_version,
            max: transport.max_version,
            suites: &transport.cipher_suites,
            curves: &[],
        }
        .resolve(path, diagnostics);
        let roots = read_roots(transport, path, resources, diagnostics);
        let identities = read_identities(transport, path, resources, cache, diagnostics);
        let server_name = read_server_name(transport, path, diagnostics);
        warn_insecure(transport, path, diagnostics);
        let (protocol, roots, server_name) = (protocol?, roots?, server_name?);
        let (fingerprints, identities): (Vec<_>, Vec<_>) = identities?.into_iter().unzip();

        let settings = format!(
            "{} {:?} {:?} {:?} {:?} {} {}",
            transport.insecure_skip_verify,
            transport.min_version,
            transport.max_version,
            transport.cipher_suites,
            transport.server_name,
            transport.disable_http2,
            roots.len(),
        );
        let parts = roots
            .iter()
            .map(AsRef::as_ref)
            .chain(fingerprints.iter().map(Fingerprint::as_bytes));
        let fingerprint = Fingerprint::of(std::iter::once(settings.as_bytes()).chain(parts));
        let make = || client_config(transport, protocol, roots, &identities).map(Arc::new);
        let config = cache
            .client(fingerprint, make)
            .map_err(|error| diagnostics.push(Diagnostic::error(path, error)))
            .ok()?;
        let http1 = if config.alpn_protocols.len() == 1 {
            Arc::clone(&config)
        } else {
            let mut http1 = ClientConfig::clone(&config);
            http1.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(http1)
        };
        Some(Self {
            config,
            http1,
            server_name,
            fingerprint,
        })
    }

    /// Tells transports apart: connections of equal settings may be shared, also over a reload.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Shakes hands with a server over `io`.
    ///
    /// `host` is the host of the server's URL (an IPv6 address with or without brackets), unless `serverName` is set.
    /// `http1_only` offers no h2: a WebSocket needs HTTP/1.1. There is no deadline here.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect<IO>(
        &self,
        io: IO,
        host: &str,
        http1_only: bool,
    ) -> Result<(ClientStream<IO>, Alpn), ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host).ok_or_else(|| ConnectError::Name(host.to_owned()))?,
        };
        let config = if http1_only { &self.http1 } else { &self.config };
        let stream = TlsConnector::from(Arc::clone(config))
            .connect_with(name, BulkIo::new(io), |connection| {
                connection.set_buffer_limit(Some(WRITE_LIMIT))
            })
            .await?;
        let alpn = Alpn::from_negotiated(stream.get_ref().1.alpn_protocol());
        Ok((stream, alpn))
    }
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(host.to_owned()).ok()
}

fn warn_insecure(transport: &ServersTransport, path: &str, diagnostics: &mut Vec<Diagnostic>) {
    if transport.insecure_skip_verify {
        let message = if transport.root_cas.is_empty() {
            "the servers' certificates are not checked: whoever sits between can read and change everything"
        } else {
            "the servers' certificates are not checked: `rootCAs` has no effect beside it"
        };
        let warning = Diagnostic::warning(format!("{path}.insecureSkipVerify"), message);
        diagnostics.push(warning.help("name the servers' authority in `rootCAs`, and take `insecureSkipVerify` out"));
    }
}

#[allow(clippy::option_option, reason = "absent and wrong are two things")]
fn read_server_name(
    transport: &ServersTransport,
    path: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Option<ServerName<'static>>> {
    if transport.server_name.is_empty() {
        return Some(None);
    }
    let name = server_name(&transport.server_name);
    if name.is_none() {
        diagnostics.push(
            Diagnostic::error(
                format!("{path}.serverName"),
                format!("`{}` is neither a host name nor an IP address", transport.server_name),
            )
            .help("write the name in the servers' certificate, without scheme and port"),
        );
    }
    name.map(Some)
}

/// The listed roots; none at all means those of the system.
fn read_roots(
    transport: &ServersTransport,
    path: &str,
    resources: &Resources,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Vec<CertificateDer<'static>>> {
    let mut roots = Vec::new();
    let mut failed = false;
    for (index, root) in transport.root_cas.iter().enumerate() {
        let read = resources.file_or_content(root).and_then(|text| {
            let certificates = certificates_from_pem(&text).map_err(|error| error.to_string())?;
            let mut store = RootCertStore::empty();
            for certificate in &certificates {
                store
                    .add(certificate.clone())
                    .map_err(|error| format!("not a usable authority: {error}"))?;
            }
            Ok(certificates)
        });
        match read {
            Ok(certificates) => roots.extend(certificates),
            Err(error) => {
                let error = Diagnostic::error(format!("{path}.rootCAs[{index}]"), error);
                let unreadable = !root.contains("-----BEGIN") && !matches!(resources.get(root), Some(Ok(_)));
                diagnostics.push(error.help(if unreadable {
                    UNREADABLE
                } else {
                    "list certificates of authorities in PEM"
                }));
                failed = true;
            }
        }
    }
    (!failed).then_some(roots)
}

fn read_identities(
    transport: &ServersTransport,
    path: &str,
    resources: &Resources,
    cache: &TlsCache,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Vec<(Fingerprint, Arc<Identity>)>> {
    let mut identities = Vec::new();
    for (index, pair) in transport.certificates.iter().enumerate() {
        let path = format!("{path}.certificates[{index}]");
        let loaded = load_pair((&pair.cert_file, &pair.key_file), &path, resources, cache, diagnostics);
        if let Some(problem) = loaded
            .as_ref()
            .and_then(|(_, id)| id.info.validity_problem(SystemTime::now()))
        {
            diagnostics.push(Diagnostic::warning(format!("{path}.certFile"), problem));
        }
        identities.push(loaded);
    }
    identities.into_iter().collect()
}

fn client_config(
    transport: &ServersTransport,
    protocol: Protocol,
    roots: Vec<CertificateDer<'static>>,
    identities: &[Arc<Identity>],
) -> Result<ClientConfig, String> {
    let provider = protocol.provider;
    let judge: Arc<dyn ServerCertVerifier> = if transport.insecure_skip_verify {
        Arc::new(AnyServer(provider.signature_verification_algorithms))
    } else if roots.is_empty() {
        WebPkiServerVerifier::builder_with_provider(system_roots(), Arc::clone(&provider))
            .build()
            .map_err(|error| error.to_string())?
    } else {
        Arc::new(TrustedServers::new(roots, Arc::clone(&provider))?)
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&protocol.versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(judge);
    let mut config = if identities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let keys = identities.iter().map(|identity| Arc::clone(&identity.key)).collect();
        builder.with_client_cert_resolver(Arc::new(OwnCertificates(keys)))
    };
    config.alpn_protocols = if transport.disable_http2 {
        vec![b"http/1.1".to_vec()]
    } else {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    };
    Ok(config)
}

/// The first of the transport's certificates whose key suits the server.
#[derive(Debug)]
struct OwnCertificates(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for OwnCertificates {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0
            .iter()
            .find(|key| key.key.choose_scheme(schemes).is_some())
            .cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// The roots that the system trusts, read once a process; Mozilla's list where the system has none.
///
/// The first call reads files (`SSL_CERT_FILE` and `SSL_CERT_DIR` are obeyed).
pub fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    });
    Arc::clone(roots)
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use rustls::version::{TLS12, TLS13};
    use tokio_rustls::TlsAcceptor;

    use super::super::fixture::{Authority, Pair, lines, no_files, self_signed_authority};
    use super::*;
    use crate::config::dynamic::TlsVersion;
    use crate::config::transport::CertificatePair;

    fn build(transport: &ServersTransport) -> (Option<ClientTls>, Vec<String>) {
        let (tls, diagnostics) = ClientTls::build(transport, "t", &no_files(), &TlsCache::new());
        (tls, lines(&diagnostics))
    }

    /// A server that speaks both versions and both protocols, perhaps for known clients only.
    fn backend(pair: &Pair, clients: Option<&Authority>) -> Arc<ServerConfig> {
        let identity = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(certificates_from_pem(authority.pem.as_bytes()).unwrap().remove(0))
                    .unwrap();
                let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .unwrap();
                builder.with_client_cert_verifier(judge)
            }
        };
        let resolver = rustls::sign::SingleCertAndKey::from(identity.key);
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    async fn connect(
        tls: &ClientTls,
        server: &Arc<ServerConfig>,
        host: &str,
        http1_only: bool,
    ) -> Result<(Alpn, Option<rustls::ProtocolVersion>), ConnectError> {
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::clone(server));
        let serve = async {
            let stream = acceptor.accept(server_io).await;
            stream.map(|stream| stream.get_ref().1.protocol_version())
        };
        let (served, connected) = tokio::join!(serve, tls.connect(client_io, host, http1_only));
        let (_, alpn) = connected?;
        Ok((alpn, served.map_err(ConnectError::from)?))
    }

    #[tokio::test]
    async fn listed_roots_are_believed_and_names_checked() {
        let (ca, other) = (Authority::new("ca"), Authority::new("other"));
        let server = backend(&ca.leaf("backend.test", &["backend.test", "127.0.0.1", "::1"]), None);
        let transport = |root: &Authority, server_name: &str| ServersTransport {
            root_cas: vec![root.pem.clone()],
            server_name: server_name.to_owned(),
            ..ServersTransport::default()
        };
        let table = [
            (&ca, "", "backend.test", true),
            (&ca, "", "BACKEND.test.", true),
            (&ca, "", "127.0.0.1", true),
            (&ca, "", "[::1]", true),
            (&ca, "", "other.test", false),
            (&ca, "backend.test", "10.0.0.9", true),
            (&ca, "wrong.test", "backend.test", false),
            (&other, "", "backend.test", false),
        ];
        for (root, server_name, host, expected) in table {
            let (tls, diagnostics) = build(&transport(root, server_name));
            assert_eq!(diagnostics, Vec::<String>::new());
            match connect(&tls.unwrap(), &server, host, false).await {
                Ok((alpn, _)) => assert!(expected && alpn == Alpn::H2, "{server_name} {host}"),
                Err(ConnectError::Certificate(_)) => assert!(!expected, "{server_name} {host}"),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_listed_self_signed_certificate_is_believed_as_in_go() {
        let pair = self_signed_authority(&["backend.test"]);
        let server = backend(&pair, None);
        let transport = ServersTransport {
            root_cas: vec![pair.certificate],
            ..ServersTransport::default()
        };
        let tls = build(&transport).0.unwrap();
        assert!(connect(&tls, &server, "backend.test", false).await.is_ok());
        let wrong_name = connect(&tls, &server, "other.test", false).await;
        assert!(
            matches!(wrong_name, Err(ConnectError::Certificate(_))),
            "{wrong_name:?}"
        );
    }

    #[tokio::test]
    async fn the_system_does_not_believe_a_test_authority() {
        let server = backend(&Authority::new("ca").leaf("backend.test", &["backend.test"]), None);
        let tls = build(&ServersTransport::default()).0.unwrap();
        let error = connect(&tls, &server, "backend.test", false).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the server's certificate is not trusted: "),
            "{error}"
        );
        assert!(!system_roots().is_empty());
    }

    #[tokio::test]
    async fn insecure_skip_verify_believes_all_and_is_said() {
        let server = backend(&Authority::new("ca").leaf_until("x", &["x.test"], 2020), None);
        let transport = ServersTransport {
            insecure_skip_verify: true,
            ..ServersTransport::default()
        };
        let (tls, diagnostics) = build(&transport);
        assert!(diagnostics[0].starts_with("warning t.insecureskipverify: the servers' certificates are not checked"));
        assert!(connect(&tls.unwrap(), &server, "backend.test", false).await.is_ok());
    }

    #[tokio::test]
    async fn protocols_and_versions_are_obeyed() {
        let ca = Authority::new("ca");
        let server = backend(&ca.leaf("backend.test", &["backend.test"]), None);
        let base = ServersTransport {
            root_cas: vec![ca.pem.clone()],
            ..ServersTransport::default()
        };
        let only12 = ServersTransport {
            max_version: Some(TlsVersion::Tls12),
            ..base.clone()
        };
        let only13 = ServersTransport {
            min_version: Some(TlsVersion::Tls13),
            ..base.clone()
        };
        let http1 = ServersTransport {
            disable_http2: true,
            ..base.clone()
        };
        let (v12, v13) = (rustls::ProtocolVersion::TLSv1_2, rustls::ProtocolVersion::TLSv1_3);
        let table = [
            (&base, false, Alpn::H2, v13),
            (&base, true, Alpn::Http1, v13),
            (&http1, false, Alpn::Http1, v13),
            (&only12, false, Alpn::H2, v12),
            (&only13, false, Alpn::H2, v13),
        ];
        for (transport, http1_only, alpn, version) in table {
            let tls = build(transport).0.unwrap();
            let got = connect(&tls, &server, "backend.test", http1_only).await.unwrap();
            assert_eq!(got, (alpn, Some(version)));
        }
    }

    #[tokio::test]
    async fn shows_its_own_certificate() {
        let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
        let server = backend(&ca.leaf("backend.test", &["backend.test"]), Some(&clients));
        let own = clients.leaf("me", &["me.test"]);
        let without = ServersTransport {
            root_cas: vec![ca.pem.clone()],
            ..ServersTransport::default()
        };
        let certificates = vec![CertificatePair {
            cert_file: own.certificate,
            key_file: own.key,
        }];
        let with = ServersTransport {
            certificates,
            ..without.clone()
        };
        assert!(
            connect(&build(&with).0.unwrap(), &server, "backend.test", false)
                .await
                .is_ok()
        );
        assert!(
            connect(&build(&without).0.unwrap(), &server, "backend.test", false)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn what_is_not_a_certificate_problem_is_told_apart() {
        let tls = build(&ServersTransport::default()).0.unwrap();
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        drop(server_io);
        assert!(matches!(
            tls.connect(client_io, "x.test", false).await,
            Err(ConnectError::Io(_))
        ));
        let (client_io, _server_io) = tokio::io::duplex(64 * 1024);
        assert!(matches!(
            tls.connect(client_io, "not a name", false).await,
            Err(ConnectError::Name(_))
        ));
        let (client_io, mut server_io) = tokio::io::duplex(64 * 1024);
        tokio::io::AsyncWriteExt::write_all(&mut server_io, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        assert!(matches!(
            tls.connect(client_io, "x.test", false).await,
            Err(ConnectError::Tls(_))
        ));
    }

    #[test]
    fn bad_settings_are_errors() {
        let transport = ServersTransport {
            min_version: Some(TlsVersion::Tls13),
            max_version: Some(TlsVersion::Tls12),
            server_name: "not a name".to_owned(),
            root_cas: vec![
                "/missing.pem".to_owned(),
                "-----BEGIN NOTHING-----\n-----END NOTHING-----\n".to_owned(),
            ],
            certificates: vec![CertificatePair {
                cert_file: "/c.pem".to_owned(),
                key_file: "/k.pem".to_owned(),
            }],
            ..ServersTransport::default()
        };
        let (tls, diagnostics) = build(&transport);
        assert!(tls.is_none());
        let expected = [
            "error t.minversion: ",
            "error t.rootcas[0]: ",
            "error t.rootcas[1]: there is no certificate in it",
            "error t.certificates[0].certfile: ",
            "error t.certificates[0].keyfile: ",
            "error t.servername: `not a name` is neither",
        ];
        assert_eq!(diagnostics.len(), expected.len(), "{diagnostics:?}");
        for (line, expected) in diagnostics.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
    }

    #[test]
    fn equal_settings_are_one_transport() {
        let cache = TlsCache::new();
        let build = |transport: &ServersTransport| ClientTls::build(transport, "t", &no_files(), &cache).0.unwrap();
        let base = ServersTransport::default();
        let named = ServersTransport {
            server_name: "x.test".to_owned(),
            ..base.clone()
        };
        let (first, second) = (build(&base), build(&base));
        assert!(Arc::ptr_eq(&first.config, &second.config));
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_ne!(first.fingerprint(), build(&named).fingerprint());
    }
}
