//! A scrape's first half: the cells of all workers, added up and in the order of their labels.
//!
//! No worker waits for it. A worker's list of new cells is locked only to be taken away, the registry only while its
//! labels are copied. The cells stay sorted from one scrape to the next, so that the next has little to sort.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cells::{Published, ScopeId, Series};
use super::header_labels::HeaderSet;
use super::labels::{Key, TlsLabels};
use super::native::NativeHistogram;
use super::registry::{Labels, Weights};
use super::{Format, Metrics, lock};

/// Every cell that was ever published, as long as its scope exists, with the scope's place in the order of the labels.
#[derive(Debug, Default)]
pub(super) struct Cells(Vec<(u32, Published)>);

/// The words of one series, summed over the workers.
pub(super) type Words = Vec<u64>;

/// The requests of one combination of labels.
#[derive(Debug)]
pub(super) struct Requests<'a> {
    pub(super) labels: &'a Labels,
    pub(super) key: Key,
    pub(super) words: Words,
    pub(super) native: NativeHistogram,
}

/// The sums of one kind of scope, sorted.
#[derive(Debug, Default)]
pub(super) struct Sums<'a> {
    pub(super) requests: Vec<Requests<'a>>,
    pub(super) headed: Vec<(&'a Labels, Key, HeaderSet, Words)>,
    pub(super) tls: Vec<(&'a Labels, TlsLabels, Words)>,
    pub(super) events: Vec<(&'a Labels, Words)>,
}

/// The scopes that exist at a moment, in the order of their labels.
#[derive(Debug)]
pub(super) struct Scopes {
    sorted: Vec<(Labels, ScopeId)>,
    /// By the index of a scope's place.
    ranks: Vec<Option<(ScopeId, u32)>>,
    weights: Weights,
}

impl Scopes {
    fn new(mut sorted: Vec<(Labels, ScopeId)>, weights: Weights) -> Self {
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let places = sorted.iter().map(|(_, id)| id.index as usize + 1).max().unwrap_or(0);
        let mut ranks = vec![None; places];
        for (rank, (_, id)) in sorted.iter().enumerate() {
            ranks[id.index as usize] = Some((*id, rank as u32));
        }
        Self { sorted, ranks, weights }
    }

    /// The weights of variants.
    pub(super) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// `None` for a scope that is no more.
    fn rank(&self, id: ScopeId) -> Option<u32> {
        let (tenant, rank) = (*self.ranks.get(id.index as usize)?)?;
        (tenant == id).then_some(rank)
    }
}

impl Metrics {
    /// Takes over what workers published, and lets go of cells whose scope is no more.
    pub(super) fn collect(&self, cells: &mut Cells, now: Instant) -> Scopes {
        let cells = &mut cells.0;
        for worker in lock(&self.workers).iter() {
            let new = std::mem::take(&mut *lock(&worker.blocks));
            cells.extend(new.into_iter().map(|published| (0, published)));
        }
        // After the cells: a scope is known before anything counts in it.
        let mut registry = lock(&self.registry);
        registry.sweep(now);
        self.shared.caps.retain(|id| registry.labels(id).is_some());
        let copies = registry.scopes().map(|(id, labels)| (labels.clone(), id)).collect();
        let weights = registry.weights().clone();
        drop(registry);
        let scopes = Scopes::new(copies, weights);
        cells.retain_mut(|(rank, published)| {
            let known = scopes.rank(published.id);
            *rank = known.unwrap_or(0);
            known.is_some()
        });
        // Stable: fast where most is in order already.
        cells.sort_by(|(a_rank, a), (b_rank, b)| (a_rank, a.series).cmp(&(b_rank, b.series)));
        scopes
    }
}

impl Cells {
    /// The sums of the scopes that `kind` picks. Native histograms only for the format that has them.
    pub(super) fn sums<'a>(&self, scopes: &'a Scopes, format: Format, kind: fn(&Labels) -> bool) -> Sums<'a> {
        let mut sums = Sums::default();
        let same =
            |(a_rank, a): &(u32, Published), (b_rank, b): &(u32, Published)| a_rank == b_rank && a.series == b.series;
        for group in self.0.chunk_by(same) {
            let (rank, first) = &group[0];
            let labels = &scopes.sorted[*rank as usize].0;
            if !kind(labels) {
                continue;
            }
            let words = add_up(group);
            match first.series {
                Series::Requests(key) => sums.requests.push(Requests {
                    labels,
                    key,
                    words,
                    native: native(group, format),
                }),
                Series::Headed(key, set) => sums.headed.push((labels, key, set, words)),
                Series::Tls(tls) => sums.tls.push((labels, tls, words)),
                Series::Events => sums.events.push((labels, words)),
            }
        }
        sums
    }

    /// How many cells are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn add_up(group: &[(u32, Published)]) -> Words {
    let mut words = vec![0; group[0].1.block.len()];
    for (_, published) in group {
        for (sum, word) in words.iter_mut().zip(published.block.iter()) {
            *sum = u64::wrapping_add(*sum, word.load(Ordering::Relaxed));
        }
    }
    words
}

fn native(group: &[(u32, Published)], format: Format) -> NativeHistogram {
    let mut sum = NativeHistogram::default();
    if format == Format::Protobuf {
        for cells in group.iter().filter_map(|(_, published)| published.native.as_ref()) {
            cells.add_to(&mut sum);
        }
    }
    sum
}
