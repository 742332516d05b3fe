"""SwinIR: official numbers and keys, any image size, shifted windows, training, bad input."""

import copy
import json

import numpy as np
import pytest
import torch
from golden import SHARED, load, needs_shared, part
from safetensors.torch import load_file, save_file

from mclir_nb.networks.swinir import (
    SIZES,
    SwinIR,
    WindowAttention,
    from_windows,
    relative_position_index,
    restore,
    shift_mask,
    to_windows,
)

FIXTURES = ["swinir_light_x2", "swinir_light_x4", "swinir_x4"]
PUBLISHED = {  # entry of state_dicts.json: key of SIZES, overrides
    "swinir_light_x2": ("light", {"upscale": 2}),
    "swinir_light_x3": ("light", {"upscale": 3}),
    "swinir_light_x4": ("light", {"upscale": 4}),
    "swinir_classical_x2_img48": ("classical", {"upscale": 2}),
    "swinir_classical_x4_img48": ("classical", {"upscale": 4}),
    "swinir_classical_x4_img64": ("classical", {"upscale": 4, "img_size": 64}),
}


def tiny(**overrides) -> SwinIR:
    """A small network whose biases and position tables matter."""
    torch.manual_seed(0)
    core = SwinIR(**{"upscale": 2, **SIZES["tiny"], **overrides})
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return core.eval()


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_the_official_numbers(fixture, dtype):
    about, tensors = load(fixture)
    core = SwinIR(**about["constructor"])
    core.load_state_dict(part(tensors, "weights/"), strict=True)
    core.eval().to(dtype)
    wide = dtype == torch.float64
    tolerance = {"atol": 1e-9, "rtol": 0.0} if wide else {"atol": about["recommended_atol"], "rtol": 1e-4}
    expected = part(tensors, "output_f64/" if wide else "output/")
    assert len(expected) == (1 if wide else 5)
    for case, wanted in expected.items():
        padding = "test-script" if case.endswith("test_script") else "reflect"
        with torch.no_grad():
            restored = restore(core, tensors[f"input/{case}"].to(dtype), padding)
        torch.testing.assert_close(restored, wanted, **tolerance)


@needs_shared
@pytest.mark.parametrize("entry", PUBLISHED)
def test_the_official_keys_in_order(entry):
    about = json.loads((SHARED / "golden" / "state_dicts.json").read_text())[entry]
    size, overrides = PUBLISHED[entry]
    options = SIZES[size] | overrides
    assert options.items() <= about["constructor"].items()
    with torch.device("meta"):
        core = SwinIR(**options)
    listing = [[k, list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in core.state_dict().items()]
    assert listing == about["state_dict"]
    assert sum(p.numel() for p in core.parameters()) == about["n_parameters"]


def test_relative_positions_by_hand():
    index = relative_position_index(2)  # tokens 0 1 / 2 3, offsets -1 .. 1 in both axes, 3 columns of them
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_windows_are_undone():
    x = torch.arange(2 * 6 * 4 * 3).view(2, 6, 4, 3)
    windows = to_windows(x, 2)
    assert windows.shape == (2 * 6, 4, 3)
    assert torch.equal(windows[1], x[0, :2, 2:].reshape(4, 3))
    assert torch.equal(from_windows(windows, 2, x.shape), x)


@pytest.mark.parametrize("height, width", [(8, 8), (8, 20), (24, 12)])
def test_the_mask_separates_exactly_what_the_shift_joined(height, width):
    window, shift = 4, 2
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    rolled = grid.roll((-shift, -shift), (0, 1))[None]
    windows = to_windows(rolled, window)  # original positions of the tokens of each window
    near = ((windows[:, :, None] - windows[:, None]).abs() < window).all(-1)
    mask = shift_mask(height, width, window)
    assert torch.equal(mask == 0, near)
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


def test_attention_is_its_formula():
    torch.manual_seed(0)
    attention = WindowAttention(dim=6, window=2, heads=3).double()
    x, mask = torch.randn(2, 4, 4, 6).double(), shift_mask(4, 4, 2).double()
    qkv = attention.qkv(to_windows(x, 2)).view(8, 4, 3, 3, 2)
    out = torch.empty(8, 4, 6).double()
    for window in range(8):
        for head in range(3):
            q, k, v = qkv[window, :, :, head].unbind(1)
            bias = attention.relative_position_bias_table[attention.relative_position_index, head]
            scores = q @ k.T / 2**0.5 + bias + mask[window % 4]
            out[window, :, 2 * head : 2 * head + 2] = scores.softmax(-1) @ v
    expected = from_windows(attention.proj(out), 2, x.shape)
    torch.testing.assert_close(attention(x, mask), expected, atol=1e-12, rtol=0)


def test_the_size_a_network_was_built_for_does_not_matter():
    core, other = tiny(img_size=24), tiny(img_size=(32, 16))
    weights = {k: v for k, v in core.state_dict().items() if not k.endswith("attn_mask")}
    assert other.load_state_dict(weights, strict=False).unexpected_keys == []
    for shape in [(24, 24), (32, 16), (16, 40)]:
        lq = torch.rand(2, 3, *shape)
        assert torch.equal(core(lq), other(lq))


def test_an_image_does_not_depend_on_its_batch():
    core, lq = tiny().double(), torch.rand(3, 3, 16, 40).double()
    single = torch.cat([core(image[None]) for image in lq])
    torch.testing.assert_close(core(lq), single, atol=1e-12, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", ["demo", "tiny"])
def test_any_image_size(size, scale):
    core = SwinIR(upscale=scale, **SIZES[size]).eval()
    assert sum(p.numel() for p in core.parameters()) < 0.3e6
    for height, width in [(16, 16), (17, 31)]:
        with torch.no_grad():
            assert restore(core, torch.rand(1, 3, height, width)).shape == (1, 3, scale * height, scale * width)


@pytest.mark.parametrize("upsampler, scale", [("pixelshuffle", 2), ("pixelshuffle", 3), ("pixelshuffle", 8), ("", 1)])
def test_other_heads(upsampler, scale):
    core = tiny(upsampler=upsampler, upscale=scale)
    assert core(torch.rand(1, 3, 16, 24)).shape == (1, 3, 16 * scale, 24 * scale)


@pytest.mark.parametrize("height, width", [(24, 32), (19, 29)])
def test_both_paddings_by_hand(height, width):
    core, lq = tiny(), torch.rand(1, 3, height, width)
    extra = [(8 - height % 8), (8 - width % 8)]
    for padding, mode, extra_rows, extra_columns in [
        ("reflect", "reflect", extra[0] % 8, extra[1] % 8),
        ("test-script", "symmetric", *extra),
    ]:
        padded = np.pad(lq.numpy(), ((0, 0), (0, 0), (0, extra_rows), (0, extra_columns)), mode)
        expected = core(torch.from_numpy(padded))[..., : 2 * height, : 2 * width]
        torch.testing.assert_close(restore(core, lq, padding), expected, atol=1e-6, rtol=0)


def test_official_start_values():
    torch.manual_seed(0)
    core = SwinIR(upscale=2, **SIZES["demo"])
    block = core.layers[0].residual_group.blocks[0]
    for weight in (block.attn.qkv.weight, block.mlp.fc2.weight, block.attn.relative_position_bias_table):
        assert abs(weight.mean()) < 0.003 and 0.018 < weight.std() < 0.022
    assert not block.attn.qkv.bias.any() and not block.mlp.fc1.bias.any()
    assert (block.norm1.weight == 1).all()


def test_stochastic_depth_grows_over_the_blocks_and_only_in_training():
    core = SwinIR(upscale=2, **SIZES["demo"])
    paths = [block.drop_path for layer in core.layers for block in layer.residual_group.blocks]
    assert [path.rate for path in paths] == pytest.approx([0.1 * i / 7 for i in range(8)])
    torch.manual_seed(0)
    dropped = paths[-1].train()(torch.ones(10_000, 1, 1, 1))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    lq = torch.rand(8, 3, 16, 16)
    assert not torch.equal(core.train()(lq), core(lq))
    assert torch.equal(core.eval()(lq), core(lq))


def test_a_gradient_reaches_every_parameter():
    core = tiny(depths=[2, 2], num_heads=[2, 2]).train()
    core(torch.rand(2, 3, 19, 24)).square().mean().backward()
    assert [k for k, p in core.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_bfloat16_autocast_stays_near():
    core, lq = tiny(), torch.rand(1, 3, 24, 32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = core(lq)
        rough.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in core.parameters())
    assert (rough - core(lq)).abs().mean() < 0.02 * core(lq).std()


def test_copies_and_files(tmp_path):
    core, lq = tiny(), torch.rand(1, 3, 16, 24)  # not the size of the stored mask
    before = core(lq)
    assert torch.equal(copy.deepcopy(core)(lq), before)
    save_file(core.state_dict(), tmp_path / "core.safetensors")  # refuses tensors that share memory
    fresh = SwinIR(upscale=2, **SIZES["tiny"]).eval()
    fresh.load_state_dict(load_file(tmp_path / "core.safetensors"))
    assert torch.equal(fresh(lq), before)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"img_size": 20}, "img_size .* multiples of window_size"),
        ({"num_heads": [3]}, "embed_dim 16 does not split into 3 heads"),
        ({"depths": [2, 2]}, "depths has 2 layers and num_heads 1"),
        ({"upsampler": "nearest+conv"}, "upsampler 'nearest\\+conv' .* use 'pixelshuffle'"),
        ({"upsampler": "pixelshuffle", "upscale": 5}, "upscale 5 .* use 2, 3, 4 or 8"),
        ({"resi_connection": "3conv"}, "use '1conv'"),
    ],
)
def test_bad_options_speak(options, words):
    with pytest.raises(ValueError, match=words):
        SwinIR(**{"upscale": 2, **SIZES["tiny"], **options})


def test_an_unknown_padding_speaks():
    with pytest.raises(ValueError, match="padding 'zeros' is unknown; use one of 'reflect', 'test-script'"):
        restore(tiny(), torch.rand(1, 3, 16, 16), "zeros")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees():
    core, lq = tiny(), torch.rand(2, 3, 19, 40)
    expected = core(lq)
    torch.testing.assert_close(core.cuda()(lq.cuda()).cpu(), expected, atol=2e-2, rtol=0)  # room for TF32
    with torch.autocast("cuda", torch.bfloat16):
        core.train()(lq.cuda()).float().mean().backward()
    assert all(p.grad.isfinite().all() for p in core.parameters())
