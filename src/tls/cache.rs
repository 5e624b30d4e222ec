//! What TLS keeps over a reload: parsed certificates, rustls configurations, ticket keys, the self-signed certificate
//! and the numbers of the options.
//!
//! Everything is found again by a hash of what it was made from, so a reload that changes nothing parses nothing.
//!
//! Invariants:
//! - What two builds in a row did not ask for is forgotten: the cache does not grow with the number of reloads.
//! - Only builds (control plane) take the lock; handshakes never do.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use sha2::{Digest as _, Sha256};

use super::challenge::Challenges;
use super::keys::{Identity, KeyError};
use super::options::ServerOptions;
use super::store::{CertStore, self_signed};

/// Sessions kept for TLS 1.2 clients that know no tickets; some 200 bytes each.
const STORED_SESSIONS: usize = 1024;

/// Name of the options that hold where a router names none.
pub const DEFAULT_OPTIONS: &str = "default";

/// SHA-256 of everything that something was made from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.short())
    }
}

impl Fingerprint {
    /// The hash of these parts; where one ends and the next begins counts.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The hash as bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first 64 bits: enough to tell the transports of one configuration apart.
    pub const fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// See the module. One a process, held by the runtime; `gantry check` makes its own.
#[derive(Debug)]
pub struct TlsCache {
    tickets: Option<Arc<dyn ProducesTickets>>,
    sessions: Arc<dyn StoresServerSessions>,
    challenges: Arc<Challenges>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    self_signed: Option<Arc<Identity>>,
    numbers: HashMap<Fingerprint, u32>,
    identities: Kept<Result<Arc<Identity>, KeyError>>,
    stores: Kept<Arc<CertStore>>,
    servers: Kept<ServerOptions>,
    clients: Kept<Arc<ClientConfig>>,
}

/// Values with the generation that asked for them last.
#[derive(Debug)]
struct Kept<T>(HashMap<Fingerprint, (u64, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> Kept<T> {
    fn get(&mut self, generation: u64, key: Fingerprint) -> Option<T> {
        let (used, value) = self.0.get_mut(&key)?;
        *used = generation;
        Some(value.clone())
    }

    fn sweep(&mut self, generation: u64) {
        self.0.retain(|_, (used, _)| *used + 1 >= generation);
    }
}

impl Default for TlsCache {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsCache {
    /// An empty cache with new ticket keys (they change by themselves every 6 hours, and old ones are good for 12).
    pub fn new() -> Self {
        Self {
            // Fails only when the system has no random numbers: then sessions are not resumed.
            tickets: Ticketer::new().ok(),
            sessions: ServerSessionMemoryCache::new(STORED_SESSIONS),
            challenges: Arc::default(),
            state: Mutex::default(),
        }
    }

    /// The proofs for ACME authorities: one table for the process.
    pub fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.challenges)
    }

    /// The ticket keys that all options without client certificates share.
    pub fn tickets(&self) -> Option<Arc<dyn ProducesTickets>> {
        self.tickets.clone()
    }

    /// The sessions that all options without client certificates share.
    pub fn sessions(&self) -> Arc<dyn StoresServerSessions> {
        Arc::clone(&self.sessions)
    }

    /// No sessions at all.
    pub fn no_sessions() -> Arc<dyn StoresServerSessions> {
        Arc::new(NoServerSessionStorage {})
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a build: what neither this one nor the one before asks for is forgotten.
    pub fn begin(&self) {
        self.with(|state| {
            let generation = state.generation;
            state.identities.sweep(generation);
            state.stores.sweep(generation);
            state.servers.sweep(generation);
            state.clients.sweep(generation);
            state.generation += 1;
        });
    }

    /// A number for the options of this name that stays the same as long as the process lives and they ask the same of
    /// clients; 0 is `default` that asks for nothing.
    ///
    /// `client_auth` is what [`Self::client_auth_id`] answered: connections that were opened before a client certificate
    /// was asked for are not taken for connections that have one.
    pub fn option_id(&self, name: &str, client_auth: u32) -> u32 {
        if name == DEFAULT_OPTIONS && client_auth == 0 {
            return 0;
        }
        self.number(Fingerprint::of([name.as_bytes(), &client_auth.to_le_bytes()]))
    }

    /// A number for what is asked of clients, in words (see [`Self::option_id`] for how long it holds); 0 is nothing.
    pub fn client_auth_id(&self, words: &str) -> u32 {
        self.number(Fingerprint::of([words.as_bytes()]))
    }

    fn number(&self, of: Fingerprint) -> u32 {
        self.with(|state| {
            let next = u32::try_from(state.numbers.len() + 1).unwrap_or(u32::MAX - 1);
            *state.numbers.entry(of).or_insert(next)
        })
    }

    /// The certificate that is served when none is configured: made once.
    ///
    /// # Errors
    /// No random numbers, or no key could be made.
    pub fn self_signed(&self) -> Result<Arc<Identity>, String> {
        self.with(|state| {
            if let Some(identity) = &state.self_signed {
                return Ok(Arc::clone(identity));
            }
            let identity = Arc::new(self_signed(SystemTime::now())?);
            state.self_signed = Some(Arc::clone(&identity));
            Ok(identity)
        })
    }

    /// A certificate and its key, parsed unless known.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn identity(&self, certificates: &[u8], key: &[u8]) -> (Fingerprint, Result<Arc<Identity>, KeyError>) {
        let fingerprint = Fingerprint::of([certificates, key]);
        let identity = self.keep(
            fingerprint,
            |state| &mut state.identities,
            || Identity::from_pem(certificates, key).map(Arc::new),
        );
        (fingerprint, identity)
    }

    /// A certificate store, made unless known.
    pub fn store(&self, fingerprint: Fingerprint, make: impl FnOnce() -> CertStore) -> Arc<CertStore> {
        self.keep(fingerprint, |state| &mut state.stores, || Arc::new(make()))
    }

    /// A server's options, made unless known.
    ///
    /// # Errors
    /// What `make` answers; errors are not kept.
    pub fn server<E>(
        &self,
        fingerprint: Fingerprint,
        make: impl FnOnce() -> Result<ServerOptions, E>,
    ) -> Result<ServerOptions, E> {
        self.try_keep(fingerprint, |state| &mut state.servers, make)
    }

    /// A client's configuration, made unless known.
    ///
    /// # Errors
    /// What `make` answers; errors are not kept.
    pub fn client<E>(
        &self,
        fingerprint: Fingerprint,
        make: impl FnOnce() -> Result<Arc<ClientConfig>, E>,
    ) -> Result<Arc<ClientConfig>, E> {
        self.try_keep(fingerprint, |state| &mut state.clients, make)
    }

    fn keep<T: Clone>(
        &self,
        fingerprint: Fingerprint,
        table: impl Fn(&mut State) -> &mut Kept<T>,
        make: impl FnOnce() -> T,
    ) -> T {
        let made = self.try_keep(fingerprint, table, || Ok::<T, std::convert::Infallible>(make()));
        match made {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    fn try_keep<T: Clone, E>(
        &self,
        fingerprint: Fingerprint,
        table: impl Fn(&mut State) -> &mut Kept<T>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let known = self.with(|state| {
            let generation = state.generation;
            table(state).get(generation, fingerprint)
        });
        if let Some(value) = known {
            return Ok(value);
        }
        // Made outside the lock: an RSA key takes a while to check.
        let value = make()?;
        self.with(|state| {
            let generation = state.generation;
            table(state).0.insert(fingerprint, (generation, value.clone()));
        });
        Ok(value)
    }
}
