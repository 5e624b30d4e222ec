//! When a changed file is worth reading: not while somebody is still writing it.
//!
//! A file cut in half can be valid YAML that drops half of the routes. So a file is read shortly after its writer
//! closed it or renamed it into place; a file that is written and not closed is left alone until it has been quiet for
//! [`STILL_OPEN`]; a name that went is given time to come back, because editors rename the old file away before they
//! create the new one. Pure: the caller brings signs and time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After the writer closed the file or renamed it into place: enough for the rest of a batch.
const COMPLETE: Duration = Duration::from_millis(20);
/// After a change of something else: a link, a folder, permissions.
const OTHER: Duration = Duration::from_millis(50);
/// After a name was created and before its first byte came: hard links never get one.
const CREATED: Duration = Duration::from_millis(200);
/// How long a name may be gone before it counts as removed.
const GONE: Duration = Duration::from_millis(150);
/// Quiet time after which a file is read although its writer still holds it open.
const STILL_OPEN: Duration = Duration::from_millis(1500);
/// Longest that a complete file waits for others.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most names that are remembered one by one; beyond it the whole source just waits for quiet.
const MAX_NAMES: usize = 4096;

/// What the kernel said about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It came into being.
    Created,
    /// Bytes were written or cut off; the writer has it open.
    Writing,
    /// The writer closed it, or it was renamed into place.
    Complete,
    /// It was removed or renamed away.
    Gone,
    /// Anything else.
    Other,
}

/// The names that changed since they were last read.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    names: HashMap<PathBuf, Pending>,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    ready: Instant,
    writing: bool,
}

impl Settle {
    /// Takes note of a sign about `path`.
    pub(crate) fn note(&mut self, path: &Path, sign: Sign, now: Instant) {
        self.since.get_or_insert(now);
        let (wait, writing) = match sign {
            Sign::Created => (CREATED, false),
            Sign::Writing => (STILL_OPEN, true),
            Sign::Complete => (COMPLETE, false),
            Sign::Gone => (GONE, false),
            Sign::Other => (OTHER, false),
        };
        let pending = Pending {
            ready: now + wait,
            writing,
        };
        let room = self.names.len() < MAX_NAMES;
        match self.names.get_mut(path) {
            // Changed permissions do not say that the writer is done.
            Some(known) if sign == Sign::Other && known.writing => {}
            Some(known) => *known = pending,
            None if room => {
                self.names.insert(path.to_owned(), pending);
            }
            None => self.anything(now),
        }
    }

    /// Something changed and nobody knows what: the kernel's queue ran over.
    pub(crate) fn anything(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.names.insert(
            PathBuf::new(),
            Pending {
                ready: now + CREATED,
                writing: false,
            },
        );
    }

    /// When to read; `None` while nothing changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        let first = self.names.values().map(|pending| pending.ready).min()?;
        let last = self.names.values().map(|pending| pending.ready).max()?;
        let patience = self.since.map_or(last, |since| since + PATIENCE);
        Some(last.min(first.max(patience)))
    }

    /// Forgets the names that may be read now; gives the ones that must not be.
    pub(crate) fn take(&mut self, now: Instant) -> HashSet<PathBuf> {
        self.names.retain(|_, pending| pending.ready > now);
        self.since = (!self.names.is_empty()).then_some(now);
        self.names.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn held(settle: &mut Settle, now: Instant) -> Vec<String> {
        settle.take(now).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_closed_file_is_read_at_once() {
        let start = Instant::now();
        let mut settle = Settle::default();
        assert_eq!(settle.due(), None);
        settle.note(Path::new("a"), Sign::Writing, start);
        settle.note(Path::new("a"), Sign::Complete, after(start, 5));
        assert_eq!(settle.due(), Some(after(start, 5) + COMPLETE));
        assert!(held(&mut settle, after(start, 25)).is_empty());
        assert_eq!(settle.due(), None);
    }

    #[test]
    fn a_file_that_stays_open_waits_for_quiet_from_its_last_write() {
        let start = Instant::now();
        let mut settle = Settle::default();
        for ms in [0, 400, 800] {
            settle.note(Path::new("a"), Sign::Writing, after(start, ms));
        }
        assert_eq!(settle.due(), Some(after(start, 800) + STILL_OPEN));
        assert_eq!(held(&mut settle, after(start, 900)), ["a"]);
    }

    #[test]
    fn changed_permissions_do_not_end_a_write() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Path::new("a"), Sign::Writing, start);
        settle.note(Path::new("a"), Sign::Other, after(start, 10));
        assert_eq!(settle.due(), Some(start + STILL_OPEN));
    }

    #[test]
    fn a_complete_file_does_not_wait_long_for_another_one() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Path::new("b"), Sign::Complete, start);
        settle.note(Path::new("a"), Sign::Writing, after(start, 450));
        assert_eq!(settle.due(), Some(start + PATIENCE));
        assert_eq!(held(&mut settle, start + PATIENCE), ["a"]);
        assert_eq!(settle.due(), Some(after(start, 450) + STILL_OPEN));
    }

    #[test]
    fn a_name_that_comes_back_is_not_removed_in_between() {
        let start = Instant::now();
        let mut settle = Settle::default();
        settle.note(Path::new("a"), Sign::Gone, start);
        settle.note(Path::new("a"), Sign::Created, after(start, 100));
        settle.note(Path::new("a"), Sign::Writing, after(start, 101));
        assert!(settle.due() > Some(after(start, 1000)));
        settle.note(Path::new("a"), Sign::Complete, after(start, 110));
        assert_eq!(settle.due(), Some(after(start, 110) + COMPLETE));
    }

    #[test]
    fn too_many_names_wait_as_one() {
        let start = Instant::now();
        let mut settle = Settle::default();
        for i in 0..MAX_NAMES + 5 {
            settle.note(Path::new(&i.to_string()), Sign::Complete, start);
        }
        assert_eq!(settle.names.len(), MAX_NAMES + 1);
        assert_eq!(settle.due(), Some(start + CREATED));
    }
}
