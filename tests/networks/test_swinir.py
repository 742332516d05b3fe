"""SwinIR: image sizes, heads, initialisation, stochastic depth."""

import pytest
import torch

from mclir_nb.networks.swinir import SIZES, SwinIR


def tiny(**overrides) -> SwinIR:
    """A small network whose biases and position tables matter."""
    torch.manual_seed(0)
    core = SwinIR(**{"upscale": 2, **SIZES["tiny"], **overrides})
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return core.eval()


def test_the_size_a_network_was_built_for_does_not_matter():
    core, other = tiny(img_size=24), tiny(img_size=(32, 16))
    weights = {k: v for k, v in core.state_dict().items() if not k.endswith("attn_mask")}
    assert other.load_state_dict(weights, strict=False).unexpected_keys == []
    for shape in [(24, 24), (32, 16), (16, 40)]:
        lq = torch.rand(2, 3, *shape)
        assert torch.equal(core(lq), other(lq))


@pytest.mark.parametrize("upsampler, scale", [("pixelshuffledirect", 3), ("pixelshuffle", 8)])
def test_every_head_enlarges(upsampler, scale):
    core = tiny(upsampler=upsampler, upscale=scale)
    assert core(torch.rand(1, 3, 17, 31)).shape == (1, 3, 17 * scale, 31 * scale)


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
    lq = torch.rand(8, 3, 16, 16)
    assert not torch.equal(core.train()(lq), core(lq))
    assert torch.equal(core.eval()(lq), core(lq))
