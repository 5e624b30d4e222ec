//! `http.routers.NAME`: which requests go to which service, and through which middlewares.

use super::decode::Decoder;
use super::format::{RouterPriority, RuleSyntax};
use super::node::Node;

settings! {
    /// Matches requests and hands them to a service.
    pub struct Router {
        /// The matcher expression, such as ``Host(`example.com`) && PathPrefix(`/api`)``. Needed.
        "rule" => rule: String;
        /// Name of the service that gets the requests. Needed.
        "service" => service: String;
        /// Entry points it listens on. Default: all default entry points.
        "entryPoints" => entry_points: Vec<String>;
        /// Middlewares in the order they run, after those of the entry point.
        "middlewares" => middlewares: Vec<String>;
        /// Higher goes first; 0 (the default) means the length of the rule.
        "priority" => priority: i64 as RouterPriority;
        /// Language of the rule: only `v3` is understood.
        "ruleSyntax" => rule_syntax: String as RuleSyntax = "v3".to_owned();
        /// Present: answer TLS connections only. Absent: clear-text connections only.
        "tls" => tls: Option<RouterTls>;
        /// Switches for logs and metrics of this router.
        "observability" => observability: RouterObservability;
    }
    unsupported {
        "parentRefs": "write the parent's rule and middlewares into each child router";
    }
    check check_router;
}

settings! {
    /// TLS settings of a router.
    pub struct RouterTls [empty] {
        /// Name of a `tls.options` entry for the host names of the rule. Default: `default`.
        "options" => options: String;
        /// Name of the `certificatesResolvers` entry that gets the certificates.
        "certResolver" => cert_resolver: String;
        /// Names to ask certificates for, one certificate an entry. Default: one for the `Host` names of the rule.
        "domains" => domains: Vec<TlsDomain>;
    }
}

settings! {
    /// Names of one certificate.
    pub struct TlsDomain {
        /// The main name.
        "main" => main: String;
        /// Further names.
        "sans" => sans: Vec<String>;
    }
}

settings! {
    /// Switches of one router. What is absent is as the entry point says.
    pub struct RouterObservability [empty] {
        /// Whether requests are written to the access log.
        "accessLogs" => access_logs: Option<bool>;
        /// Whether requests are counted in the router's and the service's metrics.
        "metrics" => metrics: Option<bool>;
        /// Whether requests are traced (tracing itself is not built yet).
        "tracing" => tracing: Option<bool>;
    }
    inert {
        "traceVerbosity": "tracing is not built yet";
    }
}

fn check_router(router: &Router, _: &Node, decoder: &mut Decoder<'_>) {
    let name = decoder.name().to_owned();
    if router.rule.trim().is_empty() {
        let message = format!("the router `{name}` has no rule");
        decoder.invalid(
            decoder.here(),
            message,
            "add one, such as rule: \"Host(`example.com`)\"",
        );
    }
    if router.service.trim().is_empty() {
        let message = format!("the router `{name}` has no service");
        decoder.invalid(
            decoder.here(),
            message,
            "add `service:` with a name from `http.services`",
        );
    }
}
