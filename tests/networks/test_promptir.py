"""PromptIR: the official numbers of its parts, and a black image."""

import pytest
import torch
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


def test_a_black_image_has_finite_gradients():
    core = PromptIR(**SIZES["tiny"])  # fresh: all features are 0, and so are the lengths of q and k
    core(torch.zeros(1, 3, 16, 16)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in core.parameters())
