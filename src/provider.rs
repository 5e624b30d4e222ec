//! Where dynamic configuration comes from.
//!
//! A provider watches a source and sends its *complete* state, as text, each time the state changed: one [`Event`] is
//! all that the source says now, never a difference. Decoding, merging and compiling happen elsewhere; what a broken
//! file leaves behind is decided by [`last_good::LastGood`].
//!
//! Invariants:
//! - A provider never parses and never judges configuration.
//! - Events go through one bounded channel. A slow receiver makes a provider skip intermediate states, never queue them.
//! - The last state always arrives.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;

pub mod file;
pub mod last_good;
pub mod throttle;

/// A source of dynamic configuration.
pub trait Provider: Send {
    /// The part of a qualified name behind the `@`: `file` in `web@file`.
    fn name(&self) -> &'static str;

    /// Watches the source and sends an [`Event`] for each new state until `events` is closed.
    ///
    /// The state that the initial load returned is not sent again.
    fn run(self: Box<Self>, events: mpsc::Sender<Event>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The complete state of one provider at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// [`Provider::name`] of the sender.
    pub provider: &'static str,
    /// Every file, sorted by path, component by component: of two objects with one name the first file's wins, as in
    /// Traefik.
    pub files: Vec<SourceFile>,
    /// What is wrong with the source as a whole, or with things in it that are not configuration files.
    pub problems: Vec<Problem>,
    /// Why the event was sent.
    pub reason: Reason,
}

impl Event {
    /// Whether the source says the same thing in both events, whatever they were sent for.
    pub fn same_state(&self, other: &Self) -> bool {
        self.files == other.files && self.problems == other.problems
    }

    /// Everything that keeps this state from being loaded whole: problems of the source, then those of its files.
    pub fn all_problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .chain(self.files.iter().filter_map(|file| file.text.as_ref().err()))
    }
}

/// Why an [`Event`] was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first load.
    Start,
    /// A file of the provider came, went or changed.
    Changed,
    /// Files that the configuration refers to (users, certificates) changed; the configuration itself may be the same.
    Referred(Vec<PathBuf>),
    /// Somebody asked (SIGHUP); the configuration itself may be the same.
    Requested,
}

/// One file of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As the user wrote it, joined with what was found below it; good for messages and stable across reloads.
    pub path: PathBuf,
    /// The whole text, without a byte order mark, or why it could not be read.
    pub text: Result<Arc<str>, Problem>,
}

/// Why a source could not be read, in words for the person who has to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder that it is about.
    pub path: PathBuf,
    /// What kind of trouble it is.
    pub kind: ProblemKind,
    /// What happened, without the path.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

/// The kinds of [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// There is no such file or folder.
    Missing,
    /// It is there but cannot be read: permissions, an IO error, not a regular file.
    Unreadable,
    /// Larger than [`file::MAX_FILE_BYTES`].
    TooLarge,
    /// Not UTF-8.
    NotText,
    /// A format that is known and not supported yet.
    Unsupported,
    /// More files or folders than the bounds allow.
    TooMany,
    /// Changes cannot be noticed at once; the poll still finds them.
    NotWatched,
}

impl Problem {
    /// Whether configuration is missing because of it; otherwise it is only a warning.
    pub fn is_error(&self) -> bool {
        self.kind != ProblemKind::NotWatched
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.path.display(), self.message, self.help)
    }
}

impl std::error::Error for Problem {}
