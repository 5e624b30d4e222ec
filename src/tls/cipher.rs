//! The names that Traefik's users know for versions, cipher suites and curves, and what rustls has for them.
//!
//! Go knows suites that rustls leaves out because they are weak (CBC, RC4, 3DES, RSA key exchange). Such a name is a
//! warning and not offered; a name that Go does not know either is an error. The suites of TLS 1.3 are always on, as
//! in Go: `cipherSuites` only chooses among those of TLS 1.2.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::config::dynamic::TlsVersion;
use crate::diag::{Diagnostic, did_you_mean};

/// Suites by name in the order of preference: as Go's, AES-128 before AES-256 before ChaCha20.
static SUITES: &[(&str, SupportedCipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Go's shorter names of two suites.
const SUITE_ALIASES: &[(&str, &str)] = &[
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// What Go knows and rustls leaves out.
const WEAK_SUITES: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_FALLBACK_SCSV",
];

/// Groups by Go's name and by that of RFC 8446.
static CURVES: &[(&str, &dyn SupportedKxGroup)] = &[
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
    ("SecP256r1MLKEM768", kx_group::SECP256R1MLKEM768),
    ("X25519", kx_group::X25519),
    ("x25519", kx_group::X25519),
    ("CurveP256", kx_group::SECP256R1),
    ("secp256r1", kx_group::SECP256R1),
    ("CurveP384", kx_group::SECP384R1),
    ("secp384r1", kx_group::SECP384R1),
];

/// Groups that Go knows and rustls leaves out.
const MISSING_CURVES: &[&str] = &["CurveP521", "secp521r1", "SecP384r1MLKEM1024"];

/// A version as Traefik's metrics and access log spell it: `1.2`, `1.3`.
pub const fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "unknown",
    }
}

/// A cipher suite as Traefik's metrics and access log spell it, such as `TLS_AES_128_GCM_SHA256`.
pub fn suite_name(suite: Option<CipherSuite>) -> &'static str {
    suite
        .and_then(|suite| SUITES.iter().find(|(_, known)| known.suite() == suite))
        .map_or("unknown", |(name, _)| *name)
}

/// Whether a client's list of suites says that it has no AES in hardware: Go's rule, the first suite that both know
/// decides.
pub fn prefers_chacha(client: &[CipherSuite]) -> bool {
    client
        .iter()
        .find_map(|suite| SUITES.iter().find(|(_, known)| known.suite() == *suite))
        .is_some_and(|(name, _)| name.contains("CHACHA20"))
}

/// The settings that a server's options and a client's transport have in common.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `minVersion`.
    pub min: Option<TlsVersion>,
    /// `maxVersion`.
    pub max: Option<TlsVersion>,
    /// `cipherSuites`.
    pub suites: &'a [String],
    /// `curvePreferences`.
    pub curves: &'a [String],
}

/// What rustls needs for them.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// Suites, groups, random numbers.
    pub provider: Arc<CryptoProvider>,
    /// Versions offered.
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl Wanted<'_> {
    /// Translates the settings of the section at `path`. `None` means that an error is among the diagnostics.
    pub fn resolve(&self, path: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Protocol> {
        let mut versions = self.versions(path, diagnostics);
        let suites = self.suites(path, diagnostics);
        let groups = self.curves(path, diagnostics);
        let suites = suites?;
        if let Some(versions) = &mut versions {
            let tls12 = suites.iter().any(|suite| suite.tls13().is_none());
            if !tls12 && versions.contains(&&version::TLS12) {
                self.without_tls12(path, versions, diagnostics);
            }
            if versions.is_empty() {
                return None;
            }
        }
        let provider = CryptoProvider {
            cipher_suites: suites,
            kx_groups: groups?,
            ..aws_lc_rs::default_provider()
        };
        Some(Protocol {
            provider: Arc::new(provider),
            versions: versions?,
        })
    }

    fn without_tls12(
        &self,
        path: &str,
        versions: &mut Vec<&'static SupportedProtocolVersion>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let path = format!("{path}.cipherSuites");
        versions.retain(|version| **version != version::TLS12);
        if versions.is_empty() {
            diagnostics.push(Diagnostic::error(
                path,
                "no cipher suite is left for TLS 1.2, the only version allowed",
            ));
        } else if self.min.is_some() {
            diagnostics.push(Diagnostic::warning(
                path,
                "no cipher suite is left for TLS 1.2: only TLS 1.3 is offered",
            ));
        }
    }

    fn versions(
        &self,
        path: &str,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Vec<&'static SupportedProtocolVersion>> {
        let old = |version: &TlsVersion| matches!(version, TlsVersion::Tls10 | TlsVersion::Tls11);
        if let Some(max) = self.max.filter(old) {
            diagnostics.push(
                Diagnostic::error(
                    format!("{path}.maxVersion"),
                    format!(
                        "no version is left: Gantry speaks TLS 1.2 and 1.3, and `{}` is below both",
                        max.as_str()
                    ),
                )
                .help("leave `maxVersion` out, or use `VersionTLS12`"),
            );
            return None;
        }
        let mut min = self.min.unwrap_or(TlsVersion::Tls12);
        if old(&min) {
            diagnostics.push(Diagnostic::warning(
                format!("{path}.minVersion"),
                format!(
                    "`{}` is broken and never spoken: the lowest version is TLS 1.2",
                    min.as_str()
                ),
            ));
            min = TlsVersion::Tls12;
        }
        let max = self.max.unwrap_or(TlsVersion::Tls13);
        if min > max {
            diagnostics.push(Diagnostic::error(
                format!("{path}.minVersion"),
                format!("`{}` is above `maxVersion`, `{}`", min.as_str(), max.as_str()),
            ));
            return None;
        }
        let mut versions = Vec::with_capacity(2);
        if max >= TlsVersion::Tls13 {
            versions.push(&version::TLS13);
        }
        if min <= TlsVersion::Tls12 {
            versions.push(&version::TLS12);
        }
        Some(versions)
    }

    fn suites(&self, path: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<SupportedCipherSuite>> {
        if self.suites.is_empty() {
            return Some(SUITES.iter().map(|(_, suite)| *suite).collect());
        }
        let mut listed = Vec::new();
        let mut failed = false;
        for (index, name) in self.suites.iter().enumerate() {
            let path = format!("{path}.cipherSuites[{index}]");
            let full = SUITE_ALIASES
                .iter()
                .find(|(alias, _)| alias == name)
                .map_or(name.as_str(), |(_, full)| full);
            if let Some((name, _)) = SUITES.iter().find(|(known, _)| *known == full) {
                listed.push(*name);
            } else if WEAK_SUITES.contains(&full) {
                diagnostics.push(Diagnostic::warning(path, format!("`{name}` is weak and never offered")));
            } else {
                let known = SUITES.iter().map(|(name, _)| *name);
                diagnostics.push(unknown(path, "cipher suite", name, known));
                failed = true;
            }
        }
        if listed.is_empty() && !failed {
            diagnostics.push(
                Diagnostic::error(
                    format!("{path}.cipherSuites"),
                    "none of the listed cipher suites can be offered",
                )
                .help("leave `cipherSuites` out: Gantry offers safe suites only"),
            );
            failed = true;
        }
        let chosen = SUITES
            .iter()
            .filter(|(name, suite)| suite.tls13().is_some() || listed.contains(name));
        (!failed).then(|| chosen.map(|(_, suite)| *suite).collect())
    }

    fn curves(&self, path: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Vec<&'static dyn SupportedKxGroup>> {
        if self.curves.is_empty() {
            return Some(aws_lc_rs::DEFAULT_KX_GROUPS.to_vec());
        }
        let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
        let mut failed = false;
        for (index, name) in self.curves.iter().enumerate() {
            let path = format!("{path}.curvePreferences[{index}]");
            if let Some((_, group)) = CURVES.iter().find(|(known, _)| known == name) {
                if groups.iter().all(|have| have.name() != group.name()) {
                    groups.push(*group);
                }
            } else if MISSING_CURVES.contains(&name.as_str()) {
                diagnostics.push(Diagnostic::warning(
                    path,
                    format!("`{name}` is not built into Gantry: left out"),
                ));
            } else {
                diagnostics.push(unknown(path, "curve", name, CURVES.iter().map(|(name, _)| *name)));
                failed = true;
            }
        }
        if groups.is_empty() && !failed {
            diagnostics.push(Diagnostic::error(
                format!("{path}.curvePreferences"),
                "none of the listed curves can be offered",
            ));
            failed = true;
        }
        (!failed).then_some(groups)
    }
}

fn unknown<'a>(path: String, kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let diagnostic = Diagnostic::error(path, format!("unknown {kind} `{name}`"));
    let known: Vec<&str> = known.collect();
    diagnostic.help(match did_you_mean(name, known.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known are: {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::lines;
    use super::*;

    fn resolve(
        versions: (Option<TlsVersion>, Option<TlsVersion>),
        suites: &[&str],
        curves: &[&str],
    ) -> (Option<Protocol>, Vec<String>) {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (suites, curves) = (own(suites), own(curves));
        let wanted = Wanted {
            min: versions.0,
            max: versions.1,
            suites: &suites,
            curves: &curves,
        };
        let mut diagnostics = Vec::new();
        let protocol = wanted.resolve("o", &mut diagnostics);
        (protocol, lines(&diagnostics))
    }

    #[test]
    fn versions() {
        use TlsVersion::{Tls10, Tls11, Tls12, Tls13};
        let both = vec![ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2];
        let table = [
            (None, None, Some(both.clone()), None),
            (Some(Tls12), Some(Tls13), Some(both.clone()), None),
            (Some(Tls13), None, Some(vec![ProtocolVersion::TLSv1_3]), None),
            (None, Some(Tls12), Some(vec![ProtocolVersion::TLSv1_2]), None),
            (
                Some(Tls10),
                None,
                Some(both),
                Some("warning o.minversion: `versiontls10` is broken"),
            ),
            (
                Some(Tls11),
                Some(Tls12),
                Some(vec![ProtocolVersion::TLSv1_2]),
                Some("warning o.minversion"),
            ),
            (None, Some(Tls11), None, Some("error o.maxversion: no version is left")),
            (
                Some(Tls13),
                Some(Tls12),
                None,
                Some("error o.minversion: `versiontls13` is above"),
            ),
        ];
        for (min, max, expected, message) in table {
            let (protocol, lines) = resolve((min, max), &[], &[]);
            let versions = protocol.map(|p| p.versions.iter().map(|v| v.version).collect::<Vec<_>>());
            assert_eq!(versions, expected, "{min:?} {max:?}");
            assert_eq!(lines.len(), usize::from(message.is_some()), "{lines:?}");
            assert!(message.is_none_or(|message| lines[0].starts_with(message)), "{lines:?}");
        }
    }

    #[test]
    fn suites() {
        let count = |suites: &[&str]| {
            let (protocol, lines) = resolve((None, None), suites, &[]);
            (
                protocol.map(|p| (p.provider.cipher_suites.len(), p.versions.len())),
                lines,
            )
        };
        assert_eq!(count(&[]), (Some((9, 2)), vec![]));
        assert_eq!(
            count(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]),
            (Some((4, 2)), vec![])
        );
        assert_eq!(count(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]), (Some((4, 2)), vec![]));
        assert_eq!(
            count(&["TLS_AES_128_GCM_SHA256"]),
            (Some((3, 1)), vec![]),
            "only 1.3 is left"
        );
        let (protocol, lines) = count(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_RC4_128_SHA"]);
        assert_eq!(protocol, Some((4, 2)));
        assert!(
            lines[0].starts_with("warning o.ciphersuites[1]: `tls_rsa_with_rc4_128_sha` is weak"),
            "{lines:?}"
        );
        let (protocol, lines) = count(&["TLS_RSA_WITH_RC4_128_SHA"]);
        assert_eq!(protocol, None);
        assert!(
            lines[1].starts_with("error o.ciphersuites: none of the listed"),
            "{lines:?}"
        );
        let (protocol, lines) = count(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA25"]);
        assert_eq!(protocol, None);
        assert!(
            lines[0].starts_with("error o.ciphersuites[0]: unknown cipher suite"),
            "{lines:?}"
        );
        let (protocol, lines) = resolve((None, Some(TlsVersion::Tls12)), &["TLS_AES_128_GCM_SHA256"], &[]);
        assert!(protocol.is_none() && lines[0].starts_with("error o.ciphersuites: no cipher suite is left"));
    }

    #[test]
    fn curves() {
        let (protocol, lines) = resolve((None, None), &[], &["CurveP521", "secp384r1", "CurveP384", "X25519"]);
        assert_eq!(protocol.unwrap().provider.kx_groups.len(), 2);
        assert!(lines[0].starts_with("warning o.curvepreferences[0]"), "{lines:?}");
        let (protocol, lines) = resolve((None, None), &[], &["CurveP256", "P-256"]);
        assert!(protocol.is_none() && lines[0].starts_with("error o.curvepreferences[1]: unknown curve"));
        let (protocol, lines) = resolve((None, None), &[], &["CurveP521"]);
        assert!(protocol.is_none() && lines[1].contains("none of the listed curves"));
    }

    #[test]
    fn names_are_traefiks() {
        assert_eq!(version_name(Some(ProtocolVersion::TLSv1_3)), "1.3");
        assert_eq!(version_name(None), "unknown");
        assert_eq!(
            suite_name(Some(CipherSuite::TLS13_AES_128_GCM_SHA256)),
            "TLS_AES_128_GCM_SHA256"
        );
        assert_eq!(suite_name(Some(CipherSuite::TLS_RSA_WITH_NULL_MD5)), "unknown");
    }

    #[test]
    fn go_s_rule_for_clients_without_aes() {
        use CipherSuite::{
            TLS_EMPTY_RENEGOTIATION_INFO_SCSV, TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256,
        };
        let (aes, chacha) = (TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256);
        assert!(!prefers_chacha(&[aes, chacha]));
        assert!(prefers_chacha(&[TLS_EMPTY_RENEGOTIATION_INFO_SCSV, chacha, aes]));
        assert!(!prefers_chacha(&[]));
    }
}
