"""What the SPN term really does: its push on the image, its dose in the optimiser's step, and whether that helps.

Three things that are easily taken for one another:

    restored - negative   how the network has moved since the history was made; not a gradient
    the push              lambda_neg * d l_neg / d restored, the gradient that the optimiser gets: a sum of signs of
                          feature differences, sent back through the feature network
    r                     lambda_neg * l_neg / l_rec, a ratio of two values; it falls while the push does not

and one identity for the first of them, for means over the pixels:

    2 mean (restored - negative)(gt - restored) = progress - gap
    progress = mse(negative) - mse(restored),   gap = mean (restored - negative)^2

Moving on from a history brings an image nearer to the truth only if the history is worse by more than its squared
distance. Nothing here changes a network or its optimiser. Definitions are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.method.distances import feature_distance, frozen_features, layer_weights
from mclir_nb.method.losses import LossParts
from mclir_nb.method.precision import full_float32

Gradient = list[Tensor]  # one tensor per parameter, in the order of model.parameters()


@full_float32()
def image_push(restored: Tensor, negatives: Sequence[Tensor], features: nn.Module) -> Tensor:
    """Where the term moves each pixel: d l_neg / d restored, the direction in which a descent step on -l_neg goes.

    Arguments are those of `distances.feature_distance`, all images (B, 3, H, W). The result has the same shape and no
    graph; times lambda_neg it is what the optimiser gets. Raises: ValueError if there is no negative, and so no push.
    """
    if not negatives:
        raise ValueError("there are no negatives, so there is no push; use an objective with history models")
    image = restored.detach().requires_grad_(True)
    with torch.enable_grad():
        distance = feature_distance(image, negatives, features)
    return torch.autograd.grad(distance, image)[0]


def image_ratio(parts: LossParts, restored: Tensor) -> Tensor:
    """How strong the term is beside the reconstruction at the image: the ratio of their gradients' lengths.

    Lambda is in it. It costs no pass through the trained network, and so misses what the network makes of the two.
    `parts` come with their graph, which is kept; `restored` is the tensor they were computed from.
    """
    terms = (parts.l_rec, parts.total - parts.l_rec)
    pull, term = (torch.autograd.grad(part, restored, retain_graph=True)[0] for part in terms)
    return term.norm() / pull.norm()


class Condition(NamedTuple):
    """Of one history: does moving on from it bring the image nearer to the truth?"""

    progress: float  # mse(negative) - mse(restored): how much worse the history is
    gap: float  # mean (restored - negative)^2: how far away it is
    cosine: float  # between restored - negative and gt - restored; its sign is that of progress - gap

    @property
    def holds(self) -> bool:
        """progress > gap."""
        return self.progress > self.gap


@torch.no_grad()
def condition(restored: Tensor, negative: Tensor, gt: Tensor) -> Condition:
    """Progress and gap of one history on images of one shape, [0, 1]; see the identity at the top of this file."""
    restored, negative, gt = restored.double(), negative.double(), gt.double()
    moved, missing = restored - negative, gt - restored
    progress = (negative - gt).square().mean() - missing.square().mean()
    cosine = F.cosine_similarity(moved.flatten(), missing.flatten(), dim=0)
    return Condition(progress.item(), moved.square().mean().item(), cosine.item())


@full_float32()
@torch.no_grad()
def votes(restored: Tensor, gt: Tensor, negatives: Sequence[Tensor], features: nn.Module) -> float:
    """Share of feature elements that the L1 push moves towards the truth; 0.5 is a coin.

    An element votes yes if sign(phi(restored) - phi(negative)) = sign(phi(gt) - phi(restored)), and half a yes if one
    of the two is 0. Layers count by their weight. At least one negative; all images (B, 3, H, W), [0, 1].
    """
    ours, truth, *theirs = frozen_features([restored, gt, *negatives], features)
    weights = layer_weights(features, ours)
    share = 0.0
    for layer, own in ours.items():
        right = (truth[layer] - own).sign()
        agreement = [((own - other[layer]).sign() * right).mean().item() for other in theirs]
        share += weights[layer] * (1 + sum(agreement) / len(agreement)) / 2
    return share / sum(weights.values())


class Gradients(NamedTuple):
    """Of one batch: what pulls and what pushes, at lambda 1; the second carries its own sign (SPN: minus l_neg)."""

    pull: Gradient
    push: Gradient


@full_float32()
def gradients(
    model: nn.Module,
    gt: Tensor,
    negatives: Sequence[Tensor],
    objective: Callable[..., LossParts],
    *,
    lq: Tensor,
    **context,
) -> Gradients:
    """Gradients of l_rec and of the objective's second term with respect to the weights, from one forward pass.

    Neither the weights of the model nor their gradients are changed; a frozen weight has the gradient 0. Arguments are
    those of `image_gradients`, and the degraded images lq, (B, 3, h, w) in [0, 1].
    """
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    with torch.enable_grad():
        restored = model(lq).to(gt.dtype)
        at_weights: list[Gradient] = []
        for upstream in image_gradients(restored, gt, negatives, objective, lq=lq, **context):
            slopes = iter(torch.autograd.grad(restored, trained, upstream, retain_graph=True, materialize_grads=True))
            at_weights.append([next(slopes) if w.requires_grad else torch.zeros_like(w) for w in weights])
    return Gradients(*at_weights)


@full_float32()
def image_gradients(
    restored: Tensor, gt: Tensor, negatives: Sequence[Tensor], objective: Callable[..., LossParts], **context
) -> tuple[Tensor, Tensor]:
    """What an objective's two terms ask of the restored image: gradients at lambda 1, the second with its own sign.

    Args:
        restored, gt: (B, 3, H, W), nominally [0, 1].
        negatives: one such tensor per history model.
        objective: one of `losses.OBJECTIVES`.
        context: what the objective is called with beside these, `features` above all.

    Returns:
        d l_rec / d restored and d (signed term) / d restored; a step goes against them.

    Raises:
        ValueError: the objective has no second term on these images (plain, no negatives), or is not finite.
    """
    image = restored.detach().requires_grad_(True)
    with torch.enable_grad():
        parts = objective(image, gt, negatives, lambda_neg=1.0, **context)
        if not parts.l_neg.requires_grad:
            raise ValueError("the objective has no second term here, so there is no push: plain, or no negatives")
        if not parts.total.isfinite():
            raise ValueError("the loss is not finite at this look; the run has diverged, look earlier")
        pull = torch.autograd.grad(parts.l_rec, image, retain_graph=True)[0]
        term = torch.autograd.grad(parts.total - parts.l_rec, image)[0]
    return pull, term


def preconditioned(gradient: Gradient, optimiser: torch.optim.Optimizer) -> Gradient:
    """The step Adam makes of a gradient per unit of learning rate: g / (sqrt(v / (1 - b2^t)) + eps).

    v is the running mean of squared gradients as Adam or AdamW holds it, so this is linear in the gradient, and the
    steps of two terms add up to the step of their sum. The gradient has one tensor per parameter, in the optimiser's
    order. Raises: ValueError if the optimiser has not taken a step yet, or keeps no such mean.
    """
    steps, place = [], iter(gradient)
    for group in optimiser.param_groups:
        for weight in group["params"]:
            state, own = optimiser.state.get(weight, {}), next(place)
            if "exp_avg_sq" in state:
                scale = (state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))).sqrt() + group["eps"]
                steps.append(own / scale)
            elif optimiser.state and not own.any():  # a weight that nothing depends on, or a frozen one
                steps.append(own)
            else:
                raise ValueError("the optimiser has no second moments yet; look after at least one step of Adam")
    return steps


class Dose(NamedTuple):
    """How much of a step is the objective's second term. Objectives are compared at equal `update`."""

    update: float  # g_u, lambda * |P push| / |P pull|, with P g the step that the optimiser makes of a gradient g
    cosine: float  # between the two parts of the step; below 0 they work against each other


def dose(batches: Iterable[Gradients], lambda_neg: float, optimiser: torch.optim.Optimizer) -> Dose:
    """The dose of a term, from the mean gradient of several batches.

    A momentum of 0.9 sees the mean of about the last ten gradients, so about 16 batches are meant: late in training
    the pull is mostly noise between batches and the push is not, and one batch understates the push.

    Args:
        batches: `gradients` of each batch, all at the same weights; taken one at a time.
        lambda_neg: the weight of the term, >= 0.
        optimiser: the optimiser of the run at that moment, see `preconditioned`.

    Raises:
        ValueError: there is no batch, a gradient is not finite, or the pull has length 0.
    """
    pull, push = None, None
    for batch in batches:
        pull = batch.pull if pull is None else [old + new for old, new in zip(pull, batch.pull, strict=True)]
        push = batch.push if push is None else [old + new for old, new in zip(push, batch.push, strict=True)]
    if pull is None or push is None:
        raise ValueError("a dose needs the gradients of at least one batch, about 16 are meant")
    pull_step, push_step = preconditioned(pull, optimiser), preconditioned(push, optimiser)
    size = length(pull_step)
    if not math.isfinite(size + length(push_step)):
        raise ValueError("a gradient is not finite at this look; the run has diverged, look earlier")
    if size == 0:
        raise ValueError("the gradient of the reconstruction is 0 at this look; there is nothing to compare with")
    return Dose(
        update=lambda_neg * length(push_step) / size,
        cosine=inner(pull_step, push_step) / max(size * length(push_step), 1e-30),
    )


def helps(
    held_out: Sequence[Gradient], directions: Mapping[str, Sequence[Gradient]], draws: int = 2000
) -> pd.DataFrame:
    """Does a step along a direction lower a held-out loss? The cosine with the downhill direction, with intervals.

    help_cos = -d loss / d eps along u / |u|, divided by |gradient of the loss|: 1 is straight downhill, above 0 helps,
    below 0 harms. All directions count with equal length.

    Args:
        held_out: gradients of the held-out loss, one per batch, all at the same weights.
        directions: {name: steps u, one per training batch}; their mean is the direction. A push asks for u = -gradient
            of the signed term, or -`preconditioned` of it.
        draws: of the bootstrap over held-out and training batches.

    Returns:
        One row per direction: direction, help_cos, low, high (95 %).

    Raises:
        ValueError: there is no held-out batch, a direction without steps, or a number that is not finite.
    """
    if not held_out or not all(directions.values()):
        raise ValueError("helps needs at least one held-out batch and one step per direction")
    loss, count = _gram(held_out, held_out), len(held_out)
    rows, chance = [], np.random.default_rng(0)
    for name, steps in directions.items():
        cross, own = _gram(held_out, steps), _gram(steps, steps)

        def cosine(h: np.ndarray, s: np.ndarray, cross=cross, own=own) -> float:
            sizes = math.sqrt(loss[np.ix_(h, h)].mean() * own[np.ix_(s, s)].mean())
            return -cross[np.ix_(h, s)].mean() / sizes if sizes else 0.0

        picked = ((chance.integers(n, size=n) for n in (count, len(steps))) for _ in range(draws))
        low, high = np.quantile([cosine(*pick) for pick in picked], (0.025, 0.975))
        rows.append((name, cosine(np.arange(count), np.arange(len(steps))), low, high))
    return pd.DataFrame(rows, columns=["direction", "help_cos", "low", "high"])


def inner(one: Gradient, other: Gradient) -> float:
    """The inner product of two gradients, summed in float64."""
    return sum(torch.sum(a.double() * b.double()).item() for a, b in zip(one, other, strict=True))


def length(gradient: Gradient) -> float:
    """The length of a gradient over all weights."""
    return math.sqrt(inner(gradient, gradient))


def cosine(one: Gradient, other: Gradient) -> float:
    """Cosine of the angle between two lists of tensors, each taken as one long vector; NaN if one has no length."""
    lengths = length(one) * length(other)
    return inner(one, other) / lengths if lengths > 0 else math.nan


def _gram(rows: Sequence[Gradient], columns: Sequence[Gradient]) -> np.ndarray:
    """All inner products between two lists of gradients."""
    one, other = (torch.stack([torch.cat([t.flatten().double() for t in g]) for g in part]) for part in (rows, columns))
    products = (one @ other.T).numpy(force=True)
    if not np.isfinite(products).all():
        raise ValueError("a gradient or a step is not finite at this look; the run has diverged, look earlier")
    return products
