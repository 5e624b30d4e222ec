//! The proofs that wait for an ACME authority to look: tokens for HTTP-01 (RFC 8555 section 8.3) and certificates for
//! TLS-ALPN-01 (RFC 8737).
//!
//! Orders put proofs in and take them out on the control thread; connections look them up. Invariants: a look-up takes
//! no lock; a proof goes when its [`Proof`] is dropped, so that none outlives its order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::store::normal_name;

/// The protocol in whose handshake a name is proven (RFC 8737 section 6.2).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// See the module.
#[derive(Debug, Default)]
pub struct Challenges {
    tokens: ArcSwap<HashMap<String, Arc<str>>>,
    handshakes: ArcSwap<HashMap<String, Arc<ServerConfig>>>,
    /// Held by those who change the tables.
    changing: Mutex<()>,
}

/// Takes its proof back when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Proof {
    challenges: Arc<Challenges>,
    key: Key,
}

#[derive(Debug)]
enum Key {
    Token(String),
    Name(String),
}

impl Challenges {
    /// From now on, `/.well-known/acme-challenge/{token}` is answered with `answer`.
    pub fn http(self: &Arc<Self>, token: &str, answer: &str) -> Proof {
        self.change(&self.tokens, |tokens| {
            tokens.insert(token.to_owned(), Arc::from(answer));
        });
        Proof {
            challenges: Arc::clone(self),
            key: Key::Token(token.to_owned()),
        }
    }

    /// From now on, handshakes for `acme-tls/1` with `name` show the digest of the key authorization.
    ///
    /// # Errors
    /// The name is no host name, or no key could be made.
    pub fn tls(self: &Arc<Self>, name: &str, digest: &[u8]) -> Result<Proof, String> {
        let name = normal_name(name).into_owned();
        let config = Arc::new(proof_config(&name, digest)?);
        self.change(&self.handshakes, |handshakes| {
            handshakes.insert(name.clone(), config);
        });
        Ok(Proof {
            challenges: Arc::clone(self),
            key: Key::Name(name),
        })
    }

    /// The answer to a token.
    pub fn answer(&self, token: &str) -> Option<Arc<str>> {
        self.tokens.load().get(token).cloned()
    }

    /// The settings for a handshake of an authority that looks; `None` for all other clients. The client must offer
    /// `acme-tls/1` and nothing else.
    pub fn handshake(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let handshakes = self.handshakes.load();
        if handshakes.is_empty() {
            return None;
        }
        let mut offered = hello.alpn()?;
        let only = offered.next() == Some(ACME_TLS) && offered.next().is_none();
        let name = hello.server_name().filter(|_| only)?;
        handshakes.get(normal_name(name).as_ref()).cloned()
    }

    fn change<T: Clone>(&self, table: &ArcSwap<T>, act: impl FnOnce(&mut T)) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = T::clone(&table.load());
        act(&mut next);
        table.store(Arc::new(next));
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        match &self.key {
            Key::Token(token) => self.challenges.change(&self.challenges.tokens, |tokens| {
                tokens.remove(token);
            }),
            Key::Name(name) => self.challenges.change(&self.challenges.handshakes, |handshakes| {
                handshakes.remove(name);
            }),
        }
    }
}

/// A self-signed certificate with the critical extension of RFC 8737 section 3.
fn proof_config(name: &str, digest: &[u8]) -> Result<ServerConfig, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    params.distinguished_name = DistinguishedName::new();
    if digest.len() != 32 {
        return Err("the digest has not 32 bytes".to_owned());
    }
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    // Not an identity: rustls does not know the critical extension, so it cannot look whether the key matches.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], signer);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let resolver = SingleCertAndKey::from(certified);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_go_with_their_order() {
        let challenges = Arc::new(Challenges::default());
        let first = challenges.http("token", "token.thumb");
        let second = challenges.tls("A.test.", &[7; 32]).unwrap();
        assert_eq!(challenges.answer("token").as_deref(), Some("token.thumb"));
        assert_eq!(challenges.answer("other"), None);
        assert!(challenges.handshakes.load().contains_key("a.test"));
        drop((first, second));
        assert_eq!(challenges.answer("token"), None);
        assert!(challenges.handshakes.load().is_empty());
        assert!(challenges.tls("a.test", &[7; 31]).is_err());
    }
}
