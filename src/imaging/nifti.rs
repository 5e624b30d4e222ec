//! NIfTI-1 single files, `.nii` and `.nii.gz`: what models are sent and answer with.
//!
//! Follows the header of `nifti1.h` (348 bytes, voxels from `vox_offset` on, x running fastest). A reader of files
//! that anybody may send, so: every malformed file is an [`Error`] that says what is wrong, nothing panics, memory
//! grows with the bytes that were really there and never with what a header promises, and a volume of more than
//! [`MAX_VOXELS`] voxels or [`MAX_DATA_BYTES`] bytes is refused from its header, before anything is inflated.

mod affine;
mod header;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use self::header::encode_header;
pub(super) use self::header::{ByteOrder, DataType, HEADER_BYTES, Header};

/// The most bytes of voxels that a file may hold once inflated: 512 MiB.
pub const MAX_DATA_BYTES: u64 = 512 << 20;

/// The most voxels of one volume: 128 Mi, which as `f32` are [`MAX_DATA_BYTES`].
pub const MAX_VOXELS: u64 = MAX_DATA_BYTES / 4;

/// Extensions between header and voxels, and padding behind the voxels: read past and dropped, up to 1 MiB each.
const MAX_SKIPPED_BYTES: u64 = 1 << 20;

/// Why a file could not be read as a NIfTI-1 volume. The text is meant for the person who sent the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a NIfTI-1 header nor gzip stands at the beginning.
    #[error("not a NIfTI-1 file: {0}")]
    NotNifti(&'static str),
    /// The gzip stream is broken or does not match its checksum.
    #[error("the gzip stream is damaged: {0}")]
    Gzip(io::Error),
    /// Fewer bytes than the header promises.
    #[error("the file ends too early: {have} of {need} bytes of {part} are there")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// Bytes present.
        have: u64,
        /// Bytes promised.
        need: u64,
    },
    /// More bytes than the header promises, by far.
    #[error("the file goes on for more than 1 MiB after its last voxel")]
    TrailingData,
    /// A header field has a value that makes no sense.
    #[error("the header's {field} is {value}: {expected}")]
    Header {
        /// Name of the field in `nifti1.h`.
        field: &'static str,
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// The header is sound, but announces more than [`MAX_VOXELS`] or [`MAX_DATA_BYTES`].
    #[error(
        "the volume is too large: {voxels} voxels of {bytes_per_voxel} bytes; at most 134217728 voxels and 512 MiB are read"
    )]
    TooLarge {
        /// Product of the dimensions.
        voxels: u64,
        /// Size of one voxel in the file.
        bytes_per_voxel: u64,
    },
}

/// Where a volume's voxels lie in space: the fields of the header that a mask takes over from its volume unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// Voxels along x, y and z; x runs fastest in memory.
    pub size: [usize; 3],
    /// `pixdim`: qfac, then the spacing along each dimension in the units of `xyzt_units`.
    pub spacing: [f32; 8],
    /// `xyzt_units`; 2 = millimetres.
    pub units: u8,
    /// `qform_code`.
    pub qform_code: i16,
    /// `sform_code`.
    pub sform_code: i16,
    /// `quatern_b`, `quatern_c`, `quatern_d`, `qoffset_x`, `qoffset_y`, `qoffset_z`.
    pub qform: [f32; 6],
    /// `srow_x`, `srow_y`, `srow_z`: the affine from voxel to world.
    pub sform: [[f32; 4]; 3],
}

impl Geometry {
    /// A grid of `size` voxels with `spacing` millimetres along each axis, centred on the world's origin.
    #[must_use]
    pub fn centred(size: [usize; 3], spacing: [f32; 3]) -> Self {
        let mut pixdim = [0.0; 8];
        pixdim[0] = 1.0;
        let mut qform = [0.0; 6];
        let mut sform = [[0.0; 4]; 3];
        for axis in 0..3 {
            let origin = -spacing[axis] * (size[axis] as f32 - 1.0) / 2.0;
            pixdim[axis + 1] = spacing[axis];
            qform[axis + 3] = origin;
            sform[axis][axis] = spacing[axis];
            sform[axis][3] = origin;
        }
        Self {
            size,
            spacing: pixdim,
            units: 2,
            qform_code: 1,
            sform_code: 1,
            qform,
            sform,
        }
    }

    /// How many voxels the grid has.
    #[must_use]
    pub fn voxels(&self) -> usize {
        self.size.iter().product()
    }
}

/// A decoded volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Its grid.
    pub geometry: Geometry,
    /// `descrip`: free text, at most 79 bytes; bytes that are not UTF-8 are replaced.
    pub description: String,
    /// Scaled voxels (`scl_slope`, `scl_inter`), `geometry.voxels()` of them; NaN and infinities are read as 0.
    pub voxels: Vec<f32>,
    /// Whether the file was gzip: an answer goes back the way the question came.
    pub gzip: bool,
}

/// Reads a `.nii` or `.nii.gz` file, told apart by the first bytes.
///
/// # Errors
/// [`Error`], whatever the bytes are.
pub fn decode(bytes: &[u8]) -> Result<Volume, Error> {
    let mut voxels = Vec::new();
    let header = read_with(bytes, |header, bytes| {
        header.append(bytes, &mut voxels);
        Ok::<_, Error>(())
    })?;
    Ok(Volume {
        geometry: header.geometry,
        description: header.description,
        voxels,
        gzip: is_gzip(bytes),
    })
}

/// Whether a file begins as gzip does (RFC 1952, section 2.3.1).
#[must_use]
pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// How a NIfTI file that begins with these bytes is written: the first field of a header, `sizeof_hdr`, is its own size,
/// 348 in NIfTI-1 and 540 in NIfTI-2. `None` where neither stands there.
pub(super) fn layout(file: &[u8]) -> Option<(ByteOrder, Version)> {
    Some(match file.first_chunk()? {
        [0x5c, 1, 0, 0] => (ByteOrder::Little, Version::One),
        [0, 0, 1, 0x5c] => (ByteOrder::Big, Version::One),
        [0x1c, 2, 0, 0] => (ByteOrder::Little, Version::Two),
        [0, 0, 2, 0x1c] => (ByteOrder::Big, Version::Two),
        _ => return None,
    })
}

/// Whether a file begins as NIfTI-1 and NIfTI-2 files do that are not compressed; four bytes tell.
#[must_use]
pub fn is_nifti(file: &[u8]) -> bool {
    layout(file).is_some()
}

/// Which of the two formats a header is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Reads a file and hands its voxels to `consume` as they are inflated: whole voxels in the file's datatype and byte
/// order, some at a time, with the header that says what they are. Ends with the first error, also `consume`'s.
pub(super) fn read_with<E: From<Error>>(
    bytes: &[u8],
    consume: impl FnMut(&Header, &[u8]) -> Result<(), E>,
) -> Result<Header, E> {
    if is_gzip(bytes) {
        read_from(MultiGzDecoder::new(bytes), consume)
    } else {
        read_from(bytes, consume)
    }
}

fn read_from<E: From<Error>>(
    mut reader: impl Read,
    mut consume: impl FnMut(&Header, &[u8]) -> Result<(), E>,
) -> Result<Header, E> {
    let mut raw = [0; HEADER_BYTES];
    let have = fill(&mut reader, &mut raw)?;
    let header = Header::parse(&raw[..have])?;
    skip(&mut reader, header.data_offset - HEADER_BYTES as u64)?;
    let need = header.geometry.voxels() as u64 * header.datatype.bytes() as u64;
    let mut buffer = vec![0; 64 << 10];
    let mut have = 0;
    while have < need {
        let want = buffer.len().min(usize::try_from(need - have).unwrap_or(usize::MAX));
        let got = fill(&mut reader, &mut buffer[..want])?;
        have += got as u64;
        if got < want {
            let part = "voxels";
            return Err(Error::Truncated { part, have, need }.into());
        }
        consume(&header, &buffer[..got])?;
    }
    // Reading to the end also makes gzip compare its checksum.
    let rest = io::copy(&mut reader.take(MAX_SKIPPED_BYTES + 1), &mut io::sink()).map_err(Error::Gzip)?;
    if rest > MAX_SKIPPED_BYTES {
        return Err(Error::TrailingData.into());
    }
    Ok(header)
}

/// Reads until `buffer` is full or the input ends; says how many bytes came.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut have = 0;
    while have < buffer.len() {
        match reader.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Gzip(error)),
        }
    }
    Ok(have)
}

fn skip(reader: &mut impl Read, need: u64) -> Result<(), Error> {
    let have = io::copy(&mut reader.take(need), &mut io::sink()).map_err(Error::Gzip)?;
    if have < need {
        Err(Error::Truncated {
            part: "the header's extensions",
            have,
            need,
        })
    } else {
        Ok(())
    }
}

impl Header {
    /// Decodes whole voxels. The match is outside the loop, so that each arm is a tight loop of its own.
    fn append(&self, bytes: &[u8], voxels: &mut Vec<f32>) {
        let (slope, inter) = self.scale.unwrap_or((1.0, 0.0));
        let scaled = |value: f64| {
            let value = (value * slope + inter) as f32;
            if value.is_finite() { value } else { 0.0 }
        };
        let order = self.order;
        let chunks = bytes.chunks_exact(self.datatype.bytes());
        match self.datatype {
            DataType::Uint8 => voxels.extend(bytes.iter().map(|&b| scaled(f64::from(b)))),
            DataType::Int8 => voxels.extend(bytes.iter().map(|&b| scaled(f64::from(b.cast_signed())))),
            DataType::Int16 => voxels.extend(chunks.map(|c| scaled(f64::from(order.int16(c, 0))))),
            DataType::Uint16 => {
                voxels.extend(chunks.map(|c| scaled(f64::from(u16::from_le_bytes(order.take(c, 0))))));
            }
            DataType::Int32 => voxels.extend(chunks.map(|c| scaled(f64::from(i32::from_le_bytes(order.take(c, 0)))))),
            DataType::Uint32 => voxels.extend(chunks.map(|c| scaled(f64::from(u32::from_le_bytes(order.take(c, 0)))))),
            DataType::Int64 => voxels.extend(chunks.map(|c| scaled(i64::from_le_bytes(order.take(c, 0)) as f64))),
            DataType::Uint64 => voxels.extend(chunks.map(|c| scaled(u64::from_le_bytes(order.take(c, 0)) as f64))),
            DataType::Float32 => voxels.extend(chunks.map(|c| scaled(f64::from(order.float(c, 0))))),
            DataType::Float64 => voxels.extend(chunks.map(|c| scaled(f64::from_le_bytes(order.take(c, 0))))),
        }
    }
}

/// Voxels to be written, each type as the NIfTI datatype of its name.
#[derive(Clone, Copy, Debug)]
pub enum Voxels<'a> {
    /// `uint8`: masks.
    Uint8(&'a [u8]),
    /// `int16`: scanner data.
    Int16(&'a [i16]),
    /// `float32`: maps.
    Float32(&'a [f32]),
}

/// Writes a little-endian single file, gzip at its fastest level where asked for.
///
/// `description` is cut to 79 bytes. The number of voxels must be the grid's; a grid that was read by [`decode`] or
/// whose extents fit `i16` always encodes.
///
/// # Errors
/// Where the voxels do not fill the grid, or an extent does not fit NIfTI-1's `dim` (32,767).
pub fn encode(geometry: &Geometry, description: &str, voxels: Voxels<'_>, gzip: bool) -> io::Result<Vec<u8>> {
    let (datatype, count) = match voxels {
        Voxels::Uint8(voxels) => (DataType::Uint8, voxels.len()),
        Voxels::Int16(voxels) => (DataType::Int16, voxels.len()),
        Voxels::Float32(voxels) => (DataType::Float32, voxels.len()),
    };
    if count != geometry.voxels() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the voxels do not fill the grid",
        ));
    }
    let header = encode_header(geometry, description, datatype)?;
    if gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&header)?;
        write_voxels(&mut encoder, voxels)?;
        encoder.finish()
    } else {
        let mut file = Vec::with_capacity(header.len() + count * datatype.bytes());
        file.extend_from_slice(&header);
        write_voxels(&mut file, voxels)?;
        Ok(file)
    }
}

fn write_voxels(writer: &mut impl Write, voxels: Voxels<'_>) -> io::Result<()> {
    const AT_ONCE: usize = 16 << 10;
    match voxels {
        Voxels::Uint8(voxels) => writer.write_all(voxels),
        Voxels::Int16(voxels) => voxels
            .chunks(AT_ONCE)
            .try_for_each(|chunk| writer.write_all(&chunk.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())),
        Voxels::Float32(voxels) => voxels
            .chunks(AT_ONCE)
            .try_for_each(|chunk| writer.write_all(&chunk.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())),
    }
}
