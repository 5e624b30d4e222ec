//! Fields that concern one connection only (RFC 9110, 7.6.1; reference, C3).

use ::http::{HeaderMap, HeaderName, HeaderValue, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that never travel beyond one hop.
const ALWAYS: [HeaderName; 9] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether a name, in lower case, is one of the fixed list.
pub(super) fn is_listed(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
    )
}

/// Those of `keep` that Connection names: they stay for the middlewares and go before a server sees the request
/// (`forwardedHeaders.connection`).
#[must_use]
pub fn kept(headers: &HeaderMap, keep: &[HeaderName]) -> Vec<HeaderName> {
    let named = |name: &&HeaderName| {
        headers
            .get_all(header::CONNECTION)
            .iter()
            .any(|v| has_token(v, name.as_str()))
    };
    keep.iter().filter(named).cloned().collect()
}

/// Takes the hop-by-hop fields out of a request that has some, except Connection-named ones in `keep`; gives the protocol of a real
/// upgrade. Runs before Gantry adds its own fields, so that a client cannot name those.
///
/// Trailer is kept: it travels with chunked requests, as at Traefik.
pub fn strip_request(headers: &mut HeaderMap, keep: &[HeaderName]) -> Option<HeaderValue> {
    let mut named = Vec::new();
    let mut upgrading = false;
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',') {
            let token = token.trim_ascii();
            upgrading |= token.eq_ignore_ascii_case(b"upgrade");
            if let Ok(name) = HeaderName::from_bytes(token) {
                named.push(name);
            }
        }
    }
    let upgrade = headers
        .get(header::UPGRADE)
        .filter(|_| upgrading)
        .filter(|p| is_protocol(p))
        .cloned();
    let trailers = headers.get_all(header::TE).iter().any(|v| has_token(v, "trailers"));
    for name in named {
        // Host is part of the request itself (RFC 9110, 7.2): whoever could name it away would choose another router.
        if name != header::UPGRADE && name != header::HOST && !is_forwarded(&name) && !keep.contains(&name) {
            headers.remove(name);
        }
    }
    for name in &ALWAYS {
        if *name != header::TRAILER {
            headers.remove(name);
        }
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

/// Takes the hop-by-hop fields out of an answer.
///
/// Trailer stays where trailers may follow, so where no Content-Length says where the body ends: hyper sends those
/// trailers on that it announces, and Go's proxy announces them anew too.
pub fn strip_response(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| is_listed(name.as_str().as_bytes())) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .collect();
    let trailers = !headers.contains_key(header::CONTENT_LENGTH);
    for name in named {
        headers.remove(name);
    }
    for name in &ALWAYS {
        if *name != header::TRAILER || !trailers {
            headers.remove(name);
        }
    }
}

/// The upgrade to HTTP/2 in clear text is never passed on: what follows it would be beyond Gantry's sight.
fn is_protocol(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    !bytes.is_empty() && !bytes.eq_ignore_ascii_case(b"h2c") && bytes.is_ascii()
}

/// Whether a comma list holds `token`, in any case.
pub(crate) fn has_token(value: &HeaderValue, token: &str) -> bool {
    value
        .to_str()
        .is_ok_and(|list| list.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
}

/// Fields that Gantry sets; Connection cannot take them away (reference, C3).
fn is_forwarded(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-") || name.as_str() == "x-real-ip"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::try_from(*name).expect("a name"),
                HeaderValue::try_from(*value).expect("a value"),
            );
        }
        headers
    }

    #[test]
    fn takes_out_what_is_listed_and_what_connection_names() {
        let mut headers = map(&[
            ("connection", "close, X-Hop, X-Keep"),
            ("x-hop", "1"),
            ("x-keep", "1"),
            ("keep-alive", "timeout=3"),
            ("te", "trailers, deflate"),
            ("proxy-authorization", "Basic x"),
            ("x-stay", "1"),
        ]);
        let keep = [HeaderName::from_static("x-keep"), HeaderName::from_static("x-stay")];
        assert_eq!(
            kept(&headers, &keep),
            ["x-keep"],
            "what Connection does not name is no field of this hop"
        );
        assert_eq!(strip_request(&mut headers, &keep), None);
        assert_eq!(headers, map(&[("x-keep", "1"), ("x-stay", "1"), ("te", "trailers")]));
    }

    #[test]
    fn connection_cannot_name_what_gantry_sets() {
        let mut headers = map(&[
            ("connection", "X-Forwarded-For, X-Real-Ip, Authorization"),
            ("authorization", "s"),
        ]);
        headers.insert("x-forwarded-for", HeaderValue::from_static("1.2.3.4"));
        strip_request(&mut headers, &[]);
        assert_eq!(headers, map(&[("x-forwarded-for", "1.2.3.4")]));
    }

    #[test]
    fn connection_cannot_name_the_host_away() {
        let mut headers = map(&[("connection", "Host, X-Hop"), ("host", "a.test"), ("x-hop", "1")]);
        strip_request(&mut headers, &[]);
        assert_eq!(headers, map(&[("host", "a.test")]));
    }

    #[test]
    fn answers_lose_what_concerned_the_server_only() {
        let mut headers = map(&[
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2"),
            ("proxy-authenticate", "Basic"),
            ("trailer", "X-T"),
            ("x-stay", "1"),
        ]);
        strip_response(&mut headers);
        assert_eq!(headers, map(&[("trailer", "X-T"), ("x-stay", "1")]));
        let mut headers = map(&[("trailer", "X-T"), ("content-length", "3")]);
        strip_response(&mut headers);
        assert_eq!(headers, map(&[("content-length", "3")]));
    }

    #[test]
    fn a_real_upgrade_is_told_and_h2c_is_not_one() {
        let upgrade = |fields: &[(&str, &str)]| strip_request(&mut map(fields), &[]);
        assert_eq!(
            upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).expect("one"),
            "websocket"
        );
        assert_eq!(upgrade(&[("upgrade", "websocket")]), None);
        assert_eq!(
            upgrade(&[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]),
            None
        );
    }
}
