"""Figures of evidence: gain beside cost, learning curves of arms, the paper's gains. They return a `Figure`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from torch import nn

from mclir_nb.evaluation import evaluate, tiles
from mclir_nb.views.style import COLOURS, styled

LINES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


@styled
def gain_beside_cost(gains: pd.DataFrame, costs: pd.DataFrame, *, unit: str = "dB") -> Figure:
    """Every arm at its cost: mean paired gain with its 95 % interval against the time of a step.

    Args:
        gains: rows of `intervals.paired` of one setting; several scores are drawn in different colours.
        costs: of `intervals.costs`, the same setting.
        unit: of the gain.
    Returns: Figure; up is better, left is cheaper.
    Raises: ValueError for more than one setting, or an arm without costs.
    """
    if len(gains[["task", "scale", "network"]].drop_duplicates()) != 1:
        raise ValueError("the table of gains holds more than one setting; give the rows of one task and network")
    ratio = costs.set_index("arm")["ratio"]
    lost = sorted(set(gains["arm"]) - set(ratio.index))
    if lost:
        raise ValueError(f"no costs are known for {', '.join(lost)}; give intervals.costs of the same runs")
    figure = Figure((8, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=COLOURS["plain"], lw=1)
    arms = list(dict.fromkeys(gains["arm"]))
    for row in gains.itertuples():
        ema = row.score.endswith("ema")
        place = ratio[row.arm] * (1.006 if ema else 0.994)  # side by side
        half = [[row.mean - row.low], [row.high - row.mean]]
        colour, mark = COLOURS["ema" if ema else "restored"], LINES[arms.index(row.arm) % len(LINES)]
        label = row.arm if not ema else None
        axes.errorbar(place, row.mean, yerr=half, fmt=mark, color=colour, capsize=3, markersize=5, label=label)
    axes.set(xlabel=f"seconds of a step / those of {gains['baseline'].iloc[0]}", ylabel=f"paired gain ({unit})")
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

    Args: curves: of `compare.curves` or a record, one setting; arms: which, in this order; None: all.
    Raises: ValueError for an unknown arm or no rows.
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
                style = dict(color=f"C{number % 10}", marker=LINES[number % len(LINES)], markersize=3, lw=1)
                axes.plot(mean.index, mean, label=arm, **style)  # plain has no r: colours by arm, not by turn
        axes.set(xlabel="step", ylabel=label, yscale="linear" if "psnr" in column else "log")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return figure


@styled
def improvements(gains: pd.DataFrame, noise: pd.DataFrame | None = None) -> Figure:
    """The paper's gains, one bar per row of its tables, coloured by task; log scale, because they span a factor 200.

    Args:
        gains: of `paper.gains`. noise: of `paper.retrainings`; the distance of a retrained base from the quoted one is
            marked beside the bar it belongs to.
    """
    table = gains.sort_values(["task", "gain_db"]).reset_index(drop=True)
    colours = dict(zip(table["task"].unique(), ("restored", "history", "ema", "gt"), strict=False))
    figure = Figure((8, 0.6 + 0.2 * len(table)), layout="constrained")
    axes = figure.subplots()
    names = (table["network"] + " " + table["scale"]).str.strip() + ", " + table["dataset"]
    for task, part in table.groupby("task", sort=False):
        axes.barh(part.index, part["gain_db"], color=COLOURS[colours[task]], label=task.replace("_", "-"))
    if noise is not None:
        key = ["network", "scale", "dataset"]
        found = table.reset_index().merge(noise[[*key, "difference_db"]], on=key)
        axes.plot(
            found["difference_db"].abs(),
            found["index"],
            "|",
            color="black",
            markersize=9,
            mew=2,
            label="|retrained base - quoted base|, one run",
        )
    axes.set(yticks=table.index, xscale="log", xlabel="gain of SPN in the paper's tables (dB, log scale)")
    axes.set_yticklabels(names, fontsize=7)
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=7, loc="lower right")
    return figure


def divergence(
    plain: nn.Module, spn: nn.Module, benchmark: Iterable, limit: int, factor: float | None = None
) -> list[dict]:
    """Rows for `figures.image_grid`: what two networks make of the first pictures, and where they differ.

    Args:
        plain, spn: networks of one task. benchmark: pairs as `patches.Benchmark` yields.
        factor: of the difference, the same in all rows; None: 1, 2 or 5 times a power of ten that shows the largest.
    Returns: one {name: image} per picture, lq enlarged to the size of gt.
    """
    found = []
    for name, gt, lq in itertools.islice(benchmark, limit):
        one, other = (tiles.run(network, lq[None])[0] for network in (plain, spn))
        shown = {f"{name}: lq": evaluate.enlarge(lq, gt), "plain": one, "SPN": other, "gt": gt}
        found.append((shown, (other - one).abs()))
    if factor is None:
        largest = max(float(apart.flatten().quantile(0.995)) for _, apart in found)
        unit = 10 ** math.floor(math.log10(1 / max(largest, 1e-6)))
        factor = max(step * unit for step in (1, 2, 5) if step * unit * largest <= 1)
    return [shown | {f"{factor:g} x |SPN - plain|": (factor * apart).clamp(0, 1)} for shown, apart in found]
