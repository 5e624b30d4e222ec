//! Certificates and their keys: PEM text → a chain and a key that belong together, and what a person wants to know
//! about them.
//!
//! Invariant: an [`Identity`] is usable as it is. Its chain has a leaf that could be read, and its key is the key of
//! that leaf; a chain that is out of date is an identity nevertheless ([`CertificateInfo::validity_problem`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a certificate and its key cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The certificate file has no `CERTIFICATE` block.
    #[error("there is no certificate in it (no `-----BEGIN CERTIFICATE-----` block{})", found(.0))]
    NoCertificate(Vec<String>),
    /// The key file has no block with a private key.
    #[error("there is no private key in it (no `-----BEGIN PRIVATE KEY-----` block or the like{})", found(.0))]
    NoKey(Vec<String>),
    /// The key needs a password.
    #[error("the private key is encrypted; Gantry cannot ask for its password")]
    EncryptedKey,
    /// The text between the marks is not base64, or a mark is missing.
    #[error("not valid PEM: {0}")]
    Pem(String),
    /// The certificate is not X.509.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The key is of a kind that is not supported, or damaged.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// The key belongs to another certificate.
    #[error("the private key does not match the certificate")]
    Mismatch {
        /// The key belongs to a later certificate of the file: the order is wrong.
        later_in_chain: bool,
    },
}

impl KeyError {
    /// Whether the key file is to blame, and not the certificate file.
    pub const fn concerns_key(&self) -> bool {
        matches!(
            self,
            Self::NoKey(_) | Self::EncryptedKey | Self::Key(_) | Self::Mismatch { .. }
        )
    }

    /// How to mend it, where that is not plain from the message.
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::EncryptedKey => Some("decrypt it once: `openssl pkey -in KEY -out KEY.plain`"),
            Self::Mismatch { later_in_chain: true } => {
                Some("the server's own certificate must come first in certFile, its issuers after it")
            }
            Self::Mismatch { .. } => Some(
                "compare `openssl x509 -in CERT -noout -pubkey` with `openssl pkey -in KEY -pubout`: they must be equal",
            ),
            Self::NoCertificate(_) => Some("give the certificate in PEM, followed by its issuers'"),
            Self::NoKey(_) => Some("give the certificate's private key in PEM"),
            Self::Pem(_) | Self::Certificate(_) | Self::Key(_) => {
                Some("copy the file again as the authority gave it, or make a new one")
            }
        }
    }
}

fn found(kinds: &[String]) -> String {
    if kinds.is_empty() {
        String::new()
    } else {
        format!("; found: {}", kinds.join(", "))
    }
}

/// What a person and the metrics want to know about a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Common name of the subject, empty if there is none.
    pub common_name: String,
    /// DNS names as the certificate has them, sorted.
    pub dns_names: Vec<String>,
    /// IP addresses of the subject's alternative names, sorted.
    pub ip_addresses: Vec<IpAddr>,
    /// Serial number in decimal digits, as Traefik's `tls_certs_not_after` has it.
    pub serial: String,
    /// Serial number as `openssl x509 -serial` prints it: hexadecimal, upper case.
    pub serial_hex: String,
    /// Valid from, seconds since 1970.
    pub not_before: i64,
    /// Valid until, seconds since 1970.
    pub not_after: i64,
}

impl CertificateInfo {
    fn parse(der: &[u8]) -> Result<Self, KeyError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| KeyError::Certificate(error.to_string()))?;
        let mut info = Self {
            common_name: certificate
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            serial: certificate.tbs_certificate.serial.to_string(),
            serial_hex: format!("{:X}", certificate.tbs_certificate.serial),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => info.dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => info.ip_addresses.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        info.dns_names.sort();
        info.ip_addresses.sort();
        Ok(info)
    }

    /// The names the certificate is chosen by: common name, DNS names and IP addresses, in lower case, sorted, each
    /// once.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::iter::once(&self.common_name)
            .filter(|name| !name.is_empty())
            .chain(&self.dns_names)
            .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
            .chain(self.ip_addresses.iter().map(ToString::to_string))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Says so when the certificate has expired or is not valid yet at `now`.
    pub fn validity_problem(&self, now: SystemTime) -> Option<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if now > self.not_after {
            Some(format!("the certificate expired on {}", date(self.not_after)))
        } else if now < self.not_before {
            Some(format!("the certificate is not valid before {}", date(self.not_before)))
        } else {
            None
        }
    }
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

pub(super) fn date(seconds: i64) -> String {
    u64::try_from(seconds)
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .map_or_else(|| "a day before 1970".to_owned(), httpdate::fmt_http_date)
}

/// A certificate chain with its key, ready for handshakes.
#[derive(Debug)]
pub struct Identity {
    /// Chain (leaf first) and key.
    pub key: Arc<CertifiedKey>,
    /// About the leaf.
    pub info: CertificateInfo,
}

impl Identity {
    /// Reads a chain and its key from PEM and checks that they belong together.
    ///
    /// # Errors
    /// See [`KeyError`]. An expired certificate is not an error.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, KeyError> {
        Self::new(certificates_from_pem(certificates)?, key_from_pem(key)?)
    }

    /// Joins a chain (leaf first) with its key and checks that they belong together.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let leaf = chain.first().ok_or_else(|| KeyError::NoCertificate(Vec::new()))?;
        let info = CertificateInfo::parse(leaf)?;
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| KeyError::Key(plain_reason(&error)))?;
        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            Ok(()) => Ok(Self {
                key: Arc::new(certified),
                info,
            }),
            Err(rustls::Error::InconsistentKeys(_)) => Err(KeyError::Mismatch {
                later_in_chain: belongs_to_later(&certified),
            }),
            Err(error) => Err(KeyError::Certificate(error.to_string())),
        }
    }
}

fn plain_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::General(reason) => reason.clone(),
        other => other.to_string(),
    }
}

fn belongs_to_later(certified: &CertifiedKey) -> bool {
    certified.cert.iter().skip(1).any(|other| {
        CertifiedKey::new(vec![other.clone()], Arc::clone(&certified.key))
            .keys_match()
            .is_ok()
    })
}

/// All `CERTIFICATE` blocks of a PEM text, in their order; at least one.
///
/// # Errors
/// No certificate in it, or broken PEM. The certificates themselves are not looked at.
pub fn certificates_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| pem_error(&e))?;
    if chain.is_empty() {
        Err(KeyError::NoCertificate(block_kinds(text)))
    } else {
        Ok(chain)
    }
}

/// The first private key of a PEM text: PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`).
///
/// # Errors
/// No key in it, an encrypted key, or broken PEM.
pub fn key_from_pem(text: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    match PrivateKeyDer::from_pem_slice(text) {
        // PKCS#1's old encryption keeps the ordinary mark and says so in a header line.
        Ok(_) if contains(text, b"Proc-Type: 4,ENCRYPTED") => Err(KeyError::EncryptedKey),
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let kinds = block_kinds(text);
            if kinds.iter().any(|kind| kind == "ENCRYPTED PRIVATE KEY") {
                Err(KeyError::EncryptedKey)
            } else {
                Err(KeyError::NoKey(kinds))
            }
        }
        Err(_) if contains(text, b"Proc-Type: 4,ENCRYPTED") => Err(KeyError::EncryptedKey),
        Err(error) => Err(pem_error(&error)),
    }
}

fn pem_error(error: &pem::Error) -> KeyError {
    KeyError::Pem(match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!(
                "`-----END {}-----` is missing (is the file cut off?)",
                String::from_utf8_lossy(end_marker).trim()
            )
        }
        pem::Error::IllegalSectionStart { line } => {
            format!("bad `-----BEGIN` line: {}", String::from_utf8_lossy(line).trim())
        }
        pem::Error::Base64Decode(_) => "what stands between the marks is not base64".to_owned(),
        other => other.to_string(),
    })
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(text, needle).is_some()
}

/// The kinds of the blocks of a PEM text, for messages only.
pub(super) fn block_kinds(text: &[u8]) -> Vec<String> {
    let mut kinds: Vec<String> = String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("-----BEGIN ")?
                .strip_suffix("-----")
                .map(str::to_owned)
        })
        .collect();
    kinds.dedup();
    kinds.truncate(4);
    kinds
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Authority, openssl};
    use super::*;

    #[test]
    fn reads_the_three_forms_of_a_key() {
        let pair = Authority::new("ca").leaf("a.test", &["a.test"]);
        let sec1 = openssl(&["ec"], &pair.key);
        assert!(sec1.starts_with("-----BEGIN EC PRIVATE KEY-----"), "{sec1}");
        for key in [&pair.key, &sec1, &format!("{}{sec1}", pair.certificate)] {
            let identity = Identity::from_pem(pair.certificate.as_bytes(), key.as_bytes()).unwrap();
            assert_eq!(identity.info.common_name, "a.test");
        }
        let rsa = openssl(&["genrsa", "-traditional", "2048"], "");
        assert!(rsa.starts_with("-----BEGIN RSA PRIVATE KEY-----"), "{rsa}");
        let certificate = openssl(&["req", "-x509", "-subj", "/CN=r", "-key", "/dev/stdin"], &rsa);
        Identity::from_pem(certificate.as_bytes(), rsa.as_bytes()).unwrap();
    }

    #[test]
    fn says_what_is_wrong() {
        let authority = Authority::new("ca");
        let pair = authority.leaf("a.test", &["a.test"]);
        let other = authority.leaf("b.test", &["b.test"]);
        let encrypted = openssl(&["pkcs8", "-topk8", "-passout", "pass:x"], &pair.key);
        let old_encrypted = openssl(&["ec", "-aes128", "-passout", "pass:x"], &pair.key);
        let cut = &pair.certificate[..pair.certificate.len() - 30];
        let chain = format!("{}{}", authority.pem, pair.certificate);
        let table: &[(&str, &str, &str)] = &[
            (
                "",
                &pair.key,
                "no certificate in it (no `-----BEGIN CERTIFICATE-----` block)",
            ),
            (
                &pair.key,
                &pair.key,
                "no certificate in it (no `-----BEGIN CERTIFICATE-----` block; found: PRIVATE KEY)",
            ),
            (&pair.certificate, "", "no private key in it"),
            (&pair.certificate, &pair.certificate, "found: CERTIFICATE)"),
            (&pair.certificate, &other.key, "does not match"),
            (&pair.certificate, &encrypted, "is encrypted"),
            (&pair.certificate, &old_encrypted, "is encrypted"),
            (cut, &pair.key, "`-----END CERTIFICATE-----` is missing"),
            (
                "-----BEGIN CERTIFICATE-----\n§\n-----END CERTIFICATE-----\n",
                &pair.key,
                "not base64",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &pair.key,
                "cannot be read",
            ),
            (
                &pair.certificate,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "cannot be used",
            ),
            (&chain, &pair.key, "does not match"),
        ];
        for (certificate, key, expected) in table {
            let error = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error} / {expected}");
        }
        let error = Identity::from_pem(chain.as_bytes(), pair.key.as_bytes()).unwrap_err();
        assert!(error.help().unwrap().contains("must come first"));
    }

    #[test]
    fn describes_the_certificate() {
        let pair = Authority::new("ca").leaf_until("A.test", &["b.test", "A.test", "10.0.0.1", "::1"], 2030);
        let info = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())
            .unwrap()
            .info;
        assert_eq!(info.common_name, "A.test");
        assert_eq!(info.dns_names, ["A.test", "b.test"]);
        assert_eq!(info.names(), ["10.0.0.1", "::1", "a.test", "b.test"]);
        assert_eq!(info.not_after, 1_893_456_000);
        let serial = openssl(&["x509", "-noout", "-serial"], &pair.certificate);
        assert_eq!(
            serial.trim().trim_start_matches("serial=").trim_start_matches('0'),
            info.serial_hex
        );
        assert!(info.serial.bytes().all(|byte| byte.is_ascii_digit()));
    }

    #[test]
    fn an_expired_certificate_is_usable_and_said() {
        let pair = Authority::new("ca").leaf_until("a.test", &["a.test"], 2020);
        let info = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())
            .unwrap()
            .info;
        let problem = info.validity_problem(SystemTime::now()).unwrap();
        assert_eq!(problem, "the certificate expired on Wed, 01 Jan 2020 00:00:00 GMT");
        assert_eq!(
            info.validity_problem(UNIX_EPOCH + Duration::from_secs(1_500_000_000)),
            None
        );
    }
}
