//! Which fields, headers and query values a line shows.

use std::collections::BTreeMap;

/// What is done with a field, a header or the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is written.
    #[default]
    Keep,
    /// It is not.
    Drop,
    /// `REDACTED` stands in its place.
    Redact,
}

/// `accessLog.fields`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldOptions {
    /// `defaultMode`. Default: keep.
    pub default_mode: Mode,
    /// `names`: by field of [`FIELD_NAMES`], without regard to case; others are ignored, as in Traefik.
    pub names: BTreeMap<String, Mode>,
    /// `headers.defaultMode`. Default: drop.
    pub headers_default: Mode,
    /// `headers.names`: by header, without regard to case.
    pub headers: BTreeMap<String, Mode>,
    /// `queryParameters.defaultMode`. Default: redact, which keeps the names and replaces the values (Traefik: keep).
    pub query: Mode,
}

impl Default for FieldOptions {
    fn default() -> Self {
        Self {
            default_mode: Mode::Keep,
            names: BTreeMap::new(),
            headers_default: Mode::Drop,
            headers: BTreeMap::new(),
            query: Mode::Redact,
        }
    }
}

macro_rules! fields {
    ($($name:ident = $text:literal,)*) => {
        /// A field of a line, in the order of the output.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field {
            $($name,)*
        }

        /// The names that `accessLog.fields.names` may use.
        pub const FIELD_NAMES: &[&str] = &[$($text,)*];

        /// The names as keys of a JSON object, each after a comma.
        const JSON_KEYS: &[&str] = &[$(concat!(",\"", $text, "\":"),)*];
    };
}

fields! {
    ClientAddr = "ClientAddr",
    ClientHost = "ClientHost",
    ClientPort = "ClientPort",
    ClientUsername = "ClientUsername",
    DownstreamContentSize = "DownstreamContentSize",
    DownstreamStatus = "DownstreamStatus",
    Duration = "Duration",
    GzipRatio = "GzipRatio",
    OriginContentSize = "OriginContentSize",
    OriginDuration = "OriginDuration",
    OriginStatus = "OriginStatus",
    Overhead = "Overhead",
    RequestAddr = "RequestAddr",
    RequestContentSize = "RequestContentSize",
    RequestCount = "RequestCount",
    RequestHost = "RequestHost",
    RequestId = "RequestId",
    RequestMethod = "RequestMethod",
    RequestPath = "RequestPath",
    RequestPort = "RequestPort",
    RequestProtocol = "RequestProtocol",
    RequestScheme = "RequestScheme",
    RetryAttempts = "RetryAttempts",
    RouterName = "RouterName",
    ServiceAddr = "ServiceAddr",
    ServiceName = "ServiceName",
    ServiceUrl = "ServiceURL",
    StartLocal = "StartLocal",
    StartUtc = "StartUTC",
    TlsCipher = "TLSCipher",
    TlsClientSubject = "TLSClientSubject",
    TlsVersion = "TLSVersion",
    EntryPointName = "entryPointName",
}

impl Field {
    /// `,"Name":`
    pub(super) fn json_key(self) -> &'static [u8] {
        JSON_KEYS[self as usize].as_bytes()
    }
}

/// The options, ready to be asked for each field.
#[derive(Debug)]
pub(super) struct Fields {
    modes: Vec<Mode>,
    headers_default: Mode,
    /// By lower-case name; short, so a scan will do.
    headers: Vec<(String, Mode)>,
    pub(super) query: Mode,
}

impl Fields {
    pub(super) fn new(options: &FieldOptions) -> Self {
        let mode = |name: &&str| {
            let named = options.names.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            named.map_or(options.default_mode, |(_, mode)| *mode)
        };
        Self {
            modes: FIELD_NAMES.iter().map(mode).collect(),
            headers_default: options.headers_default,
            headers: options
                .headers
                .iter()
                .map(|(name, mode)| (name.to_ascii_lowercase(), *mode))
                .collect(),
            query: options.query,
        }
    }

    pub(super) fn mode(&self, field: Field) -> Mode {
        self.modes[field as usize]
    }

    /// The mode of a header, its name in lower case.
    pub(super) fn header(&self, name: &str) -> Mode {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map_or(self.headers_default, |(_, mode)| *mode)
    }

    /// Whether no header is ever written.
    pub(super) fn no_headers(&self) -> bool {
        self.headers_default == Mode::Drop && self.headers.iter().all(|(_, mode)| *mode == Mode::Drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_without_regard_to_case() {
        let options = FieldOptions {
            default_mode: Mode::Drop,
            names: BTreeMap::from([
                ("requestMETHOD".to_owned(), Mode::Keep),
                ("Nonsense".to_owned(), Mode::Keep),
            ]),
            headers: BTreeMap::from([("User-Agent".to_owned(), Mode::Redact)]),
            ..Default::default()
        };
        let fields = Fields::new(&options);
        assert_eq!(fields.mode(Field::RequestMethod), Mode::Keep);
        assert_eq!(fields.mode(Field::EntryPointName), Mode::Drop);
        assert_eq!(fields.header("user-agent"), Mode::Redact);
        assert_eq!(fields.header("cookie"), Mode::Drop);
        assert!(!fields.no_headers());
        assert!(Fields::new(&FieldOptions::default()).no_headers());
    }
}
