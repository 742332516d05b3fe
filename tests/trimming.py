"""Short versions of the notebooks for nbval, made from the notebooks themselves by papermill parameters.

`tests/trims.toml` holds, per notebook and variant, the parameters to override. The copies in tests/trimmed/
are made at the start of every pytest run and are ignored by git: never edit them. A copy is replaced in one
step, and only when its text changes, so two runs in one checkout do not take others' files away; each run
has its own folder for what the notebooks write (parameter `out_dir`).
"""

import ast
import os
import tomllib
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).parents[1]
TRIMMED = ROOT / "tests" / "trimmed"


class TrimError(Exception):
    """The notebooks and tests/trims.toml do not belong together."""


def parameters(notebook: nbformat.NotebookNode, name: str) -> set[str]:
    """The names assigned in the cell tagged `parameters`. Raises: TrimError if there is none."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        raise TrimError(f"{name} has no cell tagged `parameters`")
    nodes = ast.walk(ast.parse(cells[0].source))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def trim(notebook: nbformat.NotebookNode, name: str, overrides: dict, out_dir: str) -> nbformat.NotebookNode:
    """A notebook with some parameters changed and the outputs that nbval shall not compare removed.

    Raises: TrimError for a parameter the notebook does not have, and for a cell tagged `nbval-check-output`
        without stored output, which nbval would pass without comparing anything.
    """
    known = parameters(notebook, name)
    if unknown := set(overrides) - known:
        raise TrimError(f"tests/trims.toml: {name} has no parameter {', '.join(sorted(unknown))}")
    if "out_dir" in known:
        overrides = {"out_dir": out_dir} | overrides
    notebook = parameterize_notebook(notebook, overrides, kernel_name="python3", language="python")
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell["id"] = "injected-parameters"  # papermill draws one by chance
        if cell.cell_type == "code" and "nbval-check-output" not in tags:
            cell.outputs, cell.execution_count = [], None
        elif cell.cell_type == "code" and (cell.execution_count is None or not cell.outputs):
            raise TrimError(f"{name}: a cell tagged nbval-check-output has no stored output:\n{cell.source}")
    return notebook


def write_all(notebooks: Path, trims: Path, trimmed: Path, out_dir: Path) -> list[Path]:
    """Make `trimmed` hold the short versions of all notebooks and nothing else. Returns their paths.

    Raises: TrimError if a notebook has no variant, or a table in `trims` no notebook.
    """
    table = tomllib.loads(trims.read_text())
    sources = {path.stem: path for path in sorted(notebooks.glob("[0-9]*.ipynb"))}
    if set(table) != set(sources):
        differing = ", ".join(sorted(set(table) ^ set(sources)))
        raise TrimError(f"{trims.name} needs one table per notebook and variant; without a partner: {differing}")
    trimmed.mkdir(exist_ok=True)
    wanted = []
    for name, variants in table.items():
        for variant, overrides in variants.items():
            short = trim(load_notebook_node(str(sources[name])), name, overrides, str(out_dir / f"{name}-{variant}"))
            wanted.append(trimmed / f"{name}-{variant}.ipynb")
            _replace(wanted[-1], nbformat.writes(short) + "\n")
    for left in set(trimmed.glob("*.ipynb")) - set(wanted):
        left.unlink(missing_ok=True)
    return wanted


def _replace(path: Path, text: str) -> None:
    """Write a file in one step, if it does not hold the text yet."""
    if path.exists() and path.read_text() == text:
        return
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)
