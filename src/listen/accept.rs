//! Accepting connections, also when descriptors run out, and stopping without losing one.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::entry_point::EntryPoint;
use super::loads::Handed;
use super::serve_connection::serve_connection;
use crate::http::worker::Worker;

/// Pause after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A failing accept is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Accepts on `listener` until the worker stops accepting; then takes what still waits in the queue and closes it.
pub async fn accept(worker: Rc<Worker>, entry_point: Arc<EntryPoint>, listener: TcpListener) {
    let mut logged: Option<Instant> = None;
    let mut stop = std::pin::pin!(worker.stopped_accepting());
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((socket, peer)) => place(&worker, &entry_point, socket, peer),
            Err(e) if is_about_the_peer(&e) => {}
            Err(e) => {
                if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                    logged = Some(Instant::now());
                    tracing::error!(entry_point = %entry_point.name, "cannot accept connections: {e}");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    // Closing a listener resets the connections in its queue: empty it first, whatever tokio's budget says.
    tokio::task::unconstrained(poll_fn(|cx| {
        loop {
            match listener.poll_accept(cx) {
                Poll::Ready(Ok((socket, peer))) => place(&worker, &entry_point, socket, peer),
                Poll::Ready(Err(e)) if is_about_the_peer(&e) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Ready(()),
            }
        }
    }))
    .await;
}

/// Takes over what other workers accepted.
pub async fn take_over(worker: Rc<Worker>, mut handed: mpsc::Receiver<Handed>) {
    while let Some(Handed {
        socket,
        peer,
        entry_point,
    }) = handed.recv().await
    {
        match TcpStream::from_std(socket) {
            Ok(socket) => spawn(&worker, &entry_point, socket, peer),
            Err(e) => tracing::error!("cannot take a connection over: {e}"),
        }
        // It counts twice for a moment rather than not at all.
        worker.loads.remove(worker.index);
    }
}

/// The connection goes to the least loaded worker.
fn place(worker: &Rc<Worker>, entry_point: &Arc<EntryPoint>, socket: TcpStream, peer: SocketAddr) {
    // While the workers drain, another one may have ended already.
    let other = if worker.is_draining() {
        None
    } else {
        worker.loads.better_than(worker.index)
    };
    let Some(other) = other else {
        return spawn(worker, entry_point, socket, peer);
    };
    let Ok(socket) = socket.into_std() else { return };
    worker.loads.add(other);
    if let Err(kept) = worker.loads.hand(
        other,
        Handed {
            socket,
            peer,
            entry_point: Arc::clone(entry_point),
        },
    ) {
        worker.loads.remove(other);
        if let Ok(socket) = TcpStream::from_std(kept.socket) {
            spawn(worker, entry_point, socket, peer);
        }
    }
}

fn spawn(worker: &Rc<Worker>, entry_point: &Arc<EntryPoint>, socket: TcpStream, peer: SocketAddr) {
    // A panic ends this task, so this connection, and nothing else.
    tokio::task::spawn_local(serve_connection(
        Rc::clone(worker),
        Arc::clone(entry_point),
        socket,
        peer,
    ));
}

fn is_about_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
