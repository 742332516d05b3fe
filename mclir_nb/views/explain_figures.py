"""What notebook 01 draws: the loss on numbers one can check by hand, the ages of histories, a watched run."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mclir_nb.experiments.trajectory import Watched
from mclir_nb.views.style import COLOURS, HISTORIES, history_colours, panels, styled


@styled
def number_pictures(tables: dict, roles: Sequence[str]) -> Figure:
    """Small grey pictures with their values written into the pixels, in a row.

    Args:
        tables: {name: (h, w) values in [0, 1]}, at most six of at most 6 x 6 pixels.
        roles: of each picture, keys of `style.COLOURS`, for its frame and name.
    """
    figure, places = panels(1.75 * len(tables), 2.0, len(tables))
    for panel, (name, table), role in zip(places, tables.items(), roles, strict=True):
        values = np.asarray(table, dtype=float)
        panel.imshow(values, cmap="gray", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 0.5 else "black"
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
        panel.set(xticks=[], yticks=[])
        panel.grid(False)
        panel.spines[:].set(visible=True, color=COLOURS[role], linewidth=2.5)
        panel.set_title(name, color=COLOURS[role], fontsize=10)
    return figure


@styled
def age_curves(schedules: dict[str, pd.DataFrame]) -> Figure:
    """Ages of the histories over training, one panel per schedule; dashed: the age of the very first copy.

    Args:
        schedules: {title: table of `history_analysis.ages`}.
    """
    figure, places = panels(10, 2.8, len(schedules))
    for panel, (title, table) in zip(places, schedules.items(), strict=True):
        columns = table.columns[1:]
        for column, colour in zip(columns, history_colours(len(columns)), strict=True):
            panel.plot(table.step, table[column], color=colour, lw=1.2, label=column)
        panel.plot(table.step, table.step, color=COLOURS["plain"], ls="--", lw=1, label="the first copy")
        panel.set(title=title, xlabel="training step", ylabel="age (steps)", ylim=(0, 1.02 * table.step.max()))
        panel.legend(fontsize=7, loc="upper left")
    return figure


@styled
def negatives_over_time(watched: Watched, fixed: dict[str, float]) -> Figure:
    """How good the negatives are while the model learns: PSNR of hand-made ones, of the histories, of the model.

    Args:
        watched: of `trajectory.watch`.
        fixed: {name: mean PSNR in dB} of negatives that do not change.
    """
    figure, (left, right) = panels(10, 3.0, 2)
    table, styles = watched.table, ("--", ":", "-.")
    for (name, value), style in zip(fixed.items(), styles, strict=False):
        left.axhline(value, color=COLOURS["lq"], ls=style, lw=1.4, label=name)
        right.plot(table.step, value - table.psnr, color=COLOURS["lq"], ls=style, lw=1.4)
    olds = [column for column in table if column.startswith("psnr_history")]
    for k, (column, colour) in enumerate(zip(olds, history_colours(len(olds)), strict=True), 1):
        left.plot(table.step, table[column], color=colour, lw=1.2, label=f"history {k}")
        right.plot(table.step, table[column] - table.psnr, color=colour, lw=1.2)
    left.plot(table.step, table.psnr, color=COLOURS["restored"], label="model")
    right.axhline(0, color=COLOURS["restored"])
    left.set(title="How good", xlabel="training step", ylabel="PSNR (dB)")
    right.set(title="Seen from the model", xlabel="training step", ylabel="negative - model (dB)")
    left.legend(fontsize=7, ncols=2, loc=(0.3, 0.62))
    return figure


@styled
def direction_of_push(watched: Watched, gains: pd.DataFrame) -> Figure:
    """Two measurements on a real network: does the push go the way the weights have gone, and does more of it help?

    Args:
        watched: of `trajectory.watch`.
        gains: of `trajectory.extrapolations`.
    """
    figure, (left, right) = panels(10, 3.0, 2)
    left.plot(watched.table.step, watched.table.alignment, color=COLOURS["history"], label="push from the past")
    left.plot(watched.table.step, watched.table.control, color=COLOURS["plain"], ls=":", label="push from noise")
    left.set(title="Push on the weights, and their recent movement", xlabel="training step", ylabel="cosine")
    left.legend(fontsize=7)
    shades = {-1: COLOURS["ema"], -0.5: "#E5BCD3", 0.5: HISTORIES[2], 1: HISTORIES[1]}
    for reach in gains.columns[1:]:
        label = f"{abs(reach):g} × further, away from the past" if reach > 0 else f"{-reach:g} × back, towards the past"
        right.plot(gains.step, gains[reach], color=shades.get(reach, COLOURS["plain"]), lw=1.3, label=label)
    right.axhline(0, color=COLOURS["restored"])
    right.set(title="Outputs moved further on, or back", xlabel="training step", ylabel="gain (dB)")
    right.legend(fontsize=7)
    return figure
