//! Reads a pattern by the grammar of Go's `regexp/syntax` (Perl flags, as `regexp.Compile` sets them) and writes it
//! in the syntax of the `regex` crate.
//!
//! Every literal is written escaped and every class spelled out, so that no byte of the source reaches the crate's
//! own parser uninterpreted. Groups are written without their names: Go allows names that the crate does not
//! (`1x`), and the template expansion keeps its own table. The reader is a loop, not a recursion.

use super::RegexError;
use class::{escape, push_literal};

pub mod class;

/// Go's limit for `x{n,m}` and for the product of nested repetitions.
const MAX_REPEAT: u32 = 1000;
/// How deeply groups may be nested. Go allows 1000; the crate 250.
const MAX_NESTING: usize = 200;

/// A pattern in the crate's syntax.
#[derive(Debug)]
pub struct Translated {
    /// The new pattern.
    pub pattern: String,
    /// Group names by number; number 0 is the whole match.
    pub names: Vec<Option<String>>,
}

/// Translates a pattern.
///
/// # Errors
/// Where Go refuses the pattern, with Go's wording and the byte offset.
pub fn translate(source: &str) -> Result<Translated, RegexError> {
    let mut reader = Reader {
        source,
        position: 0,
        out: String::with_capacity(source.len() + 16),
        names: vec![None],
        groups: Vec::new(),
        atom: None,
        widest: 1,
        flags: Flags::default(),
        repeated_at: None,
    };
    while !reader.rest().is_empty() {
        reader.step()?;
    }
    match reader.groups.last() {
        Some(open) => Err(RegexError::new("missing closing )", open.at)),
        None => Ok(Translated {
            pattern: reader.out,
            names: reader.names,
        }),
    }
}

#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_newline: bool,
    ungreedy: bool,
}

impl Flags {
    fn set(&mut self, letter: char, on: bool) -> bool {
        match letter {
            'i' => self.fold = on,
            'm' => self.multi_line = on,
            's' => self.dot_newline = on,
            'U' => self.ungreedy = on,
            _ => return false,
        }
        true
    }

    /// Writes all four, so that the crate's state is this one whatever it was before.
    fn push(self, out: &mut String) {
        let all = [
            ('i', self.fold),
            ('m', self.multi_line),
            ('s', self.dot_newline),
            ('U', self.ungreedy),
        ];
        out.extend(all.iter().filter(|(_, on)| *on).map(|(letter, _)| letter));
        if all.iter().any(|(_, on)| !on) {
            out.push('-');
            out.extend(all.iter().filter(|(_, on)| !*on).map(|(letter, _)| letter));
        }
    }
}

/// An open group, with what is to be restored at its end.
struct Group {
    at: usize,
    flags: Flags,
    widest: u32,
}

struct Reader<'a> {
    source: &'a str,
    position: usize,
    out: String,
    names: Vec<Option<String>>,
    groups: Vec<Group>,
    /// The product of repetitions inside the item that a following repetition would apply to.
    atom: Option<u32>,
    /// The largest such product in the current group.
    widest: u32,
    flags: Flags,
    /// Where the repetition begins that was read last, if nothing came after it.
    repeated_at: Option<usize>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.position..]
    }

    fn step(&mut self) -> Result<(), RegexError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(());
        };
        let repeated_at = self.repeated_at.take();
        match first {
            '(' => self.open()?,
            ')' => self.close()?,
            '\\' => self.backslash()?,
            '|' => {
                self.out.push('|');
                self.atom = None;
                self.position += 1;
            }
            '[' => {
                self.position = class::bracket(self.source, self.position, &mut self.out)?;
                self.item(1);
            }
            '*' | '+' | '?' => self.repeat(None, 1, repeated_at)?,
            '{' => match Counted::read(rest) {
                Some((counted, length)) => self.repeat(Some(counted), length, repeated_at)?,
                None => self.literal('{', 1),
            },
            '^' | '$' | '.' => {
                self.out.push(first);
                self.item(1);
                self.position += 1;
            }
            other => self.literal(other, other.len_utf8()),
        }
        Ok(())
    }

    /// Notes that an item ended that a repetition may follow.
    fn item(&mut self, product: u32) {
        self.atom = Some(product);
        self.widest = self.widest.max(product);
    }

    fn literal(&mut self, c: char, length: usize) {
        push_literal(&mut self.out, c);
        self.item(1);
        self.position += length;
    }

    fn repeat(&mut self, counts: Option<Counted>, length: usize, repeated_at: Option<usize>) -> Result<(), RegexError> {
        let at = self.position;
        let operator = &self.rest()[..length];
        self.position += length;
        if counts.is_some_and(|counts| !counts.is_valid()) {
            let message = format!("invalid repeat count `{operator}` (at most {MAX_REPEAT})");
            return Err(RegexError::new(message, at));
        }
        let lazy = self.rest().starts_with('?');
        self.position += usize::from(lazy);
        if let Some(before) = repeated_at {
            let shown = &self.source[before..self.position];
            return Err(RegexError::new(
                format!("invalid nested repetition operator `{shown}`"),
                before,
            ));
        }
        let Some(inner) = self.atom else {
            return Err(RegexError::new(
                format!("missing argument to repetition operator `{operator}`"),
                at,
            ));
        };
        let product = counts.map_or(1, Counted::factor).saturating_mul(inner);
        if product > MAX_REPEAT {
            let message = format!("invalid repeat count `{operator}`: nested repetitions multiply to {product}");
            return Err(RegexError::new(message, at));
        }
        self.out.push_str(operator);
        if lazy {
            self.out.push('?');
        }
        self.item(product);
        self.repeated_at = Some(at);
        Ok(())
    }

    fn open(&mut self) -> Result<(), RegexError> {
        let at = self.position;
        let rest = self.rest();
        if self.groups.len() >= MAX_NESTING {
            return Err(RegexError::new("expression nests too deeply", at));
        }
        if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| rest.starts_with(look)) {
            return Err(RegexError::new("lookaround is not supported", at));
        }
        // Go needs one more byte after the `<`, otherwise it is an unknown flag.
        let name_start = ["(?P<", "(?<"]
            .iter()
            .find(|p| rest.starts_with(**p) && rest.len() > p.len());
        if let Some(prefix) = name_start {
            self.named(prefix.len())
        } else if rest.starts_with("(?") {
            self.flag_group()
        } else {
            self.capture(None, 1);
            Ok(())
        }
    }

    fn capture(&mut self, name: Option<String>, length: usize) {
        self.out.push('(');
        self.names.push(name);
        self.enter(self.flags);
        self.position += length;
    }

    /// Enters the group that begins at the position; `outer` holds again after it.
    fn enter(&mut self, outer: Flags) {
        self.groups.push(Group {
            at: self.position,
            flags: outer,
            widest: self.widest,
        });
        self.widest = 1;
        self.atom = None;
    }

    fn named(&mut self, prefix: usize) -> Result<(), RegexError> {
        let (rest, at) = (self.rest(), self.position);
        let Some(end) = rest.find('>') else {
            return Err(RegexError::new(format!("invalid named capture `{rest}`"), at));
        };
        let name = &rest[prefix..end];
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(RegexError::new(
                format!("invalid named capture `{}`", &rest[..=end]),
                at,
            ));
        }
        if self.names.iter().any(|known| known.as_deref() == Some(name)) {
            return Err(RegexError::new(format!("duplicate capture group name `{name}`"), at));
        }
        self.capture(Some(name.to_owned()), end + 1);
        Ok(())
    }

    /// `(?flags)` and `(?flags:`.
    fn flag_group(&mut self) -> Result<(), RegexError> {
        let (rest, at) = (self.rest(), self.position);
        let mut flags = self.flags;
        let (mut on, mut seen) = (true, false);
        for (offset, c) in rest.char_indices().skip(2) {
            if flags.set(c, on) {
                seen = true;
            } else if c == '-' && on {
                (on, seen) = (false, false);
            } else if matches!(c, ':' | ')') && (on || seen) {
                self.out.push_str("(?");
                flags.push(&mut self.out);
                self.out.push(c);
                if c == ':' {
                    self.enter(self.flags);
                } else {
                    // Go would let a repetition reach over the flags to the item before; nobody means that.
                    self.atom = None;
                }
                self.flags = flags;
                self.position += offset + 1;
                return Ok(());
            } else {
                let shown = &rest[..offset + c.len_utf8()];
                return Err(RegexError::new(
                    format!("invalid or unsupported Perl syntax `{shown}`"),
                    at,
                ));
            }
        }
        Err(RegexError::new("missing closing )", at))
    }

    fn close(&mut self) -> Result<(), RegexError> {
        let Some(group) = self.groups.pop() else {
            return Err(RegexError::new("unexpected )", self.position));
        };
        self.out.push(')');
        self.position += 1;
        self.flags = group.flags;
        let inner = self.widest;
        self.widest = group.widest;
        self.item(inner);
        Ok(())
    }

    fn backslash(&mut self) -> Result<(), RegexError> {
        let rest = self.rest();
        let anchor = match rest.as_bytes().get(1) {
            Some(b'A') => r"\A",
            Some(b'z') => r"\z",
            Some(b'b') => r"(?-u:\b)",
            Some(b'B') => r"(?-u:\B)",
            Some(b'Q') => {
                self.quoted(&rest[2..]);
                return Ok(());
            }
            _ => {
                if let Some((class, length)) = class::escaped_class(rest, self.position)? {
                    self.out.push('[');
                    self.out.push_str(&class);
                    self.out.push(']');
                    self.item(1);
                    self.position += length;
                } else {
                    let (c, length) = escape(rest, self.position)?;
                    self.literal(c, length);
                }
                return Ok(());
            }
        };
        self.out.push_str(anchor);
        self.item(1);
        self.position += 2;
        Ok(())
    }

    /// `\Q...\E`, or to the end without `\E`.
    fn quoted(&mut self, body: &str) {
        self.position += 2;
        let (literal, end) = match body.split_once(r"\E") {
            Some((literal, _)) => (literal, 2),
            None => (body, 0),
        };
        for c in literal.chars() {
            self.literal(c, c.len_utf8());
        }
        self.position += end;
    }
}

/// The numbers of `{n}`, `{n,}` or `{n,m}`; one too large to hold is `u32::MAX`.
#[derive(Clone, Copy)]
struct Counted {
    min: u32,
    /// `None`: no upper bound.
    max: Option<u32>,
}

impl Counted {
    /// Reads it with its length from the start of the text. Anything that is not exactly of this form is a literal
    /// `{` in Go.
    fn read(text: &str) -> Option<(Self, usize)> {
        let (min, mut at) = count(text, 1)?;
        let mut max = Some(min);
        if text[at..].starts_with(",}") {
            at += 1;
            max = None;
        } else if text[at..].starts_with(',') {
            let (upper, after) = count(text, at + 1)?;
            (max, at) = (Some(upper), after);
        }
        text[at..].starts_with('}').then_some((Self { min, max }, at + 1))
    }

    fn is_valid(self) -> bool {
        self.min <= MAX_REPEAT && self.max.is_none_or(|max| self.min <= max && max <= MAX_REPEAT)
    }

    /// By how much it multiplies what it repeats.
    fn factor(self) -> u32 {
        self.max.unwrap_or(self.min).max(1)
    }
}

/// Digits without a leading zero: their value and the position after them.
fn count(text: &str, from: usize) -> Option<(u32, usize)> {
    let digits = &text[from..];
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 || (length > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits[..length].parse().unwrap_or(u32::MAX), from + length))
}

#[cfg(test)]
mod tests;
