//! `tls`: certificates and options of the TLS entry points.

use std::collections::BTreeMap;

use super::decode::Decoder;
use super::node::Node;
use super::router::TlsDomain;

settings! {
    /// Certificates and options of the TLS entry points.
    pub struct Tls [empty] {
        /// Certificates to serve; chosen by the names they hold.
        "certificates" => certificates: Vec<Certificate>;
        /// Options by name; `default` holds where a router names none.
        "options" => options: BTreeMap<String, TlsOptions>;
        /// Stores by name; only `default` is used.
        "stores" => stores: BTreeMap<String, TlsStore>;
    }
}

settings! {
    /// One certificate.
    pub struct Certificate {
        /// Certificate chain: a file's name or the PEM text itself. Needed.
        "certFile" => cert_file: String;
        /// Private key: a file's name or the PEM text itself. Needed.
        "keyFile" => key_file: String;
        /// Stores that hold it; only `default` is used for serving. Default: `default`.
        "stores" => stores: Vec<String>;
    }
    check check_certificate;
}

settings! {
    /// One store of certificates.
    pub struct TlsStore {
        /// Served when no other certificate fits. Default: a self-signed one.
        "defaultCertificate" => default_certificate: Option<Certificate>;
        /// The same, from a certificates resolver.
        "defaultGeneratedCert" => default_generated_cert: Option<GeneratedCert>;
    }
    check check_store;
}

settings! {
    /// A default certificate that a certificates resolver gets.
    pub struct GeneratedCert {
        /// Name of a `certificatesResolvers` entry. Needed.
        "resolver" => resolver: String;
        /// Its names. Needed.
        "domain" => domain: TlsDomain;
    }
    check check_generated;
}

settings! {
    /// What is offered to clients in the handshake.
    pub struct TlsOptions {
        /// Lowest version; below `VersionTLS12` means `VersionTLS12`, with a warning. Default: `VersionTLS12`.
        "minVersion" => min_version: Option<TlsVersion>;
        /// Highest version. Default: the newest, 1.3.
        "maxVersion" => max_version: Option<TlsVersion>;
        /// Cipher suites of TLS 1.2 by their IANA names; those of TLS 1.3 are always offered. Default: all that are safe.
        "cipherSuites" => cipher_suites: Vec<String>;
        /// Groups for the key exchange. Default: X25519MLKEM768, X25519, CurveP256, CurveP384.
        "curvePreferences" => curve_preferences: Vec<String>;
        /// Whether a name without a certificate is refused. Default: false.
        "sniStrict" => sni_strict: bool;
        /// Protocols in order of preference. Default: h2, http/1.1, acme-tls/1.
        "alpnProtocols" => alpn_protocols: Vec<String> = ["h2", "http/1.1", "acme-tls/1"].map(str::to_owned).to_vec();
        /// Whether sessions are never resumed. Default: false.
        "disableSessionTickets" => disable_session_tickets: bool;
        /// Client certificates. Default: none is asked for.
        "clientAuth" => client_auth: Option<ClientAuth>;
    }
    inert {
        "preferServerCipherSuites": "Traefik ignores it too";
    }
    check check_tls_options;
}

choices! {
    /// A version of TLS.
    pub enum TlsVersion {
        /// TLS 1.0: known, never spoken.
        "VersionTLS10" => Tls10;
        /// TLS 1.1: known, never spoken.
        "VersionTLS11" => Tls11;
        /// TLS 1.2.
        #[default]
        "VersionTLS12" => Tls12;
        /// TLS 1.3.
        "VersionTLS13" => Tls13;
    }
}

settings! {
    /// Client certificates.
    pub struct ClientAuth {
        /// Certificate authorities of the clients: files' names or the PEM text itself. Alone they mean
        /// `RequireAndVerifyClientCert`.
        "caFiles" => ca_files: Vec<String>;
        /// What is asked of clients. Default: `RequireAndVerifyClientCert` with `caFiles`, else `NoClientCert`.
        "clientAuthType" => client_auth_type: Option<ClientAuthType>;
        /// Gantry's own: lists of revoked certificates (CRLs) of these authorities, files in PEM or DER or the PEM text
        /// itself. A client whose issuer has no list here is refused. Default: none, nothing is looked up.
        "crlFiles" => crl_files: Vec<String>;
    }
    check check_client_auth;
}

choices! {
    /// What is asked of clients.
    pub enum ClientAuthType {
        /// Nothing.
        #[default]
        "NoClientCert" => NoClientCert;
        /// A certificate, which may be missing; who has signed it does not matter.
        "RequestClientCert" => RequestClientCert;
        /// A certificate; who has signed it does not matter.
        "RequireAnyClientCert" => RequireAnyClientCert;
        /// A certificate, which may be missing; one that is given must be signed by one of `caFiles`.
        "VerifyClientCertIfGiven" => VerifyClientCertIfGiven;
        /// A certificate that is signed by one of `caFiles`.
        "RequireAndVerifyClientCert" => RequireAndVerifyClientCert;
    }
}

impl TlsOptions {
    /// What stands for `default` when the section of that name has an error: hosts must not be served with the built-in
    /// options instead. No file can say it, for `minVersion` is above `maxVersion`.
    #[must_use]
    pub fn unusable() -> Self {
        Self {
            min_version: Some(TlsVersion::Tls13),
            max_version: Some(TlsVersion::Tls12),
            ..Self::default()
        }
    }

    /// Whether these are [`Self::unusable`].
    #[must_use]
    pub fn are_unusable(&self) -> bool {
        *self == Self::unusable()
    }

    /// What is asked of clients.
    #[must_use]
    pub fn client_auth_type(&self) -> ClientAuthType {
        self.client_auth
            .as_ref()
            .map_or_else(Default::default, ClientAuth::asks)
    }
}

impl ClientAuth {
    /// What is asked of clients: `caFiles` alone demand a certificate of theirs, as in Traefik.
    #[must_use]
    pub fn asks(&self) -> ClientAuthType {
        match self.client_auth_type {
            Some(asked) => asked,
            None if self.ca_files.is_empty() => ClientAuthType::NoClientCert,
            None => ClientAuthType::RequireAndVerifyClientCert,
        }
    }
}

impl ClientAuthType {
    /// Whether a client without a certificate is refused.
    #[must_use]
    pub const fn requires(self) -> bool {
        matches!(self, Self::RequireAnyClientCert | Self::RequireAndVerifyClientCert)
    }

    /// Whether a certificate must be signed by one of `caFiles`.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

fn check_certificate(certificate: &Certificate, _: &Node, decoder: &mut Decoder<'_>) {
    for (missing, key) in [
        (certificate.cert_file.is_empty(), "certFile"),
        (certificate.key_file.is_empty(), "keyFile"),
    ] {
        if missing {
            let message = format!("a certificate has no `{key}`");
            decoder.invalid(decoder.here(), message, format!("add `{key}:` with a file's name"));
        }
    }
}

fn check_store(store: &TlsStore, _: &Node, decoder: &mut Decoder<'_>) {
    if store.default_certificate.is_some() && store.default_generated_cert.is_some() {
        decoder.warn(
            decoder.here(),
            "both `defaultCertificate` and `defaultGeneratedCert` are given: the first is served",
            "keep one of the two",
        );
    }
}

fn check_generated(generated: &GeneratedCert, _: &Node, decoder: &mut Decoder<'_>) {
    if generated.resolver.is_empty() || generated.domain.main.is_empty() {
        decoder.invalid(
            decoder.here(),
            "`defaultGeneratedCert` needs `resolver` and `domain.main`",
            "write { resolver: le, domain: { main: mri.example.com } }",
        );
    }
}

fn check_tls_options(options: &TlsOptions, _: &Node, decoder: &mut Decoder<'_>) {
    if let (Some(lowest), Some(highest)) = (options.min_version, options.max_version)
        && lowest > highest
    {
        decoder.invalid(
            decoder.here(),
            "`minVersion` is above `maxVersion`",
            "swap the two, or leave `maxVersion` out",
        );
    }
}

fn check_client_auth(auth: &ClientAuth, _: &Node, decoder: &mut Decoder<'_>) {
    let asks = auth.asks();
    if asks.verifies() && auth.ca_files.is_empty() {
        decoder.invalid(
            decoder.here(),
            format!("`clientAuthType: {}` needs `caFiles`", asks.as_str()),
            "list the authorities that sign the clients' certificates",
        );
    }
    if !asks.verifies() && !auth.crl_files.is_empty() {
        decoder.invalid(
            decoder.here(),
            format!("`crlFiles` has no effect with `clientAuthType: {}`", asks.as_str()),
            "write VerifyClientCertIfGiven or RequireAndVerifyClientCert, or take `crlFiles` out",
        );
    }
}
