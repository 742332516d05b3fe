"""IDT: the official tiles, its attention by hand, initialisation."""

import pytest
import torch
import torch.nn.functional as F
from golden import load, needs_shared, part
from torch import nn

from mclir_nb.networks import idt
from mclir_nb.networks.idt import IDT, SIZES, SpatialTransformerLayer, WindowAttention, restore


def build(size: str = "tiny", seed: int = 0, device: str = "cpu", **options) -> IDT:
    torch.manual_seed(seed)
    with torch.device(device):
        return IDT(**{**SIZES[size], **options})


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@needs_shared
@torch.no_grad()
def test_agrees_with_the_official_tiling():
    description, tensors = load("idt")
    core = IDT(**description["constructor"]).eval()
    core.load_state_dict(part(tensors, "weights/"))
    found = part(tensors, "tiling/")
    height, width = found["input"].shape[-2:]
    origins = idt.tile_origins(height, width, 128)
    assert origins == [tuple(start) for start in found["starts"].tolist()]
    torch.testing.assert_close(idt.tile_weights(128, found["input"]), found["score"])
    cuts = [found["input"][..., top : top + 128, left : left + 128] for top, left in origins]
    cuts = torch.stack([cut * (1 + 0.05 * index) for index, cut in enumerate(cuts)])
    torch.testing.assert_close(idt.merge_tiles(cuts, origins, height, width), found["merged"])
    out = restore(core, found["input"])
    torch.testing.assert_close(out, found["network_merged"], rtol=1e-4, atol=description["recommended_atol"])


def test_tiles_run_in_bounded_batches(monkeypatch):
    seen = []

    class Recorder(nn.Module):
        img_size = 64

        def forward(self, x):
            seen.append(len(x))
            return x

    lq = image(3, 3, 100, 200)
    torch.testing.assert_close(restore(Recorder(), lq), lq)
    assert max(seen) == idt.TILES_AT_ONCE and sum(seen) == 3 * 8


@torch.no_grad()
def test_window_attention_by_hand():
    attention = WindowAttention(8, 3, 2, True, k_bound=2)
    nn.init.normal_(attention.relative_position_bias_table)
    x = image(1, 9, 8)
    query, key, value, located = attention.qkv(x)
    out = torch.zeros(1, 9, 8)
    for head in range(2):
        part_ = slice(4 * head, 4 * head + 4)
        scores = query[0, :, part_] @ key[0, :, part_].T / 2
        for i in range(9):
            for j in range(9):
                down, right = (max(-1, min(1, d)) + 1 for d in (i // 3 - j // 3, i % 3 - j % 3))
                scores[i, j] += attention.relative_position_bias_table[3 * down + right, head]
        out[0, :, part_] = scores.softmax(-1) @ value[0, :, part_]
    position = attention.Position_Extract(located.transpose(1, 2).reshape(1, 8, 3, 3))
    expected = attention.proj(out + position.reshape(1, 8, 9).transpose(1, 2))
    torch.testing.assert_close(attention(x), expected)


@torch.no_grad()
def test_cross_window_attention_is_not_folded_back():
    layer = SpatialTransformerLayer(4, 16, 1, 1.0, True, 0.0, 2).eval()
    layer.attn, layer.mlp = nn.Identity(), nn.Identity()
    layer.norm2 = nn.Module()
    layer.norm2.forward = torch.zeros_like
    x = image(2, 16, 16, 4)
    windows = F.unfold(x.permute(0, 3, 1, 2), 8, stride=8).view(2, 4, 64, 4)  # (B, C, pixel, window)
    added = windows.permute(0, 3, 2, 1).reshape(2, 16, 16, 4)
    torch.testing.assert_close(layer(x), x + added)


def test_drop_path_rates_rise_to_the_middle():
    core = build("paper", device="meta")
    rates = [[block.drop_path.rate for block in core.get_submodule(f"encoderlayer_{i}").blocks] for i in range(4)]
    assert rates[0] == pytest.approx([0, 0, 0, 0.2 / 9]) and rates[3] == pytest.approx([0.8 / 9, 0.8 / 9, 0.1])
    assert core.bottle.blocks[0].drop_path.rate == 0.1
    assert [b.drop_path.rate for b in core.decoderlayer_3.blocks] == pytest.approx([0.4 / 9] * 3 + [0.2 / 9])


def test_official_initialisation():
    core = build("demo")
    block = core.bottle.blocks[0]
    assert block.mlp.linear1[0].weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert block.attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)
    assert block.attn.proj.bias.eq(0).all() and block.norm1.weight.eq(1).all()
