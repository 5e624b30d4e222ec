//! What is said about configuration, and what is served of it all the same.

use ::http::HeaderValue;

use super::*;
use crate::config::{decode_dynamic, decode_static};
use crate::observe::metrics::MetricsOptions;

const SERVICES: &str = "  services:\n    s: {loadBalancer: {servers: [{url: \"http://a\"}]}}\n";

fn context(settings: &str) -> Context {
    let decoded = decode_static("static.yaml", settings);
    assert!(decoded.is_usable(), "{:?}", decoded.diagnostics);
    let settings = decoded.value;
    let metrics = Metrics::new(MetricsOptions::default());
    let entry_point = |(index, (name, settings)): (usize, (&String, _))| {
        let here = HeaderValue::from_static("here");
        Arc::new(EntryPoint::new(index, name, settings, here, metrics.entry_point(name)).expect("an entry point"))
    };
    Context {
        feedback: Arc::default(),
        entry_points: settings.entry_points.iter().enumerate().map(entry_point).collect(),
        settings,
        runtime: Runtime::new(),
        metrics,
        tls: TlsCache::new(),
        ping: Arc::new(Ping::new(503)),
    }
}

fn compiled(settings: &str, dynamic: &str) -> Compiled {
    let decoded = decode_dynamic("dynamic.yaml", dynamic);
    assert!(decoded.is_usable(), "{:?}", decoded.diagnostics);
    compile(&context(settings), &decoded.value, &Resources::default(), 1)
}

/// The routers of each entry point, clear text and TLS, in the order of their names.
fn served(compiled: &Compiled) -> Vec<(usize, usize)> {
    compiled
        .snapshot
        .entry_points
        .iter()
        .map(|plan| (plan.plain.len(), plan.secure.len()))
        .collect()
}

fn told(compiled: &Compiled) -> Vec<String> {
    let line = |d: &Diagnostic| format!("{} {}: {}", if d.is_error() { "E" } else { "W" }, d.path, d.message);
    compiled.diagnostics.iter().map(line).collect()
}

const WEB: &str = "entryPoints: {web: {address: \":1\"}, other: {address: \":2\"}}\n";

/// `routers` and `more` stand beside a service `s` with one server.
fn check(routers: &str, more: &str, expected: &[&str], served_on_web: usize) {
    let text = format!("http:\n  routers:\n{routers}{more}{SERVICES}");
    let compiled = compiled(WEB, &text);
    assert_eq!(told(&compiled), expected, "{text}");
    assert_eq!(served(&compiled)[1].0, served_on_web, "{text}");
}

#[test]
fn every_mistake_is_told_at_its_place_and_takes_only_its_router_away() {
    let router =
        |more: &str| format!("    a: {{rule: \"Path(`/a`)\", service: s}}\n    b: {{rule: \"Path(`/b`)\", {more}}}\n");
    for (more, expected) in [
        ("service: t", "E http.routers.b.service: there is no service `t`"),
        (
            "service: s@docker",
            "E http.routers.b.service: there is no service `s@docker`",
        ),
        (
            "service: api@internal",
            "E http.routers.b.service: the service `api@internal` is not built yet",
        ),
        (
            "service: s, middlewares: [x]",
            "E http.routers.b.middlewares[0]: there is no middleware `x`",
        ),
        (
            "service: s, entryPoints: [web2]",
            "E http.routers.b.entryPoints[0]: there is no entry point `web2`",
        ),
    ] {
        check(&router(more), "", &[expected], 1);
    }
    check(&router("service: s@file"), "", &[], 2);
    check(&router("service: noop@internal"), "", &[], 2);
    check(
        &router("service: s, entryPoints: [web, wbe]"),
        "",
        &["E http.routers.b.entryPoints[1]: there is no entry point `wbe`"],
        2,
    );
}

#[test]
fn chains_that_contain_themselves_are_told() {
    let routers = "    a: {rule: \"Path(`/a`)\", service: s, middlewares: [c]}\n";
    let more = "  middlewares:\n    c: {chain: {middlewares: [d]}}\n    d: {chain: {middlewares: [c]}}\n";
    let text = format!("http:\n  routers:\n{routers}{more}{SERVICES}");
    let compiled = compiled(WEB, &text);
    assert_eq!(compiled.diagnostics.len(), 1, "{:?}", told(&compiled));
    assert!(
        compiled.diagnostics[0].path.starts_with("http.middlewares."),
        "{:?}",
        told(&compiled)
    );
    assert_eq!(served(&compiled)[1], (0, 0));
}

#[test]
fn services_within_services() {
    let text = "http:
  routers:
    a: {rule: \"Path(`/a`)\", service: w}
    b: {rule: \"Path(`/b`)\", service: loop}
    c: {rule: \"Path(`/c`)\", service: none}
  services:
    loop: {weighted: {services: [{name: inner}]}}
    inner: {weighted: {services: [{name: loop@file}]}}
    none: {weighted: {services: [{name: s, weight: 0}]}}
    s: {loadBalancer: {servers: [{url: \"http://a\", weight: 3}, {url: \"http://b\", weight: 0}]}}
    w: {weighted: {services: [{name: s@file, weight: 2}]}}
";
    let compiled = compiled(WEB, text);
    assert_eq!(
        told(&compiled),
        [
            "E http.services.loop.weighted.services[0].name: the service `inner` contains itself",
            "E http.services.inner.weighted.services[0].name: the service `loop@file` has an error, so this cannot be served",
            "W http.services.none.weighted.services: the weights sum to 0",
            "E http.routers.b.service: the service `loop` has an error, so this cannot be served",
        ]
    );
    assert_eq!(served(&compiled)[1], (2, 0));
    assert_eq!(
        (
            compiled.snapshot.balancers.len(),
            &compiled.snapshot.balancers[0].weights
        ),
        (1, &vec![3])
    );
}

#[test]
fn routers_without_entry_points_go_to_the_default_ones() {
    let dynamic = format!("http:\n  routers:\n    a: {{rule: \"Path(`/a`)\", service: s}}\n{SERVICES}");
    for (settings, expected) in [
        ("{a: {address: \":1\"}, b: {address: \":2\"}}", &[(1, 0), (1, 0)][..]),
        (
            "{a: {address: \":1\", asDefault: true}, b: {address: \":2\"}}",
            &[(1, 0), (0, 0)],
        ),
        ("{a: {address: \":1\"}, traefik: {address: \":2\"}}", &[(1, 0), (0, 0)]),
        ("{a: {address: \":1\", http: {tls: {}}}}", &[(0, 1)]),
    ] {
        let compiled = compiled(&format!("entryPoints: {settings}\n"), &dynamic);
        assert_eq!(
            (served(&compiled), told(&compiled)),
            (expected.to_vec(), vec![]),
            "{settings}"
        );
    }
    let none = compiled("entryPoints: {traefik: {address: \":1\"}}\n", &dynamic);
    assert_eq!(told(&none), ["E http.routers.a: no entry point is a default one"]);
}

#[test]
fn middlewares_of_an_entry_point_are_told_by_their_place() {
    let settings = "entryPoints: {web: {address: \":1\", http: {middlewares: [h@file, x@file]}}}\n";
    let dynamic = format!(
        "http:\n  routers:\n    a: {{rule: \"Path(`/a`)\", service: s}}\n  middlewares:\n    h: {{stripPrefix: {{prefixes: [/x]}}}}\n{SERVICES}"
    );
    let compiled = compiled(settings, &dynamic);
    assert_eq!(
        told(&compiled),
        ["E entryPoints.web.http.middlewares[1]: there is no middleware `x@file`"]
    );
}

#[test]
fn routers_that_are_never_reached_are_told_also_where_the_entry_point_makes_them_secure() {
    let dynamic = format!(
        "http:\n  routers:\n    a: {{rule: \"Host(`a`)\", service: s}}\n    b: {{rule: \"Host(`a`)\", service: s, tls: {{}}}}\n{SERVICES}"
    );
    assert_eq!(
        told(&compiled("entryPoints: {web: {address: \":1\"}}\n", &dynamic)),
        [""; 0]
    );
    let secure = compiled("entryPoints: {web: {address: \":1\", http: {tls: {}}}}\n", &dynamic);
    assert_eq!(secure.diagnostics.len(), 1, "{:?}", told(&secure));
    assert!(told(&secure)[0].contains("is never reached"), "{:?}", told(&secure));
}

#[test]
fn compiling_twice_says_the_same_and_keeps_what_outlives_a_snapshot() {
    let text = format!(
        "http:\n  routers:\n    a: {{rule: \"Path(`/a`)\", service: s}}\n    b: {{rule: \"Pth(`/`)\", service: s}}\n{SERVICES}"
    );
    let decoded = decode_dynamic("dynamic.yaml", &text);
    let context = context(WEB);
    let [first, second] = [1, 2].map(|generation| compile(&context, &decoded.value, &Resources::default(), generation));
    assert_eq!((told(&first), served(&first)), (told(&second), served(&second)));
    let (old, new) = (&first.snapshot.balancers[0], &second.snapshot.balancers[0]);
    assert!(Arc::ptr_eq(&old.cursor, &new.cursor) && Arc::ptr_eq(&old.servers[0].state, &new.servers[0].state));
    assert_eq!(old.servers[0].pool, new.servers[0].pool);
}

#[test]
fn a_router_with_several_mistakes_hears_of_all_of_them() {
    check(
        "    r: {rule: \"Path(`/`)\", service: no, middlewares: [m1, m2]}\n",
        "",
        &[
            "E http.routers.r.service: there is no service `no`",
            "E http.routers.r.middlewares[0]: there is no middleware `m1`",
            "E http.routers.r.middlewares[1]: there is no middleware `m2`",
        ],
        0,
    );
}

#[test]
fn certificates_are_wanted_once_for_each_set_of_names() {
    let settings = "entryPoints:\n  web: {address: \":1\"}\n  tls:\n    address: \":2\"\n    http: {tls: {certResolver: le, \
                    domains: [{main: e.test}]}}\ncertificatesResolvers: {le: {acme: {tlsChallenge: {}}}}\n";
    let routers = "
    a: {rule: \"Host(`a.test`) || Host(`B.test`)\", service: s, entryPoints: [web], tls: {certResolver: le}}
    b: {rule: \"(Host(`b.test`) || Host(`a.test`)) && Path(`/b`)\", service: s, entryPoints: [web], tls: {certResolver: le}}
    d: {rule: \"Path(`/d`)\", service: s, entryPoints: [web], tls: {certResolver: le, domains: [{main: d.test, sans: [d.test, f.test]}, {main: \"*.d.test\"}]}}
    e: {rule: \"Host(`x.test`)\", service: s, entryPoints: [tls]}
    g: {rule: \"Host(`g.test`)\", service: s, entryPoints: [tls], tls: {}}
    h: {rule: \"Path(`/h`)\", service: s, entryPoints: [web], tls: {certResolver: le}}
    i: {rule: \"Host(`i.test`)\", service: s, entryPoints: [web], tls: {certResolver: el}}
";
    let text = format!("http:\n  routers:{routers}{SERVICES}");
    let compiled = compiled(settings, &text);
    let wanted: Vec<String> = compiled
        .wanted
        .iter()
        .map(|w| format!("{} {}", w.resolver, w.names.join(",")))
        .collect();
    assert_eq!(wanted, ["le a.test,b.test", "le d.test,f.test", "le e.test"]);
    let told = told(&compiled);
    let expected = [
        "W http.routers.d.tls.domains[1]: no certificate is asked for: `*.d.test` is a wildcard name, which needs the DNS challenge",
        "W http.routers.h.rule: no certificate is asked for: there is no domain name",
        "W http.routers.i.tls.certResolver: there is no certificates resolver `el`",
    ];
    assert_eq!(told, expected);
    assert_eq!(served(&compiled)[1].1, 5, "they are served all the same");
}

#[test]
fn what_gantry_tells_of_itself_asks_for_the_client_certificates_of_its_entry_point() {
    let any = "{clientAuth: {clientAuthType: RequireAnyClientCert}}";
    let request = "{clientAuth: {clientAuthType: RequestClientCert}}";
    let text = format!("tls: {{options: {{default: {any}, named: {request}}}}}");
    let decoded = decode_dynamic("dynamic.yaml", &text);
    for (fixed, options, in_clear) in [("", "", Some(0)), ("http: {tls: {options: named}}", "named", None)] {
        let context = context(&format!(
            "entryPoints: {{a: {{address: \":1\", {fixed}}}}}\nping: {{entryPoint: a}}\nmetrics: {{prometheus: \
             {{entryPoint: a}}}}\n"
        ));
        let compiled = compile(&context, &decoded.value, &Resources::default(), 1);
        let (setup, _) = TlsSetup::build(&decoded.value.tls, &Resources::default(), &context.tls);
        let asked = setup.client_auth_of(options);
        assert_ne!(asked, 0);
        let headers = ::http::HeaderMap::new();
        let plan = &compiled.snapshot.entry_points[0];
        let asks = |routers: &crate::router::Index<Arc<snapshot::RouterPlan>>, path: &str| {
            let facts = crate::rule::Facts {
                host: "a.test",
                path,
                method: "GET",
                headers: &headers,
                query: None,
                client_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            };
            routers.find(&facts).map(|router| router.client_auth)
        };
        for path in ["/metrics", "/sd", "/federate"] {
            assert_eq!(asks(&plan.secure, path), Some(asked));
            assert_eq!(asks(&plan.plain, path), in_clear);
        }
        assert_eq!(
            (asks(&plan.secure, "/ping"), asks(&plan.plain, "/ping")),
            (Some(0), Some(0))
        );
    }
}
