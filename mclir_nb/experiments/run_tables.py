"""Many runs as tables: one row per run, per test picture, per logged step.

Beside a run's own files, `compare` leaves arm.json in the run folder: the arm's name, and why a run was stopped, if it
diverged. Folders without it count as well; their arm is their objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mclir_nb import files
from mclir_nb.training import dose, macs, records

SCORES = ["image", "psnr_input", "psnr_restored", "ssim_input", "ssim_restored", "psnr_ema", "ssim_ema"]
CURVES = ["step", "l_rec", "l_neg", "r", "dose", "dose_cosine", "val_psnr", "val_psnr_ema"]
RAW = {"psnr_restored": "psnr_raw", "ssim_restored": "ssim_raw"}  # names that say which weights
MEASURED = {"dose_measured": "dose", "r": "r"}  # columns of the log of which a run's row holds the mean
FACTS = ("device", "processor", "threads", "torch", "python", "mclir_nb", "revision")  # of the provenance
LABELS = ["run", "arm", "task", "scale", "network", "seed"]  # of a run, in the tables of its pictures and steps
ROWS = 12  # of a run's log, beside those at which something was looked at


class Tables(NamedTuple):
    """Of some runs."""

    runs: pd.DataFrame  # see `collect`
    images: pd.DataFrame  # per test picture `LABELS`, image and its scores; nothing of a run that diverged
    curves: pd.DataFrame  # per logged step `LABELS` and `CURVES`, thinned; all where validation or dose were looked at


def collect(out_dir: str | Path, names: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per run below a folder.

    Args:
        out_dir: as given to `compare.run`; run folders made otherwise count too, with their objective as the arm.
        names: of the run folders; None: all.

    Returns:
        Columns run, arm, every field of the recipe (its name as `recipe`), lambda_used; psnr_input, ssim_input,
        psnr_raw, ssim_raw, psnr_ema, ssim_ema (means over the test pictures); macs, the counted multiply-accumulates
        of the run; dose_measured and r (means over the log's rows, NaN for plain); pictures that were
        scored; stopped (why a run diverged, else ""), feature_network, device and versions.

    Raises:
        ValueError: a folder without runs, half-written runs, files of another version.
    """
    return read(out_dir, names).runs


def read(out_dir: str | Path, names: Sequence[str] | None = None) -> Tables:
    """Runs, pictures and curves; arguments and errors are those of `collect`."""
    runs, images, curves = [], [], []
    for folder in _folders(out_dir, names):
        run, note = records.Run(folder), arm_file(folder)
        recipe, origin, stopped = run.recipe, run.provenance, note.get("stopped", "")
        used = recipe.weight if recipe.lambda_ratio is None else float("nan")  # then another in each step
        if recipe.dose is not None:
            chosen = folder / dose.FILE
            used = files.read_json(chosen)["lambda_neg"] if chosen.is_file() else float("nan")
        scores = _scores(folder) if not stopped else pd.DataFrame(columns=SCORES).rename(columns=RAW)
        log = run.log if (folder / "log.csv").is_file() else pd.DataFrame()  # else it diverged before a save
        row = {"run": folder.name, "arm": note.get("arm", recipe.objective)}
        row |= {"recipe" if field == "name" else field: value for field, value in recipe}
        row |= {"lambda_used": used, **scores.drop(columns="image").astype(float).mean()}
        row["macs"] = macs.run_macs(recipe)
        row |= {name: log[column].mean() if column in log else float("nan") for name, column in MEASURED.items()}
        row |= {"pictures": len(scores), "stopped": stopped, "feature_network": origin.get("features")}
        runs.append(row | {name: origin[name] for name in FACTS if name in origin})
        images.append(_labelled(row, scores))
        looked = log.reindex(columns=["val_psnr", "dose"]).notna().any(axis=1)
        every = max(1, len(log) // ROWS)
        curves.append(_labelled(row, log[(log.index % every == every - 1) | looked].reindex(columns=CURVES)))
    some = ([table for table in tables if len(table)] or tables for tables in (images, curves))
    return Tables(pd.DataFrame(runs), *(pd.concat(tables, ignore_index=True) for tables in some))


def _folders(out_dir: str | Path, names: Sequence[str] | None) -> list[Path]:
    """The run folders, checked for completeness."""
    out_dir = Path(out_dir).expanduser()
    found = sorted(file.parent for file in out_dir.glob("*/recipe.json"))
    if names is not None:
        found = [out_dir / name for name in names if (out_dir / name / "recipe.json").is_file()]
    if not found:
        raise ValueError(f"{out_dir} holds no run folders; run the comparison first, or give its out_dir")
    if half := [folder.name for folder in found if not is_finished(folder)]:
        raise ValueError(
            f"{len(half)} of {len(found)} runs in {out_dir} are not finished ({', '.join(half)}); run the same command "
            "again to go on"
        )
    return found


def _labelled(row: dict, table: pd.DataFrame) -> pd.DataFrame:
    """A table of one run with the columns that say which."""
    return pd.concat([pd.DataFrame({name: row[name] for name in LABELS}, index=table.index), table], axis=1)


def _scores(folder: Path) -> pd.DataFrame:
    """scores.csv with the names that say which weights; ValueError for one of another version."""
    table = files.read_table(folder / "scores.csv")
    if missing := [name for name in SCORES if name not in table]:
        raise ValueError(
            f"{folder}/scores.csv has no column {', '.join(missing)}: it was written by another version; train "
            "this run again in a new folder"
        )
    return table[SCORES].rename(columns=RAW)


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a result: scores, or the reason why it was stopped."""
    return (folder / "scores.csv").is_file() or "stopped" in arm_file(folder)


def arm_file(folder: Path) -> dict:
    """What `compare.run` noted beside a run; empty for a run that was made alone."""
    file = folder / "arm.json"
    return files.read_json(file) if file.is_file() else {}
