//! The Dice coefficient of two masks, label by label, and its mean over the foreground.
//!
//! 2 |R ∩ P| / (|R| + |P|) for the voxels R and P that the reference and the prediction give a label, as MONAI's
//! `compute_dice(include_background=False)` computes it per class, and the mean over classes as `DiceMetric` takes it
//! over what is not NaN. Two differences, both about labels that are absent:
//!
//! - The labels are those that occur in either mask, for nothing says how many classes a model has. A class that occurs
//!   in neither is NaN with MONAI (`ignore_empty=True`) and left out of its mean, so the mean is the same.
//! - A label that the prediction has and the reference has not is 0 here. MONAI's default, `ignore_empty=True`, makes it
//!   NaN and leaves it out, which forgives a model whatever it invents in healthy subjects; `ignore_empty=False` makes it 0
//!   as well, but then counts "absent in both" as 1, which hides how seldom a structure is there at all. Here "absent in
//!   both" is no number ([`LabelDice::value`] is `None`), left out of the mean, and for the caller to count.

use super::{Mask, nifti::Geometry};

/// How far the corners of two grids may lie apart, as a share of a voxel's shortest edge. Affines go through single
/// precision, quaternions and decimal text, and come back some millionths of a voxel off; a shift that would change the Dice
/// coefficient is larger by far.
const TOLERANCE: f64 = 0.01;

/// Why two masks cannot be compared voxel by voxel. The text is meant for the person who sent the reference.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// Other numbers of voxels along the axes.
    #[error(
        "the masks' grids differ: the reference has {} voxels, the prediction {}; resample the reference onto the prediction's grid",
        by(reference),
        by(prediction)
    )]
    Size {
        /// Voxels along x, y and z of the reference.
        reference: [usize; 3],
        /// Those of the prediction.
        prediction: [usize; 3],
    },
    /// As many voxels, but not in the same place: other spacing, orientation or origin.
    #[error(
        "the masks' grids differ: their corners lie up to {millimetres:.3} mm apart (spacing, orientation or origin); \
         resample the reference onto the prediction's grid, or mend the affine in its header"
    )]
    Place {
        /// The longest distance between a corner of one grid and the same corner of the other.
        millimetres: f64,
    },
}

fn by(size: &[usize; 3]) -> String {
    format!("{} x {} x {}", size[0], size[1], size[2])
}

/// How well one label agrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelDice {
    /// The label.
    pub label: i64,
    /// The Dice coefficient, 0 to 1; 0 where only one of the masks has the label, `None` where neither has (only by
    /// [`dice_of`]).
    pub value: Option<f64>,
    /// Voxels that have the label in the reference.
    pub reference_voxels: u64,
    /// Voxels that have the label in the prediction.
    pub predicted_voxels: u64,
}

/// How well two masks agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// One entry a label: ascending from [`dice`], as asked from [`dice_of`].
    pub labels: Vec<LabelDice>,
    /// The mean of the labels' values, those without one left out; `None` where none has one: both masks are empty.
    pub mean: Option<f64>,
}

/// Compares two masks over every foreground label (not 0) that occurs in either: at most 510.
///
/// One pass over the voxels; 7 million take some 10 ms.
///
/// # Errors
/// Where the grids differ, see [`same_grid`].
pub fn dice(reference: &Mask, prediction: &Mask) -> Result<Report, Mismatch> {
    let mut labels: Vec<i64> = [reference.labels(), prediction.labels()].concat();
    labels.sort_unstable();
    labels.dedup();
    labels.retain(|&label| label != 0);
    dice_of(reference, prediction, &labels)
}

/// Compares two masks over the given labels; 0, the background, counts as a label where it is asked for.
///
/// # Errors
/// Where the grids differ, see [`same_grid`].
pub fn dice_of(reference: &Mask, prediction: &Mask, labels: &[i64]) -> Result<Report, Mismatch> {
    same_grid(reference.geometry(), prediction.geometry())?;
    let pairs = Pairs::count(reference, prediction);
    let labels: Vec<LabelDice> = labels.iter().map(|&label| pairs.dice(label)).collect();
    let values: Vec<f64> = labels.iter().filter_map(|label| label.value).collect();
    let mean = (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    Ok(Report { labels, mean })
}

/// How often each label of the reference meets each of the prediction.
struct Pairs<'a> {
    reference: &'a [i64],
    prediction: &'a [i64],
    /// Row by row: a row for each label of the reference, a column for each of the prediction; at most 256 by 256.
    counts: Vec<u64>,
}

impl<'a> Pairs<'a> {
    fn count(reference: &'a Mask, prediction: &'a Mask) -> Self {
        let columns = prediction.labels().len();
        let mut counts = vec![0; reference.labels().len() * columns];
        for (&row, &column) in reference.voxels().iter().zip(prediction.voxels()) {
            counts[usize::from(row) * columns + usize::from(column)] += 1;
        }
        Self {
            reference: reference.labels(),
            prediction: prediction.labels(),
            counts,
        }
    }

    fn dice(&self, label: i64) -> LabelDice {
        let columns = self.prediction.len();
        let row = self.reference.iter().position(|&known| known == label);
        let column = self.prediction.iter().position(|&known| known == label);
        let reference_voxels = row.map_or(0, |row| self.counts[row * columns..][..columns].iter().sum());
        let predicted_voxels = column.map_or(0, |column| self.counts[column..].iter().step_by(columns).sum());
        let both = row
            .zip(column)
            .map_or(0, |(row, column)| self.counts[row * columns + column]);
        let sum: u64 = reference_voxels + predicted_voxels;
        LabelDice {
            label,
            value: (sum > 0).then(|| 2.0 * both as f64 / sum as f64),
            reference_voxels,
            predicted_voxels,
        }
    }
}

/// Whether two grids have the same voxels in the same place: the same size, and each of the eight outer corners
/// (half a voxel beyond the first and the last, so that a single slice's thickness counts) within a hundredth of the
/// reference's shortest voxel edge of its counterpart, by [`Geometry::affine`].
///
/// # Errors
/// What differs. A grid with a NaN in its affine is in no place.
pub fn same_grid(reference: &Geometry, prediction: &Geometry) -> Result<(), Mismatch> {
    if reference.size != prediction.size {
        return Err(Mismatch::Size {
            reference: reference.size,
            prediction: prediction.size,
        });
    }
    let (ours, theirs) = (reference.affine(), prediction.affine());
    let mut millimetres = 0_f64;
    for corner in 0..8_u8 {
        let index: [f64; 3] = std::array::from_fn(|axis| {
            let last = reference.size[axis] as f64 - 0.5;
            if corner >> axis & 1 == 1 { last } else { -0.5 }
        });
        let apart = distance(world(&ours, index), world(&theirs, index));
        // `f64::max` would forget a NaN.
        if apart.is_nan() {
            return Err(Mismatch::Place { millimetres: apart });
        }
        millimetres = millimetres.max(apart);
    }
    let edge = |axis: usize| distance([ours[0][axis], ours[1][axis], ours[2][axis]], [0.0; 3]);
    let shortest = edge(0).min(edge(1)).min(edge(2));
    if millimetres <= TOLERANCE * shortest {
        Ok(())
    } else {
        Err(Mismatch::Place { millimetres })
    }
}

fn world(affine: &[[f64; 4]; 3], [x, y, z]: [f64; 3]) -> [f64; 3] {
    affine.map(|[i, j, k, origin]| i * x + j * y + k * z + origin)
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    let square = |axis: usize| (a[axis] - b[axis]).powi(2);
    (square(0) + square(1) + square(2)).sqrt()
}

#[cfg(test)]
mod against_numpy;
#[cfg(test)]
mod tests;
