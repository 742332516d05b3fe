"""Figures of evidence: paired differences, gain beside cost and learning curves of arms."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from mclir_nb.experiments import intervals
from mclir_nb.views.style import COLOURS, MARKERS, styled


@styled
def paired_differences(frame: pd.DataFrame, *, unit: str = "dB", baseline: str = "plain") -> Figure:
    """Gains over the baseline, seed by seed, their mean and its 95 % interval (t distribution over seeds).

    Args:
        frame: one row per arm and seed: `arm`, `seed`, `difference` (arm minus baseline, same seed); if there
            is a column `weights` ("raw" or "ema"), drawn apart.
        unit: of the difference.
        baseline: name of the arm at zero.

    Returns:
        Figure. An arm with one seed has no interval, and the figure says so.

    Raises:
        ValueError: for missing columns or no rows.
    """
    missing = {"arm", "seed", "difference"} - set(frame.columns)
    if missing or frame.empty:
        found = f"no column {', '.join(sorted(missing))}" if missing else "no rows"
        raise ValueError(f"the table of differences has {found}; it needs arm, seed and difference, one row per pair")
    kinds = list(frame["weights"].unique()) if "weights" in frame else [None]
    arms = list(frame["arm"].unique())
    figure = Figure((8, 0.7 + 0.32 * len(arms) * len(kinds)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=COLOURS["plain"], lw=1)
    for k, kind in enumerate(kinds):
        part = frame if kind is None else frame[frame["weights"] == kind]
        colour = COLOURS["ema" if kind == "ema" else "restored"]
        for row, arm in enumerate(arms):
            y = row + (k - (len(kinds) - 1) / 2) * 0.4
            _interval(axes, part.loc[part["arm"] == arm, "difference"].dropna(), y, colour, kind)
    axes.set(yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5))
    axes.set_xlabel(f"difference to {baseline} ({unit}); dots: seeds, bar: mean and 95 % interval over seeds")
    axes.grid(axis="y", visible=False)
    return figure


def _interval(axes, values: pd.Series, y: float, colour: str, kind) -> None:
    """The dots of one arm, their mean and its interval, with the numbers written beside them."""
    if values.empty:
        return
    axes.plot(values, np.full(len(values), y), "o", color=colour, alpha=0.45, markersize=4, mew=0)
    found = intervals.t_interval(values.to_numpy())
    mean, text = found["mean"], f"{found['mean']:+.3f}  one seed: no interval"
    if len(values) > 1:
        half = found["high"] - mean
        axes.errorbar(mean, y, xerr=half, fmt="|", color=colour, markersize=11, capsize=3)
        text = f"{mean:+.3f} ± {half:.3f}  {len(values)} seeds"
    text += f", {kind} weights" if kind else ""
    beside = axes.get_yaxis_transform()  # x: share of the axes, y: data
    axes.text(1.01, y, text, transform=beside, va="center", fontsize=8, color=colour)


@styled
def gain_beside_cost(gains: pd.DataFrame, costs: pd.DataFrame, *, unit: str = "dB") -> Figure:
    """Every arm at its cost: mean paired gain with its 95 % interval against the cost of the run.

    Args:
        gains: rows of `intervals.paired` of one setting; several scores are drawn in different colours.
        costs: of `intervals.costs`, the same setting.
        unit: of the gain.

    Returns:
        Figure; up is better, left is cheaper.

    Raises:
        ValueError: for more than one setting, or an arm without costs.
    """
    if len(gains[["task", "scale", "network"]].drop_duplicates()) != 1:
        raise ValueError("the table of gains holds more than one setting; give the rows of one task and network")
    price = costs.set_index("arm")["run_cost"]
    lost = sorted(set(gains["arm"]) - set(price.index))
    if lost:
        raise ValueError(f"no costs are known for {', '.join(lost)}; give intervals.costs of the same runs")
    figure = Figure((8, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=COLOURS["plain"], lw=1)
    arms = list(dict.fromkeys(gains["arm"]))
    for row in gains.itertuples():
        ema = row.score.endswith("ema")
        place = price[row.arm] * (1.006 if ema else 0.994)  # side by side
        half = [[row.mean - row.low], [row.high - row.mean]]
        colour, marker = COLOURS["ema" if ema else "restored"], MARKERS[arms.index(row.arm) % len(MARKERS)]
        label = None if ema else row.arm
        axes.errorbar(place, row.mean, yerr=half, capsize=3, markersize=5, label=label, color=colour, fmt=marker)
    axes.set(
        xlabel=f"multiplications of the run / those of {gains['baseline'].iloc[0]}", ylabel=f"paired gain ({unit})"
    )
    title = "raw weights, and beside them EMA weights; bars: 95 % over seeds"
    if max(gains["high"].max(), -gains["low"].min()) > 1:
        title += "; logarithmic beyond 0.1"
        axes.set_yscale("symlog", linthresh=0.1)  # one arm far off shall not hide the others
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


@styled
def arm_curves(curves: pd.DataFrame, arms: list[str] | None = None) -> Figure:
    """Three panels over the steps, means over seeds: validation PSNR, the reconstruction loss, and r.

    Args:
        curves: of `run_tables.curves` or a record, one setting.
        arms: which, in this order; None: all.

    Returns:
        Figure, 10 inches wide.

    Raises:
        ValueError: for an unknown arm or no rows.
    """
    there = list(dict.fromkeys(curves["arm"])) if "arm" in curves else []
    arms = there if arms is None else arms
    missing = [arm for arm in arms if arm not in there]
    if missing or not there:
        raise ValueError(f"no curves of {', '.join(missing) or 'any arm'}; arms: {', '.join(there) or 'none'}")
    figure = Figure((10, 3), layout="constrained")
    panels = {"val_psnr_ema": "validation PSNR, EMA (dB)", "l_rec": "l_rec", "r": "r = λ l_neg / l_rec"}
    for axes, (column, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for number, arm in enumerate(arms):
            mean = curves[curves["arm"] == arm].groupby("step")[column].mean().dropna()
            if len(mean):
                style = dict(color=f"C{number % 10}", marker=MARKERS[number % len(MARKERS)], markersize=3, lw=1)
                axes.plot(mean.index, mean, label=arm, **style)  # plain has no r: colours by arm, not by turn
        axes.set(xlabel="step", ylabel=label, yscale="linear" if "psnr" in column else "log")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return figure
