//! HTTP/1 messages, read strictly and kept as they came: order, case and framing are part of the evidence.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, ErrorKind, Read};

/// More of a body than this is counted and hashed, not kept.
const KEPT: usize = 4 << 20;

/// A message head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The first line without its end.
    pub first: String,
    /// The fields in order, names in the case they came in.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of a field that may come once.
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {self:?}", all.len());
        all.first().copied()
    }

    /// The names of all fields in lower case, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort();
        names
    }
}

/// How a body was delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None was announced.
    None,
    /// By its length.
    Length(u64),
    /// In chunks.
    Chunked,
    /// By the end of the connection.
    Close,
    /// By an end of stream (HTTP/2), without a length.
    Stream,
}

/// A body as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// At most the first 4 MiB.
    pub bytes: Vec<u8>,
    /// All that came.
    pub len: u64,
    /// Of all that came: compare with [`hash`].
    pub hash: u64,
    /// Fields after the last chunk.
    pub trailers: Vec<(String, String)>,
}

impl Body {
    pub fn push(&mut self, bytes: &[u8], hasher: &mut DefaultHasher) {
        let room = KEPT.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.len += bytes.len() as u64;
        hasher.write(bytes);
        self.hash = hasher.finish();
    }
}

/// The hash of a whole body, as in [`Body::hash`].
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Text for bytes one to one, so that nothing that came is lost in a message.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Reads a head; `None` when the connection ends before its first byte.
pub fn read_head(stream: &mut impl Read) -> io::Result<Option<Head>> {
    let Some(first) = read_line(stream)? else {
        return Ok(None);
    };
    let mut head = Head {
        first,
        fields: Vec::new(),
    };
    while let Some(line) = read_line(stream)? {
        if line.is_empty() {
            return Ok(Some(head));
        }
        head.fields.push(field(&line)?);
    }
    Err(bad(format!("the connection ended in a head: {head:?}")))
}

fn field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| bad(format!("no colon in {line:?}")))?;
    if name.is_empty() || name.ends_with([' ', '\t']) || line.starts_with([' ', '\t']) {
        return Err(bad(format!("bad field {line:?}")));
    }
    Ok((name.into(), value.trim_matches([' ', '\t']).into()))
}

/// Reads a line that ends in CR LF, byte by byte so that nothing behind it is taken.
fn read_line(stream: &mut impl Read) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if stream.read(&mut byte)? == 0 {
            return if line.is_empty() {
                Ok(None)
            } else {
                Err(bad(format!("cut off: {:?}", latin1(&line))))
            };
        }
        line.push(byte[0]);
        if byte[0] == b'\n' {
            let Some(text) = line.strip_suffix(b"\r\n") else {
                return Err(bad("a lone line feed".into()));
            };
            return Ok(Some(latin1(text)));
        }
        if line.len() > 2 << 20 {
            return Err(bad("a line without end".into()));
        }
    }
}

fn bad(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

/// The framing that a head announces for its body; `otherwise` when it announces none.
pub fn framing(head: &Head, otherwise: Framing) -> io::Result<Framing> {
    let coding = head.all("transfer-encoding");
    let lengths = head.all("content-length");
    match (coding.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(otherwise),
        ([], [length]) => length
            .parse()
            .map(Framing::Length)
            .map_err(|_| bad(format!("length {length:?}"))),
        (["chunked"], []) => Ok(Framing::Chunked),
        _ => Err(bad(format!("ambiguous framing: {head:?}"))),
    }
}

/// Reads a body into `body` as it comes, so that a cut one leaves what came.
pub fn read_body(stream: &mut impl Read, framing: Framing, body: &mut Body) -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    body.hash = hasher.finish();
    match framing {
        Framing::None => Ok(()),
        Framing::Length(length) => read_exactly(stream, length, body, &mut hasher),
        Framing::Close | Framing::Stream => {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => body.push(&buffer[..n], &mut hasher),
                }
            }
        }
        Framing::Chunked => loop {
            let line = read_line(stream)?.ok_or_else(|| bad("cut off between chunks".into()))?;
            let size = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| bad(format!("chunk size {line:?}")))?;
            read_exactly(stream, size, body, &mut hasher)?;
            if size == 0 {
                return read_trailers(stream, body);
            }
            if read_line(stream)?.as_deref() != Some("") {
                return Err(bad("no line end behind a chunk".into()));
            }
        },
    }
}

fn read_trailers(stream: &mut impl Read, body: &mut Body) -> io::Result<()> {
    loop {
        let line = read_line(stream)?.ok_or_else(|| bad("cut off in the trailers".into()))?;
        if line.is_empty() {
            return Ok(());
        }
        body.trailers.push(field(&line)?);
    }
}

fn read_exactly(stream: &mut impl Read, length: u64, body: &mut Body, hasher: &mut DefaultHasher) -> io::Result<()> {
    let mut left = length;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match stream.read(&mut buffer[..most])? {
            0 => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    format!("{left} of {length} bytes are missing"),
                ));
            }
            n => {
                body.push(&buffer[..n], hasher);
                left -= n as u64;
            }
        }
    }
    Ok(())
}
