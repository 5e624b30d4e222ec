//! Splits a rule into tokens. Strings are Go's: raw in backticks, or in double quotes with escapes.

use std::ops::Range;

use super::RuleError;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A matcher's name.
    Name(String),
    /// A string, unquoted.
    Text {
        /// Its value.
        value: String,
        /// Whether byte offsets into the value are offsets into the source after the opening quote.
        verbatim: bool,
    },
    /// `(`
    Open,
    /// `)`
    Close,
    /// `,`
    Comma,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `!`
    Not,
}

impl Token {
    /// The token as an error message names it.
    pub fn describe(&self) -> String {
        match self {
            Self::Name(name) => format!("`{name}`"),
            Self::Text { .. } => "a string".to_owned(),
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::And => "`&&`".to_owned(),
            Self::Or => "`||`".to_owned(),
            Self::Not => "`!`".to_owned(),
        }
    }
}

/// A token and where it stands.
pub type Spanned = (Token, Range<usize>);

/// Splits the text.
///
/// # Errors
/// At a character that begins no token, and in a string that is not closed or has a bad escape.
pub fn tokens(text: &str) -> Result<Vec<Spanned>, RuleError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if matches!(first, ' ' | '\t' | '\n' | '\r') {
            at += 1;
            continue;
        }
        let (token, length) = token(&text[at..], at, first)?;
        found.push((token, at..at + length));
        at += length;
    }
    Ok(found)
}

fn token(rest: &str, at: usize, first: char) -> Result<(Token, usize), RuleError> {
    let simple = match first {
        '(' => Some(Token::Open),
        ')' => Some(Token::Close),
        ',' => Some(Token::Comma),
        '!' => Some(Token::Not),
        _ => None,
    };
    if let Some(simple) = simple {
        return Ok((simple, 1));
    }
    if rest.starts_with("&&") {
        return Ok((Token::And, 2));
    }
    if rest.starts_with("||") {
        return Ok((Token::Or, 2));
    }
    match first {
        '`' => raw_string(rest, at),
        '"' => quoted_string(rest, at),
        _ if first.is_alphabetic() || first == '_' => {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(rest.len());
            Ok((Token::Name(rest[..end].to_owned()), end))
        }
        _ => Err(unexpected(first, at)),
    }
}

fn unexpected(first: char, at: usize) -> RuleError {
    let help = match first {
        '&' => Some("write `&&`"),
        '|' => Some("write `||`"),
        '\'' | '‘' | '’' | '“' | '”' | '´' => Some("put arguments in backticks or double quotes"),
        '0'..='9' | '/' | '*' | '^' | '.' => Some("put arguments in backticks, such as Path(`/api`)"),
        _ => None,
    };
    RuleError {
        message: format!("unexpected character `{}`", first.escape_debug()),
        span: at..at + first.len_utf8(),
        help: help.map(str::to_owned),
    }
}

fn raw_string(rest: &str, at: usize) -> Result<(Token, usize), RuleError> {
    let Some(end) = rest[1..].find('`') else {
        return Err(RuleError {
            message: "this string is not closed".to_owned(),
            span: at..at + rest.len(),
            help: Some("add the closing backtick".to_owned()),
        });
    };
    let body = &rest[1..=end];
    // Go drops carriage returns from raw strings.
    let value = body.replace('\r', "");
    let verbatim = value.len() == body.len();
    Ok((Token::Text { value, verbatim }, end + 2))
}

fn quoted_string(rest: &str, at: usize) -> Result<(Token, usize), RuleError> {
    let error = |message: &str, span: Range<usize>, help: Option<&str>| RuleError {
        message: message.to_owned(),
        span: at + span.start..at + span.end,
        help: help.map(str::to_owned),
    };
    let mut bytes = Vec::new();
    let mut verbatim = true;
    let mut position = 1;
    loop {
        match rest.as_bytes().get(position) {
            None | Some(b'\n') => {
                return Err(error(
                    "this string is not closed",
                    0..position,
                    Some("add the closing double quote"),
                ));
            }
            Some(b'"') => break,
            Some(b'\\') => {
                verbatim = false;
                let Some(length) = escape(&rest[position..], &mut bytes) else {
                    let next = rest[position + 1..].chars().next().map_or(0, char::len_utf8);
                    let help = "in double quotes a backslash is written `\\\\`; in backticks it stands for itself";
                    return Err(error("unknown escape", position..position + 1 + next, Some(help)));
                };
                position += length;
            }
            Some(other) => {
                bytes.push(*other);
                position += 1;
            }
        }
    }
    let value = String::from_utf8(bytes)
        .map_err(|_| error("the escapes of this string do not give UTF-8", 0..position + 1, None))?;
    Ok((Token::Text { value, verbatim }, position + 1))
}

/// Appends what one Go escape stands for and returns its length.
fn escape(text: &str, out: &mut Vec<u8>) -> Option<usize> {
    let letter = *text.as_bytes().get(1)?;
    let simple = match letter {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'"' => letter,
        _ => {
            let (from, digits, radix) = match letter {
                b'x' => (2, 2, 16),
                b'u' => (2, 4, 16),
                b'U' => (2, 8, 16),
                b'0'..=b'7' => (1, 3, 8),
                _ => return None,
            };
            let digits = text
                .get(from..from + digits)
                .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            let value = u32::from_str_radix(digits, radix).ok()?;
            if matches!(letter, b'u' | b'U') {
                out.extend(char::from_u32(value)?.encode_utf8(&mut [0; 4]).bytes());
            } else {
                out.push(u8::try_from(value).ok()?);
            }
            return Some(from + digits.len());
        }
    };
    out.push(simple);
    Some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> Result<String, RuleError> {
        match tokens(source)?.as_slice() {
            [(Token::Text { value, .. }, span)] if *span == (0..source.len()) => Ok(value.clone()),
            other => panic!("{source}: {other:?}"),
        }
    }

    #[test]
    fn strings_are_gos() {
        let table = [
            ("`a`", "a"),
            ("``", ""),
            (r"`\d\n`", r"\d\n"),
            ("`a\r\nb`", "a\nb"),
            ("\"a\"", "a"),
            (r#""\a\b\f\n\r\t\v\\\"""#, "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\""),
            (r#""\x41\101\u0041\U00000041""#, "AAAA"),
            (r#""\xc3\xa9""#, "é"),
            ("\"é`\"", "é`"),
        ];
        for (source, value) in table {
            assert_eq!(text(source).as_deref(), Ok(value), "{source}");
        }
    }

    #[test]
    fn bad_strings_say_where() {
        let table = [
            ("`a", 0..2, "not closed"),
            ("\"a", 0..2, "not closed"),
            ("\"a\nb\"", 0..2, "not closed"),
            ("\"a\\", 2..3, "unknown escape"),
            (r#""a\d""#, 2..4, "unknown escape"),
            (r#""\'""#, 1..3, "unknown escape"),
            (r#""\é""#, 1..4, "unknown escape"),
            (r#""\x4""#, 1..3, "unknown escape"),
            (r#""\400""#, 1..3, "unknown escape"),
            (r#""\ud800""#, 1..3, "unknown escape"),
            (r#""\xff""#, 0..6, "UTF-8"),
        ];
        for (source, span, message) in table {
            let error = text(source).expect_err(source);
            assert!(error.message.contains(message), "{source}: {error}");
            assert_eq!(error.span, span, "{source}");
        }
    }

    #[test]
    fn splits_with_spans() {
        let found = tokens(" !Host ( `a`,\"b\" )\n&&||").expect("valid");
        let spans: Vec<_> = found
            .iter()
            .map(|(token, span)| (token.describe(), span.clone()))
            .collect();
        let expected = [
            ("`!`", 1..2),
            ("`Host`", 2..6),
            ("`(`", 7..8),
            ("a string", 9..12),
            ("`,`", 12..13),
            ("a string", 13..16),
            ("`)`", 17..18),
            ("`&&`", 19..21),
            ("`||`", 21..23),
        ];
        assert_eq!(spans, expected.map(|(text, span)| (text.to_owned(), span)));
    }

    #[test]
    fn other_characters_are_refused_with_help() {
        for (source, help) in [
            ("&", "&&"),
            ("a | b", "||"),
            ("'a'", "backticks"),
            ("Path(/a)", "Path(`/api`)"),
        ] {
            let error = tokens(source).expect_err(source);
            assert!(error.help.expect("help").contains(help), "{source}");
        }
        assert_eq!(tokens("é;").expect_err("semicolon").span, 2..3);
        assert_eq!(
            tokens("\u{a0}").expect_err("no-break space").message,
            "unexpected character `\\u{a0}`"
        );
    }
}
