"""Lecture mode: the notebooks given as lectures carry their slides in their metadata, and nbconvert makes them."""

import re
import subprocess
import sys

import nbformat
import pytest
import slides
from headless import asked_elsewhere, needs_chromium, served, typeset
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mclir_nb import root


@pytest.mark.parametrize("name", slides.LECTURES)
def test_nbconvert_makes_slides_of_a_lecture(name, tmp_path):
    path = root() / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    stored = [cell.metadata.get("slideshow") for cell in notebook.cells]
    assert stored == [cell.metadata["slideshow"] for cell in slides.mark(notebook).cells]
    command = [sys.executable, "-m", "nbconvert", "--to", "slides", "--output-dir", str(tmp_path), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    page = (tmp_path / f"{name}.slides.html").read_text()
    parts = [cell.metadata["slideshow"]["slide_type"] for cell in notebook.cells]
    assert page.count("<section") == 2 * parts.count("slide") + parts.count("subslide")
    said = re.search(r"# (\w[\w ]+)", notebook.cells[parts.index("skip")].source)[1]  # beside the first parameter
    assert said in path.read_text() and said not in page


def test_a_heading_begins_a_slide_and_what_shows_nothing_is_left_out():
    picture = new_output("display_data", {"image/png": ""})
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("x = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("import torch", outputs=[new_output("stream", text="2")]),
        new_markdown_cell("Why"),
        new_code_cell("show()", outputs=[picture]),
        new_code_cell("1 + 1", outputs=[new_output("stream", text="2")]),
        new_markdown_cell("Which? <details>answer</details>"),
        new_code_cell("assert True"),
    ]
    marked = slides.mark(new_notebook(cells=cells))
    parts = [cell.metadata.slideshow.slide_type for cell in marked.cells]
    assert parts == ["slide", "skip", "skip", "-", "subslide", "fragment", "subslide", "skip"]


@pytest.mark.browser
@needs_chromium
@pytest.mark.filterwarnings("ignore")
def test_the_lectures_need_no_network(browser, tmp_path):
    for package in ("jupyter_server_mathjax", "sphinx_revealjs"):
        pytest.importorskip(package, reason="needs the extra `book`")
    slides.build(tmp_path / "slides")
    with served(tmp_path / "slides") as address:
        for name in slides.LECTURES:
            browser.get(f"{address}/{name}.slides.html")
            assert browser.execute_script("return Reveal.getTotalSlides()") > 10
            formulas = typeset(browser)
            while not browser.execute_script("return Reveal.isLastSlide()"):  # each is measured when it is shown
                browser.execute_script("Reveal.next()")
                shown = "Reveal.getCurrentSlide().querySelectorAll('.MathJax')"
                typeset(browser)
                sizes = browser.execute_script(f"return [...{shown}].map(m => [m.offsetWidth, m.offsetHeight])")
                assert all(width > 5 and height > 5 for width, height in sizes)
            assert formulas and asked_elsewhere(browser) == []
