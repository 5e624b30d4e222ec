//! Handshakes of clients: server name → options → certificate.
//!
//! [`TlsSetup`] is what the `tls` section means (certificates and options); an entry point combines it with the host
//! names of its routers into a [`ServerTls`], which sits in the snapshot.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::bulk::BulkIo;
use super::challenge::Challenges;
use super::cipher::{prefers_chacha, suite_name, version_name};
use super::client_auth::ClientCertificate;
use super::options::WRITE_LIMIT;
use super::setup::Slot;
pub use super::setup::{RouterTls, TlsSetup};
use super::store::{CertStore, normal_name};

/// A client's connection after the handshake.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<BulkIo<IO>>;

/// The fatal alert `unrecognized_name` as a record (RFC 8446 section 6, RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];

/// The HTTP version that the handshake has agreed upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// `h2`.
    H2,
    /// `http/1.1`, or nothing was said.
    Http1,
}

impl Alpn {
    /// From what rustls negotiated.
    pub fn from_negotiated(protocol: Option<&[u8]>) -> Self {
        if protocol == Some(b"h2") { Self::H2 } else { Self::Http1 }
    }
}

/// What a handshake has found out.
#[derive(Debug, Clone)]
pub struct TlsInfo {
    /// The server name that the client asked for, in lower case and without a trailing dot.
    pub sni: Option<String>,
    /// `1.2` or `1.3`: the label `tls_version` and the access log's TLSVersion.
    pub version: &'static str,
    /// Such as `TLS_AES_128_GCM_SHA256`: the label `tls_cipher` and the access log's TLSCipher.
    pub cipher: &'static str,
    /// The HTTP version to speak.
    pub alpn: Alpn,
    /// The options of the connection, see [`ServerTls::options_for_host`].
    pub options_id: u32,
    /// What was asked of the client, see [`TlsSetup::client_auth_of`]. 0 is nothing.
    pub client_auth_id: u32,
    /// The certificate that the client has shown.
    pub client: Option<Arc<ClientCertificate>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// Why a connection did not come about. In all cases it is closed.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// No ClientHello came: the client went, timed out or speaks no TLS.
    #[error("no TLS hello: {0}")]
    Hello(#[source] io::Error),
    /// `sniStrict`, and no certificate fits.
    #[error("no certificate for `{}` (sniStrict)", .0.as_deref().unwrap_or("a client that names no server"))]
    NoCertificate(Option<String>),
    /// The options of this name are broken or do not exist.
    #[error("the TLS options of `{0}` cannot be used")]
    BrokenOptions(String),
    /// The handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// An ACME authority has looked at the proof for a name: a success, with nothing to follow.
    #[error("an ACME authority looked for a proof")]
    Proven,
}

/// Takes the handshakes of an entry point's clients. Immutable, part of the snapshot.
#[derive(Debug)]
pub struct ServerTls {
    store: Arc<CertStore>,
    exact: HashMap<Box<str>, Arc<Slot>>,
    /// Key: what follows `*.`
    wildcard: HashMap<Box<str>, Arc<Slot>>,
    default: Arc<Slot>,
    challenges: Arc<Challenges>,
}

impl ServerTls {
    pub(super) const fn new(
        store: Arc<CertStore>,
        exact: HashMap<Box<str>, Arc<Slot>>,
        wildcard: HashMap<Box<str>, Arc<Slot>>,
        default: Arc<Slot>,
        challenges: Arc<Challenges>,
    ) -> Self {
        Self {
            store,
            exact,
            wildcard,
            default,
            challenges,
        }
    }

    fn slot(&self, host: &str) -> &Arc<Slot> {
        let host = normal_name(host);
        self.exact
            .get(host.as_ref())
            .or_else(|| self.wildcard.get(host.split_once('.')?.1))
            .unwrap_or(&self.default)
    }

    /// The options that hold for a host (no port; any case; one trailing dot is ignored).
    ///
    /// A request whose host has another number here than [`TlsInfo::options_id`] came in over a connection that was
    /// opened under other rules: the answer is 421 (reference, C1). The numbers stay the same over a reload, unless it
    /// changes what is asked of clients. That of broken options is no connection's.
    pub fn options_for_host(&self, host: &str) -> u32 {
        self.slot(host).id
    }

    /// Takes a client's handshake.
    ///
    /// `local` is the address that the client has connected to: it chooses the certificate of a client that names no
    /// server. There is no deadline here: wrap it in one that covers the whole future. Dropping the future closes the
    /// connection.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept<IO>(&self, io: IO, local: Option<IpAddr>) -> Result<(ServerStream<IO>, TlsInfo), AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), BulkIo::new(io));
        let mut start = hello.await.map_err(AcceptError::Hello)?;
        if let Some(config) = self.challenges.handshake(&start.client_hello()) {
            let mut stream = start.into_stream(config).await.map_err(AcceptError::Handshake)?;
            // RFC 8737 section 3: the proof is the handshake, no data may follow.
            let _ = stream.shutdown().await;
            return Err(AcceptError::Proven);
        }
        let (config, sni, slot) = match self.choose(&start.client_hello(), local) {
            Ok(chosen) => chosen,
            Err(error) => {
                refuse(&mut start, &error).await;
                return Err(error);
            }
        };
        let stream = start
            .into_stream_with(config, |connection| connection.set_buffer_limit(Some(WRITE_LIMIT)))
            .await
            .map_err(AcceptError::Handshake)?;
        let connection = stream.get_ref().1;
        let info = TlsInfo {
            sni,
            version: version_name(connection.protocol_version()),
            cipher: suite_name(connection.negotiated_cipher_suite().map(|suite| suite.suite())),
            alpn: Alpn::from_negotiated(connection.alpn_protocol()),
            options_id: slot.id,
            client_auth_id: slot.client_auth,
            client: ClientCertificate::shown(
                connection.peer_certificates(),
                slot.options.as_ref().is_some_and(|options| options.verifies_clients),
            ),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        };
        Ok((stream, info))
    }

    fn choose(
        &self,
        hello: &ClientHello<'_>,
        local: Option<IpAddr>,
    ) -> Result<(Arc<ServerConfig>, Option<String>, &Slot), AcceptError> {
        let sni = hello.server_name().map(|name| normal_name(name).into_owned());
        let slot = sni.as_deref().map_or(&self.default, |name| self.slot(name));
        let Some(options) = &slot.options else {
            return Err(AcceptError::BrokenOptions(sni.unwrap_or_default()));
        };
        let found = match &sni {
            Some(name) => self.store.find(name).is_some(),
            None => {
                if let Some(identity) = local.and_then(|address| self.store.find_ip(address)) {
                    return Ok((options.with_certificate(identity), None, slot));
                }
                false
            }
        };
        if !found && (options.sni_strict || self.store.default_certificate().is_none()) {
            return Err(AcceptError::NoCertificate(sni));
        }
        let config = Arc::clone(options.config(prefers_chacha(hello.cipher_suites())));
        Ok((config, sni, slot))
    }
}

/// Says why, where TLS has a word for it, and closes.
async fn refuse<IO: AsyncRead + AsyncWrite + Unpin>(start: &mut StartHandshake<BulkIo<IO>>, error: &AcceptError) {
    // The client may have gone already: nothing more to do then.
    if matches!(error, AcceptError::NoCertificate(_)) && start.io.write_all(&UNRECOGNIZED_NAME).await.is_ok() {
        let _ = start.io.flush().await;
    }
    let _ = start.io.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cache::TlsCache;
    use super::super::fixture::{Authority, Client, Pair, lines, no_files, shake, shake_with};
    use super::*;
    use crate::config::dynamic::{Certificate, Tls, TlsOptions, TlsStore, TlsVersion};
    use crate::diag::Diagnostic;

    fn certificate(pair: &Pair) -> Certificate {
        Certificate {
            cert_file: pair.certificate.clone(),
            key_file: pair.key.clone(),
            ..Certificate::default()
        }
    }

    /// a.test, *.wild.test and a default certificate, as the comparison with Traefik has them.
    fn section() -> Tls {
        let ca = Authority::new("ca");
        let default_certificate = Some(certificate(&ca.leaf("default.test", &["default.test"])));
        Tls {
            certificates: vec![
                certificate(&ca.leaf("a.test", &["a.test"])),
                certificate(&ca.leaf("*.wild.test", &["*.wild.test"])),
                certificate(&ca.leaf("ip", &["10.1.2.3"])),
            ],
            stores: BTreeMap::from([(
                "default".to_owned(),
                TlsStore {
                    default_certificate,
                    ..TlsStore::default()
                },
            )]),
            ..Tls::default()
        }
    }

    fn with_options(named: &[(&str, TlsOptions)]) -> Tls {
        let options = named
            .iter()
            .map(|(name, options)| ((*name).to_owned(), options.clone()))
            .collect();
        Tls { options, ..section() }
    }

    fn build(tls: &Tls, routers: &[(&str, &[&str], &str)]) -> (ServerTls, Vec<String>) {
        let (server, diagnostics) = build_cached(tls, routers, &TlsCache::new());
        (server, lines(&diagnostics))
    }

    fn build_cached(tls: &Tls, routers: &[(&str, &[&str], &str)], cache: &TlsCache) -> (ServerTls, Vec<Diagnostic>) {
        let hosts: Vec<Vec<String>> = routers
            .iter()
            .map(|(_, hosts, _)| hosts.iter().map(|host| (*host).to_owned()).collect())
            .collect();
        let routers = routers
            .iter()
            .zip(&hosts)
            .map(|((path, _, options), hosts)| RouterTls { path, hosts, options });
        let (setup, mut diagnostics) = TlsSetup::build(tls, &no_files(), cache);
        let (server, more) = setup.entry_point(routers);
        diagnostics.extend(more);
        (server, diagnostics)
    }

    fn tls13() -> TlsOptions {
        TlsOptions {
            min_version: Some(TlsVersion::Tls13),
            ..TlsOptions::default()
        }
    }

    fn tls12() -> TlsOptions {
        TlsOptions {
            max_version: Some(TlsVersion::Tls12),
            ..TlsOptions::default()
        }
    }

    fn strict() -> TlsOptions {
        TlsOptions {
            sni_strict: true,
            ..TlsOptions::default()
        }
    }

    fn broken() -> TlsOptions {
        TlsOptions {
            cipher_suites: vec!["NO_SUCH".to_owned()],
            ..TlsOptions::default()
        }
    }

    #[tokio::test]
    async fn the_name_picks_the_certificate() {
        let (server, diagnostics) = build(&section(), &[]);
        assert_eq!(diagnostics, Vec::<String>::new());
        let table = [
            (Some("a.test"), "a.test"),
            (Some("A.TEST"), "a.test"),
            (Some("x.wild.test"), "*.wild.test"),
            (Some("a.b.wild.test"), "default.test"),
            (Some("none.test"), "default.test"),
            (None, "default.test"),
        ];
        for (sni, expected) in table {
            for tls13 in [true, false] {
                let client = Client {
                    sni,
                    tls13,
                    ..Client::default()
                };
                let outcome = shake(&server, &client).await;
                assert_eq!(outcome.certificate.as_deref(), Some(expected), "{sni:?}");
                let info = outcome.info.unwrap();
                assert_eq!(info.sni, sni.map(str::to_ascii_lowercase));
                assert_eq!(info.version, if tls13 { "1.3" } else { "1.2" });
                assert_eq!(info.options_id, 0);
            }
        }
    }

    #[tokio::test]
    async fn without_a_name_the_address_picks_the_certificate() {
        for tls in [section(), with_options(&[("default", strict())])] {
            let (server, _) = build(&tls, &[]);
            let client = Client {
                sni: None,
                ..Client::default()
            };
            let outcome = shake_with(&server, client.config(), None, Some("10.1.2.3".parse().unwrap())).await;
            assert_eq!(outcome.certificate.as_deref(), Some("ip"));
        }
    }

    #[tokio::test]
    async fn without_certificates_there_is_a_self_signed_one() {
        let (server, diagnostics) = build(&Tls::default(), &[]);
        assert_eq!(diagnostics, Vec::<String>::new());
        let outcome = shake(&server, &Client::default()).await;
        assert_eq!(outcome.certificate.as_deref(), Some("TRAEFIK DEFAULT CERT"));
        assert_eq!(outcome.info.unwrap().cipher, "TLS_AES_128_GCM_SHA256");
    }

    #[tokio::test]
    async fn sni_strict_refuses_unknown_names_by_their_alert() {
        let (server, _) = build(&with_options(&[("default", strict())]), &[]);
        assert!(shake(&server, &Client::named("a.test")).await.info.is_ok());
        for sni in [Some("none.test"), Some("default.test"), None] {
            let outcome = shake(
                &server,
                &Client {
                    sni,
                    ..Client::default()
                },
            )
            .await;
            assert!(
                matches!(outcome.info, Err(AcceptError::NoCertificate(_))),
                "{:?}",
                outcome.info
            );
            let error = outcome.client_error.unwrap();
            assert!(error.contains("UnrecognisedName"), "{error}");
        }
    }

    #[tokio::test]
    async fn the_protocol_is_agreed_upon() {
        let http1 = TlsOptions {
            alpn_protocols: vec!["http/1.1".to_owned()],
            ..TlsOptions::default()
        };
        let acme = TlsOptions {
            alpn_protocols: vec!["acme-tls/1".to_owned()],
            ..TlsOptions::default()
        };
        let tls = with_options(&[("http1", http1), ("acme", acme)]);
        let (server, _) = build(&tls, &[("r", &["one.test"], "http1"), ("s", &["acme.test"], "acme")]);
        let table: &[(&str, &'static [&'static str], Option<Alpn>)] = &[
            ("a.test", &["http/1.1", "h2"], Some(Alpn::H2)),
            ("a.test", &["http/1.1"], Some(Alpn::Http1)),
            ("a.test", &[], Some(Alpn::Http1)),
            ("a.test", &["acme-tls/1"], None),
            ("a.test", &["spdy/3"], None),
            ("one.test", &["h2", "http/1.1"], Some(Alpn::Http1)),
            ("one.test", &["h2"], None),
            ("acme.test", &["h2"], Some(Alpn::Http1)),
        ];
        for (sni, alpn, expected) in table {
            let client = Client {
                sni: Some(sni),
                alpn,
                ..Client::default()
            };
            let outcome = shake(&server, &client).await;
            assert_eq!(
                outcome.info.as_ref().ok().map(|info| info.alpn),
                *expected,
                "{sni} {alpn:?}"
            );
            if expected.is_none() {
                assert!(outcome.client_error.unwrap().contains("NoApplicationProtocol"));
            }
        }
    }

    #[tokio::test]
    async fn protocols_that_are_not_spoken_are_never_agreed_upon() {
        let listed = |protocols: &[&str]| TlsOptions {
            alpn_protocols: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            ..TlsOptions::default()
        };
        let tls = with_options(&[("some", listed(&["spdy/3", "http/1.1"])), ("none", listed(&["h3"]))]);
        let (server, diagnostics) = build(&tls, &[("r", &["some.test"], "some"), ("s", &["none.test"], "none")]);
        let expected = [
            "warning tls.options.none.alpnprotocols[0]: `h3` is not spoken by gantry: left out",
            "error tls.options.none.alpnprotocols: none of the listed protocols can be spoken",
            "warning tls.options.some.alpnprotocols[0]: `spdy/3` is not spoken by gantry: left out",
        ];
        assert_eq!(diagnostics, expected);
        for (sni, alpn, ok) in [
            ("some.test", &["spdy/3"][..], false),
            ("some.test", &["spdy/3", "http/1.1"], true),
            ("none.test", &["http/1.1"], false),
        ] {
            let client = Client {
                alpn,
                ..Client::named(sni)
            };
            assert_eq!(shake(&server, &client).await.info.is_ok(), ok, "{sni} {alpn:?}");
        }
    }

    #[tokio::test]
    async fn options_belong_to_hosts() {
        let tls = with_options(&[("o13", tls13()), ("o12", tls12()), ("broken", broken())]);
        let (server, diagnostics) = build(
            &tls,
            &[
                ("http.routers.a", &["a.test", "Upper.Test."], "o13"),
                ("http.routers.w", &["*.wild.test"], "o12@file"),
                ("http.routers.e", &["one.wild.test"], ""),
                ("http.routers.b", &["b.test"], "broken"),
            ],
        );
        assert_eq!(
            diagnostics,
            ["error tls.options.broken.ciphersuites[0]: unknown cipher suite `no_such`"]
        );
        // Server name, whether the client speaks 1.2 and 1.3, the version agreed upon.
        let table = [
            ("a.test", true, true, Some("1.3")),
            ("a.test", true, false, None),
            ("upper.test", true, false, None),
            ("x.wild.test", true, true, Some("1.2")),
            ("x.wild.test", false, true, None),
            ("one.wild.test", true, true, Some("1.3")),
            ("one.wild.test", true, false, Some("1.2")),
            ("b.test", true, true, None),
            ("other.test", true, true, Some("1.3")),
        ];
        for (sni, tls12, tls13, expected) in table {
            let outcome = shake(
                &server,
                &Client {
                    sni: Some(sni),
                    tls12,
                    tls13,
                    ..Client::default()
                },
            )
            .await;
            assert_eq!(
                outcome.info.ok().map(|info| info.version),
                expected,
                "{sni} {tls12} {tls13}"
            );
        }
        let outcome = shake(&server, &Client::named("b.test")).await;
        assert!(matches!(outcome.info, Err(AcceptError::BrokenOptions(name)) if name == "b.test"));

        let a = server.options_for_host("a.test");
        assert_ne!(a, 0);
        assert_eq!(server.options_for_host("UPPER.test."), a);
        assert_eq!(server.options_for_host("one.wild.test"), 0);
        assert_ne!(server.options_for_host("two.wild.test"), a);
        assert_eq!(server.options_for_host("other.test"), 0);
        assert_eq!(
            shake(&server, &Client::named("a.test")).await.info.unwrap().options_id,
            a
        );
    }

    #[tokio::test]
    async fn a_conflict_falls_back_to_the_default_unless_one_is_broken() {
        let tls = with_options(&[("o13", tls13()), ("o12", tls12()), ("broken", broken())]);
        let (server, diagnostics) = build(
            &tls,
            &[
                ("http.routers.r", &["x.test", "y.test"], "o13"),
                ("http.routers.r2", &["x.test"], "o12"),
                ("http.routers.r3", &["y.test"], "broken"),
                ("http.routers.r4", &["y.test"], "o13"),
            ],
        );
        assert!(diagnostics[1].starts_with("warning http.routers.r.tls.options: routers for the host `x.test`"));
        assert!(diagnostics[2].contains("`y.test`"), "{diagnostics:?}");
        assert_eq!(server.options_for_host("x.test"), 0);
        for (tls13, version) in [(true, "1.3"), (false, "1.2")] {
            let outcome = shake(
                &server,
                &Client {
                    sni: Some("x.test"),
                    tls13,
                    ..Client::default()
                },
            )
            .await;
            assert_eq!(outcome.info.unwrap().version, version);
        }
        assert!(shake(&server, &Client::named("y.test")).await.info.is_err());
    }

    #[tokio::test]
    async fn options_that_cannot_hold_refuse_the_router() {
        let tls = with_options(&[("o13", tls13())]);
        let (server, diagnostics) = build(
            &tls,
            &[
                ("http.routers.none", &[], "o13"),
                ("http.routers.star", &["*", "s.test"], "o13"),
                ("http.routers.plain", &[], ""),
                ("http.routers.unknown", &["u.test"], "missing"),
                ("http.routers.both", &[], "missing"),
            ],
        );
        let expected = [
            "error http.routers.none.tls.options: the tls options `o13` cannot hold: the rule does not name its hosts",
            "error http.routers.star.tls.options: the tls options `o13` cannot hold: the rule does not name its hosts",
            "error http.routers.unknown.tls.options: there are no tls options `missing`",
            "error http.routers.both.tls.options: there are no tls options `missing`",
        ];
        assert_eq!(diagnostics, expected);
        assert!(shake(&server, &Client::named("u.test")).await.info.is_err());
        assert!(shake(&server, &Client::named("v.test")).await.info.is_ok());
    }

    #[test]
    fn bad_certificates_are_left_out_with_an_error() {
        let ca = Authority::new("ca");
        let (a, b) = (ca.leaf("a.test", &["a.test"]), ca.leaf("b.test", &["b.test"]));
        let old = certificate(&ca.leaf_until("old.test", &["old.test"], 2020));
        let mismatch = Certificate {
            key_file: b.key.clone(),
            ..certificate(&a)
        };
        let missing = Certificate {
            cert_file: "/missing.pem".to_owned(),
            ..certificate(&a)
        };
        let elsewhere = Certificate {
            stores: vec!["other".to_owned()],
            ..certificate(&b)
        };
        let default_certificate = Some(mismatch.clone());
        let tls = Tls {
            certificates: vec![mismatch, missing, elsewhere, old],
            stores: BTreeMap::from([(
                "default".to_owned(),
                TlsStore {
                    default_certificate,
                    ..TlsStore::default()
                },
            )]),
            ..Tls::default()
        };
        let (setup, diagnostics) = TlsSetup::build(&tls, &no_files(), &TlsCache::new());
        let lines = lines(&diagnostics);
        let expected = [
            "error tls.certificates[0].keyfile: the private key does not match the certificate",
            "error tls.certificates[1].certfile: the file `/missing.pem` was not read",
            "warning tls.certificates[2].stores: this certificate is never served",
            "warning tls.certificates[3].certfile: the certificate expired on",
            "error tls.stores.default.defaultcertificate.keyfile: the private key does not match",
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
        let names: Vec<_> = setup
            .store()
            .all()
            .map(|identity| identity.info.common_name.clone())
            .collect();
        assert_eq!(names, ["old.test", "TRAEFIK DEFAULT CERT"]);
    }

    #[tokio::test]
    async fn a_reload_keeps_what_did_not_change() {
        let cache = TlsCache::new();
        let tls = with_options(&[("o13", tls13())]);
        let routers: &[(&str, &[&str], &str)] = &[("r", &["a.test"], "o13")];
        let config = |server: &ServerTls| {
            let options = server.slot("a.test").options.clone().unwrap();
            Arc::clone(options.config(false))
        };
        let (first, _) = build_cached(&tls, routers, &cache);
        let client = Client::default().config();
        let fresh = shake_with(&first, Arc::clone(&client), Some("a.test"), None).await;
        assert!(!fresh.info.unwrap().resumed);
        for _ in 0..4 {
            let (again, _) = build_cached(&tls, routers, &cache);
            assert!(Arc::ptr_eq(&config(&first), &config(&again)));
            assert!(Arc::ptr_eq(&first.store, &again.store));
        }
        let changed = Tls {
            certificates: section().certificates,
            ..tls
        };
        let (changed, _) = build_cached(&changed, &[("r", &["a.test"], "default")], &cache);
        assert!(!Arc::ptr_eq(&first.store, &changed.store));
        assert_ne!(first.options_for_host("a.test"), changed.options_for_host("a.test"));
        let resumed = shake_with(&changed, client, Some("a.test"), None).await;
        assert!(resumed.info.unwrap().resumed, "ticket keys outlive a reload");
    }

    #[tokio::test]
    async fn sessions_are_not_resumed_for_another_name_or_when_switched_off() {
        let off = TlsOptions {
            disable_session_tickets: true,
            ..TlsOptions::default()
        };
        let (server, _) = build(&with_options(&[("off", off)]), &[("r", &["off.test"], "off")]);
        for tls13 in [true, false] {
            for (sni, expected) in [("a.test", true), ("off.test", false)] {
                let client = Client {
                    tls13,
                    ..Client::named(sni)
                }
                .config();
                for round in 0..2 {
                    let outcome = shake_with(&server, Arc::clone(&client), Some(sni), None).await;
                    assert_eq!(outcome.info.unwrap().resumed, expected && round == 1, "{sni} {tls13}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_is_refused() {
        let (server, _) = build(&Tls::default(), &[]);
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01", b""] {
            let (mut client, io) = tokio::io::duplex(1024);
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            assert!(matches!(server.accept(io, None).await, Err(AcceptError::Hello(_))));
        }
    }

    #[tokio::test]
    async fn a_hello_in_single_bytes_is_read_whole() {
        let (server, _) = build(&section(), &[]);
        let (client_io, mut relay_in) = tokio::io::duplex(64 * 1024);
        let (mut relay_out, server_io) = tokio::io::duplex(1);
        let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
        let client = tokio_rustls::TlsConnector::from(Client::default().config()).connect(name, client_io);
        let relay = async { tokio::io::copy_bidirectional(&mut relay_in, &mut relay_out).await };
        let shake = async { tokio::join!(client, server.accept(server_io, None)) };
        let (_, info) = tokio::select! {
            (client, server) = shake => (client.unwrap(), server.unwrap().1),
            end = relay => panic!("the relay ended: {end:?}"),
        };
        assert_eq!(info.sni.as_deref(), Some("a.test"));
    }

    #[tokio::test]
    async fn openssl_s_client_gets_through() {
        let tls = with_options(&[("o12", tls12())]);
        let (server, _) = build(&tls, &[("r", &["x.wild.test"], "o12")]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        for (name, version, certificate) in [
            ("a.test", "TLSv1.3", "a.test"),
            ("x.wild.test", "TLSv1.2", "*.wild.test"),
        ] {
            let address = address.clone();
            let client = tokio::task::spawn_blocking(move || {
                let arguments = [
                    "s_client",
                    "-connect",
                    &address,
                    "-servername",
                    name,
                    "-alpn",
                    "h2",
                    "-ign_eof",
                ];
                super::super::fixture::openssl(&arguments, "")
            });
            let serve = async {
                let (stream, _) = listener.accept().await.unwrap();
                let (mut stream, info) = server.accept(stream, None).await.unwrap();
                stream.shutdown().await.unwrap();
                info
            };
            let limit = std::time::Duration::from_secs(20);
            let (info, printed) = tokio::time::timeout(limit, async { tokio::join!(serve, client) })
                .await
                .unwrap();
            let printed = printed.unwrap();
            assert_eq!(info.alpn, Alpn::H2);
            for expected in [
                format!("CN = {certificate}"),
                version.to_owned(),
                "ALPN protocol: h2".to_owned(),
            ] {
                assert!(printed.contains(&expected), "{expected}: {printed}");
            }
        }
    }
}
