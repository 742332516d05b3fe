"""Windows of a feature map and the attention inside them."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from mclir_nb.networks import onednn, windows


def inputs(depth: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Six windows of 16 tokens, two heads; query, key and value as part of a wider map, as IDT has them."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 16, 8 * depth, generator=generator, dtype=dtype)
    qkv = wide[..., : 6 * depth].unflatten(-1, (3, 2, depth))
    bias = torch.randn(2, 16, 16, generator=generator, dtype=dtype)
    return qkv.requires_grad_(), bias.requires_grad_()


def a_mask(dtype=torch.float64) -> torch.Tensor:
    """Three windows: the six are those of two images."""
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=dtype).round() * -100


def by_kernel(qkv: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    query, key, value = qkv.transpose(1, 3).unbind(2)
    offset = bias[None] if mask is None else bias + torch.cat([mask, mask])[:, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=offset).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("mask", [None, a_mask()], ids=["plain", "masked"])
@pytest.mark.parametrize("depth", [10, 16])
def test_attention_is_softmax_of_scores(depth, mask):
    tensors = inputs(depth)
    ours, theirs = windows.attention(*tensors, mask), by_kernel(*tensors, mask)
    with onednn.off():
        written_out = windows.attention(*tensors, mask)
    upstream = torch.rand_like(ours)
    expected = torch.autograd.grad(theirs, tensors, upstream)
    for result in (ours, written_out):
        torch.testing.assert_close(result, theirs)
        for found, gradient in zip(torch.autograd.grad(result, tensors, upstream), expected, strict=True):
            torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("mask", [None, a_mask(torch.float32)], ids=["plain", "masked"])
def test_without_a_graph_the_bits_are_the_same(mask):
    tensors = inputs(10, torch.float32)
    with torch.no_grad():
        alone = windows.attention(*tensors, mask)
    assert torch.equal(windows.attention(*tensors, mask), alone)


@pytest.mark.parametrize("reference", [False, True])
def test_a_network_in_half_precision_takes_bias_and_mask_as_they_are(reference):
    qkv, bias = inputs(16, torch.float32)
    expected = windows.attention(qkv, bias, a_mask(torch.float32))
    with onednn.off() if reference else nullcontext():
        found = windows.attention(qkv.bfloat16(), bias, a_mask(torch.float32))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


def test_an_upstream_gradient_of_any_layout_is_taken():
    tensors = inputs(10)
    upstream = torch.rand(16, 6, 20, dtype=torch.float64).transpose(0, 1)
    found = torch.autograd.grad(windows.attention(*tensors), tensors, upstream)
    for ours, theirs in zip(found, torch.autograd.grad(by_kernel(*tensors), tensors, upstream), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_large_attention_takes_the_kernel_that_needs_less_memory(monkeypatch):
    tensors = (*inputs(8), a_mask())
    expected = windows.attention(*tensors)
    monkeypatch.setattr(windows, "SCORES", 6 * 2 * 16 * 16 - 1)
    monkeypatch.setattr(torch.Tensor, "softmax", None)
    torch.testing.assert_close(windows.attention(*tensors), expected)


def test_windows_go_back_to_where_they_came_from():
    x = torch.arange(2 * 6 * 9 * 2).view(2, 6, 9, 2)
    cut = windows.to_windows(x, 3)
    assert cut.shape == (12, 9, 2)
    assert torch.equal(cut[1], x[0, :3, 3:6].reshape(9, 2))
    assert torch.equal(windows.from_windows(cut, 3, x.shape), x)
