//! `http.services.NAME`: where requests are sent.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::Decoder;
use super::format::{
    AtLeastOne, CookieAttribute, CookieName, FlushInterval, HeaderMap, HealthPath, HealthScheme, HealthStatus, Method,
    Positive, SameSiteWord, ServerUrl,
};
pub use super::model::{KeepMasks, ModelName, SampleOrigin, SampleSource, ServerTiming, ServiceMetrics};
use super::node::Node;
use super::scalar::Opt;

settings! {
    /// One service: exactly one kind (`loadBalancer` or `weighted`), and what Gantry adds for models.
    pub struct Service {
        /// Spreads requests over servers.
        "loadBalancer" => load_balancer: Option<LoadBalancer>;
        /// Spreads requests over other services by weight: canaries.
        "weighted" => weighted: Option<Weighted>;
        /// The model behind the service: labels of the `model_*` series. Without it there are none.
        "model" => model: Option<ModelName>;
        /// Where samples of the model's accuracy come from.
        "accuracy" => accuracy: Vec<SampleSource>;
        /// Where samples of the model's confidence in its own answers come from. Confidence is never accuracy: it has
        /// series of its own.
        "confidence" => confidence: Vec<SampleSource>;
        /// What is read of the servers' `Server-Timing`. Absent: nothing.
        "serverTiming" => server_timing: Option<ServerTiming>;
        /// Keeps the masks that the model answers with, so that feedback can bring the true one. Absent: none is kept.
        "keepMasks" => keep_masks: Option<KeepMasks>;
        /// Where the servers' own metrics are: lists them in `/sd` and `/federate`.
        "metrics" => metrics: Option<ServiceMetrics>;
    }
    unsupported {
        "middlewares": "list the middlewares in the routers of this service";
        "highestRandomWeight": "`weighted` with `sticky.cookie` keeps a client on one service";
        "mirroring": "no request is copied so far: point the router at the main service";
        "failover": "`loadBalancer` with a `healthCheck` and both servers leaves dead ones out";
    }
    check check_service;
}

settings! {
    /// Spreads requests over servers.
    pub struct LoadBalancer {
        /// The backends.
        "servers" => servers: Vec<Server>;
        /// How a server is chosen. Default: `wrr`.
        "strategy" => strategy: Strategy;
        /// Whether the client's Host goes to the server; otherwise the host of the server's URL. Default: true.
        "passHostHeader" => pass_host_header: bool = true;
        /// Name of an `http.serversTransports` entry.
        "serversTransport" => servers_transport: String;
        /// How responses are passed on.
        "responseForwarding" => response_forwarding: ResponseForwarding;
        /// Keeps a client on one server.
        "sticky" => sticky: Option<Sticky>;
        /// Asks servers whether they are well; the unwell get no requests.
        "healthCheck" => health_check: Option<HealthCheck>;
    }
    unsupported {
        "passiveHealthCheck": "`healthCheck` finds dead servers";
        "queue": "the `inFlightReq` middleware bounds the requests that run at a time";
        "loadReports": "`strategy: wrr` with server weights";
    }
}

settings! {
    /// One backend.
    pub struct Server {
        /// `http://`, `https://` or `h2c://` with host and port. Needed.
        "url" => url: String as ServerUrl;
        /// Share of the requests; 0 or less takes the server out. Default: 1.
        "weight" => weight: i64 = 1;
        /// Whether the path of the URL is put in front of the request's. Default: false.
        "preservePath" => preserve_path: bool;
    }
    unsupported {
        "slots": "the `inFlightReq` middleware bounds the requests that run at a time";
    }
    check check_server;
}

choices! {
    /// How a load balancer chooses a server.
    pub enum Strategy {
        /// Weighted round robin, exact over each window of the sum of the weights.
        #[default]
        "wrr" => Wrr;
    }
    unsupported {
        "p2c": "use `wrr`";
        "hrw": "use `wrr` with `sticky.cookie`";
        "leasttime": "use `wrr`";
        "inference": "use `wrr`";
    }
}

settings! {
    /// How responses are passed on.
    pub struct ResponseForwarding {
        /// How often a response body is flushed to the client; negative (`-1`) means at once. Default: 100 ms.
        /// Event streams and bodies of unknown length are always flushed at once.
        "flushInterval" => flush_interval: Option<Duration> as FlushInterval = Some(Duration::from_millis(100));
    }
}

settings! {
    /// Keeps a client on one server or one service.
    pub struct Sticky [empty] {
        /// By a cookie.
        "cookie" => cookie: Option<Cookie>;
    }
}

settings! {
    /// The cookie that keeps a client in place.
    pub struct Cookie [empty] {
        /// Name of the cookie. Default: `_` and 5 hex digits made of the service's name.
        "name" => name: String as CookieName;
        /// Path attribute; an empty string leaves it out. Default: `/`.
        "path" => path: String as CookieAttribute = "/".to_owned();
        /// Domain attribute. Default: none.
        "domain" => domain: String as CookieAttribute;
        /// Secure attribute. Default: false.
        "secure" => secure: bool;
        /// HttpOnly attribute. Default: false.
        "httpOnly" => http_only: bool;
        /// SameSite attribute. Default: none is sent.
        "sameSite" => same_site: Option<SameSite> as SameSiteWord;
        /// Max-Age attribute in seconds; 0 leaves it out, negative sends `Max-Age=0`. Default: 0.
        "maxAge" => max_age: i64;
    }
}

choices! {
    /// The SameSite attribute of a cookie.
    pub enum SameSite {
        /// `SameSite=None`.
        "none" => None;
        /// `SameSite=Lax`.
        #[default]
        "lax" => Lax;
        /// `SameSite=Strict`.
        "strict" => Strict;
    }
}

settings! {
    /// Asks servers whether they are well.
    pub struct HealthCheck {
        /// Path and query that are asked for.
        "path" => path: String as HealthPath;
        /// What is spoken. Default: `http`.
        "mode" => mode: HealthMode;
        /// Scheme instead of the server's: `http` or `https`.
        "scheme" => scheme: String as HealthScheme;
        /// Host header instead of the server's.
        "hostname" => hostname: String;
        /// Port instead of the server's.
        "port" => port: Option<u16>;
        /// Method. Default: `GET`.
        "method" => method: String as Method = "GET".to_owned();
        /// The status that a healthy server answers. Default: 200 to 399.
        "status" => status: Option<u16> as HealthStatus;
        /// Time between two checks. Default: 30 s.
        "interval" => interval: Duration as Positive = Duration::from_secs(30);
        /// Time between two checks of an unhealthy server. Default: `interval`.
        "unhealthyInterval" => unhealthy_interval: Option<Duration> as Opt<Positive>;
        /// Longest wait for an answer. Default: 5 s.
        "timeout" => timeout: Duration as Positive = Duration::from_secs(5);
        /// Whether redirects are followed. Default: true.
        "followRedirects" => follow_redirects: bool = true;
        /// Further headers of the check; `Host` sets the host.
        "headers" => headers: BTreeMap<String, String> as HeaderMap;
        /// Good answers in a row that make an unhealthy server healthy. Default: 1.
        "rise" => rise: u32 as AtLeastOne = 1;
        /// Bad answers in a row that make a healthy server unhealthy. Default: 3.
        "fall" => fall: u32 as AtLeastOne = 3;
    }
    unsupported {
        "preset": "write `path` and `status` as the model server wants them";
    }
}

choices! {
    /// What a health check speaks.
    pub enum HealthMode {
        /// HTTP.
        #[default]
        "http" => Http;
    }
    unsupported {
        "grpc": "use `mode: http` with a path that the server answers";
    }
}

settings! {
    /// Spreads requests over services by weight.
    pub struct Weighted {
        /// The services.
        "services" => services: Vec<WeightedService>;
        /// Keeps a client on one of the services.
        "sticky" => sticky: Option<Sticky>;
        /// Accepted as in Traefik; in Gantry health always flows up.
        "healthCheck" => health_check: Option<WeightedHealthCheck>;
    }
}

settings! {
    /// One service of a weighted one.
    pub struct WeightedService {
        /// Name of the service. Needed.
        "name" => name: String;
        /// Share of the requests; 0 or less gets none. Default: 1.
        "weight" => weight: i64 = 1;
    }
    check check_weighted_service;
}

settings! {
    /// Has no keys: in Gantry health always flows up.
    pub struct WeightedHealthCheck [empty] {
    }
}

fn check_service(service: &Service, _: &Node, decoder: &mut Decoder<'_>) {
    let name = decoder.name().to_owned();
    match (&service.load_balancer, &service.weighted) {
        (None, None) => {
            let message = format!("the service `{name}` has no kind");
            decoder.invalid(
                decoder.here(),
                message,
                "add `loadBalancer` with `servers`, or `weighted` with `services`",
            );
        }
        (Some(_), Some(_)) => {
            let message = format!("the service `{name}` has two kinds: `loadBalancer` and `weighted`");
            decoder.invalid(decoder.here(), message, "make two services of it");
        }
        _ => {}
    }
    let of_a_model = [
        ("accuracy", !service.accuracy.is_empty()),
        ("confidence", !service.confidence.is_empty()),
        ("serverTiming", service.server_timing.is_some()),
        ("keepMasks", service.keep_masks.is_some()),
    ];
    for (key, _) in of_a_model
        .into_iter()
        .filter(|(_, used)| *used && service.model.is_none())
    {
        let message = format!("`{key}` of `{name}` has no effect without `model`");
        decoder.warn(decoder.here(), message, "add model: { name: …, version: … }");
    }
    if service.weighted.is_some() && service.load_balancer.is_none() && service.model.is_some() {
        let message = format!("`model` of `{name}` has no effect: it is no `loadBalancer`");
        decoder.warn(
            decoder.here(),
            message,
            "give each child of the weighted service its own `model`",
        );
    }
}

fn check_server(server: &Server, _: &Node, decoder: &mut Decoder<'_>) {
    if server.url.is_empty() {
        decoder.invalid(
            decoder.here(),
            "a server has no `url`",
            "add one, such as url: \"http://10.0.0.7:8080\"",
        );
    }
}

fn check_weighted_service(service: &WeightedService, _: &Node, decoder: &mut Decoder<'_>) {
    if service.name.is_empty() {
        decoder.invalid(
            decoder.here(),
            "a weighted service has no `name`",
            "name a service of `http.services`",
        );
    }
    if service.weight < 0 {
        let message = format!("the weight {} is below 0 and counts as 0", service.weight);
        decoder.warn(decoder.here(), message, "write 0 or more; 0 gets no requests");
    }
}
