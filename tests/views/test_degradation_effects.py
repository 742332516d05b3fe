"""What the explorer of degradations offers is what `degrade` makes."""

import torch

from mclir_nb.data import degrade
from mclir_nb.views import degradation_effects

GT = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
DEPTH = torch.linspace(0, 1, 48)[:, None].expand(48, 64)


def test_effects_are_those_of_degrade():
    made = {
        e.name: e.apply(GT, **{k.name: k.value for k in e.knobs}) for e in degradation_effects.standard(DEPTH, seed=3)
    }
    chance = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    rain = degrade.rain(GT, 5, 20, 10, 0.7, generator=chance())
    torch.testing.assert_close(made["rain"]["I, rainy"], rain)
    torch.testing.assert_close(made["haze"]["I, hazy"], degrade.haze(GT, DEPTH, 1.2, 0.9))
    noisy = degrade.noise(GT, 25, generator=chance())
    torch.testing.assert_close(made["noise"]["I, noisy"].clamp(0, 1), noisy)
    assert made["low resolution"]["I, low resolution"].shape == (3, 12, 16)


def test_every_knob_moves_its_effect_over_its_whole_range():
    for effect in degradation_effects.standard(DEPTH):
        first = {knob.name: knob.value for knob in effect.knobs}
        for knob in effect.knobs:
            low, high = (list(effect.apply(GT, **first | {knob.name: v}).values())[-1] for v in (knob.low, knob.high))
            assert low.shape != high.shape or not torch.equal(low, high), (effect.name, knob.name)
