"""What a training step costs: counted before it runs, measured on this machine.

Model (multiply-accumulates, MACs): a plain step is 3F, one forward F and a backward of 2F. SPN adds N forwards of
history models and the feature network: V forward and V input gradient for the output, V for each negative. So

    SPN step / plain step = 1 + N/3 + (2 + N) V / (3 F).
"""

from __future__ import annotations

import statistics
import time

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mclir_nb import features, losses, records
from mclir_nb.recipes import Recipe
from mclir_nb.train import Trainer


def macs(module: nn.Module, image: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, as torch's counter sees them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image)
    return counter.get_total_flops() // 2


def counted(recipe: Recipe) -> dict:
    """Size of a step in MACs per patch, without training anything.

    Returns: parameters; F (network, one patch), V (features of one gt patch), histories N; ratio, the predicted
        cost of a step relative to the plain step of the same network.
    """
    with torch.random.fork_rng(devices=[]):
        network = records.build_network(recipe).eval()
    side = recipe.patch_size
    forward = macs(network, torch.rand(1, 3, side // recipe.scale, side // recipe.scale))
    histories = len(recipe.history_every) if recipe.objective in losses.USES_HISTORY else 0
    looked_at = 0
    if recipe.objective != "plain":
        looked_at = macs(
            features.build(recipe.features, recipe.features_weights), torch.rand(1, 3, side, side)
        )
    ratio = 1 + histories / 3 + (2 + histories) * looked_at / (3 * forward)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "F": forward, "V": looked_at, "histories": histories, "ratio": ratio,
    }  # fmt: skip


def probe(recipe: Recipe, device: torch.device, steps: int = 3) -> float:
    """Median seconds of a step of this recipe here; trains a throw-away copy for `steps` steps after one to warm up."""
    trainer, seconds = Trainer(recipe, device), []
    for gt, lq, names in trainer.patches.batches(1, steps + 1):
        start = time.perf_counter()
        trainer.advance(gt, lq, names)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def card(recipe: Recipe, device: torch.device) -> pd.Series:
    """The cost of a run before it starts, one line per fact."""
    count, seconds = counted(recipe), probe(recipe, device)
    plain = 3 * count["F"] * recipe.batch_size
    return pd.Series(
        {
            "parameters": f"{count['parameters']:,}",
            "forward pass of one patch": f"{count['F'] / 1e6:,.0f} million MACs",
            "features of one patch": f"{count['V'] / 1e6:,.0f} million MACs",
            "history models": f"{count['histories']}",
            "predicted step / plain step": f"{count['ratio']:.2f} (by MACs)",
            "MACs of the run": f"{plain * count['ratio'] * recipe.steps:.2e}",
            "patches seen": f"{recipe.steps * recipe.batch_size:,}",
            "measured step here": f"{seconds * 1000:.0f} ms",
            "training time here": f"about {max(seconds * recipe.steps / 60, 0.1):.1f} minutes, and scoring",
        },
        name=recipe.name,
    )
