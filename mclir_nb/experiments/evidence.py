"""Experiments decided before they are run, and their committed records.

    python -m mclir_nb compare C1

trains every run of the experiment that is not there yet, seed by seed, and writes `data/records/C1/`. The decision is
written there before the first run; a record whose decision has changed is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mclir_nb import files, root
from mclir_nb.data import tasks
from mclir_nb.experiments import compare, intervals
from mclir_nb.experiments.compare import Arm
from mclir_nb.experiments.plans import EXPERIMENTS, Experiment
from mclir_nb.training import recipes

FILES = {
    "runs": "one row per run: every field of the recipe, scores, cost, versions",
    "images": "one row per run and test picture: its scores",
    "curves": "the logs of the runs, thinned",
}
DIGITS = "%.7g"  # of what is written
LISTED = 8  # intervals of a record that a summary writes out; of a longer record only those that leave zero
PATHS = {"data_root", "features_weights"}  # of which only the last part is written: the rest is the machine's own


def names() -> list[str]:
    """The experiments that `get` knows."""
    return list(EXPERIMENTS)


def get(name: str) -> Experiment:
    """The experiment called `name`. Raises: ValueError naming those there are."""
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(str(name), EXPERIMENTS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown experiment {name!r}{hint} The experiments are: {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]


def run(
    experiment: Experiment,
    out_dir: str | Path | None = None,
    *,
    seeds: int | None = None,
    folder: str | Path | None = None,
    data_root: str | None = None,
    **how,
) -> Path:
    """Write the decision, do the runs that are missing, write the record.

    Args:
        out_dir: of the run folders; None: runs/NAME in the workbook.
        seeds: only the first so many of the decided ones; the record says so.
        folder: of the record; None: data/records/NAME. data_root: of the data set, if it is not embedded.
        how: device, processes, scheduler, quiet of `compare.run`.
    Returns: the folder of the record.
    """
    out_dir = root() / "runs" / experiment.name if out_dir is None else Path(out_dir)
    jobs = experiment.plan(seeds, data_root=data_root)
    begin(experiment, folder)
    compare.run(jobs, out_dir, **how)
    return write_record(experiment, out_dir, folder)


# --- the record -----------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A committed record, read back."""

    name: str
    runs: pd.DataFrame
    images: pd.DataFrame
    curves: pd.DataFrame


def begin(experiment: Experiment, folder: str | Path | None = None) -> Path:
    """Write the decision before the first run. Raises: ValueError if the record holds another decision."""
    folder = _place(experiment.name, folder)
    page, head = folder / "README.md", decision(experiment)
    if page.exists() and head not in page.read_text():
        raise ValueError(
            f"{page} holds another decision: arms, seeds, steps and scores of {experiment.name} are fixed before its "
            "first run. Give the changed experiment another name."
        )
    if not page.exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_file(page, f"{head}\n## Outcome\n\nNo seed is finished yet.\n")
    return folder


def write_record(experiment: Experiment, out_dir: str | Path, folder: str | Path | None = None) -> Path:
    """Collect the seeds whose runs are all finished, and write README.md, runs.csv, images.csv and curves.csv.

    Raises: ValueError if no seed is whole.
    """
    folder = begin(experiment, folder)
    whole, wanted = _whole_seeds(experiment, Path(out_dir))
    if not whole:
        raise ValueError(
            f"no seed of {experiment.name} is finished in {out_dir}; run `python -m mclir_nb compare "
            f"{experiment.name}` again"
        )
    makers = {"runs": compare.collect, "images": compare.images, "curves": compare.curves}
    for name in FILES:
        table = makers[name](out_dir, wanted)
        for column in PATHS & set(table):
            table[column] = table[column].map(lambda path: Path(path).name, na_action="ignore")
        files.write_file(folder / f"{name}.csv", table.to_csv(index=False, float_format=DIGITS))
    record = read_record(experiment.name, folder)  # so that the page says what follows from the files
    files.write_file(folder / "README.md", decision(experiment) + _findings(experiment, record, len(whole)))
    return folder


def read_record(name: str, folder: str | Path | None = None) -> Record:
    """A record of `data/records/`. Raises: ValueError if there is none, or it is not of this version."""
    folder = _place(name, folder)
    missing = [f"{table}.csv" for table in FILES if not (folder / f"{table}.csv").is_file()]
    if missing:
        raise ValueError(
            f"{folder} has no {', '.join(missing)}; make the record with `python -m mclir_nb compare {name}`"
        )
    runs, *others = (files.read_table(folder / f"{table}.csv") for table in FILES)
    if "stopped" in runs:
        runs["stopped"] = runs["stopped"].astype(object).where(runs["stopped"].notna(), "")
    intervals.check(runs, *intervals.COST, "psnr_raw", "psnr_ema", "stopped")
    return Record(name, runs, *others)


def from_runs(out_dir: str | Path, name: str = "your own runs") -> Record:
    """A reader's own finished runs in the shape of a record, for the same tables and figures.

    Raises: ValueError as `compare.collect`.
    """
    makers = (compare.collect, compare.images, compare.curves)
    return Record(name, *(make(out_dir, finished_only=True) for make in makers))


def recorded() -> list[str]:
    """Names of the committed records that `read_record` can read."""
    return sorted(file.parent.name for file in (root() / "data" / "records").glob("*/images.csv"))


def committed(name: str | None) -> Record | None:
    """The committed record of that name, or None if it is not there (yet)."""
    return read_record(name) if name in recorded() else None


def summary(names: list[str] | None = None, top: str = "") -> str:
    """One paragraph of Markdown per committed record, computed from its runs.

    Args:
        names: which records; None: all.
        top: the way to the top of the repository, for links ("../" from a notebook).
    """
    known = recorded()
    names = known if names is None else names
    if not names:
        return "No paired experiment is recorded in `data/records` yet, so nothing is claimed."
    return "\n".join(
        _paragraph(read_record(name), top)
        if name in known
        else f"- No record {name} yet: `python -m mclir_nb compare {name}`"
        for name in names
    )


def _paragraph(record: Record, top: str) -> str:
    """What a record asked, how many runs it has, and its intervals in words."""
    runs, known = record.runs, EXPERIMENTS.get(record.name)
    question, baseline = (known.question, known.baseline) if known else ("", "plain")
    seeds, diverged = runs["seed"].nunique(), int((runs["stopped"] != "").sum())
    head = f"- **[{record.name}]({top}data/records/{record.name}/README.md)** {question} {len(runs)} runs, "
    head += f"{seeds} seeds" + (f" of {len(known.seeds)} decided" if known else "") + f", {diverged} diverged. "
    try:
        table = intervals.gains(runs, baseline)
    except ValueError as error:
        return f"{head}No conclusion: {error}"
    clear = table[(table["low"] > 0) | (table["high"] < 0)]
    lines = [f"Of {len(table)} intervals {len(clear) or 'none'} lie{'s' * (len(clear) == 1)} beside zero."]
    shown = table if len(table) <= LISTED else clear
    lines += [f"  - {line}" for line in intervals.conclusion(shown).splitlines()] if len(shown) else []
    quiet = table.drop(clear.index)
    if len(quiet) and len(shown) < len(table):
        low, high = quiet["detectable"].min(), quiet["detectable"].max()
        lines.append(
            f"  - {'The other' if len(clear) else 'All'} {len(quiet)}: no effect visible at this size; they could have "
            f"shown differences of {low:.3f} to {high:.3f} dB four times in five."
        )
    return head + "\n".join(lines)


def outcome(record: Record, baseline: str = "plain", scores=("psnr_raw", "psnr_ema")) -> str:
    """What a record allows to say, computed from its runs; a single seed allows nothing."""
    try:
        return intervals.conclusion(pd.concat([intervals.paired(record.runs, baseline, score) for score in scores]))
    except ValueError as error:
        return f"No conclusion: {error}"


def decision(experiment: Experiment) -> str:
    """What is fixed before the first run, as the head of the record's README.md."""
    scores = ", ".join(f"{intervals.SCORES[score][0]} (`{score}`)" for score in experiment.scores)
    first = [recipes.get(experiment.recipe, task, **experiment.changes) for task in experiment.tasks]
    arms = "; ".join(_arm(arm, first[0]) for arm in experiment.arms)
    settings = pd.DataFrame([_setting(recipe) for recipe in first])
    return f"""# {experiment.name}: {experiment.question}

## Decided before the first run

- Recipe `{experiment.recipe}`, changed for all arms: {_listed(experiment.changes)}. Its sizes:

{files.as_markdown(settings)}

- Arms: {arms}. Nothing else differs: initial weights, pictures, crops and degradations of a seed are shared.
- Seeds: {", ".join(map(str, experiment.seeds))}, done in this order. If time runs out, whole seeds are left out, never
  arms.
- Scores: {scores}, each by itself, of the weights after the last step; the mean over the test pictures.
- Every run that is started is reported, those that diverge as well.
- Compared with `{experiment.baseline}`: the mean paired difference and its 95 % interval over seeds (t distribution).
  An interval that holds zero is reported as no visible effect, with the difference that these seeds could have shown.
"""


def _listed(changes: Mapping) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "nothing"


def _arm(arm: Arm, recipe: recipes.Recipe) -> str:
    """One arm of the decision, with the lambda that its objective gets."""
    changed = recipe.replace(**dict(arm.changes))
    fixed = changed.weight and changed.lambda_ratio is None  # else lambda is another in each step
    extra = f"; lambda {changed.weight:g}" * bool(fixed) + f"; as long as {arm.as_long_as}" * bool(arm.as_long_as)
    return f"`{arm.name}` ({_listed(arm.changes)}{extra})"


def _setting(recipe: recipes.Recipe) -> dict:
    """One line of the decision: what is trained on what."""
    task = tasks.get(recipe.task, recipe.scale)
    return {
        "task": f"{recipe.task} x{recipe.scale}" if recipe.scale > 1 else recipe.task,
        "network": f"{recipe.network} ({recipe.network_size})",
        "data": recipe.dataset,
        "steps": recipe.steps,
        "batch": recipe.batch_size,
        "patch": recipe.patch_size,
        "histories every": str(recipe.history_every),
        "features": recipe.features,
        "protocol": f"{task.protocol}, border {task.crop}",
    }


def _findings(experiment: Experiment, record: Record, seeds: int) -> str:
    """The second half of README.md, computed."""
    costs = intervals.costs(record.runs, experiment.baseline).drop(columns="scale")
    lines = outcome(record, experiment.baseline, experiment.scores).splitlines()
    first, diverged = record.runs.iloc[0], (record.runs["stopped"] != "").sum()
    return f"""
## Outcome

{seeds} of {len(experiment.seeds)} decided seeds are finished: {len(record.runs)} runs, of which {diverged} diverged.
Computed from `runs.csv`:

{chr(10).join("- " + line for line in lines)}

## Cost

Means over seeds; `ratio` is that of seconds per step to `{experiment.baseline}` with the same seed. Made on
{first["device"]}, {first["threads"]} threads, torch {first["torch"]}, mclir_nb {first["mclir_nb"]}. Peak memory is
that of the tensors on CUDA, of the whole process on a CPU, and empty where a process did more than one run.

{files.as_markdown(costs.round(3))}

## Command

```
python -m mclir_nb compare {experiment.name}
```

Files: {"; ".join(f"`{name}.csv`: {what}" for name, what in FILES.items())}.
"""


def _whole_seeds(experiment: Experiment, out_dir: Path) -> tuple[list[int], list[str]]:
    """The decided seeds of which every run is finished, and the names of those runs."""
    jobs = experiment.plan()
    open_ = {job.recipe.seed for job in jobs if not compare.is_finished(out_dir / job.name)}
    whole = [seed for seed in experiment.seeds if seed not in open_]
    return whole, [job.name for job in jobs if job.recipe.seed in whole]


def _place(name: str, folder: str | Path | None) -> Path:
    """The folder of a record. Raises: ValueError for a name that leads out of `data/records`."""
    if folder is not None:
        return Path(folder)
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a record; those that are there: {', '.join(recorded())}.")
    return root() / "data" / "records" / name
