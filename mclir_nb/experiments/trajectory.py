"""Watch a training run from inside: what the model and its histories make of the same pictures, step after step.

For looking only: no run folder, and no guard on the loss, so that a run can be seen to diverge. `train.train` is
what keeps results and stops in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mclir_nb import stream
from mclir_nb.evaluation import metrics
from mclir_nb.method import losses, precision, push
from mclir_nb.training import dose, frames, train
from mclir_nb.training.recipes import Recipe


@dataclass(frozen=True)
class Watched:
    """S frames of one run over B validation pictures and K history models; all images in [0, 1]."""

    names: list[str]  # of the B pictures
    lq: Tensor  # (B, 3, h, w)
    gt: Tensor  # (B, 3, H, W)
    restored: list[Tensor]  # S outputs of the model, (B, 3, H, W)
    negatives: list[list[Tensor]]  # S lists of K outputs of the histories
    # One row per frame: step; l_rec, l_neg and r = lambda l_neg / l_rec on these pictures; psnr and psnr_history_k,
    # means over the pictures in dB; alignment, the cosine between the push on the weights and the way that the weights
    # have come since the histories were taken (NaN at the start); control, the same for the push away from noise around
    # the output, of the histories' rms distance.
    table: pd.DataFrame
    stopped: str  # why the run ended early, else empty

    @property
    def steps(self) -> list[int]:
        """The training step of each frame."""
        return self.table.step.tolist()


def watch(recipe: Recipe, looks: int = 40, *, device: torch.device | str = "cpu") -> Watched:
    """Train as `train.train` does, without its guard and its files, and look at it now and then.

    Args:
        recipe: of an objective with history models.
        looks: frames after the first one, the untrained network; spread as `frames.steps` does, so that they
            meet the histories at every age.
        device: where it trains.

    Raises:
        ValueError: an objective without history models.
    """
    if not recipe.uses_history:
        raise ValueError(
            f"objective {recipe.objective!r} keeps no history models to watch; use one of "
            f"{', '.join(sorted(losses.USES_HISTORY))}."
        )
    where = torch.device(device)
    trainer = train.Trainer(dose.with_lambda(recipe, dose.choose(recipe, None, where, quiet=True)), where)
    names, gts, lqs = zip(*trainer.validation, strict=True)
    gt, lq = torch.stack(gts), torch.stack(lqs)
    at, seen, stopped = set(frames.steps(recipe.steps, looks)), [_frame(trainer, gt, lq)], ""
    for batch in trainer.patches.batches(1, recipe.steps):
        try:
            trainer.advance(*batch)
        except train.Diverged as reason:
            stopped = str(reason)
            break
        if trainer.step in at:
            seen.append(_frame(trainer, gt, lq))
    rows, restored, negatives = zip(*seen, strict=True)
    return Watched(list(names), lq, gt, list(restored), list(negatives), pd.DataFrame(rows), stopped)


@precision.full_float32()
def _frame(trainer: train.Trainer, gt: Tensor, lq: Tensor) -> tuple[dict, Tensor, list[Tensor]]:
    """One look: a row of numbers, the model's output and those of its histories, clamped, on the CPU."""
    model, history, device = trainer.model.eval(), trainer.history, trainer.device
    assert history and trainer.features  # `watch` refuses recipes without
    restored, negatives = model(lq.to(device)), history.negatives(lq.to(device))
    weight = trainer.recipe.weight
    source = stream(trainer.recipe.seed, "control", trainer.step)
    white = [torch.randn(lq.shape[:2] + gt.shape[2:], generator=source).to(device) for _ in negatives]
    now = restored.detach()
    noise = [now + (n - now).square().mean().sqrt() * x for n, x in zip(negatives, white, strict=True)]
    parts, control = (
        losses.spn_loss(restored, gt.to(device), past, features=trainer.features, lambda_neg=weight)
        for past in (negatives, noise)
    )
    weights = list(model.parameters())
    olds = zip(*(old.parameters() for old in history.models), strict=True)
    way = [w.detach() - torch.stack(old).mean(0) for w, old in zip(weights, olds, strict=True)]  # they have come
    aligned, controlled = (
        push.cosine(list(torch.autograd.grad(loss, weights, retain_graph=True)), way)
        for loss in (parts.l_neg, control.l_neg)
    )
    model.train()
    row = {"step": trainer.step, "l_rec": parts.l_rec.item(), "l_neg": parts.l_neg.item()}
    row["r"] = weight * row["l_neg"] / row["l_rec"]
    shown, *old = (image.detach().clamp(0, 1).cpu() for image in (restored, *negatives))
    row["psnr"] = metrics.mean_psnr(shown, gt)
    row |= {f"psnr_history_{k}": metrics.mean_psnr(image, gt) for k, image in enumerate(old)}
    row |= {"alignment": aligned, "control": controlled}
    return row, shown, old


def extrapolations(watched: Watched) -> pd.DataFrame:
    """Whether the outputs improve if one goes on in the direction away from the past.

    Returns:
        One row per frame: `step`, and for each reach the gain in dB of restored + reach * (restored - mean of the
        negatives) over restored: above 0 is further away from the past, -1 is the mean of the past itself.
    """
    rows, reach = [], (-1, -0.5, 0.5, 1)
    for row, restored, negatives in zip(watched.table.itertuples(), watched.restored, watched.negatives, strict=True):
        way = restored - torch.stack(negatives).mean(0)
        moved = [metrics.mean_psnr((restored + a * way).clamp(0, 1), watched.gt) - row.psnr for a in reach]
        rows.append([row.step, *moved])
    return pd.DataFrame(rows, columns=["step", *reach])
