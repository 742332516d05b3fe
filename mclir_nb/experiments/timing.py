"""The price of a step measured on this machine: our step beside a reference step, arm by arm in turn.

The arms of a comparison take turns of a few steps, so that whatever slows the machine down slows all of them, and the
median counts. On a CPU the clock is the processor time of this process: other programs do not count.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mclir_nb import root
from mclir_nb.evaluation import memory
from mclir_nb.files import write_file
from mclir_nb.method import losses, precision
from mclir_nb.training import recipes
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.train import Trainer, make_negatives

Step = Callable[[], None]
COUNTS = (0, 1, 2, 4)
IN_A_ROW = 4  # steps of an arm before the next has its turn
# task and gt pixels of one patch: the papers' for super-resolution and deraining (`paper_recipes`), half the side for
# dehazing and deblurring, so that a step takes a second or two
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

# patches per step where memory is judged, else four: EDSR's are its authors'; two of IDT fill gigabytes
BATCHES = {"edsr": 16, "idt": 2}


def small(network: str, **changes) -> Recipe:
    """A recipe to measure one of the paper's networks with: paper size, one small patch, VGG16 with random weights.

    Raises: ValueError for a network that is not in `PATCHES`.
    """
    if network not in PATCHES:
        raise ValueError(f"no patch size is set for network {network!r}; choose from {', '.join(PATCHES)}.")
    task, patch = PATCHES[network]
    fields = dict(
        learning_rate=1e-6,  # the steps are timed, not learned from, and shall not diverge
        network_size="paper",
        patch_size=patch,
        batch_size=1,
        features="vgg16",
        features_weights="random",
    )
    return recipes.get("demo", task, network=network, **fields | changes)


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


def in_turn(
    arms: dict[str, Step], rounds: int, device: torch.device, warm_up: int = 2, in_a_row: int = 1
) -> dict[str, float]:
    """Median seconds of each arm over `rounds` steps, after `warm_up` steps of each that do not count.

    Args:
        in_a_row: steps of an arm before the next has its turn. Of several, one more comes first and does not count:
            in training a step follows a step of its own kind, and finds memory as that one left it.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(warm_up):
        for step in arms.values():
            step()
    for done in range(0, rounds, in_a_row):
        for name, step in arms.items():
            if in_a_row > 1:
                step()
            for _ in range(min(in_a_row, rounds - done)):
                taken[name].append(seconds(step, device))
    return {name: statistics.median(values) for name, values in taken.items()}


class OurSteps:
    """The package's step of one recipe, with as many of its history models as an arm asks for.

    Attributes:
        trainer: trains the recipe with SPN; all arms share its weights, which no measurement looks at.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.trainer = Trainer(recipe.replace(objective="spn"), device)
        self.batch = next(self.trainer.patches.batches(1, 1))
        self.history, self.features = self.trainer.history, self.trainer.features
        self.histories = {n: self.history.first(n) if n else None for n in COUNTS}

    def __call__(self, histories: int) -> None:
        """One step against the first `histories` history models; 0 is the plain step."""
        trainer = self.trainer
        trainer.objective = losses.OBJECTIVES["spn" if histories else "plain"]
        trainer.history = self.histories[histories]
        trainer.negatives = make_negatives(trainer.recipe, trainer.history, self.features)
        trainer.advance(*self.batch)

    def held(self, histories: int) -> int:
        """Bytes held between steps: weights, gradients, two moments, EMA, history models, feature network."""
        weights = memory.size(self.trainer.model)
        return (5 + histories) * weights + (memory.size(self.features) if histories else 0)


def reference(ours: OurSteps) -> SimpleNamespace:
    """What a reference step needs, apart from ours: the same networks and numbers in PyTorch's default layout.

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
        optimiser=torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.9), weight_decay=0),
        gt=ours.batch[0].to(trainer.device),
        lq=ours.batch[1].to(trainer.device),
    )


@precision.full_float32()
def compare(
    recipe: Recipe, reference_step: Callable[[SimpleNamespace, int], None], rounds: int = 20, device: str = "cpu"
) -> pd.DataFrame:
    """Our steps and reference steps of one recipe, in one process.

    Args:
        recipe: network, patch and batch; its objective is replaced by SPN with 0, 1, 2 and all four histories.
        reference_step: called with what `reference` returns and the number of histories; 0 is a plain step.
        rounds: steps measured per arm.
    Returns: columns network, patch, batch, threads, step ("ours" or "reference"), histories, seconds, ratio (to the
        reference plain step), floor (the ratio that the counted multiplications of our step alone would have, at
        `fastest`), MB (peak of the memory that tensors hold, weights included) and weights (MB of the history models
        among them). Our step against one history is the step with one random history of four.
    """
    where = torch.device(device)
    ours = OurSteps(recipe, where)
    parts = reference(ours)
    arms: dict[tuple[str, int], Step] = {}
    for n in (0, COUNTS[-1]):
        arms["reference", n] = lambda n=n: reference_step(parts, n)
    for n in COUNTS:
        arms["ours", n] = lambda n=n: ours(n)
    taken, rate = in_turn(arms, rounds, where, in_a_row=IN_A_ROW), fastest(where)
    least = {n: multiplications(ours, n) / rate for n in COUNTS}  # seconds
    plain, rows = taken["reference", 0], []
    for (step, n), value in taken.items():
        peak = ours.held(n) + memory.peak(arms[step, n], where)[1]
        size = n * memory.size(ours.trainer.model)
        rows.append((step, n, value, value / plain, least[n] / plain, peak / 1e6, size / 1e6))
    table = pd.DataFrame(rows, columns=["step", "histories", "seconds", "ratio", "floor", "MB", "weights"])
    run = (recipe.network, recipe.patch_size, recipe.batch_size, torch.get_num_threads())
    for place, (name, fact) in enumerate(zip(("network", "patch", "batch", "threads"), run, strict=True)):
        table.insert(place, name, fact)
    return table


def macs(module: nn.Module, image: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, as torch's counter sees them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image)
    return counter.get_total_flops() // 2


def multiplications(ours: OurSteps, histories: int) -> int:
    """Multiply-accumulates of an exact step: 3F, and with N histories NF + (2 + N)V more, see `cost`."""
    gt, lq = (image.to(ours.trainer.device) for image in ours.batch[:2])
    forward = macs(ours.trainer.model, lq)
    looking = (2 + histories) * macs(ours.features, gt) if histories else 0
    return (3 + histories) * forward + looking


def fastest(device: torch.device, times: int = 10, dtype: torch.dtype = torch.float32) -> float:
    """Multiply-accumulates per second of a convolution that suits this machine, the best of some.

    3x3, 64 to 64 channels, 64x64 pixels, channels last: it fits the cache and fills the vector units. By the same
    clock as the steps, which on more than one thread runs some milliseconds late: so a hundred at a time.
    """
    convolution = nn.Conv2d(64, 64, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    image = torch.rand(1, 64, 64, 64, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def some() -> None:
        for _ in range(100):
            convolution(image)

    with torch.no_grad(), precision.full_float32():
        return 100 * macs(convolution, image) / min(seconds(some, device) for _ in range(times))


def memories(recipe: Recipe, device: str = "cpu") -> pd.DataFrame:
    """Peak memory of our plain and our exact SPN step of one recipe, measured without timing.

    Returns: the columns network, patch, batch, step, histories, MB and weights of `compare`, one row for 0 and for all
        histories.
    """
    where = torch.device(device)
    ours, rows = OurSteps(recipe, where), []
    for n in (0, COUNTS[-1]):
        ours(n)  # moments and work space are made in the first step
        peak = ours.held(n) + memory.peak(lambda n=n: ours(n), where)[1]
        size = n * memory.size(ours.trainer.model)
        rows.append((recipe.network, recipe.patch_size, recipe.batch_size, "ours", n, peak / 1e6, size / 1e6))
    return pd.DataFrame(rows, columns=["network", "patch", "batch", "step", "histories", "MB", "weights"])


PIECES = ("forward", "history models", "features and losses", "backward", "optimiser, EMA, refresh")


@precision.full_float32()
def pieces(recipe: Recipe, rounds: int = 5, device: str = "cpu") -> pd.Series:
    """Where the time of an exact SPN step goes: median share of each of `PIECES`; they add up to 1."""
    where = torch.device(device)
    trainer = OurSteps(recipe, where).trainer
    gt, lq, _ = trainer.patches.batch(1)
    gt, lq = (image.to(where, memory_format=torch.channels_last) for image in (gt, lq))
    state: dict = {}

    def forward():
        state["restored"] = trainer.model(lq)

    def histories():
        state["negatives"] = trainer.history.negatives(lq)

    def loss():
        state["parts"] = trainer.objective(
            state["restored"], gt, state["negatives"], features=trainer.features, lambda_neg=trainer.recipe.weight
        )

    def backward():
        trainer.optimiser.zero_grad()
        state["parts"].total.backward()

    def rest():
        trainer.optimiser.step()
        trainer._average()
        trainer.history.update(trainer.model, recipe.history_every[-1])

    steps = dict(zip(PIECES, (forward, histories, loss, backward, rest), strict=True))
    taken = pd.Series(in_turn(steps, rounds, where))
    return (taken / taken.sum()).rename(recipe.network)


# network -> the most that an exact SPN step may cost, relative to the reference's SPN step with four histories
EXACT = {"ffanet": 0.75}
ONE = ("ffanet", "idt", "nafnet")


def goals(table: pd.DataFrame, peaks: pd.DataFrame | None = None) -> pd.DataFrame:
    """What a comparison says about the goals that were set for the price of a step.

    Args:
        table: as `compare` returns it, of one or more networks and numbers of threads.
        peaks: as `memories` returns it, of the same networks with the batch that memory is judged by; None: `table`.
    Returns: one row per network, threads and goal: network, threads, goal, limit, measured, floor (the least that
        could be measured, see `compare`; none for memory), met.
    """
    rows = []
    for (network, threads), mine in table.groupby(["network", "threads"], sort=False):
        by_arm = mine.set_index(["step", "histories"])
        ratio, floor, naive = by_arm.ratio, by_arm.floor, by_arm.ratio["reference", 4]
        judged = mine if peaks is None else peaks[peaks.network == network]
        ours = judged[judged.step == "ours"].set_index("histories")
        room = ours.MB[0] + ours.weights[4]
        found = [
            ("exact SPN / reference SPN", EXACT.get(network, 0.6), ratio["ours", 4] / naive, floor["ours", 4] / naive),
            ("our plain / reference plain", 0.75, ratio["ours", 0], floor["ours", 0]),
            ("memory of SPN / (plain + history weights)", 1.15, ours.MB[4] / room, math.nan),
        ]
        if network in ONE:
            found.append(("one random history / reference plain", 1.0, ratio["ours", 1], floor["ours", 1]))
        rows += [(network, threads, *line, line[2] <= line[1]) for line in found]
    return pd.DataFrame(rows, columns=["network", "threads", "goal", "limit", "measured", "floor", "met"])


def verdict(judged: pd.DataFrame) -> str:
    """How many of the goals are met, in words; memory does not depend on the threads and counts once per network."""
    memory_too = judged.floor.isna()
    timed, held = judged[~memory_too], judged[memory_too].drop_duplicates("network")
    return f"{timed.met.sum()} of {len(timed)} goals for time and {held.met.sum()} of {len(held)} for memory are met"


RECORD = ("data", "records", "cost")


def keep(table: pd.DataFrame, folder: str | Path, name: str = "steps") -> Path:
    """Write a table into a record: ratios and memory, no seconds, because machines differ.

    Rows that the record holds of the same networks and numbers of threads are replaced, all others stay: a record can
    be made network by network.

    Args: name: as in `recorded`.
    Returns: the file.
    """
    file = Path(folder) / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    places = {"ratio": 3, "floor": 3, "MB": 1, "weights": 1}
    table = table.drop(columns="seconds", errors="ignore").round(places)
    if file.is_file():
        known, same = recorded(name, folder), [c for c in ("network", "threads") if c in table]
        replaced = known.set_index(same).index.isin(table.set_index(same).index)
        table = pd.concat([known[~replaced], table])
    order = table.network.map({network: place for place, network in enumerate(PATCHES)})
    if "threads" in table:
        order -= len(PATCHES) * table.threads  # more threads first
    table = table.iloc[order.argsort(kind="stable")]
    write_file(file, table.to_csv(index=False))
    return file


def recorded(name: str = "steps", folder: str | Path | None = None) -> pd.DataFrame:
    """A committed table, or one kept in `folder`; its README names the machine.

    Args: name: "steps", all networks of the paper compared; "memory", their peaks with the patches of `BATCHES`.
    """
    return pd.read_csv((Path(folder) if folder else root().joinpath(*RECORD)) / f"{name}.csv")
