//! The CORS part of `headers` (the Fetch standard, section 3.2).
//!
//! Invariant: an origin is named in an answer only when the configuration allows it; with credentials, `*` in the
//! configuration is answered with what the request asked for, since browsers refuse `*` there.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::value;
use crate::config::middleware::Headers as Config;
use crate::http::{Response, error};
use crate::middleware::BuildError;
use crate::units::regex::GoRegex;

/// The settings, checked.
#[derive(Debug)]
pub struct Cors {
    credentials: bool,
    origins: Vec<String>,
    origin_patterns: Vec<GoRegex>,
    allow_headers: List,
    allow_methods: List,
    expose_headers: List,
    max_age: Option<HeaderValue>,
    vary: bool,
}

/// One of the lists that may say `*`.
#[derive(Debug)]
enum List {
    /// Nothing is said.
    Absent,
    /// What the request asks for, because `*` has no meaning with credentials.
    Echo,
    /// The list, joined.
    Names(HeaderValue),
}

impl Cors {
    /// `None` when no key of this part is set.
    ///
    /// # Errors
    /// A value that no header can carry, or a regular expression that cannot be read.
    pub fn new(config: &Config) -> Result<Option<Self>, BuildError> {
        let credentials = config.access_control_allow_credentials;
        let list = |names: &[String], key: &str| List::new(names, credentials, key);
        let origin_patterns = config
            .access_control_allow_origin_list_regex
            .iter()
            .enumerate()
            .map(|(index, text)| {
                GoRegex::new(text).map_err(|error| {
                    BuildError::new(
                        format!("headers.accessControlAllowOriginListRegex[{index}]"),
                        error.to_string(),
                    )
                })
            });
        let cors = Self {
            credentials,
            origins: config.access_control_allow_origin_list.clone(),
            origin_patterns: origin_patterns.collect::<Result<_, _>>()?,
            allow_headers: list(&config.access_control_allow_headers, "accessControlAllowHeaders")?,
            allow_methods: list(&config.access_control_allow_methods, "accessControlAllowMethods")?,
            expose_headers: list(&config.access_control_expose_headers, "accessControlExposeHeaders")?,
            max_age: config.access_control_max_age.map(HeaderValue::from),
            vary: config.add_vary_header,
        };
        Ok(cors.says_anything().then_some(cors))
    }

    fn says_anything(&self) -> bool {
        let lists = [&self.allow_headers, &self.allow_methods, &self.expose_headers];
        self.credentials
            || self.vary
            || self.max_age.is_some()
            || !self.origins.is_empty()
            || !self.origin_patterns.is_empty()
            || lists.iter().any(|list| !matches!(list, List::Absent))
    }

    /// The answer to a preflight; `None` for other requests.
    #[must_use]
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Response> {
        let asked = |name: HeaderName| request.get(name).filter(|value| !value.is_empty());
        let wanted_method = asked(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = asked(header::ORIGIN)?;
        if *method != Method::OPTIONS {
            return None;
        }
        let mut response = error::empty(StatusCode::OK);
        let headers = response.headers_mut();
        self.put_common(headers, Some(origin));
        let wanted_headers = asked(header::ACCESS_CONTROL_REQUEST_HEADERS);
        self.allow_headers
            .put(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, wanted_headers);
        self.allow_methods
            .put(headers, header::ACCESS_CONTROL_ALLOW_METHODS, Some(wanted_method));
        if let Some(seconds) = &self.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, seconds.clone());
        }
        Some(response)
    }

    /// Puts the headers on an answer that is no preflight's.
    pub fn apply(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        self.put_common(headers, origin);
        if self.vary {
            add_vary_origin(headers);
        }
    }

    fn put_common(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if let Some(allowed) = self.allowed_origin(origin) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        }
        if self.credentials {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        self.expose_headers
            .put(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, None);
    }

    /// What Access-Control-Allow-Origin says to this origin, if it is allowed.
    fn allowed_origin(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let text = origin.map(|value| value.to_str()).transpose().ok()?.unwrap_or_default();
        let echo = || origin.cloned().unwrap_or(HeaderValue::from_static(""));
        for allowed in &self.origins {
            if allowed == "*" {
                return Some(if self.credentials {
                    echo()
                } else {
                    HeaderValue::from_static("*")
                });
            }
            if allowed == text {
                return Some(echo());
            }
        }
        self.origin_patterns
            .iter()
            .any(|pattern| pattern.is_match(text))
            .then(echo)
    }
}

impl List {
    fn new(names: &[String], credentials: bool, key: &str) -> Result<Self, BuildError> {
        if names.is_empty() {
            return Ok(Self::Absent);
        }
        if credentials && names.iter().any(|name| name == "*") {
            return Ok(Self::Echo);
        }
        value(&names.join(","), || format!("headers.{key}")).map(Self::Names)
    }

    fn put(&self, headers: &mut HeaderMap, name: HeaderName, asked: Option<&HeaderValue>) {
        let value = match self {
            Self::Absent => None,
            Self::Echo => asked.cloned(),
            Self::Names(names) => Some(names.clone()),
        };
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Adds `Origin` to Vary, unless it is all that Vary says.
fn add_vary_origin(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers
        .get_all(header::VARY)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if lines == [b"Origin"] {
        return;
    }
    let joined = lines
        .into_iter()
        .filter(|line| !line.is_empty())
        .chain([&b"Origin"[..]])
        .collect::<Vec<_>>();
    // Made of header values: it is one.
    if let Ok(value) = HeaderValue::from_bytes(&joined.join(&b","[..])) {
        headers.insert(header::VARY, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[track_caller]
    fn check(actual: &HeaderMap, expected: &[(&'static str, &'static str)]) {
        assert_eq!(actual, &headers(expected));
    }

    fn preflight(config: &Config, request: &[(&'static str, &'static str)]) -> HeaderMap {
        let cors = Cors::new(config).unwrap().unwrap();
        cors.preflight(&Method::OPTIONS, &headers(request))
            .unwrap()
            .headers()
            .clone()
    }

    fn answer(config: &Config, origin: &'static str, existing: &[(&'static str, &'static str)]) -> HeaderMap {
        let origin = HeaderValue::from_static(origin);
        let mut answer = headers(existing);
        let cors = Cors::new(config).unwrap().unwrap();
        cors.apply(&mut answer, Some(&origin).filter(|origin| !origin.is_empty()));
        answer
    }

    /// Answers of Traefik 3.7.15, as in the other tests here.
    #[test]
    fn any_origin() {
        let config = Config {
            access_control_allow_origin_list: strings(&["*"]),
            access_control_expose_headers: strings(&["X-E1", "X-E2"]),
            ..Config::default()
        };
        let expected = [
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "X-E1,X-E2"),
        ];
        let request = [("origin", "https://any.test"), ("access-control-request-method", "GET")];
        check(&preflight(&config, &request), &expected);
        check(&answer(&config, "https://any.test", &[]), &expected);
        check(&answer(&config, "", &[]), &expected);
    }

    #[test]
    fn any_origin_with_credentials() {
        let any = || strings(&["*"]);
        let config = Config {
            access_control_allow_origin_list: any(),
            access_control_allow_credentials: true,
            access_control_allow_methods: any(),
            access_control_allow_headers: any(),
            access_control_expose_headers: any(),
            ..Config::default()
        };
        let mut request = vec![
            ("origin", "https://any.test"),
            ("access-control-request-method", "PATCH"),
        ];
        let mut expected = vec![
            ("access-control-allow-origin", "https://any.test"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PATCH"),
        ];
        check(&preflight(&config, &request), &expected);
        request.push(("access-control-request-headers", "x-one, x-two"));
        expected.push(("access-control-allow-headers", "x-one, x-two"));
        check(&preflight(&config, &request), &expected);
        check(&answer(&config, "https://any.test", &[]), &expected[..2]);
        let none = [
            ("access-control-allow-origin", ""),
            ("access-control-allow-credentials", "true"),
        ];
        check(&answer(&config, "", &[]), &none);
    }

    #[test]
    fn a_maximum_age_of_zero_is_sent() {
        let config = Config {
            access_control_allow_origin_list: strings(&["https://a.test"]),
            access_control_max_age: Some(0),
            ..Config::default()
        };
        let request = [("origin", "https://a.test"), ("access-control-request-method", "GET")];
        let expected = [
            ("access-control-allow-origin", "https://a.test"),
            ("access-control-max-age", "0"),
        ];
        check(&preflight(&config, &request), &expected);
    }

    #[test]
    fn listed_origins() {
        let config = Config {
            access_control_allow_origin_list: strings(&["https://a.test"]),
            access_control_allow_methods: strings(&["GET", "PUT"]),
            access_control_max_age: Some(5),
            add_vary_header: true,
            ..Config::default()
        };
        let vary = ("vary", "Origin");
        check(
            &answer(&config, "https://a.test", &[]),
            &[("access-control-allow-origin", "https://a.test"), vary],
        );
        check(&answer(&config, "https://b.test", &[]), &[vary]);
        check(&answer(&config, "", &[("vary", "Origin")]), &[vary]);
        check(
            &answer(&config, "", &[("vary", "Accept"), ("vary", "Foo")]),
            &[("vary", "Accept,Foo,Origin")],
        );
        let request = [("origin", "https://b.test"), ("access-control-request-method", "GET")];
        let expected = [
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-max-age", "5"),
        ];
        check(&preflight(&config, &request), &expected);
    }

    #[test]
    fn origins_by_pattern() {
        let patterns = strings(&[r"^https://[a-z]+\.good\.test$"]);
        let config = Config {
            access_control_allow_origin_list_regex: patterns,
            ..Config::default()
        };
        let expected = [("access-control-allow-origin", "https://a.good.test")];
        check(&answer(&config, "https://a.good.test", &[]), &expected);
        check(&answer(&config, "https://a1.good.test", &[]), &[]);
        let bad = Config {
            access_control_allow_origin_list_regex: strings(&["a("]),
            ..Config::default()
        };
        assert_eq!(
            Cors::new(&bad).unwrap_err().path,
            "headers.accessControlAllowOriginListRegex[0]"
        );
    }

    #[test]
    fn what_is_no_preflight() {
        let config = Config {
            add_vary_header: true,
            ..Config::default()
        };
        let cors = Cors::new(&config).unwrap().unwrap();
        let full = headers(&[("origin", "https://a.test"), ("access-control-request-method", "GET")]);
        assert!(cors.preflight(&Method::OPTIONS, &full).is_some());
        assert!(cors.preflight(&Method::GET, &full).is_none());
        for name in ["origin", "access-control-request-method"] {
            let mut part = full.clone();
            part.remove(name);
            assert!(cors.preflight(&Method::OPTIONS, &part).is_none(), "{name}");
        }
        assert!(Cors::new(&Config::default()).unwrap().is_none());
    }
}
