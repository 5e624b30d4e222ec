"""Brain masks by the two networks that deepbet ships, and the volume whose answer is known.

Version 1 is the small network: the whole head at 128x128x128, its mask resampled to the volume.
Version 2 uses version 1's mask as a bounding box and looks at that box at 256x256x256.
Version 3 is version 1 without the fluid: of its mask, the voxels that are not much darker than the rest.

The networks are TorchScript files from the wheel of deepbet 1.0.2 (MIT licence, Fisch et al. 2023,
"deepbet: Fast brain extraction of T1-weighted MRI using Convolutional Neural Networks"). The steps around them
are written anew here and follow what the weights were trained on: axes in RAS order, nearest-neighbour
resampling, intensities clipped to their 0.5 and 99.5 percentiles, standardised, then moved to mean 0.449 and
deviation 0.226. Holes are filled and the largest connected piece is kept.
"""

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

SMALL = (128, 128, 128)
LARGE = (256, 256, 256)
# Share of a slice that must be brain for the slice to count into the bounding box, and the air around the box.
BOX_THRESHOLD, BOX_MARGIN = 0.02, 0.1
# Cerebrospinal fluid is dark in a T1-weighted volume: below this share of the brain's median intensity.
TISSUE_SHARE = 0.6

T1 = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
GREY = "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz"
WHITE = "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"


def nearest(volume, shape):
    """Resamples to `shape`: each new voxel takes the old one that its centre falls into."""
    for axis, (old, new) in enumerate(zip(volume.shape, shape)):
        index = np.floor((np.arange(new) + 0.5) * old / new).astype(np.intp)
        volume = np.take(volume, np.minimum(index, old - 1), axis=axis)
    return volume


def largest_piece(mask):
    """Keeps the largest piece of a mask, corners connecting; an empty mask stays empty."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def bounding_box(mask, shape):
    """Slices into a volume of `shape` around the brain in `mask`, a coarser copy of it; None without a brain."""
    box = []
    for axis, (coarse, fine) in enumerate(zip(mask.shape, shape)):
        others = tuple(other for other in range(3) if other != axis)
        brain = np.flatnonzero(mask.mean(axis=others) > BOX_THRESHOLD)
        if brain.size == 0:
            return None
        first, end = brain[0] * fine / coarse, (brain[-1] + 1) * fine / coarse
        margin = BOX_MARGIN * (end - first)
        box.append(slice(max(0, round(first - margin)), min(fine, round(end + margin))))
    return tuple(box)


class BrainExtraction:
    """One version of the model. Not for use by several threads at once."""

    def __init__(self, version, models):
        self.version = version
        self.coarse = self._load(models, "bbox_model.pt")
        self.fine = self._load(models, "model.pt") if version == 2 else None

    @staticmethod
    def _load(models, name):
        return torch.jit.load(str(Path(models) / name), map_location="cpu").eval()

    @staticmethod
    def _run(network, volume, low, high):
        x = np.clip((volume - low) / max(high - low, 1e-6), 0, 1)
        x = (x - x.mean()) / max(x.std(ddof=1), 1e-6)
        x = torch.from_numpy((0.226 * x + 0.449).astype(np.float32))
        with torch.inference_mode():
            return network(x[None, None])[0, 1].numpy()

    def probability(self, volume):
        """Probability of brain for each voxel of a float32 volume in RAS order, and the box it was looked for in."""
        everything = tuple(slice(0, extent) for extent in volume.shape)
        small = nearest(volume, SMALL)
        low, high = np.quantile(small, (0.005, 0.995))
        coarse = self._run(self.coarse, small, low, high)
        if self.fine is None:
            return nearest(coarse, volume.shape), everything
        box = bounding_box(largest_piece(coarse > 0.5), volume.shape)
        if box is None:
            return np.zeros(volume.shape, np.float32), everything
        cut = volume[box]
        found = np.zeros(volume.shape, np.float32)
        found[box] = nearest(self._run(self.fine, nearest(cut, LARGE), low, high), cut.shape)
        return found, box

    def mask(self, image):
        """The mask of a NIfTI image: uint8, same grid and affine."""
        canonical = nib.as_closest_canonical(image)
        volume = np.asarray(canonical.dataobj, dtype=np.float32).reshape(canonical.shape[:3])
        volume = np.nan_to_num(volume, copy=False, nan=0, posinf=0, neginf=0)
        found, box = self.probability(volume)
        mask = np.zeros(volume.shape, np.uint8)
        mask[box] = ndimage.binary_fill_holes(largest_piece(found[box] > 0.5))
        if self.version == 3 and mask.any():
            mask &= volume > TISSUE_SHARE * np.median(volume[mask != 0])
        # Back to the order of axes that the image came in.
        back = nib.orientations.ornt_transform(
            [[0, 1], [1, 1], [2, 1]], nib.io_orientation(image.affine)
        )
        mask = nib.orientations.apply_orientation(mask, back).astype(np.uint8)
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_xyzt_units(*image.header.get_xyzt_units())
        header["descrip"] = f"brain mask, deepbet 1.0.2 networks, version {self.version}".encode()
        answer = nib.Nifti1Image(mask, image.affine, header)
        answer.set_sform(image.affine, int(image.header["sform_code"]) or 1)
        answer.set_qform(image.affine, int(image.header["qform_code"]))
        return answer


def voxel_hash(image):
    """Identifies the voxels of an image, whatever its file was compressed with."""
    voxels = np.asfortranarray(np.asarray(image.dataobj, dtype=np.float32))
    return hashlib.sha256(repr(voxels.shape).encode() + voxels.tobytes(order="F")).hexdigest()


class Reference:
    """The MNI152 template, of which the brain is known: more grey and white matter than anything else."""

    def __init__(self, folder):
        folder = Path(folder)
        self.path = folder / T1
        self.image = nib.load(self.path)
        self.hash = voxel_hash(self.image)
        grey, white = (np.asarray(nib.load(folder / name).dataobj, dtype=np.float32) for name in (GREY, WHITE))
        self.mask = grey / grey.max() + white / white.max() > 0.5

    def dice(self, image, mask):
        """Dice of `mask` where `image` is the template, else None."""
        if image.shape != self.image.shape or voxel_hash(image) != self.hash:
            return None
        return dice(np.asarray(mask.dataobj), self.mask)


def dice(prediction, truth):
    """Dice coefficient; None where the truth is empty, as MONAI's DiceMetric has it."""
    prediction, truth = prediction != 0, truth != 0
    if not truth.any():
        return None
    return 2 * np.count_nonzero(prediction & truth) / (np.count_nonzero(prediction) + np.count_nonzero(truth))
