"""Data sets by name: which pictures belong to a split, and whether training can use them.

The way up from the file: `images` decodes, `layouts` finds and pairs, `published` knows the public sets, `samples` and
`cache` keep what was decoded, `patches` cuts it into batches.
"""

from __future__ import annotations

import math
import os
import shutil
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch

from mclir_nb import root
from mclir_nb.data import published
from mclir_nb.data.cache import Cache, default_folder, predicted_bytes
from mclir_nb.data.layouts import Entry, Found, hold_out
from mclir_nb.data.published import Layout, Part
from mclir_nb.data.samples import MEMORY, ImageSet, Sample, shape
from mclir_nb.data.tasks import Task

SPLITS = ("train", "val", "test")
SMALLEST_PATCH = 16  # gt pixels, at scale 1
LARGEST_VAL = 40  # pictures of a held-out validation set, evenly spread over it: validation must stay cheap


def open_set(
    dataset: str, task: Task, split: str, data_root: str | Path | None = None, cache: str | Path | None = None
) -> ImageSet:
    """The pictures of one split of a data set, paired by the rule of those who published it.

    "train" and "test" are the published ones. "val" is held out of "train", never taken from "test": the
    scenes last by name, a tenth of them and at most 20, thinned to 40 pictures; see `layouts.hold_out`.

    Args:
        dataset: "embedded" (the photographs in data/samples), "folder" (your own: clean pictures, or pairs
            with equal names in gt/ and lq/, below train/, val/ and test/, or all in one place), or a public
            set; `names()`.
        task: what the pictures are for. Files degraded for another task are not used.
        split: "train", "val" or "test".
        data_root: the folder that holds the set as its authors pack it; or the set's own top folder.
        cache: a folder to keep decoded pictures in, or "off". None: training pictures that do not fit into
            memory (1 GiB) are kept in `cache.default_folder()`, unless they would take half of its free space.
    Raises: ValueError saying what was found, what is expected and where it is published. Nothing is
        downloaded.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}.")
    if dataset == "embedded":
        return embedded(split)
    layout = published.get(dataset)
    place = data_folder(dataset, layout, data_root, task)
    founds, entries = _entries(dataset, layout, split, place, task)
    if not entries:
        raise ValueError(f"{dataset} in {place} holds too few pictures: validation is held out of training.")
    bare = next((entry for entry in entries if entry.lq is None and entry.noise is None), None)
    if bare is not None and task.needs_depth:
        raise ValueError(
            f"{bare.gt} is a clean picture, and {task.name} needs a depth layer to make lq; "
            "use pairs (for dataset 'folder': in gt/ and lq/), or dataset 'embedded'."
        )
    images = ImageSet(dataset, entries, note=_shortfall(dataset, split, founds))
    if cache not in (None, "off"):
        images.cache = Cache(cache)
    elif cache is None and split == "train":
        _choose_cache(images)
    return images


def _choose_cache(images: ImageSet) -> None:
    """Keep a large set decoded on disk, if there is ample room; else say so in its note."""
    folder, need = default_folder(), predicted_bytes(images.files())
    if folder is None or need <= MEMORY:
        return
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if need < free / 2:
        images.cache = Cache(folder)
    else:
        images.note += (
            f" Decoded, {images.name} takes {need / 1e9:.0f} GB, and {folder} has {free / 1e9:.0f} GB free: every "
            "picture is decoded each time it is used. Set MCLIR_NB_CACHE to a folder with room, or to off."
        )
        images.note = images.note.strip()


def names() -> list[str]:
    """The data sets `open_set` accepts."""
    return ["embedded", *published.names()]


def fitting_task(dataset: str, task: str) -> str:
    """`task` if the data set has files for it, else the first task that its files are published for."""
    offered = () if dataset == "embedded" else published.get(dataset).tasks
    return task if task in offered or not offered else offered[0]


@lru_cache(maxsize=8)
def embedded(split: str) -> ImageSet:
    """The photographs shipped in data/samples; the table there says where each comes from."""
    base = root() / "data" / "samples"
    table = pd.read_csv(base / "index.csv")
    rows = table[table.split == split].rename(columns={"name": "name_"}).itertuples(index=False)
    return ImageSet("embedded", [Entry(r.name_, base / r.file, None, base / r.depth_file) for r in rows])


def data_folder(dataset: str, layout: Layout, data_root: str | Path | None, task: Task) -> Path:
    """The folder that `data_root` names. Raises: ValueError with the expected tree if there is none."""
    if data_root is None:
        raise ValueError(f"dataset {dataset!r} needs data_root, the folder that holds it. {tree(layout, task)}")
    place = Path(data_root).expanduser()
    try:
        with os.scandir(place):
            pass
    except OSError as error:
        what = "is not a folder" if isinstance(error, NotADirectoryError) else f"cannot be read ({error.strerror})"
        what = "does not exist" if isinstance(error, FileNotFoundError) else what
        raise ValueError(f"data_root {place} {what}. {tree(layout, task)}") from error
    return place


def tree(layout: Layout, task: Task, split: str | None = None) -> str:
    """Which files are expected, and where their authors publish them."""
    lines = [f"Expected of {layout.title}, below data_root (one line of each group; any extension):"]
    for which in (split,) if split else SPLITS:
        for part in layout.parts(which):
            lines += [f"  {which}:  {packing.tree()}" for packing in published.usable(part, layout, task)]
    return "\n".join([*lines, f"Published by its authors at {layout.where} ; nothing is downloaded."])


def _entries(dataset: str, layout: Layout, split: str, place: Path, task: Task) -> tuple[list[Found], list[Entry]]:
    """What was found for a split, and the entries that belong to it."""
    held = held_out(layout, place, task)
    source = "train" if split in held else split
    if not layout.parts(source):
        raise ValueError(f"{dataset} ({layout.title}) is for testing only; train on another set.")
    founds = [
        _whole(found, part, dataset, layout, source, place, task)
        for found, part in zip(published.survey(layout, source, place, task), layout.parts(source), strict=True)
    ]
    entries: list[Entry] = []
    for found in founds:
        shares = hold_out(found, len(held) if source == "train" else 0)
        mine = shares[1 + held.index(split) if split in held else 0]
        if split == "val" and split in held:
            mine = mine[:: math.ceil(len(mine) / LARGEST_VAL) or 1]
        if len(founds) > 1:
            mine = [entry._replace(name=f"{found.top.name}/{entry.name}") for entry in mine]
        entries += mine * (found.packing.repeat if split == "train" else 1)
    return founds, entries


def held_out(layout: Layout, place: Path, task: Task) -> list[str]:
    """The splits that are cut from the training pictures because there are no files of their own."""
    if not layout.train:
        return []
    return [
        split
        for split in ("val", "test")
        if (split == "val" or layout.val) and not any(published.survey(layout, split, place, task))
    ]


def _whole(found: Found | None, part: Part, dataset: str, layout: Layout, split: str, place: Path, task: Task) -> Found:
    """A part whose files are all there. Raises: ValueError if it is missing, for another task, or broken."""
    if not published.usable(part, layout, task):
        raise ValueError(
            f"{dataset} ({layout.title}) holds pairs for {' and '.join(layout.tasks)}, not for {task.name}; "
            f"use task {layout.tasks[0]} or another dataset."
        )
    if found is None:
        lmdb = " LMDB folders are there, but they are not read." if _lmdb(place) else ""
        raise ValueError(f"no {split} files of {dataset} found below {place}.{lmdb}\n{tree(layout, task, split)}")
    strays = found.lq_alone + ([] if found.packing.many_to_one else found.gt_alone)
    for files, what in ((strays, "no partner of the same name"), (found.twice, "a partner that is taken already")):
        if files:
            raise ValueError(
                f"{len(files)} of {found.files} files of {dataset} in {found.top} have {what}: "
                f"{_some(files, found)}; add or remove them. "
                f"`python -m mclir_nb check-data {dataset} {place}` lists them all."
            )
    return found


def _some(files: list[Path], found: Found) -> str:
    shown = ", ".join(file.relative_to(found.top).as_posix() for file in files[:5])
    return shown + (" ..." if len(files) > 5 else "")


def _lmdb(place: Path) -> bool:
    return any(True for depth in ("*", "*/*", "*/*/*") for _ in place.glob(depth + ".lmdb"))


def _shortfall(dataset: str, split: str, founds: list[Found]) -> str:
    """One sentence if a part has fewer pairs than published."""
    for found in founds:
        counts, there = found.packing.counts, len(found.entries)
        if counts and there < min(counts):
            return f"{dataset} {split}: {there} of {min(counts)} published pictures are in {found.top}."
    return ""


def check(images: ImageSet, task: Task, patch_size: int, first: int = 8) -> None:
    """Decode the first pictures of a set and refuse what training could not use.

    A picture smaller than the patch is passed over in training (as in FFA-Net), so it is refused only when
    none of those looked at is large enough.

    Raises: ValueError for unreadable files, lq equal to gt, sizes that do not fit, and pictures smaller than
        the patch.
    """
    looked_at = [images[index] for index in range(min(first, len(images)))]
    for sample in looked_at:
        _check_sample(sample, images.name, task)
    largest = max(looked_at, key=lambda sample: min(sample.gt.shape[1:]))
    side = min(largest.gt.shape[1:])
    if side < patch_size:
        remedy = f"use patch_size {side // 8 * 8} or less, or remove the picture"
        if side < SMALLEST_PATCH:
            remedy = f"no patch_size is that small; use pictures of at least {SMALLEST_PATCH} pixels a side"
        raise ValueError(
            f"{largest.name} of {images.name} is {shape(largest.gt)}, smaller than the patch of {patch_size}; {remedy}."
        )


def _check_sample(sample: Sample, name: str, task: Task) -> None:
    height, width = sample.gt.shape[1:]
    if sample.lq is None:
        if task.needs_depth and sample.depth is None and sample.noise is None:
            raise ValueError(f"{sample.name} of {name} has no depth layer, which {task.name} needs.")
        return
    wanted = (height // task.scale, width // task.scale)
    if tuple(sample.lq.shape[1:]) != wanted:
        raise ValueError(
            f"{sample.name} of {name}: lq is {shape(sample.lq)}, gt {shape(sample.gt)}; "
            f"for scale {task.scale} lq must be {wanted[1]}x{wanted[0]}."
        )
    if torch.equal(sample.lq, sample.gt):
        raise ValueError(
            f"{sample.name} of {name} is the same picture as lq and gt; training would learn to copy. "
            "Check that data_root does not name one folder twice."
        )
