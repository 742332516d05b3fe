"""Watch a training run from inside: what the model and its histories make of the same pictures, step after step.

For looking only: no run folder, and no guard on the loss, so that a run can be seen to diverge. `train.train` is
what keeps results and stops in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb.evaluation import metrics
from mclir_nb.method import losses, precision, push
from mclir_nb.seeds import stream
from mclir_nb.training import dose, frames, train
from mclir_nb.training.recipes import Recipe


@dataclass(frozen=True)
class Watched:
    """S frames of one run over B validation pictures and K history models.

    Attributes:
        names: of the B pictures.
        lq: (B, 3, h, w), in [0, 1].
        gt: (B, 3, H, W), in [0, 1].
        restored: S outputs of the model, (B, 3, H, W).
        negatives: S lists of K outputs of the histories.
        table: one row per frame: `step`; `l_rec`, `l_neg` and `r` = lambda l_neg / l_rec on these pictures; `psnr` and
            `psnr_history_k`, means over the pictures in dB; `alignment`, the cosine between the push on the weights
            and the way that the weights have come since the histories were taken (NaN at the start); `control`, the
            same for the push away from noise around the output, of the histories' rms distance.
        stopped: why the run ended early, else empty.
    """

    names: list[str]
    lq: Tensor
    gt: Tensor
    restored: list[Tensor]
    negatives: list[list[Tensor]]
    table: pd.DataFrame
    stopped: str

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
    model, device = trainer.model.eval(), trainer.device  # as the histories are: without drop path
    restored = model(lq.to(device))
    history, features = trainer.history, trainer.features
    assert history and features  # `watch` refuses recipes without
    negatives = history.negatives(lq.to(device))
    weight = trainer.recipe.weight
    parts = losses.spn_loss(restored, gt.to(device), negatives, features=features, lambda_neg=weight)
    source = stream(trainer.recipe.seed, "control", trainer.step)
    noise = [torch.randn(lq.shape[:2] + gt.shape[2:], generator=source).to(device) for _ in negatives]
    noise = [restored + (n - restored).square().mean().sqrt() * x for n, x in zip(negatives, noise, strict=True)]
    control = losses.spn_loss(
        restored, gt.to(device), [n.detach() for n in noise], features=features, lambda_neg=weight
    )
    weights, way = list(model.parameters()), _way(model, history.models)
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


def extrapolations(watched: Watched, reach: Sequence[float] = (-1, -0.5, 0.5, 1)) -> pd.DataFrame:
    """Whether the outputs improve if one goes on in the direction away from the past.

    Gain in dB of restored + reach * (restored - mean of the negatives) over restored: above 0 is further away from
    the past, below 0 towards it, -1 is the mean of the past itself.

    Args:
        watched: of `watch`.
        reach: multiples of the way from the past to the present.

    Returns:
        One row per frame: `step` and one column per reach.
    """
    rows = []
    for row, restored, negatives in zip(watched.table.itertuples(), watched.restored, watched.negatives, strict=True):
        way = restored - torch.stack(negatives).mean(0)
        moved = [metrics.mean_psnr((restored + a * way).clamp(0, 1), watched.gt) - row.psnr for a in reach]
        rows.append([row.step, *moved])
    return pd.DataFrame(rows, columns=["step", *reach])


@torch.no_grad()
def _way(model: nn.Module, histories: Sequence[nn.Module]) -> list[Tensor]:
    """Where the weights stand, seen from the mean of the histories: the way they have come."""
    olds = zip(*(history.parameters() for history in histories), strict=True)
    return [now - torch.stack(old).mean(0) for now, old in zip(model.parameters(), olds, strict=True)]
