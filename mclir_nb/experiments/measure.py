"""What is measured first where a GPU is lent for some minutes: `python -m mclir_nb measure --minutes 8 --out DIR`.

In this order, and each result is on disk before the next is begun:

    checks.csv       every network, forward and backward, beside float64 on the CPU; a tiny training, twice
    price.csv        one step of every network of the paper: plain and SPN, by number format, eager and compiled
    notebooks.csv    seconds of what the notebooks compute
    records/NAME/    further seeds of decided experiments, with the time that is left

Each of the first three parts leaves some of the time to the next (`UNTIL`); what it did not come to, and what failed,
is done when the same command goes on with `--continue DIR`. No notebook and no figure is needed for any of it.
"""

from __future__ import annotations

import _thread
import ast
import importlib
import json
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from mclir_nb import files, networks, root
from mclir_nb.data import datasets, tasks
from mclir_nb.experiments import ablations, compare, cost, plans, recording, run_tables, timing
from mclir_nb.method import precision, push
from mclir_nb.training import machine, recipes, run_folder, train
from mclir_nb.training.recipes import Recipe

TABLES = ("checks", "price", "notebooks")
NOTEBOOKS = ("01_explain", "03_train", "04_history", "05_compare", "07_ablate")  # those that train
UNTIL = {"checks": 0.25, "price": 0.7, "notebooks": 0.85, "seeds": 1.0}  # share of the minutes at which a part ends
# relative errors that are let pass: of the output; of the gradient of all weights, by its length or by its direction
LIMITS = {"float32": (1e-4, 1e-3), "tf32": (1e-2, 1e-2), "bfloat16": (5e-2, 1e-2)}
NAMING = ("subject", "notebook", "network", "precision", "compile")  # columns that say what a row is of
COMPILED = ("default", "reduce-overhead")  # modes of torch.compile; the second replays CUDA graphs


@dataclass(frozen=True)
class Sizes:
    """How large the measured things are; the device does not decide it."""

    network: str = "paper"  # size of the networks that are checked
    recipe: str = "gpu"  # whose patch and batch the price is of
    rounds: int = 8  # steps per arm that count
    steps: int | None = None  # of the tiny training, and of notebooks' runs; None: their own
    changes: dict = field(default_factory=dict)  # recipe fields of the price


REHEARSAL = Sizes("tiny", "tiny", 2, 60, dict(patch_size=64, batch_size=1))


class Measured(NamedTuple):
    """What `measure` has written, read back: facts about the machine, and its tables (None: not begun)."""

    machine: dict
    checks: pd.DataFrame | None
    price: pd.DataFrame | None
    notebooks: pd.DataFrame | None


class TimeUp(Exception):
    """The time of a part is over."""


class Clock:
    """The minutes that were asked for, from the moment this is made."""

    def __init__(self, minutes: float):
        self.seconds, self.started = 60 * minutes, time.monotonic()

    def left(self, part: str) -> float:
        """Seconds that are left until a part of the work has to end."""
        return UNTIL[part] * self.seconds - (time.monotonic() - self.started)

    @contextmanager
    def limit(self, part: str) -> Iterator[None]:
        """Interrupts, as Ctrl-C does, when the part's time is over: a training saves its state before it ends.

        Raises: TimeUp, then or if there is no time at all.
        """
        if self.left(part) <= 0:
            raise TimeUp
        # a job in the background (nohup ... &) begins with Ctrl-C ignored, and the timer's interrupt would be, too
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(self.left(part), _thread.interrupt_main)
        timer.start()
        try:
            try:
                yield
            finally:
                timer.cancel()
                timer.join()  # an interrupt that is on its way arrives here, not later
        except KeyboardInterrupt:
            if self.left(part) > 0:
                raise  # somebody pressed Ctrl-C
            raise TimeUp from None
        finally:
            signal.signal(signal.SIGINT, before)


Items = Iterable[tuple[dict, Callable[[], list[dict]]]]  # what names a row, and what measures the rows of that name


def measure(
    folder: str | Path,
    minutes: float,
    *,
    proceed: bool = False,
    sizes: Sizes = Sizes(),
    device: str = "auto",
    experiments: Sequence[str] = (),
    data_root: str | None = None,
) -> bool:
    """Fill a folder with what there is to know about this machine, for so many minutes.

    Args:
        folder: made if needed; with `proceed` that of an earlier call on the same kind of machine, which goes on.
        minutes: above 0. The last thing begun may take some seconds longer.
        sizes: of what is measured.
        device: as in `train.train`.
        experiments: names of decided experiments whose seeds are run with the time that is left.
        data_root: of their data set, if it is not embedded.

    Returns:
        Whether nothing failed: every check within its limit, and no error anywhere.

    Raises:
        ValueError: a folder that holds results or other files, or is of another machine or other sizes; a number that
            is none; a data set of an experiment that is not there.
    """
    folder, place = Path(folder).expanduser().resolve(), machine.pick_device(device)
    if not minutes > 0:
        raise ValueError(f"minutes is {minutes}; it must be above 0, such as 8.")
    chosen = [plans.get(name) for name in experiments]
    for recipe in (recipe for experiment in chosen for recipe in experiment.recipes(data_root=data_root)):
        datasets.open_splits(recipe.dataset, tasks.get(recipe.task, recipe.scale), recipe.data_root)
    _begin(folder, place, sizes, proceed)
    importlib.import_module("torch._dynamo")  # torch does when it is needed, and an import bears no interrupt
    clock = Clock(minutes)
    parts = (_checks(folder, sizes, place), _price(sizes, place), _notebooks(sizes, place))
    for name, items in zip(TABLES, parts, strict=True):
        _fill(folder / f"{name}.csv", name, items, clock)
    _seeds(chosen, data_root, folder, place, clock)
    found = read(folder)
    assert found  # `_begin` has made it
    print(summary(found), flush=True)
    return not failures(found)


def _begin(folder: Path, device: torch.device, sizes: Sizes, proceed: bool) -> None:
    """Write what is measured where, or see that the folder is of the same."""
    file = folder / "machine.json"
    facts = run_folder.provenance(device, "none") | {"sizes": json.loads(json.dumps(vars(sizes)))}
    del facts["features"], facts["deterministic"], facts["processes"]
    if not file.exists():
        if proceed:
            raise ValueError(f"{folder} holds no machine.json, so there is nothing to go on with; use --out.")
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds other files; use a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(file, facts)
        return
    if not proceed:
        raise ValueError(f"{folder} holds measurements already; use --continue {folder}, or another folder.")
    there = files.read_json(file)
    same = ("device", "torch", "sizes")
    if other := [f"{n}: {there.get(n)!r} there, {facts[n]!r} now" for n in same if there.get(n) != facts[n]]:
        raise ValueError(f"{folder} was begun with something else ({'; '.join(other)}); use another folder.")


def _fill(file: Path, part: str, items: Items, clock: Clock) -> None:
    """Measure what the table does not hold yet, as long as the part has time; each result is written as it comes.

    What fails is a row that says why, and is tried again by the next call.
    """
    there, left_out = files.read_table(file) if file.exists() else pd.DataFrame({"error": []}), 0
    done = there[there["error"].isna()].to_dict("records")
    for key, make in items:
        if any(key.items() <= row.items() for row in done):
            continue
        started = time.monotonic()
        try:
            with clock.limit(part):
                rows = make()
        except TimeUp:
            left_out += 1
            continue
        except Exception as error:  # the next measurements do not depend on this one, and the machine is lent
            rows = [{"error": f"{type(error).__name__}: {error}"[:500]}]
        for row in rows:
            done.append(key | row | {"took": time.monotonic() - started, "error": row.get("error")})
            told = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in done[-1].items() if v is not None}
            print(f"{part}: " + ", ".join(f"{k} {v}" for k, v in told.items()), flush=True)
        files.write_file(file, pd.DataFrame(done).to_csv(index=False, float_format=recording.DIGITS))
    if left_out:
        print(f"{part}: {left_out} left out for lack of time; --continue does them", flush=True)


# Checks


def _checks(folder: Path, sizes: Sizes, device: torch.device) -> Items:
    for name in networks.names():
        yield {"check": "network", "subject": name}, partial(check_network, name, sizes.network, device)
    yield {"check": "training", "subject": "tiny derain"}, partial(_check_training, folder, sizes.steps, device)


def check_network(name: str, size: str, device: torch.device, side: int = 64) -> list[dict]:
    """A network with random weights on a device, beside float64 on the CPU: its output, and all weights' gradients.

    Returns:
        Rows with precision, what, found (relative error by L2; of gradients in less than float32: 1 - cosine), limit
        and ok.
    """

    def error(found: Tensor, exact: Tensor) -> float:
        return ((found - exact).norm() / exact.norm()).item()

    exact, exact_gradient = _outcome(name, size, side, torch.device("cpu"), torch.float64, "float32")
    rows = []
    for format_name, limits in LIMITS.items():
        if format_name == "tf32" and device.type != "cuda":
            continue
        output, gradient = _outcome(name, size, side, device, torch.float32, format_name)
        found = {"output, error": error(output, exact)}
        if format_name == "float32":
            found["gradient, error"] = error(gradient, exact_gradient)
        else:
            found["gradient, 1 - cosine"] = 1 - push.cosine([gradient], [exact_gradient])
        for (part, value), limit in zip(found.items(), limits, strict=True):
            rows.append({"precision": format_name, "what": part, "found": value, "limit": limit, "ok": value <= limit})
    return rows


def _outcome(
    name: str, size: str, side: int, device: torch.device, dtype: torch.dtype, format_name: str
) -> tuple[Tensor, Tensor]:
    """Output of a network for one random picture, and the gradient of a random weighted mean of it; both flat."""
    chance = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        scale = max(networks.NETWORKS[name].scales)
        network = networks.build(name, scale, **networks.options(name, size))
        for weight in network.parameters():
            if not weight.any():  # what begins at zero hides what lies behind it
                weight.normal_(0, 0.02)
    network = network.to(device, dtype)
    lq = torch.rand(1, 3, side, side, generator=chance, dtype=torch.float64).to(device, dtype)
    weights = torch.randn(1, 3, scale * side, scale * side, generator=chance, dtype=torch.float64).to(device, dtype)
    with torch.random.fork_rng(devices=[]), precision.autocast(format_name, device):
        torch.manual_seed(1)  # drop path
        output = network(lq)
    with precision.autocast("tf32" if format_name == "tf32" else "float32", device):
        (output.to(dtype) * weights).mean().backward()
    gradients = [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
    return output.detach().double().cpu().flatten(), torch.cat(gradients).double().cpu()


def _check_training(folder: Path, steps: int | None, device: torch.device) -> list[dict]:
    """A tiny network learns to take rain away, in the deterministic mode; once more it writes the same bytes."""
    recipe, runs = recipes.get("tiny", "derain", steps=steps), []
    for name in ("first", "second"):
        runs.append(train.train(recipe, folder / "runs" / name, device=str(device), quiet=True, deterministic=True))
    gain = (runs[0].scores["psnr_ema"] - runs[0].scores["psnr_input"]).mean()
    first, second = ({file.name: file.read_bytes() for file in run.dir.glob("*.safetensors")} for run in runs)
    differing = float(sum(first.get(name) != second.get(name) for name in first | second))
    same = {"check": "same files", "what": f"{len(first)} files, differing", "found": differing, "ok": not differing}
    learnt = {"what": "PSNR gained, dB", "found": gain, "ok": bool(gain > 0)}
    return [row | {"limit": 0.0} for row in (learnt, same)]


# The price of a step


def _price(sizes: Sizes, device: torch.device) -> Items:
    formats = [("float32", "none"), ("bfloat16", "none")]
    if device.type == "cuda":
        formats.append(("tf32", "none"))
    for mode in COMPILED[: 1 + (device.type == "cuda")]:
        formats += [("float32", mode), ("bfloat16", mode)]
    for format_name, mode in formats:
        for name in cost.PATCHES:
            key = {"network": name, "precision": format_name, "compile": mode}
            yield key, partial(price, sizes, **key, device=device)


def price(sizes: Sizes, network: str, precision: str, compile: str, device: torch.device) -> list[dict]:
    """One training step of a network by arm, in one process and in turn.

    Returns:
        Rows with step ("plain", "exact", "sampled"), patch, batch, seconds (median) and ratio to plain; eager ones also
        with peak_mb (tensors in a step) and, of the plain step, waiting (seconds for its batch).
    """
    task, _ = cost.PATCHES[network]
    fields = dict(network=network, precision=precision, compile=compile, learning_rate=1e-6) | sizes.changes
    if precision == "tf32":
        fields |= dict(history_precision="tf32", features_precision="tf32")
    recipe = recipes.get(sizes.recipe, task, **fields)
    arms = {"plain": dict(objective="plain"), "exact": {}, "sampled": dict(sampling="sampled")}
    ours = timing.OurSteps(recipe, device)
    steps: dict[str, timing.Step] = {"plain": partial(ours, 0), "exact": partial(ours, len(recipe.history_every))}
    taken = timing.median_seconds(steps, sizes.rounds, device)
    taken["sampled"] = taken["plain"] * timing.sampled_price(ours, sizes.rounds)["sampled"]
    rows: list[dict] = []
    for arm, changes in arms.items():
        rows.append({"step": arm, "patch": recipe.patch_size, "batch": recipe.batch_size})
        rows[-1] |= {"seconds": taken[arm], "ratio": taken[arm] / taken["plain"]}
        if compile == "none":
            rows[-1]["peak_mb"] = cost.measure_bytes(recipe.replace(**changes), device) / 1e6
    if compile == "none":
        rows[0]["waiting"] = cost.measure_step(recipe.replace(objective="plain"), device, sizes.rounds).waiting
    return rows


# What the notebooks compute


def _notebooks(sizes: Sizes, device: torch.device) -> Items:
    for name in NOTEBOOKS:
        yield {"notebook": name}, partial(_seconds, name, sizes, device)


def _seconds(name: str, sizes: Sizes, device: torch.device) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for number, recipe in enumerate(trainings(name, sizes.steps)):
            train.train(recipe, Path(folder) / str(number), device=str(device), quiet=True)
        return [{"seconds": time.perf_counter() - started}]


def trainings(notebook: str, steps: int | None = None) -> list[Recipe]:
    """What a committed notebook trains at its own parameters; `steps`: tiny runs of so many, of one seed, instead."""
    asked = parameters(notebook) | ({"recipe": "tiny", "steps": steps, "seeds": [0]} if steps else {})
    fields = {name: asked.get(name) for name in ("steps", "network", "scale")}
    fields |= {"val_side": 192} if notebook in ("01_explain", "03_train", "04_history") else {}
    if notebook == "01_explain":
        return [recipes.get("tiny", "dehaze", **fields | dict(network="nafnet", learning_rate=1e-3))]
    recipe = recipes.get(asked["recipe"], asked["task"], **fields)
    if notebook == "04_history":  # the run, the stranger with the next seed, and the plain twin
        return [recipe, recipe.replace(seed=recipe.seed + 1), recipe.replace(objective="plain")]
    if notebook == "05_compare":
        arms = compare.arms(asked["objectives"], dose=asked["dose"])
    elif notebook == "07_ablate":
        arms = ablations.arms(asked["sweep"], recipe, asked["dose"])
    else:
        return [recipe]
    return [job.recipe for job in compare.plan(recipe, arms, asked["seeds"])]


def parameters(notebook: str) -> dict:
    """The parameters of a committed notebook: the literals of its cell with that tag."""
    content = json.loads((root() / "notebooks" / f"{notebook}.ipynb").read_text())
    (cell,) = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", [])]
    lines = [line for line in ast.parse("".join(cell["source"])).body if isinstance(line, ast.Assign)]
    return {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in lines}


# Further seeds


def _seeds(
    chosen: list[plans.Experiment], data_root: str | None, folder: Path, device: torch.device, clock: Clock
) -> None:
    """Run after run of decided experiments, until the time is over; a seed enters the record when it is whole."""
    for experiment in chosen:
        out_dir, record = folder / "runs" / (experiment.runs or experiment.name), folder / "records" / experiment.name
        done = set(recording.recorded_runs(experiment, record)["runs"]["run"])
        for job in experiment.plan(data_root=data_root):
            if job.name in done or run_tables.is_finished(out_dir / job.name):
                continue
            try:
                with clock.limit("seeds"):
                    recording.begin(experiment, record)
                    compare.run([job], out_dir, device=str(device), quiet=True)
            except TimeUp:
                return
            print(f"seeds: {experiment.name}, {job.name} finished", flush=True)
            recording.write_record(experiment, out_dir, record)


# Reading it back


def read(folder: str | Path | None = None) -> Measured | None:
    """What `measure` has written into a folder; None if it has written nothing there.

    Args:
        folder: None: the committed record, data/records/gpu.
    """
    place = root() / "data" / "records" / "gpu" if folder is None else Path(folder)
    if not (place / "machine.json").is_file():
        return None
    there = [place / f"{name}.csv" for name in TABLES]
    return Measured(
        files.read_json(place / "machine.json"), *(files.read_table(f) if f.is_file() else None for f in there)
    )


def failures(found: Measured) -> list[str]:
    """One line for each check beyond its limit, and for each measurement that ended in an error."""
    lines = []
    for part, table in zip(TABLES, found[1:], strict=True):
        for row in [] if table is None else table.to_dict("records"):
            subject = " ".join(str(row[name]) for name in NAMING if name in row)
            if isinstance(row["error"], str):
                lines.append(f"{part}, {subject}: {row['error']}")
            elif part == "checks" and not row["ok"]:
                lines.append(f"{part}, {subject}: {row['what']} {row['found']:.3g}, limit {row['limit']:g}")
    return lines


def summary(found: Measured) -> str:
    """A few lines about a machine, computed from its tables."""
    lines, facts = [], found.machine
    checks, price, notebooks = (None if table is None else table[table["error"].isna()] for table in found[1:])
    if checks is not None and len(checks):
        lines.append(f"{checks['ok'].sum()} of {len(checks)} checks passed.")
    if price is not None and len(price):
        for step, ratios in price[price["step"] != "plain"].groupby("step", sort=False)["ratio"]:
            low, middle, high = ratios.quantile([0, 0.5, 1])
            lines.append(f"A step of {step} SPN takes {low:.2f} to {high:.2f} plain steps (median {middle:.2f}).")
    if notebooks is not None and len(notebooks):
        lines += [f"{row.notebook}: {row.seconds:.0f} s." for row in notebooks.itertuples()]
    return "\n".join([f"{facts['device']}, torch {facts['torch']}:", *lines, *failures(found)])
