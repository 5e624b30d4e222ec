//! `tls.options.NAME` → what rustls needs for a handshake, built once and shared by all connections.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;

use super::cache::{Fingerprint, TlsCache};
use super::cipher::{Protocol, Wanted};
use super::client_auth::ClientAuthPlan;
use super::keys::Identity;
use super::store::{CertStore, Resolver};
use crate::config::Resources;
use crate::config::dynamic::TlsOptions;
use crate::diag::Diagnostic;

/// Tickets sent after a TLS 1.3 handshake. Go sends one; each costs an encryption and some 200 bytes.
const TICKETS: usize = 1;

/// The protocols that are spoken after a handshake.
const SPOKEN: [&str; 2] = ["h2", "http/1.1"];
/// Spoken only while an ACME challenge waits: known, and not offered.
const ACME: &str = "acme-tls/1";

/// Plain bytes that wait inside rustls for a slow client, at most; also the size of one write of a large body.
pub const WRITE_LIMIT: usize = 128 * 1024;

/// Options that can be served.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// For clients with AES in hardware: suites in Gantry's order, AES-128 first.
    fast: Arc<ServerConfig>,
    /// For clients that put ChaCha20 first: suites in their order.
    chacha: Arc<ServerConfig>,
    /// `sniStrict`.
    pub sni_strict: bool,
    /// Whether a certificate that a client shows has been signed by one of `caFiles`.
    pub verifies_clients: bool,
}

impl ServerOptions {
    /// Translates the options of the section at `path`, to be served with the certificates of `store`.
    ///
    /// `None` means that they cannot be served: an error is among the diagnostics.
    pub fn build(
        options: &TlsOptions,
        path: &str,
        (store, store_fingerprint): (&Arc<CertStore>, Fingerprint),
        resources: &Resources,
        cache: &TlsCache,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Self> {
        if options.are_unusable() {
            // Why has been said where the file was read.
            return None;
        }
        let protocol = Wanted {
            min: options.min_version,
            max: options.max_version,
            suites: &options.cipher_suites,
            curves: &options.curve_preferences,
        }
        .resolve(path, diagnostics);
        let client_auth = ClientAuthPlan::read(options, path, resources, diagnostics);
        let spoken = check_protocols(&options.alpn_protocols, path, diagnostics);
        let (protocol, client_auth) = (protocol.filter(|_| spoken)?, client_auth?);
        let asked = client_auth.as_ref().map(|plan| plan.fingerprint);
        // `Debug` names every field: a field that is added later cannot be forgotten here.
        let text = format!("{options:?}");
        let parts = [store_fingerprint.as_bytes(), text.as_bytes()].into_iter();
        let fingerprint = Fingerprint::of(parts.chain(asked.as_ref().map(Fingerprint::as_bytes)));
        let built = cache.server(fingerprint, || Self::new(options, protocol, client_auth, store, cache));
        built
            .map_err(|error| diagnostics.push(Diagnostic::error(path, error)))
            .ok()
    }

    fn new(
        options: &TlsOptions,
        protocol: Protocol,
        client_auth: Option<ClientAuthPlan>,
        store: &Arc<CertStore>,
        cache: &TlsCache,
    ) -> Result<Self, String> {
        let resolver = Resolver {
            store: Arc::clone(store),
            strict: options.sni_strict,
        };
        let asks = client_auth.is_some();
        let verifier = match client_auth {
            Some(plan) => plan.verifier(&protocol.provider)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(protocol.provider)
            .with_protocol_versions(&protocol.versions)
            .map_err(|error| format!("rustls refuses the options: {error}"))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        // `acme-tls/1` is answered only while an ACME challenge waits, with settings of its own (`challenge`).
        config.alpn_protocols = options
            .alpn_protocols
            .iter()
            .filter(|protocol| SPOKEN.contains(&protocol.as_str()))
            .map(|protocol| protocol.clone().into_bytes())
            .collect();
        config.ignore_client_order = true;
        config.send_tls13_tickets = TICKETS;
        config.session_storage = cache.sessions();
        match cache.tickets() {
            Some(tickets) if !(options.disable_session_tickets || asks) => config.ticketer = tickets,
            _ => {
                config.session_storage = TlsCache::no_sessions();
                config.send_tls13_tickets = 0;
            }
        }
        let mut chacha = config.clone();
        chacha.ignore_client_order = false;
        Ok(Self {
            fast: Arc::new(config),
            chacha: Arc::new(chacha),
            sni_strict: options.sni_strict,
            verifies_clients: options.client_auth_type().verifies(),
        })
    }

    /// The configuration for a client that offers these suites.
    pub fn config(&self, client_prefers_chacha: bool) -> &Arc<ServerConfig> {
        if client_prefers_chacha {
            &self.chacha
        } else {
            &self.fast
        }
    }

    /// The same configuration with one certificate for every name: for clients that name no server and are known by
    /// the address they have connected to.
    pub fn with_certificate(&self, identity: &Identity) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.fast);
        let single: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.key)));
        config.cert_resolver = single;
        Arc::new(config)
    }
}

/// Warns of protocols that are not spoken here and are left out: to agree on one and speak HTTP invites confusion between
/// protocols. False, with an error, if none is left.
fn check_protocols(listed: &[String], path: &str, diagnostics: &mut Vec<Diagnostic>) -> bool {
    let known = |protocol: &str| SPOKEN.contains(&protocol) || protocol == ACME;
    for (index, protocol) in listed.iter().enumerate().filter(|(_, protocol)| !known(protocol)) {
        let message = format!("`{protocol}` is not spoken by Gantry: left out");
        let warning = Diagnostic::warning(format!("{path}.alpnProtocols[{index}]"), message);
        diagnostics.push(warning.help(format!("Gantry speaks {}", SPOKEN.join(" and "))));
    }
    let left = listed.is_empty() || listed.iter().any(|protocol| known(protocol));
    if !left {
        let message = "none of the listed protocols can be spoken";
        let error = Diagnostic::error(format!("{path}.alpnProtocols"), message);
        diagnostics.push(error.help("leave `alpnProtocols` out: Gantry offers h2 and http/1.1"));
    }
    left
}
