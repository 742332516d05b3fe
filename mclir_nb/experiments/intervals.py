"""Statistics of paired runs: differences to a baseline seed by seed, their intervals, what they could have shown.

A table of runs has one row per run, as `run_tables.collect` makes it: task, scale, network, arm, seed and scores. A run
that diverged has no score (NaN) and makes every statement about its arm impossible; nothing is left out silently.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95  # of every interval, two-sided
POWER = 0.8  # probability with which the smallest detectable difference would have been seen
SCORES = {  # score: (what it is, unit)
    "psnr_raw": ("PSNR, raw weights", "dB"),
    "psnr_ema": ("PSNR, EMA weights", "dB"),
    "ssim_raw": ("SSIM, raw weights", ""),
    "ssim_ema": ("SSIM, EMA weights", ""),
}
SETTING = ["task", "scale", "network"]  # runs are compared within one of these
COST = ["steps", "macs"]


def differences(runs: pd.DataFrame, baseline: str = "plain", score: str = "psnr_raw") -> pd.DataFrame:
    """Score of every arm minus that of the baseline with the same seed.

    Args:
        runs: one row per run.
        baseline: the arm that the others are compared with.
        score: a key of `SCORES`.

    Returns:
        Columns task, scale, network, arm, seed, difference (NaN if either run diverged).

    Raises:
        ValueError: missing columns, an unknown baseline, two runs of one arm and seed, unequal seeds.
    """
    check(runs, score)
    parts = []
    for setting, group in runs.groupby(SETTING, sort=False):
        table = _by_seed(group, baseline, score, setting)
        rest = table.drop(columns=baseline).sub(table[baseline], axis=0)
        long = rest.melt(ignore_index=False, var_name="arm", value_name="difference").reset_index()
        parts.append(long.assign(**dict(zip(SETTING, setting, strict=True))))
    return pd.concat(parts, ignore_index=True)[[*SETTING, "arm", "seed", "difference"]]


def paired(
    runs: pd.DataFrame, baseline: str = "plain", score: str = "psnr_raw", *, draws: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Mean paired difference of every arm to the baseline, with intervals over seeds.

    d_s = score(arm, seed s) - score(baseline, seed s);  mean +- t_{0.975, n-1} sd / sqrt(n)

    Args:
        runs, baseline, score: as in `differences`.
        draws: bootstrap samples of the seeds.
        seed: of these draws, so that the same table gives the same numbers.

    Returns:
        One row per setting and arm: task, scale, network, arm, baseline, score, seeds (n), stopped (pairs without a
        difference), mean, sd, low, high (t, 95 %), boot_low, boot_high (percentiles of resampled means; too narrow
        with few seeds), detectable (smallest difference that n seeds of this sd show with 80 % power).

    Raises:
        ValueError: as `differences`, and for fewer than two seeds.
    """
    pairs = differences(runs, baseline, score)
    rows = []
    for key, group in pairs.groupby([*SETTING, "arm"], sort=False):
        values = group["difference"].to_numpy(float)
        if len(values) < 2:
            raise ValueError(
                f"an interval needs at least 2 seeds, and {key[-1]} has {len(values)}: one difference has no spread, "
                "so it says nothing about the next seed. Run more seeds (5 are a good number)."
            )
        row = dict(zip([*SETTING, "arm"], key, strict=True)) | {"baseline": baseline, "score": score}
        rows.append(row | {"seeds": len(values)} | _interval(values, draws, seed))
    return pd.DataFrame(rows)


def by_weights(runs: pd.DataFrame, baseline: str = "plain") -> pd.DataFrame:
    """`differences` in PSNR of the raw and of the EMA weights, told apart by a column `weights`."""
    parts = [differences(runs, baseline, f"psnr_{kind}").assign(weights=kind) for kind in ("raw", "ema")]
    return pd.concat(parts, ignore_index=True)


def by_task(runs: pd.DataFrame, baseline: str = "plain") -> pd.DataFrame:
    """`by_weights` for a table of several tasks: the task stands in the name of the arm."""
    table = by_weights(runs, baseline)
    return table.assign(arm=table["task"] + ": " + table["arm"])


def gains(runs: pd.DataFrame, baseline: str = "plain") -> pd.DataFrame:
    """`paired` for the PSNR of the raw and of the EMA weights, one below the other."""
    return pd.concat([paired(runs, baseline, f"psnr_{kind}") for kind in ("raw", "ema")], ignore_index=True)


def by_image(images: pd.DataFrame, baseline: str = "plain", score: str = "psnr_raw") -> pd.DataFrame:
    """The second view: is the gain common to the test pictures, or that of a few?

    The difference of a picture is averaged over seeds first. The interval is one over pictures for *these* networks;
    it says nothing about another seed, so it must never stand for that of `paired`.

    Args:
        images: one row per run and test picture, as `run_tables.images` makes it.
        baseline, score: as in `differences`.

    Returns:
        One row per setting and arm: task, scale, network, arm, pictures, better (how many gain), mean, sd, low, high
        (t, 95 %; NaN for one picture), worst, best (pictures' differences).

    Raises:
        ValueError: as `differences`.
    """
    if "image" not in images:
        raise ValueError("the table has no column image; give run_tables.images(out_dir), or a record's images.csv")
    parts = [
        differences(group, baseline, score).assign(image=image) for image, group in images.groupby("image", sort=False)
    ]
    means = pd.concat(parts).groupby([*SETTING, "arm", "image"], sort=False)["difference"].mean(skipna=False)
    rows = []
    for key, values in means.groupby([*SETTING, "arm"], sort=False):
        row = dict(zip([*SETTING, "arm"], key, strict=True))
        row |= {"pictures": len(values), "better": int((values > 0).sum()), **t_interval(values.to_numpy())}
        rows.append(row | {"worst": values.min(), "best": values.max()})
    return pd.DataFrame(rows)


def costs(runs: pd.DataFrame, baseline: str = "plain") -> pd.DataFrame:
    """What every arm costs: means over seeds, and the cost of its run beside that of the baseline's.

    Args:
        runs: one row per run.
        baseline: the arm that the others are compared with.

    Returns:
        One row per setting and arm: task, scale, network, arm, steps, macs (counted multiply-accumulates of the run),
        run_cost (macs / those of the baseline).
    """
    check(runs, *COST)
    rows = []
    for setting, group in runs.groupby(SETTING, sort=False):
        macs = _by_seed(group, baseline, "macs", setting)
        for arm, part in group.groupby("arm", sort=False):
            row = dict(zip(SETTING, setting, strict=True)) | {"arm": arm} | dict(part[COST].mean())
            rows.append(row | {"run_cost": (macs[arm] / macs[baseline]).mean()})
    return pd.DataFrame(rows)


def smallest_detectable(seeds: int, sd: float, power: float = POWER) -> float:
    """The true difference that a paired t test at 5 % over this many seeds shows with this probability.

    Args:
        seeds: at least 2.
        sd: standard deviation of the paired differences, >= 0.
        power: the probability.
    """
    low, high = 0.0, 1.0
    while _power(high, seeds) < power:
        low, high = high, 2 * high
    for _ in range(60):  # bisection, in units of sd
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, seeds) >= power else (middle, high)
    return high * sd


def seeds_needed(difference: float, sd: float, power: float = POWER) -> int:
    """How many paired seeds show a true difference of this size with this probability (two-sided, 5 %).

    Args:
        difference: not 0, in the unit of sd.
        sd: standard deviation of the paired differences, >= 0.
        power: the probability.

    Raises:
        ValueError: a difference of 0, which no number of seeds can show.
    """
    if not difference or not math.isfinite(difference) or not sd >= 0:
        raise ValueError(f"difference {difference!r} with sd {sd!r}: give a difference other than 0 and an sd >= 0")
    if sd == 0:
        return 2
    effect = abs(difference) / sd
    normal = (stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(power)) / effect  # never more than the t test asks
    seeds = max(2, math.floor(normal**2))
    while _power(effect, seeds) < power:
        seeds += 1
    return seeds


def conclusion(frame: pd.DataFrame) -> str:
    """What a table of `paired` allows to say, one sentence per row, computed from its intervals."""
    lines = [_sentence(row) for row in frame.itertuples()]
    if len(lines) > 1:
        lines.append(
            f"{len(lines)} intervals were looked at; each misses the truth once in {1 / (1 - LEVEL):.0f} times, so one "
            "that only just leaves zero is weak evidence."
        )
    return "\n".join(lines)


def check(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if a table of runs is empty or lacks columns."""
    if table.empty:
        raise ValueError("the table holds no runs; run the comparison first")
    missing = [name for name in (*SETTING, "arm", "seed", *columns) if name not in table]
    if missing:
        versions = ", ".join(map(str, table["mclir_nb"].unique())) if "mclir_nb" in table else "unknown"
        raise ValueError(
            f"the table of runs has no column {', '.join(missing)}: it was written by another version (mclir_nb "
            f"{versions}). Collect it again from its run folders, or read it with that version."
        )


def _by_seed(group: pd.DataFrame, baseline: str, column: str, setting: tuple) -> pd.DataFrame:
    """One row per seed, one column per arm, arms in the order of the runs; ValueError if that is not balanced."""
    where, arms = _place(setting), list(group["arm"].unique())
    if baseline not in arms:
        raise ValueError(f"{where}: there is no arm {baseline!r} to compare with; arms: {', '.join(arms)}")
    if len(arms) < 2:
        raise ValueError(f"{where}: {baseline} is the only arm; run another one to compare it with")
    twice = group[group.duplicated(["arm", "seed"])]
    if len(twice):
        arm, seed = twice[["arm", "seed"]].iloc[0]
        raise ValueError(f"{where}: {arm} has two runs with seed {seed}; compare one recipe at a time")
    seeds = {arm: set(group.loc[group["arm"] == arm, "seed"]) for arm in arms}
    for arm in arms:
        if seeds[arm] != seeds[baseline]:
            listed = " and ".join(f"{a} has {', '.join(map(str, sorted(seeds[a])))}" for a in (baseline, arm))
            raise ValueError(
                f"{where}: the arms have unequal seeds ({listed}); run what is missing, arms are paired by seed"
            )
    return group.pivot(index="seed", columns="arm", values=column)[arms]


def _place(setting: tuple) -> str:
    task, scale, network = setting
    return f"{task} x{scale} {network}" if scale > 1 else f"{task} {network}"


def t_interval(values: np.ndarray) -> dict[str, float]:
    """mean, sd, low and high (95 %, t distribution) of some values; NaN for the spread of one."""
    n, mean = len(values), values.mean()
    sd = values.std(ddof=1) if n > 1 else math.nan
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * sd / math.sqrt(n) if n > 1 else math.nan
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def _interval(values: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """Everything `paired` says about the differences of one arm."""
    stopped = int(np.isnan(values).sum())
    if stopped:
        names = ("mean", "sd", "low", "high", "boot_low", "boot_high", "detectable")
        return {"stopped": stopped} | dict.fromkeys(names, math.nan)
    means = np.random.default_rng(seed).choice(values, (draws, len(values))).mean(axis=1)
    boot_low, boot_high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    row = {"stopped": 0, **t_interval(values), "boot_low": boot_low, "boot_high": boot_high}
    return row | {"detectable": smallest_detectable(len(values), row["sd"])}


def _power(effect: float, seeds: int) -> float:
    """Probability that a paired t test at 5 % sees a true difference of `effect` standard deviations.

    The mean over the spread that the seeds may happen to have; scipy's noncentral t gives NaN in its far tails.
    """
    limit, shift = stats.t.ppf((1 + LEVEL) / 2, seeds - 1), effect * math.sqrt(seeds)
    edge = limit * _spreads(seeds - 1)
    return float((stats.norm.sf(edge - shift) + stats.norm.cdf(-edge - shift)).mean())


@lru_cache
def _spreads(freedom: int) -> np.ndarray:
    """2000 equally likely values of sqrt(chi2 / freedom), the measured spread over the true one."""
    return np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)


def _sentence(row) -> str:
    """One row of `paired` in words."""
    what, unit = SCORES.get(row.score, (row.score, ""))
    number = "{:+.4f}" if not unit else "{:+.3f}"

    def amount(value: float) -> str:
        return f"{number.format(value)} {unit}".rstrip()

    head = f"{_place((row.task, row.scale, row.network))}, {row.arm} against {row.baseline} ({what})"
    if row.stopped:
        return f"{head}: {row.stopped} of {row.seeds} pairs have no score, because a run diverged."
    spread = f"95 % interval {number.format(row.low)} to {amount(row.high)}, {row.seeds} seeds"
    if row.low > 0 or row.high < 0:
        return f"{head}: {'better' if row.low > 0 else 'worse'} by {amount(abs(row.mean))[1:]} ({spread})."
    return (
        f"{head}: no effect visible at this size: {amount(row.mean)} ({spread}). A true difference of "
        f"{amount(row.detectable)[1:]} would have been seen four times in five."
    )
