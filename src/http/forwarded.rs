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

    fn connection() -> ConnectionInfo {
        use crate::config::static_config::EntryPoint as Settings;
        use crate::listen::entry_point::EntryPoint;
        use crate::observe::metrics::{Metrics, MetricsOptions};

        let series = Metrics::new(MetricsOptions::default()).entry_point("web");
        let entry_point = EntryPoint::new(0, "web", &Settings::default(), HeaderValue::from_static("here"), series);
        ConnectionInfo {
            peer: "192.0.2.1:5".parse().expect("an address"),
            peer_address: "192.0.2.1:5".into(),
            peer_text: HeaderValue::from_static("192.0.2.1"),
            entry_point: std::sync::Arc::new(entry_point.expect("an entry point")),
            tls: None,
            since: std::time::Instant::now(),
            requests: std::cell::Cell::new(0),
        }
    }

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::try_from(*value).expect("a value"),
            )
        };
        let mut headers = HeaderMap::new();
        fields.iter().map(field).for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn what_is_missing_is_filled_in_and_what_a_trusted_proxy_said_stays() {
        let filled = |fields: &[(&str, &str)], upgrade: Option<&'static str>| {
            let mut headers = map(fields);
            fill_in(
                &mut headers,
                &connection(),
                upgrade.map(HeaderValue::from_static).as_ref(),
                false,
            );
            headers
        };
        let own = [("x-real-ip", "192.0.2.1"), ("x-forwarded-server", "here")];
        for (fields, upgrade, more) in [
            (
                &[("host", "a.test:81")][..],
                None,
                &[
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-port", "81"),
                    ("x-forwarded-host", "a.test:81"),
                ][..],
            ),
            (
                &[("host", "[::1]")],
                None,
                &[
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-port", "80"),
                    ("x-forwarded-host", "[::1]"),
                ],
            ),
            (
                &[("host", "a")],
                Some("WebSocket"),
                &[
                    ("x-forwarded-proto", "ws"),
                    ("x-forwarded-port", "80"),
                    ("x-forwarded-host", "a"),
                ],
            ),
            (&[], None, &[("x-forwarded-proto", "http"), ("x-forwarded-port", "80")]),
            (
                &[("x-forwarded-proto", "https"), ("host", "a")],
                None,
                &[("x-forwarded-port", "443"), ("x-forwarded-host", "a")],
            ),
        ] {
            assert_eq!(
                filled(fields, upgrade),
                map(&[fields, &own, more].concat()),
                "{fields:?}"
            );
        }
        let said = [
            ("x-real-ip", "10.9.9.9"),
            ("x-forwarded-host", "b"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-proto", "wss"),
        ];
        let kept = filled(&[&said[..], &[("x-forwarded-server", "them")]].concat(), None);
        assert_eq!(kept, map(&[&said[..], &[("x-forwarded-server", "here")]].concat()));
    }

    #[test]
    fn the_peer_is_appended_and_lines_are_joined() {
        for (fields, expected) in [
            (&[][..], "192.0.2.1"),
            (&[("x-forwarded-for", "1.1.1.1")], "1.1.1.1, 192.0.2.1"),
            (
                &[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "3.3.3.3")],
                "1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.1",
            ),
        ] {
            let mut headers = map(fields);
            append_peer(&mut headers, &connection());
            assert_eq!(headers, map(&[("x-forwarded-for", expected)]));
        }
    }

    #[test]
    fn an_untrusted_client_says_nothing_about_itself() {
        let mut headers = map(&[
            ("x-forwarded-for", "1"),
            ("x_forwarded_prefix", "/x"),
            ("x-real-ip", "2"),
            ("forwarded", "for=3"),
        ]);
        drop_untrusted(&mut headers);
        assert_eq!(headers, map(&[("forwarded", "for=3")]));
    }
}
