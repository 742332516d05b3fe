"""Decoded pictures on disk, mapped into memory: a picture is decoded once, and a patch reads only its rows.

One flat file per picture, named after the path, size and modification time (in nanoseconds) of the original:

    FOLDER/ab/abcdef...-SIZE-TIME.rgb      "MCLIRGB1", height, width (uint32), then (H,W,3) uint8

So there is no index to keep in step. A changed original has another name, and its old copy is removed. Files are
written aside and renamed, so that an interruption leaves whole ones; a wrong length (after a power cut) counts as
missing. Several processes may share a folder. Deleting the folder is always safe.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclir_nb.data.images import read_image, read_size
from mclir_nb.data.loading import load_in_order, worker_count
from mclir_nb.progress import Progress

MAGIC = b"MCLIRGB1"
HEADER = struct.Struct("<8sII")
RESERVE = 2 << 30  # bytes of disk that are left free
ABANDONED = 3600  # seconds after which a file written aside counts as left over


def default_folder() -> Path | None:
    """$MCLIR_NB_CACHE, else mclir_nb in the user's cache folder; None if it says "off", or without a home folder."""
    chosen = os.environ.get("MCLIR_NB_CACHE")
    if chosen:
        return None if chosen == "off" else Path(chosen).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mclir_nb"
    except RuntimeError:
        return None


class Cache:
    """Pictures decoded once. `full` says why nothing more is stored; empty while there is room."""

    def __init__(self, folder: str | Path):
        self.folder, self.full = Path(folder).expanduser(), ""

    def read(self, path: Path) -> Tensor:
        """As `images.read_image`: (3,H,W) uint8, here a view of the mapped file. Raises: ValueError as there."""
        try:
            facts = os.stat(path)
        except OSError:
            return read_image(path)  # which says what is wrong
        place = self._place(path, facts)
        kept = _mapped(place)
        if kept is None:
            kept = read_image(path)
            self._store(place, kept)
        return kept

    def holds(self, path: Path) -> bool:
        """Whether a picture, as it is now, has been decoded."""
        return _mapped(self._place(path, os.stat(path))) is not None

    def prepare(self, paths: Iterable[Path], workers: int | None = None, quiet: bool = False) -> list[str]:
        """Decode what is not there yet, with several processes.

        Returns: one sentence for every file that cannot be read; reading it later says the same.
        """
        self._tidy()
        todo = [path for path in dict.fromkeys(paths) if not (path.is_file() and self.holds(path))]
        if not todo:
            return []
        workers = worker_count() if workers is None else workers
        refusals = load_in_order(_Decoding(self, todo), range(len(todo)), workers)
        return [refusal for refusal in Progress(refusals, "decoding", total=len(todo), quiet=quiet) if refusal]

    def _place(self, path: Path, facts: os.stat_result) -> Path:
        key = hashlib.sha256(os.path.abspath(path).encode(errors="surrogateescape")).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}-{facts.st_size}-{facts.st_mtime_ns}.rgb"

    def _store(self, place: Path, image: Tensor) -> None:
        """Keep a decoded picture; without room or permission it is simply decoded again next time."""
        if self.full:
            return
        aside = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(place.parent).free < RESERVE + image.numel():
                self.full = f"less than {RESERVE / 1e9:.0f} GB would be left free in {self.folder}"
                return
            with open(aside, "wb") as file:
                file.write(HEADER.pack(MAGIC, *image.shape[1:]))
                file.write(image.permute(1, 2, 0).contiguous().numpy().data)
            for old in place.parent.glob(place.name.split("-")[0] + "-*.rgb"):
                old.unlink(missing_ok=True)
            os.replace(aside, place)
        except OSError as error:
            if aside.exists():
                aside.unlink()
            self.full = f"{self.folder} cannot be written ({error.strerror or error})"

    def _tidy(self) -> None:
        """Remove what interrupted processes left."""
        for left in self.folder.glob("*/.*.part"):
            try:
                if time.time() - left.stat().st_mtime > ABANDONED:
                    left.unlink()
            except FileNotFoundError:
                continue  # another process was quicker


def _mapped(place: Path) -> Tensor | None:
    """A stored picture, or None if there is none of the right length."""
    try:
        with open(place, "rb") as file:
            magic, height, width = HEADER.unpack(file.read(HEADER.size))
            whole = os.fstat(file.fileno()).st_size == HEADER.size + height * width * 3
            if magic != MAGIC or not whole or not height * width:
                return None
            # copy on write: torch wants memory it could write to, and the file must not change
            pixels = np.memmap(file, np.uint8, "c", HEADER.size, (height, width, 3))
    except (OSError, struct.error, ValueError):  # missing, too short for a header, or nothing to map
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1)


class _Decoding(torch.utils.data.Dataset):
    """Decoding as a side effect of access: what is wrong with the file, or an empty text."""

    def __init__(self, cache: Cache, paths: list[Path]):
        self.cache, self.paths = cache, paths

    def __getitem__(self, index: int) -> str:
        try:
            self.cache.read(self.paths[index])
        except ValueError as error:
            return str(error)
        return ""


def predicted_bytes(paths: list[Path], looked_at: int = 16) -> int:
    """How much the decoded pictures take, estimated from the headers of a few spread over the list."""
    paths = list(dict.fromkeys(paths))
    some = paths[:: max(1, len(paths) // looked_at)]
    sizes = [height * width * 3 for height, width in map(read_size, some)]
    return sum(sizes) * len(paths) // len(some)
