//! Which fields of interest a request has, found in one pass over its head.
//!
//! Most requests have none of the fields that need work. One look at lengths and first letters is cheaper than a hashed
//! look-up for each of them.

use ::http::HeaderMap;

/// A set of fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Present(u16);

impl Present {
    /// `Transfer-Encoding`
    pub const TRANSFER_ENCODING: Self = Self(1);
    /// `Expect`
    pub const EXPECT: Self = Self(1 << 1);
    /// A field of one hop only, `Connection` among them.
    pub const HOP_BY_HOP: Self = Self(1 << 2);
    /// A field that tells who the client is: `X-Forwarded-*`, `X-Real-Ip`, in either spelling.
    pub const IDENTITY: Self = Self(1 << 3);
    /// A name with an underscore.
    pub const UNDERSCORE: Self = Self(1 << 4);
    /// An empty `User-Agent`.
    pub const EMPTY_USER_AGENT: Self = Self(1 << 5);
    /// `Cookie`
    pub const COOKIE: Self = Self(1 << 6);
    /// `Host`
    pub const HOST: Self = Self(1 << 7);
    /// A second `Host`.
    pub const SECOND_HOST: Self = Self(1 << 8);
    /// `Accept` or `Content-Type` speak of event streams or gRPC.
    pub const STREAMING: Self = Self(1 << 9);

    /// Looks through a head.
    #[must_use]
    pub fn scan(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            found.0 |= match (name[0], name.len()) {
                (b'h', 4) if name == b"host" => {
                    if found.has(Self::HOST) {
                        Self::SECOND_HOST.0
                    } else {
                        Self::HOST.0
                    }
                }
                (b't', 17) if name == b"transfer-encoding" => Self::TRANSFER_ENCODING.0 | Self::HOP_BY_HOP.0,
                (b'c' | b'k' | b't' | b'u' | b'p', _) if super::hop_by_hop::is_listed(name) => Self::HOP_BY_HOP.0,
                (b'e', 6) if name == b"expect" => Self::EXPECT.0,
                (b'c', 6) if name == b"cookie" => Self::COOKIE.0,
                (b'u', 10) if value.is_empty() && name == b"user-agent" => Self::EMPTY_USER_AGENT.0,
                (b'a', 6) if name == b"accept" && streams(value.as_bytes()) => Self::STREAMING.0,
                (b'c', 12) if name == b"content-type" && streams(value.as_bytes()) => Self::STREAMING.0,
                (b'x', _) if super::forwarded::is_identity(name) => Self::IDENTITY.0,
                _ => 0,
            };
            if name.contains(&b'_') {
                found.0 |= Self::UNDERSCORE.0;
            }
        }
        found
    }

    /// Whether any of `fields` is there.
    #[must_use]
    pub fn has(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }
}

/// Whether a media type may be one of those that metrics tell apart.
fn streams(value: &[u8]) -> bool {
    memchr::memmem::find(value, b"event-stream").is_some() || memchr::memmem::find(value, b"grpc").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::{HeaderName, HeaderValue};

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let scan = |fields: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let name = HeaderName::try_from(*name).expect("a name");
                headers.append(name, HeaderValue::try_from(*value).expect("a value"));
            }
            Present::scan(&headers)
        };
        let plain = scan(&[
            ("host", "a"),
            ("user-agent", "x"),
            ("accept", "*/*"),
            ("content-type", "text/plain"),
        ]);
        assert_eq!(plain, Present::HOST);
        assert!(scan(&[("host", "a"), ("host", "b")]).has(Present::SECOND_HOST));
        assert!(scan(&[("transfer-encoding", "chunked")]).has(Present::TRANSFER_ENCODING));
        for hop in [
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "proxy-authorization",
            "proxy-connection",
        ] {
            assert_eq!(scan(&[(hop, "x")]), Present::HOP_BY_HOP, "{hop}");
        }
        assert_eq!(scan(&[("x-real-ip", "x")]), Present::IDENTITY);
        assert!(scan(&[("x_forwarded_for", "x")]).has(Present::IDENTITY));
        assert_eq!(scan(&[("x_y", "x")]), Present::UNDERSCORE);
        assert_eq!(scan(&[("user-agent", "")]), Present::EMPTY_USER_AGENT);
        assert_eq!(scan(&[("accept", "text/event-stream")]), Present::STREAMING);
        assert_eq!(scan(&[("content-type", "application/grpc+proto")]), Present::STREAMING);
        assert_eq!(
            scan(&[("cookie", "a"), ("expect", "x")]),
            Present(Present::COOKIE.0 | Present::EXPECT.0)
        );
    }
}
