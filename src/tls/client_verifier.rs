//! How the certificate of a client is judged.
//!
//! - [`TrustedClients`]: what the listed authorities have signed, and the listed certificates themselves, as in Go.
//!   Lists of revoked certificates (CRLs) are looked up where they are given.
//! - [`AnyClient`]: any certificate whose key the client holds. Who has signed it does not matter.
//!
//! Invariants:
//! - Both check the signature of the handshake: a client cannot show what is not its own.
//! - An authority is trusted while it is valid only, also when it expires while the process runs. webpki does not look
//!   at the dates of those that it trusts, Go does.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::verify::{check_dates, parse, seconds};

/// A certificate authority of the clients.
#[derive(Debug, Clone)]
pub struct Root {
    /// Its certificate.
    pub der: CertificateDer<'static>,
    /// Valid from, seconds since 1970.
    pub not_before: i64,
    /// Valid until, seconds since 1970.
    pub not_after: i64,
}

impl Root {
    const fn is_valid(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Believes what the listed authorities have signed, and the listed certificates themselves.
#[derive(Debug)]
pub struct TrustedClients {
    roots: Vec<Root>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    hints: Vec<DistinguishedName>,
    required: bool,
    provider: Arc<CryptoProvider>,
    /// Made again when an authority begins or ends to be valid: control and data plane never wait for each other.
    judge: ArcSwap<Judge>,
}

/// The authorities that are valid at a time.
#[derive(Debug)]
struct Judge {
    /// The last second for which it is good.
    until: i64,
    /// `None`: none is valid.
    chains: Option<Chains>,
}

#[derive(Debug)]
struct Chains {
    /// Path and dates; with CRLs also that the client's own certificate stands in none and its issuer has one.
    own: Arc<dyn ClientCertVerifier>,
    /// That no authority on the path is revoked; those without a CRL pass.
    issuers: Option<Arc<dyn ClientCertVerifier>>,
}

impl TrustedClients {
    /// Trusts `roots` and what they have signed, but for what stands in `revoked`. Where a list is given, each client's
    /// issuer must have one.
    ///
    /// # Errors
    /// A root or a list cannot be read.
    pub fn new(
        roots: Vec<Root>,
        revoked: Vec<CertificateRevocationListDer<'static>>,
        required: bool,
        provider: Arc<CryptoProvider>,
        now: i64,
    ) -> Result<Self, VerifierBuilderError> {
        let mut all = RootCertStore::empty();
        all.add_parsable_certificates(roots.iter().map(|root| root.der.clone()));
        let judge = Judge::new(&roots, &revoked, &provider, now)?;
        Ok(Self {
            roots,
            revoked,
            hints: all.subjects(),
            required,
            provider,
            judge: ArcSwap::from_pointee(judge),
        })
    }

    fn judge(&self, now: i64) -> Result<Arc<Judge>, Error> {
        let judge = self.judge.load_full();
        if now <= judge.until {
            return Ok(judge);
        }
        let fresh = Judge::new(&self.roots, &self.revoked, &self.provider, now);
        let fresh = Arc::new(fresh.map_err(|error| Error::General(error.to_string()))?);
        self.judge.store(Arc::clone(&fresh));
        Ok(fresh)
    }
}

impl Judge {
    fn new(
        roots: &[Root],
        revoked: &[CertificateRevocationListDer<'static>],
        provider: &Arc<CryptoProvider>,
        now: i64,
    ) -> Result<Self, VerifierBuilderError> {
        let changes = roots.iter().map(|root| match root.not_before {
            begin if begin > now => begin - 1,
            _ if root.not_after >= now => root.not_after,
            _ => i64::MAX,
        });
        let until = changes.min().unwrap_or(i64::MAX);
        let mut valid = RootCertStore::empty();
        let dated = roots.iter().filter(|root| root.is_valid(now));
        valid.add_parsable_certificates(dated.map(|root| root.der.clone()));
        if valid.is_empty() {
            return Ok(Self { until, chains: None });
        }
        let valid = Arc::new(valid);
        let builder = || {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&valid), Arc::clone(provider))
                .with_crls(revoked.iter().cloned())
        };
        let own = builder().only_check_end_entity_revocation().build()?;
        let issuers = match revoked {
            [] => None,
            _ => Some(builder().allow_unknown_revocation_status().build()?),
        };
        Ok(Self {
            until,
            chains: Some(Chains { own, issuers }),
        })
    }
}

impl ClientCertVerifier for TrustedClients {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.roots.iter().any(|root| root.der == *certificate) {
            // Whoever wants it revoked takes it out of the list.
            check_listed(certificate, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        let judge = self.judge(seconds(now))?;
        let chains = judge.chains.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        let verified = chains.own.verify_client_cert(certificate, intermediates, now)?;
        if let Some(issuers) = &chains.issuers {
            issuers.verify_client_cert(certificate, intermediates, now)?;
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Dates and purpose of a certificate that is trusted as it is.
fn check_listed(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = parse(certificate)?;
    check_dates(&parsed, now)?;
    match parsed.extended_key_usage() {
        Ok(Some(usage)) if !usage.value.any && !usage.value.client_auth => Err(CertificateError::InvalidPurpose.into()),
        Ok(_) => Ok(()),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// Believes any certificate whose key the client holds.
#[derive(Debug)]
pub struct AnyClient {
    /// Whether a client without a certificate is refused.
    pub required: bool,
    /// Authorities that the client is told of; it may show a certificate of another one.
    pub hints: Vec<DistinguishedName>,
    /// What signatures may be made with.
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        ParsedCertificate::try_from(certificate)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
