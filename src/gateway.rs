//! Start → supervise → drain: the main loop over one closed enum of events.
//!
//! Only this module spawns long-lived tasks and threads, but for the threads that a log, the file watcher and a mask store
//! bring along. The control plane runs on the calling thread; each worker has
//! a thread of its own and never waits for the control plane.

mod observe_options;
mod reload;
pub(crate) mod startup;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::static_config::Static;
use crate::diag::Diagnostic;
use crate::http::worker::Stage;
use crate::model::feedback::Index;
use crate::observe::log::{LIFECYCLE, Log};
use crate::provider::{self, Provider as _};
use reload::Reloader;
use workers::Workers;

/// How often kept masks are looked at: none is kept longer than `keepMasks.for` by more than this.
const FORGET: Duration = Duration::from_secs(10);
/// How long what was to be written may take once everything else has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the gateway is started with.
#[derive(Debug)]
pub struct Options {
    /// The static configuration.
    pub settings: Static,
    /// Data-plane workers; `None`: as many as the process has processors.
    pub workers: Option<usize>,
    /// The application log, for SIGUSR1.
    pub log: Option<Log>,
}

/// Why the gateway cannot start, where a value of its static configuration is the reason. Whoever has read the file
/// knows the place of the value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub Diagnostic);

/// What can happen while the gateway serves. Nothing else reaches the main loop.
enum Event {
    /// A provider has something new.
    Configuration(provider::Event),
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Reopen,
    /// A worker thread ended though nobody asked it to.
    WorkerLost,
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// When it cannot start: a port that is taken, configuration that cannot be read.
pub fn run(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("gantry-control")
        .build()
        .context("cannot start the control runtime")?;
    runtime.block_on(supervise(options))
}

async fn supervise(options: Options) -> anyhow::Result<()> {
    let count = options.workers.unwrap_or_else(startup::processors).max(1);
    let started = startup::prepare(options.settings)?;
    let mut signals = Signals::new()?;
    let mut provider = started.provider;
    let (mut reloader, compiled) = Reloader::start(started.context, provider.as_mut())?;
    let listeners = startup::listen(reloader.context(), count)?;
    let snapshot = reloader.publish(compiled);
    let mut workers = Workers::start(
        count,
        listeners,
        reloader.context(),
        snapshot,
        started.access_log.as_ref(),
    )?;
    tracing::info!(target: LIFECYCLE, version = env!("CARGO_PKG_VERSION"), workers = count, "Gantry serves");

    let (sender, mut events) = mpsc::channel(1);
    if let Some(provider) = provider {
        tokio::spawn(Box::new(provider).run(sender.clone()));
    }
    tokio::spawn(forget(Arc::clone(&reloader.context().feedback)));
    reloader.probe();
    loop {
        let event = tokio::select! {
            Some(event) = events.recv() => Event::Configuration(event),
            event = signals.next() => event,
            () = workers.lost() => Event::WorkerLost,
        };
        match event {
            Event::Configuration(event) => reloader.apply(&event),
            Event::Reload => reloader.ask(),
            Event::Reopen => {
                if let Some(log) = &options.log {
                    log.reopen();
                }
                if let Some(log) = &started.access_log {
                    log.reopen();
                }
            }
            Event::Stop => break,
            Event::WorkerLost => {
                anyhow::bail!("a worker thread ended by a bug; the process ends so that it is started anew")
            }
        }
    }
    drop(events);
    drain(&mut workers, &reloader, &mut signals).await;
    reloader.context().feedback.flush(LAST_WORDS);
    if let Some(log) = &started.access_log {
        log.flush(LAST_WORDS);
    }
    Ok(())
}

/// Forgets answers and removes kept masks whose time is over.
async fn forget(answers: Arc<Index>) {
    loop {
        tokio::time::sleep(FORGET).await;
        answers.sweep(SystemTime::now());
    }
}

/// Traefik's life cycle: not ready → grace for accepting → no more connections → grace for requests → the end. A second
/// signal ends it at once.
async fn drain(workers: &mut Workers, reloader: &Reloader, signals: &mut Signals) {
    let context = reloader.context();
    let cycles = || context.entry_points.iter().map(|e| &e.life_cycle);
    let accepting = cycles()
        .map(|c| c.request_accept_grace_timeout)
        .max()
        .unwrap_or_default();
    // Each connection ends with the grace of its own entry point; this bounds the whole. Zero means no limit, as with
    // Go's server.
    let unlimited = cycles().any(|c| c.grace_time_out.is_zero());
    let longest = cycles().map(|c| c.grace_time_out).max().unwrap_or_default();
    let grace = if unlimited { Duration::ZERO } else { longest };
    context.ping.terminate();
    tracing::info!(target: LIFECYCLE, ?accepting, ?grace, "draining");
    let quiet = async {
        tokio::time::sleep(accepting).await;
        workers.tell(Stage::Draining);
        if grace.is_zero() {
            workers.ended().await;
        } else if timeout(grace, workers.ended()).await.is_err() {
            tracing::warn!(target: LIFECYCLE, "the grace timeout passed: what still runs is cut off");
        }
    };
    tokio::select! {
        () = quiet => {}
        () = signals.stop() => tracing::warn!(target: LIFECYCLE, "a second signal: ending at once"),
    }
    workers.tell(Stage::Aborting);
    let _ = timeout(Duration::from_secs(2), workers.ended()).await;
    tracing::info!(target: LIFECYCLE, "drained");
}

/// The signals that concern the gateway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let open = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
            hangup: open(SignalKind::hangup())?,
            user1: open(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.hangup.recv() => Event::Reload,
            _ = self.user1.recv() => Event::Reopen,
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Listening sockets by entry point: one per worker.
type Listeners = BTreeMap<usize, Vec<std::net::TcpListener>>;
