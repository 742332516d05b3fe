"""PromptIR: the official numbers of its parts, and its parts by hand."""

import pytest
import torch
import torch.nn.functional as F
from golden import load, needs_shared, part

from mclir_nb.networks import promptir
from mclir_nb.networks.promptir import SIZES, PromptGenBlock, PromptIR

BLOCKS = {  # name in the fixture: the part, in official argument order
    "Downsample_16": lambda: promptir.downsample(16),
    "Upsample_16": lambda: promptir.upsample(16),
    "PromptGenBlock_promptdim16_len5_size8_lindim24": lambda: PromptGenBlock(16, 5, 8, 24),
    "TransformerBlock_dim24_heads4_ffn2.66_bias_true_BiasFree": lambda: promptir.TransformerBlock(
        24, 4, 2.66, True, "BiasFree"
    ),
    "TransformerBlock_dim48_heads2_ffn2.66_bias_false_WithBias": lambda: promptir.TransformerBlock(
        48, 2, 2.66, False, "WithBias"
    ),
}


@needs_shared
@pytest.mark.parametrize("name", BLOCKS)
def test_the_official_numbers_of_each_part(name):
    about, tensors = load("promptir")
    tensors = part(tensors, f"block/{name}/")
    block = BLOCKS[name]()
    block.load_state_dict(part(tensors, "weights/"), strict=True)
    with torch.no_grad():
        rough, wide = block(tensors["input"]), block.double()(tensors["input"].double())
    torch.testing.assert_close(rough, tensors["output"], atol=about["recommended_atol"], rtol=1e-4)
    torch.testing.assert_close(wide, tensors["output_f64"], atol=1e-9, rtol=0)


def test_a_prompt_is_a_mixture_of_the_learned_maps():
    block = PromptGenBlock(prompt_dim=4, prompt_len=3, prompt_size=2, lin_dim=6).double()
    assert 0 <= block.prompt_param.min() and block.prompt_param.max() < 1  # official start: uniform
    with torch.no_grad():
        block.linear_layer.weight.zero_()
        block.linear_layer.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))  # always the second map
    expected = block.conv3x3(F.interpolate(block.prompt_param[:, 1], (5, 7), mode="bilinear"))
    torch.testing.assert_close(block(torch.randn(1, 6, 5, 7).double()), expected, atol=1e-12, rtol=0)


def test_a_black_image_has_finite_gradients():
    core = PromptIR(**SIZES["tiny"])  # fresh: all features are 0, and so are the lengths of q and k
    core(torch.zeros(1, 3, 16, 16)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in core.parameters())
