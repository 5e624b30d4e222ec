//! Which files there are, and which folders have to be watched to notice that one of them changed.
//!
//! Symbolic links are followed link by link, because each of them can be swapped: Kubernetes publishes a ConfigMap as
//! `file.yaml -> ..data/file.yaml` with `..data -> ..2026_01_02`, and changes it by renaming a new `..data` over the
//! old one. The folder of every link on the way is watched, and the file is read through its visible name only.
//!
//! Bounded in files, folders, depth and links; loops of links end.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::super::{Problem, ProblemKind};

/// Most files that one provider reads.
pub const MAX_FILES: usize = 10_000;
/// Most folders that one provider walks and watches.
pub const MAX_FOLDERS: usize = 4_096;
/// Deepest nesting of folders that is followed.
const MAX_DEPTH: usize = 64;
/// Most symbolic links on the way to one file; Linux' own limit.
const MAX_LINKS: usize = 40;

/// Device and inode: tells whether a folder is still the one that is watched.
pub(crate) type Identity = (u64, u64);

/// What a look at the disk found.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The configuration files by their visible names, sorted.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Folders to watch, without links in their names.
    pub(crate) folders: BTreeMap<PathBuf, Identity>,
    /// Those of them in which every configuration file counts.
    pub(crate) walked: HashSet<PathBuf>,
    /// Names whose change matters wherever they are: links on the way to a file, and files' real names.
    pub(crate) names: HashSet<PathBuf>,
    /// Visible folders that could not be read: what was known below them is still believed.
    pub(crate) unread: Vec<PathBuf>,
    /// What is wrong.
    pub(crate) problems: Vec<Problem>,
}

impl Tree {
    /// The tree of a single file.
    pub(crate) fn of_file(path: &Path) -> Self {
        let mut tree = Self::default();
        tree.trace(path);
        match extension(path).as_deref() {
            Some("yaml" | "yml") => {
                tree.files.insert(path.to_owned());
            }
            Some("toml") => tree.problems.push(toml(path)),
            _ => tree.problems.push(Problem {
                path: path.to_owned(),
                kind: ProblemKind::Unsupported,
                message: "providers.file.filename must end in .yaml or .yml".into(),
                help: "rename the file".into(),
            }),
        }
        tree
    }

    /// The tree of every configuration file below a folder.
    pub(crate) fn of_folder(path: &Path) -> Self {
        let mut tree = Self::default();
        tree.trace(path);
        Walk {
            tree: &mut tree,
            folders: HashSet::new(),
            files: HashSet::new(),
        }
        .folder(path, 0);
        tree
    }

    /// Follows `path` link by link and watches each folder that can change what it means.
    pub(crate) fn trace(&mut self, path: &Path) {
        let Ok(path) = std::path::absolute(path) else { return };
        let mut ahead = reversed(&path);
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&part);
            match fs::read_link(&next) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return;
                    }
                    self.watch(&real);
                    self.names.insert(next);
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    ahead.extend(reversed(&target));
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::NotFound {
                        // What is missing can only come back in the folder that is there.
                        self.watch(&real);
                        self.names.insert(next);
                        return;
                    }
                    real = next;
                }
            }
        }
        if let Some(parent) = real.parent() {
            self.watch(parent);
        }
        self.names.insert(real);
    }

    fn watch(&mut self, folder: &Path) {
        if self.folders.len() < MAX_FOLDERS
            && let Ok(meta) = fs::metadata(folder)
            && meta.is_dir()
        {
            self.folders.insert(folder.to_owned(), (meta.dev(), meta.ino()));
        }
    }
}

/// The components of a path, last one first; `..` stays, `.` and the root do not.
fn reversed(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

/// One walk of a folder.
struct Walk<'a> {
    tree: &'a mut Tree,
    /// Folders that were entered: a loop of links comes back to one of them.
    folders: HashSet<Identity>,
    /// Real names of files that were taken: a second link to one is not read again.
    files: HashSet<PathBuf>,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) {
        let entered = fs::metadata(folder).and_then(|meta| Ok((meta, fs::canonicalize(folder)?)));
        let (meta, real) = match entered {
            Ok(found) => found,
            Err(error) => return self.unread(folder, &error),
        };
        if !self.folders.insert((meta.dev(), meta.ino())) {
            return;
        }
        if depth > MAX_DEPTH || self.tree.folders.len() >= MAX_FOLDERS {
            self.too_many(folder, "folders", MAX_FOLDERS);
            return;
        }
        let names = fs::read_dir(folder).and_then(|entries| {
            let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
            names
        });
        let mut names = match names {
            Ok(names) => names,
            Err(error) => return self.unread(folder, &error),
        };
        self.tree.folders.insert(real.clone(), (meta.dev(), meta.ino()));
        self.tree.walked.insert(real);
        names.sort();
        for name in names {
            if !is_editors(&name) {
                self.entry(folder.join(name), depth);
            }
        }
    }

    fn entry(&mut self, path: PathBuf, depth: usize) {
        let link = path.is_symlink();
        let meta = fs::metadata(&path);
        if meta.as_ref().is_ok_and(|meta| meta.is_dir()) {
            if link {
                self.tree.trace(&path);
            }
            return self.folder(&path, depth + 1);
        }
        match extension(&path).as_deref() {
            Some("yaml" | "yml") => {}
            Some("toml") => return self.tree.problems.push(toml(&path)),
            _ => return,
        }
        if self.tree.files.len() >= MAX_FILES {
            return self.too_many(&path, "files", MAX_FILES);
        }
        if link {
            self.tree.trace(&path);
        }
        // A dangling link has no real name; reading it then says so.
        if fs::canonicalize(&path).map_or(true, |real| self.files.insert(real)) {
            self.tree.files.insert(path);
        }
    }

    fn unread(&mut self, folder: &Path, error: &io::Error) {
        self.tree.unread.push(folder.to_owned());
        self.tree.problems.push(io_problem(folder, "folder", error));
    }

    fn too_many(&mut self, path: &Path, what: &str, most: usize) {
        let known = self
            .tree
            .problems
            .last()
            .is_some_and(|problem| problem.kind == ProblemKind::TooMany);
        if !known {
            self.tree.problems.push(Problem {
                path: path.to_owned(),
                kind: ProblemKind::TooMany,
                message: format!("more than {most} {what}, this one and what follows it are not read"),
                help: "point providers.file at a folder that holds configuration only".into(),
            });
        }
    }
}

/// The trouble of opening or reading `path`, with advice.
pub(crate) fn io_problem(path: &Path, what: &str, error: &io::Error) -> Problem {
    let (kind, message, help) = match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => (
            ProblemKind::Missing,
            format!("this link to a {what} leads nowhere"),
            "mend the link or remove it",
        ),
        io::ErrorKind::NotFound => (
            ProblemKind::Missing,
            format!("there is no such {what}"),
            "create it or correct the path",
        ),
        io::ErrorKind::PermissionDenied => (
            ProblemKind::Unreadable,
            format!("no permission to read this {what}"),
            "let the user that gantry runs as read it, and enter the folders above it",
        ),
        io::ErrorKind::NotADirectory => (
            ProblemKind::Unreadable,
            "not a folder".to_owned(),
            "use providers.file.filename for a single file",
        ),
        io::ErrorKind::IsADirectory => (
            ProblemKind::Unreadable,
            "a folder".to_owned(),
            "use providers.file.directory for a folder",
        ),
        _ => (
            ProblemKind::Unreadable,
            format!("cannot read this {what}: {error}"),
            "see the system's log",
        ),
    };
    Problem {
        path: path.to_owned(),
        kind,
        message,
        help: help.into(),
    }
}

fn toml(path: &Path) -> Problem {
    Problem {
        path: path.to_owned(),
        kind: ProblemKind::Unsupported,
        message: "TOML files are known, not supported yet".into(),
        help: "write the same keys as YAML, or move the file out of the folder".into(),
    }
}

/// The extension in lower case: Traefik does not mind the case either.
fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Names that editors and kubelet use for themselves: hidden files (`.x.yaml.swp`, `.#x.yaml`, `..data`), backups
/// (`x.yaml~`, `#x.yaml#`) and vim's probe `4913`.
pub(crate) fn is_editors(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~") || name.starts_with(b"#") || name == b"4913"
}

/// Whether a name in a walked folder can be a configuration file or a folder of them.
pub(crate) fn is_relevant(path: &Path) -> bool {
    // A name without a known ending may be a folder.
    path.file_name().is_none_or(|name| !is_editors(name))
        && matches!(extension(path).as_deref(), None | Some("yaml" | "yml" | "toml"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(tree: &Tree, root: &Path) -> Vec<String> {
        tree.files
            .iter()
            .map(|path| path.strip_prefix(root).unwrap().display().to_string())
            .collect()
    }

    fn root() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    #[test]
    fn walks_folders_and_skips_what_editors_leave() {
        let (_guard, root) = root();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        for name in [
            "a.yaml",
            "b/c/d.yml",
            "b/x.YAML",
            "z.txt",
            ".a.yaml.swp",
            "a.yaml~",
            "4913",
            ".#a.yaml",
            "#a.yaml#",
            ".hidden.yaml",
            ".git/c.yaml",
        ] {
            fs::write(root.join(name), "").unwrap();
        }
        let tree = Tree::of_folder(&root);
        assert_eq!(names(&tree, &root), ["a.yaml", "b/c/d.yml", "b/x.YAML"]);
        assert!(tree.problems.is_empty());
        assert!(tree.folders.contains_key(&root.join("b/c")));
    }

    #[test]
    fn toml_is_known_and_refused() {
        let (_guard, root) = root();
        fs::write(root.join("a.toml"), "").unwrap();
        let tree = Tree::of_folder(&root);
        assert_eq!(tree.problems[0].kind, ProblemKind::Unsupported);
        assert!(tree.problems[0].is_error());
    }

    #[test]
    fn a_config_map_is_read_once_and_its_links_are_watched() {
        let (_guard, root) = root();
        fs::create_dir(root.join("..2026_01")).unwrap();
        fs::write(root.join("..2026_01/a.yaml"), "").unwrap();
        symlink("..2026_01", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        let tree = Tree::of_folder(&root);
        assert_eq!(names(&tree, &root), ["a.yaml"]);
        for name in ["..data", "a.yaml", "..2026_01/a.yaml"] {
            assert!(tree.names.contains(&root.join(name)), "{name}");
        }
        assert!(tree.folders.contains_key(&root.join("..2026_01")));
    }

    #[test]
    fn loops_and_second_links_end() {
        let (_guard, root) = root();
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/a.yaml"), "").unwrap();
        symlink("..", root.join("sub/up")).unwrap();
        symlink("self.yaml", root.join("self.yaml")).unwrap();
        symlink("sub/a.yaml", root.join("twin.yaml")).unwrap();
        let tree = Tree::of_folder(&root);
        assert_eq!(names(&tree, &root), ["self.yaml", "sub/a.yaml"]);
    }

    #[test]
    fn a_missing_folder_watches_where_it_can_come_back() {
        let (_guard, root) = root();
        let tree = Tree::of_folder(&root.join("gone/deeper"));
        assert_eq!(tree.problems[0].kind, ProblemKind::Missing);
        assert!(tree.folders.contains_key(&root));
        assert!(tree.names.contains(&root.join("gone")));
    }

    #[test]
    fn relevant_names() {
        for (path, relevant) in [
            ("/c/a.yaml", true),
            ("/c/sub", true),
            ("/c/access.log", false),
            ("/c/.a.yaml.swp", false),
            ("/c/4913", false),
            ("/c/..2026", false),
        ] {
            assert_eq!(is_relevant(Path::new(path)), relevant, "{path}");
        }
    }
}
