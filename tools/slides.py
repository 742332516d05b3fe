"""Lecture mode: `python tools/slides.py` writes build/slides from the notebooks that are given as lectures.

Each cell's part in the lecture is in its metadata, as JupyterLab and nbconvert read it, so that
`jupyter nbconvert --to slides notebooks/01_explain.ipynb` does as well; this adds the sliders. `tools/run_notebooks.py`
puts the metadata there, by the rule of `part`.
"""

import json

import nbformat
from nbconvert import SlidesExporter

from mclir_nb import files, root
from mclir_nb.views import embedded

LECTURES = ("01_explain", "04_history")


def mark(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Give every cell its part in the lecture."""
    for cell in notebook.cells:
        cell.metadata["slideshow"] = {"slide_type": part(cell)}
    return notebook


def part(cell: nbformat.NotebookNode) -> str:
    """A heading begins a slide, a figure the one below it; parameters, set-up, checks and answers are left out."""
    if cell.cell_type == "markdown":
        if cell.source.startswith(("# ", "## ")):
            return "slide"
        return "skip" if "<details>" in cell.source else "subslide" if cell.source.startswith("### ") else "-"
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden") or "parameters" in cell.metadata.get("tags", [])
    if hidden or "import " in cell.source or not cell.outputs:
        return "skip"
    shows = any(mime.startswith("image/") for output in cell.outputs for mime in output.get("data", {}))
    return "subslide" if shows else "fragment"


def main() -> None:
    folder = root() / "build" / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    exporter = SlidesExporter(exclude_input_prompt=True, exclude_output_prompt=True, reveal_scroll=True)
    for name in LECTURES:
        notebook = embedded.embed(json.loads((root() / "notebooks" / f"{name}.ipynb").read_text()))
        page, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(notebook), 4))
        files.write_file(folder / f"{name}.slides.html", page)
        print(f"build/slides/{name}.slides.html: written")


if __name__ == "__main__":
    main()
