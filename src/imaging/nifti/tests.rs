//! Every datatype and byte order, every way a file can be broken.

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
            DataType::Int32 | DataType::Uint32 => u32::from(value).to_le_bytes().to_vec(),
            DataType::Int64 | DataType::Uint64 => u64::from(value).to_le_bytes().to_vec(),
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
    for code in [2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280] {
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
        code in proptest::sample::select(vec![2_i16, 4, 8, 16, 64, 256, 512, 768, 1024, 1280]),
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
