"""Decoded pictures on disk, for a training set that memory does not hold: a patch then reads only its rows.

One .npy file per picture, (H,W,3) uint8, named after the path, size and times of the original, so that a changed
original is decoded again. Several processes may share a folder. Deleting it is always safe.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclir_nb import files
from mclir_nb.data.images import read_image, read_size

RESERVE = 2 << 30  # bytes of disk that are left free


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
    """Pictures decoded once. Without room or permission (`full`) they are decoded again each time."""

    def __init__(self, folder: str | Path):
        self.folder, self.full = Path(folder).expanduser(), False

    def read(self, path: Path) -> Tensor:
        """As `images.read_image`: (3,H,W) uint8, here a view of the mapped file. Raises: ValueError as there."""
        try:
            facts = path.stat()
        except OSError:
            return read_image(path)  # which says what is wrong
        times = f"|{facts.st_size}|{facts.st_mtime_ns}|{facts.st_ctime_ns}"  # a replaced file may keep its mtime
        identity = os.fsencode(os.path.abspath(path)) + times.encode()
        key = hashlib.sha256(identity).hexdigest()[:32]
        place = self.folder / key[:2] / f"{key}.npy"
        try:
            # copy on write: torch wants memory it could write to, and the file must not change
            return torch.from_numpy(np.lib.format.open_memmap(place, mode="c")).permute(2, 0, 1)
        except (OSError, ValueError):  # not there, or damaged
            image = read_image(path)
            self._store(place, image)
            return image

    def _store(self, place: Path, image: Tensor) -> None:
        if self.full:
            return
        content = io.BytesIO()
        np.save(content, image.permute(1, 2, 0).numpy())
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self.full = shutil.disk_usage(place.parent).free < RESERVE + content.tell()
            if not self.full:
                files.write_file(place, content.getvalue())
        except OSError:
            self.full = True


def predicted_bytes(paths: list[Path]) -> int:
    """How much the decoded pictures take, estimated from the headers of about 16 spread over the list."""
    some = paths[:: max(1, len(paths) // 16)]
    return sum(height * width * 3 for height, width in map(read_size, some)) * len(paths) // len(some)
