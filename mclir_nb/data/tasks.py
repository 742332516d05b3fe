"""The restoration tasks: how `lq` is made from `gt`, how it is scored, which network is the default.

A `Task` is a value, not a class hierarchy; one of your own is a line more in `TASKS`. Its `degrade` draws every random
quantity from the generator it is given, so the same generator state always makes the same picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mclir_nb import check_choice, whole
from mclir_nb.data import degrade

SCALES = (2, 3, 4)


@dataclass(frozen=True)
class Task:
    """One restoration task."""

    name: str
    degrade: Callable[..., Tensor]  # (gt (3,H,W), depth (H,W) or None, generator) -> lq (3,H/scale,W/scale), in [0,1]
    network: str  # the default network's public name
    protocol: str  # of the paper's table for this task: a key of `metrics.PROTOCOLS`
    scale: int = 1  # integer factor between lq and gt
    # gt pixels around a patch that `degrade` reads; a patch is cut with this margin, degraded and trimmed, so a patch
    # of the degraded picture equals the degraded patch. A multiple of `scale`.
    margin: int = 0
    needs_depth: bool = False

    @property
    def crop(self) -> int:
        """Border in pixels left out when scoring: `scale` for super-resolution, else none."""
        return self.scale if self.scale > 1 else 0


def _haze(gt, depth, generator):
    return degrade.haze(gt, depth, **degrade.sample_haze(generator))


def _rain(gt, depth, generator):
    return degrade.rain(gt, **degrade.sample_rain(generator), generator=generator)


def _blur(gt, depth, generator):
    return degrade.motion_blur(gt, degrade.sample_blur_kernel(generator))


def _noise(gt, depth, generator):
    return degrade.noise(gt, 25.0, generator=generator)


def _bicubic(gt, depth, generator, scale):
    """MATLAB's 8-bit bicubic with the border of today; of some benchmarks' files see `degrade.bicubic`."""
    return degrade.bicubic(to_uint8(gt), 1 / scale).float() / 255


def to_uint8(image: Tensor) -> Tensor:
    """[0,1] float image to 8 bits: clamp, round half away from zero as picture files do."""
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


TASKS = {
    "dehaze": Task("dehaze", _haze, "ffanet", "basicsr-rgb", needs_depth=True),
    "derain": Task("derain", _rain, "nafnet", "idt"),
    "deblur": Task("deblur", _blur, "nafnet", "nafnet", margin=max(degrade.KERNEL_SIZES) // 2),
    "sr": Task("sr", _bicubic, "edsr", "basicsr-y"),
    "denoise": Task("denoise", _noise, "promptir", "basicsr-rgb"),
}


def names() -> list[str]:
    """The task names that `get` accepts."""
    return list(TASKS)


def get(name: str, scale: int | None = None) -> Task:
    """The task called `name`, one of `names()`.

    `scale` is 2, 3 or 4 for "sr" (None: 4, the paper's most reported factor), that of the task or None otherwise.
    Raises: ValueError naming what is accepted.
    """
    check_choice("task", name, TASKS)
    task = TASKS[name]
    if name != "sr":
        if scale is not None and whole(scale) != task.scale:
            raise ValueError(f"task {name!r} has scale {task.scale}: scale {scale!r} is not possible; leave it out.")
        return task
    if scale is not None and whole(scale) not in SCALES:
        raise ValueError(f"super-resolution by {scale!r} is not supported; use scale 2, 3 or 4.")
    scale = 4 if scale is None else int(scale)
    # MATLAB's widened cubic reads 2*scale pixels to each side of an lq pixel's centre
    return replace(task, degrade=partial(_bicubic, scale=scale), scale=scale, margin=3 * scale)
