//! What the kernel says about the watched folders, folded into a bounded note.
//!
//! inotify watches a folder, not its name: when the folder is renamed or removed, the watch is lost with it and has to
//! be set again. Without inotify (no watches left, network file systems) the poll still finds every change.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::super::{Problem, ProblemKind};
use super::settle::{Settle, Sign};
use super::tree::{Identity, Tree, is_relevant};

/// What changed, filled by the watcher's thread, emptied by the provider's task.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    state: Mutex<State>,
    /// Told of each change.
    pub(crate) noticed: Notify,
}

#[derive(Debug, Default)]
struct State {
    settle: Settle,
    folders: BTreeMap<PathBuf, Identity>,
    walked: HashSet<PathBuf>,
    names: HashSet<PathBuf>,
    lost: HashSet<PathBuf>,
}

impl Changes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it is worth looking.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.state().settle.due()
    }

    /// Forgets what may be read now; gives the names that must not be read yet.
    pub(crate) fn take(&self, now: Instant) -> HashSet<PathBuf> {
        self.state().settle.take(now)
    }

    fn note(&self, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        let mut state = self.state();
        match event {
            Ok(event) if event.need_rescan() => state.settle.anything(now),
            Ok(event) => {
                let Some(sign) = sign(event.kind) else { return };
                let noted = event.paths.iter().filter(|path| state.note(path, sign, now)).count();
                if noted == 0 {
                    return;
                }
            }
            Err(_) => state.settle.anything(now),
        }
        drop(state);
        self.noticed.notify_one();
    }
}

impl State {
    /// Returns whether the name matters.
    fn note(&mut self, path: &Path, sign: Sign, now: Instant) -> bool {
        if self.folders.contains_key(path) {
            if sign == Sign::Gone {
                self.lost.insert(path.to_owned());
            }
        } else if !self.names.contains(path) {
            let walked = path.parent().is_some_and(|parent| self.walked.contains(parent));
            if !walked || !is_relevant(path) {
                return false;
            }
        }
        self.settle.note(path, sign, now);
        true
    }
}

/// What an event of inotify means for the file that it names; `None`: nothing.
fn sign(kind: EventKind) -> Option<Sign> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Sign::Complete),
        EventKind::Access(_) => None,
        EventKind::Create(CreateKind::Folder) => Some(Sign::Other),
        EventKind::Create(_) => Some(Sign::Created),
        EventKind::Modify(ModifyKind::Data(_)) => Some(Sign::Writing),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Sign::Complete),
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Some(Sign::Gone),
        // Both ends of a rename have been told one by one.
        EventKind::Modify(ModifyKind::Name(_)) => None,
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => Some(Sign::Other),
    }
}

/// The watched folders.
#[derive(Debug)]
pub(crate) struct Watch {
    /// An error means that the kernel gives no inotify instance.
    watcher: notify::Result<RecommendedWatcher>,
    changes: Arc<Changes>,
}

impl Watch {
    /// Watches nothing yet.
    pub(crate) fn new() -> Self {
        let changes = Arc::new(Changes::default());
        let noting = changes.clone();
        let watcher = notify::recommended_watcher(move |event| noting.note(event));
        Self { watcher, changes }
    }

    /// What was noticed.
    pub(crate) fn changes(&self) -> Arc<Changes> {
        self.changes.clone()
    }

    /// Watches exactly the folders of the tree. Returns whether a watch was set: what happened in that folder before
    /// is unknown. Folders that cannot be watched become problems of the tree.
    pub(crate) fn sync(&mut self, tree: &mut Tree) -> bool {
        let (watched, lost) = {
            let mut state = self.changes.state();
            (state.walked, state.names) = (tree.walked.clone(), tree.names.clone());
            // Before the watches, so that no event of a new one is taken for noise.
            let watched = std::mem::replace(&mut state.folders, tree.folders.clone());
            (watched, std::mem::take(&mut state.lost))
        };
        let watcher = match &mut self.watcher {
            Ok(watcher) => watcher,
            Err(error) => {
                tree.problems.extend(
                    tree.folders
                        .keys()
                        .next_back()
                        .and_then(|path| not_watched(path, error)),
                );
                return false;
            }
        };
        let stays = |path: &Path| watched.get(path) == tree.folders.get(path) && !lost.contains(path);
        for path in watched.keys().filter(|path| !stays(path)) {
            // An error says that the kernel took the watch away already.
            let _gone = watcher.unwatch(path);
        }
        let mut failed = Vec::new();
        let mut added = false;
        for path in tree.folders.keys().filter(|path| !stays(path)) {
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => added = true,
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        let mut state = self.changes.state();
        for (path, error) in failed {
            // To be tried again at the next look.
            state.folders.remove(&path);
            tree.problems.extend(not_watched(&path, &error));
        }
        added
    }
}

/// A folder that went in the meantime is no problem: the next look finds out.
fn not_watched(path: &Path, error: &notify::Error) -> Option<Problem> {
    let help = match &error.kind {
        notify::ErrorKind::PathNotFound => return None,
        notify::ErrorKind::MaxFilesWatch => "raise fs.inotify.max_user_watches; until then the poll finds changes",
        _ => "the poll finds changes",
    };
    Some(Problem {
        path: path.to_owned(),
        kind: ProblemKind::NotWatched,
        message: format!("cannot be watched: {error}"),
        help: help.into(),
    })
}
