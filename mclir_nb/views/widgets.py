"""Live views, ipywidgets alone. Without somebody to move a slider each is a still picture with a caption.

A slider moves a picture in well under 50 ms: pictures are encoded once, or as JPEG in a few milliseconds, and
no figure is drawn anew. Every picture has alternative text; every slider and button works from the keyboard.
"""

import base64
import html
from typing import Any

import ipywidgets as w
import numpy as np
import torch

from mclir_nb.data import degrade
from mclir_nb.progress import is_watched
from mclir_nb.views import degradation_effects, toy
from mclir_nb.views.figures import image_grid
from mclir_nb.views.style import difference, encode, error_limit, error_picture, picture, render

PICTURE = "mclir-picture"  # CSS class of what changes when a slider moves
VIEW = "application/vnd.jupyter.widget-view+json"


class Live(w.VBox):
    """Widgets that also hold a still picture, which stands in their place wherever no kernel moves them.

    papermill and nbconvert store the still alone: a saved state of widgets would be drawn instead of it, and only by
    pages that load scripts from the network.

    Args:
        children: the widgets, top to bottom.
        still: the same story as a JPEG.
        caption: what to see, one or two sentences; also the alternative text of the still.
    """

    def __init__(self, children, still: bytes, caption: str):
        note = w.HTML(f'<div style="max-width:60em;line-height:1.4">{html.escape(caption)}</div>')
        super().__init__([*children, note], layout=w.Layout(align_items="flex-start"))
        self._still, self._caption = still, caption

    def _repr_mimebundle_(self, **kwargs):
        data = super()._repr_mimebundle_(**kwargs)
        data["text/plain"] = self._caption  # instead of the repr, which holds ids and changes
        data["image/jpeg"] = base64.b64encode(self._still).decode()
        if not is_watched():
            del data[VIEW]
        return data, {"image/jpeg": {"alt": self._caption}}


def _img(image, name: str, size: tuple[int, int]) -> str:
    """A picture as HTML, (height, width) on the screen, its name as alternative text; enlarged without smoothing."""
    shown = picture(image, name)
    source = base64.b64encode(encode(shown)).decode()
    rendering = "pixelated" if size[1] > shown.shape[1] else "auto"
    return (
        f'<img src="data:image/jpeg;base64,{source}" alt="{html.escape(name, quote=True)}" '
        f'height="{size[0]}" width="{size[1]}" decoding="sync" '
        f'style="image-rendering:{rendering};display:block;max-width:none">'
    )


def _titled(image, name: str, size: tuple[int, int]) -> str:
    """A picture with its name above it."""
    title = f'<div style="line-height:1.6">{html.escape(name)}</div>'
    return f'<div style="margin-right:6px">{title}{_img(image, name, size)}</div>'


def _side_by_side(*parts: str) -> str:
    """Pictures in a row that wraps on a narrow screen."""
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(parts)}</div>'


def _shown_size(image: np.ndarray, width: int) -> tuple[int, int]:
    """(height, width) on the screen: enlarged by a whole factor, or reduced, to keep within `width`."""
    factor = width // image.shape[1] or width / image.shape[1]
    return round(image.shape[0] * factor), round(image.shape[1] * factor)


def _slider(kind, description: str, **options):
    """A slider with its whole name beside it."""
    style = {"description_width": "13em"}
    return kind(description=description, style=style, layout=w.Layout(width="34em"), **options)


def _player(slider, count: int, name: str) -> w.Play:
    """A play button that moves a slider of `count` positions, in the browser."""
    play = w.Play(value=slider.index, min=0, max=count - 1, interval=250, tooltip=f"play: {name}")
    w.jslink((play, "value"), (slider, "index"))
    return play


def before_after(before, after, *, names=("before", "after"), width: int = 512, caption: str = "") -> Live:
    """Two pictures on top of each other; a slider wipes from one to the other.

    Both pictures are sent to the browser once: the slider only changes how much of the upper one is seen.

    Args:
        before: an image as `style.picture` accepts it.
        after: another of the same size.
        names: what they are.
        width: largest width on the screen in pixels; small pictures are enlarged by a whole factor.
        caption: what to see; what is left and right of the line is added.

    Returns:
        Live.

    Raises:
        ValueError: for pictures of different sizes.
    """
    one, two = picture(before, names[0]), picture(after, names[1])
    if one.shape != two.shape:
        raise ValueError(f"{names[0]} is {one.shape[:2]} pixels and {names[1]} is {two.shape[:2]}; enlarge or crop one")
    size = _shown_size(one, width)
    same_place = {"grid_area": "1 / 1 / 2 / 2", "margin": "0"}
    below = w.HTML(_img(two, names[1], size), layout=w.Layout(**same_place))
    picture_above = w.HTML(_img(one, names[0], size), layout=w.Layout(margin="0", flex="0 0 auto"))
    above = w.Box([picture_above], layout=w.Layout(overflow="hidden", border_right="2px solid white", **same_place))
    stack = w.GridBox([below, above], layout=w.Layout(width=f"{size[1]}px", height=f"{size[0]}px"))
    stack.add_class(PICTURE)
    slider = _slider(w.IntSlider, f"share of “{names[0]}” (%)", value=50, min=0, max=100, step=2)

    def wipe(_=None):
        above.layout.width = f"{size[1] * slider.value // 100}px"

    slider.observe(wipe, "value")
    wipe()
    text = f"{caption} Left of the line: {names[0]}; right of it: {names[1]}.".strip()
    return Live([slider, stack], render(image_grid([{names[0]: one, names[1]: two}])), text)


def degradation_explorer(
    image, depth=None, *, make=degradation_effects.standard, side: int = 256, caption: str = ""
) -> Live:
    """Choose a degradation, move the symbols of its equation, watch the picture.

    Args:
        image: tensor (3, H, W) in [0, 1].
        depth: tensor (H, W) in [0, 1], 1 the farthest point; None leaves haze out.
        make: function of a depth layer (or None) that returns a list of `degradation_effects.Effect`.
        side: a larger picture is first reduced to this many pixels, so that an update takes less than 50 ms.
        caption: what to see; the equations are added.

    Returns:
        Live; its still shows every effect at its first setting.

    Raises:
        ValueError: without any effect.
    """
    image, depth = (None if layer is None else _reduced(layer, side) for layer in (image, depth))
    choices = make(depth)
    if not choices:
        raise ValueError("there is no effect to explore; `make` must return a list of Effect")
    gt = picture(image, "image")
    height, _ = _shown_size(gt, 256)
    clear = _titled(gt, "J, clear", _at_height(gt, height))
    choice = w.ToggleButtons(options=[(e.name, i) for i, e in enumerate(choices)], style={"button_width": "9em"})
    panels = [[_knob(knob) for knob in effect.knobs] for effect in choices]
    equation, controls, view = w.HTML(), w.VBox(), w.HTML()
    view.add_class(PICTURE)

    def redraw(_=None):
        settings = {k.name: s.value for k, s in zip(choices[choice.value].knobs, panels[choice.value], strict=True)}
        made = _pictures(choices[choice.value].apply(image, **settings))
        shown = [_titled(p, name, _at_height(p, height)) for name, p in made.items()]
        view.value = _side_by_side(clear, *shown)

    def choose(_=None):
        equation.value = f'<div style="font-size:120%">{html.escape(choices[choice.value].equation)}</div>'
        controls.children = panels[choice.value]
        redraw()

    for slider in sum(panels, []):
        slider.observe(redraw, "value")
    choice.observe(choose, "value")
    choose()
    text = caption or "Choose a degradation and move its symbols. J is the clear picture, I the degraded one."
    text += " " + " ".join(f"{e.name}: {e.equation}." for e in choices)
    return Live([choice, equation, controls, view], _explorer_still(choices, image), text)


def _reduced(layer: torch.Tensor, side: int) -> torch.Tensor:
    """An image (3, H, W) or layer (H, W) with at most about `side` pixels on its longer side, in [0, 1]."""
    planes = layer if layer.ndim == 3 else layer[None]
    if max(planes.shape[1:]) > side:
        planes = degrade.bicubic(planes, side / max(planes.shape[1:])).clamp(0, 1)
    return planes if layer.ndim == 3 else planes[0]


def _knob(knob) -> w.FloatSlider:
    """The slider of one symbol."""
    limits = {"min": knob.low, "max": knob.high, "step": knob.step, "value": knob.value}
    return _slider(w.FloatSlider, knob.label, readout_format=".0f" if knob.step >= 1 else ".2f", **limits)


def _explorer_still(choices, image) -> bytes:
    """Every effect at its first setting: the degraded pictures, and below each what its equation adds."""
    made = [_pictures(e.apply(image, **{k.name: k.value for k in e.knobs})) for e in choices]
    degraded: dict[str, Any] = {}
    layers: dict[str, Any] = {}
    for effect, pictures in zip(choices, made, strict=True):
        *names, last = pictures
        degraded[f"{effect.name}: {last}"] = pictures[last]
        layers |= {f"{effect.name}: {name}": _framed(pictures[name], pictures[last]) for name in names}
    return render(image_grid([degraded, layers | {"J, clear": picture(image)}]))


def _framed(layer: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A layer with black beside it, as wide for its height as another picture: a square kernel fits into the row."""
    spare = max(0, round(layer.shape[0] * like.shape[1] / like.shape[0]) - layer.shape[1])
    return np.pad(layer, ((0, 0), (spare // 2, spare - spare // 2), *[(0, 0)] * (layer.ndim - 2)))


def _pictures(made: dict) -> dict[str, np.ndarray]:
    """Every image of an effect, ready to be shown."""
    return {name: picture(image, name) for name, image in made.items()}


def _at_height(image: np.ndarray, height: int) -> tuple[int, int]:
    """(height, width) on the screen for a given height."""
    return height, max(1, round(image.shape[1] * height / image.shape[0]))


def history_scrubber(
    steps, restored, negatives, *, lq, gt, labels=None, limit: float | None = None, width: int = 196, caption: str = ""
) -> Live:
    """Step through training: what the model and each of its history models made of one picture.

    All pictures are encoded when the widget is made; a slider only chooses among them.

    Args:
        steps: training steps of the frames, S of them.
        restored: S images, the model's output at each step.
        negatives: S lists of K images, the history models' outputs.
        lq: the degraded picture; it may be smaller.
        gt: the true picture.
        labels: K short names, for example "every 100 steps".
        limit: upper end of the difference maps; None: from the data, one for all frames.
        width: largest width of a picture on the screen.
        caption: what to see.

    Returns:
        Live.

    Raises:
        ValueError: if the numbers of steps, frames or labels do not agree.
    """
    counts = {len(frame) for frame in negatives}
    labels = list(labels or [f"history {k + 1}" for k in range(max(counts, default=0))])
    if not len(steps) == len(restored) == len(negatives) or counts != {len(labels)} or not labels:
        raise ValueError(
            f"{len(steps)} steps, {len(restored)} restored, {len(negatives)} frames of {sorted(counts)} "
            f"negatives and {len(labels)} labels do not fit; give one restored image per "
            "step and one negative per step and label"
        )
    gaps = [[difference(r, n) for n in frame] for r, frame in zip(restored, negatives, strict=True)]
    limit = limit or error_limit(sum(gaps, []))
    row = _history_rows(restored, negatives, labels, gaps, limit, lq, gt, width)
    step = _slider(w.SelectionSlider, "training step", options=[(str(x), i) for i, x in enumerate(steps)])
    numbered = [(f"{k + 1} of {len(labels)}", k) for k in range(len(labels))]
    which = _slider(w.SelectionSlider, "history model", options=numbered)
    view, numbers = w.HTML(), w.HTML()
    view.add_class(PICTURE)

    def show(_=None):
        view.value = row(step.value, which.value)
        numbers.value = f"mean |restored − negative| = {gaps[step.value][which.value].mean():.4f}"

    for slider in (step, which):
        slider.observe(show, "value")
    show()
    player = _player(step, len(steps), "training steps")
    ramp = error_picture(np.tile(np.linspace(0, 1, 128), (10, 1)), 1)
    scale = w.HTML(_titled(ramp, f"0 to {limit:.2f}", (10, 128)))
    text = f"{caption} Differences are means over R, G, B on one scale from 0 to {limit:.2f}.".strip()
    still = _history_still(steps, restored, negatives, gaps, limit, lq, gt)
    return Live([w.HBox([step, player]), which, view, w.HBox([scale, numbers])], still, text)


def _history_rows(restored, negatives, labels, gaps, limit, lq, gt, width):
    """Encode every picture; returns the function (step, history model) -> the row of pictures as HTML."""
    size = _shown_size(picture(gt, "gt"), width)
    left, right = (_titled(image, name, size) for name, image in (("lq", lq), ("gt", gt)))
    new = [_titled(image, "restored", size) for image in restored]
    old = [
        [_titled(n, f"negative, {label}", size) for n, label in zip(frame, labels, strict=True)] for frame in negatives
    ]
    maps = [[_titled(error_picture(gap, limit), "|restored − negative|", size) for gap in row] for row in gaps]
    return lambda s, k: _side_by_side(left, old[s][k], new[s], right, maps[s][k])


def _history_still(steps, restored, negatives, gaps, limit, lq, gt) -> bytes:
    """Up to four moments of the first history model, as a picture."""
    chosen = sorted({round(i) for i in np.linspace(0, len(steps) - 1, 4)})
    rows = [
        {
            "lq": lq,
            "negative 1": negatives[i][0],
            "restored": restored[i],
            "gt": gt,
            f"|restored − negative|, 0 to {limit:.2f}": error_picture(gaps[i][0], limit),
        }
        for i in chosen
    ]
    return render(image_grid(rows, [f"step {steps[i]}" for i in chosen]))


def spn_playground(
    lambdas=(0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5),
    *,
    first: float | None = None,
    steps: int = 150,
    caption: str = "",
    **settings,
) -> Live:
    """A model of two parameters: its path, its history models, the pull and the push, by lambda and step.

    Args:
        lambdas: weights of the push to choose from; the first, best 0, is drawn dotted for comparison.
        first: weight to begin with, added to the choices; None: the third of them.
        steps: length of each descent.
        caption: what to see.
        settings: further arguments of `toy.descend`: every, decay, learning_rate, momentum, start.

    Returns:
        Live.

    Raises:
        ValueError: without lambdas, or as `toy.descend`.
    """
    if not len(lambdas):
        raise ValueError("there is no lambda to choose; give at least one, such as lambdas=(0.0, 0.1, 0.5)")
    lambdas = [*lambdas[:1], *sorted({*lambdas[1:], *([] if first in (None, lambdas[0]) else [first])})]
    descents = [toy.descend(value, steps=steps, **settings) for value in lambdas]
    scene = toy.Scene(descents)
    chosen = _slider(w.SelectionSlider, "λ, weight of the push", options=[(f"{v:g}", i) for i, v in enumerate(lambdas)])
    chosen.index = min(2, len(lambdas) - 1) if first is None else lambdas.index(first)
    step = _slider(w.SelectionSlider, "step", options=list(range(steps + 1)), value=min(40, steps))
    view, numbers = w.HTML(), w.HTML()
    view.add_class(PICTURE)

    def show(_=None):
        descent, t = descents[chosen.value], step.value
        alt = f"path of the parameters at lambda {descent.lambda_neg:g}, step {t}"
        view.value = _img(scene.pixels(descent, t), alt, scene.size)
        push, pull = np.linalg.norm(descent.push[t]), np.linalg.norm(descent.pull[t])
        numbers.value = f"l_rec = {descent.l_rec[t]:.3f}, |pull| = {pull:.3f}, |push| = {push:.3f}"

    for slider in (chosen, step):
        slider.observe(show, "value")
    show()
    text = caption or (
        "The pull (green) points down the valley to the answer (cross); the push (orange) points away from "
        "the history models (squares). Move λ: a little helps along the floor of the valley, a lot runs past "
        "the answer."
    )
    player = _player(step, steps + 1, "steps of the descent")
    return Live([chosen, w.HBox([step, player]), view, numbers], _playground_still(scene, descents), text)


def _playground_still(scene, descents) -> bytes:
    """Three weights of the push, from none to too much, at the last step."""
    chosen = [descents[i] for i in sorted({0, len(descents) // 2, len(descents) - 1})]
    return encode(np.concatenate([scene.pixels(d, len(d.theta) - 1) for d in chosen]), quality=85)
