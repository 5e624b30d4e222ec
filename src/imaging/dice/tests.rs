//! Dice by hand, and grids that differ a little too much.

use super::*;
use crate::imaging::nifti::{Voxels, encode};

fn mask_on(geometry: &Geometry, voxels: &[i16]) -> Mask {
    Mask::decode(&encode(geometry, "", Voxels::Int16(voxels), false).unwrap()).unwrap()
}

fn mask(voxels: &[i16]) -> Mask {
    mask_on(&Geometry::centred([voxels.len(), 1, 1], [1.0; 3]), voxels)
}

fn label(label: i64, value: Option<f64>, reference_voxels: u64, predicted_voxels: u64) -> LabelDice {
    LabelDice {
        label,
        value,
        reference_voxels,
        predicted_voxels,
    }
}

#[test]
fn labels_are_compared_one_by_one() {
    let report = dice(&mask(&[0, 1, 1, 2, 2, 2, 0, 0]), &mask(&[0, 0, 1, 1, 2, 2, 2, 0])).unwrap();
    // 1: 2 and 2 voxels, 1 shared. 2: 3 and 3 voxels, 2 shared.
    assert_eq!(
        report.labels,
        [label(1, Some(0.5), 2, 2), label(2, Some(4.0 / 6.0), 3, 3)]
    );
    assert_eq!(report.mean, Some(f64::midpoint(0.5, 4.0 / 6.0)));
}

#[test]
fn equal_masks_are_1_and_strangers_0() {
    let voxels = [5, 0, -7, 12_175, 5];
    let report = dice(&mask(&voxels), &mask(&voxels)).unwrap();
    assert_eq!(report.mean, Some(1.0));
    assert_eq!(
        report.labels.iter().map(|label| label.label).collect::<Vec<_>>(),
        [-7, 5, 12_175]
    );
    assert_eq!(
        dice(&mask(&[1, 1, 0, 0]), &mask(&[0, 0, 1, 1])).unwrap().mean,
        Some(0.0)
    );
}

#[test]
fn a_label_in_one_mask_only_is_0() {
    let with = mask(&[1, 1, 2, 0]);
    let without = mask(&[1, 1, 0, 0]);
    for (reference, prediction, voxels) in [(&with, &without, (1, 0)), (&without, &with, (0, 1))] {
        let report = dice(reference, prediction).unwrap();
        assert_eq!(
            report.labels,
            [label(1, Some(1.0), 2, 2), label(2, Some(0.0), voxels.0, voxels.1)]
        );
        assert_eq!(report.mean, Some(0.5));
    }
}

#[test]
fn two_empty_masks_have_no_dice() {
    let report = dice(&mask(&[0, 0]), &mask(&[0, 0])).unwrap();
    assert_eq!((report.labels.len(), report.mean), (0, None));
}

#[test]
fn asked_labels_that_are_in_neither_mask_are_left_out_of_the_mean() {
    let (reference, prediction) = (mask(&[1, 1, 0, 3]), mask(&[1, 0, 0, 3]));
    let report = dice_of(&reference, &prediction, &[2, 1, 0]).unwrap();
    assert_eq!(
        report.labels,
        [
            label(2, None, 0, 0),
            label(1, Some(2.0 / 3.0), 2, 1),
            label(0, Some(2.0 / 3.0), 1, 2)
        ]
    );
    assert_eq!(report.mean, Some(2.0 / 3.0));
    assert_eq!(dice_of(&reference, &prediction, &[2]).unwrap().mean, None);
}

const SIZE: [usize; 3] = [4, 3, 2];

fn grid() -> Geometry {
    Geometry::centred(SIZE, [1.0, 2.0, 3.0])
}

fn compared(change: impl Fn(&mut Geometry)) -> Result<Report, Mismatch> {
    let mut changed = grid();
    change(&mut changed);
    dice(
        &mask_on(&grid(), &[1; 24]),
        &mask_on(&changed, &vec![1; changed.voxels()]),
    )
}

#[test]
fn grids_of_another_size_are_refused() {
    let error = compared(|grid| grid.size = [4, 2, 3]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the masks' grids differ: the reference has 4 x 3 x 2 voxels, the prediction 4 x 2 x 3; resample the reference \
         onto the prediction's grid"
    );
}

#[test]
fn grids_in_another_place_are_refused() {
    let place = |change: fn(&mut Geometry)| match compared(change) {
        Err(Mismatch::Place { millimetres }) => millimetres,
        other => panic!("{other:?}"),
    };
    assert_eq!(place(|grid| grid.sform[0][3] += 0.25), 0.25);
    assert_eq!(place(|grid| grid.sform[0][0] = -1.0), 7.0); // mirrored about its first voxel
    assert_eq!(place(|grid| grid.units = 1).floor(), 4_685.0); // metres: 999 half diagonals
    assert!(place(|grid| grid.sform[1][3] = f32::NAN).is_nan());
    // No code at all: only the spacing is known, the first voxel is the origin.
    assert!(
        place(|grid| {
            grid.sform_code = 0;
            grid.qform_code = 0;
        }) > 1.0
    );
}

#[test]
fn rounding_and_other_ways_to_say_it_are_no_difference() {
    for change in [
        (|_| {}) as fn(&mut Geometry),
        |grid| grid.sform[0][3] += 0.005,
        |grid| grid.units = 0,
        |grid| grid.sform_code = 2,
        // The same place by quaternion.
        |grid| grid.sform_code = 0,
        // Where there is an sform, neither the qform nor the spacing counts.
        |grid| {
            grid.qform = [0.7; 6];
            grid.spacing = [9.0; 8];
        },
    ] {
        assert_eq!(compared(change).unwrap().mean, Some(1.0));
    }
    assert!(compared(|grid| grid.sform[0][3] += 0.02).is_err());
}

#[test]
fn a_slice_has_a_thickness() {
    let mut slice = Geometry::centred([8, 8, 1], [1.0, 1.0, 5.0]);
    let thick = slice.clone();
    assert_eq!(same_grid(&thick, &slice), Ok(()));
    slice.sform[2][2] = 1.0;
    assert!(same_grid(&thick, &slice).is_err());
}

#[test]
fn seven_million_voxels_are_counted_in_one_pass() {
    let geometry = Geometry::centred([193, 229, 160], [1.0; 3]);
    let voxels = |shift: usize| -> Vec<u8> { (0..geometry.voxels()).map(|i| ((i + shift) / 4 % 3) as u8).collect() };
    let decode = |voxels: &[u8]| Mask::decode(&encode(&geometry, "", Voxels::Uint8(voxels), false).unwrap()).unwrap();
    let (reference, prediction) = (decode(&voxels(0)), decode(&voxels(1)));
    let began = std::time::Instant::now();
    let report = dice(&reference, &prediction).unwrap();
    println!("{} voxels: {:?}", geometry.voxels(), began.elapsed());
    assert!((report.mean.unwrap() - 0.75).abs() < 1e-6);
}
