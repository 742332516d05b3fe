"""DehazeFormer: the official keys and numbers, any image size, and training."""

import copy
import json

import numpy as np
import pytest
import torch
from golden import SHARED, load, needs_shared, part

from mclir_nb.networks import dehazeformer
from mclir_nb.networks.dehazeformer import RLN, SIZES, DehazeFormer, SKFusion, reflect_pad, restore

COUNTS = {"t": 687_404, "s": 1_284_884, "b": 2_517_612, "m": 4_635_952, "l": 25_451_652}
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
@pytest.mark.parametrize("size", ["t", "s", "b", "m", "l", "d", "w"])
def test_state_dict_is_the_official_one(size):
    published = json.loads((SHARED / "golden" / "state_dicts.json").read_text())[f"dehazeformer_{size}"]
    core = build(size, device="meta")
    found = [[key, list(value.shape), str(value.dtype)[6:]] for key, value in core.state_dict().items()]
    assert found == published["state_dict"]
    assert sum(p.numel() for p in core.parameters()) == published["n_parameters"]


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameter_counts(size):
    assert sum(p.numel() for p in build(size, device="meta").parameters()) == COUNTS[size]


def test_small_members_are_small():
    counts = [sum(p.numel() for p in build(size).parameters()) for size in ("tiny", "demo", "t")]
    assert counts == sorted(counts) and counts[1] < 300_000


@pytest.mark.parametrize("widths", [(0, 3, 2, 1), (4, 4, 4, 0), (9, 0, 30, 17)])
def test_reflect_pad_is_numpys_reflection(widths):
    left, right, top, bottom = widths
    x = image(2, 1, 4, 5)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect")
    assert np.array_equal(reflect_pad(x, left, right, top, bottom).numpy(), expected)


@pytest.mark.parametrize("height, width", [(16, 16), (17, 30), (40, 21)])
@torch.no_grad()
def test_any_size_comes_back(height, width):
    core = build().eval()
    lq = image(1, 3, height, width)
    out = restore(core, lq)
    assert out.shape == lq.shape and out.isfinite().all()
    padded = reflect_pad(lq, 0, -width % 4, 0, -height % 4)  # padding by hand must not matter
    torch.testing.assert_close(restore(core, padded)[:, :, :height, :width], out)


@torch.no_grad()
def test_range_is_mapped_both_ways():
    core, lq = build().eval(), image(1, 3, 16, 20)
    torch.testing.assert_close(restore(core, lq), (core(2 * lq - 1) + 1) / 2)


@torch.no_grad()
def test_images_of_a_batch_do_not_meet():
    core, lq = build().eval(), image(2, 3, 32, 28)
    torch.testing.assert_close(restore(core, lq)[1:], restore(core, lq[1:]), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_many_windows_are_attended_in_parts(monkeypatch):
    core, lq = build().eval(), image(1, 3, 48, 32)
    whole = restore(core, lq)
    monkeypatch.setattr(dehazeformer, "_WINDOWS_AT_ONCE", 5)
    torch.testing.assert_close(restore(core, lq), whole, rtol=1e-5, atol=1e-6)


def test_gradient_reaches_every_parameter():
    core, reached = build(), set()
    for seed in range(3):  # with one draw of weights all four hidden units of a fusion may be switched off
        core.load_state_dict(build(seed=seed).state_dict())
        core.zero_grad()
        restore(core, image(2, 3, 32, 32)).square().mean().backward()
        for name, parameter in core.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            reached |= {name} if parameter.grad.abs().max() > 0 else set()
    for name, _ in core.named_parameters():
        if not name.endswith("attn.attn.meta.2.bias"):  # cancelled by the softmax
            assert name in reached, name


def test_training_removes_haze():
    core, gt = build(), image(2, 3, 24, 24, seed=1)
    lq = 0.5 * gt + 0.4
    optimiser = torch.optim.Adam(core.parameters(), 2e-3)
    for _ in range(15):
        optimiser.zero_grad()
        loss = (restore(core, lq) - gt).abs().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.7 * (lq - gt).abs().mean().item()


def test_bfloat16_autocast_trains():
    core, lq = build(), image(1, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = restore(core, lq)
    out.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in core.parameters())
    assert (out - restore(core, lq)).abs().max() < 0.05


@torch.no_grad()
def test_copies_and_late_weights_compute_the_same():
    core, lq = build().eval(), image(1, 3, 20, 16)
    expected = restore(core, lq)
    late = build(device="meta").to_empty(device="cpu").eval()
    late.load_state_dict(core.state_dict())
    for other in (copy.deepcopy(core), late):
        assert torch.equal(restore(other, lq), expected)
    for parameter in core.parameters():
        parameter.zero_()
    assert torch.equal(restore(late, lq), expected)


@torch.no_grad()
def test_one_graph_without_breaks():
    core, lq = build().eval(), image(1, 3, 21, 32)
    exported = torch.export.export(core, (lq,)).module()
    torch.testing.assert_close(exported(lq), core(lq))


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
    "options, message",
    [
        ({"depths": [1, 1, 1]}, "five layers"),
        ({"embed_dims": [8, 16, 24, 16, 12]}, "not symmetric"),
        ({"num_heads": [2, 5, 6, 1, 1]}, "split over 5 heads"),
        ({"conv_type": [None] * 5}, "conv_type None"),
    ],
)
def test_options_that_cannot_be_built(options, message):
    with pytest.raises(ValueError, match=message):
        DehazeFormer(**{**SIZES["tiny"], **options})


def test_image_too_small():
    with pytest.raises(ValueError, match="image is 8x16"):
        build()(image(1, 3, 8, 16))
