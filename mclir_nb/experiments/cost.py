"""What a training step costs: counted before it runs, predicted for this machine, tried out.

Time is counted in multiply-accumulates (`macs`), memory is predicted from one patch (`needs`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch

from mclir_nb import check_choice
from mclir_nb.data import datasets, tasks
from mclir_nb.data.patches import Patches
from mclir_nb.evaluation import memory
from mclir_nb.method import precision
from mclir_nb.training import machine, macs, needs, recipes, records
from mclir_nb.training.recipes import SOME_LAMBDA, Recipe
from mclir_nb.training.trainer import Trainer

# Task and gt pixels of one patch for measurements: the papers' for super-resolution and deraining (`paper_recipes`),
# half the side for dehazing and deblurring, so that a step takes a second or two on a CPU.
PATCHES = {
    "ffanet": ("dehaze", 64),
    "dehazeformer-t": ("dehaze", 128),
    "dehazeformer-s": ("dehaze", 128),
    "dehazeformer-b": ("dehaze", 128),
    "idt": ("derain", 128),
    "swinir-light": ("sr", 256),
    "swinir": ("sr", 192),
    "edsr": ("sr", 192),
    "nafnet": ("deblur", 128),
}
BUSY = 0.6  # of its threads' time; an idle machine gives 0.8 and more: threads wait for each other awake


def benchmark_recipe(network: str, **changes) -> Recipe:
    """A recipe to measure a network of `PATCHES` with: paper size, one small patch, VGG16 with random weights."""
    check_choice("network", network, PATCHES)
    task, patch = PATCHES[network]
    fields = dict(network_size="paper", patch_size=patch, batch_size=1, features="vgg16", features_weights="random")
    fields["learning_rate"] = 1e-6  # the steps are timed, not learned from, and shall not diverge
    return recipes.get("demo", task, network=network, **fields | changes)


def table(names: Sequence[str]) -> pd.DataFrame:
    """The cost model for networks at paper size: ratios to a plain step, from MACs counted on small patches.

    Returns:
        Columns network (of `PATCHES`), patch, V/F, one column "N = n" per number of history models, and "as released",
        N = 4 with the features of the output computed once per negative: 1 + N/3 + 3N V / (3F).
    """
    rows = []
    for name in names:
        recipe = benchmark_recipe(name)
        counts = macs.count(recipe)
        share = counts.features / counts.network
        row = {"network": name, "patch": recipe.patch_size, "V/F": share}
        row |= {f"N = {n}": 1 + n / 3 + (2 + n) * share / 3 if n else 1.0 for n in (0, 1, 2, 4)}
        rows.append(row | {"as released": 1 + 4 / 3 + 4 * share})
    return pd.DataFrame(rows)


def elapsed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds by the clock until a device is done with a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@precision.full_float32()
def one_patch(recipe: Recipe, device: torch.device, times: int = 2) -> float:
    """Seconds of a forward and a backward pass of the network for one patch here, the least of a few."""
    with torch.random.fork_rng(devices=[]):
        network = records.build_network(recipe).to(device)
    lq = macs.picture(recipe.patch_size // recipe.scale, device).contiguous(memory_format=torch.channels_last)
    return min([elapsed(lambda: network(lq).mean().backward(), device) for _ in range(1 + times)][1:])


class MeasuredStep(NamedTuple):
    """Of a training here, medians over its steps."""

    seconds: float  # of a step, without waiting
    waiting: float  # seconds for its batch
    share: float  # of its threads' time that this process got: well below 1 on a CPU where other programs run


def measure_step(recipe: Recipe, device: torch.device, steps: int = 3) -> MeasuredStep:
    """Train a throw-away copy of a recipe for some steps after one to warm up."""
    trainer, rows = Trainer(recipe.at(SOME_LAMBDA), device), []
    batches = trainer.patches.batches(1, steps + 1, device=device)
    for _ in range(steps + 1):
        start = time.perf_counter()
        batch, before = next(batches), time.process_time()
        waiting = time.perf_counter() - start
        seconds = elapsed(partial(trainer.advance, *batch), device)
        rows.append((seconds, waiting, (time.process_time() - before) / seconds / torch.get_num_threads()))
    return MeasuredStep(*map(statistics.median, zip(*rows[1:], strict=True)))


def measure_bytes(recipe: Recipe, device: torch.device) -> int:
    """Peak of the memory that tensors hold in a training step: what stays between steps, and what one step needs."""
    trainer = Trainer(recipe.at(SOME_LAMBDA), device)
    batches = trainer.patches.batches(1, 2)
    trainer.advance(*next(batches))  # moments and work space are made in the first step
    trainer.step = next((s for s in range(2, recipe.steps + 1) if trainer.recipe.weight_at(s)), 2) - 1
    batch = next(batches)
    trainer.optimiser.zero_grad()
    trainer.last = None  # the step frees nothing that is older than itself
    _, needed = memory.peak(lambda: trainer.advance(*batch), device)
    return needs.of(recipe).between - memory.size(trainer.model) + needed  # its gradients are among what it needed


def measure_batch(recipe: Recipe, batches: int = 8) -> float:
    """Median seconds in which one process makes a batch: reading from the cache, cutting, degrading.

    On a CPU a step waits that long; beside a GPU, W processes make batches ahead, so it waits only if it is shorter
    than this divided by W (`patches.Patches.batches`).
    """
    task = tasks.get(recipe.task, recipe.scale)
    images = datasets.open_set(recipe.dataset, task, "train", recipe.data_root)
    patches = Patches(images, task, recipe.patch_size, recipe.batch_size, recipe.seed)
    taken = [elapsed(partial(patches.batch, step), torch.device("cpu")) for step in range(1, batches + 3)]
    return statistics.median(taken[2:])  # the first read files


def estimate_run(recipe: Recipe, device: torch.device) -> pd.Series:
    """The cost of a run before it starts, one line per fact: counted, predicted from one patch here, and tried out.

    Raises:
        OutOfMemory: as training would, with the fields of the recipe to turn down.
    """
    counts, run = macs.count(recipe), macs.run_macs(recipe)
    ratio = run / (3 * counts.network * recipe.batch_size * recipe.steps)
    with torch.device("meta"):
        parameters = sum(weights.numel() for weights in records.build_network(recipe).parameters())
    facts = {
        "parameters": f"{parameters:,}",
        "forward pass of one patch": f"{counts.network / 1e6:,.0f} million MACs",
        "features of one patch": f"{counts.features / 1e6:,.0f} million MACs",
        "history models": f"{len(recipe.history_every) if recipe.uses_history else 0}",
        "predicted run / plain run": f"{ratio:.2f} (by MACs)",
        "predicted memory": f"{needs.of(recipe, device).bytes / 1e6:,.0f} MB in tensors",
        "MACs of the run": f"{run:.2e}",
        "patches seen": f"{recipe.steps * recipe.batch_size:,}",
    }
    with machine.explain_out_of_memory(recipe):
        predicted = recipe.batch_size * one_patch(recipe, device) * ratio
        seconds, _, share = measure_step(recipe, device)
    if note := needs.note(recipe, device):
        facts["on a GPU"] = note
    busy = device.type == "cpu" and share < BUSY
    facts |= {
        "predicted step here": f"{predicted * 1000:.0f} ms",
        "measured step here": f"{seconds * 1000:.0f} ms",
        "training time here": f"about {max(seconds * recipe.steps / 60, 0.1):.1f} minutes, and scoring"
        + ("; less once the other programs here are done" if busy else ""),
    }
    return pd.Series(facts, name=recipe.name)
