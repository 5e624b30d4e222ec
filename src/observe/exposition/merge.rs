//! Many servers' expositions as one, in text format 0.0.4.
//!
//! Each server's samples get the labels of their server, as a scrape of Prometheus would give them: a label of the
//! sample that clashes is renamed `exported_…`. So no two servers have a series in common, and within one server a
//! series that stands twice is written once. What comes out is well formed whatever went in.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use super::selector::Selector;
use super::{Family, Kind};
use crate::observe::escape;

/// Whether a server's metrics could be read for `/federate`.
const UP: (&str, &str) = (
    "gantry_federate_up",
    "Whether the metrics of a server could be read: 1 or 0.",
);
/// The most remarks at the end of a text.
const MAX_NOTES: usize = 100;

/// A target's labels, in the order of their names; those without a value are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetLabels(BTreeMap<&'static str, String>);

impl TargetLabels {
    /// Sets a label.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if !value.is_empty() {
            self.0.insert(name, value.to_owned());
        }
        self
    }
}

/// One server's samples, ready to be put beside others'.
#[derive(Debug)]
pub struct Part {
    families: Vec<PartFamily>,
}

#[derive(Debug)]
struct PartFamily {
    name: String,
    kind: Kind,
    help: Option<String>,
    lines: String,
}

impl Part {
    /// The samples of a server that any of `selectors` means, all where there is no selector. Selectors see the
    /// labels as they come out. `None` where `is_late` came true meanwhile: what is not waited for is not worth its time.
    #[must_use]
    pub fn new(
        families: &[Family<'_>],
        target: &TargetLabels,
        selectors: &[Selector],
        is_late: impl Fn() -> bool,
    ) -> Option<Self> {
        let mut seen = HashSet::new();
        let mut part = Vec::new();
        for family in families {
            let mut lines = String::new();
            for sample in &family.samples {
                if is_late() {
                    return None;
                }
                let labels = labelled(sample, target);
                let wanted = |selector: &Selector| {
                    selector.matches(sample.name, |name| labels.get(name).map_or("", |value| *value))
                };
                if !selectors.is_empty() && !selectors.iter().any(wanted) {
                    continue;
                }
                let start = lines.len();
                series(&mut lines, sample.name, &labels);
                if seen.insert(lines[start..].to_owned()) {
                    value(&mut lines, sample.value);
                } else {
                    lines.truncate(start);
                }
            }
            if !lines.is_empty() {
                part.push(PartFamily {
                    name: family.name.to_owned(),
                    kind: family.kind,
                    help: family.help.as_deref().map(str::to_owned),
                    lines,
                });
            }
        }
        Some(Self { families: part })
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        let size =
            |family: &PartFamily| family.name.len() + family.help.as_ref().map_or(0, String::len) + family.lines.len();
        self.families.iter().map(size).sum()
    }

    /// Whether no sample was wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }
}

/// The text that grows.
#[derive(Debug)]
pub struct Merge {
    families: BTreeMap<String, PartFamily>,
    notes: Vec<String>,
    more_notes: usize,
}

impl Default for Merge {
    fn default() -> Self {
        let (name, help) = UP;
        let up = PartFamily {
            name: name.to_owned(),
            kind: Kind::Gauge,
            help: Some(help.to_owned()),
            lines: String::new(),
        };
        Self {
            families: BTreeMap::from([(name.to_owned(), up)]),
            notes: Vec::new(),
            more_notes: 0,
        }
    }
}

impl Merge {
    /// Notes whether a server could be read.
    pub fn up(&mut self, target: &TargetLabels, up: bool) {
        let labels = target
            .0
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_str()));
        if let Some(family) = self.families.get_mut(UP.0) {
            series(&mut family.lines, UP.0, &labels.collect());
            value(&mut family.lines, f64::from(u8::from(up)));
        }
    }

    /// Adds a server's samples and gives the families that were left out, because they have another type at a server
    /// before.
    pub fn add(&mut self, part: Part) -> Vec<String> {
        let mut left_out = Vec::new();
        for family in part.families {
            let Some(known) = self.families.get_mut(&family.name) else {
                self.families.insert(family.name.clone(), family);
                continue;
            };
            if known.kind == family.kind {
                known.lines.push_str(&family.lines);
                known.help = known.help.take().or(family.help);
            } else {
                let (here, before) = (family.kind.as_str(), known.kind.as_str());
                left_out.push(format!(
                    "`{}` is {here} here and {before} at a server before",
                    family.name
                ));
            }
        }
        left_out
    }

    /// A remark for whoever reads the text.
    pub fn note(&mut self, note: &str) {
        if self.notes.len() == MAX_NOTES {
            self.more_notes += 1;
        } else {
            self.notes.push(note.chars().flat_map(in_comment).collect());
        }
    }

    /// The whole text: families in the order of their names, then the remarks.
    #[must_use]
    pub fn finish(self) -> String {
        let size: usize = self.families.values().map(|family| family.lines.len() + 200).sum();
        let mut out = String::with_capacity(size);
        for (name, family) in self.families.iter().filter(|(_, family)| !family.lines.is_empty()) {
            if let Some(help) = &family.help {
                let _ = write!(out, "# HELP {name} ");
                escape::help(&mut out, help);
                out.push('\n');
            }
            let _ = writeln!(out, "# TYPE {name} {}", family.kind.as_str());
            out.push_str(&family.lines);
        }
        for note in &self.notes {
            let _ = writeln!(out, "# Gantry: {note}");
        }
        if self.more_notes > 0 {
            let _ = writeln!(out, "# Gantry: and {} more", self.more_notes);
        }
        out
    }
}

/// What may break a comment's line is written as an escape.
fn in_comment(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

/// The labels of a sample of this target, in the order of their names. Renames as Prometheus does where labels clash.
fn labelled<'s>(sample: &'s super::Sample<'_>, target: &'s TargetLabels) -> BTreeMap<String, &'s str> {
    let own = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    let (clashing, own): (Vec<_>, Vec<_>) = own.partition(|(name, _)| target.0.contains_key(name));
    let mut labels: BTreeMap<String, &str> = own.iter().map(|(name, value)| ((*name).to_owned(), &**value)).collect();
    labels.extend(
        target
            .0
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_str())),
    );
    for (name, value) in clashing {
        let mut renamed = format!("exported_{name}");
        while labels.contains_key(&renamed) {
            renamed.insert_str(0, "exported_");
        }
        labels.insert(renamed, value);
    }
    labels
}

/// Everything of a line before its value.
fn series(out: &mut String, name: &str, labels: &BTreeMap<String, &str>) {
    out.push_str(name);
    for (i, (name, value)) in labels.iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        out.push_str(name);
        out.push_str("=\"");
        escape::label_value(out, value);
        out.push('"');
    }
    out.push_str(if labels.is_empty() { " " } else { "} " });
}

fn value(out: &mut String, value: f64) {
    // Writing to a string cannot fail.
    let _ = if value.is_infinite() {
        writeln!(out, "{}Inf", if value > 0.0 { '+' } else { '-' })
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        writeln!(out, "{value}")
    } else {
        // With an exponent where that is shorter, as Go writes numbers.
        writeln!(out, "{value:?}")
    };
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, parse};
    use super::*;

    fn target(server: &str) -> TargetLabels {
        TargetLabels::default()
            .with("service", "s@file")
            .with("version", "")
            .with("server", server)
    }

    fn part(text: &str, server: &str, selectors: &[&str]) -> Part {
        let families = parse(text.as_bytes(), Dialect::Text004).expect("an exposition");
        let selectors: Vec<_> = selectors
            .iter()
            .map(|s| Selector::parse(s).expect("a selector"))
            .collect();
        Part::new(&families, &target(server), &selectors, || false).expect("in time")
    }

    #[test]
    fn families_stand_once_and_samples_say_where_they_are_from() {
        let mut merge = Merge::default();
        for (server, up) in [("b", true), ("a", true), ("c", false)] {
            merge.up(&target(server), up);
        }
        let first = "# HELP hits How \\\\ many.\n# TYPE hits counter\nhits{service=\"x\",exported_service=\"y\",q=\"a\\\"\"} 3 1700000000000\nhits{service=\"x\",exported_service=\"y\",q=\"a\\\"\"} 4\nup 1\n";
        assert_eq!(merge.add(part(first, "b", &[])), [""; 0]);
        let second = "# TYPE hits counter\nhits 1e300\n# TYPE up gauge\nup 1\n";
        assert_eq!(
            merge.add(part(second, "a", &[])),
            ["`up` is gauge here and untyped at a server before"]
        );
        merge.note("one\ntwo");
        let expected = "# HELP gantry_federate_up Whether the metrics of a server could be read: 1 or 0.\n\
            # TYPE gantry_federate_up gauge\n\
            gantry_federate_up{server=\"b\",service=\"s@file\"} 1\n\
            gantry_federate_up{server=\"a\",service=\"s@file\"} 1\n\
            gantry_federate_up{server=\"c\",service=\"s@file\"} 0\n\
            # HELP hits How \\\\ many.\n\
            # TYPE hits counter\n\
            hits{exported_exported_service=\"x\",exported_service=\"y\",q=\"a\\\"\",server=\"b\",service=\"s@file\"} 3\n\
            hits{server=\"a\",service=\"s@file\"} 1e300\n\
            # TYPE up untyped\n\
            up{server=\"b\",service=\"s@file\"} 1\n\
            # Gantry: one\\ntwo\n";
        let text = merge.finish();
        assert_eq!(text, expected);
        assert!(parse(text.as_bytes(), Dialect::Text004).is_ok());
    }

    #[test]
    fn selectors_choose_by_name_and_by_labels_as_they_come_out() {
        let text = "a{x=\"1\"} 1\na{x=\"2\"} 2\nb 3\n";
        let names = |selectors: &[&str]| {
            let part = part(text, "h", selectors);
            part.families
                .iter()
                .map(|family| family.lines.lines().count())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), [2, 1]);
        assert_eq!(names(&["a{x=\"2\"}", "b"]), [1, 1]);
        assert_eq!(names(&["{server=\"h\",x!=\"\"}"]), [2]);
        assert!(part(text, "h", &["{server=\"other\"}"]).is_empty());
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_looked_through() {
        let families = parse(b"a 1\nb 2\nc 3\n", Dialect::Text004).expect("an exposition");
        let looks = std::cell::Cell::new(0);
        let is_late = || looks.replace(looks.get() + 1) == 1;
        assert!(Part::new(&families, &target("h"), &[], is_late).is_none());
        assert_eq!(looks.get(), 2);
    }

    #[test]
    fn remarks_are_bounded() {
        let mut merge = Merge::default();
        for _ in 0..MAX_NOTES + 7 {
            merge.note("no");
        }
        let text = merge.finish();
        assert_eq!(text.lines().count(), MAX_NOTES + 1);
        assert!(text.ends_with("and 7 more\n"), "{text}");
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for (number, expected) in [
            (1.0, "1\n"),
            (-0.25, "-0.25\n"),
            (f64::NAN, "NaN\n"),
            (f64::NEG_INFINITY, "-Inf\n"),
            (1e21, "1e21\n"),
            (1e-9, "1e-9\n"),
        ] {
            let mut text = String::new();
            value(&mut text, number);
            assert_eq!(text, expected);
        }
    }
}
