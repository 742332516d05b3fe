"""What every notebook calls."""

import random

import matplotlib
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure

from mclir_nb import notebook
from mclir_nb.training import recipes, records

TASKS = ["dehaze", "derain", "sr"]


@pytest.fixture
def calm():
    """Leaves the plot style, the random states and the number of threads as they were."""
    style, threads, state = dict(matplotlib.rcParams), torch.get_num_threads(), torch.get_rng_state()
    yield
    matplotlib.rcParams.update(style)
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


# --- setup ---


def test_setup_seeds_everything_and_says_so_in_two_lines(calm, capsys):
    device = notebook.setup(7, "cpu", threads=1)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    lines = capsys.readouterr().out.splitlines()
    assert device == torch.device("cpu") and torch.get_num_threads() == 1
    assert len(lines) == 2 and f"torch {torch.__version__}" in lines[0]
    assert lines[1] == "device cpu (1 thread), seed 7"
    notebook.setup(7, "cpu")
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 0, "device": "gpu"}, "unknown device 'gpu'"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0"),
        ({"seed": 0, "threads": 2.5}, "threads is 2.5; it must be a whole number from 1"),
    ],
)
def test_setup_refuses(arguments, message, calm):
    with pytest.raises(ValueError, match=message):
        notebook.setup(**arguments)


# --- parameters ---


def check(cells=(), **values):
    """check_parameters in a notebook that ran these cells and holds these values."""
    values = {"task": "dehaze", "steps": None, "lambda_neg": 0.1} | values
    accepted = {"task": TASKS, "steps": int | None, "lambda_neg": float | None}
    notebook.check_parameters({"In": ["", *cells]} | values, **accepted)


PARAMETERS = 'task = "dehaze"  # choices\nsteps = None\nlambda_neg = 0.1'


def test_parameters_that_are_right():
    check()
    check([PARAMETERS, "# Parameters\nsteps = 10\n"], steps=10)
    check([PARAMETERS, "import torch\nanything = torch.zeros(1)"])
    check([PARAMETERS.replace("steps", "steps: int")])
    check(lambda_neg=1)  # an int is a float


def test_parameters_without_a_record_of_cells():
    notebook.check_parameters({"task": "sr"}, task=TASKS)  # as under nbval


@pytest.mark.parametrize(
    "cells",
    [
        [PARAMETERS, "# Parameters\ntasc = 'derain'\n"],  # papermill -p tasc derain
        [PARAMETERS, "# Parameters\nsteps = 3\ntasc = 'derain'\n"],
        [PARAMETERS + "\ntasc = 'derain'"],  # typed into the cell in JupyterLab
    ],
    ids=["injected alone", "injected beside another", "typed"],
)
def test_misspelt_parameter_is_refused(cells):
    with pytest.raises(ValueError, match=r"unknown parameter 'tasc' \(did you mean 'task'\?\); .* are task, steps, la"):
        check(cells)


def test_corrected_cell_counts_instead_of_the_old_one():
    check([PARAMETERS + "\ntasc = 1", "1 + 1", PARAMETERS])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"task": "dehase"},
            r"task is 'dehase' \(did you mean 'dehaze'\?\); it must be one of 'dehaze', 'derain', 'sr'",
        ),
        ({"task": 3}, "task is 3; it must be one of"),
        ({"steps": "10"}, "steps is '10'; it must be of type int or None"),
        ({"steps": True}, "steps is True; it must be of type int or None"),
        ({"lambda_neg": "a"}, "lambda_neg is 'a'; it must be of type float or None"),
        ({"lambda_neg": False}, "lambda_neg is False"),
    ],
)
def test_wrong_value_is_refused_with_the_valid_ones(values, message):
    with pytest.raises(ValueError, match=message):
        check(**values)


def test_missing_parameter_is_named():
    with pytest.raises(ValueError, match="'task' is not set; run the cell of parameters"):
        notebook.check_parameters({}, task=TASKS)


def test_a_bool_is_not_a_number_among_choices():
    with pytest.raises(ValueError, match="scale is True"):
        notebook.check_parameters({"scale": True}, scale=[None, 1, 2])


# --- on the page ---


@pytest.fixture
def shell(monkeypatch):
    """IPython without a kernel, so that what is displayed can be caught."""
    made = InteractiveShell.instance()
    monkeypatch.setattr(notebook, "get_ipython", lambda: made)
    yield made
    InteractiveShell.clear_instance()


def test_show_figure_has_alternative_text_and_a_fitting_format(shell):
    plot, photo = Figure((2, 1)), Figure((2, 1))
    plot.subplots().plot([0, 1])
    photo.subplots().imshow(np.random.default_rng(0).random((8, 8, 3)))
    for figure, mime in ((plot, "image/png"), (photo, "image/jpeg")):
        with capture_output() as captured:
            notebook.show_figure(figure, "What to see")
        picture, caption = captured.outputs
        assert picture.data["text/plain"] == "What to see" and mime in picture.data
        assert picture.metadata == {mime: {"alt": "What to see"}}
        assert caption.data["text/markdown"] == "*What to see*"


def documented(x):
    """First line.

    More about it, with ``` in the text.
    """
    return x  # the code


def test_show_source_displays_code(shell):
    with capture_output() as captured:
        notebook.show_source(documented)
        notebook.show_source(documented, docstring=False)
    full, short = (output.data for output in captured.outputs)
    assert "More about it" in full["text/plain"] and "````python" in full["text/markdown"]
    assert short["text/plain"].splitlines() == [
        "def documented(x):",
        '    """First line."""',
        "    return x  # the code",
    ]


def test_show_source_is_plain_text_without_ipython(capsys):
    notebook.show_source(documented, docstring=False)
    assert capsys.readouterr().out.startswith("def documented(x):")


def test_sentences_are_broken_between_words(capsys):
    notebook.say("short\n  " + "twelve-letters " * 12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "short" and len(lines) == 3 and max(map(len, lines)) <= 96
    assert lines[1].startswith("  twelve-letters") and lines[2].startswith("    twelve-letters")


def test_fields_stand_in_columns_and_keep_their_order(shell):
    with capture_output() as captured:
        notebook.show_fields({"a": 1, "b": "<2>", "c": None, "d": (4,), "e": 5}, columns=2)
    shown = captured.outputs[0].data
    rows = shown["text/html"].split("<tr>")[1:]
    assert len(rows) == 3 and "<th>a</th>" in rows[0] and "<th>d</th><td>(4,)</td>" in rows[0]
    assert "&lt;2&gt;" in rows[1] and "<th>c</th>" in rows[2] and rows[2].count("<th>") == 1
    assert shown["text/plain"].splitlines()[2] == "c: None"


def test_runs_of_the_reader_are_neither_found_nor_left(tmp_path, monkeypatch):
    recipe = recipes.get("tiny", "dehaze")
    monkeypatch.delenv("MCLIR_NB_RUNS", raising=False)
    assert records.default_dir(recipe).parent.name == "runs"
    monkeypatch.setenv("MCLIR_NB_RUNS", str(tmp_path))
    assert records.default_dir(recipe).parent == tmp_path


def test_the_machine_is_checked_line_by_line(capsys, monkeypatch):
    monkeypatch.setattr(notebook, "free_memory", lambda device: 4 * 10**9)
    notebook.check_machine()
    assert capsys.readouterr().out.count("[OK]") == 9
    monkeypatch.setattr(notebook.os, "cpu_count", lambda: 1)
    notebook.check_machine()
    assert "[expect twice the stated minutes] two processor cores or more not found" in capsys.readouterr().out
