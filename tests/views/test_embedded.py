"""Sliders for pages without a kernel: small, whole, and in a notebook only beside the still."""

import base64
import io
import json

import nbformat
import pytest
from live_views import DEPTH, GT, MAKERS
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from mclir_nb.views import embedded, widgets

ALIVE = ["before_after", "degradation_explorer", "training_scrubber"]


def notebook(live) -> dict:
    """A notebook, as JSON, whose one output is a view that nobody watched."""
    data, metadata = live._repr_mimebundle_()
    cell = new_code_cell("view", outputs=[new_output("display_data", data, metadata=metadata)])
    made = new_notebook(cells=[cell])
    nbformat.validate(made)
    return json.loads(nbformat.writes(made))


@pytest.mark.parametrize("name", ALIVE)
def test_every_setting_has_its_pictures(name):
    data, _ = MAKERS[name]()._repr_mimebundle_()
    view = data[embedded.MIME]
    assert view["sliders"] and any(panel["by"] or view["wipe"] for panel in view["panels"])
    for panel in view["panels"]:
        for picture in panel.get("pictures", []):
            assert Image.open(io.BytesIO(base64.b64decode(picture))).format == "JPEG"
    moving = [panel for panel in view["panels"] if panel["by"] and "pictures" in panel]
    assert all(len(set(panel["pictures"])) > 1 for panel in moving)


def test_a_view_of_photographs_is_small():
    """Of the pictures that the notebooks show; together with stills and figures each stays below 1 MB."""
    from mclir_nb.data import datasets

    sample = datasets.embedded("test")[0]
    photograph = sample.gt.float() / 255
    explorer = widgets.degradation_explorer(photograph, sample.depth)._repr_mimebundle_()[0]
    wipe = widgets.before_after(photograph, photograph)._repr_mimebundle_()[0]
    assert len(json.dumps(explorer[embedded.MIME])) < 300_000
    assert len(json.dumps(wipe[embedded.MIME])) < 150_000


@pytest.mark.parametrize("name", ALIVE)
def test_nbconvert_shows_the_still_and_a_built_page_the_sliders(name):
    made = notebook(MAKERS[name]())
    convert = lambda content: HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(content), 4))[0]  # noqa: E731
    plain = convert(made)
    assert "mclir-embedded" not in plain and "data:image/jpeg;base64" in plain
    page = convert(embedded.embed(made))
    assert page.count('class="mclir-embedded"') == 1 and embedded.SCRIPT in page
    (output,) = made["cells"][0]["outputs"]
    assert embedded.MIME not in output["data"]


def test_text_of_a_view_cannot_end_its_script():
    view = embedded.view([embedded.slider("</script><b>", ["</script>"])], [embedded.texts(["</script>"], [0])])
    page = embedded.as_html(view, "", '"><script>')
    assert page.count("</script>") == 2 and "<script>" not in page.split("alt=")[1].split("<script type")[0]


def test_a_panel_without_a_picture_for_every_setting_is_refused():
    with pytest.raises(ValueError, match="panel"):
        embedded.view([embedded.slider("s", [1, 2])], [embedded.pictures("p", [GT], [0])])


def test_the_explorer_shows_what_it_says():
    view = widgets.degradation_explorer(GT, DEPTH)._repr_mimebundle_()[0][embedded.MIME]
    names, settings = (slider["labels"] for slider in view["sliders"])
    (said,) = [panel["texts"] for panel in view["panels"] if "texts" in panel]
    assert len(said) == len(names) * len(settings) == len(set(said))
