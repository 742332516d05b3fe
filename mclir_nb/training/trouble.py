"""What can go wrong in a step, found out early and said in one sentence."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mclir_nb.training import checkpoint
from mclir_nb.training.guard import Diverged
from mclir_nb.training.recipes import Recipe

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SMALLER = {"paper": "demo", "demo": "tiny"}  # sizes of a network


def check_batch(step: int, gt: Tensor, lq: Tensor, names: list[str]) -> None:
    """Refuse a batch with a NaN or an infinite value; gt, lq are on the CPU. Raises: ValueError."""
    for what, image in (("gt", gt), ("lq", lq)):
        if not torch.isfinite(image.sum()):
            bad = sorted({name for name, one in zip(names, image, strict=True) if not one.isfinite().all()})
            raise ValueError(
                f"step {step}: {what} holds NaN or infinite values (pictures: {', '.join(bad)}). Nothing was trained "
                "on them. Repair the pictures, or the degradation that makes lq, then run the same command again."
            )


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU."""
    on_cpu = type(error) is RuntimeError and "DefaultCPUAllocator" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu


@contextmanager
def explained(trainer, run_dir: Path):
    """Say with every trouble of a run's steps where the last good state is, and which knob gives memory back."""
    try:
        yield
    except Diverged as error:
        raise Diverged(f"{error} {checkpoint.last_saved(run_dir)}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        predicted = 0
        if isinstance(error, torch.OutOfMemoryError):  # of a GPU: on the CPU there is no room to count
            from mclir_nb.experiments import cost  # here, because it trains a step itself

            predicted = cost.predicted_bytes(trainer.recipe)
        sentence = out_of_memory(trainer.recipe, trainer.step, trainer.fixed_bytes(), error, predicted)
        raise RuntimeError(f"{sentence} {checkpoint.last_saved(run_dir)}") from error


def out_of_memory(recipe: Recipe, step: int, fixed: int, error: Exception, predicted: int = 0) -> str:
    """Which knob to turn first, and how far: batch_size, then patch_size, then network_size.

    Weights, their copies and moments stay whatever the batch is; the rest grows with batch_size * patch_size**2. Where
    the error does not say how much there was, and because it stops at the first piece that did not fit, the new
    setting is at most half of the old one.

    Args:
        fixed: bytes of what does not depend on the batch.
        error: torch's own; its numbers are read if they are there.
        predicted: bytes of the whole step by `cost`, 0 if that is not known; the larger need counts.
    """
    text = str(error)
    size = r"([\d.]+) (bytes|[KMGT]iB)"
    tried = _bytes(text, f"[Tt]ried to allocate {size}")
    free = _bytes(text, f"of which {size} is free")
    ours = _bytes(text, f"{size} is allocated by PyTorch")
    share = 0.5
    if tried and free is not None and ours and ours > fixed:
        share = min(share, max(0.0, (ours + free - fixed) / (max(ours + tried, predicted) - fixed)) * 0.9)
    asked = f" ({tried / 2**30:.2f} GiB more were asked for)" if tried else ""
    return (
        f"step {step}: out of memory{asked}. {_smaller(recipe, share)} That is another recipe, so choose another "
        "out_dir too, and change every run that this one is compared with."
    )


def _smaller(recipe: Recipe, share: float) -> str:
    """A setting that needs at most this share of the memory that grows with the batch."""
    batch, patch, unit = recipe.batch_size, recipe.patch_size, 8 * recipe.scale
    if batch > 1:
        return f"Turn batch_size down first: {max(1, int(batch * share))} instead of {batch}."
    side = max(2 * unit, int(patch * share**0.5) // unit * unit)
    if side < patch:
        return f"batch_size is 1 already; turn patch_size down: {side} instead of {patch}."
    if recipe.network_size in SMALLER:
        size = SMALLER[recipe.network_size]
        return f"batch_size and patch_size are as small as can be; use network_size {size!r}."
    return "batch_size, patch_size and network_size are as small as can be; free memory, or use another machine."


def _bytes(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1]) * UNITS[found[2]] if found else None
