//! Long answers of Gantry's own, until they are read.
//!
//! A scrape is rendered in one piece, and every reader's piece is another one. Who asks at hundreds of connections and reads
//! at none of them would have hundreds of them held, without a password. So all that are being read together have a bound
//! ([`MOST`]); beyond it the one that has been there longest is taken away, and its connection breaks off. A scraper
//! reads in milliseconds and is not among them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http::body::{BodyError, ResponseBody};

/// Bytes of answers that wait for their readers at most, in the process: 256 MiB.
const MOST: usize = 256 << 20;
/// A shorter answer is mostly in the socket already.
const SHORT: usize = 64 << 10;
/// What is copied into the connection at a time.
const PIECE: usize = 32 << 10;

static SHELF: Shelf = Shelf::new(MOST);

/// A body of `text`.
pub(super) fn lend(text: impl Into<Bytes>) -> ResponseBody {
    let text = text.into();
    match text.len() {
        ..=SHORT => ResponseBody::full(text),
        _ => ResponseBody::boxed(SHELF.lend(text)),
    }
}

#[derive(Debug)]
struct Shelf {
    most: usize,
    /// In the order that they came.
    lent: Mutex<VecDeque<Weak<Place>>>,
}

/// An answer's place; empty once it was taken away.
#[derive(Debug)]
struct Place {
    size: usize,
    text: Mutex<Option<Bytes>>,
}

impl Shelf {
    const fn new(most: usize) -> Self {
        let lent = Mutex::new(VecDeque::new());
        Self { most, lent }
    }

    fn lend(&self, text: Bytes) -> Lent {
        let left = text.len();
        let place = Arc::new(Place {
            size: left,
            text: Mutex::new(Some(text)),
        });
        let mut lent = lock(&self.lent);
        let mut others = 0;
        lent.retain(|place| {
            let there = place.upgrade();
            others += there.as_ref().map_or(0, |place| place.size);
            there.is_some()
        });
        while others + left > self.most
            && let Some(oldest) = lent.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                others = others.saturating_sub(oldest.size);
                lock(&oldest.text).take();
            }
        }
        lent.push_back(Arc::downgrade(&place));
        Lent { place, left }
    }
}

/// An answer that is being read.
struct Lent {
    place: Arc<Place>,
    left: usize,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // A copy: a slice in the connection's buffer would keep the whole.
        let piece = lock(&self.place.text).as_ref().map(|text| {
            let rest = &text[text.len() - self.left..];
            Bytes::copy_from_slice(&rest[..rest.len().min(PIECE)])
        });
        Poll::Ready(Some(match piece {
            Some(piece) => {
                self.left -= piece.len();
                Ok(Frame::data(piece))
            }
            None => Err(BodyError::Server("it was not read for too long".to_owned())),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// What is guarded is valid between two statements, also after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn text(letter: u8) -> Bytes {
        vec![letter; 100_000].into()
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_gone_once_it_was_read() {
        let body = lend(text(b'a'));
        assert_eq!(body.size_hint().exact(), Some(100_000));
        assert_eq!(body.collect().await.expect("a body").to_bytes(), text(b'a'));
        assert!(matches!(lend(&b"short"[..]), ResponseBody::Full(_)));
    }

    #[tokio::test]
    async fn readers_that_do_not_read_hold_no_more_than_the_bound() {
        let shelf = Shelf::new(350_000);
        let mut slow = shelf.lend(text(b'a'));
        let first = slow.frame().await.expect("a frame").expect("bytes");
        assert_eq!(first.into_data().expect("bytes").len(), PIECE);
        let held: Vec<_> = (0..50).map(|_| shelf.lend(text(b'b'))).collect();
        let there = held.iter().filter(|lent| lock(&lent.place.text).is_some()).count();
        assert_eq!(there, 3);
        assert!(slow.frame().await.expect("an end").is_err(), "it breaks off");
        let newest = shelf
            .lend(text(b'c'))
            .collect()
            .await
            .expect("who reads at once has it all");
        assert_eq!(newest.to_bytes(), text(b'c'));
        drop(held);
        drop(shelf.lend(text(b'd')));
        assert_eq!(lock(&shelf.lent).len(), 1);
    }
}
