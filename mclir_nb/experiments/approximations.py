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
from mclir_nb.method.negatives import Negatives, Window
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.train import Trainer


def named(recipe: Recipe) -> dict[str, dict]:
    """The changes to a recipe, by name: one history, every fourth step, a square of half the patch's side."""
    return {
        "exact": {},
        "one random history": {"history_draw": True},
        "every 4th step": {"negatives_every": 4},
        "features on a quarter": {"features_crop": max(16, recipe.patch_size // 16 * 8)},
    }


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

    terms = {name: _term(trainer, changes) for name, changes in named(recipe).items()}
    gradients = {
        name: [_pull(term, restored, lq, gt, step) for step in range(1, draws + 1)] for name, term in terms.items()
    }

    def stepping(term: Negatives):
        def step() -> None:  # as many as make one cycle of the term
            trainer.negatives, trainer.features = term, term.features
            for _ in range(term.recipe.negatives_every):
                trainer.advance(*batch)

        return step

    taken = timing.in_turn({name: stepping(term) for name, term in terms.items()}, rounds, where)
    exact, rows = gradients["exact"][0], []
    for name, found in gradients.items():
        drawn = [_cosine(g, exact) for g in found if g.any()]
        cost = taken[name] / terms[name].recipe.negatives_every / taken["exact"]
        rows.append((name, cost, sum(drawn) / len(drawn), _cosine(torch.stack(found).mean(0), exact)))
    return pd.DataFrame(rows, columns=["name", "cost", "one_draw", "mean_of_draws"])


def _term(trainer: Trainer, changes: dict) -> Negatives:
    recipe = trainer.recipe.replace(**changes)
    features = trainer.features
    if recipe.features_crop:
        features = Window(features, recipe.features_crop, recipe.patch_size)
    return Negatives(recipe, trainer.history, features)


def _pull(term: Negatives, restored: Tensor, lq: Tensor, gt: Tensor, step: int) -> Tensor:
    """lambda times the gradient of l_neg by the output, as this step would have it; zero in a step left out."""
    outputs = term.of(lq, gt, step)
    if not outputs:
        return torch.zeros_like(restored)
    return term.weight(step, 1.0) * gradient(restored, outputs, term.features)[1]


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))
