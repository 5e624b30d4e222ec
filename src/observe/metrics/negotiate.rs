//! What form of answer a scraper asks for: `Accept` and `Accept-Encoding` (RFC 9110, section 12.5).
//!
//! Nothing is refused: who asks for nothing that is here gets plain text, as at Prometheus' own clients.

use super::encode::Format;

/// The format that the fields `Accept` ask for: the one of the greatest weight. Between equal weights, protobuf goes before
/// OpenMetrics, and that before plain text. A wildcard means plain text: what everything reads.
pub fn negotiate<'a>(accept: impl IntoIterator<Item = &'a str>) -> Format {
    let (mut proto, mut open, mut plain) = (0.0, 0.0, 0.0_f32);
    for range in accept.into_iter().flat_map(|field| field.split(',')) {
        let (kind, range) = Range::parse(range);
        let weight = match kind.to_ascii_lowercase().as_str() {
            "application/vnd.google.protobuf" if range.is_delimited_families => &mut proto,
            "application/openmetrics-text" if range.version.is_none_or(|version| version == "1.0.0") => &mut open,
            "text/plain" => &mut plain,
            _ => continue,
        };
        *weight = range.weight.max(*weight);
    }
    if proto > 0.0 && proto >= open && proto >= plain {
        Format::Protobuf
    } else if open > 0.0 && open >= plain {
        Format::OpenMetrics
    } else {
        Format::Text004
    }
}

/// Whether the fields `Accept-Encoding` ask for gzip: they allow it, and do not prefer no coding at all.
pub fn wants_gzip<'a>(accept_encoding: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for range in accept_encoding.into_iter().flat_map(|field| field.split(',')) {
        let (coding, range) = Range::parse(range);
        let weight = match coding.to_ascii_lowercase().as_str() {
            // Section 8.4.1.3: the same.
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut any,
            _ => continue,
        };
        *weight = Some(range.weight.max(weight.unwrap_or(0.0)));
    }
    // Identity is always allowed, but asked for only by its name; a wildcard stands for what is not named.
    let gzip: f32 = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// The parameters of an item that matter here.
struct Range<'a> {
    weight: f32,
    version: Option<&'a str>,
    is_delimited_families: bool,
}

impl<'a> Range<'a> {
    /// An item's name, and its parameters. A weight that is no number is 0.
    fn parse(item: &'a str) -> (&'a str, Self) {
        let mut parts = item.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let mut range = Self {
            weight: 1.0,
            version: None,
            is_delimited_families: false,
        };
        let (mut families, mut delimited) = (false, false);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => range.weight = value.parse().map_or(0.0, |q: f32| q.clamp(0.0, 1.0).max(0.0)),
                "version" => range.version = Some(value),
                "proto" => families = value == "io.prometheus.client.MetricFamily",
                "encoding" => delimited = value == "delimited",
                _ => {}
            }
        }
        range.is_delimited_families = families && delimited;
        (kind, range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

    #[test]
    fn openmetrics_only_where_asked() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(negotiate(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(negotiate(Some("application/openmetrics-text")), Format::OpenMetrics);
        assert_eq!(
            negotiate(["text/plain;q=0.5", "Application/OpenMetrics-Text;Q=0.6"]),
            Format::OpenMetrics
        );
        for plain in [
            None,
            Some(""),
            Some("*/*"),
            Some("text/plain"),
            Some("application/*"),
            Some("application/openmetrics-text; q=0"),
            Some("application/openmetrics-text; q=-1"),
            Some("application/openmetrics-text; q=nan"),
            Some("application/openmetrics-text; q=0.1, text/plain"),
            Some("application/openmetrics-text; version=2.0.0"),
            Some(";;;,=q=,application/openmetrics-text;q=x"),
        ] {
            assert_eq!(negotiate(plain), Format::Text004, "{plain:?}");
        }
    }

    #[test]
    fn protobuf_only_where_it_is_prometheus_own() {
        for accept in [
            PROTO.to_owned(),
            // Prometheus 2.42 and 3 with native histograms
            format!(
                "{PROTO},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            format!("{PROTO};escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"),
            format!("text/plain, {PROTO}"),
            "application/vnd.google.protobuf; encoding=\"delimited\"; proto=\"io.prometheus.client.MetricFamily\""
                .to_owned(),
        ] {
            assert_eq!(negotiate([accept.as_str()]), Format::Protobuf, "{accept}");
        }
        for accept in [
            "application/vnd.google.protobuf".to_owned(),
            PROTO.replace("delimited", "text"),
            PROTO.replace("MetricFamily", "Other"),
            format!("{PROTO};q=0"),
            format!("{PROTO};q=0.4, text/plain;q=0.5"),
            PROTO.replace("io.prometheus.client.MetricFamily", "openmetrics.MetricSet"),
        ] {
            assert_eq!(negotiate([accept.as_str()]), Format::Text004, "{accept}");
        }
        let open = format!("{PROTO};q=0.7, application/openmetrics-text;q=0.8");
        assert_eq!(negotiate([open.as_str()]), Format::OpenMetrics);
    }

    #[test]
    fn gzip_where_it_is_allowed_and_not_the_second_choice() {
        for yes in [
            "gzip",
            "GZIP;q=0.5",
            "x-gzip",
            "br, gzip;q=0.1",
            "*",
            "*;q=0.1, identity;q=0",
            "gzip, *;q=0",
            "gzip;q=0.5, identity;q=0.5",
            "gzip, identity;q=0",
            "deflate, gzip;q=1.0, *;q=0.5",
        ] {
            assert!(wants_gzip([yes]), "{yes}");
        }
        for no in [
            "",
            "identity",
            "br, zstd",
            "gzip;q=0",
            "*;q=0",
            "identity;q=0",
            "gzip;q=0, *",
            "gzip;q=0.5, identity;q=0.6",
            "gzip;q=rubbish",
            "gzipped",
        ] {
            assert!(!wants_gzip([no]), "{no}");
        }
        assert!(wants_gzip(["br", "gzip"]));
        assert!(!wants_gzip([]));
    }
}
