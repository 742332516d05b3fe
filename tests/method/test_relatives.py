"""SPN's relatives: the smooth push by hand, and that the bounded ones stop where SPN does not."""

import pytest
import torch
from torch import nn

from mclir_nb.method.losses import OBJECTIVES, USES_HISTORY


class Pixels(nn.Module):
    """Features that can be computed by hand: the image itself."""

    def forward(self, x):
        return {"pixels": x}


def image(value):
    return torch.full((1, 3, 4, 4), float(value))


def call(name, restored, gt, *negatives, lambda_neg=1.0, **context):
    return OBJECTIVES[name](restored, gt, negatives, features=Pixels(), lambda_neg=lambda_neg, **context)


def test_smooth_by_hand():
    """The average came from below (0.3 to 0.6), so the push is upwards, wherever the network stands."""
    for value in (0.9, 0.5):
        restored = image(value).requires_grad_()
        parts = call("spn-smooth", restored, image(0.7), image(0.3), averaged=image(0.6))
        assert parts.l_neg.item() == pytest.approx(value - 0.6)
        parts.l_neg.backward()
        assert torch.allclose(restored.grad, torch.full_like(restored, 1 / restored.numel()))


def test_smooth_at_the_average_is_spns_push():
    restored, gt, past = (torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in range(3))
    pushes = []
    for name in ("spn", "spn-smooth"):
        at = restored.clone().requires_grad_()
        pushes.append(torch.autograd.grad(call(name, at, gt, past, averaged=restored).l_neg, at)[0])
    assert torch.equal(*pushes)


@pytest.mark.parametrize("name", sorted(USES_HISTORY - {"c2r"}))
def test_bounded_objectives_do_not_run_away(name):
    """A step that only goes where the loss falls: SPN's kind falls without end, its bounded relatives do not."""
    at, gt, past = image(0.5).requires_grad_(), image(0.6), [image(0.4), image(0.45)]
    optimiser = torch.optim.SGD([at], lr=300.0)
    for _ in range(200):
        total = call(name, at, gt, *past, lambda_neg=3.0, averaged=image(0.55)).total
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    ran_away = (at.detach() - gt).abs().max().item() > 100
    assert ran_away == name.startswith("spn")
