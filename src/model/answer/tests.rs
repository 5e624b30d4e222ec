use std::collections::VecDeque;
use std::io::Write as _;
use std::time::Duration;

use ::http::HeaderValue;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt as _;

use super::super::feedback::{Index, Recorder};
use super::super::masks::{Limits, Store};
use super::super::version;
use super::*;
use crate::config::dynamic::{ModelName, SampleOrigin, SampleSource, ServerTiming, Service};
use crate::observe::metrics::{Format, Metrics, MetricsOptions};

/// A model whose answers are observed.
struct Model {
    plan: Arc<ModelPlan>,
    metrics: Arc<Metrics>,
    store: Arc<Store>,
}

fn json(pointer: &str, part: &str, max_bytes: u64, label: &str) -> SampleSource {
    SampleSource {
        from: SampleOrigin::Json,
        pointer: pointer.into(),
        part: part.into(),
        max_bytes,
        label: label.into(),
        ..SampleSource::default()
    }
}

fn field(from: SampleOrigin, name: &str) -> SampleSource {
    SampleSource {
        from,
        name: name.into(),
        label: name.into(),
        ..SampleSource::default()
    }
}

impl Model {
    fn new(accuracy: Vec<SampleSource>, confidence: Vec<SampleSource>) -> Self {
        let metrics = Metrics::new(MetricsOptions::default());
        let settings = Service {
            model: Some(ModelName {
                name: "m".into(),
                version: "1".into(),
            }),
            accuracy,
            confidence,
            server_timing: Some(ServerTiming {
                stages: vec!["infer".into()],
                to_client: false,
            }),
            ..Service::default()
        };
        let index = Arc::new(Index::new());
        let limits = Limits {
            max_bytes: 64 << 20,
            keep_for: Duration::from_secs(3600),
        };
        let store = Arc::new(Store::new("s@file", None, limits));
        let mut plan = ModelPlan::new(&settings, "s@file", &metrics).expect("a model");
        let masks = Some((Arc::clone(&store), limits));
        let recorder = Recorder::new(Arc::clone(&index), version::fixture("1"), masks);
        index.announce([(&recorder, &plan.series)]);
        plan.recorder = Some(recorder);
        Self {
            plan: Arc::new(plan),
            metrics,
            store,
        }
    }

    /// Lets an answer pass; what came through of it, and the id that it went by.
    async fn pass(&self, fields: &[(&'static str, &str)], frames: Vec<Frame<Bytes>>) -> (Vec<u8>, u128) {
        let (body, id) = self.answer(fields, frames.into_iter().map(Ok).collect());
        let body = body.collect().await.expect("a whole body").to_bytes();
        (body.into(), id)
    }

    fn answer(
        &self,
        fields: &[(&'static str, &str)],
        frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    ) -> (ResponseBody, u128) {
        let id = uuid::Uuid::now_v7().as_u128();
        let mut response = Response::new(ResponseBody::boxed(Frames(frames)));
        for (name, value) in fields {
            let value = HeaderValue::try_from(*value).expect("a value");
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
        self.plan.read_headers(response.headers());
        watch(&self.plan, id, false, &mut response);
        (response.into_body(), id)
    }

    /// The series of the model that have something to say of samples, `name{more labels} value` each.
    fn told(&self) -> Vec<String> {
        let text = String::from_utf8(self.metrics.render(Format::Text004, Instant::now())).expect("text");
        let wanted = |line: &&str| {
            [
                "model_accuracy{",
                "model_confidence{",
                "model_accuracy_rejected_total{",
                "model_stage_duration_seconds_count{",
            ]
            .iter()
            .any(|name| line.starts_with(name))
        };
        let bare = |line: &str| {
            line.replace(r#"model="m","#, "")
                .replace(r#"service="s@file","#, "")
                .replace(r#",version="1""#, "")
                .replace(r#"source="reported""#, "")
                .replace(",}", "}")
        };
        text.lines().filter(wanted).map(bare).collect()
    }

    /// As [`Self::told`], once another thread has read what was long.
    async fn told_at_last(&self) -> Vec<String> {
        for _ in 0..10_000 {
            let told = self.told();
            if !told.is_empty() {
                return told;
            }
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
        panic!("nothing was told")
    }

    fn mask(&self, id: u128) -> Option<Vec<u8>> {
        self.store.read(id, Duration::ZERO).expect("memory")
    }
}

/// A body of these frames; its length is unknown, and its end is seen only by asking again.
struct Frames(VecDeque<Result<Frame<Bytes>, BodyError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn data(bytes: impl AsRef<[u8]>) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(bytes.as_ref()))
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn headers_and_trailers_are_samples_each() {
    use SampleOrigin::{Header, Trailer};
    let model = Model::new(
        vec![field(Header, "x-dice"), field(Trailer, "x-dice")],
        vec![field(Trailer, "x-sure")],
    );
    let mut trailers = HeaderMap::new();
    for (name, value) in [
        ("x-dice", "0.5"),
        ("x-sure", " 1e-1 "),
        ("server-timing", "infer;dur=5, other;dur=1"),
    ] {
        trailers.append(name, HeaderValue::from_static(value));
    }
    let fields = [
        ("x-dice", "0.75"),
        ("x-dice", "0.25"),
        ("x-dice", "0,9"),
        ("x-dice", "1.1"),
        ("x-dice", "nan"),
    ];
    model.pass(&fields, vec![data("a"), Frame::trailers(trailers)]).await;
    assert_eq!(
        model.told(),
        [
            r#"model_accuracy{label="x-dice"} 0.5"#,
            r#"model_accuracy_rejected_total{reason="not_a_number"} 2"#,
            r#"model_accuracy_rejected_total{reason="out_of_range"} 1"#,
            r#"model_confidence{label="x-sure"} 0.1"#,
            r#"model_stage_duration_seconds_count{stage="infer"} 1"#,
        ]
    );
}

#[tokio::test]
async fn json_bodies_are_read_when_they_are_whole() {
    for (body, told) in [
        (r#"{"m": {"dice": 0.25}}"#, r#"model_accuracy{label="d"} 0.25"#),
        (r#"{"m": {"dice": "0.25"}}"#, r#"model_accuracy{label="d"} 0.25"#),
        (
            r#"{"m": {"dice": null}}"#,
            r#"model_accuracy_rejected_total{reason="not_a_number"} 1"#,
        ),
        (
            r#"{"m": {"dice": 25}}"#,
            r#"model_accuracy_rejected_total{reason="out_of_range"} 1"#,
        ),
        (r#"{"m": {}}"#, r#"model_accuracy_rejected_total{reason="missing"} 1"#),
        (
            r#"{"m": {"dice": 0.25}"#,
            r#"model_accuracy_rejected_total{reason="malformed"} 1"#,
        ),
        ("", r#"model_accuracy_rejected_total{reason="malformed"} 1"#),
    ] {
        let model = Model::new(vec![json("/m/dice", "", 100, "d")], vec![]);
        let frames = body.as_bytes().chunks(3).map(data).collect();
        let (passed, _) = model.pass(&[JSON], frames).await;
        assert_eq!(passed, body.as_bytes());
        assert_eq!(model.told(), [told], "{body}");
    }
}

#[tokio::test]
async fn each_source_has_a_bound_of_its_own() {
    let sources = vec![
        json("/a", "", 8, "small"),
        json("/a", "", 20, "large"),
        json("/a", "", 1, "tiny"),
    ];
    let model = Model::new(sources, vec![json("/a", "", 20, "sure")]);
    model.pass(&[JSON], vec![data(r#"{"a": 0.5}"#)]).await;
    assert_eq!(
        model.told(),
        [
            r#"model_accuracy{label="large"} 0.5"#,
            r#"model_accuracy_rejected_total{reason="too_large"} 2"#,
            r#"model_confidence{label="sure"} 0.5"#,
        ]
    );
}

#[tokio::test]
async fn long_texts_are_read_on_another_thread() {
    let model = Model::new(vec![json("/199999", "", 1 << 20, "d")], vec![]);
    let text = format!("[{}0.5]", "0,".repeat(199_999));
    let (passed, _) = model
        .pass(&[JSON], text.as_bytes().chunks(5000).map(data).collect())
        .await;
    assert_eq!(passed, text.as_bytes());
    assert_eq!(model.told_at_last().await, [r#"model_accuracy{label="d"} 0.5"#]);
}

#[tokio::test]
async fn compressed_texts_are_inflated_within_the_bound() {
    let small = br#"{"a": 0.5}"#;
    let bomb = gzip(&vec![b' '; 50 << 20]);
    assert!(bomb.len() < 100_000);
    for (coding, body, told) in [
        ("gzip", gzip(small), r#"model_accuracy{label="d"} 0.5"#),
        ("gzip", bomb, r#"model_accuracy_rejected_total{reason="too_large"} 1"#),
        (
            "gzip",
            small.to_vec(),
            r#"model_accuracy_rejected_total{reason="malformed"} 1"#,
        ),
        (
            "deflate",
            small.to_vec(),
            r#"model_accuracy_rejected_total{reason="malformed"} 1"#,
        ),
        (
            "br",
            small.to_vec(),
            r#"model_accuracy_rejected_total{reason="encoding"} 1"#,
        ),
    ] {
        let model = Model::new(vec![json("/a", "", 1 << 20, "d")], vec![]);
        let (passed, _) = model
            .pass(&[JSON, ("content-encoding", coding)], vec![data(&body)])
            .await;
        assert_eq!(passed, body);
        assert_eq!(model.told_at_last().await, [told], "{coding}");
    }
}

const MULTIPART: (&str, &str) = ("content-type", "multipart/form-data; boundary=bb");

/// A mask, another JSON and the report, as a model writes them.
fn parts(report: &[u8]) -> Vec<u8> {
    let mut body =
        b"--bb\r\nContent-Disposition: form-data; name=mask\r\nContent-Type: application/octet-stream\r\n\r\n".to_vec();
    body.extend_from_slice(MASK);
    body.extend_from_slice(b"\r\n--bb\r\nContent-Type: application/json\r\n\r\n{\"a\": 0.25}");
    body.extend_from_slice(b"\r\n--bb\r\nContent-Disposition: form-data; name=\"report\"\r\n\r\n");
    body.extend_from_slice(report);
    body.extend_from_slice(b"\r\n--bb--\r\n");
    body
}

const MASK: &[u8] = b"\x5c\x01\0\0 not a mask, but it begins as one \r\n--b";

#[tokio::test]
async fn parts_are_read_wherever_the_body_is_cut() {
    let body = parts(br#"{"a": 0.75}"#);
    for cut in 0..=body.len() {
        let sources = vec![json("/a", "", 100, "first"), json("/a", "report", 100, "named")];
        let model = Model::new(sources, vec![]);
        let (first, rest) = body.split_at(cut);
        let (passed, id) = model.pass(&[MULTIPART], vec![data(first), data(rest)]).await;
        assert_eq!(passed, body);
        let told = [
            r#"model_accuracy{label="first"} 0.25"#,
            r#"model_accuracy{label="named"} 0.75"#,
        ];
        assert_eq!(model.told(), told, "cut at {cut}");
        assert_eq!(model.mask(id).as_deref(), Some(MASK), "cut at {cut}");
    }
}

#[tokio::test]
async fn parts_that_are_missing_too_large_or_encoded() {
    let told = async |part: &str, fields: &[(&'static str, &str)], body: &[u8]| {
        let model = Model::new(vec![json("/a", part, 20, "d")], vec![]);
        model.pass(fields, vec![data(body)]).await;
        model.told_at_last().await.join(" ")
    };
    let rejected = |why: &str| format!("model_accuracy_rejected_total{{reason=\"{why}\"}} 1");
    let body = parts(br#"{"a": 0.5, "more": "than 20 bytes"}"#);
    assert_eq!(told("report", &[MULTIPART], &body).await, rejected("too_large"));
    assert_eq!(told("other", &[MULTIPART], &body).await, rejected("missing"));
    assert_eq!(
        told("report", &[MULTIPART], &body[..body.len() - 10]).await,
        rejected("malformed")
    );
    assert_eq!(told("report", &[MULTIPART], b"rubbish").await, rejected("malformed"));
    let base64 = b"--bb\r\nContent-ID: <report>\r\nContent-Transfer-Encoding: base64\r\n\r\ne30=\r\n--bb--";
    assert_eq!(told("report", &[MULTIPART], base64).await, rejected("encoding"));
    let mut packed = b"--bb\r\nContent-ID: <report>\r\nContent-Encoding: gzip\r\n\r\n".to_vec();
    packed.extend(gzip(b"{\"a\": 1}"));
    // Too large by its compression alone: 20 bytes are less than gzip's frame and this.
    packed.extend(b"\r\n--bb--");
    assert_eq!(told("report", &[MULTIPART], &packed).await, rejected("too_large"));
    assert_eq!(
        told("", &[("content-type", "multipart/mixed; boundary=bb")], b"--bb--").await,
        rejected("missing")
    );
}

#[tokio::test]
async fn a_multipart_answer_that_is_compressed_is_read_within_the_bound() {
    let small = gzip(&parts(br#"{"a": 0.5}"#));
    let mut large = parts(br#"{"a": 0.5}"#);
    large.splice(large.len() - 8..large.len() - 8, vec![b' '; 2000]);
    for (body, told) in [
        (small, r#"model_accuracy{label="d"} 0.5"#),
        (gzip(&large), r#"model_accuracy_rejected_total{reason="too_large"} 1"#),
    ] {
        let model = Model::new(vec![json("/a", "report", 1000, "d")], vec![]);
        let (_, id) = model
            .pass(&[MULTIPART, ("content-encoding", "gzip")], vec![data(&body)])
            .await;
        assert_eq!(model.told_at_last().await, [told]);
        assert_eq!(model.mask(id), None);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_tells_nothing() {
    for fields in [
        &[JSON][..],
        &[MULTIPART],
        &[("content-type", "application/octet-stream")],
    ] {
        let model = Model::new(vec![json("/a", "", 100, "d")], vec![]);
        let frames = [Ok(data(MASK)), Err(BodyError::Server("gone".into()))];
        let (body, id) = model.answer(fields, frames.into_iter().collect());
        assert!(body.collect().await.is_err());
        // A client that goes drops the body.
        let (body, other) = model.answer(fields, [Ok(data(MASK))].into_iter().collect());
        drop(body);
        assert_eq!(model.told(), [""; 0]);
        assert_eq!((model.mask(id), model.mask(other)), (None, None));
    }
}

#[tokio::test]
async fn an_answer_that_is_a_mask_is_kept() {
    let model = Model::new(vec![json("/a", "", 100, "d")], vec![]);
    let packed = gzip(MASK);
    for (kind, bytes, kept) in [
        ("application/octet-stream", MASK, true),
        ("application/x-nifti", &packed, true),
        ("text/csv", MASK, true),
        ("text/csv", &packed, false),
        ("application/octet-stream", b"rubbish", false),
        ("application/json", MASK, false),
    ] {
        let (passed, id) = model
            .pass(&[("content-type", kind)], bytes.chunks(7).map(data).collect())
            .await;
        assert_eq!(passed, bytes);
        assert_eq!(model.mask(id).is_some_and(|mask| mask == bytes), kept, "{kind}");
    }
}

#[test]
fn nothing_is_wrapped_where_nothing_is_asked_for() {
    let metrics = Metrics::new(MetricsOptions::default());
    let settings = Service {
        model: Some(ModelName::default()),
        accuracy: vec![field(SampleOrigin::Header, "x-dice"), json("/a", "", 100, "d")],
        ..Service::default()
    };
    let plan = Arc::new(ModelPlan::new(&settings, "s@file", &metrics).expect("a model"));
    let wrapped = |status, to_head, kind: &'static str| {
        let mut response = Response::new(ResponseBody::full("{}"));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        watch(&plan, 1, to_head, &mut response);
        matches!(response.body(), ResponseBody::Boxed(_))
    };
    assert!(wrapped(200, false, "application/json"));
    assert!(!wrapped(200, false, "application/octet-stream"));
    assert!(!wrapped(200, true, "application/json"));
    for status in [204, 205, 206] {
        assert!(!wrapped(status, false, "application/json"));
    }
}
