//! Reads files once for each change of theirs.
//!
//! A file whose stamp (inode, size, times) is the same as at the last look is not read again, unless it was written so
//! shortly before that look that a second write could hide behind the same stamp. Two rules hold a new version back:
//! - Nobody told that the file changed (a poll found it): its stamp must be the same at a second look.
//! - It is empty, and was not: it must stay so for [`EMPTY`], because writers cut a file off before they fill it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::super::{Problem, ProblemKind};
use super::tree::io_problem;

/// Time between the two looks at a file that a poll found changed.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// How long a file must stay empty.
const EMPTY: Duration = Duration::from_millis(400);
/// A stamp younger than this may hide a later write: clocks of file systems are coarse (1 s on some NFS servers).
const RACY: Duration = Duration::from_secs(2);

/// Turns bytes into what is kept of them.
type Digest<V> = fn(&Path, Vec<u8>) -> Result<V, Problem>;

/// What is known of a set of files.
#[derive(Debug)]
pub(crate) struct Reader<V> {
    known: BTreeMap<PathBuf, Known<V>>,
    digest: Digest<V>,
    max_bytes: u64,
}

/// The last look at one file.
#[derive(Debug)]
pub(crate) struct Known<V> {
    value: Option<Result<V, Problem>>,
    /// `None` when the value has to be read again in any case.
    stamp: Option<Stamp>,
    /// A stamp that was seen once, and when.
    candidate: Option<(Stamp, Instant)>,
    empty_since: Option<Instant>,
}

impl<V> Default for Known<V> {
    fn default() -> Self {
        Self {
            value: None,
            stamp: None,
            candidate: None,
            empty_since: None,
        }
    }
}

/// Device, inode, size, and the times of the last write and the last change of the inode.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// How to look.
#[derive(Debug)]
pub(crate) struct Glance<'a> {
    /// Names that are being written now: not to be read.
    pub(crate) held: &'a HashSet<PathBuf>,
    /// Whether nobody told of a change, so that a second look is needed.
    pub(crate) confirm: bool,
    /// The first load: believe what is there.
    pub(crate) first: bool,
    /// The time of the look.
    pub(crate) now: Instant,
}

impl<V: Clone> Reader<V> {
    /// Keeps what `digest` makes of files of at most `max_bytes`.
    pub(crate) fn new(max_bytes: u64, digest: Digest<V>) -> Self {
        Self {
            known: BTreeMap::new(),
            digest,
            max_bytes,
        }
    }

    /// Forgets files that are not in `present`.
    pub(crate) fn retain(&mut self, mut present: impl FnMut(&Path) -> bool) {
        self.known.retain(|path, _| present(path));
    }

    /// The files that were looked at and have a value.
    pub(crate) fn names(&self) -> impl Iterator<Item = &PathBuf> {
        self.known
            .iter()
            .filter(|(_, known)| known.value.is_some())
            .map(|(path, _)| path)
    }

    /// Takes over a look that was done elsewhere.
    pub(crate) fn adopt(&mut self, path: PathBuf, known: Known<V>) {
        self.known.entry(path).or_insert(known);
    }

    /// The value of the last look.
    pub(crate) fn value(&self, path: &Path) -> Option<&Result<V, Problem>> {
        self.known.get(path)?.value.as_ref()
    }

    /// A look that stands for itself.
    pub(crate) fn single(&self, path: &Path) -> Known<V> {
        let mut known = Known::default();
        let glance = Glance {
            held: &HashSet::new(),
            confirm: false,
            first: true,
            now: Instant::now(),
        };
        known.look(path, self.max_bytes, self.digest, &glance);
        known
    }

    /// Looks at one file. The value is what to believe of it now, `None` for a new file that is held back; the
    /// duration says when to look again.
    pub(crate) fn look(&mut self, path: &Path, glance: &Glance<'_>) -> (Option<Result<V, Problem>>, Option<Duration>) {
        let known = self.known.entry(path.to_owned()).or_default();
        let again = known.look(path, self.max_bytes, self.digest, glance);
        (known.value.clone(), again)
    }
}

impl<V> Known<V> {
    fn look(&mut self, path: &Path, max: u64, digest: Digest<V>, glance: &Glance<'_>) -> Option<Duration> {
        if is_held(path, glance.held) {
            return None;
        }
        let stamp = match std::fs::metadata(path) {
            Ok(meta) => stamp(&meta),
            Err(error) => {
                *self = Self {
                    value: Some(Err(io_problem(path, "file", &error))),
                    ..Self::default()
                };
                return None;
            }
        };
        if self.stamp == Some(stamp) {
            return None;
        }
        if glance.confirm && !glance.first {
            match self.candidate {
                Some((seen, at)) if seen == stamp => {
                    let waited = glance.now.saturating_duration_since(at);
                    if waited < SECOND_LOOK {
                        return Some(SECOND_LOOK - waited);
                    }
                }
                _ => {
                    self.candidate = Some((stamp, glance.now));
                    return Some(SECOND_LOOK);
                }
            }
        }
        let (bytes, stamp) = match read(path, max) {
            Ok(found) => found,
            Err(Trouble::Moving) => return Some(SECOND_LOOK),
            Err(Trouble::Problem(problem)) => {
                (self.value, self.stamp, self.empty_since) = (Some(Err(problem)), None, None);
                return None;
            }
        };
        if !bytes.is_empty() {
            self.empty_since = None;
        } else if !glance.first {
            let since = *self.empty_since.get_or_insert(glance.now);
            let waited = glance.now.saturating_duration_since(since);
            if waited < EMPTY {
                return Some(EMPTY - waited);
            }
        }
        self.value = Some(digest(path, bytes));
        self.stamp = is_old(&stamp).then_some(stamp);
        None
    }
}

/// Whether the stamp is old enough to be trusted.
fn is_old(stamp: &Stamp) -> bool {
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(stamp.3.0.max(0).cast_unsigned());
    SystemTime::now().duration_since(written).is_ok_and(|age| age > RACY)
}

/// Whether `path`, under its own name or its real one, is among the names that must not be read.
pub(crate) fn is_held(path: &Path, held: &HashSet<PathBuf>) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    // The file itself may be gone: then the real name of its folder tells.
    let in_real_folder = || Some(real(path.parent()?)?.join(path.file_name()?));
    !held.is_empty()
        && (held.contains(path)
            || real(path).is_some_and(|real| held.contains(&real))
            || in_real_folder().is_some_and(|name| held.contains(&name)))
}

fn stamp(meta: &Metadata) -> Stamp {
    (
        meta.dev(),
        meta.ino(),
        meta.size(),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    )
}

enum Trouble {
    /// The file changed while it was read.
    Moving,
    Problem(Problem),
}

fn read(path: &Path, max: u64) -> Result<(Vec<u8>, Stamp), Trouble> {
    let failed = |error: io::Error| Trouble::Problem(io_problem(path, "file", &error));
    // Opening a named pipe must not wait for its writer.
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let problem = |kind, message: String, help: &str| {
        Trouble::Problem(Problem {
            path: path.to_owned(),
            kind,
            message,
            help: help.into(),
        })
    };
    if !meta.is_file() {
        return Err(problem(
            ProblemKind::Unreadable,
            "not a regular file".into(),
            "use a regular file or a link to one",
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.size().min(max)).unwrap_or(0));
    Read::by_ref(&mut file)
        .take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > max {
        let message = format!("larger than {} MiB", max >> 20);
        return Err(problem(ProblemKind::TooLarge, message, "split it into several files"));
    }
    let before = stamp(&meta);
    let after = stamp(&file.metadata().map_err(failed)?);
    // The name may have been swapped while the file was open.
    let named = std::fs::metadata(path).map(|meta| stamp(&meta)).ok();
    if before != after || named != Some(after) {
        return Err(Trouble::Moving);
    }
    Ok((bytes, after))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn length(_: &Path, bytes: Vec<u8>) -> Result<usize, Problem> {
        Ok(bytes.len())
    }

    struct Bench {
        dir: tempfile::TempDir,
        reader: Reader<usize>,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                dir,
                reader: Reader::new(100, length),
                start: Instant::now(),
            }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("f")
        }

        fn write(&self, len: usize) {
            fs::write(self.path(), "x".repeat(len)).unwrap();
        }

        fn look(&mut self, ms: u64, confirm: bool) -> (Option<usize>, Option<u64>) {
            let now = self.start + Duration::from_millis(ms);
            let glance = Glance {
                held: &HashSet::new(),
                confirm,
                first: false,
                now,
            };
            let (value, again) = self.reader.look(&self.path(), &glance);
            (
                value.and_then(Result::ok),
                again.map(|d| d.as_millis().try_into().unwrap()),
            )
        }
    }

    #[test]
    fn a_poll_needs_a_second_look_with_the_same_stamp() {
        let mut bench = Bench::new();
        bench.write(3);
        assert_eq!(bench.look(0, false), (Some(3), None));
        bench.write(4);
        assert_eq!(bench.look(10, true), (Some(3), Some(200)));
        bench.write(5);
        assert_eq!(bench.look(210, true), (Some(3), Some(200)));
        assert_eq!(bench.look(410, true), (Some(5), None));
    }

    #[test]
    fn an_empty_file_must_stay_empty() {
        let mut bench = Bench::new();
        bench.write(3);
        assert_eq!(bench.look(0, false), (Some(3), None));
        bench.write(0);
        assert_eq!(bench.look(100, false), (Some(3), Some(400)));
        bench.write(4);
        assert_eq!(bench.look(200, false), (Some(4), None));
        bench.write(0);
        assert_eq!(bench.look(1000, false), (Some(4), Some(400)));
        assert_eq!(bench.look(1400, false), (Some(0), None));
        assert_eq!(bench.look(1401, false), (Some(0), None));
    }

    #[test]
    fn a_held_file_keeps_its_value_also_under_a_link() {
        let mut bench = Bench::new();
        bench.write(3);
        let link = bench.dir.path().join("link");
        std::os::unix::fs::symlink(bench.path(), &link).unwrap();
        let none = HashSet::new();
        let free = Glance {
            held: &none,
            confirm: false,
            first: false,
            now: bench.start,
        };
        assert_eq!(bench.reader.look(&link, &free).0, Some(Ok(3)));
        bench.write(5);
        let held = HashSet::from([bench.path().canonicalize().unwrap()]);
        let glance = Glance {
            held: &held,
            confirm: false,
            first: false,
            now: bench.start,
        };
        assert_eq!(bench.reader.look(&link, &glance).0, Some(Ok(3)));
        assert_eq!(bench.reader.look(&link, &free).0, Some(Ok(5)));
    }

    #[test]
    fn a_write_behind_the_same_size_is_seen() {
        let mut bench = Bench::new();
        for _ in 0..50 {
            bench.write(3);
            assert_eq!(bench.look(0, false).0, Some(3));
        }
        assert!(
            bench.reader.known[&bench.path()].stamp.is_none(),
            "a fresh stamp is not trusted"
        );
    }

    #[test]
    fn bounds_and_odd_files() {
        let mut bench = Bench::new();
        let kind = |bench: &mut Bench| {
            let glance = Glance {
                held: &HashSet::new(),
                confirm: false,
                first: false,
                now: bench.start,
            };
            let path = bench.path();
            bench.reader.look(&path, &glance).0.unwrap().unwrap_err().kind
        };
        assert_eq!(kind(&mut bench), ProblemKind::Missing);
        bench.write(101);
        assert_eq!(kind(&mut bench), ProblemKind::TooLarge);
        fs::remove_file(bench.path()).unwrap();
        fs::create_dir(bench.path()).unwrap();
        assert_eq!(kind(&mut bench), ProblemKind::Unreadable);
        fs::remove_dir(bench.path()).unwrap();
        std::os::unix::net::UnixListener::bind(bench.path()).unwrap();
        assert_eq!(kind(&mut bench), ProblemKind::Unreadable);
    }
}
