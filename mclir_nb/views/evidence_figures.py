"""Figures of evidence: paired differences, dose-response, gain beside cost, the probe, curves of arms."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mclir_nb.experiments import intervals, verdicts
from mclir_nb.views.style import ARMS, COLOURS, arm_styles, panels, styled

PANELS = 3  # side by side at most
NEAR = 0.4  # dB; what is nearer to zero is drawn on a linear scale, always
ALIKE, ASIDE = 0.03, 0.025  # costs that differ by less are drawn side by side; so far apart, of the axis
TICKS = (NEAR / 2, NEAR, 1, 2, 4, 10)  # dB, of an axis that is logarithmic beyond


@styled
def paired_differences(frame: pd.DataFrame, *, baseline: str = "plain") -> Figure:
    """Gains over the baseline in dB, seed by seed, their mean and its 95 % interval; the largest gain at the top.

    An arm with a run that diverged stands at the bottom: it has dots, but neither mean nor interval. Beside an arm that
    is far off, the axis is logarithmic outside of its middle.

    Args:
        frame: one row per arm and seed: `arm`, `seed`, `difference` (arm minus baseline, same seed). A column `weights`
            ("raw" or "ema") tells two kinds apart: the EMA is drawn, hollow, where its numbers differ. Of several
            settings (columns task, scale, network) each has a panel; more than three share one.
        baseline: name of the arm at zero.

    Raises:
        ValueError: for no rows.
    """
    if frame.empty:
        raise ValueError("the table of differences has no rows; give runs of the baseline and of another arm")
    looks, parts = arm_styles(frame["arm"]), _by_setting(frame)
    if len(parts) > PANELS:
        parts = {"": pd.concat(part.assign(arm=f"{where}: " + part["arm"]) for where, part in parts.items())}
    drawn = {where: _kinds(part) for where, part in parts.items()}
    height = 0.9 + 0.3 * max(part["arm"].nunique() for part in parts.values())
    figure, places = panels(10 if len(parts) > 1 else 8, height, len(parts))
    for axes, (where, kinds) in zip(places, drawn.items(), strict=True):
        first = next(iter(kinds.values())).groupby("arm")["difference"]
        gains = first.agg(lambda values: values.mean(skipna=False))  # NaN where a run diverged
        arms = list(gains.sort_values(ascending=False, kind="stable").index)
        axes.axvline(0, color=COLOURS["plain"], lw=1)
        for row, arm in enumerate(arms):
            for k, (kind, values) in enumerate(kinds.items()):
                own = values.loc[values["arm"] == arm, "difference"]
                y = row + (k - (len(kinds) - 1) / 2) * 0.4
                _interval(axes, own, y, looks[arm.rpartition(": ")[2]]["color"], kind, written=len(parts) == 1)
        axes.set(yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5), title=where)
        if len(parts) > 1 and first.size().max() == 1:
            axes.set_title(f"{where} (one seed: no interval)")
        both = "\nfilled: raw weights, hollow: EMA" if len(kinds) > 1 else ""
        axes.set_xlabel(f"difference to {baseline} (dB){both}")
        axes.grid(axis="y", visible=False)
        _see_small(axes, "x", gains.abs() + first.agg(_half))
    return figure


def _by_setting(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each task, scale and network, by its name in words."""
    if not set(intervals.SETTING) <= set(frame):
        return {"": frame}
    return {intervals.place(part.iloc[0]): part for _, part in frame.groupby(intervals.SETTING, sort=False)}


def _kinds(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Raw and EMA weights apart where they differ, else the raw ones alone."""
    if "weights" not in part:
        return {"": part}
    gains = part.groupby(["weights", "arm"])["difference"]
    found = gains.agg(["mean", _half])
    apart = "ema" in found.index and (found.loc["raw"] - found.loc["ema"]).abs().max(axis=None) >= verdicts.SAME
    return {kind: part[part["weights"] == kind] for kind in (["raw", "ema"] if apart else ["raw"])}


def _interval(axes, values: pd.Series, y: float, colour: str, kind: str, written: bool) -> None:
    """The dots of one arm, their mean and its interval, with the numbers written beside them; NaN: a run diverged."""
    if values.empty:
        return
    axes.plot(values, np.full(len(values), y + 0.16), "o", color=colour, alpha=0.5, markersize=3, mew=0)  # below it
    if lost := values.isna().sum():
        text, written = f"{lost} of {len(values)} diverged", True
    else:
        found = intervals.t_interval(values.to_numpy())
        fill = "white" if kind == "ema" else colour
        axes.errorbar(found["mean"], y, xerr=found["half"], fmt="o", color=colour, mfc=fill, markersize=5, capsize=3)
        spread = "one seed: no interval" if len(values) < 2 else f"± {found['half']:.3f}, {len(values)} seeds"
        text = f"{found['mean']:+.3f} {spread}"
    if written:
        text += ", EMA" * (kind == "ema")
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=colour)


@styled
def dose_response(table: pd.DataFrame) -> Figure:
    """Gain over plain training against the dose of SPN, and the opposite sign at its dose; a panel per setting.

    Raw weights are filled, EMA hollow; bars: 95 % over seeds. The dose is the one that was asked for; a grey line leads
    to the dose as measured inside the runs.

    Args:
        table: of `verdicts.results`; arms that have a dose and whose name begins with spn, and history-positive.

    Raises:
        ValueError: no arm has a dose.
    """
    spn = table["arm"].str.startswith("spn") | (table["arm"] == "history-positive")
    table = table[spn & table["dose"].notna()].sort_values("dose")
    if table.empty:
        raise ValueError("no arm of this table has a dose; give verdicts.results of a record such as D")
    parts = _by_setting(table)
    figure, places = panels(min(10, 5 * len(parts)), 3.4, len(parts))
    for axes, (where, part) in zip(places, parts.items(), strict=True):
        axes.axhline(0, color=COLOURS["plain"], lw=1)
        for towards, rows in part.groupby(part["arm"] == "history-positive"):
            colour, name = ARMS["history-positive" if towards else "spn"], "towards the past" if towards else "SPN"
            for kind, aside, fill in (("raw", 0.97, colour), ("ema", 1.03, "white")):
                label = f"{name}, {'raw weights' if kind == 'raw' else 'EMA'}"
                style = dict(color=colour, mfc=fill, capsize=3, markersize=5, lw=1, label=label)
                gain, half = rows[f"gain_{kind}"], rows[f"half_{kind}"]
                axes.errorbar(rows["dose"] * aside, gain, yerr=half.fillna(0), fmt="s" if towards else "o-", **style)
            for row in rows.itertuples():
                axes.plot([row.dose, row.dose_measured], [row.gain_raw] * 2, color="#bbbbbb", lw=1, zorder=0)
        doses = sorted(set(part["dose"]))
        axes.set(xscale="log", xlabel="dose: the term's part of a step / that of L1", title=where)
        axes.set_xticks(doses, [f"{dose:g}" for dose in doses])
        axes.minorticks_off()
        _name_lost(axes, part)
    places[0].set_ylabel("paired gain over plain (dB)")
    places[0].legend(fontsize=7)
    return figure


def _half(values: pd.Series) -> float:
    """Half of the interval around the mean of an arm's differences; 0 where there is none."""
    return float(np.nan_to_num(intervals.t_interval(values.to_numpy())["half"]))


def _see_small(axes, way: str, reach: pd.Series) -> None:
    """Make the x or y axis logarithmic beyond `NEAR`, and say so, lest an arm that reaches far hides the others.

    `reach`: how far from zero each arm is drawn, dB.
    """
    if reach.max() <= 1 or reach.median() > NEAR:
        return
    axis = axes.xaxis if way == "x" else axes.yaxis
    (axes.set_xscale if way == "x" else axes.set_yscale)("symlog", linthresh=NEAR)
    axis.set_major_locator(FixedLocator([0, *TICKS, *(-tick for tick in TICKS)]))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axes.set_title(f"{axes.get_title()} (logarithmic beyond {NEAR:g} dB)".strip())


def _name_lost(axes, part: pd.DataFrame) -> None:
    """Name below the title the arms of `verdicts.results` that have no gain."""
    if lost := list(part.loc[part["gain_raw"].isna(), "arm"]):
        axes.set_title(f"{axes.get_title()}\nnot drawn, a run diverged: {', '.join(lost)}")


@styled
def gain_beside_cost(table: pd.DataFrame) -> Figure:
    """Mean paired gain of every arm, raw weights, with its 95 % interval, against the cost of the run.

    Args:
        table: of `verdicts.results`; a panel per setting, of the first three where there are more.
    """
    parts, looks = _by_setting(table), arm_styles(table["arm"])
    shown = list(parts.items())[:PANELS]
    figure, places = panels(10 if len(shown) > 1 else 8, 3.6, len(shown))
    if len(parts) > PANELS:
        figure.suptitle(f"{PANELS} of {len(parts)} settings", fontsize=9)
    for axes, (where, part) in zip(places, shown, strict=True):
        axes.axhline(0, color=COLOURS["plain"], lw=1)
        part = part.sort_values("run_cost", kind="stable")
        alike = part.groupby((part["run_cost"].pct_change() > ALIKE).cumsum())  # stand side by side around their mean
        aside = alike.cumcount() - (alike["arm"].transform("size") - 1) / 2
        spread = alike["run_cost"].transform("mean") + ASIDE * np.ptp(part["run_cost"]) * aside
        for row, place in zip(part.itertuples(), spread, strict=True):
            own = row.arm == "spn"  # what the others are variants of: larger, and above them
            style = looks[row.arm] | {"linestyle": "none", "label": row.arm, "capsize": 3}
            style |= {"markersize": 8, "zorder": 4} if own else {"markersize": 5, "zorder": 3}
            axes.errorbar(place, row.gain_raw, yerr=row.half_raw, **style)
        around = "\n(arms of nearly one cost stand side by side)" if aside.any() else ""
        axes.set(xlabel=f"multiplications of the run / those of plain{around}", title=where)
        _see_small(axes, "y", part["gain_raw"].abs() + part["half_raw"].fillna(0))
        _name_lost(axes, part)
    places[0].set_ylabel("paired gain over plain (dB)")
    figure.legend(*places[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return figure


@styled
def probe(tables: Mapping[str, pd.DataFrame], directions: Sequence[str]) -> Figure:
    """Which directions help a held-out loss: mean cosine with its downhill direction, and its interval over seeds.

    Right of zero helps. Filled: while training plain; hollow: while training with SPN. A row per table and learning
    rate, a panel per task.

    Args:
        tables: {name of the weights that are moved: of `push_study.summary`}: task, rate, term, direction, seeds, mean,
            low, high. With one seed the interval is over the moments of a run; the title has the seeds of each term.
        directions: which, from top to bottom.
    """
    first = next(iter(tables.values()))
    tasks, rates = list(first["task"].unique())[:PANELS], first["rate"].unique()
    down = len(tables) * len(rates)
    figure, places = panels(10, down * (0.9 + 0.3 * len(directions)), len(tasks), down, sharey=True)
    for axes, (weights, rate, task) in zip(places, itertools.product(tables, rates, tasks), strict=True):
        axes.axvline(0, color=COLOURS["plain"], lw=1)
        table = tables[weights]
        shown = table[(table["task"] == task) & (table["rate"] == rate) & table["direction"].isin(directions)]
        if shown.empty:
            axes.text(0.5, 0.5, "not looked at", ha="center", transform=axes.transAxes)
        for row in shown.itertuples():
            y = directions.index(row.direction) + (0.15 if row.term == "spn" else -0.15)
            colour = COLOURS["history" if row.direction.startswith("push") else "restored"]
            style = dict(color=colour, mfc="white" if row.term == "spn" else colour, markersize=5, capsize=3)
            axes.errorbar(row.mean, y, xerr=row.high - row.mean, fmt="o", **style)
        at = f", rate: {rate}" if len(rates) > 1 else ""
        seeds = shown.groupby("term")["seeds"].max().reindex(first["term"].unique(), fill_value=0)
        counted = ", ".join(f"{term} {count}" for term, count in seeds.items())
        axes.set(title=f"{task}, {weights}{at}\nseeds: {counted}", xlabel="cosine with the downhill direction")
        axes.set(yticks=range(len(directions)), yticklabels=directions, ylim=(len(directions) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
    return figure


@styled
def arm_curves(curves: pd.DataFrame) -> Figure:
    """Validation PSNR of the EMA, the reconstruction loss, and r over the steps, means over seeds, a line per arm.

    A line ends where the first of its runs ends.

    Args:
        curves: of `run_tables.read` or a record, one setting.

    Raises:
        ValueError: for several.
    """
    if len(parts := _by_setting(curves)) > 1:
        raise ValueError(f"the curves are of {len(parts)} settings ({', '.join(parts)}); give those of one")
    figure, places = panels(10, 3, 3)
    shown = {"val_psnr_ema": "validation PSNR, EMA (dB)", "l_rec": "l_rec", "r": "r = λ l_neg / l_rec"}
    for axes, (column, label) in zip(places, shown.items(), strict=True):
        for arm, look in arm_styles(curves["arm"]).items():
            seeds = curves[curves["arm"] == arm].pivot(index="step", columns="seed", values=column)
            mean = seeds.mean(axis=1, skipna=False).dropna()
            if len(mean):  # plain has no r
                axes.plot(mean.index, mean, label=arm, markersize=3, lw=1, **look)
        axes.set(xlabel="step", ylabel=label, yscale="linear" if "psnr" in column else "log")
    figure.legend(*places[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return figure
