"""Attention in windows, and stochastic depth."""

import pytest
import torch

from mclir_nb.networks import layers
from mclir_nb.networks.layers import DropPath, attention, fused_attention, plain_attention

MASK = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)).round() * -100  # three windows an image


def inputs(depth: int, dtype=torch.float64) -> list[torch.Tensor]:
    """Query, key and value of six windows of 16 tokens with two heads, and a bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 2, 16, depth)] * 3 + [(2, 16, 16)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
def test_attention_is_its_formula(mask):
    query, key, value, bias = inputs(6)
    out = attention(*(part.transpose(1, 2).flatten(2) for part in (query, key, value)), bias, mask)
    for window in range(6):
        for head in range(2):
            scores = query[window, head] @ key[window, head].T / 6**0.5 + bias[head]
            scores = scores if mask is None else scores + mask[window % 3]
            expected = scores.softmax(-1) @ value[window, head]
            torch.testing.assert_close(out[window, :, 6 * head : 6 * head + 6], expected)


@pytest.mark.parametrize("mask", [None, MASK.double()], ids=["plain", "masked"])
@pytest.mark.parametrize("depth", [10, 16])
def test_the_kernel_for_cuda_gives_the_same_numbers_and_gradients(depth, mask):
    tensors = inputs(depth)
    plain, fused = (attend(*tensors, mask) for attend in (plain_attention, fused_attention))
    torch.testing.assert_close(fused, plain)
    upstream = torch.rand_like(plain)
    gradients = (torch.autograd.grad(result, tensors, upstream) for result in (fused, plain))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
def test_many_windows_are_attended_in_parts(mask, monkeypatch):
    *parts, bias = inputs(8, torch.float32)
    tensors = [*(part.transpose(1, 2).flatten(2) for part in parts), bias]
    whole = attention(*tensors, mask)
    monkeypatch.setattr(layers, "WINDOWS_AT_ONCE", 8)  # four windows of two heads
    torch.testing.assert_close(attention(*tensors, mask), whole)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    out = drop(x)
    torch.manual_seed(0)
    assert torch.equal(drop(x), out)
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x
