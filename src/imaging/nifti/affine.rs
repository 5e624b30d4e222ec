//! From voxel to world: the three methods of `nifti1.h`.

use super::Geometry;

impl Geometry {
    /// The affine from voxel indices to world coordinates in millimetres, row by row.
    ///
    /// As in `nifti1.h`: `sform` where `sform_code` is above 0 (method 3), else `qform` where `qform_code` is (method
    /// 2), else the spacing alone, with the first voxel at the origin (method 1). Units other than metres and
    /// micrometres count as millimetres, as most writers leave `xyzt_units` at 0 ("unknown").
    #[must_use]
    pub fn affine(&self) -> [[f64; 4]; 3] {
        let mut affine = if self.sform_code > 0 {
            self.sform.map(|row| row.map(f64::from))
        } else if self.qform_code > 0 {
            self.turned_by_quaternion()
        } else {
            let [x, y, z] = self.steps();
            [[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]]
        };
        // The low three bits are the spatial unit.
        let millimetres = match self.units & 7 {
            1 => 1000.0,
            3 => 0.001,
            _ => 1.0,
        };
        for value in affine.as_flattened_mut() {
            *value *= millimetres;
        }
        affine
    }

    /// Spacing along x, y and z; what is not above 0 counts as 1, as in the reference implementation (`nifti1_io.c`).
    fn steps(&self) -> [f64; 3] {
        let step = |axis: usize| {
            let step = f64::from(self.spacing[axis]);
            if step > 0.0 { step } else { 1.0 }
        };
        [step(1), step(2), step(3)]
    }

    /// Method 2: a rotation by the unit quaternion (a, b, c, d), of which a is implied, and `pixdim[0]` (qfac) turning
    /// the third axis where it is negative.
    fn turned_by_quaternion(&self) -> [[f64; 4]; 3] {
        let [mut b, mut c, mut d, x, y, z] = self.qform.map(f64::from);
        let rest = 1.0 - (b * b + c * c + d * d);
        let a = if rest < 1e-7 {
            // Rounding left the quaternion longer than 1: a half turn.
            let shorten = 1.0 / (b * b + c * c + d * d).sqrt();
            (b, c, d) = (b * shorten, c * shorten, d * shorten);
            0.0
        } else {
            rest.sqrt()
        };
        let [i, j, mut k] = self.steps();
        if self.spacing[0] < 0.0 {
            k = -k;
        }
        [
            [
                (a * a + b * b - c * c - d * d) * i,
                2.0 * (b * c - a * d) * j,
                2.0 * (b * d + a * c) * k,
                x,
            ],
            [
                2.0 * (b * c + a * d) * i,
                (a * a + c * c - b * b - d * d) * j,
                2.0 * (c * d - a * b) * k,
                y,
            ],
            [
                2.0 * (b * d - a * c) * i,
                2.0 * (c * d + a * b) * j,
                (a * a + d * d - b * b - c * c) * k,
                z,
            ],
        ]
    }
}
