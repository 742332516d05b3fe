"""The dose of a run: which lambda makes the second term a stated share of the optimiser's update.

A lambda says nothing by itself: the same number is a strong push in one task, network or feature network and none in
another. `lambda_for` looks along a short plain run, in which the term is only watched, and gives the lambda for a dose
(`push.Dose.update`, on average over the looks). It is fixed before the run that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from mclir_nb.method import precision, push
from mclir_nb.progress import Progress
from mclir_nb.seeds import stream
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.train import Trainer, pick_device

SEED = 20_231  # of the short plain run; no experiment uses it
LOOKS, BATCHES = 8, 16  # moments of the short run, and batches whose mean gradient is taken at each


class Lambda(NamedTuple):
    """The lambda for a dose, and how far it can be trusted."""

    lambda_neg: float
    dose: float  # what was asked for
    looks: tuple[float, ...]  # the dose of this lambda at each look of the short run; their mean is `dose`

    @property
    def variation(self) -> float:
        """Coefficient of variation of the dose along the short run."""
        return float(np.std(self.looks, ddof=1) / np.mean(self.looks))


@precision.full_float32()
def measured(trainer: Trainer, lambda_neg: float, batches: int = BATCHES) -> push.Dose:
    """The dose of a trainer's objective at this moment. Neither the network nor the optimiser is changed.

    Args:
        trainer: after at least one step; its objective, histories and features are asked.
        lambda_neg: the weight to state the dose for.
        batches: of training patches beyond the last step of the run.

    Raises:
        ValueError: an objective without a second term, no step yet, or a gradient that is not finite.
    """
    state = torch.get_rng_state()  # drop path draws from it
    try:
        return push.dose(_gradients(trainer, batches), lambda_neg, trainer.optimiser)
    finally:
        torch.set_rng_state(state)


def _gradients(trainer: Trainer, batches: int) -> Iterator[push.Gradients]:
    recipe = trainer.recipe
    for step in range(recipe.steps + 1, recipe.steps + 1 + batches):
        gt, lq, _ = trainer.patches.batch(step)
        gt, lq = gt.to(trainer.device), lq.to(trainer.device)
        negatives = trainer.negatives.outputs(lq, gt, step)
        context = dict(lq=lq, best_psnr=trainer.best_psnr, generator=stream(recipe.seed, "objective", step))
        context |= trainer.context(lq, negatives)
        yield push.gradients(trainer.model, lq, gt, negatives, trainer.objective, features=trainer.features, **context)


def lambda_for(recipe: Recipe, dose: float, *, looks: int = LOOKS, device: str = "auto", quiet: bool = False) -> Lambda:
    """The lambda that gives a recipe's objective a dose, from a short plain run with a seed of its own.

    Args:
        recipe: the run that is planned; its own lambda does not matter. The short run takes a quarter of its steps,
            at least 8 per look, with the same schedule of rates and histories.
        dose: the share of the term in the optimiser's update that is wanted, > 0.
        looks: moments at which the dose is measured, evenly spread.
        device: as for `train.train`.
        quiet: print nothing.

    Raises:
        ValueError: the objective has no second term, the dose is not above 0, or the term's gradient is 0.
    """
    if recipe.objective == "plain":
        raise ValueError("objective plain has no second term, so no lambda gives it a dose; choose another objective")
    if not dose > 0:
        raise ValueError(f"dose is {dose}; it must be above 0: for no push use objective plain")
    steps = max(recipe.steps // 4, 8 * looks)
    short = Recipe(**dict(recipe) | PLAIN | dict(steps=steps, seed=SEED, cosine_steps=None, milestones=()))
    trainer = Trainer(short, pick_device(device))
    moments = {round(steps * (k + 1) / looks) for k in range(looks)}
    bar = Progress(
        trainer.patches.batches(1, steps, device=trainer.device), f"dose of {recipe.objective}", steps, quiet=quiet
    )
    found = []
    for gt, lq, names in bar:
        trainer.advance(gt, lq, names)
        if trainer.step in moments:
            found.append(measured(trainer, 1.0).update)
    if not np.mean(found) > 0:
        raise ValueError(f"the term of objective {recipe.objective} has no gradient here, so no lambda gives it a dose")
    lambda_neg = dose / float(np.mean(found))
    return Lambda(lambda_neg, dose, tuple(lambda_neg * update for update in found))


# what makes a recipe a plain run whose histories are only watched
PLAIN = dict(lambda_neg=0.0, dose=None, lambda_ratio=None, lambda_from=0, lambda_follows_rate=False, negatives_every=1)
