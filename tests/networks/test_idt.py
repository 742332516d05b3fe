"""IDT: the official tiles, drop path, initialisation."""

import pytest
import torch
from golden import load, needs_shared, part
from torch import nn

from mclir_nb.networks import idt
from mclir_nb.networks.idt import IDT, SIZES, restore


def build(size: str, device: str = "cpu") -> IDT:
    torch.manual_seed(0)
    with torch.device(device):
        return IDT(**SIZES[size])


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

    lq = torch.rand(3, 3, 100, 200)
    torch.testing.assert_close(restore(Recorder(), lq), lq)
    assert max(seen) == idt.TILES_AT_ONCE and sum(seen) == 3 * 8


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
