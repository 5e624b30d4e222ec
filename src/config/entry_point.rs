//! `entryPoints.NAME`: what Gantry listens on, and what holds for everything that comes in there.

use std::time::Duration;

use super::decode::Decoder;
use super::format::{Address, AtLeastOne, ByteSize, HeaderName, Network};
use super::node::Node;
use super::router::TlsDomain;
use super::scalar::List;

settings! {
    /// An address that Gantry listens on.
    pub struct EntryPoint {
        /// `[host]:port`, optionally `/tcp`. Needed.
        "address" => address: String as Address;
        /// Whether routers that name no entry point listen here; if none says so, all do. Default: false.
        "asDefault" => as_default: bool;
        /// Whether another process may share the port (`SO_REUSEPORT`). Default: false.
        "reusePort" => reuse_port: bool;
        /// Time limits and shutdown.
        "transport" => transport: Transport;
        /// Which peers may set X-Forwarded-* headers.
        "forwardedHeaders" => forwarded_headers: ForwardedHeaders;
        /// Defaults for HTTP routers here.
        "http" => http: EntryPointHttp;
        /// HTTP/2 settings.
        "http2" => http2: Http2;
        /// Default switches for routers here.
        "observability" => observability: EntryPointObservability;
    }
    unsupported {
        "proxyProtocol": "let the balancer in front set X-Forwarded-For, and list it in `forwardedHeaders.trustedIPs`";
        "http3": "HTTP/1.1 and HTTP/2 are served";
        "udp": "Gantry serves HTTP only so far";
        "allowACMEByPass": "Gantry answers ACME challenges itself";
    }
    check check_entry_point;
}

settings! {
    /// Time limits and shutdown of an entry point.
    pub struct Transport {
        /// What happens at the stop.
        "lifeCycle" => life_cycle: LifeCycle;
        /// Time limits towards clients.
        "respondingTimeouts" => responding_timeouts: RespondingTimeouts;
        /// Age at which a connection is closed after the running request; 0 means never. Default: 0.
        "keepAliveMaxTime" => keep_alive_max_time: Duration;
        /// Requests after which a connection is closed; 0 means never. Default: 0.
        "keepAliveMaxRequests" => keep_alive_max_requests: u64;
    }
}

settings! {
    /// What happens at the stop.
    pub struct LifeCycle {
        /// How long new connections are still accepted. Default: 0.
        "requestAcceptGraceTimeout" => request_accept_grace_timeout: Duration;
        /// How long running requests may take to end. Default: 10 s.
        "graceTimeOut" => grace_time_out: Duration = Duration::from_secs(10);
    }
}

settings! {
    /// Time limits towards clients.
    pub struct RespondingTimeouts {
        /// For a whole request with its body; 0 means none. Default: none (Traefik: 60 s, which breaks large uploads).
        "readTimeout" => read_timeout: Option<Duration>;
        /// For a whole answer; 0 means none. Default: 0.
        "writeTimeout" => write_timeout: Duration;
        /// How long an idle connection is kept; 0 means no limit. Default: 180 s.
        "idleTimeout" => idle_timeout: Duration = Duration::from_secs(180);
        /// For the head of a request; 0 means none. Default: 10 s.
        "headerTimeout" => header_timeout: Duration = Duration::from_secs(10);
        /// Longest pause of the client within a body; 0 means none. Default: 60 s.
        "bodyIdleTimeout" => body_idle_timeout: Duration = Duration::from_secs(60);
        /// Lowest rate of a request body, bytes a second (`16KiB`); 0 means none. Default: 0.
        "minBodyRate" => min_body_rate: u64 as ByteSize;
    }
}

settings! {
    /// Which peers may set X-Forwarded-* headers.
    pub struct ForwardedHeaders {
        /// Whether every peer may. Default: false.
        "insecure" => insecure: bool;
        /// Addresses and networks of the peers that may.
        "trustedIPs" => trusted_ips: Vec<String> as List<Network>;
        /// Names in the Connection header that stay until the middlewares are done.
        "connection" => connection: Vec<String> as List<HeaderName>;
        /// Whether the peer's address is not appended to X-Forwarded-For. Default: false.
        "notAppendXForwardedFor" => not_append_x_forwarded_for: bool;
    }
}

settings! {
    /// Defaults for HTTP routers of an entry point.
    pub struct EntryPointHttp {
        /// Run first in every router here (`name@file`).
        "middlewares" => middlewares: Vec<String>;
        /// Present: all routers here answer TLS.
        "tls" => tls: Option<EntryPointTls>;
        /// Sends everything elsewhere.
        "redirections" => redirections: Option<Redirections>;
        /// Which encoded characters a path may hold.
        "encodedCharacters" => encoded_characters: EncodedCharacters;
        /// Whether `;` in the query is passed on as `%3B`; otherwise it becomes `&`. Default: false.
        "encodeQuerySemicolons" => encode_query_semicolons: bool;
        /// Whether dot segments and double slashes are removed before routing. Default: true.
        "sanitizePath" => sanitize_path: bool = true;
        /// Bytes of the longest request head. Default: 1048576.
        "maxHeaderBytes" => max_header_bytes: u64 as ByteSize = 1 << 20;
        /// What happens to headers with an underscore in their name. Default: `keep`.
        "underscoreHeadersStrategy" => underscore_headers_strategy: UnderscoreHeaders;
    }
}

choices! {
    /// What happens to headers with an underscore in their name.
    pub enum UnderscoreHeaders {
        /// They pass.
        #[default]
        "keep" => Keep;
        /// They are removed.
        "delete" => Delete;
        /// The request gets 400.
        "reject" => Reject;
    }
}

settings! {
    /// TLS settings of all routers of an entry point.
    pub struct EntryPointTls [empty] {
        /// Name of a `tls.options` entry. Default: `default`.
        "options" => options: String;
        /// Name of the `certificatesResolvers` entry that gets the certificates.
        "certResolver" => cert_resolver: String;
        /// Names to ask certificates for. Default: the `Host` names of each router.
        "domains" => domains: Vec<TlsDomain>;
    }
}

settings! {
    /// Sends everything elsewhere.
    pub struct Redirections {
        /// To another entry point.
        "entryPoint" => entry_point: Option<RedirectEntryPoint>;
    }
}

settings! {
    /// Redirects everything to another entry point.
    pub struct RedirectEntryPoint {
        /// Name of an entry point, or `:port`. Needed.
        "to" => to: String;
        /// Scheme to redirect to. Default: `https`.
        "scheme" => scheme: String = "https".to_owned();
        /// 301/308 instead of 302/307. Default: true.
        "permanent" => permanent: bool = true;
        /// Priority of the router that redirects. Default: 2^63-2.
        "priority" => priority: i64 = i64::MAX - 1;
    }
    check check_redirect_entry_point;
}

settings! {
    /// Which encoded characters a path may hold; a request with another one gets 400.
    pub struct EncodedCharacters {
        /// `%2F`. Default: true.
        "allowEncodedSlash" => allow_encoded_slash: bool = true;
        /// `%5C`. Default: true.
        "allowEncodedBackSlash" => allow_encoded_back_slash: bool = true;
        /// `%00`. Default: true.
        "allowEncodedNullCharacter" => allow_encoded_null_character: bool = true;
        /// `%3B`. Default: true.
        "allowEncodedSemicolon" => allow_encoded_semicolon: bool = true;
        /// `%25`. Default: true.
        "allowEncodedPercent" => allow_encoded_percent: bool = true;
        /// `%3F`. Default: true.
        "allowEncodedQuestionMark" => allow_encoded_question_mark: bool = true;
        /// `%23`. Default: true.
        "allowEncodedHash" => allow_encoded_hash: bool = true;
    }
}

settings! {
    /// HTTP/2 settings of an entry point.
    pub struct Http2 {
        /// Requests at a time on one connection. Default: 250.
        "maxConcurrentStreams" => max_concurrent_streams: u32 as AtLeastOne = 250;
        /// Bytes of the table that decodes headers. Default: 4096.
        "maxDecoderHeaderTableSize" => max_decoder_header_table_size: u32 = 4096;
        /// Bytes of the table that encodes headers. Default: 4096.
        "maxEncoderHeaderTableSize" => max_encoder_header_table_size: u32 = 4096;
    }
}

settings! {
    /// Default switches of the routers of an entry point.
    pub struct EntryPointObservability {
        /// Whether requests are written to the access log. Default: true.
        "accessLogs" => access_logs: bool = true;
        /// Whether requests are counted. Default: true.
        "metrics" => metrics: bool = true;
        /// Whether requests are traced (tracing itself is not built yet). Default: true.
        "tracing" => tracing: bool = true;
    }
    inert {
        "traceVerbosity": "tracing is not built yet";
    }
}

fn check_entry_point(entry_point: &EntryPoint, _: &Node, decoder: &mut Decoder<'_>) {
    if entry_point.address.is_empty() {
        let message = format!("the entry point `{}` has no `address`", decoder.name());
        decoder.error(decoder.here(), message, "add one, such as address: \":8000\"");
    }
}

fn check_redirect_entry_point(redirect: &RedirectEntryPoint, _: &Node, decoder: &mut Decoder<'_>) {
    if redirect.to.is_empty() {
        decoder.error(
            decoder.here(),
            "the redirection has no `to`",
            "name an entry point, or write \":443\"",
        );
    }
}
