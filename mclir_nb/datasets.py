"""Pictures on disk, and the patches cut from them.

Every random choice is drawn from a generator that is a pure function of (seed, purpose, step, index): `stream`.
Nothing depends on how many workers load, on what was drawn before, or on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mclir_nb import root
from mclir_nb.tasks import Task, to_uint8

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def stream(seed: int, *key) -> torch.Generator:
    """A CPU generator for one purpose: equal (seed, key) give equal numbers, other keys unrelated ones."""
    digest = hashlib.sha256(repr((int(seed), *key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Entry:
    """Where one picture's files are; `lq` is None when the task makes it, `depth` is None when there is no layer."""

    name: str
    gt: Path
    lq: Path | None = None
    depth: Path | None = None


@dataclass(frozen=True)
class Sample:
    """One decoded picture: gt (3,H,W) uint8, lq (3,H/scale,W/scale) uint8 or None, depth (H,W) in [0,1] or None."""

    name: str
    gt: Tensor
    lq: Tensor | None = None
    depth: Tensor | None = None


@dataclass
class ImageSet:
    """A named list of pictures, decoded once and kept in memory up to `keep` pictures."""

    name: str
    entries: list[Entry]
    keep: int = 512
    _decoded: dict[int, Sample] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._decoded:
            if len(self._decoded) >= self.keep:
                self._decoded.pop(next(iter(self._decoded)))
            self._decoded[index] = load(self.entries[index])
        return self._decoded[index]

    @property
    def paired(self) -> bool:
        """Whether lq comes from files."""
        return self.entries[0].lq is not None


def read_image(path: Path) -> Tensor:
    """An 8-bit RGB picture as (3,H,W) uint8. Raises ValueError naming the file if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            array = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}); replace or remove this file."
        ) from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def read_depth(path: Path) -> Tensor:
    """A depth layer stored as an 8- or 16-bit grey PNG, as (H,W) float32 in [0,1] (0 near, 1 far)."""
    with Image.open(path) as image:
        array = np.array(image)
    return torch.from_numpy(array.astype(np.float32) / (65535 if array.dtype.itemsize > 1 else 255))


def load(entry: Entry) -> Sample:
    """Decode one entry. Raises: ValueError naming the file and what is wrong."""
    gt = read_image(entry.gt)
    lq = None if entry.lq is None else read_image(entry.lq)
    depth = None if entry.depth is None else read_depth(entry.depth)
    if depth is not None and depth.shape != gt.shape[1:]:
        raise ValueError(
            f"{entry.depth} has size {tuple(depth.shape)} but its picture {tuple(gt.shape[1:])}."
        )
    return Sample(entry.name, gt, lq, depth)


# ---------------------------------------------------------------------------------------------- which pictures


def open_set(dataset: str, task: Task, split: str, data_root: str | Path | None = None) -> ImageSet:
    """The pictures of one split of a data set.

    Args:
        dataset: "embedded" (the photographs in data/samples, all tasks) or "folder".
        task: decides whether a depth layer is needed.
        split: "train", "val" or "test".
        data_root: for "folder": a folder with `train/`, and if there are any `val/` and `test/`; each holds either
            `gt/` and `lq/` with equal file names, or clean pictures that the task degrades.
    Raises: ValueError saying what was found and what is expected.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"unknown split {split!r}; the splits are train, val, test.")
    if dataset == "embedded":
        return embedded(split)
    if dataset == "folder":
        return folder(data_root, task, split)
    raise ValueError(f"unknown dataset {dataset!r}; the datasets are: {', '.join(names())}.")


def names() -> list[str]:
    """The data sets `open_set` accepts."""
    return ["embedded", "folder"]


@lru_cache(maxsize=8)
def embedded(split: str) -> ImageSet:
    """The photographs shipped in data/samples; the table there says where each comes from."""
    base = root() / "data" / "samples"
    table = pd.read_csv(base / "index.csv")
    table = table[table.split == split]
    return ImageSet(
        "embedded", [Entry(r.name_, base / r.file, None, base / r.depth_file) for r in _rows(table)]
    )


def _rows(table: pd.DataFrame):
    return table.rename(columns={"name": "name_"}).itertuples(index=False)


def pictures(place: Path) -> list[Path]:
    """The picture files directly in a folder, by name."""
    return sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


TREE = """expected:
  {root}/train/gt/*.png   {root}/train/lq/*.png     (pairs with equal names), or
  {root}/train/*.png                                (clean pictures, degraded by the task)
  {root}/val/ and {root}/test/ likewise"""


def folder(data_root: str | Path | None, task: Task, split: str) -> ImageSet:
    """Pictures below somebody's own folder; see `open_set` for the layout."""
    if data_root is None:
        raise ValueError(
            "dataset 'folder' needs data_root, the folder that holds train/; " + TREE.format(root="ROOT")
        )
    base = Path(data_root).expanduser()
    place = base / split
    if not place.is_dir():
        found = f"{base} does not exist" if not base.is_dir() else f"{base} has no folder {split}/"
        raise ValueError(f"{found}; {TREE.format(root=base)}")
    entries = _pairs(place) if (place / "gt").is_dir() or (place / "lq").is_dir() else _clean(place, task)
    if not entries:
        raise ValueError(f"{place} holds no pictures ({', '.join(SUFFIXES)}); {TREE.format(root=base)}")
    return ImageSet(base.name, entries)


def _clean(place: Path, task: Task) -> list[Entry]:
    entries = [Entry(p.stem, p) for p in pictures(place)]
    if entries and task.needs_depth:
        raise ValueError(
            f"{place} holds clean pictures only, but {task.name} needs a depth layer to make lq; "
            f"give pairs in {place / 'gt'} and {place / 'lq'} instead."
        )
    return entries


def _pairs(place: Path) -> list[Entry]:
    for side in ("gt", "lq"):
        if not (place / side).is_dir():
            raise ValueError(f"{place} has only one of the folders gt/ and lq/; {side}/ is missing.")
    gt, lq = ({p.stem: p for p in pictures(place / side)} for side in ("gt", "lq"))
    alone = sorted(set(gt) ^ set(lq))
    if alone:
        raise ValueError(
            f"{len(alone)} pictures in {place} have no partner of the same name in gt/ and lq/: "
            f"{', '.join(alone[:5])}{' ...' if len(alone) > 5 else ''}; add or remove them."
        )
    return [Entry(name, gt[name], lq[name]) for name in sorted(gt)]


def check(images: ImageSet, task: Task, patch_size: int, first: int = 8) -> None:
    """Decode the first pictures of a set and refuse what training could not use.

    Raises: ValueError for unreadable files, lq equal to gt, sizes that do not fit, and pictures smaller than the patch.
    """
    for index in range(min(first, len(images))):
        sample = images[index]
        height, width = sample.gt.shape[1:]
        if min(height, width) < patch_size:
            raise ValueError(
                f"{sample.name} of {images.name} is {width}x{height}, smaller than the patch of {patch_size}; "
                f"use patch_size {min(height, width) // 8 * 8} or less, or remove the picture."
            )
        if sample.lq is None:
            if task.needs_depth and sample.depth is None:
                raise ValueError(
                    f"{sample.name} of {images.name} has no depth layer, which {task.name} needs."
                )
            continue
        wanted = (height // task.scale, width // task.scale)
        if tuple(sample.lq.shape[1:]) != wanted:
            raise ValueError(
                f"{sample.name} of {images.name}: lq is {sample.lq.shape[2]}x{sample.lq.shape[1]}, "
                f"gt {width}x{height}; "
                f"for scale {task.scale} lq must be {wanted[1]}x{wanted[0]}."
            )
        if torch.equal(sample.lq, sample.gt):
            raise ValueError(
                f"{sample.name} of {images.name} is the same picture as lq and gt; training would learn to copy. "
                "Check that data_root does not name one folder twice."
            )


# --------------------------------------------------------------------------------------------------- patches


def patch(sample: Sample, task: Task, patch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One random patch: position, one of the eight flips and rotations, and a fresh degradation.

    Returns: gt (3,P,P) and lq (3,P/scale,P/scale), float32 in [0,1], lq on the 8-bit grid as a file would be.
    """
    scale, margin = task.scale, 0 if sample.lq is not None else task.margin
    height, width = sample.gt.shape[1:]
    top, left = (_below((side - patch_size) // scale + 1, generator) * scale for side in (height, width))
    turns, flip = _below(4, generator), _below(2, generator)
    rows, row_trim = _window(top, patch_size, margin, height)
    columns, column_trim = _window(left, patch_size, margin, width)
    gt = sample.gt[:, rows, columns].float() / 255
    if sample.lq is not None:
        lq = sample.lq[:, _shrink(rows, scale), _shrink(columns, scale)].float() / 255
        return _orient(gt, turns, flip), _orient(lq, turns, flip)
    depth = None if sample.depth is None else sample.depth[rows, columns]
    lq = to_uint8(task.degrade(gt, depth, generator)).float() / 255
    gt = gt[:, row_trim, column_trim]
    lq = lq[:, _shrink(row_trim, scale), _shrink(column_trim, scale)]
    return _orient(gt, turns, flip), _orient(lq, turns, flip)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _window(start: int, size: int, margin: int, side: int) -> tuple[slice, slice]:
    """The slice to read, margin included where the picture has it, and the slice that trims the margin again."""
    first, last = max(0, start - margin), min(side, start + size + margin)
    return slice(first, last), slice(start - first, start - first + size)


def _shrink(window: slice, scale: int) -> slice:
    return slice(window.start // scale, window.stop // scale)


def _orient(image: Tensor, turns: int, flip: int) -> Tensor:
    image = torch.rot90(image, turns, (1, 2))
    return image.flip(2) if flip else image


class Patches(torch.utils.data.Dataset):
    """All patches of a run by number: patch `n` belongs to step n // batch_size + 1."""

    def __init__(self, images: ImageSet, task: Task, patch_size: int, batch_size: int, seed: int):
        self.images, self.task, self.patch_size = images, task, patch_size
        self.batch_size, self.seed = batch_size, seed

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, str]:
        sample = self.images[self.picture(number)]
        gt, lq = patch(sample, self.task, self.patch_size, stream(self.seed, "patch", number))
        return gt, lq, sample.name

    def picture(self, number: int) -> int:
        """Which picture patch `number` is cut from: a new random order for every pass over the set."""
        turn, place = divmod(number, len(self.images))
        return _order(len(self.images), self.seed, turn)[place]

    def batches(
        self, first_step: int, last_step: int, workers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        """Batches (gt, lq, names) of the steps first_step..last_step (counted from 1)."""
        size = self.batch_size
        numbers = [range((step - 1) * size, step * size) for step in range(first_step, last_step + 1)]
        own = torch.Generator()  # otherwise the loader draws from the global generator
        return iter(
            torch.utils.data.DataLoader(self, batch_sampler=numbers, num_workers=workers, generator=own)
        )


@lru_cache(maxsize=4)
def _order(count: int, seed: int, turn: int) -> list[int]:
    return torch.randperm(count, generator=stream(seed, "order", turn)).tolist()


def benchmark(images: ImageSet, task: Task, side: int | None = None) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Whole pictures for scoring: (name, gt (3,H,W), lq), float32 in [0,1].

    The degradation of a picture depends on its name alone, so every network and seed sees the same inputs. Sizes are
    cut to a multiple of the scale; `side` cuts the centre square of that many pixels.
    """
    for index in range(len(images)):
        sample = images[index]
        gt, depth = sample.gt.float() / 255, sample.depth
        if sample.lq is not None:
            yield sample.name, gt, sample.lq.float() / 255
            continue
        rows, columns = (_centre(length, side, task.scale) for length in gt.shape[1:])
        lq = task.degrade(*_cut(gt, depth, rows, columns), stream(0, "benchmark", task.name, sample.name))
        yield sample.name, gt[:, rows, columns], to_uint8(lq).float() / 255


def _cut(gt, depth, rows, columns):
    return gt[:, rows, columns], None if depth is None else depth[rows, columns]


def _centre(length: int, side: int | None, scale: int) -> slice:
    size = (length if side is None else min(side, length)) // scale * scale
    start = math.floor((length - size) / 2 / scale) * scale
    return slice(start, start + size)
