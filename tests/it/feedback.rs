//! `POST /feedback/{request-id}`: accuracy from somebody who knows the truth. Traefik has none of it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use gantry::imaging::nifti::{Geometry, Voxels, encode};
use serde_json::Value;

use crate::harness::*;

const TOKEN: &str = "a-token-of-the-radiology";

/// A gateway that takes feedback; everything goes to a model at `url`, `more` stands beside its name.
fn setup(url: &str, more: &str) -> gateway::Setup {
    let setup = gateway()
        .dynamic(&model(url, more))
        .file("token", &format!("{TOKEN}\n"));
    let token = setup.dir().join("token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    setup.top(&format!("feedback: {{tokenFile: {}}}", token.display()))
}

fn model(url: &str, more: &str) -> String {
    let service = format!("{{s: {{model: {{name: seg, version: \"1\"}}, {more} loadBalancer");
    gateway::all_to(&[url]).replace("{s: {loadBalancer", &service)
}

fn mask(size: [usize; 3], labels: &[u8], gzip: bool) -> Vec<u8> {
    encode(
        &Geometry::centred(size, [1.0; 3]),
        "a mask",
        Voxels::Uint8(labels),
        gzip,
    )
    .unwrap()
}

/// A model that answers `bytes`.
fn answering(bytes: Vec<u8>) -> Backend {
    let kind = "application/octet-stream";
    Backend::answering(move |_| Answer::new(200).header("Content-Type", kind).body(bytes.clone()))
}

/// Asks the model and gives the id of the answer.
fn ask(gateway: &Gateway) -> String {
    let reply = gateway.post("/segment", "a head").send();
    reply.assert_status(200);
    reply.header("x-request-id").expect("an id").to_owned()
}

fn tell(gateway: &Gateway, id: &str) -> client::Request {
    let target = format!("/feedback/{id}");
    client::Request::new(gateway.admin_address(), "POST", &target).header("Authorization", &format!("Bearer {TOKEN}"))
}

fn json(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body.bytes).unwrap_or_else(|e| panic!("{e}: {}", reply.text()))
}

fn accuracy(gateway: &Gateway, label: &str) -> Option<f64> {
    let label = format!("label=\"{label}\"");
    gateway.metric(&["model_accuracy{", "source=\"feedback\"", &label])
}

fn results(gateway: &Gateway, result: &str) -> Option<f64> {
    let result = format!("result=\"{result}\"");
    gateway.metric(&["gantry_feedback_requests_total{", &result])
}

#[test]
fn scores_count_once_for_an_answer() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = setup(&backend.url(), "").run();
    let id = ask(&gateway);
    assert_eq!(backend.last().header("x-request-id"), Some(id.as_str()));
    let reply = tell(&gateway, &id).body(r#"{"score": 0.75}"#).send();
    reply.assert_status(200);
    let expected = serde_json::json!({"model": "seg", "version": "1", "counted": ["dice"], "already": []});
    assert_eq!(json(&reply), expected);
    assert_eq!(accuracy(&gateway, "dice"), Some(0.75));
    // A sender that did not see the answer sends again.
    let again = tell(&gateway, &id)
        .header("Content-Type", "application/json")
        .body(r#"{"scores": {"dice": 0.25, "iou": 0.5}}"#)
        .send();
    assert_eq!(json(&again)["counted"], serde_json::json!(["iou"]));
    assert_eq!(json(&again)["already"], serde_json::json!(["dice"]));
    assert_eq!(accuracy(&gateway, "dice"), Some(0.75));
    assert_eq!(accuracy(&gateway, "iou"), Some(0.5));
    // Another answer is another sample; the client has an id of its own.
    let reply = gateway.post("/", "x").header("X-Request-Id", "theirs").send();
    assert_eq!(backend.last().header("x-request-id"), Some("theirs"));
    let id = reply.header("x-gantry-request-id").expect("an id").to_owned();
    tell(&gateway, &id).body(r#"{"score": 0.25}"#).send().assert_status(200);
    assert_eq!(accuracy(&gateway, "dice"), Some(0.5));
    assert_eq!(gateway.metric(&["model_feedback_total{", "kind=\"score\""]), Some(3.0));
    assert_eq!(results(&gateway, "accepted"), Some(3.0));
}

#[test]
fn an_answer_that_is_not_whole_cannot_be_judged() {
    only_gantry!();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\nhalf ";
    let backend = Scripted::answering_once(head);
    let gateway = setup(&backend.url(), "").run();
    let mut client = gateway.client();
    client.send("GET /segment HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut begun = String::new();
    while !begun.ends_with("\r\n\r\n") {
        begun += &client.read(1);
    }
    let id = begun.lines().find_map(|line| line.strip_prefix("x-request-id: "));
    let id = id.unwrap_or_else(|| panic!("no id: {begun}"));
    tell(&gateway, id).body("{\"score\": 0.1}").send().assert_status(404);
    assert_eq!(accuracy(&gateway, "dice"), None);
}

#[test]
fn who_has_no_token_learns_nothing() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = setup(&backend.url(), "").run();
    let id = ask(&gateway);
    let send = |value: Option<&str>| {
        let request = client::Request::new(gateway.admin_address(), "POST", &format!("/feedback/{id}"));
        let request = match value {
            Some(value) => request.header("Authorization", value),
            None => request,
        };
        request.body(r#"{"score": 0.1}"#).send()
    };
    let wrong = [
        "Bearer",
        "Bearer ",
        "Bearer a-token-of-the-radiolog",
        "Bearer a-token-of-the-radiology2",
        "Basic Og==",
        TOKEN,
    ];
    for value in [None].into_iter().chain(wrong.map(Some)) {
        let reply = send(value);
        assert_eq!(reply.status, 401, "{value:?}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"gantry\""));
    }
    assert_eq!(results(&gateway, "unauthorized"), Some(7.0));
    assert_eq!(accuracy(&gateway, "dice"), None);
    send(Some(&format!("bearer {TOKEN}"))).assert_status(200);
    // A new token holds once its file is there; a broken one leaves the last good one.
    let later = "another-token-of-the-radiology";
    gateway.write("token", later);
    assert_eventually!(send(Some(&format!("Bearer {later}"))).status == 200);
    send(Some(&format!("Bearer {TOKEN}"))).assert_status(401);
    gateway.write("token", "short");
    assert_eventually!(
        gateway
            .log()
            .contains("16 characters; the last good token stays in force")
    );
    send(Some(&format!("Bearer {later}"))).assert_status(200);
}

#[test]
fn without_a_token_nothing_starts() {
    only_gantry!();
    let backend = Backend::start();
    for (text, why) in [
        (None, "No such file"),
        (Some("short\n"), "no token of at least 16 characters"),
    ] {
        let mut setup = gateway().to(&backend);
        if let Some(text) = text {
            setup = setup.file("token", text);
        }
        let file = setup.dir().join("token");
        let refused = setup
            .top(&format!("feedback: {{tokenFile: {}}}", file.display()))
            .try_run()
            .err();
        let log = refused.expect("it does not start").log;
        assert!(log.contains(why) && log.contains("feedback: {tokenFile:"), "{log}");
    }
}

#[test]
fn a_true_mask_is_compared_with_the_kept_one() {
    only_gantry!();
    const SIZE: [usize; 3] = [2, 2, 2];
    for gzip in [false, true] {
        let backend = answering(mask(SIZE, &[0, 1, 1, 1, 2, 2, 0, 0], gzip));
        let gateway = setup(&backend.url(), "keepMasks: {maxBytes: 1MiB, for: 1h},").run();
        let id = ask(&gateway);
        assert_eventually!(gateway.metric(&["model_masks_kept{"]) == Some(1.0));
        let truth = mask(SIZE, &[0, 1, 1, 0, 2, 0, 2, 3], !gzip);
        let reply = tell(&gateway, &id)
            .header("Content-Type", "application/octet-stream")
            .body(truth.clone())
            .send();
        reply.assert_status(200);
        // 1: 2·2/(3+2); 2: 2·1/(2+2); 3 is only in the truth: 0.
        let found = json(&reply);
        let dice = |label: &str| found["dice"]["labels"][label]["dice"].as_f64();
        assert_eq!(
            [dice("1"), dice("2"), dice("3")],
            [Some(0.8), Some(0.5), Some(0.0)],
            "{found}"
        );
        let mean = (0.8 + 0.5 + 0.0) / 3.0;
        let near = |value: Option<f64>| value.is_some_and(|value| (value - mean).abs() < 1e-12);
        assert!(near(found["dice"]["mean"].as_f64()), "{found}");
        assert!(near(accuracy(&gateway, "dice")));
        assert_eq!(accuracy(&gateway, "dice_2"), Some(0.5));
        assert_eq!(gateway.metric(&["model_feedback_total{", "kind=\"mask\""]), Some(1.0));
        // As curl sends it, and again: it counts once.
        let again = tell(&gateway, &id)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(truth)
            .send();
        assert_eq!(
            json(&again)["already"].as_array().map(Vec::len),
            Some(4),
            "{}",
            again.text()
        );
        assert_eq!(gateway.metric(&["model_feedback_total{", "kind=\"mask\""]), Some(1.0));
    }
}

#[test]
fn masks_of_more_labels_than_there_are_series_still_have_their_mean() {
    only_gantry!();
    let labels = |from: u8| (from..from + 32).collect::<Vec<u8>>();
    let backend = Backend::start();
    let gateway = setup(&backend.url(), "keepMasks: {},").run();
    for from in [1, 101, 201] {
        let answer = mask([32, 1, 1], &labels(from), true);
        let truth = answer.clone();
        backend.set(move |_| Answer::new(200).body(answer.clone()));
        let reply = tell(&gateway, &ask(&gateway)).body(truth).send();
        reply.assert_status(200);
        let counted = json(&reply)["counted"].as_array().map(Vec::len);
        assert_eq!(counted, Some(if from == 1 { 33 } else { 1 }), "{}", reply.text());
    }
    assert_eq!(gateway.metric(&["model_feedback_total{", "kind=\"mask\""]), Some(3.0));
    let samples = ["model_accuracy_samples_count{", "source=\"feedback\"", "label=\"dice\""];
    assert_eq!(gateway.metric(&samples), Some(3.0));
}

#[test]
fn a_folder_that_cannot_be_written_is_told_of_and_costs_no_answer() {
    only_gantry!();
    let backend = answering(mask([2, 1, 1], &[0, 1], true));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let keep = format!("keepMasks: {{dir: {}}},", file.join("masks").display());
    let gateway = setup(&backend.url(), &keep).run();
    let log = gateway.log();
    assert!(log.contains("no mask can be kept: cannot make the folder"), "{log}");
    let send = || {
        tell(&gateway, &ask(&gateway))
            .body(mask([2, 1, 1], &[0, 1], true))
            .send()
    };
    send().assert_status(409);
    let dropped = ["model_masks_dropped_total{", "reason=\"io\""];
    assert_eq!(gateway.metric(&dropped), Some(1.0));
    // Mended without a reload.
    std::fs::remove_file(&file).unwrap();
    send().assert_status(200);
}

#[test]
fn two_empty_masks_are_counted_apart() {
    only_gantry!();
    let backend = answering(mask([2, 1, 1], &[0, 0], true));
    let gateway = setup(&backend.url(), "keepMasks: {},").run();
    let id = ask(&gateway);
    let reply = tell(&gateway, &id).body(mask([2, 1, 1], &[0, 0], true)).send();
    reply.assert_status(200);
    assert_eq!(
        (&json(&reply)["both_empty"], &json(&reply)["dice"]["mean"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(
        gateway.metric(&["model_feedback_both_empty_total{", "label=\"dice\""]),
        Some(1.0)
    );
    assert_eq!(accuracy(&gateway, "dice"), None);
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    only_gantry!();
    const OCTETS: &str = "application/octet-stream";
    let backend = answering(mask([2, 2, 1], &[0, 1, 1, 1], true));
    let gateway = setup(&backend.url(), "keepMasks: {},").run();
    let id = ask(&gateway);
    let good = mask([2, 2, 1], &[0, 1, 1, 1], true);
    let other = mask([2, 1, 2], &[0, 1, 1, 1], true);
    let mut moved = Geometry::centred([2, 2, 1], [1.0; 3]);
    moved.sform[0][3] += 3.0;
    let moved = encode(&moved, "", Voxels::Uint8(&[0, 1, 1, 1]), true).unwrap();
    let zeros = vec![0; 600 << 20];
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    let head = mask([2, 2, 1], &[0, 1, 1, 1], false);
    bomb.write_all(&head).unwrap();
    bomb.write_all(&zeros).unwrap();
    let bomb = bomb.finish().unwrap();
    // 1024 x 1024 x 200 voxels, says the header.
    let mut vast = head;
    for (at, extent) in [(42, 1024_i16), (44, 1024), (46, 200)] {
        vast[at..at + 2].copy_from_slice(&extent.to_le_bytes());
    }
    let mut wide = GzEncoder::new(Vec::new(), Compression::fast());
    wide.write_all(&vast).unwrap();
    wide.write_all(&zeros).unwrap();
    let wide = wide.finish().unwrap();
    let half = encode(
        &Geometry::centred([2, 2, 1], [1.0; 3]),
        "",
        Voxels::Float32(&[0.0, 0.5, 1.0, 1.0]),
        true,
    )
    .unwrap();
    let many = format!(
        "{{\"scores\": {{{}}}}}",
        (0..17).map(|i| format!("\"l{i}\": 1")).collect::<Vec<_>>().join(",")
    );
    let cases: Vec<(&str, &str, Vec<u8>, u16, &str)> = vec![
        (&id, "application/json", b"{\"score\": ".to_vec(), 400, "malformed"),
        (&id, "application/json", b"{\"score\": 7}".to_vec(), 422, "malformed"),
        (&id, "application/json", many.into_bytes(), 422, "malformed"),
        (&id, "application/json", vec![b' '; 65 << 10], 413, "too_large"),
        (&id, "text/csv", b"0.9".to_vec(), 415, "malformed"),
        (&id, OCTETS, other, 422, "geometry"),
        (&id, OCTETS, moved, 422, "geometry"),
        (&id, OCTETS, half, 422, "malformed"),
        (&id, OCTETS, good[..good.len() / 2].to_vec(), 422, "malformed"),
        (&id, OCTETS, bomb, 422, "malformed"),
        (&id, OCTETS, wide, 413, "too_large"),
        (&id, OCTETS, b"no mask at all".to_vec(), 422, "malformed"),
        (&id, OCTETS, Vec::new(), 422, "malformed"),
        (
            "0198c0de-6f2a-7a30-8d4b-5a1c3e9f7b21",
            OCTETS,
            good.clone(),
            404,
            "unknown",
        ),
        ("a/b", OCTETS, good.clone(), 400, "malformed"),
        ("seventeen", OCTETS, good.clone(), 400, "malformed"),
    ];
    let before = gateway.resident();
    for (id, kind, body, status, result) in cases {
        let size = body.len();
        let count = || results(&gateway, result).unwrap_or_default();
        let counted = count();
        let reply = tell(&gateway, id).header("Content-Type", kind).body(body).send();
        assert_eq!(reply.status, status, "{kind}, {size} bytes: {}", reply.text());
        assert!(!json(&reply)["error"].as_str().unwrap().is_empty());
        assert_eq!(count(), counted + 1.0, "{result}: {}", reply.text());
    }
    assert!(gateway.resident() < before + (64 << 20), "a bomb is not inflated");
    let reply = client::Request::new(gateway.admin_address(), "GET", &format!("/feedback/{id}"))
        .header("Authorization", &format!("Bearer {TOKEN}"))
        .send();
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    assert_eq!(accuracy(&gateway, "dice"), None, "nothing of all this counts");
    tell(&gateway, &id).body(good).send().assert_status(200);
    assert_eq!(accuracy(&gateway, "dice"), Some(1.0));
    let log = gateway.log();
    assert!(!log.contains(&id), "no id is logged");
}

#[test]
fn masks_are_kept_as_the_configuration_says() {
    only_gantry!();
    let truth = || mask([2, 1, 1], &[0, 1], true);
    let backend = answering(truth());
    let folder = tempfile::tempdir().unwrap();
    let keep = format!("keepMasks: {{for: 1h, dir: {}}},", folder.path().display());
    let files = || {
        let folders = std::fs::read_dir(folder.path()).unwrap().flatten();
        folders
            .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten())
            .count()
    };
    let gateway = setup(&backend.url(), "").run();
    // Not at all.
    let id = ask(&gateway);
    let reply = tell(&gateway, &id).body(truth()).send();
    reply.assert_status(409);
    assert_eq!(results(&gateway, "no_mask"), Some(1.0));
    // On disk, for Gantry alone.
    gateway.reload(&model(&backend.url(), &keep));
    let id = ask(&gateway);
    assert_eventually!(gateway.metric(&["model_masks_kept{"]) == Some(1.0));
    assert_eq!(files(), 1);
    let entry = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&entry), 0o700);
    let file = std::fs::read_dir(&entry).unwrap().flatten().next().unwrap().path();
    assert_eq!(mode(&file), 0o600);
    // A reload that changes something else leaves it.
    gateway.reload(&(model(&backend.url(), &keep) + "\n# later\n").replace("for: 1h", "for: 2h"));
    tell(&gateway, &id).body(truth()).send().assert_status(200);
    // And one that takes `keepMasks` out removes it.
    gateway.reload(&model(&backend.url(), ""));
    assert_eventually!(files() == 0);
    tell(&gateway, &id).body(truth()).send().assert_status(409);
    // One whose time is over goes by itself.
    gateway.reload(&model(&backend.url(), &keep.replace("for: 1h", "for: 1ms")));
    ask(&gateway);
    assert_eventually!(gateway.metric(&["model_masks_kept{"]) == Some(0.0) && files() == 0);
}

#[test]
fn masks_on_disk_outlive_the_process() {
    only_gantry!();
    let truth = mask([2, 1, 1], &[0, 1], true);
    let backend = answering(truth.clone());
    let folder = tempfile::tempdir().unwrap();
    let keep = format!("keepMasks: {{for: 1h, dir: {}}},", folder.path().display());
    let mut first = setup(&backend.url(), &keep).run();
    let id = ask(&first);
    first.signal("TERM");
    assert!(first.wait().success());
    let second = setup(&backend.url(), &keep).run();
    assert_eventually!(second.metric(&["model_masks_kept{"]) == Some(1.0));
    tell(&second, &id).body(truth).send().assert_status(200);
    assert_eq!(accuracy(&second, "dice"), Some(1.0));
}

#[test]
fn a_version_that_went_takes_no_feedback() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = setup(&backend.url(), "").run();
    let id = ask(&gateway);
    gateway.reload(&model(&backend.url(), "").replace("version: \"1\"", "version: \"2\""));
    tell(&gateway, &id).body(r#"{"score": 1}"#).send().assert_status(410);
    gateway.reload(&model(&backend.url(), ""));
    tell(&gateway, &id).body(r#"{"score": 1}"#).send().assert_status(200);
}
