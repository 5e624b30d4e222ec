//! The same masks, written by nibabel and compared by numpy: Dice, affines, and the number of voxels.
//!
//! Left out where no Python with nibabel is found: that of `GANTRY_TEST_PYTHON`, else `python3`. With
//! `GANTRY_TEST_PEERS=required` that is a failure.

use std::{env, fs, process::Command};

use serde_json::Value;

use super::*;
use crate::imaging::count_in_body;

/// Writes pairs of masks into the folder `argv[1]`, and prints a line of JSON about each.
const SCRIPT: &str = r#"
import itertools, json, os, sys
import nibabel as nib
import numpy as np

random = np.random.default_rng(7)

def turned(spacing):
    q = random.normal(size=4)
    return nib.affines.from_matvec(nib.quaternions.quat2mat(q / np.linalg.norm(q)) @ np.diag(spacing),
                                   random.uniform(-90, 90, 3))

def save(name, data, affine, kind, dtype, codes, big, scale):
    header = None
    if big:
        header = kind.header_class(endianness='>')
    image = kind(data.astype(dtype), affine, header, dtype=dtype)
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    if scale:
        image.set_data_dtype(np.int16)
    path = os.path.join(sys.argv[1], name)
    nib.save(image, path)
    return path

cases = itertools.cycle([
    (np.uint8, (1, 1), False, False), (np.int16, (1, 0), True, False), (np.float32, (0, 1), False, False),
    (np.float64, (2, 4), True, False), (np.uint16, (1, 1), False, False), (np.float32, (1, 0), False, True),
    (np.int32, (1, 0), True, False), (np.int64, (1, 2), False, False), (np.int8, (1, 0), False, False),
])
for n in range(27):
    dtype, codes, big, scale = next(cases)
    shape = tuple(int(x) for x in random.integers(1, 24, 3))
    labels = random.choice(np.arange(1, 120), size=random.integers(0, 6), replace=False)
    values = np.append(labels, 0)
    reference = random.choice(values, size=shape)
    prediction = np.where(random.random(shape) < 0.7, reference, random.choice(np.append(values, 121), size=shape))
    spacing = random.uniform(0.3, 4, 3)
    if n % 2:
        spacing[2] *= -1
    affine = turned(spacing)
    suffix = '.nii.gz' if n % 3 else '.nii'
    paths = [save(f'{n}-{which}{suffix}', data, affine, nib.Nifti1Image, dtype, codes, big, scale)
             for which, data in (('reference', reference), ('prediction', prediction))]
    dice = {}
    for label in np.union1d(reference, prediction):
        if label != 0:
            r, p = reference == label, prediction == label
            dice[str(label)] = 2 * np.sum(r & p) / (np.sum(r) + np.sum(p))
    mean = float(np.mean(list(dice.values()))) if dice else None
    affine = nib.load(paths[0]).affine.tolist()
    series = np.zeros((*shape, int(random.integers(1, 5))), np.int16)
    second = save(f'{n}-second{suffix}', series, np.eye(4), nib.Nifti2Image, np.int16, (1, 1), big, False)
    print(json.dumps({'paths': paths, 'dice': dice, 'mean': mean, 'affine': affine, 'voxels': reference.size,
                      'second': second, 'series': series.size}))
"#;

#[test]
fn masks_by_nibabel_have_the_dice_of_numpy() {
    let python = env::var("GANTRY_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_nibabel = Command::new(&python).args(["-c", "import nibabel"]).output();
    if !has_nibabel.is_ok_and(|output| output.status.success()) {
        let required = env::var_os("GANTRY_TEST_PEERS").is_some_and(|peers| peers == "required");
        assert!(!required, "{python} has no nibabel");
        eprintln!("left out: {python} has no nibabel");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(&python)
        .args(["-c", SCRIPT])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut pairs = 0;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        check(&serde_json::from_str(line).unwrap());
        pairs += 1;
    }
    assert_eq!(pairs, 27);
}

fn check(said: &Value) {
    let files: Vec<Vec<u8>> = [&said["paths"][0], &said["paths"][1], &said["second"]]
        .map(|path| fs::read(path.as_str().unwrap()).unwrap())
        .into();
    assert_eq!(count_in_body(None, &files[0]).ok(), said["voxels"].as_u64(), "{said}");
    assert_eq!(count_in_body(None, &files[2]).ok(), said["series"].as_u64(), "{said}");
    let [reference, prediction] = [&files[0], &files[1]].map(|file| Mask::decode(file).unwrap());
    for (ours, theirs) in reference
        .geometry()
        .affine()
        .iter()
        .zip(said["affine"].as_array().unwrap())
    {
        for (ours, theirs) in ours.iter().zip(theirs.as_array().unwrap()) {
            assert!((ours - theirs.as_f64().unwrap()).abs() < 1e-4, "{ours} {theirs} {said}");
        }
    }
    let report = dice(&reference, &prediction).unwrap();
    assert_eq!(report.labels.len(), said["dice"].as_object().unwrap().len(), "{said}");
    for label in &report.labels {
        let theirs = said["dice"][label.label.to_string()].as_f64().unwrap();
        assert!(
            (label.value.unwrap() - theirs).abs() < 1e-12,
            "{label:?} {theirs} {said}"
        );
    }
    match (report.mean, said["mean"].as_f64()) {
        (Some(ours), Some(theirs)) => assert!((ours - theirs).abs() < 1e-12, "{said}"),
        (ours, theirs) => assert_eq!(ours, theirs, "{said}"),
    }
}
