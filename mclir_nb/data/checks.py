"""Is this download complete and usable? What was found of a data set, against what should be there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mclir_nb.data import datasets, overlaps, published, tasks
from mclir_nb.data.images import Picture, png, read_image
from mclir_nb.data.layouts import Entry, Found
from mclir_nb.data.loading import load_in_order, worker_count
from mclir_nb.data.patches import Patches
from mclir_nb.data.samples import FITS, shape
from mclir_nb.data.tasks import Task
from mclir_nb.progress import Progress

SHOWN = 20  # files named per kind of problem in the text; the lists of the report hold all
CHUNK = 16  # pictures read by one process in turn; neighbours often share their gt, which is then read once
FEW = 300  # pictures up to which starting worker processes is not worth while

REPAIR = {
    "missing": "download it and unpack it as shown",
    "incomplete": "unpack all parts of the download again",
    "unpaired": "files without a partner: unpack again what is missing, or remove them",
    "taken": "files whose partner has another one already: keep one of each name",
    "unreadable": "copy or download these files again, or remove the pair",
    "differently_sized": "lq and gt of other sizes: take both from one packing, or remove the pair",
    "lq_equals_gt": "a network would learn to copy: check that the two folders are not one and the same",
    "duplicate": "the same picture again: remove all but one",
    "shared": "clean pictures of training that are also in testing: remove them from training",
    "too_small": "smaller than the patch: training passes them over; use a smaller patch_size to include them",
}
HARMLESS = ("too_small",)  # worth knowing, but nothing is wrong


@dataclass
class Report:
    """What `check_data` found. Every list holds one readable line per file; `print(report)` shows it all.

    Attributes:
        counts: per part of a split, how many pairs there are and how many are published.
        problems: the lists by kind, in the order of `REPAIR`; also as attributes, such as `report.unpaired`.
        leaks: pictures known to be shared with other sets. notes: traps of this set.
    """

    name: str
    title: str
    root: Path
    counts: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in REPAIR})
    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __getattr__(self, kind: str) -> list[str]:
        if kind in REPAIR:
            return self.problems[kind]
        raise AttributeError(kind)

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be repaired."""
        return not any(lines for kind, lines in self.problems.items() if kind not in HARMLESS)

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.title}) in {self.root}", *(f"  {count}" for count in self.counts)]
        for kind, found in self.problems.items():
            if found:
                lines.append(f"{len(found)} {kind.replace('_', ' ')} ({REPAIR[kind]}):")
                lines += [f"  {line}" for line in found[:SHOWN]]
                lines += [f"  ... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines += [f"known leak: {leak}." for leak in self.leaks] + [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, "Everything is in order." if self.ok else "Some files need attention."])


def check_data(
    name: str,
    data_root: str | Path,
    task: str | Task | None = None,
    patch_size: int = 128,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> Report:
    """Read every file of a data set and report what training or scoring would stumble over.

    Args:
        name: a public set or "folder"; see `datasets.names`.
        data_root: as for `datasets.open_set`.
        task: what the files are for; None: what the set is published for ("denoise" for clean pictures).
        patch_size: gt pixels of a training patch; smaller training pictures are listed.
        workers: processes that read; None: several for many files.
        quiet: show no progress.
    Returns: the report, whatever is wrong with the files.
    Raises: ValueError if nothing of the set is there, with the tree that is expected.
    """
    if name == "embedded":
        raise ValueError("the embedded photographs need no check; their checksums are in data/samples/index.csv.")
    layout = published.get(name)
    if not isinstance(task, Task):
        task = tasks.get(task or (layout.tasks or ("denoise",))[0])
    root = datasets.data_folder(name, layout, data_root, task)
    report = Report(name, layout.title, root, leaks=tuple(overlaps.known_overlaps(name)), notes=layout.notes)
    founds = list(_founds(layout, root, task, report))
    if not founds:
        raise ValueError(f"nothing of {name} found below {root}.\n{datasets.tree(layout, task)}")
    seen: dict[bytes, tuple[str, str]] = {}
    for split, found in founds:
        _count(report, split, found)
        _inspect_all(report, split, found, patch_size if split == "train" else 0, seen, workers, quiet)
    return report


def _founds(layout: published.Layout, root: Path, task: Task, report: Report) -> Iterator[tuple[str, Found]]:
    """Every part that is there; what is not goes into the report."""
    for split in datasets.SPLITS:
        held_out = split in datasets.held_out(layout, root, task)
        for number, found in enumerate(published.survey(layout, split, root, task)):
            if found is not None:
                yield split, found
            elif not held_out:
                part = published.usable(layout.parts(split)[number], layout, task)
                trees = " or ".join(packing.tree() for packing in part[:2])
                report.missing.append(f"{split}: {trees}; published at {layout.where}")


def _count(report: Report, split: str, found: Found) -> None:
    packing, there = found.packing, len(found.entries)
    what = "pairs" if packing.paired else "pictures"
    wanted = " or ".join(f"{count:,}" for count in packing.counts)
    report.counts.append(f"{split}: {there:,} {what} in {found.top}" + (f", published {wanted}" if wanted else ""))
    if packing.counts and there < min(packing.counts):
        report.incomplete.append(f"{split}: {there:,} of {min(packing.counts):,} {what} in {found.top}")
    strays = found.lq_alone + ([] if packing.many_to_one else found.gt_alone)
    report.unpaired.extend(sorted(_inside(file, report) for file in strays))
    report.taken.extend(sorted(_inside(file, report) for file in found.twice))


def _inside(file: Path, report: Report) -> str:
    root = os.path.abspath(report.root)
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


# ----------------------------------------------------------------------------------------------- the pictures


@dataclass(frozen=True)
class Finding:
    """What one entry turned out to be: `problem` is None, or a kind of `REPAIR` with the line to show."""

    problem: tuple[str, str] | None = None
    gt: bytes = b""  # digests of the pixels
    lq: bytes = b""


def _inspect_all(
    report: Report,
    split: str,
    found: Found,
    patch_size: int,
    seen: dict[bytes, tuple[str, str]],
    workers: int | None,
    quiet: bool,
) -> None:
    """Read all pictures of a part. `seen`: digest -> (split, file) of what earlier parts hold."""
    entries = list({(entry.lq, entry.gt): entry for entry in found.entries}.values())
    if workers is None:
        workers = 0 if len(entries) <= FEW else worker_count()
    chunks = load_in_order(Inspection(entries, patch_size), range(0, len(entries), CHUNK), workers)
    findings = (finding for chunk in chunks for finding in chunk)
    bar = Progress(findings, f"reading {report.name} {split}", total=len(entries), quiet=quiet)
    own: dict[bytes, str] = {}
    for entry, finding in zip(entries, bar, strict=True):
        if finding.problem:
            kind, text = finding.problem
            report.problems[kind].append(text if text else _inside(entry.lq or entry.gt, report))
        file = _inside(entry.lq or entry.gt, report)
        first = own.setdefault(finding.lq or finding.gt, file) if finding.gt else file
        if first != file:
            report.duplicate.append(f"{file} is {first}")
        earlier = seen.setdefault(finding.gt, (split, _inside(entry.gt, report))) if finding.gt else (split, "")
        if earlier[0] != split:
            line = f"{_inside(entry.gt, report)} ({split}) is {earlier[1]} ({earlier[0]})"
            report.shared.extend([line] if line not in report.shared else [])


class Inspection(torch.utils.data.Dataset):
    """The entries of a part, read and judged on access: CHUNK of them from an index on."""

    def __init__(self, entries: list[Entry], patch_size: int):
        self.entries, self.patch_size = entries, patch_size

    def __getitem__(self, first: int) -> list[Finding]:
        return [self._judged(entry) for entry in self.entries[first : first + CHUNK]]

    def _judged(self, entry: Entry) -> Finding:
        try:
            gt = _read(entry.gt)
            lq = None if entry.lq is None else gt if entry.lq == entry.gt else _read(entry.lq)
        except ValueError as error:
            return Finding(("unreadable", str(error)))
        gt, lq = FITS[entry.fit](gt, lq, entry.scale)
        return Finding(self._problem(entry, gt, lq), _digest(gt), b"" if lq is None else _digest(lq))

    def _problem(self, entry: Entry, gt: Tensor, lq: Tensor | None) -> tuple[str, str] | None:
        if lq is not None and gt.shape[1:] != (lq.shape[1] * entry.scale, lq.shape[2] * entry.scale):
            return "differently_sized", f"{entry.lq} is {shape(lq)}, {entry.gt} is {shape(gt)}"
        if lq is not None and torch.equal(lq, gt):
            return "lq_equals_gt", ""
        if min(gt.shape[1:]) < max(1, self.patch_size):
            return "too_small", f"{entry.gt} is {shape(gt)}"
        return None


@lru_cache(maxsize=2)
def _read(path: Path) -> Tensor:
    return read_image(path)


def _digest(image: Tensor) -> bytes:
    digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().data)
    return digest.digest()


# ------------------------------------------------------------------------------------------------- an example


def broken_example(folder: str | Path) -> Path:
    """A small Rain100L with one defect of each kind, made of the embedded photographs: what a report looks like.

    Args:
        folder: made if needed; files of the same names are written anew.
    Returns: the folder, as the data root for `check_data("rain100l", ...)`.
    """
    folder, rain, photos = Path(folder), tasks.get("derain"), datasets.embedded("train")
    train, test = folder / "RainTrainL", folder / "Rain100L"
    (test / "rainy").mkdir(parents=True, exist_ok=True)
    train.mkdir(exist_ok=True)
    for number in range(1, len(photos) + 1):
        gt, lq, _ = Patches(photos, rain, 64, 1, seed=0)[number - 1]
        _write(train / f"norain-{number}.png", gt)
        _write(train / f"rain-{number}.png", lq)
        if number <= 2:
            _write(test / f"norain-{number:03}.png", gt.flip(2) if number == 1 else gt)
            _write(test / f"rainy/rain-{number:03}.png", lq.flip(2))
    (train / "norain-3.png").unlink()
    (train / "rain-4.png").write_bytes((train / "rain-4.png").read_bytes()[:500])
    (train / "norain-5.png").write_text("<html>404 Not Found</html>")
    (train / "rain-6.png").write_bytes((train / "norain-6.png").read_bytes())
    _write(train / "rain-7.png", torch.full((3, 64, 60), 0.5))
    (train / "rain-8.png").write_bytes((train / "rain-9.png").read_bytes())
    return folder


def _write(path: Path, image: Tensor) -> None:
    pixels = tasks.to_uint8(image).permute(1, 2, 0).numpy()
    path.write_bytes(png(Picture(pixels)))
