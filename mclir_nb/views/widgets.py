"""Live views: `embedded` ones, and ipywidgets where a slider has to compute. Elsewhere each is a still with a caption.

A slider moves a picture in well under 50 ms: pictures are encoded once, or as JPEG in a few milliseconds, and
no figure is drawn anew. Every picture has alternative text; every slider and button works from the keyboard.
"""

import base64
import html

import ipywidgets as w
import numpy as np
import torch

from mclir_nb.data import degrade
from mclir_nb.evaluation import metrics
from mclir_nb.experiments.history_analysis import MOVED, PUSH, Pushes
from mclir_nb.progress import is_watched
from mclir_nb.views import embedded, history_figures, toy
from mclir_nb.views.degradation_effects import EFFECTS
from mclir_nb.views.figures import image_grid, maps
from mclir_nb.views.style import DPI, aim_picture, encode, picture, pixels, render

PICTURE = "mclir-picture"  # CSS class of what changes when a slider moves
VIEW = "application/vnd.jupyter.widget-view+json"
SIDE = 256  # pixels to which the explorer reduces a picture, so that an update takes less than 50 ms
SETTINGS = 4  # of each degradation, where a page has no kernel
MOMENTS = 5  # of a training, where a page has no kernel


class Live:
    """Something to move, and a still picture with a caption that stands in its place wherever nothing can be moved.

    papermill and nbconvert store the still, and the pictures of `view`, of which a built page makes sliders. A saved
    state of widgets would be drawn instead of the still, and only by pages that load scripts from the network.

    Args:
        still: the same story as a JPEG.
        caption: what to see, one or two sentences; also the alternative text of the still.
        view: of `embedded.view`, for sliders that need no kernel; None: outside a kernel the still has to do.
        children: widgets, top to bottom, that take the place of `view` where there is a kernel.
    """

    def __init__(self, still: bytes, caption: str, view: dict | None = None, children: tuple = ()):
        self.still, self.caption, self.view, self.children = still, caption, view, children

    def _repr_mimebundle_(self, **kwargs):
        still = base64.b64encode(self.still).decode()
        data = {"text/plain": self.caption, "image/jpeg": still}
        if is_watched() and self.children:
            note = w.HTML(f'<div style="max-width:60em;line-height:1.4">{html.escape(self.caption)}</div>')
            box = w.VBox([*self.children, note], layout=w.Layout(align_items="flex-start"))
            data[VIEW] = box._repr_mimebundle_(**kwargs)[VIEW]
        elif is_watched():
            data["text/html"] = embedded.as_html(self.view, still, self.caption)
        elif self.view:
            data[embedded.MIME] = self.view
        return data, {"image/jpeg": {"alt": self.caption}}


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


def _shown_size(image: np.ndarray, width: int) -> tuple[int, int]:
    """(height, width) on the screen: enlarged by a whole factor, or reduced, to keep within `width`."""
    factor = width // image.shape[1] or width / image.shape[1]
    return round(image.shape[0] * factor), round(image.shape[1] * factor)


def _slider(kind, description: str, **options):
    """A slider with its whole name beside it."""
    style = {"description_width": "13em"}
    return kind(description=description, style=style, layout=w.Layout(width="34em"), **options)


def before_after(before, after, *, names=("before", "after"), width: int = 512, caption: str = "") -> Live:
    """Two pictures on top of each other; a slider wipes from one to the other.

    Args:
        before: an image as `style.picture` accepts it.
        after: another of the same size.
        names: what they are.
        width: largest side on the screen in pixels.
        caption: what to see; what is left and right of the line is added.

    Raises:
        ValueError: for pictures of different sizes.
    """
    one, two = picture(before, names[0]), picture(after, names[1])
    if one.shape != two.shape:
        raise ValueError(f"{names[0]} is {one.shape[:2]} pixels and {names[1]} is {two.shape[:2]}; enlarge or crop one")
    panels = [embedded.pictures(names[i], [image], side=width) for i, image in ((1, two), (0, one))]
    share = embedded.slider(f"share of “{names[0]}” (%)", range(0, 101, 2), 25)
    still = image_grid([{names[0]: one, names[1]: two}], panel=_shown_size(one, width)[1] / DPI)
    text = f"{caption} Left of the line: {names[0]}; right of it: {names[1]}.".strip()
    return Live(render(still), text, embedded.view([share], panels, wipe=True))


def degradation_explorer(image: torch.Tensor, depth: torch.Tensor | None = None) -> Live:
    """Choose a degradation, move the symbols of its equation, watch the picture.

    Args:
        image: (3, H, W) in [0, 1].
        depth: (H, W) in [0, 1], 1 the farthest point; None leaves haze out.

    Returns:
        Live; its still shows every effect at its first setting.
    """
    shrink = SIDE / max(image.shape[1:])
    if shrink < 1:
        image = degrade.bicubic(image, shrink).clamp(0, 1)
        depth = None if depth is None else degrade.bicubic(depth[None], shrink)[0].clamp(0, 1)
    effects = EFFECTS[depth is None :]
    gt = picture(image, "image")
    height, _ = _shown_size(gt, 256)
    choice = w.ToggleButtons(options=[(e.name, i) for i, e in enumerate(effects)], style={"button_width": "9em"})
    knobs = [[_knob(knob) for knob in effect.knobs] for effect in effects]
    equation, controls, view = w.HTML(), w.VBox(), w.HTML()
    view.add_class(PICTURE)

    def redraw(_=None):
        effect, sliders = effects[choice.value], knobs[choice.value]
        made = effect.pictures(image, depth, **{k.name: s.value for k, s in zip(effect.knobs, sliders, strict=True)})
        pictures = ""
        for name, shown in {"J, clear": gt, **made}.items():  # of one height
            size = height, max(1, round(shown.shape[1] * height / shown.shape[0]))
            title = f'<div style="line-height:1.6">{html.escape(name)}</div>'
            pictures += f'<div style="margin-right:6px">{title}{_img(shown, name, size)}</div>'
        view.value = f'<div style="display:flex;flex-wrap:wrap">{pictures}</div>'

    def choose(_=None):
        equation.value = f'<div style="font-size:120%">{html.escape(effects[choice.value].equation)}</div>'
        controls.children = knobs[choice.value]
        redraw()

    for slider in sum(knobs, []):
        slider.observe(redraw, "value")
    choice.observe(choose, "value")
    choose()
    text = "Choose a degradation and move its symbols. J is the clear picture, I the degraded one. "
    text += " ".join(f"{effect.name}: {effect.equation}." for effect in effects)
    still, without_kernel = _explorer_still(effects, image, depth), _settings(effects, image, depth)
    return Live(still, text, without_kernel, (choice, equation, controls, view))


def _knob(knob) -> w.FloatSlider:
    """The slider of one symbol."""
    limits = {"min": knob.low, "max": knob.high, "step": knob.step, "value": knob.value}
    return _slider(w.FloatSlider, knob.label, readout_format=".0f" if knob.step >= 1 else ".2f", **limits)


def _settings(effects, image, depth) -> dict:
    """Some settings of each effect's first symbol, for a page without a kernel."""
    made, said = [], []
    for effect in effects:
        knob = effect.knobs[0]
        for value in np.linspace(knob.low, knob.high, SETTINGS):
            value = float(knob.low + round((value - knob.low) / knob.step) * knob.step)
            made.append(list(effect.pictures(image, depth, **{knob.name: value}).values())[-1])
            said.append(f"{effect.equation} · {knob.label}: {value:g}")
    sliders = [
        embedded.slider("degradation", [effect.name for effect in effects]),
        embedded.slider("setting", [f"{i} of {SETTINGS}" for i in range(1, SETTINGS + 1)], SETTINGS // 2),
    ]
    panels = [embedded.texts(said, (0, 1)), embedded.pictures("J, clear", [image])]
    return embedded.view(sliders, [*panels, embedded.pictures("I, degraded", made, (0, 1))])


def _explorer_still(effects, image, depth) -> bytes:
    """Every effect at its first setting: the degraded pictures, and below each what its equation adds."""
    degraded, layers = {}, {}
    for effect in effects:
        *parts, (name, last) = effect.pictures(image, depth).items()
        degraded[f"{effect.name}: {name}"] = last
        for part, layer in parts:  # with black beside it where it is narrower: a square kernel fits into the row
            spare = max(0, round(layer.shape[0] * last.shape[1] / last.shape[0]) - layer.shape[1])
            layers[f"{effect.name}: {part}"] = np.pad(layer, ((0, 0), (spare // 2, spare - spare // 2), (0, 0)))
    return render(image_grid([degraded, layers | {"J, clear": image}]))


def training_scrubber(found: Pushes, *, caption: str = "") -> Live:
    """One picture through training: what the network made of it, what its past made, and where the push sends it.

    While somebody watches, every moment is there, with what each past made; a saved page has `MOMENTS`.

    Args:
        found: of `history_analysis.pushes`.
        caption: what to see; what the numbers say over the whole training is added.
    """
    kept, aims, table, last = found.kept, found.aims(), found.table, len(found.kept.steps) - 1
    drawn = {
        name: [aim_picture(r, t) for r, t in zip(kept.restored, found.towards(direction), strict=True)]
        for name, direction in {PUSH: found.push, MOVED: found.moved, **found.controls}.items()
    }
    curves = history_figures.progress_and_gap(found)
    foot = "{} / {}".format(*curves.get_size_inches())
    chosen = range(last + 1) if is_watched() else sorted({round(s) for s in np.linspace(0, last, MOMENTS)})
    sliders = [
        embedded.slider("training step", [kept.steps[s] for s in chosen], len(chosen) // 4),
        embedded.slider("map", list(drawn)),
    ]
    shown = [drawn[name][s] for s in chosen for name in drawn]
    panels = [
        embedded.pictures("restored", [kept.restored[s] for s in chosen], (0,)),
        embedded.pictures("towards (blue), or away", shown, (0, 1), quality=55),
        embedded.pictures("ground truth", [kept.gt]),
        embedded.texts([_sentence(found, aims, s) for s in chosen], (0,)),
    ]
    if is_watched():
        pasts = enumerate(kept.negatives.unbind(1), 1)
        panels += [embedded.pictures("degraded", [kept.lq])]
        panels += [embedded.pictures(f"past {k}", list(past), (0,)) for k, past in pasts]
    share, aim = aims[aims.direction == PUSH].share.dropna(), "There is no push yet"
    if len(share):
        least, most = share.min(), share.max()
        aim = f"Over {len(share)} moments {least:.0%} to {most:.0%} of the push points towards it (a coin: 50%)"
    text = (
        f"{caption} Blue leads towards the ground truth, gold away; each map has its own scale. {aim}, and "
        f"progress exceeds gap in {(table.progress > table.gap).sum()} of {len(table)} cases."
    )
    return Live(_training_still(found, drawn, curves), text.strip(), embedded.view(sliders, panels, foot=foot))


def _sentence(found: Pushes, aims, s: int) -> str:
    """What the numbers of one moment say."""
    now = aims[aims.step == found.kept.steps[s]].set_index("direction")
    others = ", ".join(f"the {name} {now.share[name]:.0%}" for name in found.controls)
    table, aim = found.table[found.table.step == found.kept.steps[s]], "no push yet."
    if now.share.notna()[PUSH]:
        aim = (
            f"{now.share[PUSH]:.0%} of the push points towards the ground truth (a coin 50%, {others}). Where the pull "
            f"is 1, the push adds {now.net[PUSH]:+.4f}."
        )
    return (
        f"Step {found.kept.steps[s]}: {aim} Going on from the past would bring this picture nearer to the truth for "
        f"{(table.progress > table.gap).sum()} of {len(table)} pasts (progress > gap)."
    )


def _training_still(found: Pushes, drawn: dict, figure) -> bytes:
    """Three moments with everything that is drawn on them, and the curves below."""
    kept, chosen = found.kept, history_figures.three_moments(found)
    short = {name: name.replace(" of the same size", "") for name in drawn}  # a title is as wide as its picture
    rows = [{"restored": kept.restored[s]} | {short[name]: shown[s] for name, shown in drawn.items()} for s in chosen]
    psnr = [metrics.psnr(kept.restored[s].clamp(0, 1), kept.gt) for s in chosen]
    labels = [f"step {kept.steps[s]}, {value:.1f} dB" for s, value in zip(chosen, psnr, strict=True)]
    above = maps(rows, labels, width=figure.get_figwidth())
    return encode(np.concatenate([pixels(above), pixels(figure)]), quality=50)


def spn_playground(lambdas=(0.0, 0.05, 0.1, 0.2, 0.3), *, first: float = 0.1, steps: int = 150) -> Live:
    """A model of two parameters: its path, its history models, the pull and the push, by lambda and step.

    Args:
        lambdas: weights of the push to choose from; the first, best 0, is drawn dotted for comparison.
        first: weight to begin with, added to the choices.
        steps: length of each descent.

    Raises:
        ValueError: for a negative lambda.
    """
    lambdas = [lambdas[0], *sorted({*lambdas[1:], first} - {lambdas[0]})]
    descents = [toy.descend(value, steps=steps) for value in lambdas]
    scene = toy.Scene(descents)
    chosen = _slider(w.SelectionSlider, "λ, weight of the push", options=[(f"{v:g}", i) for i, v in enumerate(lambdas)])
    chosen.index = lambdas.index(first)
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
    text = (
        "The pull (green) points down the valley to the answer (cross); the push (orange) points away from "
        "the history models (squares; the inset shows them near the point). A little λ helps along the floor of the "
        "valley, a lot runs past the answer."
    )
    shown = [descents[i] for i in sorted({0, len(descents) // 2, len(descents) - 1})]  # from no push to too much
    still = encode(np.concatenate([scene.pixels(descent, steps) for descent in shown]), quality=85)
    return Live(still, text, children=(chosen, step, view, numbers))
