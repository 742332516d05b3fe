"""The price of a step measured on this machine: our step beside a reference step, arm by arm in turn.

The arms of a comparison take turns of a few steps, so that whatever slows the machine down slows all of them, and the
median counts. On a CPU the clock is the processor time of this process: other programs do not count.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import nn

from mclir_nb import networks
from mclir_nb.experiments import cost
from mclir_nb.method import losses, precision
from mclir_nb.training import macs
from mclir_nb.training.build import make_negatives
from mclir_nb.training.recipes import SOME_LAMBDA, Recipe
from mclir_nb.training.trainer import Trainer

Step = Callable[[], object]
ARMS = ("reference plain", "reference SPN", "plain", "sampled SPN", "exact SPN")
IN_A_ROW = 4  # steps of an arm before the next has its turn
PIECES = ("forward", "history models", "features and losses", "backward", "optimiser, EMA, refresh")


def seconds(step: Step, device: torch.device) -> float:
    """How long one step takes: processor time on a CPU, elapsed time until the device is done elsewhere."""
    if device.type != "cpu":
        return cost.elapsed(step, device)
    start = time.process_time()
    step()
    return time.process_time() - start


def median_seconds(
    arms: dict[Any, Step], rounds: int, device: torch.device, warm_up: int = 2, in_a_row: int = 1
) -> dict[Any, float]:
    """Median seconds of each arm over `rounds` steps, after `warm_up` steps of each that do not count; arms take turns.

    `in_a_row`: steps of an arm before the next has its turn. Of several, one more comes first and does not count: in
    training a step follows a step of its own kind, and finds memory as that one left it.
    """
    taken: dict[Any, list[float]] = {name: [] for name in arms}
    for step in [*arms.values()] * warm_up:
        step()
    for done in range(0, rounds, in_a_row):
        for name, step in arms.items():
            if in_a_row > 1:
                step()
            taken[name] += [seconds(step, device) for _ in range(min(in_a_row, rounds - done))]
    return {name: statistics.median(values) for name, values in taken.items()}


class OurSteps:
    """The package's step of one recipe, with as many of its history models as an arm asks for.

    All arms share the weights of `trainer`, which no measurement looks at, and the patches of `batch`.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.trainer = Trainer(recipe.replace(objective="spn").at(SOME_LAMBDA), device)
        gt, lq, names = next(self.trainer.patches.batches(1, 1))
        self.batch = gt.to(device), lq.to(device), names
        history, features = self.trainer.history, self.trainer.features
        assert history and features  # the objective is SPN
        self.history, self.features = history, features

    def __call__(self, histories: int, patches: int | None = None) -> None:
        """One step on the first `patches` of the batch against the first `histories` history models; 0: a plain one."""
        past = self.history.first(histories) if histories else None
        self.trainer.objective = losses.OBJECTIVES["spn" if histories else "plain"]
        self.trainer.negatives = make_negatives(self.trainer.recipe, past)
        gt, lq, names = self.batch
        self.trainer.advance(gt[:patches], lq[:patches], names[:patches])


def reference(ours: OurSteps) -> SimpleNamespace:
    """What a reference step needs, apart from ours: the same networks and numbers in PyTorch's default layout.

    Returns:
        model, ema, histories (a list), features, optimiser (AdamW as PyTorch builds it), gt and lq.
    """

    def plain_copy(network: nn.Module) -> nn.Module:
        twin = copy.deepcopy(network)
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        return twin

    trainer = ours.trainer
    model, ema, features = map(plain_copy, (trainer.model, trainer.ema, ours.features))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.9), weight_decay=0)
    gt, lq, _ = ours.batch
    histories = [plain_copy(history) for history in ours.history.models]
    return SimpleNamespace(
        model=model, ema=ema, histories=histories, features=features, optimiser=optimiser, gt=gt, lq=lq
    )


@precision.full_float32()
def compare(
    recipe: Recipe, reference_step: Callable[[SimpleNamespace, int], object], rounds: int = 20, device: str = "cpu"
) -> pd.DataFrame:
    """Our steps of one recipe and reference steps beside them, in one process; all in float32 without TF32.

    Args:
        recipe: network, patch and batch; its objective is replaced by plain and SPN, exact and sampled.
        reference_step: called with what `reference` returns and the number of histories; 0 is a plain step.
        rounds: steps measured per arm.

    Returns:
        A row for each of `ARMS` (of "sampled SPN" the mean over its steps), with columns arm, seconds, ratio (to the
        reference plain step), counted (ours to our plain step, by MACs), network, patch, batch, threads and every (k of
        the sampled arm).
    """
    where = torch.device(device)
    ours = OurSteps(recipe, where)
    parts, count = reference(ours), len(recipe.history_every)
    arms: dict[str, Step] = {
        "reference plain": partial(reference_step, parts, 0),
        "reference SPN": partial(reference_step, parts, count),
        "plain": partial(ours, 0),
        "exact SPN": partial(ours, count),
    }
    taken = median_seconds(arms, rounds, where, in_a_row=IN_A_ROW)
    sampled = sampled_price(ours, rounds)
    taken["sampled SPN"] = sampled["sampled"] * taken["plain"]
    exact = 1 + macs.count(ours.trainer.recipe).surplus
    counted = {"plain": 1.0, "sampled SPN": sampled["counted"], "exact SPN": exact}
    rows = [(arm, taken[arm], taken[arm] / taken["reference plain"], counted.get(arm)) for arm in ARMS]
    table = pd.DataFrame(rows, columns=["arm", "seconds", "ratio", "counted"])
    return table.assign(**{name: sampled[name] for name in ("network", "patch", "batch", "threads", "every")})


def sampled_price(ours: OurSteps, rounds: int) -> dict:
    """What a step of `sampling="sampled"` costs on average, beside the plain one: a row of data/records/price.

    Returns:
        network, patch, batch, threads, every (k), counted and sampled (price by MACs and by the clock, in plain steps),
        with_term (the one step of k), after (the step after it; the others are plain ones), plain_seconds.
    """
    recipe = macs.with_period(ours.trainer.recipe.replace(sampling="sampled"))
    # in the order of a sampled run, where the term also leaves memory otherwise to the step after it
    turn: dict[str, Step] = {"plain": partial(ours, 0), "with": partial(ours, 1), "after": partial(ours, 0)}
    taken, every = median_seconds(turn, rounds, ours.trainer.device), recipe.period
    first, after = (taken[name] / taken["plain"] for name in ("with", "after"))
    row = {"network": recipe.network, "patch": recipe.patch_size, "batch": recipe.batch_size}
    row |= {"threads": torch.get_num_threads(), "every": every, "counted": 1 + macs.count(recipe).surplus / every}
    row |= {"sampled": 1 + (first + after - 2) / every, "with_term": first, "after": after}
    return row | {"plain_seconds": taken["plain"]}


@precision.full_float32()
def macs_per_second(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Multiply-accumulates per second of a convolution that suits this machine, the best of some; without TF32.

    3x3, 64 to 64 channels, 64x64 pixels, channels last: it fits the cache and fills the vector units. By the same
    clock as the steps, which on more than one thread runs some milliseconds late: so a hundred at a time.
    """
    convolution = nn.Conv2d(64, 64, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    image = torch.rand(1, 64, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def some() -> None:
        for _ in range(100):
            convolution(image)

    with torch.no_grad():
        return 100 * networks.count_macs(convolution, image) / min(seconds(some, device) for _ in range(10))


@precision.full_float32()
def pieces(recipe: Recipe, rounds: int = 5, device: str = "cpu") -> pd.Series:
    """Where the time of an exact SPN step goes: median share of each of `PIECES`; they add up to 1.

    The last piece is what is left of the whole step.
    """
    where = torch.device(device)
    ours = OurSteps(recipe, where)
    trainer, weight = ours.trainer, ours.trainer.recipe.weight
    gt, lq = (image.to(memory_format=torch.channels_last) for image in ours.batch[:2])
    state: dict[str, Any] = {}

    def loss() -> losses.LossParts:
        return losses.spn_loss(state["forward"], gt, state["histories"], features=ours.features, lambda_neg=weight)

    def backward() -> None:
        trainer.optimiser.zero_grad()
        state["loss"].total.backward()

    steps: tuple[Step, ...] = (
        lambda: state.update(forward=trainer.model(lq)),
        lambda: state.update(histories=ours.history.negatives(lq)),
        lambda: state.update(loss=loss()),
        backward,
        lambda: ours(len(recipe.history_every)),
    )
    taken = pd.Series(median_seconds(dict(zip(PIECES, steps, strict=True)), rounds, where))
    taken.iloc[-1] = max(0.0, taken.iloc[-1] - taken.iloc[:-1].sum())
    return (taken / taken.sum()).rename(recipe.network)
