use std::collections::BTreeMap;
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, ExtendedKeyUsagePurpose, KeyIdMethod, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::UnixTime;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::super::cache::TlsCache;
use super::super::fixture::{
    Authority, Client, Outcome, Pair, lines, no_files, params, self_signed_authority, shake_with,
};
use super::super::keys::{Identity, key_from_pem};
use super::super::server::{RouterTls, ServerTls, TlsSetup};
use super::*;
use crate::config::dynamic::Tls;

fn options(asks: Option<ClientAuthType>, ca_files: &[&str], crl_files: &[&str]) -> TlsOptions {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    TlsOptions {
        client_auth: Some(ClientAuth {
            ca_files: owned(ca_files),
            client_auth_type: asks,
            crl_files: owned(crl_files),
        }),
        ..TlsOptions::default()
    }
}

/// A server whose host `m.test` has these options, and whose others have none.
fn serve_with(options: TlsOptions, resources: &Resources, cache: &TlsCache) -> (ServerTls, Vec<String>) {
    let tls = Tls {
        options: BTreeMap::from([("m".to_owned(), options)]),
        ..Tls::default()
    };
    let (setup, mut diagnostics) = TlsSetup::build(&tls, resources, cache);
    let hosts = ["m.test".to_owned()];
    let router = RouterTls {
        path: "http.routers.r",
        hosts: &hosts,
        options: "m",
    };
    let (server, more) = setup.entry_point([router]);
    diagnostics.extend(more);
    (server, lines(&diagnostics))
}

fn serve(options: TlsOptions) -> ServerTls {
    let (server, lines) = serve_with(options, &no_files(), &TlsCache::new());
    assert_eq!(lines, Vec::<String>::new());
    server
}

fn client(tls13: bool, shows: Option<Arc<CertifiedKey>>) -> Arc<ClientConfig> {
    let offered = Client {
        tls12: !tls13,
        tls13,
        ..Client::default()
    };
    let mut config = ClientConfig::clone(&offered.config());
    if let Some(key) = shows {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
    }
    Arc::new(config)
}

fn key(pair: &Pair) -> Arc<CertifiedKey> {
    let identity = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes());
    Arc::clone(&identity.unwrap().key)
}

/// Subject and whether it is verified, if a client that shows this is let in by both versions.
async fn shows(server: &ServerTls, pair: Option<&Pair>) -> Option<Option<(String, bool)>> {
    let mut seen = Vec::new();
    for tls13 in [true, false] {
        let outcome = shake_with(server, client(tls13, pair.map(key)), Some("m.test"), None).await;
        assert_eq!(outcome.info.is_ok(), outcome.client_error.is_none(), "{outcome:?}");
        let Outcome { info, .. } = outcome;
        seen.push(info.ok().map(|info| {
            assert!(!info.resumed);
            assert_ne!(info.client_auth_id, 0);
            info.client.map(|client| (client.subject.clone(), client.verified))
        }));
    }
    assert_eq!(seen[0], seen[1]);
    seen.swap_remove(0)
}

#[tokio::test]
async fn the_five_types() {
    use ClientAuthType::{
        NoClientCert, RequestClientCert, RequireAndVerifyClientCert, RequireAnyClientCert, VerifyClientCertIfGiven,
    };
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let good = ca.leaf("scanner", &[]);
    let foreign = other.leaf("stranger", &[]);
    let old = ca.leaf_until("old", &[], 2020);
    // None, good, foreign, expired: `-` is refused, `0` has no certificate, `?` one that is not verified, `+` a verified one.
    let table = [
        (Some(RequestClientCert), &[][..], "0???"),
        (Some(RequestClientCert), &[ca.pem.as_str()][..], "0???"),
        (Some(RequireAnyClientCert), &[][..], "-???"),
        (Some(VerifyClientCertIfGiven), &[ca.pem.as_str()][..], "0+--"),
        (Some(RequireAndVerifyClientCert), &[ca.pem.as_str()][..], "-+--"),
        (None, &[ca.pem.as_str()][..], "-+--"),
    ];
    for (asks, authorities, expected) in table {
        let server = serve(options(asks, authorities, &[]));
        let mut seen = String::new();
        for shown in [None, Some(&good), Some(&foreign), Some(&old)] {
            seen.push(match shows(&server, shown).await {
                None => '-',
                Some(None) => '0',
                Some(Some((_, false))) => '?',
                Some(Some((subject, true))) => {
                    assert_eq!(subject, "CN=scanner");
                    '+'
                }
            });
        }
        assert_eq!(seen, expected, "{asks:?} {}", authorities.len());
        let elsewhere = shake_with(&server, client(true, None), Some("other.test"), None).await;
        assert_eq!(elsewhere.info.unwrap().client_auth_id, 0, "other hosts are as before");
    }
    let server = serve(options(Some(NoClientCert), &[ca.pem.as_str()], &[]));
    let outcome = shake_with(&server, client(true, Some(key(&good))), Some("m.test"), None).await;
    let info = outcome.info.unwrap();
    assert!(info.client.is_none() && info.client_auth_id == 0);
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_by_all_types() {
    let ca = Authority::new("ca");
    let (own, stolen) = (ca.leaf("own", &[]), ca.leaf("stolen", &[]));
    let chain = certificates_from_pem(stolen.certificate.as_bytes()).unwrap();
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key_from_pem(own.key.as_bytes()).unwrap());
    let forged = Arc::new(CertifiedKey::new(chain, signer.unwrap()));
    for asks in [
        ClientAuthType::RequestClientCert,
        ClientAuthType::RequireAnyClientCert,
        ClientAuthType::VerifyClientCertIfGiven,
        ClientAuthType::RequireAndVerifyClientCert,
    ] {
        let server = serve(options(Some(asks), &[&ca.pem], &[]));
        for tls13 in [true, false] {
            let outcome = shake_with(&server, client(tls13, Some(Arc::clone(&forged))), Some("m.test"), None).await;
            assert!(outcome.info.is_err(), "{asks:?}");
        }
    }
}

#[tokio::test]
async fn a_listed_certificate_is_trusted_itself_and_intermediates_lead_to_the_root() {
    let alone = self_signed_authority(&[]);
    let root = Authority::new("root");
    let mut middle = params("middle", &[]);
    middle.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let middle_key = rcgen::KeyPair::generate().unwrap();
    let middle_pem = middle.signed_by(&middle_key, &root.issuer).unwrap().pem();
    let middle = Authority {
        pem: middle_pem.clone(),
        issuer: rcgen::Issuer::new(middle, middle_key),
    };
    let mut leaf = middle.leaf("leaf", &[]);
    let server = serve(options(None, &[&alone.certificate, &root.pem], &[]));
    assert!(shows(&server, Some(&alone)).await.is_some());
    assert!(shows(&server, Some(&leaf)).await.is_none(), "the chain is broken");
    leaf.certificate += &middle_pem;
    assert!(shows(&server, Some(&leaf)).await.is_some());
    // An intermediate alone is an authority too, as in Go.
    let server = serve(options(None, &[&middle_pem], &[]));
    assert!(shows(&server, Some(&leaf)).await.is_some());
}

#[tokio::test]
async fn a_certificate_for_servers_is_none_for_clients() {
    let ca = Authority::new("ca");
    let with = |usage| {
        let mut params = params("x", &[]);
        params.extended_key_usages = vec![usage];
        ca.sign(&params)
    };
    let (client, server_only) = (
        with(ExtendedKeyUsagePurpose::ClientAuth),
        with(ExtendedKeyUsagePurpose::ServerAuth),
    );
    for listed in [&ca.pem, &format!("{}{}", client.certificate, server_only.certificate)] {
        let server = serve(options(None, &[listed], &[]));
        assert!(shows(&server, Some(&client)).await.is_some());
        assert!(shows(&server, Some(&server_only)).await.is_none());
    }
}

fn list(ca: &Authority, serials: &[u64], next_update: i32) -> rcgen::CertificateRevocationList {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(next_update, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&ca.issuer).unwrap()
}

#[tokio::test]
async fn revoked_certificates_are_refused_and_so_are_those_of_which_nothing_is_known() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let numbered = |serial: u64| {
        let mut params = params("x", &[]);
        params.serial_number = Some(SerialNumber::from(serial));
        ca.sign(&params)
    };
    let (good, bad, unknown) = (numbered(7), numbered(8), other.leaf("y", &[]));
    let (current, expired) = (list(&ca, &[8], 2090), list(&ca, &[8], 2025));
    let forged = list(&Authority::new("ca"), &[], 2090);
    for (crl, warnings, expected) in [
        (current.der().as_ref().to_vec(), 0, [true, false, false]),
        (current.pem().unwrap().into_bytes(), 0, [true, false, false]),
        (expired.der().as_ref().to_vec(), 1, [true, false, false]),
        (forged.der().as_ref().to_vec(), 0, [false, false, false]),
    ] {
        let mut resources = no_files();
        resources.insert("revoked", crl);
        for asks in [None, Some(ClientAuthType::VerifyClientCertIfGiven)] {
            let options = options(asks, &[&ca.pem, &other.pem], &["revoked"]);
            let (server, lines) = serve_with(options, &resources, &TlsCache::new());
            assert_eq!(lines.len(), warnings, "{lines:?}");
            for line in lines {
                assert!(
                    line.starts_with("warning tls.options.m.clientauth.crlfiles[0]: the list of `cn=ca"),
                    "{line}"
                );
            }
            for (pair, expected) in [&good, &bad, &unknown].into_iter().zip(expected) {
                assert_eq!(shows(&server, Some(pair)).await.is_some(), expected);
            }
        }
    }
}

#[tokio::test]
async fn an_authority_on_the_way_may_be_revoked_and_needs_no_list() {
    let root = Authority::new("root");
    let mut middle = params("middle", &[]);
    middle.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    middle.serial_number = Some(SerialNumber::from(5));
    let middle_key = rcgen::KeyPair::generate().unwrap();
    let middle_pem = middle.signed_by(&middle_key, &root.issuer).unwrap().pem();
    let middle = Authority {
        pem: middle_pem.clone(),
        issuer: rcgen::Issuer::new(middle, middle_key),
    };
    let mut leaf = middle.leaf("leaf", &[]);
    leaf.certificate += &middle_pem;
    let own = list(&middle, &[], 2090).pem().unwrap();
    for (of_root, expected) in [(None, true), (Some(6), true), (Some(5), false)] {
        let of_root = of_root.map(|serial| list(&root, &[serial], 2090).pem().unwrap());
        let lists: Vec<&str> = [Some(own.as_str()), of_root.as_deref()].into_iter().flatten().collect();
        let server = serve(options(None, &[&root.pem], &lists));
        assert_eq!(shows(&server, Some(&leaf)).await.is_some(), expected, "{}", lists.len());
    }
}

#[tokio::test]
async fn what_cannot_be_read_closes_the_hosts_and_no_others() {
    let ca = Authority::new("ca");
    let old = ca.leaf_until("old", &[], 2020);
    let leaf = ca.leaf("leaf", &[]);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let half = format!("{broken}{}", ca.pem);
    let cut = &ca.pem[..ca.pem.len() - 30];
    let mut resources = no_files();
    for (name, content) in [
        ("ca", ca.pem.as_str()),
        ("empty", ""),
        ("key", &leaf.key),
        ("cut", cut),
        ("broken", broken),
        ("half", &half),
        ("old", &old.certificate),
        ("der", "0\u{3}\u{2}\u{1}\u{1}"),
    ] {
        resources.insert(name, content.as_bytes());
    }
    let at = "tls.options.m.clientauth";
    let closed = "the hosts with these options are closed";
    let table: [(&[&str], &[&str], bool, String); 12] = [
        (
            &["none"],
            &[],
            false,
            format!("error {at}.cafiles[0]: the file `none` was not read: {closed}"),
        ),
        (
            &["ca", "empty"],
            &[],
            false,
            format!(
                "error {at}.cafiles[1]: there is no certificate in it (no `-----begin certificate-----` block): {closed}"
            ),
        ),
        (
            &["key"],
            &[],
            false,
            format!("error {at}.cafiles[0]: there is no certificate in it"),
        ),
        (
            &["cut"],
            &[],
            false,
            format!("error {at}.cafiles[0]: not valid pem: `-----end certificate-----` is missing"),
        ),
        (
            &["broken"],
            &[],
            false,
            format!("warning {at}.cafiles[0]: certificate 1 cannot be read and is left out"),
        ),
        (
            &["half"],
            &[],
            true,
            format!("warning {at}.cafiles[0]: certificate 1 cannot be read and is left out"),
        ),
        (
            &["old", "ca"],
            &[],
            true,
            format!("warning {at}.cafiles[0]: certificate 1 (`cn=old`) expired on"),
        ),
        (
            &["ca"],
            &["none"],
            false,
            format!("error {at}.crlfiles[0]: the file `none` was not read: {closed}"),
        ),
        (
            &["ca"],
            &["empty"],
            false,
            format!(
                "error {at}.crlfiles[0]: there is no list of revoked certificates in it (no `-----begin x509 crl-----` block): {closed}"
            ),
        ),
        (
            &["ca"],
            &["ca"],
            false,
            format!("error {at}.crlfiles[0]: there is no list of revoked certificates in it"),
        ),
        (
            &["ca"],
            &["der"],
            false,
            format!("error {at}.crlfiles[0]: the list of revoked certificates cannot be read"),
        ),
        (
            &[],
            &[],
            false,
            format!("error {at}.cafiles: there are no certificate authorities to verify clients with: {closed}"),
        ),
    ];
    for (authorities, revoked, open, expected) in table {
        let options = options(Some(ClientAuthType::RequireAndVerifyClientCert), authorities, revoked);
        let (server, lines) = serve_with(options, &resources, &TlsCache::new());
        assert!(lines[0].starts_with(&expected), "{lines:?}");
        assert_eq!(lines.iter().any(|line| line.starts_with("error")), !open, "{lines:?}");
        assert_eq!(shows(&server, Some(&leaf)).await.is_some(), open, "{expected}");
        let elsewhere = shake_with(&server, client(true, None), Some("other.test"), None).await;
        assert!(elsewhere.info.is_ok());
        assert_eq!(server.options_for_host("m.test") == u32::MAX, !open);
    }
}

#[tokio::test]
async fn sessions_of_other_options_open_nothing_and_none_is_resumed() {
    let ca = Authority::new("ca");
    let leaf = ca.leaf("leaf", &[]);
    let cache = TlsCache::new();
    for asks in [
        ClientAuthType::RequestClientCert,
        ClientAuthType::RequireAndVerifyClientCert,
    ] {
        for tls13 in [true, false] {
            let open = serve_with(TlsOptions::default(), &no_files(), &cache).0;
            let asking = serve_with(options(Some(asks), &[&ca.pem], &[]), &no_files(), &cache).0;
            let config = client(tls13, Some(key(&leaf)));
            let shake =
                |server, config: &Arc<ClientConfig>| shake_with(server, Arc::clone(config), Some("m.test"), None);
            assert!(!shake(&open, &config).await.info.unwrap().resumed);
            assert!(shake(&open, &config).await.info.unwrap().resumed);
            // The client offers the session that it has for the name.
            for _ in 0..2 {
                let info = shake(&asking, &config).await.info.unwrap();
                assert!(!info.resumed && info.client.is_some());
            }
            let without = client(tls13, None);
            assert!(shake(&open, &without).await.info.is_ok());
            let outcome = shake(&asking, &without).await;
            assert_eq!(outcome.info.is_ok(), !asks.requires());
            assert!(outcome.info.is_ok_and(|info| !info.resumed && info.client.is_none()) || asks.requires());
        }
    }
}

#[tokio::test]
async fn new_contents_of_the_files_count_for_new_connections_only() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (of_old, of_new) = (old.leaf("x", &[]), new.leaf("x", &[]));
    let cache = TlsCache::new();
    let mut resources = no_files();
    let mut numbers = Vec::new();
    for (ca, ok, refused) in [(&old, &of_old, &of_new), (&new, &of_new, &of_old)] {
        resources.insert("ca", ca.pem.as_bytes());
        let (server, lines) = serve_with(options(None, &["ca"], &[]), &resources, &cache);
        assert_eq!(lines, Vec::<String>::new());
        assert!(shows(&server, Some(ok)).await.is_some());
        assert!(shows(&server, Some(refused)).await.is_none());
        numbers.push(server.options_for_host("m.test"));
    }
    assert_eq!(numbers[0], numbers[1], "open connections go on");
    let (open, _) = serve_with(TlsOptions::default(), &resources, &cache);
    assert_ne!(open.options_for_host("m.test"), numbers[0], "they asked for nothing");
}

#[test]
fn an_authority_is_trusted_while_it_is_valid() {
    let ca = Authority::new("ca");
    let leaf = ca.leaf("leaf", &[]);
    let der = |pem: &str| certificates_from_pem(pem.as_bytes()).unwrap().swap_remove(0);
    let at = |now: i64| UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (begin, end) = (1_700_000_000, 1_800_000_000);
    let root = Root {
        der: der(&ca.pem),
        not_before: begin,
        not_after: end,
    };
    let verifier = TrustedClients::new(vec![root], Vec::new(), true, provider, begin - 9).unwrap();
    for (now, expected) in [
        (begin - 1, false),
        (begin, true),
        (end, true),
        (end + 1, false),
        (end + 9, false),
    ] {
        let verified = verifier.verify_client_cert(&der(&leaf.certificate), &[], at(now));
        assert_eq!(verified.is_ok(), expected, "{now}: {verified:?}");
    }
}
