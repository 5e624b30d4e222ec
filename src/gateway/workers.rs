//! The worker threads.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Listeners;
use crate::compile::Context;
use crate::compile::snapshot::Snapshot;
use crate::http::worker::{Stage, Worker};
use crate::listen::accept;
use crate::listen::entry_point::EntryPoint;
use crate::listen::loads::{Handed, Loads};
use crate::observe::access_log::{AccessLog, AccessLogWriter};
use crate::observe::metrics::WorkerMetrics;

/// The workers as the main loop sees them.
pub(super) struct Workers {
    stage: watch::Sender<Stage>,
    /// Each worker holds the sending end; the channel is closed when the last one has ended.
    alive: mpsc::Receiver<()>,
    running: usize,
}

/// What one worker thread starts with.
struct Start {
    index: usize,
    snapshot: Arc<ArcSwap<Snapshot>>,
    stage: watch::Receiver<Stage>,
    loads: Arc<Loads>,
    handed: mpsc::Receiver<Handed>,
    metrics: WorkerMetrics,
    access_log: Option<AccessLogWriter>,
    listeners: Vec<(Arc<EntryPoint>, TcpListener)>,
    /// Told about the worker's end by being sent to.
    alive: mpsc::Sender<()>,
}

impl Workers {
    pub(super) fn start(
        count: usize,
        mut listeners: Listeners,
        context: &Context,
        snapshot: Arc<ArcSwap<Snapshot>>,
        access_log: Option<&AccessLog>,
    ) -> anyhow::Result<Self> {
        let (stage, stages) = watch::channel(Stage::Serving);
        let (alive_sender, alive) = mpsc::channel(count);
        let (loads, handed) = Loads::new(count);
        for (index, handed) in handed.into_iter().enumerate() {
            let own = context.entry_points.iter().filter_map(|entry_point| {
                let listener = listeners.get_mut(&entry_point.index)?.pop()?;
                Some((Arc::clone(entry_point), listener))
            });
            let start = Start {
                index,
                snapshot: Arc::clone(&snapshot),
                stage: stages.clone(),
                loads: Arc::clone(&loads),
                handed,
                metrics: context.metrics.worker(),
                access_log: access_log.map(AccessLog::writer),
                listeners: own.collect(),
                alive: alive_sender.clone(),
            };
            thread::Builder::new()
                .name(format!("gantry-worker-{index}"))
                .spawn(move || worker(start))
                .context("cannot start a worker thread")?;
        }
        Ok(Self {
            stage,
            alive,
            running: count,
        })
    }

    /// Tells every worker what to do.
    pub(super) fn tell(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Ready when a worker ended.
    pub(super) async fn lost(&mut self) {
        if self.alive.recv().await.is_some() {
            self.running -= 1;
        } else {
            self.running = 0;
        }
    }

    /// Ready when all have ended.
    pub(super) async fn ended(&mut self) {
        while self.running > 0 {
            self.lost().await;
        }
    }
}

/// Says that a worker ended, however it did.
struct Farewell(mpsc::Sender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

fn worker(start: Start) {
    let _farewell = Farewell(start.alive.clone());
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start the runtime of a worker: {e}");
            return;
        }
    };
    runtime.block_on(serve(start));
}

async fn serve(start: Start) {
    let Start {
        index,
        snapshot,
        stage,
        loads,
        handed,
        metrics,
        access_log,
        listeners,
        alive: _,
    } = start;
    let worker = Worker::new(index, snapshot, stage, loads, metrics, access_log);
    let mut tasks = JoinSet::new();
    for (entry_point, listener) in listeners {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                tasks.spawn_local(accept::accept(Rc::clone(&worker), entry_point, listener));
            }
            Err(e) => tracing::error!(entry_point = %entry_point.name, "cannot use a listener: {e}"),
        }
    }
    tasks.spawn_local(accept::take_over(Rc::clone(&worker), handed));
    tasks.spawn_local(Rc::clone(&worker).beat());
    let mut drained = std::pin::pin!(worker.drain());
    loop {
        tokio::select! {
            () = &mut drained => break,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                // A panic here is not one connection's: without its heartbeat a worker would serve on without deadlines.
                if ended.is_err() {
                    tracing::error!(worker = index, "a task that a worker cannot do without ended by a bug");
                    break;
                }
            }
        }
    }
}
