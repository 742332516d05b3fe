"""One visual language for figures and widgets: colours, the style of plots, and images as arrays and as JPEG.

Colours keep their role everywhere (Okabe and Ito's palette, safe for colour-blind readers). Images are shown
on a fixed 0..1 scale; error maps share one scale.
"""

import functools
import io
import math
import zlib
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
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
    "away": "#8C510A",  # from the ground truth; towards it is green, as gt
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
}
MORE_ARMS = ("#8C564B", "#332288", "#44AA99", "#E377C2", "#7F7F00", "#A6761D", "#661100", "#6699CC")
HISTORIES = ("#7F2704", "#D55E00", "#F28E54", "#F9C39B")  # history models, slowest first
MARKERS = "os^Dv<>PX*"
DPI = 110  # 10 inches are 1100 pixels
ERROR_MAP = "inferno"
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


def arm_colour(name: str) -> str:
    """The colour of an arm: that of `ARMS`, else one that depends on the name alone."""
    return ARMS.get(name) or MORE_ARMS[zlib.crc32(name.encode()) % len(MORE_ARMS)]


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
    """Any image of this workbook as an array to be shown.

    Args:
        image: tensor or array, (3, H, W), (1, 3, H, W), (H, W, 3), (1, H, W), (H, W); float [0, 1] or uint8.
        name: what to call it in an error message.

    Returns:
        (H, W, 3) float32, clipped to [0, 1].

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    array = image.detach().cpu().float().numpy() if hasattr(image, "detach") else np.asarray(image)
    shape, whole = array.shape, str(getattr(image, "dtype", "")).endswith("uint8")
    array = array / 255 if whole else array
    array = array[0] if array.ndim == 4 and shape[0] == 1 else array
    array = array[..., None] if array.ndim == 2 else array
    first = array.ndim == 3 and array.shape[0] in (1, 3)
    if first and (hasattr(image, "detach") or array.shape[-1] not in (1, 3)):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise ValueError(
            f"{name} has shape {shape}; it must be one RGB image, (3, H, W) or (H, W, 3), or one grey (H, W)"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has NaN or infinite values; look at the network that made it")
    return np.broadcast_to(np.clip(array, 0, 1), (*array.shape[:2], 3)).astype(np.float32)


def difference(one, other) -> np.ndarray:
    """Mean over R, G, B of |one - other|, (H, W) in [0, 1]; ValueError for images of different sizes."""
    one, other = picture(one, "the first image"), picture(other, "the second image")
    if one.shape != other.shape:
        raise ValueError(
            f"images of {one.shape[:2]} and {other.shape[:2]} pixels cannot be compared; crop or resize one"
        )
    return np.abs(one - other).mean(-1)


def error_limit(errors) -> float:
    """One upper end for several error maps: their 99.5 percentile, rounded up to 0.02, at least 0.02."""
    top = max(float(np.percentile(error, 99.5)) for error in errors)
    return max(0.02, math.ceil(round(top / 0.02, 6)) * 0.02)


def error_picture(error: np.ndarray, limit: float) -> np.ndarray:
    """An error map (H, W) in colour, (H, W, 3) in [0, 1]; black is 0, the brightest is `limit` or more."""
    return matplotlib.colormaps[ERROR_MAP](np.clip(error / limit, 0, 1))[..., :3].astype(np.float32)


def aim_picture(image, towards) -> np.ndarray:
    """A direction drawn on a picture, (H, W, 3) in [0, 1]: green where it leads to the ground truth, brown where away.

    Args:
        image: what it acts on, as `picture` accepts it; shown pale and grey.
        towards: (H, W), how far it leads towards gt (above 0) or away from it; the scale is the map's own, so that a
            late moment is as bright as an early one.
    """
    values = np.asarray(towards, dtype=np.float32)
    strength = np.abs(values) / max(float(np.quantile(np.abs(values), 0.97)), 1e-12)
    opacity = np.clip(strength, 0, 1)[..., None]
    colour = np.where(values[..., None] > 0, to_rgb(COLOURS["gt"]), to_rgb(COLOURS["away"]))
    return ((1 - opacity) * (0.6 + 0.38 * picture(image).mean(-1, keepdims=True)) + opacity * colour).astype(np.float32)


def with_zoom(image, box: tuple[int, int, int], corner: str = "lower right") -> np.ndarray:
    """An image enlarged twice, with a square of it marked and shown again in a corner, twice as large as around it.

    Args:
        image: as `picture` accepts it.
        box: (top, left, side) of the square, in pixels of the image.
        corner: "lower right" or "lower left".

    Raises:
        ValueError: the square leaves the image.
    """
    top, left, side = box
    shown = picture(image)
    height, width = shown.shape[:2]
    if not (0 <= top <= height - side and 0 <= left <= width - side and side > 0):
        raise ValueError(f"the square {box} leaves the {height} x {width} pixels of the image; give top, left, side")
    large = shown.repeat(2, 0).repeat(2, 1)
    inset = shown[top : top + side, left : left + side].repeat(4, 0).repeat(4, 1)[-large.shape[0] :, -large.shape[1] :]
    across = slice(-inset.shape[1], None) if corner == "lower right" else slice(0, inset.shape[1])
    marked = large[2 * top : 2 * (top + side), 2 * left : 2 * (left + side)]
    for part in (marked, inset):
        part[:2] = part[-2:] = part[:, :2] = part[:, -2:] = 1
    large[-inset.shape[0] :, across] = inset
    return large


def encode(image, quality: int = 90) -> bytes:
    """An image as `picture` accepts it, as JPEG without colour subsampling, for 1 ms at 512 pixels."""
    levels = (picture(image) * 255 + 0.5).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "jpeg", quality=quality, subsampling=0)
    return stream.getvalue()


def render(figure: Figure, form: str = "jpeg", colours: int | None = None) -> bytes:
    """A figure as JPEG (small for photographs) or PNG (sharp for lines), at its own resolution.

    Args:
        figure: a matplotlib `Figure`.
        form: "jpeg" or "png".
        colours: 2 to 256 gives a PNG a palette of so many: a plot looks the same and takes a third of the room.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    stream = io.BytesIO()
    options = {"quality": 85} if form == "jpeg" else {"optimize": True}
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if colours and form == "png":
        image = image.quantize(colours, dither=Image.Dither.NONE)
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
