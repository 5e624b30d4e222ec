//! HTTP towards the authority: a connection for each request, over TLS that the resolver's settings judge.
//!
//! The client of the ACME crate cannot be told which certificates to believe, and does not pass `Retry-After` of errors
//! on; this one can. Invariants: each request has a time limit and each answer a bound; names are resolved in process.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Resources;
use crate::config::static_config::Acme;
use crate::config::transport::ServersTransport;
use crate::tls::cache::TlsCache;
use crate::tls::client::ClientTls;
use crate::upstream::dns::Dns;

/// Bytes of the longest answer: a chain has some 10 KB.
const LONGEST: usize = 1 << 20;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tls: ClientTls,
    dns: Dns,
    /// For a request with its answer.
    limit: Duration,
    /// For the head of the answer.
    head_limit: Duration,
    /// What the last "later" of the authority asked for.
    retry_after: Mutex<Option<SystemTime>>,
}

impl Authority {
    /// With the settings of a resolver; `path` is its place, for messages.
    ///
    /// # Errors
    /// What is wrong with `caCertificates` or `caServerName`.
    pub(super) fn new(acme: &Acme, path: &str, resources: &Resources) -> Result<Self, String> {
        let transport = ServersTransport {
            root_cas: acme.ca_certificates.clone(),
            server_name: acme.ca_server_name.clone(),
            disable_http2: true,
            ..ServersTransport::default()
        };
        let (tls, diagnostics) = ClientTls::build(&transport, path, resources, &TlsCache::new());
        let tls = tls.ok_or_else(|| {
            let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
            errors.map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")
        })?;
        Ok(Self(Arc::new(Inner {
            tls,
            dns: Dns::default(),
            limit: acme.client_timeout,
            head_limit: acme.client_response_header_timeout,
            retry_after: Mutex::default(),
        })))
    }

    /// What the authority has asked for since the last call.
    pub(super) fn take_retry_after(&self) -> Option<SystemTime> {
        let mut kept = self.0.retry_after.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }
}

impl HttpClient for Authority {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let limit = inner.limit;
            let answer = timeout(limit, inner.ask(request));
            let late = || Err(format!("no answer within {} s", limit.as_secs()));
            answer
                .await
                .unwrap_or_else(|_| late())
                .map_err(|e| Error::Other(e.into()))
        })
    }
}

impl Inner {
    async fn ask(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, String> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the URL has no host")?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{uri} is no https URL"));
        }
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let authority = HeaderValue::try_from(authority).map_err(|e| e.to_string())?;
        *request.uri_mut() = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .parse()
            .map_err(|e| format!("{uri}: {e}"))?;
        request.headers_mut().insert(HOST, authority);
        let agent = concat!("gantry/", env!("CARGO_PKG_VERSION"));
        request
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(agent));
        let tcp = self.dial(host, uri.port_u16().unwrap_or(443)).await?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let connected = self.tls.connect(tcp, bare, true).await;
        let (tls, _) = connected.map_err(|e| format!("{host}: {e}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
        // It ends with the exchange: when the sender goes, or when the server closes.
        tokio::spawn(connection);
        let head = timeout(self.head_limit, sender.send_request(request)).await;
        let head = head.map_err(|_| format!("no answer within {} s", self.head_limit.as_secs()))?;
        let (mut parts, body) = head.map_err(|e| e.to_string())?.into_parts();
        bound_retry_after(&mut parts.headers);
        if matches!(
            parts.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            let mut kept = self.retry_after.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = retry_after(&parts.headers, SystemTime::now()).max(*kept);
        }
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map_err(|e| format!("the answer cannot be read: {e}"))?.to_bytes();
        Ok(BytesResponse {
            parts,
            body: Box::new(body),
        })
    }

    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let mut last = "no address".to_owned();
        for ip in self.dns.lookup(host).await.map_err(|e| format!("{host}: {e}"))? {
            match TcpStream::connect((ip, port)).await {
                Ok(tcp) => return Ok(tcp),
                Err(e) => last = e.to_string(),
            }
        }
        Err(format!("{host}:{port}: {last}"))
    }
}

/// The ACME crate adds the seconds to the clock: what no clock can hold would end the order by a panic.
fn bound_retry_after(headers: &mut HeaderMap) {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = seconds.and_then(|value| value.trim().parse::<u64>().ok());
    if seconds.is_some_and(|seconds| seconds > u32::MAX.into()) {
        headers.insert(RETRY_AFTER, HeaderValue::from(u32::MAX));
    }
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<SystemTime> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u32>() {
        Ok(seconds) => Some(now + Duration::from_secs(seconds.into())),
        Err(_) => httpdate::parse_http_date(value).ok(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::tls::keys::Identity;

    /// A server that answers one request with these bytes: its URL, and its certificate in PEM.
    async fn server(answer: Vec<u8>) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let identity = Identity::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes());
        let certified = Arc::clone(&identity.unwrap().key);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/directory", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let accepted = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
            let Ok(mut stream) = accepted else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(
                head.starts_with("GET /directory HTTP/1.1\r\n") && head.contains("user-agent: gantry/"),
                "{head}"
            );
            // The client may have had enough before the end.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
        (url, made.cert.pem())
    }

    async fn ask(answer: Vec<u8>, believe: bool) -> (Authority, Result<StatusCode, String>) {
        let (url, certificate) = server(answer).await;
        let acme = Acme {
            ca_certificates: if believe { vec![certificate] } else { Vec::new() },
            client_response_header_timeout: Duration::from_secs(5),
            ..Acme::default()
        };
        let authority = Authority::new(&acme, "p", &Resources::default()).unwrap();
        let request = Request::get(url).body(BodyWrapper::default()).unwrap();
        let answer = authority.request(request).await;
        let status = answer
            .map(|answer| answer.parts.status)
            .map_err(|error| error.to_string());
        (authority, status)
    }

    #[tokio::test]
    async fn later_is_noted_with_its_time() {
        let answer = b"HTTP/1.1 503 x\r\nRetry-After: 700\r\nContent-Length: 2\r\n\r\nno".to_vec();
        let before = SystemTime::now();
        let (authority, status) = ask(answer, true).await;
        assert_eq!(status, Ok(StatusCode::SERVICE_UNAVAILABLE));
        let asked = authority.take_retry_after().unwrap().duration_since(before).unwrap();
        assert!((700..710).contains(&asked.as_secs()), "{asked:?}");
        assert_eq!(authority.take_retry_after(), None);
    }

    #[tokio::test]
    async fn no_later_is_later_than_a_clock_can_say() {
        let answer = format!(
            "HTTP/1.1 503 x\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n",
            u64::MAX
        );
        let (authority, status) = ask(answer.into_bytes(), true).await;
        assert_eq!(status, Ok(StatusCode::SERVICE_UNAVAILABLE));
        assert!(authority.take_retry_after() > Some(SystemTime::now()));
        let bounded = |value: &'static str| {
            let mut headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            bound_retry_after(&mut headers);
            headers[RETRY_AFTER].clone()
        };
        assert_eq!(bounded("+18446744073709551615"), "4294967295");
        assert_eq!(bounded("4294967295"), "4294967295");
        assert_eq!(bounded("soon"), "soon");
    }

    #[tokio::test]
    async fn who_is_not_believed_is_not_asked() {
        let (_, status) = ask(Vec::new(), false).await;
        let error = status.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.resize(LONGEST + 1000, b'x');
        let (_, status) = ask(answer, true).await;
        let error = status.unwrap_err();
        assert!(error.contains("length limit exceeded"), "{error}");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH;
        let read = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            retry_after(&headers, now).map(|at| at.duration_since(now).unwrap().as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
