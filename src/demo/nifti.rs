//! NIfTI-1 single files, `.nii` and `.nii.gz`: what the stand-in models read and answer.
//!
//! Follows the header of `nifti1.h` (348 bytes, voxels from `vox_offset` on, x running fastest). A reader of files
//! that anybody may send, so: every malformed file is an [`Error`] that says what is wrong, nothing panics, memory
//! grows with the bytes that were really there and never with what a header promises, and a volume of more than
//! [`MAX_VOXELS`] voxels or [`MAX_DATA_BYTES`] bytes is refused from its header, before anything is inflated.

mod header;

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use self::header::{DataType, HEADER_BYTES, Header, encode_header};

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
    if bytes.starts_with(&[0x1f, 0x8b]) {
        decode_from(MultiGzDecoder::new(bytes), true)
    } else {
        decode_from(bytes, false)
    }
}

fn decode_from(mut reader: impl Read, gzip: bool) -> Result<Volume, Error> {
    let mut raw = [0; HEADER_BYTES];
    let have = fill(&mut reader, &mut raw)?;
    let header = Header::parse(&raw[..have])?;
    skip(&mut reader, header.data_offset - HEADER_BYTES as u64)?;
    let voxels = header.read_voxels(&mut reader)?;
    // Reading to the end also makes gzip compare its checksum.
    let rest = io::copy(&mut reader.take(MAX_SKIPPED_BYTES + 1), &mut io::sink()).map_err(Error::Gzip)?;
    if rest > MAX_SKIPPED_BYTES {
        return Err(Error::TrailingData);
    }
    Ok(Volume {
        geometry: header.geometry,
        description: header.description,
        voxels,
        gzip,
    })
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
    fn read_voxels(&self, reader: &mut impl Read) -> Result<Vec<f32>, Error> {
        let width = self.datatype.bytes();
        let need = self.geometry.voxels() as u64 * width as u64;
        let mut voxels = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let mut have = 0;
        while have < need {
            let want = buffer.len().min(usize::try_from(need - have).unwrap_or(usize::MAX));
            let got = fill(reader, &mut buffer[..want])?;
            have += got as u64;
            if got < want {
                return Err(Error::Truncated {
                    part: "voxels",
                    have,
                    need,
                });
            }
            self.append(&buffer[..got], &mut voxels);
        }
        Ok(voxels)
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::header::{ByteOrder, DATA_OFFSET};
    use super::*;

    const SIZE: [usize; 3] = [3, 4, 2];

    fn ramp() -> Vec<f32> {
        (0..24_u8).map(f32::from).collect()
    }

    /// A file as any writer might make it: one datatype, one byte order, values 0, 1, 2 …
    fn file(code: i16, order: ByteOrder) -> Vec<u8> {
        let geometry = Geometry::centred(SIZE, [1.0, 2.0, 3.0]);
        let datatype = DataType::from_code(code).unwrap();
        let mut raw = encode_header(&geometry, "made for a test", datatype).unwrap();
        if order == ByteOrder::Big {
            swap_header(&mut raw);
        }
        let mut bytes = raw.to_vec();
        for value in 0..24_u8 {
            let mut voxel = match datatype {
                DataType::Uint8 | DataType::Int8 => vec![value],
                DataType::Int16 | DataType::Uint16 => u16::from(value).to_le_bytes().to_vec(),
                DataType::Int32 => u32::from(value).to_le_bytes().to_vec(),
                DataType::Float32 => f32::from(value).to_le_bytes().to_vec(),
                DataType::Float64 => f64::from(value).to_le_bytes().to_vec(),
            };
            if order == ByteOrder::Big {
                voxel.reverse();
            }
            bytes.extend(voxel);
        }
        bytes
    }

    /// Reverses every numeric field of a header that the reader looks at.
    fn swap_header(raw: &mut [u8; DATA_OFFSET]) {
        raw[0..4].reverse();
        for field in [40..56, 70..74, 252..256] {
            raw[field].chunks_exact_mut(2).for_each(<[u8]>::reverse);
        }
        for field in [76..120, 256..328] {
            raw[field].chunks_exact_mut(4).for_each(<[u8]>::reverse);
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn with<const N: usize>(at: usize, value: [u8; N]) -> Vec<u8> {
        let mut bytes = file(4, ByteOrder::Little);
        bytes[at..at + N].copy_from_slice(&value);
        bytes
    }

    fn message(bytes: &[u8]) -> String {
        decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn every_datatype_is_read_in_both_byte_orders_plain_and_gzip() {
        for code in [2, 4, 8, 16, 64, 256, 512] {
            for order in [ByteOrder::Little, ByteOrder::Big] {
                let plain = file(code, order);
                for bytes in [gzip(&plain), plain] {
                    let volume = decode(&bytes).unwrap();
                    assert_eq!(
                        volume.geometry,
                        Geometry::centred(SIZE, [1.0, 2.0, 3.0]),
                        "{code} {order:?}"
                    );
                    assert_eq!(volume.voxels, ramp(), "{code} {order:?}");
                    assert_eq!(volume.description, "made for a test");
                    assert_eq!(volume.gzip, bytes[0] == 0x1f);
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let geometry = Geometry::centred(SIZE, [0.5, 0.7, 1.5]);
        let bytes: Vec<u8> = (0..24).collect();
        let words: Vec<i16> = (0..24).map(|v| v * 100 - 900).collect();
        let floats: Vec<f32> = words.iter().map(|&v| f32::from(v) / 7.0).collect();
        for zipped in [false, true] {
            let read = |voxels| decode(&encode(&geometry, "d", voxels, zipped).unwrap()).unwrap();
            assert_eq!(read(Voxels::Uint8(&bytes)).voxels, ramp());
            assert_eq!(
                read(Voxels::Int16(&words)).voxels,
                words.iter().map(|&v| f32::from(v)).collect::<Vec<_>>()
            );
            assert_eq!(read(Voxels::Float32(&floats)).voxels, floats);
            assert_eq!(read(Voxels::Float32(&floats)).geometry, geometry);
        }
    }

    #[test]
    fn a_grid_that_does_not_fit_is_not_written() {
        let geometry = Geometry::centred([40_000, 1, 1], [1.0; 3]);
        assert!(encode(&geometry, "", Voxels::Uint8(&[0; 40_000]), false).is_err());
        assert!(encode(&geometry, "", Voxels::Uint8(&[0; 3]), false).is_err());
    }

    #[test]
    fn a_long_description_is_cut_between_characters() {
        let geometry = Geometry::centred([1, 1, 1], [1.0; 3]);
        let text = format!("{}ä", "x".repeat(78));
        let bytes = encode(&geometry, &text, Voxels::Uint8(&[1]), false).unwrap();
        assert_eq!(decode(&bytes).unwrap().description, "x".repeat(78));
    }

    #[test]
    fn slope_and_intercept_scale_unless_the_slope_is_zero_or_nan() {
        let scaled = |slope: f32, inter: f32| {
            let mut bytes = with(112, slope.to_le_bytes());
            bytes[116..120].copy_from_slice(&inter.to_le_bytes());
            decode(&bytes).map(|volume| volume.voxels[3])
        };
        assert_eq!(scaled(2.0, -1.0).unwrap(), 5.0);
        assert_eq!(scaled(0.0, 7.0).unwrap(), 3.0);
        assert_eq!(scaled(f32::NAN, f32::NAN).unwrap(), 3.0);
        assert!(scaled(1.0, f32::NAN).unwrap_err().to_string().contains("scl_inter"));
    }

    #[test]
    fn voxels_that_are_no_numbers_are_read_as_zero() {
        let mut bytes = file(16, ByteOrder::Little);
        bytes[DATA_OFFSET..DATA_OFFSET + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes[DATA_OFFSET + 4..DATA_OFFSET + 8].copy_from_slice(&f32::INFINITY.to_le_bytes());
        assert_eq!(decode(&bytes).unwrap().voxels[..3], [0.0, 0.0, 2.0]);
    }

    #[test]
    fn a_fourth_dimension_of_one_and_extensions_are_read_past() {
        let mut bytes = with(40, 4_i16.to_le_bytes());
        bytes[108..112].copy_from_slice(&368_f32.to_le_bytes());
        bytes.splice(DATA_OFFSET..DATA_OFFSET, [0xee; 16]);
        assert_eq!(decode(&bytes).unwrap().voxels, ramp());
        bytes[48..50].copy_from_slice(&2_i16.to_le_bytes());
        assert!(message(&bytes).contains("one volume at a time"));
    }

    #[test]
    fn a_broken_header_is_named() {
        let cases: [(Vec<u8>, &str); 12] = [
            (Vec::new(), "not a NIfTI-1 file"),
            (
                b"hello, I am a text file and no volume at all".to_vec(),
                "not a NIfTI-1 file",
            ),
            (with(0, 540_i32.to_le_bytes()), "NIfTI-2"),
            (with(344, *b"ni1\0"), ".hdr/.img pair"),
            (with(344, [0; 4]), "magic"),
            (with(40, 2_i16.to_le_bytes()), "dim[0] is 2"),
            (with(42, (-3_i16).to_le_bytes()), "dim is -3"),
            (with(70, 128_i16.to_le_bytes()), "datatype is 128"),
            (with(72, 8_i16.to_le_bytes()), "bitpix is 8"),
            (with(108, 100_f32.to_le_bytes()), "vox_offset is 100"),
            (with(108, f32::NAN.to_le_bytes()), "vox_offset is NaN"),
            (
                file(4, ByteOrder::Little)[..200].to_vec(),
                "200 of 348 bytes of the header",
            ),
        ];
        for (bytes, expected) in cases {
            let message = message(&bytes);
            assert!(message.contains(expected), "{message} should contain {expected}");
        }
    }

    #[test]
    fn a_volume_cut_short_says_how_much_is_missing() {
        let bytes = file(4, ByteOrder::Little);
        assert!(message(&bytes[..DATA_OFFSET + 40]).contains("40 of 48 bytes of voxels"));
        let zipped = gzip(&bytes);
        assert!(message(&zipped[..zipped.len() - 12]).contains("gzip stream is damaged"));
    }

    #[test]
    fn a_wrong_gzip_checksum_is_noticed() {
        let mut zipped = gzip(&file(4, ByteOrder::Little));
        let at = zipped.len() - 8;
        zipped[at] ^= 1;
        assert!(message(&zipped).contains("gzip stream is damaged"));
    }

    #[test]
    fn a_bomb_is_refused_before_and_while_it_is_inflated() {
        let mut declared = with(42, 32_000_i16.to_le_bytes());
        declared[44..48].copy_from_slice(&[0, 0x7d, 0, 0x7d]);
        assert!(message(&gzip(&declared)).contains("too large"));
        let mut trailing = file(4, ByteOrder::Little);
        trailing.resize(trailing.len() + (3 << 20), 0);
        assert!(matches!(decode(&gzip(&trailing)), Err(Error::TrailingData)));
    }

    #[test]
    fn a_header_that_promises_much_and_brings_little_costs_little() {
        let mut bytes = with(42, 512_i16.to_le_bytes());
        bytes[44..48].copy_from_slice(&[0, 2, 0, 2]);
        assert!(matches!(
            decode(&bytes),
            Err(Error::Truncated {
                have: 48,
                need: 268_435_456,
                ..
            })
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn random_gzip_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&gzip(&bytes));
            let mut framed = vec![0x1f, 0x8b, 8, 0];
            framed.extend(bytes);
            let _ = decode(&framed);
        }

        #[test]
        fn damaged_files_never_panic_and_never_lose_a_voxel_silently(
            code in proptest::sample::select(vec![2_i16, 4, 8, 16, 64, 256, 512]),
            big in any::<bool>(),
            zipped in any::<bool>(),
            keep in 0_usize..700,
            changes in proptest::collection::vec((0_usize..700, any::<u8>()), 0..8),
        ) {
            let mut bytes = file(code, if big { ByteOrder::Big } else { ByteOrder::Little });
            if zipped {
                bytes = gzip(&bytes);
            }
            bytes.truncate(keep);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(volume) = decode(&bytes) {
                prop_assert_eq!(volume.voxels.len(), volume.geometry.voxels());
                prop_assert!(volume.voxels.iter().all(|voxel| voxel.is_finite()));
            }
        }
    }
}
