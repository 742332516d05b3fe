"""Patches for training and whole pictures for scoring, as lq and gt; every random choice comes from a `stream`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from mclir_nb import stream
from mclir_nb.data import degrade
from mclir_nb.data.image_set import ImageSet, Sample
from mclir_nb.data.loading import load_in_order, worker_count
from mclir_nb.data.tasks import Task, to_uint8

Batch = tuple[Tensor, Tensor, list[str]]


def patch(sample: Sample, task: Task, patch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One random patch: position, one of the eight flips and rotations, and a fresh degradation.

    Returns: gt (3,P,P) and lq (3,P/scale,P/scale), float32 in [0,1], lq on the 8-bit grid as a file would be.
    """
    scale, margin = task.scale, 0 if sample.lq is not None or sample.noise is not None else task.margin
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
    lq = degraded(sample, task, gt, depth, generator)
    gt = gt[:, row_trim, column_trim]
    lq = lq[:, _shrink(row_trim, scale), _shrink(column_trim, scale)]
    return _orient(gt, turns, flip), _orient(lq, turns, flip)


def degraded(sample: Sample, task: Task, gt: Tensor, depth: Tensor | None, generator: torch.Generator) -> Tensor:
    """lq made from (a part of) a clean picture, on the 8-bit grid: by its own noise, or by the task.

    Computed with one thread, as a worker process does: the Fourier transforms of the blur round differently with two.
    """
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        if sample.noise is not None:
            lq = degrade.noise(gt, sample.noise, generator=generator)
        else:
            lq = task.degrade(gt, depth, generator)
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
    return to_uint8(lq).float() / 255


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def _window(start: int, size: int, margin: int, side: int) -> tuple[slice, slice]:
    """The slice to read, with its margin where there is one, and the slice that trims the margin again."""
    first, last = max(0, start - margin), min(side, start + size + margin)
    return slice(first, last), slice(start - first, start - first + size)


def _shrink(window: slice, scale: int) -> slice:
    return slice(window.start // scale, window.stop // scale)


def _orient(image: Tensor, turns: int, flip: int) -> Tensor:
    image = torch.rot90(image, turns, (1, 2))
    return image.flip(2) if flip else image


class Patches:
    """All patches of a run by number: patch `n` belongs to step n // batch_size + 1."""

    def __init__(
        self, images: ImageSet, task: Task, patch_size: int, batch_size: int, seed: int, share: range | None = None
    ):
        self.images, self.task, self.patch_size = images, task, patch_size
        self.batch_size, self.seed = batch_size, seed
        self.share = range(batch_size) if share is None else share  # of every batch, for one of several processes

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, str]:
        for later in range(2 * len(self.images)):  # its picture or the next that is large enough, in the next pass too
            sample = self.images[self.picture(number + later)]
            if min(sample.gt.shape[1:]) >= self.patch_size:
                gt, lq = patch(sample, self.task, self.patch_size, stream(self.seed, "patch", number))
                return gt, lq, sample.name
        raise ValueError(f"no picture of {self.images.name} is as large as the patch of {self.patch_size}.")

    def picture(self, number: int) -> int:
        """Which picture patch `number` is cut from: a new random order for every pass over the set."""
        turn, place = divmod(number, len(self.images))
        return _order(len(self.images), self.seed, turn)[place]

    def batch(self, step: int) -> Batch:
        """The batch of one step (counted from 1): gt (B,3,P,P), lq (B,3,P/scale,P/scale), names."""
        first = (step - 1) * self.batch_size
        gts, lqs, names = zip(*(self[first + i] for i in self.share), strict=True)
        return torch.stack(gts), torch.stack(lqs), list(names)

    def batches(
        self, first_step: int, last_step: int, workers: int | None = None, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """Batches (gt, lq, names) of the steps first_step..last_step (counted from 1), in main memory.

        Args:
            workers: processes that prepare batches ahead of their use; the batches do not depend on it. None: for a GPU
                up to 8, for a CPU none (its processors are busy training).
            device: where the network trains; None: the CPU.

        Raises:
            ValueError: naming a file that cannot be used, from whichever process met it.
        """
        cuda = device is not None and device.type == "cuda"
        if workers is None:
            workers = worker_count() if cuda else 0
        steps = range(first_step, last_step + 1)
        return load_in_order(self.batch, steps, workers, pin=cuda)


@lru_cache(maxsize=4)
def _order(count: int, seed: int, turn: int) -> list[int]:
    return torch.randperm(count, generator=stream(seed, "order", turn)).tolist()


class Benchmark:
    """Whole pictures for scoring: (name, gt (3,H,W), lq (3,H/scale,W/scale)), float32 in [0,1].

    The degradation of a picture depends on its name alone, so every network and seed sees the same inputs. Sizes are
    cut to a multiple of the scale; `side` cuts the centre square of that many gt pixels. Can be iterated as often as
    wanted and holds one picture at a time: `list(...)` holds all of them.
    """

    def __init__(self, images: ImageSet, task: Task, side: int | None = None):
        self.images, self.task, self.side = images, task, side

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[str, Tensor, Tensor]:
        sample, scale = self.images[index], self.task.scale
        rows, columns = (_centre(length, self.side, scale) for length in sample.gt.shape[1:])
        gt = sample.gt[:, rows, columns].float() / 255
        if sample.lq is not None:
            return sample.name, gt, sample.lq[:, _shrink(rows, scale), _shrink(columns, scale)].float() / 255
        depth = None if sample.depth is None else sample.depth[rows, columns]
        chance = stream(0, "benchmark", self.task.name, sample.name)
        return sample.name, gt, degraded(sample, self.task, gt, depth, chance)


def _centre(length: int, side: int | None, scale: int) -> slice:
    size = (length if side is None else min(side, length)) // scale * scale
    start = (length - size) // (2 * scale) * scale
    return slice(start, start + size)
