"""Experiment P: does the push help where it is applied? Decided before its first run; `probe` does the looking.

    python -m mclir_nb probe --data-root BSDS500 --out DIR      run what is missing, cell by cell, and write the record
    python -m mclir_nb probe --out DIR                          write the record of what is there

A cell is one run: a task, a learning rate, a term in the loss, a seed. It goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F

from mclir_nb import files, root
from mclir_nb.data import degrade, tasks
from mclir_nb.experiments import intervals, probe
from mclir_nb.training import dose, recipes
from mclir_nb.training.recipes import Recipe

NAME, QUESTION = "P", "Does the push help where it is applied?"
TASKS, TERMS, SEEDS, DOSE = ("sr", "derain", "dehaze"), ("plain", "spn"), (0, 1, 2), 0.1
RATES = {"demo": (1, 1), "eighth": (8, 4)}  # by how much the rate is divided; steps and intervals are longer
HAZE = "dehaze-any"  # dehazing of photographs without a depth layer
RECORD = root() / "data" / "records" / NAME

DECISION = f"""# {NAME}: {QUESTION}

## Decided before the first run

- Runs: recipe `demo` of {", ".join(TASKS)} (EDSR x4, NAFNet, FFA-Net), seeds {", ".join(map(str, SEEDS))}, each
  `plain` (lambda 0, its histories only watched) and `spn` (dose {DOSE:g}, lambda from `dose.lambda_for`, once per task
  and rate). Rates: that of the recipe (`demo`), and an eighth of it with four times the steps and four times the
  intervals of the histories (`eighth`: the same run in slow motion, histories up to 400 steps old).
- Pictures: BSDS500 train and test without those of `train_exclude.txt`; the 20 of them that are held out as validation
  are what everything is measured on. No score on a benchmark is claimed. Haze: each patch gets a smooth random depth
  layer (4 x 4 uniform numbers, enlarged bicubically).
- Moments: {probe.MOMENTS} per run, spread as `frames.steps` does; at each {probe.BATCHES} batches of fresh training
  patches give the directions, and {probe.BATCHES} held-out batches the slope.
- Directions: pull, push, towards (its opposite), oldest history only, foreign (the histories of the same run with the
  next seed), noise of the same distance, lq, smooth and smooth-oldest (the EMA's output against the EMA's own past),
  random numbers in the weights; see `probe.directions`.
- Score: help_cos, the cosine between a direction and the downhill direction of the held-out L1 loss (`push.helps`), at
  the network's weights and at those of the evaluation EMA, of the plain gradient (first) and of the step that Adam
  makes of it (second). Beside it, progress, gap and votes of every history.
- Intervals: 95 % by the t distribution over seeds, of means over moments; with one seed over its moments, and said so.
- Order: {TASKS[0]}, {TASKS[1]}, {TASKS[2]} with seed 0, then seeds 1 and 2, then the eighth of the rate. If time runs
  out, what is missing is named.
"""


class Cell(NamedTuple):
    """One run of the experiment."""

    task: str
    rate: str  # a key of RATES
    term: str  # one of TERMS
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.rate}-{self.term}-{self.seed}"

    @property
    def foreign(self) -> Cell:
        """Whose histories are the foreign past: the same run with the next seed."""
        return self._replace(seed=SEEDS[(SEEDS.index(self.seed) + 1) % len(SEEDS)])

    def recipe(self, data_root: str | None, lambda_neg: float = 0.0, **changes) -> Recipe:
        """What is trained; `changes` are for tests."""
        slower, longer = RATES[self.rate]
        own = dict(recipes.get("demo", self.task)) | dose.PLAIN | dict(objective="spn", lambda_neg=lambda_neg)
        own |= dict(dataset="bsds500", data_root=data_root, seed=self.seed, val_every=0)
        own |= dict(learning_rate=own["learning_rate"] / slower, steps=longer * own["steps"])
        own |= dict(history_every=tuple(longer * every for every in own["history_every"]))
        if self.task == "dehaze":
            tasks.TASKS[HAZE] = replace(tasks.TASKS["dehaze"], name=HAZE, degrade=_haze, needs_depth=False)
            own |= dict(task=HAZE)
        return Recipe(**own | changes)


CELL = list(Cell._fields)
FOUND = ["mean", "low", "high", "p"]  # of `intervals.t_interval`, in the summary


def cells() -> Iterator[Cell]:
    """All runs, in the order that was decided."""
    for rate in RATES:
        for seed in SEEDS:
            for task in TASKS:
                yield from (Cell(task, rate, term, seed) for term in TERMS)


def _haze(gt: torch.Tensor, depth: None, generator: torch.Generator) -> torch.Tensor:
    """Haze over a smooth random depth layer, drawn for this patch."""
    grid = torch.rand(1, 1, 4, 4, generator=generator)
    layer = F.interpolate(grid, gt.shape[-2:], mode="bicubic", align_corners=True)[0, 0].clamp(0, 1)
    return degrade.haze(gt, layer, **degrade.sample_haze(generator))


def run(out: Path, data_root: str, folder: Path | None = None, quiet: bool = False) -> None:
    """Do what is missing, cell by cell; a cell that the record holds whole is not done again.

    Args:
        out: folder for the states and tables of the runs, about 3 GB in all; made if needed.
        data_root: folder of BSDS500.
        folder: of the record; None: data/records/P.
        quiet: print nothing.
    """
    done = set(whole(recorded(folder or RECORD)[0])[CELL].itertuples(index=False, name=None))
    for cell in cells():
        if cell not in done:
            run_cell(cell, out, data_root, quiet=quiet)


def recorded(folder: Path = RECORD) -> list[pd.DataFrame]:
    """`probe.HELPS` and `probe.PASTS` of the record as it stands; without rows where there is none yet."""
    there = [folder / name for name in (probe.HELPS, probe.PASTS)]
    return [files.read_table(file) if file.exists() else pd.DataFrame(columns=[*CELL, "step"]) for file in there]


def whole(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a record's table that are of runs of which every moment was looked at."""
    return table[table.groupby(CELL)["step"].transform("nunique") == probe.MOMENTS]


def run_cell(
    cell: Cell, out: Path, data_root: str | None, *, count: int = probe.MOMENTS, quiet: bool = False, **changes
) -> None:
    """Train one cell and the one whose past is foreign to it, then look at its moments; `changes` are for tests."""
    lambda_neg = 0.0
    if cell.term == "spn":
        kept, recipe = _short_run(out, cell), cell.recipe(data_root, **changes)
        kept.mkdir(parents=True, exist_ok=True)
        dosed = recipe.replace(lambda_neg=None, dose=DOSE)
        chosen = dose.choose(dosed, kept, torch.device("cpu"), quiet)
        dose.keep(kept, chosen)
        lambda_neg = dose.with_lambda(dosed, chosen).weight
    for one in (cell.foreign, cell):
        recipe = one.recipe(data_root, lambda_neg, **changes)
        probe.train_through(recipe, out / one.name, count, quiet)
    probe.probe(recipe, out / cell.name, out / cell.foreign.name, count=count, quiet=quiet)


def _short_run(out: Path, cell: Cell) -> Path:
    """The folder that keeps the lambda of a cell's task and rate."""
    return out / f"lambda-{cell.task}-{cell.rate}"


def read(out: Path) -> list[pd.DataFrame]:
    """What was looked at so far: `probe.HELPS`, wide, with a row per direction and moment, and `probe.PASTS`.

    Nothing where no moment was looked at yet.
    """
    found: dict[str, list[pd.DataFrame]] = {probe.HELPS: [], probe.PASTS: []}
    for cell in cells():
        place, own = out / cell.name, cell._asdict()
        if (place / probe.HELPS).exists():
            tables = {name: files.read_table(place / name).assign(**own) for name in found}
            chosen = files.read_json(_short_run(out, cell) / dose.FILE) if cell.term == "spn" else {"lambda_neg": 0.0}
            tables[probe.HELPS]["lambda_neg"] = chosen["lambda_neg"]
            seen = set(tables[probe.HELPS]["step"])
            for name, table in tables.items():
                found[name].append(table[table["step"].isin(seen)])
    if not found[probe.HELPS]:
        return []
    helps, pasts = (pd.concat(tables, ignore_index=True) for tables in found.values())
    wide = helps.pivot(
        index=[*CELL, "lambda_neg", "step", "direction"], columns=["form", "place"], values=["help_cos", "relative"]
    )
    wide.columns = [f"{what.removesuffix('_cos')}_{form}_{place}" for what, form, place in wide.columns]
    wide = wide.drop(columns=["relative_plain_ema", "relative_adam_ema"])  # they are those at the weights
    first = [*CELL, "step"]
    return [wide.reset_index(), pasts[[*first, *pasts.columns.drop(first)]]]


def summary(helps: pd.DataFrame, score: str = "help_plain_weights") -> pd.DataFrame:
    """Mean over moments, then over seeds, of each direction, with its interval; and push minus its two controls.

    Args:
        helps: the record's table, with a whole run at least; what is not `whole` is left out.
        score: one of its columns that begin with help_.

    Returns:
        Columns task, rate, term, direction, seeds, mean, low, high, p. The interval is over seeds; with a single seed
        over its moments, which are not independent.
    """
    wide = whole(helps).pivot(index=[*CELL, "step"], columns="direction", values=score)
    for other in ("foreign", "noise"):
        wide[f"push - {other}"] = wide["push"] - wide[other]
    rows = []
    for key, part in wide.groupby(level=["task", "rate", "term"], sort=False):
        seeds = part.groupby(level="seed").mean()
        for name, values in (seeds if len(seeds) > 1 else part).items():
            found = intervals.t_interval(values.to_numpy())
            rows.append([*key, name, len(seeds), *(found[column] for column in FOUND)])
    return pd.DataFrame(rows, columns=["task", "rate", "term", "direction", "seeds", *FOUND])


def answer(helps: pd.DataFrame) -> str:
    """What the record says of the push, computed, in one line.

    Args:
        helps: the record's table. A setting (task, rate, term) of which one run is whole is not counted: its interval
            is not over seeds.
    """
    tables = {place: summary(helps, f"help_plain_{place}") for place in ("weights", "ema")}
    single = (tables["ema"]["seeds"] == 1).any()
    tables = {place: table[table["seeds"] > 1] for place, table in tables.items()}
    directions = ["push", "push - foreign", "push - noise"]
    looked = pd.concat([table[table["direction"].isin(directions)] for table in tables.values()])
    if looked.empty:
        return "No setting of task, rate and term has two seeds yet."

    def beside(direction: str, below: str, above: str) -> str:
        """How many intervals lie below zero, and above it; of raw weights and EMA."""
        rows = [table[table["direction"] == direction] for table in tables.values()]
        (harms, gains), (ema_harms, ema_gains) = [((row["high"] < 0).sum(), (row["low"] > 0).sum()) for row in rows]
        return (
            f"{below} in {harms} and {above} in {gains} of {len(rows[0])} settings, at the EMA in {ema_harms} and "
            f"{ema_gains}"
        )

    kept = (looked["p"] <= intervals.holm_levels(looked["p"].to_numpy())).sum()
    few, edge = looked["seeds"].min() < intervals.SEEDS, intervals.first_edge(len(looked), looked["seeds"].max())
    return (
        "Settings are those of task, rate and term. At the raw weights a step along the push "
        f"{beside('push', 'harms (its interval lies beside zero)', 'helps')}. Beside a push away from the past of "
        f"another seed it {beside('push - foreign', 'is worse', 'better')}; beside one away from noise at the same "
        f"distance it {beside('push - noise', 'is worse', 'better')}. Of these "
        f"{len(looked)} intervals, {kept or 'none'} can be told from zero after Holm's correction, which asks the "
        f"clearest of them to lie {edge:.0f} standard errors away."
        f"{f' With fewer than {intervals.SEEDS} seeds this is weak evidence.' if few else ''}"
        f"{' An interval of one seed is over its moments and says little of another seed.' if single else ''}"
    )


def write_record(out: Path, folder: Path | None = None) -> Path:
    """Add what was looked at to the record; without anything yet, write the decision alone. Returns its folder."""
    folder = folder or RECORD
    folder.mkdir(parents=True, exist_ok=True)
    page, tables = DECISION, recorded(folder)
    if found := read(out):
        tables = [_merged(old, new) for old, new in zip(tables, found, strict=True)]
        for name, table in zip((probe.HELPS, probe.PASTS), tables, strict=True):
            files.write_file(folder / name, table.to_csv(index=False, float_format="%.4g"))
        tables = recorded(folder)  # as rounded: the page says what its tables say
    if len(whole(tables[0])):
        page += _outcome(*tables)
    page += f"\n## Command\n\n```\npython -m mclir_nb probe --data-root BSDS500 --out runs/{NAME}\n```\n"
    files.write_file(folder / "README.md", page)
    return folder


def _merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The rows of both, cells in their order; of a cell that both have those of more moments, then the new ones."""
    parts = []
    for cell in cells():
        of_cell = [table[(table[CELL] == list(cell)).all(axis=1)] for table in (new, old)]
        parts.append(max(of_cell, key=lambda part: part["step"].nunique()))
    return pd.concat(parts, ignore_index=True)


def _missing(helps: pd.DataFrame) -> str:
    """Which runs were not looked at, and which only in part, in one line; "" if that is none."""
    looked, part = helps.groupby(CELL)["step"].nunique().to_dict(), []
    none: dict[str, list[str]] = {}
    for cell in cells():
        if cell not in looked:
            none.setdefault(" ".join(cell[:3]), []).append(str(cell.seed))
        elif looked[cell] < probe.MOMENTS:
            part.append(f"{' '.join(cell[:3])} {cell.seed} ({looked[cell]} of {probe.MOMENTS} moments, not counted)")
    named = [f"{name} {', '.join(seeds)}" for name, seeds in none.items()] + part
    return f"\nMissing (task, rate, term, seeds): {'; '.join(named)}.\n" if named else ""


def _outcome(helps: pd.DataFrame, pasts: pd.DataFrame) -> str:
    """The second half of the page, computed."""
    missing, helps, pasts = _missing(helps), whole(helps), whole(pasts)
    count = len(helps[CELL].drop_duplicates())
    cells_of = ["task", "rate", "term", "past"]
    own = pasts.assign(**{"progress > gap": pasts["progress"] > pasts["gap"], "votes > 0.5": pasts["votes"] > 0.5})
    held = own.groupby(cells_of, sort=False)[["progress > gap", "votes > 0.5"]]
    shares = held.agg(lambda yes: f"{yes.sum()} of {len(yes)}").reset_index()
    sides = []
    for place in ("weights", "ema"):
        table = summary(helps, f"help_plain_{place}")
        numbers = table[["mean", "low", "high"]].itertuples(index=False)
        table[place] = [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in numbers]
        sides.append(table.drop(columns=FOUND))
    return f"""
## Outcome

{count} of {len(list(cells()))} runs were looked at, {count * probe.MOMENTS} moments.
{missing}
{answer(helps)}

help_cos of the plain gradient, mean and 95 % interval, at the network's weights and at those of the EMA:

{files.as_markdown(sides[0].merge(sides[1]))}

Cells (moments x histories) in which moving on from a history helps, and in which the features vote for it:

{files.as_markdown(shares)}

Files: `{probe.HELPS}`: one row per direction and moment, help_cos by form of the step and place, and the length of the
step beside that of the pull at lambda 1 (times `lambda_neg` of the run: the dose; empty where it was not kept);
`{probe.PASTS}`: one row per history and moment.
"""
