"""A network on somebody's own picture: whatever it comes as goes out as the same kind."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional

from mclir_nb import files
from mclir_nb.data import images
from mclir_nb.evaluation import tiles
from mclir_nb.networks import check_finite

MARGIN = 16  # lq pixels around somebody's picture, a multiple of every network's window
ROUNDING = 1e-4  # how far floating point values may leave [0, 1]


def restore(network: nn.Module, image, tile: int | None = None, *, ensemble: bool = False, quiet: bool = True):
    """Restore one picture of any size; the result is of the same kind as the picture.

    Args:
        network: from `networks.build` or `records.Run(...).model()`; its output is `network.scale` times as large.
        image: one of
            a tensor (3,H,W) or (1,3,H,W), floating point in [0,1] or uint8;
            an array (H,W), (H,W,1), (H,W,3) or (H,W,4), uint8, uint16 or floating point in [0,1];
            a PIL image (turned upright by its EXIF orientation, as `restore_file` does; one that is neither grey nor
            RGB comes back as RGB; the profile of CMYK is left out).
            Grey is restored as three equal channels and averaged again; transparency is kept, and enlarged
            bilinearly where the network enlarges.
        tile, ensemble, quiet: as in `tiles.run`.

    Raises:
        ValueError: another kind of image, or values out of range; see also `tiles.run`.
    """
    options = dict(tile=tile, ensemble=ensemble, quiet=quiet)
    if isinstance(image, Tensor):
        return _tensor(network, image, options)
    if isinstance(image, np.ndarray):
        return _array(network, image, options)
    if isinstance(image, Image.Image):
        restored = Image.fromarray(_array(network, images.pixels(ImageOps.exif_transpose(image)), options))
        if profile := images.colour_profile(image):
            restored.info["icc_profile"] = profile
        return restored
    hint = "; for a file use restore_file" if isinstance(image, (str, Path)) else ""
    raise ValueError(f"cannot restore a {type(image).__name__}; give a tensor, an array or a PIL image{hint}.")


def restore_file(network: nn.Module, path: str | Path, out: str | Path | None = None, **options) -> Path:
    """Restore a picture file and write the result as PNG, never over an existing file.

    16 bits, transparency and the colour profile are kept (16-bit grey with transparency becomes 8-bit colour with it);
    the EXIF orientation is applied, other EXIF data (such as the place) are left out.

    Args:
        network: see `restore`.
        path: a PNG, JPEG, TIFF, WebP or BMP file.
        out: a new .png file, or an existing folder; None: beside the original. In a folder the name is
            NAME_restored.png, or NAME_restored_2.png and so on when that is taken; the same for a picture that has
            such a name already.
        options: see `restore`.

    Returns:
        The file that was written.

    Raises:
        ValueError: the file cannot be read or `out` cannot be used.
        OSError: it cannot be written.
    """
    path = Path(os.path.expanduser(path))
    picture = images.read_picture(path, upright=True)
    out = path.parent if out is None else Path(os.path.expanduser(out))
    if not out.is_dir():
        if out.exists():
            raise ValueError(f"{out} exists and is never overwritten; choose another name.")
        if out.suffix.lower() != ".png":
            raise ValueError(f"{out} is neither an existing folder nor a .png file; results are written as PNG.")
        if not out.parent.is_dir():
            raise ValueError(f"the folder {out.parent} does not exist; make it first, or choose another.")
    folder = out if out.is_dir() else out.parent
    if not os.access(folder, os.W_OK):
        raise ValueError(f"the folder {folder} may not be written to; choose another place with out.")
    restored = restore(network, picture.layers, **options)
    encoded = images.encode_png(images.Picture(restored, picture.profile))
    target = _new_file(path, out)
    try:
        files.write_file(target, encoded)
    except BaseException:  # Ctrl-C too
        target.unlink(missing_ok=True)  # the empty file that held its name
        raise
    return target


def _restored(network: nn.Module, lq: Tensor, options: dict) -> Tensor:
    """`tiles.run` on the picture with a mirrored margin, cut off again: what a network pads shows at no border."""
    down, across = (min(MARGIN, side - 1) for side in lq.shape[2:])
    wide = functional.pad(lq, (across, across, down, down), "reflect")
    tile, scale = tiles.checked(options["tile"]), tiles.scale_of(network)
    if max(lq.shape[2:]) <= tile:
        tile += tiles.ALIGN  # the margin alone cuts no picture
    inner = (slice(side * scale, -side * scale or None) for side in (down, across))
    return tiles.run(network, wide, **options | {"tile": tile})[(..., *inner)]


def _tensor(network: nn.Module, image: Tensor, options: dict) -> Tensor:
    shape = tuple(image.shape)
    if shape[:-2] not in ((3,), (1, 3)) or 0 in shape:
        raise ValueError(f"a tensor of shape {shape} is not one picture; accepted are (3,H,W) and (1,3,H,W).")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"a tensor of {image.dtype} is not accepted; use floating point in [0,1] or uint8.")
    values = image.detach().cpu().float().reshape(1, *shape[-3:])
    if image.dtype == torch.uint8:
        values = values / 255
    restored = _restored(network, _in_range(values), options)
    restored = restored.reshape(*shape[:-2], *restored.shape[-2:])
    if image.dtype == torch.uint8:
        return (restored * 255 + 0.5).to(torch.uint8).to(image.device)
    return restored.to(image.device, image.dtype)


def _array(network: nn.Module, image: np.ndarray, options: dict) -> np.ndarray:
    """(H,W) or (H,W,1..4): grey, grey and alpha, RGB, RGBA."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)) or 0 in image.shape:
        raise ValueError(f"an array of shape {image.shape} is not a picture; accepted are (H,W) and (H,W,3 or 4).")
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
        raise ValueError(f"an array of {image.dtype} is not accepted; use uint8, uint16 or floats in [0,1].")
    top = 1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max
    layers = torch.from_numpy(np.array(np.atleast_3d(image), np.float32)).permute(2, 0, 1)[None].div_(top)
    layers = _in_range(layers)
    colours = layers.shape[1] - (layers.shape[1] in (2, 4))
    restored = _restored(network, layers[:, :colours].expand(1, 3, -1, -1), options)
    parts = [restored if colours == 3 else restored.mean(1, keepdim=True)]
    if colours < layers.shape[1]:
        parts.append(functional.interpolate(layers[:, colours:], restored.shape[2:], mode="bilinear"))
    values = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    if top != 1:
        values = values.mul_(top).add_(0.5)  # in place: a large picture takes its memory only once
    array = values[0].permute(1, 2, 0).numpy().astype(image.dtype)
    return array.reshape(*array.shape[:2], *image.shape[2:])


def _in_range(values: Tensor) -> Tensor:
    """The values without what rounding left outside [0, 1]. Raises: ValueError for values beyond that."""
    check_finite(values)
    low, high = float(values.min()), float(values.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"the picture's values run from {low:g} to {high:g}; floating point must be in [0, 1].")
    return values if low >= 0 and high <= 1 else values.clamp(0, 1)


def _new_file(original: Path, out: Path) -> Path:
    """Create an empty file under a name that was free; ValueError if it cannot be made there."""
    stem = re.sub(r"_restored(_\d+)?$", "", original.stem) + "_restored"
    names = (f"{stem}.png" if number == 1 else f"{stem}_{number}.png" for number in itertools.count(1))
    for target in (out / name for name in names) if out.is_dir() else [out]:
        try:
            target.touch(exist_ok=False)
            return target
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"cannot write {target} ({error.strerror}); choose another place with out.") from error
    raise ValueError(f"{out} exists and is never overwritten; choose another name.")
