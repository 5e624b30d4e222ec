//! The security part of `headers`: allowed hosts, Strict-Transport-Security (RFC 6797) and its like.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::value;
use crate::config::middleware::Headers as Config;
use crate::http::{Response, error};
use crate::middleware::BuildError;

/// The settings, checked.
#[derive(Debug)]
pub struct Security {
    /// Lower-case; empty: all.
    allowed_hosts: Vec<Vec<u8>>,
    hosts_proxy_headers: Vec<HeaderName>,
    ssl_proxy_headers: Vec<(HeaderName, String)>,
    strict_transport: Option<HeaderValue>,
    force_strict_transport: bool,
    /// Sent on all answers.
    always: Vec<(HeaderName, HeaderValue)>,
    /// Sent on answers to requests that came over TLS.
    on_tls: Vec<(HeaderName, HeaderValue)>,
    development: bool,
}

impl Security {
    /// `None` when no key of this part is set.
    ///
    /// # Errors
    /// A name or value that no header can carry.
    pub fn new(config: &Config) -> Result<Option<Self>, BuildError> {
        let development = config.is_development;
        let name = |text: &str, key: &str| {
            HeaderName::from_bytes(text.as_bytes())
                .map_err(|_| BuildError::new(format!("headers.{key}"), format!("`{text}` is no name of a header")))
        };
        let hosts_proxy_headers = config
            .hosts_proxy_headers
            .iter()
            .map(|text| name(text, "hostsProxyHeaders"))
            .collect::<Result<_, _>>()?;
        let ssl_proxy_headers = config
            .ssl_proxy_headers
            .iter()
            .map(|(text, value)| Ok((name(text, "sslProxyHeaders")?, value.clone())))
            .collect::<Result<_, BuildError>>()?;
        let mut on_tls = Vec::new();
        if !config.public_key.is_empty() && !development {
            let pins = value(&config.public_key, || "headers.publicKey".to_owned())?;
            on_tls.push((HeaderName::from_static("public-key-pins"), pins));
        }
        let security = Self {
            allowed_hosts: config
                .allowed_hosts
                .iter()
                .map(|host| host.to_ascii_lowercase().into_bytes())
                .collect(),
            hosts_proxy_headers,
            ssl_proxy_headers,
            strict_transport: strict_transport(config).filter(|_| !development),
            force_strict_transport: config.force_sts_header,
            always: always(config)?,
            on_tls,
            development,
        };
        Ok(is_set(config).then_some(security))
    }

    /// Whether the request counts as one over TLS: it came so, or one of `sslProxyHeaders` says so.
    #[must_use]
    pub fn is_tls(&self, request: &HeaderMap, tls: bool) -> bool {
        let says_so =
            |(name, value): &(HeaderName, String)| request.get(name).is_some_and(|seen| seen == value.as_str());
        tls || self.ssl_proxy_headers.iter().any(says_so)
    }

    /// Whether the request's host is one of the allowed ones: compared with its port, without regard to case.
    #[must_use]
    pub fn allows_host(&self, request: &HeaderMap) -> bool {
        if self.allowed_hosts.is_empty() || self.development {
            return true;
        }
        let proxied = self.hosts_proxy_headers.iter().filter_map(|name| request.get(name));
        let host = proxied.chain(request.get(header::HOST)).find(|value| !value.is_empty());
        let host = host
            .map(|value| value.as_bytes().to_ascii_lowercase())
            .unwrap_or_default();
        self.allowed_hosts.contains(&host)
    }

    /// Puts the headers on an answer.
    pub fn apply(&self, headers: &mut HeaderMap, tls: bool) {
        if let Some(strict) = self
            .strict_transport
            .as_ref()
            .filter(|_| tls || self.force_strict_transport)
        {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, strict.clone());
        }
        for (name, value) in self.always.iter().chain(self.on_tls.iter().filter(|_| tls)) {
            headers.insert(name, value.clone());
        }
    }
}

/// The answer to a host that is not allowed; the status is Traefik's.
#[must_use]
pub fn bad_host() -> Response {
    error::plain(StatusCode::INTERNAL_SERVER_ERROR, "Bad Host")
}

fn is_set(config: &Config) -> bool {
    let flags = [
        config.browser_xss_filter,
        config.content_type_nosniff,
        config.force_sts_header,
        config.frame_deny,
        config.is_development,
        config.sts_include_subdomains,
        config.sts_preload,
    ];
    let texts = [
        &config.content_security_policy,
        &config.content_security_policy_report_only,
        &config.custom_browser_xss_value,
        &config.custom_frame_options_value,
        &config.permissions_policy,
        &config.public_key,
        &config.referrer_policy,
    ];
    flags.contains(&true)
        || texts.iter().any(|text| !text.is_empty())
        || config.sts_seconds != 0
        || !config.allowed_hosts.is_empty()
        || !config.hosts_proxy_headers.is_empty()
        || !config.ssl_proxy_headers.is_empty()
}

fn strict_transport(config: &Config) -> Option<HeaderValue> {
    if config.sts_seconds == 0 {
        return None;
    }
    let mut text = format!("max-age={}", config.sts_seconds);
    if config.sts_include_subdomains {
        text.push_str("; includeSubDomains");
    }
    if config.sts_preload {
        text.push_str("; preload");
    }
    HeaderValue::from_str(&text).ok()
}

fn always(config: &Config) -> Result<Vec<(HeaderName, HeaderValue)>, BuildError> {
    let or = |custom: &str, flag: bool, fixed: &'static str| match custom {
        "" if flag => fixed.to_owned(),
        custom => custom.to_owned(),
    };
    let frame = or(&config.custom_frame_options_value, config.frame_deny, "DENY");
    let xss = or(
        &config.custom_browser_xss_value,
        config.browser_xss_filter,
        "1; mode=block",
    );
    let sniff = or("", config.content_type_nosniff, "nosniff");
    let texts = [
        (header::X_FRAME_OPTIONS, frame, "customFrameOptionsValue"),
        (header::X_CONTENT_TYPE_OPTIONS, sniff, "contentTypeNosniff"),
        (header::X_XSS_PROTECTION, xss, "customBrowserXSSValue"),
        (
            header::CONTENT_SECURITY_POLICY,
            config.content_security_policy.clone(),
            "contentSecurityPolicy",
        ),
        (
            header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
            config.content_security_policy_report_only.clone(),
            "contentSecurityPolicyReportOnly",
        ),
        (
            header::REFERRER_POLICY,
            config.referrer_policy.clone(),
            "referrerPolicy",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            config.permissions_policy.clone(),
            "permissionsPolicy",
        ),
    ];
    let set = texts.into_iter().filter(|(_, text, _)| !text.is_empty());
    set.map(|(name, text, key)| Ok((name, value(&text, || format!("headers.{key}"))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(config: &Config) -> Security {
        Security::new(config).unwrap().unwrap()
    }

    fn sent(config: &Config, tls: bool) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        security(config).apply(&mut headers, tls);
        let text = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().unwrap().to_owned());
        let mut sent: Vec<_> = headers.iter().map(text).collect();
        sent.sort();
        sent
    }

    fn request(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn all_headers() {
        let config = Config {
            frame_deny: true,
            custom_frame_options_value: "SAMEORIGIN".to_owned(),
            content_type_nosniff: true,
            browser_xss_filter: true,
            content_security_policy: "default-src\n  'self'\n".to_owned(),
            content_security_policy_report_only: "x".to_owned(),
            public_key: "pk".to_owned(),
            referrer_policy: "same-origin".to_owned(),
            permissions_policy: "a=()".to_owned(),
            ..Config::default()
        };
        let expected = [
            ("content-security-policy", "default-src   'self'"),
            ("content-security-policy-report-only", "x"),
            ("permissions-policy", "a=()"),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "SAMEORIGIN"),
            ("x-xss-protection", "1; mode=block"),
        ];
        assert_eq!(
            sent(&config, false),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(sent(&config, true).contains(&("public-key-pins".to_owned(), "pk".to_owned())));
    }

    #[test]
    fn strict_transport_security() {
        let config = Config {
            sts_seconds: 42,
            ..Config::default()
        };
        let header = |value: &str| vec![("strict-transport-security".to_owned(), value.to_owned())];
        assert_eq!(sent(&config, false), []);
        assert_eq!(sent(&config, true), header("max-age=42"));
        let config = Config {
            sts_include_subdomains: true,
            sts_preload: true,
            force_sts_header: true,
            ..config
        };
        assert_eq!(sent(&config, false), header("max-age=42; includeSubDomains; preload"));
        assert_eq!(
            sent(
                &Config {
                    is_development: true,
                    ..config
                },
                true
            ),
            []
        );
    }

    /// As Traefik does it (3.7.15, seen): one is enough.
    #[test]
    fn one_proxy_header_makes_a_request_tls() {
        let pairs = [("X-Forwarded-Proto", "https"), ("X-B", "b")];
        let ssl_proxy_headers = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let security = security(&Config {
            ssl_proxy_headers,
            ..Config::default()
        });
        assert!(security.is_tls(&request(&[("x-b", "b")]), false));
        assert!(security.is_tls(&request(&[]), true));
        assert!(!security.is_tls(&request(&[("x-forwarded-proto", "http")]), false));
    }

    #[test]
    fn hosts() {
        let config = Config {
            allowed_hosts: vec!["App.test".to_owned(), "other.test".to_owned()],
            hosts_proxy_headers: vec!["X-H".to_owned(), "X-H2".to_owned()],
            ..Config::default()
        };
        let allowed = security(&config);
        assert!(allowed.allows_host(&request(&[("host", "app.TEST")])));
        assert!(!allowed.allows_host(&request(&[("host", "app.test:80")])));
        assert!(!allowed.allows_host(&request(&[("host", "app.test"), ("x-h", "bad")])));
        assert!(allowed.allows_host(&request(&[("host", "bad"), ("x-h2", "other.test")])));
        assert!(!allowed.allows_host(&request(&[])));
        let config = Config {
            is_development: true,
            ..config
        };
        assert!(security(&config).allows_host(&request(&[("host", "bad")])));
    }

    #[test]
    fn nothing_set() {
        assert!(Security::new(&Config::default()).unwrap().is_none());
        let bad = Config {
            hosts_proxy_headers: vec!["a b".to_owned()],
            ..Config::default()
        };
        assert_eq!(Security::new(&bad).unwrap_err().path, "headers.hostsProxyHeaders");
    }
}
