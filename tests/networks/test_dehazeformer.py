"""DehazeFormer: the official numbers of its norm, padding, initialisation."""

import numpy as np
import pytest
import torch
from golden import load, needs_shared, part

from mclir_nb.networks.dehazeformer import RLN, SIZES, DehazeFormer, restore
from mclir_nb.networks.layers import reflect_pad


def build(size: str = "tiny") -> DehazeFormer:
    torch.manual_seed(0)
    return DehazeFormer(**SIZES[size])


@needs_shared
@torch.no_grad()
def test_the_norm_of_a_flat_image_agrees_with_the_official_one():
    _, tensors = load("dehazeformer")
    found = part(tensors, "module/RLN_dim8_low_variance/")
    norm = RLN(8)
    norm.load_state_dict(part(found, "weights/"))
    for index, out in enumerate(norm(found["input_0"])):
        torch.testing.assert_close(out, found[f"output_{index}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widths", [(0, 3, 2, 1), (4, 4, 4, 0), (9, 0, 30, 17)])
def test_reflect_pad_is_numpys_reflection(widths):
    left, right, top, bottom = widths
    x = torch.rand(2, 1, 4, 5)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
    assert np.array_equal(reflect_pad(x, left, right, top, bottom).numpy(), expected)


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("widths", [(0, 0, 0, 0), (0, 3, 2, 1), (4, 4, 4, 0), (9, 0, 30, 17)])
def test_the_deterministic_mode_reflects_alike(widths, deterministic):
    x = torch.rand(2, 1, 4, 5)
    found = reflect_pad(x, *widths)
    torch.use_deterministic_algorithms(False)
    assert torch.equal(found, reflect_pad(x, *widths))


def nodes(tensor) -> set[str]:
    """The names of all functions in the graph behind a tensor."""
    left, seen = [tensor.grad_fn], set()
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [one for one, _ in node.next_functions]
    return {node.name() for node in seen}


def test_the_deterministic_mode_has_no_gradient_of_reflect_padding(deterministic):
    """CUDA has no deterministic kernel for it, and PyTorch raises an error there."""
    core, lq = build("t"), torch.rand(1, 3, 36, 44)
    found = core(lq)
    torch.use_deterministic_algorithms(False)
    ordinary = core(lq)
    assert torch.equal(found, ordinary)
    assert not any("ReflectionPad" in name for name in nodes(found)) and "ReflectionPad2DBackward0" in nodes(ordinary)
    gradients = (torch.autograd.grad(out.sum(), list(core.parameters())) for out in (found, ordinary))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_range_is_mapped_both_ways():
    core, lq = build().eval(), torch.rand(1, 3, 16, 20)
    torch.testing.assert_close(restore(core, lq), (core(2 * lq - 1) + 1) / 2)


def test_official_initialisation():
    core = build("t")
    block = core.layer3.blocks[0]
    total, dim = sum(SIZES["t"]["depths"]), SIZES["t"]["embed_dims"][2]
    gain = (8 * total) ** -0.25
    for weight, std in [
        (block.attn.QK.weight, (2 / (3 * dim)) ** 0.5),
        (block.attn.V.weight, gain * (1 / dim) ** 0.5),
        (block.mlp.mlp[0].weight, gain * (2 / (5 * dim)) ** 0.5),
        (block.norm1.meta1.weight, 0.02),
    ]:
        assert weight.std().item() == pytest.approx(std, rel=0.25)
    assert block.norm1.meta1.bias.eq(1).all() and block.norm1.meta2.bias.eq(0).all()
    assert block.attn.proj.bias.eq(0).all()
