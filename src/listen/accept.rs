//! Accepting connections, also when descriptors run out, and stopping without losing one.
//!
//! A connection counts as its worker's load from the moment it is accepted or handed over: a burst is accepted before
//! the first of its tasks runs, and must be spread all the same.

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
    // Closing a listener resets the connections in its queue: empty it first, whatever tokio's budget says. None is handed
    // over: the other worker may be gone before it looks.
    tokio::task::unconstrained(poll_fn(|cx| {
        loop {
            match listener.poll_accept(cx) {
                Poll::Ready(Ok((socket, peer))) => {
                    worker.loads.add(worker.index);
                    spawn(&worker, &entry_point, socket, peer);
                }
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
            Err(e) => {
                worker.loads.remove(worker.index);
                tracing::error!("cannot take a connection over: {e}");
            }
        }
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
        worker.loads.add(worker.index);
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
            worker.loads.add(worker.index);
            spawn(worker, entry_point, socket, peer);
        }
    }
}

/// Serves a connection that `worker`'s load counts already.
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

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;
    use arc_swap::ArcSwap;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::sync::watch;

    use super::*;
    use crate::compile::snapshot::Snapshot;
    use crate::config::static_config::EntryPoint as Settings;
    use crate::http::worker::Stage;
    use crate::listen::loads::Loads;
    use crate::observe::metrics::{Metrics, MetricsOptions};

    #[test]
    fn a_burst_is_spread_before_any_of_its_tasks_has_run() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async {
            let (loads, mut ends) = Loads::new(2);
            let metrics = Metrics::new(MetricsOptions::default());
            let series = metrics.entry_point("web");
            let entry_point = EntryPoint::new(0, "web", &Settings::default(), HeaderValue::from_static("here"), series);
            let snapshot = Snapshot {
                generation: 0,
                entry_points: Vec::new(),
                balancers: Vec::new(),
            };
            let (_stage, stages) = watch::channel(Stage::Serving);
            let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
            let worker = Worker::new(0, snapshot, stages, Arc::clone(&loads), metrics.worker(), None);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
            let address = listener.local_addr().expect("an address");
            let connect = |_| std::net::TcpStream::connect(address).expect("a connection");
            let clients: Vec<_> = (0..6).map(connect).collect();
            tokio::task::spawn_local(accept(worker, Arc::new(entry_point.expect("an entry point")), listener));
            for _ in 0..2 {
                ends[1].recv().await.expect("a handed socket");
            }
            while loads.of(0) < 4 {
                tokio::task::yield_now().await;
            }
            assert_eq!((loads.of(0), loads.of(1)), (4, 2));
            drop(clients);
        });
    }
}
