//! `POST /feedback/{request-id}`: somebody who knows the truth tells how good an answer was.
//!
//! The id is the one that Gantry gave the request (UUIDv7, in the answer's `X-Request-Id` or `X-Gantry-Request-Id`); it
//! leads to the version of the model that answered. What comes is a number that was computed elsewhere, as JSON, or the true
//! mask as a NIfTI file, which is compared with the mask that the model answered (`keepMasks`).
//!
//! Invariants: nothing of a body is read before the token is known to be right; what is read is bounded, and a mask is only
//! read when it is its turn to be compared; comparing happens on a blocking thread; a label counts once for an answer,
//! however often it is sent. No id and nothing of a body is logged.

mod body;
mod judgement;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use self::body::{Content, Scores};
use self::judgement::{Comparison, compare};
use crate::config::Resources;
use crate::config::static_config;
use crate::diag::Diagnostic;
use crate::http::{Request, Response};
use crate::model::feedback::Index;
use crate::model::version::{LabelKind, Version};
use crate::observe::metrics::{AccuracySource, FeedbackKind, FeedbackResult, Metrics, ModelSeries, Quality};
use crate::units::secret::Secret;

/// What the path begins with.
pub const PREFIX: &str = "/feedback/";
/// The shortest token that is one: 16 characters of base64 have 96 bits.
const SHORTEST_TOKEN: usize = 16;
/// Masks that are compared at the same time: each may take some hundred megabytes.
const COMPARISONS: usize = 2;
/// Senders of masks that wait for their turn at most.
const WAITING: usize = 8;
/// How long they wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets few masks be compared at a time. Shared by all workers and snapshots.
#[derive(Debug)]
pub struct Gate {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Gate {
    /// A gate with `COMPARISONS` turns.
    #[must_use]
    pub fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(COMPARISONS)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for a turn; `None` where too many wait, or for too long.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let turns = || Arc::clone(&self.turns);
        if let Ok(turn) = turns().try_acquire_owned() {
            return Some(turn);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= WAITING {
            return None;
        }
        tokio::time::timeout(PATIENCE, turns().acquire_owned()).await.ok()?.ok()
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// What takes feedback in one snapshot.
#[derive(Debug)]
pub struct Feedback {
    token: Arc<Secret>,
    answers: Arc<Index>,
    metrics: Arc<Metrics>,
    gate: Arc<Gate>,
}

/// Why feedback is not taken: what is counted, and what the sender is told.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    result: FeedbackResult,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, result: FeedbackResult, message: impl Into<String>) -> Self {
        Self {
            status,
            result,
            message: message.into(),
        }
    }

    fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, FeedbackResult::Malformed, message)
    }

    /// It can be read, and makes no sense.
    fn senseless(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, FeedbackResult::Malformed, message)
    }

    fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, FeedbackResult::TooLarge, message)
    }

    fn answer(&self) -> Response {
        let mut response = reply(self.status, &json!({ "error": self.message }));
        let more = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"gantry\"")),
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "POST")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "5")),
            _ => None,
        };
        if let Some((name, value)) = more {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl Feedback {
    /// The endpoint with its token.
    #[must_use]
    pub fn new(token: Arc<Secret>, answers: Arc<Index>, metrics: Arc<Metrics>, gate: Arc<Gate>) -> Self {
        Self {
            token,
            answers,
            metrics,
            gate,
        }
    }

    /// The token in the file that the configuration names: its first line.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token.
    pub fn token(settings: &static_config::Feedback, resources: &Resources) -> Result<Secret, Diagnostic> {
        let refuse = |message: String, help: &str| Err(Diagnostic::error("feedback.tokenFile", message).help(help));
        let file = &settings.token_file;
        let text = match resources.get(file) {
            Some(Ok(text)) => text,
            Some(Err(why)) => return refuse(why.to_owned(), "put a token there that senders of feedback show"),
            None => return refuse(format!("the file `{file}` was not read"), "check the path"),
        };
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let token = std::str::from_utf8(line).unwrap_or_default().trim();
        let shown = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.len() < SHORTEST_TOKEN || !shown {
            let message = format!("the first line of `{file}` is no token of at least {SHORTEST_TOKEN} characters");
            return refuse(message, "make one: openssl rand -base64 24 > FILE");
        }
        Ok(Secret::new(token))
    }

    /// Takes a feedback.
    pub async fn answer(&self, request: Request) -> Response {
        match self.take(request).await {
            Ok(response) => {
                self.metrics.feedback(FeedbackResult::Accepted);
                response
            }
            Err(refusal) => {
                self.metrics.feedback(refusal.result);
                refusal.answer()
            }
        }
    }

    async fn take(&self, request: Request) -> Result<Response, Refusal> {
        if !self.is_trusted(request.headers()) {
            let message = "the header `Authorization: Bearer TOKEN` is missing or wrong";
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                FeedbackResult::Unauthorized,
                message,
            ));
        }
        if request.method() != Method::POST {
            let message = "feedback is sent by POST";
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                FeedbackResult::Malformed,
                message,
            ));
        }
        let id = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
        let id = Uuid::try_parse(id).map_err(|_| {
            Refusal::malformed("the path does not end in a request's id, such as 0198c0de-6f2a-7a30-8d4b-5a1c3e9f7b21")
        })?;
        let id = id.as_u128();
        let version = self.answers.find(id).ok_or_else(|| {
            let message = "no answer with this id is known: feedback is taken for 24 hours, for 100000 answers at most, \
                           and for as long as the answer's mask is kept";
            Refusal::new(StatusCode::NOT_FOUND, FeedbackResult::Unknown, message)
        })?;
        let series = version.series().ok_or_else(|| {
            let message = "the version that gave this answer is not in the configuration any more";
            Refusal::new(StatusCode::GONE, FeedbackResult::Unknown, message)
        })?;
        let (parts, body) = request.into_parts();
        match body::begin(&parts.headers, body).await? {
            Content::Scores(scores) => self.scores(id, &version, &series, &scores),
            Content::Mask(mask) => {
                let Some(turn) = self.gate.turn().await else {
                    let message = "other masks are being compared: send it again in a few seconds";
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return Err(Refusal::new(status, FeedbackResult::Busy, message));
                };
                let store = self.answers.store(&version.names.service);
                let truth = mask.rest().await?;
                let comparison = compare(store, id, truth, turn).await?;
                self.mask(id, &version, &series, &comparison)
            }
        }
    }

    fn is_trusted(&self, headers: &HeaderMap) -> bool {
        let value = headers
            .get(header::AUTHORIZATION)
            .map_or(&[][..], HeaderValue::as_bytes);
        let (scheme, token) = value.split_at(value.len().min("Bearer ".len()));
        scheme.eq_ignore_ascii_case(b"Bearer ") && self.token.matches(token.trim_ascii())
    }

    fn scores(&self, id: u128, version: &Version, series: &ModelSeries, scores: &Scores) -> Result<Response, Refusal> {
        let samples: Vec<_> = scores.iter().map(|(label, value)| (label.as_str(), *value)).collect();
        let (counted, already) = self.count(id, version, series, LabelKind::Score, &samples)?;
        if !counted.is_empty() {
            series.feedback(FeedbackKind::Score);
        }
        let names = &version.names;
        let answer = json!({"model": names.model, "version": names.version, "counted": counted, "already": already});
        Ok(reply(StatusCode::OK, &answer))
    }

    fn mask(
        &self,
        id: u128,
        version: &Version,
        series: &ModelSeries,
        comparison: &Comparison,
    ) -> Result<Response, Refusal> {
        let samples = comparison.samples();
        let samples: Vec<_> = samples.iter().map(|(label, value)| (label.as_str(), *value)).collect();
        let both_empty = samples.is_empty();
        let (counted, already) = if both_empty {
            // Right, but no Dice: counted apart, and once.
            let found = self.claim(id, version, LabelKind::Mask, &[judgement::MEAN])?;
            if !found.0.is_empty() {
                series.both_empty(judgement::MEAN);
            }
            found
        } else {
            self.count(id, version, series, LabelKind::Mask, &samples)?
        };
        if !counted.is_empty() {
            series.feedback(FeedbackKind::Mask);
        }
        let names = &version.names;
        let answer = json!({
            "model": names.model, "version": names.version, "dice": comparison.to_json(), "both_empty": both_empty,
            "counted": counted, "already": already,
        });
        Ok(reply(StatusCode::OK, &answer))
    }

    /// Makes samples of those labels that nobody sent for this answer before; gives their names, and the others'.
    fn count<'s>(
        &self,
        id: u128,
        version: &Version,
        series: &ModelSeries,
        kind: LabelKind,
        samples: &[(&'s str, f64)],
    ) -> Result<(Vec<&'s str>, Vec<&'s str>), Refusal> {
        let labels: Vec<&str> = samples.iter().map(|(label, _)| *label).collect();
        let found = self.claim(id, version, kind, &labels)?;
        let now = Instant::now();
        for (label, value) in samples.iter().filter(|(label, _)| found.0.contains(label)) {
            series.sample(Quality::Accuracy, AccuracySource::Feedback, label, *value, now);
        }
        Ok(found)
    }

    /// The labels that this feedback is the first to bring, and the others.
    fn claim<'s>(
        &self,
        id: u128,
        version: &Version,
        kind: LabelKind,
        labels: &[&'s str],
    ) -> Result<(Vec<&'s str>, Vec<&'s str>), Refusal> {
        let full = || {
            Refusal::senseless("this version has feedback under too many labels already: use one of those that it has")
        };
        // Scores count together or not at all. Of a mask counts what finds a place, the mean first: its labels are what the
        // image holds, and nothing that a sender could choose otherwise.
        if kind == LabelKind::Score {
            version.bits(labels, kind).ok_or_else(full)?;
        }
        let bits: Vec<_> = labels.iter().map(|label| version.bits(&[label], kind)).collect();
        let all = bits.iter().flatten().fold(0, |all, bit| all | bit);
        let new = self.answers.claim(id, all).unwrap_or_default();
        let placed = labels
            .iter()
            .zip(bits)
            .filter_map(|(label, bit)| Some((*label, bit? & new != 0)));
        let (first, again): (Vec<_>, Vec<_>) = placed.partition(|(_, is_new)| *is_new);
        let names = |found: Vec<(&'s str, bool)>| found.into_iter().map(|(label, _)| label).collect();
        Ok((names(first), names(again)))
    }
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response {
    super::json(status, body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Result<Secret, Diagnostic> {
        let mut resources = Resources::default();
        resources.insert("t", text.as_bytes());
        let settings = static_config::Feedback {
            token_file: "t".into(),
            ..Default::default()
        };
        Feedback::token(&settings, &resources)
    }

    #[test]
    fn a_token_is_the_first_line_and_long_enough() {
        assert!(token("0123456789abcdef\n").unwrap().matches(b"0123456789abcdef"));
        assert!(
            token("  0123456789abcdef \r\n# mine\n")
                .unwrap()
                .matches(b"0123456789abcdef")
        );
        for bad in [
            "",
            "\n0123456789abcdef",
            "short",
            "0123456789 abcdef",
            "0123456789abcde\u{e9}f",
        ] {
            assert!(token(bad).unwrap_err().help.is_some(), "{bad:?}");
        }
        let missing = Feedback::token(&static_config::Feedback::default(), &Resources::default()).unwrap_err();
        assert_eq!(missing.path, "feedback.tokenFile");
    }

    #[tokio::test(start_paused = true)]
    async fn few_wait_and_not_for_ever() {
        let gate = Gate::new();
        let (one, _two) = (gate.turn().await.unwrap(), gate.turn().await.unwrap());
        let begun = tokio::time::Instant::now();
        assert!(gate.turn().await.is_none());
        assert_eq!(begun.elapsed(), PATIENCE);
        gate.waiting.store(WAITING, Ordering::Relaxed);
        assert!(gate.turn().await.is_none());
        assert_eq!(begun.elapsed(), PATIENCE, "the queue is full: nobody waits");
        assert_eq!(gate.waiting.load(Ordering::Relaxed), WAITING);
        drop(one);
        assert!(gate.turn().await.is_some());
    }
}
