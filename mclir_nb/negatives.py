"""What a step pushes away from: whose outputs, how often, seen through which window, with which weight.

By default every history model takes part in every step with a fixed lambda: the exact method. A recipe can ask for
named approximations, each unbiased for the gradient of the exact term, and for other sources of negatives:

    histories_per_step = 1     one history, drawn anew per step; the cost of N = 1
    negatives_every = k        the term in every k-th step only, k times as strong
    features_crop = side       distances measured on one random square of the patch, drawn anew per step
    lambda_rule = "ratio"      lambda set anew in each step so that r = lambda l_neg / l_rec is `target_r`; ours
    history_update             "schedule", or the authors' "adaptive" rule
    negatives = "synthetic"    no histories: the degradation taken back in part, up to the PSNR of simpler restorers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb import precision
from mclir_nb.history import HistoryModels
from mclir_nb.losses import C2R_INDOOR, LossParts
from mclir_nb.patches import stream
from mclir_nb.recipes import Recipe

LARGEST = 100  # lambda by ratio is at most so many times the recipe's: l_neg goes to 0 with the learning rate


class Window(nn.Module):
    """A feature network that sees one square of the images; `place` moves it."""

    def __init__(self, features: nn.Module, side: int, patch_size: int):
        super().__init__()
        self.pixels_at_once = getattr(features, "pixels_at_once", 2**16) * (patch_size // side) ** 2
        self.inner, self.side, self.source = features, side, features.source
        self.layer_weights, self.top, self.left = features.layer_weights, 0, 0

    def place(self, size: int, generator: torch.Generator) -> None:
        """Draw a new place in a patch of `size` pixels a side."""
        self.top, self.left = torch.randint(size - self.side + 1, (2,), generator=generator).tolist()

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
        self.l_rec = self.l_neg = None  # running means for lambda by ratio
        self.thresholds: tuple[float, ...] | None = (
            None  # dB of what made each negative, for C2R's curriculum
        )
        if recipe.negatives == "synthetic":
            self.thresholds = C2R_INDOOR

    def take_part(self, step: int) -> bool:
        """Whether the term is part of this step."""
        return step % self.recipe.negatives_every == 0

    def of(self, lq: Tensor, gt: Tensor, step: int) -> list[Tensor]:
        """The negatives of one step, each (B, 3, H, W) like gt, without a graph; none in a step that is left out."""
        recipe = self.recipe
        if isinstance(self.features, Window):
            self.features.place(recipe.patch_size, stream(recipe.seed, "window", step))
        if recipe.negatives == "synthetic" and recipe.objective != "plain":
            return [partly_restored(lq, gt, psnr) for psnr in C2R_INDOOR]
        if self.history is None or not self.take_part(step):
            return []
        with precision.used(recipe.history_precision, lq.device):
            if recipe.histories_per_step is None:
                return self.history.negatives(lq)
            draw = stream(recipe.seed, "histories", step)
            chosen = torch.randperm(len(self.history.models), generator=draw).tolist()
            return [self.history.negatives(lq, k)[0] for k in sorted(chosen[: recipe.histories_per_step])]

    def weight(self, factor: float) -> float | Tensor:
        """lambda of this step. `factor`: the guard's."""
        recipe = self.recipe
        if recipe.lambda_rule == "ratio" and self.l_neg is not None:
            by_ratio = recipe.target_r * self.l_rec / self.l_neg
            return by_ratio.clamp(max=LARGEST * recipe.weight) * factor * recipe.negatives_every
        return recipe.weight * factor * recipe.negatives_every

    @torch.no_grad()
    def after(self, parts: LossParts, step: int) -> None:
        """Remember what lambda by ratio needs: means of the last ten steps or so. Nothing waits for the device."""
        if self.recipe.lambda_rule != "ratio" or not self.take_part(step):
            return
        l_rec, l_neg = parts.l_rec.detach(), parts.l_neg.detach()
        if self.l_neg is None:
            self.l_rec, self.l_neg = l_rec.clone(), l_neg.clone()
        else:
            self.l_rec.lerp_(l_rec, 0.1)
            self.l_neg.lerp_(l_neg, 0.1)

    def update(self, model: nn.Module, step: int) -> None:
        """Refresh the histories that are due by the schedule, after the optimiser's step."""
        if self.history and self.recipe.history_update == "schedule":
            self.history.update(model, step)

    def adapt(self, model: nn.Module, restored: Tensor, gt: Tensor) -> None:
        """The authors' adaptive rule, before the optimiser's step as in the official class."""
        if self.history and self.recipe.history_update == "adaptive":
            rule = self.recipe.adaptive_threshold, self.recipe.adaptive_decay
            self.history.adaptive_update(model, restored.detach(), gt, *rule)

    def measured(self, psnrs: Sequence[float]) -> None:
        """C2R's curriculum over own histories: their validation PSNR in dB, as of now."""
        self.thresholds = tuple(psnrs)

    def state_dict(self) -> dict:
        state = {"thresholds": self.thresholds, "turn": self.history.turn if self.history else 0}
        return state if self.l_neg is None else state | {"l_rec": self.l_rec, "l_neg": self.l_neg}

    def load_state_dict(self, state: dict) -> None:
        thresholds = state.get("thresholds") or (C2R_INDOOR if self.recipe.negatives == "synthetic" else None)
        self.thresholds = tuple(thresholds) if thresholds else None
        if self.history:
            self.history.turn = state.get("turn", 0)
        self.l_rec, self.l_neg = state.get("l_rec"), state.get("l_neg")


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
