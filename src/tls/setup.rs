//! What the `tls` section means: certificates, options, and the options that each host of an entry point gets.
//!
//! Which options a name gets (reference, A7): those of the routers whose rules name the host, `default` for all other
//! names. Routers that disagree about one host: `default`, with a warning. Broken or unknown options: the host is
//! closed, never served with other options.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::cache::{DEFAULT_OPTIONS, Fingerprint, TlsCache};
use super::challenge::Challenges;
use super::keys::Identity;
use super::options::ServerOptions;
use super::server::ServerTls;
use super::store::{CertStore, normal_name};
use crate::config::Resources;
use crate::config::dynamic::{Certificate, ClientAuthType, Tls, TlsOptions};
use crate::diag::{Diagnostic, did_you_mean};

/// The number of options that cannot be served: no connection has it.
const CLOSED: u32 = u32::MAX;

/// How to mend a file that cannot be read.
pub(super) const UNREADABLE: &str =
    "a relative name starts at the working directory, and the user that gantry runs as must be able to read the file";

/// What the TLS part of a router says.
#[derive(Debug, Clone, Copy)]
pub struct RouterTls<'a> {
    /// Path of the router in the configuration, such as `http.routers.r`.
    pub path: &'a str,
    /// The hosts of its rule, `*.` included. Empty (or with a `*`) if the rule can match a request for any other host:
    /// a router that names options is then refused, for they would not hold there.
    pub hosts: &'a [String],
    /// `tls.options`; empty means `default`. The suffix `@file` is understood.
    pub options: &'a str,
}

/// Options with their name, as hosts refer to them.
#[derive(Debug)]
pub(super) struct Slot {
    /// See [`ServerTls::options_for_host`].
    pub(super) id: u32,
    pub(super) name: String,
    /// What is asked of clients, see [`TlsSetup::client_auth_of`].
    pub(super) client_auth: u32,
    /// `None`: broken or unknown.
    pub(super) options: Option<ServerOptions>,
}

/// What the `tls` section means: certificates and options, not yet bound to hosts.
#[derive(Debug, Clone)]
pub struct TlsSetup {
    store: Arc<CertStore>,
    slots: BTreeMap<String, Arc<Slot>>,
    default: Arc<Slot>,
    challenges: Arc<Challenges>,
}

impl TlsSetup {
    /// Reads the `tls` section. Call it once a reload, also when the section is empty: it begins a round of `cache`.
    ///
    /// A certificate that cannot be used is an error and left out; options that cannot be used are an error, and their
    /// hosts will be closed.
    pub fn build(tls: &Tls, resources: &Resources, cache: &TlsCache) -> (Self, Vec<Diagnostic>) {
        cache.begin();
        let mut diagnostics = Vec::new();
        let (store, fingerprint) = build_store(tls, resources, cache, &mut diagnostics);
        let built_in = TlsOptions::default();
        let mut named: BTreeMap<&str, &TlsOptions> = tls
            .options
            .iter()
            .map(|(name, options)| (name.as_str(), options))
            .collect();
        named.entry(DEFAULT_OPTIONS).or_insert(&built_in);
        let mut slots = BTreeMap::new();
        for (name, options) in named {
            let path = format!("tls.options.{name}");
            let client_auth = match options.client_auth_type() {
                ClientAuthType::NoClientCert => 0,
                _ => cache.client_auth_id(&format!("{:?}", options.client_auth)),
            };
            let certificates = (&store, fingerprint);
            let options = ServerOptions::build(options, &path, certificates, resources, cache, &mut diagnostics);
            let slot = Slot {
                id: match options {
                    Some(_) => cache.option_id(name, client_auth),
                    None => CLOSED,
                },
                name: name.to_owned(),
                client_auth,
                options,
            };
            slots.insert(name.to_owned(), Arc::new(slot));
        }
        let default = Arc::clone(&slots[DEFAULT_OPTIONS]);
        let challenges = cache.challenges();
        (
            Self {
                store,
                slots,
                default,
                challenges,
            },
            diagnostics,
        )
    }

    /// The certificates, for metrics and `gantry check`.
    pub const fn store(&self) -> &Arc<CertStore> {
        &self.store
    }

    /// What the options of this name (as in [`RouterTls::options`]) ask of clients, as a number: 0 is nothing.
    ///
    /// A router may answer only over a connection with the same [`TlsInfo::client_auth_id`], unless it is 0: of several
    /// routers for one host, each with its options, only one has them served, and a connection may be older than the
    /// configuration. The number stays the same while a reload does not change the section `clientAuth`; the contents
    /// of its files may change. Options that cannot be served have a number that no connection has: what they were to
    /// ask is not known, so a router with them answers nobody, also where its rule reaches hosts of other options.
    ///
    /// [`TlsInfo::client_auth_id`]: super::server::TlsInfo::client_auth_id
    pub fn client_auth_of(&self, options: &str) -> u32 {
        match self.slots.get(options_name(options)) {
            Some(slot) if slot.options.is_some() => slot.client_auth,
            _ => CLOSED,
        }
    }

    /// Binds the options to the hosts of the routers of one entry point.
    ///
    /// Errors carry the path of their router, which must not be served.
    pub fn entry_point<'a>(&self, routers: impl IntoIterator<Item = RouterTls<'a>>) -> (ServerTls, Vec<Diagnostic>) {
        let mut hosts = HostOptions::default();
        let mut diagnostics = Vec::new();
        for router in routers {
            if let Some(slot) = self.slot_of(&router, &mut diagnostics) {
                for host in router.hosts {
                    hosts.add(host, &slot, router.path);
                }
            }
        }
        (hosts.finish(self, &mut diagnostics), diagnostics)
    }

    fn slot_of(&self, router: &RouterTls<'_>, diagnostics: &mut Vec<Diagnostic>) -> Option<Arc<Slot>> {
        let name = options_name(router.options);
        let slot = match self.slots.get(name) {
            Some(slot) => Arc::clone(slot),
            None => {
                diagnostics.push(self.unknown_options(router, name));
                Arc::new(Slot {
                    id: CLOSED,
                    name: name.to_owned(),
                    client_auth: 0,
                    options: None,
                })
            }
        };
        let any_host = router.hosts.is_empty() || router.hosts.iter().any(|host| host == "*");
        if any_host && slot.name != self.default.name {
            if self.slots.contains_key(name) {
                diagnostics.push(no_host(router, name));
            }
            return None;
        }
        Some(slot)
    }

    fn unknown_options(&self, router: &RouterTls<'_>, name: &str) -> Diagnostic {
        let path = format!("{}.tls.options", router.path);
        let diagnostic = Diagnostic::error(path, format!("there are no TLS options `{name}`"));
        match did_you_mean(name, self.slots.keys().map(String::as_str)) {
            Some(word) => diagnostic.help(format!("did you mean `{word}`?")),
            None => diagnostic.help(format!("add `tls.options.{name}`")),
        }
    }
}

/// The name of the options that a router means.
fn options_name(options: &str) -> &str {
    match options.strip_suffix("@file").unwrap_or(options) {
        "" => DEFAULT_OPTIONS,
        name => name,
    }
}

fn no_host(router: &RouterTls<'_>, name: &str) -> Diagnostic {
    Diagnostic::error(
        format!("{}.tls.options", router.path),
        format!("the TLS options `{name}` cannot hold: the rule does not name its hosts"),
    )
    .help("options belong to host names: add Host(`…`) to the rule, or change `tls.options.default`")
}

fn build_store(
    tls: &Tls,
    resources: &Resources,
    cache: &TlsCache,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Arc<CertStore>, Fingerprint) {
    let mut fingerprints = Vec::new();
    let mut certificates = Vec::new();
    for (index, certificate) in tls.certificates.iter().enumerate() {
        let path = format!("tls.certificates[{index}]");
        if !certificate.stores.is_empty() && !certificate.stores.iter().any(|store| store == "default") {
            diagnostics.push(Diagnostic::warning(
                format!("{path}.stores"),
                "this certificate is never served: only the store `default` is used",
            ));
            continue;
        }
        if let Some((fingerprint, identity)) = load(certificate, &path, resources, cache, diagnostics) {
            fingerprints.push(fingerprint);
            certificates.push(identity);
        }
    }
    let mut generated = None;
    // After those of the configuration: of two certificates with the same names, the configured one is served.
    for issued in resources.issued() {
        match cache.identity(&issued.certificate, &issued.key) {
            (fingerprint, Ok(identity)) => {
                if is_default(tls, &identity) {
                    generated = Some((fingerprint, Arc::clone(&identity)));
                }
                fingerprints.push(fingerprint);
                certificates.push(identity);
            }
            // The resolver has looked at it: only a kind of key that cannot be used leads here.
            (_, Err(error)) => diagnostics.push(Diagnostic::warning("tls", format!("{}: {error}", issued.about))),
        }
    }
    let configured = tls
        .stores
        .get("default")
        .and_then(|store| store.default_certificate.as_ref())
        .and_then(|certificate| {
            load(
                certificate,
                "tls.stores.default.defaultCertificate",
                resources,
                cache,
                diagnostics,
            )
        });
    let default = configured.or(generated).or_else(|| match cache.self_signed() {
        Ok(identity) => Some((Fingerprint::of([b"self-signed".as_slice()]), identity)),
        Err(error) => {
            diagnostics.push(Diagnostic::error(
                "tls",
                format!("cannot make a self-signed certificate: {error}"),
            ));
            None
        }
    });
    let parts = fingerprints.iter().map(Fingerprint::as_bytes);
    match default {
        Some((fingerprint, default)) => {
            let fingerprint = Fingerprint::of(parts.chain([fingerprint.as_bytes()]));
            (
                cache.store(fingerprint, || CertStore::new(certificates, Some(default))),
                fingerprint,
            )
        }
        None => {
            let fingerprint = Fingerprint::of(parts);
            (
                cache.store(fingerprint, || CertStore::new(certificates, None)),
                fingerprint,
            )
        }
    }
}

/// Whether a certificate that a resolver has got is what `defaultGeneratedCert` asks for.
fn is_default(tls: &Tls, identity: &Identity) -> bool {
    let store = tls.stores.get("default");
    let Some(generated) = store.and_then(|store| store.default_generated_cert.as_ref()) else {
        return false;
    };
    let held = identity.info.names();
    let names = std::iter::once(&generated.domain.main).chain(&generated.domain.sans);
    names
        .map(|name| normal_name(name))
        .all(|name| held.iter().any(|own| *own == name))
}

/// Reads one certificate and its key; errors and an expiry go to the diagnostics.
fn load(
    certificate: &Certificate,
    path: &str,
    resources: &Resources,
    cache: &TlsCache,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Fingerprint, Arc<Identity>)> {
    let (fingerprint, identity) = load_pair(
        (&certificate.cert_file, &certificate.key_file),
        path,
        resources,
        cache,
        diagnostics,
    )?;
    if let Some(problem) = identity.info.validity_problem(SystemTime::now()) {
        diagnostics.push(Diagnostic::warning(format!("{path}.certFile"), problem));
    }
    Some((fingerprint, identity))
}

/// Reads a certificate and its key, each a file's name or its contents.
pub(super) fn load_pair(
    (cert_file, key_file): (&str, &str),
    path: &str,
    resources: &Resources,
    cache: &TlsCache,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Fingerprint, Arc<Identity>)> {
    let mut read = |key: &str, text| match resources.file_or_content(text) {
        Ok(content) => Some(content),
        Err(error) => {
            diagnostics.push(Diagnostic::error(format!("{path}.{key}"), error).help(UNREADABLE));
            None
        }
    };
    let (certificates, key) = (read("certFile", cert_file), read("keyFile", key_file));
    let (fingerprint, identity) = cache.identity(&certificates?, &key?);
    match identity {
        Ok(identity) => Some((fingerprint, identity)),
        Err(error) => {
            let key = if error.concerns_key() { "keyFile" } else { "certFile" };
            let mut diagnostic = Diagnostic::error(format!("{path}.{key}"), error.to_string());
            if let Some(help) = error.help() {
                diagnostic = diagnostic.help(help);
            }
            diagnostics.push(diagnostic);
            None
        }
    }
}

/// The hosts of an entry point's routers while they are collected: for each its routers and their options.
#[derive(Debug, Default)]
struct HostOptions<'a> {
    hosts: HashMap<String, Vec<(Arc<Slot>, &'a str)>>,
}

impl<'a> HostOptions<'a> {
    fn add(&mut self, host: &str, slot: &Arc<Slot>, router: &'a str) {
        if host == "*" {
            return;
        }
        let found = self.hosts.entry(normal_name(host).into_owned()).or_default();
        found.push((Arc::clone(slot), router));
    }

    fn finish(self, setup: &TlsSetup, diagnostics: &mut Vec<Diagnostic>) -> ServerTls {
        let mut exact = HashMap::with_capacity(self.hosts.len());
        let mut wildcard = HashMap::new();
        let mut conflicts = Vec::new();
        for (host, found) in self.hosts {
            let (first, _) = &found[0];
            let mut slot = Arc::clone(first);
            if found.iter().any(|(other, _)| other.name != first.name) {
                // Closed beats everything: what cannot be served is not opened by a second router.
                let closed = found.iter().find(|(slot, _)| slot.options.is_none());
                slot = Arc::clone(closed.map_or(&setup.default, |(slot, _)| slot));
                conflicts.push((host.clone(), found));
            }
            match host.strip_prefix("*.") {
                Some(parent) => wildcard.insert(parent.into(), slot),
                None => exact.insert(host.into_boxed_str(), slot),
            };
        }
        conflicts.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (host, found) in &conflicts {
            diagnostics.extend(conflict(host, found, &setup.default));
        }
        let (store, default) = (Arc::clone(&setup.store), Arc::clone(&setup.default));
        ServerTls::new(store, exact, wildcard, default, Arc::clone(&setup.challenges))
    }
}

/// Says that routers disagree about a host. Those that ask for client certificates, other than `default` does, cannot be
/// served: nobody would be asked.
fn conflict(host: &str, found: &[(Arc<Slot>, &str)], default: &Slot) -> Vec<Diagnostic> {
    const SHOWN: usize = 8;
    let routers: Vec<&str> = found.iter().map(|(_, router)| *router).take(SHOWN).collect();
    let help = format!("the routers: {}", routers.join(", "));
    let path = |router: &str| format!("{router}.tls.options");
    let refused = found
        .iter()
        .filter(|(slot, _)| slot.client_auth != 0 && slot.client_auth != default.client_auth);
    let errors = refused.map(|(slot, router)| {
        let message = format!(
            "routers for the host `{host}` name different TLS options, so `default` is used for it, and the client \
             certificates of `{}` would not be asked for",
            slot.name
        );
        Diagnostic::error(path(router), message).help(help.clone())
    });
    let mut all: Vec<Diagnostic> = errors.collect();
    if all.is_empty() {
        let message = format!("routers for the host `{host}` name different TLS options: `default` is used for it");
        all.push(Diagnostic::warning(path(routers[0]), message).help(help));
    }
    all
}
