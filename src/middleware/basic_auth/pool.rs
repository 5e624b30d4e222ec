//! Where passwords are hashed: off the workers, a bounded number at a time, with a memory of what succeeded.
//!
//! bcrypt at cost 12 takes a quarter of a second of one core. Without bounds, a few clients that guess passwords take
//! all cores from everybody else (threats.md, finding 4). So:
//! - at most `cores - 1` hashes run at a time in the process, on the blocking threads;
//! - a bounded number of attempts waits for its turn, the next one is refused at once ([`Verdict::Busy`]);
//! - attempts with the same user and password that come while one of them is under way share its outcome;
//! - successes are remembered for some minutes under a keyed hash; failures never are.
//!
//! Invariants: neither passwords nor anything from which one could be guessed without the process's key is kept; a
//! changed stored hash makes what was remembered about it unreachable; a hash that has started runs to its end and
//! keeps its slot, also when the client has gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Duration, Instant};

use super::htpasswd::Candidate;

/// Attempts that may wait for a hashing slot.
pub const MAX_WAITING: usize = 64;
/// Successes that are remembered at a time.
pub const MAX_REMEMBERED: usize = 4096;
/// How long a success is remembered.
pub const REMEMBER_FOR: Duration = Duration::from_secs(300);

const SHARDS: usize = 16;

/// The outcome of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is the user's.
    Match,
    /// It is not, or there is no such user.
    NoMatch,
    /// Too many attempts wait already; nothing was verified.
    Busy,
}

type Digest = [u8; 32];
/// The outcome of an attempt that is under way: whether the password fits, once it is known.
type Outcome = watch::Receiver<Option<bool>>;

enum Joined {
    First(Leader, Outcome),
    Later(Outcome),
}

/// Hashes passwords for all workers and all `basicAuth` middlewares of the process.
pub struct HashPool {
    key: Hmac<Sha256>,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    remembered: [Mutex<HashMap<Digest, Instant>>; SHARDS],
    under_way: Mutex<HashMap<Digest, Outcome>>,
}

impl std::fmt::Debug for HashPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashPool")
            .field("free_slots", &self.slots.available_permits())
            .finish_non_exhaustive()
    }
}

impl Default for HashPool {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores.saturating_sub(1).max(1), MAX_WAITING)
    }
}

impl HashPool {
    /// A pool that runs `slots` hashes at a time while up to `max_waiting` more wait.
    #[must_use]
    pub fn new(slots: usize, max_waiting: usize) -> Self {
        Self {
            key: Hmac::new_from_slice(&random_key()).expect("HMAC takes keys of any length"),
            slots: Arc::new(Semaphore::new(slots)),
            waiting: AtomicUsize::new(0),
            max_waiting,
            remembered: std::array::from_fn(|_| Mutex::default()),
            under_way: Mutex::default(),
        }
    }

    /// Verifies one attempt. Cheap kinds and remembered successes are decided at once.
    ///
    /// Cancel-safe: a dropped call gives its place in the queue back.
    pub async fn verify(self: &Arc<Self>, user: &str, password: &[u8], candidate: Candidate) -> Verdict {
        if candidate.is_cheap() {
            return verdict(candidate.verify(password));
        }
        let digest = self.digest(user, password, &candidate);
        if self.remembers(&digest) {
            return Verdict::Match;
        }
        loop {
            let (leader, mut outcome) = match self.join(digest) {
                Joined::First(leader, outcome) => (leader, outcome),
                Joined::Later(mut outcome) => match await_outcome(&mut outcome).await {
                    Some(fits) => return verdict(fits),
                    // The one that went first was cancelled before it hashed anything: try to go first.
                    None => continue,
                },
            };
            let Some(place) = Place::take(self) else {
                return Verdict::Busy;
            };
            let slot = Arc::clone(&self.slots)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            drop(place);
            let password = password.to_vec();
            tokio::task::spawn_blocking(move || {
                let fits = candidate.verify(&password);
                leader.finish(fits);
                drop(slot);
            });
            return verdict(await_outcome(&mut outcome).await.unwrap_or(false));
        }
    }

    /// The keyed hash of an attempt; the lengths keep the parts apart.
    fn digest(&self, user: &str, password: &[u8], candidate: &Candidate) -> Digest {
        let mut mac = self.key.clone();
        for part in [user.as_bytes(), password] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.update(&candidate.fingerprint());
        mac.finalize().into_bytes().into()
    }

    fn shard(&self, digest: &Digest) -> &Mutex<HashMap<Digest, Instant>> {
        &self.remembered[usize::from(digest[0]) % SHARDS]
    }

    // The digest is a MAC under a key that nobody outside knows: how long the look-up takes says nothing about
    // passwords.
    fn remembers(&self, digest: &Digest) -> bool {
        let shard = self.shard(digest).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(digest).is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, digest: Digest) {
        let now = Instant::now();
        let mut shard = self.shard(&digest).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MAX_REMEMBERED / SHARDS {
            shard.retain(|_, until| now < *until);
        }
        if shard.len() >= MAX_REMEMBERED / SHARDS
            && let Some(oldest) = shard.iter().min_by_key(|(_, until)| **until).map(|(digest, _)| *digest)
        {
            shard.remove(&oldest);
        }
        shard.insert(digest, now + REMEMBER_FOR);
    }

    /// Becomes the first with this attempt, or gets the outcome of the one that is.
    fn join(self: &Arc<Self>, digest: Digest) -> Joined {
        match self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(digest)
        {
            Entry::Occupied(entry) => Joined::Later(entry.get().clone()),
            Entry::Vacant(entry) => {
                let (sender, receiver) = watch::channel(None);
                entry.insert(receiver.clone());
                Joined::First(
                    Leader {
                        pool: Arc::clone(self),
                        digest,
                        sender,
                    },
                    receiver,
                )
            }
        }
    }
}

fn verdict(fits: bool) -> Verdict {
    if fits { Verdict::Match } else { Verdict::NoMatch }
}

async fn await_outcome(outcome: &mut Outcome) -> Option<bool> {
    outcome.wait_for(Option::is_some).await.ok().and_then(|value| *value)
}

/// A key that lives as long as the process and is never written anywhere.
fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .secure_random
        .fill(&mut key)
        .expect("the system has random numbers");
    key
}

/// The attempt that goes first; dropping it lets the next one go first.
struct Leader {
    pool: Arc<HashPool>,
    digest: Digest,
    sender: watch::Sender<Option<bool>>,
}

impl Leader {
    fn finish(self, fits: bool) {
        if fits {
            self.pool.remember(self.digest);
        }
        self.sender.send_replace(Some(fits));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.pool
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.digest);
    }
}

/// A place in the queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(pool: &'a HashPool) -> Option<Self> {
        let waiting = pool.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(&pool.waiting);
        // A free slot is taken without waiting, so that a pool without a queue still works.
        (waiting < pool.max_waiting || pool.slots.available_permits() > waiting).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::htpasswd::Users;
    use super::*;

    fn users() -> Users {
        let (users, _) = Users::parse([
            "admin:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
            "apr:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/",
        ])
        .unwrap();
        users
    }

    #[tokio::test]
    async fn successes_are_remembered_and_failures_are_not() {
        let (pool, users) = (Arc::new(HashPool::new(1, 4)), users());
        assert_eq!(
            pool.verify("admin", b"wrong", users.candidate("admin")).await,
            Verdict::NoMatch
        );
        assert_eq!(
            pool.verify("nobody", b"secret", users.candidate("nobody")).await,
            Verdict::NoMatch
        );
        assert_eq!(
            pool.remembered
                .iter()
                .map(|shard| shard.lock().unwrap().len())
                .sum::<usize>(),
            0
        );

        assert_eq!(
            pool.verify("admin", b"secret", users.candidate("admin")).await,
            Verdict::Match
        );
        let digest = pool.digest("admin", b"secret", &users.candidate("admin"));
        assert!(pool.remembers(&digest));
        assert!(
            !pool.remembers(&pool.digest("admin", b"secret", &users.candidate("apr"))),
            "another stored hash"
        );
        assert!(!pool.remembers(&pool.digest("admins", b"ecret", &users.candidate("admin"))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_expires() {
        let (pool, users) = (Arc::new(HashPool::new(1, 4)), users());
        let digest = pool.digest("apr", b"test", &users.candidate("apr"));
        pool.remember(digest);
        tokio::time::advance(REMEMBER_FOR - Duration::from_secs(1)).await;
        assert!(pool.remembers(&digest));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!pool.remembers(&digest));
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let pool = HashPool::new(1, 4);
        for number in 0..3 * MAX_REMEMBERED {
            let mut digest = [0; 32];
            digest[0] = (number % 256) as u8;
            digest[1..9].copy_from_slice(&number.to_le_bytes());
            pool.remember(digest);
        }
        let held: usize = pool.remembered.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(held, MAX_REMEMBERED);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let (pool, users) = (Arc::new(HashPool::new(1, 1)), users());
        let slot = Arc::clone(&pool.slots).acquire_owned().await.unwrap();
        let first = pool.verify("admin", b"a", users.candidate("admin"));
        tokio::pin!(first);
        assert!(futures_now(first.as_mut()).is_none(), "waits for the slot");
        assert_eq!(
            pool.verify("admin", b"b", users.candidate("admin")).await,
            Verdict::Busy
        );
        drop(slot);
        assert_eq!(first.await, Verdict::NoMatch);
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn equal_attempts_share_one_hash() {
        let (pool, users) = (Arc::new(HashPool::new(1, 1)), users());
        let slot = Arc::clone(&pool.slots).acquire_owned().await.unwrap();
        let mut attempts: Vec<_> = (0..100)
            .map(|_| Box::pin(pool.verify("admin", b"secret", users.candidate("admin"))))
            .collect();
        for attempt in &mut attempts {
            assert!(futures_now(attempt.as_mut()).is_none());
        }
        drop(slot);
        for attempt in attempts {
            assert_eq!(attempt.await, Verdict::Match);
        }
        // The slot is given back after the attempt has left the list.
        drop(pool.slots.acquire().await.unwrap());
        assert!(pool.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_next_one_goes_first_when_the_first_one_leaves() {
        let (pool, users) = (Arc::new(HashPool::new(1, 2)), users());
        let slot = Arc::clone(&pool.slots).acquire_owned().await.unwrap();
        let mut first = Box::pin(pool.verify("admin", b"secret", users.candidate("admin")));
        let mut second = Box::pin(pool.verify("admin", b"secret", users.candidate("admin")));
        assert!(futures_now(first.as_mut()).is_none());
        assert!(futures_now(second.as_mut()).is_none());
        drop(first);
        drop(slot);
        assert_eq!(second.await, Verdict::Match);
    }

    /// Polls once.
    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
