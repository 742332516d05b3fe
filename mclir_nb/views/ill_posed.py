"""Several clear pictures behind one degraded picture: why restoration has no single answer.

Every function here returns pictures that degrade to the very same lq, so lq alone cannot tell them apart.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mclir_nb.data import degrade


def behind_haze(lq: Tensor, depth: Tensor, airlight: float, betas: Sequence[float]) -> list[Tensor]:
    """The clear picture that each haze density would have turned into lq: J = (lq - A (1 - t)) / t.

    Args:
        lq: (3, H, W) hazy picture, made with density beta and `airlight` A over `depth` (H, W).
        betas: densities to assume, each from 0 (no haze at all: the scene is pale) to the true beta; up to that the
            pictures stay in [0, 1].
    """
    through = [degrade.transmission(depth, beta) for beta in betas]
    return [(lq - airlight * (1 - t)) / t for t in through]


def behind_shrinking(lq: Tensor, starts: Sequence[Tensor], rounds: int = 40) -> list[Tensor]:
    """Pictures as near as possible to each start that shrink to lq, by iterative back-projection.

    Each round enlarges what the shrunken picture still lacks and adds it, so fine detail stays as it was.

    Args:
        lq: (3, H / s, W / s), float.
        starts: pictures (3, H, W) to begin from, s a whole factor; what comes of them can leave [0, 1] a little.
        rounds: each leaves a small part of the difference.

    Source:
        Irani and Peleg, Improving resolution by image registration, 1991.
    """
    pictures = []
    for start in starts:
        scale = start.shape[-1] // lq.shape[-1]
        for _ in range(rounds):
            start = start + degrade.bicubic(lq - degrade.bicubic(start, 1 / scale), scale)
        pictures.append(start)
    return pictures


def compromise(pictures: Sequence[Tensor]) -> Tensor:
    """The one picture with the smallest mean L1 distance to all of them: their median, pixel by pixel."""
    return torch.stack(list(pictures)).quantile(0.5, dim=0)
