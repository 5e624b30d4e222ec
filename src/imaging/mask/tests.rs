//! Masks in every datatype, and volumes that are none.

use proptest::prelude::*;

use super::*;
use crate::imaging::nifti::{Voxels, encode};

/// A row of voxels as a file of the given datatype (`nifti1.h`), with `scl_slope` and `scl_inter`.
fn file(datatype: i16, voxels: &[&[u8]], slope: f32, inter: f32) -> Vec<u8> {
    let geometry = Geometry::centred([voxels.len(), 1, 1], [1.0; 3]);
    let mut bytes = encode(&geometry, "", Voxels::Uint8(&vec![0; voxels.len()]), false).unwrap();
    bytes.truncate(352);
    bytes[70..72].copy_from_slice(&datatype.to_le_bytes());
    bytes[72..74].copy_from_slice(&(8 * voxels[0].len() as i16).to_le_bytes());
    bytes[112..116].copy_from_slice(&slope.to_le_bytes());
    bytes[116..120].copy_from_slice(&inter.to_le_bytes());
    bytes.extend(voxels.concat());
    bytes
}

/// The labels of a mask, voxel by voxel.
fn decoded(bytes: &[u8]) -> Result<Vec<i64>, String> {
    let mask = Mask::decode(bytes).map_err(|error| error.to_string())?;
    let labels = mask.labels();
    Ok(mask.voxels().iter().map(|&at| labels[usize::from(at)]).collect())
}

fn floats(voxels: &[f32], slope: f32, inter: f32) -> Result<Vec<i64>, String> {
    let bytes: Vec<[u8; 4]> = voxels.iter().map(|voxel| voxel.to_le_bytes()).collect();
    decoded(&file(
        16,
        &bytes.iter().map(|b| &b[..]).collect::<Vec<_>>(),
        slope,
        inter,
    ))
}

#[test]
fn every_datatype_keeps_its_labels() {
    assert_eq!(
        decoded(&file(2, &[&[0], &[1], &[255], &[1]], 1.0, 0.0)),
        Ok(vec![0, 1, 255, 1])
    );
    assert_eq!(decoded(&file(256, &[&[0xff], &[0x7f]], 0.0, 0.0)), Ok(vec![-1, 127]));
    let shorts = [(-32_768_i16).to_le_bytes(), 12_175_i16.to_le_bytes()];
    assert_eq!(
        decoded(&file(4, &[&shorts[0], &shorts[1]], 1.0, 0.0)),
        Ok(vec![-32_768, 12_175])
    );
    assert_eq!(
        decoded(&file(512, &[&shorts[0], &shorts[1]], 1.0, 0.0)),
        Ok(vec![32_768, 12_175])
    );
    let words = [(-1_i32).to_le_bytes(), 16_777_217_i32.to_le_bytes()];
    assert_eq!(
        decoded(&file(8, &[&words[0], &words[1]], 1.0, 0.0)),
        Ok(vec![-1, 16_777_217])
    );
    assert_eq!(
        decoded(&file(768, &[&words[0], &words[1]], 1.0, 0.0)),
        Ok(vec![4_294_967_295, 16_777_217])
    );
    let longs = [i64::MIN.to_le_bytes(), 70_000_i64.to_le_bytes()];
    assert_eq!(
        decoded(&file(1024, &[&longs[0], &longs[1]], 1.0, 0.0)),
        Ok(vec![i64::MIN, 70_000])
    );
    assert_eq!(
        decoded(&file(1280, &[&longs[1], &longs[1]], 1.0, 0.0)),
        Ok(vec![70_000, 70_000])
    );
    assert!(decoded(&file(1280, &[&longs[0]], 1.0, 0.0)).is_err());
    assert_eq!(decoded(&file(64, &[&2.0_f64.to_le_bytes()], 1.0, 0.0)), Ok(vec![2]));
    assert_eq!(floats(&[0.0, 3.0, -0.0, 3.0], 1.0, 0.0), Ok(vec![0, 3, 0, 3]));
}

#[test]
fn scaled_labels_are_whole_but_for_rounding() {
    // What a writer that scales floats into integers leaves.
    assert_eq!(decoded(&file(2, &[&[0], &[255]], 1.0 / 255.0, 0.0)), Ok(vec![0, 1]));
    assert_eq!(decoded(&file(2, &[&[0], &[1]], 2.0, -1.0)), Ok(vec![-1, 1]));
    assert!(decoded(&file(2, &[&[9], &[20]], 0.1, 0.02)).is_err());
    assert_eq!(decoded(&file(2, &[&[10], &[20]], 0.1, 0.02)), Ok(vec![1, 2]));
    assert_eq!(floats(&[1.000_5, 0.999_5], 1.0, 0.0), Ok(vec![1, 1]));
}

#[test]
fn what_is_no_label_is_refused_with_its_place() {
    assert_eq!(
        floats(&[0.0, 1.0, 0.5], 1.0, 0.0),
        Err(
            "voxel (2, 0, 0) is 0.5, which is no label: a mask holds whole numbers (is this a probability map?)".into()
        )
    );
    for value in [f32::NAN, f32::INFINITY, -f32::INFINITY, 1e30] {
        assert!(floats(&[value], 1.0, 0.0).is_err(), "{value}");
    }
    assert!(decoded(&file(2, &[&[0], &[1]], 0.25, 0.0)).is_err());
    let geometry = Geometry::centred([2, 2, 2], [1.0; 3]);
    let bytes = encode(
        &geometry,
        "",
        Voxels::Float32(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.0]),
        true,
    )
    .unwrap();
    assert!(decoded(&bytes).unwrap_err().starts_with("voxel (0, 1, 1) is 0.25"));
}

#[test]
fn an_image_is_no_mask() {
    let geometry = Geometry::centred([300, 1, 1], [1.0; 3]);
    let ramp = |step: i16| (0..300).map(|i: i16| i * step - 20_000).collect::<Vec<_>>();
    for step in [1, 100] {
        let bytes = encode(&geometry, "", Voxels::Int16(&ramp(step)), false).unwrap();
        assert!(decoded(&bytes).unwrap_err().contains("255 labels"), "{step}");
    }
    // 255 labels and the background are a mask.
    let bytes: Vec<u8> = (0..=255).collect();
    let geometry = Geometry::centred([256, 1, 1], [1.0; 3]);
    let mask = Mask::decode(&encode(&geometry, "", Voxels::Uint8(&bytes), true).unwrap()).unwrap();
    assert_eq!(mask.labels().len(), MAX_LABELS + 1);
    assert_eq!(mask.voxels(), bytes);
}

#[test]
fn what_is_no_volume_says_so() {
    assert!(decoded(b"hello").unwrap_err().contains("not a NIfTI-1 file"));
    let mut bomb = file(2, &[&[0]], 1.0, 0.0);
    bomb[42..48].copy_from_slice(&[0, 0x7d, 0, 0x7d, 0, 0x7d]);
    assert!(decoded(&bomb).unwrap_err().contains("too large"));
}

proptest! {
    #[test]
    fn damaged_masks_never_panic(
        datatype in proptest::sample::select(vec![2_i16, 4, 8, 16, 64, 256, 512, 768, 1024, 1280]),
        keep in 300_usize..500,
        changes in proptest::collection::vec((0_usize..500, any::<u8>()), 0..8),
        slope in any::<f32>(),
        inter in any::<f32>(),
    ) {
        let width = match datatype { 2 | 256 => 1, 4 | 512 => 2, 64 | 1024 | 1280 => 8, _ => 4 };
        let mut bytes = file(datatype, &[&vec![0x3f_u8; width][..]; 12], slope, inter);
        bytes.truncate(keep);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(mask) = Mask::decode(&bytes) {
            prop_assert_eq!(mask.voxels().len(), mask.geometry().voxels());
            prop_assert!(mask.voxels().iter().all(|&at| usize::from(at) < mask.labels().len()));
        }
    }
}
