//! The configuration changes under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::gateway::all_to;
use crate::harness::*;

#[test]
fn a_changed_file_is_served() {
    let (one, two) = (Backend::start(), Backend::start());
    let gateway = gateway().to(&one).run();
    gateway.get("/").send().assert_status(200);
    gateway.reload(&all_to(&[&two.url()]));
    gateway.get("/").send().assert_status(200);
    assert_eq!((one.count(), two.count()), (1, 1));
}

#[test]
fn a_bad_file_keeps_its_last_good_version_while_others_load() {
    let backend = Backend::start();
    let good = all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/a`)");
    let gateway = gateway().dynamic(&good).run();
    for bad in [
        good.replace("service: s}", "service: s, noSuchKey: 1}")
            .replace("/a", "/b"),
        good.replace("service: s}", "service: s, priority: high}")
            .replace("/a", "/b"),
        "http: {routers: [".to_owned(),
        "\tnot: yaml".to_owned(),
        "http:\n  routers: 5\n".to_owned(),
    ] {
        if gateway::is_gantry() {
            // The file that tells of readiness is another one, and is loaded.
            gateway.reload(&bad);
        } else {
            gateway.edit(&bad);
        }
        gateway.get("/a").send().assert_status(200);
        gateway.get("/b").send().assert_status(404);
    }
    gateway.reload(&good.replace("/a", "/c"));
    gateway.get("/a").send().assert_status(404);
    gateway.get("/c").send().assert_status(200);
}

#[test]
fn a_bad_file_is_told_with_its_place_and_counted() {
    only_gantry!();
    let backend = Backend::start();
    let good = all_to(&[&backend.url()]);
    let gateway = gateway().dynamic(&good).run();
    assert_eq!(gateway.metric(&["config_last_reload_successful"]), Some(1.0));
    gateway.reload(&good.replace("rule:", "rulle:"));
    assert_eventually!(gateway.metric(&["config_last_reload_successful"]) == Some(0.0));
    let log = gateway.log();
    assert!(
        log.contains("dynamic.yaml:2:") && log.contains("rulle") && log.contains("did you mean"),
        "{log}"
    );
    gateway.reload(&good);
    assert_eventually!(gateway.metric(&["config_last_reload_successful"]) == Some(1.0));
}

#[test]
fn an_empty_file_removes_everything_and_a_removed_file_too() {
    let backend = Backend::start();
    let good = all_to(&[&backend.url()]);
    let gateway = gateway().dynamic(&good).run();
    gateway.edit("");
    assert_eventually!(gateway.get("/").send().status == 404);
    gateway.reload(&good);
    assert_eventually!(gateway.get("/").send().status == 200);
    std::fs::remove_file(gateway.dir().join("conf/dynamic.yaml")).unwrap();
    assert_eventually!(gateway.get("/").send().status == 404);
}

#[test]
fn files_in_folders_below_are_read_and_watched() {
    let backend = Backend::start();
    let gateway = gateway().run();
    std::fs::create_dir_all(gateway.dir().join("conf/team/a")).unwrap();
    gateway.write("conf/team/a/routes.yml", &all_to(&[&backend.url()]));
    if gateway::is_gantry() {
        assert_eventually!(gateway.get("/").send().status == 200);
    }
    gateway.reload("");
    gateway.get("/").send().assert_status(200);
}

#[test]
fn sighup_reads_again_and_does_not_kill() {
    let backend = Backend::start();
    let mut gateway = gateway().to(&backend).without_watch().run();
    gateway.edit(&all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/new`)"));
    gateway.get("/old").send().assert_status(200);
    gateway.signal("HUP");
    assert_eventually!(gateway.get("/old").send().status == 404);
    gateway.get("/new").send().assert_status(200);
    assert!(gateway.is_alive());
}

#[test]
fn without_watch_changes_are_ignored() {
    let backend = Backend::start();
    let gateway = gateway().to(&backend).without_watch().run();
    gateway.edit(&all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "Path(`/new`)"));
    for _ in 0..20 {
        gateway.get("/old").send().assert_status(200);
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
}

#[test]
fn reloads_under_load_cost_no_request() {
    let backends = [Backend::start(), Backend::start()];
    let urls = [backends[0].url(), backends[1].url()];
    let version = |i: usize| {
        let yaml = all_to(&[&urls[0], &urls[1]]);
        yaml.replace("service: s}", &format!("service: s, priority: {}}}", 10 + i % 7))
    };
    let gateway = gateway().dynamic(&version(0)).run();
    let (done, requests, failed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for new_connections in [false, true, false] {
            let (gateway, done, requests, failed) = (&gateway, &done, &requests, &failed);
            scope.spawn(move || {
                let mut client = gateway.client();
                while !done.load(Ordering::SeqCst) {
                    if new_connections {
                        client = gateway.client();
                    }
                    let sent =
                        client.try_send("POST /?n=2000 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello");
                    let whole = sent
                        .and_then(|()| client.try_reply("POST"))
                        .is_ok_and(|r| r.status == 200 && r.whole);
                    requests.fetch_add(1, Ordering::SeqCst);
                    if !whole {
                        failed.fetch_add(1, Ordering::SeqCst);
                        client = gateway.client();
                    }
                }
            });
        }
        for i in 1..=15 {
            gateway.reload(&version(i));
        }
        done.store(true, Ordering::SeqCst);
    });
    let (requests, failed) = (requests.into_inner(), failed.into_inner());
    assert_eq!(failed, 0, "of {requests}");
    assert!(requests > 30, "{requests}");
    let (one, two) = (backends[0].count(), backends[1].count());
    assert_eq!(one + two, requests);
    if gateway::is_gantry() {
        assert!(one.abs_diff(two) <= 1, "reloads moved the round robin: {one}, {two}");
    }
}

#[test]
fn a_request_in_flight_ends_by_the_configuration_that_it_began_with() {
    let (one, two) = (Backend::start(), Backend::start());
    let gateway = gateway().to(&one).run();
    let mut client = gateway.client();
    client.send("GET /?delay=1500&n=100000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eventually!(one.count() == 1);
    gateway.reload(&all_to(&[&two.url()]));
    gateway.get("/").send().assert_status(200);
    assert_eq!(two.count(), 1);
    let reply = client.reply();
    reply.assert_status(200);
    assert!(reply.whole && reply.body.len == 100_000);
}

#[test]
fn connections_to_the_backend_survive_a_reload() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = all_to(&[&backend.url()]);
    let gateway = gateway().dynamic(&yaml).run();
    let mut client = gateway.client();
    for i in 0..5 {
        client.get("/").assert_status(200);
        gateway.reload(&yaml.replace("service: s}", &format!("service: s, priority: {}}}", 10 + i)));
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_half_written_file_is_not_served() {
    use std::io::Write as _;
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().to(&backend).run();
    let yaml = all_to(&[&backend.url()]).replace("PathPrefix(`/`)", "PathPrefix(`/`) || Path(`/x`)");
    let mut file = std::fs::File::create(gateway.dir().join("conf/dynamic.yaml")).unwrap();
    // Cut behind a line, so that it parses and has no service.
    let cut = yaml.find("  services").unwrap();
    file.write_all(&yaml.as_bytes()[..cut]).unwrap();
    for _ in 0..20 {
        gateway.get("/").send().assert_status(200);
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    file.write_all(&yaml.as_bytes()[cut..]).unwrap();
    drop(file);
    gateway.reload(&yaml);
    gateway.get("/").send().assert_status(200);
}
