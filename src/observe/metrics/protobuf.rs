//! Prometheus' protobuf format: one `io.prometheus.client.MetricFamily` after another, each behind its length.
//!
//! It is the only format that carries native histograms. The messages are few and fixed, so they are written field by
//! field as <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto> numbers them,
//! without objects in between: a scrape with thousands of series makes a handful of allocations. The tests read what is
//! written with a decoder of somebody else's.

use super::encode::{Family, Kind, Labels};
use super::native::{Buckets, NativeHistogram, SCHEMA, ZERO_THRESHOLD};

/// Field numbers, by message.
mod field {
    /// Of `MetricFamily`.
    pub(super) mod family {
        pub(crate) const NAME: u32 = 1;
        pub(crate) const HELP: u32 = 2;
        pub(crate) const TYPE: u32 = 3;
        pub(crate) const METRIC: u32 = 4;
    }
    /// Of `Metric`.
    pub(super) mod metric {
        pub(crate) const LABEL: u32 = 1;
        pub(crate) const GAUGE: u32 = 2;
        pub(crate) const COUNTER: u32 = 3;
        pub(crate) const HISTOGRAM: u32 = 7;
    }
    /// Of `LabelPair`.
    pub(super) mod label {
        pub(crate) const NAME: u32 = 1;
        pub(crate) const VALUE: u32 = 2;
    }
    /// Of `Gauge` and `Counter`.
    pub(super) const VALUE: u32 = 1;
    /// Of `Histogram`.
    pub(super) mod histogram {
        pub(crate) const COUNT: u32 = 1;
        pub(crate) const SUM: u32 = 2;
        pub(crate) const BUCKET: u32 = 3;
        pub(crate) const SCHEMA: u32 = 5;
        pub(crate) const ZERO_THRESHOLD: u32 = 6;
        pub(crate) const ZERO_COUNT: u32 = 7;
        pub(crate) const NEGATIVE_SPAN: u32 = 9;
        pub(crate) const NEGATIVE_DELTA: u32 = 10;
        pub(crate) const POSITIVE_SPAN: u32 = 12;
        pub(crate) const POSITIVE_DELTA: u32 = 13;
    }
    /// Of `Bucket`.
    pub(super) mod bucket {
        pub(crate) const CUMULATIVE_COUNT: u32 = 1;
        pub(crate) const UPPER_BOUND: u32 = 2;
    }
    /// Of `BucketSpan`.
    pub(super) mod span {
        pub(crate) const OFFSET: u32 = 1;
        pub(crate) const LENGTH: u32 = 2;
    }
}

/// Writes families one after another.
#[derive(Debug, Default)]
pub(super) struct Families {
    out: Vec<u8>,
    /// The family under way, written behind its length once it is complete; empty where there is none.
    family: Message,
    metric: Message,
    inner: Message,
    small: Message,
}

impl Families {
    /// Begins a family. `name` is its full name without a counter's `_total`, which belongs to it in this format.
    pub(super) fn begin(&mut self, name: &str, family: &Family) {
        self.end();
        let suffix = if family.kind == Kind::Counter { "_total" } else { "" };
        self.family
            .parts(field::family::NAME, &[name.as_bytes(), suffix.as_bytes()]);
        self.family.parts(field::family::HELP, &[family.help.as_bytes()]);
        let kind = match family.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 4,
        };
        self.family.uint(field::family::TYPE, kind);
    }

    /// A counter's or gauge's value.
    pub(super) fn value(&mut self, labels: &Labels, kind: Kind, value: f64) {
        self.labels(labels);
        self.inner.0.clear();
        self.inner.double(field::VALUE, value);
        let number = if kind == Kind::Counter {
            field::metric::COUNTER
        } else {
            field::metric::GAUGE
        };
        self.metric.message(number, &self.inner);
        self.family.message(field::family::METRIC, &self.metric);
    }

    /// A histogram in both forms. `counts` has one more than `bounds`; none is cumulative yet.
    pub(super) fn histogram(
        &mut self,
        labels: &Labels,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
        native: &NativeHistogram,
    ) {
        self.labels(labels);
        let histogram = &mut self.inner;
        histogram.0.clear();
        // Prometheus refuses a native histogram whose count is not the sum of its buckets. The classic ones were read a
        // moment earlier or later: a request that only they have, or do not have yet, must not make them disagree.
        let total = native.count();
        histogram.uint(field::histogram::COUNT, total);
        histogram.double(field::histogram::SUM, sum);
        let mut cumulative = 0;
        for (bound, count) in bounds.iter().zip(counts) {
            cumulative += count;
            self.small.0.clear();
            self.small.uint(field::bucket::CUMULATIVE_COUNT, total.min(cumulative));
            self.small.double(field::bucket::UPPER_BOUND, *bound);
            histogram.message(field::histogram::BUCKET, &self.small);
        }
        self.small.0.clear();
        self.small.uint(field::bucket::CUMULATIVE_COUNT, total);
        self.small.double(field::bucket::UPPER_BOUND, f64::INFINITY);
        histogram.message(field::histogram::BUCKET, &self.small);
        histogram.sint(field::histogram::SCHEMA, SCHEMA.into());
        histogram.double(field::histogram::ZERO_THRESHOLD, ZERO_THRESHOLD);
        histogram.uint(field::histogram::ZERO_COUNT, native.zero());
        let negative = (field::histogram::NEGATIVE_SPAN, field::histogram::NEGATIVE_DELTA);
        let positive = (field::histogram::POSITIVE_SPAN, field::histogram::POSITIVE_DELTA);
        histogram.buckets(negative, native.negative(), &mut self.small);
        histogram.buckets(positive, native.positive(), &mut self.small);
        self.metric.message(field::metric::HISTOGRAM, histogram);
        self.family.message(field::family::METRIC, &self.metric);
    }

    /// All families as they go over the wire.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.out
    }

    fn end(&mut self) {
        if !self.family.0.is_empty() {
            varint(&mut self.out, self.family.0.len() as u64);
            self.out.extend_from_slice(&self.family.0);
            self.family.0.clear();
        }
    }

    /// Begins a metric.
    fn labels(&mut self, labels: &Labels) {
        self.metric.0.clear();
        for (name, value) in labels.pairs() {
            self.small.0.clear();
            self.small.parts(field::label::NAME, &[name.as_bytes()]);
            self.small.parts(field::label::VALUE, &[value.as_bytes()]);
            self.metric.message(field::metric::LABEL, &self.small);
        }
    }
}

/// The fields of a message (<https://protobuf.dev/programming-guides/encoding/>).
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn tag(&mut self, field: u32, wire_type: u32) {
        varint(&mut self.0, (field << 3 | wire_type).into());
    }

    fn uint(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        varint(&mut self.0, value);
    }

    /// `sint32` and `sint64`: the sign in the lowest bit.
    fn sint(&mut self, field: u32, value: i64) {
        self.uint(field, ((value << 1) ^ (value >> 63)) as u64);
    }

    fn double(&mut self, field: u32, value: f64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A string, or bytes, made of parts.
    fn parts(&mut self, field: u32, parts: &[&[u8]]) {
        self.tag(field, 2);
        varint(&mut self.0, parts.iter().map(|part| part.len() as u64).sum());
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.parts(field, &[&message.0]);
    }

    /// Native buckets: spans of indices without a gap, then each count's difference from the one before. A repeated
    /// number stands unpacked, as proto2 has it.
    fn buckets(&mut self, (span, delta): (u32, u32), buckets: &Buckets, small: &mut Self) {
        let mut all = buckets.iter().map(|(index, _)| index).peekable();
        let mut next = 0;
        while let Some(first) = all.next() {
            let mut length = 1;
            while all.next_if_eq(&(first + length)).is_some() {
                length += 1;
            }
            small.0.clear();
            small.sint(field::span::OFFSET, (first - next).into());
            small.uint(field::span::LENGTH, length as u64);
            self.message(span, small);
            next = first + length;
        }
        let mut before = 0;
        for (_, count) in buckets.iter() {
            self.sint(delta, count.wrapping_sub(before) as i64);
            before = count;
        }
    }
}

/// Seven bits a byte, the lowest first.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::encode::{Encoder, Format};
    use super::*;

    /// The messages of metrics.proto, for a decoder that knows nothing of the code above.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct MetricFamily {
        #[prost(string, optional, tag = "1")]
        pub(crate) name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub(crate) help: Option<String>,
        #[prost(int32, optional, tag = "3")]
        pub(crate) kind: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        pub(crate) metric: Vec<Metric>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub(crate) label: Vec<LabelPair>,
        #[prost(message, optional, tag = "2")]
        pub(crate) gauge: Option<Value>,
        #[prost(message, optional, tag = "3")]
        pub(crate) counter: Option<Value>,
        #[prost(message, optional, tag = "7")]
        pub(crate) histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct LabelPair {
        #[prost(string, optional, tag = "1")]
        pub(crate) name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub(crate) value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Value {
        #[prost(double, optional, tag = "1")]
        pub(crate) value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        pub(crate) sample_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub(crate) sample_sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) bucket: Vec<Bucket>,
        #[prost(sint32, optional, tag = "5")]
        pub(crate) schema: Option<i32>,
        #[prost(double, optional, tag = "6")]
        pub(crate) zero_threshold: Option<f64>,
        #[prost(uint64, optional, tag = "7")]
        pub(crate) zero_count: Option<u64>,
        #[prost(message, repeated, tag = "9")]
        pub(crate) negative_span: Vec<BucketSpan>,
        #[prost(sint64, repeated, packed = "false", tag = "10")]
        pub(crate) negative_delta: Vec<i64>,
        #[prost(message, repeated, tag = "12")]
        pub(crate) positive_span: Vec<BucketSpan>,
        #[prost(sint64, repeated, packed = "false", tag = "13")]
        pub(crate) positive_delta: Vec<i64>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(crate) struct Bucket {
        #[prost(uint64, optional, tag = "1")]
        pub(crate) cumulative_count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub(crate) upper_bound: Option<f64>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(crate) struct BucketSpan {
        #[prost(sint32, optional, tag = "1")]
        pub(crate) offset: Option<i32>,
        #[prost(uint32, optional, tag = "2")]
        pub(crate) length: Option<u32>,
    }

    /// What a scraper finds in an answer.
    pub(crate) fn decode(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            all.push(prost::Message::decode_length_delimited(&mut bytes).unwrap());
        }
        all
    }

    fn labels(metric: &Metric) -> Vec<(&str, &str)> {
        let pairs = metric.label.iter();
        pairs
            .map(|pair| (pair.name.as_deref().unwrap(), pair.value.as_deref().unwrap()))
            .collect()
    }

    #[test]
    fn a_foreign_decoder_reads_what_was_written() {
        let mut encoder = Encoder::new(Format::Protobuf);
        let evil = "x\\y\"z\nä\u{fffd}\\n,b=\"\\";
        encoder.family("", Family::new("nothing", Kind::Gauge, "No samples."));
        encoder.family("p_", Family::new("hits", Kind::Counter, "Hits."));
        encoder.count(&Labels::default(), 3);
        encoder.count(&Labels::default().with("a", evil).with("b", ""), u64::from(u32::MAX));
        encoder.family("p_", Family::new("up", Kind::Gauge, "Up."));
        encoder.sample(&Labels::default().with("c", evil), -0.25);
        let families = decode(&encoder.finish());
        assert_eq!(families.len(), 2);
        let [hits, up] = &families[..] else { panic!() };
        assert_eq!(
            (hits.name.as_deref(), hits.help.as_deref()),
            (Some("p_hits_total"), Some("Hits."))
        );
        assert_eq!((hits.kind, up.kind), (Some(0), Some(1)));
        assert_eq!(labels(&hits.metric[0]), []);
        assert_eq!(hits.metric[0].counter, Some(Value { value: Some(3.0) }));
        assert_eq!(labels(&hits.metric[1]), [("a", evil), ("b", "")]);
        assert_eq!(
            hits.metric[1].counter,
            Some(Value {
                value: Some(f64::from(u32::MAX))
            })
        );
        assert_eq!(labels(&up.metric[0]), [("c", evil)]);
        assert_eq!(up.metric[0].gauge, Some(Value { value: Some(-0.25) }));
    }

    fn histogram(samples: &[f64]) -> Histogram {
        let mut native = NativeHistogram::default();
        samples.iter().for_each(|sample| native.add(*sample));
        let counts = [samples.iter().filter(|sample| **sample <= 1.0).count() as u64, 99];
        let mut encoder = Encoder::new(Format::Protobuf);
        encoder.family("", Family::new("h", Kind::Histogram, "H."));
        encoder.histogram(&Labels::default(), &[1.0], &counts, samples.iter().sum(), &native);
        let families = decode(&encoder.finish());
        assert_eq!(families[0].kind, Some(4));
        families[0].metric[0].histogram.clone().unwrap()
    }

    #[test]
    fn histograms_have_both_kinds_of_buckets() {
        let read = histogram(&[0.0, 0.9, 1.0, 1.0, 1.1, 4.0, -2.0, 4.0, 4.0]);
        assert_eq!((read.sample_count, read.sample_sum), (Some(9), Some(14.0)));
        assert_eq!(
            (read.schema, read.zero_threshold, read.zero_count),
            (Some(3), Some(2.0_f64.powi(-20)), Some(1))
        );
        let classic: Vec<_> = read
            .bucket
            .iter()
            .map(|b| (b.upper_bound.unwrap(), b.cumulative_count.unwrap()))
            .collect();
        assert_eq!(classic, [(1.0, 5), (f64::INFINITY, 9)], "never more than the count");
        let spans = |spans: &[BucketSpan]| -> Vec<_> {
            spans
                .iter()
                .map(|span| (span.offset.unwrap(), span.length.unwrap()))
                .collect()
        };
        // Indices: -1 (0.9), 0 (1.0 twice), 2 (1.1), 16 (4.0 three times).
        assert_eq!(spans(&read.positive_span), [(-1, 2), (1, 1), (13, 1)]);
        assert_eq!(read.positive_delta, [1, 1, -1, 2]);
        assert_eq!(spans(&read.negative_span), [(8, 1)]);
        assert_eq!(read.negative_delta, [1]);
    }

    #[test]
    fn a_histogram_of_zeros_is_still_a_native_one() {
        let read = histogram(&[0.0]);
        assert_eq!((read.sample_count, read.zero_count), (Some(1), Some(1)));
        assert!(read.zero_threshold > Some(0.0) && read.positive_span.is_empty());
    }

    #[test]
    fn varints() {
        let of = |value| {
            let mut out = Vec::new();
            varint(&mut out, value);
            out
        };
        assert_eq!(of(0), [0]);
        assert_eq!(of(127), [127]);
        assert_eq!(of(128), [0x80, 1]);
        assert_eq!(of(u64::MAX).len(), 10);
    }
}
