//! How many voxels a request brings: read from the first bytes of its body while they pass.
//!
//! Nothing waits for it, and nothing is changed. At most [`PREFIX_BYTES`] are copied, and only as long as they may still
//! tell the size of a volume.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, header};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http::body::{BodyError, RequestBody};
use crate::imaging::{NoCount, PREFIX_BYTES, count_in_body};
use crate::observe::metrics::ModelSeries;

/// The voxels of one request. They count once both are known: how many, and that the model has answered by 2xx.
#[derive(Debug)]
pub struct VoxelCount {
    series: ModelSeries,
    found: Cell<Option<u64>>,
    answered: Cell<bool>,
}

impl VoxelCount {
    fn found(&self, voxels: u64) {
        self.found.set(Some(voxels));
        self.settle();
    }

    /// The model has answered by 2xx.
    pub fn answered(&self) {
        self.answered.set(true);
        self.settle();
    }

    fn settle(&self) {
        if self.answered.get()
            && let Some(voxels) = self.found.take()
        {
            self.series.voxels(voxels);
        }
    }
}

/// Puts an observer in front of a request's body; `None` where it has none, or cannot be a volume.
pub fn watch(headers: &HeaderMap, body: &mut RequestBody, series: &ModelSeries) -> Option<Rc<VoxelCount>> {
    if body.is_empty() {
        return None;
    }
    let count = Rc::new(VoxelCount {
        series: series.clone(),
        found: Cell::new(None),
        answered: Cell::new(false),
    });
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut look = Look {
        content_type: content_type.map(str::to_owned),
        prefix: Vec::new(),
        next: 0,
        count: Rc::clone(&count),
    };
    if let RequestBody::Full(bytes) = body {
        look.at(bytes);
    } else {
        let inner = std::mem::take(body);
        *body = RequestBody::boxed(Watched {
            inner,
            look: Some(Box::new(look)),
        });
    }
    Some(count)
}

/// What was seen so far.
struct Look {
    content_type: Option<String>,
    prefix: Vec<u8>,
    /// How long the prefix has to be before it is worth another look.
    next: usize,
    count: Rc<VoxelCount>,
}

impl Look {
    /// Looks at the next piece. Whether more may help.
    fn at(&mut self, piece: &[u8]) -> bool {
        let content_type = self.content_type.as_deref();
        let counted = if self.prefix.is_empty() {
            count_in_body(content_type, piece)
        } else {
            let room = PREFIX_BYTES.saturating_sub(self.prefix.len());
            self.prefix.extend_from_slice(&piece[..piece.len().min(room)]);
            if self.prefix.len() < self.next {
                return true;
            }
            count_in_body(content_type, &self.prefix)
        };
        match counted {
            Ok(voxels) => self.count.found(voxels),
            Err(NoCount::Unknown) => {}
            Err(NoCount::Cut) => {
                if self.prefix.is_empty() {
                    self.prefix.extend_from_slice(&piece[..piece.len().min(PREFIX_BYTES)]);
                }
                // Twice as much each time: a body that comes byte by byte costs no more than one that comes at once.
                self.next = (self.prefix.len() * 2).min(PREFIX_BYTES);
                return true;
            }
        }
        false
    }
}

/// A request's body under observation.
struct Watched {
    inner: RequestBody,
    look: Option<Box<Look>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref().filter(|data| !data.is_empty())
            && let Some(look) = &mut self.look
            && !look.at(data)
        {
            self.look = None;
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
mod tests {
    use ::http::HeaderValue;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::imaging::nifti::{Geometry, Voxels, encode};
    use crate::observe::metrics::{Format, Metrics, MetricsOptions};

    /// A body of pieces.
    struct Pieces(Vec<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(Bytes::len).sum::<usize>() as u64)
        }
    }

    /// `model_voxels_total` after a request with this body, which has to come through as it is.
    async fn counted(body: &[u8], size: usize, answered_first: bool) -> Option<u64> {
        let metrics = Metrics::new(MetricsOptions::default());
        let series = metrics.model("m", "1", "s@file");
        let pieces = body.chunks(size).rev().map(Bytes::copy_from_slice).collect();
        let mut sent = RequestBody::boxed(Pieces(pieces));
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        )]);
        let count = watch(&headers, &mut sent, &series).expect("a body");
        assert_eq!(sent.size_hint().exact(), Some(body.len() as u64));
        if answered_first {
            count.answered();
        }
        assert_eq!(sent.collect().await.expect("a body").to_bytes(), body);
        if !answered_first {
            count.answered();
        }
        told(&metrics)
    }

    fn told(metrics: &Metrics) -> Option<u64> {
        let text = String::from_utf8(metrics.render(Format::Text004, std::time::Instant::now())).expect("text");
        let mut lines = text.lines().filter(|line| line.starts_with("model_voxels_total{"));
        lines.next().and_then(|line| line.rsplit(' ').next()?.parse().ok())
    }

    fn volume(gzip: bool) -> Vec<u8> {
        let voxels: Vec<u8> = (0..20 * 30 * 40_u32).map(|i| (i % 251) as u8).collect();
        let geometry = Geometry::centred([20, 30, 40], [1.0; 3]);
        encode(&geometry, "test", Voxels::Uint8(&voxels), gzip).expect("memory")
    }

    #[tokio::test]
    async fn a_volume_is_counted_however_it_is_cut() {
        for gzip in [false, true] {
            let body = volume(gzip);
            for size in [1, 7, 347, 348, 1000, body.len()] {
                for first in [false, true] {
                    assert_eq!(counted(&body, size, first).await, Some(24_000), "{gzip} {size} {first}");
                }
            }
        }
        assert_eq!(counted(&vec![b'x'; 200_000], 1000, true).await, None);
        assert_eq!(counted(&volume(false)[..300], 100, true).await, None);
    }

    #[test]
    fn a_body_at_hand_is_looked_at_once_and_only_an_answer_counts() {
        let metrics = Metrics::new(MetricsOptions::default());
        let series = metrics.model("m", "1", "s@file");
        let mut body = RequestBody::Full(volume(true).into());
        let count = watch(&HeaderMap::new(), &mut body, &series).expect("a body");
        assert!(matches!(body, RequestBody::Full(_)));
        assert_eq!(told(&metrics), None);
        count.answered();
        assert_eq!(told(&metrics), Some(24_000));
        assert!(watch(&HeaderMap::new(), &mut RequestBody::Empty, &series).is_none());
    }
}
