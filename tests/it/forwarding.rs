//! What reaches the backend, and what comes back (reference, C2, C3, C5).

use crate::harness::*;

#[test]
fn a_plain_request_gets_the_forwarded_headers_and_nothing_else() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway
        .get("/a?b=c")
        .header("Accept-Encoding", "identity")
        .send()
        .assert_status(200)
        .assert_body("hello");
    let seen = backend.last();
    assert_eq!(seen.head.first, "GET /a?b=c HTTP/1.1");
    let names = [
        "accept-encoding",
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-real-ip",
    ];
    assert_eq!(seen.names(), names);
    assert_eq!(seen.header("host"), Some("app.test"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-host"), Some("app.test"));
    assert_eq!(seen.header("x-forwarded-port"), Some("80"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
}

#[test]
fn the_port_of_the_host_is_forwarded() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.get("/").host("app.test:8443").send().assert_status(200);
    assert_eq!(backend.last().header("x-forwarded-port"), Some("8443"));
    assert_eq!(backend.last().header("x-forwarded-host"), Some("app.test:8443"));
    gateway.get("/").from("127.0.0.5").send().assert_status(200);
    assert_eq!(backend.last().header("x-real-ip"), Some("127.0.0.5"));
}

#[test]
fn what_a_stranger_says_about_itself_is_not_believed() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let spoofed = [
        ("X-Forwarded-For", "9.9.9.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Port", "1"),
        ("X-Forwarded-Server", "evil"),
        ("X-Forwarded-Uri", "/evil"),
        ("X-Forwarded-Method", "DELETE"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Tls-Client-Cert", "evil"),
        ("X-Forwarded-Tls-Client-Cert-Info", "evil"),
        ("X-Real-Ip", "9.9.9.9"),
        ("X_Forwarded_For", "9.9.9.9"),
        ("x_real_ip", "9.9.9.9"),
    ];
    let request = spoofed
        .iter()
        .fold(gateway.get("/"), |request, (name, value)| request.header(name, value));
    request.header("Forwarded", "for=9.9.9.9").send().assert_status(200);
    let seen = backend.last();
    let all: Vec<_> = seen
        .head
        .fields
        .iter()
        .filter(|(name, _)| name != "Forwarded" && name != "forwarded")
        .collect();
    let evil: Vec<_> = all
        .iter()
        .filter(|(_, v)| v.contains("evil") || v.contains("9.9.9.9") || v == "DELETE")
        .collect();
    assert!(evil.is_empty(), "{evil:?}");
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("forwarded"), Some("for=9.9.9.9"));
}

#[test]
fn a_trusted_peer_is_believed_and_appended() {
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .web("forwardedHeaders: {trustedIPs: [\"127.0.0.1\"]}")
        .run();
    let request = gateway
        .get("/")
        .header("X-Forwarded-For", "9.9.9.9")
        .header("X-Forwarded-For", "8.8.8.8");
    request
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Prefix", "/p")
        .send()
        .assert_status(200);
    let seen = backend.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("9.9.9.9, 8.8.8.8, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-prefix"), Some("/p"));
    gateway
        .get("/")
        .from("127.0.0.7")
        .header("X-Forwarded-For", "9.9.9.9")
        .send();
    assert_eq!(backend.last().header("x-forwarded-for"), Some("127.0.0.7"));
}

#[test]
fn fields_of_this_hop_stay_on_it() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let hop = [
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=3"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Authenticate", "y"),
        ("TE", "trailers, deflate"),
        ("Upgrade", "h2c"),
        ("X-Stay", "1"),
    ];
    let request = hop
        .iter()
        .fold(gateway.get("/"), |request, (name, value)| request.header(name, value));
    request.send().assert_status(200);
    let seen = backend.last();
    for name in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "upgrade",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("x-stay"), Some("1"));
}

#[test]
fn connection_cannot_remove_what_the_gateway_adds() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let named = "X-Forwarded-For, x-real-ip, Authorization";
    gateway
        .get("/")
        .header("Connection", named)
        .header("Authorization", "secret")
        .send()
        .assert_status(200);
    let seen = backend.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.header("authorization"), None);
}

#[test]
fn fields_of_the_answer_pass_but_for_those_of_the_hop() {
    let backend = Backend::answering(|_| {
        let answer = Answer::new(200).header("X-Powered-By", "x").header("Set-Cookie", "a=1");
        let answer = answer
            .header("Set-Cookie", "b=2")
            .header("Connection", "X-Hop")
            .header("X-Hop", "1");
        answer
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Authenticate", "z")
            .header("Cache-Control", "no-store")
    });
    let gateway = gateway().to(&backend).run();
    let reply = gateway.get("/").send();
    assert_eq!(
        reply.head.names(),
        [
            "cache-control",
            "content-length",
            "date",
            "set-cookie",
            "set-cookie",
            "x-powered-by"
        ]
    );
    assert_eq!(reply.head.all("set-cookie"), ["a=1", "b=2"]);
}

#[test]
fn no_user_agent_is_invented() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.get("/").send();
    assert_eq!(backend.last().header("user-agent"), None);
    gateway.get("/").header("User-Agent", "").send();
    assert!(backend.last().header("user-agent").unwrap_or_default().is_empty());
}

#[test]
fn accept_encoding_goes_as_it_came() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.get("/").send();
    assert_eq!(backend.last().header("accept-encoding"), None);
    gateway.get("/").header("Accept-Encoding", "br;q=1, *;q=0").send();
    assert_eq!(backend.last().header("accept-encoding"), Some("br;q=1, *;q=0"));
}

/// Target as sent, target as it reaches the backend.
const TARGETS: &[(&str, &str)] = &[
    ("/a/b", "/a/b"),
    ("/", "/"),
    ("/a//b", "/a/b"),
    ("/a/./b", "/a/b"),
    ("/a/../b", "/b"),
    ("/../../a", "/a"),
    ("/a/%2e%2e/b", "/b"),
    ("/%41", "/A"),
    ("/%7euser", "/~user"),
    ("/a%2fb", "/a%2Fb"),
    ("/a%2F%2e%2e%2Fb", "/a%2F..%2Fb"),
    ("/a%20b", "/a%20b"),
    ("/a|b^c", "/a%7Cb%5Ec"),
    ("/a[1];x:y", "/a[1];x:y"),
    ("/ü", "/%C3%BC"),
    ("/a\\b", "/a%5Cb"),
    ("/?", "/?"),
    ("/?a=1&b=%zz", "/?a=1&b=%zz"),
    ("/?a=1;b=2", "/?a=1&b=2"),
    ("/?a=/../b", "/?a=/../b"),
    ("/?q=a+b%20c%2F", "/?q=a+b%20c%2F"),
    ("/?a?b?c", "/?a?b?c"),
    ("//", "/"),
    ("//host/x", "/host/x"),
];

#[test]
fn targets_reach_the_backend_in_normal_form() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for (sent, wanted) in TARGETS {
        gateway.get(sent).send().assert_status(200);
        assert_eq!(backend.last().target, *wanted, "{sent}");
    }
}

#[test]
fn targets_that_are_none_are_refused() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for target in ["/a%zz", "/a%", "/a%2", "nopath", "/a\u{1}b"] {
        gateway.get(target).send().assert_status(400);
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn a_fragment_is_cut_off_and_angle_brackets_are_refused() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.get("/a#/../secret").send().assert_status(200);
    assert_eq!(backend.last().target, "/a");
    gateway.get("/a<b>").send().assert_status(400);
}

#[test]
fn encoded_characters_can_be_refused() {
    let backend = Backend::start();
    let line = "http: {encodedCharacters: {allowEncodedSlash: false, allowEncodedNullCharacter: false}}";
    let gateway = gateway().to(&backend).web(line).run();
    for (target, status) in [
        ("/a%2Fb", 400),
        ("/a%2fb", 400),
        ("/a%00b", 400),
        ("/a%5Cb", 200),
        ("/a%25b", 200),
    ] {
        let reply = gateway.get(target).send();
        assert_eq!(reply.status, status, "{target}");
        assert!(status == 200 || reply.text().is_empty(), "{target}");
    }
}

#[test]
fn the_host_of_an_absolute_target_wins() {
    let (one, two) = (Backend::start(), Backend::start());
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers:\n    a: {{rule: \"Host(`abs.test`)\", service: a}}\n    b: {{rule: \"Host(`app.test`)\", \
             service: b}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n    b: \
             {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}\n",
            one.url(),
            two.url()
        ))
        .run();
    gateway.get("http://abs.test/x?y=1").send().assert_status(200);
    assert_eq!((one.count(), two.count()), (1, 0));
    assert_eq!(one.last().head.first, "GET /x?y=1 HTTP/1.1");
    assert_eq!(one.last().header("host"), Some("abs.test"));
    gateway.get("http://abs.test:81").send().assert_status(200);
    assert_eq!(one.last().target, "/");
}

#[test]
fn options_star_is_answered_by_the_gateway() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    gateway.request("OPTIONS", "*").send().assert_status(200);
    assert_eq!(backend.count(), 0);
}

#[test]
fn pass_host_header_and_preserve_path() {
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&format!(
            "http:\n  routers:\n    host: {{rule: \"PathPrefix(`/host`)\", service: host}}\n    path: {{rule: \
             \"PathPrefix(`/path`)\", service: path}}\n    plain: {{rule: \"PathPrefix(`/plain`)\", service: plain}}\n  \
             services:\n    host: {{loadBalancer: {{passHostHeader: false, servers: [{{url: \"{0}\"}}]}}}}\n    path: \
             {{loadBalancer: {{servers: [{{url: \"{0}/base\", preservePath: true}}]}}}}\n    plain: {{loadBalancer: \
             {{servers: [{{url: \"{0}/ignored\"}}]}}}}\n",
            backend.url()
        ))
        .run();
    gateway.get("/host").send().assert_status(200);
    assert_eq!(
        backend.last().header("host"),
        Some(backend.address().to_string().as_str())
    );
    assert_eq!(backend.last().header("x-forwarded-host"), Some("app.test"));
    gateway.get("/path/x").send().assert_status(200);
    assert_eq!(backend.last().target, "/base/path/x");
    gateway.get("/plain").send().assert_status(200);
    assert_eq!(backend.last().target, "/plain");
}

#[test]
fn methods_pass_as_they_are() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    for method in ["GET", "DELETE", "PATCH", "PUT", "OPTIONS", "PROPFIND", "CUSTOM"] {
        gateway.request(method, "/").send().assert_status(200);
        assert_eq!(backend.last().method, method);
    }
}

#[test]
fn early_hints_reach_an_http1_client() {
    let backend = Backend::answering(|_| {
        Answer::new(200)
            .interim("103 Early Hints\r\nLink: </a.css>; rel=preload")
            .body("ok")
    });
    let gateway = gateway().to(&backend).run();
    let reply = gateway.get("/").send();
    reply.assert_status(200).assert_body("ok");
    assert_eq!(reply.interim.len(), 1, "{reply:?}");
    assert_eq!(reply.interim[0].one("link"), Some("</a.css>; rel=preload"));
}

#[test]
fn connections_to_the_backend_are_kept() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    for _ in 0..20 {
        client.get("/").assert_status(200);
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_connection_is_kept_until_the_client_or_the_answer_closes_it() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    assert_eq!(client.get("/").header("connection"), None);
    client.get("/?close").assert_status(200).assert_body("hello");
    client.get("/").assert_status(200);
    let reply = client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .reply();
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(client.is_ended());
}

#[test]
fn http_1_0_clients_are_served() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    let reply = client.send("GET /a?chunked&n=3000 HTTP/1.0\r\nHost: a\r\n\r\n").reply();
    reply.assert_status(200);
    assert_eq!(reply.head.all("transfer-encoding"), Vec::<&str>::new());
    assert_eq!(reply.body.len, 3000);
    assert!(client.is_ended());
    assert_eq!(backend.last().version, "HTTP/1.1");
    let mut client = gateway.client();
    let keep = "GET /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(client.send(keep).reply().header("connection"), Some("keep-alive"));
    client.send(keep).reply().assert_status(200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let mut client = gateway.client();
    client.send("GET /?n=1 HTTP/1.1\r\nHost: a\r\n\r\nGET /?n=2 HTTP/1.1\r\nHost: a\r\n\r\nGET /?n=3 HTTP/1.1\r\nHost: a\r\n\r\n");
    for length in 1..=3 {
        assert_eq!(client.reply().body.len, length);
    }
}
