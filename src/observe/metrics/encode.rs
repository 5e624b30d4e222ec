//! The text that Prometheus reads: exposition format 0.0.4, and OpenMetrics 1.0 where the scraper asks for it.

use std::io::Write;

/// The form of the answer to a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4: what everything reads.
    Text004,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text004 => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        }
    }
}

/// The form that an `Accept` header asks for: OpenMetrics only where it names it with at least the weight of plain
/// text.
pub fn negotiate(accept: Option<&str>) -> Format {
    let (mut open, mut plain) = (0.0_f32, 0.0_f32);
    for range in accept.unwrap_or_default().split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut weight, mut version) = (1.0, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                "q" => weight = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            if version.is_none_or(|version| version == "1.0.0") {
                open = open.max(weight);
            }
        } else if kind.eq_ignore_ascii_case("text/plain") {
            plain = plain.max(weight);
        }
    }
    if open > 0.0 && open >= plain {
        Format::OpenMetrics
    } else {
        Format::Text004
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
    kind: Kind,
    help: &'static str,
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
    name: String,
    head: Option<Family>,
    kind: Kind,
}

impl Encoder {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            out: Vec::with_capacity(64 * 1024),
            name: String::new(),
            head: None,
            kind: Kind::Gauge,
        }
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
        self.start("", labels.as_str(), None);
        self.float(value);
    }

    /// A counter's or gauge's value that is a whole number.
    pub(super) fn count(&mut self, labels: &Labels, value: u64) {
        self.start("", labels.as_str(), None);
        self.integer(value);
    }

    /// A histogram. `counts` has one more than `bounds`; none is cumulative yet.
    pub(super) fn histogram(&mut self, labels: &Labels, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        let infinity = std::iter::once(f64::INFINITY);
        for (bound, count) in bounds.iter().copied().chain(infinity).zip(counts) {
            total += count;
            self.start("_bucket", labels.as_str(), Some(bound));
            self.integer(total);
        }
        self.start("_sum", labels.as_str(), None);
        self.float(sum);
        self.start("_count", labels.as_str(), None);
        self.integer(total);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
        self.out
    }

    /// Everything of a line before its value.
    fn start(&mut self, suffix: &str, labels: &str, bound: Option<f64>) {
        if let Some(family) = self.head.take() {
            self.header(family);
        }
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
                self.bound(bound);
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

    /// OpenMetrics wants a point in every `le`.
    fn bound(&mut self, bound: f64) {
        let _ = match self.format {
            _ if bound.is_infinite() => write!(self.out, "+Inf"),
            Format::Text004 => write!(self.out, "{bound}"),
            Format::OpenMetrics => write!(self.out, "{bound:?}"),
        };
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
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
        self
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
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

    #[test]
    fn openmetrics_only_where_asked() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(negotiate(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(negotiate(Some("application/openmetrics-text")), Format::OpenMetrics);
        for plain in [
            None,
            Some(""),
            Some("*/*"),
            Some("text/plain"),
            Some("application/openmetrics-text; q=0"),
            Some("application/openmetrics-text; q=0.1, text/plain"),
            Some("application/openmetrics-text; version=2.0.0"),
            Some(";;;,=q=,application/openmetrics-text;q=x"),
        ] {
            assert_eq!(negotiate(plain), Format::Text004, "{plain:?}");
        }
    }

    fn encode(format: Format) -> String {
        let mut encoder = Encoder::new(format);
        encoder.family("", Family::new("nothing", Kind::Gauge, "No samples."));
        encoder.family("p_", Family::new("hits", Kind::Counter, "Hits."));
        encoder.count(&Labels::default(), 3);
        encoder.family("p_", Family::new("wait_seconds", Kind::Histogram, "Waits."));
        encoder.histogram(&Labels::default().with("a", "x\\y\"z\nä"), &[0.5, 1.0], &[1, 2, 3], 4.5);
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
    fn names() {
        assert_eq!(sanitise_name("my-app.2"), "my_app_2");
        assert_eq!(sanitise_name("2x"), "_x");
    }
}
