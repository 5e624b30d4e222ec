//! Volumes: the files that models are sent and answer with, and how well a mask agrees with the truth.
//!
//! Three things are asked of them. How many voxels is a request about ([`count_in_body`]: throughput, from the first
//! kilobytes of a body that passes by)? What is in the file ([`nifti`], [`Mask`])? How alike are two masks ([`dice`])?
//!
//! Invariants: nothing here does input or output, knows of requests, or panics, whatever the bytes are. Work and memory
//! are bounded by the bytes that are really there, and by the limits that each part states; what a header promises
//! costs nothing.

mod dice;
mod dicom;
mod mask;
pub mod nifti;
mod parts;
mod voxels;

pub use dice::{LabelDice, Mismatch, Report, dice, dice_of, same_grid};
pub use mask::{MAX_LABELS, Mask, MaskError};
pub use voxels::{NoCount, PREFIX_BYTES, count_in_body};
