//! Heads of HTTP/1.1 messages towards servers: a request's is written from the `HeaderMap`, an answer's is parsed into
//! slices of the one buffer that was read.

use std::mem::MaybeUninit;

use ::http::response::Parts;
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use bytes::{Bytes, BytesMut};

use super::pump::Framing;
use crate::http::hop_by_hop;

/// Longest head of an answer.
pub const MAX_HEAD: usize = 256 * 1024;
/// Most fields in the head of an answer.
const MAX_FIELDS: usize = 256;
/// Fields that the stack-allocated first try holds; answers rarely have more.
const USUAL_FIELDS: usize = 48;

/// Writes a request's head.
///
/// `Host`, the target, the framing and the upgrade are given; of `headers` everything else is written but the fields that
/// only those may speak of.
pub fn write_request(
    out: &mut Vec<u8>,
    method: &Method,
    target: (&str, Option<&PathAndQuery>),
    host: &[u8],
    headers: &HeaderMap,
    framing: Framing,
    upgrade: Option<&HeaderValue>,
) {
    out.reserve(512);
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.0.as_bytes());
    match target.1 {
        Some(target) => out.extend_from_slice(target.as_str().as_bytes()),
        None if target.0.is_empty() => out.push(b'/'),
        None => {}
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        // Connection is this hop's: a middleware that sets it must not make it speak of the framing.
        let ours = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ];
        if ours.contains(name) {
            continue;
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if let Some(protocol) = upgrade {
        out.extend_from_slice(b"connection: Upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match framing {
        Framing::None => {}
        Framing::Length(n) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// An interim answer (1xx) as its client gets it.
#[must_use]
pub fn interim(mut parts: Parts) -> Vec<u8> {
    hop_by_hop::strip_response(&mut parts.headers);
    let reason = parts.status.canonical_reason().unwrap_or("Informational");
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
    for (name, value) in &parts.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// How the end of an answer's body is found (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// Content-Length, or nothing at all.
    Known(u64),
    /// Chunked.
    Chunked,
    /// The end of the connection.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Status and fields. The version is always HTTP/1.1: it was the server's with Gantry, not Gantry's with the client.
    pub parts: Parts,
    /// The framing of what follows.
    pub length: BodyLength,
    /// The connection may serve another request.
    pub keep_alive: bool,
}

/// Why a head is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is no HTTP/1.1 at all.
    #[error("{0}")]
    Garbage(String),
    /// Where its body ends cannot be told for sure.
    #[error("{0}")]
    Framing(String),
}

/// Parses an answer's head from the front of `buf`, which is cut off; `None` when more bytes are needed.
///
/// # Errors
/// When it is none, or its framing is ambiguous.
pub fn parse_response(buf: &mut BytesMut, method: &Method) -> Result<Option<Head>, HeadError> {
    let mut fields = [[0; 4]; USUAL_FIELDS];
    match parse_into(buf, &mut [const { MaybeUninit::uninit() }; USUAL_FIELDS], &mut fields) {
        Err(httparse::Error::TooManyHeaders) => {
            let mut fields = vec![[0; 4]; MAX_FIELDS];
            let parsed = parse_into(buf, &mut [const { MaybeUninit::uninit() }; MAX_FIELDS], &mut fields);
            finish(parsed, &fields, buf, method)
        }
        parsed => finish(parsed, &fields, buf, method),
    }
}

/// A field: where its name and its value begin and end in the buffer, which can be frozen only after it was parsed.
type Field = [u32; 4];

/// A parsed head but for its fields.
struct Layout {
    len: usize,
    status: u16,
    version: u8,
    count: usize,
}

fn parse_into<'b>(
    buf: &'b [u8],
    room: &mut [MaybeUninit<httparse::Header<'b>>],
    fields: &mut [Field],
) -> Result<Option<Layout>, httparse::Error> {
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut response, buf, room)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let offset = |part: &[u8]| (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
    // Heads are far smaller than 4 GiB: see MAX_HEAD.
    let range = |part: &[u8]| [offset(part) as u32, (offset(part) + part.len()) as u32];
    for (field, place) in response.headers.iter().zip(fields) {
        let (name, value) = (range(field.name.as_bytes()), range(field.value));
        *place = [name[0], name[1], value[0], value[1]];
    }
    Ok(Some(Layout {
        len,
        status: response.code.unwrap_or_default(),
        version: response.version.unwrap_or_default(),
        count: response.headers.len(),
    }))
}

fn finish(
    parsed: Result<Option<Layout>, httparse::Error>,
    fields: &[Field],
    buf: &mut BytesMut,
    method: &Method,
) -> Result<Option<Head>, HeadError> {
    let layout = match parsed {
        Ok(Some(layout)) if layout.len <= MAX_HEAD => layout,
        Ok(None) if buf.len() <= MAX_HEAD => return Ok(None),
        Ok(_) => {
            return Err(HeadError::Garbage(format!(
                "the answer's head is longer than {MAX_HEAD} bytes"
            )));
        }
        Err(e) => return Err(HeadError::Garbage(format!("the answer is not HTTP/1.1: {e}"))),
    };
    let head: Bytes = buf.split_to(layout.len).freeze();
    let garbage = |what: &str| HeadError::Garbage(format!("the answer is not HTTP/1.1: a bad {what}"));
    let mut response = ::http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(layout.status).map_err(|_| garbage("status"))?;
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    headers.reserve(layout.count);
    for field in &fields[..layout.count.min(fields.len())] {
        let [name, name_end, value, value_end] = field.map(|at| at as usize);
        let name = HeaderName::from_bytes(&head[name..name_end]).map_err(|_| garbage("field name"))?;
        let value = HeaderValue::from_maybe_shared(head.slice(value..value_end)).map_err(|_| garbage("field value"))?;
        headers.append(name, value);
    }
    let old = layout.version == 0;
    let (mut parts, ()) = response.into_parts();
    let (length, clean) = body_length(&mut parts, method, old).map_err(HeadError::Framing)?;
    let keep_alive = clean && length != BodyLength::UntilClose && wants_keep_alive(&parts.headers, old);
    Ok(Some(Head {
        parts,
        length,
        keep_alive,
    }))
}

/// The body's framing, and whether the connection may go on after it.
fn body_length(parts: &mut Parts, method: &Method, old: bool) -> Result<(BodyLength, bool), String> {
    let bodyless = *method == Method::HEAD
        || parts.status.is_informational()
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let declared = declared_length(&parts.headers)?;
    let coding = parts.headers.get_all(header::TRANSFER_ENCODING);
    let mut codings = coding.iter();
    let chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(value), None) if value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => true,
        _ => return Err("a Transfer-Encoding that is not chunked".into()),
    };
    if chunked && old {
        return Err("chunks from an HTTP/1.0 server".into());
    }
    if chunked && declared.is_some() {
        // RFC 9112, 6.3: the coding wins; what follows on such a connection is not to be trusted.
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    let clean = !(chunked && declared.is_some());
    let length = match (bodyless, chunked, declared) {
        (true, _, _) => BodyLength::Known(0),
        (_, true, _) => BodyLength::Chunked,
        (_, _, Some(n)) => BodyLength::Known(n),
        (_, _, None) => BodyLength::UntilClose,
    };
    Ok((length, clean))
}

/// Content-Length; equal repetitions count once (RFC 9112, 6.3), everything else is an error.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let bytes = value.as_bytes();
        let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
        let n = value
            .to_str()
            .ok()
            .filter(|_| digits)
            .and_then(|s| s.parse::<u64>().ok());
        let Some(n) = n else {
            return Err(format!("a bad Content-Length {value:?}"));
        };
        if length.is_some_and(|m| m != n) {
            return Err("two different Content-Lengths".into());
        }
        length = Some(n);
    }
    Ok(length)
}

/// HTTP/1.1 stays open unless Connection says `close`, HTTP/1.0 closes unless it says `keep-alive` (RFC 9112, 9.3).
fn wants_keep_alive(headers: &HeaderMap, old: bool) -> bool {
    let token = if old { "keep-alive" } else { "close" };
    let mut connection = headers.get_all(header::CONNECTION).iter();
    connection.any(|value| hop_by_hop::has_token(value, token)) == old
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, method: Method) -> Result<Option<Head>, HeadError> {
        parse_response(&mut BytesMut::from(text), &method)
    }

    #[test]
    fn finds_the_framing() {
        let cases = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
                Method::GET,
                BodyLength::Known(3),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
                Method::GET,
                BodyLength::Known(3),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
                Method::HEAD,
                BodyLength::Known(0),
                true,
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
                Method::GET,
                BodyLength::Known(0),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
                Method::GET,
                BodyLength::Chunked,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n",
                Method::GET,
                BodyLength::Chunked,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
                Method::GET,
                BodyLength::Known(0),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
                Method::GET,
                BodyLength::Known(1),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n",
                Method::GET,
                BodyLength::Known(1),
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, BodyLength::UntilClose, false),
        ];
        for (text, method, length, keep_alive) in cases {
            let head = parse(text, method).expect(text).expect(text);
            assert_eq!((head.length, head.keep_alive), (length, keep_alive), "{text}");
        }
    }

    #[test]
    fn refuses_ambiguity() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "<html>\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
        ] {
            assert!(parse(bad, Method::GET).is_err(), "{bad}");
        }
        assert!(
            parse("HTTP/1.1 200 OK\r\nA: b\r\n", Method::GET)
                .expect("partial")
                .is_none()
        );
    }

    #[test]
    fn writes_a_head_with_its_own_framing() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static("99"));
        headers.insert("transfer-encoding", HeaderValue::from_static("gzip"));
        headers.insert("host", HeaderValue::from_static("other"));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let target = PathAndQuery::from_static("/p?q");
        let mut out = Vec::new();
        write_request(
            &mut out,
            &Method::PUT,
            ("/base", Some(&target)),
            b"h:1",
            &headers,
            Framing::Length(5),
            None,
        );
        let text = String::from_utf8(out).expect("ascii");
        assert_eq!(
            text,
            "PUT /base/p?q HTTP/1.1\r\nhost: h:1\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 5\r\n\r\n"
        );
    }
}
