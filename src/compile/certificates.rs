//! Which certificates the routers want from which certificates resolver.
//!
//! One certificate for the `Host` names of a router, or one for each entry of its `tls.domains`; the same set of names
//! once, however many routers name it. Nothing is asked for where certificates of the configuration hold all names.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::DnsName;

use super::Context;
use crate::config::Resources;
use crate::config::dynamic::Tls;
use crate::config::router::TlsDomain;
use crate::diag::{Diagnostic, did_you_mean};
use crate::tls::keys::Identity;
use crate::tls::server::TlsSetup;

/// A certificate that a resolver is to get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The name of the resolver; it exists.
    pub resolver: String,
    /// Its names, lower case, each once, the main one first; at least one.
    pub names: Vec<String>,
}

/// What a router asks for.
pub(super) struct Asking<'a> {
    /// Where the name of the resolver stands: `http.routers.r.tls` or `entryPoints.e.http.tls`.
    pub(super) path: String,
    /// The key that names it.
    pub(super) key: &'static str,
    /// The router, `http.routers.r`.
    pub(super) router: &'a str,
    /// What the key says, not empty.
    pub(super) resolver: &'a str,
    /// `domains`.
    pub(super) domains: &'a [TlsDomain],
    /// The `Host` names of the rule.
    pub(super) hosts: Vec<String>,
}

/// What is wanted, with warnings about what cannot be had: a router is served all the same, as in Traefik.
pub(super) fn wanted(
    context: &Context,
    setup: &TlsSetup,
    resources: &Resources,
    asking: &[Asking<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Wanted> {
    if asking.is_empty() {
        return Vec::new();
    }
    let configured = configured(context, setup, resources);
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut warned = BTreeSet::new();
    let mut warn = |warning: Diagnostic| {
        if warned.insert((warning.path.clone(), warning.message.clone())) {
            diagnostics.push(warning);
        }
    };
    for asking in asking {
        let resolvers = &context.settings.certificates_resolvers;
        if !resolvers.contains_key(asking.resolver) {
            warn(unknown(asking, resolvers.keys().map(String::as_str)));
            continue;
        }
        for (path, names) in asking.sets() {
            let names = match usable(&path, &names) {
                Ok(names) => names,
                Err(warning) => {
                    warn(warning);
                    continue;
                }
            };
            if names.iter().all(|name| holds(&configured, name)) {
                continue;
            }
            let mut sorted = names.clone();
            sorted.sort();
            if seen.insert((asking.resolver, sorted)) {
                wanted.push(Wanted {
                    resolver: asking.resolver.to_owned(),
                    names,
                });
            }
        }
    }
    wanted
}

impl<'a> Asking<'a> {
    /// What the default store asks for.
    pub(super) fn default_store(tls: &'a Tls) -> Option<Self> {
        let store = tls.stores.get("default")?;
        let generated = store.default_generated_cert.as_ref();
        let generated = generated.filter(|_| store.default_certificate.is_none())?;
        Some(Self {
            path: "tls.stores.default.defaultGeneratedCert".to_owned(),
            key: "resolver",
            router: "",
            resolver: &generated.resolver,
            domains: std::slice::from_ref(&generated.domain),
            hosts: Vec::new(),
        })
    }

    /// The sets of names, each with the place where it stands.
    fn sets(&self) -> Vec<(String, Vec<String>)> {
        if self.domains.is_empty() {
            return vec![(format!("{}.rule", self.router), self.hosts.clone())];
        }
        let set = |(i, domain): (usize, &TlsDomain)| {
            let names = std::iter::once(&domain.main).chain(&domain.sans);
            let names = names.filter(|name| !name.is_empty()).cloned().collect();
            let path = match self.key {
                "resolver" => format!("{}.domain", self.path),
                _ => format!("{}.domains[{i}]", self.path),
            };
            (path, names)
        };
        self.domains.iter().enumerate().map(set).collect()
    }
}

/// The names of the certificates that the configuration lists and that hold at present.
fn configured(context: &Context, setup: &TlsSetup, resources: &Resources) -> HashSet<String> {
    let issued = resources.issued().iter();
    let issued = issued.filter_map(|issued| context.tls.identity(&issued.certificate, &issued.key).1.ok());
    let store = setup.store();
    let others: Vec<Arc<Identity>> = issued.chain(store.default_certificate().cloned()).collect();
    let others: HashSet<*const Identity> = others.iter().map(Arc::as_ptr).collect();
    let now = SystemTime::now();
    store
        .all()
        .filter(|identity| !others.contains(&Arc::as_ptr(identity)))
        .filter(|identity| identity.info.validity_problem(now).is_none())
        .flat_map(|identity| identity.info.names())
        .collect()
}

/// Whether certificates with these names are good for `name`.
fn holds(names: &HashSet<String>, name: &str) -> bool {
    let wildcard = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    names.contains(name) || wildcard().is_some_and(|wildcard| names.contains(&wildcard))
}

fn unknown<'a>(asking: &Asking<'_>, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let message = format!("there is no certificates resolver `{}`", asking.resolver);
    let warning = Diagnostic::warning(format!("{}.{}", asking.path, asking.key), message);
    match did_you_mean(asking.resolver, known) {
        Some(near) => warning.help(format!("did you mean `{near}`?")),
        None => warning.help("declare it in `certificatesResolvers` of the static file: no certificate is asked for"),
    }
}

/// The names in one form, or why no certificate is asked for.
fn usable(path: &str, names: &[String]) -> Result<Vec<String>, Diagnostic> {
    let refuse = |message: String, help: &str| Err(Diagnostic::warning(path, message).help(help));
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name.starts_with("*.") {
            return refuse(
                format!("no certificate is asked for: `{name}` is a wildcard name, which needs the DNS challenge"),
                "list the names one by one, or give a certificate in `tls.certificates`",
            );
        }
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        if is_address || DnsName::try_from(name.as_str()).is_err() {
            return refuse(
                format!("no certificate is asked for: `{name}` is no domain name"),
                "write a name such as mri.example.com",
            );
        }
        if !found.contains(&name) {
            found.push(name);
        }
    }
    if found.is_empty() {
        return refuse(
            "no certificate is asked for: there is no domain name".to_owned(),
            "add Host(`…`) to the rule, or list names in `tls.domains`",
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_into_one_form() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let usable = |given: &[&str]| usable("p", &names(given)).map_err(|warning| warning.message);
        assert_eq!(
            usable(&["B.test", "a.test.", "b.test"]),
            Ok(names(&["b.test", "a.test"]))
        );
        for (given, expected) in [
            (&["a.test", "*.a.test"][..], "wildcard"),
            (&["10.0.0.1"], "no domain name"),
            (&["a b"], "no domain name"),
            (&[], "there is no domain name"),
        ] {
            let message = usable(given).unwrap_err();
            assert!(message.contains(expected), "{given:?}: {message}");
        }
    }
}
