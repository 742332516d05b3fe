"""What a maintainer runs: the committed notebooks at their defaults, and the README's block of findings."""

import textwrap
import types
from pathlib import Path

import doses
import findings
import nbformat
import pandas as pd
import papermill
import pytest
import run_notebooks
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mclir_nb import root
from mclir_nb.experiments import evidence, measure


@pytest.fixture
def workbook(tmp_path, monkeypatch):
    """An empty workbook folder; returns a function that writes a notebook into it."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(run_notebooks, "root", lambda: tmp_path)

    def write(name, *sources):
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        cells = [new_markdown_cell("# Title", id="title")]
        cells += [new_code_cell(textwrap.dedent(s).strip(), id=f"cell-{i}") for i, s in enumerate(sources)]
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


def test_run_notebooks_gives_the_same_bytes_twice(workbook):
    path = workbook(
        "01_one",
        """
        import os, sys, time
        print("first"); time.sleep(0.2); print(os.getcwd() + "/runs/x", os.environ["MCLIR_NB_RUNS"] + "/y")
        print("a warning", file=sys.stderr)
        """,
        """
        import ipywidgets
        from IPython.display import display
        display(ipywidgets.IntSlider())
        1 + 1
        """,
    )
    run_notebooks.run_notebooks()
    first = path.read_bytes()
    run_notebooks.run_notebooks(["01"])
    assert path.read_bytes() == first
    one, two = nbformat.read(path, 4).cells[1:]
    assert [(o.name, o.text) for o in one.outputs] == [("stdout", "first\nruns/x runs/y\n")]
    assert [o.data for o in two.outputs] == [{"text/plain": "2"}]
    assert [one.execution_count, two.execution_count] == [1, 2]


def test_a_notebook_that_fails_is_left_as_it_was(workbook, capsys):
    good, bad = workbook("01_good", "print(1)"), workbook("00_bad", "print(1)", "raise ValueError('no')")
    before = bad.read_bytes()
    with pytest.raises(RuntimeError, match="00_bad"):
        run_notebooks.run_notebooks()
    assert bad.read_bytes() == before and nbformat.read(good, 4).cells[1].outputs
    assert "ValueError" in capsys.readouterr().err
    assert sorted(p.name for p in good.parent.iterdir()) == ["00_bad.ipynb", "01_good.ipynb"]


def test_normalise_removes_what_a_second_run_would_change(workbook, tmp_path):
    live = {run_notebooks.LIVE: {"model_id": "1"}, "text/plain": "caption", "image/jpeg": "x"}
    outputs = [
        new_output("stream", name="stdout", text="10%\r50%\r100%\n"),
        new_output("stream", name="stdout", text=f"{tmp_path}\n{tmp_path}-other\n"),
        new_output("stream", name="stderr", text="warning"),
        new_output("display_data", live, metadata={"image/jpeg": {"alt": "caption"}}),
        new_output("display_data", {run_notebooks.LIVE: {}, "text/plain": "0%"}),
        new_output("execute_result", {"text/html": f"<b>{tmp_path}/runs</b>"}, execution_count=9),
    ]
    cell = new_code_cell("1", outputs=outputs, execution_count=9)
    cell.metadata = nbformat.from_dict({"tags": ["keep"], "execution": {"iopub.status.busy": "now"}, "papermill": {}})
    injected = new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
    made = run_notebooks.normalise(new_notebook(cells=[injected, cell], metadata={"widgets": {}, "papermill": {}}))
    assert set(made.metadata) == {"kernelspec", "language_info"}
    (cell,) = made.cells
    assert cell.metadata == {"tags": ["keep"]} and cell.execution_count == 1
    text, picture, result = cell.outputs
    assert text.text == f"100%\n.\n{tmp_path}-other\n"
    assert set(picture.data) == {"text/plain", "image/jpeg"} and picture.metadata["image/jpeg"]["alt"]
    assert result.data["text/html"] == "<b>runs</b>" and result.execution_count == 1


def test_a_page_made_of_a_papermill_run_shows_the_still_of_a_widget(workbook, tmp_path):
    path = workbook("01_one", "from mclir_nb.views import widgets\nwidgets.spn_playground((0.0, 0.1), steps=5)")
    papermill.execute_notebook(path, tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False)
    page, _ = HTMLExporter().from_filename(tmp_path / "out.ipynb")
    assert "data:image/jpeg;base64" in page and "model_id" not in page


def test_readme_and_the_page_of_findings_say_what_the_records_say(tmp_path):
    for name, write in (("README.md", findings.write), ("docs/findings.md", findings.write_page)):
        there = (root() / name).read_text()
        page = tmp_path / Path(name).name
        page.write_text(there)
        write(page)
        assert page.read_text() == there, "run python tools/findings.py"
    pictures = [{file.name for file in (place / "findings").glob("*")} for place in (tmp_path, root() / "docs")]
    assert pictures[0] == pictures[1]
    assert len(findings.block().splitlines()) <= 10  # a reader of the README wants the answer, not the table


def test_a_record_gets_a_figure_and_a_table_on_the_page(tmp_path, monkeypatch):
    runs = evidence.read_record("C1").runs.assign(dose=0.1, dose_measured=0.12)
    made = evidence.Record("D", {"seeds": list(range(5)), "baseline": "plain"}, runs, runs, runs)
    monkeypatch.setattr(evidence, "committed", lambda name: made if name == "D" else None)
    findings.write_page(tmp_path / "findings.md")
    text = (tmp_path / "findings.md").read_text()
    assert "![How does the gain of SPN depend on its dose?](findings/D.png)" in text and "| spn |" in text
    assert (tmp_path / "findings" / "D.png").stat().st_size > 5_000 and text.count("Not run yet. What is asked") >= 2


def test_sentence_and_table_of_a_section_have_the_same_baseline():
    for name, title, _ in findings.SECTIONS:
        text = (root() / "docs" / "findings.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
        if record := evidence.committed(name):
            baseline = record.decision["baseline"]
            rows = [line for line in text.splitlines() if line.startswith("|") and "±" in line]  # two seeds or more
            raw_and_ema = f"Of {2 * len(rows)} differences to {baseline}, "
            assert raw_and_ema in text or "No conclusion yet." in text
            assert not any(f"| {baseline} |" in row for row in rows)


def test_findings_say_what_a_lent_gpu_has_shown(monkeypatch):
    checks = pd.DataFrame([{"check": "network", "subject": "edsr", "what": "output", "found": 1.0, "limit": 0.1}])
    lent = measure.Measured({"device": "Some GPU", "torch": "2"}, checks.assign(ok=False, error=None), None, None)
    assert "[gpu]" not in findings.block() or measure.read()
    monkeypatch.setattr(measure, "read", lambda: lent)
    (line,) = [line for line in findings.block().splitlines() if "[gpu]" in line]
    assert "Some GPU" in line and "0 of 1" in line and "edsr" in line


def test_doses_of_a_data_set_are_those_of_the_demo_experiments_on_it(monkeypatch):
    asked = []
    found = types.SimpleNamespace(lambda_neg=1.0, dose=0.1)
    monkeypatch.setattr(doses.dose, "lambda_for", lambda recipe, *_, **__: asked.append(recipe) or found)
    doses.main("BSDS500")
    assert {recipe.name for recipe in asked} == {"demo"}
    assert {recipe.dataset for recipe in asked} == {"embedded", "bsds500", "bsds500-test"}
