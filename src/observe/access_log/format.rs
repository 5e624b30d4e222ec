//! The three formats of a line, written by hand.

use std::io::Write;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName};

use super::Format;
use super::entry::Entry;
use super::fields::{Field, Fields, Mode};
use crate::observe::clock::Clock;
use crate::observe::escape;

const REDACTED: &[u8] = b"REDACTED";

/// Appends the line of a request, with its line end.
pub(super) fn line(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    format: Format,
    fields: &Fields,
    entry: &Entry<'_>,
    count: u64,
) {
    match format {
        Format::Json => Json { out, fields }.line(clock, entry, count),
        Format::Common | Format::GenericClf => Clf { out, fields }.line(clock, format, entry, count),
    }
    out.push(b'\n');
}

/// Host and port of `host:port`; the port is `-` where there is none. An IPv6 address loses its brackets only where a
/// port follows, as in Go.
fn split_port(addr: &str) -> (&str, &str) {
    match addr.rsplit_once(':') {
        Some((host, port)) if host.starts_with('[') && host.ends_with(']') => (&host[1..host.len() - 1], port),
        Some((host, port)) if !host.contains(':') => (host, port),
        _ => (addr, "-"),
    }
}

/// Appends path and query, the query as `mode` says. A parameter without `=` is all value.
fn path(out: &mut Vec<u8>, path: &str, mode: Mode, escape: fn(&mut Vec<u8>, &[u8])) {
    let Some((bare, query)) = path.split_once('?').filter(|_| mode != Mode::Keep) else {
        return escape(out, path.as_bytes());
    };
    escape(out, bare.as_bytes());
    if mode == Mode::Drop {
        return;
    }
    for (index, parameter) in query.split('&').enumerate() {
        out.push(if index == 0 { b'?' } else { b'&' });
        if let Some((name, _)) = parameter.split_once('=') {
            escape(out, name.as_bytes());
            out.push(b'=');
        }
        if !parameter.is_empty() {
            out.extend_from_slice(REDACTED);
        }
    }
}

fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `{"ClientAddr":…}`, keys in alphabetical order.
struct Json<'a> {
    out: &'a mut Vec<u8>,
    fields: &'a Fields,
}

impl Json<'_> {
    fn line(mut self, clock: &mut Clock, entry: &Entry<'_>, count: u64) {
        let begin = self.out.len();
        self.client_and_sizes(entry);
        self.request(entry, count);
        self.service(entry);
        self.time(Field::StartLocal, clock, entry.start);
        self.time(Field::StartUtc, clock, entry.start);
        if let Some(tls) = entry.tls {
            self.text(Field::TlsCipher, tls.cipher);
            if let Some(subject) = tls.client_subject {
                self.text(Field::TlsClientSubject, subject);
            }
            self.text(Field::TlsVersion, tls.version);
        }
        let headers = !self.fields.no_headers();
        if headers {
            self.headers("downstream_", entry.response_headers);
        }
        self.text(Field::EntryPointName, entry.entry_point);
        self.out.extend_from_slice(br#","level":"info","msg":"""#);
        if headers {
            self.headers("origin_", entry.origin.and_then(|origin| origin.headers));
            self.headers("request_", entry.request_headers);
        }
        self.out.extend_from_slice(br#","time":""#);
        clock.rfc3339(self.out, entry.start + entry.duration);
        self.out.extend_from_slice(b"\"}");
        // Each field began with a comma.
        self.out[begin] = b'{';
    }

    fn client_and_sizes(&mut self, entry: &Entry<'_>) {
        let (client_host, client_port) = split_port(entry.client_addr);
        self.text(Field::ClientAddr, entry.client_addr);
        self.text(Field::ClientHost, entry.client_host.unwrap_or(client_host));
        self.text(Field::ClientPort, client_port);
        self.text(Field::ClientUsername, entry.user.unwrap_or("-"));
        self.integer(Field::DownstreamContentSize, entry.response_size);
        self.integer(Field::DownstreamStatus, entry.status.into());
        self.integer(Field::Duration, nanos(entry.duration));
        let mut overhead = entry.duration;
        if let Some(origin) = entry.origin {
            if origin.size != entry.response_size && entry.response_size > 0 && self.key(Field::GzipRatio) {
                // Writing to a vector cannot fail.
                let _ = write!(self.out, "{}", origin.size as f64 / entry.response_size as f64);
            }
            self.integer(Field::OriginContentSize, origin.size);
            self.integer(Field::OriginDuration, nanos(origin.duration));
            self.integer(Field::OriginStatus, origin.status.into());
            overhead = overhead.saturating_sub(origin.duration);
        } else {
            // As Traefik's lines say it where no server was called.
            let fields = [
                Field::GzipRatio,
                Field::OriginContentSize,
                Field::OriginDuration,
                Field::OriginStatus,
            ];
            fields.into_iter().for_each(|field| self.integer(field, 0));
        }
        self.integer(Field::Overhead, nanos(overhead));
    }

    fn request(&mut self, entry: &Entry<'_>, count: u64) {
        let (host, port) = split_port(entry.host);
        if !entry.host.is_empty() {
            self.text(Field::RequestAddr, entry.host);
        }
        self.integer(Field::RequestContentSize, entry.request_size);
        self.integer(Field::RequestCount, count);
        if !entry.host.is_empty() {
            self.text(Field::RequestHost, host);
        }
        if let Some(id) = entry.request_id {
            self.text(Field::RequestId, id);
        }
        self.text(Field::RequestMethod, entry.method);
        if self.key(Field::RequestPath) {
            self.out.push(b'"');
            path(self.out, entry.path, self.fields.query, escape::json);
            self.out.push(b'"');
        }
        if !entry.host.is_empty() {
            self.text(Field::RequestPort, port);
        }
        self.text(Field::RequestProtocol, entry.protocol);
        self.text(Field::RequestScheme, entry.scheme);
        self.integer(Field::RetryAttempts, entry.retry_attempts.into());
    }

    fn service(&mut self, entry: &Entry<'_>) {
        if let Some(router) = entry.router {
            self.text(Field::RouterName, router);
        }
        if let Some(service) = entry.service {
            self.text(Field::ServiceAddr, service.addr);
            self.text(Field::ServiceName, service.name);
            self.text(Field::ServiceUrl, service.url);
        }
    }

    /// Writes the key of a field whose value is to follow. A redacted field is written whole.
    fn key(&mut self, field: Field) -> bool {
        let mode = self.fields.mode(field);
        if mode == Mode::Drop {
            return false;
        }
        self.out.extend_from_slice(field.json_key());
        if mode == Mode::Redact {
            self.out.extend_from_slice(b"\"REDACTED\"");
        }
        mode == Mode::Keep
    }

    fn text(&mut self, field: Field, value: &str) {
        if self.key(field) {
            self.out.push(b'"');
            escape::json(self.out, value.as_bytes());
            self.out.push(b'"');
        }
    }

    fn integer(&mut self, field: Field, value: u64) {
        if self.key(field) {
            integer(self.out, value);
        }
    }

    fn time(&mut self, field: Field, clock: &mut Clock, time: SystemTime) {
        if self.key(field) {
            self.out.push(b'"');
            clock.rfc3339_nanos(self.out, time);
            self.out.push(b'"');
        }
    }

    fn headers(&mut self, prefix: &str, headers: Option<&HeaderMap>) {
        let Some(headers) = headers else { return };
        for name in headers.keys() {
            let mode = self.fields.header(name.as_str());
            if mode == Mode::Drop {
                continue;
            }
            self.out.extend_from_slice(b",\"");
            self.out.extend_from_slice(prefix.as_bytes());
            canonical(self.out, name);
            self.out.extend_from_slice(b"\":\"");
            if mode == Mode::Redact {
                self.out.extend_from_slice(REDACTED);
            } else {
                for (index, value) in headers.get_all(name).iter().enumerate() {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    escape::json(self.out, value.as_bytes());
                }
            }
            self.out.push(b'"');
        }
    }
}

/// Appends a header's name as Go writes it: `User-Agent`. A name's characters need no escapes.
fn canonical(out: &mut Vec<u8>, name: &HeaderName) {
    let mut first = true;
    for byte in name.as_str().bytes() {
        out.push(if first { byte.to_ascii_uppercase() } else { byte });
        first = byte == b'-';
    }
}

/// `host - user [time] "METHOD path PROTO" status size "referer" "agent" count "router" "url" Nms`
struct Clf<'a> {
    out: &'a mut Vec<u8>,
    fields: &'a Fields,
}

impl Clf<'_> {
    fn line(mut self, clock: &mut Clock, format: Format, entry: &Entry<'_>, count: u64) {
        let client_host = entry.client_host.unwrap_or_else(|| split_port(entry.client_addr).0);
        self.word(Field::ClientHost, Some(client_host));
        self.out.extend_from_slice(b" - ");
        self.word(Field::ClientUsername, entry.user);
        self.out.extend_from_slice(b" [");
        let time = [Field::StartUtc, Field::StartLocal].map(|field| self.fields.mode(field));
        if time.contains(&Mode::Keep) {
            clock.common(self.out, entry.start);
        } else {
            self.out.push(b'-');
        }
        self.out.extend_from_slice(b"] \"");
        self.word(Field::RequestMethod, Some(entry.method));
        self.out.push(b' ');
        if self.shown(Field::RequestPath) {
            path(self.out, entry.path, self.fields.query, escape::word);
        }
        self.out.push(b' ');
        self.word(Field::RequestProtocol, Some(entry.protocol));
        self.out.extend_from_slice(b"\" ");
        self.integer(Field::DownstreamStatus, entry.status.into());
        self.out.push(b' ');
        self.integer(Field::DownstreamContentSize, entry.response_size);
        self.out.push(b' ');
        self.header(entry, &http::header::REFERER);
        self.out.push(b' ');
        self.header(entry, &http::header::USER_AGENT);
        if format == Format::Common {
            self.out.push(b' ');
            self.integer(Field::RequestCount, count);
            self.out.push(b' ');
            self.quoted(Field::RouterName, entry.router);
            self.out.push(b' ');
            self.quoted(Field::ServiceUrl, entry.service.map(|service| service.url));
            self.out.push(b' ');
            let millis = if self.fields.mode(Field::Duration) == Mode::Keep {
                entry.duration.as_millis()
            } else {
                0
            };
            integer(self.out, u64::try_from(millis).unwrap_or(u64::MAX));
            self.out.extend_from_slice(b"ms");
        }
    }

    /// Whether a field's value is to be written; if not, writes what stands in its place.
    fn shown(&mut self, field: Field) -> bool {
        match self.fields.mode(field) {
            Mode::Keep => return true,
            Mode::Drop => self.out.push(b'-'),
            Mode::Redact => self.out.extend_from_slice(REDACTED),
        }
        false
    }

    fn word(&mut self, field: Field, value: Option<&str>) {
        if self.shown(field) {
            let value = value.filter(|value| !value.is_empty()).unwrap_or("-");
            escape::word(self.out, value.as_bytes());
        }
    }

    fn quoted(&mut self, field: Field, value: Option<&str>) {
        self.out.push(b'"');
        if self.shown(field) {
            let value = value.filter(|value| !value.is_empty()).unwrap_or("-");
            escape::quoted(self.out, value.as_bytes());
        }
        self.out.push(b'"');
    }

    fn integer(&mut self, field: Field, value: u64) {
        if self.shown(field) {
            integer(self.out, value);
        }
    }

    fn header(&mut self, entry: &Entry<'_>, name: &HeaderName) {
        self.out.push(b'"');
        let value = entry
            .request_headers
            .and_then(|headers| headers.get(name))
            .filter(|value| !value.is_empty());
        match (self.fields.header(name.as_str()), value) {
            (Mode::Keep, Some(value)) => escape::quoted(self.out, value.as_bytes()),
            (Mode::Redact, Some(_)) => self.out.extend_from_slice(REDACTED),
            _ => self.out.push(b'-'),
        }
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::entry::{Origin, Service, Tls, example};
    use super::super::fields::FieldOptions;
    use super::*;

    fn text(format: Format, options: &FieldOptions, entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        line(&mut out, &mut Clock::default(), format, &Fields::new(options), entry, 9);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        text.strip_suffix('\n').unwrap().to_owned()
    }

    fn json_of(options: &FieldOptions, entry: &Entry<'_>) -> Value {
        serde_json::from_str(&text(Format::Json, options, entry)).unwrap()
    }

    fn full(headers: &HeaderMap) -> Entry<'_> {
        Entry {
            user: Some("admin"),
            host: "mri.example.com:8000",
            path: "/segment?patient=Jane&x",
            router: Some("r@file"),
            service: Some(Service {
                name: "s@file",
                url: "http://10.0.0.7:8080",
                addr: "10.0.0.7:8080",
            }),
            origin: Some(Origin {
                status: 200,
                size: 14,
                duration: Duration::from_millis(40),
                headers: Some(headers),
            }),
            tls: Some(Tls {
                version: "1.3",
                cipher: "TLS_AES_128_GCM_SHA256",
                client_subject: None,
            }),
            request_headers: Some(headers),
            response_headers: Some(headers),
            ..example()
        }
    }

    #[test]
    fn json_has_traefiks_fields() {
        let headers = HeaderMap::from_iter([
            (http::header::USER_AGENT, HeaderValue::from_static("curl/8")),
            (http::header::COOKIE, HeaderValue::from_static("secret=1")),
        ]);
        assert_eq!(
            json_of(&FieldOptions::default(), &full(&headers)),
            json!({
                "ClientAddr": "192.0.2.7:40000", "ClientHost": "192.0.2.7", "ClientPort": "40000",
                "ClientUsername": "admin", "DownstreamContentSize": 7, "DownstreamStatus": 200,
                "Duration": 42_000_000, "GzipRatio": 2, "OriginContentSize": 14, "OriginDuration": 40_000_000,
                "OriginStatus": 200, "Overhead": 2_000_000, "RequestAddr": "mri.example.com:8000",
                "RequestContentSize": 5, "RequestCount": 9, "RequestHost": "mri.example.com",
                "RequestMethod": "POST", "RequestPath": "/segment?patient=REDACTED&REDACTED",
                "RequestPort": "8000", "RequestProtocol": "HTTP/1.1", "RequestScheme": "http", "RetryAttempts": 0,
                "RouterName": "r@file", "ServiceAddr": "10.0.0.7:8080", "ServiceName": "s@file",
                "ServiceURL": "http://10.0.0.7:8080", "StartLocal": "2006-01-02T15:04:05.000000005Z",
                "StartUTC": "2006-01-02T15:04:05.000000005Z", "TLSCipher": "TLS_AES_128_GCM_SHA256",
                "TLSVersion": "1.3", "entryPointName": "web", "level": "info", "msg": "",
                "time": "2006-01-02T15:04:05Z",
            })
        );
    }

    #[test]
    fn json_keys_are_in_order_and_absent_where_nothing_was_called() {
        let value = text(Format::Json, &FieldOptions::default(), &example());
        let object: Value = serde_json::from_str(&value).unwrap();
        let places: Vec<_> = object
            .as_object()
            .unwrap()
            .keys()
            .map(|key| value.find(&format!("\"{key}\":")))
            .collect();
        assert!(places.is_sorted(), "{value}");
        for absent in ["ServiceName", "RouterName", "TLSVersion"] {
            assert!(object.get(absent).is_none(), "{absent}");
        }
        assert_eq!(
            (&object["RequestPort"], &object["ClientUsername"]),
            (&json!("-"), &json!("-"))
        );
        for zero in ["GzipRatio", "OriginContentSize", "OriginDuration", "OriginStatus"] {
            assert_eq!(object[zero], 0, "{zero}");
        }
        assert_eq!(object["Overhead"], object["Duration"]);
    }

    #[test]
    fn fields_and_headers_by_mode() {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("agent"));
        headers.insert("authorization", HeaderValue::from_static("Basic abc"));
        headers.append("x-backend", HeaderValue::from_static("b1"));
        headers.append("x-backend", HeaderValue::from_bytes(b"b\xff\"2").unwrap());
        let modes = |list: &[(&str, Mode)]| list.iter().map(|(name, mode)| ((*name).to_owned(), *mode)).collect();
        let options = FieldOptions {
            default_mode: Mode::Drop,
            names: modes(&[("RequestMethod", Mode::Keep), ("RequestPath", Mode::Redact)]),
            headers: modes(&[
                ("User-Agent", Mode::Keep),
                ("Authorization", Mode::Redact),
                ("X-Backend", Mode::Keep),
            ]),
            ..Default::default()
        };
        let entry = Entry {
            request_headers: Some(&headers),
            response_headers: Some(&headers),
            ..example()
        };
        let both = "b1,b\u{fffd}\"2";
        assert_eq!(
            json_of(&options, &entry),
            json!({
                "RequestMethod": "POST", "RequestPath": "REDACTED", "level": "info", "msg": "",
                "time": "2006-01-02T15:04:05Z", "request_User-Agent": "agent", "request_Authorization": "REDACTED",
                "request_X-Backend": both, "downstream_User-Agent": "agent",
                "downstream_Authorization": "REDACTED", "downstream_X-Backend": both,
            })
        );
    }

    #[test]
    fn queries_by_mode() {
        let with = |mode, target: &str| {
            let mut out = Vec::new();
            path(&mut out, target, mode, escape::json);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(with(Mode::Keep, "/a?x=1&y"), "/a?x=1&y");
        assert_eq!(with(Mode::Drop, "/a?x=1&y"), "/a");
        assert_eq!(
            with(Mode::Redact, "/a?x=1=2&y&&z=?"),
            "/a?x=REDACTED&REDACTED&&z=REDACTED"
        );
        assert_eq!(with(Mode::Redact, "/a?"), "/a?");
        assert_eq!(with(Mode::Redact, "/a"), "/a");
    }

    #[test]
    fn common_and_generic() {
        let headers = HeaderMap::from_iter([
            (http::header::USER_AGENT, HeaderValue::from_static("a\"b")),
            (http::header::REFERER, HeaderValue::from_static("http://x")),
        ]);
        let options = FieldOptions {
            headers_default: Mode::Keep,
            query: Mode::Drop,
            ..Default::default()
        };
        let head = r#"192.0.2.7 - admin [02/Jan/2006:15:04:05 +0000] "POST /segment HTTP/1.1" 200 7"#;
        assert_eq!(
            text(Format::Common, &options, &full(&headers)),
            format!(r#"{head} "http://x" "a\"b" 9 "r@file" "http://10.0.0.7:8080" 42ms"#)
        );
        assert_eq!(
            text(
                Format::GenericClf,
                &FieldOptions {
                    query: Mode::Drop,
                    ..Default::default()
                },
                &full(&headers)
            ),
            format!(r#"{head} "-" "-""#)
        );
        let dropped = FieldOptions {
            default_mode: Mode::Drop,
            ..Default::default()
        };
        assert_eq!(
            text(Format::Common, &dropped, &example()),
            r#"- - - [-] "- - -" - - "-" "-" - "-" "-" 0ms"#
        );
    }

    #[test]
    fn a_user_name_forges_no_line() {
        let entry = Entry {
            user: Some("x [01/Jan/2000:00:00:00 +0000] \"GET / HTTP/1.1\" 200\n"),
            ..example()
        };
        let line = text(Format::Common, &FieldOptions::default(), &entry);
        assert!(
            line.starts_with(r"192.0.2.7 - x\x20[01/Jan/2000:00:00:00\x20+0000]\x20\x22GET"),
            "{line}"
        );
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(split_port("a:1"), ("a", "1"));
        assert_eq!(split_port("a"), ("a", "-"));
        assert_eq!(split_port("[::1]:80"), ("::1", "80"));
        assert_eq!(split_port("::1"), ("::1", "-"));
        assert_eq!(split_port("[::1]"), ("[::1]", "-"));
    }

    proptest! {
        #[test]
        fn any_bytes_make_one_json_object(
            user in ".*", target in ".*", value in proptest::collection::vec(any::<u8>(), 0..32),
        ) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert("x-any", value);
            }
            let options = FieldOptions { headers_default: Mode::Keep, names: BTreeMap::new(), ..Default::default() };
            let entry = Entry { user: Some(&user), path: &target, request_headers: Some(&headers), ..example() };
            prop_assert!(json_of(&options, &entry).is_object());
            text(Format::Common, &options, &entry);
        }
    }
}
