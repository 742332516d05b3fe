"""Statistics of paired runs: differences to a baseline seed by seed, their intervals, what they could have shown.

A table of runs has one row per run, as `run_tables.collect` makes it: task, scale, network, arm, seed and scores. A run
that diverged has no score (NaN) and makes every statement about its arm impossible; nothing is left out silently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

LEVEL = 0.95  # of every interval, two-sided
POWER = 0.8  # probability with which the smallest detectable difference would have been seen
SCORES = {"psnr_raw": "PSNR, raw weights", "psnr_ema": "PSNR, EMA weights"}  # in dB
BOTH = tuple(SCORES)
SETTING = ["task", "scale", "network"]  # runs are compared within one of these
SEEDS = 5  # fewer are weak evidence, however well they agree: a spread of two or three values is hardly known
FEW = 4  # so many intervals get a sentence each, even where they hold zero


def differences(runs: pd.DataFrame, baseline: str = "plain", score: str = "psnr_raw") -> pd.DataFrame:
    """Score (a key of `SCORES`) of every arm minus that of the baseline with the same seed.

    Returns:
        Columns task, scale, network, arm, seed, difference (NaN if either run diverged); arms in the order of the runs.

    Raises:
        ValueError: missing columns, an unknown baseline, two runs of one arm and seed, unequal seeds.
    """
    check(runs, score)
    parts = []
    for setting, group in runs.groupby(SETTING, sort=False):
        table = _by_seed(group, baseline, score)
        rest = table.drop(columns=baseline).sub(table[baseline], axis=0)
        long = rest.melt(ignore_index=False, var_name="arm", value_name="difference").reset_index()
        parts.append(long.assign(**dict(zip(SETTING, setting, strict=True))))
    return pd.concat(parts, ignore_index=True)[[*SETTING, "arm", "seed", "difference"]]


def paired(runs: pd.DataFrame, baseline: str = "plain", scores: Sequence[str] = BOTH) -> pd.DataFrame:
    """Mean paired difference of every arm to the baseline, with intervals over seeds.

    d_s = score(arm, seed s) - score(baseline, seed s);  mean +- t sd / sqrt(n)

    Each interval misses the truth once in 20 times. Of many, some do; so there is a second, wider one for all of a
    table together, by Holm's method: with the k-th smallest of m p-values at level 1 - 0.05 / (m - k + 1), until the
    first that holds zero, whose level all others have. If no arm does anything, one of *all* these intervals lies
    beside zero once in 20 times at most.

    Returns:
        One row per setting, arm and score: task, scale, network, arm, baseline, score, seeds (n), stopped (pairs
        without a difference), mean, sd, half (of the 95 % t interval), low, high, p (two-sided), half_holm, low_holm,
        high_holm, detectable (smallest true difference that n seeds of this sd show with 80 % power, one interval
        alone). NaN after a run that diverged, and for the spread of a single seed.

    Raises:
        ValueError: as `differences`.
    """
    pairs = pd.concat(differences(runs, baseline, score).assign(score=score) for score in scores)
    rows = []
    for (score, *key), group in pairs.groupby(["score", *SETTING, "arm"], sort=False):
        values = group["difference"].to_numpy(float)
        row = dict(zip([*SETTING, "arm"], key, strict=True)) | {"baseline": baseline, "score": score}
        rows.append(row | {"seeds": len(values), "stopped": int(np.isnan(values).sum()), **t_interval(values)})
    table = pd.DataFrame(rows)
    return corrected(table).assign(detectable=smallest_detectable(table["seeds"], table["sd"]))


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `paired` with half_holm, low_holm and high_holm for all of them together, from one table or several."""
    levels = holm_levels(table["p"].to_numpy())
    half = stats.t.isf(levels / 2, table["seeds"] - 1) * table["sd"] / np.sqrt(table["seeds"])
    return table.assign(half_holm=half, low_holm=table["mean"] - half, high_holm=table["mean"] + half)


def holm_levels(p: np.ndarray) -> np.ndarray:
    """The level of each of several hypotheses (NaN: not tested) at which all together err once in 20 times.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    order = np.argsort(p)  # NaN last
    count = int(np.isfinite(p).sum())
    steps = (1 - LEVEL) / np.arange(count, 0, -1)
    kept = p[order][:count] > steps
    if kept.any():
        steps[kept.argmax() :] = steps[kept.argmax()]
    levels = np.full(len(p), math.nan)
    levels[order[:count]] = steps
    return levels


def first_edge(count: int, seeds: int) -> float:
    """How many standard errors the clearest of so many intervals has to lie from zero after Holm's correction."""
    return float(stats.t.isf((1 - LEVEL) / count / 2, seeds - 1))


def clear(table: pd.DataFrame, corrected: bool = True) -> pd.Series:
    """Which rows of `paired` lie beside zero, after Holm's correction or each for itself."""
    end = "_holm" if corrected else ""
    return (table[f"low{end}"] > 0) | (table[f"high{end}"] < 0)


def by_weights(runs: pd.DataFrame, baseline: str = "plain") -> pd.DataFrame:
    """`differences` in PSNR of the raw and of the EMA weights, told apart by a column `weights`."""
    parts = [differences(runs, baseline, f"psnr_{kind}").assign(weights=kind) for kind in ("raw", "ema")]
    return pd.concat(parts, ignore_index=True)


def by_image(images: pd.DataFrame, runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """The second view: is the gain in `psnr_raw` common to the test pictures, or that of a few?

    The difference of a picture is averaged over seeds first. What is said here is about pictures for *these* networks,
    nothing about another seed, so it must never stand for `paired`.

    Args:
        images: one row per run and test picture, of `run_tables.read`.
        runs: the table of the same runs, for arms whose runs all diverged and left no picture; None: there is none.

    Returns:
        One row per setting and arm: task, scale, network, arm, pictures, better (how many gain), mean, worst, best
        (pictures' differences; all NaN for an arm with a run that diverged).
    """
    check(images, "image")
    key, own = [*SETTING, "arm"], images if runs is None else runs
    whole = own[key].drop_duplicates().merge(own[[*SETTING, "seed"]].drop_duplicates())
    whole = whole.merge(images[[*SETTING, "image"]].drop_duplicates()).merge(images, how="left")
    parts = [differences(part).assign(image=name) for name, part in whole.groupby("image", sort=False)]
    seeds = pd.concat(parts).groupby([*key, "image"], sort=False)["difference"]
    arms = seeds.agg(lambda values: values.mean(skipna=False)).groupby(key, sort=False)
    table = arms.agg(["size", lambda gains: (gains > 0).sum(), "mean", "min", "max"])
    table = table.set_axis(["pictures", "better", "mean", "worst", "best"], axis=1).astype({"better": "Int64"})
    table.loc[table["mean"].isna(), "better"] = pd.NA
    return table.reset_index()


def smallest_detectable(seeds, sd):
    """The true difference that a paired t test at 5 % shows with 80 % power; numbers, or arrays of them.

    The noncentral t distribution, whose other tail is left out: less than a millionth.

    Args:
        seeds: at least 2.
        sd: standard deviation of the paired differences, >= 0.
    """
    edge = stats.t.isf((1 - LEVEL) / 2, seeds - 1)
    return special.nctdtrinc(seeds - 1, 1 - POWER, edge) * sd / np.sqrt(seeds)


def conclusion(frame: pd.DataFrame, many: int | None = None) -> str:
    """What a table of `paired` allows to say, computed from its intervals; one sentence per line.

    Intervals beside zero come first, those of fewer than `SEEDS` seeds as weak evidence. Where there are many others,
    they share a sentence. `many`: intervals that were `corrected` together; None: those of the table.
    """
    single, frame = frame[frame["seeds"] < 2], frame[frame["seeds"] > 1]
    alone = clear(frame, corrected=False) | frame["mean"].isna()
    apart = alone if len(frame) > FEW else alone | True
    many = int(frame["p"].notna().sum()) if many is None else many
    lines = [_sentence(row, many) for row in frame[apart].sort_values("p", kind="stable").itertuples()]
    for where in dict.fromkeys(map(place, single.itertuples())):
        lines.append(f"{where}: No conclusion from one seed, for one difference has no spread.")
    rest = frame[~apart]
    if len(rest):
        low, high = rest["detectable"].min(), rest["detectable"].max()
        lines.append(
            f"{'The other' if lines else 'All'} {len(rest)} of {len(frame)} intervals hold zero: no effect visible at "
            f"this size. They would have shown true differences of {low:.3f} to {high:.3f} dB four times in five."
        )
    return "\n".join(lines)


def place(row) -> str:
    """Task, scale and network of a row of any table here, in words."""
    return f"{row.task} x{row.scale} {row.network}" if row.scale > 1 else f"{row.task} {row.network}"


def check(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if a table of runs is empty or lacks columns."""
    if table.empty:
        raise ValueError("the table holds no runs; run the comparison first")
    if missing := [name for name in (*SETTING, "arm", "seed", *columns) if name not in table]:
        raise ValueError(
            f"the table of runs has no column {', '.join(missing)}: it was written by another version; collect it "
            "again from its run folders"
        )


def _by_seed(group: pd.DataFrame, baseline: str, column: str) -> pd.DataFrame:
    """One row per seed, one column per arm, arms in the order of the runs; ValueError if that is not balanced."""
    where, arms = place(group.iloc[0]), list(group["arm"].unique())
    if baseline not in arms:
        raise ValueError(f"{where}: there is no arm {baseline!r} to compare with; arms: {', '.join(arms)}")
    if len(arms) < 2:
        raise ValueError(f"{where}: {baseline} is the only arm; run another one to compare it with")
    twice = group[group.duplicated(["arm", "seed"])]
    if len(twice):
        arm, seed = twice[["arm", "seed"]].iloc[0]
        raise ValueError(f"{where}: {arm} has two runs with seed {seed}; compare one recipe at a time")
    seeds = {arm: sorted(part["seed"]) for arm, part in group.groupby("arm", sort=False)}
    if other := next((arm for arm in arms if seeds[arm] != seeds[baseline]), None):
        listed = f"{baseline} has {seeds[baseline]}, {other} has {seeds[other]}"
        raise ValueError(f"{where}: the arms have unequal seeds ({listed}); run what is missing: seeds are pairs")
    return group.pivot(index="seed", columns="arm", values=column)[arms]


def t_interval(values: np.ndarray) -> dict[str, float]:
    """mean, sd, half (of the 95 % interval, t distribution), low, high and p (two-sided) of some values.

    NaN for the spread and p of one value, and after a NaN.
    """
    n, mean = len(values), values.mean()
    sd = values.std(ddof=1) if n > 1 else math.nan
    half = stats.t.isf((1 - LEVEL) / 2, n - 1) * sd / math.sqrt(n) if n > 1 else math.nan
    p = float(stats.ttest_1samp(values, 0).pvalue if sd else mean == 0) if n > 1 else math.nan
    return {"mean": mean, "sd": sd, "half": half, "low": mean - half, "high": mean + half, "p": p}


def _sentence(row, many: int) -> str:
    """One row of `paired` in words; `many`: intervals that were looked at."""
    head = f"{place(row)}, {row.arm} against {row.baseline} ({SCORES[row.score]})"
    if row.stopped:
        return f"{head}: {row.stopped} of {row.seeds} pairs have no score, because a run diverged."
    spread = f"95 % interval {row.low:+.3f} to {row.high:+.3f} dB, {row.seeds} seeds"
    if not (row.low > 0 or row.high < 0):
        return (
            f"{head}: no effect visible at this size: {row.mean:+.3f} dB ({spread}). A true difference of "
            f"{row.detectable:.3f} dB would have been seen four times in five."
        )
    said = f"{head}: {'better' if row.low > 0 else 'worse'} by {abs(row.mean):.3f} dB ({spread})"
    few = f": weak evidence, with fewer than {SEEDS} seeds" if row.seeds < SEEDS else ""
    if many == 1:
        return f"{said}{few}."
    if row.low_holm > 0 or row.high_holm < 0:
        return f"{said}, also after Holm's correction for {many} intervals{few}."
    return f"{said}, but not after Holm's correction for {many} intervals{few or ': weak evidence'}."
