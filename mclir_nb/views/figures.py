"""Figures of pictures, and of one run: functions that take numbers or pictures and return a matplotlib `Figure`.

Pictures are enlarged by repeating pixels, never smoothed. Nothing here shows a figure or changes a global setting:
`notebook.show_figure` puts a figure on the page.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mclir_nb.views.style import (
    COLOURS,
    ERROR_MAP,
    SIGNED_MAP,
    difference,
    error_limit,
    panels,
    picture,
    show_image,
    styled,
)

WIDTH = 10.0  # inches, of the widest figure
BAND = (0.01, 0.1)  # in which the authors keep r


@styled
def image_grid(rows: list[dict], labels=None, *, panel: float = 2.4) -> Figure:
    """Pictures side by side, each with its name above it.

    Args:
        rows: one {name: image} per row, images as `style.picture` accepts them.
        labels: one name per row, written at its left.
        panel: largest width of a picture in inches.

    Raises:
        ValueError: without any picture.
    """
    cells: list = [[(name, picture(image, name), {}) for name, image in row.items()] for row in rows]
    return _table(cells, labels, panel=panel)[0]


@styled
def comparison(rows: list[dict], *, metric=None, width: float = WIDTH) -> Figure:
    """Test pictures, one per row: lq | restored | history 1.. | gt | error, the mean over R, G, B of |restored - gt|.

    Args:
        rows: of `evaluate.side_by_side`: `lq`, `restored`, `gt` and optionally `negatives`, as many in each row, and
            `name`. `lq` may be smaller than `gt`.
        metric: function (image, gt) -> dB of whole pictures, (H, W, 3) in [0, 1], for example `metrics.psnr`; written
            above every picture that has the size of gt.
        width: largest width in inches, at most 10.

    Raises:
        ValueError: for an unfit picture, or without any.
    """
    errors = [difference(row["restored"], row["gt"]) for row in rows]
    cells = []
    for row, error in zip(rows, errors, strict=True):
        images = {"lq": row["lq"], "restored": row["restored"]}
        images |= {f"history {k}": image for k, image in enumerate(row.get("negatives") or [], 1)}
        gt, line = picture(row["gt"], "gt"), list[tuple]()
        for name, image in images.items():
            image = picture(image, name)
            fits = metric and image.shape == gt.shape
            line.append((f"{name}\n{metric(image, gt):.2f} dB" if fits else name + "\n " * bool(metric), image, {}))
        options = {"vmax": error_limit(errors), "cmap": ERROR_MAP}
        blank = "\n " * bool(metric)
        cells.append([*line, ("gt" + blank, gt, {}), ("|restored - gt|" + blank, error, options)])
    names = [row.get("name", "") for row in rows]
    figure, table = _table(cells, names, lines=2 if metric else 1, right=0.55, width=width)
    top, bottom = table[0][-1].get_position(), table[-1][-1].get_position()
    inch = 1 / figure.get_figwidth()
    _scale(figure, table[-1][-1].images[0], (top.x1 + 0.06 * inch, bottom.y0, 0.1 * inch, top.y1 - bottom.y0))
    return figure


@styled
def maps(rows: list[dict], labels=None, *, limits: dict[str, float] | None = None, width: float = WIDTH) -> Figure:
    """Pictures and maps side by side, one row per picture or moment; a column of maps has one scale, shown below it.

    Args:
        rows: one {name: image or map} per row; a (H, W) tensor or array is a map, all else a picture. A map with
            negative values makes its column a signed one: white is 0, blue above.
        labels: one name per row, written at its left.
        limits: {column: upper end of its scale}. All other maps of a kind, signed or not, share one, from the data.
        width: largest width in inches, at most 10.

    Raises:
        ValueError: without any picture, or for a map that is not finite.
    """
    shown = [{name: _map(x, name) if x.ndim == 2 else picture(x, name) for name, x in row.items()} for row in rows]
    columns = [*max(shown, key=len)] if shown else []
    scales = _scales(shown, columns, limits or {})
    cells = [[(name, row[name], scales.get(name, {})) if name in row else None for name in columns] for row in shown]
    figure, table = _table(cells, labels, bottom=0.3 if scales else 0.0, width=width)
    inch = 1 / figure.get_figheight()
    for place, name in enumerate(columns):
        if name in scales:
            box = table[-1][place].get_position()
            drawn = next(line[place].images[0] for line in table if line[place].images)
            _scale(figure, drawn, (box.x0 + 0.1 * box.width, box.y0 - 0.12 * inch, 0.8 * box.width, 0.07 * inch))
    return figure


def _map(values, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite values; look at what made it")
    return values


def _scales(shown: list[dict], columns: list[str], limits: dict[str, float]) -> dict[str, dict]:
    """Options of `imshow` for every column of maps: one scale per kind, unless a limit is given."""
    columns = [name for name in columns if next(row[name] for row in shown if name in row).ndim == 2]
    values = {name: np.concatenate([row[name].ravel() for row in shown if name in row]) for name in columns}
    signed = {name: values[name].min() < 0 for name in columns}
    scales = {}
    for name in columns:
        alike = np.concatenate([values[other] for other in columns if signed[other] == signed[name]])
        top = max(float(np.percentile(np.abs(alike), 99.5)), 1e-6)
        unit = 10.0 ** (math.floor(math.log10(top)) - 1)  # rounded up to two digits
        limit = limits.get(name) or math.ceil(round(top / unit, 6)) * unit
        low, colours = (-limit, SIGNED_MAP) if signed[name] else (0, ERROR_MAP)
        scales[name] = {"vmin": low, "vmax": limit, "cmap": colours}
    return scales


def _scale(figure: Figure, drawn, place) -> None:
    """The scale of maps at (left, bottom, width, height), upright or lying."""
    lying = place[2] * figure.get_figwidth() > place[3] * figure.get_figheight()
    bar = figure.colorbar(drawn, cax=figure.add_axes(place), orientation="horizontal" if lying else "vertical")
    bar.ax.tick_params(labelsize=7, pad=1, length=2)
    bar.ax.grid(False)
    if lying:  # few ticks, and those at the ends within the column, clear of its neighbour
        ticks = sorted({*drawn.get_clim(), 0.0})
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        bar.ax.get_xticklabels()[0].set_horizontalalignment("left")
        bar.ax.get_xticklabels()[-1].set_horizontalalignment("right")


def _table(rows, labels, *, lines=1, right=0.0, bottom=0.0, width=WIDTH, panel=2.4):
    """A figure and its panels, placed to the hundredth of an inch: no layout engine guesses.

    Each row of (title, image, options of `imshow`), None for an empty place, is as high as its tallest picture, with
    room for `lines` of title. Margins, width and the largest panel are in inches.
    """
    if not rows or not all(rows):
        raise ValueError("there is no picture to show; give at least one {name: image} per row")
    columns, left, gap, head = max(map(len, rows)), 0.25 if labels else 0.0, 0.04, 0.08 + 0.14 * lines
    inches = min(panel, (width - left - right) / columns - gap)
    heights = [inches * max(cell[1].shape[0] / cell[1].shape[1] for cell in row if cell) for row in rows]
    size = (left + columns * (inches + gap) + right, sum(heights) + (head + gap) * len(heights) + bottom)
    figure, top, table = Figure(size), size[1], []
    for row, height, label in zip(rows, heights, labels or [""] * len(rows), strict=True):
        top -= head + height
        boxes = [(left + c * (inches + gap), top, inches, height) for c in range(columns)]
        table.append([figure.add_axes((x / size[0], y / size[1], w / size[0], h / size[1])) for x, y, w, h in boxes])
        for axes, cell in zip(table[-1], [*row, *[None] * (columns - len(row))], strict=True):
            if cell is None:
                axes.set_axis_off()
                continue
            title, image, options = cell
            shrunk = axes.get_window_extent().width < image.shape[1]
            show_image(axes, image, title, interpolation="antialiased" if shrunk else "nearest", **options)
        table[-1][0].set_ylabel(str(label), fontsize=8, parse_math=False)
        top -= gap
    return figure, table


LOG_PANELS = (  # title, unit, scale, {column of a run's log: (name, colour's role)}
    ("Loss", "value, log scale", "log", {"l_rec": ("l_rec (pull)", "gt"), "l_neg": ("l_neg (push)", "history")}),
    (
        "Push beside pull",
        "ratio, log scale",
        "log",
        {
            "r": ("r, of the values", "history"),
            "image_ratio": ("of the gradients, at the image", "lq"),
            "dose": ("dose: in the update", "ema"),
        },
    ),
    (
        "Validation",
        "PSNR (dB)",
        "linear",
        {"val_psnr": ("raw weights", "restored"), "val_psnr_ema": ("EMA weights", "ema")},
    ),
    ("Learning rate", "lr", "linear", {"lr": ("lr", "plain")}),
)


@styled
def curves(log: pd.DataFrame) -> Figure:
    """What a training run logged: losses, the push beside the pull, validation PSNR and learning rate over the steps.

    The push beside the pull has three sizes: r = lambda l_neg / l_rec, a ratio of values, which the authors keep within
    `BAND`; the ratio of the two gradients at the image; and the dose, the ratio in the update.

    Args:
        log: one row per logged step: `step` and any of `l_rec`, `l_neg`, `r`, `image_ratio`, `dose`, `val_psnr`,
            `val_psnr_ema`, `lr`; NaN where nothing was measured. A panel without data is left out.

    Raises:
        ValueError: if there is nothing to draw.
    """
    found = []
    for title, unit, scale, lines in LOG_PANELS:
        measured = {column: log.set_index("step")[column].dropna() for column in lines if column in log}
        if scale == "log":
            measured = {column: values[values > 0] for column, values in measured.items()}
        if measured := {column: values for column, values in measured.items() if len(values)}:
            found.append((title, unit, scale, [(values, *lines[column]) for column, values in measured.items()]))
    if not found:
        raise ValueError("the log has no values to draw; train for at least one logging step")
    across = min(len(found), 2)
    down = -(-len(found) // across)
    figure, places = panels(4.3 * across, 2.5 * down, across, down)
    for axes in places[len(found) :]:
        axes.remove()
    for axes, (title, unit, scale, drawn) in zip(places, found, strict=False):
        for values, label, role in drawn:
            marker = "o" if len(values) < 30 else ""
            axes.plot(values.index, values, label=label, color=COLOURS[role], marker=marker, markersize=3)
        if title == "Push beside pull":
            label = f"authors' range {BAND[0]:g} to {BAND[1]:g}"
            axes.axhspan(*BAND, color=COLOURS["band"], alpha=0.35, lw=0, label=label)
        axes.set(title=title, xlabel="step", ylabel=unit, yscale=scale)
        axes.ticklabel_format(axis="x", style="plain")
        if title == "Push beside pull":  # its lines leave no room for four names: a third more, above them
            low, high = axes.get_ylim()
            axes.set_ylim(low, high * (high / low) ** 0.35)
            axes.legend(fontsize=7, loc="upper left", ncols=2, columnspacing=1, handlelength=1.3)
        else:
            axes.legend(fontsize=7)
    return figure
