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

from mclir_nb.data import datasets
from mclir_nb.views import embedded, widgets


@pytest.mark.parametrize("name", ["before_after", "degradation_explorer", "training_scrubber"])
def test_a_notebook_shows_the_still_and_a_built_page_the_sliders(name):
    data, metadata = MAKERS[name]()._repr_mimebundle_()
    view = data[embedded.MIME]
    for panel in view["panels"]:
        for picture in panel.get("pictures", []):
            assert Image.open(io.BytesIO(base64.b64decode(picture))).format == "JPEG"
    moving = [panel["pictures"] for panel in view["panels"] if panel["by"] and "pictures" in panel]
    assert (moving or view["wipe"]) and all(len(set(pictures)) > 1 for pictures in moving)

    notebook = new_notebook(
        cells=[new_code_cell("view", outputs=[new_output("display_data", data, metadata=metadata)])]
    )
    nbformat.validate(notebook)
    made = json.loads(nbformat.writes(notebook))
    convert = lambda content: HTMLExporter().from_notebook_node(nbformat.reads(json.dumps(content), 4))[0]  # noqa: E731
    plain = convert(made)
    assert "mclir-embedded" not in plain and "data:image/jpeg;base64" in plain
    page = convert(embedded.embed(made))
    assert page.count('class="mclir-embedded"') == 1 and embedded.SCRIPT in page
    (output,) = made["cells"][0]["outputs"]
    assert embedded.MIME not in output["data"]


def test_a_view_of_photographs_is_small():
    """Of the pictures that the notebooks show; together with stills and figures each stays below 1 MB."""
    sample = datasets.embedded("test")[0]
    photograph = sample.gt.float() / 255
    explorer = widgets.degradation_explorer(photograph, sample.depth)._repr_mimebundle_()[0]
    wipe = widgets.before_after(photograph, photograph)._repr_mimebundle_()[0]
    assert len(json.dumps(explorer[embedded.MIME])) < 300_000
    assert len(json.dumps(wipe[embedded.MIME])) < 150_000


def test_text_of_a_view_cannot_end_its_script():
    view = embedded.view([embedded.slider("</script><b>", ["</script>"])], [embedded.texts(["</script>"], [0])])
    page = embedded.as_html(view, "", '"><script>')
    assert page.count("</script>") == 2 and "<script>" not in page.split("alt=")[1].split("<script type")[0]


def test_the_explorer_says_what_it_shows():
    view = widgets.degradation_explorer(GT, DEPTH)._repr_mimebundle_()[0][embedded.MIME]
    names, settings = (slider["labels"] for slider in view["sliders"])
    (said,) = [panel["texts"] for panel in view["panels"] if "texts" in panel]
    assert len(said) == len(names) * len(settings) == len(set(said))
