//! What Prometheus reads: text of the exposition format 0.0.4, OpenMetrics 1.0 or protobuf where the scraper asks for it.
//!
//! Whoever renders names families and values; the format is this file's and `protobuf`'s business.

use std::borrow::Cow;
use std::io::Write;

use super::native::NativeHistogram;
use super::protobuf::Families;
use crate::observe::escape;

/// The form of the answer to a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4: what everything reads.
    Text004,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Length-delimited `io.prometheus.client.MetricFamily` messages: histograms are native ones, too.
    Protobuf,
}

impl Format {
    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text004 => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A family of series: its name (a counter's without `_total`), type and help.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

impl Family {
    pub(super) const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, kind, help }
    }
}

/// Writes families one after another. A family without a sample leaves no trace.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    out: Vec<u8>,
    messages: Families,
    name: String,
    head: Option<Family>,
    kind: Kind,
    /// The bounds of the last histogram, and how they are written: those of a family are all alike.
    bounds: Vec<(f64, String)>,
}

impl Encoder {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            out: Vec::with_capacity(64 * 1024),
            messages: Families::default(),
            name: String::new(),
            head: None,
            kind: Kind::Gauge,
            bounds: Vec::new(),
        }
    }

    /// The format that is written.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Begins a family under a prefix, which ends in an underscore or is empty.
    pub(super) fn family(&mut self, prefix: &str, family: Family) {
        self.name.clear();
        self.name.push_str(prefix);
        self.name.push_str(family.name);
        self.kind = family.kind;
        self.head = Some(family);
    }

    /// A counter's or gauge's value.
    pub(super) fn sample(&mut self, labels: &Labels, value: f64) {
        self.begin();
        if self.format == Format::Protobuf {
            self.messages.value(labels, self.kind, value);
            return;
        }
        self.start("", labels.as_str(), None);
        self.float(value);
    }

    /// A counter's or gauge's value that is a whole number.
    pub(super) fn count(&mut self, labels: &Labels, value: u64) {
        if self.format == Format::Protobuf {
            self.sample(labels, value as f64);
            return;
        }
        self.begin();
        self.start("", labels.as_str(), None);
        self.integer(value);
    }

    /// A histogram. `counts` has one more than `bounds`; none is cumulative yet. `native` holds the same samples; text has
    /// no form for it.
    pub(super) fn histogram(
        &mut self,
        labels: &Labels,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
        native: &NativeHistogram,
    ) {
        self.begin();
        if self.format == Format::Protobuf {
            self.messages.histogram(labels, bounds, counts, sum, native);
            return;
        }
        let written = std::mem::take(&mut self.bounds);
        let written = self.written(written, bounds);
        let mut total = 0;
        for ((_, bound), count) in written.iter().zip(counts) {
            total += count;
            self.start("_bucket", labels.as_str(), Some(bound));
            self.integer(total);
        }
        self.bounds = written;
        self.start("_sum", labels.as_str(), None);
        self.float(sum);
        self.start("_count", labels.as_str(), None);
        self.integer(total);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        match self.format {
            Format::Text004 => self.out,
            Format::OpenMetrics => {
                self.out.extend_from_slice(b"# EOF\n");
                self.out
            }
            Format::Protobuf => self.messages.finish(),
        }
    }

    /// Writes the family's head before its first sample.
    fn begin(&mut self) {
        match self.head.take() {
            Some(family) if self.format == Format::Protobuf => self.messages.begin(&self.name, &family),
            Some(family) => self.header(family),
            None => {}
        }
    }

    /// The values of `le`, the infinite one last: `known` where they are the same as before.
    fn written(&self, known: Vec<(f64, String)>, bounds: &[f64]) -> Vec<(f64, String)> {
        if known.len() == bounds.len() + 1 && known.iter().zip(bounds).all(|((known, _), bound)| known == bound) {
            return known;
        }
        let finite = bounds.iter().map(|bound| match self.format {
            // OpenMetrics wants a point in every `le`.
            Format::OpenMetrics => (*bound, format!("{bound:?}")),
            Format::Text004 | Format::Protobuf => (*bound, format!("{bound}")),
        });
        finite
            .chain(std::iter::once((f64::INFINITY, "+Inf".to_owned())))
            .collect()
    }

    /// Everything of a line before its value.
    fn start(&mut self, suffix: &str, labels: &str, bound: Option<&str>) {
        self.out.extend_from_slice(self.name.as_bytes());
        self.out.extend_from_slice(if self.kind == Kind::Counter {
            b"_total"
        } else {
            suffix.as_bytes()
        });
        if !labels.is_empty() || bound.is_some() {
            self.out.push(b'{');
            self.out.extend_from_slice(labels.as_bytes());
            if let Some(bound) = bound {
                self.out
                    .extend_from_slice(if labels.is_empty() { b"le=\"" } else { b",le=\"" });
                self.out.extend_from_slice(bound.as_bytes());
                self.out.push(b'"');
            }
            self.out.push(b'}');
        }
        self.out.push(b' ');
    }

    fn header(&mut self, family: Family) {
        let (kind, suffix) = match family.kind {
            Kind::Counter if self.format == Format::Text004 => ("counter", "_total"),
            Kind::Counter => ("counter", ""),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
        };
        let name = &self.name;
        // Writing to a vector cannot fail.
        let _ = writeln!(self.out, "# HELP {name}{suffix} {}", family.help);
        let _ = writeln!(self.out, "# TYPE {name}{suffix} {kind}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit));
        if self.format == Format::OpenMetrics
            && let Some(unit) = unit
        {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
    }

    fn integer(&mut self, value: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.push(b'\n');
    }

    fn float(&mut self, value: f64) {
        let _ = if value.is_infinite() {
            writeln!(self.out, "{}Inf", if value > 0.0 { '+' } else { '-' })
        } else {
            writeln!(self.out, "{value}")
        };
    }
}

/// Labels as they are written, built once for all lines of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels(String);

impl Labels {
    /// Appends a label; its value is escaped.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        escape::label_value(&mut self.0, value);
        self.0.push('"');
        self
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Names and values as they were given to [`Self::with`].
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let mut rest = self.0.as_str();
        std::iter::from_fn(move || {
            let (name, text) = rest.split_once("=\"")?;
            let (value, after) = unescape(text);
            rest = after.strip_prefix(',').unwrap_or_default();
            Some((name, value))
        })
    }
}

/// The value that an escaped text stands for, up to its closing quote, and what is behind that.
fn unescape(text: &str) -> (Cow<'_, str>, &str) {
    let mut value = Cow::Borrowed("");
    let mut rest = text;
    while let Some(end) = memchr::memchr2(b'"', b'\\', rest.as_bytes()) {
        value += &rest[..end];
        let escaped = &rest[end..];
        if let Some(after) = escaped.strip_prefix('"') {
            return (value, after);
        }
        value += match escaped.as_bytes().get(1) {
            Some(b'n') => "\n",
            Some(b'"') => "\"",
            _ => "\\",
        };
        rest = escaped.get(2..).unwrap_or_default();
    }
    (value, "")
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`; anything else becomes an underscore.
pub(super) fn sanitise_name(name: &str) -> String {
    let allowed = |(index, c): (usize, char)| {
        let fits = c.is_ascii_alphabetic() || matches!(c, '_' | ':') || (index > 0 && c.is_ascii_digit());
        if fits { c } else { '_' }
    };
    name.chars().enumerate().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(format: Format) -> String {
        let mut encoder = Encoder::new(format);
        encoder.family("", Family::new("nothing", Kind::Gauge, "No samples."));
        encoder.family("p_", Family::new("hits", Kind::Counter, "Hits."));
        encoder.count(&Labels::default(), 3);
        encoder.family("p_", Family::new("wait_seconds", Kind::Histogram, "Waits."));
        encoder.histogram(
            &Labels::default().with("a", "x\\y\"z\nä"),
            &[0.5, 1.0],
            &[1, 2, 3],
            4.5,
            &NativeHistogram::default(),
        );
        String::from_utf8(encoder.finish()).unwrap()
    }

    #[test]
    fn text() {
        assert_eq!(
            encode(Format::Text004),
            "# HELP p_hits_total Hits.\n# TYPE p_hits_total counter\np_hits_total 3\n\
             # HELP p_wait_seconds Waits.\n# TYPE p_wait_seconds histogram\n\
             p_wait_seconds_bucket{a=\"x\\\\y\\\"z\\nä\",le=\"0.5\"} 1\n\
             p_wait_seconds_bucket{a=\"x\\\\y\\\"z\\nä\",le=\"1\"} 3\n\
             p_wait_seconds_bucket{a=\"x\\\\y\\\"z\\nä\",le=\"+Inf\"} 6\n\
             p_wait_seconds_sum{a=\"x\\\\y\\\"z\\nä\"} 4.5\np_wait_seconds_count{a=\"x\\\\y\\\"z\\nä\"} 6\n"
        );
    }

    #[test]
    fn openmetrics() {
        let text = encode(Format::OpenMetrics);
        assert!(text.contains("# TYPE p_hits counter\np_hits_total 3\n"), "{text}");
        assert!(
            text.contains("# TYPE p_wait_seconds histogram\n# UNIT p_wait_seconds seconds\n"),
            "{text}"
        );
        assert!(text.contains("le=\"1.0\"} 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn labels_are_read_back_as_they_were_given() {
        let values = [
            "",
            "plain",
            "\"",
            "\\",
            "\n",
            "\\n",
            "a=\"b\",c=\"",
            "ä\"ö\\ü\nß",
            "\\\\\"\"",
            "\u{fffd}\r\0",
        ];
        let mut labels = Labels::default();
        for value in values {
            labels = labels.with("l", value);
        }
        assert_eq!(labels.as_str().lines().count(), 1);
        let read: Vec<_> = labels.pairs().collect();
        assert_eq!(read.iter().map(|(_, value)| value.as_ref()).collect::<Vec<_>>(), values);
        assert!(read.iter().all(|(name, _)| *name == "l"));
        assert_eq!(Labels::default().pairs().count(), 0);
    }

    #[test]
    fn names() {
        assert_eq!(sanitise_name("my-app.2"), "my_app_2");
        assert_eq!(sanitise_name("2x"), "_x");
    }
}
