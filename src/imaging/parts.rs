//! The parts of a multipart body (RFC 2046, section 5.1) whose beginning is known: just enough to find a file in it.
//!
//! Not a parser of forms: part headers are stepped over, encodings are not undone, and what a body should not look like
//! is simply not found. One pass; at most [`MAX_PARTS`] parts.

use memchr::memmem;

/// The most parts that are looked at: a file comes first, or after a few fields.
const MAX_PARTS: usize = 8;

/// The longest boundary, RFC 2046, section 5.1.1.
const MAX_BOUNDARY: usize = 70;

/// One part.
pub(super) struct Part<'a> {
    /// What stands after its headers.
    pub(super) body: &'a [u8],
    /// Whether its end was there; else it may go on.
    pub(super) whole: bool,
}

/// The parts of a body, in order.
pub(super) struct Parts<'a> {
    /// CR LF `--` boundary: what ends a part.
    delimiter: Vec<u8>,
    /// What follows the last delimiter that was found.
    rest: Option<&'a [u8]>,
    /// Parts that may still be looked at.
    left: usize,
    /// Whether more bytes may bring another part.
    more: bool,
}

/// The parts of a body that begins with `prefix`; `None` where it is not multipart. The boundary is that of the
/// `Content-Type`; where that has none, it is the first line, if that begins with `--`.
pub(super) fn split<'a>(content_type: Option<&str>, prefix: &'a [u8]) -> Option<Parts<'a>> {
    let is_multipart = match content_type {
        Some(value) => is_multipart(value),
        None => prefix.starts_with(b"--"),
    };
    if !is_multipart {
        return None;
    }
    let boundary = content_type.and_then(boundary).map(str::as_bytes);
    let mut parts = Parts {
        delimiter: Vec::new(),
        rest: None,
        left: MAX_PARTS,
        more: true,
    };
    match boundary.or_else(|| first_line(prefix)) {
        Some(boundary) if (1..=MAX_BOUNDARY).contains(&boundary.len()) => {
            parts.delimiter = [b"\r\n--", boundary].concat();
            parts.rest = after_first(&parts.delimiter, prefix);
        }
        Some(_) => parts.more = false,
        None => parts.more = prefix.len() < MAX_BOUNDARY + 4,
    }
    Some(parts)
}

fn is_multipart(content_type: &str) -> bool {
    let kind = content_type.trim_start().get(..10);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/"))
}

/// The parameter `boundary`. None of its characters needs a backslash, and none is a semicolon.
fn boundary(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_boundary = name.trim().eq_ignore_ascii_case("boundary");
        is_boundary.then(|| value.trim().trim_matches('"'))
    })
}

/// What stands after the `--` that a body begins with, up to the end of the line.
fn first_line(prefix: &[u8]) -> Option<&[u8]> {
    let line = prefix.strip_prefix(b"--")?;
    Some(&line[..memmem::find(line, b"\r\n")?])
}

/// What follows the first delimiter, which need not follow a line where the body begins with it.
fn after_first<'a>(delimiter: &[u8], prefix: &'a [u8]) -> Option<&'a [u8]> {
    prefix.strip_prefix(&delimiter[2..]).or_else(|| {
        let at = memmem::find(prefix, delimiter)?;
        Some(&prefix[at + delimiter.len()..])
    })
}

impl Parts<'_> {
    /// Whether further bytes of the body may bring another part; to be asked after the last one.
    pub(super) const fn more_may_come(&self) -> bool {
        self.more
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let rest = self.rest.take()?;
        if self.left == 0 || rest.starts_with(b"--") {
            self.more = false;
            return None;
        }
        self.left -= 1;
        // Headers end with an empty line, which follows the delimiter at once where there are none.
        let body = &rest[memmem::find(rest, b"\r\n\r\n")? + 4..];
        let end = memmem::find(body, &self.delimiter);
        self.rest = end.map(|end| &body[end + self.delimiter.len()..]);
        Some(Part {
            body: &body[..end.unwrap_or(body.len())],
            whole: end.is_some(),
        })
    }
}
