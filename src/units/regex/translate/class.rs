//! Character classes and escapes: everything that stands for one character.
//!
//! Go's classes are flat: `[` inside one is a literal and `&&`, `--`, `~~` are characters, where the `regex` crate
//! would read set operations.

use std::fmt::Write as _;

use crate::units::regex::RegexError;

/// Reads the `[...]` that begins at `open` and writes it in the crate's syntax. Returns the position after it.
///
/// # Errors
/// As Go: a missing `]`, an unknown class name, a bad escape, a range that runs backwards.
pub fn bracket(source: &str, open: usize, out: &mut String) -> Result<usize, RegexError> {
    out.push('[');
    let mut at = open + 1;
    if source[at..].starts_with('^') {
        out.push('^');
        at += 1;
    }
    let mut first = true;
    loop {
        let text = &source[at..];
        if text.starts_with(']') && !first {
            out.push(']');
            return Ok(at + 1);
        }
        first = false;
        if let Some(name) = posix_class(text) {
            if !is_posix_name(name) {
                return Err(bad_range(name, at));
            }
            out.push_str(name);
            at += name.len();
        } else if let Some((class, length)) = escaped_class(text, at)? {
            out.push_str(&class);
            at += length;
        } else {
            at = range(source, at, open, out)?;
        }
    }
}

/// One character or range of a class; returns the position after it.
fn range(source: &str, from: usize, open: usize, out: &mut String) -> Result<usize, RegexError> {
    let (low, mut at) = class_char(source, from, open)?;
    push_literal(out, low);
    let text = &source[at..];
    if text.starts_with('-') && text.len() >= 2 && !text.starts_with("-]") {
        let high;
        (high, at) = class_char(source, at + 1, open)?;
        if high < low {
            return Err(bad_range(&source[from..at], from));
        }
        out.push('-');
        push_literal(out, high);
    }
    Ok(at)
}

/// One character of a class and the position after it.
fn class_char(source: &str, at: usize, open: usize) -> Result<(char, usize), RegexError> {
    let text = &source[at..];
    match text.chars().next() {
        None => Err(RegexError::new("missing closing ]", open)),
        Some('\\') => escape(text, at).map(|(c, length)| (c, at + length)),
        Some(c) => Ok((c, at + c.len_utf8())),
    }
}

/// `\d`, `\pL` and the like at the start of the text: what stands for it inside brackets, and its length.
///
/// # Errors
/// For a Unicode class that does not exist or does not end.
pub fn escaped_class(text: &str, at: usize) -> Result<Option<(String, usize)>, RegexError> {
    let class = match text.as_bytes() {
        [b'\\', b'd', ..] => "0-9",
        [b'\\', b'D', ..] => "[^0-9]",
        [b'\\', b's', ..] => r"\t\n\x{c}\r\x{20}",
        [b'\\', b'S', ..] => r"[^\t\n\x{c}\r\x{20}]",
        [b'\\', b'w', ..] => "0-9A-Za-z_",
        [b'\\', b'W', ..] => "[^0-9A-Za-z_]",
        [b'\\', b'p' | b'P', ..] => return unicode_class(text, at).map(Some),
        _ => return Ok(None),
    };
    Ok(Some((class.to_owned(), 2)))
}

fn unicode_class(text: &str, at: usize) -> Result<(String, usize), RegexError> {
    let after = &text[2..];
    let (name, length) = if let Some(body) = after.strip_prefix('{') {
        let end = body.find('}').ok_or_else(|| bad_range(text, at))?;
        (&body[..end], end + 4)
    } else {
        let first = after.chars().next().ok_or_else(|| bad_range(text, at))?;
        (&after[..first.len_utf8()], 2 + first.len_utf8())
    };
    let (name, caret) = match name.strip_prefix('^') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let letter = if text.starts_with(r"\P") == caret { 'p' } else { 'P' };
    let class = format!(r"\{letter}{{{name}}}");
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !is_plain || regex::Regex::new(&class).is_err() {
        return Err(bad_range(&text[..length], at));
    }
    Ok((class, length))
}

fn bad_range(shown: &str, at: usize) -> RegexError {
    RegexError::new(format!("invalid character class range `{shown}`"), at)
}

/// One escaped character at the start of the text and its length, as Go's `parser.escape` reads it.
///
/// # Errors
/// As Go, and for a surrogate code point, which could never match.
pub fn escape(text: &str, at: usize) -> Result<(char, usize), RegexError> {
    let Some(c) = text[1..].chars().next() else {
        return Err(RegexError::new("trailing backslash at end of expression", at));
    };
    let after = &text[1 + c.len_utf8()..];
    let found = match c {
        'a' => Some(('\u{7}', 2)),
        'f' => Some(('\u{c}', 2)),
        'n' => Some(('\n', 2)),
        'r' => Some(('\r', 2)),
        't' => Some(('\t', 2)),
        'v' => Some(('\u{b}', 2)),
        'x' => hexadecimal(after),
        '0' => octal(&text[1..]),
        '1'..='7' if after.starts_with(|next| matches!(next, '0'..='7')) => octal(&text[1..]),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => Some((c, 2)),
        _ => None,
    };
    found.ok_or_else(|| {
        let shown = &text[..1 + c.len_utf8()];
        let why = if c.is_ascii_digit() {
            ": backreferences are not supported"
        } else {
            ""
        };
        RegexError::new(format!("invalid escape sequence `{shown}`{why}"), at)
    })
}

/// Up to three octal digits; the length counts the backslash.
fn octal(digits: &str) -> Option<(char, usize)> {
    let length = digits
        .bytes()
        .take(3)
        .take_while(|byte| matches!(byte, b'0'..=b'7'))
        .count();
    Some((code_point(&digits[..length], 8)?, 1 + length))
}

/// What follows `\x`: two digits, or any number in braces; the length counts the `\x`.
fn hexadecimal(after: &str) -> Option<(char, usize)> {
    let (digits, length) = match after.strip_prefix('{') {
        Some(body) => {
            let end = body.find('}')?;
            (&body[..end], end + 4)
        }
        None => (after.get(..2)?, 4),
    };
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| code_point(digits, 16)).flatten().map(|c| (c, length))
}

fn code_point(digits: &str, radix: u32) -> Option<char> {
    u32::from_str_radix(digits, radix).ok().and_then(char::from_u32)
}

/// Writes a character so that the crate reads just that character, inside brackets and outside.
pub fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || (!c.is_ascii() && !c.is_control()) {
        out.push(c);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(out, r"\x{{{:x}}}", u32::from(c));
    }
}

/// `[:name:]` at the start of the text, as a whole.
fn posix_class(text: &str) -> Option<&str> {
    let body = text.strip_prefix("[:")?;
    let end = body.find(":]")?;
    Some(&text[..end + 4])
}

fn is_posix_name(class: &str) -> bool {
    let name = &class[2..class.len() - 2];
    matches!(
        name.strip_prefix('^').unwrap_or(name),
        "alnum"
            | "alpha"
            | "ascii"
            | "blank"
            | "cntrl"
            | "digit"
            | "graph"
            | "lower"
            | "print"
            | "punct"
            | "space"
            | "upper"
            | "word"
            | "xdigit"
    )
}
