"""What a training step costs: predicted before it runs, measured on this machine.

Model (multiply-accumulates, MACs): a plain step is 3F, one forward F and a backward of 2F. SPN adds N forwards of
history models and the feature network: V forward and V input gradient for the output, V for each negative. So

    SPN step / plain step = 1 + N/3 + (2 + N) V / (3 F).

One history drawn anew per step counts as N = 1, the term in every k-th step only as 1/k of what it adds, features on a
square of the patch as the share of V that the square is of the patch.

Memory: weights, gradients, two moments, EMA and N histories stay; what the backward pass needs of the forward grows
with the batch; the feature network adds the maps of the few images it looks at at a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from mclir_nb.data import datasets, tasks
from mclir_nb.data.patches import Patches
from mclir_nb.evaluation import memory
from mclir_nb.experiments import timing
from mclir_nb.method import features, losses, precision
from mclir_nb.training import records
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.train import Trainer


def counted(recipe: Recipe) -> dict:
    """Size of a step in MACs per patch, without training anything.

    Returns: parameters; F (network, one patch), V (features of one gt patch, or of the square they see), histories N;
        ratio, the predicted cost of a step relative to the plain step of the same network; bytes, the predicted peak
        of the memory that tensors hold.
    """
    with torch.random.fork_rng(devices=[]):
        network = records.build_network(recipe).eval()
    lq = torch.rand(1, 3, *2 * [recipe.patch_size // recipe.scale])
    forward, looked_at, maps, feature_bytes = timing.macs(network, lq), 0, 0, 0
    kept = len(recipe.history_every) if recipe.objective in losses.USES_HISTORY else 0
    asked = min(kept, 1) if recipe.history_draw else kept
    if recipe.objective != "plain":
        seen = recipe.features_crop or recipe.patch_size
        net, patch = features.build(recipe.features, recipe.features_weights), torch.rand(1, 3, seen, seen)
        looked_at, feature_bytes = timing.macs(net, patch), memory.size(net)
        at_once = min(recipe.batch_size, max(1, net.pixels_at_once // ((1 + asked) * seen**2)))
        maps = at_once * (memory.kept_for_backward(net, patch.requires_grad_()) + asked * _tapped(net, patch))
    extra = asked / 3 + (2 + asked) * looked_at / (3 * forward)
    weights = memory.size(network)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "F": forward,
        "V": looked_at,
        "histories": kept,
        "ratio": 1 + extra / recipe.negatives_every,
        "bytes": (5 + kept) * weights
        + feature_bytes
        + recipe.batch_size * memory.kept_for_backward(network, lq)
        + maps,
    }


def table(names: Sequence[str], counts: Sequence[int] = (0, 1, 2, 4)) -> pd.DataFrame:
    """The cost model for networks at paper size: ratios to a plain step, from MACs counted on small patches.

    Returns: columns network, patch, V/F, one column "N = n" per count, and "as released", N = 4 with the features of
        the output computed once per negative: 1 + N/3 + 3N V / (3F).
    """
    rows = []
    for name in names:
        recipe = timing.small(name)
        count = counted(recipe)
        share = count["V"] / count["F"]
        row = {"network": name, "patch": recipe.patch_size, "V/F": share}
        row |= {f"N = {n}": 1 + n / 3 + (2 + n) * share / 3 if n else 1.0 for n in counts}
        rows.append(row | {"as released": 1 + 4 / 3 + 4 * share})
    return pd.DataFrame(rows)


def _tapped(net: nn.Module, image: torch.Tensor) -> int:
    """Bytes of the feature maps that are compared, for one image."""
    with torch.no_grad():
        return sum(x.nbytes for x in net(image).values())


@precision.full_float32()
def one_patch(recipe: Recipe, device: torch.device, times: int = 2) -> float:
    """Seconds of a forward and a backward pass of the network for one patch here, the least of a few."""
    with torch.random.fork_rng(devices=[]):
        network = records.build_network(recipe).to(device)
    lq = torch.rand(1, 3, *2 * [recipe.patch_size // recipe.scale], device=device)
    lq = lq.contiguous(memory_format=torch.channels_last)
    taken = []
    for _ in range(1 + times):
        start = time.perf_counter()
        network(lq).mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def predict(recipe: Recipe, device: torch.device) -> dict:
    """Time and memory of a step of this recipe, from the counted MACs and one patch run here.

    Returns: what `counted` returns, and seconds: batch_size * one_patch * ratio. Large batches of small patches take
        less than that on a GPU, which one patch does not fill.
    """
    count = counted(recipe)
    return count | {"seconds": recipe.batch_size * one_patch(recipe, device) * count["ratio"]}


def probe(recipe: Recipe, device: torch.device, steps: int = 3) -> tuple[float, float]:
    """Train a throw-away copy of a recipe for `steps` steps after one to warm up.

    Returns: median seconds of a step here, and the share of its threads' time that this process got meanwhile: well
        below 1 on a CPU where other programs run.
    """
    trainer, seconds, used = Trainer(recipe, device), [], []
    for gt, lq, names in trainer.patches.batches(1, steps + 1):
        start, before = time.perf_counter(), time.process_time()
        trainer.advance(gt, lq, names)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
        used.append(time.process_time() - before)
    return statistics.median(seconds[1:]), sum(used[1:]) / sum(seconds[1:]) / torch.get_num_threads()


BUSY = 0.6  # of its threads' time; an idle machine gives 0.8 and more: threads wait for each other awake


def supply(recipe: Recipe, steps: int = 8) -> float:
    """Median seconds in which one process makes a batch: reading from the cache, cutting, degrading.

    On a CPU a step waits that long; beside a GPU, W processes make batches ahead, so it waits only if it is shorter
    than this divided by W (`patches.Patches.batches`).
    """
    task = tasks.get(recipe.task, recipe.scale)
    images = datasets.open_set(recipe.dataset, task, "train", recipe.data_root)
    patches = Patches(images, task, recipe.patch_size, recipe.batch_size, recipe.seed)
    taken = []
    for step in range(1, steps + 3):
        start = time.perf_counter()
        patches.batch(step)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])  # the first read files


def card(recipe: Recipe, device: torch.device) -> pd.Series:
    """The cost of a run before it starts, one line per fact."""
    count, (seconds, share) = predict(recipe, device), probe(recipe, device)
    busy = device.type == "cpu" and share < BUSY
    plain = 3 * count["F"] * recipe.batch_size
    return pd.Series(
        {
            "parameters": f"{count['parameters']:,}",
            "forward pass of one patch": f"{count['F'] / 1e6:,.0f} million MACs",
            "features of one patch": f"{count['V'] / 1e6:,.0f} million MACs",
            "history models": f"{count['histories']}",
            "predicted step / plain step": f"{count['ratio']:.2f} (by MACs)",
            "predicted memory": f"{count['bytes'] / 1e6:,.0f} MB in tensors",
            "predicted step here": f"{count['seconds'] * 1000:.0f} ms",
            "MACs of the run": f"{plain * count['ratio'] * recipe.steps:.2e}",
            "patches seen": f"{recipe.steps * recipe.batch_size:,}",
            "measured step here": f"{seconds * 1000:.0f} ms",
            "training time here": f"about {max(seconds * recipe.steps / 60, 0.1):.1f} minutes, and scoring"
            + ("; less once the other programs here are done" if busy else ""),
        },
        name=recipe.name,
    )
