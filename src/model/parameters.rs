//! Parameters behind a semicolon (`; name="report"; dur=53.2`), as Content-Type, Content-Disposition and Server-Timing
//! have them.
//!
//! Forgiving: what cannot be read is passed over. Time and memory grow with the text alone, and nothing in it can panic.

use std::borrow::Cow;

/// Splits `text` at each `separator` that stands outside of quoted strings (RFC 9110, 5.6.4). Pieces are trimmed.
pub fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = end_of_piece(text.as_bytes(), separator);
        rest = text.get(end + 1..);
        Some(text.get(..end).unwrap_or(text).trim())
    })
}

fn end_of_piece(bytes: &[u8], separator: u8) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let found = bytes.iter().position(|byte| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match byte {
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return *byte == separator && !quoted,
        }
        false
    });
    found.unwrap_or(bytes.len())
}

/// The first parameter called `name`, in any case, of `value; a=1; b="2"`, without its quotes.
#[must_use]
pub fn parameter<'a>(text: &'a str, name: &str) -> Option<Cow<'a, str>> {
    split(text, b';').skip(1).find_map(|piece| {
        let (key, value) = piece.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| unquoted(value.trim()))
    })
}

/// What stands before the first parameter.
#[must_use]
pub fn head(text: &str) -> &str {
    split(text, b';').next().unwrap_or_default()
}

fn unquoted(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"') else {
        return Cow::Borrowed(text);
    };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut plain = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_hide_separators() {
        let pieces: Vec<_> = split(r#"a, "b, \" c" ,d,"e, f"#, b',').collect();
        assert_eq!(pieces, ["a", r#""b, \" c""#, "d", r#""e, f"#]);
        assert_eq!(split("", b',').collect::<Vec<_>>(), [""]);
        assert_eq!(split("a,", b',').collect::<Vec<_>>(), ["a", ""]);
    }

    #[test]
    fn parameters_are_found_in_any_case_and_unquoted() {
        let text = r#"multipart/mixed; Boundary="a;b\"c" ; charset=utf-8"#;
        assert_eq!(head(text), "multipart/mixed");
        assert_eq!(parameter(text, "boundary").as_deref(), Some("a;b\"c"));
        assert_eq!(parameter(text, "charset").as_deref(), Some("utf-8"));
        assert_eq!(parameter(text, "multipart/mixed"), None);
        assert_eq!(parameter("x; name=\"open", "name").as_deref(), Some("open"));
        assert_eq!(parameter("x; name", "name"), None);
    }
}
