//! One look at everything: the files of the provider and the files that the configuration refers to.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::super::{Problem, ProblemKind, SourceFile};
use super::reader::{Glance, Known, Reader, is_held};
use super::tree::{MAX_FOLDERS, Tree};
use super::{MAX_FILE_BYTES, Target};

/// Largest file that the configuration refers to; beyond it a change of content is not looked for.
const MAX_REFERRED_BYTES: u64 = 16 << 20;

/// What stays of a file that the configuration refers to: never its content, which may be a private key.
pub(crate) type Print = u64;

/// The files of a provider as they were last seen.
#[derive(Debug)]
pub(crate) struct Scanner {
    target: Target,
    files: Reader<Arc<str>>,
    referred: Reader<Print>,
}

/// What one look found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Every file, sorted by path.
    pub(crate) files: Vec<SourceFile>,
    /// What is wrong apart from single files.
    pub(crate) problems: Vec<Problem>,
    /// Files that the configuration refers to and that changed.
    pub(crate) referred: Vec<PathBuf>,
    /// When to look again, because something was held back.
    pub(crate) again: Option<Duration>,
}

impl Scanner {
    /// Nothing was seen yet.
    pub(crate) fn new(target: Target) -> Self {
        Self {
            target,
            files: Reader::new(MAX_FILE_BYTES, text),
            referred: Reader::new(MAX_REFERRED_BYTES, print),
        }
    }

    /// The print of a file as it is now.
    pub(crate) fn print_of(path: &Path) -> Known<Print> {
        Reader::new(MAX_REFERRED_BYTES, print).single(path)
    }

    /// Takes over prints of files that were looked at when they were named.
    pub(crate) fn adopt(&mut self, prints: Vec<(PathBuf, Known<Print>)>) {
        for (path, known) in prints {
            self.referred.adopt(path, known);
        }
    }

    /// Finds out what there is. `referred` are the files that the configuration refers to.
    pub(crate) fn tree(&self, referred: &HashSet<PathBuf>) -> Tree {
        let mut tree = match &self.target {
            Target::Filename(path) => Tree::of_file(path),
            Target::Directory(path) => Tree::of_folder(path),
        };
        for path in referred {
            tree.trace(path);
        }
        if tree.folders.len() >= MAX_FOLDERS {
            tree.problems.push(Problem {
                path: self.target.path().to_owned(),
                kind: ProblemKind::NotWatched,
                message: format!("only {MAX_FOLDERS} folders are watched"),
                help: "changes elsewhere are found by the poll".into(),
            });
        }
        tree
    }

    /// Reads what changed.
    pub(crate) fn look(&mut self, mut tree: Tree, referred: &HashSet<PathBuf>, glance: &Glance<'_>) -> Scan {
        self.keep_what_is_unread(&mut tree, glance.held);
        let mut scan = Scan::default();
        self.look_at_files(&tree, glance, &mut scan);
        self.look_at_referred(referred, glance, &mut scan);
        scan.problems = tree.problems;
        scan
    }

    /// A folder that cannot be read says nothing about its files: they stay. So does a file whose name is gone while
    /// an editor is at it.
    fn keep_what_is_unread(&self, tree: &mut Tree, held: &HashSet<PathBuf>) {
        let kept = |path: &&PathBuf| is_held(path, held) || tree.unread.iter().any(|folder| path.starts_with(folder));
        let kept: Vec<_> = self.files.names().filter(kept).cloned().collect();
        tree.files.extend(kept);
    }

    fn look_at_files(&mut self, tree: &Tree, glance: &Glance<'_>, scan: &mut Scan) {
        for path in &tree.files {
            if tree.unread.iter().any(|folder| path.starts_with(folder)) {
                let text = self.files.value(path).cloned();
                scan.files.extend(text.map(|text| SourceFile {
                    path: path.clone(),
                    text,
                }));
                continue;
            }
            let (text, again) = self.files.look(path, glance);
            scan.hurry(again);
            let Some(text) = text else { continue };
            let vanished = matches!(&text, Err(problem) if problem.kind == ProblemKind::Missing);
            if vanished && matches!(self.target, Target::Directory(_)) && !path.is_symlink() {
                continue;
            }
            scan.files.push(SourceFile {
                path: path.clone(),
                text,
            });
        }
        self.files.retain(|path| tree.files.contains(path));
    }

    fn look_at_referred(&mut self, paths: &HashSet<PathBuf>, glance: &Glance<'_>, scan: &mut Scan) {
        self.referred.retain(|path| paths.contains(path));
        for path in paths {
            let before = self.referred.value(path).cloned();
            let (after, again) = self.referred.look(path, glance);
            scan.hurry(again);
            if before.is_some() && before != after {
                scan.referred.push(path.clone());
            }
        }
        scan.referred.sort();
    }
}

impl Scan {
    fn hurry(&mut self, again: Option<Duration>) {
        self.again = self.again.into_iter().chain(again).min();
    }
}

/// A look that believes everything it sees.
pub(crate) fn first_glance(held: &HashSet<PathBuf>) -> Glance<'_> {
    Glance {
        held,
        confirm: false,
        first: true,
        now: Instant::now(),
    }
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<Arc<str>, Problem> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            Err(Problem {
                path: path.to_owned(),
                kind: ProblemKind::NotText,
                message: format!("not UTF-8 in line {line}"),
                help: "save the file as UTF-8".into(),
            })
        }
    }
}

fn print(_: &Path, bytes: Vec<u8>) -> Result<Print, Problem> {
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    Ok(STATE.hash_one(bytes))
}
