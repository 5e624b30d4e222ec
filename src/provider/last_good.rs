//! The last good version of each file.
//!
//! A bad file keeps what it said when it was last good, while the other files load; a file that goes takes its objects
//! with it. (Traefik drops every file of the provider when one is bad.) A file that never was good contributes
//! nothing, and fails the start: the caller decides by [`Outcome::failures`].
//!
//! Generic over what a file decodes to, and does no IO.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Problem, SourceFile};

/// What is known of each file of one provider.
#[derive(Debug)]
pub struct LastGood<T, E> {
    files: BTreeMap<PathBuf, Entry<T, E>>,
}

#[derive(Debug)]
struct Entry<T, E> {
    /// The text that was last decoded, with or without success.
    text: Option<Arc<str>>,
    good: Option<Arc<T>>,
    failure: Option<Arc<Cause<E>>>,
}

/// The configuration as it stands after an event.
#[derive(Debug)]
pub struct Outcome<T, E> {
    /// Every file that has a good version, sorted by path.
    pub good: Vec<(PathBuf, Arc<T>)>,
    /// Every file whose present version is not in `good`, sorted by path.
    pub failures: Vec<Failure<E>>,
    /// Whether `good` differs from what the previous event gave.
    pub changed: bool,
}

/// A file whose present version cannot be used.
#[derive(Debug)]
pub struct Failure<E> {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub cause: Arc<Cause<E>>,
    /// Whether an earlier version of it is still in use.
    pub kept: bool,
    /// Whether this event brought the failure; otherwise it has been reported before.
    pub new: bool,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause<E> {
    /// It could not be read.
    Read(Problem),
    /// It was read and is not valid.
    Decode(E),
}

impl<E: fmt::Display> fmt::Display for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(problem) => problem.fmt(f),
            Self::Decode(error) => error.fmt(f),
        }
    }
}

impl<T, E> Default for LastGood<T, E> {
    fn default() -> Self {
        Self { files: BTreeMap::new() }
    }
}

impl<T, E> LastGood<T, E> {
    /// Knows no file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over the complete state of the provider. `decode(name, text)` is called for texts that changed only.
    pub fn apply(&mut self, files: &[SourceFile], decode: impl Fn(&str, &str) -> Result<T, E>) -> Outcome<T, E> {
        let before = self.files.len();
        let present: BTreeSet<_> = files.iter().map(|file| &file.path).collect();
        self.files.retain(|path, _| present.contains(path));
        let mut changed = self.files.len() != before;
        let mut news = Vec::with_capacity(files.len());
        for file in files {
            let entry = self.files.entry(file.path.clone()).or_default();
            let (good, bad) = entry.update(file, &decode);
            changed |= good;
            news.push((file.path.clone(), bad));
        }
        let failures = news.into_iter().filter_map(|(path, new)| {
            let entry = self.files.get(&path)?;
            let cause = entry.failure.clone()?;
            Some(Failure {
                path,
                cause,
                kept: entry.good.is_some(),
                new,
            })
        });
        Outcome {
            failures: failures.collect(),
            good: self.good(),
            changed,
        }
    }

    fn good(&self) -> Vec<(PathBuf, Arc<T>)> {
        self.files
            .iter()
            .filter_map(|(path, entry)| Some((path.clone(), entry.good.clone()?)))
            .collect()
    }
}

impl<T, E> Default for Entry<T, E> {
    fn default() -> Self {
        Self {
            text: None,
            good: None,
            failure: None,
        }
    }
}

impl<T, E> Entry<T, E> {
    /// Returns whether the good version changed, and whether a new failure came up.
    fn update(&mut self, file: &SourceFile, decode: &impl Fn(&str, &str) -> Result<T, E>) -> (bool, bool) {
        let text = match &file.text {
            Ok(text) => text,
            Err(problem) => {
                let known = matches!(self.failure.as_deref(), Some(Cause::Read(old)) if old == problem);
                if !known {
                    self.failure = Some(Arc::new(Cause::Read(problem.clone())));
                    self.text = None;
                }
                return (false, !known);
            }
        };
        if self.text.as_ref() == Some(text) {
            return (false, false);
        }
        self.text = Some(text.clone());
        match decode(&file.path.to_string_lossy(), text) {
            Ok(value) => {
                self.good = Some(Arc::new(value));
                self.failure = None;
                (true, false)
            }
            Err(error) => {
                self.failure = Some(Arc::new(Cause::Decode(error)));
                (false, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ProblemKind;
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.into(),
            text: Ok(text.into()),
        }
    }

    fn unreadable(path: &str) -> SourceFile {
        let problem = Problem {
            path: path.into(),
            kind: ProblemKind::Unreadable,
            message: "permission denied".into(),
            help: "chmod".into(),
        };
        SourceFile {
            path: path.into(),
            text: Err(problem),
        }
    }

    /// Numbers are good, all else is bad.
    fn decode(_: &str, text: &str) -> Result<i32, String> {
        text.parse().map_err(|_| format!("not a number: {text}"))
    }

    fn check(state: &mut LastGood<i32, String>, files: &[SourceFile], good: &[(&str, i32)], bad: &[(&str, bool)]) {
        let outcome = state.apply(files, decode);
        let got: Vec<_> = outcome
            .good
            .iter()
            .map(|(path, value)| (path.to_str().unwrap(), **value))
            .collect();
        assert_eq!(got, good);
        let got: Vec<_> = outcome
            .failures
            .iter()
            .map(|f| (f.path.to_str().unwrap(), f.kept))
            .collect();
        assert_eq!(got, bad);
    }

    #[test]
    fn a_bad_file_keeps_its_last_good_version_while_others_load() {
        let mut state = LastGood::new();
        check(
            &mut state,
            &[file("a", "1"), file("b", "2")],
            &[("a", 1), ("b", 2)],
            &[],
        );
        check(
            &mut state,
            &[file("a", "x"), file("b", "3")],
            &[("a", 1), ("b", 3)],
            &[("a", true)],
        );
        check(
            &mut state,
            &[file("a", "4"), file("b", "3")],
            &[("a", 4), ("b", 3)],
            &[],
        );
    }

    #[test]
    fn an_unreadable_file_keeps_its_last_good_version() {
        let mut state = LastGood::new();
        check(&mut state, &[file("a", "1")], &[("a", 1)], &[]);
        check(&mut state, &[unreadable("a")], &[("a", 1)], &[("a", true)]);
        check(&mut state, &[file("a", "1")], &[("a", 1)], &[]);
    }

    #[test]
    fn a_file_that_goes_takes_its_objects_along_even_when_it_was_bad() {
        let mut state = LastGood::new();
        check(
            &mut state,
            &[file("a", "1"), file("b", "2")],
            &[("a", 1), ("b", 2)],
            &[],
        );
        check(
            &mut state,
            &[file("a", "x"), file("b", "2")],
            &[("a", 1), ("b", 2)],
            &[("a", true)],
        );
        check(&mut state, &[file("b", "2")], &[("b", 2)], &[]);
    }

    #[test]
    fn a_file_that_never_was_good_has_nothing_to_keep() {
        let mut state = LastGood::new();
        check(
            &mut state,
            &[file("a", "x"), unreadable("b")],
            &[],
            &[("a", false), ("b", false)],
        );
    }

    #[test]
    fn a_failure_is_new_once_and_stays_until_it_is_mended() {
        let mut state = LastGood::new();
        assert!(state.apply(&[file("a", "x")], decode).failures[0].new);
        assert!(!state.apply(&[file("a", "x")], decode).failures[0].new);
        assert!(state.apply(&[file("a", "y")], decode).failures[0].new);
        assert!(state.apply(&[file("a", "1")], decode).failures.is_empty());
    }

    #[test]
    fn going_back_to_the_version_in_use_heals_the_failure() {
        let mut state = LastGood::new();
        state.apply(&[file("a", "1")], decode);
        state.apply(&[file("a", "x")], decode);
        let outcome = state.apply(&[file("a", "1")], decode);
        assert!(outcome.failures.is_empty());
        assert_eq!(*outcome.good[0].1, 1);
    }

    #[test]
    fn changed_tells_whether_the_good_part_differs() {
        let mut state = LastGood::new();
        assert!(state.apply(&[file("a", "1")], decode).changed);
        assert!(!state.apply(&[file("a", "1")], decode).changed);
        assert!(!state.apply(&[file("a", "x")], decode).changed);
        assert!(state.apply(&[], decode).changed);
    }
}
