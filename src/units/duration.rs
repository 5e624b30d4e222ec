//! Durations as Go's `time.ParseDuration` reads and `time.Duration.String` writes them.
//!
//! Traefik takes a number with a unit (`500ms`, `1h30m`) or bare digits, which are seconds. The range is Go's: a
//! signed 64-bit count of nanoseconds, about 292 years.

use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// A duration that may be negative, as [`parse_signed`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedDuration {
    /// Whether the text began with `-` and the value is not zero.
    pub negative: bool,
    /// The absolute value.
    pub magnitude: Duration,
}

/// Reads a duration that must not be negative: Go's syntax (`1h30m`, `1.5s`, `500ms`, `1µs`) or bare digits, which
/// are seconds.
///
/// # Errors
/// Says what is wrong: an empty text, a missing or unknown unit (`1d`), blanks, a negative or too large value.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed = parse_signed(text)?;
    if signed.negative {
        return Err(format!("invalid duration `{text}`: must not be negative"));
    }
    Ok(signed.magnitude)
}

/// Like [`parse_duration`], for the keys where a negative value has a meaning (such as "no limit").
///
/// # Errors
/// As [`parse_duration`], without the check of the sign.
pub fn parse_signed(text: &str) -> Result<SignedDuration, String> {
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let nanos = nanoseconds(body).map_err(|why| format!("invalid duration `{text}`: {why}"))?;
    Ok(SignedDuration {
        negative: negative && nanos > 0,
        magnitude: Duration::from_nanos(nanos),
    })
}

fn nanoseconds(body: &str) -> Result<u64, String> {
    if body.is_empty() {
        return Err("it is empty; write a number with a unit, such as 30s".to_owned());
    }
    if body.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds: u64 = body.parse().map_err(|_| too_large())?;
        return bounded(u128::from(seconds) * u128::from(SECOND));
    }
    let mut rest = body;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanos, after) = component(rest)?;
        total = total.saturating_add(nanos);
        rest = after;
    }
    bounded(total)
}

fn bounded(nanos: u128) -> Result<u64, String> {
    i64::try_from(nanos).map(i64::unsigned_abs).map_err(|_| too_large())
}

fn too_large() -> String {
    "too large; the longest duration is about 292 years".to_owned()
}

/// One `number unit` pair: its nanoseconds and the text after it.
fn component(text: &str) -> Result<(u128, &str), String> {
    let (whole, after_whole) = split_digits(text);
    let (fraction, after_number) = match after_whole.strip_prefix('.') {
        Some(after_dot) => split_digits(after_dot),
        None => ("", after_whole),
    };
    if whole.is_empty() && fraction.is_empty() {
        let found = text.chars().next().unwrap_or(' ');
        return Err(match found {
            ' ' => "blanks are not allowed".to_owned(),
            _ => format!("expected a number at `{text}`"),
        });
    }
    let unit_end = after_number
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(after_number.len());
    let (unit, rest) = after_number.split_at(unit_end);
    let scale = u128::from(unit_nanoseconds(unit)?);
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse::<u128>().map_err(|_| too_large())?
    };
    // More than 18 digits after the dot are below a nanosecond for every unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = u32::try_from(fraction.len()).unwrap_or(0);
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().map_err(|_| too_large())?
    };
    let nanos = whole.checked_mul(scale).ok_or_else(too_large)? + fraction * scale / 10_u128.pow(digits);
    Ok((nanos, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn unit_nanoseconds(unit: &str) -> Result<u64, String> {
    match unit {
        "ns" => Ok(1),
        // U+00B5, the micro sign, and U+03BC, the Greek letter: Go takes both.
        "us" | "µs" | "μs" => Ok(1_000),
        "ms" => Ok(1_000_000),
        "s" => Ok(SECOND),
        "m" => Ok(60 * SECOND),
        "h" => Ok(3_600 * SECOND),
        "" => Err("a unit is missing (ns, us, ms, s, m, h)".to_owned()),
        "d" => Err("unknown unit `d`; write days as hours, such as 24h".to_owned()),
        _ if unit.contains(char::is_whitespace) => Err("blanks are not allowed".to_owned()),
        _ => Err(format!("unknown unit `{unit}`; use ns, us, ms, s, m or h")),
    }
}

/// Writes a duration as Go's `Duration.String` does: `1m30s`, `166.666666ms`, `0s`.
pub fn format_go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let second = u128::from(SECOND);
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < second {
        let (unit, scale) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, scale));
    }
    let (hours, minutes, rest) = (
        nanos / (3_600 * second),
        nanos / (60 * second) % 60,
        nanos % (60 * second),
    );
    let seconds = decimal(rest, second);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / scale` with as many decimals as needed; `scale` is a power of ten.
fn decimal(value: u128, scale: u128) -> String {
    let (whole, fraction) = (value / scale, value % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let table: &[(&str, u64)] = &[
            ("0", 0),
            ("+5", 5 * SECOND),
            ("10", 10 * SECOND),
            ("0s", 0),
            ("5s", 5 * SECOND),
            ("1478s", 1478 * SECOND),
            ("+5s", 5 * SECOND),
            ("5.0s", 5 * SECOND),
            ("5.6s", 5_600_000_000),
            ("5.s", 5 * SECOND),
            (".5s", 500_000_000),
            ("1.0040s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("13ms", 13_000_000),
            ("14s", 14 * SECOND),
            ("15m", 900 * SECOND),
            ("16h", 16 * 3600 * SECOND),
            ("3h30m", 12_600 * SECOND),
            ("10.5s4m", 250_500_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("0.3333333333333333333h", 1_200 * SECOND - 1),
            ("9223372036854775807ns", i64::MAX.unsigned_abs()),
            ("2540400h10m10.000000000s", 9_145_440_610 * SECOND),
        ];
        for (text, nanos) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(*nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "1d",
            "1 h",
            " 1s",
            "1s ",
            "s",
            ".",
            "-",
            "+",
            ".s",
            "+.s",
            "1x",
            "3000000h",
            "1h30",
            "1.5",
            "--1s",
            "1w",
            "9223372036854775808ns",
            "99999999999999999999999999",
            "99999999999999999999999999999999999999999999h",
            "1y2",
            "１s",
            "1e3s",
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.starts_with(&format!("invalid duration `{text}`: ")), "{error}");
        }
    }

    #[test]
    fn a_sign_is_taken_only_where_the_caller_says() {
        assert!(parse_duration("-1s").is_err());
        assert_eq!(parse_duration("-0s"), Ok(Duration::ZERO));
        let minus = |secs| SignedDuration {
            negative: true,
            magnitude: Duration::from_secs(secs),
        };
        assert_eq!(parse_signed("-1s"), Ok(minus(1)));
        assert_eq!(parse_signed("-5"), Ok(minus(5)));
        assert_eq!(
            parse_signed("2s"),
            Ok(SignedDuration {
                negative: false,
                magnitude: Duration::from_secs(2)
            })
        );
    }

    #[test]
    fn writes_what_go_writes() {
        let table: &[(u64, &str)] = &[
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (166_666_666, "166.666666ms"),
            (3_300_000_000, "3.3s"),
            (90 * SECOND, "1m30s"),
            (245 * SECOND, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (3_600 * SECOND, "1h0m0s"),
            (480_000_000_001, "8m0.000000001s"),
            (i64::MAX.unsigned_abs(), "2562047h47m16.854775807s"),
        ];
        for (nanos, text) in table {
            assert_eq!(format_go(Duration::from_nanos(*nanos)), *text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&format_go(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse_signed(&text);
        }
    }
}
