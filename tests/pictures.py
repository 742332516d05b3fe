"""Small picture files for the tests."""

import numpy as np
from PIL import Image


def noise(height, width, seed=0):
    """(H,W,3) uint8, random."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path, size=(20, 24), seed=0):
    """A PNG of random pixels, whatever the suffix says: readers look at the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*size, seed)).save(path, "PNG")
    return path


def fill(root, *names, size=(6, 6), seed=0):
    """Files of one content."""
    for name in names:
        write(root / name, size, seed)


def pairs(root, *lq_names, gt, size=(6, 6), gt_size=None):
    """Degraded files, and the clean ones that `gt` names for them, of other content."""
    fill(root, *lq_names, size=size, seed=1)
    fill(root, *{gt(name) for name in lq_names}, size=gt_size or size, seed=2)
