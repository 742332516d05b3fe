"""Decoded pictures on disk, for a training set that memory does not hold: a patch then reads only its rows.

One .npy file per picture, (H,W,3) uint8, named after the path, size and times of the original, so that a changed
original is decoded again. Several processes may share a folder. Deleting it is always safe.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclir_nb import files
from mclir_nb.data.images import read_image, read_size


def default_folder() -> Path | None:
    """$MCLIR_NB_CACHE, else mclir_nb in the user's cache folder; None if it says "off", or without a home folder."""
    chosen = os.environ.get("MCLIR_NB_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/mclir_nb"
    place = os.path.expanduser(chosen)
    return None if chosen == "off" or place.startswith("~") else Path(place)


class Cache:
    """Pictures decoded once. Without room or permission they are decoded again each time."""

    def __init__(self, folder: Path):
        self.folder = folder

    def place(self, path: Path) -> Path:
        """Where a picture is kept as it is now. Raises: OSError if it is missing."""
        facts = path.stat()
        times = f"|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}"  # a replaced file may keep its mtime
        key = hashlib.sha256(os.fsencode(os.path.abspath(path)) + times.encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key}.npy"

    def read(self, path: Path) -> Tensor:
        """As `images.read_image`: (3,H,W) uint8, here a view of the mapped file. Raises: ValueError as there."""
        try:
            place = self.place(path)
        except OSError:
            return read_image(path)  # which says what is wrong
        try:
            # copy on write: torch wants memory it could write to, and the file must not change
            return torch.from_numpy(np.lib.format.open_memmap(place, mode="c")).permute(2, 0, 1)
        except (OSError, ValueError):  # not there, or damaged
            image, content = read_image(path), io.BytesIO()
        np.save(content, image.permute(1, 2, 0).numpy())
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_file(place, content.getvalue())
        return image


def choose(pictures: list[Path], memory: int) -> tuple[Cache | None, str]:
    """A cache for a set that `memory` bytes cannot hold, if there is ample room; else None, and why if it is a pity."""
    folder, some = default_folder(), pictures[:: max(1, len(pictures) // 16)]
    if folder is None:
        return None, ""
    need = sum(height * width * 3 for height, width in map(read_size, some)) * len(pictures) // len(some)
    if need <= memory:
        return None, ""
    # os.path, since up to Python 3.13 Path.is_dir raises where a folder may not be looked into
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.isdir(place))
    free, cache = shutil.disk_usage(there).free, Cache(folder)
    if need < free / 2 or any(os.path.isfile(cache.place(file)) for file in some):  # a run before this one had the room
        return cache, ""
    return None, (
        f"Decoded, the training pictures take {need / 1e9:.0f} GB, and {folder} has {free / 1e9:.0f} GB free: each is "
        "decoded every time it is used. Set MCLIR_NB_CACHE to a folder with room, or to off."
    )
