"""Experiments decided before they are run: runs, and the records that are written of them.

    python -m mclir_nb compare C1

trains every run of the experiment that is not there yet, seed by seed, and writes `data/records/C1/`. The decision is
written there before the first run, as facts (decision.json) and in words (README.md); a record of other facts is
refused. Runs that are in a committed record are not run again, in whichever folder it goes on: finished runs of a seed
that is not whole wait in `unfinished/` and are shown nowhere. To see whether the same comes out,

    python -m mclir_nb compare C1 --again --seeds 1 --out runs/again --record mine

trains them all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mclir_nb import files
from mclir_nb.experiments import compare, intervals, run_tables, verdicts
from mclir_nb.experiments.evidence import FILES, Record, read_record, record_dir
from mclir_nb.experiments.plans import EXPERIMENTS, Experiment
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.records import PLACES, runs_dir

UNFINISHED = "unfinished"  # folder in a record, of finished runs whose seed is not whole
DIGITS = "%.7g"  # of what is written
PICTURE = ["run", "image", "psnr_raw", "psnr_ema"]  # columns of images.csv; the mean SSIM of a run is in runs.csv
PATHS = {"data_root", "features_weights"}  # of which only the last part is written: the rest is the machine's own


def run(
    experiment: Experiment,
    out_dir: str | Path | None = None,
    *,
    seeds: int | None = None,
    folder: str | Path | None = None,
    data_root: str | None = None,
    again: bool = False,
    **how,
) -> Path:
    """Write the decision, do the runs that are missing, write the record; returns its folder.

    Args:
        out_dir: of the run folders; None: runs/NAME in the workbook, shared by experiments of the same setting.
        seeds: only the first so many of the decided ones; the record says so.
        folder: of the record; None: data/records/NAME.
        data_root: of the data set, if it is not embedded.
        again: do runs that a committed record holds as well; `folder` is needed then.
        how: device, processes, scheduler, quiet of `compare.run`.
    """
    jobs = experiment.plan(seeds, data_root=data_root)
    folder = begin(experiment, folder)
    done = set(recorded_runs(experiment, folder, again)["runs"]["run"])
    if jobs := [job for job in jobs if job.name not in done]:
        compare.run(jobs, _runs_dir(experiment, out_dir), **how)
    return write_record(experiment, out_dir, folder, again)


def begin(experiment: Experiment, folder: str | Path | None = None) -> Path:
    """Write the decision before the first run; returns the record's folder.

    Raises ValueError if the record is of another one. Facts are compared: a sentence may be written better later.
    """
    folder = record_dir(experiment.name, folder)
    file, decided = folder / "decision.json", experiment.decision()
    if file.exists():
        there = files.read_json(file)
        if other := sorted(key for key in decided if key != "question" and decided[key] != there.get(key)):
            raise ValueError(
                f"{file} holds another decision ({', '.join(other)}), and decisions are fixed before the first run. "
                "Give the changed experiment another name."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(file, decided)
        files.write_file(folder / "README.md", f"{_decision(experiment.name, decided)}\nNo seed is finished yet.\n")
    return folder


def write_record(
    experiment: Experiment, out_dir: str | Path | None = None, folder: str | Path | None = None, again: bool = False
) -> Path:
    """Write runs.csv, images.csv, curves.csv and README.md of the seeds whose runs are all finished, task by task.

    Runs count that are finished in `out_dir` or, if not `again`, in a committed record of the same setting. Those of
    other seeds go to `unfinished/`.

    Raises:
        ValueError: no run is finished, or the record is of another decision or of another recipe.
    """
    folder, out_dir = begin(experiment, folder), _runs_dir(experiment, out_dir)
    tables, jobs = recorded_runs(experiment, folder, again), {job.name: job for job in experiment.plan()}
    known = set(tables["runs"]["run"])
    new = [name for name in jobs if name not in known and run_tables.is_finished(out_dir / name)]
    if not new and not known:
        command = f"python -m mclir_nb compare {experiment.name}"
        raise ValueError(f"no run of {experiment.name} is finished in {out_dir}; run `{command}` again")
    if new:
        made = run_tables.read(out_dir, new)._asdict()
        made["images"] = made["images"][PICTURE].round(dict.fromkeys(PICTURE[2:], 4))
        for column in PATHS:
            made["runs"][column] = made["runs"][column].map(lambda path: Path(path).name, na_action="ignore")
        tables = {name: pd.concat([tables[name], made[name]], ignore_index=True) for name in FILES}
    done = known.union(new)
    seed_of = {name: (job.recipe.task, job.recipe.seed) for name, job in jobs.items()}
    open_seeds = {seed_of[name] for name in jobs if name not in done}
    whole = [name for name in jobs if seed_of[name] not in open_seeds]
    kept = folder / UNFINISHED / "runs.csv"  # what another record holds is found there and not written again
    own = set(new).union(files.read_table(kept)["run"] if kept.is_file() else [])
    waiting = [name for name in jobs if seed_of[name] in open_seeds and name in own]
    for place, wanted in ((folder, whole), (folder / UNFINISHED, waiting)):
        for name, table in tables.items():
            file = place / f"{name}.csv"
            if wanted:
                place.mkdir(exist_ok=True)
                part = table.set_index("run", drop=False).loc[[name for name in wanted if name in set(table["run"])]]
                files.write_file(file, part.to_csv(index=False, float_format=DIGITS))
            else:
                file.unlink(missing_ok=True)
    if whole:
        write_page(experiment.name, folder)
    return folder


def recorded_runs(experiment: Experiment, folder: Path, again: bool = False) -> dict[str, pd.DataFrame]:
    """The tables of `FILES` of this experiment's runs, as far as the record in `folder` has them, or, if not `again`,
    the committed one or another of the same setting.

    Raises ValueError if a run of that name has another recipe, with the field (older records lack the later fields),
    and for `again` in the committed record itself.
    """
    committed = record_dir(experiment.name)
    if again and folder.resolve() == committed.resolve():
        raise ValueError(f"{folder} holds the runs that are to be done again; name another folder for their record.")
    shared = [
        record_dir(name) for name, other in EXPERIMENTS.items() if experiment.runs and other.runs == experiment.runs
    ]
    records = [folder] if again else [folder, committed, *shared]
    recipes = {job.name: job.recipe for job in experiment.plan()}
    missing = set(recipes)
    found: dict[str, list[pd.DataFrame]] = {name: [pd.DataFrame({"run": []}, dtype=str)] for name in FILES}
    for place in (part for record in records for part in (record, record / UNFINISHED)):
        if (place / "runs.csv").is_file():
            tables = {name: files.read_table(place / f"{name}.csv") for name in FILES}
            here = missing & set(tables["runs"]["run"])
            missing -= here
            for row in tables["runs"][tables["runs"]["run"].isin(here)].to_dict("records"):
                if other := _other_fields(row, recipes[row["run"]]):
                    raise ValueError(
                        f"{place / 'runs.csv'} holds {row['run']} of another recipe ({other}). Give the changed "
                        "experiment another name."
                    )
            for name, table in tables.items():
                found[name].append(table[table["run"].isin(here)])
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


def reproduced(experiment: Experiment, folder: Path) -> str:
    """How far the scores of a record in another folder are from those of the same runs in the committed ones."""
    mine, committed = read_record(experiment.name, folder).runs, recorded_runs(experiment, record_dir(experiment.name))
    there = committed["runs"].reindex(columns=["run", *intervals.BOTH])
    both = mine.merge(there, on="run", suffixes=("", "_there")).set_index("run")
    apart = pd.DataFrame({score: both[score] - both[f"{score}_there"] for score in intervals.BOTH}).abs().max(axis=1)
    if apart.dropna().empty:
        return "None of these runs has a score in a committed record."
    return (
        f"{len(apart)} of {len(mine)} runs are in a committed record, too; PSNR differs by {apart.max():.4f} dB at "
        f"most ({apart.idxmax()}). Another processor rounds otherwise, and a training enlarges that."
    )


def write_page(name: str, folder: str | Path | None = None) -> None:
    """Write README.md of a record: the decision, and what follows from the files."""
    record = read_record(name, folder)
    page = f"{_decision(name, record.decision)}\n{_findings(record)}"
    files.write_file(record_dir(name, folder) / "README.md", page)


def _runs_dir(experiment: Experiment, out_dir: str | Path | None) -> Path:
    """The folder of an experiment's runs."""
    return runs_dir() / (experiment.runs or experiment.name) if out_dir is None else Path(out_dir)


def _other_fields(row: Mapping, recipe: Recipe) -> str:
    """The fields in which a row of runs.csv differs from a recipe, as one readable phrase; places do not count."""

    def text(value) -> str:
        if value is None or value != value:
            return ""
        return DIGITS % value if isinstance(value, int | float) else str(value)

    fields = {name: "recipe" if name == "name" else name for name in Recipe.model_fields if name not in PLACES}
    pairs = [(name, row[column], getattr(recipe, name)) for name, column in fields.items() if column in row]
    return ", ".join(f"{name}: {a!r} there, {b!r} now" for name, a, b in pairs if text(a) != text(b))


def _decision(name: str, decided: Mapping) -> str:
    """What is fixed before the first run, in words: the head of a record's README.md."""

    def listed(changes: Mapping) -> str:
        return ", ".join(f"{name} = {value}" for name, value in changes.items()) or "nothing"

    arms = []
    for arm in decided["arms"]:
        extra = f"; lambda {arm['lambda_neg']:g}" if arm["lambda_neg"] else ""
        extra += f"; as many steps as {arm['at_cost_of']} costs multiplications" if arm.get("at_cost_of") else ""
        arms.append(f"`{arm['name']}` ({listed(arm['changes'])}{extra})")
    scores = ", ".join(f"{intervals.SCORES[score]} (`{score}`)" for score in decided["scores"])
    dosed = """- Dose: how long the second term's part of an optimiser step is beside that of L1. Lambda follows from it
  in a short plain run with a seed of its own, once per objective and task; the dose is measured again inside the runs.
"""
    seen = ""
    if count := decided.get("seen"):
        seen = f"- The first {count} seeds are another record's and were seen before; fresh ones count alone too.\n"
    settings = pd.DataFrame(decided["settings"])
    settings["histories every"] = [", ".join(map(str, every)) for every in settings["histories every"]]
    return f"""# {name}: {decided["question"]}

## Decided before the first run

- Recipe `{decided["recipe"]}`, changed for all arms: {listed(decided["changes"])}. Its sizes:

{files.as_markdown(settings)}

- Arms: {"; ".join(arms)}. Nothing else differs: initial weights, pictures, crops and
  degradations of a seed are shared.
- Seeds: {", ".join(map(str, decided["seeds"]))}, done in this order. If time runs out, whole seeds are left out, never
  arms.
{seen}- Scores: {scores}, each by itself, of the weights after the last step; the mean over the test pictures.
- Every run that is started is reported, those that diverge as well.
- Compared with `{decided["baseline"]}`: the mean paired difference and its 95 % interval over seeds (t distribution),
  alone and with Holm's correction for all intervals of the record. An interval that holds zero is reported as no
  visible effect, with the true difference that these seeds would have shown four times in five.
{dosed if any("dose" in arm["changes"] for arm in decided["arms"]) else ""}"""


def _findings(record: Record) -> str:
    """The second half of README.md, computed."""
    decided, runs = record.decision, record.runs
    diverged = (runs["stopped"] != "").sum()
    processor = runs["processor"].fillna("") if "processor" in runs else ""  # older rows lack it
    machines = runs.assign(processor=processor)[["device", "processor", "threads", "torch", "mclir_nb"]]
    made = "; ".join(
        f"{m.device}{m.processor and ', '}{m.processor}, {m.threads} thread{'s' * (m.threads > 1)}, torch {m.torch}, "
        f"mclir_nb {m.mclir_nb}"
        for m in machines.drop_duplicates().itertuples()
    )
    wrong = "".join(f"- {flaw[0].upper()}{flaw[1:].rstrip('.')}.\n" for flaw in verdicts.flaws(record))
    wrong = f"## What is wrong with this record\n\n{wrong}\n" if wrong else ""
    sets = {setting["data"] for setting in decided["settings"]}
    root = "BSDS500" if all(name.startswith("bsds500") for name in sets) else "DATA"
    data = "" if sets == {"embedded"} else f" --data-root {root}"
    seeds = ", ".join(f"{task} {count}" for task, count in record.seeds.items())
    table = files.as_markdown(verdicts.shown(verdicts.results(record, decided["baseline"])))
    said = f"{verdicts.outcome(record)}\n{verdicts.towards(record)}"
    return f"""{wrong}## Outcome

Finished seeds of {record.decided}: {seeds}. {len(runs)} runs, of which {diverged} diverged.
Computed from `runs.csv`:

{chr(10).join("- " + line for line in said.splitlines())}

Compared with `{decided["baseline"]}`. {verdicts.COLUMNS}

{table}

Made on {made}. No times
are given, for the machine was shared; `09_cost` measures them.

## Command

```
python -m mclir_nb compare {record.name}{data}  # what is missing
python -m mclir_nb compare {record.name}{data} --again --seeds 1 --record mine --out runs/again  # anew, to compare
```

Files: {"; ".join(f"`{name}.csv`: {what}" for name, what in FILES.items())}.
"""
