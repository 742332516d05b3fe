"""The method drawn by code: one figure, used by the first notebooks and the README."""

from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mclir_nb.views.style import COLOURS, picture, styled


@styled
def schematic(lq=None, restored=None, negatives=(), gt=None) -> Figure:
    """The method on one page: pulled to gt, pushed away from what the model's own past makes of the same lq.

    Pictures for the boxes are optional; up to four `negatives`, the outputs of the history models, are shown.
    """
    figure = Figure((10, 4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10), ylim=(0, 4))
    axes.set_axis_off()
    for place, name, image in [((0.15, 2.5), "lq", lq), ((4.9, 2.5), "restored", restored), ((8.6, 2.5), "gt", gt)]:
        _box(axes, place, (1.25, 1.25), {"lq": "lq\ndegraded", "gt": "gt\nground truth"}.get(name, name), name, image)
    _box(axes, (2.25, 2.6), (1.6, 1.05), "model $f_\\theta$\nbeing trained", "restored")
    shown = list(negatives)[:4] or [None] * 4
    for k in reversed(range(len(shown))):
        front, x, y = k == 0, 0.11 * k, 0.09 * k
        _box(
            axes, (2.25 + x, 0.35 + y), (1.6, 0.95), "history models $f_{\\theta_k}$\nfrozen copies" * front, "history"
        )
        _box(axes, (4.9 + x, 0.35 + y), (0.95, 0.95), "negatives" * front, "history", shown[k])
    for start, end, role in [
        ((1.45, 3.12), (2.2, 3.12), "plain"),
        ((3.9, 3.12), (4.85, 3.12), "plain"),
        ((1.45, 2.45), (2.2, 1.35), "plain"),
        ((4.25, 0.82), (4.85, 0.82), "plain"),
        ((6.2, 3.12), (8.55, 3.12), "gt"),
    ]:
        _link(axes, start, end, COLOURS[role], width=3 if role == "gt" else 1.6)
    _link(axes, (2.7, 2.55), (2.7, 1.66), COLOURS["history"], dashed=True)
    _link(axes, (5.6, 1.7), (5.6, 2.4 if restored is None else 2.25), COLOURS["history"], width=3)
    _note(axes, 2.82, 2.1, "copy every $s_k$ steps\n$\\theta_k \\leftarrow d\\,\\theta_k + (1-d)\\,\\theta$", "history")
    _note(axes, 6.4, 3.45, r"pull:  $L_{rec} = |restored - gt\,|_1$", "gt")
    negative = r"$L_{neg} = \frac{1}{N}\sum_k\,\sum_l\, w_l\,|\phi_l(restored) - \phi_l(negative_k)|_1$"
    _note(axes, 5.85, 2.0, f"push:  {negative}", "history")
    _note(axes, 6.6, 1.2, r"$L = L_{rec} - \lambda\, L_{neg}$", "plain", size=17)
    _note(axes, 6.6, 0.62, "$\\phi$: a fixed feature network. No gradient\nflows into the negatives.", "plain")
    return figure


def _box(axes, corner, size, text: str, role: str, image=None) -> None:
    """A rounded box with a name in it, or a picture in it and the name below."""
    edge, (x, y), (w, h) = matplotlib.colors.to_rgb(COLOURS[role]), corner, size
    fill = tuple(0.85 + 0.15 * c for c in edge)  # opaque, so that a box hides what is behind it
    axes.add_patch(FancyBboxPatch(corner, w, h, "round,pad=0.03", facecolor=fill, edgecolor=edge, linewidth=1.6))
    if image is None:
        axes.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=10)
        return
    frame = axes.inset_axes((x, y, w, h), transform=axes.transData, zorder=2)
    frame.imshow(picture(image), interpolation="antialiased", aspect="auto")
    frame.set_axis_off()
    axes.text(x + w / 2, y - 0.08, text.split("\n")[0], ha="center", va="top", fontsize=9)


def _link(axes, start, end, colour: str, *, dashed: bool = False, width: float = 1.6) -> None:
    """An arrow of the schematic."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 10 + 4 * width, "shrinkA": 0, "shrinkB": 0}
    line = "--" if dashed else "-"
    axes.add_patch(FancyArrowPatch(start, end, color=colour, linestyle=line, linewidth=width, **style))


def _note(axes, x: float, y: float, text: str, role: str, size: int = 10) -> None:
    """Text of the schematic in the colour of its role, its left end at x."""
    axes.text(x, y, text, color=COLOURS[role], fontsize=size, ha="left", va="center")
