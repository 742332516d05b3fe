"""Figures of the history models: how far they lag over the steps, and means over groups of pixels."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from mclir_nb.evaluation import metrics
from mclir_nb.evaluation.evaluate import enlarge
from mclir_nb.experiments.history_analysis import PUSH, Pushes
from mclir_nb.views.figures import image_grid
from mclir_nb.views.style import (
    COLOURS,
    MARKERS,
    aim_picture,
    difference,
    error_limit,
    error_picture,
    history_colours,
    styled,
    with_zoom,
)

PANELS = {  # column of `history_analysis.over_time`: title, unit
    "weights": ("Weights", "|history - model| / |model|"),
    "pixels": ("Pixels", "mean |restored - negative|"),
    "features": ("Features", "share of l_neg, before the mean"),
}
GREY_LEVEL = 255.0**-2  # squared error of one grey level: below it an axis of squared errors is linear


@styled
def lags(table: pd.DataFrame) -> Figure:
    """How far each history is behind, in weights, pixels and features.

    Args:
        table: one row per moment and history, from `history_analysis.over_time`.

    Returns:
        Figure, 8.6 inches wide. Moments at which a history equals the model, lag 0, have no place on a log scale and
        are left out.

    Raises:
        ValueError: for a table without rows.
    """
    if table.empty:
        raise ValueError("the table of lags has no rows; let a run keep at least one moment")
    figure = Figure((8.6, 2.7), layout="constrained")
    logs = figure.subplots(1, len(PANELS))
    histories = list(table.groupby("history"))
    for (number, part), colour in zip(histories, history_colours(len(histories)), strict=True):
        line = {"color": colour, "marker": MARKERS[(number - 1) % len(MARKERS)], "markersize": 3, "linewidth": 1}
        every = part["every"].iloc[0]
        label = f"every {int(every)} steps" if every and every == every else "never refreshed"
        if part["age"].isna().all():
            label = "adaptive rule"
        for axes, column in zip(logs, PANELS, strict=True):
            seen = part[part[column] > 0]
            axes.plot(seen["step"], seen[column], label=label, **line)
    for axes, (title, unit) in zip(logs, PANELS.values(), strict=True):
        axes.set(title=title, xlabel="step", ylabel=unit, yscale="log")
    logs[0].legend(fontsize=7)
    return figure


@styled
def progress_and_gap(found: Pushes) -> Figure:
    """PSNR and age over the steps, and for each history whether moving on from it helps: where progress exceeds gap.

    Args:
        found: of `history_analysis.pushes`.

    Returns:
        Figure, 8.6 inches wide: at the left the PSNR of the picture, the ages below; then a panel per history, green
        where progress > gap and brown where not.
    """
    kept, table = found.kept, found.table
    count = kept.negatives.shape[1]
    colours, steps = history_colours(count), kept.steps
    figure = Figure((8.6, 3.4), layout="constrained")
    panels = figure.subplots(2, 1 + (count + 1) // 2, sharex=True)
    quality, age = panels[:, 0]
    clear = kept.gt.expand_as(kept.restored).clamp(0, 1)
    quality.plot(steps, _psnr(kept.restored, clear), color=COLOURS["restored"], label="network")
    for k, colour in enumerate(colours):
        part = table[table.history == k + 1]
        quality.plot(steps, _psnr(kept.negatives[:, k], clear), color=colour, lw=1, label=f"past {k + 1}")
        age.plot(part.step, part.age, color=colour, lw=1, marker="o", markersize=2)
        panel = panels[:, 1:].flat[k]
        panel.plot(
            part.step, part.progress, color=COLOURS["restored"], lw=1.3, marker="o", markersize=2, label="progress"
        )
        panel.plot(
            part.step, part.gap, color=COLOURS["history"], lw=1.3, ls="--", marker="s", markersize=2, label="gap"
        )
        for helps, fill in ((part.progress > part.gap, "gt"), (part.progress <= part.gap, "away")):
            panel.fill_between(
                part.step, part.progress, part.gap, where=helps, color=COLOURS[fill], alpha=0.3, lw=0, interpolate=True
            )
        panel.set_yscale("symlog", linthresh=GREY_LEVEL, linscale=0.5)
        panel.set_title(f"past {k + 1}, every {part.every.iloc[0]} steps", color=colour)
    rest = panels[:, 1:].flat
    for panel in rest[1:count]:
        panel.sharey(rest[0])
    for panel in rest[count:]:
        panel.set_axis_off()
    rest[0].set_yticks([-1e-1, -1e-3, 0, 1e-3, 1e-1])
    quality.set(title="PSNR (dB)")
    age.set(title="Steps since the last refresh", xlabel="step")
    quality.legend(fontsize=6, loc="lower right")
    rest[0].legend(fontsize=6, loc="upper right")
    return figure


def moments(found: Pushes) -> Figure:
    """One photograph at three moments: what the network made, what its past made, where they differ, what pushes.

    Args:
        found: of `history_analysis.pushes`; drawn are an early moment, one after a third of them, and the last, with
            the history that is refreshed least often, and enlarged the square that the training changed most.

    Returns:
        Figure, 10 inches wide, one row per moment. Differences and pushes have a scale of their own in each row.
    """
    kept, last = found.kept, len(found.kept.steps) - 1
    change = (kept.restored[0] - kept.restored[last]).abs().mean(0)[None]
    side = change.shape[-1] // 5
    places = functional.avg_pool2d(change, side, stride=4)[0]
    top, left = (4 * int(i) for i in np.unravel_index(int(places.argmax()), places.shape))
    rows = []
    for s in sorted({min(1, last), last // 3, last}):
        now, past = kept.restored[s], kept.negatives[s, 0]
        apart = difference(now, past)
        limit = error_limit([apart])
        row = {
            f"the network, {_psnr(now[None], kept.gt[None])[0]:.1f} dB": now,
            f"its past, {_psnr(past[None], kept.gt[None])[0]:.1f} dB": past,
            f"where they differ, up to {limit:.2f}": error_picture(apart, limit),
            PUSH: aim_picture(now, found.towards(found.push)[s]),
        }
        corner = "lower left" if left > kept.gt.shape[-1] // 2 else "lower right"
        row = {name: with_zoom(image, (top, left, side), corner) for name, image in row.items()}
        rows.append((f"step {kept.steps[s]}", row))
    sources = {"degraded": enlarge(kept.lq, kept.gt), "ground truth": kept.gt}
    ends = {name: with_zoom(image, (top, left, side), corner) for name, image in sources.items()}
    blank = np.ones_like(ends["degraded"])
    first = [{name: image} for name, image in ends.items()] + [{"": blank}] * (len(rows) - 2)
    figure = image_grid([one | row for one, (_, row) in zip(first, rows, strict=False)], [name for name, _ in rows])
    for axes in figure.axes:
        if not axes.get_title():
            lines = (
                ("The push", "black"),
                ("green: to the ground truth", COLOURS["gt"]),
                ("brown: away", COLOURS["away"]),
            )
            for line, (text, colour) in enumerate(lines):
                axes.text(0.5, 0.6 - 0.12 * line, text, color=colour, ha="center", transform=axes.transAxes)
    return figure


def _psnr(images: Tensor, gt: Tensor) -> list[float]:
    return [metrics.psnr(image, true) for image, true in zip(images.clamp(0, 1), gt, strict=True)]


@styled
def correlations(table: pd.DataFrame) -> Figure:
    """Rank correlations with the error over the steps.

    Args:
        table: of `history_analysis.spread_over_time`.

    Returns:
        Figure, 8 inches wide.

    Raises:
        ValueError: for a table without rows.
    """
    if table.empty:
        raise ValueError("no moment has a spread to draw; let the run keep moments after its first steps")
    figure = Figure((8, 2.6), layout="constrained")
    axes = figure.subplots()
    lines = {
        "spread": ("spread of the histories", "history", "o", "-"),
        "edges": ("rival: edges of the restored image", "plain", "s", ":"),
        "change": ("rival: |restored - lq|", "lq", "D", ":"),
        "spread_beyond": ("spread, both rivals taken out", "restored", "^", "--"),
    }
    for column, (label, role, marker, style) in lines.items():
        x, y, colour = table["step"], table[column], COLOURS[role]
        axes.plot(x, y, label=label, color=colour, marker=marker, markersize=4, linestyle=style)
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

    Returns:
        Figure, 6 inches wide.

    Raises:
        ValueError: without a table.
    """
    if not tables:
        raise ValueError("there is no table to draw; give at least one {name: table}")
    figure = Figure((6, 2.6), layout="constrained")
    axes = figure.subplots()
    for (name, table), marker in zip(tables.items(), MARKERS * len(tables), strict=False):
        axes.plot(range(1, len(table) + 1), table["mean"], marker=marker, markersize=4, label=name)
    count = max(map(len, tables.values()))
    axes.axhline(0, color=COLOURS["plain"], linewidth=1)
    axes.set(xticks=range(1, count + 1), ylabel=mean)
    axes.set_xlabel(f"{count} equal groups of pixels, from the least to the greatest {by}")
    axes.legend(fontsize=7)
    return figure
