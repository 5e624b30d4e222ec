//! X-Forwarded-* and X-Real-Ip (reference, C2): dropped unless the peer is trusted, then filled in.

use ::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::listen::connection::ConnectionInfo;

/// `X-Forwarded-For`
pub const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Port`
pub const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// `X-Forwarded-Host`
pub const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Server`
pub const SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
/// `X-Real-Ip`
pub const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What only Gantry, or a proxy that it trusts, may say.
const IDENTITY: [&str; 11] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-forwarded-prefix",
    "x-forwarded-tls-client-cert",
    "x-forwarded-tls-client-cert-info",
    "x-real-ip",
];

/// Whether `name`, with `_` read as `-`, is one of the fields that tell a backend who the client is.
pub(super) fn is_identity(bytes: &[u8]) -> bool {
    if bytes.len() < 9 || bytes[0] != b'x' || !matches!(bytes[1], b'-' | b'_') {
        return false;
    }
    IDENTITY.iter().any(|known| {
        known.len() == bytes.len()
            && known
                .bytes()
                .zip(bytes)
                .all(|(k, &b)| k == if b == b'_' { b'-' } else { b })
    })
}

/// Drops what an untrusted client says about itself, in both spellings. Worth the call only where there is some.
pub fn drop_untrusted(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_identity(name.as_str().as_bytes()))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Fills in what is missing. `upgrade` is the protocol that the client asks to switch to; `blank` says that the request
/// has none of these fields.
pub fn fill_in(headers: &mut HeaderMap, connection: &ConnectionInfo, upgrade: Option<&HeaderValue>, blank: bool) {
    let missing = |headers: &HeaderMap, name: &HeaderName| blank || headers.get(name).is_none_or(HeaderValue::is_empty);
    // Six fields, X-Forwarded-For among them: the map grows once.
    headers.reserve(6);
    if missing(headers, &REAL_IP) {
        headers.insert(REAL_IP, connection.peer_text.clone());
    }
    if missing(headers, &PROTO) {
        let websocket = upgrade.is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"));
        headers.insert(
            PROTO,
            HeaderValue::from_static(match (connection.tls.is_some(), websocket) {
                (false, false) => "http",
                (true, false) => "https",
                (false, true) => "ws",
                (true, true) => "wss",
            }),
        );
    }
    let host = headers.get(header::HOST).cloned();
    if missing(headers, &PORT) {
        let port = host.as_ref().and_then(port_of).unwrap_or_else(|| {
            let proto = if blank {
                None
            } else {
                headers.get(PROTO).map(HeaderValue::as_bytes)
            };
            let secure = connection.tls.is_some() || matches!(proto, Some(b"https" | b"wss"));
            HeaderValue::from_static(if secure { "443" } else { "80" })
        });
        headers.insert(PORT, port);
    }
    if missing(headers, &HOST)
        && let Some(host) = host.filter(|h| !h.is_empty())
    {
        headers.insert(HOST, host);
    }
    headers.insert(SERVER, connection.entry_point.host_name.clone());
}

/// Appends the peer to X-Forwarded-For; several lines become one.
pub fn append_peer(headers: &mut HeaderMap, connection: &ConnectionInfo) {
    let mut lines = headers.get_all(FOR).iter();
    let Some(first) = lines.next() else {
        headers.insert(FOR, connection.peer_text.clone());
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in lines
        .map(HeaderValue::as_bytes)
        .chain([connection.peer_text.as_bytes()])
    {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line);
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(FOR, value);
    }
}

fn port_of(host: &HeaderValue) -> Option<HeaderValue> {
    let bytes = host.as_bytes();
    let colon = bytes.iter().rposition(|b| *b == b':')?;
    let port = &bytes[colon + 1..];
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    is_port.then(|| HeaderValue::from_bytes(port).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_known_in_both_spellings() {
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_real_ip",
            "x-real-ip",
        ] {
            assert!(is_identity(name.as_bytes()), "{name}");
        }
        for name in [
            "x-forwarded-other",
            "forwarded",
            "x-real",
            "y-forwarded-for",
            "x_auth_user",
        ] {
            assert!(!is_identity(name.as_bytes()), "{name}");
        }
    }
}
