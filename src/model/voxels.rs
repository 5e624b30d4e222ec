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
