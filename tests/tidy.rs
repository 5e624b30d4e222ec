//! The rules of the house that a compiler does not know: which layer may use which, how long files and functions may
//! get, what only one file may do, and that documents point at things that exist.
//!
//! Each test collects everything that breaks its rule and says where, so that one run shows the whole of it.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regex::Regex;

/// What each module of the crate may use, beside itself; the longest path that leads to a file holds. A line's order is the
/// order of DESIGN: a module may use what stands before it. Where one turns back, its line says why. Widen an entry
/// only with a reason that you would defend in a review.
#[rustfmt::skip]
const LAYERS: &[(&str, &str)] = &[
    // L0: values and messages. `observe` is called by everything above it and knows nobody.
    ("units", ""),
    ("diag", "units"),
    ("imaging", ""),
    ("observe", "units diag"),
    // L1: what the user wrote
    ("config", "units diag observe"),
    ("rule", "units diag observe config"),
    // L2: where it comes from
    ("provider", "units diag observe config rule"),
    // L3: state that outlives snapshots, certificates, and the snapshot. `compile` puts the data plane's parts together
    // from what L1 says, so it names both sides.
    ("runtime", "units diag observe config rule"),
    ("tls", "units diag observe config rule runtime"),
    ("compile", "units diag observe config rule provider runtime tls listen http router middleware service upstream model admin"),
    // L4: the data plane, in the order bytes travel. None of it may use `provider`, `gateway`, `cli`; of `compile` only
    // the snapshot's types are of use to it.
    // `listen/connection` hands a connection to `http/serve`, and that file tells a request's story, so it names all.
    ("listen", "units diag observe config runtime tls compile http"),
    ("http/serve", "units diag observe config rule runtime tls compile listen router middleware service upstream model"),
    // The exchange holds what was chosen for it: router, server, connection, permits.
    ("http", "units diag observe config runtime tls compile listen router service upstream"),
    ("router", "units diag observe config rule runtime compile listen http"),
    // A chain ends in a service.
    ("middleware", "units diag observe config runtime compile listen http router service"),
    // The scrapes of accuracy run beside the data plane: they ask the servers of a balancer.
    ("model/scrape", "units diag observe service upstream"),
    ("model", "units diag observe imaging config runtime http"),
    // A load balancer hands the request on to `upstream/forward`; `ping@internal` and `prometheus@internal` end in `admin`.
    ("service", "units diag observe config runtime tls compile listen http model upstream admin"),
    ("upstream", "units diag observe config runtime tls listen http service model"),
    // L5: the program
    // Lists the servers of a snapshot, and asks them.
    ("admin/sd", "units diag observe config compile http service"),
    ("admin/federate", "units diag observe config rule compile http service upstream"),
    ("admin", "units diag observe imaging config rule compile runtime http model"),
    ("gateway", "units diag observe config rule provider compile runtime tls listen http router middleware service \
                 upstream model admin"),
    ("demo", "units diag observe imaging config gateway"),
    ("cli", "units diag observe imaging config rule provider compile runtime tls middleware admin gateway demo"),
];

/// The only files that may contain `unsafe`, each with the reason in its own documentation.
const AUDITED_UNSAFE: &[&str] = &["src/listen/peer_watch.rs"];

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 120;

/// A Rust file of the crate or its tests.
struct Source {
    /// From the package's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The module that a file of `src/` belongs to: `src/http/serve.rs` and `src/http.rs` are both `http`.
    fn module(&self) -> Option<&str> {
        let name = self
            .path
            .strip_prefix("src/")?
            .split('/')
            .next()?
            .trim_end_matches(".rs");
        (!matches!(name, "lib" | "main")).then_some(name)
    }

    /// What LAYERS lets this file use: the entry of the longest path that leads to it.
    fn may_use(&self) -> Option<Vec<&'static str>> {
        let path = self.path.strip_prefix("src/")?.trim_end_matches(".rs");
        let leads_here =
            |entry: &str| path == entry || path.strip_prefix(entry).is_some_and(|rest| rest.starts_with('/'));
        let entries = LAYERS.iter().filter(|(entry, _)| leads_here(entry));
        entries
            .max_by_key(|(entry, _)| entry.len())
            .map(|(_, allowed)| allowed.split_whitespace().collect())
    }

    /// How many modules stand above the items of this file: 1 for `src/http.rs`, 2 for `src/http/serve.rs`.
    fn depth(&self) -> usize {
        self.path.matches('/').count()
    }

    /// The lines that ship, numbered from 1: without comments, and without the tests at the foot of the file.
    fn shipped(&self) -> Vec<(usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_foot = |index: &usize| {
            let mut after = lines[index + 1..].iter().skip_while(|line| line.starts_with("#["));
            lines[*index] == "#[cfg(test)]"
                && after
                    .next()
                    .is_some_and(|line| line.contains("mod ") && line.ends_with('{'))
        };
        let foot = (0..lines.len()).find(is_foot).unwrap_or(lines.len());
        let mut shipped = Vec::with_capacity(foot);
        for (index, line) in lines[..foot].iter().enumerate() {
            let code = line.trim_start();
            if !code.starts_with("//") {
                // a comment after code; `://` is a URL
                let end = line.find(" // ").unwrap_or(line.len());
                shipped.push((index + 1, &line[..end]));
            }
        }
        shipped
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` (from the package's root) whose name ends with one of `endings`, in order of their names.
fn files(folder: &str, endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "__pycache__" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: relative(&path),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

/// The files of the crate, without those that are compiled for its tests only.
fn crate_sources() -> Vec<Source> {
    let mut sources = files("src", &[".rs"]);
    assert!(sources.len() >= 20, "the crate's sources were not found");
    let test_module = Regex::new(r"(?m)^#\[cfg\(test\)\]\n(?:#\[.*\n)*(?:pub(?:\([^)]*\))? )?mod (\w+);").unwrap();
    let mut test_only = BTreeSet::new();
    for source in &sources {
        let folder = source.path.trim_end_matches(".rs");
        test_only.extend(
            test_module
                .captures_iter(&source.text)
                .map(|found| format!("{folder}/{}.rs", &found[1])),
        );
    }
    sources.retain(|source| !test_only.contains(&source.path));
    sources
}

#[track_caller]
fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}\n  {}\n", broken.join("\n  "));
}

/// The modules of the crate that a piece of code names: `crate::a::b`, `crate::{a, b::{c, d}}`.
fn modules_used(code: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\bcrate::(\w+)").unwrap();
    let group = Regex::new(r"\bcrate::\{").unwrap();
    let mut used: BTreeSet<String> = name.captures_iter(code).map(|found| found[1].to_owned()).collect();
    for opening in group.find_iter(code) {
        // what stands at the group's own level, with each nested group left out
        let mut level = 1;
        let own = code[opening.end()..].chars().take_while(|character| {
            level += i32::from(*character == '{') - i32::from(*character == '}');
            level > 0
        });
        let mut nested = 0;
        let mut own_level = String::new();
        for character in own {
            nested += i32::from(character == '{') - i32::from(character == '}');
            own_level.extend((nested == 0).then_some(character));
        }
        let first_name = |item: &str| {
            item.split(|c: char| !c.is_alphanumeric() && c != '_')
                .find(|name| !name.is_empty())
                .map(str::to_owned)
        };
        used.extend(own_level.split(',').filter_map(first_name));
    }
    used
}

#[test]
fn a_group_of_imports_is_understood() {
    let used = modules_used(
        "use crate::{\n    config::{a, b::c},\n    http,\n    tls as t,\n};\nfn f() { crate::units::x() }",
    );
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["config", "http", "tls", "units"]);
}

#[test]
fn modules_use_only_the_layers_that_they_may() {
    let modules: BTreeSet<&str> = LAYERS.iter().map(|(path, _)| *path).collect();
    let up = Regex::new(r"\b(?:super::)+").unwrap();
    let mut broken = Vec::new();
    for source in crate_sources() {
        let Some(module) = source.module() else { continue };
        let Some(allowed) = source.may_use() else {
            broken.push(format!("{}: the module `{module}` has no line in LAYERS", source.path));
            continue;
        };
        let shipped = source.shipped();
        let code: String = shipped.iter().flat_map(|(_, line)| [line, "\n"]).collect();
        for used in modules_used(&code) {
            // what lib.rs itself holds has no layer
            if used != module && modules.contains(used.as_str()) && !allowed.contains(&used.as_str()) {
                let line = shipped
                    .iter()
                    .find(|(_, line)| line.contains(&used))
                    .map_or(0, |(number, _)| *number);
                broken.push(format!("{}:{line}: `{module}` may not use `{used}`", source.path));
            }
        }
        for (number, line) in &shipped {
            if up
                .find_iter(line)
                .any(|chain| chain.as_str().matches("super::").count() >= source.depth())
            {
                broken.push(format!(
                    "{}:{number}: write `crate::` for another module of the crate",
                    source.path
                ));
            }
        }
    }
    assert_none(
        "A module may use only what stands before it (LAYERS in tests/tidy.rs):",
        &broken,
    );
}

#[test]
fn files_hold_one_idea() {
    let bad_name = Regex::new(r"(?:^|[/_])(?:utils?|helpers?|common|misc|managers?)(?:[_./]|$)").unwrap();
    let mut broken = Vec::new();
    for source in ["src", "tests", "benches", "examples"]
        .iter()
        .flat_map(|folder| files(folder, &[".rs", ".py", ".sh"]))
    {
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            broken.push(format!(
                "{}: {lines} lines, more than {FILE_LINES}: it probably holds two ideas",
                source.path
            ));
        }
        if bad_name.is_match(&source.path) {
            broken.push(format!("{}: name it by what it holds", source.path));
        }
        if source.path.starts_with("src/") && source.path.ends_with("/mod.rs") {
            broken.push(format!("{}: write foo.rs beside foo/", source.path));
        }
    }
    assert_none("Files:", &broken);
}

#[test]
fn functions_fit_on_a_screen_or_two() {
    let head = Regex::new(r#"^( *)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern "[^"]*" )*fn (\w+)"#).unwrap();
    let mut broken = Vec::new();
    for source in crate_sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (start, _) in source.shipped() {
            let Some(found) = head.captures(lines[start - 1]) else {
                continue;
            };
            // rustfmt puts the closing brace under the `fn`
            let closing = format!("{}}}", &found[1]);
            let length = 1 + lines[start - 1..].iter().position(|line| *line == closing).unwrap_or(0);
            let one_line = lines[start - 1].ends_with('}') || lines[start - 1].ends_with(';');
            if !one_line && length > FUNCTION_LINES {
                broken.push(format!("{}:{start}: `{}` has {length} lines", source.path, &found[2]));
            }
        }
    }
    assert_none(&format!("Functions of more than {FUNCTION_LINES} lines:"), &broken);
}

#[test]
fn nothing_that_ships_panics_by_habit() {
    let habit = Regex::new(r"\.unwrap\(\)|\b(?:todo|unimplemented|dbg)!").unwrap();
    let mut broken = Vec::new();
    for source in crate_sources() {
        for (number, line) in source.shipped() {
            if habit.is_match(line) {
                broken.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(
        "Outside tests, say with `expect` which invariant holds, or return the error:",
        &broken,
    );
}

#[test]
fn nothing_is_left_for_later() {
    let mark = Regex::new(concat!(r"\b(?:TO", r"DO|FIX", r"ME|XX", r"X)\b")).unwrap();
    let mut broken = Vec::new();
    let folders = ["src", "tests", "benches", "examples", "config", "docs", "packaging"];
    for source in folders
        .iter()
        .flat_map(|folder| files(folder, &[".rs", ".sh", ".py", ".md", ".yaml", ".yml", ".toml"]))
    {
        for (number, line) in source.text.lines().enumerate().filter(|(_, line)| mark.is_match(line)) {
            broken.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
        }
    }
    assert_none("Marks of unfinished work:", &broken);
}

#[test]
fn some_things_are_known_in_one_place_only() {
    let metric = r#""(?:(?:gantry|model|traefik)_[a-z_]+_(?:total|seconds|bytes|up|success|successful)|model_(?:accuracy|confidence|in_flight|queue_length)(?:_samples)?)""#;
    let metric = Regex::new(metric).unwrap();
    let yaml = Regex::new(r"\b(?:saphyr_parser|serde_saphyr|serde_yaml|yaml_serde)\b").unwrap();
    let danger = Regex::new(r"\bunsafe\b|allow\(unsafe_code\)").unwrap();
    let mut broken = Vec::new();
    for source in crate_sources() {
        let module = source.module().unwrap_or_default().to_owned();
        for (number, line) in source.shipped() {
            let at = format!("{}:{number}", source.path);
            if metric.is_match(line) && !matches!(module.as_str(), "observe" | "demo") {
                broken.push(format!("{at}: only src/observe/ names metrics"));
            }
            if yaml.is_match(line) && !source.path.starts_with("src/config/yaml") {
                broken.push(format!("{at}: only src/config/yaml.rs knows the YAML crates"));
            }
            if danger.is_match(line) && !AUDITED_UNSAFE.contains(&source.path.as_str()) {
                broken.push(format!("{at}: `unsafe` outside AUDITED_UNSAFE"));
            }
        }
    }
    assert_none("Only one place may:", &broken);
}

// ---- documents -------------------------------------------------------------------------------------------------------

fn documents() -> Vec<Source> {
    let mut found = files("docs", &[".md"]);
    found.extend(files("examples", &[".md"]));
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(Source {
                path: relative(&path),
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
    assert!(found.len() >= 8, "the documents were not found");
    found
}

/// The document's lines with its fenced blocks left out.
fn prose(text: &str) -> String {
    let mut inside = false;
    let keep = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    };
    text.lines().filter(keep).flat_map(|line| [line, "\n"]).collect()
}

/// The anchors of a document: its headings in lower case, blanks as hyphens, punctuation dropped.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        let kept = heading.trim().to_lowercase().replace(' ', "-");
        kept.chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
            .collect()
    };
    prose(text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| slug(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut broken = Vec::new();
    for document in documents() {
        for found in link.captures_iter(&prose(&document.text)) {
            let target = &found[1];
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => root().join(&document.path),
                _ => root().join(&document.path).parent().unwrap().join(file),
            };
            let anchored = || anchor.is_empty() || anchors(&fs::read_to_string(&path).unwrap()).contains(anchor);
            if !path.exists() || !anchored() {
                broken.push(format!("{}: {target}", document.path));
            }
        }
    }
    assert_none("Links to nothing:", &broken);
}

/// The fenced blocks marked `yaml` and nothing else; pieces that do not stand alone are marked `yaml fragment`.
fn yaml_blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line == "```yaml" => open = Some((index + 2, String::new())),
            None => {}
        }
    }
    blocks
}

/// `gantry check` of one file. An empty dynamic file goes with it: a static file is then judged without the folder
/// that it names, which this machine need not have.
fn check(path: &Path) -> Output {
    let empty = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    Command::new(env!("CARGO_BIN_EXE_gantry"))
        .arg("check")
        .args([path, empty.path()])
        .output()
        .unwrap()
}

/// Everything that a reader may copy into a file of theirs is accepted by `gantry check`.
#[test]
fn every_configuration_that_we_show_passes_check() {
    let ours = Regex::new(r"(?m)^(?:http|tls|entryPoints|providers|metrics|ping|accessLog):").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut shown: Vec<(String, PathBuf)> = Vec::new();
    for file in ["config", "examples"]
        .iter()
        .flat_map(|folder| files(folder, &[".yaml", ".yml"]))
    {
        // Grafana's provisioning has a key `providers` too
        if ours.is_match(&file.text) && !file.path.starts_with("config/grafana/") {
            shown.push((file.path.clone(), root().join(&file.path)));
        }
    }
    for document in documents() {
        for (line, block) in yaml_blocks(&document.text)
            .into_iter()
            .filter(|(_, block)| ours.is_match(block))
        {
            let path = folder.path().join(format!("{}.yaml", shown.len()));
            fs::write(&path, block).unwrap();
            shown.push((format!("{}:{line}", document.path), path));
        }
    }
    assert!(shown.len() >= 2, "no configuration was found");
    let misspelt = folder.path().join("misspelt.yaml");
    fs::write(&misspelt, "http:\n  routres: {}\n").unwrap();
    assert!(!check(&misspelt).status.success(), "`gantry check` refuses nothing");
    let mut broken = Vec::new();
    for (name, path) in shown {
        let output = check(&path);
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            broken.push(format!("{name}\n{}", String::from_utf8_lossy(&said)));
        }
    }
    assert_none("`gantry check` refuses what we show:", &broken);
}

/// The names of all series that Gantry has, as its default prefix makes them.
fn series() -> BTreeSet<String> {
    let source = fs::read_to_string(root().join("src/observe/metrics.rs")).unwrap();
    let family = Regex::new(r#"Family::new\(\s*"(\w+)",\s*Kind::(\w+)"#).unwrap();
    let mut names = BTreeSet::from([
        // What `/federate` says of each server.
        "gantry_federate_up".to_owned(),
    ]);
    for module in source.split("\nmod ").skip(1) {
        let prefixes: &[&str] = match module.split_once(" {").map(|(name, _)| name) {
            Some("scoped") => &[
                "gantry_entrypoint_",
                "gantry_router_",
                "gantry_service_",
                "gantry_variant_",
            ],
            Some("single" | "own") => &["gantry_"],
            Some("models") => &[""],
            Some("process_names") => &["process_"],
            _ => continue,
        };
        for found in family.captures_iter(module) {
            let total = if &found[2] == "Counter" { "_total" } else { "" };
            names.extend(prefixes.iter().map(|prefix| format!("{prefix}{}{total}", &found[1])));
        }
    }
    assert!(names.len() > 50, "the names of the metrics were not found");
    names
}

#[test]
fn the_series_that_are_documented_are_those_that_there_are() {
    let text = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let name = Regex::new(r"`((?:gantry|model|process)_[a-z_]+)`").unwrap();
    let documented: BTreeSet<String> = name.captures_iter(&text).map(|found| found[1].to_owned()).collect();
    let there = series();
    // Of routers, the page has a row with an ellipsis; variants are not counted by TLS.
    let implied = |name: &str| name.starts_with("gantry_router_") || name == "gantry_variant_requests_tls_total";
    let of_services = |name: &str| name.replace("gantry_service_", "gantry_entrypoint_");
    let mut broken = Vec::new();
    for name in &there {
        if !implied(name) && !documented.contains(name) && !documented.contains(&of_services(name)) {
            broken.push(format!("{name} is not in docs/metrics.md"));
        }
    }
    for name in documented.difference(&there) {
        broken.push(format!(
            "{name} is in docs/metrics.md, and not in src/observe/metrics.rs"
        ));
    }
    assert_none("docs/metrics.md lists every series, and no other:", &broken);
}
