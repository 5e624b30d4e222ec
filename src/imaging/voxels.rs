//! How many voxels a request is about, from the first kilobytes of its body.
//!
//! What a gateway can know of a volume that streams past: its header. NIfTI-1 and NIfTI-2, plain or gzip, in either byte
//! order; DICOM files; and either inside a multipart body. What is not recognised is not counted, and a body that
//! is cut anywhere never misleads: a number is given only where all that makes it up was there.
//!
//! A header can lie. The count is a measure of throughput, not a limit to rely on; only what is beyond
//! [`MAX_COUNTED`] is refused.

use std::io::{self, Read};
use std::ops::Range;

use flate2::bufread::GzDecoder;

use super::nifti::{self, Version};
use super::{dicom, parts};

/// How much of a body is looked at: 64 KiB. Headers of NIfTI need less than 1; those of DICOM files end well before that
/// unless private elements or icon images come first.
pub const PREFIX_BYTES: usize = 64 << 10;

/// The most voxels that are believed: 2^40, beyond any series that a scanner makes.
const MAX_COUNTED: u64 = 1 << 40;

/// Why no voxels were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCount {
    /// So far it may be a volume, but the bytes end before its size is known. More of them may help, up to
    /// [`PREFIX_BYTES`].
    Cut,
    /// No volume that is understood, whatever follows.
    Unknown,
}

/// The voxels of a body with this `Content-Type` that begins with these bytes: of the body itself, or of the first part of
/// a multipart body (RFC 2046) that is a volume. Without a type, a body that begins with `--` is taken for multipart. All
/// dimensions count, so a series of 100 volumes has 100 times the voxels of one. Bytes after [`PREFIX_BYTES`] are not
/// looked at: a body of several volumes counts as its first, since the others lie beyond.
///
/// # Errors
/// Where nothing was counted: why, and so whether it is worth reading on.
pub fn count_in_body(content_type: Option<&str>, prefix: &[u8]) -> Result<u64, NoCount> {
    let cut = prefix.len() >= PREFIX_BYTES;
    let prefix = &prefix[..prefix.len().min(PREFIX_BYTES)];
    let count = match parts::split(content_type, prefix) {
        None => count(prefix),
        Some(parts) => count_in_parts(parts),
    };
    match count {
        Err(NoCount::Cut) if cut => Err(NoCount::Unknown),
        count => count,
    }
}

fn count_in_parts(mut parts: parts::Parts<'_>) -> Result<u64, NoCount> {
    for part in &mut parts {
        match count(part.body) {
            // The end of a whole part is the end of its file.
            Err(NoCount::Cut) if part.whole => {}
            Err(NoCount::Unknown) => {}
            counted => return counted,
        }
    }
    Err(if parts.more_may_come() {
        NoCount::Cut
    } else {
        NoCount::Unknown
    })
}

fn count(file: &[u8]) -> Result<u64, NoCount> {
    let voxels = if dicom::is_dicom(file) {
        dicom::voxels(file)
    } else if nifti::is_gzip(file) {
        inflated(file)
    } else {
        match by_dimensions(file) {
            // A DICOM file begins with a preamble that may hold anything.
            Err(NoCount::Unknown) if file.len() < dicom::PREAMBLE_BYTES => Err(NoCount::Cut),
            voxels => voxels,
        }
    }?;
    if (1..=MAX_COUNTED).contains(&voxels) {
        Ok(voxels)
    } else {
        Err(NoCount::Unknown)
    }
}

/// Inflates what a NIfTI header needs, and nothing more.
fn inflated(file: &[u8]) -> Result<u64, NoCount> {
    let mut header = [0; nifti::HEADER_BYTES];
    let mut reader = GzDecoder::new(file);
    let mut have = 0;
    while have < header.len() {
        match reader.read(&mut header[have..]) {
            Ok(n) if n > 0 => have += n,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            // The stream ends, or is damaged: nothing more will come.
            Ok(_) | Err(_) => return by_dimensions(&header[..have]).map_err(|_| NoCount::Unknown),
        }
    }
    by_dimensions(&header[..have])
}

/// The product of `dim[1]` to `dim[dim[0]]` of a NIfTI-1 header (`nifti1.h`: 348 bytes, `short dim[8]` from byte 40 on,
/// magic at 344) or a NIfTI-2 header (`nifti2.h`: magic at 4, `int64_t dim[8]` from byte 16 on). A `.hdr` file, whose
/// voxels are elsewhere, has another magic.
fn by_dimensions(header: &[u8]) -> Result<u64, NoCount> {
    if header.len() < 4 {
        return Err(NoCount::Cut);
    }
    let (order, version) = nifti::layout(header).ok_or(NoCount::Unknown)?;
    let part = |range| header.get::<Range<usize>>(range).ok_or(NoCount::Cut);
    let (dim, is_single_file): ([i64; 8], bool) = match version {
        Version::One => {
            let dim = part(40..56)?;
            let extent = |i| i64::from(order.int16(dim, 2 * i));
            (std::array::from_fn(extent), part(344..348)? == b"n+1\0")
        }
        Version::Two => {
            let dim = part(16..80)?;
            let extent = |i| i64::from_le_bytes(order.take(dim, 8 * i));
            (std::array::from_fn(extent), part(4..12)? == b"n+2\0\r\n\x1a\n")
        }
    };
    let dimensions = usize::try_from(dim[0]).ok().filter(|count| (1..=7).contains(count));
    dimensions
        .filter(|_| is_single_file)
        .and_then(|count| {
            dim[1..=count]
                .iter()
                .try_fold(1_u64, |voxels, &extent| voxels.checked_mul(u64::try_from(extent).ok()?))
        })
        .ok_or(NoCount::Unknown)
}

#[cfg(test)]
mod tests;
