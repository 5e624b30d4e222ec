//! The bytes under hyper.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::tls::server::ServerStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::connection::ConnState;

/// Writes up to this size are joined into one `send`, which is cheaper than one `writev`.
const JOIN: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(JOIN));
}

/// A client's socket, clear or TLS.
#[derive(Debug)]
pub enum Socket {
    /// Clear text.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<ServerStream<TcpStream>>),
}

/// A client's socket that tells its [`ConnState`] what happens.
#[derive(Debug)]
pub struct Io {
    socket: Socket,
    state: Arc<ConnState>,
    /// Interim answers on their way out: they go before anything that hyper writes.
    interim: Vec<u8>,
}

impl Io {
    /// Wraps `socket`.
    #[must_use]
    pub fn new(socket: Socket, state: Arc<ConnState>) -> Self {
        Self {
            socket,
            state,
            interim: Vec::new(),
        }
    }

    /// Writes the interim answers that wait; ready when none is left.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(more) = self.state.take_interim() {
            self.interim.extend_from_slice(&more);
        }
        while !self.interim.is_empty() {
            let n = match &mut self.socket {
                Socket::Plain(stream) => ready!(Pin::new(stream).poll_write(cx, &self.interim))?,
                Socket::Tls(stream) => ready!(Pin::new(stream).poll_write(cx, &self.interim))?,
            };
            self.interim.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_joined(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            for buf in bufs {
                scratch.extend_from_slice(buf);
            }
            match &mut self.socket {
                Socket::Plain(stream) => Pin::new(stream).poll_write(cx, scratch),
                Socket::Tls(stream) => Pin::new(stream).poll_write(cx, scratch),
            }
        })
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if polled.is_ready() {
            self.state.on_read(buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.state.on_write(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let polled = if total <= JOIN {
            self.poll_write_joined(cx, bufs)
        } else {
            match &mut self.socket {
                Socket::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
                Socket::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            }
        };
        self.state.on_write(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once its own buffer is empty.
        self.state.on_flush();
        ready!(self.poll_interim(cx))?;
        match &mut self.socket {
            Socket::Plain(_) => Poll::Ready(Ok(())),
            Socket::Tls(stream) => {
                let polled = Pin::new(stream).poll_flush(cx);
                self.state.on_write(polled.is_pending());
                polled
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
