"""What the explorer of degradations offers is what `degrade` makes."""

import numpy as np
import torch

from mclir_nb.data import degrade
from mclir_nb.views.degradation_effects import EFFECTS
from mclir_nb.views.style import picture

GT = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
DEPTH = torch.linspace(0, 1, 48)[:, None].expand(48, 64)


def test_effects_are_those_of_degrade():
    made = {effect.name: effect.pictures(GT, DEPTH) for effect in EFFECTS}
    chance = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    wanted = {
        "rain": ("I, rainy", degrade.rain(GT, 5, 20, 10, 0.7, generator=chance())),
        "haze": ("I, hazy", degrade.haze(GT, DEPTH, 1.2, 0.9)),
        "noise": ("I, noisy", degrade.noise(GT, 25, generator=chance())),
    }
    for effect, (name, image) in wanted.items():
        np.testing.assert_allclose(made[effect][name], picture(image), atol=1e-6)
    assert made["low resolution"]["I, low resolution"].shape == (12, 16, 3)


def test_every_knob_moves_its_effect_over_its_whole_range():
    for effect in EFFECTS:
        for knob in effect.knobs:
            ends = [effect.pictures(GT, DEPTH, **{knob.name: value}) for value in (knob.low, knob.high)]
            low, high = (list(made.values())[-1] for made in ends)
            assert not np.array_equal(low, high), (effect.name, knob.name)
