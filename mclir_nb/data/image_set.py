"""The pictures of a data set: each entry read, lq and gt brought to one size, and kept decoded in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from torch.utils.data import get_worker_info

from mclir_nb.data.cache import Cache
from mclir_nb.data.images import read_image
from mclir_nb.data.layouts import Entry
from mclir_nb.files import printable

MEMORY = 1 << 30  # bytes of decoded pictures that a set keeps; more are decoded again
HASHED_WHOLE = 256 << 20  # bytes up to which a fingerprint reads every file; of larger sets it reads HASHED_FILES
HASHED_FILES = 64


@dataclass(frozen=True)
class Sample:
    """One decoded picture."""

    name: str
    gt: Tensor  # (3,H,W) uint8
    lq: Tensor | None = None  # (3,H/scale,W/scale) uint8; None where the task makes it
    depth: Tensor | None = None  # (H,W) float32 in [0,1]
    noise: float | None = None  # standard deviation (0..255) of the Gaussian noise that makes lq

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.gt, self.lq, self.depth) if part is not None)


@dataclass
class ImageSet:
    """A named list of pictures, decoded on first use."""

    name: str
    entries: list[Entry]
    memory: int = MEMORY  # bytes of decoded pictures that are kept in memory; with a cache none are
    note: str = ""  # for the reader: where the pictures were found, how they were shared out, what is missing
    cache: Cache | None = None  # where pictures too many for memory are kept decoded on disk
    _kept: dict[Entry, Sample] = field(default_factory=dict, repr=False)
    _bytes: int = field(default=0, repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        if self.cache:
            return load(entry, self.cache.read)
        if entry not in self._kept:
            sample = load(entry)
            self._bytes += sample.nbytes
            worker = get_worker_info()  # each process that loads keeps its part
            memory = self.memory // worker.num_workers if worker else self.memory
            while self._kept and self._bytes > memory:  # the oldest go; this one stays in any case
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
            self._kept[entry] = sample
        return self._kept[entry]

    def files(self) -> list[Path]:
        """Every picture file once."""
        return list(dict.fromkeys(file for entry in self.entries for file in entry.files))

    def fingerprint(self) -> str:
        """What the set holds, wherever it lies: names, order and sizes of its pictures, and what is in the files.

        Of a set above 256 MB the content of 64 files, evenly spread, is read.
        """
        digest, files = hashlib.sha256(), self.files()
        sizes = {file: file.stat().st_size for file in files}
        for entry in self.entries:
            facts = (entry.name, *(sizes[file] for file in entry.files), entry.fit, entry.noise, entry.scale)
            digest.update(repr(facts).encode())
        step = 1 if sum(sizes.values()) <= HASHED_WHOLE else -(-len(files) // HASHED_FILES)
        for file in files[::step]:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "blake2b").digest())
        return digest.hexdigest()


class SizesDiffer(ValueError):
    """The lq and gt of a pair do not fit each other."""


def load(entry: Entry, read: Callable[[Path], Tensor] = read_image) -> Sample:
    """Decode an entry, bring lq and gt to one size. Raises: ValueError naming the file and what is wrong."""
    gt = read(entry.gt)
    lq = None if entry.lq is None else gt if entry.lq == entry.gt else read(entry.lq)
    gt, lq = _fit(gt, lq, entry.fit, entry.scale)
    if not gt.numel() or (lq is not None and not lq.numel()):
        raise ValueError(f"{printable(entry.gt)} is too small to be cut as its data set prescribes ({entry.fit}).")
    if lq is not None and gt.shape[1:] != (lq.shape[1] * entry.scale, lq.shape[2] * entry.scale):
        sizes = f"{printable(entry.lq or entry.gt)} is {shape(lq)} but {printable(entry.gt)} is {shape(gt)}"
        raise SizesDiffer(f"{sizes}; gt must be {entry.scale} times as large as lq")
    depth = read_image(entry.depth)[0].float() / 255 if entry.depth else None
    return Sample(entry.name, gt, lq, depth, entry.noise)


def shape(image: Tensor) -> str:
    return f"{image.shape[-1]}x{image.shape[-2]}"


def _fit(gt: Tensor, lq: Tensor | None, how: str, scale: int) -> tuple[Tensor, Tensor | None]:
    """gt and lq cut to one size as their data set prescribes; `how` is `Entry.fit`. Nothing is enlarged."""
    if how == "centre" and lq is not None:  # SOTS indoor: hazy images have 620x460 pixels, clear ones 640x480
        gt = _middle(gt, *lq.shape[1:])
    elif how == "corner" and lq is not None:  # super-resolution benchmarks cut gt at the right and bottom
        gt = gt[:, : lq.shape[1] * scale, : lq.shape[2] * scale]
    elif how == "halves":  # one file with both: lq the left half, gt the right
        half = gt.shape[2] // 2
        gt, lq = gt[:, :, half : 2 * half], gt[:, :, :half]
    elif how == "centre-16":  # AirNet and PromptIR cut the middle to multiples of 16
        gt = _middle(gt, *(n // 16 * 16 for n in gt.shape[1:]))
        lq = None if lq is None else _middle(lq, *(n // 16 * 16 for n in lq.shape[1:]))
    elif how == "multiple-16":  # BSDS500's 481x321 become B100's 480x320
        gt = gt[:, : gt.shape[1] // 16 * 16, : gt.shape[2] // 16 * 16]
    return gt, lq


def _middle(image: Tensor, height: int, width: int) -> Tensor:
    top, left = max(0, (image.shape[1] - height) // 2), max(0, (image.shape[2] - width) // 2)
    return image[:, top : top + height, left : left + width]
