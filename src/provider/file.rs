//! `providers.file`: one file, or every YAML file below a folder.
//!
//! Changes are noticed through inotify on the folders that hold the files and the links on the way to them
//! (`tree`), read when their writers are done (`settle`, `reader`), and sent as complete states, no faster than
//! `providers.providersThrottleDuration` ([`super::throttle`]). A slow poll that compares contents catches what
//! inotify does not tell (network file systems, bind mounts). Equal content is never sent twice.
//!
//! Invariants:
//! - A file that somebody is writing is not read.
//! - Nothing read here can block: sizes, counts and depths are bounded, and only regular files are opened.
//! - A file that becomes unreadable is reported, never taken for an empty or a removed one.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinError;

use self::reader::{Glance, Known};
use self::scan::{Print, Scan, Scanner, first_glance};
use self::watch::{Changes, Watch};
use super::throttle::Throttle;
use super::{Event, Problem, Provider, Reason};

mod reader;
mod scan;
mod settle;
mod tree;
mod watch;

pub use self::tree::{MAX_FILES, MAX_FOLDERS};

/// Largest configuration file.
pub const MAX_FILE_BYTES: u64 = 32 << 20;
/// Time between two polls when nothing else is said.
pub const POLL: Duration = Duration::from_secs(5);
/// Most files that the configuration may refer to and that are watched.
const MAX_REFERRED: usize = 10_000;

/// What `providers.file` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `providers.file.filename`.
    Filename(PathBuf),
    /// `providers.file.directory`, with everything below it.
    Directory(PathBuf),
}

impl Target {
    /// The path as the user wrote it.
    pub fn path(&self) -> &Path {
        match self {
            Self::Filename(path) | Self::Directory(path) => path,
        }
    }
}

/// Reads and watches configuration files.
#[derive(Debug)]
pub struct FileProvider {
    throttle: Duration,
    poll: Duration,
    looker: Looker,
    shared: Arc<Shared>,
    last: Event,
}

/// Tells a running [`FileProvider`] something.
#[derive(Clone, Debug)]
pub struct FileHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    referred: Mutex<Referred>,
    reload: Notify,
    referred_changed: Notify,
}

#[derive(Debug, Default)]
struct Referred {
    paths: HashSet<PathBuf>,
    /// Looks that the scanner has not taken over yet.
    fresh: Vec<(PathBuf, Known<Print>)>,
}

impl Shared {
    fn referred(&self) -> MutexGuard<'_, Referred> {
        self.referred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileHandle {
    /// Reads everything again and sends an event in any case (SIGHUP). Works also where `watch` is off.
    pub fn reload_now(&self) {
        self.shared.reload.notify_one();
    }

    /// Watches files that the configuration refers to (users, certificates, keys) in place of those of the last call.
    ///
    /// Call it *before* reading them, so that no change falls in between. Relative paths mean the working directory.
    /// Reads the files that are new in the list, and so belongs on the control side. At most 10,000 are watched.
    pub fn set_extra(&self, paths: impl IntoIterator<Item = PathBuf>) {
        let paths: HashSet<PathBuf> = paths.into_iter().take(MAX_REFERRED).collect();
        let new: Vec<_> = paths.difference(&self.shared.referred().paths).cloned().collect();
        let fresh: Vec<_> = new
            .into_iter()
            .map(|path| (path.clone(), Scanner::print_of(&path)))
            .collect();
        let mut referred = self.shared.referred();
        referred.paths = paths;
        referred.fresh.extend(fresh);
        let referred = &mut *referred;
        referred.fresh.retain(|(path, _)| referred.paths.contains(path));
        self.shared.referred_changed.notify_one();
    }
}

impl FileProvider {
    /// A provider for `target`.
    ///
    /// `watch`: notice changes (Traefik's default: true). `throttle`: least time between two events (Traefik's
    /// default: 2 s). `poll`: time between two polls (see [`POLL`]).
    pub fn new(target: Target, watch: bool, throttle: Duration, poll: Duration) -> Self {
        let last = Event {
            provider: "file",
            files: Vec::new(),
            problems: Vec::new(),
            reason: Reason::Start,
        };
        let looker = Looker {
            scanner: Scanner::new(target),
            watch: watch.then(Watch::new),
        };
        Self {
            throttle,
            poll,
            looker,
            shared: Arc::default(),
            last,
        }
    }

    /// A way to tell the provider something while it runs.
    pub fn handle(&self) -> FileHandle {
        FileHandle {
            shared: self.shared.clone(),
        }
    }

    /// Reads everything for the first time.
    ///
    /// # Errors
    /// Everything that could not be read, each with its path and how to mend it.
    pub fn load(&mut self) -> Result<Event, Vec<Problem>> {
        let event = self.load_what_is_there();
        let errors: Vec<_> = event
            .all_problems()
            .filter(|problem| problem.is_error())
            .cloned()
            .collect();
        if errors.is_empty() { Ok(event) } else { Err(errors) }
    }

    /// As [`Self::load`], with the errors left in the event: [`Event::all_problems`].
    pub fn load_what_is_there(&mut self) -> Event {
        let scan = self.looker.first_look();
        self.last = Event {
            provider: "file",
            files: scan.files,
            problems: scan.problems,
            reason: Reason::Start,
        };
        self.last.clone()
    }
}

impl Provider for FileProvider {
    fn name(&self) -> &'static str {
        "file"
    }

    fn run(self: Box<Self>, events: mpsc::Sender<Event>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Running::start(*self).run(events))
    }
}

/// A provider at work.
struct Running {
    poll: Option<Duration>,
    shared: Arc<Shared>,
    changes: Arc<Changes>,
    throttle: Throttle<Event>,
    last: Event,
    /// `None` only while the blocking pool has it.
    looker: Option<Looker>,
    /// The next poll.
    next_poll: Option<Instant>,
    /// The next look at something that was held back.
    again: Option<Instant>,
    /// Whether that look follows a poll.
    again_confirms: bool,
}

/// What looks at the disk, on the blocking pool: a dead network file system must not stop the control plane.
#[derive(Debug)]
struct Looker {
    scanner: Scanner,
    watch: Option<Watch>,
}

/// Why the provider looks at the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Files changed and are complete.
    Noticed,
    /// It is time.
    Poll,
    /// Somebody asked.
    Asked,
}

impl Running {
    fn start(provider: FileProvider) -> Self {
        let FileProvider {
            throttle,
            poll,
            looker,
            shared,
            last,
        } = provider;
        let watch = looker.watch.as_ref();
        Self {
            poll: watch.map(|_| poll),
            shared,
            changes: watch.map(Watch::changes).unwrap_or_default(),
            throttle: Throttle::new(throttle),
            last,
            // What changed since the initial load, where the watches could not tell.
            again: watch.map(|_| Instant::now()),
            again_confirms: true,
            looker: Some(looker),
            next_poll: None,
        }
    }

    async fn run(mut self, events: mpsc::Sender<Event>) {
        loop {
            let wake = self.wake(Instant::now());
            let asked = tokio::select! {
                () = events.closed() => return,
                () = self.shared.reload.notified() => true,
                () = self.shared.referred_changed.notified(), if self.poll.is_some() => {
                    // Their folders have to be watched.
                    self.again.get_or_insert_with(Instant::now);
                    false
                }
                () = self.changes.noticed.notified() => false,
                () = sleep_until(wake) => false,
            };
            let now = Instant::now();
            if let Some(look) = self.due(now, asked) {
                self.look(look, now).await;
            }
            if let Some(event) = self.throttle.take(Instant::now()) {
                self.last = event.clone();
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    fn wake(&self, now: Instant) -> Option<Instant> {
        [self.next_poll, self.again, self.changes.due(), self.throttle.due(now)]
            .into_iter()
            .flatten()
            .min()
    }

    fn due(&self, now: Instant, asked: bool) -> Option<Look> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if asked {
            Some(Look::Asked)
        } else if passed(self.changes.due()) || (passed(self.again) && !self.again_confirms) {
            Some(Look::Noticed)
        } else if passed(self.next_poll) || passed(self.again) {
            Some(Look::Poll)
        } else {
            None
        }
    }

    async fn look(&mut self, look: Look, now: Instant) {
        let held = self.changes.take(now);
        let Some(mut looker) = self.looker.take() else { return };
        let shared = self.shared.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let (scan, confirmed) = looker.look(&shared, &held, look == Look::Poll);
            (looker, scan, confirmed)
        });
        let (looker, scan, confirmed) = match looked.await.map_err(JoinError::try_into_panic) {
            Ok(looked) => looked,
            // A bug; passing it on lets the supervisor see it.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime stops.
            Err(Err(_)) => return,
        };
        self.looker = Some(looker);
        let now = Instant::now();
        self.next_poll = self.poll.map(|poll| now + poll);
        self.again_confirms = confirmed;
        self.again = scan.again.map(|wait| now + wait);
        self.offer(scan, look);
    }

    /// Puts a new state in line, and takes one out of line that is not true any more.
    fn offer(&mut self, scan: Scan, look: Look) {
        let waiting = self.throttle.withdraw().map(|event| event.reason);
        let reason = match (waiting, look) {
            (_, Look::Asked) | (Some(Reason::Requested), _) => Reason::Requested,
            (waiting, _) => {
                let mut referred = scan.referred;
                if let Some(Reason::Referred(earlier)) = waiting {
                    referred.extend(earlier);
                    referred.sort();
                    referred.dedup();
                }
                if referred.is_empty() {
                    Reason::Changed
                } else {
                    Reason::Referred(referred)
                }
            }
        };
        let event = Event {
            provider: "file",
            files: scan.files,
            problems: scan.problems,
            reason,
        };
        if event.reason != Reason::Changed || !event.same_state(&self.last) {
            self.throttle.offer(event);
        }
    }
}

impl Looker {
    /// The initial load. The folders are watched before their files are read, so that no change falls in between.
    fn first_look(&mut self) -> Scan {
        let none = HashSet::new();
        let mut tree = self.scanner.tree(&none);
        if let Some(watch) = &mut self.watch {
            watch.sync(&mut tree);
        }
        self.scanner.look(tree, &none, &first_glance(&HashSet::new()))
    }

    /// Looks, and watches what has to be watched. Returns whether changes had to be confirmed.
    fn look(&mut self, shared: &Shared, held: &HashSet<PathBuf>, confirm: bool) -> (Scan, bool) {
        let (paths, fresh) = {
            let mut referred = shared.referred();
            (referred.paths.clone(), std::mem::take(&mut referred.fresh))
        };
        self.scanner.adopt(fresh);
        let mut tree = self.scanner.tree(&paths);
        // In a folder that was not watched before, somebody may be writing without our knowing.
        let renewed = self.watch.as_mut().is_some_and(|watch| watch.sync(&mut tree));
        let confirm = confirm || renewed;
        let glance = Glance {
            held,
            confirm,
            first: false,
            now: Instant::now(),
        };
        let mut scan = self.scanner.look(tree, &paths, &glance);
        if renewed {
            // What came between the walk and the watch is found by another look.
            scan.again = Some(Duration::ZERO);
        }
        (scan, confirm)
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
