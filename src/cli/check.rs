//! `gantry check`: everything that a start would find out, without serving.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::Format;
use crate::compile::{Context, compile};
use crate::config::dynamic::Dynamic;
use crate::config::static_config::{EntryPoint, Static};
use crate::config::{self, Decoded, Kind, Resources};
use crate::diag::Diagnostic;
use crate::gateway;
use crate::provider::Problem;
use crate::provider::file::{FileProvider, Target};

/// Checks `files` together and prints what was found. Exit 0 without errors, 1 with.
#[must_use]
pub fn run(files: &[PathBuf], format: Format) -> ExitCode {
    let mut check = Check::default();
    for file in files {
        check.read(file);
    }
    check.follow_static();
    check.compile();
    let errors = check.found.iter().filter(|d| d.is_error()).count();
    let warnings = check.found.len() - errors;
    match format {
        Format::Json => {
            let list: Vec<_> = check.found.iter().map(Diagnostic::to_json).collect();
            println!("{}", serde_json::Value::Array(list));
        }
        Format::Text => {
            for diagnostic in &check.found {
                println!("{diagnostic}\n");
            }
            let files = check.read.len();
            let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
            println!(
                "{} checked: {}, {}",
                plural(files, "file"),
                plural(errors, "error"),
                plural(warnings, "warning")
            );
        }
    }
    if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Default)]
struct Check {
    found: Vec<Diagnostic>,
    read: BTreeSet<PathBuf>,
    settings: Option<Decoded<Static>>,
    dynamic: Vec<Decoded<Dynamic>>,
}

impl Check {
    /// Reads a file, or a folder of dynamic files.
    fn read(&mut self, path: &Path) {
        let name = path.display().to_string();
        if path.is_dir() {
            let before = self.read.len();
            let problems = self.read_provider(Target::Directory(path.to_owned()));
            if problems.is_empty() && self.read.len() == before {
                let warning = Diagnostic::warning(name, "there is no configuration file in this folder");
                self.found
                    .push(warning.help("dynamic files are those that end in .yaml or .yml"));
            }
            self.found.extend(problems.iter().map(|problem| {
                let path = problem.path.display().to_string();
                of_problem(problem, path, problem.message.clone())
            }));
            return;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path, &name, &text),
            Err(e) => {
                let help = match e.kind() {
                    std::io::ErrorKind::InvalidData => "save the file as UTF-8 text",
                    std::io::ErrorKind::PermissionDenied => "let this user read it, and enter the folders above it",
                    _ => "check the path",
                };
                let message = format!("cannot read `{}`: {e}", path.display());
                self.found.push(Diagnostic::error(name, message).help(help));
            }
        }
    }

    fn text(&mut self, path: &Path, name: &str, text: &str) {
        if !self.read.insert(path.to_owned()) {
            return;
        }
        match config::recognise(text) {
            Kind::Static => {
                let decoded = config::decode_static(name, text);
                self.found.extend(decoded.diagnostics.iter().cloned());
                self.settings = Some(decoded);
            }
            Kind::Unknown if config::has_keys(text) => {
                let message = "this is neither a static nor a dynamic file: it has none of their keys";
                let help = "a static file has `entryPoints` or `providers`, a dynamic one `http` or `tls`";
                self.found.push(Diagnostic::error(name, message).help(help));
            }
            Kind::Dynamic | Kind::Unknown => {
                let decoded = config::decode_dynamic(name, text);
                self.found.extend(decoded.diagnostics.iter().cloned());
                self.dynamic.push(decoded);
            }
        }
    }

    /// Reads what a provider would; gives what it could not read.
    fn read_provider(&mut self, target: Target) -> Vec<Problem> {
        let event = FileProvider::new(target, false, Duration::ZERO, Duration::ZERO).load_what_is_there();
        for file in &event.files {
            if let Ok(text) = &file.text {
                self.text(&file.path, &file.path.display().to_string(), text);
            }
        }
        event.all_problems().cloned().collect()
    }

    /// A static file names its dynamic ones: they are checked with it, unless dynamic files were given.
    fn follow_static(&mut self) {
        if !self.dynamic.is_empty() {
            return;
        }
        let Some(file) = self.settings.as_ref().and_then(|s| s.value.providers.file.clone()) else {
            return;
        };
        let (key, target) = if file.filename.is_empty() {
            ("providers.file.directory", Target::Directory(file.directory.into()))
        } else {
            ("providers.file.filename", Target::Filename(file.filename.into()))
        };
        for problem in self.read_provider(target) {
            let message = format!("{}: {}", problem.path.display(), problem.message);
            let found = of_problem(&problem, key.to_owned(), message);
            self.found.extend(self.settings.as_ref().map(|s| s.attach(found)));
        }
    }

    /// Compiles what could be decoded: dangling references, certificates, weights, shadowed routers.
    fn compile(&mut self) {
        let usable: Vec<&Decoded<Dynamic>> = self.dynamic.iter().filter(|d| d.is_usable()).collect();
        let merged = config::merge(usable);
        let settings = match &self.settings {
            Some(decoded) if decoded.is_usable() => decoded.value.clone(),
            _ => assumed(&merged.value),
        };
        let context: Context = match gateway::startup::context(settings) {
            Ok(context) => context,
            Err(error) => {
                let settings = self.settings.as_ref();
                let error = settings.map_or_else(|| (*error).clone(), |s| s.attach((*error).clone()));
                return self.found.push(error);
            }
        };
        let mut paths = config::references(&merged.value);
        paths.extend(config::static_references(&context.settings));
        let folders = context
            .settings
            .feedback
            .iter()
            .flat_map(|_| config::folders(&merged.value));
        let resources = Resources::load(paths).with_folders(folders, false);
        let compiled = compile(&context, &merged.value, &resources, 0);
        let located = |diagnostic: Diagnostic| match &self.settings {
            Some(settings)
                if ["serversTransport.", "entryPoints.", "feedback."]
                    .iter()
                    .any(|p| diagnostic.path.starts_with(p)) =>
            {
                settings.attach(diagnostic)
            }
            _ => merged.attach(diagnostic),
        };
        let alone = self.settings.as_ref().is_none_or(|settings| !settings.is_usable());
        let unfinished = self.dynamic.iter().any(|d| !d.is_usable());
        let later: Vec<Diagnostic> = merged
            .diagnostics
            .iter()
            .cloned()
            .chain(compiled.diagnostics)
            .map(located)
            // Where a file could not be decoded, what it would have declared is missing only because of that.
            .filter(|d| !(unfinished && d.message.starts_with("there is no ") && !d.path.contains(".entryPoints[")))
            // Whether feedback is taken, only a static file says.
            .filter(|d| !(alone && d.path.ends_with(".keepMasks")))
            .collect();
        self.found.extend(later);
    }
}

/// Without a static file every entry point that a router names is taken to exist.
fn assumed(dynamic: &Dynamic) -> Static {
    let names = dynamic
        .http
        .routers
        .values()
        .flat_map(|r| r.entry_points.iter().map(String::as_str));
    let entry_point = |name: &str| {
        (
            name.to_owned(),
            EntryPoint {
                address: ":0".to_owned(),
                ..EntryPoint::default()
            },
        )
    };
    let entry_points: BTreeMap<_, _> = names.chain(["web"]).map(entry_point).collect();
    Static {
        entry_points,
        ..Static::default()
    }
}

fn of_problem(problem: &Problem, path: String, message: String) -> Diagnostic {
    let diagnostic = if problem.is_error() {
        Diagnostic::error(path, message)
    } else {
        Diagnostic::warning(path, message)
    };
    diagnostic.help(problem.help.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said about a file of this text.
    fn found(text: &str) -> Vec<Diagnostic> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f.yaml");
        std::fs::write(&file, text).unwrap();
        let mut check = Check::default();
        check.read(&file);
        check.follow_static();
        check.compile();
        check.found
    }

    #[test]
    fn what_the_static_file_names_is_missed_where_it_is_named() {
        for (text, key, near) in [
            (
                "entryPoints: {web: {address: ':0'}}\nping: {entryPoint: wep}\n",
                "ping.entryPoint",
                "`web`",
            ),
            (
                "entryPoints: {web: {address: ':0'}}\nmetrics: {prometheus: {entryPoint: far}}\n",
                "metrics.prometheus.entryPoint",
                "web",
            ),
            (
                "entryPoints: {web: {address: ':0', http: {redirections: {entryPoint: {to: nowhere}}}}}\n",
                "entryPoints.web.http.redirections.entryPoint.to",
                ":8443",
            ),
            (
                "entryPoints: {web: {address: ':0'}}\nproviders: {file: {directory: /nowhere/at/all}}\n",
                "providers.file.directory",
                "create it",
            ),
        ] {
            let found = found(text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].path, key);
            assert!(found[0].location.is_some(), "{key}");
            assert!(found[0].help.as_ref().unwrap().contains(near), "{:?}", found[0].help);
        }
    }

    #[test]
    fn masks_that_nobody_can_compare_are_told_of_where_a_static_file_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let dynamic = write(
            "dynamic.yaml",
            "http: {services: {s: {model: {name: m}, keepMasks: {}, loadBalancer: {servers: [{url: 'http://a'}]}}}}\n",
        );
        let token = write("token", "0123456789abcdef\n");
        let feedback = format!("feedback: {{tokenFile: {}}}\n", token.display());
        for (settings, warned) in [(None, false), (Some(""), true), (Some(&*feedback), false)] {
            let mut check = Check::default();
            check.read(&dynamic);
            if let Some(text) = settings {
                check.read(&write(
                    "static.yaml",
                    &format!("entryPoints: {{web: {{address: ':0'}}}}\n{text}"),
                ));
            }
            check.compile();
            let about = check.found.iter().filter(|d| d.path.ends_with(".keepMasks"));
            assert_eq!(about.count(), usize::from(warned), "{settings:?}: {:?}", check.found);
        }
    }

    #[test]
    fn a_token_that_is_not_here_may_be_where_the_file_goes() {
        let found =
            found("entryPoints: {web: {address: ':0'}}\nfeedback: {entryPoint: web, tokenFile: /nowhere/token}\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, "feedback.tokenFile");
        assert!(!found[0].is_error() && found[0].location.is_some(), "{found:?}");
        assert!(
            found[0].message.ends_with("Gantry does not start without one"),
            "{found:?}"
        );
    }

    #[test]
    fn a_file_of_neither_kind_is_told_what_the_kinds_are() {
        let found = found("foo: 1\nbar: 2\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].help.as_ref().unwrap().contains("`entryPoints`"));
    }

    #[test]
    fn own_keys_and_comments_alone_are_no_mistake() {
        for text in ["", "# later\n", "x-mine: 1\n"] {
            assert_eq!(found(text), [], "{text:?}");
        }
    }
}
