"""The committed records of experiments, and a reader's own runs in the same shape.

A record is a folder of `data/records/`: the decision, as it was before the first run, and tables of its runs.
`recording` writes it, `verdicts` says what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mclir_nb import files, root
from mclir_nb.experiments import intervals, run_tables
from mclir_nb.experiments.plans import EXPERIMENTS

FILES = {
    "runs": "one row per run: every field of the recipe, scores, cost, versions",
    "images": "one row per run and test picture: its scores",
    "curves": "the logs of the runs, thinned",
}
BY_STRENGTH = ("V", "D", "S", "C2", "C1")  # records that ask whether SPN helps; of equal seeds the first
ONE_TASK = ("D3", "D2")  # records that ask it of one task alone, with more seeds
NEARER = ("L", "E1", "E2", "E5")  # records that ask it nearer to the paper: for longer, or of networks of its size
OLDER = ("C1", "A1", "B1")
NEWER = tuple(name for name in EXPERIMENTS if name not in OLDER)


class Record(NamedTuple):
    """A record, read back."""

    name: str  # of the experiment
    decision: Mapping  # before the first run, see `plans.Experiment.decision`
    runs: pd.DataFrame  # tables, see `FILES`
    images: pd.DataFrame
    curves: pd.DataFrame
    withdrawn: str = ""  # what was taken back afterwards and why; it is no longer in the tables

    @property
    def decided(self) -> int:
        """How many seeds were decided; 0 for a reader's own runs."""
        return len(self.decision.get("seeds", ()))

    @property
    def seeds(self) -> pd.Series:
        """How many seeds are finished, by task; 0 for one that was decided and has none."""
        decided = [setting["task"].split()[0] for setting in self.decision.get("settings", [])]
        there = self.runs.groupby("task", sort=False)["seed"].nunique()
        return there.reindex(dict.fromkeys([*there.index, *decided]), fill_value=0)

    @property
    def is_open(self) -> bool:
        """Whether decided seeds are not finished: what is said before is one look of several, each a chance to err."""
        return bool(self.seeds.min() < self.decided)


def read_record(name: str, folder: str | Path | None = None) -> Record:
    """A record of `data/records/`. What withdrawn.json names is taken out of its tables.

    Raises:
        ValueError: there is none, or it is not of this version.
    """
    folder = record_dir(name, folder)
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


def main_record(*names: str) -> Record | None:
    """Of these records the one with the most seeds in a task, of several that with the most in each; None without any.

    Of those that are equal even so, the first.
    """
    there = [record for name in names if (record := committed(name))]
    return max(there, key=lambda record: (record.seeds.max(), record.seeds.min()), default=None)


def strongest() -> list[Record]:
    """The committed records to answer from: the main one, one of a single task if it has more seeds, and each that is
    nearer to the paper.
    """
    main, one = main_record(*BY_STRENGTH), main_record(*ONE_TASK)
    more = one is not None and (main is None or one.seeds.max() > main.seeds.max())
    return [record for record in (main, one if more else None, *map(committed, NEARER)) if record]


def record_dir(name: str, folder: str | Path | None = None) -> Path:
    """`folder`, or where the record of that name lies; ValueError for one that leads out of `data/records`."""
    if folder is not None:
        return Path(folder)
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a record; those that are there: {', '.join(recorded())}.")
    return root() / "data" / "records" / name
