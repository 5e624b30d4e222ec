//! Static configuration: read once at the start.

use std::collections::BTreeMap;
use std::time::Duration;

pub use super::acme::{Acme, CertificatesResolver, ExternalAccount, HttpChallenge, KeyType, TlsChallenge};
use super::decode::Decoder;
pub use super::entry_point::{
    EncodedCharacters, EntryPoint, EntryPointHttp, EntryPointObservability, EntryPointTls, ForwardedHeaders, Http2,
    LifeCycle, RedirectEntryPoint, Redirections, RespondingTimeouts, Transport, UnderscoreHeaders,
};
use super::format::{NotYet, RuleSyntax};
pub use super::log::{
    AccessLog, AccessLogFields, AccessLogFilters, AccessLogFormat, AccessLogHeaders, AccessLogQuery, FieldMode, Log,
    LogFormat, LogLevel,
};
pub use super::metrics::{Feedback, Metrics, Ping, Prometheus};
use super::node::Node;

settings! {
    /// The static file.
    pub struct Static [empty] {
        /// Addresses to listen on, by name. Default: `http` on :80.
        "entryPoints" => entry_points: BTreeMap<String, EntryPoint>;
        /// Where dynamic configuration comes from.
        "providers" => providers: Providers;
        /// How Gantry connects to servers, where a service names no transport of its own.
        "serversTransport" => servers_transport: DefaultServersTransport;
        /// Where certificates come from by themselves, by name; routers name one as `tls.certResolver`.
        "certificatesResolvers" => certificates_resolvers: BTreeMap<String, CertificatesResolver>;
        /// Gantry's own log.
        "log" => log: Log;
        /// One line for each request. Absent: none is written.
        "accessLog" => access_log: Option<AccessLog>;
        /// Metrics. Absent: none.
        "metrics" => metrics: Option<Metrics>;
        /// `/ping`. Absent: none.
        "ping" => ping: Option<Ping>;
        /// Accuracy that is sent afterwards. Absent: none is taken.
        "feedback" => feedback: Option<Feedback>;
        /// Traefik's API: accepted where it switches nothing on.
        "api" => api: Option<Api>;
        /// Switches of Traefik that send nothing home in Gantry.
        "global" => global: Global;
        /// How names are resolved.
        "hostResolver" => host_resolver: Option<HostResolver>;
        /// Deprecated in Traefik: only `defaultRuleSyntax: v3`.
        "core" => core: Core;
    }
    unsupported {
        "tracing": "metrics and the access log are built; take the section out";
        "experimental": "Gantry runs no plugins; take the section out";
        "spiffe": "`serversTransport.rootCAs` checks servers";
        "ocsp": "take the section out; certificates are served without stapling";
        "tcpServersTransport": "Gantry routes HTTP only so far";
    }
}

settings! {
    /// Where dynamic configuration comes from.
    pub struct Providers [empty] {
        /// Shortest time between two reloads. Default: 2 s.
        "providersThrottleDuration" => providers_throttle_duration: Duration = Duration::from_secs(2);
        /// Files.
        "file" => file: Option<FileProvider>;
    }
    unsupported {
        "docker": "write a dynamic file for `providers.file`";
        "swarm": "write a dynamic file for `providers.file`";
        "kubernetesIngress": "mount a ConfigMap for `providers.file`";
        "kubernetesCRD": "mount a ConfigMap for `providers.file`";
        "kubernetesGateway": "mount a ConfigMap for `providers.file`";
        "kubernetesIngressNGINX": "mount a ConfigMap for `providers.file`";
        "knative": "mount a ConfigMap for `providers.file`";
        "http": "fetch the file with a cron job into the folder of `providers.file`";
        "redis": "write a dynamic file for `providers.file`";
        "etcd": "write a dynamic file for `providers.file`";
        "consul": "write a dynamic file for `providers.file`";
        "zooKeeper": "write a dynamic file for `providers.file`";
        "consulCatalog": "write a dynamic file for `providers.file`";
        "nomad": "write a dynamic file for `providers.file`";
        "ecs": "write a dynamic file for `providers.file`";
        "rest": "write a dynamic file for `providers.file`";
        "plugin": "Gantry runs no plugins: write a dynamic file for `providers.file`";
    }
    inert {
        "precedence": "`file` is the only provider so far";
    }
}

settings! {
    /// Dynamic configuration from files: exactly one of `filename` and `directory`.
    pub struct FileProvider {
        /// One file.
        "filename" => filename: String;
        /// A folder: each `.yaml` and `.yml` file in it and below.
        "directory" => directory: String;
        /// Whether changes are noticed. Default: true.
        "watch" => watch: bool = true;
    }
    inert {
        "debugLogGeneratedTemplate": "Go templates are not built yet";
    }
    check check_file_provider;
}

settings! {
    /// How Gantry connects to servers, where a service names no transport of its own.
    pub struct DefaultServersTransport {
        /// Whether any certificate is believed. Default: false.
        "insecureSkipVerify" => insecure_skip_verify: bool;
        /// Certificate authorities, each a file's name or the PEM text itself. Default: those of the system.
        "rootCAs" => root_cas: Vec<String>;
        /// Idle connections kept for each server; negative means that no connection is used twice. Default: 200.
        "maxIdleConnsPerHost" => max_idle_conns_per_host: i64 = 200;
        /// Time limits.
        "forwardingTimeouts" => forwarding_timeouts: super::transport::ForwardingTimeouts;
    }
    unsupported {
        "spiffe": "`rootCAs` checks the server";
    }
}

settings! {
    /// Traefik's API and dashboard, which are not built yet: nothing may be switched on.
    pub struct Api [empty] {
        /// Only `false` so far.
        "insecure" => insecure: bool as NotYet;
        /// Only `false` so far.
        "dashboard" => dashboard: bool as NotYet;
        /// Only `false` so far.
        "debug" => debug: bool as NotYet;
    }
    inert {
        "basePath": "the API is not built yet";
        "disableDashboardAd": "the dashboard is not built yet";
        "dashboardName": "the dashboard is not built yet";
    }
}

settings! {
    /// Switches of Traefik that send nothing home in Gantry.
    pub struct Global [empty] {
        /// Gantry never asks for new versions.
        "checkNewVersion" => check_new_version: bool;
        /// Gantry never sends anything.
        "sendAnonymousUsage" => send_anonymous_usage: bool;
        /// Used nowhere, as in Traefik: see `forwardedHeaders` of the entry point.
        "notAppendXForwardedFor" => not_append_x_forwarded_for: bool;
    }
}

settings! {
    /// How names are resolved.
    pub struct HostResolver [empty] {
        /// Whether the host of `Host` rules is compared with its CNAME too: only `false` so far.
        "cnameFlattening" => cname_flattening: bool as NotYet;
        /// The resolver's configuration. Default: `/etc/resolv.conf`.
        "resolvConfig" => resolv_config: String = "/etc/resolv.conf".to_owned();
        /// How many CNAMEs are followed. Default: 5.
        "resolvDepth" => resolv_depth: u32 = 5;
    }
}

settings! {
    /// Deprecated in Traefik.
    pub struct Core {
        /// Language of rules: only `v3` is understood.
        "defaultRuleSyntax" => default_rule_syntax: String as RuleSyntax = "v3".to_owned();
    }
}

fn check_file_provider(file: &FileProvider, _: &Node, decoder: &mut Decoder<'_>) {
    match (file.filename.is_empty(), file.directory.is_empty()) {
        (true, true) => {
            let message = "`providers.file` has neither `filename` nor `directory`";
            decoder.error(decoder.here(), message, "add directory: /etc/gantry/dynamic");
        }
        (false, false) => {
            let message = "`providers.file` has both `filename` and `directory`";
            decoder.error(decoder.here(), message, "keep one of the two");
        }
        _ => {}
    }
}
