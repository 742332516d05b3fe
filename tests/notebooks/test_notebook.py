"""What every notebook calls."""

import random

import matplotlib
import numpy as np
import psutil
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure

from mclir_nb import networks, notebook
from mclir_nb.method import losses, push
from mclir_nb.training import recipes, records

TASKS = ["dehaze", "derain", "sr"]


@pytest.fixture
def calm():
    """Leaves the plot style and the random state as they were."""
    style, state = dict(matplotlib.rcParams), torch.get_rng_state()
    yield
    matplotlib.rcParams.update(style)
    torch.set_rng_state(state)


def test_setup_seeds_everything_and_says_so_in_two_lines(calm, capsys):
    device = notebook.setup(7, "cpu")
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    lines = capsys.readouterr().out.splitlines()
    assert device == torch.device("cpu")
    assert len(lines) == 2 and torch.__version__ in lines[0] and "cpu" in lines[1] and "seed 7" in lines[1]
    notebook.setup(7, "cpu")
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())


@pytest.mark.parametrize(("arguments", "named"), [((0, "gpu"), "device 'gpu'"), ((-1,), "seed"), ((True,), "seed")])
def test_setup_refuses(arguments, named, calm):
    with pytest.raises(ValueError, match=named):
        notebook.setup(*arguments)


# Parameters: what papermill would ignore is refused, with the nearest valid name.


def check(cells=(), **values):
    """check_parameters in a notebook that ran these cells and holds these values."""
    values = {"task": "dehaze", "steps": None, "lambda_neg": 0.1, "scale": None} | values
    accepted = {"task": TASKS, "steps": int | None, "lambda_neg": float | None, "scale": [None, 1, 2]}
    notebook.check_parameters({"In": ["", *cells]} | values, **accepted)


PARAMETERS = 'task = "dehaze"  # choices\nsteps = None\nlambda_neg = 0.1'


def test_parameters_that_are_right():
    check()
    check([PARAMETERS, "# Parameters\nsteps = 10\n"], steps=10)
    check([PARAMETERS, "import torch\nanything = torch.zeros(1)"])
    check([PARAMETERS.replace("steps", "steps: int")])
    check([PARAMETERS + "\ntasc = 1", "1 + 1", PARAMETERS])  # a corrected cell counts instead of the old one
    check(lambda_neg=1)  # an int is a float
    notebook.check_parameters({"task": "sr"}, task=TASKS)  # without a record of cells, as under nbval


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
    with pytest.raises(ValueError, match="'tasc'.*'task'.*steps"):
        check(cells)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"task": "dehase"}, "task.*'dehase'.*'dehaze'.*'derain', 'sr'"),
        ({"steps": "10"}, "steps.*'10'.*int or None"),
        ({"steps": True}, "steps.*True.*int or None"),
        ({"lambda_neg": False}, "lambda_neg.*False"),
        ({"scale": True}, "scale.*True"),  # though True == 1
        ({"seed": 1.5}, "seed.*1.5.*int"),  # known in every notebook
    ],
)
def test_wrong_value_is_refused_with_the_valid_ones(values, named):
    with pytest.raises(ValueError, match=named):
        check(**values)


def test_missing_parameter_is_named():
    with pytest.raises(ValueError, match="'task'"):
        notebook.check_parameters({}, task=TASKS)


# On the page.


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
    code = ["def documented(x):", '    """First line."""', "    return x  # the code"]
    assert short["text/plain"].splitlines() == code


def test_show_source_names_the_file(shell):
    with capture_output() as captured:
        notebook.show_source(networks.own, push.image_push, losses)  # in a package, decorated, a module
    shown = [output.data["text/markdown"].splitlines()[0] for output in captured.outputs]
    places = ("networks/__init__", "method/push", "method/losses")
    assert shown == [f"From `mclir_nb/{place}.py`:" for place in places]


def test_sentences_are_broken_between_words(capsys):
    notebook.say("short\n  " + "twelve-letters " * 12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "short" and len(lines) == 3 and max(map(len, lines)) <= 96
    assert lines[1].startswith("  twelve-letters") and lines[2].startswith("    twelve-letters")


def test_fields_stand_in_columns_and_keep_their_order(shell):
    with capture_output() as captured:
        notebook.show_fields({"a": 1, "b": "<2>", "c": None, "d": (4,)})
    shown = captured.outputs[0].data
    rows = shown["text/html"].split("<tr>")[1:]
    assert (
        len(rows) == 2 and "<th>a</th>" in rows[0] and "<th>c</th>" in rows[0] and "<th>d</th><td>(4,)</td>" in rows[1]
    )
    assert "&lt;2&gt;" in rows[1] and shown["text/plain"].splitlines()[2] == "c: None"


def test_runs_of_the_reader_are_neither_found_nor_left(tmp_path, monkeypatch):
    recipe = recipes.get("tiny", "dehaze")
    monkeypatch.delenv("MCLIR_NB_RUNS", raising=False)
    assert records.default_dir(recipe).parent.name == "runs"
    monkeypatch.setenv("MCLIR_NB_RUNS", str(tmp_path))
    assert records.default_dir(recipe).parent == tmp_path


def test_the_machine_is_checked_line_by_line(capsys, monkeypatch):
    free = {"available": 4e9}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), free))
    notebook.check_machine()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("[OK]") for line in lines)
    free["available"] = 1e9
    notebook.check_machine()
    (advice,) = set(capsys.readouterr().out.splitlines()) - set(lines)
    assert "smaller batches" in advice and "memory" in advice
