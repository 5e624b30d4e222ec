//! A segmentation mask: a volume whose voxels are labels.
//!
//! Masks come as NIfTI-1 in whatever datatype their writer chose, floats included, and are compared by label. So a
//! voxel is held as one byte, the index of its label among the labels that occur: a mask takes one byte a voxel, 128 MiB
//! at most, and two of them can be compared by counting pairs of indices.

use std::collections::BTreeMap;

use super::nifti::{self, DataType, Geometry, Header};

/// The most labels beside the background that one mask may hold: 255, so that an index fits a byte. FreeSurfer's
/// largest atlas (`aparc.a2009s+aseg`) has fewer than 200.
pub const MAX_LABELS: usize = 255;

/// How far a voxel may be from a whole number: what arithmetic in single precision leaves, and far less than any
/// probability map keeps to.
const WHOLE: f64 = 1e-3;

/// How much further it may be where a writer rounded it to a multiple of `scl_slope` (half of that, as labels fall
/// between), at most; with coarser steps nobody knows which label was meant.
const ROUNDED: f64 = 0.05;

/// Why a file is no mask. The text is meant for the person who sent the file.
#[derive(Debug, thiserror::Error)]
pub enum MaskError {
    /// It could not be read as a volume.
    #[error(transparent)]
    File(#[from] nifti::Error),
    /// A voxel is no label: a fraction, NaN, or beyond what 64 bits hold.
    #[error(
        "voxel ({}, {}, {}) is {value}, which is no label: a mask holds whole numbers (is this a probability map?)",
        at[0], at[1], at[2]
    )]
    NotALabel {
        /// The voxel, by its indices from 0.
        at: [usize; 3],
        /// Its value, scaled.
        value: f64,
    },
    /// More labels than [`MAX_LABELS`].
    #[error("more than 255 labels beside the background (is this an image, not a mask?)")]
    TooManyLabels,
}

/// A decoded mask. Label 0 is the background.
#[derive(Clone, Debug)]
pub struct Mask {
    geometry: Geometry,
    /// The labels that occur, and 0, which is first whether it occurs or not.
    labels: Vec<i64>,
    /// For each voxel, where its label stands in `labels`.
    voxels: Vec<u8>,
}

impl Mask {
    /// Reads a mask from a `.nii` or `.nii.gz` file, within the limits of [`nifti::decode`].
    ///
    /// Takes integers of all widths, and floats; scaling (`scl_slope`, `scl_inter`) is applied. Every value must then be
    /// a whole number, give or take 0.001, and half of `scl_slope` (at most 0.05) where integers are scaled. Inflating and decoding are CPU-bound: some milliseconds a million voxels.
    ///
    /// # Errors
    /// [`MaskError`], whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, MaskError> {
        let mut palette = Palette::new();
        let mut voxels = Vec::new();
        let header = nifti::read_with(bytes, |header, bytes| append(header, bytes, &mut palette, &mut voxels))?;
        Ok(Self {
            geometry: header.geometry,
            labels: palette.labels,
            voxels,
        })
    }

    /// The grid.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The labels that occur and the background, which is always first; else in the order of their first voxel.
    #[must_use]
    pub fn labels(&self) -> &[i64] {
        &self.labels
    }

    /// For each voxel, x running fastest, where its label stands in [`Mask::labels`].
    #[must_use]
    pub fn voxels(&self) -> &[u8] {
        &self.voxels
    }
}

/// The labels met so far, and the quick way from a label to its index.
struct Palette {
    labels: Vec<i64>,
    /// The index of each label below 65,536; 0 where the label was not met (and for 0 itself).
    small: Vec<u8>,
    /// The index of every other label.
    large: BTreeMap<i64, u8>,
    /// The label before: masks are mostly runs.
    last: (i64, u8),
}

impl Palette {
    fn new() -> Self {
        Self {
            labels: vec![0],
            small: vec![0; 1 << 16],
            large: BTreeMap::new(),
            last: (0, 0),
        }
    }

    fn index(&mut self, label: i64) -> Result<u8, MaskError> {
        if label != self.last.0 {
            self.last = (label, self.look_up(label)?);
        }
        Ok(self.last.1)
    }

    fn look_up(&mut self, label: i64) -> Result<u8, MaskError> {
        let small = usize::try_from(label).ok().and_then(|at| self.small.get_mut(at));
        let known = match &small {
            Some(index) => (label == 0 || **index > 0).then_some(**index),
            None => self.large.get(&label).copied(),
        };
        if let Some(index) = known {
            return Ok(index);
        }
        let index = u8::try_from(self.labels.len()).map_err(|_| MaskError::TooManyLabels)?;
        self.labels.push(label);
        match small {
            Some(free) => *free = index,
            None => {
                self.large.insert(label, index);
            }
        }
        Ok(index)
    }
}

/// Appends the labels of some whole voxels. The match is outside the loop, so that each arm is a tight loop of its own.
fn append(header: &Header, bytes: &[u8], palette: &mut Palette, voxels: &mut Vec<u8>) -> Result<(), MaskError> {
    let order = header.order;
    let width = header.datatype.bytes();
    let chunks = bytes.chunks_exact(width);
    let mut labels = Labels {
        size: header.geometry.size,
        scale: header.scale.filter(|&scale| scale != (1.0, 0.0)),
        tolerance: WHOLE,
        palette,
        voxels,
    };
    match header.datatype {
        DataType::Uint8 => labels.whole(bytes.iter().map(|&byte| i64::from(byte))),
        DataType::Int8 => labels.whole(bytes.iter().map(|&byte| i64::from(byte.cast_signed()))),
        DataType::Int16 => labels.whole(chunks.map(|c| i64::from(order.int16(c, 0)))),
        DataType::Uint16 => labels.whole(chunks.map(|c| i64::from(u16::from_le_bytes(order.take(c, 0))))),
        DataType::Int32 => labels.whole(chunks.map(|c| i64::from(i32::from_le_bytes(order.take(c, 0))))),
        DataType::Uint32 => labels.whole(chunks.map(|c| i64::from(u32::from_le_bytes(order.take(c, 0))))),
        DataType::Int64 => labels.whole(chunks.map(|c| i64::from_le_bytes(order.take(c, 0)))),
        // Above i64::MAX: as a number that `scaled` refuses.
        DataType::Uint64 => labels.scaled(chunks.map(|c| u64::from_le_bytes(order.take(c, 0)) as f64)),
        DataType::Float32 => labels.scaled(chunks.map(|c| f64::from(order.float(c, 0)))),
        DataType::Float64 => labels.scaled(chunks.map(|c| f64::from_le_bytes(order.take(c, 0)))),
    }
}

/// Where labels go.
struct Labels<'a> {
    size: [usize; 3],
    scale: Option<(f64, f64)>,
    tolerance: f64,
    palette: &'a mut Palette,
    voxels: &'a mut Vec<u8>,
}

impl Labels<'_> {
    fn whole(&mut self, values: impl ExactSizeIterator<Item = i64>) -> Result<(), MaskError> {
        if let Some((slope, _)) = self.scale {
            self.tolerance += (slope.abs() / 2.0).min(ROUNDED);
            return self.scaled(values.map(|value| value as f64));
        }
        self.voxels.reserve(values.len());
        for value in values {
            let index = self.palette.index(value)?;
            self.voxels.push(index);
        }
        Ok(())
    }

    fn scaled(&mut self, values: impl ExactSizeIterator<Item = f64>) -> Result<(), MaskError> {
        /// Up to here every whole number is a double of its own.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let (slope, inter) = self.scale.unwrap_or((1.0, 0.0));
        self.voxels.reserve(values.len());
        for value in values {
            let value = value * slope + inter;
            let label = value.round();
            // False for NaN, too.
            let is_label = (value - label).abs() <= self.tolerance && label.abs() <= EXACT;
            if !is_label {
                return Err(self.no_label(value));
            }
            let index = self.palette.index(label as i64)?;
            self.voxels.push(index);
        }
        Ok(())
    }

    #[cold]
    fn no_label(&self, value: f64) -> MaskError {
        let [x, y, _] = self.size;
        let at = self.voxels.len();
        MaskError::NotALabel {
            at: [at % x, at / x % y, at / (x * y)],
            value,
        }
    }
}

#[cfg(test)]
mod tests;
