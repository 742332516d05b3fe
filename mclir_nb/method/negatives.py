"""What a step pushes away from: whose outputs, how often, seen through which window, with which weight.

By default every history model takes part in every step with a fixed lambda: the exact method. A recipe can ask for
approximations and for other sources of negatives. The first two are right on average; the square sees the middle of a
patch more often than its borders, and its own borders are padded (`approximations.survey` measures all three):

    history_draw           one history, drawn anew per step; the cost of N = 1
    negatives_every = k    the term in every k-th step only, k times as strong
    features_crop = side   distances measured on one random square of the patch, drawn anew per step
    lambda_ratio = r       lambda set in each step so that lambda l_neg / l_rec is r; ours
    history_threshold      the authors' adaptive rule in place of the schedule
    negatives = "synthetic"  no histories: the degradation taken back in part, up to the PSNR of simpler restorers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.method import precision
from mclir_nb.method.history import HistoryModels
from mclir_nb.method.losses import C2R_INDOOR, LossParts
from mclir_nb.seeds import stream
from mclir_nb.training import distributed, schedule
from mclir_nb.training.recipes import Recipe


class Window(nn.Module):
    """A feature network that sees one square of the images; `place` moves it."""

    def __init__(self, features: nn.Module, side: int, patch_size: int):
        super().__init__()
        self.pixels_at_once = getattr(features, "pixels_at_once", 2**16) * (patch_size // side) ** 2
        self.inner, self.side, self.source = features, side, features.source
        self.layer_weights, self.top, self.left = features.layer_weights, 0, 0

    def place(self, size: int, generator: torch.Generator) -> None:
        """Draw a new place in a patch of `size` pixels a side, on the grid of 8 that strided features sample."""
        places = torch.randint((size - self.side) // 8 + 1, (2,), generator=generator)
        self.top, self.left = (8 * places).tolist()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        rows, columns = slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)
        return self.inner(image[..., rows, columns])


class Negatives:
    """The negative term of a run: what its steps need beside the objective.

    Args:
        history: the history models, or None for objectives without.
        features: the feature network the objective uses; a `Window` is moved before each step.
    """

    def __init__(self, recipe: Recipe, history: HistoryModels | None, features: nn.Module | None):
        self.recipe, self.history, self.features = recipe, history, features
        self.thresholds: tuple[float, ...] | None = None  # dB of what made each negative, for C2R's curriculum
        if recipe.negatives == "synthetic":
            self.thresholds = C2R_INDOOR

    def weight(self, step: int, factor: float) -> float:
        """What multiplies l_neg in this step; 0 where the term is left out. `factor`: the guard's."""
        if step % self.recipe.negatives_every:
            return 0.0
        return schedule.weight(self.recipe, step) * factor * self.recipe.negatives_every

    def of(self, lq: Tensor, gt: Tensor, step: int) -> list[Tensor]:
        """The negatives of one step, each (B, 3, H, W) like gt, without a graph; none where the weight is 0."""
        recipe = self.recipe
        if isinstance(self.features, Window):
            self.features.place(recipe.patch_size, stream(recipe.seed, "window", step))
        if not self.weight(step, 1.0):
            return []
        if recipe.negatives == "synthetic":
            return [partly_restored(lq, gt, psnr) for psnr in C2R_INDOOR]
        if self.history is None:
            return []
        with precision.used(recipe.history_precision, lq.device):
            if not recipe.history_draw:
                return self.history.negatives(lq)
            chance = stream(recipe.seed, "draw", step)
            return self.history.negatives(lq, int(torch.randint(len(self.history.models), (), generator=chance)))

    def held(self, parts: LossParts, outputs: Sequence[Tensor]) -> LossParts:
        """With `lambda_ratio`, the parts with a total in which the second term is that share of the first.

        The gradient sees lambda alone; nothing waits for the device.
        """
        if self.recipe.lambda_ratio is None or not outputs:
            return parts
        sign = 1 if self.recipe.objective == "history-positive" else -1
        l_rec, l_neg = distributed.mean(torch.stack(parts[:2]).detach())
        weight = self.recipe.lambda_ratio * l_rec / l_neg.clamp_min(1e-12)
        return parts._replace(total=parts.l_rec + sign * weight * parts.l_neg)

    def adapt(self, model: nn.Module, restored: Tensor, gt: Tensor) -> None:
        """The authors' adaptive rule, before the optimiser's step as in the official class."""
        if self.history and self.recipe.history_threshold is not None:
            self.history.adaptive_update(model, restored, gt, self.recipe.history_threshold)

    def update(self, model: nn.Module, step: int) -> None:
        """Refresh the histories that are due by the schedule, after the optimiser's step."""
        if self.history and self.recipe.history_threshold is None:
            self.history.update(model, step)

    def measured(self, psnrs: Sequence[float]) -> None:
        """C2R's curriculum over own histories: their validation PSNR in dB, as of now."""
        self.thresholds = tuple(psnrs)

    def state_dict(self) -> dict:
        return {"thresholds": self.thresholds}

    def load_state_dict(self, state: dict) -> None:
        thresholds = state.get("thresholds") or (C2R_INDOOR if self.recipe.negatives == "synthetic" else None)
        self.thresholds = tuple(thresholds) if thresholds else None


def partly_restored(lq: Tensor, gt: Tensor, psnr: float) -> Tensor:
    """gt with a share of the degradation left in it, so that each image has `psnr` dB: a synthetic simpler restorer.

    An lq that is better than that is returned as it is. C2PNet uses the outputs of six published dehazing networks,
    whose PSNR these have; the images themselves are ours. A smaller lq is enlarged bicubically first.

    Args: lq (B, 3, h, w) and gt (B, 3, H, W) in [0, 1]. Returns: (B, 3, H, W).
    """
    if lq.shape != gt.shape:
        lq = F.interpolate(lq, size=gt.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
    error = (lq - gt).square().mean(dim=(1, 2, 3), keepdim=True)
    share = (10 ** (-psnr / 10) / error.clamp(min=1e-12)).sqrt().clamp(max=1)
    return torch.lerp(gt, lq, share)
