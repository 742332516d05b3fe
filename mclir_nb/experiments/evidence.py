"""Experiments decided before they are run, and their committed records.

    python -m mclir_nb compare C1

trains every run of the experiment that is not there yet, seed by seed, and writes `data/records/C1/`. The decision is
written there before the first run, as facts (decision.json) and in words (README.md); a record of other facts is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mclir_nb import files, root
from mclir_nb.choices import check_choice
from mclir_nb.experiments import compare, intervals, run_tables
from mclir_nb.experiments.plans import EXPERIMENTS, Experiment
from mclir_nb.training.records import runs_dir

FILES = {
    "runs": "one row per run: every field of the recipe, scores, cost, versions",
    "images": "one row per run and test picture: its scores",
    "curves": "the logs of the runs, thinned",
}
DIGITS = "%.7g"  # of what is written
LISTED = 8  # intervals of a record that a summary writes out; of a longer record only those that leave zero
PATHS = {"data_root", "features_weights"}  # of which only the last part is written: the rest is the machine's own


def get(name: str) -> Experiment:
    """The experiment called `name`; ValueError with the names there are."""
    check_choice("experiment", name, EXPERIMENTS)
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
        experiment: see `get`.
        out_dir: of the run folders; None: runs/NAME in the workbook, shared by experiments of the same setting.
        seeds: only the first so many of the decided ones; the record says so.
        folder: of the record; None: data/records/NAME.
        data_root: of the data set, if it is not embedded.
        how: device, processes, scheduler, quiet of `compare.run`.

    Returns:
        The folder of the record.
    """
    out_dir = runs_dir() / (experiment.runs or experiment.name) if out_dir is None else Path(out_dir)
    jobs = experiment.plan(seeds, data_root=data_root)
    begin(experiment, folder)
    compare.run(jobs, out_dir, **how)
    return write_record(experiment, out_dir, folder)


class Record(NamedTuple):
    """A record, read back.

    Attributes:
        name: of the experiment.
        decision: what was decided before the first run, see `plans.Experiment.decision`.
        runs, images, curves: tables, see `FILES`.
        withdrawn: what was taken back afterwards and why, "" if nothing was; it is no longer in the tables.
    """

    name: str
    decision: Mapping
    runs: pd.DataFrame
    images: pd.DataFrame
    curves: pd.DataFrame
    withdrawn: str = ""


def begin(experiment: Experiment, folder: str | Path | None = None) -> Path:
    """Write the decision before the first run. Raises ValueError if the record is of another one.

    Facts are compared, not words: a sentence may be written better later.
    """
    folder = _place(experiment.name, folder)
    file, decided = folder / "decision.json", experiment.decision()
    if file.exists():
        there = files.read_json(file)
        other = sorted(key for key in decided if key != "question" and decided[key] != there.get(key))
        if other:
            raise ValueError(
                f"{file} holds another decision ({', '.join(other)}), and decisions are fixed before the first run. "
                "Give the changed experiment another name."
            )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(file, decided)
    files.write_file(folder / "README.md", f"{_decision(experiment.name, decided)}\nNo seed is finished yet.\n")
    return folder


def write_record(experiment: Experiment, out_dir: str | Path, folder: str | Path | None = None) -> Path:
    """Collect the seeds of a task whose runs are all finished, and write runs.csv, images.csv, curves.csv, README.md.

    Raises:
        ValueError: no seed is whole, or the record is of another decision.
    """
    folder = begin(experiment, folder)
    jobs = experiment.plan()
    open_seeds = {_seed_of(job) for job in jobs if not run_tables.is_finished(Path(out_dir) / job.name)}
    wanted = [job.name for job in jobs if _seed_of(job) not in open_seeds]
    if not wanted:
        command = f"python -m mclir_nb compare {experiment.name}"
        raise ValueError(f"no seed of {experiment.name} is finished in {out_dir}; run `{command}` again")
    makers = {"runs": run_tables.collect, "images": run_tables.images, "curves": run_tables.curves}
    for name in FILES:
        table = makers[name](out_dir, wanted)
        for column in PATHS & set(table):
            table[column] = table[column].map(lambda path: Path(path).name, na_action="ignore")
        files.write_file(folder / f"{name}.csv", table.to_csv(index=False, float_format=DIGITS))
    write_page(experiment.name, folder)
    return folder


def _seed_of(job) -> tuple[str, int]:
    return job.recipe.task, job.recipe.seed


def write_page(name: str, folder: str | Path | None = None) -> None:
    """Write README.md of a record: the decision, and what follows from the files."""
    record = read_record(name, folder)
    page = f"{_decision(name, record.decision)}\n{_findings(record)}"
    files.write_file(_place(name, folder) / "README.md", page)


def read_record(name: str, folder: str | Path | None = None) -> Record:
    """A record of `data/records/`. What withdrawn.json names is taken out of its tables.

    Raises:
        ValueError: there is none, or it is not of this version.
    """
    folder = _place(name, folder)
    missing = [file for file in (*(f"{t}.csv" for t in FILES), "decision.json") if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {', '.join(missing)}; make the record: `python -m mclir_nb compare {name}`")
    decision, tables = files.read_json(folder / "decision.json"), [files.read_table(folder / f"{t}.csv") for t in FILES]
    if "stopped" in tables[0]:
        tables[0]["stopped"] = tables[0]["stopped"].astype(object).where(tables[0]["stopped"].notna(), "")
    intervals.check(tables[0], *intervals.COST, "psnr_raw", "psnr_ema", "stopped")
    taken = files.read_json(folder / "withdrawn.json") if (folder / "withdrawn.json").is_file() else {}
    runs, images, curves = (table[~table["arm"].isin(taken.get("arms", []))] for table in tables)
    runs = runs.assign(**dict.fromkeys(taken.get("columns", []), float("nan")))
    return Record(name, decision, runs, images, curves, taken.get("why", ""))


def from_runs(out_dir: str | Path, name: str = "your own runs") -> Record:
    """A reader's own finished runs in the shape of a record, for the same tables and figures.

    Raises:
        ValueError: as `run_tables.collect`.
    """
    makers = (run_tables.collect, run_tables.images, run_tables.curves)
    return Record(name, {}, *(make(out_dir, finished_only=True) for make in makers))


def recorded() -> list[str]:
    """Names of the committed records that `read_record` can read."""
    return sorted(file.parent.name for file in (root() / "data" / "records").glob("*/images.csv"))


def committed(name: str | None) -> Record | None:
    """The committed record of that name, or None if it is not there (yet)."""
    return read_record(name) if name in recorded() else None


def outcome(record: Record) -> str:
    """What a record allows to say, computed from its runs; a single seed allows nothing."""
    baseline, scores = record.decision.get("baseline", "plain"), record.decision.get("scores", ("psnr_raw", "psnr_ema"))
    try:
        return intervals.conclusion(pd.concat([intervals.paired(record.runs, baseline, score) for score in scores]))
    except ValueError as error:
        return f"No conclusion: {error}"


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
    runs, decided = record.runs, record.decision
    seeds, diverged = runs["seed"].nunique(), int((runs["stopped"] != "").sum())
    head = f"- **[{record.name}]({top}data/records/{record.name}/README.md)** {decided['question']} {len(runs)} runs, "
    head += f"{seeds} seeds of {len(decided['seeds'])} decided, {diverged} diverged. "
    head += f"**Withdrawn:** {record.withdrawn} " if record.withdrawn else ""
    try:
        table = intervals.gains(runs, decided["baseline"])
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


def decision(experiment: Experiment) -> str:
    """What is fixed before the first run, in words: the head of the record's README.md."""
    return _decision(experiment.name, experiment.decision())


def _decision(name: str, decided: Mapping) -> str:
    scores = ", ".join(f"{intervals.SCORES[score][0]} (`{score}`)" for score in decided["scores"])
    settings = pd.DataFrame(decided["settings"])
    settings["histories every"] = [", ".join(map(str, every)) for every in settings["histories every"]]
    return f"""# {name}: {decided["question"]}

## Decided before the first run

- Recipe `{decided["recipe"]}`, changed for all arms: {_listed(decided["changes"])}. Its sizes:

{files.as_markdown(settings)}

- Arms: {"; ".join(map(_arm, decided["arms"]))}. Nothing else differs: initial weights, pictures, crops and
  degradations of a seed are shared.
- Seeds: {", ".join(map(str, decided["seeds"]))}, done in this order. If time runs out, whole seeds are left out, never
  arms.
- Scores: {scores}, each by itself, of the weights after the last step; the mean over the test pictures.
- Every run that is started is reported, those that diverge as well.
- Compared with `{decided["baseline"]}`: the mean paired difference and its 95 % interval over seeds (t distribution).
  An interval that holds zero is reported as no visible effect, with the difference that these seeds could have shown.
"""


def _listed(changes: Mapping) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "nothing"


def _arm(arm: Mapping) -> str:
    """One arm of the decision, with the lambda that its objective gets."""
    extra = f"; lambda {arm['lambda_neg']:g}" if arm["lambda_neg"] else ""
    extra += f"; as many steps as {arm['at_cost_of']} costs multiplications" if arm.get("at_cost_of") else ""
    extra += f"; as long as {arm['as_long_as']}" if arm.get("as_long_as") else ""  # B1, by timings
    return f"`{arm['name']}` ({_listed(arm['changes'])}{extra})"


def _findings(record: Record) -> str:
    """The second half of README.md, computed."""
    decided, runs = record.decision, record.runs
    costs = intervals.costs(runs, decided["baseline"]).drop(columns="scale")
    first, diverged = runs.iloc[0], (runs["stopped"] != "").sum()
    withdrawn = f"## Withdrawn\n\n{record.withdrawn}\n\n" if record.withdrawn else ""
    command = (
        f"## Command\n\n```\npython -m mclir_nb compare {record.name}\n```\n\n" if record.name in EXPERIMENTS else ""
    )
    finished = f"{runs['seed'].nunique()} of {len(decided['seeds'])} decided seeds are finished"
    return f"""{withdrawn}## Outcome

{finished}: {len(runs)} runs, of which {diverged} diverged.
Computed from `runs.csv`:

{chr(10).join("- " + line for line in outcome(record).splitlines())}

## Cost

Means over seeds. `macs` are the counted multiply-accumulates of a run, `run_cost` their ratio to those of
`{decided["baseline"]}`; `peak_memory_mb` is what tensors hold in a training step. Made on {first["device"]},
{first["threads"]} threads, torch {first["torch"]}, mclir_nb {first["mclir_nb"]}.

{files.as_markdown(costs.round(3))}

{command}Files: {"; ".join(f"`{name}.csv`: {what}" for name, what in FILES.items())}.
"""


def _place(name: str, folder: str | Path | None) -> Path:
    """The folder of a record; ValueError for a name that leads out of `data/records`."""
    if folder is not None:
        return Path(folder)
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a record; those that are there: {', '.join(recorded())}.")
    return root() / "data" / "records" / name
