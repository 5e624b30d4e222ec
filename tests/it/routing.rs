//! Which router a request goes to, and the middlewares on the way that change it.

use crate::harness::*;

/// Routers that answer with their own name, given as `(name, rule, further keys)`.
fn routers(rows: &[(&str, &str, &str)]) -> (Vec<Backend>, Gateway) {
    let mut yaml = String::from("http:\n  routers:\n");
    for (name, rule, more) in rows {
        yaml += &format!("    {name}: {{rule: '{rule}', service: {name}{more}}}\n");
    }
    yaml += "  services:\n";
    let mut backends = Vec::new();
    for (name, _, _) in rows {
        let body = (*name).to_owned();
        let backend = Backend::answering(move |_| Answer::new(200).body(body.clone()));
        yaml += &format!(
            "    {name}: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n",
            backend.url()
        );
        backends.push(backend);
    }
    (backends, gateway().dynamic(&yaml).run())
}

#[test]
fn every_matcher() {
    let (_backends, gateway) = routers(&[
        ("host", "Host(`host.test`)", ""),
        ("wild", "Host(`*.wild.test`)", ""),
        ("hostre", "HostRegexp(`^[a-z]+-re\\.test$`)", ""),
        ("path", "Path(`/path`)", ""),
        ("prefix", "PathPrefix(`/prefix`)", ""),
        ("pathre", "PathRegexp(`^/re/[0-9]+$`)", ""),
        ("method", "Method(`DELETE`)", ""),
        ("header", "Header(`X-Key`, `v`)", ""),
        ("headerre", "HeaderRegexp(`X-Re`, `^a+$`)", ""),
        ("query", "Query(`q`, `1`)", ""),
        ("empty", "Query(`flag`)", ""),
        ("queryre", "QueryRegexp(`r`, `^b+$`)", ""),
        ("client", "ClientIP(`127.0.0.9`)", ""),
    ]);
    let get = |target: &str| gateway.get(target);
    let cases = [
        (get("/").host("host.test"), "host"),
        (get("/").host("HOST.test.:80"), "host"),
        (get("/").host("a.wild.test"), "wild"),
        (get("/").host("ab-re.test"), "hostre"),
        (get("/path"), "path"),
        (get("/prefixed"), "prefix"),
        (get("/re/42"), "pathre"),
        (gateway.request("DELETE", "/"), "method"),
        (get("/").header("x-key", "no").header("X-KEY", "v"), "header"),
        (get("/").header("X-Re", "aaa"), "headerre"),
        (get("/?q=2&q=1"), "query"),
        (get("/?flag"), "empty"),
        (get("/?r=bbb"), "queryre"),
        (get("/").from("127.0.0.9"), "client"),
    ];
    for (request, name) in cases {
        request.send().assert_status(200).assert_body(name);
    }
    for target in ["/", "/path/", "/re/x", "/?q=3", "/?flag=1", "/?r=bab"] {
        get(target).send().assert_status(404);
    }
    get("/").host("a.b.wild.test").send().assert_status(404);
}

#[test]
fn operators_and_priorities() {
    let (_backends, gateway) = routers(&[
        ("short", "PathPrefix(`/a`)", ""),
        ("long", "PathPrefix(`/a/b`)", ""),
        ("first", "Path(`/a/b/c`)", ", priority: 1000"),
        ("last", "PathPrefix(`/`) && !PathPrefix(`/n`)", ", priority: -1"),
        ("either", "(Path(`/x`) || Path(`/y`)) && Header(`K`, `v`)", ""),
    ]);
    for (target, name) in [
        ("/a", "short"),
        ("/a/x", "short"),
        ("/a/b", "long"),
        ("/a/b/c", "first"),
        ("/z", "last"),
        ("/x", "last"),
    ] {
        gateway.get(target).send().assert_status(200).assert_body(name);
    }
    gateway.get("/y").header("K", "v").send().assert_body("either");
    gateway.get("/n").send().assert_status(404);
}

#[test]
fn the_path_that_is_matched_is_the_path_that_is_sent() {
    let (backends, gateway) = routers(&[("admin", "PathPrefix(`/admin`)", ""), ("open", "PathPrefix(`/`)", "")]);
    for target in [
        "/admin",
        "//admin",
        "/x/../admin",
        "/%61dmin",
        "/./admin",
        "/x/%2e%2e/admin",
    ] {
        gateway.get(target).send().assert_body("admin");
        assert!(backends[0].last().target.starts_with("/admin"), "{target}");
    }
    for target in ["/x%2fadmin", "/ADMIN", "/x;/admin"] {
        gateway.get(target).send().assert_body("open");
    }
}

#[test]
fn the_host_is_compared_without_case_port_and_trailing_dot() {
    let (_backends, gateway) = routers(&[("a", "Host(`A.Test`)", "")]);
    for host in ["a.test", "A.TEST", "a.test:8080", "a.test.", "a.test.:80"] {
        gateway.get("/").host(host).send().assert_status(200);
    }
    for host in ["b.test", "xa.test", "a.test.x"] {
        gateway.get("/").host(host).send().assert_status(404);
    }
}

#[test]
fn a_router_answers_on_its_entry_points_only() {
    let (_backends, gateway) = routers(&[
        ("web", "Path(`/web`)", ", entryPoints: [web]"),
        ("other", "Path(`/other`)", ", entryPoints: [ready]"),
    ]);
    gateway.get("/web").send().assert_status(200);
    gateway.get("/other").send().assert_status(404);
}

#[test]
fn middlewares_that_change_the_path() {
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers:\n    strip: {{rule: \"PathPrefix(`/strip`)\", service: s, middlewares: [strip]}}\n    add: \
             {{rule: \"PathPrefix(`/add`)\", service: s, middlewares: [add]}}\n    both: {{rule: \"PathPrefix(`/both`)\", \
             service: s, middlewares: [chain]}}\n  middlewares:\n    strip: {{stripPrefix: {{prefixes: [/strip/x, \
             /strip, /both]}}}}\n    add: {{addPrefix: {{prefix: /new}}}}\n    chain: {{chain: {{middlewares: [strip, \
             add]}}}}\n  services: {{s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}}}\n",
            backend.url()
        ))
        .run();
    for (sent, wanted, prefix) in [
        ("/strip/a?b=1", "/a?b=1", Some("/strip")),
        ("/strip/x/a", "/a", Some("/strip/x")),
        ("/strip", "/", Some("/strip")),
        ("/stripped", "/ped", Some("/strip")),
        ("/add/a", "/new/add/a", None),
        ("/both/a%20b", "/new/a%20b", Some("/both")),
    ] {
        gateway.get(sent).send().assert_status(200);
        assert_eq!(backend.last().target, wanted, "{sent}");
        assert_eq!(backend.last().header("x-forwarded-prefix"), prefix, "{sent}");
    }
}

#[test]
fn a_stripped_path_cannot_climb() {
    only_gantry!();
    let (backend, admin) = (Backend::start(), Backend::start());
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers:\n    strip: {{rule: \"PathPrefix(`/strip`)\", service: s, middlewares: [strip]}}\n    \
             admin: {{rule: \"PathPrefix(`/admin`)\", service: a}}\n  middlewares: {{strip: {{stripPrefix: {{prefixes: \
             [/strip]}}}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n    a: \
             {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n",
            backend.url(),
            admin.url()
        ))
        .run();
    for target in [
        "/strip%2fadmin/x",
        "/strip../admin/x",
        "/strip..%2fadmin",
        "/strip%5cadmin",
        "/strip./x",
    ] {
        gateway.get(target).send().assert_status(400);
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn redirect_scheme() {
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers:\n    found: {{rule: \"PathPrefix(`/found`)\", service: s, middlewares: [found]}}\n    moved: \
             {{rule: \"PathPrefix(`/moved`)\", service: s, middlewares: [moved]}}\n  middlewares:\n    found: \
             {{redirectScheme: {{scheme: https}}}}\n    moved: {{redirectScheme: {{scheme: https, port: \"8443\", \
             permanent: true}}}}\n  services: {{s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}}}\n",
            backend.url()
        ))
        .run();
    for (method, target, status, location, body) in [
        ("GET", "/found?a=b", 302, "https://app.test/found?a=b", "Found"),
        ("GET", "/moved", 301, "https://app.test:8443/moved", "Moved Permanently"),
        ("POST", "/found", 307, "https://app.test/found", "Temporary Redirect"),
        (
            "PUT",
            "/moved",
            308,
            "https://app.test:8443/moved",
            "Permanent Redirect",
        ),
    ] {
        let reply = gateway.request(method, target).host("app.test:80").send();
        reply.assert_status(status).assert_body(body);
        assert_eq!(reply.header("location"), Some(location), "{method} {target}");
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn headers_middleware() {
    let backend = Backend::answering(|_| Answer::new(200).header("X-Gone", "1").header("X-Set", "backend"));
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers: {{r: {{rule: \"PathPrefix(`/`)\", service: s, middlewares: [h]}}}}\n  middlewares:\n    h:\n      \
             headers:\n        customRequestHeaders: {{X-New: a, X-Drop: \"\", Host: other.test}}\n        \
             customResponseHeaders: {{X-Set: gateway, X-Gone: \"\", X-More: m}}\n  services: {{s: {{loadBalancer: \
             {{servers: [{{url: \"{}\"}}]}}}}}}\n",
            backend.url()
        ))
        .run();
    let reply = gateway.get("/").header("X-Drop", "1").header("x-new", "client").send();
    reply.assert_status(200);
    let seen = backend.last();
    assert_eq!(
        (seen.header("x-new"), seen.header("x-drop"), seen.header("host")),
        (Some("a"), None, Some("other.test"))
    );
    assert_eq!(reply.header("x-set"), Some("gateway"));
    assert_eq!((reply.header("x-gone"), reply.header("x-more")), (None, Some("m")));
}

#[test]
fn ip_allow_list() {
    let backend = Backend::start();
    let gateway = gateway()
        .web("forwardedHeaders: {insecure: true}")
        .dynamic(&format!(
            "http:\n  routers:\n    peer: {{rule: \"Path(`/peer`)\", service: s, middlewares: [peer]}}\n    depth: {{rule: \
             \"Path(`/depth`)\", service: s, middlewares: [depth]}}\n  middlewares:\n    peer: {{ipAllowList: \
             {{sourceRange: [127.0.0.1/32]}}}}\n    depth: {{ipAllowList: {{sourceRange: [10.0.0.0/8], ipStrategy: \
             {{depth: 2}}, rejectStatusCode: 404}}}}\n  services: {{s: {{loadBalancer: {{servers: [{{url: \
             \"{}\"}}]}}}}}}\n",
            backend.url()
        ))
        .run();
    gateway.get("/peer").send().assert_status(200);
    gateway
        .get("/peer")
        .from("127.0.0.2")
        .send()
        .assert_status(403)
        .assert_body("Forbidden");
    let depth = |list: &str| gateway.get("/depth").header("X-Forwarded-For", list).send().status;
    assert_eq!(depth("10.1.1.1, 1.1.1.1"), 200);
    assert_eq!(depth("9.9.9.9, 10.1.1.1"), 404);
    assert_eq!(depth("10.1.1.1"), 404);
    assert_eq!(depth("10.1.1.1, 9.9.9.9, 8.8.8.8"), 404);
}
