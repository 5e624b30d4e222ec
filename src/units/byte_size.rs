//! Byte counts: bare bytes, or a number with a binary (`KiB`) or decimal (`KB`) unit.
//!
//! Traefik's own keys take bare integers; the units are for people. They match without case, the way `16kib` and
//! `16KiB` are both seen in the wild.

/// Reads a byte count: `1048576`, `16KiB`, `16Ki`, `1GiB`, `500MB`. `Ki`/`KiB` is 1024, `KB` is 1000, and so on up to
/// tera; a trailing `B` alone is bytes.
///
/// # Errors
/// Says what is wrong: an empty text, a sign, blanks, a fraction, an unknown unit or a value above `u64::MAX`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    if digits.is_empty() {
        return Err(match text.chars().next() {
            None => "invalid size ``: it is empty; write bytes, or a number with a unit, such as 16KiB".to_owned(),
            Some('-') => format!("invalid size `{text}`: must not be negative"),
            Some(_) => format!("invalid size `{text}`: must begin with a digit"),
        });
    }
    let scale = unit_bytes(unit).map_err(|why| format!("invalid size `{text}`: {why}"))?;
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(|| format!("invalid size `{text}`: too large"))
}

fn unit_bytes(unit: &str) -> Result<u64, String> {
    if unit.starts_with('.') {
        return Err("fractions are not allowed; use a smaller unit".to_owned());
    }
    if unit.contains(char::is_whitespace) {
        return Err("blanks are not allowed".to_owned());
    }
    Ok(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "ki" => 1 << 10,
        "mib" | "mi" => 1 << 20,
        "gib" | "gi" => 1 << 30,
        "tib" | "ti" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`; use KiB, MiB, GiB, TiB, KB, MB, GB or TB"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes() {
        let table: &[(&str, u64)] = &[
            ("0", 0),
            ("1048576", 1 << 20),
            ("7B", 7),
            ("16KiB", 16 << 10),
            ("16kib", 16 << 10),
            ("16Ki", 16 << 10),
            ("1MiB", 1 << 20),
            ("2Mi", 2 << 20),
            ("1GiB", 1 << 30),
            ("3Gi", 3 << 30),
            ("1TiB", 1 << 40),
            ("1KB", 1_000),
            ("1kB", 1_000),
            ("500MB", 500_000_000),
            ("2GB", 2_000_000_000),
            ("2TB", 2_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_bytes(text), Ok(*bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_and_says_why() {
        let table = [
            ("", "empty"),
            ("-1", "negative"),
            ("KiB", "begin with a digit"),
            ("1.5GiB", "fractions"),
            ("1 GiB", "blanks"),
            ("1GiB ", "blanks"),
            (" 1", "begin with a digit"),
            ("1XB", "unknown unit `XB`"),
            ("1K", "unknown unit"),
            ("18446744073709551616", "too large"),
            ("99999999TiB", "too large"),
        ];
        for (text, why) in table {
            let error = parse_bytes(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
