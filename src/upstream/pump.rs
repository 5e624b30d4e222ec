//! The way up: a request's head and body, written while the answer is already awaited.
//!
//! The pump is polled inside the request's own future (or the answer's body, when the server answers early): no
//! second task and no channel, so that back-pressure and cancellation need no code of their own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::stream::Stream;
use crate::http::body::{BodyError, RequestBody};

/// Pieces up to this size are copied behind what waits already: one `send` is cheaper than one `writev`.
const JOIN: usize = 8 * 1024;

/// How the end of a request body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, and no header speaks of one.
    None,
    /// Content-Length, with the bytes that are still to come.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

impl Framing {
    /// The framing of `body` under `method`: as Go's transport does it, an empty body is announced by
    /// `Content-Length: 0` for POST, PUT and PATCH only.
    #[must_use]
    pub fn of(method: &::http::Method, body: &RequestBody) -> Self {
        if body.is_end_stream() {
            let announces = [::http::Method::POST, ::http::Method::PUT, ::http::Method::PATCH].contains(method);
            return if announces { Self::Length(0) } else { Self::None };
        }
        match body.size_hint().exact() {
            Some(n) => Self::Length(n),
            None => Self::Chunked,
        }
    }
}

/// Why the way up ended.
#[derive(Debug)]
pub enum PumpError {
    /// The client's body failed; the server must not take what it got for the whole.
    Body(BodyError),
    /// The server does not take more.
    Io(io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    Flushing,
    Done,
}

/// What is being written to the server.
#[derive(Debug)]
pub struct Pump {
    out: Vec<u8>,
    out_done: usize,
    chunk: Bytes,
    after: &'static [u8],
    body: RequestBody,
    framing: Framing,
    state: State,
    written: u64,
    touched: bool,
}

impl Pump {
    /// Starts with `head` (a whole request head) and goes on with `body`.
    #[must_use]
    pub fn new(head: Vec<u8>, body: RequestBody, framing: Framing) -> Self {
        let bodyless = matches!(framing, Framing::None | Framing::Length(0));
        let state = if bodyless { State::Flushing } else { State::Streaming };
        Self {
            out: head,
            out_done: 0,
            chunk: Bytes::new(),
            after: b"",
            body,
            framing,
            state,
            written: 0,
            touched: false,
        }
    }

    /// Whether everything is with the server.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether any byte went out.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.written > 0
    }

    /// Starts over on another connection, with a new copy of the head. Possible while nothing went out, or nothing of
    /// the body was read; gives the pump back otherwise.
    ///
    /// # Errors
    /// The pump itself, when it cannot be restarted.
    #[expect(
        clippy::result_large_err,
        reason = "both outcomes are the pump, handed on by its owner at once"
    )]
    pub fn restart(self, head: Vec<u8>) -> Result<Self, Self> {
        if self.written == 0 {
            return Ok(self);
        }
        if self.touched {
            return Err(self);
        }
        Ok(Self::new(head, self.body, self.framing))
    }

    /// The body, if nothing of it was read yet, and the buffer for the next head.
    #[must_use]
    pub fn into_parts(self) -> (Option<RequestBody>, Vec<u8>) {
        let mut out = self.out;
        out.clear();
        ((!self.touched).then_some(self.body), out)
    }

    /// Writes and reads on until everything is with the server.
    pub fn poll(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<Result<(), PumpError>> {
        loop {
            if self.state == State::Streaming && self.out_done == 0 && self.chunk.is_empty() && self.after.is_empty() {
                // The head still waits, or nothing does: a piece that is at hand may travel with it.
                match self.poll_piece(cx) {
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending if self.out.is_empty() => {
                        ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(PumpError::Io)?;
                        return Poll::Pending;
                    }
                    Poll::Pending => {}
                }
            }
            ready!(self.poll_write(cx, stream)).map_err(PumpError::Io)?;
            match self.state {
                State::Streaming => {}
                State::Flushing => {
                    ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(PumpError::Io)?;
                    self.state = State::Done;
                }
                State::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes the next piece of the body into the write buffers.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        self.touched = true;
        match frame {
            Some(Ok(frame)) => {
                // Trailers stop here, as at Traefik: their names were hop-by-hop.
                if let Ok(data) = frame.into_data() {
                    self.push(data)?;
                }
                if self.body.is_end_stream() {
                    self.finish()?;
                }
            }
            Some(Err(e)) => return Poll::Ready(Err(PumpError::Body(e))),
            None => self.finish()?,
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) -> Result<(), PumpError> {
        if data.is_empty() {
            return Ok(());
        }
        let len = data.len() as u64;
        match &mut self.framing {
            Framing::Length(left) => match left.checked_sub(len) {
                Some(rest) => *left = rest,
                None => {
                    return Err(PumpError::Body(BodyError::Client(
                        "longer than its Content-Length".into(),
                    )));
                }
            },
            Framing::Chunked => {
                use std::io::Write as _;
                let _ = write!(self.out, "{len:x}\r\n");
                self.after = b"\r\n";
            }
            Framing::None => {
                return Err(PumpError::Body(BodyError::Client(
                    "a body where none was announced".into(),
                )));
            }
        }
        if data.len() <= JOIN {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(self.after);
            self.after = b"";
        } else {
            self.chunk = data;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), PumpError> {
        match self.framing {
            Framing::Length(left) if left > 0 => {
                return Err(PumpError::Body(BodyError::Client(
                    "shorter than its Content-Length".into(),
                )));
            }
            Framing::Chunked => {
                if self.chunk.is_empty() {
                    self.out.extend_from_slice(b"0\r\n\r\n");
                } else {
                    self.after = b"\r\n0\r\n\r\n";
                }
            }
            _ => {}
        }
        self.state = State::Flushing;
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        loop {
            let head = &self.out[self.out_done..];
            if head.is_empty() && self.chunk.is_empty() && self.after.is_empty() {
                self.out.clear();
                self.out_done = 0;
                return Poll::Ready(Ok(()));
            }
            let n = if self.chunk.is_empty() && self.after.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(cx, head))?
            } else {
                let slices = [IoSlice::new(head), IoSlice::new(&self.chunk), IoSlice::new(self.after)];
                let from = usize::from(head.is_empty());
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices[from..]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
    }

    fn advance(&mut self, mut n: usize) {
        self.written += n as u64;
        let head = (self.out.len() - self.out_done).min(n);
        self.out_done += head;
        n -= head;
        let chunk = self.chunk.len().min(n);
        self.chunk.advance(chunk);
        n -= chunk;
        self.after = &self.after[n..];
    }
}
