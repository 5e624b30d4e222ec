//! The task of one certificates resolver: it looks what is due, starts orders, keeps what comes, and waits.
//!
//! Invariants: orders run beside each other, so none waits for another's pauses; one set of names has one order at a
//! time; what was got is written before anything is told, and kept in memory when it cannot be written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Published;
use super::authority::Authority;
use super::order::{self, Failure};
use super::schedule::{Attempts, Trouble, renewal};
use super::storage::{self, Storage, Stored, sorted};
use crate::compile::Context;
use crate::compile::certificates::Wanted;
use crate::config::static_config::Acme;
use crate::config::{Issued, Resources};
use crate::observe::log::LIFECYCLE;
use crate::observe::metrics::Metrics;
use crate::tls::challenge::Challenges;
use crate::tls::keys::{CertificateInfo, Identity};

/// Orders that run at the same time.
const ORDERS: usize = 4;
/// The longest sleep: a clock that jumps, or a machine that slept, is noticed within it.
const LOOK: Duration = Duration::from_secs(30);
/// The same while the storage could not be written.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// What is known of one set of names.
#[derive(Debug)]
struct State {
    names: Vec<String>,
    attempts: Attempts,
}

/// A certificate of the storage that can be served.
#[derive(Debug)]
struct Held {
    issued: Arc<Issued>,
    /// The key of [`Resolver::states`] that it was got for: its names, sorted, joined by commas.
    key: String,
    info: CertificateInfo,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Resolver {
    name: String,
    acme: Arc<Acme>,
    authority: Authority,
    storage: Storage,
    /// The storage holds what is not on disk yet.
    unwritten: bool,
    held: Vec<Held>,
    states: BTreeMap<String, State>,
    challenges: Arc<Challenges>,
    metrics: Arc<Metrics>,
    published: Arc<Published>,
    wanted: watch::Receiver<Vec<Wanted>>,
}

impl Resolver {
    /// Opens the storage and publishes the certificates in it.
    ///
    /// # Errors
    /// Why the resolver cannot work.
    pub(super) fn open(
        name: &str,
        acme: &Acme,
        context: &Context,
        resources: &Resources,
        (published, wanted): (&Arc<Published>, watch::Receiver<Vec<Wanted>>),
    ) -> Result<Self, String> {
        let path = format!("certificatesResolvers.{name}.acme");
        let authority = Authority::new(acme, &path, resources)?;
        let storage = Storage::open(Path::new(&acme.storage), name).map_err(|error| error.to_string())?;
        let mut resolver = Self {
            name: name.to_owned(),
            acme: Arc::new(acme.clone()),
            authority,
            storage,
            unwritten: false,
            held: Vec::new(),
            states: BTreeMap::new(),
            challenges: context.tls.challenges(),
            metrics: Arc::clone(&context.metrics),
            published: Arc::clone(published),
            wanted,
        };
        resolver.read_held();
        resolver.publish(SystemTime::now());
        Ok(resolver)
    }

    /// Whether both keep their certificates in the same file.
    pub(super) fn shares_storage(&self, other: &Self) -> bool {
        self.storage.path() == other.storage.path()
    }

    /// Works for as long as the process lives.
    pub(super) async fn run(mut self) {
        let mut account = None;
        let mut running = BTreeSet::new();
        let mut orders = JoinSet::new();
        self.take_wanted();
        loop {
            let now = SystemTime::now();
            let due = self.due(now, &running);
            if !due.is_empty() && account.is_none() {
                match self.account().await {
                    Ok(opened) => account = Some(opened),
                    Err(failure) => self.failed(&due, &failure),
                }
            }
            if let Some(account) = &account {
                for key in due.into_iter().take(ORDERS - running.len().min(ORDERS)) {
                    let Some(state) = self.states.get(&key) else { continue };
                    let (account, acme) = (Account::clone(account), Arc::clone(&self.acme));
                    let getting = order::get(account, acme, Arc::clone(&self.challenges), state.names.clone());
                    running.insert(key.clone());
                    orders.spawn(async move { (key, getting.await) });
                }
            }
            self.write().await;
            self.publish(now);
            let pause = self.pause(&running);
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted(),
                    Err(_) => return,
                },
                Some(ended) = orders.join_next() => match ended {
                    Ok((key, outcome)) => {
                        running.remove(&key);
                        self.ended(key, outcome, &mut account).await;
                    }
                    Err(error) => {
                        // Only a bug leads here; which order it was is not known, so all are looked at anew.
                        tracing::error!(resolver = %self.name, "an order ended by a bug: {error}");
                        orders.abort_all();
                        while orders.join_next().await.is_some() {}
                        let all: Vec<String> = std::mem::take(&mut running).into_iter().collect();
                        let text = "a bug".to_owned();
                        self.failed(&all, &Failure { trouble: Trouble::Refused, text });
                    }
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes over what the routers want now.
    fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        let mut old = std::mem::take(&mut self.states);
        for wanted in wanted.into_iter().filter(|wanted| wanted.resolver == self.name) {
            let key = sorted(&wanted.names).join(",");
            let state = old.remove(&key).unwrap_or_else(|| State {
                attempts: self.storage.attempts(&key),
                names: wanted.names,
            });
            self.states.insert(key, state);
        }
    }

    /// Parses the certificates of the storage.
    fn read_held(&mut self) {
        self.held.clear();
        for stored in self.storage.certificates() {
            let about = format!("certificate of `{}` for {}", self.name, stored.names.join(", "));
            match Identity::from_pem(&stored.certificate, &stored.key) {
                Ok(identity) => self.held.push(Held {
                    key: sorted(&stored.names).join(","),
                    info: identity.info,
                    issued: Arc::new(Issued {
                        certificate: stored.certificate,
                        key: stored.key,
                        about,
                    }),
                }),
                Err(error) => tracing::error!("the {about} in the storage is not served: {error}"),
            }
        }
    }

    /// The certificate that is held for these names: one that was got for them, else one that has them all.
    fn held_for(&self, key: &str, now: SystemTime) -> Option<&Held> {
        let has_all = |held: &Held| key.split(',').all(|name| holds(&held.info.names(), name));
        let exact = self.held.iter().find(|held| held.key == key);
        exact.filter(|held| has_all(held)).or_else(|| {
            let alive = self
                .held
                .iter()
                .filter(|held| held.info.validity_problem(now).is_none());
            alive
                .filter(|held| has_all(held))
                .max_by_key(|held| held.info.not_after)
        })
    }

    fn due_at(&self, key: &str, state: &State, now: SystemTime) -> SystemTime {
        let renewed = self.held_for(key, now).map(|held| self.renewal(&held.info));
        state.attempts.due(renewed, now)
    }

    fn renewal(&self, info: &CertificateInfo) -> SystemTime {
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
        let rule = self.acme.certificates_duration.map(hours);
        renewal(storage::time(info.not_before), storage::time(info.not_after), rule)
    }

    fn due(&self, now: SystemTime, running: &BTreeSet<String>) -> Vec<String> {
        let waiting = self.states.iter().filter(|(key, _)| !running.contains(*key));
        let due = waiting.filter(|(key, state)| self.due_at(key, state, now) <= now);
        due.map(|(key, _)| key.clone()).collect()
    }

    /// How long nothing is due.
    fn pause(&self, running: &BTreeSet<String>) -> Duration {
        let longest = if self.unwritten { WRITE_AGAIN } else { LOOK };
        if running.len() >= ORDERS {
            return longest;
        }
        let now = SystemTime::now();
        let waiting = self.states.iter().filter(|(key, _)| !running.contains(*key));
        let next = waiting.map(|(key, state)| self.due_at(key, state, now)).min();
        let left = next.map(|next| next.duration_since(now).unwrap_or_default());
        left.map_or(longest, |left| left.min(longest))
    }

    /// Opens the account at the authority, and registers one where there is none.
    async fn account(&mut self) -> Result<Account, Failure> {
        let directory = self.acme.ca_server.clone();
        let builder = || Account::builder_with_http(Box::new(self.authority.clone()));
        if let Some(known) = self.storage.account(&directory) {
            match serde_json::from_value::<AccountCredentials>(known.clone()) {
                Ok(credentials) => return Ok(builder().from_credentials(credentials).await?),
                Err(error) => tracing::warn!(resolver = %self.name, "the stored ACME account cannot be read: {error}"),
            }
        }
        let contacts = self.acme.contacts();
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contacts,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let eab = self.acme.eab.as_ref().and_then(|eab| {
            let key = eab.hmac_key()?;
            Some(ExternalAccountKey::new(eab.kid.clone(), &key))
        });
        let (account, credentials) = builder().create(&new, directory, eab.as_ref()).await?;
        let beside = match self.storage.has_other_account() {
            true => ", beside Traefik's account, whose key stays as it is",
            false => "",
        };
        tracing::info!(
            target: LIFECYCLE, resolver = %self.name, account = account.id(), "ACME account registered{beside}"
        );
        self.storage.set_account(serde_json::to_value(credentials).ok());
        self.unwritten = true;
        Ok(account)
    }

    async fn ended(&mut self, key: String, outcome: Result<Stored, Failure>, account: &mut Option<Account>) {
        match outcome {
            Ok(stored) => {
                self.storage.put(&stored);
                self.read_held();
                let now = SystemTime::now();
                let held = self.held_for(&key, now).map(|held| &held.info);
                let until = held.map(|info| storage::time(info.not_after));
                let (renewed, end) = (held.map(|info| self.renewal(info)), until.unwrap_or(now));
                if let Some(state) = self.states.get_mut(&key) {
                    state.attempts = Attempts::succeeded(now, renewed.unwrap_or(now), end);
                }
                self.keep_attempts();
                self.write().await;
                self.metrics.acme_order(&self.name, true);
                let until = until.map(httpdate::fmt_http_date);
                tracing::info!(
                    target: LIFECYCLE, resolver = %self.name, names = %key, until = until.unwrap_or_default(),
                    "certificate issued"
                );
            }
            Err(failure) => {
                if failure.trouble == Trouble::AccountLost {
                    tracing::error!(resolver = %self.name, "the authority does not know the account any more");
                    *account = None;
                    self.storage.set_account(None);
                }
                self.failed(&[key], &failure);
            }
        }
    }

    /// Notes a failure for each of these sets of names.
    fn failed(&mut self, keys: &[String], failure: &Failure) {
        let now = SystemTime::now();
        let retry_after = self.authority.take_retry_after();
        // One for all: what failed together is tried together, so that an authority that is down is not asked once a name.
        let chance = fastrand::f64();
        for key in keys {
            let Some(state) = self.states.get_mut(key) else {
                continue;
            };
            state.attempts = state.attempts.failed(failure.trouble, retry_after, now, chance);
            self.metrics.acme_order(&self.name, false);
            let next = state.attempts.next.map(httpdate::fmt_http_date).unwrap_or_default();
            tracing::error!(
                resolver = %self.name, names = %key, failures = state.attempts.failures, next,
                "no certificate: {}", failure.text
            );
        }
        self.keep_attempts();
    }

    fn keep_attempts(&mut self) {
        let all = self.states.iter().map(|(key, state)| (key, state.attempts));
        let failing: Vec<_> = all.filter(|(_, attempts)| attempts.failures > 0).collect();
        self.storage.set_attempts(failing.into_iter());
        self.unwritten = true;
    }

    /// Writes the storage, if there is anything new. What fails is tried again.
    async fn write(&mut self) {
        if !self.unwritten {
            return;
        }
        let (path, text) = self.storage.to_write();
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || storage::write(&path, &text)).await;
        match written.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(()) => self.unwritten = false,
            Err(error) => {
                tracing::error!(
                    resolver = %self.name,
                    "cannot write the storage `{shown}`, and keep certificates in memory for now: {error}"
                );
            }
        }
    }

    /// Brings what is served and shown in line with what is held. One that has expired is served only while its
    /// successor is waited for.
    fn publish(&self, now: SystemTime) {
        let serve = |held: &&Held| now <= storage::time(held.info.not_after) || self.states.contains_key(&held.key);
        let issued = self.held.iter().filter(serve).map(|held| Arc::clone(&held.issued));
        self.published.set(&self.name, issued.collect());
        let next = self.states.iter();
        let next = next.map(|(key, state)| (key.clone(), self.due_at(key, state, now).max(now)));
        self.metrics.set_acme_attempts(&self.name, next.collect());
    }
}

/// Whether a certificate with these names is good for `name`.
fn holds(names: &[String], name: &str) -> bool {
    let wildcard = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    names.iter().any(|own| own == name || Some(own) == wildcard.as_ref())
}
