//! Multipart bodies (RFC 2046, 5.1), looked through while they pass.
//!
//! Nothing of a part is held here: its bytes go on as slices of what came. What is held is a part's head, at most
//! [`MAX_HEAD`], and how much of a boundary the last piece ended with. The time grows with the bytes alone, since a
//! delimiter has its only carriage return in front: where a match breaks off, another one can only begin at that byte.

use bytes::Bytes;
use memchr::memmem::Finder;

use super::parameters;

/// Longest head of a part, bytes. What is longer is not understood.
pub const MAX_HEAD: usize = 16 * 1024;
/// Longest boundary, bytes. RFC 2046 has 70.
const MAX_BOUNDARY: usize = 200;
/// Most white space behind a delimiter on its line, bytes.
const MAX_PADDING: usize = 256;

/// What the fields of a part say about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHead {
    /// `name` of Content-Disposition, else Content-ID without its brackets.
    pub name: Option<String>,
    /// Content-Type.
    pub content_type: Option<String>,
    /// Content-Encoding.
    pub content_encoding: Option<String>,
    /// Content-Transfer-Encoding, where it changes the bytes: not `7bit`, `8bit` or `binary`.
    pub transfer_encoding: Option<String>,
}

/// Who is told of the parts, in their order. Each part has one `begin`, and an `end` if it came to its end.
pub trait Parts {
    /// A part's head.
    fn begin(&mut self, head: PartHead);
    /// Bytes of the part, never none.
    fn data(&mut self, data: Bytes);
    /// The part is whole.
    fn end(&mut self);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes of a part or the preamble; so many bytes of the delimiter came last.
    Data(usize),
    /// The line behind a delimiter.
    Line,
    /// The fields of a part.
    Head,
    /// After the last part, or the scanner does not understand: nothing is looked at any more.
    Over,
}

/// The scanner of one body.
#[derive(Debug)]
pub struct Scanner {
    /// CR LF, two hyphens, the boundary.
    delimiter: Bytes,
    finder: Finder<'static>,
    state: State,
    /// No part began yet: what comes is preamble.
    preamble: bool,
    /// The line behind a delimiter, or the head of a part, as far as it came.
    held: Vec<u8>,
    /// Where the last line of `held` begins.
    line: usize,
    /// The delimiter of the end came.
    whole: bool,
}

impl Scanner {
    /// A scanner for a body with this Content-Type, if it is one of those multipart types that carry files:
    /// `multipart/mixed`, `multipart/form-data`, `multipart/related`.
    #[must_use]
    pub fn for_type(content_type: &str) -> Option<Self> {
        let kind = parameters::head(content_type).to_ascii_lowercase();
        if !matches!(
            kind.as_str(),
            "multipart/mixed" | "multipart/form-data" | "multipart/related"
        ) {
            return None;
        }
        let boundary = parameters::parameter(content_type, "boundary")?;
        let right = (1..=MAX_BOUNDARY).contains(&boundary.len()) && !boundary.contains(['\r', '\n']);
        right.then(|| Self::new(&boundary))
    }

    fn new(boundary: &str) -> Self {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Self {
            finder: Finder::new(&delimiter).into_owned(),
            delimiter: delimiter.into(),
            // The first delimiter may stand at the very beginning, as if a line had ended there.
            state: State::Data(2),
            preamble: true,
            held: Vec::new(),
            line: 0,
            whole: false,
        }
    }

    /// Looks at the next piece of the body.
    pub fn push(&mut self, piece: &Bytes, parts: &mut impl Parts) {
        let mut at = 0;
        while at < piece.len() {
            at = match self.state {
                State::Data(matched) => self.data(piece, at, matched, parts),
                State::Line => self.line(piece[at], at, parts),
                State::Head => self.head(piece, at, parts),
                State::Over => return,
            };
        }
    }

    /// Whether the body came to its own end.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Looks at bytes of a part from `at` on; gives the place of what is to be looked at next.
    fn data(&mut self, piece: &Bytes, at: usize, matched: usize, parts: &mut impl Parts) -> usize {
        let rest = &piece[at..];
        if matched > 0 {
            let wanted = &self.delimiter[matched..];
            let more = rest.iter().zip(wanted).take_while(|(a, b)| a == b).count();
            let matched_now = matched + more;
            if matched_now == self.delimiter.len() {
                self.open_line();
            } else if more == rest.len() {
                self.state = State::Data(matched_now);
            } else {
                self.give(self.delimiter.slice(..matched_now), parts);
                self.state = State::Data(0);
            }
            return at + more;
        }
        if let Some(found) = self.finder.find(rest) {
            self.give(piece.slice(at..at + found), parts);
            self.open_line();
            return at + found + self.delimiter.len();
        }
        let tail = rest.len().saturating_sub(self.delimiter.len() - 1);
        let begun = memchr::memrchr(b'\r', &rest[tail..])
            .map(|i| tail + i)
            .filter(|i| self.delimiter.starts_with(&rest[*i..]));
        let end = begun.unwrap_or(rest.len());
        self.give(piece.slice(at..at + end), parts);
        self.state = State::Data(rest.len() - end);
        piece.len()
    }

    fn open_line(&mut self) {
        self.held.clear();
        self.state = State::Line;
    }

    fn give(&self, data: Bytes, parts: &mut impl Parts) {
        if !self.preamble && !data.is_empty() {
            parts.data(data);
        }
    }

    /// Looks at one byte behind a delimiter: white space and CR LF, or two hyphens. Anything else means that it was none.
    fn line(&mut self, byte: u8, at: usize, parts: &mut impl Parts) -> usize {
        match (byte, self.held.last()) {
            (b'\n', Some(b'\r')) => {
                self.close_part(parts);
                self.state = State::Head;
            }
            (b'-', Some(b'-')) => {
                self.close_part(parts);
                self.whole = true;
                self.state = State::Over;
            }
            (b' ' | b'\t', None | Some(b' ' | b'\t')) | (b'\r', None | Some(b' ' | b'\t')) | (b'-', None)
                if self.held.len() < MAX_PADDING =>
            {
                self.held.push(byte);
            }
            _ => {
                self.give(self.delimiter.clone(), parts);
                let padding = Bytes::from(std::mem::take(&mut self.held));
                self.give(padding, parts);
                // This very byte may begin the next delimiter.
                self.state = State::Data(0);
                return at;
            }
        }
        at + 1
    }

    fn close_part(&mut self, parts: &mut impl Parts) {
        if !std::mem::take(&mut self.preamble) {
            parts.end();
        }
        self.held.clear();
        self.line = 0;
    }

    /// Collects the fields of a part up to the empty line.
    fn head(&mut self, piece: &Bytes, at: usize, parts: &mut impl Parts) -> usize {
        let rest = &piece[at..];
        let line = memchr::memchr(b'\n', rest).map(|i| i + 1);
        let taken = line.unwrap_or(rest.len());
        if self.held.len() + taken > MAX_HEAD {
            self.held = Vec::new();
            self.state = State::Over;
            return piece.len();
        }
        self.held.extend_from_slice(&rest[..taken]);
        if line.is_some() {
            let empty = self.held[self.line..].trim_ascii().is_empty();
            self.line = self.held.len();
            if empty {
                parts.begin(part_head(&self.held));
                self.held.clear();
                self.state = State::Data(0);
            }
        }
        at + taken
    }
}

fn part_head(text: &[u8]) -> PartHead {
    let text = String::from_utf8_lossy(text);
    let mut head = PartHead::default();
    let mut id = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-disposition" => {
                head.name = parameters::parameter(value, "name").map(std::borrow::Cow::into_owned);
            }
            "content-id" => id = Some(value.trim_start_matches('<').trim_end_matches('>').to_owned()),
            "content-type" => head.content_type = Some(value.to_owned()),
            "content-encoding" => head.content_encoding = Some(value.to_owned()),
            "content-transfer-encoding" => {
                let plain = ["7bit", "8bit", "binary"].iter().any(|p| value.eq_ignore_ascii_case(p));
                head.transfer_encoding = (!plain).then(|| value.to_owned());
            }
            _ => {}
        }
    }
    head.name = head.name.or(id);
    head
}

#[cfg(test)]
mod tests;
