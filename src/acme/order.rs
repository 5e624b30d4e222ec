//! One certificate: an order, a proof for each name, a signing request, and the chain that comes back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, RsaKeySize,
};

use super::schedule::Trouble;
use super::storage::Stored;
use crate::config::static_config::{Acme, KeyType};
use crate::tls::challenge::{Challenges, Proof};
use crate::tls::keys::Identity;

/// How long the authority may take to look at the proofs.
const PROOFS: Duration = Duration::from_secs(5 * 60);
/// How long an order may take as a whole.
const WHOLE: Duration = Duration::from_secs(15 * 60);
/// Longest common name (RFC 5280, `ub-common-name`).
const COMMON_NAME: usize = 64;
/// What problem types of ACME begin with.
const PROBLEM: &str = "urn:ietf:params:acme:error:";

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) trouble: Trouble,
    pub(super) text: String,
}

impl Failure {
    fn refused(text: impl Into<String>) -> Self {
        Self {
            trouble: Trouble::Refused,
            text: text.into(),
        }
    }

    fn late(text: &str) -> Self {
        Self {
            trouble: Trouble::Unreachable,
            text: text.to_owned(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self {
                trouble: trouble(&problem),
                text: describe(&problem),
            },
            Error::Json(_) => {
                Self::late("the authority's answer cannot be read: it is no ACME server, or it is not well")
            }
            Error::Unsupported(what) => Self::refused(format!("the authority does not support {what}")),
            other => Self::late(&other.to_string()),
        }
    }
}

/// What a problem document means for the next attempt.
fn trouble(problem: &Problem) -> Trouble {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    match kind.strip_prefix(PROBLEM).unwrap_or_default() {
        "accountDoesNotExist" => Trouble::AccountLost,
        "badNonce" | "serverInternal" => Trouble::Unreachable,
        _ if problem.status.is_some_and(|status| status >= 500) => Trouble::Unreachable,
        _ => Trouble::Refused,
    }
}

fn describe(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let mut text = format!(
        "{} ({})",
        problem.detail.as_deref().unwrap_or("the authority says no"),
        kind.strip_prefix(PROBLEM).unwrap_or(kind)
    );
    for part in &problem.subproblems {
        if let Some(detail) = &part.detail {
            text.push_str("; ");
            text.push_str(detail);
        }
    }
    if kind.ends_with(":externalAccountRequired") {
        text.push_str("; set `eab` with the key that the authority gave you");
    }
    text
}

/// Gets one certificate. The proofs are gone when this ends, or is dropped.
pub(super) async fn get(
    account: Account,
    acme: Arc<Acme>,
    challenges: Arc<Challenges>,
    names: Vec<String>,
) -> Result<Stored, Failure> {
    let getting = async {
        let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
        let mut new = NewOrder::new(&identifiers);
        if !acme.profile.is_empty() {
            new = new.profile(&acme.profile);
        }
        let mut order = account.new_order(&new).await?;
        let proofs = prove(&mut order, &acme, &challenges).await?;
        if order.state().status == OrderStatus::Pending || !proofs.is_empty() {
            let status = order.poll_ready(&RetryPolicy::new().timeout(PROOFS)).await;
            match status {
                Ok(OrderStatus::Ready) => {}
                Ok(_) => return Err(why_invalid(&mut order, "the order is invalid".to_owned()).await),
                // An order that fails says little by itself; what the authority saw stands with the challenge. A problem
                // of another kind is one of the request and not of the order.
                Err(Error::Api(problem)) if order.state().status == OrderStatus::Invalid => {
                    return Err(why_invalid(&mut order, describe(&problem)).await);
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(proofs);
        let (request, key) = signing_request(&names, &acme).await?;
        order.finalize_csr(&request).await?;
        let policy = RetryPolicy::new().timeout(acme.certificate_timeout);
        let certificate = order.poll_certificate(&policy).await?;
        let stored = Stored {
            names: names.clone(),
            certificate: certificate.into_bytes(),
            key: key.into_bytes(),
        };
        verify(&stored, SystemTime::now()).map_err(Failure::refused)?;
        Ok(stored)
    };
    let limited = tokio::time::timeout(WHOLE, getting).await;
    limited.unwrap_or_else(|_| Err(Failure::late("the order took too long")))
}

/// Lays out a proof for each name that the authority has not seen proven lately, and tells it to look.
async fn prove(order: &mut Order, acme: &Acme, challenges: &Arc<Challenges>) -> Result<Vec<Proof>, Failure> {
    let over_http = acme.http_challenge.is_some();
    let (kind, word) = match over_http {
        true => (ChallengeType::Http01, "http-01"),
        false => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
    };
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            status => {
                return Err(Failure::refused(format!(
                    "an authorization is {status:?} from the start"
                )));
            }
        }
        let missing = || Failure::refused(format!("the authority does not offer the challenge {word}"));
        let mut challenge = authorization.challenge(kind.clone()).ok_or_else(missing)?;
        let answer = challenge.key_authorization();
        let proof = if over_http {
            challenges.http(&challenge.token, answer.as_str())
        } else {
            let name = challenge.identifier().to_string();
            let made = challenges.tls(&name, answer.digest().as_ref());
            made.map_err(|error| Failure::refused(format!("{name}: {error}")))?
        };
        proofs.push(proof);
        tokio::time::sleep(acme.delay()).await;
        challenge.set_ready().await?;
    }
    Ok(proofs)
}

/// What the authority saw when it looked; `otherwise` where it does not say.
async fn why_invalid(order: &mut Order, otherwise: String) -> Failure {
    let mut seen = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization
            .challenges
            .iter()
            .filter_map(|challenge| challenge.error.as_ref());
        seen.extend(problems.map(|problem| format!("{name}: {}", describe(problem))));
    }
    Failure::refused(if seen.is_empty() { otherwise } else { seen.join("; ") })
}

/// A signing request with a new key: DER, and the key in PEM.
async fn signing_request(names: &[String], acme: &Acme) -> Result<(Vec<u8>, String), Failure> {
    let (names, kind, anonymous) = (names.to_vec(), acme.key_type, acme.disable_common_name);
    let make = move || -> Result<(Vec<u8>, String), rcgen::Error> {
        let key = match kind {
            KeyType::Ec256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            KeyType::Ec384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?,
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
            KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096)?,
        };
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        if let Some(main) = names.first().filter(|main| !anonymous && main.len() <= COMMON_NAME) {
            params.distinguished_name.push(DnType::CommonName, main);
        }
        let request = params.serialize_request(&key)?;
        Ok((request.der().to_vec(), key.serialize_pem()))
    };
    // A large RSA key takes seconds.
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|error| Failure::late(&error.to_string()))?;
    made.map_err(|error| Failure::refused(format!("cannot make a signing request: {error}")))
}

/// Whether a certificate is good for what it was asked for.
fn verify(stored: &Stored, now: SystemTime) -> Result<(), String> {
    let identity = Identity::from_pem(&stored.certificate, &stored.key)
        .map_err(|error| format!("the certificate that came cannot be used: {error}"))?;
    let held = identity.info.names();
    if let Some(missing) = stored.names.iter().find(|name| !held.contains(name)) {
        return Err(format!("the certificate that came does not hold `{missing}`"));
    }
    match identity.info.validity_problem(now) {
        Some(problem) if now > super::storage::time(identity.info.not_after) => Err(problem),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str, status: u16) -> Problem {
        let text = format!("{{\"type\": \"{PROBLEM}{kind}\", \"detail\": \"because\", \"status\": {status}}}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn problems_say_when_to_come_again() {
        for (kind, status, expected) in [
            ("accountDoesNotExist", 400, Trouble::AccountLost),
            ("badNonce", 400, Trouble::Unreachable),
            ("serverInternal", 500, Trouble::Unreachable),
            ("other", 503, Trouble::Unreachable),
            ("rateLimited", 429, Trouble::Refused),
            ("unauthorized", 403, Trouble::Refused),
        ] {
            let failure = Failure::from(Error::Api(problem(kind, status)));
            assert_eq!(failure.trouble, expected, "{kind}");
            assert_eq!(failure.text, format!("because ({kind})"));
        }
        let wants_account = describe(&problem("externalAccountRequired", 403));
        assert!(wants_account.contains("set `eab`"), "{wants_account}");
    }

    #[tokio::test]
    async fn signing_requests_hold_the_names_and_a_key_of_the_kind() {
        let names = ["a.test", "b.test"].map(str::to_owned).to_vec();
        for key_type in [KeyType::Ec256, KeyType::Ec384, KeyType::Rsa2048] {
            let acme = Acme {
                key_type,
                ..Acme::default()
            };
            let (request, key) = signing_request(&names, &acme).await.unwrap();
            let text = String::from_utf8_lossy(&request);
            assert!(text.contains("a.test") && text.contains("b.test"));
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
        }
    }

    #[test]
    fn what_does_not_fit_is_not_served() {
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let other = KeyPair::generate().unwrap();
        let stored = |names: &[&str], key: &KeyPair| Stored {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            certificate: made.cert.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        };
        let now = SystemTime::now();
        assert_eq!(verify(&stored(&["a.test"], &made.signing_key), now), Ok(()));
        let error = |stored| verify(&stored, now).unwrap_err();
        assert!(error(stored(&["a.test"], &other)).contains("does not match"));
        assert!(error(stored(&["a.test", "b.test"], &made.signing_key)).contains("`b.test`"));
    }
}
