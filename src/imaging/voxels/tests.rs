//! Volumes of every kind, cut everywhere, alone and inside multipart bodies.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::super::nifti::ByteOrder;
use super::*;

/// The voxels of a file.
fn voxels_in(prefix: &[u8]) -> Option<u64> {
    count(&prefix[..prefix.len().min(PREFIX_BYTES)]).ok()
}

/// The voxels of a body.
fn voxels_in_body(content_type: Option<&str>, prefix: &[u8]) -> Option<u64> {
    count_in_body(content_type, prefix).ok()
}

/// A NIfTI-1 header with 8 voxels' worth of bytes behind it, in which only what is looked at is filled in.
fn first(dim: [i16; 8], order: ByteOrder) -> Vec<u8> {
    let mut bytes = vec![0; 360];
    let mut put = |at: usize, mut value: Vec<u8>| {
        if order == ByteOrder::Big {
            value.reverse();
        }
        bytes[at..at + value.len()].copy_from_slice(&value);
    };
    put(0, 348_i32.to_le_bytes().to_vec());
    for (i, extent) in dim.iter().enumerate() {
        put(40 + 2 * i, extent.to_le_bytes().to_vec());
    }
    bytes[344..348].copy_from_slice(b"n+1\0");
    bytes
}

fn second(dim: [i64; 8], order: ByteOrder) -> Vec<u8> {
    let mut bytes = vec![0; 552];
    let mut put = |at: usize, mut value: Vec<u8>| {
        if order == ByteOrder::Big {
            value.reverse();
        }
        bytes[at..at + value.len()].copy_from_slice(&value);
    };
    put(0, 540_i32.to_le_bytes().to_vec());
    for (i, extent) in dim.iter().enumerate() {
        put(16 + 8 * i, extent.to_le_bytes().to_vec());
    }
    bytes[4..12].copy_from_slice(b"n+2\0\r\n\x1a\n");
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What compression hardly shortens.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A DICOM file of 5 x 6 voxels in explicit little endian.
fn dicom() -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0");
    bytes.extend(b"\x28\x00\x10\x00US\x02\x00\x05\x00\x28\x00\x11\x00US\x02\x00\x06\x00");
    bytes
}

fn mni() -> Vec<u8> {
    first([3, 193, 229, 193, 1, 1, 1, 1], ByteOrder::Little)
}

const MNI: u64 = 193 * 229 * 193;

/// A body of several parts as browsers and curl make it, with `B` as boundary.
fn form(parts: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend(b"--B\r\nContent-Disposition: form-data; name=\"f\"\r\nContent-Type: x/y\r\n\r\n");
        body.extend(*part);
        body.extend(b"\r\n");
    }
    body.extend(b"--B--\r\n");
    body
}

const FORM: Option<&str> = Some("multipart/form-data; boundary=B");

#[test]
fn both_versions_of_nifti_are_counted_in_both_byte_orders() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for (dim, voxels) in [
            ([3, 3, 4, 2, 1, 1, 1, 1], 24),
            ([3, 3, 4, 2, 99, 99, 99, 99], 24),
            ([4, 3, 4, 2, 100, 0, 0, 0], 2_400),
            ([1, 7, 0, 0, 0, 0, 0, 0], 7),
            ([7, 2, 2, 2, 2, 2, 2, 2], 128),
        ] {
            for bytes in [first(dim, order), second(dim.map(i64::from), order)] {
                assert_eq!(voxels_in(&bytes), Some(voxels), "{dim:?} {order:?}");
                assert_eq!(voxels_in(&gzip(&bytes)), Some(voxels), "{dim:?} {order:?} gzip");
            }
        }
        let large = second([3, 100_000, 1_000, 100, 1, 1, 1, 1], order);
        assert_eq!(voxels_in(&large), Some(10_000_000_000));
    }
}

#[test]
fn nonsense_has_no_voxels() {
    for dim in [
        [0, 3, 4, 2, 1, 1, 1, 1],
        [8, 3, 4, 2, 1, 1, 1, 1],
        [-3, 3, 4, 2, 1, 1, 1, 1],
        [3, 0, 4, 2, 1, 1, 1, 1],
        [3, 3, -4, -2, 1, 1, 1, 1],
        [7, i16::MAX, i16::MAX, i16::MAX, i16::MAX, i16::MAX, i16::MAX, i16::MAX],
        [3, i16::MAX, i16::MAX, i16::MAX, 1, 1, 1, 1],
    ] {
        let bytes = [
            first(dim, ByteOrder::Little),
            second(dim.map(i64::from), ByteOrder::Big),
        ];
        assert_eq!(bytes.each_ref().map(|bytes| voxels_in(bytes)), [None, None], "{dim:?}");
    }
    let overflow = second([2, i64::MAX, i64::MAX, 1, 1, 1, 1, 1], ByteOrder::Little);
    assert_eq!(voxels_in(&overflow), None);
    let mut pair = mni();
    pair[344..348].copy_from_slice(b"ni1\0");
    assert_eq!(voxels_in(&pair), None);
    assert_eq!(voxels_in(&gzip(&gzip(&mni()))), None);
    assert_eq!(voxels_in(b""), None);
    assert_eq!(
        count_in_body(Some("application/json"), &[b'{'; 200]),
        Err(NoCount::Unknown)
    );
}

#[test]
fn a_header_is_enough_and_less_is_cut() {
    for bytes in [mni(), dicom()] {
        let needs = (0..=bytes.len())
            .find(|&keep| voxels_in(&bytes[..keep]).is_some())
            .unwrap();
        assert!(needs == 348 || needs == bytes.len(), "{needs}");
        for keep in 0..needs {
            assert_eq!(count_in_body(None, &bytes[..keep]), Err(NoCount::Cut), "{keep}");
        }
    }
}

#[test]
fn of_gzip_only_what_the_header_needs_is_inflated() {
    let mut volume = mni();
    // A description, and voxels that do not compress.
    volume[148..228].copy_from_slice(&noise(80));
    volume.extend(noise(100_000));
    let zipped = gzip(&volume);
    assert_eq!(voxels_in(&zipped), Some(MNI));
    let mut needs = None;
    for keep in 0..4_096 {
        match (count_in_body(None, &zipped[..keep]), needs) {
            (Err(NoCount::Cut), None) => {}
            (Ok(MNI), _) => needs = needs.or(Some(keep)),
            (other, _) => panic!("{keep}: {other:?} after {needs:?}"),
        }
    }
    assert!(needs.is_some_and(|needs| needs < 1_024), "{needs:?}");
    // Damage behind the header is another's business, before it nobody knows.
    let mut damaged = zipped;
    damaged[12..20].fill(0xff);
    assert_eq!(voxels_in(&damaged), None);
    assert_eq!(count_in_body(None, &gzip(&mni()[..300])), Err(NoCount::Unknown));
}

#[test]
fn the_first_part_that_is_a_volume_counts() {
    for file in [mni(), gzip(&mni())] {
        for body in [form(&[&file]), form(&[b"{\"a\": 1}", b"", &file, &dicom()])] {
            assert_eq!(voxels_in_body(FORM, &body), Some(MNI));
            assert_eq!(voxels_in_body(None, &body), Some(MNI));
            assert_eq!(
                voxels_in_body(Some("Multipart/Related; Boundary=\"B\"; type=\"a/b\""), &body),
                Some(MNI)
            );
            assert_eq!(voxels_in_body(Some("multipart/mixed"), &body), Some(MNI));
            assert_eq!(voxels_in_body(Some("text/plain"), &body), None);
        }
    }
    assert_eq!(voxels_in_body(FORM, &form(&[&dicom(), &mni()])), Some(30));
    assert_eq!(voxels_in_body(FORM, &form(&[b"no", b"volume"])), None);
    assert_eq!(count_in_body(FORM, &form(&[b"no", b"volume"])), Err(NoCount::Unknown));
    let preamble = [b"Read me with a MIME reader.\r\n", &form(&[&mni()])[..]].concat();
    assert_eq!(voxels_in_body(FORM, &preamble), Some(MNI));
    let bare = [b"--B\r\n\r\n", &mni()[..]].concat();
    assert_eq!(voxels_in_body(FORM, &bare), Some(MNI));
}

#[test]
fn a_form_cut_before_the_header_ends_is_cut() {
    let body = form(&[b"{\"a\": 1}", &mni()]);
    for content_type in [FORM, None] {
        let needs = (0..=body.len())
            .find(|&keep| voxels_in_body(content_type, &body[..keep]).is_some())
            .unwrap();
        for keep in 0..needs {
            assert_eq!(count_in_body(content_type, &body[..keep]), Err(NoCount::Cut), "{keep}");
        }
    }
}

#[test]
fn reading_on_ends() {
    // Many parts, a boundary that is none, a preamble without end.
    let many = form(&[&b"x"[..]; 9]);
    assert_eq!(count_in_body(FORM, &many), Err(NoCount::Unknown));
    assert_eq!(count_in_body(None, &[b'-'; 200]), Err(NoCount::Unknown));
    assert_eq!(count_in_body(FORM, &vec![b'x'; PREFIX_BYTES - 1]), Err(NoCount::Cut));
    assert_eq!(count_in_body(FORM, &vec![b'x'; PREFIX_BYTES]), Err(NoCount::Unknown));
    let long = format!("multipart/mixed; boundary={}", "b".repeat(71));
    assert_eq!(count_in_body(Some(&long), b"--"), Err(NoCount::Unknown));
}

proptest! {
    #[test]
    fn random_bodies_never_panic(
        content_type in proptest::option::of("(multipart/mixed; boundary=)?[ -~]{0,20}"),
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = voxels_in_body(content_type.as_deref(), &bytes);
        let framed = [&[0x1f, 0x8b, 8, 0][..], &bytes].concat();
        let _ = voxels_in_body(content_type.as_deref(), &framed);
        let _ = voxels_in_body(FORM, &[b"--B\r\n\r\n", &bytes[..]].concat());
    }

    #[test]
    fn damaged_bodies_never_panic_and_never_count_past_the_bound(
        which in 0_usize..5,
        keep in 0_usize..700,
        changes in proptest::collection::vec((0_usize..700, any::<u8>()), 0..8),
    ) {
        let mut bytes = match which {
            0 => mni(),
            1 => second([4, 9, 9, 9, 9, 1, 1, 1], ByteOrder::Big),
            2 => gzip(&mni()),
            3 => dicom(),
            _ => form(&[b"{}", &mni()]),
        };
        bytes.truncate(keep);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let voxels = voxels_in_body(FORM, &bytes).or_else(|| voxels_in(&bytes));
        prop_assert!(voxels.is_none_or(|voxels| (1..=MAX_COUNTED).contains(&voxels)));
    }
}
