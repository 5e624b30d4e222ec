//! Certificates that arrive by themselves, from a real ACME authority.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::harness::certificate::Certificate;
use crate::harness::*;

const HTTP: &str = "httpChallenge: {entryPoint: web}";
const TLS: &str = "tlsChallenge: {}";

/// How long a certificate may take: the authority refuses some nonces, and is asked again after a pause.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway whose router for these hosts gets its certificate from `le`, and the folder of its storage.
fn setup(pebble: &Pebble, backend: &Backend, hosts: &[&str], challenge: &str) -> (gateway::Setup, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (with_storage(pebble, backend, hosts, challenge, &storage(&dir)), dir)
}

fn storage(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("acme.json")
}

fn with_storage(pebble: &Pebble, backend: &Backend, hosts: &[&str], challenge: &str, storage: &Path) -> gateway::Setup {
    gateway()
        .top(&pebble.resolver(storage, challenge))
        .dynamic(&routers(backend, hosts))
}

/// A router for these hosts, and one for everything in clear.
fn routers(backend: &Backend, hosts: &[&str]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("Host(`{host}`)")).collect();
    format!(
        "http:\n  routers:\n    r: {{rule: \"{}\", service: s, tls: {{certResolver: le}}}}\n    all: {{rule: \
         \"PathPrefix(`/`)\", service: s, priority: 9223372036854774807}}\n  services: {{s: {{loadBalancer: {{servers: \
         [{{url: \"{}\"}}]}}}}}}\n",
        hosts.join(" || "),
        backend.url()
    )
}

/// Issuer and names of the certificate that is shown for `name`.
fn shown(gateway: &Gateway, name: &str) -> (String, Vec<String>) {
    let client = gateway.tls(name).connect();
    let (_, certificate) = X509Certificate::from_der(client.certificate()).unwrap();
    let names = certificate.subject_alternative_name().unwrap();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let mut names: Vec<_> = names.map(ToString::to_string).collect();
    names.sort();
    (certificate.issuer().to_string(), names)
}

/// Waits until the certificate for `name` is the authority's.
#[track_caller]
fn assert_issued(gateway: &Gateway, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !shown(gateway, name).0.contains("Pebble") {
        assert!(
            Instant::now() < deadline,
            "no certificate for {name}:\n{}",
            gateway.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A request for `name` over TLS gets through.
#[track_caller]
fn assert_served(gateway: &Gateway, name: &str) {
    let mut client = gateway.tls(name).connect();
    client.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"));
    client.reply().assert_status(200);
}

fn read(storage: &Path) -> Value {
    serde_json::from_slice(&fs::read(storage).unwrap()).unwrap()
}

/// A storage as Traefik writes it, with one certificate.
fn traefik(storage: &Path, certificate: &Certificate, name: &str) {
    let text = json!({"le": {
        "Account": {"Email": "a@example.com", "PrivateKey": "AAAA", "KeyType": "4096"},
        "Certificates": [{
            "domain": {"main": name},
            "certificate": STANDARD.encode(&certificate.pem),
            "key": STANDARD.encode(&certificate.key),
            "Store": "default"
        }]
    }});
    fs::write(storage, text.to_string()).unwrap();
    fs::set_permissions(storage, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn http_01_wins_over_every_router_and_the_redirect_and_a_restart_asks_for_nothing() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let (setup, dir) = setup(&pebble, &backend, &["a.test", "b.test"], HTTP);
    let redirect = "http: {redirections: {entryPoint: {to: websecure}}}";
    let gateway = setup.web(redirect).run();
    pebble.start(&gateway);
    assert_issued(&gateway, "a.test");
    let (_, names) = shown(&gateway, "b.test");
    assert_eq!(names, ["DNSName(a.test)", "DNSName(b.test)"]);
    assert!(!shown(&gateway, "c.test").0.contains("Pebble"));
    assert_served(&gateway, "a.test");
    gateway
        .get("/.well-known/acme-challenge/unknown")
        .send()
        .assert_status(404);
    assert_eq!(
        gateway.metric(&["gantry_acme_orders_total", "resolver=\"le\"", "result=\"success\""]),
        Some(1.0)
    );
    assert!(gateway.metric(&["gantry_acme_next_attempt_timestamp_seconds", "domain=\"a.test,b.test\""]) > Some(1e9));
    assert!(gateway.metric(&["tls_certs_not_after", "sans=\"a.test,b.test\""]) > Some(1e9));
    let kept = read(&storage(&dir));
    assert_eq!(
        kept["le"]["Certificates"][0]["domain"],
        json!({"main": "a.test", "sans": ["b.test"]})
    );
    let mode = fs::metadata(storage(&dir)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let der = gateway.tls("a.test").connect().certificate().to_vec();
    let orders = pebble.orders();
    drop(gateway);
    let again = with_storage(&pebble, &backend, &["a.test", "b.test"], HTTP, &storage(&dir)).run();
    assert_eq!(
        again.tls("a.test").connect().certificate(),
        der,
        "from the first connection on"
    );
    // The same set of names in another order.
    again.reload(&routers(&backend, &["b.test", "a.test"]));
    assert_eq!(again.tls("a.test").connect().certificate(), der);
    assert_eq!(pebble.orders(), orders);
    assert_eq!(
        again.metric(&["gantry_acme_orders_total", "result=\"success\""]),
        Some(0.0)
    );
}

#[test]
fn tls_alpn_01_proves_a_name_and_a_failing_one_blocks_no_other() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let (setup, _dir) = setup(&pebble, &backend, &["a.test"], TLS);
    let gateway = setup.run();
    pebble.start(&gateway);
    assert_issued(&gateway, "a.test");
    assert_served(&gateway, "a.test");
    let plain = gateway.tls("a.test").offering(&["acme-tls/1"]).try_connect();
    assert!(plain.is_err(), "no proof waits");
    let more = "    bad: {rule: \"Host(`blocked.test`)\", service: s, tls: {certResolver: le}}\n    c: {rule: \
                \"Host(`c.test`)\", service: s, tls: {certResolver: le}}\n    all:";
    gateway.reload(&routers(&backend, &["a.test"]).replace("    all:", more));
    assert_issued(&gateway, "c.test");
    let failed = |log: String| {
        log.lines()
            .any(|line| line.contains("no certificate: ") && line.contains("names=blocked.test"))
    };
    assert_eventually!(failed(gateway.log()));
    assert_eq!(
        gateway.metric(&["gantry_acme_orders_total", "result=\"success\""]),
        Some(2.0)
    );
}

#[test]
fn the_default_certificate_may_be_a_generated_one() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let dir = tempfile::tempdir().unwrap();
    let store =
        "tls: {stores: {default: {defaultGeneratedCert: {resolver: le, domain: {main: a.test, sans: [b.test]}}}}}\n";
    let yaml = gateway::all_to(&[&backend.url()]).replace("service: s}", "service: s, tls: {}}") + store;
    let resolver = pebble.resolver(&storage(&dir), TLS);
    let gateway = gateway().top(&resolver).dynamic(&yaml).run();
    pebble.start(&gateway);
    assert_issued(&gateway, "other.test");
    assert_eq!(shown(&gateway, "other.test").1, ["DNSName(a.test)", "DNSName(b.test)"]);
}

#[test]
fn an_authority_that_is_down_delays_nothing_and_a_lost_account_is_made_again() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let (setup, dir) = setup(&pebble, &backend, &["a.test"], TLS);
    let gateway = setup.run();
    gateway.get("/").send().assert_status(200);
    assert_eventually!(gateway.log().contains("no certificate: "));
    let failures = || gateway.metric(&["gantry_acme_orders_total", "result=\"failure\""]);
    assert!(failures() >= Some(1.0));
    assert_eventually!(read(&storage(&dir))["le"]["Gantry"]["attempts"]["a.test"]["failures"].is_u64());
    pebble.start(&gateway);
    assert_issued(&gateway, "a.test");
    assert!(read(&storage(&dir))["le"]["Gantry"]["attempts"].is_null());
    let account = read(&storage(&dir))["le"]["Gantry"]["account"].clone();
    assert!(account["id"].is_string());

    pebble.stop();
    pebble.start(&gateway);
    let more = "    c: {rule: \"Host(`c.test`)\", service: s, tls: {certResolver: le}}\n    all:";
    gateway.reload(&routers(&backend, &["a.test"]).replace("    all:", more));
    assert_issued(&gateway, "c.test");
    assert_ne!(read(&storage(&dir))["le"]["Gantry"]["account"], account);
}

#[test]
fn a_renewal_fails_no_handshake() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let (setup, _dir) = setup(&pebble, &backend, &["a.test"], TLS);
    let gateway = setup.run();
    pebble.validity = 9;
    pebble.start(&gateway);
    assert_issued(&gateway, "a.test");
    let mut open = gateway.tls("a.test").connect();
    open.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .reply()
        .assert_status(200);
    let mut seen = vec![open.certificate().to_vec()];
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 3 {
        let now = gateway.tls("a.test").connect().certificate().to_vec();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        assert!(Instant::now() < deadline, "{}", gateway.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    open.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .reply()
        .assert_status(200);
    assert_eq!(
        gateway.metric(&["gantry_tls_handshakes_total", "result=\"failure\""]),
        Some(0.0)
    );
}

#[test]
fn a_storage_of_traefik_is_taken_over() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let dir = tempfile::tempdir().unwrap();
    let certificate = Certificate::of(&["a.test"]);
    traefik(&storage(&dir), &certificate, "a.test");
    let setup = with_storage(&pebble, &backend, &["a.test"], HTTP, &storage(&dir));
    let gateway = setup.run();
    assert_eq!(gateway.tls("a.test").connect().certificate(), certificate.der);
    pebble.start(&gateway);
    let more = "    c: {rule: \"Host(`c.test`)\", service: s, tls: {certResolver: le}}\n    all:";
    gateway.reload(&routers(&backend, &["a.test"]).replace("    all:", more));
    assert_issued(&gateway, "c.test");
    assert_eq!(gateway.tls("a.test").connect().certificate(), certificate.der);
    assert_eq!(pebble.orders(), 1);
    let kept = read(&storage(&dir));
    assert_eq!(kept["le"]["Account"]["PrivateKey"], "AAAA");
    assert_eq!(kept["le"]["Certificates"].as_array().unwrap().len(), 2);
    assert!(kept["le"]["Gantry"]["account"].is_object());
}

#[test]
fn a_storage_that_cannot_be_used_is_left_alone_and_the_rest_serves() {
    only_gantry!();
    let Some(pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    for (text, mode, expected) in [
        ("{\"le\": {", 0o600, "is damaged and stays as it is"),
        ("{}", 0o644, "chmod 600"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(storage(&dir), text).unwrap();
        fs::set_permissions(storage(&dir), fs::Permissions::from_mode(mode)).unwrap();
        let gateway = with_storage(&pebble, &backend, &["a.test"], HTTP, &storage(&dir)).run();
        assert!(gateway.log().contains(expected), "{}", gateway.log());
        gateway.get("/").send().assert_status(200);
        assert_served(&gateway, "a.test");
        assert_eq!(fs::read_to_string(storage(&dir)).unwrap(), text);
    }
}

#[test]
fn a_certificate_that_cannot_be_written_is_served_and_written_later() {
    only_gantry!();
    let Some(mut pebble) = Pebble::new() else { return };
    let backend = Backend::start();
    let outer = tempfile::tempdir().unwrap();
    let (here, away) = (outer.path().join("here"), outer.path().join("away"));
    fs::create_dir(&here).unwrap();
    let file = here.join("acme.json");
    let gateway = with_storage(&pebble, &backend, &["a.test"], TLS, &file).run();
    fs::rename(&here, &away).unwrap();
    pebble.start(&gateway);
    assert_issued(&gateway, "a.test");
    assert!(
        gateway.log().contains("keep certificates in memory for now"),
        "{}",
        gateway.log()
    );
    fs::rename(&away, &here).unwrap();
    assert_eventually!(read(&file)["le"]["Certificates"][0]["domain"]["main"] == "a.test");
}

#[test]
fn what_cannot_be_had_is_said() {
    only_gantry!();
    let backend = Backend::start();
    let two = "certificatesResolvers: {a: {acme: {tlsChallenge: {}}}, b: {acme: {tlsChallenge: {}}}}";
    let refused = gateway().to(&backend).top(two).try_run().unwrap_err();
    assert!(
        refused.log.contains("have one storage file: `acme.json`"),
        "{}",
        refused.log
    );
    let unknown = "certificatesResolvers: {a: {acme: {httpChallenge: {entryPoint: wep}}}}";
    let refused = gateway().to(&backend).top(unknown).try_run().unwrap_err();
    assert!(refused.log.contains("there is no entry point `wep`"), "{}", refused.log);
    assert!(refused.log.contains("did you mean `web`?"), "{}", refused.log);
    let yaml = "http:\n  routers:\n    w: {rule: \"Host(`*.a.test`)\", service: s, tls: {certResolver: le}}\n    u: \
                {rule: \"Host(`b.test`)\", service: s, tls: {certResolver: lee}}\n  services: {s: {loadBalancer: \
                {servers: [{url: \"http://127.0.0.1:9\"}]}}}\n";
    let one = "certificatesResolvers: {le: {acme: {caServer: \"https://127.0.0.1:9/dir\", tlsChallenge: {}}}}";
    let gateway = gateway().dynamic(yaml).top(one).run();
    for expected in [
        "wildcard name, which needs the DNS challenge",
        "there is no certificates resolver `lee`",
    ] {
        assert!(gateway.log().contains(expected), "{}", gateway.log());
    }
}
