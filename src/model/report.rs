//! What a model reports of itself in JSON: the text is collected while the answer passes, and read when it is whole.
//!
//! Invariants: a text grows to the largest `maxBytes` that asks for it, compressed and inflated each; all texts of the
//! process together to [`MOST_HELD`]; what takes longer than a worker may stand still is read on another thread.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::multipart::{PartHead, Parts, Scanner};
use super::source::Origin;
use super::{ModelPlan, json, parameters};
use crate::http::content_coding::{Coding, InflateError};
use crate::observe::metrics::Rejection;

/// Most bytes of texts that wait to be whole or to be read, in the process: 256 MiB.
pub const MOST_HELD: usize = 256 << 20;
/// A larger text, or one that is compressed, is not read by a worker: it may take longer than 100 µs.
const READ_AT_ONCE: usize = 64 * 1024;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Whether a Content-Type is JSON: `application/json`, or `+json` (RFC 6839).
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let kind = parameters::head(content_type).to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

/// The plan's sources that read JSON: places in [`ModelPlan::sources`].
fn json_sources(plan: &ModelPlan) -> impl Iterator<Item = (usize, &str, usize)> {
    plan.sources
        .iter()
        .enumerate()
        .filter_map(|(place, source)| match &source.origin {
            Origin::Json { part, max_bytes, .. } => Some((place, part.as_str(), *max_bytes)),
            _ => None,
        })
}

/// A text on its way.
#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    coding: Coding,
    /// The largest `maxBytes` of those who want it.
    most: usize,
    /// It is larger.
    too_large: bool,
    /// It came to its end.
    whole: bool,
    /// The sources that read it.
    sources: Vec<usize>,
    /// It is multipart itself, with this Content-Type: it can only be looked through once it is inflated.
    multipart: Option<String>,
}

impl Text {
    fn new(plan: &ModelPlan, sources: Vec<usize>, coding: Coding, multipart: Option<String>) -> Self {
        let most = json_sources(plan)
            .filter(|(place, ..)| sources.contains(place))
            .map(|(.., most)| most)
            .max();
        Self {
            bytes: Vec::new(),
            coding,
            most: most.unwrap_or_default(),
            too_large: false,
            whole: false,
            sources,
            multipart,
        }
    }

    fn push(&mut self, data: &[u8]) {
        if self.too_large || self.coding == Coding::Other {
            return;
        }
        let fits = self.bytes.len() + data.len() <= self.most;
        if fits && HELD.fetch_add(data.len(), Ordering::Relaxed) + data.len() <= MOST_HELD {
            self.bytes.extend_from_slice(data);
            return;
        }
        let counted = if fits { data.len() } else { 0 };
        HELD.fetch_sub(self.bytes.len() + counted, Ordering::Relaxed);
        self.bytes = Vec::new();
        self.too_large = true;
    }

    /// Takes the samples out of it.
    fn read(&self, plan: &ModelPlan) {
        match self.inflated() {
            Ok(text) => match &self.multipart {
                None => self.sources.iter().for_each(|place| sample(plan, *place, &text)),
                Some(content_type) => read_multipart(plan, &self.sources, content_type, text.into_owned()),
            },
            Err(why) => self.sources.iter().for_each(|_| plan.reject(why)),
        }
    }

    fn inflated(&self) -> Result<Cow<'_, [u8]>, Rejection> {
        if self.coding != Coding::Other && self.too_large {
            return Err(Rejection::TooLarge);
        }
        if self.coding == Coding::Plain {
            return Ok(Cow::Borrowed(&self.bytes));
        }
        let inflated = self.coding.inflate(&self.bytes, self.most);
        inflated.map(Cow::Owned).map_err(|error| match error {
            InflateError::Unknown => Rejection::Encoding,
            InflateError::TooLarge => Rejection::TooLarge,
            InflateError::Broken(_) => Rejection::Malformed,
        })
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        HELD.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// The sample of one source.
fn sample(plan: &ModelPlan, place: usize, text: &[u8]) {
    let source = &plan.sources[place];
    let Origin::Json { pointer, max_bytes, .. } = &source.origin else {
        return;
    };
    if text.len() > *max_bytes {
        return plan.reject(Rejection::TooLarge);
    }
    match pointer.find(text) {
        Ok(json::Found::Number(number)) => plan.take(source, Some(number)),
        Ok(json::Found::Text(text)) => plan.take(source, super::number(&text)),
        Ok(json::Found::Other) => plan.take(source, None),
        Ok(json::Found::Nothing) => plan.reject(Rejection::Missing),
        Err(json::Malformed) => plan.reject(Rejection::Malformed),
    }
}

fn read_multipart(plan: &ModelPlan, sources: &[usize], content_type: &str, text: Vec<u8>) {
    let Some(mut scanner) = Scanner::for_type(content_type) else {
        return sources.iter().for_each(|_| plan.reject(Rejection::Malformed));
    };
    let mut report = Report::of_parts(sources.to_vec());
    scanner.push(
        &text.into(),
        &mut Collecting {
            plan,
            report: &mut report,
        },
    );
    report.settle(plan, scanner.is_whole());
}

/// Drives a report alone over the parts of a body.
struct Collecting<'a> {
    plan: &'a ModelPlan,
    report: &'a mut Report,
}

impl Parts for Collecting<'_> {
    fn begin(&mut self, head: PartHead) {
        self.report.begin(self.plan, &head);
    }

    fn data(&mut self, data: Bytes) {
        self.report.data(&data);
    }

    fn end(&mut self) {
        self.report.end();
    }
}

/// The texts of one answer.
#[derive(Debug)]
pub struct Report {
    /// Sources whose text did not come yet.
    wanting: Vec<usize>,
    texts: Vec<Text>,
    /// Whether the last of them is being collected.
    open: bool,
}

impl Report {
    /// For an answer that is one text; `None` where nobody reads JSON.
    #[must_use]
    pub fn of_whole(plan: &ModelPlan, coding: Coding) -> Option<Self> {
        Self::of_one(plan, coding, None)
    }

    /// For an answer that is multipart and compressed as a whole.
    #[must_use]
    pub fn of_compressed(plan: &ModelPlan, coding: Coding, content_type: &str) -> Option<Self> {
        Self::of_one(plan, coding, Some(content_type.to_owned()))
    }

    fn of_one(plan: &ModelPlan, coding: Coding, multipart: Option<String>) -> Option<Self> {
        let sources: Vec<usize> = json_sources(plan).map(|(place, ..)| place).collect();
        (!sources.is_empty()).then(|| Self {
            wanting: Vec::new(),
            texts: vec![Text::new(plan, sources, coding, multipart)],
            open: true,
        })
    }

    /// For an answer of several parts.
    #[must_use]
    pub fn of_multipart(plan: &ModelPlan) -> Option<Self> {
        let sources: Vec<usize> = json_sources(plan).map(|(place, ..)| place).collect();
        (!sources.is_empty()).then(|| Self::of_parts(sources))
    }

    fn of_parts(wanting: Vec<usize>) -> Self {
        Self {
            wanting,
            texts: Vec::new(),
            open: false,
        }
    }

    /// A part begins.
    pub fn begin(&mut self, plan: &ModelPlan, head: &PartHead) {
        let is_json = head.content_type.as_deref().is_some_and(is_json);
        let asked = |place: usize| match &plan.sources[place].origin {
            Origin::Json { part, .. } if part.is_empty() => is_json,
            Origin::Json { part, .. } => head.name.as_deref() == Some(part),
            _ => false,
        };
        let (sources, wanting) = self.wanting.iter().copied().partition(|place| asked(*place));
        self.wanting = wanting;
        self.open = !Vec::is_empty(&sources);
        if self.open {
            let coding = match head.transfer_encoding {
                None => Coding::of(head.content_encoding.as_deref()),
                Some(_) => Coding::Other,
            };
            self.texts.push(Text::new(plan, sources, coding, None));
        }
    }

    /// Bytes of the part, or of the answer.
    pub fn data(&mut self, data: &[u8]) {
        if self.open
            && let Some(text) = self.texts.last_mut()
        {
            text.push(data);
        }
    }

    /// The part, or the answer, is whole.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.open)
            && let Some(text) = self.texts.last_mut()
        {
            text.whole = true;
        }
    }

    /// The answer is through: takes the samples, here or on another thread. `understood`: its parts, if it has some, could
    /// be told apart to the end.
    pub fn finish(self, plan: &Arc<ModelPlan>, understood: bool) {
        let bytes: usize = self.texts.iter().map(|text| text.bytes.len()).sum();
        let plain = self
            .texts
            .iter()
            .all(|text| text.coding == Coding::Plain || text.bytes.is_empty());
        if plain && bytes <= READ_AT_ONCE {
            return self.settle(plan, understood);
        }
        let plan = Arc::clone(plan);
        // Nobody waits for it: a figure is no reason to hold an answer back.
        drop(tokio::task::spawn_blocking(move || self.settle(&plan, understood)));
    }

    fn settle(self, plan: &ModelPlan, understood: bool) {
        for text in &self.texts {
            if text.whole {
                text.read(plan);
            } else {
                text.sources.iter().for_each(|_| plan.reject(Rejection::Malformed));
            }
        }
        let why = if understood {
            Rejection::Missing
        } else {
            Rejection::Malformed
        };
        self.wanting.iter().for_each(|_| plan.reject(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_by_its_type() {
        for kind in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/fhir+json",
        ] {
            assert!(is_json(kind), "{kind}");
        }
        for kind in [
            "",
            "application/octet-stream",
            "application/jsonp",
            "text/plain; x=application/json",
        ] {
            assert!(!is_json(kind), "{kind}");
        }
    }
}
