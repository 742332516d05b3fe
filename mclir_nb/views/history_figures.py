"""Figures of the history models: how far they lag over the steps, and means over groups of pixels."""

import pandas as pd
from matplotlib.figure import Figure

from mclir_nb.views.style import COLOURS, MARKERS, history_colours, styled

PANELS = {  # column of `history_analysis.over_time`: title, unit
    "weights": ("Weights", "|history - model| / |model|"),
    "pixels": ("Pixels", "mean |restored - negative|"),
    "features": ("Features", "share of l_neg, before the mean"),
}


@styled
def lags(table: pd.DataFrame) -> Figure:
    """How far each history is behind, in weights, pixels and features, and whether moving on from it helps.

    Args:
        table: one row per moment and history, from `history_analysis.over_time`.

    Returns:
        Figure, 10 inches wide. Moments at which a history equals the model, lag 0, have no place on a log scale and
        are left out.

    Raises:
        ValueError: for a table without rows.
    """
    if table.empty:
        raise ValueError("the table of lags has no rows; let a run keep at least one moment")
    figure = Figure((10, 2.7), layout="constrained")
    *logs, last = figure.subplots(1, len(PANELS) + 1)
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
        last.plot(part["step"], part["cosine"], **line)
    for axes, (title, unit) in zip(logs, PANELS.values(), strict=True):
        axes.set(title=title, xlabel="step", ylabel=unit, yscale="log")
    last.axhline(0, color=COLOURS["plain"], linewidth=1)
    last.set(title="Way come, way left", xlabel="step", ylabel="cosine; > 0: progress > gap", ylim=(-1, 1))
    logs[0].legend(fontsize=7)
    return figure


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
