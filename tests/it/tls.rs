//! TLS in front and behind.

use crate::harness::certificate::Certificate;
use crate::harness::h2::H2;
use crate::harness::*;

/// Everything goes to the backend over TLS, with certificates for these names.
fn setup(backend: &Backend, names: &[&str], more: &str) -> (gateway::Setup, Vec<Certificate>) {
    let setup = gateway();
    let mut yaml = gateway::all_to(&[&backend.url()]).replace("service: s}", "service: s, tls: {}}");
    yaml += "tls:\n";
    let mut certificates = Vec::new();
    if !names.is_empty() {
        yaml += "  certificates:\n";
    }
    for (i, name) in names.iter().enumerate() {
        let certificate = Certificate::of(&[name]);
        certificate.write(setup.dir(), &format!("c{i}"));
        yaml += &format!("    - {{certFile: \"{{dir}}/c{i}.pem\", keyFile: \"{{dir}}/c{i}.key\"}}\n");
        certificates.push(certificate);
    }
    yaml += more;
    (setup.dynamic(&yaml), certificates)
}

#[test]
fn the_certificate_that_fits_the_name_is_shown() {
    let backend = Backend::start();
    let (setup, certificates) = setup(&backend, &["a.test", "*.a.test", "x.a.test"], "");
    let gateway = setup.run();
    for (name, index) in [("a.test", 0), ("A.Test", 0), ("y.a.test", 1), ("x.a.test", 2)] {
        assert_eq!(
            gateway.tls(name).connect().certificate(),
            certificates[index].der,
            "{name}"
        );
    }
    for name in ["other.test", "z.y.a.test"] {
        let shown = gateway.tls(name).connect().certificate().to_vec();
        assert!(
            certificates.iter().all(|certificate| certificate.der != shown),
            "{name}: the default"
        );
    }
}

#[test]
fn without_a_certificate_a_self_signed_one_is_shown() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace("service: s}", "service: s, tls: {}}");
    let gateway = gateway().dynamic(&yaml).run();
    let mut client = gateway.tls("app.test").connect();
    assert!(!client.certificate().is_empty());
    client.get("/").assert_status(200);
    assert_eq!(backend.last().header("x-forwarded-proto"), Some("https"));
    assert_eq!(backend.last().header("x-forwarded-port"), Some("443"));
}

#[test]
fn the_default_certificate_is_shown_when_none_fits() {
    let backend = Backend::start();
    let certificate = Certificate::of(&["default.test"]);
    let more = "  stores: {default: {defaultCertificate: {certFile: \"{dir}/d.pem\", keyFile: \"{dir}/d.key\"}}}\n";
    let (setup, _) = setup(&backend, &["a.test"], more);
    certificate.write(setup.dir(), "d");
    let gateway = setup.run();
    assert_eq!(gateway.tls("other.test").connect().certificate(), certificate.der);
}

#[test]
fn routers_with_tls_answer_only_over_tls_and_others_only_in_clear() {
    let backend = Backend::start();
    let yaml = gateway::all_to(&[&backend.url()]).replace(
        "r: {rule: \"PathPrefix(`/`)\", service: s}",
        "t: {rule: \"Path(`/tls`)\", service: s, tls: {}}, c: {rule: \"Path(`/clear`)\", service: s}",
    );
    let gateway = gateway().dynamic(&yaml).run();
    gateway.get("/clear").send().assert_status(200);
    gateway.get("/tls").send().assert_status(404);
    let mut client = gateway.tls("app.test").connect();
    client.get("/tls").assert_status(200);
    client.get("/clear").assert_status(404);
}

#[test]
fn alpn_chooses_the_protocol() {
    let backend = Backend::start();
    let (setup, _) = setup(&backend, &["a.test"], "");
    let gateway = setup.run();
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"][..], Some("http/1.1")),
        (&[][..], None),
    ] {
        assert_eq!(
            gateway.tls("a.test").offering(offered).connect().protocol(),
            chosen,
            "{offered:?}"
        );
    }
    let mut h2 = H2::over(&gateway.tls("a.test").offering(&["h2"]));
    h2.get("/").assert_status(200).assert_body("hello");
    assert_eq!(backend.last().header("x-forwarded-proto"), Some("https"));
    assert!(gateway.tls("a.test").offering(&["spdy/3"]).try_connect().is_err());
}

#[test]
fn options_bound_versions_and_protocols() {
    let backend = Backend::start();
    let more = "  options: {default: {minVersion: VersionTLS13, alpnProtocols: [http/1.1]}}\n";
    let (setup, _) = setup(&backend, &["a.test"], more);
    let gateway = setup.run();
    assert!(
        gateway
            .tls("a.test")
            .version(&rustls::version::TLS12)
            .try_connect()
            .is_err()
    );
    let both = gateway
        .tls("a.test")
        .version(&rustls::version::TLS13)
        .offering(&["h2", "http/1.1"]);
    assert_eq!(both.connect().protocol(), Some("http/1.1"));
}

#[test]
fn tls_1_2_is_spoken_by_default() {
    let backend = Backend::start();
    let (setup, _) = setup(&backend, &["a.test"], "");
    let gateway = setup.run();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        gateway
            .tls("a.test")
            .version(version)
            .connect()
            .get("/")
            .assert_status(200);
    }
}

#[test]
fn options_by_name_count_for_their_host() {
    let backend = Backend::start();
    let setup = gateway();
    let yaml = format!(
        "http:\n  routers:\n    strict: {{rule: \"Host(`strict.test`)\", service: s, tls: {{options: strict}}}}\n    loose: \
         {{rule: \"Host(`loose.test`)\", service: s, tls: {{}}}}\n  services: {{s: {{loadBalancer: {{servers: [{{url: \
         \"{}\"}}]}}}}}}\ntls: {{options: {{strict: {{minVersion: VersionTLS13}}}}}}\n",
        backend.url()
    );
    let gateway = setup.dynamic(&yaml).run();
    let twelve = &rustls::version::TLS12;
    assert!(gateway.tls("strict.test").version(twelve).try_connect().is_err());
    let mut loose = gateway.tls("loose.test").version(twelve).connect();
    let reply = loose.send("GET / HTTP/1.1\r\nHost: strict.test\r\n\r\n").reply();
    reply.assert_status(421);
    loose
        .send("GET / HTTP/1.1\r\nHost: loose.test\r\n\r\n")
        .reply()
        .assert_status(200);
}

#[test]
fn an_entry_point_can_make_all_its_routers_tls() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).websecure("http: {tls: {}}").run();
    gateway.tls("app.test").connect().get("/").assert_status(200);
    gateway.get("/").send().assert_status(200);
}

#[test]
fn an_entry_point_can_redirect_to_another() {
    let backend = Backend::start();
    let gateway = gateway()
        .to(&backend)
        .web("http: {redirections: {entryPoint: {to: websecure}}}")
        .run();
    let port = gateway.websecure().port();
    for host in ["app.test", "app.test:8080"] {
        let reply = gateway.get("/x?y=1").host(host).send();
        reply.assert_status(301);
        assert_eq!(
            reply.header("location"),
            Some(format!("https://app.test:{port}/x?y=1").as_str())
        );
    }
    gateway.post("/x", "a").send().assert_status(308);
    assert_eq!(backend.count(), 0);
}

#[test]
fn certificates_are_exchanged_by_a_reload_and_open_connections_stay() {
    let backend = Backend::start();
    let (setup, certificates) = setup(&backend, &["a.test"], "");
    let old = certificates[0].der.clone();
    let gateway = setup.run();
    let mut open = gateway.tls("a.test").connect();
    assert_eq!(open.certificate(), old);
    let new = Certificate::of(&["a.test"]);
    new.write(gateway.dir(), "new");
    let yaml = gateway::all_to(&[&backend.url()]).replace("service: s}", "service: s, tls: {}}")
        + "tls: {certificates: [{certFile: \"{dir}/new.pem\", keyFile: \"{dir}/new.key\"}]}\n";
    gateway.reload(&yaml);
    assert_eventually!(gateway.tls("a.test").connect().certificate() == new.der);
    open.get("/").assert_status(200);
}

#[test]
fn a_renewed_certificate_file_is_noticed() {
    only_gantry!();
    let backend = Backend::start();
    let (setup, certificates) = setup(&backend, &["a.test"], "");
    let gateway = setup.run();
    assert_eq!(gateway.tls("a.test").connect().certificate(), certificates[0].der);
    let new = Certificate::of(&["a.test"]);
    gateway.write("c0.key", &new.key);
    gateway.write("c0.pem", &new.pem);
    assert_eventually!(gateway.tls("a.test").connect().certificate() == new.der);
}

#[test]
fn a_handshake_that_stalls_is_ended() {
    only_gantry!();
    let backend = Backend::start();
    let (setup, _) = setup(&backend, &["a.test"], "");
    let line = "transport: {respondingTimeouts: {headerTimeout: 400ms}}";
    let gateway = setup.websecure(line).run();
    let mut client = Client::connect(gateway.websecure());
    client.send(b"\x16\x03\x01\x02\x00\x01");
    // An alert may come before the end.
    while !client.is_ended() {}
    gateway.tls("a.test").connect().get("/").assert_status(200);
}

#[test]
fn https_backends_are_verified() {
    let certificate = Certificate::of(&["backend.test"]);
    let backend = h2::TlsBackend::start(&certificate);
    let setup = gateway();
    certificate.write(setup.dir(), "ca");
    let yaml = |keys: &str| {
        gateway::all_to(&[&backend.url()]).replace("loadBalancer: {", "loadBalancer: {serversTransport: t, ")
            + &format!("  serversTransports: {{t: {{{keys}}}}}\n")
    };
    let gateway = setup
        .dynamic(&yaml("serverName: backend.test, rootCAs: [\"{dir}/ca.pem\"]"))
        .run();
    gateway.get("/").send().assert_status(200).assert_body("over TLS");
    gateway.reload(&yaml("insecureSkipVerify: true"));
    assert_eventually!(gateway.get("/").send().status == 200);
    gateway.reload(&yaml("serverName: other.test, rootCAs: [\"{dir}/ca.pem\"]"));
    assert_eventually!(gateway.get("/").send().status >= 500);
    gateway.reload(&yaml("serverName: backend.test"));
    assert_eventually!(gateway.get("/").send().status >= 500);
    if gateway::is_gantry() {
        gateway.get("/").send().assert_status(502);
    }
}

#[test]
fn a_hello_that_comes_byte_by_byte_has_the_time_of_the_first_head() {
    only_gantry!();
    let backend = Backend::start();
    let (setup, _) = setup(&backend, &["a.test"], "");
    let line = "transport: {respondingTimeouts: {headerTimeout: 400ms}}";
    let gateway = setup.websecure(line).run();
    let mut client = Client::connect(gateway.websecure());
    client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    // Each byte comes in time; all of them together do not.
    let begin = std::time::Instant::now();
    while client.try_send(b"x").is_ok() {
        assert!(begin.elapsed() < DEADLINE);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let failed = "gantry_tls_handshakes_total{entrypoint=\"websecure\",result=\"failure\"} 1";
    assert_eventually!(gateway.admin("/metrics").text().contains(failed));
}

#[test]
fn a_client_that_says_nothing_after_its_handshake_is_ended() {
    only_gantry!();
    let backend = Backend::start();
    let (setup, _) = setup(&backend, &["a.test"], "");
    let line = "transport: {respondingTimeouts: {headerTimeout: 400ms}}";
    let gateway = setup.websecure(line).run();
    for offered in [&["http/1.1"][..], &["h2"]] {
        let mut client = gateway.tls("a.test").offering(offered).connect();
        while !client.is_ended() {}
    }
}
