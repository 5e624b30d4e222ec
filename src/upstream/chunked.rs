//! The chunked transfer coding of a server's answer (RFC 9112, 7.1), strictly: CR LF only, extensions are dropped.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};

/// Longest line with a chunk's size and its extensions.
const MAX_SIZE_LINE: usize = 4 * 1024;
/// Longest trailer section.
const MAX_TRAILERS: usize = 64 * 1024;
/// Most trailer fields.
const MAX_TRAILER_FIELDS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// One step of the decoder.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Bytes of the body.
    Data(Bytes),
    /// The trailer section, at the end.
    Trailers(HeaderMap),
    /// The end, without trailers.
    End,
    /// More bytes are needed.
    More,
}

/// The decoder.
#[derive(Debug)]
pub struct Chunked {
    state: State,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size }
    }
}

impl Chunked {
    /// Whether the last chunk and the trailers are through.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what it can from `buf`.
    ///
    /// # Errors
    /// When the framing is broken: the connection is worthless then.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Step, &'static str> {
        loop {
            match self.state {
                State::Size => match size_line(buf)? {
                    None => return Ok(Step::More),
                    Some(0) => self.state = State::Trailers,
                    Some(n) => self.state = State::Data(n),
                },
                State::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Step::More);
                    }
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                    let left = left - n as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data(buf.split_to(n).freeze()));
                }
                State::DataEnd => {
                    if buf.len() < 2 {
                        return Ok(Step::More);
                    }
                    if &buf[..2] != b"\r\n" {
                        return Err("a chunk is longer than its size");
                    }
                    buf.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => return self.trailers(buf),
                State::Done => return Ok(Step::End),
            }
        }
    }

    fn trailers(&mut self, buf: &mut BytesMut) -> Result<Step, &'static str> {
        if buf.starts_with(b"\r\n") {
            buf.advance(2);
            self.state = State::Done;
            return Ok(Step::End);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
        match httparse::parse_headers(buf, &mut fields) {
            Ok(httparse::Status::Complete((n, fields))) => {
                let mut map = HeaderMap::with_capacity(fields.len());
                for field in fields {
                    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "a bad trailer name")?;
                    let value = HeaderValue::from_bytes(field.value).map_err(|_| "a bad trailer value")?;
                    map.append(name, value);
                }
                buf.advance(n);
                self.state = State::Done;
                Ok(Step::Trailers(map))
            }
            Ok(httparse::Status::Partial) if buf.len() > MAX_TRAILERS => Err("the trailers are too long"),
            Ok(httparse::Status::Partial) => Ok(Step::More),
            Err(_) => Err("bad trailers"),
        }
    }
}

/// A chunk's size, once its whole line is there.
fn size_line(buf: &mut BytesMut) -> Result<Option<u64>, &'static str> {
    let Some(end) = memchr::memchr(b'\n', buf) else {
        return if buf.len() > MAX_SIZE_LINE {
            Err("a chunk size line is too long")
        } else {
            Ok(None)
        };
    };
    let line = match buf[..end].split_last() {
        Some((b'\r', line)) if line.len() <= MAX_SIZE_LINE => line,
        _ => return Err("a chunk size line does not end in CR LF"),
    };
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let rest = line[digits..].trim_ascii_start();
    if digits == 0 || digits > 16 || !(rest.is_empty() || rest[0] == b';') || memchr::memchr(b'\r', rest).is_some() {
        return Err("a bad chunk size");
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| "a bad chunk size")?;
    let size = u64::from_str_radix(text, 16).map_err(|_| "a bad chunk size")?;
    buf.advance(end + 1);
    Ok(Some(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &[u8]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), &'static str> {
        let (mut decoder, mut buf, mut out) = (Chunked::default(), BytesMut::from(input), Vec::new());
        loop {
            match decoder.decode(&mut buf)? {
                Step::Data(data) => out.extend_from_slice(&data),
                Step::Trailers(map) => return Ok((out, Some(map), buf.len())),
                Step::End => return Ok((out, None, buf.len())),
                Step::More => return Err("more"),
            }
        }
    }

    #[test]
    fn decodes_what_is_right() {
        assert_eq!(run(b"3\r\nabc\r\n0\r\n\r\n"), Ok((b"abc".to_vec(), None, 0)));
        assert_eq!(
            run(b"3;x=\"y\"\r\nabc\r\nA \r\n0123456789\r\n0\r\n\r\nrest"),
            Ok((b"abc0123456789".to_vec(), None, 4))
        );
        let (_, trailers, _) = run(b"0\r\nX-T: v\r\n\r\n").expect("trailers");
        assert_eq!(trailers.expect("trailers")["x-t"], "v");
    }

    #[test]
    fn refuses_what_is_broken_and_waits_for_what_is_short() {
        for bad in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"3 3\r\nabc\r\n",
            b"11111111111111111\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"0\r\nbad trailer\r\n\r\n",
        ] {
            assert!(
                !matches!(run(bad), Ok(_) | Err("more")),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
        for short in [
            &b""[..],
            b"3",
            b"3\r",
            b"3\r\nab",
            b"3\r\nabc",
            b"3\r\nabc\r\n0\r\n",
            b"0\r\nX: y\r\n",
        ] {
            assert_eq!(run(short), Err("more"), "{:?}", String::from_utf8_lossy(short));
        }
    }
}
