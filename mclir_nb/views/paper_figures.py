"""Figures in the layout of papers: gains by task and architecture, a picture with its crops, others' ablations."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from torch import Tensor

from mclir_nb.views.figures import WIDTH
from mclir_nb.views.style import COLOURS, MARKERS, SIGNED_MAP, difference, panels, picture, show_image, styled

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4)  # dB, of a logarithmic axis


@styled
def improvements(gains: pd.DataFrame, retrained: pd.DataFrame) -> Figure:
    """The paper's gains: a panel per task, a row per architecture, a dot per data set; logarithmic, for they span 200.

    Args:
        gains: of `paper.gains`.
        retrained: of `paper.retrainings`; where `same_recipe` is "yes", the distance of the retrained base from the
            quoted one is marked above the dot it belongs to.
    """
    tasks = [gains[gains["task"] == task] for task in gains["task"].unique()]
    same = retrained[retrained["same_recipe"] == "yes"]
    rows = [len(part.groupby(["network", "scale"])) + 1 for part in tasks]
    halves = [max(rows[0], rows[2]), max(rows[1], rows[3])]
    figure, places = panels(WIDTH, 4.6, 2, 2, sharex=True, height_ratios=halves)
    for axes, part in zip((places[k] for k in (0, 2, 1, 3)), tasks, strict=True):  # column by column
        _gains_of(axes, part, same)
        axes.set(xscale="log", xlim=(0.008, 5))
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel(
        "dots: gain of SPN as printed (dB); bars: how far one retraining of the base landed from the quoted value",
        fontsize=9,
    )
    return figure


def _gains_of(axes, part: pd.DataFrame, same: pd.DataFrame) -> None:
    """One task: rows are architectures in the order of the table, markers are data sets."""
    part = part.assign(label=(part["network"] + " " + part["scale"]).str.strip())
    place = {label: row for row, label in enumerate(part["label"].unique())}
    for number, (dataset, dots) in enumerate(part.groupby("dataset", sort=False)):
        aside = 0.1 * (number - (part["dataset"].nunique() - 1) / 2)  # equal gains stay visible
        rows = [place[label] + aside for label in dots["label"]]
        marker, colour = MARKERS[number], COLOURS[("restored", "history", "gt", "ema", "lq")[number]]
        axes.plot(dots["gain_db"], rows, marker, color=colour, markersize=6, mec="white", mew=0.5, label=dataset)
        found = dots.merge(same, on=["network", "scale", "dataset"])
        heights = [place[label] - 0.35 for label in found["label"]]
        axes.plot(found["difference_db"].abs(), heights, "|", color=colour, markersize=8, mew=2.5)
    axes.set(yticks=list(place.values()), yticklabels=list(place), ylim=(len(place) - 0.5, -0.6))
    axes.set_title(part["task"].iloc[0].replace("_", "-"), loc="left")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1)


@styled
def visual_comparison(
    gt,
    outputs: Mapping,
    box: tuple[int, int, int, int],
    *,
    score: Callable[[Tensor, Tensor], float] | None = None,
    signed: Mapping[str, Tensor] | None = None,
) -> Figure:
    """As papers show it: the whole picture with a box, and what every method made of the box, PSNR below.

    Args:
        gt: ground truth, an image as `style.picture` accepts it.
        outputs: {name: image of the size of gt}, in this order; gt is added at the end.
        box: (top, left, height, width) in pixels.
        score: (image, gt) -> dB, of whole pictures.
        signed: {name: (H, W) map}, cropped, at the end; white is 0, blue above.

    Raises:
        ValueError: for a box outside the picture, or outputs of another size.
    """
    whole, (top, left, height, width) = picture(gt, "gt"), box
    if not (0 <= top <= top + height <= whole.shape[0] and 0 <= left <= left + width <= whole.shape[1]):
        raise ValueError(f"box {box} leaves the picture of {whole.shape[:2]} pixels; give (top, left, height, width)")
    cut = (slice(top, top + height), slice(left, left + width))
    crops: list[tuple[str, np.ndarray, dict]] = []  # title, picture or map, options of imshow
    for name, image in (dict(outputs) | {"gt": gt}).items():
        difference(image, gt)  # another size is refused here
        told = f"\n{score(image, gt):.2f} dB" if score and name != "gt" else "\n "
        crops.append((name + told, picture(image)[cut], {}))
    limit = max((float(values.abs().quantile(0.995)) for values in (signed or {}).values()), default=1.0)
    for name, values in (signed or {}).items():
        crops.append((f"{name}\n± {limit:.2g}", values[cut].numpy(), dict(cmap=SIGNED_MAP, vmin=-limit, vmax=limit)))
    lines = 1 if len(crops) < 4 else 2
    columns = -(-len(crops) // lines)
    side = WIDTH * 0.58 / columns  # inches of a crop
    high = lines * (side * height / width + 0.42)
    figure = Figure((WIDTH, max(high, WIDTH * 0.4 * whole.shape[0] / whole.shape[1] + 0.3)), layout="constrained")
    left_part, right_part = figure.subfigures(1, 2, width_ratios=[0.41, 0.59], squeeze=False)[0]
    frame = left_part.subplots()
    show_image(frame, whole, "gt, the box enlarged", interpolation=_smooth(whole))
    frame.add_patch(Rectangle((left, top), width, height, fill=False, ec="#FFD400", lw=2))
    places = list(right_part.subplots(lines, columns, squeeze=False).flat)
    for (name, crop, options), axes in zip(crops, places, strict=False):
        show_image(axes, crop, interpolation=_smooth(crop), **options)
        axes.set_xlabel(name, fontsize=8, labelpad=2)
    for axes in places[len(crops) :]:
        axes.set_axis_off()
    return figure


def _smooth(image: np.ndarray) -> str:
    """Small pictures are enlarged by repeating pixels."""
    return "nearest" if image.shape[1] < 200 else "antialiased"


def busiest(values: Tensor, side: int) -> tuple[int, int, int, int]:
    """(top, left, side, side) of the square in which a map (H, W) is largest on average: nobody has to choose one."""
    mean = torch.nn.functional.avg_pool2d(values[None, None], side, 1)[0, 0]
    top, left = divmod(int(mean.argmax()), mean.shape[1])
    return top, left, side, side


@styled
def ablations(theirs: pd.DataFrame, ours: pd.DataFrame) -> Figure:
    """Another paper's ablations above, our own of the same questions below; their numbers are not ours to compare.

    Args:
        theirs: of neighbours.csv of data/paper: source, question, setting, psnr_db.
        ours: of `paper.our_ablations`: question, setting, mean, low, high (gain over plain, dB), record.
    """
    questions = list(theirs["question"].unique())
    figure, places = panels(WIDTH, 4.2, len(questions), 2, sharey="row")
    for axes, below, question in zip(places, places[len(questions) :], questions, strict=False):
        rows = theirs[theirs["question"] == question]
        axes.plot(
            [f"{x:g}" if isinstance(x, float) else str(x) for x in rows["setting"]],
            rows["psnr_db"],
            "o-",
            color=COLOURS["plain"],
        )
        axes.set_title(f"{question}, theirs: {rows['source'].iloc[0].split(' (')[0]}", loc="left")
        mine = ours[ours["question"] == question]
        below.axhline(0, color=COLOURS["plain"], lw=1)
        half = [mine["mean"] - mine["low"], mine["high"] - mine["mean"]]
        below.errorbar(mine["setting"], mine["mean"], yerr=half, fmt="o", capsize=3, color=COLOURS["restored"])
        record = f"record {mine['record'].iloc[0]}" if len(mine) else "not run"
        below.set_title(f"{question}, ours: {record}", loc="left")
        below.set_xlim(-0.5, len(mine) - 0.5)
    places[0].set_ylabel("PSNR (dB), single runs")
    places[len(questions)].set_ylabel("gain over plain (dB), 95 %")
    return figure
