//! Certificates that arrive and renew by themselves: an ACME client (RFC 8555) beside the data plane.
//!
//! | file | holds |
//! |---|---|
//! | `schedule` | when a certificate is asked for, and when again: pure, the clock is given |
//! | `storage` | the file that keeps accounts and certificates, in Traefik's layout |
//! | `authority` | HTTP towards the authority |
//! | `order` | one certificate: order, proofs, signing request, chain |
//! | `resolver` | the task of one `certificatesResolvers` entry |
//!
//! What comes out are certificates ([`Acme::issued`]), which a reload puts into the next snapshot, and proofs in
//! [`crate::tls::challenge`], which connections look up. Invariants: nothing here makes serving wait; a certificate that
//! is served stays until a new one is known to match its key; one name that fails delays no other.

mod authority;
mod order;
mod resolver;
mod schedule;
mod storage;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::compile::Context;
use crate::compile::certificates::Wanted;
use crate::config::{Issued, Resources};
use resolver::Resolver;

/// All certificates resolvers of the static configuration.
#[derive(Debug)]
pub struct Acme {
    published: Arc<Published>,
    wanted: watch::Sender<Vec<Wanted>>,
    resolvers: Vec<Resolver>,
}

/// The certificates of all resolvers, as they are to be served.
#[derive(Debug, Default)]
struct Published {
    table: Mutex<BTreeMap<String, Vec<Arc<Issued>>>>,
    changed: Notify,
}

impl Published {
    fn set(&self, resolver: &str, issued: Vec<Arc<Issued>>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.get(resolver).map(Vec::as_slice).unwrap_or_default() != issued {
            table.insert(resolver.to_owned(), issued);
            self.changed.notify_one();
        }
    }
}

impl Acme {
    /// Opens the storage of each resolver. One that cannot be used is reported and left out, and the rest runs.
    #[must_use]
    pub fn open(context: &Context) -> Self {
        let published = Arc::<Published>::default();
        let (wanted, _) = watch::channel(Vec::new());
        let mut resolvers = Vec::new();
        for (name, settings) in &context.settings.certificates_resolvers {
            let Some(acme) = &settings.acme else { continue };
            let files = acme
                .ca_certificates
                .iter()
                .filter(|value| !value.contains("-----BEGIN"));
            let resources = Resources::load(files.cloned());
            match Resolver::open(name, acme, context, &resources, (&published, wanted.subscribe())) {
                // Each would write over what the other has got.
                Ok(resolver) if resolvers.iter().any(|other: &Resolver| other.shares_storage(&resolver)) => {
                    tracing::error!(
                        "the certificates resolver `{name}` is left out: its storage `{}` is that of another one by \
                         another path; give each its own file",
                        acme.storage
                    );
                }
                Ok(resolver) => resolvers.push(resolver),
                Err(error) => tracing::error!("the certificates resolver `{name}` is left out: {error}"),
            }
        }
        Self {
            published,
            wanted,
            resolvers,
        }
    }

    /// The certificates to serve.
    #[must_use]
    pub fn issued(&self) -> Vec<Arc<Issued>> {
        let table = self.published.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.values().flatten().cloned().collect()
    }

    /// Tells the resolvers what the routers want.
    pub fn want(&self, wanted: Vec<Wanted>) {
        self.wanted.send_if_modified(|known| {
            let is_new = *known != wanted;
            *known = wanted;
            is_new
        });
    }

    /// The tasks to spawn, once: one a resolver. Each ends with the process.
    pub fn tasks(&mut self) -> Vec<impl Future<Output = ()> + Send + 'static> {
        self.resolvers.drain(..).map(Resolver::run).collect()
    }

    /// Waits until [`Self::issued`] has something new.
    pub fn changes(&self) -> impl Future<Output = ()> + 'static {
        let published = Arc::clone(&self.published);
        async move { published.changed.notified().await }
    }
}
