//! A version of a model behind one service, as those who keep something of its requests know it.
//!
//! One object a version, shared by all that is kept of it, so that an entry of an index costs a pointer. It outlives
//! snapshots: an answer of yesterday may be judged today, also after the version went.
//!
//! Invariants: the labels that feedback brings along are bounded; the series are those of the present generation, or none
//! at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use crate::observe::metrics::{Dropped, ModelSeries};

/// Most labels that scores bring along for one version.
pub const SCORE_LABELS: usize = 16;
/// Most labels that comparisons of masks bring along for one version: the mean, and one for each label of a mask.
pub const MASK_LABELS: usize = 33;

/// What a version is named by, and its series are labelled with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// `model.name`
    pub model: String,
    /// `model.version`
    pub version: String,
    /// The service's qualified name, `mri@file`.
    pub service: String,
}

/// Who brings a label along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// A score that was computed elsewhere.
    Score,
    /// A comparison of masks.
    Mask,
}

/// A version.
#[derive(Debug)]
pub struct Version {
    /// Its names.
    pub names: Identity,
    series: ArcSwapOption<ModelSeries>,
    /// The labels of feedback in the order that they came; an entry's bit is the label's place.
    labels: Mutex<Labels>,
    kept: AtomicU64,
    kept_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Labels {
    names: Vec<String>,
    scores: usize,
    masks: usize,
}

impl Version {
    /// A version without series.
    #[must_use]
    pub fn new(names: Identity) -> Self {
        Self {
            names,
            series: ArcSwapOption::empty(),
            labels: Mutex::default(),
            kept: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(0),
        }
    }

    /// The version is served, and these are its series.
    pub(super) fn serve(&self, series: ModelSeries) {
        self.series.store(Some(series.into()));
        if self.kept().0 > 0 {
            self.publish();
        }
    }

    /// The version went from the configuration, and its series with it.
    pub(super) fn retire(&self) {
        self.series.store(None);
    }

    /// Its series; `None` while it is not served.
    #[must_use]
    pub fn series(&self) -> Option<ModelSeries> {
        self.series.load().as_deref().cloned()
    }

    /// The bits of `labels`, new ones included; none is taken where one finds no place.
    #[must_use]
    pub fn bits(&self, labels: &[&str], kind: LabelKind) -> Option<u64> {
        let mut known = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new: Vec<&str> = Vec::new();
        let mut bits = 0;
        for label in labels {
            let place = known.names.iter().position(|name| name == label).or_else(|| {
                let place = new.iter().position(|name| name == label);
                place.map(|place| known.names.len() + place)
            });
            let place = place.unwrap_or_else(|| {
                new.push(label);
                known.names.len() + new.len() - 1
            });
            bits |= 1_u64.checked_shl(place as u32)?;
        }
        let (count, most) = match kind {
            LabelKind::Score => (&mut known.scores, SCORE_LABELS),
            LabelKind::Mask => (&mut known.masks, MASK_LABELS),
        };
        if *count + new.len() > most {
            return None;
        }
        *count += new.len();
        known.names.extend(new.into_iter().map(str::to_owned));
        Some(bits)
    }

    /// A mask of `bytes` bytes is kept from now on.
    pub(super) fn keep(&self, bytes: u64) {
        self.kept.fetch_add(1, Ordering::Relaxed);
        self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.publish();
    }

    /// A mask of `bytes` bytes is kept no more.
    pub(super) fn drop_kept(&self, bytes: u64) {
        self.kept.fetch_sub(1, Ordering::Relaxed);
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.publish();
    }

    /// Masks that are kept, and their bytes.
    #[must_use]
    pub fn kept(&self) -> (u64, u64) {
        (
            self.kept.load(Ordering::Relaxed),
            self.kept_bytes.load(Ordering::Relaxed),
        )
    }

    /// A mask could not be kept.
    pub(super) fn dropped(&self, why: Dropped) {
        if let Some(series) = &*self.series.load() {
            series.mask_dropped(why);
        }
    }

    /// Tells the series what is kept.
    pub(super) fn publish(&self) {
        let (count, bytes) = self.kept();
        if let Some(series) = &*self.series.load() {
            series.set_masks(count, bytes);
        }
    }
}

#[cfg(test)]
pub(super) fn fixture(version: &str) -> std::sync::Arc<Version> {
    std::sync::Arc::new(Version::new(Identity {
        model: "seg".to_owned(),
        version: version.to_owned(),
        service: "s@file".to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_bit_each_and_are_bounded() {
        let version = fixture("1");
        assert_eq!(version.bits(&["dice"], LabelKind::Score), Some(1));
        assert_eq!(version.bits(&["iou", "dice", "iou"], LabelKind::Score), Some(0b11));
        for i in 2..SCORE_LABELS {
            assert_eq!(version.bits(&[&format!("l{i}")], LabelKind::Score), Some(1 << i));
        }
        assert_eq!(version.bits(&["one_more"], LabelKind::Score), None);
        assert_eq!(version.bits(&["one_more", "dice"], LabelKind::Score), None);
        assert_eq!(
            version.bits(&["dice"], LabelKind::Score),
            Some(1),
            "a known one always goes"
        );
        for i in 0..MASK_LABELS {
            let bits = version.bits(&[&format!("dice_{i}")], LabelKind::Mask);
            assert_eq!(bits, Some(1 << (SCORE_LABELS + i)));
        }
        assert_eq!(version.bits(&["dice_99"], LabelKind::Mask), None);
    }
}
