"""The guard of a run: it watches the loss, stops with an explanation, and lowers lambda where that was asked for.

A subtracted term has no lower bound: once it outweighs the reconstruction, the network is rewarded for leaving the
images. The guard looks at three things where a run looks anyway, so that no step waits for it:

    the loss and the gradient  finite
    r = lambda l_neg / l_rec   at most `guard_r` (1; the authors keep it between 0.01 and 0.1)
    validation PSNR            no more than `guard_drop` dB below the best so far (`HIGHEST` at most), with a
                               subtracted term or histories

Stopped, the run keeps its last checkpoint, which was good. With the recipe's `guard="lower-lambda"` it goes back to
that checkpoint instead and continues with half the lambda, at most `TIMES` times. The factor is part of the
checkpoint, so a resumed run continues bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclir_nb.training.recipes import Recipe

TIMES = 10  # halvings of lambda before a run gives up: 1/1024
HIGHEST = 60.0  # dB; pictures that are equal in 8 bits have an infinite PSNR, below which nothing would be left


class Diverged(RuntimeError):
    """Training was stopped because going on would only do damage; the last good checkpoint is kept."""


class Guard:
    """Watches one run. `factor` is by what lambda is multiplied: 1, or less after a rescue.

    `dose` is what the recipe's lambda was chosen for, if it was: the field that a reader can turn down.
    """

    def __init__(self, recipe: Recipe):
        self.recipe, self.factor = recipe, 1.0
        self.dose: float | None = None
        self._seen: list[tuple[int, Tensor, list[str]]] = []  # since the last look: step, finite (on the device), names

    def watch(self, step: int, losses: Tensor, names: list[str]) -> None:
        """Note whether a step's losses are finite. On a GPU nothing waits: the next `check_finite` tells."""
        self._seen.append((step, losses.isfinite().all(), names))
        if losses.device.type == "cpu":
            self.check_finite()

    def check_finite(self) -> None:
        """Raise Diverged if the losses or the gradient of a step since the last look were not finite."""
        seen, self._seen = self._seen, []
        for step, finite, names in seen:
            if not finite:
                raise Diverged(
                    f"step {step}: the loss or a gradient is not finite (pictures of the batch: "
                    f"{', '.join(sorted(set(names)))}). The weights were not changed by this step. {self._advice()} If "
                    "one of the pictures is damaged, leave it out there."
                )

    def check_scale(self, step: int, scale: float) -> None:
        """Raise Diverged if the loss scale of float16, halved at each infinite gradient, is below 1: it is not that."""
        if scale < 1:
            raise Diverged(
                f"step {step}: in float16 a gradient is infinite at any scale of the loss, so no step is taken. "
                "Use precision 'bfloat16', which has the range of float32, or 'float32', in another out_dir."
            )

    def check(self, row: dict) -> None:
        """Look at a row of the log; Diverged says what to turn down."""
        if not math.isfinite(row["total"]):
            raise Diverged(f"step {row['step']}: the loss is not finite. {self._advice()}")
        if _subtracts(row) and row["r"] > self.recipe.guard_r:
            raise Diverged(
                f"step {row['step']}: the negative term outweighs the reconstruction (r = {row['r']:.2f}, the authors "
                "keep it between 0.01 and 0.1), so the loss rewards the network for leaving the images. "
                + self._advice()
            )

    def check_validation(self, row: dict, best: float) -> None:
        """Look at a row with a validation; `best` is the highest PSNR so far, dB. Diverged says what to turn down."""
        psnr, best = row["val_psnr"], min(best, HIGHEST)
        if (_subtracts(row) or self.recipe.uses_history) and not psnr >= best - self.recipe.guard_drop:
            raise Diverged(
                f"step {row['step']}: validation fell to {psnr:.2f} dB from {best:.2f} dB, by more than guard_drop = "
                f"{self.recipe.guard_drop:g} dB: the network is leaving the images. {self._advice()}"
            )

    def _advice(self) -> str:
        """What to turn down, in a folder of its own: it makes another recipe."""
        recipe, less = self.recipe, ""
        if recipe.lambda_ratio is not None:
            less = f"lambda_ratio, now {recipe.lambda_ratio:g}, or a smaller "
        elif self.dose is not None:
            less = f"dose, now {self.dose * self.factor:g}, or a smaller "
        elif recipe.weight:
            less = f"lambda_neg, now {recipe.weight * self.factor:g}, or a smaller "
        return f"Use a smaller {less}learning_rate, in another out_dir."

    def state_dict(self) -> dict:
        return {"factor": self.factor}

    def load_state_dict(self, state: dict) -> None:
        self.factor, self._seen = state.get("factor", 1.0), []


def _subtracts(row: dict) -> bool:
    """Whether the second term is subtracted, by the numbers: so an objective of one's own is known too."""
    return row["total"] < row["l_rec"]


def check_batch(step: int, gt: Tensor, lq: Tensor, names: list[str]) -> None:
    """Refuse a batch on the CPU with a NaN or an infinite value: ValueError with the names of its pictures."""
    for what, image in (("gt", gt), ("lq", lq)):
        if not torch.isfinite(image.sum()):
            bad = sorted({name for name, one in zip(names, image, strict=True) if not one.isfinite().all()})
            raise ValueError(
                f"step {step}: {what} holds NaN or infinite values (pictures: {', '.join(bad)}). Nothing was trained "
                "on them. Repair the pictures, or the degradation that makes lq, then run the same command again."
            )
