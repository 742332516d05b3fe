"""How far the history models lag behind the network, what they get wrong, and what their disagreement knows.

All functions take images (3,H,W) in [0,1] or the frames of a run (`frames.read`), and return tables or maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from mclir_nb import stream
from mclir_nb.evaluation.evaluate import enlarge
from mclir_nb.method import distances, losses, push
from mclir_nb.method.history import HistoryModels
from mclir_nb.method.negatives import noise_as_far
from mclir_nb.training import build, frames, records
from mclir_nb.training.frames import Frames
from mclir_nb.training.recipes import Recipe

PUSH, MOVED = "the push", "where it has moved"  # directions on the picture, see `Pushes.aims`
NOISE, FOREIGN = "push from noise of the same size", "push from another seed's past"


def over_time(kept: Frames, recipe: Recipe, features: nn.Module) -> pd.DataFrame:
    """How far each history is from the network at each kept moment (an EMA's: from the EMA's output), three ways.

    Returns:
        One row per moment and history:
        step; history, counted from 1; every; age, the steps since its last refresh (NaN under the adaptive rule, which
        refreshes when the error spreads and keeps no account of it);
        weights: |history - model|_2 / |model|_2;
        pixels: mean |restored - negative|, 1 is the whole range from black to white;
        features: sum_l w_l mean |phi_l(restored) - phi_l(negative)|, what this history adds to l_neg, before the mean;
        progress, gap and cosine of `push.condition`: moving on from the history helps where progress > gap;
        votes of `push.votes`: the share of feature elements that moving on takes nearer to gt; 0.5 is a coin.

    Raises:
        ValueError: another number of histories in the moments than in the recipe.
    """
    every = recipe.history_every
    if len(every) != kept.negatives.shape[1]:
        raise ValueError(f"the recipe has {len(every)} histories and the moments {kept.negatives.shape[1]}")
    rows = []
    for s, step in enumerate(kept.steps):
        restored = kept.present[s]
        for k, interval in enumerate(every):
            negative = kept.negatives[s, k]
            age = step % interval if interval else step
            row: dict[str, Any] = {"step": step, "history": k + 1, "every": interval}
            row["age"] = age if recipe.history_threshold is None else math.nan
            row["weights"] = float(kept.distances[s, k])
            row["pixels"] = float((restored - negative).abs().mean())
            row["features"] = float(distances.feature_distance(restored[None], [negative[None]], features))
            row |= push.condition(restored, negative, kept.gt)._asdict()
            rows.append(row | {"votes": push.votes(restored[None], kept.gt[None], [negative[None]], features)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Pushes:
    """The push of a run at each kept moment, as its optimiser got it: with the run's own features and lambda."""

    recipe: Recipe  # of the run
    kept: Frames  # its S moments of one picture
    lambdas: list[float]  # lambda around each moment, from the run's log
    # (S,3,H,W), where a step of descent on lambda times the second term takes each value. The unit is the pull of the
    # L1 loss, which takes every value towards gt with strength 1.
    push: Tensor
    # the same from negatives that are no past of this network: NOISE, white noise around the present output of each
    # history's rms distance, and FOREIGN, the histories of another run at the same step, if any
    controls: dict[str, Tensor]
    table: pd.DataFrame  # of `over_time`: per moment and history its age, progress, gap, cosine and votes

    @property
    def moved(self) -> Tensor:
        """(S,3,H,W), where the network has moved: its output minus the mean of its histories'. Not the push."""
        return self.kept.present - self.kept.negatives.mean(dim=1)

    def towards(self, direction: Tensor) -> Tensor:
        """(S,H,W), how far a direction (S,3,H,W) leads towards gt (above 0) or away from it, mean over R, G, B."""
        return (direction * (self.kept.gt - self.kept.restored).sign()).mean(dim=1)

    def aims(self) -> pd.DataFrame:
        """Where the push, its controls and the network's own movement point, on this picture.

        Returns:
            One row per moment and direction: step; direction; share, the part of the direction's length that points
            towards gt (0.5 is a coin; NaN if it has no length); net, how much faster |restored - gt| falls with it,
            where the pull alone is 1 (NaN for the movement, which is no force).
        """
        parts = []
        for name, direction in {PUSH: self.push, **self.controls, MOVED: self.moved}.items():
            towards = direction * (self.kept.gt - self.kept.restored).sign()
            share = towards.clamp(min=0).sum(dim=(1, 2, 3)) / towards.abs().sum(dim=(1, 2, 3))
            net = towards.mean(dim=(1, 2, 3)).tolist() if name != MOVED else math.nan
            part = {"step": self.kept.steps, "direction": name, "share": share.tolist(), "net": net}
            parts.append(pd.DataFrame(part))
        return pd.concat(parts, ignore_index=True)


def pushes(run_dir: str | Path, foreign: str | Path | None = None) -> Pushes:
    """The push at each moment that a run has kept, and what stands beside it. It takes seconds and trains nothing.

    Args:
        run_dir: of a run with history models, finished or not.
        foreign: of a run with the same recipe and another seed, whose past is a control; None: without it.

    Raises:
        ValueError: a run without moments or without a log, or whose feature network is not here; a foreign run that
            kept other moments or another picture.
    """
    run, kept = records.Run(Path(run_dir).expanduser()), frames.read(run_dir)
    recipe, log = run.recipe, run.log
    features = build.make_features(recipe, torch.device("cpu"))
    assert features  # a plain run keeps no moments
    after = [log[log["step"] >= step].head(1) for step in kept.steps]
    lambdas = [float(np.nan_to_num((row if len(row) else log.tail(1))["lambda_neg"].iloc[0])) for row in after]
    present = kept.present[:, None].expand_as(kept.negatives).flatten(0, 1)
    noise = noise_as_far(present, kept.negatives.flatten(0, 1), stream(recipe.seed, "noise around the present"))
    candidates = {PUSH: kept.negatives, NOISE: noise.view_as(kept.negatives)}
    if foreign is not None:
        others = frames.read(foreign)
        facts = [(x.name, x.steps, x.negatives.shape) for x in (others, kept)]
        if facts[0] != facts[1]:
            told = [f"{len(steps)} moments of {name!r} up to step {steps[-1]}" for name, steps, _ in facts]
            raise ValueError(
                f"the foreign run kept {told[0]}, this one {told[1]}; train it with the same recipe and another seed"
            )
        candidates[FOREIGN] = others.negatives
    found: dict[str, Tensor] = {}
    for name, pasts in candidates.items():
        asked = []
        for s, step in enumerate(kept.steps):
            images = kept.restored[s][None], kept.gt[None], list(pasts[s][:, None])
            context: dict[str, Any] = dict(features=features, lq=kept.lq[None], averaged=kept.present[s][None])
            context |= dict(thresholds=None, best_psnr=0.0, generator=stream(recipe.seed, "objective", step))
            gradient = push.image_gradients(*images, losses.OBJECTIVES[recipe.objective], **context)[1]
            asked.append(-lambdas[s] * kept.gt.numel() * gradient[0])
        found[name] = torch.stack(asked)
    return Pushes(recipe, kept, lambdas, found.pop(PUSH), found, over_time(kept, recipe, features))


def ages(every: Sequence[int], decay: Sequence[float], steps: int) -> pd.DataFrame:
    """How old each history model is, on average over the weights it is mixed from, along so many steps.

    The package's own `HistoryModels` on a model whose only weight is the number of the step: a history's weight is
    then the mean birthday of what is in it.

    Returns:
        A row per step, as its loss saw the histories: `step` and one column per history, its age in steps.
    """
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64).requires_grad_(False)
    model.weight.zero_()
    histories, rows = HistoryModels(model, every, decay), []
    for step in range(1, steps + 1):
        model.weight.fill_(step)
        rows.append([step, *(step - history.get_parameter("weight").item() for history in histories.models)])
        histories.update(model, step)
    return pd.DataFrame(rows, columns=["step", *(f"every {s}" for s in every)])


def mistakes(restored: Tensor, negatives: Sequence[Tensor], gt: Tensor) -> pd.DataFrame:
    """What the network and its histories still get wrong in one picture, and whether it is the same.

    Returns:
        One row for the network and one per history: image; error, mean |image - gt|; same, the cosine between its
        error (image - gt) and that of the network: 1 where they are wrong in the same way.
    """
    named = {"restored": restored} | {f"history {k}": n for k, n in enumerate(negatives, 1)}
    rows = [
        (name, float((image - gt).abs().mean()), push.cosine([image - gt], [restored - gt]))
        for name, image in named.items()
    ]
    return pd.DataFrame(rows, columns=["image", "error", "same"])


def spread(negatives: Sequence[Tensor]) -> Tensor:
    """Standard deviation over two negatives or more, averaged over R, G, B: (H,W), 0 where all histories agree.

    The map that "spn-uncertainty" weighs with.
    """
    if len(negatives) < 2:
        raise ValueError(f"a spread needs 2 history models or more, got {len(negatives)}")
    return torch.stack(list(negatives)).std(dim=0, correction=0).mean(dim=0)


def edges(image: Tensor) -> Tensor:
    """Length of the brightness gradient at each pixel, central differences with repeated borders: (H,W)."""
    padded = F.pad(image.mean(dim=0)[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    return torch.hypot(across, down) / 2


def spread_against_error(restored: Tensor, negatives: Sequence[Tensor], gt: Tensor, lq: Tensor) -> dict[str, float]:
    """Does the spread of the histories show where the restored image is wrong?

    Rank correlations (Spearman) over all pixels between the error, mean over R, G, B of |restored - gt|, and a map that
    needs no gt. Pixels are no independent observations, so no significance is given: compare pictures instead.

    Args:
        restored, gt: (3,H,W).
        negatives: one such image per history.
        lq: the same size or smaller by a whole factor.

    Returns:
        spread: the histories' disagreement; and two rivals that need no history: edges, the brightness gradient of
        the restored image; change, |restored - lq|, where the network did something. spread_beyond: the partial
        correlation of the spread with what both rivals explain taken out, in ranks.

    Raises:
        ValueError: the histories agree everywhere, or another map is constant.
    """
    maps = {"error": (restored - gt).abs().mean(dim=0), "spread": spread(negatives), "edges": edges(restored)}
    maps["change"] = (restored - enlarge(lq, gt)).abs().mean(dim=0)
    if constant := [name for name, values in maps.items() if values.max() == values.min()]:
        raise ValueError(f"the {constant[0]} is the same at every pixel, so it has no ranks; take another step")
    ranks = {name: stats.rankdata(values.flatten().double().numpy()) for name, values in maps.items()}
    found = {name: float(np.corrcoef(ranks[name], ranks["error"])[0, 1]) for name in ("spread", "edges", "change")}
    rivals = np.stack([np.ones_like(ranks["error"]), ranks["edges"], ranks["change"]], axis=1)
    left = [ranks[name] - rivals @ np.linalg.lstsq(rivals, ranks[name])[0] for name in ("spread", "error")]
    return found | {"spread_beyond": float(np.corrcoef(*left)[0, 1])}


def spread_over_time(kept: Frames) -> pd.DataFrame:
    """`spread_against_error` at each kept moment: its numbers and the step; no row where there is no spread."""
    rows = []
    for step, restored, negatives in zip(kept.steps, kept.restored, kept.negatives, strict=True):
        if float(spread(list(negatives)).max()) > 0:  # exact copies of the network have none yet
            rows.append({"step": step} | spread_against_error(restored, list(negatives), kept.gt, kept.lq))
    return pd.DataFrame(rows)


def grouped(by: Tensor, values: Tensor, groups: int = 10) -> pd.DataFrame:
    """Means over equal groups of pixels, from the least `by` to the greatest: error by spread, gain by degradation.

    Returns:
        Columns by and mean, `groups` rows: the means of `by` and of `values`, both (H,W), in each group.
    """
    order = by.flatten().argsort(stable=True).tensor_split(groups)
    means = [[float(part.flatten()[group].mean()) for part in (by, values)] for group in order]
    return pd.DataFrame(means, columns=["by", "mean"])


def improvement(before: Tensor, after: Tensor, gt: Tensor) -> Tensor:
    """|before - gt| - |after - gt|, mean over R, G, B: (H,W), above 0 where `after` is nearer to gt."""
    return ((before - gt).abs() - (after - gt).abs()).mean(dim=0)
