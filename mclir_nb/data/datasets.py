"""Data sets by name: which pictures belong to a split.

The way up from the file: `images` decodes, `layouts` finds and pairs, `published` knows the public sets, `image_set`
and `cache` keep what was decoded, `patches` cuts it into batches; `checks` says whether a run can use it.
"""

from __future__ import annotations

import math
import mimetypes
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd

from mclir_nb import check_choice, root
from mclir_nb.data import published
from mclir_nb.data.cache import Cache, default_folder, predicted_bytes
from mclir_nb.data.image_set import MEMORY, ImageSet
from mclir_nb.data.layouts import Entry, Found, find
from mclir_nb.data.published import Layout, Part
from mclir_nb.data.tasks import Task
from mclir_nb.files import printable

SPLITS = ("train", "val", "test")
LARGEST_SHARE = 20  # scenes that are held out at most
LARGEST_VAL = 40  # pictures of a held-out validation set, evenly spread over it: validation must stay cheap


def names() -> list[str]:
    """The data sets `open_set` accepts."""
    return ["embedded", *published.LAYOUTS]


def fitting_task(dataset: str, task: str) -> str:
    """`task` if the data set has files for it, else the first task that its files are published for."""
    offered = () if dataset == "embedded" else published.get(dataset).tasks
    return task if task in offered or not offered else offered[0]


def open_set(
    dataset: str,
    task: Task,
    split: str,
    data_root: str | Path | None = None,
    cache: str | Path | None = None,
    trained_on: str | Path | None = None,
) -> ImageSet:
    """The pictures of one split of a data set, paired by the rule of those who published it.

    "train" and "test" are the published ones. "val" is held out of "train", never taken from "test": the scenes last by
    name, a tenth of them and at most 20, thinned to 40 pictures. A plain folder of your own pictures is opened whole as
    "test"; `open_splits` shares it out.

    Args:
        dataset: "embedded" (the photographs in data/samples), "folder" (your own: clean pictures, or pairs with equal
            names in gt/ and lq/, below train/, val/ and test/, or all in one place), or a public set; `names()`.
        task: what the pictures are for. Files degraded for another task are not used.
        data_root: the folder that holds the set as its authors pack it, or a folder on the way down to its pictures.
        cache: a folder to keep decoded pictures in, or "off". None: training pictures that do not fit into memory (1
            GiB) are kept in `cache.default_folder()`, unless they would take half of its free space.
        trained_on: the folder of your own pictures that the network to be tested has learnt from. If it is this one,
            "test" is only what was held out then.

    Returns:
        The pictures; `note` says where they are and what is missing.

    Raises:
        ValueError: saying what was found, what is expected and where it is published. Nothing is downloaded.
    """
    check_choice("split", split, SPLITS)
    if dataset == "embedded":
        if data_root is not None:
            where = printable(data_root)
            raise ValueError(f"data_root {where} would not be looked at: dataset 'embedded' is here; choose 'folder'.")
        return embedded(split)
    survey = Survey.of(dataset, task, data_root)
    seen = trained_on is not None and os.path.realpath(trained_on) == os.path.realpath(survey.place)
    return survey.open(split, cache, alone=not seen)


def open_splits(
    dataset: str, task: Task, data_root: str | Path | None = None, cache: str | Path | None = None
) -> dict[str, ImageSet]:
    """The pictures of "train", "val" and "test" as a training uses them: none is in two splits.

    A folder of your own without val/ or test/ is shared out: what `open_set` says of "val" holds for both. Arguments
    and errors are those of `open_set`.
    """
    if dataset == "embedded":
        return {split: open_set(dataset, task, split, data_root) for split in SPLITS}
    survey = Survey.of(dataset, task, data_root)
    return {split: survey.open(split, cache) for split in SPLITS}


@lru_cache(maxsize=8)
def embedded(split: str) -> ImageSet:
    """The photographs shipped in data/samples; the table there says where each comes from."""
    base = root() / "data" / "samples"
    table = pd.read_csv(base / "index.csv", dtype=str)
    rows = table[table.split == split].to_dict("records")
    return ImageSet("embedded", [Entry(r["name"], base / r["file"], None, base / r["depth_file"]) for r in rows])


@dataclass
class Survey:
    """What lies of one data set below one folder. Every split is looked for once, when it is first needed."""

    dataset: str
    layout: Layout
    place: Path
    task: Task
    _found: dict[str, list[Found | None]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, dataset: str, task: Task, data_root: str | Path | None) -> Survey:
        """Raises: ValueError with the expected tree if `data_root` names no folder."""
        layout = published.get(dataset)
        if data_root is None:
            raise ValueError(f"dataset {dataset!r} needs data_root, the folder that holds it. {tree(layout, task)}")
        place = Path(data_root).expanduser()
        try:
            with os.scandir(place):
                pass
        except OSError as error:
            what = "is not a folder" if isinstance(error, NotADirectoryError) else f"cannot be read ({error.strerror})"
            what = "does not exist" if isinstance(error, FileNotFoundError) else what
            raise ValueError(f"data_root {printable(place)} {what}. {tree(layout, task)}") from error
        return cls(dataset, layout, place, task)

    def parts(self, split: str) -> list[Found | None]:
        """What is there of every part of a split, None where one is missing; files for other tasks left aside."""
        if split not in self._found:
            usable = (published.usable(part, self.layout, self.task) for part in self.layout.parts(split))
            self._found[split] = [find(part, self.place, self.task.scale) for part in usable]
        return self._found[split]

    @property
    def held_out(self) -> list[str]:
        """The splits that are cut from the training pictures because there are no files of their own."""
        possible = ("val", "test") if self.layout is published.FOLDER else ("val",)
        return [split for split in possible if self.layout.train and not any(self.parts(split))]

    @cached_property
    def unread(self) -> list[Path]:
        """The pictures of a folder of your own that belong to no split."""
        if self.layout is not published.FOLDER:
            return []
        found = [part for split in SPLITS for part in self.parts(split) if part]
        used = {file for part in found for entry in part.entries for file in entry.files}
        used.update(file for part in found for file in (*part.lq_alone, *part.gt_alone, *part.twice))
        unread = []
        for folder, below, names in os.walk(os.path.abspath(self.place)):
            below[:] = [name for name in below if not name.startswith(".")]
            pictures = (name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/"))
            unread += [Path(folder, name) for name in pictures if not name.startswith(".")]
        return sorted(file for file in unread if file not in used)

    def open(self, split: str, cache: str | Path | None = None, alone: bool = False) -> ImageSet:
        """One split; `alone`: not shared out beside the others, so that a plain folder is all for testing."""
        entries, notes = _entries(self, split, alone)
        if not entries:
            where = printable(self.place)
            raise ValueError(f"{self.dataset} in {where} holds too few pictures: validation is held out of training.")
        bare = next((entry for entry in entries if entry.lq is None and entry.noise is None), None)
        if bare is not None and self.task.needs_depth:
            raise ValueError(
                f"{printable(bare.gt)} is a clean picture, and {self.task.name} needs a depth layer to make lq; "
                "use pairs (for dataset 'folder': in gt/ and lq/), or dataset 'embedded'."
            )
        if self.unread and (alone or split == "train"):
            some = f"{len(self.unread)} of the pictures below it"
            notes.append(f"{some} belong to no split and are not read, such as {printable(self.unread[0])}.")
        images = ImageSet(self.dataset, entries)
        if cache not in (None, "off"):
            images.cache = Cache(cache)
        elif cache is None and split == "train":
            notes += _choose_cache(images)
        images.note = " ".join(notes)
        return images


def tree(layout: Layout, task: Task, split: str | None = None) -> str:
    """Which files are expected, and where their authors publish them."""
    lines = [f"Expected of {layout.title}, below data_root (one line of each group; any extension):"]
    for which in (split,) if split else SPLITS:
        for part in layout.parts(which):
            lines += [f"  {which}:  {packing.tree()}" for packing in published.usable(part, layout, task)]
    return "\n".join([*lines, f"Published by its authors at {layout.where} ; nothing is downloaded."])


def _entries(survey: Survey, split: str, alone: bool) -> tuple[list[Entry], list[str]]:
    """The entries of a split, and sentences that say where they are and what is missing."""
    held = survey.held_out
    source = "train" if split in held else split
    if not survey.layout.parts(source):
        raise ValueError(f"{survey.dataset} ({survey.layout.title}) is for testing only; train on another set.")
    founds = [
        _complete(survey, source, found, published.usable(part, survey.layout, survey.task))
        for found, part in zip(survey.parts(source), survey.layout.parts(source), strict=True)
    ]
    whole = alone and split == "test" and all(found.top == Path(os.path.abspath(survey.place)) for found in founds)
    entries, notes = [], []
    for found in founds:
        mine = found.entries
        if source == "train" and not whole:
            shares = hold_out(found, len(held))
            mine = shares[1 + held.index(split) if split in held else 0]
        if split == "val" and split in held:
            mine = mine[:: math.ceil(len(mine) / LARGEST_VAL) or 1]
        total, published_count, some, why = len(found.entries), min(found.packing.counts, default=0), "", ""
        if len(mine) < total:
            some = f"{len(mine):,} of the "
            why = f" (others are held out for {' and '.join(held)})" if split == "train" else " (held out of training)"
        notes.append(f"{survey.dataset} {split}: {some}{found.counted(total)} in {printable(found.top)}{why}.")
        if total < published_count:
            notes.append(f"Only {total:,} of {found.counted(published_count)} published are there.")
        if len(founds) > 1:
            mine = [entry._replace(name=f"{found.top.name}/{entry.name}") for entry in mine]
        entries += mine * (found.packing.repeat if split == "train" else 1)
    return entries, notes


def hold_out(found: Found, shares: int = 1) -> list[list[Entry]]:
    """The entries cut into [what remains, share 1, share 2 ...] by whole scenes.

    A share is a tenth of the scenes, at least 1 and at most 20, taken from the end in natural order of their names, so
    that neighbouring frames of a film stay together. Empty lists where there are too few scenes.
    """
    scenes = list(dict.fromkeys(found.scenes))
    size = min(LARGEST_SHARE, max(1, len(scenes) // 10))
    cuts = [max(0, len(scenes) - size * i) for i in range(shares + 1)]  # from the end
    share_of = {scene: i + 1 for i in range(shares) for scene in scenes[cuts[i + 1] : cuts[i]]}
    parts: list[list[Entry]] = [[] for _ in range(shares + 1)]
    for entry, scene in zip(found.entries, found.scenes, strict=True):
        parts[share_of.get(scene, 0)].append(entry)
    return parts


def _complete(survey: Survey, split: str, found: Found | None, usable: Part) -> Found:
    """A part of a split. Raises: ValueError if it is missing, for another task, or broken."""
    dataset, layout, place = survey.dataset, survey.layout, printable(survey.place)
    if not usable:
        raise ValueError(
            f"{dataset} ({layout.title}) holds pairs for {' and '.join(layout.tasks)}, not for {survey.task.name}; "
            f"use task {layout.tasks[0]} or another dataset."
        )
    if found is None:
        lmdb = any(True for depth in ("*", "*/*", "*/*/*") for _ in survey.place.glob(depth + ".lmdb"))
        said = " LMDB folders are there, but they are not read." if lmdb else ""
        raise ValueError(
            f"no {split} files of {dataset} found below {place}.{said}\n{tree(layout, survey.task, split)}"
        )
    for files, what in ((found.unpaired, "no partner of the same name"), (found.twice, "a partner taken already")):
        if files:
            shown = ", ".join(printable(file.relative_to(found.top).as_posix()) for file in files[:5])
            raise ValueError(
                f"{len(files)} files of {dataset} in {printable(found.top)} have {what}: "
                f"{shown}{' ...' if len(files) > 5 else ''}; add or remove them. "
                f"`python -m mclir_nb check-data {dataset} {place}` lists them all."
            )
    return found


def _choose_cache(images: ImageSet) -> list[str]:
    """Keep a large set decoded on disk, if there is ample room; else say why not."""
    folder, need = default_folder(), predicted_bytes(images.files())
    if folder is None or need <= MEMORY:
        return []
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if need < free / 2:
        images.cache = Cache(folder)
        return []
    return [
        f"Decoded, {images.name} takes {need / 1e9:.0f} GB, and {folder} has {free / 1e9:.0f} GB free: every picture "
        "is decoded each time it is used. Set MCLIR_NB_CACHE to a folder with room, or to off."
    ]
