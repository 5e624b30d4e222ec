//! One HTTP/1.1 request on one connection to a server.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::response::Parts;
use ::http::{Method, StatusCode};
use bytes::BytesMut;

use super::http1_body::Http1Body;
use super::http1_head::{self, BodyLength, Head};
use super::pool::Ticket;
use super::pump::{Pump, PumpError};
use super::stream::Stream;
use crate::http::body::{BodyError, ResponseBody};
use crate::listen::connection::ConnState;
use crate::listen::deadline::Deadlines;

/// Most interim answers (1xx) before the final one: 102 every few seconds is fine, a flood is not.
const MAX_INTERIM: u32 = 1024;

/// First room for an answer: a head and a small body arrive with one read.
pub const FIRST_READ: usize = 16 * 1024;

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub struct Wire {
    /// The socket.
    pub stream: Stream,
    /// Bytes that were read and not used yet. Empty while the connection is idle.
    pub buf: BytesMut,
    /// Write buffer, kept for the next head.
    pub out: Vec<u8>,
    /// The connection has served a request before.
    pub reused: bool,
}

impl Wire {
    /// A fresh connection.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            buf: BytesMut::new(),
            out: Vec::new(),
            reused: false,
        }
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub enum SendError {
    /// The connection failed before a byte of an answer came.
    Closed {
        /// What the socket said.
        error: io::Error,
        /// What was to be sent: it may be possible to send it again.
        pump: Box<Pump>,
    },
    /// `responseHeaderTimeout` passed.
    Timeout,
    /// The client's body failed.
    Body(BodyError),
    /// The answer is no HTTP/1.1.
    Garbage(String),
    /// The answer breaks the protocol's rules, or its end cannot be told.
    Protocol(String),
}

/// How an exchange with a server is watched.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// The request asks for another protocol.
    pub upgrading: bool,
    /// `responseHeaderTimeout`; zero is none.
    pub header_timeout: Duration,
    /// The client's connection, where interim answers are passed on.
    pub interim: Option<Arc<ConnState>>,
    /// The worker's timers.
    pub deadlines: Rc<Deadlines>,
}

/// What a server answered.
pub enum Answer {
    /// An ordinary answer.
    Response(Parts, ResponseBody),
    /// 101: the connection belongs to the other protocol now. Bytes that came behind the head are still in the wire.
    Upgraded(Parts, Box<Wire>),
}

/// Sends what `pump` holds and awaits the head of the answer.
///
/// The rest of an upload goes on inside the answer's body. Dropping the future or the body closes the connection: that
/// is how a cancelled request reaches the server.
///
/// # Errors
/// See [`SendError`].
pub async fn send(
    mut wire: Box<Wire>,
    method: &Method,
    mut pump: Pump,
    ticket: Ticket,
    options: &SendOptions,
) -> Result<Answer, SendError> {
    let mut way = Way {
        up: Up::Going,
        interim: 0,
    };
    let mut deadline = None;
    let head = poll_fn(|cx| {
        let head = poll_head(cx, &mut wire, &mut pump, &mut way, method, options);
        if head.is_pending() && !options.header_timeout.is_zero() && pump.is_done() {
            let deadline = deadline.get_or_insert_with(|| {
                let deadline = options.deadlines.insert();
                deadline.arm_after(options.header_timeout);
                deadline
            });
            ready!(deadline.poll_fired(cx));
            return Poll::Ready(Err(Failure::Send(SendError::Timeout)));
        }
        head
    })
    .await;
    match head {
        Ok(head) if head.parts.status == StatusCode::SWITCHING_PROTOCOLS => {
            if !options.upgrading {
                return Err(SendError::Protocol("101 where nobody asked for an upgrade".into()));
            }
            Ok(Answer::Upgraded(head.parts, wire))
        }
        Ok(head) => Ok(answer(head, wire, pump, &way.up, ticket)),
        Err(Failure::Closed(error)) => Err(SendError::Closed {
            error,
            pump: Box::new(pump),
        }),
        Err(Failure::Send(error)) => Err(error),
    }
}

/// The state of the way up.
enum Up {
    Going,
    /// The server takes no more. It may have answered before it closed.
    Broken(Option<io::Error>),
}

/// How far an exchange is.
struct Way {
    up: Up,
    /// Interim answers so far.
    interim: u32,
}

enum Failure {
    Closed(io::Error),
    Send(SendError),
}

fn poll_head(
    cx: &mut Context<'_>,
    wire: &mut Wire,
    pump: &mut Pump,
    way: &mut Way,
    method: &Method,
    options: &SendOptions,
) -> Poll<Result<Head, Failure>> {
    if matches!(way.up, Up::Going) && !pump.is_done() {
        match pump.poll(cx, &mut wire.stream) {
            Poll::Ready(Err(PumpError::Body(e))) => return Poll::Ready(Err(Failure::Send(SendError::Body(e)))),
            Poll::Ready(Err(PumpError::Io(e))) => way.up = Up::Broken(Some(e)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
    }
    loop {
        wire.buf.reserve(FIRST_READ);
        match wire.stream.poll_read_buf(cx, &mut wire.buf) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(closed(wire, &mut way.up, io::ErrorKind::UnexpectedEof.into())));
            }
            Poll::Ready(Err(e)) => return Poll::Ready(Err(closed(wire, &mut way.up, e))),
            Poll::Ready(Ok(_)) => {}
        }
        loop {
            match http1_head::parse_response(&mut wire.buf, method) {
                Err(http1_head::HeadError::Garbage(e)) => {
                    return Poll::Ready(Err(Failure::Send(SendError::Garbage(e))));
                }
                Err(http1_head::HeadError::Framing(e)) => {
                    return Poll::Ready(Err(Failure::Send(SendError::Protocol(e))));
                }
                Ok(None) => break,
                Ok(Some(head)) if head.parts.status.is_informational() => {
                    if head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
                        let body_is_up = pump.is_done() || !options.upgrading;
                        return Poll::Ready(if body_is_up {
                            Ok(head)
                        } else {
                            Err(Failure::Send(SendError::Protocol(
                                "101 before the request's end".into(),
                            )))
                        });
                    }
                    way.interim += 1;
                    if way.interim > MAX_INTERIM {
                        let error = format!("more than {MAX_INTERIM} interim answers");
                        return Poll::Ready(Err(Failure::Send(SendError::Protocol(error))));
                    }
                    // 100 is Gantry's own business with its client.
                    if let Some(client) = &options.interim
                        && head.parts.status != StatusCode::CONTINUE
                    {
                        client.push_interim(&http1_head::interim(head.parts));
                    }
                }
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
            }
        }
    }
}

fn closed(wire: &Wire, up: &mut Up, error: io::Error) -> Failure {
    if !wire.buf.is_empty() {
        return Failure::Send(SendError::Protocol("the answer broke off in its head".into()));
    }
    let first = if let Up::Broken(first) = up { first.take() } else { None };
    Failure::Closed(first.unwrap_or(error))
}

/// Makes the answer; one that is already here whole gives its connection back at once and costs no box.
fn answer(head: Head, mut wire: Box<Wire>, pump: Pump, up: &Up, ticket: Ticket) -> Answer {
    let whole = pump.is_done() && matches!(up, Up::Going);
    let keep_alive = head.keep_alive && matches!(up, Up::Going);
    if let (true, BodyLength::Known(n)) = (whole, head.length)
        && wire.buf.len() as u64 >= n
    {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        let body = wire.buf.split_to(n).freeze();
        let (_, out) = pump.into_parts();
        wire.out = out;
        // Bytes behind the answer's end belong to nobody: the next request must not take them for its answer.
        if keep_alive && wire.buf.is_empty() {
            ticket.give_back(wire);
        }
        let body = if body.is_empty() {
            ResponseBody::Empty
        } else {
            ResponseBody::Full(body)
        };
        return Answer::Response(head.parts, body);
    }
    let body = Http1Body::new(wire, (!whole).then_some(pump), head.length, keep_alive, ticket);
    Answer::Response(head.parts, ResponseBody::boxed(body))
}

#[cfg(test)]
mod tests;
