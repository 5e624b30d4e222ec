//! Which version of which model answered a request: what joins feedback to its series.
//!
//! Feedback comes minutes or hours after the answer, from somebody who knows the truth, and names the request by the id
//! that Gantry gave it. The index leads from the id to the version. It is shared by all workers and outlives reloads.
//!
//! Invariants: at most [`MAX_ENTRIES`] answers of the last [`KEEP`] are known, the oldest go first; only answers that
//! succeeded are registered; a label counts once for an answer, also for one that is only known by its mask any more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::masks::{Capture, Limits, Store};
use super::version::{Identity, Version};
use crate::observe::metrics::ModelSeries;

/// Most answers that feedback can be given for. An entry takes about 100 bytes.
pub const MAX_ENTRIES: usize = 100_000;
/// How long after an answer feedback can be given for it, where its mask is not kept longer.
pub const KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// What a service with a model writes down of its answers, so that feedback finds them.
#[derive(Debug, Clone)]
pub struct Recorder {
    index: Arc<Index>,
    version: Arc<Version>,
    masks: Option<(Arc<Store>, Limits)>,
}

impl Recorder {
    /// Joins a version to its mask store, if the service has one, and the limits that hold once its snapshot is served.
    #[must_use]
    pub fn new(index: Arc<Index>, version: Arc<Version>, masks: Option<(Arc<Store>, Limits)>) -> Self {
        Self { index, version, masks }
    }

    /// The request `id` was answered by 2xx, and the answer is whole: feedback for it counts for this version.
    pub fn register(&self, id: u128) {
        self.index.register(id, &self.version);
    }

    /// Begins to keep the mask of the answer to `id`; `length` is its Content-Length, where it has one. `None`: the
    /// service keeps no masks, or this one finds no room.
    #[must_use]
    pub fn begin(&self, id: u128, length: Option<u64>) -> Option<Capture> {
        self.masks()?.begin(id, &self.version, length)
    }

    /// The service's mask store.
    #[must_use]
    pub fn masks(&self) -> Option<&Arc<Store>> {
        self.masks.as_ref().map(|(store, _)| store)
    }
}

/// The index of answers, and the mask stores that are served.
#[derive(Debug, Default)]
pub struct Index {
    answers: Mutex<Answers>,
    versions: Mutex<HashMap<Identity, Weak<Version>>>,
    stores: Mutex<Vec<Arc<Store>>>,
}

#[derive(Debug, Default)]
struct Answers {
    known: HashMap<u128, Answer, foldhash::fast::RandomState>,
    /// In the order that they came.
    order: VecDeque<u128>,
    /// What was claimed for answers that went: the store of their masks may bring them back, and a label must not count
    /// again then. A version lives as long as a mask of it is kept, so the bits still mean the same.
    judged: HashMap<u128, u64, foldhash::fast::RandomState>,
    /// The ids of `judged` in the order that they went; at most [`MAX_ENTRIES`].
    judged_order: VecDeque<u128>,
}

#[derive(Debug)]
struct Answer {
    version: Arc<Version>,
    /// The labels that feedback was counted for, by [`Version::bits`].
    claimed: u64,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The version with these names; the same object for the same names as long as anybody holds it.
    #[must_use]
    pub fn version(&self, names: Identity) -> Arc<Version> {
        let mut versions = lock(&self.versions);
        if let Some(version) = versions.get(&names).and_then(Weak::upgrade) {
            return version;
        }
        let version = Arc::new(Version::new(names.clone()));
        versions.insert(names, Arc::downgrade(&version));
        version
    }

    /// Notes who answered `id`.
    pub fn register(&self, id: u128, version: &Arc<Version>) {
        self.register_up_to(id, version, MAX_ENTRIES);
    }

    fn register_up_to(&self, id: u128, version: &Arc<Version>, most: usize) {
        let mut answers = lock(&self.answers);
        if answers.known.contains_key(&id) {
            return;
        }
        let answer = Answer {
            version: Arc::clone(version),
            claimed: answers.judged.get(&id).copied().unwrap_or_default(),
        };
        answers.known.insert(id, answer);
        answers.order.push_back(id);
        while answers.order.len() > most {
            answers.drop_oldest(most);
        }
    }

    /// Who answered `id`. An answer whose mask is kept is known as long as its mask.
    #[must_use]
    pub fn find(&self, id: u128) -> Option<Arc<Version>> {
        let known = |answers: &Answers| answers.known.get(&id).map(|answer| Arc::clone(&answer.version));
        if let Some(version) = known(&lock(&self.answers)) {
            return Some(version);
        }
        let version = self.stores().iter().find_map(|store| store.version_of(id))?;
        self.register(id, &version);
        Some(version)
    }

    /// The store that keeps the masks of `service`.
    #[must_use]
    pub fn store(&self, service: &str) -> Option<Arc<Store>> {
        lock(&self.stores)
            .iter()
            .find(|store| store.service() == service)
            .cloned()
    }

    /// Claims labels (bits of [`Version::bits`]) for an answer, and gives those that nobody claimed before. `None`: the
    /// answer is not known, or no longer.
    #[must_use]
    pub fn claim(&self, id: u128, bits: u64) -> Option<u64> {
        let mut answers = lock(&self.answers);
        let answer = answers.known.get_mut(&id)?;
        let new = bits & !answer.claimed;
        answer.claimed |= bits;
        Some(new)
    }

    /// A new snapshot is about to be served, with these versions and their series: their answers can be judged, and their
    /// masks kept, from its first request on.
    pub fn announce<'a>(self: &Arc<Self>, served: impl IntoIterator<Item = (&'a Recorder, &'a ModelSeries)>) {
        for (recorder, series) in served {
            recorder.version.serve(series.clone());
            if let Some((store, limits)) = &recorder.masks {
                store.set_limits(*limits);
                store.open(self);
                let mut stores = lock(&self.stores);
                if !stores.iter().any(|known| Arc::ptr_eq(known, store)) {
                    stores.push(Arc::clone(store));
                }
            }
        }
    }

    /// The snapshot that was announced is served. A version that is not in it has no series any more. A store that is not
    /// in it removes what it keeps: whoever takes `keepMasks` out of the configuration wants no mask to be kept.
    pub fn retire_all_but<'a>(&self, served: impl IntoIterator<Item = &'a Recorder>) {
        let served: Vec<&Recorder> = served.into_iter().collect();
        let known: Vec<_> = lock(&self.versions).values().filter_map(Weak::upgrade).collect();
        for version in known {
            if !served.iter().any(|recorder| Arc::ptr_eq(&recorder.version, &version)) {
                version.retire();
            }
        }
        let is_served = |store: &Arc<Store>| {
            let mut stores = served.iter().filter_map(|recorder| recorder.masks());
            stores.any(|served| Arc::ptr_eq(served, store))
        };
        let gone: Vec<Arc<Store>> = lock(&self.stores).extract_if(.., |store| !is_served(store)).collect();
        for store in gone {
            store.close();
        }
    }

    /// Forgets what is too old. Called from time to time; between two calls nothing grows beyond its bound.
    pub fn sweep(&self, now: SystemTime) {
        let oldest = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(KEEP);
        let oldest = oldest.as_millis();
        let mut answers = lock(&self.answers);
        while answers.order.front().is_some_and(|id| milliseconds(*id) < oldest) {
            answers.drop_oldest(MAX_ENTRIES);
        }
        drop(answers);
        lock(&self.versions).retain(|_, version| version.strong_count() > 0);
        for store in self.stores() {
            store.sweep(now);
        }
    }

    /// Waits until every store has written what was given to it, or `limit` is over.
    pub fn flush(&self, limit: Duration) {
        let deadline = std::time::Instant::now() + limit;
        for store in self.stores() {
            store.flush(deadline.saturating_duration_since(std::time::Instant::now()));
        }
    }

    fn stores(&self) -> Vec<Arc<Store>> {
        lock(&self.stores).clone()
    }
}

impl Answers {
    /// Forgets the oldest answer; what was claimed for it is remembered, of the `most` last ones.
    fn drop_oldest(&mut self, most: usize) {
        let Some(id) = self.order.pop_front() else { return };
        let claimed = self.known.remove(&id).map_or(0, |answer| answer.claimed);
        if claimed != 0 && self.judged.insert(id, claimed).is_none() {
            self.judged_order.push_back(id);
        }
        while self.judged_order.len() > most {
            if let Some(oldest) = self.judged_order.pop_front() {
                self.judged.remove(&oldest);
            }
        }
    }
}

/// When an id was made: a UUIDv7 begins with its milliseconds since 1970 (RFC 9562, section 5.7).
fn milliseconds(id: u128) -> u128 {
    id >> 80
}

/// What is guarded here is valid between two statements, also after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::version::{LabelKind, fixture};
    use super::*;

    fn id(seconds: u64, number: u128) -> u128 {
        (u128::from(seconds) * 1000) << 80 | number
    }

    #[test]
    fn the_oldest_go_first_by_number_and_by_age() {
        let (index, version) = (Index::new(), fixture("1"));
        for number in 0..5 {
            index.register_up_to(id(1000 + number as u64, number), &version, 3);
        }
        let known = |number: u128| index.find(id(1000 + number as u64, number)).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(known), [false, false, true, true, true]);
        index.sweep(UNIX_EPOCH + Duration::from_secs(1003) + KEEP);
        assert_eq!([2, 3, 4].map(known), [false, true, true]);
        index.sweep(UNIX_EPOCH + Duration::from_secs(2000) + KEEP);
        assert!(lock(&index.answers).order.is_empty() && lock(&index.answers).known.is_empty());
    }

    #[test]
    fn a_label_counts_once_for_an_answer() {
        let (index, version) = (Index::new(), fixture("1"));
        let bits = version.bits(&["dice", "iou"], LabelKind::Score).unwrap();
        assert_eq!(index.claim(id(1, 1), bits), None);
        index.register(id(1, 1), &version);
        index.register(id(1, 2), &version);
        assert_eq!(index.claim(id(1, 1), 0b01), Some(0b01));
        index.register(id(1, 1), &version);
        assert_eq!(index.claim(id(1, 1), bits), Some(0b10));
        assert_eq!(index.claim(id(1, 1), bits), Some(0));
        assert_eq!(index.claim(id(1, 2), bits), Some(bits));
    }

    #[test]
    fn a_label_does_not_count_again_when_a_kept_mask_brings_its_answer_back() {
        let (index, version) = (Index::new(), fixture("1"));
        let now = UNIX_EPOCH + Duration::from_secs(1) + KEEP + Duration::from_secs(1);
        index.register(id(1, 1), &version);
        index.register(id(1, 2), &version);
        assert_eq!(index.claim(id(1, 1), 0b01), Some(0b01));
        for bits in [0b10, 0b00] {
            index.sweep(now);
            assert_eq!(index.claim(id(1, 1), 0b01), None, "it is forgotten");
            // As `find` does for an answer whose mask is kept.
            index.register(id(1, 1), &version);
            assert_eq!(index.claim(id(1, 1), 0b11), Some(bits));
        }
        assert_eq!(
            lock(&index.answers).judged.len(),
            1,
            "what nobody judged is not remembered"
        );
        for number in 10..20 {
            index.register_up_to(id(1, number), &version, 3);
            assert_eq!(index.claim(id(1, number), 1), Some(1));
        }
        let answers = lock(&index.answers);
        assert_eq!((answers.judged.len(), answers.judged_order.len()), (3, 3));
    }

    #[test]
    fn a_version_is_one_object_until_nobody_holds_it() {
        let index = Index::new();
        let names = fixture("1").names.clone();
        let version = index.version(names.clone());
        assert!(Arc::ptr_eq(&version, &index.version(names)));
        drop(version);
        index.sweep(SystemTime::now());
        assert!(lock(&index.versions).is_empty());
    }
}
