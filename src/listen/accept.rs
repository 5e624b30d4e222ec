//! Accepting connections, also when descriptors run out, and stopping without losing one.
//!
//! A connection counts as its worker's load from the moment it is accepted or handed over: a burst is accepted before
//! the first of its tasks runs, and must be spread all the same.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::entry_point::EntryPoint;
use super::loads::Handed;
use super::serve_connection::serve_connection;
use super::socket::BACKLOG;
use crate::http::worker::Worker;

/// Pause after an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A failing accept is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// Accepts on `listener` until the worker stops accepting; then takes what still waits in the queue and closes it.
pub async fn accept(worker: Rc<Worker>, entry_point: Arc<EntryPoint>, listener: TcpListener) {
    let _open = worker.listener_opened();
    let mut logged: Option<Instant> = None;
    let mut stop = std::pin::pin!(worker.stopped_accepting());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
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
    match listener.into_std() {
        Ok(listener) => empty(&worker, &entry_point, listener).await,
        Err(e) => tracing::error!(entry_point = %entry_point.name, "cannot empty a listener's queue: {e}"),
    }
}

/// Takes what waits in the queue of `listener`, then closes it: closing resets whoever still waits. The system is asked
/// itself, since tokio answers from what the last look at epoll said: a connection that came after it would be lost.
/// None is handed over: the other worker may be gone before it looks.
async fn empty(worker: &Rc<Worker>, entry_point: &Arc<EntryPoint>, listener: std::net::TcpListener) {
    // Whoever waited at the start is among as many as the queue holds: a flood must not keep the listener open.
    let mut left = BACKLOG;
    while left > 0 {
        let accepted = listener.accept().and_then(|(socket, peer)| {
            socket.set_nonblocking(true)?;
            Ok((TcpStream::from_std(socket)?, peer))
        });
        match accepted {
            Ok((socket, peer)) => {
                left -= 1;
                worker.loads.add(worker.index);
                spawn(worker, entry_point, socket, peer);
            }
            Err(e) if is_about_the_peer(&e) => {}
            // Connections that end make room, and the end of the drain bounds the wait.
            Err(e) if is_about_room(&e) => tokio::time::sleep(BACK_OFF).await,
            // The queue is empty.
            Err(_) => return,
        }
    }
}

/// Takes over what other workers accepted, until this one is to accept no more. From then on they keep what they accept:
/// a socket that is on its way to a worker that ends would be reset.
pub async fn take_over(worker: Rc<Worker>, mut handed: mpsc::Receiver<Handed>) {
    let mut stop = std::pin::pin!(worker.stopped_accepting());
    let mut open = true;
    loop {
        let next = tokio::select! {
            () = &mut stop, if open => {
                open = false;
                handed.close();
                continue;
            }
            next = handed.recv() => next,
        };
        let Some(Handed {
            socket,
            peer,
            entry_point,
        }) = next
        else {
            return;
        };
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

/// Whether descriptors or memory ran out.
fn is_about_room(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM].contains(&code))
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

    /// Runs `test` with the first of two workers, its entry point, the channels and the stage.
    fn with_worker<F: Future<Output = ()>>(
        test: impl FnOnce(Rc<Worker>, Arc<EntryPoint>, Vec<mpsc::Receiver<Handed>>, watch::Sender<Stage>) -> F,
    ) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(async {
            let (loads, ends) = Loads::new(2);
            let metrics = Metrics::new(MetricsOptions::default());
            let series = metrics.entry_point("web");
            let entry_point = EntryPoint::new(0, "web", &Settings::default(), HeaderValue::from_static("here"), series);
            let snapshot = Snapshot {
                generation: 0,
                entry_points: Vec::new(),
                balancers: Vec::new(),
            };
            let (stage, stages) = watch::channel(Stage::Serving);
            let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
            let worker = Worker::new(0, snapshot, stages, loads, metrics.worker(), None);
            test(worker, Arc::new(entry_point.expect("an entry point")), ends, stage).await;
        });
    }

    #[test]
    fn a_burst_is_spread_before_any_of_its_tasks_has_run() {
        with_worker(async |worker, entry_point, mut ends, _stage| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
            let address = listener.local_addr().expect("an address");
            let connect = |_| std::net::TcpStream::connect(address).expect("a connection");
            let clients: Vec<_> = (0..6).map(connect).collect();
            let loads = Arc::clone(&worker.loads);
            tokio::task::spawn_local(accept(worker, entry_point, listener));
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

    #[test]
    fn who_waits_when_the_worker_stops_is_taken_though_epoll_has_not_told_yet() {
        with_worker(async |worker, entry_point, _ends, stage| {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
            let address = listener.local_addr().expect("an address");
            let loads = Arc::clone(&worker.loads);
            let mut accepting = std::pin::pin!(accept(Rc::clone(&worker), entry_point, listener));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(accepting.as_mut().poll(&mut cx).is_pending());
            assert!(!worker.is_idle(), "the queue of its listener may hold somebody");
            let connect = |_| std::net::TcpStream::connect(address).expect("a connection");
            let clients: Vec<_> = (0..6).map(connect).collect();
            stage.send_replace(Stage::Draining);
            // The runtime has not looked at epoll since.
            assert!(accepting.as_mut().poll(&mut cx).is_ready());
            assert_eq!(loads.of(0), 6);
            assert!(std::net::TcpStream::connect(address).is_err(), "closed");
            drop(clients);
        });
    }

    #[test]
    fn a_worker_that_stops_takes_what_is_on_its_way_and_nothing_more() {
        with_worker(async |worker, entry_point, mut ends, stage| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
            let address = listener.local_addr().expect("an address");
            let handed = || {
                let _client = std::net::TcpStream::connect(address).expect("a connection");
                let (socket, peer) = listener.accept().expect("a connection");
                socket.set_nonblocking(true).expect("a socket option");
                Handed {
                    socket,
                    peer,
                    entry_point: Arc::clone(&entry_point),
                }
            };
            worker.loads.add(0);
            worker.loads.hand(0, handed()).expect("room");
            stage.send_replace(Stage::Draining);
            take_over(Rc::clone(&worker), ends.remove(0)).await;
            assert_eq!(worker.loads.of(0), 1, "served");
            assert!(worker.loads.hand(0, handed()).is_err(), "the other one keeps it");
        });
    }
}
