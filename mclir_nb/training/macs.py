"""Multiply-accumulates (MACs) of convolutions and matrix products: what a step costs on any machine, counted.

A plain step is 3F, one forward pass F of the network and a backward pass of 2F. SPN adds N forward passes of history
models and, in the feature network, V forward and V back to the image for the output and V for each negative:

    SPN step / plain step = 1 + N/3 + (2 + N) V / (3 F).

Other objectives are counted by their own term. With `sampling="sampled"` one step in every k has the term, N = 1;
`with_period` chooses k so that this costs no more than `PRICE`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from mclir_nb import networks
from mclir_nb.method import features, losses
from mclir_nb.method.rivals import C2R_INDOOR
from mclir_nb.training import records, user_code
from mclir_nb.training.recipes import Recipe

PRICE = 1.1  # of a plain step: what a sampled one costs at most, on average and by MACs


class Counts(NamedTuple):
    """Multiply-accumulates for one patch of a recipe."""

    network: int  # F, one forward pass
    features: int  # V, one pass of the feature network over the patch
    term: int  # of the objective beside L1, through the features and back to the image
    histories: int  # N, forward passes in a step: of history models, and whatever else the negatives take

    @property
    def surplus(self) -> float:
        """What the term adds to a step that has it, in plain steps."""
        return (self.histories * self.network + self.term) / (3 * self.network)


def count(recipe: Recipe) -> Counts:
    """Multiply-accumulates of a recipe's networks and objective for one patch; nothing is trained or read."""
    alike = recipe.replace(seed=0, dataset="embedded", data_root=None)
    return _count(alike, repr(user_code.definitions(alike)))


def with_period(recipe: Recipe) -> Recipe:
    """The recipe with a number in `sampled_every`, where sampling is asked for and the recipe leaves it open."""
    if recipe.sampling == "exact" or recipe.sampled_every is not None:
        return recipe
    every = max(1, math.ceil(count(recipe).surplus / (PRICE - 1)))
    return Recipe(**dict(recipe) | {"sampled_every": every})


def sampling_note(recipe: Recipe) -> str:
    """Which steps of a recipe `with_period` have the term and what that costs, in a sentence; else nothing."""
    if recipe.sampling == "exact" or not recipe.uses_history:
        return ""
    price = 1 + count(recipe).surplus / recipe.period
    return f"sampled: the term in one step of every {recipe.period}; a step costs {price:.2f} plain ones (by MACs)."


@lru_cache
def _count(recipe: Recipe, definitions: str, device: str = "") -> Counts:
    """`definitions` of a reader's own tell recipes apart."""
    if not device:
        try:  # meta: shapes alone
            return _count(recipe, definitions, "cpu" if recipe.network_size in ("tiny", "demo") else "meta")
        except RuntimeError:  # a network of one's own that looks at values
            return _count(recipe, definitions, "cpu")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        network = records.build_network(recipe).eval()
    forward = networks.count_macs(network, picture(recipe.patch_size // recipe.scale, device))
    if recipe.objective == "plain":
        return Counts(forward, 0, 0, 0)
    net = feature_network(recipe).to(device)
    restored, gt = (picture(recipe.patch_size, device) for _ in range(2))
    looked_at, asked, passes = networks.count_macs(net, gt), histories_asked(recipe), 0

    def note(module, inputs, output) -> None:
        nonlocal passes
        passes += len(inputs[0]) * (2 if inputs[0].requires_grad else 1)  # forward, and back to the image

    handle = net.register_forward_hook(note)
    outputs = [gt] * (len(C2R_INDOOR) if recipe.negatives == "synthetic" else asked)
    context = dict(lq=gt, averaged=gt, generator=torch.Generator().manual_seed(0))
    objective = losses.OBJECTIVES[recipe.objective]
    objective(restored.requires_grad_(), gt, outputs, features=net, lambda_neg=1.0, **context)
    handle.remove()
    more = (recipe.objective == "spn-smooth") + (recipe.negatives == "noise")  # the average's, or the network's own
    return Counts(forward, looked_at, passes * looked_at, asked + more)


def histories_asked(recipe: Recipe) -> int:
    """Outputs of history models in a step that has the term: all and those for noised inputs, or one of them."""
    outputs = len(recipe.history_every) + recipe.noised_inputs if recipe.uses_history else 0
    return min(outputs, 1) if recipe.sampling == "sampled" else outputs


def picture(side: int, device: str | torch.device) -> torch.Tensor:
    """(1, 3, side, side) of noise."""
    return torch.rand(1, 3, side, side, device=device)


def feature_network(recipe: Recipe) -> features.FeatureNetwork:
    """The recipe's feature network, untrained where its weights would come from a file: they cost the same."""
    return features.build(recipe.features, None if recipe.features == "lite0" else "random")


def run_macs(recipe: Recipe) -> int:
    """Multiply-accumulates of a whole training run, without the short one that a dose may take before it."""
    recipe = with_period(recipe)
    counts = count(recipe)
    with_term = max(0, recipe.steps - max(recipe.lambda_from, 1) + 1) // recipe.period
    trained = 2 if recipe.uses_history and recipe.history_of == "another" else 1  # networks
    plain, term = 3 * counts.network * recipe.steps * trained, counts.histories * counts.network + counts.term
    return recipe.batch_size * (plain + term * with_term)
