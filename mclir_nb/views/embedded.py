"""Sliders that ask no kernel: pictures made beforehand, among which the page itself chooses.

`as_html` is a still, and a script that turns it into sliders where it runs: in JupyterLab while somebody works there,
in the book and in the slides. What nobody watched while it was made has the pictures beside its still in the notebook,
under a type of our own (`MIME`) that JupyterLab, GitHub and nbconvert pass over, and `embed` makes sliders of them. So
a page never shows a slider that does not move.
"""

import base64
import html
import json
import math
from collections.abc import Sequence

from mclir_nb.views.style import encode

MIME = "application/vnd.mclir.view+json"
SCRIPT = """(() => {
  const root = document.currentScript.parentElement;
  const view = JSON.parse(root.querySelector('script').textContent), at = view.sliders.map(slider => slider.start);
  const add = (parent, tag, fields) => parent.appendChild(Object.assign(document.createElement(tag), fields));
  const controls = add(root, 'div', {}), row = add(root, 'div', {className: 'mclir-picture'});
  row.style.cssText = view.wipe ? 'display:grid;width:max-content' : 'display:flex;flex-wrap:wrap;gap:8px';
  const shown = view.panels.map(panel => {
    const box = add(row, panel.pictures ? 'figure' : 'p', {});
    box.style.cssText = view.wipe ? 'grid-area:1/1;margin:0' : panel.pictures ? 'margin:0' : 'flex-basis:100%;margin:0';
    if (panel.pictures && !view.wipe) add(box, 'figcaption', {textContent: panel.name});
    return panel.pictures ? add(box, 'img', {alt: panel.name}) : box;
  });
  const draw = () => view.panels.forEach((panel, i) => {
    const chosen = panel.by.reduce((index, s) => index * view.sliders[s].labels.length + at[s], 0);
    if (panel.pictures) shown[i].src = 'data:image/jpeg;base64,' + panel.pictures[chosen];
    else shown[i].textContent = panel.texts[chosen];
    if (view.wipe && i) shown[i].style.clipPath = `inset(0 ${100 - view.sliders[0].labels[at[0]]}% 0 0)`;
  });
  view.sliders.forEach((slider, s) => {
    const label = add(controls, 'label', {textContent: slider.name + ' '});
    label.style.display = 'block';
    const fields = {type: 'range', min: 0, max: slider.labels.length - 1};
    const input = Object.assign(add(label, 'input', fields), {value: at[s]}), value = add(label, 'output', {});
    input.style.width = '20em';
    input.dataset.lmSuppressShortcuts = true;  // else JupyterLab takes the arrow keys
    const move = () => { at[s] = +input.value; value.textContent = ' ' + slider.labels[at[s]]; draw(); };
    input.addEventListener('input', move);
    move();
  });
  const still = root.querySelector('img');
  if (view.foot) {
    still.style.cssText = `aspect-ratio:${view.foot};object-fit:cover;object-position:bottom;max-width:100%`;
    add(root, 'div', {className: 'mclir-foot'}).append(still);
  } else still.remove();
})();"""


def slider(name: str, labels: Sequence, start: int = 0) -> dict:
    """A slider over some labels, which begins at one of them."""
    return {"name": name, "labels": [str(label) for label in labels], "start": start}


def pictures(name: str, images: Sequence, by: Sequence[int] = (), side: int = 192, quality: int = 75) -> dict:
    """A picture, with its name above it, that depends on the sliders of these numbers.

    There is an image, as `style.picture` accepts it, for each setting, that of the last slider in `by` changing first;
    larger ones are reduced to `side` pixels.
    """
    encoded = [base64.b64encode(encode(image, quality, side, subsampling=2)).decode() for image in images]
    return {"name": name, "by": list(by), "pictures": encoded}


def texts(lines: Sequence[str], by: Sequence[int] = ()) -> dict:
    """A line of text that depends on sliders, as `pictures` do."""
    return {"name": "", "by": list(by), "texts": list(lines)}


def view(sliders: list[dict], panels: list[dict], wipe: bool = False, foot: str = "") -> dict:
    """What a page shows: panels of `pictures` and `texts`, by sliders of `slider`.

    Args:
        wipe: two pictures on top of each other: the first slider's label is the share of the second that is seen, in
            per cent.
        foot: what no slider changes is the lower end of the still, which stays: its width / height; "": nothing.
    """
    for panel in panels:
        settings = math.prod(len(sliders[s]["labels"]) for s in panel["by"])
        contents = panel["pictures" if "pictures" in panel else "texts"]
        assert len(contents) == settings, f"panel {panel['name']!r} has not every setting"
    return {"sliders": sliders, "panels": panels, "wipe": wipe, "foot": foot}


def as_html(shown: dict, still: str, caption: str) -> str:
    """A page's piece of HTML: the still (base64 of a JPEG), and the script that turns it into sliders where it runs."""
    data, said = json.dumps(shown).replace("<", "\\u003c"), html.escape(caption)
    return (
        f'<div class="mclir-embedded"><img src="data:image/jpeg;base64,{still}" alt="{said}">'
        f'<script type="application/json">{data}</script><script>{SCRIPT}</script><p>{said}</p></div>'
    )


def embed(notebook: dict) -> dict:
    """A notebook (as JSON) whose outputs have sliders in place of their stills, for a page made from it."""
    for output in [output for cell in notebook["cells"] for output in cell.get("outputs", ())]:
        data = output.get("data", {})
        if shown := data.pop(MIME, None):
            data["text/html"] = as_html(shown, "".join(data["image/jpeg"]), "".join(data["text/plain"]))
    return notebook
