//! `http.serversTransports.NAME`, and the static `serversTransport`: how Gantry connects to servers.

use std::time::Duration;

use super::tls::TlsVersion;

settings! {
    /// How Gantry connects to servers.
    pub struct ServersTransport [empty] {
        /// Name for SNI and for the certificate's check, instead of the URL's host.
        "serverName" => server_name: String;
        /// Whether any certificate is believed. Default: false.
        "insecureSkipVerify" => insecure_skip_verify: bool;
        /// Certificate authorities, each a file's name or the PEM text itself. Default: those of the system.
        "rootCAs" => root_cas: Vec<String>;
        /// Certificates to show to servers that ask for one.
        "certificates" => certificates: Vec<CertificatePair>;
        /// Cipher suites of TLS 1.2 by their IANA names; those of TLS 1.3 are always offered. Default: all that are safe.
        "cipherSuites" => cipher_suites: Vec<String>;
        /// Lowest version of TLS; below `VersionTLS12` means `VersionTLS12`, with a warning. Default: `VersionTLS12`.
        "minVersion" => min_version: Option<TlsVersion>;
        /// Highest version of TLS. Default: the newest, 1.3.
        "maxVersion" => max_version: Option<TlsVersion>;
        /// Idle connections kept for each server and worker; 0 means the default (Traefik: 2 here, 200 in the static
        /// `serversTransport`), negative means that no connection is used twice.
        "maxIdleConnsPerHost" => max_idle_conns_per_host: i64;
        /// Whether HTTP/2 is never offered to `https` servers. Default: false.
        "disableHTTP2" => disable_http2: bool;
        /// Time limits.
        "forwardingTimeouts" => forwarding_timeouts: ForwardingTimeouts;
    }
    unsupported {
        "peerCertURI": "`serverName` names what the certificate must hold";
        "spiffe": "`rootCAs` and `serverName` check the server";
    }
}

settings! {
    /// A certificate and its key.
    pub struct CertificatePair {
        /// Certificate chain: a file's name or the PEM text itself.
        "certFile" => cert_file: String;
        /// Private key: a file's name or the PEM text itself.
        "keyFile" => key_file: String;
    }
}

settings! {
    /// Time limits towards servers.
    pub struct ForwardingTimeouts {
        /// To connect; 0 means no limit. Default: 30 s.
        "dialTimeout" => dial_timeout: Duration = Duration::from_secs(30);
        /// From the end of the request to the head of the answer; 0 means no limit. Default: 0.
        "responseHeaderTimeout" => response_header_timeout: Duration;
        /// How long an idle connection is kept; 0 means no limit. Default: 90 s.
        "idleConnTimeout" => idle_conn_timeout: Duration = Duration::from_secs(90);
        /// HTTP/2: silence after which a ping is sent; 0 means never. Default: 0.
        "readIdleTimeout" => read_idle_timeout: Duration;
        /// HTTP/2: longest wait for the ping's answer. Default: 15 s.
        "pingTimeout" => ping_timeout: Duration = Duration::from_secs(15);
    }
}
