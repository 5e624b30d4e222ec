//! `Server-Timing` (W3C): what a model server says about its own stages, and what Gantry adds for the client.
//!
//! A list such as `pre;dur=3.1, infer;dur=53.2;desc="UNet, fp16"`. What cannot be read is passed over: a broken figure
//! must not cost the others.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::parameters;

/// The field.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The longest time that is believed, in milliseconds: a day.
const LONGEST: f64 = 24.0 * 60.0 * 60.0 * 1000.0;

/// Tells `sink` each metric's name and `dur`, which the specification gives in milliseconds. Metrics without a `dur`, or
/// with one that is no time (negative, no number, longer than a day), are passed over.
pub fn durations(headers: &HeaderMap, mut sink: impl FnMut(&str, Duration)) {
    for value in headers.get_all(SERVER_TIMING) {
        // A description may be in Latin-1; names and times are ASCII.
        let text = String::from_utf8_lossy(value.as_bytes());
        for metric in parameters::split(&text, b',') {
            let name = parameters::head(metric);
            let duration = parameters::parameter(metric, "dur").and_then(|dur| milliseconds(&dur));
            if let Some(duration) = duration.filter(|_| !name.is_empty()) {
                sink(name, duration);
            }
        }
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    let value: f64 = text.trim().parse().ok()?;
    (0.0..=LONGEST)
        .contains(&value)
        .then(|| Duration::from_secs_f64(value / 1000.0))
}

/// Gantry's own part for the client: the time in the gateway before the request was handed to the server, and the time
/// from there to the head of the server's answer.
#[must_use]
pub fn own(gateway: Duration, upstream: Duration) -> Option<HeaderValue> {
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let text = format!(
        "gantry;dur={:.3}, upstream;dur={:.3}",
        millis(gateway),
        millis(upstream)
    );
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&[u8]]) -> Vec<(String, f64)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SERVER_TIMING, HeaderValue::from_bytes(value).expect("a value"));
        }
        let mut found = Vec::new();
        durations(&headers, |name, duration| {
            found.push((name.to_owned(), duration.as_secs_f64()));
        });
        found
    }

    #[test]
    fn names_and_times_are_read() {
        let list = br#"pre;dur=3.5, infer;desc="UNet, \"fp16\"; dur=9";dur=250 , miss, post ; DUR = "0.5""#;
        let expected = [("pre", 0.0035), ("infer", 0.25), ("post", 0.0005)];
        assert_eq!(read(&[list]), expected.map(|(name, time)| (name.to_owned(), time)));
        assert_eq!(read(&[b"a;dur=1", b"b;dur=2"]).len(), 2);
    }

    #[test]
    fn what_is_no_time_is_passed_over() {
        for broken in [
            &b""[..],
            b";dur=1",
            b"a",
            b"a;dur",
            b"a;dur=",
            b"a;dur=x",
            b"a;dur=-1",
            b"a;dur=NaN",
            b"a;dur=inf",
            b"a;dur=1e300",
            b",,;;\"",
            b"a;desc=\"open, b;dur=1",
        ] {
            assert_eq!(read(&[broken]), [], "{}", String::from_utf8_lossy(broken));
        }
        assert_eq!(
            read(&[b"a;dur=x, b;dur=1;desc=\"\xe9\xff\""]),
            [("b".to_owned(), 0.001)]
        );
    }

    #[test]
    fn own_times_are_in_milliseconds() {
        let value = own(Duration::from_micros(250), Duration::from_millis(1500)).expect("a value");
        assert_eq!(value, "gantry;dur=0.250, upstream;dur=1500.000");
        let mut headers = HeaderMap::new();
        headers.insert(SERVER_TIMING, value);
        let mut names = Vec::new();
        durations(&headers, |name, _| names.push(name.to_owned()));
        assert_eq!(names, ["gantry", "upstream"]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                durations(&HeaderMap::from_iter([(SERVER_TIMING, value)]), |_, _| {});
            }
        }
    }
}
