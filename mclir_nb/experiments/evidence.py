"""Experiments decided before they are run, and their committed records.

    python -m mclir_nb compare C1

trains every run of the experiment that is not there yet, seed by seed, and writes `data/records/C1/`. The decision is
written there before the first run, as facts (decision.json) and in words (README.md); a record of other facts is
refused. Runs that are in a committed record are not run again, in whichever folder it goes on: finished runs of a seed
that is not whole wait in `unfinished/` and are shown nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mclir_nb import check_choice, files, root
from mclir_nb.experiments import compare, intervals, run_tables
from mclir_nb.experiments.plans import EXPERIMENTS, Experiment
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.records import PLACES, runs_dir

FILES = {
    "runs": "one row per run: every field of the recipe, scores, cost, versions",
    "images": "one row per run and test picture: its scores",
    "curves": "the logs of the runs, thinned",
}
UNFINISHED = "unfinished"  # folder in a record, of finished runs whose seed is not whole
DIGITS = "%.7g"  # of what is written
PICTURE = ["run", "image", "psnr_raw", "ssim_raw", "psnr_ema", "ssim_ema"]  # columns of images.csv
SEEDS, PICTURES = intervals.SEEDS, 16  # below these a record is called weak
SAME = 0.005  # dB; what differs by less is not shown apart
ROUNDING = 0.01  # by which lambda for the same dose may differ from machine to machine
OFF = 2.0  # times the dose that was asked for; a measured dose beyond that, either way, is a flaw
BY_STRENGTH = ("V", "D", "S", "C2", "C1")  # records that ask whether SPN helps; of equal seeds the first
OLDER = ("C1", "A1", "B1")
NEWER = tuple(name for name in EXPERIMENTS if name not in OLDER)
COLUMNS = """`gain`: mean paired difference in dB ± half of its 95 % interval over seeds, in brackets half of the
interval with Holm's correction; bold where that lies beside zero. `would show`: the true difference in dB that an
interval alone would have shown four times in five. `dose`: as asked for, and as `measured` inside the runs. `r`:
lambda * l_neg / l_rec. `cost`: counted multiplications of the run / those of the arm that is compared with."""
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
    """Write the decision, do the runs that are missing, write the record; returns its folder.

    Args:
        out_dir: of the run folders; None: runs/NAME in the workbook, shared by experiments of the same setting.
        seeds: only the first so many of the decided ones; the record says so.
        folder: of the record; None: data/records/NAME.
        data_root: of the data set, if it is not embedded.
        how: device, processes, scheduler, quiet of `compare.run`.
    """
    jobs = experiment.plan(seeds, data_root=data_root)
    folder = begin(experiment, folder)
    done = set(recorded_runs(experiment, folder)["runs"]["run"])
    if jobs := [job for job in jobs if job.name not in done]:
        compare.run(jobs, _runs_dir(experiment, out_dir), **how)
    return write_record(experiment, out_dir, folder)


class Record(NamedTuple):
    """A record, read back."""

    name: str  # of the experiment
    decision: Mapping  # before the first run, see `plans.Experiment.decision`
    runs: pd.DataFrame  # tables, see `FILES`
    images: pd.DataFrame
    curves: pd.DataFrame
    withdrawn: str = ""  # what was taken back afterwards and why; it is no longer in the tables


def begin(experiment: Experiment, folder: str | Path | None = None) -> Path:
    """Write the decision before the first run; returns the record's folder.

    Raises ValueError if the record is of another one. Facts are compared: a sentence may be written better later.
    """
    folder = _place(experiment.name, folder)
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


def _runs_dir(experiment: Experiment, out_dir: str | Path | None) -> Path:
    """The folder of an experiment's runs."""
    return runs_dir() / (experiment.runs or experiment.name) if out_dir is None else Path(out_dir)


def write_record(experiment: Experiment, out_dir: str | Path | None = None, folder: str | Path | None = None) -> Path:
    """Write runs.csv, images.csv, curves.csv and README.md of the seeds whose runs are all finished, task by task.

    Runs count that are finished in `out_dir` or in a committed record of the same setting. Those of other seeds go to
    `unfinished/`.

    Raises:
        ValueError: no run is finished, or the record is of another decision or of another recipe.
    """
    folder, out_dir = begin(experiment, folder), _runs_dir(experiment, out_dir)
    tables, jobs = recorded_runs(experiment, folder), {job.name: job for job in experiment.plan()}
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


def recorded_runs(experiment: Experiment, folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of `FILES` of this experiment's runs, as far as its record or another of the same setting has them.

    Raises ValueError if a run of that name has another recipe, with the field; older records lack the later fields.
    """
    setting = [name for name, other in EXPERIMENTS.items() if experiment.runs and other.runs == experiment.runs]
    records = [folder, *(_place(name, None) for name in setting)]
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


def _other_fields(row: Mapping, recipe: Recipe) -> str:
    """The fields in which a row of runs.csv differs from a recipe, as one readable phrase; places do not count."""

    def text(value) -> str:
        if value is None or value != value:
            return ""
        return DIGITS % value if isinstance(value, int | float) else str(value)

    fields = {name: "recipe" if name == "name" else name for name in Recipe.model_fields if name not in PLACES}
    pairs = [(name, row[column], getattr(recipe, name)) for name, column in fields.items() if column in row]
    return ", ".join(f"{name}: {a!r} there, {b!r} now" for name, a, b in pairs if text(a) != text(b))


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
    if missing and name not in EXPERIMENTS:
        raise ValueError(f"{folder} is no record of a comparison; those that are there: {', '.join(recorded())}.")
    if missing:
        raise ValueError(f"{folder} has no {', '.join(missing)}; make the record: `python -m mclir_nb compare {name}`")
    runs, images, curves = (files.read_table(folder / f"{table}.csv") for table in FILES)
    intervals.check(runs, "macs", "psnr_raw", "psnr_ema", "stopped")
    lost = [column for column, table in (("run", runs), ("image", images), ("r", curves)) if column not in table]
    if lost:
        raise ValueError(f"{folder} has no column {', '.join(lost)} in its tables; copy it again.")
    runs["stopped"] = runs["stopped"].astype(object).where(runs["stopped"].notna(), "")
    if "arm" not in images:  # older records repeat it, and lack the last columns of runs
        images = runs[["run", "arm", *intervals.SETTING, "seed"]].merge(images, on="run")
    strength = pd.to_numeric(curves["r"], errors="coerce").groupby(curves["run"]).mean()
    pictures = images.groupby("run")["image"].nunique()
    later = {"dose": float("nan"), "dose_measured": float("nan"), "r": runs["run"].map(strength)}
    later |= {"pictures": runs["run"].map(pictures)}
    runs = runs.assign(**{column: values for column, values in later.items() if column not in runs})
    taken = files.read_json(folder / "withdrawn.json") if (folder / "withdrawn.json").is_file() else {}
    runs = runs.assign(**dict.fromkeys(taken.get("columns", []), float("nan")))
    runs, images, curves = (table[~table["arm"].isin(taken.get("arms", []))] for table in (runs, images, curves))
    return Record(name, files.read_json(folder / "decision.json"), runs, images, curves, taken.get("why", ""))


def from_runs(out_dir: str | Path, names: Sequence[str] | None = None) -> Record:
    """A reader's own finished runs in the shape of a record, for the same tables and figures.

    `names`: of the run folders, such as those of a plan's jobs; None: all that are finished.
    """
    out_dir = Path(out_dir).expanduser()
    there = sorted(file.parent.name for file in out_dir.glob("*/recipe.json")) if names is None else names
    done = [name for name in there if run_tables.is_finished(out_dir / name)]
    return Record("your own runs", {}, *run_tables.read(out_dir, done))


def recorded() -> list[str]:
    """Names of the committed records that `read_record` can read."""
    return sorted(file.parent.name for file in (root() / "data" / "records").glob("*/images.csv"))


def committed(name: str | None) -> Record | None:
    """The committed record of that name, or None if it is not there (yet)."""
    return read_record(name) if name in recorded() else None


def results(record: Record, baseline: str = "plain") -> pd.DataFrame:
    """Everything that a gain has to be read with, one row per setting and arm, the largest gain of a setting first.

    Returns:
        Columns task, scale, network, arm; gain_raw, half_raw, holm_raw, gain_ema, half_ema, holm_ema (mean paired
        difference to the baseline in dB of both kinds of weights, half of its 95 % interval over seeds, alone and after
        Holm's correction for all intervals of this table); detectable (dB, the larger of both); dose (as asked for;
        NaN: lambda was given, or there is none), dose_measured and r (means over the log of the runs); run_cost
        (multiplications of the run / those of the baseline's); seeds; pictures (that were scored).

    Raises:
        ValueError: as `intervals.paired`.
    """
    key, names = [*intervals.SETTING, "arm"], {"mean": "gain", "half": "half", "half_holm": "holm"}
    table = intervals.paired(record.runs, baseline)
    kinds = {kind: table[table["score"] == f"psnr_{kind}"].set_index(key) for kind in ("raw", "ema")}
    found = pd.DataFrame({f"{new}_{kind}": part[old] for kind, part in kinds.items() for old, new in names.items()})
    runs = record.runs.assign(dose=record.runs["dose"].where(record.runs["objective"] != "plain"))
    arms = runs.groupby(key, sort=False)
    facts = arms[["macs", "dose", "dose_measured", "r"]].mean()
    of_baseline = facts["macs"].xs(baseline, level="arm").reindex(facts.index.droplevel("arm"))
    facts["run_cost"] = facts["macs"] / of_baseline.to_numpy()
    found["detectable"] = table.groupby(key, sort=False)["detectable"].max()
    found = found.join(facts[["dose", "dose_measured", "r", "run_cost"]])
    found["seeds"] = kinds["raw"]["seeds"]
    found = found.join(arms["pictures"].max()).reset_index().astype({"pictures": int})
    parts = [part.sort_values("gain_raw", ascending=False) for _, part in found.groupby(intervals.SETTING, sort=False)]
    return pd.concat(parts, ignore_index=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`results` for readers: "gain ± half (Holm's)" in dB, bold where it lies beside zero after the correction.

    The EMA has a column of its own where its mean or half differs from that of the raw weights by half a hundredth of a
    decibel anywhere, or where it alone lies beside zero.
    """

    def gains(kind: str) -> list[str]:
        said = []
        for mean, half, holm in table[[f"gain_{kind}", f"half_{kind}", f"holm_{kind}"]].to_numpy():
            text = f"{mean:+.3f}" if pd.isna(half) else f"{mean:+.3f} ± {half:.3f} ({holm:.3f})"
            said.append("a run diverged" if pd.isna(mean) else f"**{text}**" if abs(mean) > holm else text)
        return said

    columns = {"task": [intervals.place(row) for row in table.itertuples()], "arm": table["arm"]}
    if _same(table).all():
        columns["gain, raw = EMA"] = gains("raw")
    else:
        columns |= {"gain, raw weights": gains("raw"), "gain, EMA": gains("ema")}
    columns |= {"would show": table["detectable"].round(3), "dose": table["dose"]}
    columns |= {"measured": table["dose_measured"].round(3), "r": table["r"].round(4)}
    columns |= {"cost": table["run_cost"].round(2), "seeds": table["seeds"], "pictures": table["pictures"]}
    return pd.DataFrame(columns).dropna(axis=1, how="all")


def outcome(record: Record) -> str:
    """What a record allows to say, computed from its runs; a single seed allows nothing."""
    baseline, scores = record.decision.get("baseline", "plain"), record.decision.get("scores", intervals.BOTH)
    return intervals.conclusion(intervals.paired(record.runs, baseline, scores))


def answer(record: Record) -> str:
    """Plain sentences, computed from the intervals: does SPN gain over plain training, does any other arm, and of which
    arm nothing is said, because a run of it diverged. Provisional, as long as decided seeds are not finished.
    """
    table, lost = results(record), _diverged(record.runs, "plain")
    if bare := [task for task, count in _seeds(record).items() if count < 2]:
        lost += f" Of {' and '.join(bare)} there are not yet two seeds, so nothing is said there."
    table = table[table["half_raw"].notna()]
    if table.empty:
        return f"Not known yet: no arm of record {record.name} has two seeds and no run that diverged.{lost}"
    controls = [arm["name"] for arm in record.decision.get("arms", []) if arm.get("at_cost_of")]
    spn, bought = table[table["arm"] == "spn"], table[table["arm"].isin(controls)]
    rest = table[~table["arm"].isin(["spn", *controls])]
    verbs = {0: "shows no visible effect", 1: "is better than plain training", -1: "is worse than plain training"}
    verdicts = [f"{verbs[sign]} ({_amounts(part)})" for sign, part in spn.groupby(_sign(spn), sort=False)]
    few = f" (weak evidence: fewer than {SEEDS})" if table["seeds"].min() < SEEDS else ""
    seeds = " or ".join(map(str, sorted(set((table if spn.empty else spn)["seeds"]))))
    early = f"Provisional, for not all {_decided(record)} decided seeds are there: over" if _is_open(record) else "Over"
    said = f"{early} {seeds} paired seeds{few} SPN {' and '.join(verdicts) or 'cannot be judged'}"
    if len(bought):
        said += f", where plain training at its cost gains {_amounts(bought)}"
    elif (_sign(spn) > 0).any():
        said += (
            f", at {spn['run_cost'].max():.1f} times its multiplications, which plain training was not given; fresh "
            "seeds have to confirm it"
        )
    if rest.empty:
        alone = set(record.runs["arm"]) <= {"plain", "spn", *controls}
        return f"{said}.{' No other arm was compared.' * alone}{lost}"
    beside = rest[_sign(rest) != 0]
    if beside.empty:
        arms = rest["arm"].unique()
        other, each = f"None of the {len(arms)} other arms differs", "each"
        if len(arms) == 1:
            other, each = f"The other arm, {arms[0]}, does not differ", "it"
        return (
            f"{said}. {other} from plain training after Holm's correction; without that correction {each} would have "
            f"shown a true difference of {rest['detectable'].max():.2f} dB four times in five.{lost}"
        )
    listed = "; ".join(f"{arm} ({_amounts(part)})" for arm, part in beside.groupby("arm", sort=False))
    return f"{said}. These other arms differ from plain training after Holm's correction: {listed}.{lost}"


def _diverged(runs: pd.DataFrame, baseline: str) -> str:
    """A sentence for each arm and setting with a run that diverged; "" if none did."""
    lost = runs[runs["psnr_raw"].isna()]
    said = ""
    for arm, where in dict.fromkeys((row.arm, intervals.place(row)) for row in lost.itertuples()):
        of = "any arm there" if arm == baseline else "it"
        said += f" A run of {arm} on {where} diverged, so nothing is said of {of}."
    return said


def _signs(table: pd.DataFrame) -> list[pd.Series]:
    """Of rows of `results`, raw weights and EMA: 1 or -1 where they lie beside zero after correction, else 0."""
    return [np.sign(table[f"gain_{k}"]) * (table[f"gain_{k}"].abs() > table[f"holm_{k}"]) for k in ("raw", "ema")]


def _sign(table: pd.DataFrame) -> pd.Series:
    """What `_signs` says of the raw weights, else of the EMA."""
    raw, ema = _signs(table)
    return raw.where(raw != 0, ema)


def _same(table: pd.DataFrame) -> pd.Series:
    """In which rows of `results` raw weights and EMA say the same."""
    raw, ema = _signs(table)
    apart = [(table[f"{part}_raw"] - table[f"{part}_ema"]).abs() >= SAME for part in ("gain", "half")]
    return ~(apart[0] | apart[1] | (raw != ema))


def _amounts(table: pd.DataFrame) -> str:
    """Gains by setting, that of the EMA too where it differs."""
    said = []
    for row, same in zip(table.itertuples(), _same(table), strict=True):
        raw, ema = f"{row.gain_raw:+.3f} ± {row.half_raw:.3f}", f"{row.gain_ema:+.3f} ± {row.half_ema:.3f}"
        said.append(f"{intervals.place(row)} {raw} dB" + ("" if same else f", with the EMA {ema} dB"))
    return "; ".join(said)


def fading(record: Record) -> pd.DataFrame:
    """r and the dose of SPN along its runs: does the push fade as r falls?

    Returns:
        Columns task, step, r, dose: means over the seeds at the steps where the dose was looked at, if any, as far as
        all runs of a task went.
    """
    curves = record.curves if "dose" in record.curves else record.curves.assign(dose=float("nan"))
    looked = curves[(curves["arm"] == "spn") & curves["dose"].notna()]
    names = looked.assign(task=[intervals.place(row) for row in looked.itertuples()])
    all_runs = names.groupby("task")["run"].transform("nunique")
    whole = names[names.groupby(["task", "step"])["run"].transform("nunique") == all_runs]
    return whole.groupby(["task", "step"], sort=False)[["r", "dose"]].mean().round(4).reset_index()


def flaws(record: Record) -> list[str]:
    """What is wrong with a record, computed from its decision and runs."""
    found, runs = [], record.runs
    arms = [arm["changes"] for arm in record.decision.get("arms", [])]
    if any(arm.get("objective", "spn") != "plain" and "dose" not in arm for arm in arms):
        strength = runs[runs["arm"] == "spn"].groupby("task", sort=False)["r"].mean()
        listed = ", ".join(f"{task} {value:.4f}" for task, value in strength.items())
        found.append(f"lambda was given, not a dose, so tasks and arms push with unequal strength (r of spn: {listed})")
    doses = runs.groupby(["task", "arm"], sort=False)[["dose", "dose_measured"]].mean().dropna()
    off = doses[~(doses["dose_measured"] / doses["dose"]).between(1 / OFF, OFF)]
    if len(off):
        listed = "; ".join(f"{arm}: {row.dose_measured:.2f} on {task}" for (task, arm), row in off.iterrows())
        found.append(
            f"on average over its runs an arm's dose was more than {OFF:g} times off what was asked for ({listed})"
        )
    found += _unequal(runs)
    pictures = runs.groupby("task", sort=False)["pictures"].max()
    decided = _decided(record)
    wanted = ((_seeds(record), max(SEEDS, decided), "seeds"), (pictures, PICTURES, "test pictures"))
    for counts, enough, what in wanted:
        few, common = counts[counts < enough], counts.nunique() == 1
        for count, tasks in few.groupby(few):
            some = f"{count:.0f} {what if count != 1 else what.removesuffix('s')}"
            some = f"{count} of {decided} decided seeds" if what == "seeds" and count < decided else some
            found.append(some if common else f"{some} of {' and '.join(tasks.index)}")
    return found + ([record.withdrawn] if record.withdrawn else [])


def _unequal(runs: pd.DataFrame) -> list[str]:
    """What a record says to be equal in its runs and is not: lambda for a dose, and the machine of a seed."""
    found, dosed = [], runs[runs["dose"].notna() & (runs["objective"] != "plain")]
    per_dose = dosed["lambda_used"] / dosed["dose"]
    history = [name for name in ("history_of", "history_every", "history_decay", "negatives") if name in dosed]
    of_one = per_dose.groupby([dosed[name].astype(str) for name in ("task", "objective", *history)], sort=False)
    for (task, objective, *_), values in of_one:
        if values.max() > (1 + ROUNDING) * values.min():
            found.append(
                f"lambda for a dose was chosen more than once for {objective} on {task}: a dose of 1 would be lambda "
                f"{values.min():.4g} in some runs and {values.max():.4g} in others"
            )
    where = {"device": "on different devices", "processor": "on different processors"}
    where["revision"] = "with different revisions of the workbook"
    for column, said in where.items():  # older rows lack some
        if column in runs and (runs.groupby(["task", "seed"])[column].nunique() > 1).any():
            values = runs[column].dropna().unique()
            listed = ", ".join(value[:7] if column == "revision" else value for value in values)
            found.append(f"arms of one seed ran {said} ({listed})")
    return found


def _seeds(record: Record) -> pd.Series:
    """How many seeds are finished, by task; 0 for one that was decided and has none."""
    decided = [setting["task"].split()[0] for setting in record.decision.get("settings", [])]
    there = record.runs.groupby("task", sort=False)["seed"].nunique()
    return there.reindex(dict.fromkeys([*there.index, *decided]), fill_value=0)


def _decided(record: Record) -> int:
    """How many seeds were decided; 0 for a reader's own runs."""
    return len(record.decision.get("seeds", ()))


def _is_open(record: Record) -> bool:
    """Whether decided seeds are not finished: what is said before is one look of several, each a chance to err."""
    return bool(_seeds(record).min() < _decided(record))


def main_record(*names: str) -> Record | None:
    """Of these records the one with the most seeds in all of its tasks, of several the first; None without any."""
    there = [record for name in names if (record := committed(name))]
    return max(there, key=lambda record: _seeds(record).min(), default=None)


def summary(top: str = "") -> str:
    """One line of Markdown per record, one for the older ones and one for what is not run; computed from the runs.

    `top` is the way to the top of the repository, for links ("../" from a notebook).
    """
    known = {name: record for name in NEWER if (record := committed(name))}
    lines = [f"- **{_link(name, top)}** {EXPERIMENTS[name].question} {state(known[name])}" for name in known]
    if old := [record for name in OLDER if (record := committed(name))]:
        links = ", ".join(_link(record.name, top) for record in old)
        tables = [intervals.paired(record.runs, record.decision["baseline"]) for record in old]
        beside = sum(int(intervals.clear(table).sum()) for table in tables)
        seeds = sorted({int(n) for table in tables for n in table["seeds"]})
        lines.append(
            f"- Older and weak ({seeds[0]} to {seeds[-1]} seeds, {old[0].runs['pictures'].max():.0f} test pictures, "
            f"lambda given and not a dose): {links}. {_counted(sum(map(len, tables)), beside, 'plain')}."
        )
    if waiting := [_link(name, top) for name in NEWER if name not in known]:
        lines.append(f"- Decided and not run yet: {', '.join(waiting)}.")
    return "\n".join(lines)


def state(record: Record) -> str:
    """How many seeds there are, and which intervals lie beside zero after correction."""
    counted = ", ".join(f"{task} {count}" for task, count in _seeds(record).items())
    counted += f" of {_decided(record)} seeds"
    baseline = record.decision["baseline"]
    table, lost = intervals.paired(record.runs, baseline), _diverged(record.runs, baseline)
    if table["p"].isna().all():
        return f"{counted}. No conclusion yet.{lost}"
    beside = table[intervals.clear(table)]
    listed = [f"{row.arm}, {intervals.place(row)}, {row.score[5:]} {row.mean:+.3f} dB" for row in beside.itertuples()]
    said = _counted(int(table["p"].notna().sum()), len(beside), baseline)
    early = ", so provisional" * _is_open(record)
    return f"{counted}{early}. {said}{': ' * bool(listed)}{'; '.join(listed)}.{lost}"


def _link(name: str, top: str) -> str:
    return f"[{name}]({top}data/records/{name}/README.md)"


def _counted(many: int, beside: int, baseline: str) -> str:
    return f"Of {many} differences to {baseline}, {beside or 'none'} can be told from zero after correction"


def measured(arms: str, tasks: str = "", network: str = "", dataset: str = "", top: str = "") -> list[str]:
    """The records that compared these arms (names, with blanks between) in all of these tasks; "": any.

    Returns:
        Markdown, such as "[C1](data/records/C1/README.md) plain, spn on sr (demo networks, embedded pictures)"; `top`:
        as in `summary`.
    """
    found = []
    for record in map(read_record, recorded() if arms else []):
        runs = record.runs
        for column, wanted in (("network", network), ("dataset", dataset)):
            runs = runs[runs[column] == wanted] if wanted else runs
        there = runs.groupby("task")["arm"].agg(set)
        where = tasks.split() or list(there.index)
        if where and all(set(arms.split()) <= there.get(task, set()) for task in where):
            own = runs[runs["task"].isin(where)]
            sizes, data = (" and ".join(own[column].unique()) for column in ("network_size", "dataset"))
            what = f"{', '.join(arms.split())} on {', '.join(where)} ({sizes} networks, {data} pictures)"
            found.append(f"{_link(record.name, top)} {what}")
    return found


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
- Scores: {scores}, each by itself, of the weights after the last step; the mean over the test pictures.
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
        f"{m.device}{m.processor and ', '}{m.processor}, {m.threads} threads, torch {m.torch}, mclir_nb {m.mclir_nb}"
        for m in machines.drop_duplicates().itertuples()
    )
    wrong = "".join(f"- {flaw[0].upper()}{flaw[1:].rstrip('.')}.\n" for flaw in flaws(record))
    wrong = f"## What is wrong with this record\n\n{wrong}\n" if wrong else ""
    sets = {setting["data"] for setting in decided["settings"]}
    data = "" if sets == {"embedded"} else f" --data-root {'BSDS500' if 'bsds500' in sets else 'DATA'}"
    seeds = ", ".join(f"{task} {len(part)}" for task, part in runs.groupby("task", sort=False)["seed"].unique().items())
    table = files.as_markdown(shown(results(record, decided["baseline"])))
    return f"""{wrong}## Outcome

Finished seeds of {len(decided["seeds"])}: {seeds}. {len(runs)} runs, of which {diverged} diverged.
Computed from `runs.csv`:

{chr(10).join("- " + line for line in outcome(record).splitlines())}

Compared with `{decided["baseline"]}`. {COLUMNS}

{table}

Made on {made}. No times
are given, for the machine was shared; `09_cost` measures them.

## Command

```
python -m mclir_nb compare {record.name}{data}
```

Files: {"; ".join(f"`{name}.csv`: {what}" for name, what in FILES.items())}.
"""


def _place(name: str, folder: str | Path | None) -> Path:
    """The folder of a record; ValueError for a name that leads out of `data/records`."""
    if folder is not None:
        return Path(folder)
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a record; those that are there: {', '.join(recorded())}.")
    return root() / "data" / "records" / name
