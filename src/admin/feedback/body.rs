//! What the sender of feedback sends: scores as JSON, or a mask.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use ::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body::Body as _;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Refusal;
use crate::http::body::{BodyError, RequestBody};
use crate::http::content_coding::Coding;
use crate::model::parameters;
use crate::observe::metrics::FeedbackResult;

/// Bytes of the longest JSON.
const LONGEST_JSON: usize = 64 << 10;
/// Bytes of the largest mask as it is sent; inflated, `imaging::nifti` has a limit of its own.
const LARGEST_MASK: usize = 128 << 20;
/// How fast a mask has to come, in bytes a second, once it is its turn: 1 MiB.
const SLOWEST: u64 = 1 << 20;
/// What a sender may be late.
const GRACE: Duration = Duration::from_secs(10);
/// The label of a score that comes without one.
const LABEL: &str = "dice";
/// Longest label.
const LONGEST_LABEL: usize = 32;

/// Values by label.
pub(super) type Scores = BTreeMap<String, f64>;

/// What a body turned out to be.
pub(super) enum Content {
    Scores(Scores),
    /// The rest of it is read when its turn has come.
    Mask(MaskBody),
}

/// A mask whose first bytes were read.
pub(super) struct MaskBody {
    read: Vec<u8>,
    rest: RequestBody,
}

/// What the sender says it is.
enum Said {
    Json,
    Mask,
    /// Nothing, or what curl says of itself.
    Nothing,
}

/// Reads as much as tells what it is, and JSON to its end.
pub(super) async fn begin(headers: &HeaderMap, mut body: RequestBody) -> Result<Content, Refusal> {
    let said = said(headers)?;
    let mut read = Vec::new();
    let limit = match said {
        Said::Json => LONGEST_JSON,
        Said::Mask => 0,
        Said::Nothing => 1,
    };
    if matches!(said, Said::Mask) {
        return Ok(Content::Mask(MaskBody { read, rest: body }));
    }
    while read.len() < limit {
        let Some(piece) = next(&mut body).await? else { break };
        read.extend_from_slice(&piece);
    }
    let is_json = match said {
        Said::Json => true,
        _ => read
            .first()
            .is_none_or(|first| matches!(first, b'{' | b' ' | b'\t' | b'\r' | b'\n')),
    };
    if !is_json {
        return Ok(Content::Mask(MaskBody { read, rest: body }));
    }
    while read.len() <= LONGEST_JSON {
        let Some(piece) = next(&mut body).await? else {
            return scores(&read).map(Content::Scores);
        };
        read.extend_from_slice(&piece);
    }
    Err(Refusal::too_large("JSON feedback may have 64 KiB at most"))
}

impl MaskBody {
    /// The whole of it. Others wait for the turn of who sends it: a sender that is too slow is refused.
    pub(super) async fn rest(self) -> Result<Vec<u8>, Refusal> {
        let Self { mut read, mut rest } = self;
        let too_large = || Refusal::too_large("a mask may have 128 MiB at most; send it as .nii.gz");
        if rest.size_hint().lower() > LARGEST_MASK as u64 {
            return Err(too_large());
        }
        let begun = Instant::now();
        loop {
            let until = begun + GRACE + Duration::from_millis(read.len() as u64 * 1000 / SLOWEST);
            let Some(piece) = timeout_at(until, next(&mut rest))
                .await
                .unwrap_or_else(|_| Err(too_slow()))?
            else {
                break;
            };
            if read.len() + piece.len() > LARGEST_MASK {
                return Err(too_large());
            }
            read.extend_from_slice(&piece);
        }
        Ok(read)
    }
}

fn said(headers: &HeaderMap) -> Result<Said, Refusal> {
    let unsupported = |message: &str| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(Refusal::new(status, FeedbackResult::Malformed, message))
    };
    let encoding = headers.get(header::CONTENT_ENCODING);
    // Bytes that are no text are no coding that anybody knows.
    let encoding = encoding.map(|value| value.to_str().unwrap_or("?"));
    if Coding::of(encoding) != Coding::Plain {
        return unsupported("send it without Content-Encoding; a mask may be a .nii.gz file");
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = parameters::head(kind.unwrap_or_default());
    Ok(match kind.to_ascii_lowercase().as_str() {
        "application/json" => Said::Json,
        "application/octet-stream"
        | "application/gzip"
        | "application/x-gzip"
        | "application/nifti"
        | "application/x-nifti"
        | "application/vnd.nifti"
        | "image/nifti" => Said::Mask,
        "" | "application/x-www-form-urlencoded" => Said::Nothing,
        _ => {
            return unsupported(
                "send application/json, or a NIfTI mask as application/octet-stream or application/gzip",
            );
        }
    })
}

async fn next(body: &mut RequestBody) -> Result<Option<Bytes>, Refusal> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(BodyError::Timeout | BodyError::TooSlow)) => return Err(too_slow()),
            Some(Err(BodyError::TooLarge(_))) => return Err(Refusal::too_large("the body is too large")),
            Some(Err(_)) => return Err(Refusal::malformed("the body broke off")),
        }
    }
}

fn too_slow() -> Refusal {
    let status = StatusCode::REQUEST_TIMEOUT;
    Refusal::new(status, FeedbackResult::Malformed, "the body came too slowly")
}

/// `{"score": 0.93, "label": "dice"}` or `{"scores": {"dice": 0.93, "iou": 0.9}}`.
fn scores(text: &[u8]) -> Result<Scores, Refusal> {
    const FORM: &str =
        "send {\"score\": 0.93}, {\"score\": 0.93, \"label\": \"dice\"} or {\"scores\": {\"dice\": 0.93}}";
    let value: Value = serde_json::from_slice(text).map_err(|e| {
        // serde's own words repeat what was sent; place and kind are enough.
        let (line, column) = (e.line(), e.column());
        Refusal::malformed(format!("this is no JSON (line {line}, column {column}): {FORM}"))
    })?;
    let Value::Object(mut object) = value else {
        return Err(Refusal::malformed(format!("a JSON object is expected: {FORM}")));
    };
    let (score, label, scores) = (object.remove("score"), object.remove("label"), object.remove("scores"));
    if !object.is_empty() {
        return Err(Refusal::malformed(format!("the object has other keys too: {FORM}")));
    }
    let entries: Vec<(String, Value)> = match (score, label, scores) {
        (Some(score), None, None) => vec![(LABEL.to_owned(), score)],
        (Some(score), Some(Value::String(label)), None) => vec![(label, score)],
        (None, None, Some(Value::Object(scores))) if !scores.is_empty() => scores.into_iter().collect(),
        _ => return Err(Refusal::malformed(FORM)),
    };
    let entries = entries.into_iter().map(|(label, value)| {
        let value = value.as_f64().filter(|value| (0.0..=1.0).contains(value));
        match value {
            _ if !is_label(&label) => Err(Refusal::senseless(
                "a label has 1 to 32 characters: lower-case letters, digits and underscores, a letter first",
            )),
            None => Err(Refusal::senseless("a score is a number from 0 to 1")),
            Some(value) => Ok((label, value)),
        }
    });
    entries.collect()
}

fn is_label(label: &str) -> bool {
    label.len() <= LONGEST_LABEL
        && label.starts_with(|c: char| c.is_ascii_lowercase())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use http_body::Frame;

    use super::*;

    /// A piece of so many bytes each second.
    struct Drips(usize, tokio::time::Interval);

    impl http_body::Body for Drips {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let size = self.0;
            self.1
                .poll_tick(cx)
                .map(|_| Some(Ok(Frame::data(vec![0; size].into()))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_does_not_hold_its_turn() {
        for (size, status, seconds) in [(1, 408, 10), (1 << 19, 408, 19), (2 << 20, 413, 64)] {
            let begun = Instant::now();
            let drips = Drips(size, tokio::time::interval(Duration::from_secs(1)));
            let rest = RequestBody::boxed(drips);
            let refusal = MaskBody { read: Vec::new(), rest }.rest().await.expect_err("no end");
            assert_eq!(refusal.status.as_u16(), status, "{size}");
            let took = begun.elapsed().as_secs();
            assert!((seconds..seconds + 3).contains(&took), "{size}: {took}");
        }
    }

    fn read(text: &str) -> Result<Vec<(String, f64)>, u16> {
        let scores = scores(text.as_bytes());
        scores
            .map(|scores| scores.into_iter().collect())
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn scores_are_read_and_all_else_is_told_how_to_be() {
        let one = |label: &str, value| Ok(vec![(label.to_owned(), value)]);
        assert_eq!(read(r#"{"score": 0.93}"#), one("dice", 0.93));
        assert_eq!(read(r#"{"score": 1, "label": "iou_3d"}"#), one("iou_3d", 1.0));
        assert_eq!(read(r#"{"scores": {"b": 0, "a": 1e-1}}"#).unwrap().len(), 2);
        for malformed in [
            "",
            "{",
            "[]",
            "0.9",
            "{}",
            r#"{"score": 0.9, "scores": {}}"#,
            r#"{"scores": {}}"#,
            r#"{"score": 1, "label": 2}"#,
            r#"{"score": 0.9, "patient": "x"}"#,
            r#"{"label": "dice"}"#,
            "\u{0}",
            r#"{"score": NaN}"#,
        ] {
            assert_eq!(read(malformed), Err(400), "{malformed}");
        }
        for senseless in [
            r#"{"score": 1.1}"#,
            r#"{"score": -0.1}"#,
            r#"{"score": "0.9"}"#,
            r#"{"score": null}"#,
            r#"{"score": 0.9, "label": ""}"#,
            r#"{"score": 0.9, "label": "Dice"}"#,
            r#"{"score": 0.9, "label": "d\"\n"}"#,
            r#"{"score": 0.9, "label": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}"#,
            r#"{"scores": {"a": 0.5, "b": 2}}"#,
        ] {
            assert_eq!(read(senseless), Err(422), "{senseless}");
        }
    }
}
