//! The 348 bytes of a NIfTI-1 header: checked when read, laid out when written.

use std::io;

use super::{Error, Geometry, MAX_DATA_BYTES, MAX_SKIPPED_BYTES, MAX_VOXELS};

/// Bytes of a header, `sizeof_hdr`.
pub(in crate::imaging) const HEADER_BYTES: usize = 348;

/// Header and the four bytes that say whether extensions follow: where voxels begin in a file without any.
pub(super) const DATA_OFFSET: usize = 352;

/// What a voxel is in the file; the discriminant is NIfTI's `datatype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::imaging) enum DataType {
    Uint8 = 2,
    Int16 = 4,
    Int32 = 8,
    Float32 = 16,
    Float64 = 64,
    Int8 = 256,
    Uint16 = 512,
    Uint32 = 768,
    Int64 = 1024,
    Uint64 = 1280,
}

impl DataType {
    pub(super) const fn from_code(code: i16) -> Option<Self> {
        Some(match code {
            2 => Self::Uint8,
            4 => Self::Int16,
            8 => Self::Int32,
            16 => Self::Float32,
            64 => Self::Float64,
            256 => Self::Int8,
            512 => Self::Uint16,
            768 => Self::Uint32,
            1024 => Self::Int64,
            1280 => Self::Uint64,
            _ => return None,
        })
    }

    pub(in crate::imaging) const fn bytes(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Int16 | Self::Uint16 => 2,
            Self::Int32 | Self::Uint32 | Self::Float32 => 4,
            Self::Int64 | Self::Uint64 | Self::Float64 => 8,
        }
    }
}

/// Byte order of a file, known by which way round `sizeof_hdr` reads 348.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::imaging) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The `N` bytes of `bytes` from `at` on as little-endian; callers stay inside, by the layout they read.
    pub(in crate::imaging) fn take<const N: usize>(self, bytes: &[u8], at: usize) -> [u8; N] {
        let mut raw = [0; N];
        raw.copy_from_slice(&bytes[at..at + N]);
        if self == Self::Big {
            raw.reverse();
        }
        raw
    }

    pub(in crate::imaging) fn int16(self, bytes: &[u8], at: usize) -> i16 {
        i16::from_le_bytes(self.take(bytes, at))
    }

    pub(in crate::imaging) fn float(self, bytes: &[u8], at: usize) -> f32 {
        f32::from_le_bytes(self.take(bytes, at))
    }

    fn floats<const N: usize>(self, bytes: &[u8], at: usize) -> [f32; N] {
        std::array::from_fn(|i| self.float(bytes, at + 4 * i))
    }
}

/// A checked header.
#[derive(Debug)]
pub(in crate::imaging) struct Header {
    pub(in crate::imaging) geometry: Geometry,
    pub(in crate::imaging) description: String,
    pub(in crate::imaging) order: ByteOrder,
    pub(in crate::imaging) datatype: DataType,
    /// `scl_slope` and `scl_inter`, where they mean anything.
    pub(in crate::imaging) scale: Option<(f64, f64)>,
    /// Where the voxels begin, in bytes; at least [`DATA_OFFSET`].
    pub(in crate::imaging) data_offset: u64,
}

impl Header {
    pub(super) fn parse(raw: &[u8]) -> Result<Self, Error> {
        let order = match raw.get(..4) {
            Some([0x5c, 1, 0, 0]) => ByteOrder::Little,
            Some([0, 0, 1, 0x5c]) => ByteOrder::Big,
            Some([0x1c, 2, 0, 0] | [0, 0, 2, 0x1c]) => {
                return Err(Error::NotNifti("this is NIfTI-2; convert it to NIfTI-1"));
            }
            _ => return Err(Error::NotNifti("it begins with neither a NIfTI-1 header nor gzip")),
        };
        if raw.len() < HEADER_BYTES {
            return Err(Error::Truncated {
                part: "the header",
                have: raw.len() as u64,
                need: HEADER_BYTES as u64,
            });
        }
        match &raw[344..348] {
            b"n+1\0" => {}
            b"ni1\0" => {
                return Err(Error::NotNifti(
                    "the header of a .hdr/.img pair; send a single .nii or .nii.gz file",
                ));
            }
            _ => return Err(Error::NotNifti("the header's magic is missing (an ANALYZE 7.5 file?)")),
        }
        let size = parse_size(raw, order)?;
        let datatype = parse_datatype(raw, order, &size)?;
        Ok(Self {
            geometry: parse_geometry(raw, order, size),
            description: parse_description(&raw[148..228]),
            order,
            datatype,
            scale: parse_scale(raw, order)?,
            data_offset: parse_data_offset(raw, order)?,
        })
    }
}

/// `dim`: three dimensions; more are allowed where they hold one volume only.
fn parse_size(raw: &[u8], order: ByteOrder) -> Result<[usize; 3], Error> {
    let dim: [i16; 8] = std::array::from_fn(|i| order.int16(raw, 40 + 2 * i));
    let wrong = |field, value: i16, expected| Error::Header {
        field,
        value: value.to_string(),
        expected,
    };
    if !(3..=7).contains(&dim[0]) {
        return Err(wrong(
            "dim[0]",
            dim[0],
            "a volume has three dimensions (or four with one time point)",
        ));
    }
    let mut size = [0; 3];
    for (axis, extent) in size.iter_mut().enumerate() {
        let value = dim[axis + 1];
        *extent = usize::try_from(value)
            .ok()
            .filter(|&extent| extent > 0)
            .ok_or_else(|| wrong("dim", value, "every dimension has at least one voxel"))?;
    }
    let further = &dim[4..=usize::from(dim[0].unsigned_abs())];
    if let Some(&value) = further.iter().find(|&&value| value != 1) {
        return Err(wrong(
            "dim[4..]",
            value,
            "one volume at a time; series are not segmented",
        ));
    }
    Ok(size)
}

fn parse_datatype(raw: &[u8], order: ByteOrder, size: &[usize; 3]) -> Result<DataType, Error> {
    let code = order.int16(raw, 70);
    let datatype = DataType::from_code(code).ok_or_else(|| Error::Header {
        field: "datatype",
        value: code.to_string(),
        expected: "integers of 8 to 64 bits, float32 (16) and float64 (64) are read",
    })?;
    let bitpix = order.int16(raw, 72);
    if usize::try_from(bitpix) != Ok(8 * datatype.bytes()) {
        return Err(Error::Header {
            field: "bitpix",
            value: bitpix.to_string(),
            expected: "it must agree with datatype",
        });
    }
    // Three factors below 2^15: no overflow.
    let voxels = size.iter().map(|&extent| extent as u64).product();
    let bytes_per_voxel = datatype.bytes() as u64;
    if voxels > MAX_VOXELS || voxels * bytes_per_voxel > MAX_DATA_BYTES {
        return Err(Error::TooLarge {
            voxels,
            bytes_per_voxel,
        });
    }
    Ok(datatype)
}

/// `scl_slope`, `scl_inter`: a slope of 0 means "do not scale", and so does NaN, which some writers leave there.
fn parse_scale(raw: &[u8], order: ByteOrder) -> Result<Option<(f64, f64)>, Error> {
    let (slope, inter) = (order.float(raw, 112), order.float(raw, 116));
    if slope == 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    if !inter.is_finite() {
        return Err(Error::Header {
            field: "scl_inter",
            value: inter.to_string(),
            expected: "a finite number",
        });
    }
    Ok(Some((f64::from(slope), f64::from(inter))))
}

fn parse_data_offset(raw: &[u8], order: ByteOrder) -> Result<u64, Error> {
    let offset = order.float(raw, 108);
    if offset == 0.0 {
        return Ok(DATA_OFFSET as u64);
    }
    let longest = MAX_SKIPPED_BYTES as f32;
    if offset.fract() != 0.0 || !(DATA_OFFSET as f32..=longest).contains(&offset) {
        return Err(Error::Header {
            field: "vox_offset",
            value: offset.to_string(),
            expected: "a whole number from 352 to 1048576",
        });
    }
    Ok(offset as u64)
}

fn parse_geometry(raw: &[u8], order: ByteOrder, size: [usize; 3]) -> Geometry {
    Geometry {
        size,
        spacing: order.floats(raw, 76),
        units: raw[123],
        qform_code: order.int16(raw, 252),
        sform_code: order.int16(raw, 254),
        qform: order.floats(raw, 256),
        sform: [order.floats(raw, 280), order.floats(raw, 296), order.floats(raw, 312)],
    }
}

fn parse_description(raw: &[u8]) -> String {
    let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end]).into_owned()
}

pub(super) fn encode_header(
    geometry: &Geometry,
    description: &str,
    datatype: DataType,
) -> io::Result<[u8; DATA_OFFSET]> {
    let mut raw = [0; DATA_OFFSET];
    let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348_i32.to_le_bytes());
    put(38, b"r");
    put(40, &3_i16.to_le_bytes());
    for axis in 0..7 {
        let extent = i16::try_from(geometry.size.get(axis).copied().unwrap_or(1))
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a dimension does not fit NIfTI-1"))?;
        put(42 + 2 * axis, &extent.to_le_bytes());
    }
    put(70, &(datatype as i16).to_le_bytes());
    put(72, &(8 * datatype.bytes() as i16).to_le_bytes());
    let mut put_floats = |at: usize, values: &[f32]| {
        for (i, value) in values.iter().enumerate() {
            put(at + 4 * i, &value.to_le_bytes());
        }
    };
    put_floats(76, &geometry.spacing);
    put_floats(108, &[DATA_OFFSET as f32, 1.0, 0.0]);
    put_floats(256, &geometry.qform);
    put_floats(280, &geometry.sform.concat());
    put(123, &[geometry.units]);
    put(148, &description.as_bytes()[..description.floor_char_boundary(79)]);
    put(252, &geometry.qform_code.to_le_bytes());
    put(254, &geometry.sform_code.to_le_bytes());
    put(344, b"n+1\0");
    Ok(raw)
}
