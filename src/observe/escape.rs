//! Escaping of bytes that a peer chose, so that a line of a log or of metrics stays one line and says what it seems to
//! say.
//!
//! Whatever the bytes: a JSON string comes out valid, and plain text comes out as printable characters without line
//! ends. Terminal control sequences do not survive either of them.

/// Appends the bytes as the inside of a JSON string. What is no UTF-8 becomes U+FFFD, as in Go.
pub fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    escape(out, bytes, &JSON, |out, byte| match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        other => {
            out.extend_from_slice(b"\\u00");
            hex(out, other);
        }
    });
}

/// Appends the bytes for a quoted field of a text line: quotes and backslashes get a backslash, the rest of what is
/// not printable becomes `\xNN`.
pub fn quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    escape(out, bytes, &QUOTED, |out, byte| match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        other => {
            out.extend_from_slice(b"\\x");
            hex(out, other);
        }
    });
}

/// Appends the bytes as text for a person: only what is not printable becomes `\xNN`.
pub fn prose(out: &mut Vec<u8>, bytes: &[u8]) {
    escape(out, bytes, &PROSE, |out, byte| {
        out.extend_from_slice(b"\\x");
        hex(out, byte);
    });
}

/// Appends the bytes for a field of a text line that ends at a space.
pub fn word(out: &mut Vec<u8>, bytes: &[u8]) {
    escape(out, bytes, &WORD, |out, byte| {
        out.extend_from_slice(b"\\x");
        hex(out, byte);
    });
}

/// Appends the value of a label as Prometheus' text formats have it between quotes.
pub fn label_value(out: &mut String, text: &str) {
    exposition(out, text, true);
}

/// Appends the text of a `# HELP` line as Prometheus' text format 0.0.4 has it, where quotes stay as they are.
pub fn help(out: &mut String, text: &str) {
    exposition(out, text, false);
}

fn exposition(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

/// Which ASCII bytes must be escaped.
type Table = [bool; 256];

const JSON: Table = table(b"\"\\");
const QUOTED: Table = table(b"\"\\");
const PROSE: Table = table(b"");
const WORD: Table = table(b" \"\\");

/// The given characters, all control characters, and everything above ASCII: that takes a closer look.
const fn table(special: &[u8]) -> Table {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || byte >= 0x7f;
        byte += 1;
    }
    let mut index = 0;
    while index < special.len() {
        table[special[index] as usize] = true;
        index += 1;
    }
    table
}

/// Copies the runs of harmless bytes in one piece each.
fn escape(out: &mut Vec<u8>, bytes: &[u8], table: &Table, special: impl Fn(&mut Vec<u8>, u8) + Copy) {
    // Nearly all there is to write is harmless: a look at all bytes without a branch for each is the fastest way to know.
    if !bytes.iter().fold(false, |any, byte| any | table[usize::from(*byte)]) {
        return out.extend_from_slice(bytes);
    }
    let mut rest = bytes;
    while let Some(length) = rest.iter().position(|byte| table[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..length]);
        let byte = rest[length];
        if byte.is_ascii() {
            special(out, byte);
            rest = &rest[length + 1..];
        } else {
            let end = rest[length..]
                .iter()
                .position(u8::is_ascii)
                .map_or(rest.len(), |end| length + end);
            wide(out, &rest[length..end], special);
            rest = &rest[end..];
        }
    }
    out.extend_from_slice(rest);
}

/// A run of bytes above ASCII.
fn wide(out: &mut Vec<u8>, bytes: &[u8], special: impl Fn(&mut Vec<u8>, u8)) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if ('\u{80}'..='\u{9f}').contains(&character) {
                // The second set of control characters: terminals obey them. Their numbers fit a byte.
                special(out, character as u8);
            } else if matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                // Line separators, and what makes text read in the other direction.
                out.extend_from_slice("\u{fffd}".as_bytes());
            } else {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(f: fn(&mut Vec<u8>, &[u8]), bytes: &[u8]) -> String {
        let mut out = Vec::new();
        f(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn examples() {
        assert_eq!(
            with(json, "a\"b\\c\nd\u{1b}[31mä\u{7f}\u{9b}".as_bytes()),
            "a\\\"b\\\\c\\nd\\u001b[31mä\\u007f\\u009b"
        );
        assert_eq!(with(json, b"a\xff\xc3b"), "a\u{fffd}\u{fffd}b");
        assert_eq!(with(quoted, b"a \"b\"\r\n\x00"), "a \\\"b\\\"\\x0d\\x0a\\x00");
        assert_eq!(with(word, "a b - ü".as_bytes()), "a\\x20b\\x20-\\x20ü");
    }

    proptest! {
        #[test]
        fn json_is_always_valid_and_keeps_text(text in ".*", bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let read: String = serde_json::from_str(&format!("\"{}\"", with(json, bytes.as_slice()))).unwrap();
            prop_assert!(read.chars().count() <= bytes.len());
            let read: String = serde_json::from_str(&format!("\"{}\"", with(json, text.as_bytes()))).unwrap();
            if !read.contains('\u{fffd}') {
                prop_assert_eq!(read, text);
            }
        }

        #[test]
        fn text_is_always_one_printable_line(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for f in [json as fn(&mut Vec<u8>, &[u8]), quoted, prose, word] {
                prop_assert!(with(f, &bytes).chars().all(|c| !c.is_control()));
            }
            prop_assert!(!with(word, &bytes).contains([' ', '"']));
        }
    }
}
