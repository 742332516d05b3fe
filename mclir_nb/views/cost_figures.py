"""Figures of what a step costs and of what lower precision does; drawn from tables, never from a network."""

import pandas as pd
from matplotlib.figure import Figure

from mclir_nb.training import macs
from mclir_nb.views import style
from mclir_nb.views.style import MARKERS, history_colours, panels, styled

ARMS = {  # of `timing.compare`: what it is called, colour
    "reference SPN": ("reference SPN, four histories", style.MORE_ARMS[1]),
    "exact SPN": ("exact SPN, four histories", style.ARMS["spn"]),
    "sampled SPN": ("sampled SPN", style.ARMS["sampled"]),
    "plain": ("our plain step", style.ARMS["plain"]),
}


@styled
def prices(table: pd.DataFrame) -> Figure:
    """Time of a step per network, relative to the reference's plain step; a panel per number of threads.

    Args:
        table: as `timing.compare` returns it; columns network, threads, arm, ratio.
    """
    names, counts = list(dict.fromkeys(table.network)), sorted(set(table.threads))
    figure, places = panels(9, 1.6 + 0.62 * len(names), len(counts), sharex=True, sharey=True)
    for axes, threads in zip(places, counts, strict=True):
        mine = table[table.threads == threads]
        wide = mine.pivot(index="network", columns="arm", values="ratio").reindex(names)
        for place, (arm, (label, colour)) in enumerate(ARMS.items()):
            rows = [row + 0.2 * (place - 1.5) for row in range(len(wide))]
            axes.barh(rows, wide[arm], 0.18, color=colour, label=label, zorder=2)
        axes.axvline(1, color="black", linewidth=0.8, zorder=3)
        axes.set(yticks=range(len(wide)), yticklabels=wide.index)
        axes.set_title(f"{threads} thread{'s' * (threads > 1)}", loc="left")
        axes.grid(axis="y", visible=False)
    places[0].invert_yaxis()
    figure.supxlabel("time of a step / reference plain step", fontsize="medium")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def noise(table: pd.DataFrame) -> Figure:
    """The price of a step, counted in multiplications and measured, against the noise that an estimate adds to it.

    Args:
        table: as `gradient_fidelity.sampling_noise` returns it.
    """
    figure, places = panels(9, 3.8, 2, sharex=True, sharey=True)
    dearest = max(3, 1.1 * table[["counted", "measured"]].max(axis=None))
    for axes, column in zip(places, ("counted", "measured"), strict=True):
        for (name, rows), marker in zip(table.groupby("name", sort=False), MARKERS, strict=False):
            axes.plot(rows[column], 100 * rows.added, marker=marker, label=name)
            few, colour = "patches" in name, axes.lines[-1].get_color()
            for row in rows.itertuples():
                note = str(row.patches if few else row.every)
                left = "one" in name and row.every != 2  # to the right of which other estimates lie
                offset, side = ((0, -12), "center") if few else ((-6, -9), "right") if left else ((4, 4), "left")
                place, look = (getattr(row, column), 100 * row.added), dict(fontsize=7, color=colour, ha=side)
                axes.annotate(note, place, xytext=offset, textcoords="offset points", **look)
        axes.axvline(macs.PRICE, color="black", linewidth=0.8, linestyle="--")
        axes.set(xlim=(0.9, dearest), xlabel=f"{column} price of a step / plain step", xscale="log")
        ticks = [tick for tick in (1, 1.1, 1.25, 1.5, 2, 3, 5, 10) if tick <= dearest]
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    places[0].set_ylabel("added noise (%)")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


@styled
def profile(shares: pd.DataFrame) -> Figure:
    """Where the time of an exact SPN step goes: one bar per network.

    Args:
        shares: one row per network, one column per piece, as `timing.pieces`; each row adds up to 1.
    """
    figure, (axes,) = panels(9, 1.3 + 0.45 * len(shares), 1)
    left = shares.cumsum(axis=1) - shares
    for number, column in enumerate(shares):
        axes.barh(shares.index, shares[column], 0.6, left=left[column], color=f"C{number}", label=column, zorder=2)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of the step's time", xlim=(0, 1))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def cosines(table: pd.DataFrame) -> Figure:
    """How much of the SPN gradient is left in lower precision, while the histories come closer to the model.

    Args:
        table: as `gradient_fidelity.precisions_while_training` returns it.
    """
    figure, (left, right) = panels(10, 3.6, 2)
    for arm, marker in zip(table.arm.unique(), MARKERS, strict=False):
        mine = table[table.arm == arm]
        left.plot(mine.step, mine.cosine, marker=marker, label=arm)
    left.axhline(0.99, color="black", linewidth=0.8, linestyle="--")
    left.set(xlabel="step", ylabel="cosine with the float64 gradient", ylim=(-0.05, 1.05))
    left.legend(fontsize=8)
    once = table[table.arm == table.arm.iloc[0]]
    distances = [column for column in table if column.startswith("distance_")]
    for number, (column, colour) in enumerate(zip(distances, history_colours(len(distances)), strict=True), start=1):
        right.plot(once.step, once[column], marker="o", color=colour, label=f"history {number}")
    right.axhline(1e-3, color="black", linewidth=0.8, linestyle="--")
    right.set(xlabel="step", ylabel="mean |restored - negative|", yscale="log")
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
