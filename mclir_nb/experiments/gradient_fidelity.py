"""How much of the SPN gradient survives what makes it cheaper: lower precision, and the named approximations.

Late in training the histories' outputs differ from the model's by little more than rounding. An L1 distance passes on
only the signs of the differences, so a wrong sign is a wrong gradient: `precisions` sets it beside float64.

Approximations are off by default. One random history, and the term in every k-th step only, have the exact gradient on
average. Features on a square do not: the middle of a patch is seen more often than its borders, and the square's own
borders are padded; `approximations` says how much is left.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb.experiments import timing
from mclir_nb.method import distances, precision, push
from mclir_nb.training import macs
from mclir_nb.training.build import make_negatives
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
        model: the trained network, float32.
        histories: float32 networks, as in training.
        lq: (B, 3, H, W), a few patches.
        features: the feature network of the loss.

    Returns:
        Per arm: arm, cosine (with the float64 gradient), l_neg (relative to float64), signal (mean over the histories,
        see `precision.signal`), and distance_K, mean |restored - negative K| in float64.
    """
    with torch.no_grad():
        restored = model(lq)
        outputs = {}
        for name in {p for pair in PRECISIONS.values() for p in pair}:
            with precision.autocast(name, lq.device):
                outputs[name] = [history(lq).float() for history in histories]
        exact = copy.deepcopy(model).double()(lq.double())
        exact_negatives = [copy.deepcopy(history).double()(lq.double()) for history in histories]
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
    """Train a recipe with SPN, writing nothing, and look at its `precisions` after each step in `looks`.

    Returns:
        The rows of `precisions`, with a column step in front.
    """
    trainer = Trainer(recipe.replace(objective="spn"), torch.device(device))
    history, features = trainer.history, trainer.features
    assert history and features  # the objective is SPN
    _, lq, _ = trainer.patches.batch(recipe.steps + 1)  # patches that are not trained on
    tables = []
    for batch in trainer.patches.batches(1, max(looks)):
        trainer.advance(*batch)
        if trainer.step in looks:
            trainer.model.eval()
            table = precisions(trainer.model, history.models, lq.to(trainer.device), features)
            trainer.model.train()
            table.insert(0, "step", trainer.step)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def named_approximations(recipe: Recipe) -> dict[str, dict]:
    """The changes to a recipe, by name."""
    return {
        "exact": {},
        "one random history": {"sampling": "sampled", "sampled_every": 1},
        "sampled": {"sampling": "sampled"},
    }


@precision.full_float32()
def approximations(recipe: Recipe, steps: int = 30, draws: int = 16, rounds: int = 5, device: str = "cpu"):
    """Train a recipe with SPN for some steps, then look at the next batch with each approximation.

    Args:
        recipe: what is trained, with SPN.
        steps: before the measurement, so that the histories differ.
        draws: how often each approximation draws its histories, steps or squares.
        rounds: timed steps per approximation, in turn.
        device: where all of it runs.

    Returns:
        Table with a row per name: name, cost (of a step, relative to the exact SPN step), one_draw (mean cosine of one
        draw's gradient of the term, by the output, with the exact one) and mean_of_draws (cosine of their mean).
    """
    where = torch.device(device)
    trainer = Trainer(recipe.replace(objective="spn"), where)
    for batch in trainer.patches.batches(1, steps):
        trainer.advance(*batch)
    batch = trainer.patches.batch(steps + 1)
    gt, lq = (image.to(where, memory_format=torch.channels_last) for image in batch[:2])
    with torch.no_grad():
        restored = trainer.model(lq)
    changed = {name: trainer.recipe.replace(**changes) for name, changes in named_approximations(recipe).items()}
    recipes = {name: macs.with_period(own) for name, own in changed.items()}
    terms = {name: make_negatives(own, trainer.history) for name, own in recipes.items()}

    def pushed(name: str, step: int) -> Tensor:
        """lambda times the gradient of l_neg by the output, as this step would have it; zero in a step left out."""
        weight = recipes[name].weight_at(step)
        outputs = terms[name].outputs(lq, gt, step, weight)
        features = trainer.features
        return weight * push.image_push(restored, outputs, features) if outputs and features else 0 * restored

    def cycle(name: str) -> None:
        trainer.recipe, trainer.negatives = recipes[name], terms[name]
        for _ in range(recipes[name].period):
            trainer.advance(*batch)

    pushes = {name: [pushed(name, step) for step in range(1, draws + 1)] for name in terms}
    taken = timing.median_seconds({name: partial(cycle, name) for name in terms}, rounds, where)
    exact, rows = [pushes["exact"][0]], []
    for name, found in pushes.items():
        drawn = [push.cosine([one], exact) for one in found if one.any()]
        price = taken[name] / recipes[name].period / taken["exact"]
        rows.append((name, price, sum(drawn) / len(drawn), push.cosine([torch.stack(found).mean(0)], exact)))
    return pd.DataFrame(rows, columns=["name", "cost", "one_draw", "mean_of_draws"])
