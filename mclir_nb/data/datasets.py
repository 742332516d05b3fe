"""Data sets by name: which pictures belong to a split.

The way up from the file: `images` decodes, `layouts` finds and pairs, `published` knows the public sets, `image_set`
and `cache` keep what was decoded, `patches` cuts it into batches; `checks` says whether a run can use it.
"""

from __future__ import annotations

import math
import mimetypes
import os
import shlex
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd

from mclir_nb import check_choice, root
from mclir_nb.data import cache, published
from mclir_nb.data.image_set import MEMORY, ImageSet
from mclir_nb.data.images import SUFFIXES
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
    offered = () if dataset in ("embedded", "folder") else published.get(dataset).tasks
    return task if task in offered or not offered else offered[0]


def open_set(
    dataset: str, task: Task, split: str, data_root: str | Path | None = None, trained_on: str | Path | None = None
) -> ImageSet:
    """The pictures of one split of a data set, paired by the rule of those who published it.

    "train" and "test" are the published ones. "val" is held out of "train", never taken from "test": the scenes last by
    name, a tenth of them and at most 20, thinned to 40 pictures. A plain folder of your own pictures is opened whole as
    "test"; `open_splits` shares it out. Training pictures that do not fit into memory (1 GiB) are decoded once into
    `cache.default_folder()`, unless they would take half of its free space.

    Args:
        dataset: "embedded" (the photographs in data/samples), "folder" (your own: clean pictures, or pairs with equal
            names in gt/ and lq/, below train/, val/ and test/, or all in one place), or a public set; `names()`.
        task: what the pictures are for. Files degraded for another task are not used.
        data_root: the folder that holds the set as its authors pack it, or one of the set's own outer folders: for
            SOTS/outdoor/hazy and clear/ the folder above SOTS, SOTS itself, or outdoor.
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
        return replace(embedded(split))  # a copy, for its note may grow; the decoded pictures are shared
    survey = Survey.of(dataset, task, data_root)
    seen = trained_on is not None and os.path.realpath(os.path.expanduser(trained_on)) == os.path.realpath(survey.place)
    return survey.open(split, alone=not seen)


def open_splits(dataset: str, task: Task, data_root: str | Path | None = None) -> dict[str, ImageSet]:
    """The pictures of "train", "val" and "test" as a training uses them: none is in two splits.

    A folder of your own without val/ or test/ is shared out: what `open_set` says of "val" holds for both. Arguments
    and errors are those of `open_set`; a clean file in two splits is refused as well.
    """
    if dataset == "embedded":
        return {split: open_set(dataset, task, split, data_root) for split in SPLITS}
    survey = Survey.of(dataset, task, data_root)
    survey.check_apart()
    return {split: survey.open(split) for split in SPLITS}


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
        """Raises: ValueError for another task, and with the expected tree if `data_root` names no folder."""
        layout = published.get(dataset)
        if not any(published.usable(part, layout, task) for split in SPLITS for part in layout.parts(split)):
            raise _other_task(dataset, layout, task)
        if data_root is None:
            raise ValueError(f"dataset {dataset!r} needs data_root, the folder that holds it. {tree(layout, task)}")
        place = Path(os.path.expanduser(data_root))
        try:
            os.scandir(place).close()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(f"data_root {printable(place)}: {reason}. {tree(layout, task)}") from error
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

    @property
    def check_command(self) -> str:
        """The command that checks all files for the same task."""
        scale = f" --scale {self.task.scale}" if self.task.scale != 1 else ""
        options = f"--task {shlex.quote(self.task.name)}{scale}"
        return f"python -m mclir_nb check-data {self.dataset} {shlex.quote(printable(self.place))} {options}"

    @cached_property
    def unread(self) -> list[Path]:
        """The pictures of a folder of your own that belong to no split."""
        if self.layout is not published.FOLDER:
            return []
        found = [part for split in SPLITS for part in self.parts(split) if part]
        used = {file for part in found for entry in part.entries for file in entry.files}
        used.update(file for part in found for file in (*part.unpaired, *part.twice))
        unread = []
        for folder, below, files in os.walk(os.path.abspath(self.place)):
            below[:] = [name for name in below if not name.startswith(".")]
            pictures = (name for name in files if (mimetypes.guess_type(name)[0] or "").startswith("image/"))
            unread += [Path(folder, name) for name in pictures if not name.startswith(".")]
        return sorted(file for file in unread if file not in used)

    def check_apart(self) -> None:
        """Raises: ValueError for a clean file in two splits, as where a folder without train/ is called test."""
        first: dict[Path, str] = {}
        for split in SPLITS:
            clean = dict.fromkeys(entry.gt for part in self.parts(split) if part for entry in part.entries)
            both = [file for file in clean if first.setdefault(file, split) != split]
            if both:
                raise ValueError(
                    f"{len(both)} pictures in {printable(self.place)} are in {first[both[0]]} and in {split}, such "
                    f"as {printable(both[0])}: a folder called {split} holds that split alone. Name the folder above "
                    f"it, with train/ beside {split}/; or call it otherwise, and its pictures are shared out."
                )

    def open(self, split: str, alone: bool = False) -> ImageSet:
        """One split; `alone`: not shared out beside the others, so that a plain folder is all for testing."""
        source = "train" if split in self.held_out else split
        usable = [published.usable(part, self.layout, self.task) for part in self.layout.parts(source)]
        if not usable:
            raise ValueError(f"{self.dataset} ({self.layout.title}) is for testing only; train on another set.")
        founds = [self._complete(source, *part) for part in zip(self.parts(source), usable, strict=True)]
        whole = alone and split == "test" and all(found.top == Path(os.path.abspath(self.place)) for found in founds)
        images = ImageSet(self.dataset, [])
        notes = []
        for found in founds:
            mine = found.entries if source != "train" or whole else self._share(found, split)
            notes += self._counts(found, split, len(mine))
            if len(founds) > 1:
                mine = [entry._replace(name=f"{found.top.name}/{entry.name}") for entry in mine]
            images.entries += mine * (found.packing.repeat if split == "train" else 1)
        self._check_usable(images.entries)
        if self.unread and (alone or split == "train"):
            some = f"{len(self.unread)} of the pictures below it"
            notes.append(f"{some} belong to no split and are not read, such as {printable(self.unread[0])}.")
        if split == "train":
            images.cache, why_not = cache.choose(images.files(), MEMORY)
            notes += [why_not] if why_not else []
        images.note = " ".join(notes)
        return images

    def _complete(self, split: str, found: Found | None, usable: Part) -> Found:
        """A part of a split. Raises: ValueError if it is missing, for another task, or broken."""
        dataset, layout, place = self.dataset, self.layout, printable(self.place)
        if not usable:
            raise _other_task(dataset, layout, self.task)
        if found is None:
            lmdb = any(True for depth in ("*", "*/*", "*/*/*") for _ in self.place.glob(depth + ".lmdb"))
            said = " LMDB folders are there, but they are not read." if lmdb else ""
            expected = tree(layout, self.task, split)
            raise ValueError(f"no {split} files of {dataset} found below {place}.{said}\n{expected}")
        for files, what, repair in (
            (found.unpaired, "no partner of the same name", "add or remove them"),
            (found.twice, "the same name as another file", "keep one of each"),
        ):
            if files:
                shown = ", ".join(printable(file.relative_to(found.top).as_posix()) for file in files[:5])
                some = f"{len(files)} of {len(found.entries) + len(files)} files of {dataset}"
                raise ValueError(
                    f"{some} in {printable(found.top)} have {what}: "
                    f"{shown}{' ...' if len(files) > 5 else ''}; {repair}. "
                    f"`{self.check_command}` lists them all."
                )
        return found

    def _share(self, found: Found, split: str) -> list[Entry]:
        """What a split gets of the training pictures."""
        held = self.held_out
        if split not in held:
            return hold_out(found.entries, len(held))[0]
        mine = hold_out(found.entries, len(held))[1 + held.index(split)]
        return mine[:: math.ceil(len(mine) / LARGEST_VAL) or 1] if split == "val" else mine

    def _counts(self, found: Found, split: str, mine: int) -> list[str]:
        """Sentences that say where a part is, how much of it a split has, and what is missing."""
        total, counts, some, why = len(found.entries), found.packing.counts, "", ""
        if mine < total:
            some = f"{mine:,} of the "
            why = " (held out of training)"
            if split == "train":
                why = f" (others are held out for {' and '.join(self.held_out)})"
        notes = [f"{self.dataset} {split}: {some}{found.counted(total)} in {printable(found.top)}{why}."]
        if total < min(counts, default=0):
            notes.append(f"Only {total:,} of {found.counted(min(counts))} published are there.")
        return notes

    def _check_usable(self, entries: list[Entry]) -> None:
        if not entries:
            where = printable(self.place)
            raise ValueError(f"{self.dataset} in {where} holds too few pictures: validation is held out of training.")
        bare = next((entry for entry in entries if entry.lq is None and entry.noise is None), None)
        if bare is not None and self.task.needs_depth:
            raise ValueError(
                f"{printable(bare.gt)} is a clean picture, and {self.task.name} needs a depth layer to make lq; "
                "use pairs (for dataset 'folder': in gt/ and lq/), or dataset 'embedded'."
            )


def _other_task(dataset: str, layout: Layout, task: Task) -> ValueError:
    return ValueError(
        f"{dataset} ({layout.title}) holds pairs for {' and '.join(layout.tasks)}, not for {task.name}; "
        f"use task {layout.tasks[0]} or another dataset."
    )


def tree(layout: Layout, task: Task, split: str | None = None) -> str:
    """Which files are expected, and where their authors publish them."""
    kinds = ", ".join(SUFFIXES) if layout is published.FOLDER else "any extension"
    lines = [f"Expected of {layout.title}, below data_root (one line of each group; [...] may be missing; {kinds}):"]
    for which in (split,) if split else SPLITS:
        for part in layout.parts(which):
            lines += [f"  {which}:  {packing.tree(task.scale)}" for packing in published.usable(part, layout, task)]
    return "\n".join([*lines, f"Published by its authors at {layout.where} ; nothing is downloaded."])


def hold_out(entries: list[Entry], shares: int = 1) -> list[list[Entry]]:
    """The entries cut into [what remains, share 1, share 2 ...] by whole scenes.

    A share is a tenth of the scenes, at least 1 and at most 20, taken from the end in natural order of their names, so
    that neighbouring frames of a film stay together. Empty lists where there are too few scenes.
    """
    scenes = list(dict.fromkeys(entry.scene for entry in entries))
    size = min(LARGEST_SHARE, max(1, len(scenes) // 10))
    cuts = [max(0, len(scenes) - size * i) for i in range(shares + 1)]  # from the end
    share_of = {scene: i + 1 for i in range(shares) for scene in scenes[cuts[i + 1] : cuts[i]]}
    parts: list[list[Entry]] = [[] for _ in range(shares + 1)]
    for entry in entries:
        parts[share_of.get(entry.scene, 0)].append(entry)
    return parts
