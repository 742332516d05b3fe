"""Figures of pictures, and of one run: functions that take numbers or pictures and return a matplotlib `Figure`.

Colours, style and scales are those of `style`. Pictures are enlarged by repeating pixels, never smoothed.
Nothing here shows a figure or changes a global setting: `notebook.show_figure` puts a figure on the page.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mclir_nb.views.style import COLOURS, ERROR_MAP, difference, error_limit, picture, styled

WIDTH = 10.0  # inches, of the widest figure


@styled
def image_grid(rows: list[dict], labels=None, *, panel: float = 2.4) -> Figure:
    """Pictures side by side, each with its name above it.

    Args:
        rows: one {name: image} per row, images as `style.picture` accepts them.
        labels: one name per row, written at its left.
        panel: largest width of a picture in inches.

    Returns:
        Figure, at most 10 inches wide.

    Raises:
        ValueError: without any picture.
    """
    _check_rows(rows)
    shown = [{name: picture(image, name) for name, image in row.items()} for row in rows]
    shapes = [[image.shape for image in row.values()] for row in shown]
    figure, table = _panels(shapes, max(map(len, shown)), left=0.25 if labels else 0.0, panel=panel)
    for panels, row in zip(table, shown, strict=True):
        for panel, (name, image) in zip(panels, row.items(), strict=False):
            _show(panel, image, name)
        for unused in panels[len(row) :]:
            unused.set_axis_off()
    _name_rows(table, labels)
    return figure


@styled
def comparison(
    rows: list[dict], *, crop=None, metric=None, unit: str = "dB", limit: float | None = None, width: float = WIDTH
) -> Figure:
    """Test pictures, one per row: lq | restored | history 1.. | gt | error, all showing the same crop.

    Args:
        rows: dicts with `lq`, `restored`, `gt` (images) and optionally `negatives` (a list: what the history
            models make of lq) and `name`. `lq` may be smaller than `gt` by a whole factor.
        crop: (top, left, height, width) in pixels of gt, or None for the whole picture.
        metric: function (image, gt) -> number, for example `metrics.psnr`. It gets whole pictures, (H, W, 3)
            in [0, 1], and its value is written above every picture that has the size of gt.
        unit: of the metric.
        limit: upper end of the error maps; None: from the data, one for all rows.
        width: largest width in inches, at most 10.

    Returns:
        Figure. The error is the mean over R, G, B of |restored - gt|.

    Raises:
        ValueError: for a missing or unfit picture, or a crop outside it.
    """
    _check_rows(rows)
    table = [_row(row, index) for index, row in enumerate(rows, 1)]
    errors = [_cut(difference(row["restored"], row["gt"]), crop, row["gt"].shape[:2]) for row in table]
    limit = limit or error_limit(errors)
    columns = [*max(table, key=len), "error"]
    shapes = [[error.shape] for error in errors]
    figure, panels = _panels(shapes, len(columns), lines=2 if metric else 1, left=0.25, right=0.55, width=width)
    for line, row, error in zip(panels, table, errors, strict=True):
        for panel, column in zip(line, columns[:-1], strict=False):
            if column in row:
                title = column + _score(row[column], row["gt"], metric, unit)
                _show(panel, _cut(row[column], crop, row["gt"].shape[:2]), title)
            else:
                panel.set_axis_off()
        drawn = _show(line[-1], error, "|restored - gt|" + "\n " * bool(metric), vmax=limit, cmap=ERROR_MAP)
    _name_rows(panels, [row.get("name", "") for row in rows])
    top, bottom = panels[0][-1].get_position(), panels[-1][-1].get_position()
    inch = 1 / figure.get_figwidth()
    _scale(figure, drawn, (top.x1 + 0.06 * inch, bottom.y0, 0.1 * inch, top.y1 - bottom.y0))
    return figure


def _row(row: dict, index: int) -> dict:
    """The pictures of one row by column name, in order, checked."""
    missing = {"lq", "restored", "gt"} - set(row)
    if missing:
        raise ValueError(f"row {index} has no {', '.join(sorted(missing))}; a row needs lq, restored and gt")
    pictures = {"lq": row["lq"], "restored": row["restored"]}
    pictures |= {f"history {k}": image for k, image in enumerate(row.get("negatives") or [], 1)}
    pictures = {name: picture(image, f"{name} of row {index}") for name, image in pictures.items()}
    gt = picture(row["gt"], f"gt of row {index}")
    for name, image in pictures.items():
        factors = [a / b for a, b in zip(gt.shape[:2], image.shape[:2], strict=True)]
        if factors != [1, 1] and (name != "lq" or factors[0] != factors[1] or factors[0] % 1):
            raise ValueError(
                f"{name} of row {index} is {image.shape[:2]} pixels and gt is {gt.shape[:2]}; they must be "
                "equal (lq: smaller by a whole factor), crop them first"
            )
    return pictures | {"gt": gt}


def _cut(image: np.ndarray, crop, size) -> np.ndarray:
    """The crop (top, left, height, width in pixels of gt) of an image that may be smaller by a factor."""
    if crop is None:
        return image
    top, left, height, width = crop
    if not (0 <= top and 0 <= left and 0 < height <= size[0] - top and 0 < width <= size[1] - left):
        raise ValueError(
            f"crop {tuple(crop)} leaves the {size} pixels of gt; give (top, left, height, width) inside it"
        )
    scale = size[0] / image.shape[0]
    rows = slice(int(top / scale), math.ceil((top + height) / scale))
    return image[rows, int(left / scale) : math.ceil((left + width) / scale)]


def _score(image, gt, metric, unit: str) -> str:
    """A second line of a title with the metric, empty where it has no meaning; no line without a metric."""
    if metric is None:
        return ""
    if image is gt or image.shape != gt.shape:
        return "\n "
    return f"\n{float(metric(image, gt)):.2f} {unit}"


@styled
def maps(rows: list[dict], labels=None, *, limits: dict[str, float] | None = None, width: float = WIDTH) -> Figure:
    """Pictures and maps side by side, one row per picture or moment; a column of maps has one scale, shown below it.

    Args:
        rows: one {name: image or map} per row; a (H, W) tensor or array is a map, all else a picture. A map with
            negative values makes its column a signed one: white is 0.
        labels: one name per row, written at its left.
        limits: {column: upper end of its scale}. All other maps of a kind, signed or not, share one, from the data.
        width: largest width in inches, at most 10.

    Returns:
        Figure.

    Raises:
        ValueError: without any picture, or for a map that is not finite.
    """
    _check_rows(rows)
    shown = [{name: _picture_or_map(image, name) for name, image in row.items()} for row in rows]
    columns = [*max(shown, key=len)]
    scales = _scales(shown, columns, limits or {})
    shapes = [[image.shape for image in row.values()] for row in shown]
    margins = {"left": 0.25 if labels else 0.0, "bottom": 0.3 if scales else 0.0}
    figure, table = _panels(shapes, len(columns), width=width, **margins)
    for place, name in enumerate(columns):
        for panels, row in zip(table, shown, strict=True):
            if name in row:
                drawn = _show(panels[place], row[name], name, **scales.get(name, {}))
            else:
                panels[place].set_axis_off()
        if name in scales:
            box, inch = table[-1][place].get_position(), 1 / figure.get_figheight()
            _scale(figure, drawn, (box.x0 + 0.1 * box.width, box.y0 - 0.12 * inch, 0.8 * box.width, 0.07 * inch))
    _name_rows(table, labels)
    return figure


def _picture_or_map(image, name: str) -> np.ndarray:
    """A map as it is, everything else as a picture."""
    if image.ndim != 2:
        return picture(image, name)
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has NaN or infinite values; look at what made it")
    return values


def _scales(shown: list[dict], columns: list[str], limits: dict[str, float]) -> dict[str, dict]:
    """Options of `imshow` for every column of maps: one scale per kind, unless a limit is given."""
    values = {name: [row[name] for row in shown if name in row] for name in columns}
    values = {name: column for name, column in values.items() if column[0].ndim == 2}
    signed = {name: min(image.min() for image in column) < 0 for name, column in values.items()}
    scales = {}
    for name in values:
        alike = [image for other in values if signed[other] == signed[name] for image in values[other]]
        limit = limits.get(name) or _upper_end(alike)
        low, colours = (-limit, "PuOr") if signed[name] else (0, ERROR_MAP)
        scales[name] = {"vmin": low, "vmax": limit, "cmap": colours}
    return scales


def _upper_end(values: list[np.ndarray]) -> float:
    """The 99.5 percentile of all sizes, rounded up to two digits; a millionth if all are zero."""
    top = max(float(np.percentile(np.abs(np.concatenate([v.ravel() for v in values])), 99.5)), 1e-6)
    unit = 10.0 ** (math.floor(math.log10(top)) - 1)
    return math.ceil(round(top / unit, 6)) * unit


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


def _check_rows(rows: list[dict]) -> None:
    if not rows or not all(rows):
        raise ValueError("there is no picture to show; give at least one {name: image} per row")


def _name_rows(table, labels) -> None:
    """The name of each row at its left."""
    for panels, label in zip(table, labels or [], strict=bool(labels)):
        panels[0].set_ylabel(str(label), fontsize=8, parse_math=False)


def _show(axes, image: np.ndarray, title: str = "", **options):
    """One picture without axes; enlarged by repeating pixels, shrunk with antialiasing."""
    shown = axes.get_window_extent().width
    options = {"interpolation": "antialiased" if shown < image.shape[1] else "nearest"} | options
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8, pad=3, parse_math=False)  # a picture may be called $a$
    return axes.imshow(image, **({"vmin": 0, "vmax": 1} | options))


def _panels(shapes, columns: int, *, lines=1, left=0.0, right=0.0, bottom=0.0, width=WIDTH, panel=2.4):
    """A figure and its panels, rows x columns, placed to the hundredth of an inch: no layout engine guesses.

    Each row is as high as its tallest picture, with room for `lines` of title. Margins, width and the largest
    panel are in inches.
    """
    gap, head = 0.04, 0.08 + 0.14 * lines
    inches = min(panel, (width - left - right) / columns - gap)
    heights = [inches * max(h / w for h, w, *_ in row) for row in shapes]
    size = (left + columns * (inches + gap) + right, sum(heights) + (head + gap) * len(heights) + bottom)
    figure, top, table = Figure(size), size[1], []
    for height in heights:
        top -= head + height
        boxes = [(left + c * (inches + gap), top, inches, height) for c in range(columns)]
        table.append([figure.add_axes((x / size[0], y / size[1], w / size[0], h / size[1])) for x, y, w, h in boxes])
        top -= gap
    return figure, table


LOG_PANELS = (  # title, unit, log scale, {column of a run's log: (name, colour's role)}
    ("Loss", "value, log scale", True, {"l_rec": ("l_rec (pull)", "gt"), "l_neg": ("l_neg (push)", "history")}),
    (
        "Push beside pull",
        "ratio, log scale",
        True,
        {
            "r": ("r, of the values", "history"),
            "image_ratio": ("of the gradients, at the image", "lq"),
            "dose": ("dose: in the update", "ema"),
        },
    ),
    (
        "Validation",
        "PSNR (dB)",
        False,
        {"val_psnr": ("raw weights", "restored"), "val_psnr_ema": ("EMA weights", "ema")},
    ),
    ("Learning rate", "lr", False, {"lr": ("lr", "plain")}),
)


@styled
def curves(log: pd.DataFrame, *, band: tuple[float, float] = (0.01, 0.1)) -> Figure:
    """What a training run logged: losses, the push beside the pull, validation PSNR and learning rate over the steps.

    The push beside the pull has three sizes: r = lambda l_neg / l_rec, a ratio of values, which the authors keep within
    `band`; the ratio of the two gradients at the image; and the dose, its share of the update.

    Args:
        log: one row per logged step: `step` and any of `l_rec`, `l_neg`, `r`, `image_ratio`, `dose`, `val_psnr`,
            `val_psnr_ema`, `lr`; NaN where nothing was measured. A panel without data is left out.
        band: the range of r to mark.

    Returns:
        Figure, 10 inches wide or less.

    Raises:
        ValueError: if the log has no step or nothing to draw.
    """
    if "step" not in log:
        raise ValueError(f"the log has no column step, only {', '.join(map(str, log.columns))}; give a run's log.csv")
    panels = [
        (title, unit, log_scale, lines)
        for title, unit, log_scale, columns in LOG_PANELS
        if (lines := _drawable(log, columns, log_scale))
    ]
    if not panels:
        raise ValueError("the log has no values to draw; train for at least one logging step")
    across = min(len(panels), 2)
    figure = Figure((4.3 * across, 2.5 * -(-len(panels) // across)), layout="constrained")
    all_axes = figure.subplots(-(-len(panels) // across), across, squeeze=False).flat
    for axes in all_axes[len(panels) :]:
        axes.remove()
    for axes, (title, unit, log_scale, lines) in zip(all_axes, panels, strict=False):
        for x, y, label, colour in lines:
            axes.plot(x, y, label=label, color=colour, marker="o" if len(x) < 30 else "", markersize=3)
        if title == "Push beside pull":
            label = f"authors' range {band[0]:g} to {band[1]:g}"
            axes.axhspan(*band, color=COLOURS["band"], alpha=0.35, lw=0, label=label)
        axes.set(title=title, xlabel="step", ylabel=unit, yscale="log" if log_scale else "linear")
        axes.ticklabel_format(axis="x", style="plain")
        axes.legend(fontsize=7)
    return figure


def _drawable(log: pd.DataFrame, lines: dict, log_scale: bool) -> list[tuple]:
    """(steps, values, label, colour) of every column that has something to show."""
    found = []
    for column, (label, role) in lines.items():
        if column in log:
            values = pd.to_numeric(log[column], errors="coerce").to_numpy(float)
            keep = np.isfinite(values) & (values > 0 if log_scale else True)
            if keep.any():
                found.append((log["step"].to_numpy()[keep], values[keep], label, COLOURS[role]))
    return found
