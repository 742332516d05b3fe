"""The degradations as an explorer shows them: an equation, its symbols with ranges, its pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mclir_nb.data import degrade
from mclir_nb.views.style import picture


class Knob(NamedTuple):
    """One slider of a degradation."""

    name: str  # of the argument
    label: str  # with symbol and unit
    low: float
    high: float
    step: float
    value: float


@dataclass(frozen=True)
class Effect:
    """A degradation to explore; moving a knob keeps the random numbers."""

    name: str  # short, for a button
    equation: str  # in the symbols of the knobs; J is the clear picture, I the degraded one
    knobs: tuple[Knob, ...]
    apply: Callable[..., dict]  # of gt (3, H, W), depth (H, W) in [0, 1], and the knobs by name

    def pictures(self, gt: torch.Tensor, depth, **settings: float) -> dict[str, np.ndarray]:
        """{name: picture}, the last is I, the others its parts; a knob without a setting is where it stands first."""
        made = self.apply(gt, depth, **{knob.name: knob.value for knob in self.knobs} | settings)
        return {name: picture(image, name) for name, image in made.items()}


def _chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _haze(gt, depth, *, beta, airlight):
    t = degrade.transmission(depth, beta)
    return {"t, what gets through": t, "I, hazy": degrade.haze(gt, depth, beta, airlight)}


def _rain(gt, depth, **knobs):
    a = degrade.rain(torch.zeros_like(gt), **knobs, generator=_chance())  # rain before black is a itself
    return {"a, streaks": a, "I, rainy": gt * (1 - a) + a}


def _shake(gt, depth, *, reach):
    kernel = degrade.camera_shake_kernel(2 * int(reach) + 1, generator=_chance())
    return {"k, path of the light": kernel / kernel.max(), "I, shaken": degrade.motion_blur(gt, kernel)}


def _noise(gt, depth, *, sigma):
    noisy = degrade.noise(gt, sigma, generator=_chance(), clip=False)
    return {"n + 0.5, noise": 0.5 + noisy - gt, "I, noisy": noisy}


def _shrink(gt, depth, *, scale):
    height, width = (n - n % int(scale) for n in gt.shape[1:])
    return {"I, low resolution": degrade.bicubic(gt[:, :height, :width], 1 / int(scale))}


# fmt: off
EFFECTS = (  # haze, the first, needs a depth
    Effect("haze", "I = J·t + A·(1 − t),  t = exp(−β·d)", (
        Knob("beta", "β, haze density", 0, 3, 0.1, 1.2),
        Knob("airlight", "A, airlight", 0, 1, 0.02, 0.9)), _haze),
    Effect("rain", "I = J·(1 − a) + a,  a: opacity of the streaks", (
        Knob("density", "streaks per 1000 px", 0, 10, 0.5, 5),
        Knob("length", "length (px)", 2, 60, 1, 20),
        Knob("angle", "angle (°)", -45, 45, 1, 10),
        Knob("brightness", "brightness of a", 0, 1, 0.05, 0.7)), _rain),
    Effect("camera shake", "I = srgb(k ∗ linear(J)),  k: path of a point of light", (
        Knob("reach", "reach of k (px)", 1, 15, 1, 6),), _shake),
    Effect("noise", "I = J + n,  n ~ N(0, (σ/255)²)", (Knob("sigma", "σ (levels of 255)", 0, 75, 1, 25),), _noise),
    Effect("low resolution", "I = J shrunk to 1/s, cubic kernel", (
        Knob("scale", "s, times smaller", 2, 8, 1, 4),), _shrink),
)
# fmt: on
