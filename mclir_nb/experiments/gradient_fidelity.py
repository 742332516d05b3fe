"""How much of the SPN gradient survives what makes it cheaper: lower precision, and sampling.

Late in training the histories' outputs differ from the model's by little more than rounding. An L1 distance passes on
only the signs of the differences, so a wrong sign is a wrong gradient: `precisions` sets it beside float64.

What `sampling` leaves out has the exact gradient on average; `sampling_noise` measures the noise that it adds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb.experiments import timing
from mclir_nb.method import distances, precision, push
from mclir_nb.training import dose, macs
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer

# precision of the history models, of the feature network
PRECISIONS = {
    "float32": ("float32", "float32"),
    "bf16 histories": ("bfloat16", "float32"),
    "bf16 features": ("float32", "bfloat16"),
    "bf16 both": ("bfloat16", "bfloat16"),
    "fp16 histories": ("float16", "float32"),
    "fp16 both": ("float16", "float16"),
}


@precision.full_float32()
def precisions(model: nn.Module, histories: Sequence[nn.Module], lq: Tensor, features: nn.Module) -> pd.DataFrame:
    """The gradient of l_neg in each of `PRECISIONS` beside float64; the model's own output is float32 in all of them.

    Args:
        model, histories: the trained network and its past, float32.
        lq: (B, 3, H, W), a few patches.
        features: of the loss.

    Returns:
        Per arm: arm, cosine (with the float64 gradient), l_neg (relative to float64), signal (mean over the histories,
        see `precision.signal`), and distance_K, mean |restored - negative K| in float64.
    """
    outputs = {}
    with torch.no_grad():
        restored = model(lq)
        for name in {of_histories for of_histories, _ in PRECISIONS.values()}:
            with precision.autocast(name, lq.device):
                outputs[name] = [history(lq).float() for history in histories]
        exact, *exact_negatives = (copy.deepcopy(network).double()(lq.double()) for network in (model, *histories))
    true_features = copy.deepcopy(features).double()
    true_value = distances.feature_distance(exact, exact_negatives, true_features)
    true_push = push.image_push(exact, exact_negatives, true_features)
    rows = []
    for arm, (of_histories, of_features) in PRECISIONS.items():
        negatives = outputs[of_histories]
        with precision.autocast(of_features, lq.device):
            value = distances.feature_distance(restored, negatives, features)
            found = push.image_push(restored, negatives, features)
        coarsest = max(precision.ROUNDING[of_histories], precision.ROUNDING[of_features])
        above = precision.signal(restored, negatives, features, coarsest)
        row = {"arm": arm, "cosine": push.cosine([found], [true_push]), "l_neg": float(value / true_value)}
        rows.append(row | {"signal": float(above.mean())})
    gaps = {f"distance_{k}": float((exact - n).abs().mean()) for k, n in enumerate(exact_negatives)}
    return pd.DataFrame(rows).assign(**gaps)


def precisions_while_training(recipe: Recipe, looks: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """Train a recipe with SPN, writing nothing: the rows of `precisions` after each step in `looks`, column step."""
    trainer, tables = _trainer(recipe, device), []
    history, features = trainer.history, trainer.features
    assert history and features  # the objective is SPN
    _, lq, _ = trainer.patches.batch(recipe.steps + 1)  # patches that are not trained on
    for batch in trainer.patches.batches(1, max(looks)):
        trainer.advance(*batch)
        if trainer.step in looks:
            trainer.model.eval()
            table = precisions(trainer.model, history.models, lq.to(trainer.device), features)
            trainer.model.train()
            table.insert(0, "step", trainer.step)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _trainer(recipe: Recipe, device: str) -> Trainer:
    """That of a recipe with SPN, at its dose or lambda."""
    recipe, where = recipe.replace(objective="spn"), torch.device(device)
    return Trainer(dose.with_lambda(recipe, dose.choose(recipe, None, where, quiet=True)), where)


class Estimate(NamedTuple):
    """A way to have the term for less: in how many steps, of how many patches, against how many histories."""

    name: str
    histories: int  # N, all of them or one drawn at random
    every: int  # the term in one step of so many
    patches: int  # of the batch


def estimates(recipe: Recipe) -> list[Estimate]:
    """What `sampling_noise` compares; k of `sampling="sampled"` is among the steps."""
    count, batch = len(recipe.history_every), recipe.batch_size
    own = macs.with_period(recipe.replace(sampling="sampled")).period
    shares = [batch >> halvings for halvings in range(1, batch.bit_length())]
    return [
        Estimate("exact", count, 1, batch),
        *(Estimate("all histories, every k-th step", count, k, batch) for k in (2, 4, 8, 16)),
        *(Estimate("one history, every k-th step", 1, k, batch) for k in sorted({1, 2, own, 8, 16})),
        *(Estimate("one history, some patches of the batch", 1, 1, share) for share in shares),
    ]


@precision.full_float32()
def sampling_noise(
    recipe: Recipe, steps: int = 200, patches: int = 32, rounds: int = 20, device: str = "cpu"
) -> pd.DataFrame:
    """What cheaper estimates of the SPN term save, and the noise they add to the gradient of the weights.

    All of them have the exact gradient on average. The noise of a step is the mean squared distance of its gradient
    from that mean. For the exact step it is what batches differ by; the others add to it. It follows in closed form
    from the gradients of single patches, for L1 and for each history.

    Args:
        recipe: what is trained, with SPN at its dose or lambda, which the added noise depends on.
        steps: before the measurement, so that the histories differ.
        patches: further ones whose gradients are taken, 2 or more.
        rounds: steps timed for each price.

    Returns:
        A row per estimate: its fields, counted (price of a step on average by MACs, relative to a plain one), measured
        (by this machine's clock), and added (noise beside that of the exact step: 0.02 is 2 % more).
    """
    trainer, where = _trainer(recipe, device), torch.device(device)
    recipe = trainer.recipe
    for batch in trainer.patches.batches(1, steps, device=where):
        trainer.advance(*batch)
    pulls, pushes = _gradients_of_patches(trainer, patches)
    asked, counts = estimates(recipe), macs.count(recipe)
    ours, arms = timing.OurSteps(recipe, where), {(count, one.patches) for one in asked for count in (0, one.histories)}
    seconds = timing.median_seconds({arm: partial(ours, *arm) for arm in sorted(arms)}, rounds, where)
    rows = []
    for one in asked:
        passes = one.histories * counts.network + (2 + one.histories) * counts.features  # of one patch
        surplus = passes * one.patches / recipe.batch_size / (3 * counts.network)
        measured = (seconds[one.histories, one.patches] - seconds[0, one.patches]) / seconds[0, recipe.batch_size]
        rows.append((*one, 1 + surplus / one.every, 1 + measured / one.every))
    table = pd.DataFrame(rows, columns=[*Estimate._fields, "counted", "measured"])
    noises = [noise(pulls, pushes, one, recipe.batch_size) for one in asked]
    return table.assign(added=[value / noises[0] - 1 for value in noises])


def _gradients_of_patches(trainer: Trainer, count: int) -> tuple[Tensor, Tensor]:
    """Of L1, (P, D), and of lambda times the term for each history, (P, N, D), by the weights, in float64."""

    def flat(gradient: push.Gradient) -> Tensor:
        return torch.cat([part.flatten() for part in gradient]).double()

    recipe, pulls, pushes = trainer.recipe, [], []
    for gt, lq, _ in trainer.patches.batches(recipe.steps + 1, recipe.steps + count, device=trainer.device):
        gt, lq = gt[:1].to(trainer.device), lq[:1].to(trainer.device)
        found = [
            push.gradients(trainer.model, gt, [negative], trainer.objective, lq=lq, features=trainer.features)
            for negative in trainer.negatives.outputs(lq, gt, 1)
        ]
        pulls.append(flat(found[-1].pull))
        pushes.append(torch.stack([recipe.weight * flat(one.push) for one in found]))
    return torch.stack(pulls), torch.stack(pushes)


def noise(pulls: Tensor, pushes: Tensor, one: Estimate, batch: int) -> float:
    """Trace of the covariance of one step's gradient, R + k xi T: R the mean of L1 over `batch` patches, T the estimate
    of the term, and xi 1 in one step of k. `pulls`, (P, D), and `pushes`, (P, N, D), are of single patches.
    """

    def between(own: Tensor) -> Tensor:
        """E <g_p, g_q> of two different patches: |E g|^2 without the noise in the mean."""
        return (own.sum(0).square().sum() - own.square().sum()) / (len(own) * (len(own) - 1))

    whole = pushes.mean(1)
    drawn = pushes.unbind(1) if one.histories == 1 else [whole]
    squares = [own.square().sum(1).mean() / one.patches + (1 - 1 / one.patches) * between(own) for own in drawn]
    term = one.every * torch.stack(squares).mean() - between(whole)
    both = ((pulls - pulls.mean(0)) * (whole - whole.mean(0))).sum() / (len(pulls) - 1)
    return float((pulls.var(0).sum() + 2 * both) / batch + term)
