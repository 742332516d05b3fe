"""Can a run use these pictures? Asked at the start of a run, and by `check_data` of a whole download."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mclir_nb.data import datasets, overlaps, published, tasks
from mclir_nb.data.datasets import Survey
from mclir_nb.data.image_set import ImageSet, SizesDiffer, load, shape
from mclir_nb.data.images import read_picture, read_size
from mclir_nb.data.layouts import Entry, Found
from mclir_nb.data.loading import load_in_order, worker_count
from mclir_nb.data.patches import Patches
from mclir_nb.data.published import Layout
from mclir_nb.data.tasks import Task
from mclir_nb.files import printable
from mclir_nb.progress import Progress

SMALLEST_PATCH = 16  # gt pixels, at scale 1
SMALLEST_SCORED = 11  # gt pixels a side inside the border that is left out: the window of SSIM
SHOWN = 20  # files named per kind of problem in the text; the lists of the report hold all
CHUNK = 16  # pictures read by one process in turn; neighbours often share their gt, which is then read once
FIRST = 8  # training pictures that are decoded before a run
COUNTED = 20_000  # training pictures up to which the size of each is looked at before a run
FEW = 300  # pictures up to which starting worker processes is not worth while

REPAIR = {
    "missing": "download it and unpack it as shown",
    "incomplete": "unpack all parts of the download again",
    "unpaired": "files without a partner: unpack again what is missing, or remove them",
    "taken": "files of the same name as another: keep one of each",
    "unreadable": "copy or download these files again, or remove the pair",
    "differently_sized": "take lq and gt from one packing, or remove the pair",
    "lq_equals_gt": "a network would learn to copy: check that the two folders are not one and the same",
    "exif": "lq and gt say other EXIF orientations, and are read as stored: save both upright",
    "duplicate": "the same picture again: remove all but one",
    "shared": "clean pictures of training that are also in testing: remove them from training",
    "unread": "pictures that belong to no split: move them into one, or out of the folder",
    "unscorable": "too small for the metrics: remove them from testing",
    "too_small": "smaller than the patch: training passes them over; use a smaller patch_size to include them",
    "refused": "a run would stop at its start with these words",
}
BEARABLE = ("too_small", "exif")  # nothing to stop a run for


@dataclass(frozen=True)
class Finding:
    """What one entry turned out to be."""

    kind: str = ""  # a key of `REPAIR`, or "" if nothing is wrong
    text: str = ""  # what is wrong, with the file's name
    side: int = 0  # pixels of the shorter side of gt; 0 if it cannot be read
    gt: bytes = b""  # digests of the pixels
    lq: bytes = b""


def _inspect(entries: list[Entry], task: Task, patch_size: int = 1, smallest: int = 1) -> Iterator[Finding]:
    """A finding for every entry, in order; by several processes if there are many."""
    _picture.cache_clear()  # a file may have been repaired since
    judge = partial(_judge, entries, task, patch_size, smallest)
    workers = 0 if len(entries) <= FEW else worker_count()
    return itertools.chain.from_iterable(load_in_order(judge, range(0, len(entries), CHUNK), workers))


def _judge(entries: list[Entry], task: Task, patch_size: int, smallest: int, first: int) -> list[Finding]:
    """The findings of CHUNK entries from one on."""
    return [_finding(entry, task, patch_size, smallest) for entry in entries[first : first + CHUNK]]


_picture = lru_cache(maxsize=2)(read_picture)


def _finding(entry: Entry, task: Task, patch_size: int, smallest: int) -> Finding:
    try:
        sample = load(entry, lambda file: _picture(file).image())
    except ValueError as error:
        return Finding("differently_sized" if isinstance(error, SizesDiffer) else "unreadable", str(error))
    gt, lq = _digest(sample.gt), b"" if sample.lq is None else _digest(sample.lq)
    side, where = min(sample.gt.shape[1:]), f"{printable(entry.gt)} is {shape(sample.gt)}"
    kind = text = ""
    if gt == lq:
        kind, text = "lq_equals_gt", f"{printable(entry.lq or entry.gt)} is the same picture as lq and gt"
    elif side // task.scale * task.scale - 2 * task.crop < smallest:
        border = f" inside a border of {task.crop}" if task.crop else ""
        kind, text = "unscorable", f"{where}; scores need {smallest} pixels a side{border}"
    elif side < patch_size:
        kind, text = "too_small", f"{where}, smaller than the patch of {patch_size}"
    elif entry.lq and _picture(entry.gt).orientation != _picture(entry.lq).orientation:
        kind, text = "exif", printable(entry.lq)
    return Finding(kind, text, side, gt, lq)


def _digest(image: Tensor) -> bytes:
    digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().data)
    return digest.digest()


def check_trained(images: ImageSet, task: Task, patch_size: int) -> None:
    """Decode the first pictures of a training set, look at the sizes of all, and refuse what training could not use.

    A picture smaller than the patch is passed over in training (as in FFA-Net): their number is added to the note of
    the set, of up to 20,000 pictures. Raises: ValueError naming the file that cannot be used, or too small a set.
    """
    findings = list(_inspect(images.entries[:FIRST], task, patch_size))
    _raise_first(findings)
    clean = list(dict.fromkeys(entry.gt for entry in images.entries))
    small = sum(min(read_size(file)) < patch_size for file in clean) if len(clean) <= COUNTED else 0
    if small == len(clean) or (not small and all(finding.kind == "too_small" for finding in findings)):
        raise ValueError(_too_small(max(findings, key=lambda finding: finding.side)))
    if small:
        images.note += f" {small} of {len(clean)} clean pictures are passed over: smaller than the patch."


def check_scored(images: ImageSet, task: Task, smallest: int = SMALLEST_SCORED) -> None:
    """Decode every picture of a validation or test set, so that a run does not meet a bad one at its very end.

    `smallest`: pixels a side that the metrics need, without the border that the task leaves out.
    Raises: ValueError naming a file that cannot be read or scored.
    """
    _raise_first(_inspect(images.entries, task, smallest=smallest))


def _raise_first(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.kind and finding.kind not in BEARABLE:
            raise ValueError(f"{finding.text.removesuffix('.')} ({REPAIR[finding.kind]}).")


def _too_small(largest: Finding) -> str:
    if largest.side < SMALLEST_PATCH:
        return f"{largest.text}; no patch_size is that small; use pictures of at least {SMALLEST_PATCH} pixels a side."
    return f"{largest.text}; use patch_size {largest.side // 8 * 8} or less, or larger pictures."


@dataclass
class Report:
    """What `check_data` found; `print(report)` shows it all."""

    name: str
    layout: Layout
    root: Path
    counts: list[str] = field(default_factory=list)  # per part of a split: pairs found, where, and published
    problems: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in REPAIR})  # a line per file

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be repaired."""
        return not any(lines for kind, lines in self.problems.items() if kind != "too_small")

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.layout.title}) in {printable(self.root)}", *(f"  {line}" for line in self.counts)]
        for kind, found in self.problems.items():
            if found:
                lines.append(f"{len(found)} {kind.replace('_', ' ')} ({REPAIR[kind]}):")
                lines += [f"  {line}" for line in found[:SHOWN]]
                lines += [f"  ... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        lines += [f"known leak: {leak}." for leak in overlaps.known_overlaps(self.name)]
        lines += [f"note: {note}" for note in self.layout.notes]
        return "\n".join([*lines, "Everything is in order." if self.ok else "Some files need attention."])

    def inside(self, file: Path) -> str:
        """A file's name below the root."""
        top = os.path.abspath(self.root)
        return printable(file.relative_to(top).as_posix() if file.is_relative_to(top) else file)


def check_data(
    name: str, data_root: str | Path, task: str | Task | None = None, patch_size: int = 128, *, quiet: bool = False
) -> Report:
    """Read every file of a data set and report what training or scoring would stumble over.

    Args:
        name, data_root: as for `datasets.open_set`.
        task: what the files are for; None: what the set is published for ("denoise" for clean pictures).
        patch_size: gt pixels of a training patch; smaller training pictures are listed.
        quiet: show no progress.

    Raises:
        ValueError: nothing of the set is there, with the tree that is expected.
    """
    if name == "embedded":
        raise ValueError("the embedded photographs need no check; their checksums are in data/samples/index.csv.")
    layout = published.get(name)
    if not isinstance(task, Task):
        task = tasks.get(task or datasets.fitting_task(name, "denoise"))
    survey = Survey.of(name, task, data_root)
    report = Report(name, layout, survey.place)
    seen: dict[bytes, tuple[str, str]] = {}
    for split in datasets.SPLITS:
        for found, part in zip(survey.parts(split), layout.parts(split), strict=True):
            if found is not None:
                _check_names(report, split, found)
                _check_pictures(report, survey, split, found, patch_size, seen, quiet)
            elif split not in survey.held_out:
                trees = " or ".join(packing.tree(task.scale) for packing in published.usable(part, layout, task)[:2])
                report.problems["missing"].append(f"{split}: {trees}; published at {layout.where}")
    if not report.counts:
        raise ValueError(f"nothing of {name} found below {printable(survey.place)}.\n{datasets.tree(layout, task)}")
    report.problems["unread"] += map(report.inside, survey.unread)
    try:  # to open the splits as a run does, which says how pictures are shared out among them
        survey.check_apart()
        splits = datasets.SPLITS if layout.train else ("test",)
        for split in splits if report.ok else ():
            images = survey.open(split)
            report.counts += [images.note] if survey.held_out else []
    except ValueError as error:
        report.problems["refused"].append(str(error))
    return report


def _check_names(report: Report, split: str, found: Found) -> None:
    counts, there, where = found.packing.counts, len(found.entries), printable(found.top)
    wanted = f", published {' or '.join(f'{count:,}' for count in counts)}" if counts else ""
    report.counts.append(f"{split}: {found.counted(there)} in {where}{wanted}")
    if there < min(counts, default=0):
        missing = f"{split}: {there:,} of {found.counted(min(counts))} in {where}"
        report.problems["incomplete"].append(missing)
    report.problems["unpaired"] += sorted(map(report.inside, found.unpaired))
    report.problems["taken"] += sorted(map(report.inside, found.twice))


def _check_pictures(
    report: Report, survey: Survey, split: str, found: Found, patch_size: int, seen: dict, quiet: bool
) -> None:
    """Read all pictures of a part. `seen`: digest -> (split, file) of what earlier parts hold."""
    entries = list({(entry.lq, entry.gt): entry for entry in found.entries}.values())
    smallest = SMALLEST_SCORED if split == "test" or "test" in survey.held_out else 1
    findings = _inspect(entries, survey.task, patch_size if split == "train" else 1, smallest)
    bar = Progress(findings, f"reading {report.name} {split}", total=len(entries), quiet=quiet)
    own: dict[bytes, str] = {}
    largest = Finding()
    for entry, finding in zip(entries, bar, strict=True):
        largest = max(largest, finding, key=lambda finding: finding.side)
        if finding.kind:
            report.problems[finding.kind].append(finding.text)
        if not finding.gt:
            continue
        file, gt = report.inside(entry.lq or entry.gt), report.inside(entry.gt)
        first = own.setdefault(finding.lq or finding.gt, file)
        if first != file:
            report.problems["duplicate"].append(f"{file} is {first}")
        earlier, there = seen.setdefault(finding.gt, (split, gt))
        line = f"{gt} ({split}) is {there} ({earlier})"
        if earlier != split and there != gt and line not in report.problems["shared"]:
            report.problems["shared"].append(line)
    if largest.kind == "too_small":
        report.problems["refused"].append(_too_small(largest))


def broken_example(folder: str | Path) -> Path:
    """A small Rain100L with seven kinds of defect, made of the embedded photographs: a root for `check_data`.

    It is incomplete and has a file without a partner, unreadable ones, lq of another size, lq equal to gt, a picture
    twice, and one in training and testing. The folder is made if needed; files of the same names are written anew.
    """
    folder, photos = Path(folder), datasets.embedded("train")
    train, test = folder / "RainTrainL", folder / "Rain100L"
    (test / "rainy").mkdir(parents=True, exist_ok=True)
    train.mkdir(exist_ok=True)
    pairs = Patches(photos, tasks.get("derain"), 64, 1, seed=0)
    for number in range(1, len(photos) + 1):
        gt, lq, _ = pairs[number - 1]
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
    Image.fromarray(tasks.to_uint8(image).permute(1, 2, 0).numpy()).save(path)
