//! A model's answer as it passes: nothing of it is held back or changed, whatever is found in it.
//!
//! Headers are read when they come. The body is wrapped only where something in it is asked for: trailers, JSON, the
//! mask. What is found in a body counts when the whole of it came from the server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use ::http::{HeaderMap, HeaderName, StatusCode, header};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::mask::MaskTap;
use super::multipart::{PartHead, Parts, Scanner};
use super::report::{Report, is_json};
use super::source::{Origin, Source};
use super::{ModelPlan, number, server_timing};
use crate::http::Response;
use crate::http::body::{BodyError, ResponseBody};
use crate::http::content_coding::Coding;
use crate::observe::metrics::{AccuracySource, Rejection};

impl ModelPlan {
    /// Takes samples from the fields of an answer's head.
    pub(super) fn read_headers(&self, headers: &HeaderMap) {
        self.read_fields(headers, |origin| match origin {
            Origin::Header(name) => Some(name),
            _ => None,
        });
    }

    /// Takes samples from an answer's trailers. Server-Timing may be among them: often a server only knows at the end.
    fn read_trailers(&self, trailers: &HeaderMap) {
        self.read_fields(trailers, |origin| match origin {
            Origin::Trailer(name) => Some(name),
            _ => None,
        });
        self.read_stages(trailers);
    }

    /// Each field of the name is a sample of its own.
    fn read_fields(&self, fields: &HeaderMap, named: impl Fn(&Origin) -> Option<&HeaderName>) {
        for source in &self.sources {
            let Some(name) = named(&source.origin) else { continue };
            for value in fields.get_all(name) {
                self.take(source, value.to_str().ok().and_then(number));
            }
        }
    }

    /// Takes the times of the stages that the configuration names.
    pub(super) fn read_stages(&self, fields: &HeaderMap) {
        if let Some(timing) = &self.server_timing {
            server_timing::durations(fields, |name, duration| {
                if timing.stages.iter().any(|stage| stage == name) {
                    self.series.stage(name, duration);
                }
            });
        }
    }

    /// Counts what was found, a number or not, of what the model itself reports.
    pub(super) fn take(&self, source: &Source, value: Option<f64>) {
        let from = AccuracySource::Reported;
        match value {
            Some(value) => self
                .series
                .sample(source.quality, from, &source.label, value, Instant::now()),
            None => self.reject(Rejection::NotANumber),
        }
    }

    pub(super) fn reject(&self, why: Rejection) {
        self.series.reject(AccuracySource::Reported, why);
    }

    /// Whether any source reads trailers.
    pub(super) fn reads_trailers(&self) -> bool {
        let is_trailer = |source: &Source| matches!(source.origin, Origin::Trailer(_));
        self.sources.iter().any(is_trailer)
    }

    /// Feedback can be given for the answer to `id`: all of it is there.
    fn register(&self, id: u128) {
        if let Some(recorder) = &self.recorder {
            recorder.register(id);
        }
    }
}

/// Puts an observer behind the body of a 2xx answer to `id`, where something in it is asked for, or feedback is taken for it.
/// Answers without a body of their own (to HEAD, 204, 205), and pieces of one (206), have nothing to be found.
pub fn watch(plan: &Arc<ModelPlan>, id: u128, to_head: bool, response: &mut Response) {
    let bodiless = [
        StatusCode::NO_CONTENT,
        StatusCode::RESET_CONTENT,
        StatusCode::PARTIAL_CONTENT,
    ];
    if to_head || bodiless.contains(&response.status()) {
        return plan.register(id);
    }
    let length = response.body().size_hint().exact();
    let Some(mut watch) = Watch::new(plan, id, length, response.headers()) else {
        return;
    };
    if response.body().is_end_stream() {
        watch.end();
        return;
    }
    let inner = std::mem::take(response.body_mut());
    *response.body_mut() = ResponseBody::boxed(Watched {
        inner,
        watch: Some(Box::new(watch)),
    });
}

/// What is looked for in one answer.
struct Watch {
    plan: Arc<ModelPlan>,
    id: u128,
    scanner: Option<Scanner>,
    finds: Finds,
}

/// Where what is found goes.
struct Finds {
    plan: Arc<ModelPlan>,
    report: Option<Report>,
    mask: Option<MaskTap>,
}

impl Watch {
    fn new(plan: &Arc<ModelPlan>, id: u128, length: Option<u64>, headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type: Option<&str> = text(header::CONTENT_TYPE);
        let several = headers.get_all(header::CONTENT_ENCODING).iter().nth(1).is_some();
        let coding = if several {
            Coding::Other
        } else {
            Coding::of(text(header::CONTENT_ENCODING))
        };
        let scanner = content_type.and_then(Scanner::for_type);
        let report = match content_type {
            Some(kind) if is_json(kind) => Report::of_whole(plan, coding),
            Some(_) if scanner.is_some() && coding == Coding::Plain => Report::of_multipart(plan),
            Some(kind) if scanner.is_some() => Report::of_compressed(plan, coding, kind),
            _ => None,
        };
        let is_json = content_type.is_some_and(is_json);
        let scanner = scanner.filter(|_| coding == Coding::Plain);
        let recorder = plan.recorder.as_ref().filter(|recorder| recorder.masks().is_some());
        let mask = recorder.and_then(|recorder| match coding {
            Coding::Plain if scanner.is_some() => Some(MaskTap::new(recorder, id, None)),
            // A volume that is compressed for the way is a `.nii.gz` to whoever reads it later.
            Coding::Plain | Coding::Gzip if !is_json => {
                let mut whole = MaskTap::new(recorder, id, length);
                whole.begin(content_type);
                Some(whole)
            }
            _ => None,
        });
        let trailers = plan.reads_trailers() || plan.server_timing.is_some();
        let anything = trailers || plan.recorder.is_some() || report.is_some() || mask.is_some();
        anything.then(|| Self {
            plan: Arc::clone(plan),
            id,
            scanner: scanner.filter(|_| report.is_some() || mask.is_some()),
            finds: Finds {
                plan: Arc::clone(plan),
                report,
                mask,
            },
        })
    }

    fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.plan.read_trailers(trailers);
        } else if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
            match &mut self.scanner {
                Some(scanner) => scanner.push(data, &mut self.finds),
                None => self.finds.data(data.clone()),
            }
        }
    }

    /// The answer is whole.
    fn end(&mut self) {
        let understood = self.scanner.as_ref().is_none_or(Scanner::is_whole);
        if self.scanner.is_none() {
            self.finds.end();
        }
        if let Some(report) = self.finds.report.take() {
            report.finish(&self.plan, understood);
        }
        self.plan.register(self.id);
        if let Some(mask) = self.finds.mask.take().filter(|_| understood) {
            mask.keep();
        }
    }
}

impl Parts for Finds {
    fn begin(&mut self, head: PartHead) {
        if let Some(report) = &mut self.report {
            report.begin(&self.plan, &head);
        }
        if let Some(mask) = self.mask.as_mut().filter(|_| head.transfer_encoding.is_none()) {
            mask.begin(head.content_type.as_deref());
        }
    }

    fn data(&mut self, data: Bytes) {
        if let Some(report) = &mut self.report {
            report.data(&data);
        }
        if let Some(mask) = &mut self.mask {
            mask.data(&data);
        }
    }

    fn end(&mut self) {
        if let Some(report) = &mut self.report {
            report.end();
        }
        if let Some(mask) = &mut self.mask {
            mask.end();
        }
    }
}

/// An answer's body under observation.
struct Watched {
    inner: ResponseBody,
    watch: Option<Box<Watch>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        // What ends in an error, or is dropped before its end, is no answer: nothing of it counts.
        let Some(mut watch) = self.watch.take() else {
            return Poll::Ready(polled);
        };
        match &polled {
            Some(Ok(frame)) => {
                watch.frame(frame);
                // Who reads a body of known length does not ask again behind its last byte.
                if self.inner.is_end_stream() {
                    watch.end();
                } else {
                    self.watch = Some(watch);
                }
            }
            Some(Err(_)) => {}
            None => watch.end(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
