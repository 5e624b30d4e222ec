//! The certificate store: which certificate a server name gets.
//!
//! Traefik's rule (reference, A7): the certificates are sorted by their joined name lists in reverse text order, and
//! the first that matches wins; an exact name beats a wildcard. A wildcard stands for exactly one label. Of two
//! certificates with the same names the first one of the configuration is used.
//!
//! Invariant: a store is immutable and answers in constant time; the order is worked out when it is built.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::keys::Identity;

/// Common name of the certificate that Gantry makes itself when none is configured.
pub const SELF_SIGNED_NAME: &str = "TRAEFIK DEFAULT CERT";

/// An immutable set of certificates with the rule that chooses among them.
#[derive(Debug)]
pub struct CertStore {
    exact: HashMap<Box<str>, Arc<Identity>>,
    /// Key: what follows `*.`
    wildcard: HashMap<Box<str>, Arc<Identity>>,
    /// `None` only where not even a self-signed one could be made.
    default: Option<Arc<Identity>>,
    all: Vec<Arc<Identity>>,
}

impl CertStore {
    /// A store of these certificates (in the order of the configuration) with `default` for all other names.
    pub fn new(certificates: Vec<Arc<Identity>>, default: Option<Arc<Identity>>) -> Self {
        let mut sorted: Vec<(String, &Arc<Identity>)> = certificates
            .iter()
            .map(|identity| (identity.info.names().join(","), identity))
            .collect();
        // Stable: equal name lists stay in the order of the configuration.
        sorted.sort_by(|(a, _), (b, _)| b.cmp(a));
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for (_, identity) in sorted {
            for name in identity.info.names() {
                let (table, key) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                table.entry(Box::from(key)).or_insert_with(|| Arc::clone(identity));
            }
        }
        Self {
            exact,
            wildcard,
            default,
            all: certificates,
        }
    }

    /// The certificate for a server name (lower case, no trailing dot), `None` if only the default is left.
    pub fn find(&self, name: &str) -> Option<&Arc<Identity>> {
        self.exact.get(name).or_else(|| {
            let (first, parent) = name.split_once('.')?;
            (!first.is_empty()).then(|| self.wildcard.get(parent)).flatten()
        })
    }

    /// The certificate for the address that a client without a server name has connected to.
    pub fn find_ip(&self, address: IpAddr) -> Option<&Arc<Identity>> {
        // Most stores hold no address at all: do not format one for them.
        if self.all.iter().all(|identity| identity.info.ip_addresses.is_empty()) {
            return None;
        }
        self.exact.get(address.to_canonical().to_string().as_str())
    }

    /// The certificate for names that no other fits.
    pub const fn default_certificate(&self) -> Option<&Arc<Identity>> {
        self.default.as_ref()
    }

    /// All certificates, those of the configuration first, then the default one: for `tls_certs_not_after`.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.all.iter().chain(&self.default)
    }
}

/// What rustls asks for a certificate: a store, and what happens to names that it does not know.
#[derive(Debug)]
pub struct Resolver {
    /// The certificates.
    pub store: Arc<CertStore>,
    /// `sniStrict`: no certificate for the name, no handshake.
    pub strict: bool,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.store.find(&normal_name(name)));
        match found {
            Some(identity) => Some(Arc::clone(&identity.key)),
            None if self.strict => None,
            None => self.store.default.as_ref().map(|identity| Arc::clone(&identity.key)),
        }
    }
}

/// A server name as the tables hold it: lower case, without the dot at its end.
pub fn normal_name(name: &str) -> std::borrow::Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

/// Makes a self-signed certificate (ECDSA P-256, valid from last year for three years).
///
/// # Errors
/// The random source or the key generation failed.
pub fn self_signed(now: SystemTime) -> Result<Identity, String> {
    let year = year(now);
    let mut params = CertificateParams::new(vec!["gantry.default".to_owned()]).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SELF_SIGNED_NAME);
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 2, 1, 1);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Identity::new(vec![certificate.der().clone()], key).map_err(|error| error.to_string())
}

fn year(now: SystemTime) -> i32 {
    const SECONDS_A_YEAR: u64 = 31_556_952;
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // A clock that is off must not stop the start: years beyond what X.509 can say are cut.
    1970 + i32::try_from(seconds / SECONDS_A_YEAR).unwrap_or(0).clamp(1, 8000)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Authority;
    use super::*;

    fn identity(authority: &Authority, common_name: &str, names: &[&str]) -> Arc<Identity> {
        let pair = authority.leaf(common_name, names);
        Arc::new(Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap())
    }

    #[test]
    fn chooses_by_name() {
        let ca = Authority::new("ca");
        let certificates = vec![
            identity(&ca, "*.wild.test", &["*.wild.test"]),
            identity(&ca, "first", &["a.test"]),
            identity(&ca, "first", &["a.test"]),
            identity(&ca, "b", &["B.test", "alt-b.test"]),
            // Both hold `both.test`; the joined lists are "m1,both…" and "m2,both…" sorted: the later list wins.
            identity(&ca, "z1", &["both.test"]),
            identity(&ca, "z2", &["both.test"]),
            identity(&ca, "one.wild.test", &["one.wild.test"]),
            identity(&ca, "ip", &["10.1.2.3", "fd00::1"]),
        ];
        let first = Arc::clone(&certificates[1]);
        let store = CertStore::new(certificates, Some(identity(&ca, "default", &["default.test"])));
        let table = [
            ("a.test", Some("first")),
            ("first", Some("first")),
            ("b.test", Some("b")),
            ("alt-b.test", Some("b")),
            ("x.wild.test", Some("*.wild.test")),
            ("one.wild.test", Some("one.wild.test")),
            ("a.b.wild.test", None),
            ("wild.test", None),
            (".wild.test", None),
            ("both.test", Some("z2")),
            ("default.test", None),
            ("none", None),
            ("", None),
        ];
        for (name, expected) in table {
            let found = store.find(name).map(|identity| identity.info.common_name.as_str());
            assert_eq!(found, expected, "{name}");
        }
        assert!(
            Arc::ptr_eq(store.find("a.test").unwrap(), &first),
            "of equals, the first"
        );
        for (address, expected) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00::1", true),
            ("10.1.2.4", false),
        ] {
            assert_eq!(store.find_ip(address.parse().unwrap()).is_some(), expected, "{address}");
        }
        assert_eq!(store.all().count(), 9);
    }

    #[test]
    fn normalises_names() {
        for (name, expected) in [
            ("a.test", "a.test"),
            ("A.TEST", "a.test"),
            ("a.test.", "a.test"),
            (".", ""),
        ] {
            assert_eq!(normal_name(name), expected);
        }
    }

    #[test]
    fn makes_a_certificate_of_its_own() {
        let identity = self_signed(SystemTime::now()).unwrap();
        assert_eq!(identity.info.common_name, SELF_SIGNED_NAME);
        assert_eq!(identity.info.validity_problem(SystemTime::now()), None);
        self_signed(SystemTime::UNIX_EPOCH).unwrap();
    }
}
