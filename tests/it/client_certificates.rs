//! Certificates of clients: who may come in, and what a connection made without one reaches.

use crate::harness::certificate::{Authority, Certificate};
use crate::harness::client::Tls;
use crate::harness::h2::H2;
use crate::harness::*;

/// One router `NAME` for each `(rule, options)`, and the `tls` section.
fn routers(backend: &Backend, routers: &[(&str, &str)], options: &str) -> String {
    let mut yaml = String::from("http:\n  routers:\n");
    for (index, (rule, options)) in routers.iter().enumerate() {
        let tls = match *options {
            "" => String::new(),
            options => format!("options: {options}"),
        };
        yaml += &format!("    r{index}: {{rule: \"{rule}\", service: s, tls: {{{tls}}}}}\n");
    }
    yaml += &format!(
        "  services: {{s: {{loadBalancer: {{servers: [{{url: \"{}\"}}]}}}}}}\ntls:\n  options:\n{options}",
        backend.url()
    );
    yaml
}

/// Host `NAME.test` has the options `NAME`.
fn hosts(backend: &Backend, names: &[&str], options: &str) -> String {
    let rules: Vec<String> = names.iter().map(|name| format!("Host(`{name}.test`)")).collect();
    let pairs: Vec<(&str, &str)> = rules.iter().map(String::as_str).zip(names.iter().copied()).collect();
    routers(backend, &pairs, options)
}

const DEMANDING: &str = "    closed: {clientAuth: {caFiles: [\"{dir}/ca.pem\"]}}\n";

/// Whether a client is served. One whose handshake was just before a reload that asks for more is sent away by 421.
fn comes_in(client: Tls, host: &str) -> bool {
    match client.try_get(host, "/") {
        Ok(reply) => {
            assert!(matches!(reply.status, 200 | 421), "{}", reply.text());
            reply.status == 200
        }
        Err(_) => false,
    }
}

/// What follows the common name in the subject of each client: as Go writes it.
const REST: &str = r#"O=Clinic\, \"MRI\",C=DE,1.2.840.113549.1.9.1=#0c056140622e63"#;

#[test]
fn who_may_come_in() {
    let backend = Backend::start();
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let options = "    none: {clientAuth: {caFiles: [\"{dir}/ca.pem\"], clientAuthType: NoClientCert}}
    request: {clientAuth: {clientAuthType: RequestClientCert}}
    any: {clientAuth: {clientAuthType: RequireAnyClientCert}}
    given: {clientAuth: {caFiles: [\"{dir}/ca.pem\"], clientAuthType: VerifyClientCertIfGiven}}
    verify: {clientAuth: {caFiles: [\"{dir}/ca.pem\"], clientAuthType: RequireAndVerifyClientCert}}
    alone: {clientAuth: {caFiles: [\"{dir}/ca.pem\"]}}
";
    let names = ["none", "request", "any", "given", "verify", "alone"];
    let gateway = gateway()
        .file("ca.pem", &ca.pem)
        .top("accessLog: {format: json, filePath: \"{dir}/access.log\"}")
        .dynamic(&hosts(&backend, &names, options))
        .run();
    let shown = [None, Some(ca.client("scanner", 1)), Some(other.client("stranger", 1))];
    let mut expected = Vec::new();
    for (name, comes) in names.iter().zip(["+++", "+++", "-++", "++-", "-+-", "-+-"]) {
        for (certificate, comes) in shown.iter().zip(comes.chars()) {
            for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
                let host = format!("{name}.test");
                let mut client = gateway.tls(&host).version(version);
                if let Some(certificate) = certificate {
                    client = client.showing(certificate);
                }
                assert_eq!(comes_in(client, &host), comes == '+', "{name} {certificate:?}");
            }
        }
        let subjects = ["-", "scanner", "stranger"].into_iter().zip(comes.chars());
        for (subject, _) in subjects.filter(|(_, comes)| *comes == '+') {
            expected.push(match subject {
                "-" => format!("{name}.test -"),
                // It was not asked for.
                _ if *name == "none" => continue,
                _ => format!("{name}.test CN={subject},{REST}"),
            });
        }
    }
    expected.sort();
    let logged = || {
        let text = std::fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut lines: Vec<String> = lines
            .filter(|line| line["entryPointName"] == "websecure")
            .map(|line| {
                let subject = line["TLSClientSubject"].as_str().unwrap_or("-");
                format!("{} {subject}", line["RequestHost"].as_str().unwrap())
            })
            .collect();
        lines.sort();
        lines.dedup();
        lines
    };
    assert_eventually!(logged() == expected, "{:?}", logged());
}

#[test]
fn openssl_shows_its_certificate() {
    let backend = Backend::start();
    let ca = Authority::new("ca");
    let setup = gateway().file("ca.pem", &ca.pem);
    let certificate = ca.client("openssl", 7);
    certificate.write(setup.dir(), "client");
    let gateway = setup.dynamic(&hosts(&backend, &["closed"], DEMANDING)).run();
    let ask = |more: &[&str]| {
        use std::io::Write as _;
        let mut child = std::process::Command::new("openssl")
            .args(["s_client", "-connect", &gateway.websecure().to_string()])
            .args(["-servername", "closed.test", "-quiet", "-ign_eof"])
            .args(more)
            .current_dir(gateway.dir())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: closed.test\r\nConnection: close\r\n\r\n";
        let _refused = child.stdin.take().unwrap().write_all(request);
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let answer = ask(&[version, "-cert", "client.pem", "-key", "client.key"]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(ask(&[version]), "");
    }
}

#[test]
fn a_connection_without_a_certificate_reaches_no_host_that_demands_one() {
    let backend = Backend::start();
    let ca = Authority::new("ca");
    let client = ca.client("scanner", 1);
    let options = format!(
        "{DEMANDING}    open: {{sniStrict: false}}\n    ask: {{clientAuth: {{clientAuthType: RequireAnyClientCert}}}}\n"
    );
    let gateway = gateway()
        .file("ca.pem", &ca.pem)
        .dynamic(&hosts(&backend, &["closed", "open", "ask"], &options))
        .run();
    let mut open = gateway.tls("open.test").connect();
    for host in ["closed.test", "CLOSED.test.", "closed.test:443", "ask.test"] {
        open.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .reply()
            .assert_status(421);
    }
    open.send("GET http://closed.test/ HTTP/1.1\r\nHost: open.test\r\n\r\n")
        .reply()
        .assert_status(421);
    open.send("GET / HTTP/1.1\r\nHost: open.test\r\n\r\n")
        .reply()
        .assert_status(200);
    // Nor does one whose name is nobody's, or that of a host with other demands.
    let made_up = Certificate::of(&["made.up"]);
    for (name, host) in [
        ("nobody.test", "closed.test"),
        ("ask.test", "closed.test"),
        ("open.test", "ask.test"),
    ] {
        let reply = gateway.tls(name).showing(&made_up).try_get(host, "/").unwrap();
        reply.assert_status(421);
    }
    let mut h2 = H2::over(&gateway.tls("open.test").offering(&["h2"]));
    h2.get("https://closed.test/").assert_status(421);
    h2.get("https://open.test/").assert_status(200);
    assert_eq!(backend.count(), 2);
    let reply = gateway.tls("closed.test").showing(&client).try_get("closed.test", "/");
    reply.unwrap().assert_status(200);
}

#[test]
fn a_router_that_demands_one_is_not_reached_by_a_host_of_its_wildcard() {
    only_gantry!();
    let backend = Backend::start();
    let ca = Authority::new("ca");
    let client = ca.client("scanner", 1);
    let rules = [
        ("Host(`*.wild.test`)", "closed"),
        ("Host(`one.wild.test`) && PathPrefix(`/open`)", ""),
    ];
    let gateway = gateway()
        .file("ca.pem", &ca.pem)
        .dynamic(&routers(&backend, &rules, DEMANDING))
        .run();
    let status = |client: Tls, host: &str, target: &str| client.try_get(host, target).map(|reply| reply.status).ok();
    let one = || gateway.tls("one.wild.test");
    assert_eq!(status(one(), "one.wild.test", "/open"), Some(200));
    assert_eq!(status(one(), "one.wild.test", "/"), Some(421));
    assert_eq!(
        status(one().showing(&client), "one.wild.test", "/"),
        Some(421),
        "it was not asked"
    );
    let two = || gateway.tls("two.wild.test");
    assert_eq!(status(two(), "two.wild.test", "/"), None);
    assert_eq!(status(two().showing(&client), "two.wild.test", "/"), Some(200));
}

#[test]
fn a_router_whose_demand_is_lost_in_a_conflict_is_refused() {
    only_gantry!();
    let backend = Backend::start();
    let ca = Authority::new("ca");
    let rules = [
        ("Host(`x.test`) && PathPrefix(`/a`)", "closed"),
        ("Host(`x.test`) && PathPrefix(`/b`)", ""),
    ];
    let gateway = gateway()
        .file("ca.pem", &ca.pem)
        .dynamic(&routers(&backend, &rules, DEMANDING))
        .run();
    let mut client = gateway.tls("x.test").connect();
    for (target, status) in [("/a", 404), ("/b", 200)] {
        client
            .send(format!("GET {target} HTTP/1.1\r\nHost: x.test\r\n\r\n"))
            .reply()
            .assert_status(status);
    }
    assert!(
        gateway
            .log()
            .contains("client certificates of `closed` would not be asked for"),
        "{}",
        gateway.log()
    );
}

#[test]
fn default_options_with_an_error_open_nothing() {
    only_gantry!();
    let backend = Backend::start();
    for auth in [
        "{clientAuthType: RequireAndVerify}",
        "{clientAuthType: RequireAndVerifyClientCert}",
        "{caFiles: [\"{dir}/none.pem\"]}",
    ] {
        let options = format!("    default: {{clientAuth: {auth}}}\n    other: {{sniStrict: false}}\n");
        let rules = [
            ("Host(`a.test`)", ""),
            ("Host(`b.test`)", "other"),
            ("PathPrefix(`/admin/`)", ""),
        ];
        let gateway = gateway().dynamic(&routers(&backend, &rules, &options)).run();
        assert!(!comes_in(gateway.tls("a.test"), "a.test"), "{auth}");
        assert!(!comes_in(gateway.tls("nobody.test"), "a.test"), "{auth}");
        assert!(comes_in(gateway.tls("b.test"), "b.test"), "{auth}");
        gateway.tls("b.test").try_get("a.test", "/").unwrap().assert_status(421);
        // The longer rule wins at the host of the other options, and what it was to ask for is not known.
        let admin = gateway.tls("b.test").try_get("b.test", "/admin/");
        admin.unwrap().assert_status(421);
    }
}

#[test]
fn authorities_are_exchanged_and_open_connections_stay() {
    only_gantry!();
    let backend = Backend::start();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (of_old, of_new) = (old.client("a", 1), new.client("a", 1));
    let yaml = hosts(
        &backend,
        &["closed", "open"],
        &format!("{DEMANDING}    open: {{sniStrict: false}}\n"),
    );
    let gateway = gateway().file("ca.pem", &old.pem).dynamic(&yaml).run();
    let closed = |certificate| comes_in(gateway.tls("closed.test").showing(certificate), "closed.test");
    assert!(closed(&of_old) && !closed(&of_new));
    let mut open = gateway.tls("closed.test").showing(&of_old).connect();
    let mut ask = || open.send("GET / HTTP/1.1\r\nHost: closed.test\r\n\r\n").reply().status;
    assert_eq!(ask(), 200);

    gateway.write("ca.pem", &new.pem);
    assert_eventually!(closed(&of_new));
    assert!(!closed(&of_old));
    assert_eq!(ask(), 200, "the connection was not touched");

    gateway.write("ca.pem", "");
    assert_eventually!(!closed(&of_new));
    assert_eventually!(ask() == 421);
    assert!(comes_in(gateway.tls("open.test"), "open.test"));
    assert!(
        gateway.log().contains("there is no certificate in it"),
        "{}",
        gateway.log()
    );

    std::fs::remove_file(gateway.dir().join("ca.pem")).unwrap();
    assert_eventually!(gateway.log().contains("cannot read"));
    assert!(!closed(&of_new));
    gateway.write("ca.pem", &new.pem);
    assert_eventually!(closed(&of_new));
}

#[test]
fn a_certificate_is_revoked_while_gantry_runs() {
    only_gantry!();
    let backend = Backend::start();
    let ca = Authority::new("ca");
    let (kept, revoked) = (ca.client("kept", 1), ca.client("revoked", 2));
    let options = "    closed: {clientAuth: {caFiles: [\"{dir}/ca.pem\"], crlFiles: [\"{dir}/revoked.pem\"]}}\n";
    let gateway = gateway()
        .file("ca.pem", &ca.pem)
        .file("revoked.pem", &ca.revoked(&[]))
        .dynamic(&hosts(&backend, &["closed"], options))
        .run();
    let closed = |certificate| comes_in(gateway.tls("closed.test").showing(certificate), "closed.test");
    assert!(closed(&kept) && closed(&revoked));
    gateway.write("revoked.pem", &ca.revoked(&[2]));
    assert_eventually!(!closed(&revoked));
    assert!(closed(&kept));
}

#[test]
fn a_reload_that_begins_to_ask_leaves_no_way_around() {
    only_gantry!();
    let backend = Backend::start();
    let ca = Authority::new("ca");
    let client = ca.client("scanner", 1);
    let before = hosts(&backend, &["closed"], "    closed: {sniStrict: false}\n");
    let after = hosts(&backend, &["closed"], DEMANDING);
    let gateway = gateway().file("ca.pem", &ca.pem).dynamic(&before).run();
    let remembering: Vec<Tls> = [&rustls::version::TLS12, &rustls::version::TLS13]
        .map(|version| gateway.tls("closed.test").version(version).remembering())
        .into();
    for client in &remembering {
        client.clone().try_get("closed.test", "/").unwrap().assert_status(200);
        assert!(client.clone().connect().resumed());
    }
    let mut open = gateway.tls("closed.test").connect();
    let mut ask = || open.send("GET / HTTP/1.1\r\nHost: closed.test\r\n\r\n").reply().status;
    assert_eq!(ask(), 200);
    gateway.reload(&after);
    assert_eventually!(ask() == 421, "the connection is older than the demand");
    for client in remembering {
        assert!(!comes_in(client, "closed.test"));
    }
    assert!(comes_in(gateway.tls("closed.test").showing(&client), "closed.test"));
}
