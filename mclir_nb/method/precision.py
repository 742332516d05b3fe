"""Number formats by name, and how much of the SPN gradient is above their rounding.

    float32     every digit: on CUDA, TF32 is off, which PyTorch allows for convolutions by default
    tf32        CUDA only: products with 10 bits of mantissa; elsewhere the same as float32
    bfloat16    autocast, 7 bits
    float16     autocast, 10 bits

"float32" is the default everywhere. The outputs of a history and of the model differ by less and less as the
learning rate falls; once the difference is near the rounding of a format, the signs of the L1 terms, and with them the
gradient, are noise (`gradient_precision.survey` measures it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NAMES = ("float32", "tf32", "bfloat16", "float16")
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # relative, half a unit


@contextmanager
def autocast(name: str, device: torch.device) -> Iterator[None]:
    """Compute in the precision called `name`; what was set before is put back.

    Raises: ValueError for an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"precision {name!r} is unknown; use one of {', '.join(NAMES)}.")
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = name == "tf32"
        dtype = getattr(torch, name) if name in ("bfloat16", "float16") else None
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@torch.no_grad()
def signal(
    restored: Tensor, negatives: Sequence[Tensor], features: nn.Module, rounding: float = ROUNDING["float32"]
) -> Tensor:
    """Share of each history's part of the SPN gradient that stands above rounding, shape (number of negatives,).

    Of the feature elements that are not zero in both images, those whose difference is larger than 8 rounding errors
    of their size; averaged over layers with the features' weights. Only the signs of the differences enter the
    gradient of an L1 distance, so elements are counted, not measured. 0 for a history that equals the model.

    Args:
        restored, negatives: (B, 3, H, W), as given to the loss.
        features: as in the loss.
        rounding: relative error of the precision that computed them, see `ROUNDING`; 8 of them are roughly what a
            result carries after many layers.
    """
    own, total = features(restored), 0.0
    weights = getattr(features, "layer_weights", None) or dict.fromkeys(own, 1.0)
    shares = []
    for negative in negatives:
        theirs, share = features(negative.to(restored.dtype)), 0.0
        for layer, ours in own.items():
            size = torch.maximum(ours.abs(), theirs[layer].abs())
            above = (ours - theirs[layer]).abs() > 8 * rounding * size
            share = share + weights[layer] * above.sum() / (size > 0).sum().clamp(min=1)
        shares.append(share)
    total = sum(weights[layer] for layer in own)
    return torch.stack(shares) / total if shares else restored.new_zeros(0)
