"""What changes with the step: the learning rate, and the weight of the second term where a recipe asks for it."""

from __future__ import annotations

import math

from mclir_nb.training.recipes import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Cosine from `learning_rate` to `learning_rate_min`; step counts from 1.

    With `cosine_steps` below `steps` the rate rises again after each fall, as in the official 500k-step run. With
    `milestones` it is halved after each of these steps instead.
    """
    if recipe.milestones:
        return recipe.learning_rate * 0.5 ** sum(step > milestone for milestone in recipe.milestones)
    turn = math.pi * (step - 1) / (recipe.cosine_steps or recipe.steps)
    low = recipe.learning_rate_min
    return low + 0.5 * (recipe.learning_rate - low) * (1 + math.cos(turn))


def weight(recipe: Recipe, step: int) -> float:
    """The number that multiplies the objective's second term in this step: lambda, unless the recipe says otherwise.

    0 before step `lambda_from`, and in the steps that `negatives_every` = k leaves out; the others weigh k times as
    much. With `lambda_follows_rate` lambda times the share of its greatest value that the learning rate has, so that
    the push fades as the steps do. All three are OURS, not the paper's.
    """
    if step < recipe.lambda_from or step % recipe.negatives_every:
        return 0.0
    share = learning_rate(recipe, step) / recipe.learning_rate if recipe.lambda_follows_rate else 1.0
    return recipe.weight * share * recipe.negatives_every
