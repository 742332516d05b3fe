"""Distances between images in the features of a frozen network, with gradients for one of them only.

Features are a module that returns {layer: (B, C_l, H_l, W_l)}, such as `features.build` makes; a distance weighs the
layers by its attribute `layer_weights` (absent: alike). They run in the precision in force.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# difference of two features up to which "huber" is quadratic
HUBER = 0.1
# {name: (value, slope) of a difference of features, element by element}. The L1 push has the same strength however
# close the output has come to its histories; the others fade with the difference.
DISTANCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "l1": (torch.abs, torch.sign),
    "squared": (torch.square, lambda d: 2 * d),
    "huber": (
        lambda d: torch.where(d.abs() < HUBER, d.square() / (2 * HUBER), d.abs() - HUBER / 2),
        lambda d: (d / HUBER).clamp(-1, 1),
    ),
}
# `pixels_at_once` of a feature network is meant for the cache of a CPU. A GPU wants larger pieces: with these, all
# feature maps of a piece take about a gigabyte.
ON_CUDA = 16


def feature_distance(restored: Tensor, others: Sequence[Tensor], features: nn.Module, distance: str = "l1") -> Tensor:
    """How far `restored` is from the other images, on average.

    mean_k sum_l w_l mean |phi_l(restored) - phi_l(others[k])|

    The others go through the features together, so one that equals `restored` may differ from it there by rounding, and
    "l1" takes the signs of that.

    Exact, and cheap in memory: the gradient with respect to the image is taken at once, for some images at a time, so
    that no feature map waits for the backward pass of the trained network. It cannot be differentiated twice.

    Args:
        restored: (B, 3, H, W), nominally [0, 1]; the only argument that receives a gradient.
        others: one such tensor per image to compare with.
        features: the feature network; phi_l are its maps, w_l its layer weights.
        distance: a key of `DISTANCES`, which gives what takes the place of |.|.

    Returns:
        A scalar >= 0.
    """
    others = [other.to(restored.dtype) for other in others]
    return _FeatureDistance.apply(restored, others, features, DISTANCES[distance])


class _FeatureDistance(torch.autograd.Function):
    """The work of `feature_distance`: value and image gradient together, some images of the batch at a time."""

    @staticmethod
    def forward(ctx, restored, others, features, distance):
        pixels = (1 + len(others)) * restored[0, 0].numel()
        size = max(1, pixels_at_once(features, restored.device) // pixels)
        value, gradients = 0.0, []
        for start in range(0, len(restored), size):
            chunk = slice(start, start + size)
            image = restored[chunk].detach().requires_grad_(ctx.needs_input_grad[0])
            share = len(image) / len(restored)
            part, gradient = _value_and_gradient(image, [other[chunk] for other in others], features, distance)
            value = value + part * share
            if gradient is not None:
                gradients.append(gradient * share)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None


def _value_and_gradient(
    image: Tensor, others: Sequence[Tensor], features: nn.Module, distance: tuple[Callable, Callable]
) -> tuple[Tensor, Tensor | None]:
    """Distance of some images and, if they want one, its gradient, by hand from the feature maps down."""
    value_of, slope_of = distance
    with torch.enable_grad():
        ours = features(image)
    weights = layer_weights(features, ours)
    value: Any = 0.0  # a tensor from the first layer on
    scales = {layer: weights[layer] / len(others) for layer in ours}
    slopes = {layer: torch.zeros_like(own) for layer, own in ours.items()}
    at_once = max(1, pixels_at_once(features, image.device) // (2 * image[:, 0].numel()))
    for start in range(0, len(others), at_once):
        for theirs in frozen_features(others[start : start + at_once], features):
            for layer, own in ours.items():
                difference = own.detach() - theirs.pop(layer)
                value = value + scales[layer] * value_of(difference).mean()
                slopes[layer] += slope_of(difference)
    if not image.requires_grad:
        return value, None
    # a power of two, taken out again below: keeps the small numbers of a gradient within float16, and changes no bit
    unit = 2.0 ** max(own.numel() for own in ours.values()).bit_length()
    for layer, slope in slopes.items():
        slope.mul_(scales[layer] * unit / slope.numel())
    return value, torch.autograd.grad(list(ours.values()), image, list(slopes.values()))[0].div_(unit)


def pixels_at_once(features: nn.Module, device: torch.device) -> int:
    """Pixels of a batch that go through the feature network together."""
    return getattr(features, "pixels_at_once", 2**16) * (ON_CUDA if device.type == "cuda" else 1)


def layer_distances(restored: Tensor, others: Sequence[Tensor], features: nn.Module) -> dict[str, Tensor]:
    """Mean absolute feature difference between `restored` and each other image: {layer: (len(others),)}, not weighted.

    All images are (B, 3, H, W); only `restored` receives a gradient.
    """
    theirs = frozen_features([other.to(restored.dtype) for other in others], features)
    ours = features(restored)
    return {layer: torch.stack([F.l1_loss(ours[layer], other[layer]) for other in theirs]) for layer in ours}


@torch.no_grad()
def frozen_features(images: Sequence[Tensor], features: nn.Module) -> list[dict[str, Tensor]]:
    """Features of several image batches, computed together and without a graph, as one dict per batch."""
    together = features(torch.cat(list(images)))
    parts = {layer: x.chunk(len(images)) for layer, x in together.items()}
    return [{layer: x[k] for layer, x in parts.items()} for k in range(len(images))]


def layer_weights(features: nn.Module, values: dict) -> dict[str, float]:
    """w_l of these features, 1 / layers if they name none; Python numbers, so nothing waits for a device.

    Raises: ValueError if they name other layers than those of `values`, which they returned.
    """
    weights = getattr(features, "layer_weights", None) or dict.fromkeys(values, 1 / len(values))
    if weights.keys() != values.keys():
        raise ValueError(f"features return layers {list(values)}, layer_weights names {list(weights)}; make them equal")
    return weights


def weighted_sum(values: dict[str, Tensor], features: nn.Module) -> Tensor:
    """Sum over the layers of w_l values[l]."""
    weights = layer_weights(features, values)
    return sum(weights[layer] * value for layer, value in values.items())  # type: ignore[return-value]  # never empty
