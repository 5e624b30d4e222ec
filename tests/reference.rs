//! `docs/keys.md` lists every key of the configuration, written from the declarations in `src/config/`. The test fails
//! when the two differ, so that no key can be added without its documentation. To write the file anew:
//!
//! ```text
//! GANTRY_UPDATE_DOCS=1 cargo test --test reference
//! ```

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    fs,
    path::Path,
};

use regex::Regex;

const HEAD: &str = "\
# Every key

What version 0.1 understands, key by key. [configuration.md](configuration.md) explains how the parts work together.
This file is written from the source (`tests/reference.rs`); do not edit it.

Keys match in any case. A *duration* is `500ms`, `1m30s`, or a number of seconds; a *size* is `16KiB` or a number of
bytes; a *list* may be written with brackets, with hyphens, or as one text with commas. NAME stands for a name that you
choose. A key of Traefik that is listed as *not supported yet* is refused with that message, never skipped.

";

/// A section of the configuration (`settings!`), or a choice of words (`choices!`).
#[derive(Default)]
struct Declaration {
    about: String,
    keys: Vec<Key>,
    unsupported: Vec<(String, String)>,
    inert: Vec<(String, String)>,
    is_choice: bool,
}

struct Key {
    name: String,
    /// The Rust type, and the format that it is decoded by; both empty for the word of a choice.
    kind: String,
    format: String,
    about: String,
}

fn declarations() -> BTreeMap<String, Declaration> {
    let item = Regex::new(r"^    pub (struct|enum) (\w+)").unwrap();
    let key =
        Regex::new(r#"^\s*"([^"]+)"(?: \| "[^"]+")* => \w+(?:: ([^=;]+?))?(?: as ([^=;]+?))?(?: = .*)?;$"#).unwrap();
    let other = Regex::new(r#"^\s*"([^"]+)": "(.*)";$"#).unwrap();
    let mut all = BTreeMap::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
    {
        let text = fs::read_to_string(path).unwrap();
        let mut current: Option<(String, Declaration)> = None;
        let mut inside = false;
        let mut refused = false;
        let mut about = String::new();
        for line in text.lines() {
            let trimmed = line.trim();
            inside |= matches!(line, "settings! {" | "choices! {");
            if !inside {
                continue;
            }
            if let Some(words) = trimmed.strip_prefix("///") {
                about.push_str(words);
            } else if let Some(found) = item.captures(line) {
                let is_choice = &found[1] == "enum";
                current = Some((
                    found[2].to_owned(),
                    Declaration {
                        about: take(&mut about),
                        is_choice,
                        ..Default::default()
                    },
                ));
            } else if let Some((_, declaration)) = &mut current {
                if let Some(found) = key.captures(line) {
                    let part = |index| {
                        found
                            .get(index)
                            .map_or("", |part: regex::Match<'_>| part.as_str())
                            .to_owned()
                    };
                    declaration.keys.push(Key {
                        name: part(1),
                        kind: part(2),
                        format: part(3),
                        about: take(&mut about),
                    });
                } else if let Some(found) = other.captures(line) {
                    let pair = (found[1].to_owned(), found[2].replace(r#"\""#, "\""));
                    if refused {
                        declaration.unsupported.push(pair)
                    } else {
                        declaration.inert.push(pair)
                    }
                } else if trimmed == "unsupported {" {
                    refused = true;
                } else if trimmed == "inert {" {
                    refused = false;
                }
            }
            if line == "}" {
                inside = false;
                all.extend(current.take());
            }
        }
    }
    all
}

fn take(about: &mut String) -> String {
    std::mem::take(about).trim().to_owned()
}

/// The declaration that a type names, through `Option`, `Vec`, `BTreeMap` and `Box`.
fn named<'a>(kind: &str, all: &'a BTreeMap<String, Declaration>) -> Option<(&'a String, &'a Declaration)> {
    let word = Regex::new(r"\w+").unwrap();
    word.find_iter(kind).find_map(|word| all.get_key_value(word.as_str()))
}

/// What a person would call the type of a key.
fn type_name(key: &Key, all: &BTreeMap<String, Declaration>) -> String {
    let list = key.kind.starts_with("Vec<");
    let kind = key
        .kind
        .trim_start_matches("Option<")
        .trim_start_matches("Vec<")
        .trim_end_matches('>');
    if let Some((_, choice)) = named(&key.kind, all).filter(|(_, declaration)| declaration.is_choice) {
        let words: Vec<String> = choice.keys.iter().map(|word| format!("`{}`", word.name)).collect();
        let by_name = if key.kind.starts_with("BTreeMap") {
            "by name: "
        } else {
            ""
        };
        return format!("{by_name}{}", words.join(", "));
    }
    let name = match kind {
        _ if key.format == "ByteSize" => "size",
        "bool" => "true or false",
        "String" => "text",
        "Duration" => "duration",
        kind if kind.starts_with("BTreeMap") => "text by name",
        _ => "number",
    };
    if list {
        format!("list of {name}")
    } else {
        name.to_owned()
    }
}

fn anchor(title: &str) -> String {
    title.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Writes the sections of one file's kind, each under its path, outer ones first; a section that several keys share
/// stands once.
fn write_sections(page: &mut String, root: &str, all: &BTreeMap<String, Declaration>) {
    let mut titles: BTreeMap<String, String> = BTreeMap::new();
    let mut queue = VecDeque::from([(root.to_owned(), String::new())]);
    let mut sections = Vec::new();
    let mut seen = BTreeSet::from([root.to_owned()]);
    while let Some((name, path)) = queue.pop_front() {
        for key in &all[&name].keys {
            let Some((inner, _)) = named(&key.kind, all).filter(|(_, declaration)| !declaration.is_choice) else {
                continue;
            };
            if seen.insert(inner.clone()) {
                let many = if key.kind.contains("BTreeMap") {
                    ".NAME"
                } else if key.kind.contains("Vec<") {
                    "[]"
                } else {
                    ""
                };
                let inner_path = format!("{path}{}{}{many}", if path.is_empty() { "" } else { "." }, key.name);
                titles.insert(inner.clone(), inner_path.clone());
                queue.push_back((inner.clone(), inner_path));
            }
        }
        sections.push((name, path));
    }
    sections.sort_by(|a, b| a.1.cmp(&b.1));
    for (name, path) in sections {
        let section = &all[&name];
        if !path.is_empty() {
            write!(page, "### {path}\n\n").unwrap();
        }
        write!(page, "{}\n\n", section.about).unwrap();
        if !section.keys.is_empty() {
            page.push_str("| key | value | meaning |\n|---|---|---|\n");
        }
        for key in &section.keys {
            let value = match named(&key.kind, all) {
                Some((inner, declaration)) if !declaration.is_choice => {
                    format!("[{0}](#{1})", titles[inner], anchor(&titles[inner]))
                }
                _ => type_name(key, all),
            };
            let mut about = key.about.replace('|', r"\|");
            if let Some((_, choice)) =
                named(&key.kind, all).filter(|(_, inner)| inner.is_choice && !inner.unsupported.is_empty())
            {
                let words: Vec<String> = choice.unsupported.iter().map(|(word, _)| format!("`{word}`")).collect();
                write!(about, " Not supported yet: {}.", words.join(", ")).unwrap();
            }
            writeln!(page, "| `{}` | {value} | {about} |", key.name).unwrap();
        }
        for (what, others) in [
            ("Not supported yet", &section.unsupported),
            ("Accepted, without effect", &section.inert),
        ] {
            if !others.is_empty() {
                write!(page, "\n{what}:\n\n").unwrap();
            }
            for (name, instead) in others {
                writeln!(page, "- `{name}`: {instead}").unwrap();
            }
        }
        page.push('\n');
    }
}

#[test]
fn every_key_is_documented() {
    let all = declarations();
    let mut page = HEAD.to_owned();
    page.push_str("## The static file\n\n");
    write_sections(&mut page, "Static", &all);
    page.push_str("## Dynamic files\n\n");
    write_sections(&mut page, "Dynamic", &all);
    let page = format!("{}\n", page.trim_end());

    for (name, declaration) in &all {
        for key in &declaration.keys {
            assert!(!key.about.is_empty(), "`{}` of {name} has no documentation", key.name);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/keys.md");
    if std::env::var_os("GANTRY_UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    let differs = stored
        .lines()
        .zip(page.lines())
        .position(|(a, b)| a != b)
        .map_or(stored.lines().count(), |line| line + 1);
    assert!(
        stored == page,
        "docs/keys.md is not up to date from line {differs} on: GANTRY_UPDATE_DOCS=1 cargo test --test reference"
    );
}
