"""The short notebooks that nbval runs follow from the sources, and a mistake in their table stops the run."""

import nbformat
import pytest
import trimming
from nbformat.v4 import new_code_cell, new_notebook, new_output
from papermill.iorw import load_notebook_node


@pytest.fixture
def folders(tmp_path):
    """(notebooks, table of trims, trimmed), with one notebook 01_one of a parameters cell and one more."""
    (tmp_path / "notebooks").mkdir()
    cells = [
        new_code_cell("steps = 10  # how many\nout_dir = None  # folder", metadata={"tags": ["parameters"]}),
        new_code_cell("print(2)", execution_count=2, outputs=[new_output("stream", text="2\n")]),
    ]
    cells[1].metadata["tags"] = ["nbval-check-output"]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "01_one.ipynb")
    (tmp_path / "trims.toml").write_text("[01_one.short]\nsteps = 1\n[01_one.long]\n")
    return tmp_path / "notebooks", tmp_path / "trims.toml", tmp_path / "trimmed"


def test_variants_are_written_with_their_parameters(folders, tmp_path):
    written = trimming.write_all(*folders, tmp_path / "out")
    assert [path.name for path in written] == ["01_one-short.ipynb", "01_one-long.ipynb"]
    parameters, injected, checked = nbformat.read(written[0], 4).cells
    assert "steps = 1\n" in injected.source and f'out_dir = "{tmp_path}/out/01_one-short"' in injected.source
    assert "steps = 10" in parameters.source and checked.outputs[0].text == "2\n"


def test_a_second_run_changes_nothing_and_old_copies_go(folders, tmp_path):
    written = trimming.write_all(*folders, tmp_path / "out")
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in written]
    assert trimming.write_all(*folders, tmp_path / "out") == written
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in written] == before
    folders[1].write_text("[01_one.short]\n")
    trimming.write_all(*folders, tmp_path / "out")
    assert [path.name for path in folders[2].iterdir()] == ["01_one-short.ipynb"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "without a partner: 01_one"),
        ("[01_one.a]\n[02_two.a]\n", "without a partner: 02_two"),
        ("[01_one.a]\nstep = 1\n", "01_one has no parameter step"),
    ],
)
def test_a_mistake_in_the_table_stops_the_run(folders, tmp_path, table, message):
    folders[1].write_text(table)
    with pytest.raises(trimming.TrimError, match=message):
        trimming.write_all(*folders, tmp_path / "out")


def test_a_notebook_that_would_check_nothing_stops_the_run(folders, tmp_path):
    notebook = load_notebook_node(str(folders[0] / "01_one.ipynb"))
    notebook.cells[1].execution_count = None
    with pytest.raises(trimming.TrimError, match="has no stored output"):
        trimming.trim(notebook, "01_one", {}, "out")
    notebook.cells[0].metadata["tags"] = []
    with pytest.raises(trimming.TrimError, match="no cell tagged `parameters`"):
        trimming.trim(notebook, "01_one", {}, "out")
