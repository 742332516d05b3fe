"""Figures of the history models: how far they lag over the steps, and means over groups of pixels."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from mclir_nb.evaluation import metrics
from mclir_nb.evaluation.evaluate import enlarge
from mclir_nb.experiments.history_analysis import PUSH, Pushes
from mclir_nb.views import style
from mclir_nb.views.figures import image_grid
from mclir_nb.views.style import COLOURS, MARKERS, difference, history_colours, panels, styled

RULERS = {  # column of `history_analysis.over_time`: title, unit
    "weights": ("Weights", "|history - model| / |model|"),
    "pixels": ("Pixels", "mean |restored - negative|"),
    "features": ("Features", "share of l_neg, before the mean"),
}
GREY_LEVEL = 255.0**-2  # squared error of one grey level: below it an axis of squared errors is linear


@styled
def lags(table: pd.DataFrame) -> Figure:
    """How far each history is behind, in weights, pixels and features, on a log scale: lags of 0 are left out.

    Args:
        table: one row per moment and history, from `history_analysis.over_time`.
    """
    figure, places = panels(8.6, 2.7, len(RULERS))
    histories = list(table.groupby("history"))
    for (number, part), colour in zip(histories, history_colours(len(histories)), strict=True):
        line = {"color": colour, "marker": MARKERS[(number - 1) % len(MARKERS)], "markersize": 3, "linewidth": 1}
        for axes, column in zip(places, RULERS, strict=True):
            seen = part[part[column] > 0]
            axes.plot(seen["step"], seen[column], label=_refreshed(part), **line)
    for axes, (title, unit) in zip(places, RULERS.values(), strict=True):
        axes.set(title=title, xlabel="step", ylabel=unit, yscale="log")
    places[0].legend(fontsize=7)
    return figure


def _refreshed(part: pd.DataFrame) -> str:
    """How a history is refreshed, from its rows of `history_analysis.over_time`."""
    every = part["every"].iloc[0]
    if part["age"].isna().all():
        return "adaptive rule"
    return f"every {int(every)} steps" if every and every == every else "never refreshed"


@styled
def progress_and_gap(found: Pushes) -> Figure:
    """PSNR and age over the steps, and for each history whether moving on from it helps: where progress exceeds gap.

    Args:
        found: of `history_analysis.pushes`; a panel per history, blue where progress > gap and gold where not.
    """
    kept, table = found.kept, found.table
    count = kept.negatives.shape[1]
    columns, colours = 1 + (count + 1) // 2, history_colours(count)
    figure, places = panels(8.6, 3.4, columns, 2, sharex=True)
    quality, age = places[0], places[columns]
    pasts = places[1:columns] + places[columns + 1 :]
    clear = kept.gt.expand_as(kept.restored).clamp(0, 1)
    quality.plot(kept.steps, _psnr(kept.restored, clear), color=COLOURS["restored"], label="network")
    for k, (colour, panel) in enumerate(zip(colours, pasts, strict=False)):
        part = table[table.history == k + 1]
        quality.plot(kept.steps, _psnr(kept.negatives[:, k], clear), color=colour, lw=1, label=f"past {k + 1}")
        age.plot(part.step, part.age, color=colour, lw=1, marker="o", markersize=2)
        lines = {"lw": 1.3, "markersize": 2}
        panel.plot(part.step, part.progress, "o-", color=COLOURS["restored"], label="progress", **lines)
        panel.plot(part.step, part.gap, "s--", color=COLOURS["history"], label="gap", **lines)
        for helps, fill in ((part.progress > part.gap, "towards"), (part.progress <= part.gap, "away")):
            shade = {"color": COLOURS[fill], "alpha": 0.3, "lw": 0, "interpolate": True}
            panel.fill_between(part.step, part.progress, part.gap, where=helps, **shade)
        panel.set_yscale("symlog", linthresh=GREY_LEVEL, linscale=0.5)
        panel.set_title(f"past {k + 1}, {_refreshed(part)}")
    for panel in pasts[1:count]:
        panel.sharey(pasts[0])
    for panel in pasts[count:]:
        panel.set_axis_off()
    pasts[0].set_yticks([-1e-1, -1e-3, 0, 1e-3, 1e-1])
    pasts[0].set_ylabel("squared error (log)")
    quality.set(title="PSNR (dB)")
    age.set(title="Steps since the last refresh", xlabel="step")
    quality.legend(fontsize=6, loc="lower right")
    pasts[0].legend(fontsize=6, loc="lower left")
    return figure


def moments(found: Pushes) -> Figure:
    """One photograph at three moments: what the network made, what its past made, where they differ, what pushes.

    Args:
        found: of `history_analysis.pushes`; drawn are `three_moments`, with the history that is refreshed least often,
            and enlarged the square that the training changed most. Each row has scales of its own.
    """
    kept = found.kept
    change = (kept.restored[0] - kept.restored[-1]).abs().mean(0)[None]
    side = change.shape[-1] // 5
    places = functional.avg_pool2d(change, side, stride=4)[0]
    top, left = (4 * int(i) for i in np.unravel_index(int(places.argmax()), places.shape))
    corner = "lower left" if left > kept.gt.shape[-1] // 2 else "lower right"
    rows, labels = [], []
    for s in three_moments(found):
        now, past = kept.restored[s], kept.negatives[s, 0]
        apart = difference(now, past)
        limit = style.error_limit([apart], unit=0.002)
        row = {
            f"the network, {_psnr(now[None], kept.gt[None])[0]:.1f} dB": now,
            f"its past, {_psnr(past[None], kept.gt[None])[0]:.1f} dB": past,
            f"where they differ, up to {limit:.3g}": style.error_picture(apart, limit),
            PUSH: style.aim_picture(now, found.towards(found.push)[s]),
        }
        rows.append({name: style.with_zoom(image, (top, left, side), corner) for name, image in row.items()})
        labels.append(f"step {kept.steps[s]}")
    sources = {"degraded": enlarge(kept.lq, kept.gt), "ground truth": kept.gt}
    first = [{name: style.with_zoom(image, (top, left, side), corner)} for name, image in sources.items()]
    first.append({"": np.ones_like(first[0]["degraded"])})
    figure = image_grid([one | row for one, row in zip(first, rows, strict=False)], labels)
    lines = (("The push", "black"), ("blue: to the ground truth", COLOURS["towards"]), ("gold: away", COLOURS["away"]))
    for axes in [axes for axes in figure.axes if not axes.get_title()]:
        for line, (text, colour) in enumerate(lines):
            axes.text(0.5, 0.6 - 0.12 * line, text, color=colour, ha="center", transform=axes.transAxes)
    return figure


def three_moments(found: Pushes) -> list[int]:
    """Indices of an early moment, one after a third of them, and the last."""
    last = len(found.kept.steps) - 1
    return sorted({min(1, last), last // 3, last})


def _psnr(images: Tensor, gt: Tensor) -> list[float]:
    return [metrics.psnr(image, true) for image, true in zip(images.clamp(0, 1), gt, strict=True)]


@styled
def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations with the error over the steps.

    Args:
        table: of `history_analysis.spread_over_time`.
    """
    figure, (axes,) = panels(8, 2.6, 1)
    lines = {
        "spread": ("spread of the histories", "history", "o-"),
        "edges": ("rival: edges of the restored image", "plain", "s:"),
        "change": ("rival: |restored - lq|", "lq", "D:"),
        "spread_beyond": ("spread, both rivals taken out", "restored", "^--"),
    }
    for column, (label, role, line) in lines.items():
        axes.plot(table["step"], table[column], line, label=label, color=COLOURS[role], markersize=4)
    axes.axhline(0, color=COLOURS["plain"], linewidth=1)
    axes.set(xlabel="step", ylabel="rank correlation with the error", ylim=(-1, 1))
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def by_groups(tables: dict[str, pd.DataFrame], *, by: str, mean: str) -> Figure:
    """Means over equal groups of pixels, one line per table.

    Args:
        tables: {name: table of `history_analysis.grouped`}.
        by: what the pixels are ordered by, for the axis.
        mean: what is averaged, for the axis.
    """
    figure, (axes,) = panels(6, 2.6, 1)
    for (name, table), marker in zip(tables.items(), MARKERS * len(tables), strict=False):
        axes.plot(range(1, len(table) + 1), table["mean"], marker=marker, markersize=4, label=name)
    count = max(map(len, tables.values()))
    axes.axhline(0, color=COLOURS["plain"], linewidth=1)
    axes.set(xticks=range(1, count + 1), ylabel=mean)
    axes.set_xlabel(f"{count} equal groups of pixels, from the least to the greatest {by}")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
