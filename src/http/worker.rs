//! One worker: a thread with its own listeners, pools, timers and metric cells. Nothing of it is shared but the
//! snapshot and the loads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use slab::Slab;
use tokio::sync::watch;

use crate::compile::snapshot::Snapshot;
use crate::listen::connection::{ConnState, Verdict};
use crate::listen::deadline::{Deadlines, SWEEP};
use crate::listen::handshakes::Handshakes;
use crate::listen::loads::Loads;
use crate::listen::peer_watch;
use crate::observe::access_log::AccessLogWriter;
use crate::observe::metrics::{EntryPointSeries, WorkerMetrics};
use crate::upstream::dns::Dns;
use crate::upstream::pool::Pools;

/// The idle connections to servers are looked through every so many sweeps: once a second.
const POOL_SWEEP: u64 = 10;

/// What the workers are told to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serve.
    Serving,
    /// Accept no more; connections close after what they are doing.
    Draining,
    /// End everything.
    Aborting,
}

/// A worker's things.
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// Its timers.
    pub deadlines: Rc<Deadlines>,
    /// Its idle connections to servers.
    pub pools: Rc<Pools>,
    /// Its resolver.
    pub dns: Dns,
    /// Its metric cells.
    pub metrics: WorkerMetrics,
    /// Its end of the access log.
    pub access_log: Option<RefCell<AccessLogWriter>>,
    /// Its TLS handshakes.
    pub handshakes: Handshakes,
    /// The loads of all workers.
    pub loads: Arc<Loads>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    stage: watch::Receiver<Stage>,
    connections: RefCell<Slab<Arc<ConnState>>>,
    tunnels: Cell<usize>,
    listeners: Cell<usize>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that serves what `snapshot` holds.
    #[must_use]
    pub fn new(
        index: usize,
        snapshot: Arc<ArcSwap<Snapshot>>,
        stage: watch::Receiver<Stage>,
        loads: Arc<Loads>,
        metrics: WorkerMetrics,
        access_log: Option<AccessLogWriter>,
    ) -> Rc<Self> {
        let deadlines = Deadlines::new();
        Rc::new(Self {
            index,
            pools: Pools::new(Rc::clone(&deadlines), metrics.idle_connections()),
            deadlines,
            dns: Dns::default(),
            metrics,
            access_log: access_log.map(RefCell::new),
            handshakes: Handshakes::default(),
            loads,
            snapshot,
            stage,
            connections: RefCell::default(),
            tunnels: Cell::new(0),
            listeners: Cell::new(0),
        })
    }

    /// The configuration as of now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Lists a connection until the guard is dropped, and ends its part in the worker's load then, which counts it since
    /// it was accepted.
    pub fn register(self: &Rc<Self>, state: &Arc<ConnState>, series: EntryPointSeries) -> Registered {
        self.metrics.connection_opened(series);
        if self.is_draining() {
            state.drain();
        }
        let key = self.connections.borrow_mut().insert(Arc::clone(state));
        Registered {
            worker: Rc::clone(self),
            key,
            series,
        }
    }

    /// Counts a tunnel: it has left hyper's sight and the list of connections.
    pub fn tunnel_opened(self: &Rc<Self>) -> TunnelGuard {
        self.tunnels.set(self.tunnels.get() + 1);
        TunnelGuard(Rc::clone(self))
    }

    /// Counts a listener: the worker does not end before its queue has been emptied.
    pub fn listener_opened(self: &Rc<Self>) -> ListenerGuard {
        self.listeners.set(self.listeners.get() + 1);
        ListenerGuard(Rc::clone(self))
    }

    /// Whether the worker is to accept no more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Whether nothing runs any more, nor is on its way here or waits to be accepted.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.loads.of(self.index) == 0 && self.tunnels.get() == 0 && self.listeners.get() == 0
    }

    /// Ready once the worker is to accept no more.
    pub fn stopped_accepting(&self) -> impl Future<Output = ()> + use<> {
        reached(self.stage.clone(), Stage::Draining)
    }

    /// Ready once everything is to end.
    pub fn aborted(&self) -> impl Future<Output = ()> + use<> {
        reached(self.stage.clone(), Stage::Aborting)
    }

    /// The worker's heartbeat: deadlines, peers that went, pools, the access log. Ends when the drain is over.
    pub async fn beat(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for tick in 0_u64.. {
            ticks.tick().await;
            self.deadlines.sweep();
            self.sweep_connections();
            self.handshakes.sweep(Instant::now());
            if tick % POOL_SWEEP == 0 {
                self.pools.sweep();
            }
            if let Some(log) = &self.access_log {
                log.borrow_mut().flush();
            }
        }
    }

    fn sweep_connections(&self) {
        let mut watched: Vec<(libc::c_int, Arc<ConnState>)> = Vec::new();
        for (_, state) in self.connections.borrow().iter() {
            state.check();
            if let Some(fd) = state.watched() {
                watched.push((fd, Arc::clone(state)));
            }
        }
        if watched.is_empty() {
            return;
        }
        let fds: Vec<libc::c_int> = watched.iter().map(|(fd, _)| *fd).collect();
        for ((_, state), gone) in watched.iter().zip(peer_watch::closed(&fds)) {
            if gone {
                state.end(Verdict::Gone);
            }
        }
    }

    /// Drains: waits until every connection and tunnel has ended, or everything is to end; flushes the log.
    pub async fn drain(self: &Rc<Self>) {
        self.stopped_accepting().await;
        for (_, state) in self.connections.borrow().iter() {
            state.drain();
        }
        let mut aborted = std::pin::pin!(self.aborted());
        loop {
            tokio::select! {
                () = &mut aborted => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    if self.is_idle() {
                        break;
                    }
                }
            }
        }
        for (_, state) in self.connections.borrow().iter() {
            state.end(Verdict::Aborted);
        }
        tokio::task::yield_now().await;
        if let Some(log) = &self.access_log {
            log.borrow_mut().flush();
        }
    }
}

async fn reached(mut stage: watch::Receiver<Stage>, wanted: Stage) {
    // An error means that the control thread is gone: then everything ends.
    let _ = stage.wait_for(|now| *now >= wanted).await;
}

/// A counted connection.
#[derive(Debug)]
pub struct Registered {
    worker: Rc<Worker>,
    key: usize,
    series: EntryPointSeries,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(self.key);
        self.worker.metrics.connection_closed(self.series);
        self.worker.loads.remove(self.worker.index);
    }
}

/// A counted tunnel.
#[derive(Debug)]
pub struct TunnelGuard(Rc<Worker>);

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
    }
}

/// A counted listener.
#[derive(Debug)]
pub struct ListenerGuard(Rc<Worker>);

impl Drop for ListenerGuard {
    fn drop(&mut self) {
        self.0.listeners.set(self.0.listeners.get() - 1);
    }
}
