//! A synthetic head: a T1-like volume with a known brain, so that a demo has something to segment and to be right about.
//!
//! Nested ellipsoids (scalp, skull, fluid, grey and white matter, ventricles) with a wrinkled cortex and smooth
//! borders, under a bias field and Rician noise, as in a scanner's magnitude image. A phantom is wholly determined by
//! (generator version, seed, size): only `+ - * /` and `sqrt` are used, which IEEE 754 rounds the same everywhere, and
//! the random numbers are our own. Seed and size stand in the file's `descrip`, so that whoever receives the volume
//! can recompute the truth. A change of anything here that moves a voxel must raise [`GENERATOR_VERSION`].

use std::fmt;
use std::io;
use std::path::Path;

use crate::imaging::nifti::{self, Geometry, Volume, Voxels};

/// The name that `descrip` begins with.
pub const GENERATOR: &str = "gantry-phantom";

/// Version of the recipe; part of `descrip`. Other versions are not recognised.
pub const GENERATOR_VERSION: u32 = 1;

/// Voxels of a phantom that nobody gave a size: 2 mm each.
pub const DEFAULT_SIZE: [usize; 3] = [96, 112, 96];

/// The field of view in millimetres, whatever the size in voxels.
const EXTENT: [f32; 3] = [192.0, 224.0, 192.0];

/// Signal of each tissue; scanner units without meaning, int16 in the file.
mod signal {
    pub(super) const AIR: f32 = 0.0;
    pub(super) const SCALP: f32 = 620.0;
    pub(super) const SKULL: f32 = 70.0;
    pub(super) const FLUID: f32 = 180.0;
    pub(super) const GREY: f32 = 480.0;
    pub(super) const WHITE: f32 = 820.0;
    /// Standard deviation of each of the two channels that make the magnitude.
    pub(super) const NOISE: f32 = 190.0;
    /// How far the bias field may stray from 1.
    pub(super) const BIAS: f32 = 0.4;
}

/// One phantom: a recipe, cheap to hold; volumes are computed on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phantom {
    /// Chooses the anatomy, the bias field and the noise.
    pub seed: u64,
    /// Voxels along x, y and z.
    pub size: [usize; 3],
}

impl Phantom {
    /// A phantom of [`DEFAULT_SIZE`].
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            size: DEFAULT_SIZE,
        }
    }

    /// The phantom that a volume says it is: `descrip` is this generator's and the grid is the one that it makes, so
    /// that a cropped or resampled copy has no truth rather than a wrong one.
    #[must_use]
    pub fn of(volume: &Volume) -> Option<Self> {
        let mut words = volume.description.split(' ');
        if words.next()? != GENERATOR || words.next()?.parse() != Ok(GENERATOR_VERSION) {
            return None;
        }
        let seed = words.next()?.strip_prefix("seed=")?.parse().ok()?;
        let phantom = Self {
            seed,
            size: volume.geometry.size,
        };
        (volume.description == phantom.to_string() && volume.geometry == phantom.geometry()).then_some(phantom)
    }

    /// The grid: [`EXTENT`](self) millimetres, centred on the origin.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        Geometry::centred(
            self.size,
            std::array::from_fn(|axis| EXTENT[axis] / self.size[axis] as f32),
        )
    }

    /// The truth: 1 where grey or white matter or a ventricle is, 0 elsewhere.
    #[must_use]
    pub fn brain(&self) -> Vec<u8> {
        let anatomy = Anatomy::new(self.seed);
        self.map(|point| u8::from(anatomy.cortex(point) < 0.0))
    }

    /// The image, noise and all.
    #[must_use]
    pub fn image(&self) -> Vec<i16> {
        let anatomy = Anatomy::new(self.seed);
        let mut noise = Random::new(self.seed ^ 0x6e_6f69_7365);
        self.map(|point| {
            let signal = anatomy.signal(point) * anatomy.bias(point);
            let (real, imaginary) = (signal + signal::NOISE * noise.normal(), signal::NOISE * noise.normal());
            (real * real + imaginary * imaginary).sqrt() as i16
        })
    }

    /// The image as a NIfTI-1 file.
    ///
    /// # Errors
    /// Where an extent does not fit NIfTI-1 (32,767).
    pub fn encode(&self, gzip: bool) -> io::Result<Vec<u8>> {
        nifti::encode(&self.geometry(), &self.to_string(), Voxels::Int16(&self.image()), gzip)
    }

    /// Evaluates `voxel` at every voxel's centre in millimetres, x fastest.
    fn map<T>(&self, mut voxel: impl FnMut(Point) -> T) -> Vec<T> {
        let [nx, ny, nz] = self.size;
        let at = |axis: usize, index: usize| ((index as f32 + 0.5) / self.size[axis] as f32 - 0.5) * EXTENT[axis];
        let mut voxels = Vec::with_capacity(nx * ny * nz);
        for z in 0..nz {
            for y in 0..ny {
                for x in 0..nx {
                    voxels.push(voxel([at(0, x), at(1, y), at(2, z)]));
                }
            }
        }
        voxels
    }
}

/// What stands in `descrip`: `gantry-phantom 1 seed=42 size=96x112x96`.
impl fmt::Display for Phantom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.size;
        write!(f, "{GENERATOR} {GENERATOR_VERSION} seed={} size={x}x{y}x{z}", self.seed)
    }
}

/// Writes the phantom of `seed` in [`DEFAULT_SIZE`]; gzip where the file's name ends in `.gz`.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_phantom(path: &Path, seed: u64) -> io::Result<()> {
    let gzip = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    std::fs::write(path, Phantom::new(seed).encode(gzip)?)
}

/// Millimetres from the centre of the field of view: right, front, up.
type Point = [f32; 3];

/// An ellipsoid; its level is negative inside and, near the surface, about the distance in millimetres.
#[derive(Clone, Copy, Debug)]
struct Ellipsoid {
    centre: Point,
    radii: Point,
}

impl Ellipsoid {
    fn level(&self, point: Point) -> f32 {
        let share = |axis: usize| (point[axis] - self.centre[axis]) / self.radii[axis];
        let [x, y, z] = [share(0), share(1), share(2)];
        let sum = x * x + y * y + z * z;
        let shortest = self.radii[0].min(self.radii[1]).min(self.radii[2]);
        (sum.sqrt() - 1.0) * shortest
    }

    fn shrunk(&self, millimetres: f32) -> Self {
        Self {
            centre: self.centre,
            radii: self.radii.map(|radius| radius - millimetres),
        }
    }
}

/// One head, drawn from a seed.
#[derive(Debug)]
struct Anatomy {
    scalp: Ellipsoid,
    skull: Ellipsoid,
    fluid: Ellipsoid,
    brain: Ellipsoid,
    ventricles: [Ellipsoid; 2],
    /// Sine and cosine of the head's turn in the axial plane.
    turn: (f32, f32),
    /// Millimetres of cortex over the white matter.
    cortex: f32,
    /// Depth of the wrinkles and how many millimetres one takes, along each axis.
    wrinkles: (f32, Point),
    bias: [f32; 6],
}

impl Anatomy {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let centre = [random.within(3.0), random.within(3.0), random.within(3.0)];
        let stretch: Point = std::array::from_fn(|_| 1.0 + random.within(0.04));
        let head = Ellipsoid {
            centre,
            radii: [80.0 * stretch[0], 98.0 * stretch[1], 84.0 * stretch[2]],
        };
        let skull = head.shrunk(5.0 + random.within(1.0));
        let fluid = skull.shrunk(7.0 + random.within(1.0));
        let brain = fluid.shrunk(4.0 + random.within(1.0));
        let (width, length) = (9.0 + random.within(2.0), 26.0 + random.within(4.0));
        let ventricle = |side: f32| Ellipsoid {
            centre: [centre[0] + side * (width + 3.0), centre[1] - 4.0, centre[2] + 6.0],
            radii: [width, length, 10.0],
        };
        // The half-angle form of sine and cosine needs no trigonometry.
        let t = random.within(0.05);
        let turn = (2.0 * t / (1.0 + t * t), (1.0 - t * t) / (1.0 + t * t));
        Self {
            scalp: head,
            skull,
            fluid,
            brain,
            ventricles: [ventricle(-1.0), ventricle(1.0)],
            turn,
            cortex: 5.0 + random.within(1.0),
            wrinkles: (
                2.5 + random.within(0.5),
                std::array::from_fn(|_| 22.0 + random.within(4.0)),
            ),
            bias: std::array::from_fn(|_| random.within(1.0)),
        }
    }

    /// Level of the brain's surface: negative inside.
    fn cortex(&self, point: Point) -> f32 {
        let point = self.turned(point);
        let (depth, period) = self.wrinkles;
        let fold = wave(point[0] / period[0]) * wave(point[1] / period[1])
            + wave(point[1] / period[1] + 0.3) * wave(point[2] / period[2]);
        self.brain.level(point) + depth * fold
    }

    /// Signal without noise or bias: each tissue painted over the one around it.
    fn signal(&self, point: Point) -> f32 {
        let turned = self.turned(point);
        let cortex = self.cortex(point);
        let ventricle = self.ventricles[0].level(turned).min(self.ventricles[1].level(turned));
        let layers = [
            (self.scalp.level(turned), signal::SCALP),
            (self.skull.level(turned), signal::SKULL),
            (self.fluid.level(turned), signal::FLUID),
            (cortex, signal::GREY),
            (cortex + self.cortex, signal::WHITE),
            (ventricle, signal::FLUID),
        ];
        layers.into_iter().fold(signal::AIR, |below, (level, tissue)| {
            below + (tissue - below) * inside(level)
        })
    }

    /// Sensitivity of the coil: a smooth field around 1.
    fn bias(&self, point: Point) -> f32 {
        let [x, y, z]: Point = std::array::from_fn(|axis| 2.0 * point[axis] / EXTENT[axis]);
        let [a, b, c, d, e, f] = self.bias;
        1.0 + signal::BIAS * (a * x + b * y + c * z + d * x * y + e * y * z + f * z * x) / 2.0
    }

    fn turned(&self, [x, y, z]: Point) -> Point {
        let (sine, cosine) = self.turn;
        [cosine * x - sine * y, sine * x + cosine * y, z]
    }
}

/// How much of a voxel lies inside a surface at `level` millimetres: 1 deep inside, 0 outside, a smooth step of 2 mm.
fn inside(level: f32) -> f32 {
    let t = (0.5 - level / 2.0).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A sine in all but name: period 1, between -1 and 1, made of parabolas.
fn wave(turns: f32) -> f32 {
    let t = 2.0 * (turns - turns.floor()) - 1.0;
    4.0 * t * (1.0 - t.abs())
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, seedable by any number, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform between `-reach` and `reach`.
    fn within(&mut self, reach: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1_u32 << 24) as f32;
        reach * (2.0 * unit - 1.0)
    }

    /// About normal, mean 0, deviation 1: the sum of four uniform numbers, which one draw supplies.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        // Four uniforms of deviation 1/sqrt(12) each have together 1/sqrt(3).
        (sum as f32 / 65_536.0 - 2.0) * 1.732_050_8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Phantom = Phantom {
        seed: 42,
        size: [24, 28, 24],
    };

    #[test]
    fn the_same_seed_and_size_give_the_same_volume_on_every_machine() {
        let image = SMALL.image();
        let digest =
            |voxels: &mut dyn Iterator<Item = i64>| voxels.fold(0, |sum: i64, v| sum.wrapping_mul(31).wrapping_add(v));
        let image_digest = digest(&mut image.iter().map(|&voxel| i64::from(voxel)));
        let brain_digest = digest(&mut SMALL.brain().iter().map(|&voxel| i64::from(voxel)));
        // A change here means a new recipe: raise GENERATOR_VERSION.
        assert_eq!(
            (GENERATOR_VERSION, image_digest, brain_digest),
            (1, -1_060_943_558_127_785_968, -6_320_537_009_768_428_505)
        );
        assert_ne!(image, Phantom { seed: 43, ..SMALL }.image());
    }

    #[test]
    fn the_truth_is_known_from_the_file_alone() {
        for gzip in [false, true] {
            let volume = nifti::decode(&SMALL.encode(gzip).unwrap()).unwrap();
            assert_eq!(volume.description, "gantry-phantom 1 seed=42 size=24x28x24");
            assert_eq!(Phantom::of(&volume), Some(SMALL));
        }
    }

    #[test]
    fn a_volume_that_is_not_quite_a_phantom_has_no_truth() {
        let volume = nifti::decode(&SMALL.encode(false).unwrap()).unwrap();
        for description in [
            "",
            "gantry-phantom",
            "gantry-phantom 1 seed=42",
            "gantry-phantom 2 seed=42 size=24x28x24",
            "gantry-phantom 1 seed=042 size=24x28x24",
            "gantry-phantom 1 seed=-1 size=24x28x24",
            "gantry-phantom 1 seed=42 size=96x112x96",
            "gantry-phantom 1 seed=42 size=24x28x24 cropped",
        ] {
            assert_eq!(
                Phantom::of(&Volume {
                    description: description.into(),
                    ..volume.clone()
                }),
                None
            );
        }
        let mut moved = volume;
        moved.geometry.sform[0][3] += 1.0;
        assert_eq!(Phantom::of(&moved), None);
    }

    #[test]
    fn the_head_is_inside_the_field_of_view_and_the_brain_inside_the_head() {
        for seed in 0..20 {
            let anatomy = Anatomy::new(seed);
            for axis in 0..3 {
                let mut edge = [0.0; 3];
                edge[axis] = EXTENT[axis] / 2.0;
                assert!(
                    anatomy.signal(edge) < 1.0 && anatomy.signal(edge.map(|v| -v)) < 1.0,
                    "seed {seed}"
                );
            }
            assert!(anatomy.cortex([0.0; 3]) < 0.0);
        }
    }

    #[test]
    fn noise_has_mean_zero_and_deviation_one() {
        let mut random = Random::new(7);
        let drawn: Vec<f32> = (0..10_000).map(|_| random.normal()).collect();
        let mean = drawn.iter().sum::<f32>() / 10_000.0;
        let deviation = (drawn.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / 10_000.0).sqrt();
        assert!(
            mean.abs() < 0.05 && (deviation - 1.0).abs() < 0.05,
            "{mean} {deviation}"
        );
    }

    #[test]
    fn a_file_name_ending_in_gz_means_gzip() {
        let folder = tempfile::tempdir().unwrap();
        for (name, first) in [("head.nii", 0x5c), ("head.nii.gz", 0x1f)] {
            let path = folder.path().join(name);
            write_phantom(&path, 1).unwrap();
            assert_eq!(std::fs::read(&path).unwrap()[0], first);
        }
        assert!(write_phantom(&folder.path().join("no/such/folder.nii"), 1).is_err());
    }
}
