//! The body of an HTTP/1.1 answer, read inline: no channel, no task, chunks that grow while a large body flows.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::chunked::{Chunked, Step};
use super::http1::{FIRST_READ, Wire};
use super::http1_head::BodyLength;
use super::pool::Ticket;
use super::pump::{Pump, PumpError};
use crate::http::body::BodyError;

/// Largest piece that is read at once.
const MAX_READ: usize = 1024 * 1024;

#[derive(Debug)]
enum Left {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Nothing,
}

/// The body of an answer. It owns its connection, and the rest of the upload where the server answered early.
#[derive(Debug)]
pub struct Http1Body {
    wire: Option<Box<Wire>>,
    pump: Option<Pump>,
    left: Left,
    keep_alive: bool,
    ticket: Option<Ticket>,
    read: usize,
}

impl Http1Body {
    /// A body of `length` on `wire`; `pump` is what is still to be sent.
    #[must_use]
    pub fn new(wire: Box<Wire>, pump: Option<Pump>, length: BodyLength, keep_alive: bool, ticket: Ticket) -> Self {
        let left = match length {
            BodyLength::Known(0) => Left::Nothing,
            BodyLength::Known(n) => Left::Length(n),
            BodyLength::Chunked => Left::Chunked(Chunked::default()),
            BodyLength::UntilClose => Left::UntilClose,
        };
        Self {
            wire: Some(wire),
            pump,
            left,
            keep_alive,
            ticket: Some(ticket),
            read: FIRST_READ,
        }
    }

    /// The answer is through: the connection goes back, if both directions ended cleanly.
    fn finish(&mut self) {
        self.left = Left::Nothing;
        let sent = self.pump.as_ref().is_none_or(Pump::is_done);
        if let (Some(mut wire), Some(ticket)) = (self.wire.take(), self.ticket.take())
            && self.keep_alive
            && sent
            && wire.buf.is_empty()
        {
            if let Some(pump) = self.pump.take() {
                wire.out = pump.into_parts().1;
            }
            // The rest of what may be a megabyte is not kept for an idle connection.
            wire.buf = BytesMut::new();
            ticket.give_back(wire);
        }
        self.pump = None;
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let (Some(pump), Some(wire)) = (&mut self.pump, &mut self.wire) else {
            return Ok(());
        };
        match pump.poll(cx, &mut wire.stream) {
            Poll::Ready(Err(PumpError::Body(e))) => return Err(e),
            // The server stopped listening; what it says still counts.
            Poll::Ready(Err(PumpError::Io(_))) => {
                self.keep_alive = false;
                self.pump = None;
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Takes what the buffer holds; `None` when it must be filled.
    fn take(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let wire = self.wire.as_mut()?;
        match &mut self.left {
            Left::Nothing => None,
            Left::Chunked(chunked) => match chunked.decode(&mut wire.buf) {
                Err(e) => Some(Err(BodyError::Server(e.into()))),
                Ok(Step::More) => None,
                Ok(Step::Data(data)) => Some(Ok(Frame::data(data))),
                Ok(Step::Trailers(map)) => {
                    self.finish();
                    Some(Ok(Frame::trailers(map)))
                }
                Ok(Step::End) => {
                    self.finish();
                    None
                }
            },
            _ if wire.buf.is_empty() => None,
            Left::UntilClose => Some(Ok(Frame::data(wire.buf.split().freeze()))),
            Left::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(wire.buf.len());
                *left -= n as u64;
                let done = *left == 0;
                let data = wire.buf.split_to(n).freeze();
                if done {
                    self.finish();
                }
                Some(Ok(Frame::data(data)))
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, BodyError>> {
        let Some(wire) = &mut self.wire else {
            return Poll::Ready(Ok(0));
        };
        let room = match self.left {
            // No more than the body needs, so that the next answer's bytes never hide behind this one.
            Left::Length(left) => self
                .read
                .min(usize::try_from(left).unwrap_or(usize::MAX).max(FIRST_READ)),
            _ => self.read,
        };
        if wire.buf.capacity() - wire.buf.len() < room / 2 {
            wire.buf.reserve(room);
        }
        match wire.stream.poll_read_buf(cx, &mut wire.buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(n)) => {
                if n >= room / 2 {
                    self.read = (self.read * 4).min(MAX_READ);
                } else if n < room / 16 {
                    self.read = (self.read / 2).max(FIRST_READ);
                }
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(BodyError::Server(e.to_string()))),
        }
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(e) = self.poll_upload(cx) {
            self.wire = None;
            return Poll::Ready(Some(Err(e)));
        }
        loop {
            if let Some(frame) = self.take() {
                if frame.is_err() {
                    self.wire = None;
                }
                return Poll::Ready(Some(frame));
            }
            if matches!(self.left, Left::Nothing) {
                self.finish();
                return Poll::Ready(None);
            }
            match self.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => {
                    self.wire = None;
                    return Poll::Ready(Some(Err(e)));
                }
                Poll::Ready(Ok(0)) => {
                    self.wire = None;
                    let whole = matches!(self.left, Left::UntilClose);
                    self.left = Left::Nothing;
                    return Poll::Ready(if whole {
                        None
                    } else {
                        Some(Err(BodyError::Server("it ended before its end".into())))
                    });
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.left, Left::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Length(n) => SizeHint::with_exact(n),
            Left::Nothing => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}
