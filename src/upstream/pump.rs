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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use ::http::{HeaderMap, Method};
    use http_body::{Frame, SizeHint};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A body of given pieces; `length` is what it claims to be long.
    struct Pieces {
        pieces: VecDeque<Result<Frame<Bytes>, BodyError>>,
        length: Option<u64>,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.pieces.pop_front())
        }

        fn size_hint(&self) -> SizeHint {
            self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn body(length: Option<u64>, pieces: &[&'static str]) -> RequestBody {
        let frame = |piece: &&'static str| Ok(Frame::data(Bytes::from_static(piece.as_bytes())));
        RequestBody::boxed(Pieces {
            pieces: pieces.iter().map(frame).collect(),
            length,
        })
    }

    /// What a server reads of `body`, behind the head `H`, until the gateway's end is closed.
    async fn written(body: RequestBody) -> (String, Result<(), PumpError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let near = TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("a connection");
        let (mut far, _) = listener.accept().await.expect("a peer");
        let read = async {
            let mut all = String::new();
            far.read_to_string(&mut all).await.expect("text");
            all
        };
        let write = async {
            let mut stream = Stream::Plain(near);
            let framing = Framing::of(&Method::POST, &body);
            let mut pump = Pump::new(b"H".to_vec(), body, framing);
            let result = poll_fn(|cx| pump.poll(cx, &mut stream)).await;
            assert_eq!(pump.is_done(), result.is_ok());
            result
        };
        tokio::join!(read, write)
    }

    #[tokio::test]
    async fn bodies_are_framed_by_what_is_known_of_them() {
        let long: &'static str = Box::leak("x".repeat(JOIN + 1).into_boxed_str());
        for (body, expected) in [
            (RequestBody::Empty, "H".to_owned()),
            (RequestBody::Full(Bytes::from_static(b"abc")), "Habc".to_owned()),
            (body(Some(3), &["a", "", "bc"]), "Habc".to_owned()),
            (body(None, &[]), "H0\r\n\r\n".to_owned()),
            (
                body(None, &["a", "", "bc"]),
                "H1\r\na\r\n2\r\nbc\r\n0\r\n\r\n".to_owned(),
            ),
            (
                body(None, &["a", long, "b"]),
                format!("H1\r\na\r\n2001\r\n{long}\r\n1\r\nb\r\n0\r\n\r\n"),
            ),
            (body(None, &[long]), format!("H2001\r\n{long}\r\n0\r\n\r\n")),
        ] {
            let (bytes, result) = written(body).await;
            assert!(result.is_ok() && bytes == expected, "{result:?} {bytes}");
        }
    }

    #[tokio::test]
    async fn trailers_do_not_reach_the_server() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", ::http::HeaderValue::from_static("v"));
        let pieces = [Ok(Frame::data(Bytes::from_static(b"a"))), Ok(Frame::trailers(trailers))];
        let (bytes, _) = written(RequestBody::boxed(Pieces {
            pieces: pieces.into(),
            length: None,
        }))
        .await;
        assert_eq!(bytes, "H1\r\na\r\n0\r\n\r\n");
    }

    /// What a server got of such a body must never look whole.
    #[tokio::test]
    async fn a_body_that_fails_or_breaks_its_length_is_never_ended() {
        let failing = [Ok(Frame::data(Bytes::from_static(b"a"))), Err(BodyError::Timeout)];
        let failing = RequestBody::boxed(Pieces {
            pieces: failing.into(),
            length: None,
        });
        for (body, longest) in [
            (failing, "H1\r\na\r\n"),
            (body(Some(3), &["ab"]), "Hab"),
            (body(Some(3), &["abc", "d"]), "Habc"),
        ] {
            let (bytes, result) = written(body).await;
            assert!(matches!(result, Err(PumpError::Body(_))), "{result:?}");
            assert!(longest.starts_with(&bytes), "{bytes}");
        }
    }

    #[test]
    fn starts_over_only_with_a_body_that_is_whole() {
        let fresh = |body: RequestBody| Pump::new(b"H".to_vec(), body, Framing::Length(3));
        let mut sent = fresh(body(Some(3), &["abc"]));
        sent.written = 1;
        let again = sent.restart(b"I".to_vec()).expect("nothing of the body was read");
        assert_eq!((again.out.as_slice(), again.written), (&b"I"[..], 0));
        let mut touched = fresh(body(Some(3), &["abc"]));
        (touched.written, touched.touched) = (1, true);
        assert!(touched.restart(Vec::new()).is_err());
        let mut unsent = fresh(body(Some(3), &["abc"]));
        unsent.touched = true;
        assert!(
            unsent.restart(Vec::new()).is_ok(),
            "what was read still waits to be written"
        );
    }

    #[test]
    fn empty_bodies_are_announced_as_go_does_it() {
        for (method, framing) in [
            (Method::GET, Framing::None),
            (Method::HEAD, Framing::None),
            (Method::DELETE, Framing::None),
            (Method::POST, Framing::Length(0)),
            (Method::PUT, Framing::Length(0)),
            (Method::PATCH, Framing::Length(0)),
        ] {
            assert_eq!(Framing::of(&method, &RequestBody::Empty), framing, "{method}");
        }
        assert_eq!(Framing::of(&Method::GET, &body(Some(3), &["abc"])), Framing::Length(3));
        assert_eq!(Framing::of(&Method::GET, &body(None, &["abc"])), Framing::Chunked);
    }
}
