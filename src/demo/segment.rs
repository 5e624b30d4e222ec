//! The stand-in models: brain masks by textbook means, good enough to be worth measuring.
//!
//! Version 1 thresholds by Otsu's method and keeps the largest connected piece; version 2 smooths first, so that noise
//! neither eats holes into the brain nor builds bridges to the scalp. Also here: the Dice coefficient they are judged by.

use crate::imaging::nifti::Volume;

/// Which of the two stand-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelVersion {
    /// Otsu's threshold and the largest component.
    V1,
    /// The same after a small Gaussian blur.
    V2,
}

impl ModelVersion {
    /// The version as it stands in `X-Model-Version` and in the configuration: `1` or `2`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
        }
    }
}

/// The brain's mask: 1 inside, 0 outside, one byte a voxel in the order of the volume. Takes the volume's voxels as
/// scratch space.
#[must_use]
pub fn segment(mut volume: Volume, version: ModelVersion) -> Vec<u8> {
    let size = volume.geometry.size;
    if version == ModelVersion::V2 {
        smooth(&mut volume.voxels, size);
    }
    let mut mask = match otsu(&volume.voxels) {
        Some(threshold) => volume.voxels.iter().map(|&voxel| u8::from(voxel > threshold)).collect(),
        None => vec![0; volume.voxels.len()],
    };
    keep_largest_component(&mut mask, size);
    mask
}

/// Dice coefficient of two masks, `2 |A ∩ B| / (|A| + |B|)`, by the conventions of MONAI's `DiceMetric`: nothing where
/// the truth is empty (`ignore_empty=True`), 0 where the prediction alone is. Any voxel but 0 counts as inside.
///
/// # Panics
/// Where the masks differ in length: they are of different volumes.
#[must_use]
pub fn dice(prediction: &[u8], truth: &[u8]) -> Option<f64> {
    assert_eq!(prediction.len(), truth.len(), "masks of one volume");
    let (mut both, mut either) = (0_u64, 0_u64);
    let mut true_voxels = 0_u64;
    for (&p, &t) in prediction.iter().zip(truth) {
        let (p, t) = (u64::from(p != 0), u64::from(t != 0));
        both += p & t;
        either += p + t;
        true_voxels += t;
    }
    (true_voxels > 0).then(|| 2.0 * both as f64 / either as f64)
}

/// Otsu's threshold (1979): the split of a 256-bin histogram that separates its two sides best. None for a volume of
/// one value.
fn otsu(voxels: &[f32]) -> Option<f32> {
    const BINS: usize = 256;
    let low = voxels.iter().copied().fold(f32::INFINITY, f32::min);
    let high = voxels.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // In f64: the width of two finite f32 may be infinite in f32.
    let (low, width) = (f64::from(low), (f64::from(high) - f64::from(low)) / BINS as f64);
    if width.is_nan() || width <= 0.0 {
        return None;
    }
    let mut histogram = [0_u64; BINS];
    for &voxel in voxels {
        histogram[(((f64::from(voxel) - low) / width) as usize).min(BINS - 1)] += 1;
    }
    let total = voxels.len() as f64;
    let mean = histogram
        .iter()
        .enumerate()
        .map(|(bin, &count)| bin as f64 * count as f64)
        .sum::<f64>()
        / total;
    let (mut best, mut split) = (-1.0, 0);
    let (mut below, mut sum_below) = (0.0, 0.0);
    for (bin, &count) in histogram.iter().enumerate().take(BINS - 1) {
        below += count as f64 / total;
        sum_below += bin as f64 * count as f64 / total;
        let variance = (mean * below - sum_below).powi(2) / (below * (1.0 - below));
        // An empty bin leaves the variance as it was: the first of equals wins. NaN (0/0) never does.
        if variance > best {
            (best, split) = (variance, bin);
        }
    }
    Some((low + width * (split + 1) as f64) as f32)
}

/// Blurs by a Gaussian of about one voxel: five taps along each axis, edges repeated.
fn smooth(voxels: &mut [f32], [nx, ny, nz]: [usize; 3]) {
    /// exp(-x²/2) for x = 0, 1, 2, normalised.
    const TAPS: [f32; 3] = [0.402_62, 0.244_20, 0.054_49];
    // (distance between neighbours, how many) along each axis.
    let axes = [(1, nx), (nx, ny), (nx * ny, nz)];
    let mut line = Vec::new();
    for (stride, length) in axes {
        for start in (0..voxels.len()).filter(|index| (index / stride) % length == 0) {
            line.clear();
            line.extend((0..length).map(|i| voxels[start + i * stride]));
            let at = |i: usize, back: usize, on: usize| line[(i + on).saturating_sub(back).min(length - 1)];
            for i in 0..length {
                let near = at(i, 1, 0) + at(i, 0, 1);
                let far = at(i, 2, 0) + at(i, 0, 2);
                voxels[start + i * stride] = TAPS[0] * line[i] + TAPS[1] * near + TAPS[2] * far;
            }
        }
    }
}

/// Clears all but the largest set of voxels that hang together by their faces; the first of equals stays.
fn keep_largest_component(mask: &mut [u8], size: [usize; 3]) {
    const UNSEEN: u8 = 1;
    const SEEN: u8 = 2;
    const KEPT: u8 = 3;
    let mut largest = (0, 0);
    for start in 0..mask.len() {
        if mask[start] == UNSEEN {
            let voxels = flood(mask, size, start, UNSEEN, SEEN);
            if voxels > largest.0 {
                largest = (voxels, start);
            }
        }
    }
    if largest.0 > 0 {
        flood(mask, size, largest.1, SEEN, KEPT);
    }
    for voxel in mask {
        *voxel = u8::from(*voxel == KEPT);
    }
}

/// Turns the component of `from` around `start` into `to`; says how many voxels it has.
fn flood(mask: &mut [u8], [nx, ny, nz]: [usize; 3], start: usize, from: u8, to: u8) -> u64 {
    let mut pending = vec![start];
    mask[start] = to;
    let mut voxels = 0;
    while let Some(index) = pending.pop() {
        voxels += 1;
        let (x, y, z) = (index % nx, index / nx % ny, index / (nx * ny));
        let neighbours = [
            (x > 0).then(|| index - 1),
            (x + 1 < nx).then(|| index + 1),
            (y > 0).then(|| index - nx),
            (y + 1 < ny).then(|| index + nx),
            (z > 0).then(|| index - nx * ny),
            (z + 1 < nz).then(|| index + nx * ny),
        ];
        for neighbour in neighbours.into_iter().flatten() {
            if mask[neighbour] == from {
                mask[neighbour] = to;
                pending.push(neighbour);
            }
        }
    }
    voxels
}

#[cfg(test)]
mod tests {
    use super::super::phantom::Phantom;
    use super::*;
    use crate::imaging::nifti::{self, Geometry};

    fn volume(size: [usize; 3], voxels: Vec<f32>) -> Volume {
        Volume {
            geometry: Geometry::centred(size, [1.0; 3]),
            description: String::new(),
            voxels,
            gzip: false,
        }
    }

    #[test]
    fn dice_follows_monai() {
        assert_eq!(dice(&[1, 1, 0, 0], &[1, 0, 1, 0]), Some(0.5));
        assert_eq!(dice(&[1, 7], &[1, 1]), Some(1.0));
        assert_eq!(dice(&[0, 0], &[1, 0]), Some(0.0));
        assert_eq!(dice(&[1, 0], &[0, 0]), None);
        assert_eq!(dice(&[], &[]), None);
    }

    #[test]
    fn both_versions_find_a_phantoms_brain_and_the_second_finds_it_better() {
        for seed in [1, 42] {
            let phantom = Phantom::new(seed);
            let volume = nifti::decode(&phantom.encode(false).unwrap()).unwrap();
            let truth = phantom.brain();
            let first = dice(&segment(volume.clone(), ModelVersion::V1), &truth).unwrap();
            let second = dice(&segment(volume, ModelVersion::V2), &truth).unwrap();
            assert!(
                (0.85..0.95).contains(&first) && (0.90..0.96).contains(&second),
                "{seed}: {first} {second}"
            );
            assert!(second > first + 0.01, "seed {seed}: {first} {second}");
        }
    }

    #[test]
    fn otsu_splits_two_heaps_between_them() {
        let mut voxels = vec![10.0; 50];
        voxels.extend([90.0; 50]);
        let threshold = otsu(&voxels).unwrap();
        assert!((10.0..90.0).contains(&threshold), "{threshold}");
        assert_eq!(otsu(&[5.0; 9]), None);
        assert_eq!(otsu(&[]), None);
    }

    #[test]
    fn a_volume_of_one_value_has_an_empty_mask() {
        for version in [ModelVersion::V1, ModelVersion::V2] {
            assert_eq!(segment(volume([2, 2, 2], vec![3.0; 8]), version), [0; 8]);
            assert_eq!(segment(volume([1, 1, 1], vec![3.0]), version), [0]);
        }
    }

    #[test]
    fn the_largest_floats_do_no_harm() {
        let voxels = vec![f32::MAX, f32::MIN, 0.0, f32::MAX, f32::MAX, f32::MIN, 0.0, 0.0];
        for version in [ModelVersion::V1, ModelVersion::V2] {
            assert_eq!(segment(volume([2, 2, 2], voxels.clone()), version).len(), 8);
        }
    }

    #[test]
    fn only_the_largest_component_stays_and_corners_do_not_connect() {
        #[rustfmt::skip]
        let mut mask = vec![
            1, 1, 0, 1,
            0, 0, 1, 1,
            1, 0, 0, 1,
        ];
        keep_largest_component(&mut mask, [4, 3, 1]);
        #[rustfmt::skip]
        assert_eq!(mask, [
            0, 0, 0, 1,
            0, 0, 1, 1,
            0, 0, 0, 1,
        ]);
        // The same twelve voxels in a column: neighbours along the last axis.
        let mut column = vec![1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1];
        keep_largest_component(&mut column, [1, 1, 12]);
        assert_eq!(column, [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn smoothing_keeps_a_flat_volume_flat_and_spreads_a_point_evenly() {
        let mut flat = vec![7.0; 27];
        smooth(&mut flat, [3, 3, 3]);
        assert!(flat.iter().all(|voxel| (voxel - 7.0_f32).abs() < 1e-3));
        let mut point = vec![0.0; 125];
        point[62] = 1.0;
        smooth(&mut point, [5, 5, 5]);
        assert!((point[61] - point[63]).abs() < 1e-6 && (point[62 - 25] - point[62 + 5]).abs() < 1e-6);
        assert!((point.iter().sum::<f32>() - 1.0).abs() < 1e-3);
    }
}
