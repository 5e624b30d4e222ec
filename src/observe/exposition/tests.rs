use proptest::prelude::*;

use super::*;

fn text004(text: &str) -> Result<Vec<Family<'_>>, ParseError> {
    parse(text.as_bytes(), Dialect::Text004)
}

/// Families as `name kind: sample{labels} value, …`.
fn told(families: &[Family<'_>]) -> Vec<String> {
    let sample = |s: &Sample<'_>| format!("{}{:?} {}", s.name, s.labels, s.value);
    let family = |f: &Family<'_>| {
        let samples: Vec<_> = f.samples.iter().map(sample).collect();
        format!("{} {}: {}", f.name, f.kind.as_str(), samples.join(", "))
    };
    families.iter().map(family).collect()
}

#[test]
fn the_formats_example_is_read() {
    let text = r#"
# HELP http_requests_total The total number of \\ HTTP requests.\n
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000
# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\"", } 1.458255915e9
	metric_without_timestamp_and_labels 12.47
something_weird { problem = "division by zero" } +Inf -3982045
# TYPE latency histogram
latency_bucket{le="0.5"} 1
latency_bucket{le="+Inf"} 2
latency_sum 0.75
latency_count 2
latency_max 0.5
# TYPE rpc summary
rpc{quantile="0.5"} NaN
rpc_sum 1e+06
rpc_count 3
#TYPE no_type gauge
no_type 1
"#;
    let families = text004(text).expect("an exposition");
    assert_eq!(
        told(&families),
        [
            r#"http_requests_total counter: http_requests_total[("method", "post"), ("code", "200")] 1027, http_requests_total[("method", "post"), ("code", "400")] 3"#,
            r#"latency histogram: latency_bucket[("le", "0.5")] 1, latency_bucket[("le", "+Inf")] 2, latency_sum[] 0.75, latency_count[] 2"#,
            "latency_max untyped: latency_max[] 0.5",
            "metric_without_timestamp_and_labels untyped: metric_without_timestamp_and_labels[] 12.47",
            r#"msdos_file_access_time_seconds untyped: msdos_file_access_time_seconds[("path", "C:\\DIR\\FILE.TXT"), ("error", "Cannot find file:\n\"FILE.TXT\"")] 1458255915"#,
            "no_type untyped: no_type[] 1",
            r#"rpc summary: rpc[("quantile", "0.5")] NaN, rpc_sum[] 1000000, rpc_count[] 3"#,
            r#"something_weird untyped: something_weird[("problem", "division by zero")] inf"#,
        ]
    );
    assert_eq!(
        families[0].help.as_deref(),
        Some("The total number of \\ HTTP requests.\n")
    );
}

#[test]
fn openmetrics_comes_out_as_0_0_4_has_it() {
    let text = r#"# TYPE requests counter
# UNIT requests none
# HELP requests Requests.
requests_total{path="/"} 17.0 1520879607.789 # {trace_id="K#}8"} 0.67 1520879607.1
requests_created{path="/"} 1.5e9
# TYPE build info
build_info{version="1"} 1
# TYPE state stateset
state{state="a"} 1
# TYPE size gaugehistogram
size_bucket{le="+Inf"} 2
size_gcount 2
# EOF
"#;
    let families = parse(text.as_bytes(), Dialect::OpenMetrics).expect("an exposition");
    let kinds: Vec<_> = families.iter().map(|f| (f.name, f.kind, f.help.as_deref())).collect();
    assert_eq!(
        kinds,
        [
            ("build_info", Kind::Gauge, None),
            ("requests_created", Kind::Gauge, Some("Requests.")),
            ("requests_total", Kind::Counter, Some("Requests.")),
            ("size_bucket", Kind::Untyped, None),
            ("size_gcount", Kind::Untyped, None),
            ("state", Kind::Gauge, None),
        ]
    );
    assert_eq!(
        Dialect::of("application/openmetrics-text; version=1.0.0"),
        Dialect::OpenMetrics
    );
    assert_eq!(Dialect::of("text/html"), Dialect::Text004);
    let cut_off = parse(b"a 1\nb 2\n", Dialect::OpenMetrics).expect_err("no end");
    assert_eq!((cut_off.line, cut_off.too_large), (2, false));
    assert!(parse(b"a 1\n# EOF\nb 1\n", Dialect::OpenMetrics).is_err());
    assert!(parse(b"a 1\n# EOF\nb 1\n", Dialect::Text004).is_ok());
}

#[test]
fn metadata_holds_for_the_samples_before_it_too() {
    let families = text004("x_bucket{le=\"1\"} 1\nx 1\n# TYPE x_count gauge\nx_count 1\n# TYPE x histogram\n");
    let kinds: Vec<_> = families
        .expect("an exposition")
        .iter()
        .map(|f| (f.name, f.kind))
        .collect();
    assert_eq!(kinds, [("x", Kind::Histogram), ("x_count", Kind::Gauge)]);
}

#[test]
fn what_is_malformed_is_told_with_its_line() {
    for (line, message) in [
        ("<html>", "`<html>` is no name of a metric"),
        ("a", "`` is no number"),
        ("a b", "`b` is no number"),
        ("a 0x10", "`0x10` is no number"),
        ("a 1_0", "`1_0` is no number"),
        ("a 1e999", "`1e999` is no number"),
        ("a 1\r", "`1\\r` is no number"),
        ("a 1 2.5", "`2.5` is no timestamp"),
        ("a 1 2 3", "`2 3` is no timestamp"),
        ("a 1 # {b=2} 1", "`# {b=2} 1` is no timestamp"),
        ("a{b=\"c\"", "`` follows the label `b`"),
        ("a{b=\"c} 1", "the value of `b` has no end"),
        ("a{b=\"c\\\"} 1", "the value of `b` has no end"),
        ("a{b=c} 1", "the value of `b` is not in quotes"),
        ("a{b} 1", "labels without an end"),
        ("a{b=\"1\",b=\"2\"} 1", "the label `b` cannot stand here"),
        ("a{__name__=\"x\"} 1", "the label `__name__` cannot stand here"),
        ("a{1b=\"c\"} 1", "`1b` is no name of a label"),
        ("{\"utf8.name\"} 1", "`` is no name of a metric"),
        ("a.b 1", "`a.b` is no name of a metric"),
        ("# TYPE a gauges", "`gauges` is no type of a metric"),
        ("# TYPE a-b gauge", "`a-b` is no name of a metric"),
        ("# TYPE good counter", "`good` gets a second type"),
        ("h_bucket 1", "`h_bucket` needs a number in its label `le`"),
        ("s{quantile=\"x\"} 1", "`s` needs a number in its label `quantile`"),
    ] {
        let text = format!("# TYPE good gauge\n# TYPE h histogram\n# TYPE s summary\ngood 1\n{line}\n");
        let error = text004(&text).expect_err(line);
        assert_eq!(
            (error.line, error.message.as_str(), error.too_large),
            (5, message, false),
            "{line}"
        );
    }
    let error = parse(b"a 1\nb{c=\"\xff\"} 1\n", Dialect::Text004).expect_err("not UTF-8");
    assert_eq!(error.to_string(), "line 2: not UTF-8");
}

#[test]
fn messages_quote_little_and_escape_it() {
    let error = text004(&format!("a{{b=\"\"}} \x1b{}", "é".repeat(1000))).expect_err("garbage");
    assert!(
        error.message.len() < 150 && error.message.contains("\\u{1b}"),
        "{error}"
    );
}

#[test]
fn everything_is_bounded() {
    let refused = |text: String| text004(&text).expect_err("too much");
    assert!(text004(&"a 1\n".repeat(MAX_SAMPLES)).is_ok());
    let error = refused("a 1\n".repeat(MAX_SAMPLES + 1));
    assert_eq!((error.line, error.too_large), (MAX_SAMPLES + 1, true));
    assert!(refused(format!("# {}", "x".repeat(MAX_LINE))).too_large);
    assert!(refused(" \n".repeat(MAX_BODY / 2 + 1)).too_large);
    let types: String = (0..=MAX_FAMILIES).map(|i| format!("# TYPE m{i} gauge\n")).collect();
    assert!(refused(types).too_large);
    let labels: String = (0..=MAX_LABELS).map(|i| format!("l{i}=\"\",")).collect();
    assert!(refused(format!("a{{{labels}}} 1\n")).message.contains("labels"));
    let labels: String = (0..MAX_LABELS).map(|i| format!("l{i}=\"\",")).collect();
    assert!(refused(format!("a{{{labels}}} 1\n").repeat(MAX_ALL_LABELS / MAX_LABELS + 1)).too_large);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes, Dialect::Text004);
        let _ = parse(&bytes, Dialect::OpenMetrics);
    }

    #[test]
    fn nothing_like_an_exposition_panics(text in "(#? ?(TYPE|HELP|a|a_total)?[ \\t]?(a|histogram|counter)?\\{?(b=\"|\\\\|\"|,|=|\\}|é)* ?[0-9.eEInfNa+#{-]*\n){0,6}") {
        let _ = parse(text.as_bytes(), Dialect::Text004);
        let _ = parse(text.as_bytes(), Dialect::OpenMetrics);
    }

    #[test]
    fn what_is_merged_can_be_read_again(
        name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,8}",
        label in "[a-zA-Z_][a-zA-Z0-9_]{0,8}",
        text in "[ -~é\n\t]{0,20}",
        value in any::<f64>(),
    ) {
        let labels = vec![(label.as_str(), Cow::Borrowed(text.as_str()))];
        let sample = Sample { name: &name, labels, value };
        let family = Family { name: &name, kind: Kind::Gauge, help: Some(Cow::Borrowed(&text)), samples: vec![sample] };
        let mut merge = merge::Merge::default();
        let part = merge::Part::new(&[family], &merge::TargetLabels::default(), &[], || false);
        merge.add(part.expect("in time"));
        let out = merge.finish();
        let families = parse(out.as_bytes(), Dialect::Text004).expect(&out);
        prop_assert_eq!(families.len(), 1);
        let read = &families[0].samples[0];
        prop_assert!(read.value == value || (read.value.is_nan() && value.is_nan()));
        prop_assert_eq!(read.label(&label), text.as_str());
        prop_assert_eq!(families[0].help.as_deref(), Some(text.trim_start_matches([' ', '\t'])));
    }
}
