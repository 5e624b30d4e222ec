//! `tls.options.NAME.clientAuth` → the verifier of a client's certificate, and what is said of one that was shown.
//!
//! Invariant: what cannot be read closes the hosts of the options (there is no verifier then, and an error says why);
//! nobody is let in because a list of authorities, or of revoked certificates, was missing or empty.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::cache::Fingerprint;
use super::client_verifier::{AnyClient, Root, TrustedClients};
use super::keys::{KeyError, block_kinds, certificates_from_pem, date};
use super::setup::UNREADABLE;
use super::subject::subject;
use crate::config::Resources;
use crate::config::dynamic::{ClientAuth, ClientAuthType, TlsOptions};
use crate::diag::Diagnostic;

/// The certificate that a client has shown, with the key of which it has signed the handshake.
#[derive(Debug)]
pub struct ClientCertificate {
    /// As the client sent it: its own first, then those of its issuers. Bounded by rustls: 64 KiB.
    pub chain: Vec<CertificateDer<'static>>,
    /// The subject of the first as Traefik writes it: the access log's TLSClientSubject.
    pub subject: String,
    /// Whether one of `caFiles` has signed it; else anybody can have made it.
    pub verified: bool,
}

impl ClientCertificate {
    /// What a handshake was shown; `None` if that was nothing.
    pub(super) fn shown(chain: Option<&[CertificateDer<'static>]>, verified: bool) -> Option<Arc<Self>> {
        let chain = chain?;
        Some(Arc::new(Self {
            subject: subject(chain.first()?),
            chain: chain.to_vec(),
            verified,
        }))
    }
}

/// What is asked of clients, read and ready to be built.
#[derive(Debug)]
pub(super) struct ClientAuthPlan {
    asks: ClientAuthType,
    roots: Vec<Root>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Of everything that was read.
    pub(super) fingerprint: Fingerprint,
}

impl ClientAuthPlan {
    /// Reads the files of the options at `path`. `Some(None)`: clients are asked for nothing. `None`: an error is among
    /// the diagnostics, and the options cannot be served.
    pub(super) fn read(
        options: &TlsOptions,
        path: &str,
        resources: &Resources,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Option<Self>> {
        let asks = options.client_auth_type();
        let Some(auth) = options
            .client_auth
            .as_ref()
            .filter(|_| asks != ClientAuthType::NoClientCert)
        else {
            return Some(None);
        };
        let mut reader = Reader {
            path: format!("{path}.clientAuth"),
            resources,
            diagnostics,
            now: now(),
            contents: Vec::new(),
            sound: true,
        };
        let roots = reader.authorities(auth);
        let revoked = reader.revoked(auth, &roots);
        if asks.verifies() && auth.ca_files.is_empty() {
            reader.error(
                "caFiles",
                "there are no certificate authorities to verify clients with".to_owned(),
            );
        }
        let contents = reader.contents.iter().map(Vec::as_slice);
        let fingerprint = Fingerprint::of([asks.as_str().as_bytes()].into_iter().chain(contents));
        reader.sound.then_some(Some(Self {
            asks,
            roots,
            revoked,
            fingerprint,
        }))
    }

    /// The verifier for rustls.
    ///
    /// # Errors
    /// A list of revoked certificates cannot be used.
    pub(super) fn verifier(self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let required = self.asks.requires();
        if self.asks.verifies() {
            let provider = Arc::clone(provider);
            let trusted = TrustedClients::new(self.roots, self.revoked, required, provider, now());
            return Ok(Arc::new(trusted.map_err(|error| error.to_string())?));
        }
        let mut told = RootCertStore::empty();
        told.add_parsable_certificates(self.roots.into_iter().map(|root| root.der));
        Ok(Arc::new(AnyClient {
            required,
            hints: told.subjects(),
            algorithms: provider.signature_verification_algorithms,
        }))
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Reads the files of one `clientAuth`.
struct Reader<'a> {
    path: String,
    resources: &'a Resources,
    diagnostics: &'a mut Vec<Diagnostic>,
    now: i64,
    contents: Vec<Vec<u8>>,
    sound: bool,
}

impl Reader<'_> {
    fn error(&mut self, key: &str, message: String) {
        self.error_with(key, message, None);
    }

    fn error_with(&mut self, key: &str, message: String, help: Option<&str>) {
        let message = format!("{message}: the hosts with these options are closed");
        let error = Diagnostic::error(format!("{}.{key}", self.path), message);
        self.diagnostics.push(match help {
            Some(help) => error.help(help),
            None => error,
        });
        self.sound = false;
    }

    fn warn(&mut self, key: &str, message: String) {
        self.diagnostics
            .push(Diagnostic::warning(format!("{}.{key}", self.path), message));
    }

    fn file(&mut self, key: &str, value: &str) -> Option<Vec<u8>> {
        match self.resources.file_or_content(value) {
            Ok(content) => {
                let content = content.into_owned();
                self.contents.push(content.clone());
                Some(content)
            }
            Err(error) => {
                self.error_with(key, error, Some(UNREADABLE));
                None
            }
        }
    }

    fn authorities(&mut self, auth: &ClientAuth) -> Vec<Root> {
        let mut roots = Vec::new();
        for (index, value) in auth.ca_files.iter().enumerate() {
            let key = format!("caFiles[{index}]");
            let Some(content) = self.file(&key, value) else {
                continue;
            };
            let found = match certificates_from_pem(&content) {
                Ok(found) => found,
                Err(error) => {
                    let help = match error {
                        KeyError::NoCertificate(_) => Some("give the certificates of the clients' authorities in PEM"),
                        _ => error.help(),
                    };
                    self.error_with(&key, error.to_string(), help);
                    continue;
                }
            };
            let count = roots.len();
            for (number, der) in found.into_iter().enumerate() {
                roots.extend(self.authority(&key, number, der));
            }
            if roots.len() == count {
                self.error(&key, "none of its certificates can be read".to_owned());
            }
        }
        roots
    }

    fn authority(&mut self, key: &str, number: usize, der: CertificateDer<'static>) -> Option<Root> {
        let which = format!("certificate {}", number + 1);
        let usable = RootCertStore::empty().add(der.clone()).is_ok();
        let Some((_, parsed)) = X509Certificate::from_der(&der).ok().filter(|_| usable) else {
            self.warn(key, format!("{which} cannot be read and is left out"));
            return None;
        };
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let name = subject(&der);
        if not_after < self.now {
            let expired = date(not_after);
            self.warn(
                key,
                format!("{which} (`{name}`) expired on {expired}: its clients are refused"),
            );
        } else if not_before > self.now {
            let begin = date(not_before);
            self.warn(
                key,
                format!("{which} (`{name}`) is not valid before {begin}: its clients are refused"),
            );
        }
        Some(Root {
            not_before,
            not_after,
            der,
        })
    }

    fn revoked(&mut self, auth: &ClientAuth, roots: &[Root]) -> Vec<CertificateRevocationListDer<'static>> {
        let mut lists = Vec::new();
        for (index, value) in auth.crl_files.iter().enumerate() {
            let key = format!("crlFiles[{index}]");
            let Some(content) = self.file(&key, value) else {
                continue;
            };
            match lists_of(&content) {
                Ok(found) => {
                    for list in &found {
                        self.list(&key, list, roots);
                    }
                    lists.extend(found);
                }
                Err(error) => {
                    let help = "give the list as the authority publishes it, in PEM or DER";
                    self.error_with(&key, error, Some(help));
                }
            }
        }
        lists
    }

    fn list(&mut self, key: &str, list: &CertificateRevocationListDer<'_>, roots: &[Root]) {
        let parsed = CertificateRevocationList::from_der(list);
        let usable = webpki_reads(list, roots);
        match (parsed, usable) {
            (Err(error), _) => self.error(key, format!("the list of revoked certificates cannot be read: {error}")),
            (_, Err(error)) => self.error(key, format!("the list of revoked certificates cannot be used: {error}")),
            (Ok((_, parsed)), Ok(())) => {
                let end = parsed.next_update().map(|time| time.timestamp());
                if let Some(end) = end.filter(|end| *end < self.now) {
                    let message = format!(
                        "the list of `{}` should have been replaced by {}: what was revoked since is not known",
                        parsed.issuer(),
                        date(end)
                    );
                    self.warn(key, message);
                }
            }
        }
    }
}

/// Whether webpki can work with a list. It asks for some authority, whichever.
fn webpki_reads(list: &CertificateRevocationListDer<'_>, roots: &[Root]) -> Result<(), String> {
    let list = CertificateRevocationListDer::from(list.as_ref().to_vec());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Some(root) = roots.first() else { return Ok(()) };
    match TrustedClients::new(vec![root.clone()], vec![list], true, provider, root.not_before) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The lists of revoked certificates in a file: blocks of PEM, or one list in DER.
fn lists_of(content: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    /// First byte of anything in DER that a list may be: a sequence.
    const SEQUENCE: u8 = 0x30;
    if content.first() == Some(&SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(content.to_vec())]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(content)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("not valid PEM: {error}"))?;
    if lists.is_empty() {
        let kinds = block_kinds(content);
        let found = match kinds.as_slice() {
            [] => String::new(),
            kinds => format!("; found: {}", kinds.join(", ")),
        };
        return Err(format!(
            "there is no list of revoked certificates in it (no `-----BEGIN X509 CRL-----` block{found})"
        ));
    }
    Ok(lists)
}

#[cfg(test)]
mod tests;
