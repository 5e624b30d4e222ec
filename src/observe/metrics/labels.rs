//! Label values that come from fixed sets: whatever a client sends, the number of series stays bounded.

use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderName, Method};

/// The value of whatever is beyond a cap.
pub(super) const OTHER: &str = "other";

const METHODS: [&str; 11] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PRI",
    "EXTENSION_METHOD",
];

/// The `method` label: Traefik's fixed set, everything else is `EXTENSION_METHOD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodLabel(u8);

impl MethodLabel {
    /// What `method` is counted as.
    pub fn of(method: &Method) -> Self {
        let name = method.as_str();
        let index = METHODS
            .iter()
            .position(|known| *known == name)
            .unwrap_or(METHODS.len() - 1);
        Self(index as u8)
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        METHODS[usize::from(self.0)]
    }
}

/// The `protocol` label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolLabel {
    /// An ordinary request.
    #[default]
    Http,
    /// `Connection: Upgrade` with `Upgrade: websocket`.
    Websocket,
    /// `Accept: text/event-stream`.
    Sse,
    /// `Content-Type: application/grpc…`.
    Grpc,
    /// `Content-Type: application/grpc-web…`.
    GrpcWeb,
}

impl ProtocolLabel {
    const ALL: [Self; 5] = [Self::Http, Self::Websocket, Self::Sse, Self::Grpc, Self::GrpcWeb];

    /// What a request with these headers is counted as, in Traefik's order of tests.
    pub fn of(headers: &HeaderMap) -> Self {
        if has_item(headers, &CONNECTION, "upgrade") && has_item(headers, &UPGRADE, "websocket") {
            return Self::Websocket;
        }
        if has_item(headers, &ACCEPT, "text/event-stream") {
            return Self::Sse;
        }
        match headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) {
            Some(value) if value.starts_with(b"application/grpc-web") => Self::GrpcWeb,
            Some(value) if value.starts_with(b"application/grpc") => Self::Grpc,
            _ => Self::Http,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Websocket => "websocket",
            Self::Sse => "sse",
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
        }
    }
}

/// Whether a comma list has the item, without regard to case.
fn has_item(headers: &HeaderMap, name: &HeaderName, item: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(item)))
}

/// The labels of `*_requests_tls_total`: names from the TLS library's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsLabels {
    /// Traefik's name of the version: `1.2` or `1.3`.
    pub version: &'static str,
    /// Go's name of the cipher suite, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
}

/// Status code, method and protocol in one word. Ordered as the three are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u32);

impl Key {
    /// What is counted beyond a scope's cap of combinations: `other` in all three labels.
    pub(super) const OTHER: Self = Self(u32::MAX);

    /// A code outside 100..=599 is none: a server may send any three digits, labels must not grow with it.
    pub(super) fn new(code: u16, method: MethodLabel, protocol: ProtocolLabel) -> Self {
        Self(u32::from(fold_code(code)) << 16 | u32::from(method.0) << 8 | protocol as u32)
    }

    /// The value of `code`, written into `buffer`.
    pub(super) fn code(self, buffer: &mut itoa::Buffer) -> &str {
        if self == Self::OTHER {
            return OTHER;
        }
        buffer.format(self.0 >> 16)
    }

    /// The value of `method`.
    pub(super) fn method(self) -> &'static str {
        METHODS.get((self.0 >> 8 & 0xff) as usize).copied().unwrap_or(OTHER)
    }

    /// The value of `protocol`.
    pub(super) fn protocol(self) -> &'static str {
        let protocol = ProtocolLabel::ALL.get((self.0 & 0xff) as usize);
        protocol.map_or(OTHER, |protocol| protocol.as_str())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.code(&mut itoa::Buffer::new()),
            self.method(),
            self.protocol()
        )
    }
}

/// The code as it is counted: 0 stands for all that HTTP does not define.
pub(super) fn fold_code(code: u16) -> u16 {
    if (100..=599).contains(&code) { code } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn methods_fold() {
        assert_eq!(MethodLabel::of(&Method::PATCH).as_str(), "PATCH");
        for unknown in ["get", "PROPFIND", "GETX"] {
            assert_eq!(
                MethodLabel::of(&Method::from_bytes(unknown.as_bytes()).unwrap()).as_str(),
                "EXTENSION_METHOD"
            );
        }
    }

    #[test]
    fn protocols() {
        let of = |list: &[(&'static str, &'static str)]| ProtocolLabel::of(&headers(list)).as_str();
        assert_eq!(of(&[]), "http");
        assert_eq!(
            of(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]),
            "websocket"
        );
        assert_eq!(of(&[("upgrade", "websocket")]), "http");
        assert_eq!(of(&[("accept", "text/html, text/event-stream")]), "sse");
        assert_eq!(of(&[("content-type", "application/grpc+proto")]), "grpc");
        assert_eq!(of(&[("content-type", "application/grpc-web+proto")]), "grpc-web");
    }

    #[test]
    fn keys_keep_their_parts() {
        let key = |code| Key::new(code, MethodLabel::of(&Method::PUT), ProtocolLabel::GrpcWeb);
        assert_eq!(format!("{:?}", key(404)), "404 PUT grpc-web");
        for undefined in [0, 99, 600, 999, u16::MAX] {
            assert_eq!(format!("{:?}", key(undefined)), "0 PUT grpc-web");
        }
        assert_eq!(format!("{:?}", Key::OTHER), "other other other");
    }
}
