"""The named approximations of the negative term: what each saves, and what it does to the gradient.

All are off by default. One random history, and the term in every k-th step only, have the exact gradient on average.
Features on a square do not: the middle of a patch is seen more often than its borders, and the square's own borders
are padded; the table says how much is left.
"""

from __future__ import annotations

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from mclir_nb.experiments import timing
from mclir_nb.experiments.gradient_precision import gradient
from mclir_nb.method import precision
from mclir_nb.method.negatives import Negatives, Window
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.train import Trainer, make_negatives


def named(recipe: Recipe) -> dict[str, dict]:
    """The changes to a recipe, by name: one history, every fourth step, a square of half the patch's side."""
    return {
        "exact": {},
        "one random history": {"history_draw": True},
        "every 4th step": {"negatives_every": 4},
        "features on a quarter": {"features_crop": max(16, recipe.patch_size // 16 * 8)},
    }


@precision.full_float32()
def survey(recipe: Recipe, steps: int = 30, draws: int = 16, rounds: int = 5, device: str = "cpu") -> pd.DataFrame:
    """Train a recipe with SPN for some steps, then look at the next batch with each approximation.

    Args:
        steps: before the measurement, so that the histories differ.
        draws: how often each approximation draws its histories, steps or squares.
        rounds: timed steps per approximation, in turn.
    Returns: per name: name, cost (of a step, relative to the exact SPN step), one_draw (mean cosine of one draw's
        gradient of the term, by the output, with the exact one) and mean_of_draws (cosine of their mean).
    """
    where = torch.device(device)
    trainer = Trainer(recipe.replace(objective="spn"), where)
    for batch in trainer.patches.batches(1, steps):
        trainer.advance(*batch)
    batch = trainer.patches.batch(steps + 1)
    gt, lq = (image.to(where, memory_format=torch.channels_last) for image in batch[:2])
    with torch.no_grad():
        restored = trainer.model(lq)

    recipes = {name: trainer.recipe.replace(**changes) for name, changes in named(recipe).items()}
    terms = {name: _term(trainer, changed) for name, changed in recipes.items()}

    def pull(name: str, step: int) -> Tensor:
        """lambda times the gradient of l_neg by the output, as this step would have it; zero in a step left out."""
        weight = recipes[name].weight_at(step)
        outputs = terms[name].outputs(lq, gt, step, weight)
        if not outputs:
            return torch.zeros_like(restored)
        return weight * gradient(restored, outputs, terms[name].features)[1]

    gradients = {name: [pull(name, step) for step in range(1, draws + 1)] for name in terms}

    def cycle(name: str):
        def steps() -> None:
            trainer.recipe, trainer.negatives, trainer.features = recipes[name], terms[name], terms[name].features
            for _ in range(recipes[name].negatives_every):
                trainer.advance(*batch)

        return steps

    taken = timing.in_turn({name: cycle(name) for name in terms}, rounds, where)
    exact, rows = gradients["exact"][0], []
    for name, found in gradients.items():
        drawn = [_cosine(g, exact) for g in found if g.any()]
        cost = taken[name] / recipes[name].negatives_every / taken["exact"]
        rows.append((name, cost, sum(drawn) / len(drawn), _cosine(torch.stack(found).mean(0), exact)))
    return pd.DataFrame(rows, columns=["name", "cost", "one_draw", "mean_of_draws"])


def _term(trainer: Trainer, recipe: Recipe) -> Negatives:
    features = trainer.features
    if recipe.features_crop:
        features = Window(features, recipe.features_crop, recipe.patch_size)
    return make_negatives(recipe, trainer.history, features)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
