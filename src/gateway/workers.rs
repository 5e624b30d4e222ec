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

/// Most threads that a worker lends work to that takes longer than a request may wait: scrapes and password hashes.
const BLOCKING: usize = 16;

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
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(BLOCKING);
    let runtime = match builder.build_local(LocalOptions::default()) {
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
    let mut vital = JoinSet::new();
    for (entry_point, listener) in listeners {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                vital.spawn_local(accept::accept(Rc::clone(&worker), entry_point, listener));
            }
            Err(e) => tracing::error!(entry_point = %entry_point.name, "cannot use a listener: {e}"),
        }
    }
    vital.spawn_local(accept::take_over(Rc::clone(&worker), handed));
    vital.spawn_local(Rc::clone(&worker).beat());
    tokio::select! {
        () = worker.drain() => {}
        () = broken(&mut vital) => tracing::error!(worker = index, "a task without which a worker is no worker panicked"),
    }
}

/// Ready when one of `tasks` panicked. A worker that accepts no more or whose clock stands still must not go on.
async fn broken(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|e| e.is_panic()) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_vital_task_is_noticed_and_an_orderly_end_is_none() {
        let runtime = Builder::new_current_thread()
            .build_local(LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            tasks.spawn_local(async {});
            tasks.spawn_local(std::future::pending());
            tasks.spawn_local(async { panic!("as a test") });
            broken(&mut tasks).await;
        });
    }
}
