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
import hashlib
import importlib
import json
import statistics
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
from mclir_nb.experiments import ablations, compare, cost, evidence, run_tables, timing, trajectory
from mclir_nb.method import precision
from mclir_nb.training import machine, recipes, run_folder, train
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer

TABLES = ("checks", "price", "notebooks")
UNTIL = {"checks": 0.25, "price": 0.7, "notebooks": 0.85, "seeds": 1.0}  # share of the minutes at which a part ends
# relative errors that are let pass: of the output; of the gradient of all weights, by its length or by its direction
LIMITS = {"float32": (1e-4, 1e-3), "tf32": (1e-2, 1e-2), "bfloat16": (5e-2, 1e-2)}
NAMING = ("subject", "notebook", "network", "precision", "compile")  # columns that say what a row is of
COMPILED = ("default", "reduce-overhead")  # modes of torch.compile; the second replays CUDA graphs


@dataclass(frozen=True)
class Sizes:
    """How large the measured things are; the device does not decide it.

    Attributes:
        network: size of the networks that are checked.
        recipe: whose patch and batch the price is of.
        rounds: steps per arm that count.
        steps: of the tiny training, and of notebooks' runs; None: their own.
        changes: recipe fields of the price.
    """

    network: str = "paper"
    recipe: str = "gpu"
    rounds: int = 8
    steps: int | None = None
    changes: dict = field(default_factory=dict)


REHEARSAL = Sizes("tiny", "tiny", 2, 60, dict(patch_size=64, batch_size=1))


class Measured(NamedTuple):
    """What `measure` has written, read back: facts about the machine, and its tables (None: not begun)."""

    machine: dict
    checks: pd.DataFrame | None
    price: pd.DataFrame | None
    notebooks: pd.DataFrame | None


class Clock:
    """The minutes that were asked for, from the moment this is made."""

    def __init__(self, minutes: float):
        self.seconds, self.started = 60 * minutes, time.monotonic()

    def left(self, part: str) -> float:
        """Seconds that are left until a part of the work has to end."""
        return UNTIL[part] * self.seconds - (time.monotonic() - self.started)

    @contextmanager
    def limit(self, part: str) -> Iterator[None]:
        """KeyboardInterrupt, as by Ctrl-C, when the part's time is over: a training saves its state before it ends."""
        timer = threading.Timer(max(0.0, self.left(part)), _thread.interrupt_main)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # an interrupt that is on its way arrives here, not later


class Table:
    """A CSV file whose rows are written as they come; rows of an earlier call count as done, failed ones do not."""

    def __init__(self, file: Path):
        self.file, self.rows = file, []
        if file.exists():
            there = files.read_table(file)
            self.rows = there[there["error"].isna()].to_dict("records")

    def holds(self, key: dict) -> bool:
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, rows: Iterable[dict]) -> None:
        self.rows += rows
        table = pd.DataFrame(self.rows)
        files.write_file(self.file, table.to_csv(index=False, float_format=evidence.DIGITS))


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
        folder: made if needed; with `proceed` that of an earlier call on the same kind of machine.
        minutes: above 0. The last thing begun may take some seconds longer.
        proceed: go on in a folder that holds results.
        sizes: of what is measured.
        device: as in `train.train`.
        experiments: names of decided experiments whose seeds are run with the time that is left.
        data_root: of their data set, if it is not embedded.

    Returns:
        Whether nothing failed: every check within its limit, and no error anywhere.

    Raises:
        ValueError: a folder that holds results, or is of another machine or other sizes; a number that is none.
    """
    folder, place = Path(folder).expanduser().resolve(), machine.pick_device(device)
    if not minutes > 0:
        raise ValueError(f"minutes is {minutes}; it must be above 0, such as 8.")
    chosen = [evidence.get(name) for name in experiments]
    _begin(folder, place, sizes, proceed)
    importlib.import_module("torch._dynamo")  # torch does when it is needed, and an import bears no interrupt
    clock = Clock(minutes)
    parts = {
        "checks": _checks(folder, sizes, place),
        "price": _price(sizes, place),
        "notebooks": _notebooks(sizes, place),
    }
    for name, items in parts.items():
        _fill(Table(folder / f"{name}.csv"), name, items, clock)
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
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(file, facts)
        return
    if not proceed:
        raise ValueError(f"{folder} holds measurements already; use --continue {folder}, or another folder.")
    there = files.read_json(file)
    differing = [name for name in ("device", "torch", "sizes") if there.get(name) != facts[name]]
    other = [f"{name}: {there.get(name)!r} there, {facts[name]!r} now" for name in differing]
    if other:
        raise ValueError(f"{folder} was begun with something else ({'; '.join(other)}); use another folder.")


def _fill(table: Table, part: str, items: Items, clock: Clock) -> None:
    """Measure what the table does not hold yet, as long as the part has time. What fails is a row that says why."""
    left_out = 0
    for key, make in items:
        if table.holds(key):
            continue
        if clock.left(part) <= 0:
            left_out += 1
            continue
        started = time.monotonic()
        try:
            with clock.limit(part):
                rows = make()
        except KeyboardInterrupt:
            if clock.left(part) > 0:
                raise  # somebody pressed Ctrl-C
            left_out += 1
            continue
        except Exception as error:  # the next measurements do not depend on this one, and the machine is lent
            rows = [{"error": f"{type(error).__name__}: {error}"[:500]}]
        taken = time.monotonic() - started
        rows = [key | row | {"took": taken, "error": row.get("error")} for row in rows]
        table.add(rows)
        for row in rows:
            print(f"{part}: " + ", ".join(f"{k} {_short(v)}" for k, v in row.items() if v is not None), flush=True)
    if left_out:
        print(f"{part}: {left_out} left out for lack of time; --continue does them", flush=True)


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# Checks


def _checks(folder: Path, sizes: Sizes, device: torch.device) -> Items:
    for name in networks.names():
        yield {"check": "network", "subject": name}, partial(check_network, name, sizes.network, device)
    yield {"check": "training", "subject": "tiny derain"}, partial(_check_training, folder, sizes.steps, device)
    yield {"check": "same files", "subject": "tiny derain"}, partial(_check_same_files, folder, sizes.steps, device)


def check_network(name: str, size: str, device: torch.device, side: int = 64) -> list[dict]:
    """A network with random weights on a device, beside float64 on the CPU: its output, and all weights' gradients.

    Returns:
        Rows with precision, what, found (relative error by L2; of gradients in less than float32: 1 - cosine), limit
        and ok.
    """
    exact, exact_gradient = _outcome(name, size, side, torch.device("cpu"), torch.float64, "float32")
    rows = []
    for format_name, (output_limit, gradient_limit) in LIMITS.items():
        if format_name == "tf32" and device.type != "cuda":
            continue
        output, gradient = _outcome(name, size, side, device, torch.float32, format_name)
        if format_name == "float32":
            what, distance = "gradient, error", _relative_error(gradient, exact_gradient)
        else:
            cosine = torch.nn.functional.cosine_similarity(gradient, exact_gradient, dim=0).item()
            what, distance = "gradient, 1 - cosine", 1 - cosine
        found = {"output, error": (_relative_error(output, exact), output_limit), what: (distance, gradient_limit)}
        for part, (value, limit) in found.items():
            facts = {"precision": format_name, "what": part, "found": value, "limit": limit}
            rows.append(facts | {"ok": value <= limit})
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


def _relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def _tiny(steps: int | None) -> Recipe:
    return recipes.get("tiny", "derain", **({} if steps is None else {"steps": steps}))


def _check_training(folder: Path, steps: int | None, device: torch.device) -> list[dict]:
    """A tiny network learns to take rain away, in the deterministic mode."""
    run = train.train(_tiny(steps), folder / "runs" / "first", device=str(device), quiet=True, deterministic=True)
    gain = (run.scores["psnr_ema"] - run.scores["psnr_input"]).mean()
    return [{"what": "PSNR gained, dB", "found": gain, "limit": 0.0, "ok": bool(gain > 0)}]


def _check_same_files(folder: Path, steps: int | None, device: torch.device) -> list[dict]:
    """The same training once more gives the same files, byte for byte."""
    train.train(_tiny(steps), folder / "runs" / "second", device=str(device), quiet=True, deterministic=True)
    first, second = (_digests(folder / "runs" / name) for name in ("first", "second"))
    differing = sorted(name for name in first | second if first.get(name) != second.get(name))
    what = f"{len(first)} files, differing"
    return [{"what": what, "found": float(len(differing)), "limit": 0.0, "ok": not differing}]


def _digests(run_dir: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in run_dir.glob("*.safetensors")}


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
    sampled = recipe.replace(sampling="sampled")
    arms = {"plain": recipe.replace(objective="plain"), "exact": recipe, "sampled": sampled}
    trainers = {arm: Trainer(asked, device) for arm, asked in arms.items()}
    gt, lq, names = next(trainers["plain"].patches.batches(1, 1))
    gt, lq = gt.to(device), lq.to(device)

    def steps(trainer: Trainer) -> None:
        for _ in range(trainer.recipe.period):
            trainer.advance(gt, lq, names)

    turns: dict[str, timing.Step] = {arm: partial(steps, trainer) for arm, trainer in trainers.items()}
    taken = timing.median_seconds(turns, sizes.rounds, device)
    rows: dict[str, dict] = {arm: {"step": arm, "patch": recipe.patch_size, "batch": recipe.batch_size} for arm in arms}
    for arm, row in rows.items():
        row["seconds"] = taken[arm] / trainers[arm].recipe.period
        row["ratio"] = row["seconds"] / rows["plain"]["seconds"]
        if compile == "none":
            row["peak_mb"] = cost.measure_bytes(arms[arm], device) / 1e6
    if compile == "none":
        rows["plain"]["waiting"] = _waiting(trainers["plain"], sizes.rounds)
    return list(rows.values())


def _waiting(trainer: Trainer, steps: int) -> float:
    """Median seconds that a training waits for its next batch."""
    batches, taken = iter(trainer.patches.batches(1, steps + 2, device=trainer.device)), []
    for _ in range(steps + 2):
        start = time.perf_counter()
        batch = next(batches)
        taken.append(time.perf_counter() - start)
        timing.seconds(partial(trainer.advance, *batch), trainer.device)
    return statistics.median(taken[2:])  # processes start and files are read first


# What the notebooks compute


def _notebooks(sizes: Sizes, device: torch.device) -> Items:
    for name, work in WORK.items():
        yield {"notebook": name}, partial(_seconds, name, work, sizes, device)


def _seconds(name: str, work: Callable, sizes: Sizes, device: torch.device) -> list[dict]:
    asked = parameters(name) | ({"recipe": "tiny", "steps": sizes.steps, "seeds": [0]} if sizes.steps else {})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        work(asked, Path(folder), str(device))
        return [{"seconds": time.perf_counter() - started}]


def parameters(notebook: str) -> dict:
    """The parameters of a committed notebook: the literals of its cell with that tag."""
    content = json.loads((root() / "notebooks" / f"{notebook}.ipynb").read_text())
    (cell,) = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", [])]
    lines = [line for line in ast.parse("".join(cell["source"])).body if isinstance(line, ast.Assign)]
    return {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in lines}


def _recipe(asked: dict, **changes) -> Recipe:
    given = {name: asked[name] for name in ("steps", "network", "scale", "val_side") if asked.get(name) is not None}
    return recipes.get(asked["recipe"], asked["task"], **given | changes)


def _explain(asked: dict, folder: Path, device: str) -> None:
    asked = asked | {"recipe": "tiny", "task": "dehaze"}
    recipe = _recipe(asked, network="nafnet", learning_rate=1e-3, val_side=192)
    trajectory.watch(recipe, looks=recipe.steps // 10, device=machine.pick_device(device))


def _train(asked: dict, folder: Path, device: str) -> None:
    train.train(_recipe(asked), folder, device=device, quiet=True)


def _history(asked: dict, folder: Path, device: str) -> None:
    """The run, the stranger with the next seed, and the plain twin."""
    own = _recipe(asked, seed=asked["seed"], val_side=192)
    for number, run in enumerate((own, own.replace(seed=own.seed + 1), own.replace(objective="plain"))):
        train.train(run, folder / str(number), device=device, quiet=True)


def _compare(asked: dict, folder: Path, device: str) -> None:
    arms = compare.arms(asked["objectives"], dose=asked["dose"])
    compare.run(compare.plan(_recipe(asked), arms, asked["seeds"]), folder, device=device, quiet=True)


def _ablate(asked: dict, folder: Path, device: str) -> None:
    recipe = _recipe(asked)
    jobs = compare.plan(recipe, ablations.arms(asked["sweep"], recipe), asked["seeds"])
    compare.run(jobs, folder, device=device, quiet=True)


WORK = {
    "01_explain": _explain,
    "03_train": _train,
    "04_history": _history,
    "05_compare": _compare,
    "07_ablate": _ablate,
}


# Further seeds


def _seeds(
    chosen: list[evidence.Experiment], data_root: str | None, folder: Path, device: torch.device, clock: Clock
) -> None:
    """Run after run of decided experiments, until the time is over; a seed enters the record when it is whole."""
    for experiment in chosen:
        out_dir, record = folder / "runs" / (experiment.runs or experiment.name), folder / "records" / experiment.name
        jobs = experiment.plan(data_root=data_root)
        for job in jobs:
            if run_tables.is_finished(out_dir / job.name) or clock.left("seeds") <= 0:
                continue
            evidence.begin(experiment, record)
            try:
                with clock.limit("seeds"):
                    compare.run([job], out_dir, device=str(device), quiet=True)
            except KeyboardInterrupt:
                if clock.left("seeds") > 0:
                    raise
                return
            print(f"seeds: {experiment.name}, {job.name} finished", flush=True)
            own = (job.recipe.task, job.recipe.seed)
            seed = [other.name for other in jobs if (other.recipe.task, other.recipe.seed) == own]
            if all(run_tables.is_finished(out_dir / name) for name in seed):
                evidence.write_record(experiment, out_dir, record)


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
