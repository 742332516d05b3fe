"""One visual language for figures and widgets: colours, the style of plots, and images as arrays and as JPEG.

Colours keep their role everywhere (Okabe and Ito's palette, and for signs a pair of blue and gold; a test holds that
colour-blind readers can tell that pair apart). Images are shown on a fixed 0..1 scale; error maps share one scale.
"""

import functools
import io
import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from PIL import Image

COLOURS = {
    "lq": "#56B4E9",
    "restored": "#0072B2",
    "history": "#D55E00",
    "gt": "#009E73",
    "plain": "#555555",
    "ema": "#CC79A7",
    "band": "#F0E442",
    "towards": "#4F78FF",  # the ground truth
    "away": "#B08700",  # from it; the complement, about as bright, so that equal parts of both look grey
}
ARMS = {  # of a comparison, the same in all figures; doses of SPN from light to dark
    "plain": COLOURS["plain"],
    "plain at equal cost": "#000000",
    "spn": COLOURS["restored"],
    "spn 0.02": "#9ECAE1",
    "spn 0.05": "#4A98C9",
    "spn 0.2": "#08519C",
    "spn 0.4": "#062F66",
    "history-positive": COLOURS["history"],
    "smooth": COLOURS["gt"],
    "sampled": COLOURS["lq"],
    "histories of the EMA": COLOURS["ema"],
    "oldest history": "#882255",
    "another's past": "#999933",
    "noise": "#B8A000",
    "vgg": "#117733",
    "cr": "#AA4499",
    "c2r": "#CC6677",
    "pcl": "#E69F00",
    "random network, frozen": "#802000",
    "first weights, frozen": "#806000",
}
# fmt: off
MORE_ARMS = (  # each as far as possible (CIEDE2000) from the arms above and from the ones before it
    "#6000E0", "#8080A0", "#006060", "#E00020", "#A08060",
    "#404000", "#8060E0", "#20A000", "#60A0A0", "#604080",
)
# fmt: on
LINES = ("-", "--", ":", "-.")
HISTORIES = ("#7F2704", "#D55E00", "#F28E54", "#F9C39B")  # history models, slowest first
MARKERS = "os^Dv<>PX*"
DPI = 110  # 10 inches are 1100 pixels
ERROR_MAP = "inferno"
SIGNED_MAP = LinearSegmentedColormap.from_list("signed", [COLOURS["away"], "white", COLOURS["towards"]])
STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "axes.prop_cycle": cycler(color=[COLOURS[k] for k in ("restored", "history", "gt", "ema", "lq", "plain")]),
}


def arm_styles(names: Iterable[str]) -> dict[str, dict]:
    """{name: color, marker and linestyle} of the arms of one figure, no two alike.

    An arm of `ARMS` looks the same in every figure. The others get MORE_ARMS in alphabetical order, and where there are
    more of them than colours, another line with every round.
    """
    names, styles = list(dict.fromkeys(names)), {}
    others = sorted(name for name in names if name not in ARMS)
    for name in names:
        number = list(ARMS).index(name) if name in ARMS else others.index(name)
        around, place = (0, number) if name in ARMS else divmod(number, len(MORE_ARMS))
        colour, line = ARMS.get(name, MORE_ARMS[place % len(MORE_ARMS)]), LINES[around % len(LINES)]
        styles[name] = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "linestyle": line}
    return styles


def panels(width: float, height: float, across: int, down: int = 1, **options) -> tuple[Figure, list]:
    """A figure (inches) and its panels in reading order; `options` of matplotlib's `subplots`."""
    figure = Figure((width, height), layout="constrained")
    return figure, list(figure.subplots(down, across, squeeze=False, **options).flat)


def show_image(axes, image: np.ndarray, title: str = "", **options):
    """One picture in [0, 1] without axes: `imshow` with its options."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8, pad=3, parse_math=False)  # a picture may be called $a$
    return axes.imshow(image, **{"vmin": 0, "vmax": 1} | options)


def history_colours(count: int) -> list:
    """Shades for so many history models, the slowest first and darkest."""
    if count <= len(HISTORIES):
        return list(HISTORIES[:count])
    return list(matplotlib.colormaps["YlOrBr"](np.linspace(0.95, 0.4, count)))


def styled(function):
    """Run a drawing function with STYLE and leave the reader's own settings alone."""

    @functools.wraps(function)
    def draw(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return draw


def picture(image, name: str = "image") -> np.ndarray:
    """Any image of this workbook as an array to be shown, (H, W, 3) float32, clipped to [0, 1].

    Args:
        image: tensor or array, (3, H, W), (1, 3, H, W), (H, W, 3), (1, H, W), (H, W); float [0, 1] or uint8.
        name: what an error message calls it.

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    tensor = hasattr(image, "detach")
    array = image.detach().cpu().float().numpy() if tensor else np.asarray(image)
    shape = array.shape
    if str(image.dtype).endswith("uint8"):
        array = array / 255
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[0] in (1, 3) and (tensor or array.shape[-1] not in (1, 3)):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise ValueError(f"{name} has shape {shape}; it must be one image, RGB (3, H, W) or (H, W, 3), or grey (H, W)")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite values; look at the network that made it")
    return np.broadcast_to(np.clip(array, 0, 1), (*array.shape[:2], 3)).astype(np.float32)


def difference(one, other) -> np.ndarray:
    """Mean over R, G, B of |one - other|, (H, W) in [0, 1]; ValueError for images of different sizes."""
    one, other = picture(one, "the first image"), picture(other, "the second image")
    if one.shape != other.shape:
        raise ValueError(f"images of {one.shape[:2]} and {other.shape[:2]} pixels cannot be compared; crop one")
    return np.abs(one - other).mean(-1)


def error_limit(errors, unit: float = 0.02) -> float:
    """One upper end for several error maps: their 99.5 percentile, rounded up to a multiple of `unit`, not 0."""
    top = max(float(np.percentile(error, 99.5)) for error in errors)
    return max(1, math.ceil(round(top / unit, 6))) * unit


def error_picture(error: np.ndarray, limit: float) -> np.ndarray:
    """An error map (H, W) in colour, (H, W, 3) in [0, 1]; black is 0, the brightest is `limit` or more."""
    return matplotlib.colormaps[ERROR_MAP](np.clip(error / limit, 0, 1))[..., :3].astype(np.float32)


def aim_picture(image, towards) -> np.ndarray:
    """A direction on a pale grey picture, (H, W, 3) in [0, 1]: blue where it leads to the truth, gold where away.

    `towards`, (H, W), is above 0 towards gt; its scale is its own, so that a late moment is as bright as an early one.
    """
    values = np.asarray(towards, dtype=np.float32)
    strength = np.abs(values) / max(float(np.quantile(np.abs(values), 0.97)), 1e-12)
    opacity = np.clip(strength, 0, 1)[..., None]
    colour = np.where(values[..., None] > 0, to_rgb(COLOURS["towards"]), to_rgb(COLOURS["away"]))
    return ((1 - opacity) * (0.6 + 0.38 * picture(image).mean(-1, keepdims=True)) + opacity * colour).astype(np.float32)


def with_zoom(image, box: tuple[int, int, int], corner: str = "lower right") -> np.ndarray:
    """An image enlarged twice, with a square of it marked and shown again in a corner, twice as large as around it.

    The box is (top, left, side) in pixels of the image, the corner "lower right" or "lower left".
    """
    top, left, side = box
    shown = picture(image)
    large = shown.repeat(2, 0).repeat(2, 1)
    inset = shown[top : top + side, left : left + side].repeat(4, 0).repeat(4, 1)[-large.shape[0] :, -large.shape[1] :]
    across = slice(-inset.shape[1], None) if corner == "lower right" else slice(0, inset.shape[1])
    marked = large[2 * top : 2 * (top + side), 2 * left : 2 * (left + side)]
    for part in (marked, inset):
        part[:2] = part[-2:] = part[:, :2] = part[:, -2:] = 1
    large[-inset.shape[0] :, across] = inset
    return large


def encode(image, quality: int = 90, side: int | None = None, subsampling: int = 0) -> bytes:
    """An image as `picture` accepts it, reduced to `side` pixels, as JPEG; subsampling 0: a colour for every pixel."""
    levels = Image.fromarray((picture(image) * 255 + 0.5).astype(np.uint8))
    if side:
        levels.thumbnail((side, side))
    stream = io.BytesIO()
    levels.save(stream, "jpeg", quality=quality, subsampling=subsampling)
    return stream.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """A figure at its own resolution, (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def render(figure: Figure, form: str = "jpeg", colours: int | None = None) -> bytes:
    """A figure as "jpeg" (small for photographs) or "png" (sharp for lines), at its own resolution.

    A PNG with a palette of so many `colours`, 2 to 256, looks the same for a plot and takes a third of the room.
    """
    image = Image.fromarray(pixels(figure))
    if colours and form == "png":
        image = image.quantize(colours, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    options = {"quality": 85} if form == "jpeg" else {"optimize": True}
    image.save(stream, form, **options)
    return stream.getvalue()


def export(figure: Figure, place: str | Path) -> list[Path]:
    """A figure as PLACE.pdf and PLACE.svg, for a paper or a talk; folders are made, older files replaced."""
    made = [Path(f"{place}.{form}").expanduser() for form in ("pdf", "svg")]
    made[0].parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):
        for file in made:
            figure.savefig(file, bbox_inches="tight")
    return made
