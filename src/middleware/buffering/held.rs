//! The beginning of a body, held back until it is known whether the body is small.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::http::body::BodyError;

/// What was held of a body.
#[derive(Debug)]
pub enum Held<B> {
    /// All of it.
    Whole(Bytes),
    /// Its beginning; the rest follows as it comes. Also a whole body with trailers.
    Part(Counted<B>),
}

/// Why nothing of a body can be used.
#[derive(Debug)]
pub enum Outgrown {
    /// It is larger than its limit.
    Limit,
    /// It did not arrive.
    Broken(BodyError),
}

/// Reads a body until it ends, has trailers, or is larger than `hold` bytes.
///
/// # Errors
/// The body is larger than `max`, or broke off.
pub async fn collect<B>(mut body: B, max: Option<u64>, hold: u64) -> Result<Held<B>, Outgrown>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut frames = VecDeque::new();
    let mut length: u64 = 0;
    loop {
        let Some(frame) = body.frame().await else {
            return Ok(Held::Whole(join(frames, length)));
        };
        let frame = frame.map_err(Outgrown::Broken)?;
        let Some(data) = frame.data_ref() else {
            frames.push_back(frame);
            break;
        };
        length += data.len() as u64;
        if max.is_some_and(|max| length > max) {
            return Err(Outgrown::Limit);
        }
        frames.push_back(frame);
        if length > hold {
            break;
        }
    }
    Ok(Held::Part(Counted {
        frames,
        body,
        length,
        max,
        outgrown: None,
    }))
}

fn join(frames: VecDeque<Frame<Bytes>>, length: u64) -> Bytes {
    let mut pieces = frames.into_iter().filter_map(|frame| frame.into_data().ok());
    let Some(first) = pieces.next() else {
        return Bytes::new();
    };
    let Some(second) = pieces.next() else { return first };
    let mut whole = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    for piece in [first, second].into_iter().chain(pieces) {
        whole.extend_from_slice(&piece);
    }
    whole.freeze()
}

/// A body with frames that were held, and a count of its bytes. It breaks off at its limit.
#[derive(Debug)]
pub struct Counted<B> {
    frames: VecDeque<Frame<Bytes>>,
    body: B,
    /// Bytes read from `body` so far.
    length: u64,
    max: Option<u64>,
    outgrown: Option<Rc<Cell<bool>>>,
}

impl<B> Counted<B> {
    /// Lets `outgrown` be told when the limit is passed.
    #[must_use]
    pub fn tell(mut self, outgrown: Rc<Cell<bool>>) -> Self {
        self.outgrown = Some(outgrown);
        self
    }

    fn count(&mut self, frame: &Frame<Bytes>) -> Result<(), BodyError> {
        self.length += frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.max {
            Some(max) if self.length > max => {
                if let Some(outgrown) = &self.outgrown {
                    outgrown.set(true);
                }
                Err(BodyError::TooLarge(max))
            }
            _ => Ok(()),
        }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            self.count(&frame)?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held: u64 = self
            .frames
            .iter()
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64)
            .sum();
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(held.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(held)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A body of unknown length.
    #[derive(Debug)]
    pub(in super::super) struct Pieces(VecDeque<Result<Frame<Bytes>, BodyError>>);

    impl Pieces {
        pub(in super::super) fn new(pieces: &[&'static str]) -> Self {
            Self(
                pieces
                    .iter()
                    .map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))
                    .collect(),
            )
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    async fn whole(pieces: &[&'static str], max: Option<u64>, hold: u64) -> Option<Bytes> {
        match collect(Pieces::new(pieces), max, hold).await {
            Ok(Held::Whole(bytes)) => Some(bytes),
            _ => None,
        }
    }

    #[tokio::test]
    async fn small_bodies_are_held_whole() {
        assert_eq!(whole(&[], None, 0).await.unwrap(), "");
        assert_eq!(whole(&["a"], Some(1), 1).await.unwrap(), "a");
        assert_eq!(whole(&["ab", "cd", "ef"], Some(6), 6).await.unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn large_bodies_stream_on() {
        let Ok(Held::Part(body)) = collect(Pieces::new(&["ab", "cd", "ef"]), Some(6), 3).await else {
            panic!("held too much")
        };
        assert_eq!(body.size_hint().lower(), 4);
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn no_byte_beyond_the_limit_passes() {
        assert!(matches!(
            collect(Pieces::new(&["ab", "cd"]), Some(3), 64).await,
            Err(Outgrown::Limit)
        ));
        let Ok(Held::Part(mut body)) = collect(Pieces::new(&["ab", "cd"]), Some(3), 1).await else {
            panic!()
        };
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert_eq!(body.frame().await.unwrap().unwrap_err(), BodyError::TooLarge(3));
    }

    #[tokio::test]
    async fn trailers_are_kept() {
        let mut pieces = Pieces::new(&["ab"]);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-model-dice", http::HeaderValue::from_static("0.9"));
        pieces.0.push_back(Ok(Frame::trailers(trailers)));
        let Ok(Held::Part(body)) = collect(pieces, Some(6), 64).await else {
            panic!("trailers are lost")
        };
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-model-dice"], "0.9");
        assert_eq!(collected.to_bytes(), "ab");
    }

    #[tokio::test]
    async fn broken_bodies() {
        let mut pieces = Pieces::new(&["ab"]);
        pieces.0.push_back(Err(BodyError::Timeout));
        assert!(matches!(
            collect(pieces, None, 64).await,
            Err(Outgrown::Broken(BodyError::Timeout))
        ));
    }
}
