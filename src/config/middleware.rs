//! `http.middlewares.NAME`: what is done to a request and its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::Decoder;
use super::format::{
    ByteSize, HeaderMap, HeaderName, HeaderValue, Ipv6Prefix, KnownStatus, Network, NotNegative, Optional, Port,
    UserEntry,
};
use super::node::Node;
use super::scalar::List;

settings! {
    /// One middleware: exactly one of the kinds.
    pub struct Middleware {
        /// Puts a prefix in front of the path.
        "addPrefix" => add_prefix: Option<AddPrefix>;
        /// Cuts a prefix off the path.
        "stripPrefix" => strip_prefix: Option<StripPrefix>;
        /// Runs other middlewares in order.
        "chain" => chain: Option<Chain>;
        /// Sets and removes headers; CORS; security headers.
        "headers" => headers: Option<Box<Headers>>;
        /// Asks for user and password.
        "basicAuth" => basic_auth: Option<BasicAuth>;
        /// Bounds requests per time and source.
        "rateLimit" => rate_limit: Option<RateLimit>;
        /// Bounds requests at a time per source.
        "inFlightReq" => in_flight_req: Option<InFlightReq>;
        /// Lets only some addresses through.
        "ipAllowList" => ip_allow_list: Option<IpAllowList>;
        /// Redirects to another scheme.
        "redirectScheme" => redirect_scheme: Option<RedirectScheme>;
        /// Bounds bodies.
        "buffering" => buffering: Option<Buffering>;
    }
    unsupported {
        "stripPrefixRegex": "`stripPrefix` with each prefix in its list";
        "replacePath": "`stripPrefix` and `addPrefix` change the front of a path";
        "replacePathRegex": "`stripPrefix` and `addPrefix` change the front of a path";
        "redirectRegex": "`redirectScheme` changes scheme and port";
        "ipWhiteList": "`ipAllowList` is its present name and is built";
        "encodedCharacters": "`encodedCharacters` in the `http` section of the entry point";
        "errors": "the model server's own error pages pass through";
        "digestAuth": "`basicAuth` over TLS";
        "forwardAuth": "`basicAuth` or `ipAllowList`";
        "circuitBreaker": "a `healthCheck` takes dead servers out; `inFlightReq` bounds the load";
        "compress": "answers pass through as the server encodes them";
        "contentType": "Content-Type passes through as the server sends it";
        "grpcWeb": "put a gRPC-Web translator in front of the server";
        "passTLSClientCert": "client certificates are not built yet";
        "retry": "a `healthCheck` with a short interval takes dead servers out";
        "plugin": "Gantry runs no Traefik plugins; the built-in middlewares are: addPrefix, basicAuth, buffering, chain, headers, inFlightReq, ipAllowList, rateLimit, redirectScheme, stripPrefix";
    }
    check check_middleware;
}

settings! {
    /// Puts a prefix in front of the path.
    pub struct AddPrefix {
        /// The prefix; a leading slash is added where it lacks. Needed.
        "prefix" => prefix: String;
    }
    check check_add_prefix;
}

settings! {
    /// Cuts a prefix off the path; `X-Forwarded-Prefix` says which.
    pub struct StripPrefix {
        /// The first that the path begins with is cut off.
        "prefixes" => prefixes: Vec<String>;
        /// Deprecated in Traefik: whether a path that is empty afterwards becomes `/`. Default: false.
        "forceSlash" => force_slash: bool;
    }
}

settings! {
    /// Runs other middlewares in order.
    pub struct Chain {
        /// Their names.
        "middlewares" => middlewares: Vec<String>;
    }
}

settings! {
    /// Sets and removes headers, answers CORS preflights, sends security headers.
    pub struct Headers {
        /// Request headers to set; an empty value removes; `Host` changes the upstream host.
        "customRequestHeaders" => custom_request_headers: BTreeMap<String, String> as HeaderMap;
        /// Response headers to set; an empty value removes.
        "customResponseHeaders" => custom_response_headers: BTreeMap<String, String> as HeaderMap;
        /// `Access-Control-Allow-Credentials: true`. Default: false.
        "accessControlAllowCredentials" => access_control_allow_credentials: bool;
        /// `Access-Control-Allow-Headers`, joined with commas.
        "accessControlAllowHeaders" => access_control_allow_headers: Vec<String> as List<HeaderValue>;
        /// `Access-Control-Allow-Methods`, joined with commas.
        "accessControlAllowMethods" => access_control_allow_methods: Vec<String> as List<HeaderValue>;
        /// Origins that are allowed; `*` for each.
        "accessControlAllowOriginList" => access_control_allow_origin_list: Vec<String> as List<HeaderValue>;
        /// Regular expressions of origins that are allowed.
        "accessControlAllowOriginListRegex" => access_control_allow_origin_list_regex: Vec<String>;
        /// `Access-Control-Expose-Headers`, joined with commas.
        "accessControlExposeHeaders" => access_control_expose_headers: Vec<String> as List<HeaderValue>;
        /// `Access-Control-Max-Age` of preflights, seconds. Default: not sent.
        "accessControlMaxAge" => access_control_max_age: Option<i64>;
        /// Whether `Origin` is added to `Vary`. Default: false.
        "addVaryHeader" => add_vary_header: bool;
        /// Hosts that are allowed; others get 500 `Bad Host`. Default: all.
        "allowedHosts" => allowed_hosts: Vec<String>;
        /// Headers that may hold the host.
        "hostsProxyHeaders" => hosts_proxy_headers: Vec<String> as List<HeaderName>;
        /// A request counts as TLS when all of these headers have these values.
        "sslProxyHeaders" => ssl_proxy_headers: BTreeMap<String, String> as HeaderMap;
        /// `Strict-Transport-Security: max-age`, seconds. Default: 0, not sent.
        "stsSeconds" => sts_seconds: i64;
        /// Adds `includeSubDomains`. Default: false.
        "stsIncludeSubdomains" => sts_include_subdomains: bool;
        /// Adds `preload`. Default: false.
        "stsPreload" => sts_preload: bool;
        /// Sends it on clear-text connections too. Default: false.
        "forceSTSHeader" => force_sts_header: bool;
        /// `X-Frame-Options: DENY`. Default: false.
        "frameDeny" => frame_deny: bool;
        /// `X-Frame-Options` with this value; wins over `frameDeny`.
        "customFrameOptionsValue" => custom_frame_options_value: String as HeaderValue;
        /// `X-Content-Type-Options: nosniff`. Default: false.
        "contentTypeNosniff" => content_type_nosniff: bool;
        /// `X-XSS-Protection: 1; mode=block`. Default: false.
        "browserXssFilter" => browser_xss_filter: bool;
        /// `X-XSS-Protection` with this value; wins over `browserXssFilter`.
        "customBrowserXSSValue" => custom_browser_xss_value: String as HeaderValue;
        /// `Content-Security-Policy`.
        "contentSecurityPolicy" => content_security_policy: String as HeaderValue;
        /// `Content-Security-Policy-Report-Only`.
        "contentSecurityPolicyReportOnly" => content_security_policy_report_only: String as HeaderValue;
        /// `Public-Key-Pins`.
        "publicKey" => public_key: String as HeaderValue;
        /// `Referrer-Policy`.
        "referrerPolicy" => referrer_policy: String as HeaderValue;
        /// `Permissions-Policy`.
        "permissionsPolicy" => permissions_policy: String as HeaderValue;
        /// Switches off `allowedHosts`, STS, TLS checks and `publicKey`. Default: false.
        "isDevelopment" => is_development: bool;
    }
    inert {
        "featurePolicy": "Traefik ignores it too; use `permissionsPolicy`";
        "sslRedirect": "Traefik ignores it too; use the `redirectScheme` middleware";
        "sslTemporaryRedirect": "Traefik ignores it too; use the `redirectScheme` middleware";
        "sslHost": "Traefik ignores it too";
        "sslForceHost": "Traefik ignores it too";
    }
}

settings! {
    /// Asks for user and password.
    pub struct BasicAuth {
        /// `name:hash` each (apr1, $1$, bcrypt, {SHA}); wins over the same name of the file.
        "users" => users: Vec<String> as List<UserEntry>;
        /// A file with one `name:hash` a line.
        "usersFile" => users_file: String;
        /// The realm that the challenge names. Default: `traefik`.
        "realm" => realm: String as HeaderValue = "traefik".to_owned();
        /// Whether the Authorization header is taken off the request. Default: false.
        "removeHeader" => remove_header: bool;
        /// Header that tells the server the user's name.
        "headerField" => header_field: String as Optional<HeaderName>;
    }
    check check_basic_auth;
}

settings! {
    /// Bounds requests per time and source: a token bucket each.
    pub struct RateLimit {
        /// Requests per `period`; 0 means no limit. Default: 0.
        "average" => average: i64 as NotNegative;
        /// The period of `average`. Default: 1 s.
        "period" => period: Duration = Duration::from_secs(1);
        /// Requests that may come at once. Default: 1.
        "burst" => burst: i64 as NotNegative = 1;
        /// What tells sources apart. Default: the client's address.
        "sourceCriterion" => source_criterion: Option<SourceCriterion>;
    }
    unsupported {
        "redis": "the limit holds for one Gantry process: leave `redis` out and divide `average` by the number of processes";
    }
    check check_rate_limit;
}

settings! {
    /// What tells sources apart: exactly one of the keys.
    pub struct SourceCriterion {
        /// The client's address.
        "ipStrategy" => ip_strategy: Option<IpStrategy>;
        /// The value of this header.
        "requestHeaderName" => request_header_name: String as Optional<HeaderName>;
        /// The request's host.
        "requestHost" => request_host: bool;
    }
    check check_source_criterion;
}

settings! {
    /// Which address of a request counts.
    pub struct IpStrategy [empty] {
        /// The n-th of `X-Forwarded-For` from the right; 0: the peer's address. Default: 0.
        "depth" => depth: usize;
        /// The first of `X-Forwarded-For` from the right that is in none of these networks.
        "excludedIPs" => excluded_ips: Vec<String> as List<Network>;
        /// Length of the prefix that IPv6 addresses are cut to.
        "ipv6Subnet" => ipv6_subnet: Option<u8> as Ipv6Prefix;
    }
}

settings! {
    /// Bounds requests at a time per source.
    pub struct InFlightReq {
        /// How many may run at a time. 0 or absent refuses every request, as in Traefik, with a warning.
        "amount" => amount: i64 as NotNegative;
        /// What tells sources apart. Default: the request's host.
        "sourceCriterion" => source_criterion: Option<SourceCriterion>;
    }
}

settings! {
    /// Lets only some addresses through.
    pub struct IpAllowList {
        /// Addresses and networks that may pass. Needed.
        "sourceRange" => source_range: Vec<String> as List<Network>;
        /// Which address of the request counts. Default: the peer's.
        "ipStrategy" => ip_strategy: Option<IpStrategy>;
        /// Status of the refusal. Default: 403.
        "rejectStatusCode" => reject_status_code: u16 as KnownStatus = 403;
    }
    check check_ip_allow_list;
}

settings! {
    /// Redirects to another scheme.
    pub struct RedirectScheme {
        /// The scheme to redirect to. Needed.
        "scheme" => scheme: String;
        /// The port to redirect to; left out when it is the scheme's own.
        "port" => port: String as Optional<Port>;
        /// 301/308 instead of 302/307. Default: false.
        "permanent" => permanent: bool;
    }
    check check_redirect_scheme;
}

settings! {
    /// Bounds bodies; Gantry streams them, nothing is held back.
    pub struct Buffering [empty] {
        /// Bytes of the longest request body; a longer one gets 413. Default: 0, no limit.
        "maxRequestBodyBytes" => max_request_body_bytes: u64 as ByteSize;
        /// Accepted as in Traefik: Gantry streams and holds nothing. Default: 1 MiB.
        "memRequestBodyBytes" => mem_request_body_bytes: u64 as ByteSize = 1 << 20;
        /// Bytes of the longest response body; a longer one becomes 500. Default: 0, no limit.
        "maxResponseBodyBytes" => max_response_body_bytes: u64 as ByteSize;
        /// Accepted as in Traefik: Gantry streams and holds nothing. Default: 1 MiB.
        "memResponseBodyBytes" => mem_response_body_bytes: u64 as ByteSize = 1 << 20;
    }
    unsupported {
        "retryExpression": "a `healthCheck` with a short interval takes dead servers out";
    }
}

impl Middleware {
    /// The keys of the kinds that are set; a sound middleware has exactly one.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        let kinds = [
            (self.add_prefix.is_some(), "addPrefix"),
            (self.strip_prefix.is_some(), "stripPrefix"),
            (self.chain.is_some(), "chain"),
            (self.headers.is_some(), "headers"),
            (self.basic_auth.is_some(), "basicAuth"),
            (self.rate_limit.is_some(), "rateLimit"),
            (self.in_flight_req.is_some(), "inFlightReq"),
            (self.ip_allow_list.is_some(), "ipAllowList"),
            (self.redirect_scheme.is_some(), "redirectScheme"),
            (self.buffering.is_some(), "buffering"),
        ];
        kinds
            .into_iter()
            .filter_map(|(set, kind)| set.then_some(kind))
            .collect()
    }
}

fn check_middleware(middleware: &Middleware, _: &Node, decoder: &mut Decoder<'_>) {
    let name = decoder.name().to_owned();
    match middleware.kinds().as_slice() {
        [_] => {}
        [] => {
            let message = format!("the middleware `{name}` has no kind");
            decoder.invalid(
                decoder.here(),
                message,
                "add one, such as basicAuth, rateLimit or headers",
            );
        }
        kinds => {
            let message = format!("the middleware `{name}` has several kinds: {}", kinds.join(", "));
            decoder.invalid(
                decoder.here(),
                message,
                "make a middleware of each, and list them in the router",
            );
        }
    }
}

fn check_add_prefix(add: &AddPrefix, _: &Node, decoder: &mut Decoder<'_>) {
    if add.prefix.is_empty() {
        decoder.invalid(
            decoder.here(),
            "`addPrefix` has no `prefix`",
            "add one, such as prefix: /api",
        );
    }
}

fn check_basic_auth(auth: &BasicAuth, _: &Node, decoder: &mut Decoder<'_>) {
    if auth.users.is_empty() && auth.users_file.is_empty() {
        decoder.invalid(
            decoder.here(),
            "`basicAuth` has no users: nobody could pass",
            "add `users` (`gantry hash-password` makes an entry) or `usersFile`",
        );
    }
}

fn check_rate_limit(limit: &RateLimit, _: &Node, decoder: &mut Decoder<'_>) {
    if limit.average > 0 && limit.period.is_zero() {
        decoder.invalid(
            decoder.here(),
            "`period` of `rateLimit` is 0",
            "write a duration such as 1s or 1m",
        );
    }
}

fn check_source_criterion(source: &SourceCriterion, _: &Node, decoder: &mut Decoder<'_>) {
    let given = usize::from(source.ip_strategy.is_some())
        + usize::from(!source.request_header_name.is_empty())
        + usize::from(source.request_host);
    if given > 1 {
        decoder.invalid(
            decoder.here(),
            "`sourceCriterion` has several criteria",
            "keep one of ipStrategy, requestHeaderName and requestHost",
        );
    }
}

fn check_ip_allow_list(list: &IpAllowList, _: &Node, decoder: &mut Decoder<'_>) {
    if list.source_range.is_empty() {
        decoder.invalid(
            decoder.here(),
            "`ipAllowList` has no `sourceRange`: nobody could pass",
            "add one, such as sourceRange: [10.0.0.0/8]",
        );
    }
}

fn check_redirect_scheme(redirect: &RedirectScheme, _: &Node, decoder: &mut Decoder<'_>) {
    if redirect.scheme.is_empty() {
        decoder.invalid(decoder.here(), "`redirectScheme` has no `scheme`", "add scheme: https");
    }
}
