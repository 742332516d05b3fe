"""Pictures behind one lq: different, and degraded to the very same."""

import torch

from mclir_nb.data import degrade
from mclir_nb.views import ill_posed


def chance(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_clear_pictures_behind_haze_are_hazed_to_the_same():
    gt, depth, betas = chance(3, 8, 12), chance(1, 8, 12)[0], (0.0, 0.6, 1.2)
    lq = degrade.haze(gt, depth, 1.2, 0.9)
    found = ill_posed.behind_haze(lq, depth, 0.9, betas)
    torch.testing.assert_close(found[0], lq)
    torch.testing.assert_close(found[2], gt)
    for beta, picture in zip(betas, found, strict=True):
        assert picture.min() > -1e-5 and picture.max() < 1 + 1e-5
        torch.testing.assert_close(degrade.haze(picture.clamp(0, 1), depth, beta, 0.9), lq)


def test_pictures_behind_shrinking_differ_and_shrink_to_the_same():
    lq = chance(3, 6, 8)
    starts = [chance(3, 24, 32), torch.zeros(3, 24, 32)]
    one, two = ill_posed.behind_shrinking(lq, starts)
    assert (one - two).abs().mean() > 0.1
    for picture in (one, two):
        torch.testing.assert_close(degrade.bicubic(picture, 0.25), lq, atol=1e-4, rtol=0)


def test_no_other_picture_is_nearer_to_all_than_the_compromise():
    pictures = list(chance(3, 3, 4, 4))
    best = ill_posed.compromise(pictures)
    distance = lambda image: sum((image - p).abs().mean() for p in pictures)  # noqa: E731
    assert all(distance(best) < distance(other) for other in [*pictures, torch.stack(pictures).mean(0)])
