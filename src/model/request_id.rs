//! The id of a request to a model: what joins a later judgement (feedback) to the answer that it is about.
//!
//! A UUIDv7 (RFC 9562, 5.7) of Gantry's own, whatever the client sends: two requests never share one. Where the client
//! or the server use `X-Request-Id` for themselves, that stays as it is and ours goes by `X-Gantry-Request-Id`.

use ::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// Where the id goes if nobody else uses it.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where it goes otherwise. Only ever Gantry's: what others send in it is dropped.
pub const X_GANTRY_REQUEST_ID: HeaderName = HeaderName::from_static("x-gantry-request-id");

/// The id that a request was given.
#[derive(Debug, Clone)]
pub struct RequestId {
    /// The id.
    pub id: Uuid,
    value: HeaderValue,
    /// The client has an id of its own.
    clients_own: bool,
}

impl RequestId {
    /// Gives the request with `headers` an id, and writes it there for the server.
    pub fn assign(headers: &mut HeaderMap) -> Self {
        let id = Uuid::now_v7();
        let mut buffer = Uuid::encode_buffer();
        let text = id.hyphenated().encode_lower(&mut buffer);
        let value = HeaderValue::from_str(text).expect("hexadecimal digits and hyphens");
        let clients_own = headers.contains_key(X_REQUEST_ID);
        headers.remove(X_GANTRY_REQUEST_ID);
        headers.insert(
            if clients_own { X_GANTRY_REQUEST_ID } else { X_REQUEST_ID },
            value.clone(),
        );
        Self { id, value, clients_own }
    }

    /// Writes the id into the answer's `headers` for the client.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.remove(X_GANTRY_REQUEST_ID);
        let other = headers.get_all(X_REQUEST_ID).iter().any(|value| value != self.value);
        let name = if self.clients_own || other {
            X_GANTRY_REQUEST_ID
        } else {
            X_REQUEST_ID
        };
        headers.insert(name, self.value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        fields.collect()
    }

    #[test]
    fn ours_where_nobody_has_one() {
        let mut request = headers(&[("x-gantry-request-id", "forged")]);
        let id = RequestId::assign(&mut request);
        let text = id.id.to_string();
        assert_eq!(id.id.get_version_num(), 7);
        assert_eq!(request[X_REQUEST_ID], text);
        assert_eq!(request.len(), 1);
        // A server that knows nothing of it, and one that sends it back.
        for mut answer in [HeaderMap::new(), request.clone()] {
            id.tell(&mut answer);
            assert_eq!(answer[X_REQUEST_ID], text);
            assert_eq!(answer.len(), 1);
        }
        let mut answer = headers(&[("x-request-id", "server"), ("x-gantry-request-id", "forged")]);
        id.tell(&mut answer);
        assert_eq!(answer[X_REQUEST_ID], "server");
        assert_eq!(answer[X_GANTRY_REQUEST_ID], text);
    }

    #[test]
    fn beside_the_clients_own() {
        let mut request = headers(&[("x-request-id", "client"), ("x-gantry-request-id", "forged")]);
        let id = RequestId::assign(&mut request);
        assert_eq!(request[X_REQUEST_ID], "client");
        assert_eq!(request[X_GANTRY_REQUEST_ID], id.id.to_string());
        for mut answer in [HeaderMap::new(), headers(&[("x-request-id", "client")])] {
            let before = answer.clone();
            id.tell(&mut answer);
            assert_eq!(answer[X_GANTRY_REQUEST_ID], id.id.to_string());
            assert_eq!(answer.get(X_REQUEST_ID), before.get(X_REQUEST_ID));
        }
    }
}
