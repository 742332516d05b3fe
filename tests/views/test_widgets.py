"""Live views without a browser: a slider changes the picture, quickly; where nobody moves it there is a still."""

import base64
import io
import json
import time
from dataclasses import replace

import ipywidgets as w
import nbformat
import numpy as np
import pytest
from live_views import DEPTH, GT, MAKERS, pushes
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from mclir_nb.data import datasets
from mclir_nb.experiments.history_analysis import PUSH
from mclir_nb.views import embedded, history_figures, widgets
from mclir_nb.views.style import pixels


@pytest.fixture
def watched(monkeypatch):
    """As if somebody looked on."""
    monkeypatch.setattr(widgets, "is_watched", lambda: True)


@pytest.fixture(params=["degradation_explorer", "spn_playground"])
def live(request):
    """Those that need a kernel."""
    return MAKERS[request.param]()


def inside(live) -> list:
    """All widgets of a live view."""
    found = list(live.children)
    for widget in found:
        found += getattr(widget, "children", ())
    return found


def sliders(live) -> list:
    return [x for x in inside(live) if isinstance(x, w.FloatSlider | w.SelectionSlider)]


def shown(live) -> str:
    """What the part of the view that sliders change looks like."""
    (view,) = [x for x in inside(live) if widgets.PICTURE in getattr(x, "_dom_classes", ())]
    return view.value


def press(slider) -> None:
    """One press of an arrow key."""
    if isinstance(slider, w.SelectionSlider):
        slider.index += 1 if slider.index + 1 < len(slider.options) else -1
    else:
        slider.value += slider.step if slider.value < slider.max else -slider.step


def opened(picture: str) -> Image.Image:
    """A picture in base64."""
    return Image.open(io.BytesIO(base64.b64decode(picture)))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_still_and_caption_are_in_the_same_output_as_what_moves(make, watched):
    data, metadata = make()._repr_mimebundle_()
    assert (widgets.VIEW in data) != ("text/html" in data)
    still = opened(data["image/jpeg"])
    assert still.format == "JPEG" and still.width > 100 and len(data["image/jpeg"]) < 600_000
    assert data["text/plain"] == metadata["image/jpeg"]["alt"] and "object at" not in data["text/plain"]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_where_nobody_moves_it_the_still_stands_alone_and_is_the_same_every_time(make):
    """In papermill, so that nbconvert shows it: a page prefers the view of a widget, which needs the network."""
    one, two = make()._repr_mimebundle_()[0], make()._repr_mimebundle_()[0]
    assert one == two and set(one) - {embedded.MIME} == {"text/plain", "image/jpeg"}


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"spn_playground"}))
def test_a_notebook_shows_the_still_and_a_built_page_the_sliders(name):
    data, metadata = MAKERS[name]()._repr_mimebundle_()
    view = data[embedded.MIME]
    moving = [panel["pictures"] for panel in view["panels"] if panel["by"] and "pictures" in panel]
    assert (moving or view["wipe"]) and all(len(set(pictures)) > 1 for pictures in moving)
    assert all(opened(one).format == "JPEG" for panel in view["panels"] for one in panel.get("pictures", []))

    output = new_output("display_data", data, metadata=metadata)
    notebook = new_notebook(cells=[new_code_cell("view", outputs=[output])])
    nbformat.validate(notebook)
    made = json.loads(nbformat.writes(notebook))
    convert = lambda content: HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(content), 4))[0]  # noqa: E731
    plain = convert(made)
    assert "mclir-embedded" not in plain and "data:image/jpeg;base64" in plain
    page = convert(embedded.embed(made))
    assert page.count('class="mclir-embedded"') == 1 and embedded.SCRIPT in page
    assert embedded.MIME not in made["cells"][0]["outputs"][0]["data"]


def test_a_view_of_photographs_is_small():
    """Of the pictures that the notebooks show; together with stills and figures each stays below 1 MB."""
    sample = datasets.embedded("test")[0]
    photograph = sample.gt.float() / 255
    assert len(json.dumps(widgets.degradation_explorer(photograph, sample.depth).view)) < 300_000
    assert len(json.dumps(widgets.before_after(photograph, photograph).view)) < 150_000


def test_text_of_a_view_cannot_end_its_script():
    bad = '<!--<script></script><b>"&'
    view = embedded.view([embedded.slider(bad, [bad])], [embedded.texts([bad], [0])])
    page = embedded.as_html(view, "", '"><script>')
    assert page.count("</script>") == 2 and page.count("<script") == 2 and "<!--" not in page and 'alt="&quot;' in page


def test_every_slider_has_a_name_and_changes_the_picture(live):
    assert sliders(live)
    for slider in sliders(live):
        before = shown(live)
        press(slider)
        assert slider.description and shown(live) != before, slider.description


def test_an_update_is_quick():
    image = GT.repeat(1, 5, 4)  # 256 x 240 pixels
    live = widgets.degradation_explorer(image, DEPTH.repeat(5, 4))
    choice = live.children[0]
    for index in range(len(choice.options)):
        choice.value = index
        times = []
        for _ in range(5):
            start = time.process_time()  # of this process: others may keep the machine busy
            press(sliders(live)[0])
            times.append(time.process_time() - start)
        assert min(times) < 0.05, choice.options[index]


def test_pictures_of_different_sizes_are_not_wiped():
    with pytest.raises(ValueError, match="before is"):
        widgets.before_after(GT[:, :8], GT)


def test_explorer_leaves_haze_out_without_depth_reduces_large_pictures_and_says_what_it_shows():
    live = widgets.degradation_explorer(GT.repeat(1, 10, 10))
    assert [name for name, _ in live.children[0].options] == ["rain", "camera shake", "noise", "low resolution"]
    assert opened(shown(live).split("base64,")[1].split('"')[0]).size == (256, 192)
    names, settings = (slider["labels"] for slider in live.view["sliders"])
    (said,) = [panel["texts"] for panel in live.view["panels"] if "texts" in panel]
    assert len(said) == len(names) * len(settings) == len(set(said))


def test_playground_begins_with_the_chosen_weight():
    live = widgets.spn_playground((0.0, 0.3), first=0.12, steps=5)
    chosen = sliders(live)[0]
    assert [text for text, _ in chosen.options] == ["0", "0.12", "0.3"] and chosen.index == 1


def test_the_training_scrubber_has_every_moment_and_past_and_says_what_its_numbers_say(watched):
    found = pushes()
    view = widgets.training_scrubber(found).view
    step, direction = (slider["labels"] for slider in view["sliders"])
    assert step == ["3", "10", "20"] and direction[0] == PUSH and len(direction) == 3
    panels = {panel["name"]: panel for panel in view["panels"]}
    assert {"restored", "ground truth", "degraded", "past 1", "past 2"} <= set(panels)
    share = found.aims().set_index(["direction", "step"]).share[PUSH, 20]
    last = panels[""]["texts"][2]
    assert f"{share:.0%} of the push" in last and "1 of 2 pasts" in last


def test_a_push_without_length_points_nowhere(watched):
    """Not yet at the first moment, and then at none."""
    found = pushes()
    late = found.push.clone()
    late[0] = 0
    one, none = (widgets.training_scrubber(replace(found, push=push)) for push in (late, 0 * late))
    (said,) = [panel["texts"] for panel in one.view["panels"] if "texts" in panel]
    assert "no push yet" in said[0] and "of the push points" not in said[0] and "of the push points" in said[1]
    assert "Over 2 moments" in one.caption and " 0%" not in one.caption
    assert "There is no push yet" in none.caption and "nan" not in none.caption


def test_the_curves_of_the_training_scrubber_are_the_lower_end_of_its_still():
    live = widgets.training_scrubber(pushes())
    still = Image.open(io.BytesIO(live.still))
    width, height = map(float, live.view["foot"].split("/"))
    curves = np.asarray(still)[-round(still.width * height / width) :]
    assert len(curves) == len(pixels(history_figures.progress_and_gap(pushes()))) > 100
    assert (np.ptp(curves.astype(int), axis=2) < 8).mean() > 0.8  # lines on white


def test_the_still_of_the_training_scrubber_shows_the_network_at_every_moment():
    still = Image.open(io.BytesIO(widgets.training_scrubber(pushes()).still))
    painted = np.asarray(still.convert("L"))[: still.height // 2] < 250
    network, push = (painted[:, int(x * still.width)].mean() for x in (0.12, 0.3))  # in the first picture, the second
    assert network > 0.8 * push > 0.2
