"""Objectives against hand-made numbers and the official implementations."""

import re
import zlib

import numpy as np
import pytest
import torch
from golden import load, needs_shared, part
from torch import nn

from mclir_nb import features as feature_networks
from mclir_nb import losses
from mclir_nb.losses import OBJECTIVES, spn_loss


class Pixels(nn.Module):
    """Features that can be computed by hand: the image itself and twice its horizontal differences."""

    def forward(self, x):
        return {"pixels": x, "edges": 2 * (x[..., 1:] - x[..., :-1])}


def image(value=0.0, size=4):
    return torch.full((1, 3, size, size), float(value))


def photo(seed, shape=(2, 3, 16, 16), dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_spn_by_hand_on_4x4():
    restored, gt, near, far = image(0.5), image(0.4), image(0.4), image(0.2)
    far[..., 2:] = 0.4  # an edge of 0.2 between the second and the third column
    parts = spn_loss(restored, gt, [near, far], features=Pixels(), lambda_neg=0.1)
    # pixels: 0.1 from near, (0.3 + 0.1) / 2 from far; edges: 0, and 2 * 0.2 at one of three places
    l_neg = (0.5 * 0.1 + 0.5 * 0.2 + 0.5 * 0.4 / 3) / 2
    assert parts.l_rec.item() == pytest.approx(0.1)
    assert parts.l_neg.item() == pytest.approx(l_neg)
    assert parts.total.item() == pytest.approx(0.1 - 0.1 * l_neg)


def test_layer_weights_are_taken_by_name():
    network = Pixels()
    network.layer_weights = {"edges": 0.0, "pixels": 3.0}
    assert spn_loss(
        image(0.5), image(), [image(0.3)], features=network, lambda_neg=1
    ).l_neg.item() == pytest.approx(0.6)


def test_moving_away_from_the_negative_lowers_the_total():
    gt, negative = image(0.5), image(0.4)
    close, away = (
        spn_loss(image(v), gt, [negative], features=Pixels(), lambda_neg=0.1) for v in (0.45, 0.55)
    )
    assert close.l_rec.item() == pytest.approx(away.l_rec.item())
    assert away.total < close.total
    pulled = [
        OBJECTIVES["history-positive"](image(v), gt, [negative], features=Pixels(), lambda_neg=0.1)
        for v in (0.45, 0.55)
    ]
    assert pulled[1].total > pulled[0].total


def test_no_negatives_is_the_baseline():
    restored, gt = photo(1), photo(2)
    assert (
        spn_loss(restored, gt, [], features=Pixels(), lambda_neg=0.1).total
        == OBJECTIVES["plain"](restored, gt, []).total
    )


@needs_shared
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_spn_agrees_with_the_official_code(precision):
    described, tensors = load("losses")
    dtype, expected = getattr(torch, precision), described["cases"]["spn"][precision]
    network = official_vgg16(tensors).to(dtype)
    data = {k: v.to(dtype) for k, v in part(tensors, "spn/").items() if "grad" not in k}
    restored, negatives = data["output"].requires_grad_(), [data[f"negative_{k}"] for k in range(4)]
    close = dict(rtol=0, atol=1e-12) if dtype == torch.float64 else dict(rtol=2e-6, atol=1e-9)

    parts = spn_loss(restored, data["gt"], negatives, features=network, lambda_neg=0.001)
    values = torch.stack([parts.l_rec, 0.001 * parts.l_neg, parts.total])
    torch.testing.assert_close(
        values, torch.tensor([expected["l_pix"], expected["l_neg"], expected["total"]], dtype=dtype), **close
    )
    layers = torch.stack(list(losses.layer_distances(restored, negatives, network).values()), dim=1)
    torch.testing.assert_close(layers, torch.tensor(expected["per_layer"], dtype=dtype), **close)
    grad_neg = torch.autograd.grad(0.001 * parts.l_neg, restored, retain_graph=True)[0]
    grad = torch.autograd.grad(parts.total, restored)[0]
    if dtype == torch.float64:
        torch.testing.assert_close(grad_neg, tensors["spn/grad_l_neg_wrt_output_f64"], rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(grad, tensors["spn/grad_total_wrt_output_f64"], rtol=1e-9, atol=1e-15)
    else:
        torch.testing.assert_close(grad, tensors["spn/grad_total_wrt_output"], rtol=0, atol=3e-9)
        torch.testing.assert_close(
            grad_neg.double(), tensors["spn/grad_l_neg_wrt_output_f64"], rtol=0, atol=3e-9
        )


def official_vgg16(tensors):
    network = feature_networks.build("vgg16", "random")
    network.load_state_dict({k: v.float() for k, v in part(tensors, "vgg16/").items()})
    return network


def official_vgg19(tensors, size):
    """The fixture's VGG19s: narrow with stored weights, or full and filled by golden/README's rule."""
    weights = {f"relu{i}_1": 2.0 ** (i - 6) for i in range(1, 5)} | {"relu5_1": 1.0}
    if size == "full":
        network = feature_networks.build("vgg19", "random")
        network.load_state_dict({k: filled(k, v.shape) for k, v in network.state_dict().items()})
        return network
    blocks = ((8, 8), (16, 16), (32,) * 4, (64,) * 4, (64,))
    network = feature_networks.Vgg(blocks, weights, imagenet_input=False)
    network.load_state_dict({k: v.float() for k, v in part(tensors, "vgg19_small/").items()})
    return network


def filled(key, shape):
    assert not re.search(r"norm", key)
    draw = np.random.default_rng(zlib.crc32(("vgg19:" + key).encode())).standard_normal(tuple(shape))
    value = 0.05 * draw if key.endswith("bias") else 2**0.5 * draw / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


@needs_shared
@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("name, best", [("CR", None), ("C2R_difficulty_0", 0), ("C2R_difficulty_31.5", 31.5)])
def test_cr_and_c2r_agree_with_the_official_code(size, name, best):
    described, tensors = load("losses")
    network = official_vgg19(tensors, size).double()
    data = {k: v.double() for k, v in part(tensors, "contrastive_small_vgg19/").items() if "grad" not in k}
    restored, gt, lq = data["anchor"].requires_grad_(), data["positive"], data["hazy_input"]
    common = dict(features=network, lambda_neg=0.2, lq=lq)
    if best is None:
        parts = OBJECTIVES["cr"](restored, gt, [], **common)
    else:
        six = [data[f"negative_{k}"] for k in range(1, 7)]
        parts = OBJECTIVES["c2r"](restored, gt, six, best_psnr=best, thresholds=losses.C2R_INDOOR, **common)
    folder = f"contrastive_{size}_vgg19"
    assert parts.l_neg.item() == pytest.approx(described["cases"][folder][name]["float64"]["value"], rel=1e-9)
    assert parts.total.item() == pytest.approx(parts.l_rec.item() + 0.2 * parts.l_neg.item())
    expected = tensors[f"{folder}/{name.lower()}_grad_float64"].double()
    grad = torch.autograd.grad(parts.l_neg, restored)[0]
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item())


@needs_shared
def test_curriculum_weights_agree_with_the_official_code():
    expected = load("losses")[0]["cases"]["curriculum_weights"]
    for name, thresholds in (("its_test", losses.C2R_INDOOR), ("OTS_test_list", losses.C2R_OUTDOOR)):
        for best, weights in expected[name].items():
            assert losses.curriculum_weights(float(best), thresholds) == pytest.approx(weights, abs=1e-12)
