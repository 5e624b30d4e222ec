//! What Gantry reads of requests to models and of their answers: accuracy from headers, trailers and JSON, stages, voxels,
//! and the id of a request. Traefik has none of it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::harness::h2::H2Backend;
use crate::harness::*;

/// Everything goes to a model at `url`; `more` stands beside its name.
fn model(url: &str, more: &str) -> String {
    let service = format!("{{s: {{model: {{name: seg, version: \"1\"}}, {more} loadBalancer");
    gateway::all_to(&[url]).replace("{s: {loadBalancer", &service)
}

/// The value of a series of the model.
fn value(gateway: &Gateway, name: &str, more: &[&str]) -> Option<f64> {
    let parts: Vec<_> = [name, "service=\"s@file\""].iter().chain(more).copied().collect();
    gateway.metric(&parts)
}

fn accuracy(gateway: &Gateway, label: &str) -> Option<f64> {
    let label = format!("label=\"{label}\"");
    value(gateway, "model_accuracy{", &["source=\"reported\"", &label])
}

fn rejected(gateway: &Gateway, why: &str) -> Option<f64> {
    let why = format!("reason=\"{why}\"");
    value(
        gateway,
        "model_accuracy_rejected_total{",
        &["source=\"reported\"", &why],
    )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const DICE: &str = "accuracy: [{from: trailer, name: X-Model-Dice, label: dice}], \
                    confidence: [{from: trailer, name: X-Model-Sure, label: dice}],";

#[test]
fn trailers_over_http1_are_samples_whether_the_client_gets_them_or_not() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().dynamic(&model(&backend.url(), DICE)).run();
    let target = "/?chunked&trailer=X-Model-Dice:0.75&trailer=X-Model-Sure:0.5";
    let reply = gateway.get(target).send();
    reply.assert_status(200).assert_body("hello");
    assert!(reply.body.trailers.is_empty(), "the client did not ask for any");
    assert_eq!(backend.last().header("te"), Some("trailers"));
    assert_eventually!(accuracy(&gateway, "dice") == Some(0.75));
    assert_eq!(value(&gateway, "model_confidence{", &["label=\"dice\""]), Some(0.5));
    // What is no answer of the model says nothing of it.
    gateway
        .get("/?chunked&status=500&trailer=X-Model-Dice:0.1")
        .send()
        .assert_status(500);
    gateway.get("/?chunked&trailer=X-Model-Dice:high").send();
    assert_eventually!(rejected(&gateway, "not_a_number") == Some(1.0));
    assert_eq!(accuracy(&gateway, "dice"), Some(0.75));
}

#[test]
fn trailers_over_http2_are_samples_and_reach_the_client() {
    only_gantry!();
    let backend = H2Backend::start();
    let gateway = gateway().dynamic(&model(&backend.url(), DICE)).run();
    let reply = gateway.h2().get("/?chunked&trailer=x-model-dice:0.75");
    reply.assert_status(200).assert_body("hello");
    assert_eq!(reply.body.trailers, [("x-model-dice".to_owned(), "0.75".to_owned())]);
    assert_eventually!(accuracy(&gateway, "dice") == Some(0.75));
    gateway
        .get("/?chunked&trailer=x-model-dice:0.25")
        .send()
        .assert_status(200);
    assert_eventually!(accuracy(&gateway, "dice") == Some(0.5));
}

const REPORT: &str = "accuracy: [{from: json, pointer: /m/dice, part: report, maxBytes: 4KiB, label: dice}],";

#[test]
fn json_bodies_are_samples_in_every_form() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway().dynamic(&model(&backend.url(), REPORT)).run();
    let answer = |form, coding: &'static str, body: Vec<u8>| {
        backend.set(move |_| {
            let mut answer = Answer::new(200)
                .header("Content-Type", "application/json")
                .body(body.clone());
            if !coding.is_empty() {
                answer = answer.header("Content-Encoding", coding);
            }
            answer.form = form;
            answer
        });
    };
    let text = br#"{"m": {"dice": 0.5}}"#.to_vec();
    let mut samples = 0.0;
    for form in [backend::Form::Length, backend::Form::Chunked, backend::Form::Close] {
        for coding in ["", "gzip"] {
            let body = if coding.is_empty() { text.clone() } else { gzip(&text) };
            answer(form, coding, body.clone());
            assert_eq!(gateway.get("/").send().body.bytes, body, "{form:?} {coding}");
            samples += 1.0;
            assert_eventually!(value(&gateway, "model_accuracy_samples_count{", &[]) == Some(samples));
        }
    }
    // A bomb reaches the client as it is, and nothing else.
    let bomb = gzip(&vec![b' '; 100 << 20]);
    answer(backend::Form::Length, "gzip", bomb.clone());
    let before = gateway.resident();
    assert_eq!(gateway.get("/").send().body.len, bomb.len() as u64);
    assert_eventually!(rejected(&gateway, "too_large") == Some(1.0));
    assert!(gateway.resident() < before + (32 << 20));
    answer(backend::Form::Length, "", vec![b' '; 5000]);
    gateway.get("/").send().assert_status(200);
    assert_eventually!(rejected(&gateway, "too_large") == Some(2.0));
    answer(backend::Form::Length, "br", text);
    gateway.get("/").send().assert_status(200);
    assert_eventually!(rejected(&gateway, "encoding") == Some(1.0));
    answer(backend::Form::Length, "", b"{}".to_vec());
    gateway.request("HEAD", "/").send().assert_status(200);
    gateway.get("/").send().assert_status(200);
    assert_eventually!(rejected(&gateway, "missing") == Some(1.0));
    assert_eq!(
        rejected(&gateway, "malformed"),
        None,
        "an answer to HEAD has no body to be read"
    );
    assert_eq!(accuracy(&gateway, "dice"), Some(0.5));
}

fn multipart(mask: &[u8], report: &str) -> Vec<u8> {
    let mut body = b"--cut\r\nContent-Disposition: form-data; name=\"mask\"\r\n\r\n".to_vec();
    body.extend_from_slice(mask);
    body.extend_from_slice(b"\r\n--cut\r\nContent-Disposition: form-data; name=\"report\"\r\n\r\n");
    body.extend_from_slice(report.as_bytes());
    body.extend_from_slice(b"\r\n--cut--\r\n");
    body
}

const MULTIPART: &str = "multipart/form-data; boundary=cut";

#[test]
fn parts_are_samples_wherever_their_boundary_is_cut() {
    only_gantry!();
    let body = multipart(b"\r\n--cu\r\n--cutter", r#"{"m": {"dice": 0.5}}"#);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {MULTIPART}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    // One chunk a byte, each written by itself.
    let pieces: Vec<Vec<u8>> = body.chunks(1).map(chunk).collect();
    let backend = Scripted::start(move |connection| {
        while connection.request().is_some() {
            if connection.write(head.as_bytes()).is_err() {
                return;
            }
            for piece in &pieces {
                if connection.write(piece).is_err() {
                    return;
                }
            }
            let _gone = connection.write(b"0\r\n\r\n");
        }
    });
    let gateway = gateway().dynamic(&model(&backend.url(), REPORT)).run();
    assert_eq!(gateway.get("/").send().body.bytes, body);
    assert_eventually!(accuracy(&gateway, "dice") == Some(0.5));
}

#[test]
fn a_large_multipart_answer_passes_whole_and_is_not_held() {
    only_gantry!();
    const MASK: usize = 64 << 20;
    let body = multipart(&backend::pattern(MASK), r#"{"m": {"dice": 0.5}}"#);
    let (length, hash) = (body.len() as u64, message::hash(&body));
    let backend = Backend::answering(move |_| Answer::new(200).header("Content-Type", MULTIPART).body(body.clone()));
    let gateway = gateway().dynamic(&model(&backend.url(), REPORT)).run();
    gateway.get("/").send().assert_status(200);
    let before = gateway.resident();
    let reply = gateway.get("/").send();
    assert_eq!((reply.body.len, reply.body.hash), (length, hash));
    assert!(
        gateway.resident() < before + (16 << 20),
        "{} after {before}",
        gateway.resident()
    );
    assert_eventually!(value(&gateway, "model_accuracy_samples_count{", &[]) == Some(2.0));
}

#[test]
fn an_answer_that_nobody_read_to_its_end_is_no_sample() {
    only_gantry!();
    let body = multipart(&backend::pattern(64 << 20), r#"{"m": {"dice": 0.5}}"#);
    let backend = Backend::answering(move |_| Answer::new(200).header("Content-Type", MULTIPART).body(body.clone()));
    let yaml = model(&backend.url(), REPORT);
    let gateway = gateway().dynamic(&yaml).run();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").read(100_000);
    client.reset();
    assert_eventually!(value(&gateway, "model_in_flight{", &[]) == Some(0.0));
    backend.set(|_| {
        let mut answer = Answer::new(200)
            .header("Content-Type", "application/json")
            .body(r#"{"m": {"dice": 0.5}}"#);
        answer.form = backend::Form::Cut;
        answer
    });
    assert!(!gateway.get("/").send().whole);
    assert_eq!(accuracy(&gateway, "dice"), None);
    assert_eq!(rejected(&gateway, "malformed"), None);
}

#[test]
fn an_answer_that_began_before_a_reload_is_read_as_it_began() {
    only_gantry!();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Scripted::start(move |connection| {
        connection.request();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{\"m\": {";
        let _gone = connection.write(head.as_bytes());
        let _closed = wait.lock().unwrap().recv();
        let _gone = connection.write(b"\"dice\": 0.5}}");
    });
    let gateway = gateway().dynamic(&model(&backend.url(), REPORT)).run();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eventually!(backend.heads().len() == 1);
    gateway.reload(&model(
        &backend.url(),
        "accuracy: [{from: header, name: X-Other, label: other}],",
    ));
    go.send(()).unwrap();
    client.reply().assert_status(200);
    assert_eventually!(accuracy(&gateway, "dice") == Some(0.5));
}

#[test]
fn requests_to_models_have_ids() {
    only_gantry!();
    let backend = Backend::start();
    let gateway = gateway()
        .dynamic(&model(&backend.url(), ""))
        .top("accessLog: {format: json, filePath: \"{dir}/access.log\"}")
        .run();
    let reply = gateway.get("/").header("X-Gantry-Request-Id", "forged").send();
    let id = reply.header("x-request-id").unwrap().to_owned();
    assert!(id.len() == 36 && &id[14..15] == "7", "{id} is no UUIDv7");
    assert_eq!(backend.last().header("x-request-id"), Some(id.as_str()));
    assert_eq!(backend.last().header("x-gantry-request-id"), None);
    assert_eq!(reply.header("x-gantry-request-id"), None);
    let log = || std::fs::read_to_string(gateway.dir().join("access.log")).unwrap_or_default();
    assert_eventually!(log().contains(&format!("\"RequestId\":\"{id}\"")));

    let reply = gateway.get("/").header("X-Request-Id", "mine").send();
    let other = reply.header("x-gantry-request-id").unwrap();
    assert_ne!(other, id);
    assert_eq!(backend.last().header("x-request-id"), Some("mine"));
    assert_eq!(backend.last().header("x-gantry-request-id"), Some(other));
    assert_eq!(reply.header("x-request-id"), None);

    let reply = gateway
        .get("/?header=X-Request-Id:servers&header=X-Gantry-Request-Id:forged")
        .send();
    assert_eq!(reply.header("x-request-id"), Some("servers"));
    assert_eq!(reply.header("x-gantry-request-id").unwrap().len(), 36);
}

#[test]
fn answers_of_gantrys_own_have_the_id_and_services_without_a_model_have_none() {
    only_gantry!();
    let down = format!("http://{}", Backend::down());
    let gateway = gateway().dynamic(&model(&down, "")).run();
    let reply = gateway.get("/").send();
    reply.assert_status(502);
    assert_eq!(reply.header("x-request-id").unwrap().len(), 36);
    gateway.reload(&model(&down, "").replace("\"}]", "\", weight: 0}]"));
    let reply = gateway.get("/").send();
    reply.assert_status(503);
    assert_eq!(reply.header("x-request-id").unwrap().len(), 36);
    let backend = Backend::start();
    gateway.reload(&gateway::all_to(&[&backend.url()]));
    let reply = gateway.get("/").header("X-Gantry-Request-Id", "kept").send();
    assert_eq!(reply.header("x-request-id"), None);
    assert_eq!(backend.last().header("x-gantry-request-id"), Some("kept"));
}

#[test]
fn trace_context_passes_unchanged() {
    let backend = Backend::start();
    let mut yaml = gateway::all_to(&[&backend.url()]);
    if gateway::is_gantry() {
        yaml = model(&backend.url(), "");
    }
    let gateway = gateway().dynamic(&yaml).run();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = gateway.get("/").header("traceparent", parent);
    request
        .header("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
        .send()
        .assert_status(200);
    assert_eq!(backend.last().header("traceparent"), Some(parent));
    assert_eq!(
        backend.last().header("tracestate"),
        Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    );
}

#[test]
fn stages_come_from_server_timing_and_go_to_the_client_with_gantrys_own() {
    only_gantry!();
    let said = "pre;dur=3, infer;dur=250;desc=\"UNet, fp16\", other;dur=1";
    let backend = Backend::answering(move |_| Answer::new(200).header("Server-Timing", said));
    let timing = |more: &str| {
        model(
            &backend.url(),
            &format!("serverTiming: {{stages: [infer, pre]{more}}},"),
        )
    };
    let gateway = gateway().dynamic(&timing("")).run();
    let reply = gateway.get("/").send();
    assert_eq!(reply.header("server-timing"), Some(said));
    let sum = |stage: &str| {
        value(
            &gateway,
            "model_stage_duration_seconds_sum{",
            &[&format!("stage=\"{stage}\"")],
        )
    };
    assert_eventually!(sum("infer") == Some(0.25));
    assert_eq!((sum("pre"), sum("other")), (Some(0.003), None));
    gateway.reload(&timing(", toClient: true"));
    let reply = gateway.get("/").send();
    let values: Vec<&str> = reply.head.all("server-timing");
    assert_eq!(values.len(), 2, "{values:?}");
    assert_eq!(values[0], said);
    let own = values[1].strip_prefix("gantry;dur=").unwrap();
    let (own, upstream) = own.split_once(", upstream;dur=").unwrap();
    assert!(own.parse::<f64>().unwrap() < 15_000.0 && upstream.parse::<f64>().unwrap() < 15_000.0);
}

/// A NIfTI-1 volume of 10 x 20 x 30 voxels.
fn volume() -> Vec<u8> {
    let mut bytes = vec![0; 352 + 10 * 20 * 30];
    bytes[..4].copy_from_slice(&348_i32.to_le_bytes());
    for (place, extent) in [3_i16, 10, 20, 30, 1, 1, 1, 1].into_iter().enumerate() {
        bytes[40 + 2 * place..42 + 2 * place].copy_from_slice(&extent.to_le_bytes());
    }
    bytes[70..72].copy_from_slice(&2_i16.to_le_bytes());
    bytes[72..74].copy_from_slice(&8_i16.to_le_bytes());
    bytes[108..112].copy_from_slice(&352_f32.to_le_bytes());
    bytes[344..348].copy_from_slice(b"n+1\0");
    bytes
}

#[test]
fn voxels_of_requests_are_counted_where_the_model_answers() {
    only_gantry!();
    let backend = Backend::start();
    let yaml = model(&backend.url(), "");
    let gateway = gateway().dynamic(&yaml).run();
    let voxels = || value(&gateway, "model_voxels_total{", &[]);
    let (plain, packed) = (volume(), gzip(&volume()));
    gateway.post("/", plain.clone()).send().assert_status(200);
    assert_eq!(backend.last().body.bytes, plain);
    assert_eventually!(voxels() == Some(6000.0));
    gateway.post("/?status=500", plain.clone()).send().assert_status(500);
    gateway.post("/", "no volume").send().assert_status(200);
    gateway
        .request("POST", "/")
        .chunked(packed.clone())
        .send()
        .assert_status(200);
    assert_eq!(backend.last().body.bytes, packed);
    assert_eventually!(voxels() == Some(12_000.0));
    let form = multipart(&plain, "{}");
    let request = gateway.post("/", form).header("Content-Type", MULTIPART);
    request.send().assert_status(200);
    assert_eventually!(voxels() == Some(18_000.0));
    // Behind `buffering`, a body of unknown length comes at once, or in part.
    let buffered = yaml.replace("service: s}", "service: s, middlewares: [b]}");
    gateway.reload(&format!(
        "{buffered}  middlewares: {{b: {{buffering: {{memRequestBodyBytes: 65536}}}}}}\n"
    ));
    gateway.request("POST", "/").chunked(plain).send().assert_status(200);
    assert_eventually!(voxels() == Some(24_000.0));
    let long = [volume(), vec![0; 200_000]].concat();
    gateway
        .request("POST", "/")
        .chunked(long.clone())
        .send()
        .assert_status(200);
    assert_eq!(backend.last().body.bytes.len(), long.len());
    assert_eventually!(voxels() == Some(30_000.0));
}
