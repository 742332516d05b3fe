"""Number formats by name, and how much of the SPN gradient is above their rounding.

    float32     every digit: TF32 is off, which PyTorch allows for convolutions on CUDA by default
    tf32        CUDA only: products with 10 bits of mantissa; elsewhere the same as float32
    bfloat16    autocast, 7 bits
    float16     autocast, 10 bits, and no numbers below 6e-8: a network is trained in it with a scaled loss

"float32" is the default everywhere. The outputs of a history and of the model differ by less and less as the learning
rate falls; once the difference is near the rounding of a format, the signs of the L1 terms, and with them the gradient,
are noise (`gradient_fidelity.precisions` measures it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mclir_nb import check_choice
from mclir_nb.method.distances import layer_weights

NAMES = ("float32", "tf32", "bfloat16", "float16")
# relative rounding error of a number, half a unit in its last place
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8, "float16": 2.0**-11}


@contextmanager
def autocast(name: str, device: torch.device) -> Iterator[None]:
    """Compute in the precision called `name`, one of `NAMES`, on a device; what was set before is put back.

    Lowered weights are not kept for a second pass: it may be in another precision, as that of noise around the network.
    """
    check_choice("precision", name, NAMES)
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)
    with _products("tf32" if name == "tf32" and device.type == "cuda" else "ieee"):
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
            yield


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 numbers in full, without TF32, for all that is measured or shown; also a decorator."""
    with _products("ieee"):
        yield


def forbid_tf32() -> None:
    """TF32 off for the rest of this process, outside trainings whose recipe asks for it. For notebooks."""
    _set_products("ieee")
    torch.backends.cudnn.allow_tf32 = False  # the older switch: `torch.export` reads it, and fails where they differ


@contextmanager
def _products(kind: str) -> Iterator[None]:
    """`_set_products`, put back afterwards."""
    changed = _set_products(kind)
    try:
        yield
    finally:
        for switch, before in reversed(changed):
            switch.fp32_precision = before


def _set_products(kind: str) -> list[tuple]:
    """Products of float32 numbers in full ("ieee") or with TF32's 10 bits ("tf32"); what was changed, and from what.

    PyTorch has one switch per level, and a level that nobody set follows the one above it. Going down, only a level
    that does not follow was set by somebody and has to be set here; so it can be put back exactly.
    """
    backends: Any = torch.backends  # the annotations lack some of its switches
    cudnn, mkldnn, changed = backends.cudnn, backends.mkldnn, []
    switches = (backends, cudnn, cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn, mkldnn.conv, mkldnn.matmul)
    for switch in switches:
        if (before := switch.fp32_precision) != kind:
            switch.fp32_precision = kind
            changed.append((switch, before))
    return changed


@torch.no_grad()
def signal(
    restored: Tensor, negatives: Sequence[Tensor], features: nn.Module, rounding: float = ROUNDING["float32"]
) -> Tensor:
    """Share of each history's part of the SPN gradient that stands above rounding.

    Of the feature elements that are not zero in both images, those whose difference is larger than 8 rounding errors of
    their size; averaged over layers with the features' weights. Only the signs of the differences enter the gradient of
    an L1 distance, so elements are counted, not measured. 0 for a history that equals the model.

    Args:
        restored, negatives, features: as given to the loss.
        rounding: relative error of the precision that computed them, see `ROUNDING`; 8 of them are roughly what a
            result carries after many layers.

    Returns:
        Shape (number of negatives,), each from 0 to 1.
    """
    own = features(restored)
    weights, shares = layer_weights(features, own), []
    for negative in negatives:
        theirs = features(negative.to(restored.dtype))
        share: Any = 0.0  # a tensor from the first layer on
        for layer, ours in own.items():
            size = torch.maximum(ours.abs(), theirs[layer].abs())
            above = (ours - theirs[layer]).abs() > 8 * rounding * size
            share = share + weights[layer] * above.sum() / (size > 0).sum().clamp(min=1)
        shares.append(share / sum(weights.values()))
    return torch.stack(shares) if shares else restored.new_zeros(0)
