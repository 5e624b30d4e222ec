//! `basicAuth`: asks for user and password (RFC 7617).
//!
//! The passwords of the configuration are hashes ([`htpasswd`]); they are verified off the worker, a few at a time
//! ([`pool`]). A browser sends its password with each request, so that nearly all requests end in the pool's memory
//! of successes, at the price of one keyed hash.
//!
//! Invariants: no request passes without a user of the list and that user's password; what the client sent as
//! `headerField` never reaches the server.

pub mod htpasswd;
pub mod md5_crypt;
pub mod pool;

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use self::htpasswd::{MalformedEntry, Users};
use self::pool::{HashPool, Verdict};
use super::{BuildContext, BuildError, Middleware, Next};
use crate::config::middleware::BasicAuth as Config;
use crate::http::body::ResponseBody;
use crate::http::error;
use crate::http::exchange::Exchange;
use crate::http::{BoxFuture, Request, Response};

/// As Go's decoder: padding is needed, stray bits in the last character are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The middleware.
#[derive(Debug)]
pub struct BasicAuth {
    users: Users,
    challenge: HeaderValue,
    header_field: Option<HeaderName>,
    remove_header: bool,
    pool: Arc<HashPool>,
}

/// Builds it from its configuration.
///
/// # Errors
/// No user at all, an entry that is no `name:hash`, an unreadable users file, an impossible header name or realm.
pub fn build(config: &Config, context: &mut BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
    let users = load_users(config, context)?;
    let pool = context.runtime.state("basicAuth hashing", "", HashPool::default);
    Ok(Arc::new(BasicAuth::new(config, users, pool)?))
}

fn load_users(config: &Config, context: &mut BuildContext<'_>) -> Result<Users, BuildError> {
    let file = match config.users_file.as_str() {
        "" => String::new(),
        path => read_users_file(path, context)?,
    };
    let lines: Vec<&str> = Users::lines(&file).collect();
    let entries = lines.iter().copied().chain(config.users.iter().map(String::as_str));
    let (users, useless) = Users::parse(entries).map_err(|malformed| locate(&malformed, &lines, config))?;
    if users.is_empty() {
        return Err(BuildError::new("basicAuth", "no users: nobody could ever log in")
            .help("list them in `users` or in a file that `usersFile` names; `gantry hash-password` makes hashes"));
    }
    for entry in useless {
        context.warnings.push(format!(
            "basicAuth: nobody can log in as `{}`: {}",
            entry.user, entry.reason
        ));
    }
    Ok(users)
}

fn read_users_file(path: &str, context: &BuildContext<'_>) -> Result<String, BuildError> {
    let unreadable = |message: String| {
        BuildError::new("basicAuth.usersFile", message)
            .help("write `name:hash` lines into it, readable for the gateway's user; `gantry hash-password` makes them")
    };
    match context.resources.get(path) {
        Some(Ok(bytes)) => {
            String::from_utf8(bytes.to_vec()).map_err(|_| unreadable(format!("`{path}` is not UTF-8 text")))
        }
        Some(Err(reason)) => Err(unreadable(reason.to_owned())),
        None => Err(unreadable(format!("cannot read `{path}`"))),
    }
}

fn locate(malformed: &MalformedEntry, lines: &[&str], config: &Config) -> BuildError {
    match malformed.index.checked_sub(lines.len()) {
        Some(index) => BuildError::new(format!("basicAuth.users[{index}]"), malformed.reason),
        None => {
            let message = format!(
                "`{}`, entry {}: {}",
                config.users_file,
                malformed.index + 1,
                malformed.reason
            );
            BuildError::new("basicAuth.usersFile", message)
        }
    }
}

impl BasicAuth {
    /// The middleware for a list of users.
    ///
    /// # Errors
    /// A `realm` or `headerField` that no header can carry.
    pub fn new(config: &Config, users: Users, pool: Arc<HashPool>) -> Result<Self, BuildError> {
        let realm = if config.realm.is_empty() {
            "traefik"
        } else {
            &config.realm
        };
        // Not escaped within the quotes, as in Traefik.
        let challenge = HeaderValue::from_bytes(format!("Basic realm=\"{realm}\"").as_bytes())
            .map_err(|_| BuildError::new("basicAuth.realm", "a realm holds no control characters"))?;
        let header_field =
            match config.header_field.as_str() {
                "" => None,
                name => Some(HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    BuildError::new("basicAuth.headerField", format!("`{name}` is no name of a header"))
                })?),
            };
        Ok(Self {
            users,
            challenge,
            header_field,
            remove_header: config.remove_header,
            pool,
        })
    }

    /// Whether the request may pass, and as whom; its headers are changed for the server if it may. The user is
    /// the one that the request names, also when it is refused.
    pub async fn authenticate(&self, headers: &mut HeaderMap) -> (Option<String>, Verdict) {
        let Some((user, password)) = credentials(headers) else {
            return (None, Verdict::NoMatch);
        };
        let verdict = self.pool.verify(&user, &password, self.users.candidate(&user)).await;
        if verdict != Verdict::Match {
            return (Some(user), verdict);
        }
        if let Some(name) = &self.header_field {
            // A name without control characters is checked when the list is read, so that this cannot fail.
            let Ok(value) = HeaderValue::from_bytes(user.as_bytes()) else {
                return (Some(user), Verdict::NoMatch);
            };
            headers.insert(name, value);
        }
        if self.remove_header {
            headers.remove(header::AUTHORIZATION);
        }
        (Some(user), Verdict::Match)
    }

    /// The answer to a request that may not pass.
    fn refuse(&self, verdict: Verdict) -> Response {
        if verdict == Verdict::Busy {
            let mut response = error::status_text(StatusCode::SERVICE_UNAVAILABLE);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        let body = ResponseBody::full("401 Unauthorized\n");
        let mut response = error::with_body(StatusCode::UNAUTHORIZED, body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(header::WWW_AUTHENTICATE, self.challenge.clone());
        response
    }
}

impl Middleware for BasicAuth {
    fn handle<'a>(
        &'a self,
        mut request: Request,
        exchange: &'a mut Exchange,
        next: Next<'a>,
    ) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let (user, verdict) = self.authenticate(request.headers_mut()).await;
            // Also without a name: the log tells a request that was asked for one (Traefik: an empty name).
            exchange.user = Some(user.unwrap_or_default());
            if verdict == Verdict::Match {
                next.run(request, exchange).await
            } else {
                self.refuse(verdict)
            }
        })
    }
}

/// User and password of the first Authorization header, if it is of the Basic scheme.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = BASE64.decode(encoded).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some((
        String::from_utf8_lossy(&decoded[..colon]).into_owned(),
        decoded[colon + 1..].to_vec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(config: &Config) -> BasicAuth {
        let (users, _) = Users::parse(config.users.iter().map(String::as_str)).unwrap();
        BasicAuth::new(config, users, Arc::new(HashPool::new(1, 4))).unwrap()
    }

    fn admin() -> Config {
        Config {
            users: vec![
                "admin:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/".to_owned(),
                ":{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=".to_owned(),
            ],
            realm: "My \"Realm".to_owned(),
            ..Config::default()
        }
    }

    fn request(authorization: &[&str]) -> HeaderMap {
        authorization
            .iter()
            .map(|value| (header::AUTHORIZATION, value.parse().unwrap()))
            .collect()
    }

    /// Answers of Traefik 3.7.15.
    #[tokio::test]
    async fn what_passes() {
        let auth = auth(&admin());
        for (authorization, expected) in [
            (&["Basic YWRtaW46dGVzdA=="][..], Verdict::Match),
            (&["basic YWRtaW46dGVzdA=="], Verdict::Match),
            (&["Basic OnNlY3JldA=="], Verdict::Match),
            (&["Basic YWRtaW46dGVzdA==", "Basic x"], Verdict::Match),
            (&["Basic x", "Basic YWRtaW46dGVzdA=="], Verdict::NoMatch),
            (&["BASIC  YWRtaW46dGVzdA=="], Verdict::NoMatch),
            (&["Basic YWRtaW46dGVzdA"], Verdict::NoMatch),
            (&["Basic YWRtaW4="], Verdict::NoMatch),
            (&["Basic"], Verdict::NoMatch),
            (&["Bearer YWRtaW46dGVzdA=="], Verdict::NoMatch),
            (&["Basic YWRtaW46d3Jvbmc="], Verdict::NoMatch),
            (&["Basic bm9ib2R5OnRlc3Q="], Verdict::NoMatch),
            (&[], Verdict::NoMatch),
        ] {
            let (_, verdict) = auth.authenticate(&mut request(authorization)).await;
            assert_eq!(verdict, expected, "{authorization:?}");
        }
    }

    #[tokio::test]
    async fn what_the_server_sees() {
        let config = Config {
            header_field: "X-WebAuth-User".to_owned(),
            remove_header: true,
            ..admin()
        };
        let mut headers = request(&["Basic YWRtaW46dGVzdA=="]);
        headers.append("x-webauth-user", HeaderValue::from_static("spoof"));
        headers.append("x-webauth-user", HeaderValue::from_static("spoof too"));
        let (user, verdict) = auth(&config).authenticate(&mut headers).await;
        assert_eq!((user.as_deref(), verdict), (Some("admin"), Verdict::Match));
        assert_eq!(headers.get_all("x-webauth-user").iter().collect::<Vec<_>>(), ["admin"]);
        assert!(!headers.contains_key(header::AUTHORIZATION));
    }

    #[test]
    fn the_challenge() {
        let response = auth(&admin()).refuse(Verdict::NoMatch);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            response.headers()[header::WWW_AUTHENTICATE],
            "Basic realm=\"My \"Realm\""
        );
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
        let unnamed = auth(&Config {
            realm: String::new(),
            ..admin()
        })
        .refuse(Verdict::NoMatch);
        assert_eq!(unnamed.headers()[header::WWW_AUTHENTICATE], "Basic realm=\"traefik\"");
        let response = auth(&admin()).refuse(Verdict::Busy);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn settings_that_no_header_can_carry() {
        let (users, _) = Users::parse(["a:b"]).unwrap();
        let pool = Arc::new(HashPool::new(1, 1));
        let bad = Config {
            header_field: "X User".to_owned(),
            ..Config::default()
        };
        assert_eq!(
            BasicAuth::new(&bad, users.clone(), Arc::clone(&pool)).unwrap_err().path,
            "basicAuth.headerField"
        );
        let bad = Config {
            realm: "a\nb".to_owned(),
            ..Config::default()
        };
        assert_eq!(BasicAuth::new(&bad, users, pool).unwrap_err().path, "basicAuth.realm");
    }

    #[test]
    fn broken_entries_are_located() {
        let config = Config {
            users_file: "users.txt".to_owned(),
            ..Config::default()
        };
        let at = |index| locate(&MalformedEntry { index, reason: "x" }, &["a:b", "c:d"], &config);
        assert_eq!(at(3).path, "basicAuth.users[1]");
        assert_eq!(at(1).message, "`users.txt`, entry 2: x");
    }
}
