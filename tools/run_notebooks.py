"""Run the committed notebooks at their default parameters and keep their outputs: `python tools/run_notebooks.py 03`.

A notebook is replaced only when all its cells ran. A second run on the same machine gives the same bytes, except for
what is measured: times in 03, 06 and 09, and what depends on them.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import slides
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from mclir_nb import files, root

LIVE = "application/vnd.jupyter.widget-view+json"


def run_notebooks(names=()) -> None:
    """Run the notebooks of `find_notebooks` and keep their outputs; at the end, RuntimeError names what failed."""
    failed = []
    for path in find_notebooks(names):
        started = time.monotonic()
        print(f"{path.stem}: running", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="mclir-nb-") as runs:  # where no earlier run can be found
                executed = normalise(execute(nbformat.read(path, as_version=4), MCLIR_NB_RUNS=runs), runs)
                if path.stem in slides.LECTURES:
                    slides.mark(executed)
        except (CellExecutionError, DeadKernelError) as error:
            failed.append(path.stem)
            print(f"{path.stem}: FAILED, left as it was\n{error}", file=sys.stderr, flush=True)
            continue
        nbformat.validate(executed)
        files.write_file(path, nbformat.writes(executed) + "\n")
        print(f"{path.stem}: written after {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        raise RuntimeError(f"{', '.join(failed)} did not run to the end and was not changed; see the traceback above")


def find_notebooks(names=()) -> list[Path]:
    """The workbook's notebooks in order, those called "03_train", "03" or by a path; ValueError for an unknown name."""
    every = sorted((root() / "notebooks").glob("[0-9]*.ipynb"))
    chosen = []
    for name in names:
        stem = Path(name).stem
        match = [p for p in every if p.stem == stem or p.stem.split("_")[0] == stem]
        if not match:
            known = ", ".join(p.stem for p in every) or "none yet"
            raise ValueError(f"there is no notebook {name!r}; the notebooks are: {known}")
        chosen += match
    return sorted(set(chosen)) if names else every


def execute(notebook: nbformat.NotebookNode, **variables: str) -> nbformat.NotebookNode:
    """Run all cells in a new kernel of this Python, in the workbook's folder, with these environment variables."""
    place = {"metadata": {"path": str(root())}}
    options = {"timeout": None, "record_timing": False, "store_widget_state": False}
    client = NotebookClient(notebook, kernel_name="python3", resources=place, **options)
    return client.execute(env=os.environ | variables)


def normalise(notebook: nbformat.NotebookNode, runs: str = "") -> nbformat.NotebookNode:
    """Remove from an executed notebook what a second run would change without meaning: it is no part of the result.

    Counts start at 1; the times of cells, widget ids, standard error, machine paths and cells added by papermill go.
    Times that a cell measures and shows stay. `runs` is the folder that stood for the workbook's runs/.
    """
    places = {runs: "runs", str(root()): ".", str(Path.home()): "~"}
    places = {path: short for path, short in places.items() if len(path) > 1}  # neither none nor /
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        for key in set(cell.metadata) - {"tags", "alt", "jupyter", "slideshow"}:
            del cell.metadata[key]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
        cell.outputs = _normal_outputs(cell.outputs, number, places)
    return notebook


def _normal_outputs(outputs: list, number: int, places: dict[str, str]) -> list:
    """The outputs of one cell, printed pieces joined, without what has no meaning for a reader."""
    kept: list = []
    for output in outputs:
        data = output.get("data", {})
        was_live = data.pop(LIVE, None) is not None
        if output.get("name") == "stderr" or (was_live and not set(data) - {"text/plain"}):
            continue  # warnings and progress bars; a widget without a still picture
        if output.output_type == "execute_result":
            output.execution_count = number
        for mime in [m for m in data if m.startswith("text/")]:
            data[mime] = _without_paths(data[mime], places)
        if output.output_type == "stream":
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = _without_paths(re.sub(r"[^\n]*\r(?!\n)", "", output.text), places)
    return kept


def _without_paths(text: str, places: dict[str, str]) -> str:
    """Text with each of these folders under its short name; below the workbook the name is left out."""
    for path, short in places.items():
        start = r"(?<![\w./\\-])" + re.escape(path)
        text = re.sub(start + r"[/\\]", "" if short == "." else f"{short}/", text)
        text = re.sub(start + r"(?![\w.-])", short, text)
    return text


if __name__ == "__main__":
    try:
        run_notebooks(sys.argv[1:])
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
