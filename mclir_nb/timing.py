"""The price of a step measured on this machine: our step beside a reference step, arm by arm in turn.

The arms of a comparison run one after the other within each round, so that whatever slows the machine down slows all
of them, and the median over the rounds counts. On a CPU the clock is the processor time of this process: other
programs do not count.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import pandas as pd
import torch
from torch import nn

from mclir_nb import losses, memory
from mclir_nb.recipes import Recipe
from mclir_nb.train import Trainer

Step = Callable[[], None]
COUNTS = (0, 1, 2, 4)


def seconds(step: Step, device: torch.device) -> float:
    """How long one step takes: processor time on a CPU, elapsed time until the device is done elsewhere."""
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turn(arms: dict[str, Step], rounds: int, device: torch.device, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of each arm over `rounds` rounds, after `warm_up` rounds that do not count."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(warm_up + rounds):
        for name, step in arms.items():
            taken[name].append(seconds(step, device))
    return {name: statistics.median(values[warm_up:]) for name, values in taken.items()}


class OurSteps:
    """The package's step of one recipe, with as many of its history models as an arm asks for.

    Attributes:
        trainer: trains the recipe with SPN; all arms share its weights, which no measurement looks at.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.trainer = Trainer(recipe.replace(objective="spn"), device)
        self.batch = next(self.trainer.patches.batches(1, 1))
        self.history, self.features = self.trainer.history, self.trainer.features

    def __call__(self, histories: int) -> None:
        """One step against the first `histories` history models; 0 is the plain step."""
        trainer = self.trainer
        trainer.objective = losses.OBJECTIVES["spn" if histories else "plain"]
        trainer.history = self.history.first(histories) if histories else None
        trainer.advance(*self.batch)

    def held(self, histories: int) -> int:
        """Bytes held between steps: weights, gradients, two moments, EMA, history models, feature network."""
        weights = memory.size(self.trainer.model)
        return (5 + histories) * weights + (memory.size(self.features) if histories else 0)


def reference(ours: OurSteps) -> SimpleNamespace:
    """What a reference step needs, apart from ours: the same numbers in PyTorch's default layout.

    Returns: model, ema, histories (a list), features, optimiser (AdamW as PyTorch builds it), gt and lq.
    """

    def plain_copy(network: nn.Module) -> nn.Module:
        twin = copy.deepcopy(network)
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        return twin

    trainer = ours.trainer
    model = plain_copy(trainer.model)
    return SimpleNamespace(
        model=model,
        ema=plain_copy(trainer.ema),
        histories=[plain_copy(history) for history in ours.history.models],
        features=plain_copy(ours.features),
        optimiser=torch.optim.AdamW(model.parameters(), lr=2e-4, betas=(0.9, 0.9), weight_decay=0),
        gt=ours.batch[0].to(trainer.device),
        lq=ours.batch[1].to(trainer.device),
    )


def compare(
    recipe: Recipe,
    reference_step: Callable[[SimpleNamespace, int], None],
    rounds: int = 20,
    device: str = "cpu",
) -> pd.DataFrame:
    """Our steps and reference steps of one recipe, in one process.

    Args:
        recipe: network, patch and batch; its objective is replaced by SPN with 0, 1, 2 and all four histories.
        reference_step: called with what `reference` returns and the number of histories; 0 is a plain step.
        rounds: steps measured per arm.
    Returns: columns network, patch, batch, step ("ours" or "reference"), histories, seconds, ratio (to the reference
        plain step) and MB (peak of the memory that tensors hold, weights included). Our step against one history at a
        time is the step with one random history of four.
    """
    where = torch.device(device)
    ours = OurSteps(recipe, where)
    parts = reference(ours)
    arms: dict[tuple[str, int], Step] = {}
    for n in COUNTS:
        arms["reference", n] = lambda n=n: reference_step(parts, n)
        arms["ours", n] = lambda n=n: ours(n)
    taken = in_turn(arms, rounds, where)
    rows = []
    for (step, n), value in taken.items():
        peak = ours.held(n) + memory.peak(arms[step, n], where)
        rows.append((recipe.network, recipe.patch_size, recipe.batch_size, step, n, value, peak / 1e6))
    table = pd.DataFrame(rows, columns=["network", "patch", "batch", "step", "histories", "seconds", "MB"])
    table.insert(6, "ratio", table.seconds / taken["reference", 0])
    return table
