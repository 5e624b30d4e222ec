//! `certificatesResolvers`: where certificates come from by themselves (ACME, RFC 8555).

use std::time::Duration;

use super::decode::Decoder;
use super::node::Node;

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

settings! {
    /// Gets and renews certificates.
    pub struct CertificatesResolver {
        /// From an authority that speaks ACME.
        "acme" => acme: Option<Acme>;
    }
    unsupported {
        "tailscale": "`acme`, or a certificate of `tailscale cert` in `tls.certificates`";
    }
    check check_resolver;
}

settings! {
    /// Certificates from an authority that speaks ACME. Exactly one challenge must be chosen.
    pub struct Acme {
        /// Address that the authority may write to.
        "email" => email: String;
        /// Further such addresses.
        "emailAddresses" => email_addresses: Vec<String>;
        /// Directory of the authority. Default: Let's Encrypt.
        "caServer" => ca_server: String = LETS_ENCRYPT.to_owned();
        /// Authorities that vouch for the server of `caServer`, each a file's name or the PEM text itself. Default: those
        /// of the system.
        "caCertificates" => ca_certificates: Vec<String>;
        /// Name that the certificate of `caServer` must hold. Default: the host of `caServer`.
        "caServerName" => ca_server_name: String;
        /// File that keeps accounts and certificates, in Traefik's layout. It must be readable for its owner only.
        /// Default: `acme.json`.
        "storage" => storage: String = "acme.json".to_owned();
        /// Kind of the certificates' keys. Default: `EC256` (Traefik: RSA4096).
        "keyType" => key_type: KeyType;
        /// Profile of the certificates, where the authority offers some.
        "profile" => profile: String;
        /// Whether the certificates are asked for without a common name. Default: false.
        "disableCommonName" => disable_common_name: bool;
        /// Account at the authority that the new one belongs to.
        "eab" => eab: Option<ExternalAccount>;
        /// How long certificates are valid, in hours: it says when they are renewed. Default: a third of the lifetime of each
        /// certificate before its end.
        "certificatesDuration" => certificates_duration: Option<u32>;
        /// Time limit for each request to the authority. Default: 2 min.
        "clientTimeout" => client_timeout: Duration = Duration::from_secs(120);
        /// Time limit for the head of each of its answers. Default: 30 s.
        "clientResponseHeaderTimeout" => client_response_header_timeout: Duration = Duration::from_secs(30);
        /// How long the authority may take to make a certificate, once the names are proven. Default: 30 s.
        "certificateTimeout" => certificate_timeout: Duration = Duration::from_secs(30);
        /// Proves names over clear-text HTTP: the authority asks port 80.
        "httpChallenge" => http_challenge: Option<HttpChallenge>;
        /// Proves names in a TLS handshake: the authority asks port 443.
        "tlsChallenge" => tls_challenge: Option<TlsChallenge>;
    }
    unsupported {
        "caSystemCertPool": "list the system's authorities in `caCertificates`: /etc/ssl/certs/ca-certificates.crt";
        "dnsChallenge": "`httpChallenge` or `tlsChallenge`; wildcard names need a certificate in `tls.certificates`";
        "preferredChain": "take it out: the authority's default chain is used";
    }
    check check_acme;
}

settings! {
    /// Proves names over clear-text HTTP.
    pub struct HttpChallenge {
        /// Entry point that the authority reaches at port 80. Needed.
        "entryPoint" => entry_point: String;
        /// Pause before the authority is told to look. Default: 0.
        "delay" => delay: Duration;
    }
    check check_http_challenge;
}

settings! {
    /// Proves names in a TLS handshake, at every entry point that speaks TLS.
    pub struct TlsChallenge [empty] {
        /// Pause before the authority is told to look. Default: 0.
        "delay" => delay: Duration;
    }
}

settings! {
    /// Account at the authority that the new one belongs to.
    pub struct ExternalAccount {
        /// Number of the key, as the authority gave it. Needed.
        "kid" => kid: String;
        /// The key, base64 (URL alphabet), as the authority gave it. Needed.
        "hmacEncoded" => hmac_encoded: String;
    }
    check check_external_account;
}

choices! {
    /// Kind of the certificates' keys.
    pub enum KeyType {
        /// ECDSA on the curve P-256.
        #[default]
        "EC256" => Ec256;
        /// ECDSA on the curve P-384.
        "EC384" => Ec384;
        /// RSA with 2048 bits.
        "RSA2048" => Rsa2048;
        /// RSA with 4096 bits.
        "RSA4096" => Rsa4096;
    }
    unsupported {
        "RSA8192": "`EC384` is stronger and a hundred times cheaper; RSA4096 is the largest RSA key";
    }
}

fn check_resolver(resolver: &CertificatesResolver, _: &Node, decoder: &mut Decoder<'_>) {
    if resolver.acme.is_none() {
        let message = format!("the certificates resolver `{}` has no `acme`", decoder.name());
        decoder.error(
            decoder.here(),
            message,
            "add `acme:` with a storage file and a challenge",
        );
    }
}

fn check_acme(acme: &Acme, _: &Node, decoder: &mut Decoder<'_>) {
    match (&acme.http_challenge, &acme.tls_challenge) {
        (None, None) => decoder.error(
            decoder.here(),
            "no challenge is chosen",
            "add `tlsChallenge: {}`, or `httpChallenge: {entryPoint: web}` for an entry point at port 80",
        ),
        (Some(_), Some(_)) => decoder.error(
            decoder.here(),
            "both `httpChallenge` and `tlsChallenge` are chosen",
            "keep one of the two",
        ),
        _ => {}
    }
    let uri = acme.ca_server.parse::<http::Uri>();
    let is_url = uri.is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
    if !is_url {
        let message = format!("`{}` is no https URL of an ACME directory", acme.ca_server);
        decoder.error(decoder.here(), message, format!("such as caServer: {LETS_ENCRYPT}"));
    }
    if acme.storage.is_empty() {
        decoder.error(
            decoder.here(),
            "`storage` is empty: certificates would be asked for at each start",
            "name a file, such as storage: /var/lib/gantry/acme.json",
        );
    }
}

fn check_http_challenge(challenge: &HttpChallenge, _: &Node, decoder: &mut Decoder<'_>) {
    if challenge.entry_point.is_empty() {
        decoder.error(
            decoder.here(),
            "`httpChallenge` has no `entryPoint`",
            "name the entry point that listens on port 80",
        );
    }
}

fn check_external_account(account: &ExternalAccount, _: &Node, decoder: &mut Decoder<'_>) {
    if account.kid.is_empty() || account.hmac_encoded.is_empty() {
        decoder.error(
            decoder.here(),
            "`eab` needs both `kid` and `hmacEncoded`",
            "copy both from the authority's account page",
        );
    } else if account.hmac_key().is_none() {
        decoder.invalid_secret(
            decoder.here(),
            "`hmacEncoded` is no base64 text",
            "copy it again from the authority's account page",
        );
    }
}

impl ExternalAccount {
    /// The key itself; `None` when it is no base64. The padding may be there or not, as in Traefik.
    #[must_use]
    pub fn hmac_key(&self) -> Option<Vec<u8>> {
        use base64::Engine as _;
        let text = self.hmac_encoded.trim_end_matches('=');
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let plain = base64::engine::general_purpose::STANDARD_NO_PAD;
        url.decode(text).or_else(|_| plain.decode(text)).ok()
    }
}

impl Acme {
    /// The addresses as the authority wants them: `mailto:a@example.com`.
    #[must_use]
    pub fn contacts(&self) -> Vec<String> {
        let addresses = std::iter::once(&self.email).chain(&self.email_addresses);
        addresses
            .filter(|address| !address.is_empty())
            .map(|address| format!("mailto:{address}"))
            .collect()
    }

    /// The pause before the authority is told to look.
    #[must_use]
    pub fn delay(&self) -> Duration {
        let http = self.http_challenge.as_ref().map(|challenge| challenge.delay);
        let tls = self.tls_challenge.as_ref().map(|challenge| challenge.delay);
        http.or(tls).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::decode_static;

    fn errors(acme: &str) -> Vec<String> {
        let text =
            format!("entryPoints: {{web: {{address: \":80\"}}}}\ncertificatesResolvers: {{le: {{acme: {acme}}}}}\n");
        let decoded = decode_static("gantry.yml", &text);
        let errors = decoded.diagnostics.iter().filter(|d| d.is_error());
        errors.map(|d| d.message.clone()).collect()
    }

    #[test]
    fn exactly_one_challenge_is_chosen() {
        assert_eq!(errors("{tlsChallenge: {}}"), Vec::<String>::new());
        assert_eq!(
            errors("{httpChallenge: {entryPoint: web, delay: 2}}"),
            Vec::<String>::new()
        );
        assert_eq!(errors("{email: a@b.test}"), ["no challenge is chosen"]);
        assert_eq!(
            errors("{tlsChallenge: {}, httpChallenge: {entryPoint: web}}"),
            ["both `httpChallenge` and `tlsChallenge` are chosen"]
        );
        assert_eq!(errors("{httpChallenge: {}}").len(), 1);
        assert_eq!(
            errors("{tlsChallenge: {}, dnsChallenge: {provider: x}}"),
            ["`dnsChallenge` is known, not supported yet"]
        );
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (acme, expected) in [
            ("{tlsChallenge: {}, caServer: \"http://ca.test/dir\"}", "no https URL"),
            ("{tlsChallenge: {}, keyType: RSA8192}", "RSA8192"),
            ("{tlsChallenge: {}, storage: \"\"}", "`storage` is empty"),
            ("{tlsChallenge: {}, eab: {kid: a}}", "needs both"),
            ("{tlsChallenge: {}, eab: {kid: a, hmacEncoded: \"*\"}}", "no base64"),
        ] {
            let errors = errors(acme);
            assert!(
                errors.iter().any(|error| error.contains(expected)),
                "{acme}: {errors:?}"
            );
        }
    }

    #[test]
    fn contacts_and_keys() {
        let text = "certificatesResolvers: {le: {acme: {email: a@b.test, emailAddresses: [c@d.test], tlsChallenge: {delay: 3}, eab: {kid: a, hmacEncoded: \"_-8=\"}}}}";
        let decoded = decode_static("gantry.yml", text);
        let acme = decoded.value.certificates_resolvers["le"].acme.clone().unwrap();
        assert_eq!(acme.contacts(), ["mailto:a@b.test", "mailto:c@d.test"]);
        assert_eq!(acme.delay(), std::time::Duration::from_secs(3));
        assert_eq!(acme.eab.unwrap().hmac_key().unwrap(), [0xff, 0xef]);
    }
}
