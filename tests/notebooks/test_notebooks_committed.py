"""The committed notebooks: executed in order by the one command, small, free of machine traces, built as STYLE asks."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
MACHINE = re.compile(r"(?:^|[\s\"'(=:])(?:/(?:home|root|work|Users|tmp|mnt|opt|var)/\w|[A-Za-z]:\\+Users)")
BOX = {  # what the box below the title says, and how it is found
    "what the reader can do afterwards": r"you can",
    "what it needs": r"\*\*Needs",
    "time": r"second|minute|hour",
    "memory": r"\bGB\b|\bMB\b",
    "where in the paper": r"paper",
}
CLOSE = {
    "a summary": r"^## (To remember|Summary)",
    "the differences from the paper": r"^## Differences from the paper",
    "questions with folded answers": r"<details>",
    "references": r"arXiv:\d{4}\.\d{5}",
}


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def output_problems(notebook) -> list[str]:
    """What is wrong with how the notebook was executed and stored."""
    code, found = code_of(notebook), []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("cells were not executed once, in order: use make notebooks")
    if set(notebook.metadata) - {"kernelspec", "language_info"}:
        found.append("metadata of a run or of widgets is left in it")
    for cell in notebook.cells:
        if set(cell.metadata) - {"tags", "alt", "jupyter", "slideshow"}:
            found.append(f"a cell holds {', '.join(cell.metadata)} as metadata")
        if tagged(cell, "nbval-check-output") and not cell.get("outputs"):
            found.append("a cell tagged nbval-check-output has no output")
    for output in [output for cell in code for output in cell.outputs]:
        found += _one_output(output)
    if MACHINE.search("\n".join(text for cell in code for text in _texts(cell))):
        found.append("a path of the machine is in it")
    return found


def _one_output(output) -> list[str]:
    """What is wrong with one stored output."""
    found, data = [], output.get("data", {})
    if output.output_type == "error":
        found.append(f"an error is stored: {output.ename}")
    if output.get("name") == "stderr":
        found.append("standard error is stored")
    if any("widget" in mime for mime in data):
        found.append("the state of a widget is stored")
    if len((output.get("text") or data.get("text/plain", "")).splitlines()) >= 100:
        found.append("an output has 100 lines of text or more")
    for mime in [mime for mime in data if mime.startswith("image/")]:
        if not output.metadata.get(mime, {}).get("alt"):
            found.append("a picture has no alternative text: use notebook.show_figure")
    return found


def _texts(cell) -> list[str]:
    """Source and textual outputs of a code cell."""
    texts = [cell.source]
    for output in cell.outputs:
        texts += [output.get("text", "")] + [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
    return texts


def parameter_problems(notebook) -> list[str]:
    """What is wrong with the cell of parameters."""
    code = code_of(notebook)
    if not code or not tagged(code[0], "parameters"):
        return ["the first code cell is not tagged parameters"]
    found = []
    for line in code[0].source.splitlines():
        try:
            (statement,) = ast.parse(line).body
            ast.literal_eval(statement.value)
            fits = isinstance(statement, ast.Assign | ast.AnnAssign)
        except (SyntaxError, ValueError, AttributeError):
            fits = False
        if not fits or not re.search(r"#\s*\w", line):
            found.append(f"not one literal with a comment on its unit or choices: {line}")
    return found


def help_problems(path: Path, notebook) -> list[str]:
    """Parameters that `papermill --help-notebook` does not show; an equals sign in a comment hides one."""
    assigned = {line.split("=")[0].split(":")[0].strip() for line in code_of(notebook)[0].source.splitlines()}
    shown = papermill.inspect_notebook(str(path))
    return [f"papermill does not see the parameter {name}" for name in assigned ^ set(shown)]


def structure_problems(notebook, name: str) -> list[str]:
    """What is missing of the anatomy of a notebook (STYLE 3)."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    code = [cell.source for cell in code_of(notebook)]
    found = []
    if notebook.cells[0].cell_type != "markdown" or not re.match(rf"# {int(name[:2])} · \w", prose[0]):
        found.append(f"it does not open with '# {int(name[:2])} · Title'")
    head, text = "\n".join(prose[:2]), "\n".join(prose)
    found += [f"the box does not say {what}" for what, sign in BOX.items() if not re.search(sign, head)]
    if int(name[:2]):  # 00 is a welcome and may be short
        found += [f"it has not {what}" for what, sign in CLOSE.items() if not re.search(sign, text, re.M)]
        if "What you should see" not in text:
            found.append("it nowhere says what you should see")
    if not any("setup(" in source for source in code[1:3]):
        found.append("the setup does not follow the parameters")
    if any("\n!" in "\n" + s or "\n%pip" in "\n" + s or re.search(r"^from .* import \*", s, re.M) for s in code):
        found.append("a cell holds a shell command or a star import")
    lengths = [len(source.splitlines()) for source in code]
    if max(lengths) > 30 or statistics.median(lengths[1:]) > 8:
        found.append(f"code cells are long: median {statistics.median(lengths[1:])} (8), longest {max(lengths)} (30)")
    if not name.startswith("10") and any(re.search(r"^class \w", source, re.M) for source in code):
        found.append("a class is defined; it belongs into the package")
    return found


def link_problems(notebook, folder: Path, last: bool) -> list[str]:
    """Links that lead nowhere, pictures without alternative text, no way on."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", "\n".join(prose))
    found = ["a picture in the text has no alternative text" for mark, text, _ in links if mark and not text]
    for _, _, target in links:
        if not re.match(r"https?:|#|attachment:", target) and not (folder / target.split("#")[0]).exists():
            found.append(f"the link to {target} leads nowhere")
    if not last and not re.search(r"\]\(\d\d_\w+\.ipynb\)", prose[-1]):
        found.append("it does not end with a link to another notebook")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = output_problems(notebook) + parameter_problems(notebook) + structure_problems(notebook, path.stem)
    found += help_problems(path, notebook) + link_problems(notebook, path.parent, last=path == NOTEBOOKS[-1])
    if path.read_text() != nbformat.writes(notebook) + "\n":
        found.append("it is not stored as make notebooks stores it")
    if path.stat().st_size >= 1_000_000:
        found.append(f"it has {path.stat().st_size / 1e6:.1f} MB; at most 1 MB")
    assert not found, f"{path.name}:\n- " + "\n- ".join(sorted(set(found)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_parameters_can_be_run_again_without_the_folded_set_up(path):
    """Which changes none of them."""
    parameters, *cells = code_of(nbformat.read(path, as_version=4))
    set_up = [cell.source for cell in cells if "notebook.setup(" in cell.source or "import notebook" in cell.source]
    asked, made = (
        {name.id for name in ast.walk(ast.parse(source)) if isinstance(getattr(name, "ctx", None), ast.Store)}
        for source in (parameters.source, "\n".join(set_up))
    )
    assert "device" in asked and set_up and not asked & made


def test_the_map_of_00_names_every_notebook():
    text = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4).cells[-1].source
    assert [path.stem for path in NOTEBOOKS[1:] if path.stem not in text] == []


def test_folded_answers_of_01_explain_have_run():
    """Three exercises: a question, a folded answer in words, and a closed cell that proves it and has run."""
    cells = nbformat.read(ROOT / "notebooks" / "01_explain.ipynb", as_version=4).cells
    answers = [i for i, cell in enumerate(cells) if "<details><summary>Answer" in cells[i - 1].source]
    assert len(answers) == 3
    for i in answers:
        assert cells[i].metadata["jupyter"]["source_hidden"]
        assert "assert " in cells[i].source and cells[i].outputs and tagged(cells[i], "nbval-check-output")
