"""Widgets without a browser: a slider changes the picture, quickly; the output also has a still."""

import base64
import io
import time

import ipywidgets as w
import numpy as np
import pytest
from live_views import DEPTH, GT, MAKERS, pushes
from PIL import Image

from mclir_nb.experiments.history_analysis import PUSH
from mclir_nb.views import embedded, widgets


def inside(widget) -> list:
    """A widget and everything in it."""
    return [widget] + [found for child in getattr(widget, "children", ()) for found in inside(child)]


def sliders(live) -> list:
    return [x for x in inside(live) if isinstance(x, w.IntSlider | w.FloatSlider | w.SelectionSlider)]


def shown(live):
    """What the part of the view that sliders change looks like."""
    (view,) = [x for x in inside(live) if widgets.PICTURE in getattr(x, "_dom_classes", ())]
    if isinstance(view, w.HTML):
        return view.value
    return [(x.layout.width, getattr(x, "selected_index", None)) for x in inside(view)]


@pytest.fixture(autouse=True, scope="module")
def links_as_in_a_browser():
    """What a browser does with a link between two widgets, done here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(w, "jslink", w.link)
        yield


def press(slider) -> None:
    """One press of an arrow key."""
    if isinstance(slider, w.SelectionSlider):
        slider.index += 1 if slider.index + 1 < len(slider.options) else -1
    else:
        slider.value += slider.step if slider.value < slider.max else -slider.step


@pytest.fixture(scope="module", params=MAKERS)
def live(request):
    """Each widget, made once for all tests."""
    return MAKERS[request.param]()


def test_still_and_caption_are_in_the_same_output(live, monkeypatch):
    monkeypatch.setattr(widgets, "is_watched", lambda: True)
    data, metadata = live._repr_mimebundle_()
    assert widgets.VIEW in data
    still = Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"])))
    assert still.format == "JPEG" and still.width > 100 and len(data["image/jpeg"]) < 600_000
    assert data["text/plain"] == metadata["image/jpeg"]["alt"] and "object at" not in data["text/plain"]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_where_nobody_moves_it_the_still_stands_alone_and_is_the_same_every_time(make):
    """In papermill, so that nbconvert shows it: a page prefers the view of a widget, which needs the network."""
    one, two = make()._repr_mimebundle_()[0], make()._repr_mimebundle_()[0]
    assert one == two and set(one) - {embedded.MIME} == {"text/plain", "image/jpeg"}


def test_every_slider_has_a_name_and_changes_the_picture(live):
    assert sliders(live)
    for slider in sliders(live):
        before = shown(live)
        press(slider)
        assert slider.description and shown(live) != before, slider.description


def test_pictures_have_alternative_text(live):
    pictures = [x.value for x in inside(live) if isinstance(x, w.HTML) and "<img" in x.value]
    assert pictures
    for html in pictures:
        assert html.count("<img") == html.count('alt="') and 'alt=""' not in html


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


def test_before_after_wipes_without_sending_a_picture_again():
    with pytest.raises(ValueError, match="before is"):
        widgets.before_after(GT[:, :8], GT)
    live = widgets.before_after(GT * 0.5, GT, width=256)
    pictures = [x.value for x in inside(live) if isinstance(x, w.HTML)]
    (slider,) = sliders(live)
    slider.value = 25
    assert f"{256 // 4}px" in [width for width, _ in shown(live)]
    assert [x.value for x in inside(live) if isinstance(x, w.HTML)] == pictures


def test_names_are_escaped():
    bad = '<script>"&'
    live = widgets.before_after(GT, GT * 0.5, names=(bad, "after"), caption=bad)
    live_too = widgets.training_scrubber(pushes(), caption=bad)
    for html in [x.value for x in inside(live) + inside(live_too) if isinstance(x, w.HTML)]:
        assert "<script" not in html and '=""&' not in html
    assert any("&lt;script&gt;&quot;&amp;" in x.value for x in inside(live) if isinstance(x, w.HTML))


def test_explorer_leaves_haze_out_without_depth_and_reduces_large_pictures():
    live = widgets.degradation_explorer(GT.repeat(1, 10, 10))
    assert [name for name, _ in live.children[0].options] == ["rain", "camera shake", "noise", "low resolution"]
    source = shown(live).split("base64,")[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(source))).size == (256, 192)


def test_playground_begins_with_the_chosen_weight():
    live = widgets.spn_playground((0.0, 0.3), first=0.12, steps=5)
    chosen = sliders(live)[0]
    assert [text for text, _ in chosen.options] == ["0", "0.12", "0.3"] and chosen.index == 1


def test_the_training_scrubber_has_every_moment_in_the_page_and_says_what_its_numbers_say():
    found = pushes()
    live = widgets.training_scrubber(found)
    stacks = [x for x in inside(live) if isinstance(x, w.Stack)]
    steps = [x for x in stacks if len(x.children) == 3]
    assert len(steps) == 7 and len(stacks) == 8  # and one that chooses between the push and the movement
    (toggle,) = [x for x in inside(live) if isinstance(x, w.ToggleButtons)]
    toggle.index = 1
    assert [x for x in stacks if len(x.children) == 2][0].selected_index == 1
    sliders(live)[0].index = 2
    assert all(x.selected_index == 2 for x in steps)
    (sentences,) = [x for x in steps if "of the push" in x.children[0].value]
    share = found.aims().set_index(["direction", "step"]).share[PUSH, 20]
    assert f"{share:.0%} of the push" in sentences.children[2].value and "1 of 2 pasts" in sentences.children[2].value


def test_the_still_of_the_training_scrubber_shows_the_network_at_every_moment():
    data = widgets.training_scrubber(pushes())._repr_mimebundle_()[0]
    still = Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"])))
    painted = np.asarray(still.convert("L"))[: still.height // 2] < 250
    network, push = (painted[:, int(x * still.width)].mean() for x in (0.12, 0.3))  # in the first picture, the second
    assert network > 0.8 * push > 0.2
