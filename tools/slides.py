"""Lecture mode: `python tools/slides.py` writes build/slides from the notebooks that are given as lectures.

Each cell's part in the lecture is in its metadata, as JupyterLab and nbconvert read it, so that
`jupyter nbconvert --to slides notebooks/01_explain.ipynb` does as well; this adds the sliders, and MathJax and
reveal.js beside the pages, which nbconvert takes from the network. `tools/run_notebooks.py` puts the metadata there, by
the rule of `part`.
"""

import json
import sys
from pathlib import Path

import nbformat
import page_scripts
from nbconvert import SlidesExporter

from mclir_nb import files, root
from mclir_nb.views import embedded

LECTURES = ("01_explain", "04_history")
PAGE = """{% extends 'reveal/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}
<script type="text/x-mathjax-config">MathJax.Hub.Config(MATHJAX);</script>
<script src="static/mathjax/MathJax.js"></script>
{% endblock %}
{% block html_head_css %}<style>:root .reveal-viewport { --r-heading-text-transform: none; }</style>{% endblock %}
{% block footer_js %}
<script src="static/reveal/dist/reveal.js"></script>
<script src="static/reveal/plugin/notes/notes.js"></script>
<script>
  const show = ({currentSlide}) => {
    MathJax.Hub.Queue(['Rerender', MathJax.Hub, currentSlide]);  // measured wrongly while it was hidden
    if (currentSlide.scrollHeight > 0.95 * document.querySelector('.slides').clientHeight)
      currentSlide.style.cssText += 'height: 95%; overflow-y: auto; top: 0';
  };
  Reveal.on('slidechanged', show);
  Reveal.on('ready', show);
  Reveal.initialize({hash: true, width: 1280, height: 800, plugins: [RevealNotes]});  // 100 columns of code
</script>
{% endblock %}"""


def mark(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Give every cell its part in the lecture."""
    for cell in notebook.cells:
        cell.metadata["slideshow"] = {"slide_type": part(cell)}
    return notebook


def part(cell: nbformat.NotebookNode) -> str:
    """A heading begins a slide, a figure or a question one below it; what shows nothing, and set-up, is left out."""
    if cell.cell_type == "markdown":
        if cell.source.startswith(("# ", "## ")):
            return "slide"
        below = cell.source.startswith(("### ", "**References**")) or "<details>" in cell.source
        return "subslide" if below else "-"
    if "import " in cell.source or not cell.outputs:
        return "skip"
    shows = any(mime.startswith("image/") for output in cell.outputs for mime in output.get("data", {}))
    return "subslide" if shows else "fragment"


def build(folder: Path) -> None:
    """Write a page per lecture into this folder, and what the pages load into `static` below it."""
    page_scripts.copy_mathjax(folder / "static")
    page_scripts.copy_reveal(folder / "static")
    math = page_scripts.MATHJAX | {"tex2jax": {"inlineMath": [["$", "$"]], "processEscapes": True}}
    template = PAGE.replace("MATHJAX", json.dumps(math), 1)
    options = {"exclude_input_prompt": True, "exclude_output_prompt": True, "reveal_theme": "white"}
    exporter = SlidesExporter(raw_template=template, reveal_url_prefix="static/reveal", **options)
    for name in LECTURES:
        notebook = embedded.embed(json.loads((root() / "notebooks" / f"{name}.ipynb").read_text()))
        page, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(notebook), 4))
        files.write_file(folder / f"{name}.slides.html", page)


if __name__ == "__main__":
    try:
        build(root() / "build" / "slides")
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    print("build/slides: written")
