//! Larger reads below rustls while a large body flows.
//!
//! rustls asks its connection for 4 KiB to begin with, and for what is left of 18 KiB while records follow each other:
//! a `recv` for each record or more. This adapter notices such a stream (a read that filled what rustls offered) and
//! then reads up to [`BULK`] bytes at once into a buffer of its own, out of which rustls is fed.
//!
//! Invariants:
//! - Bytes pass in their order; none is held back: what is buffered is handed out before the connection is read again.
//! - A small exchange never touches the buffer: it costs neither a copy nor memory.
//! - The buffer is borrowed from the thread while it holds bytes and given back when it is empty, so that an idle
//!   connection has none.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once from a stream that is busy.
pub const BULK: usize = 128 * 1024;

/// Buffers that a thread keeps for its connections.
const SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn borrow_buffer() -> Box<[u8]> {
    SPARE
        .with(|spare| spare.borrow_mut().pop())
        .unwrap_or_else(|| vec![0; BULK].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    SPARE.with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}

/// A connection that is read in large pieces while much arrives. Writes pass through untouched.
#[derive(Debug)]
pub struct BulkIo<IO> {
    io: IO,
    /// What was read and not handed out yet: never empty when present.
    pending: Option<Pending>,
    /// The last read filled what it was offered: more is likely waiting.
    busy: bool,
}

struct Pending {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("bytes", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

impl<IO> BulkIo<IO> {
    /// Wraps a connection.
    pub const fn new(io: IO) -> Self {
        Self {
            io,
            pending: None,
            busy: false,
        }
    }

    /// The connection below.
    pub const fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The connection below. Bytes read from it directly may overtake buffered ones.
    pub const fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Bytes that were read and not handed out yet.
    pub fn buffered(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.end - pending.start)
    }

    fn hand_out(&mut self, into: &mut ReadBuf<'_>) {
        let Some(mut pending) = self.pending.take() else { return };
        let count = into.remaining().min(pending.end - pending.start);
        into.put_slice(&pending.buffer[pending.start..pending.start + count]);
        pending.start += count;
        if pending.start == pending.end {
            give_back(pending.buffer);
        } else {
            self.pending = Some(pending);
        }
    }
}

impl<IO> Drop for BulkIo<IO> {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            give_back(pending.buffer);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for BulkIo<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.pending.is_some() {
            this.hand_out(into);
            return Poll::Ready(Ok(()));
        }
        if !this.busy || into.remaining() >= BULK {
            let before = into.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, into))?;
            this.busy = into.remaining() == 0 && into.filled().len() > before;
            return Poll::Ready(Ok(()));
        }
        let mut buffer = borrow_buffer();
        let mut read = ReadBuf::new(&mut buffer);
        let outcome = Pin::new(&mut this.io).poll_read(cx, &mut read);
        let end = read.filled().len();
        this.busy = false;
        match outcome {
            Poll::Ready(Ok(())) if end > 0 => {
                // Less than one record waited: the stream is no longer busy, pass through again.
                this.busy = end > into.remaining();
                this.pending = Some(Pending { buffer, start: 0, end });
                this.hand_out(into);
                Poll::Ready(Ok(()))
            }
            other => {
                // Nothing came: stay in bulk mode only if the stream has merely paused.
                this.busy = other.is_pending();
                give_back(buffer);
                other
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for BulkIo<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Gives out a body as fast as it is asked for, and counts how often.
    struct Source {
        body: Vec<u8>,
        at: usize,
        /// A `Pending` before each of these offsets.
        pauses: Vec<usize>,
        reads: usize,
    }

    impl AsyncRead for Source {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            this.reads += 1;
            let mut end = this.body.len();
            if let Some(pause) = this.pauses.first().copied() {
                if pause == this.at {
                    this.pauses.remove(0);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                end = pause;
            }
            let count = into.remaining().min(end - this.at);
            into.put_slice(&this.body[this.at..this.at + count]);
            this.at += count;
            Poll::Ready(Ok(()))
        }
    }

    fn body(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    async fn read_all(len: usize, pauses: Vec<usize>, piece: usize) -> (Vec<u8>, usize) {
        let source = Source {
            body: body(len),
            at: 0,
            pauses,
            reads: 0,
        };
        let mut io = BulkIo::new(source);
        let mut all = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            let count = io.read(&mut buffer).await.unwrap();
            if count == 0 {
                assert_eq!(io.buffered(), 0);
                return (all, io.get_ref().reads);
            }
            all.extend_from_slice(&buffer[..count]);
        }
    }

    #[tokio::test]
    async fn nothing_is_lost_or_moved() {
        for len in [0, 1, 4095, 4096, 4097, 8192, BULK, BULK + 4096, BULK + 4097, 1_000_000] {
            for pauses in [vec![], vec![0], vec![len / 3, len / 2]] {
                let mut pauses = pauses;
                pauses.retain(|pause| *pause < len);
                pauses.dedup();
                let (all, _) = read_all(len, pauses, 4096).await;
                assert!(all == body(len), "{len}");
            }
        }
    }

    #[tokio::test]
    async fn a_large_body_takes_few_reads() {
        let (_, reads) = read_all(8 * BULK, vec![], 4096).await;
        assert!(reads <= 11, "{reads}");
    }

    #[tokio::test]
    async fn a_small_message_passes_through() {
        let (_, reads) = read_all(1000, vec![], 4096).await;
        assert_eq!(reads, 2);
    }

    #[tokio::test]
    async fn an_error_is_passed_on() {
        let mut io = BulkIo::new(broken());
        assert_eq!(
            io.read(&mut [0; 4]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }

    fn broken() -> impl AsyncRead + Unpin {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        Broken
    }

    /// What the adapter is for, in numbers: reads of the connection for 4 MiB that a TLS client sends.
    #[tokio::test]
    async fn an_upload_over_tls_takes_few_reads() {
        const BODY: usize = 4 << 20;
        let (client, reads) = super::super::fixture::upload(BODY).await;
        assert_eq!(client, BODY);
        // 35 when written; without the adapter 278, more than one for each record of 16 KiB.
        assert!(reads < 100, "{reads}");
    }
}
