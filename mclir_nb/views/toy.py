"""Two parameters instead of millions: descent, history models and the push, small enough to draw.

The landscape is a tilted valley, steep across and shallow along its floor, with the answer at the origin. Its
walls are straight, as those of an L1 loss: the pull has a largest value, so a push that is stronger wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mclir_nb.views.style import COLOURS, styled

START = (-1.75, -0.35)
TILT = np.deg2rad(25.0)
AXES = np.array([[np.cos(TILT), np.sin(TILT)], [-np.sin(TILT), np.cos(TILT)]])  # rows: along, across the valley
SLOPE = np.array([0.15, 1.0])  # how steep the walls are: along, across
ROUND = 0.1  # width of the rounded bottom
NEAR = 0.12  # half the side of the inset that shows the histories around the point


@dataclass(frozen=True)
class Descent:
    """One descent of T steps with K history models; entry t is the state before step t + 1."""

    lambda_neg: float  # weight of the push
    theta: np.ndarray  # (T + 1, 2), the path of the parameters
    history: np.ndarray  # (T + 1, K, 2), where the history models stand
    pull: np.ndarray  # (T + 1, 2), minus the gradient of l_rec
    push: np.ndarray  # (T + 1, 2), plus lambda_neg times the gradient of l_neg
    inertia: np.ndarray  # (T + 1, 2), what momentum adds to them, in the same units
    l_rec: np.ndarray  # (T + 1,), height of the landscape


def landscape(theta) -> np.ndarray:
    """l_rec of parameters (..., 2): sum over the two directions of slope (sqrt(x^2 + ROUND^2) - ROUND)."""
    x = np.asarray(theta, dtype=float) @ AXES.T
    return (SLOPE * (np.sqrt(x**2 + ROUND**2) - ROUND)).sum(-1)


def gradient(theta) -> np.ndarray:
    """Gradient of `landscape`, (..., 2)."""
    x = np.asarray(theta, dtype=float) @ AXES.T
    return (SLOPE * x / np.sqrt(x**2 + ROUND**2)) @ AXES


def descend(
    lambda_neg: float = 0.0,
    *,
    every=(16, 8, 4, 2),
    decay: float = 0.1,
    steps: int = 120,
    learning_rate: float = 0.05,
    momentum: float = 0.0,
    start=START,
) -> Descent:
    """Gradient descent on L = l_rec - lambda_neg l_neg, l_neg = mean over k of |theta - history_k|_1.

    The features are the parameters themselves. The gradient of l_neg is the mean of sign(theta - history_k):
    it points away from where the model was, and its size does not fade as the histories catch up.

    Args:
        lambda_neg: >= 0.
        every: steps between the refreshes of each history model.
        decay: weight a history model keeps of itself at a refresh, 0 to 1; it starts as an exact copy.
        momentum: heavy-ball momentum to compare with, 0 to below 1.

    Raises:
        ValueError: for a negative lambda, where push would be pull.
    """
    if lambda_neg < 0:
        raise ValueError(f"lambda_neg is {lambda_neg}; use 0 or more: the push leads away from the past")
    theta, velocity = np.array(start, dtype=float), np.zeros(2)
    history, rows = np.tile(theta, (len(every), 1)), []
    for step in range(1, steps + 2):
        pull = -gradient(theta)
        push = lambda_neg * np.sign(theta - history).mean(0)
        rows.append((theta, history, pull, push, momentum * velocity / learning_rate, landscape(theta)))
        velocity = momentum * velocity + learning_rate * (pull + push)
        theta = theta + velocity
        due = step % np.array(every, dtype=int) == 0
        history = np.where(due[:, None], decay * history + (1 - decay) * theta, history)
    return Descent(lambda_neg, *(np.array(column) for column in zip(*rows, strict=True)))


class Scene:
    """The toy's landscape drawn once; each frame adds only what moves, in a few milliseconds."""

    @styled
    def __init__(self, descents: Sequence[Descent]):
        figure, plain = Figure((7.6, 3.3), dpi=100, layout="constrained"), descents[0]
        self.canvas = FigureCanvasAgg(figure)
        self.map, graph = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_landscape(self.map, 1.9)
        self.map.set(aspect="equal")
        near = self.map.inset_axes((0.715, 0.02, 0.275, 0.38))  # where no arrow of the notebook goes
        near.set(xlim=(-NEAR, NEAR), ylim=(-NEAR, NEAR), xticks=[], yticks=[], aspect="equal")
        near.set_title("seen from the point", fontsize=7, pad=2)
        near.spines[:].set(visible=True, color=COLOURS["plain"])
        near.plot(0, 0, "o", color=COLOURS["restored"], markersize=6)
        self.map.plot(*plain.theta.T, color=COLOURS["plain"], lw=1, ls=":")
        graph.plot(plain.l_rec, color=COLOURS["plain"], ls=":", label=f"λ = {plain.lambda_neg:g}")
        highest = max(descent.l_rec.max() for descent in descents)
        graph.set(xlabel="step", ylabel="l_rec", xlim=(0, len(plain.theta) - 1), ylim=(0, 1.05 * highest))

        moving = {"animated": True, "zorder": 5}  # animated: left out of the background
        line = {"color": COLOURS["restored"], **moving}
        square = {"color": COLOURS["history"], "markersize": 7, "mfc": "none", "mew": 1.8, **moving}
        arrow = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.008, **moving}
        self.path = self.map.plot([], [], **line)[0]
        self.arrows = [self.map.quiver([0], [0], [0], [0], color=COLOURS[role], **arrow) for role in ("gt", "history")]
        self.olds, self.close = (axes.plot([], [], "s", **square)[0] for axes in (self.map, near))
        self.here = self.map.plot([], [], "o", markersize=8, **line)[0]
        self.trail = near.plot([], [], lw=1, **line)[0]
        self.curve = graph.plot([], [], label="chosen λ", **line)[0]
        self.dot = graph.plot([], [], "o", **line)[0]
        self.state = self.map.text(0.02, 0.93, "", transform=self.map.transAxes, **moving)
        graph.legend(loc="upper right")
        self.canvas.draw()
        self.size = self.canvas.get_width_height()[::-1]
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def pixels(self, descent, step: int) -> np.ndarray:
        """One frame, (H, W, 3) in [0, 1]. Arrows are 4 times as long as the forces, at most 1."""
        here, until = descent.theta[step], slice(0, step + 1)
        self.path.set_data(*descent.theta[until].T)
        self.olds.set_data(*descent.history[step].T)
        self.close.set_data(*(descent.history[step] - here).T)
        self.trail.set_data(*(descent.theta[until] - here).T)
        self.here.set_data(*here[:, None])
        for arrow, force in zip(self.arrows, (descent.pull[step], descent.push[step]), strict=True):
            arrow.set_offsets(here)
            arrow.set_UVC(*(4 * force[:, None] * min(1, 0.25 / np.maximum(np.linalg.norm(force), 1e-9))))
        self.curve.set_data(np.arange(step + 1), descent.l_rec[until])
        self.dot.set_data([step], [descent.l_rec[step]])
        self.state.set_text(f"λ = {descent.lambda_neg:g}, step {step}")
        self.canvas.restore_region(self.background)
        above = (self.trail, self.close, self.curve, self.dot, self.state)
        for artist in (self.path, *self.arrows, self.olds, self.here, *above):
            artist.axes.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())[..., :3] / 255


def _draw_landscape(axes, right: float) -> None:
    """The valley as contour lines from -2.1 to `right`, and the answer as a cross."""
    x, y = np.meshgrid(np.linspace(-2.1, right, 181), np.linspace(-1.3, 1.3, 105))
    axes.contour(x, y, landscape(np.stack([x, y], -1)), 14, colors="#bbbbbb", linewidths=0.7)
    axes.plot(0, 0, "x", color="black", markersize=9, mew=2)
    axes.set(xlabel="parameter 1", ylabel="parameter 2", xlim=(-2.1, right), ylim=(-1.3, 1.3))
    axes.grid(False)


@styled
def paths(descents: dict[str, Descent]) -> Figure:
    """At most five descents by name: their paths with the last history models, l_rec, and the size of the push."""
    figure = Figure((10, 3.0), layout="constrained")
    where, height, force = figure.subplots(1, 3, width_ratios=(3, 2, 2))
    _draw_landscape(where, 2.4)
    roles = ("plain", "history", "restored", "ema", "gt")
    for (name, descent), role in zip(descents.items(), roles, strict=False):
        colour, line = COLOURS[role], ":" if role == "plain" else "-"
        where.plot(*descent.theta.T, color=colour, lw=1.4, ls=line)
        where.plot(*descent.theta[-1], "o", color=colour, markersize=6)
        if descent.push.any():
            where.plot(*descent.history[-1].T, "s", color=colour, mfc="none", markersize=7)
        height.plot(descent.l_rec, color=colour, ls=line, label=name)
        force.plot(np.linalg.norm(descent.push + descent.inertia, axis=1), color=colour, ls=line)
    height.set(title="Pull: height of the landscape", xlabel="step", ylabel="l_rec")
    force.set(title="Push or momentum: its size", xlabel="step", ylabel="force beside the pull")
    height.legend(fontsize=7)
    return figure
