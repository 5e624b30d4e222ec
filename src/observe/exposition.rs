//! What model servers expose on their `/metrics`: Prometheus' text format 0.0.4 and OpenMetrics text 1.0, read and
//! merged.
//!
//! A model server's answer is a stranger's text: it may be a login page, a core dump or ten million series. So the
//! reader is bounded in every direction, says the line that it does not understand, and takes all or nothing. What
//! Prometheus' own parsers accept is accepted; in particular, metadata may stand anywhere, and families need not be
//! kept together.
//!
//! Families come out as 0.0.4 has them, whatever came in: an OpenMetrics counter `a` is the family `a_total`, its
//! `a_created` a gauge. Timestamps and exemplars are checked and dropped.

mod line;
pub mod merge;
pub mod selector;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use line::{Declared, Line};

/// The largest text that is read, in bytes, after it was inflated.
pub const MAX_BODY: usize = 8 << 20;
/// The longest line, in bytes.
pub const MAX_LINE: usize = 64 << 10;
/// The most samples of one text.
pub const MAX_SAMPLES: usize = 50_000;
/// The most families that one text may declare.
pub const MAX_FAMILIES: usize = 10_000;
/// The most labels of one sample.
pub const MAX_LABELS: usize = 64;
/// The most labels of one text.
const MAX_ALL_LABELS: usize = 500_000;

/// The type of a family, as 0.0.4 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
    /// Quantiles, a sum and a count.
    Summary,
    /// Nobody said.
    Untyped,
}

impl Kind {
    /// As a `TYPE` line says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Its name: the family's, or that with `_bucket`, `_sum` or `_count`.
    pub name: &'a str,
    /// Labels in their order, without escapes; no name stands twice.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// The value; may be NaN or infinite.
    pub value: f64,
}

impl Sample<'_> {
    /// The value of a label, empty where there is none: Prometheus makes no difference between the two.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v)
    }
}

/// Samples of one name and meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Family<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub kind: Kind,
    /// What it is, without escapes.
    pub help: Option<Cow<'a, str>>,
    /// Its samples, in their order; at least one.
    pub samples: Vec<Sample<'a>>,
}

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
    /// Whether it is well formed as far as it was read, but more than is taken.
    pub too_large: bool,
}

/// Which of the two formats a text claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus' text format 0.0.4, and what has no Content-Type.
    Text004,
    /// OpenMetrics: names of counters go without `_total` in their metadata, and the text ends in `# EOF`.
    OpenMetrics,
}

impl Dialect {
    /// What a `Content-Type` says.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Text004
        }
    }
}

/// Reads a whole text into families in the order of their names.
///
/// # Errors
/// At the first line that is not well formed, and at the first that is more than the limits of this module.
pub fn parse(text: &[u8], dialect: Dialect) -> Result<Vec<Family<'_>>, ParseError> {
    if text.len() > MAX_BODY {
        return Err(too_large(0, format!("more than {MAX_BODY} bytes")));
    }
    let mut metadata: HashMap<&str, Metadata<'_>> = HashMap::new();
    let mut samples: Vec<(usize, Sample<'_>)> = Vec::new();
    let (mut labels, mut ended, mut last) = (0, false, 0);
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        if line.is_empty() {
            continue;
        }
        if line.len() > MAX_LINE {
            return Err(too_large(number, format!("a line of more than {MAX_LINE} bytes")));
        }
        last = number;
        let malformed = |message| malformed(number, message);
        let line = std::str::from_utf8(line).map_err(|_| malformed("not UTF-8".to_owned()))?;
        if ended {
            return Err(malformed("something follows `# EOF`".to_owned()));
        }
        match line::read(line, dialect).map_err(malformed)? {
            Line::Comment => {}
            Line::Eof => ended = dialect == Dialect::OpenMetrics,
            Line::Help(name, help) => {
                known(&mut metadata, name, number)?.help.get_or_insert(help);
            }
            Line::Type(name, declared) => {
                let before = known(&mut metadata, name, number)?.declared.replace(declared);
                if before.is_some_and(|before| before != declared) {
                    return Err(malformed(format!("`{name}` gets a second type")));
                }
            }
            Line::Sample(sample) => {
                labels += sample.labels.len();
                if samples.len() == MAX_SAMPLES || labels > MAX_ALL_LABELS {
                    let message = format!("more than {MAX_SAMPLES} samples, or {MAX_ALL_LABELS} labels");
                    return Err(too_large(number, message));
                }
                samples.push((number, sample));
            }
        }
    }
    if dialect == Dialect::OpenMetrics && !ended {
        return Err(malformed(
            last,
            "the text ends without `# EOF`: it was cut off".to_owned(),
        ));
    }
    group(&metadata, samples)
}

/// What metadata lines said of a name.
#[derive(Default)]
struct Metadata<'a> {
    declared: Option<Declared>,
    help: Option<Cow<'a, str>>,
}

fn known<'m, 'a>(
    metadata: &'m mut HashMap<&'a str, Metadata<'a>>,
    name: &'a str,
    line: usize,
) -> Result<&'m mut Metadata<'a>, ParseError> {
    if metadata.len() == MAX_FAMILIES && !metadata.contains_key(name) {
        return Err(too_large(line, format!("more than {MAX_FAMILIES} families")));
    }
    Ok(metadata.entry(name).or_default())
}

fn malformed(line: usize, message: String) -> ParseError {
    let too_large = false;
    ParseError {
        line,
        message,
        too_large,
    }
}

fn too_large(line: usize, message: String) -> ParseError {
    let too_large = true;
    ParseError {
        line,
        message,
        too_large,
    }
}

/// Finds the family of each sample. A family's own name goes before a suffix, as in Prometheus' parser.
fn group<'a>(
    metadata: &HashMap<&'a str, Metadata<'a>>,
    samples: Vec<(usize, Sample<'a>)>,
) -> Result<Vec<Family<'a>>, ParseError> {
    let mut families: BTreeMap<&'a str, Family<'a>> = BTreeMap::new();
    for (line, sample) in samples {
        let (name, declared_by, kind) = family_of(metadata, sample.name);
        check(kind, name, &sample).map_err(|message| malformed(line, message))?;
        let family = families.entry(name).or_insert_with(|| Family {
            name,
            kind,
            help: declared_by.and_then(|m| m.help.clone()),
            samples: Vec::new(),
        });
        family.samples.push(sample);
    }
    Ok(families.into_values().collect())
}

type Found<'m, 'a> = (&'a str, Option<&'m Metadata<'a>>, Kind);

/// The name of a sample's family, the metadata that speaks of it, and its type.
fn family_of<'m, 'a>(metadata: &'m HashMap<&'a str, Metadata<'a>>, name: &'a str) -> Found<'m, 'a> {
    let exact = metadata.get(name);
    if let Some(own) = exact.filter(|m| m.declared.is_some()) {
        let kind = match own.declared {
            Some(Declared::Plain(kind)) => kind,
            Some(Declared::StateSet) => Kind::Gauge,
            _ => Kind::Untyped,
        };
        return (name, Some(own), kind);
    }
    let suffixed = name.rsplit_once('_').and_then(|(base, suffix)| {
        let own = metadata.get(base)?;
        let declared = own.declared?;
        let (histogram, summary) = (Declared::Plain(Kind::Histogram), Declared::Plain(Kind::Summary));
        match suffix {
            "bucket" | "sum" | "count" if declared == histogram => Some((base, own, Kind::Histogram)),
            "sum" | "count" if declared == summary => Some((base, own, Kind::Summary)),
            "total" if declared == Declared::Plain(Kind::Counter) => Some((name, own, Kind::Counter)),
            "info" if declared == Declared::Info => Some((name, own, Kind::Gauge)),
            "created" if matches!(declared, Declared::Plain(_)) => Some((name, own, Kind::Gauge)),
            _ => None,
        }
    });
    match suffixed {
        Some((family, own, kind)) => (family, Some(own), kind),
        None => (name, exact, Kind::Untyped),
    }
}

/// What a reader of the type could not do without.
fn check(kind: Kind, family: &str, sample: &Sample<'_>) -> Result<(), String> {
    let needed = match kind {
        Kind::Histogram if sample.name.strip_prefix(family) == Some("_bucket") => "le",
        Kind::Summary if sample.name == family => "quantile",
        _ => return Ok(()),
    };
    match line::number(sample.label(needed)) {
        Some(_) => Ok(()),
        None => Err(format!("`{}` needs a number in its label `{needed}`", sample.name)),
    }
}

#[cfg(test)]
mod tests;
