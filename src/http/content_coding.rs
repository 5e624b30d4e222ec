//! `Content-Encoding` (RFC 9110, section 8.4): how a body that Gantry reads for itself is compressed.
//!
//! Bodies on their way between client and server pass as they are; this is for the texts that Gantry looks into. What
//! is inflated has a bound, so that few bytes cannot become many.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// How a text is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// It is not.
    Plain,
    /// `gzip` (RFC 1952).
    Gzip,
    /// `deflate`: zlib (RFC 1950), or, as some servers send it, without its frame.
    Deflate,
    /// One that Gantry does not read, or several.
    Other,
}

/// Why a text cannot be inflated.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// Its coding is [`Coding::Other`].
    #[error("its encoding is none that is understood")]
    Unknown,
    /// It has more bytes than are taken.
    #[error("it is too large once inflated")]
    TooLarge,
    /// It is damaged, or not whole.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

impl Coding {
    /// What a field says; `None` where there is none.
    #[must_use]
    pub fn of(field: Option<&str>) -> Self {
        let is = |name: &str| field.is_some_and(|text| text.trim().eq_ignore_ascii_case(name));
        if field.is_none() || is("") || is("identity") {
            Self::Plain
        } else if is("gzip") || is("x-gzip") {
            Self::Gzip
        } else if is("deflate") {
            Self::Deflate
        } else {
            Self::Other
        }
    }

    /// The text that `bytes` are in this coding, of at most `most` bytes. Takes a while for a large one: not for a
    /// worker's own thread.
    ///
    /// # Errors
    /// See [`InflateError`].
    pub fn inflate(self, bytes: &[u8], most: usize) -> Result<Vec<u8>, InflateError> {
        match self {
            Self::Plain => bounded(bytes, most),
            Self::Gzip => bounded(MultiGzDecoder::new(bytes), most),
            Self::Deflate if is_zlib(bytes) => bounded(ZlibDecoder::new(bytes), most),
            Self::Deflate => bounded(DeflateDecoder::new(bytes), most),
            Self::Other => Err(InflateError::Unknown),
        }
    }
}

fn bounded(reader: impl Read, most: usize) -> Result<Vec<u8>, InflateError> {
    let mut text = Vec::new();
    let read = reader.take(most as u64 + 1).read_to_end(&mut text);
    // First: what is too large need not be whole.
    if text.len() > most {
        return Err(InflateError::TooLarge);
    }
    read?;
    Ok(text)
}

/// RFC 1950, 2.2: method 8, and a check of the first two bytes.
fn is_zlib(bytes: &[u8]) -> bool {
    matches!(bytes, [first, second, ..] if first & 15 == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    #[test]
    fn codings() {
        for (field, coding) in [
            (None, Coding::Plain),
            (Some(""), Coding::Plain),
            (Some(" Identity"), Coding::Plain),
            (Some("GZIP"), Coding::Gzip),
            (Some("x-gzip"), Coding::Gzip),
            (Some("deflate"), Coding::Deflate),
            (Some("br"), Coding::Other),
            (Some("gzip, gzip"), Coding::Other),
        ] {
            assert_eq!(Coding::of(field), coding, "{field:?}");
        }
    }

    #[test]
    fn every_coding_is_inflated_up_to_its_bound() {
        let text = vec![b'x'; 1000];
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&text).expect("memory");
        let mut framed = ZlibEncoder::new(Vec::new(), Compression::default());
        framed.write_all(&text).expect("memory");
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(&text).expect("memory");
        let (framed, bare) = (framed.finish().expect("memory"), bare.finish().expect("memory"));
        assert!(is_zlib(&framed) && !is_zlib(&bare) && !is_zlib(&[0x78]));
        for (coding, bytes) in [
            (Coding::Plain, &text),
            (Coding::Gzip, &gzip.finish().expect("memory")),
            (Coding::Deflate, &framed),
            (Coding::Deflate, &bare),
        ] {
            assert_eq!(coding.inflate(bytes, 1000).expect("a text"), text, "{coding:?}");
            assert!(
                matches!(coding.inflate(bytes, 999), Err(InflateError::TooLarge)),
                "{coding:?}"
            );
            let cut = coding.inflate(&bytes[..bytes.len() - 5], 1000);
            assert!(
                coding == Coding::Plain || matches!(cut, Err(InflateError::Broken(_))),
                "{coding:?}"
            );
        }
        assert!(matches!(Coding::Other.inflate(b"x", 9), Err(InflateError::Unknown)));
    }
}
