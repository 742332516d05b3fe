"""DehazeFormer: the official numbers, padding, initialisation."""

import json

import numpy as np
import pytest
import torch
from golden import SHARED, load, needs_shared, part

from mclir_nb.networks.dehazeformer import RLN, SIZES, DehazeFormer, SKFusion, reflect_pad, restore

FIXTURES = ["dehazeformer", "dehazeformer_conv", "dehazeformer_mixed"]


def build(size: str = "tiny", seed: int = 0, device: str = "cpu") -> DehazeFormer:
    torch.manual_seed(seed)
    with torch.device(device):
        return DehazeFormer(**SIZES[size])


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@needs_shared
@pytest.mark.parametrize("name", FIXTURES)
@torch.no_grad()
def test_agrees_with_the_official_network(name):
    description, tensors = load(name)
    core = DehazeFormer(**description["constructor"]).eval()
    weights = part(tensors, "weights/")
    for key, value in core.state_dict().items():
        if key.endswith("relative_positions"):
            assert torch.equal(value, weights[key])  # before loading: the buffer is built to the last bit
    core.load_state_dict(weights)
    for case in description["cases"]:
        out, expected = core(tensors[f"input/{case}"]), tensors[f"output/{case}"]
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=description["recommended_atol"])
    core.double()
    for case in description["cases"]:
        out, expected = core(tensors[f"input/{case}"].double()), tensors[f"output_f64/{case}"]
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


@needs_shared
@torch.no_grad()
def test_single_modules_agree_with_the_official_ones():
    _, tensors = load("dehazeformer")
    found = part(tensors, "module/RLN_dim8_low_variance/")
    norm = RLN(8)
    norm.load_state_dict(part(found, "weights/"))
    for index, out in enumerate(norm(found["input_0"])):
        torch.testing.assert_close(out, found[f"output_{index}"], rtol=1e-4, atol=1e-5)
    found = part(tensors, "module/SKFusion_dim16/")
    fusion = SKFusion(16)
    fusion.load_state_dict(part(found, "weights/"))
    out = fusion([found["input_0"], found["input_1"]])
    torch.testing.assert_close(out, found["output_0"], rtol=1e-4, atol=1e-5)


@needs_shared
@pytest.mark.parametrize("size", ["d", "w"])  # never published under a name; the others are in test_networks
def test_state_dict_is_the_official_one(size):
    published = json.loads((SHARED / "golden" / "state_dicts.json").read_text())[f"dehazeformer_{size}"]
    core = build(size, device="meta")
    found = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in core.state_dict().items()]
    assert found == published["state_dict"]
    assert sum(p.numel() for p in core.parameters()) == published["n_parameters"]


@pytest.mark.parametrize("widths", [(0, 3, 2, 1), (4, 4, 4, 0), (9, 0, 30, 17)])
def test_reflect_pad_is_numpys_reflection(widths):
    left, right, top, bottom = widths
    x = image(2, 1, 4, 5)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
    assert np.array_equal(reflect_pad(x, left, right, top, bottom).numpy(), expected)


@torch.no_grad()
def test_padding_by_hand_does_not_matter():
    core, lq = build().eval(), image(1, 3, 17, 30)
    padded = reflect_pad(lq, 0, 2, 0, 3)
    torch.testing.assert_close(restore(core, padded)[:, :, :17, :30], restore(core, lq))


@torch.no_grad()
def test_range_is_mapped_both_ways():
    core, lq = build().eval(), image(1, 3, 16, 20)
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


@pytest.mark.parametrize(
    "options, word",
    [
        ({"depths": [1, 1, 1]}, "five"),
        ({"embed_dims": [8, 16, 24, 16, 12]}, "embed_dims"),
        ({"num_heads": [2, 5, 6, 1, 1]}, "5 heads"),
        ({"conv_type": [None] * 5}, "conv_type"),
    ],
)
def test_options_that_cannot_be_built(options, word):
    with pytest.raises(ValueError, match=word):
        DehazeFormer(**{**SIZES["tiny"], **options})


def test_image_too_small():
    with pytest.raises(ValueError, match="8x16"):
        build()(image(1, 3, 8, 16))
