"""What a reader may change in a notebook: a parameter, a run, a picture of one's own; cells are run by themselves."""

import ast
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import hero
import nbformat
import pandas as pd
import pytest
import torch
import yaml
from papermill.cli import _resolve_type

from mclir_nb import notebook, root
from mclir_nb.experiments import compare, evidence, measure, push_study, verdicts
from mclir_nb.training import recipes, train

NOTEBOOKS = {path.stem: nbformat.read(path, 4).cells for path in sorted((root() / "notebooks").glob("[0-9]*.ipynb"))}
TEXTS = [root() / "README.md", *(root() / "docs").glob("*.md")]


def code_of(name: str) -> list[str]:
    return [cell.source for cell in NOTEBOOKS[name] if cell.cell_type == "code"]


def cell_with(name: str, text: str) -> str:
    """The only code cell of a notebook that holds this text."""
    (source,) = [source for source in code_of(name) if text in source]
    return source


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What cells show, as text: sentences, captions, tables."""
    shown: list[str] = []
    monkeypatch.setattr(notebook, "say", lambda text: shown.append(str(text)))
    monkeypatch.setattr(notebook, "show_figure", lambda figure, caption, export=None: shown.append(caption))
    return shown


def prepared(name: str, said: list[str] | None = None, **values) -> dict:
    """Names as they are when the cells of parameters and set-up have run, and then these."""
    space: dict = {}
    first, *others = code_of(name)
    exec(first, space)
    for source in others:
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                exec(ast.unparse(statement), space)
    space["where"] = torch.device("cpu")  # of `notebook.setup`
    shown = [] if said is None else said
    return space | {"display": lambda thing: shown.append(str(getattr(thing, "data", thing)))} | values


# Runs go where no other setting's run lies


class Begun(Exception):
    """A training would begin in this folder."""


def begin(*arguments, **_):
    (folder,) = [argument for argument in arguments if isinstance(argument, str | Path)]
    raise Begun(str(folder))


SETTING = {"recipe", "chosen", "times", "strong", "folder", "out_dir", "arms", "jobs"}


def first_folder(name: str, **parameters) -> str:
    """The folder of the first run that a notebook would begin; only what leads there is executed."""
    space = prepared(name, **parameters)
    for source in code_of(name)[1:]:
        for statement in ast.parse(source).body:
            text = ast.unparse(statement)
            targets = {target.id for target in getattr(statement, "targets", []) if isinstance(target, ast.Name)}
            if targets & SETTING or "train.train(" in text or "compare.run(" in text:
                try:
                    exec(text, space)
                except Begun as begun:
                    return str(begun)
    raise AssertionError(f"{name} begins no run")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("00_start_here", dict(task="sr", seed=1)),
        ("01_explain", dict(too_large=500.0, steps=40, seed=1)),
        ("04_history", dict(task="sr", recipe="tiny", steps=60, seed=1)),
        ("05_compare", dict(task="sr", recipe="demo", steps=60, dose=0.2)),
        ("07_ablate", dict(sweep="sign", task="sr", recipe="demo", steps=60, dose=0.2)),
        ("08_paper", dict(task="sr", recipe="tiny", steps=60, dose=0.2)),
    ],
)
def test_a_changed_parameter_needs_no_other_folder(name, changes, monkeypatch, tmp_path):
    monkeypatch.setenv("MCLIR_NB_RUNS", str(tmp_path))
    monkeypatch.setattr(train, "train", begin)
    monkeypatch.setattr(compare, "run", begin)
    folders = [first_folder(name), *(first_folder(name, **{key: value}) for key, value in changes.items())]
    assert len(set(folders)) == len(folders), folders


def test_the_picture_of_the_readme_is_of_the_run_of_04(monkeypatch, tmp_path):
    monkeypatch.setenv("MCLIR_NB_RUNS", str(tmp_path))
    monkeypatch.setattr(train, "train", begin)
    with pytest.raises(Begun) as begun:
        hero.make()
    assert str(begun.value) == first_folder("04_history")


# Commands that are printed can be typed


def commands() -> list[tuple[str, list[str], str, object]]:
    """Text, notebooks it may be about, parameter and value as papermill reads it, of each `-p NAME VALUE` and `-y`."""
    texts = [(path.name, [], path.read_text()) for path in TEXTS]
    texts += [(f"{name}.ipynb", [name], cell.source) for name, cells in NOTEBOOKS.items() for cell in cells]
    found = []
    for where, own, text in texts:
        for line in text.splitlines():
            for match in re.finditer(r"-([py]) ('[^']*'|\w+)(?: ('[^']*'|[^\s`'\"|)]+))?", line):
                flag, first, second = match.groups()
                asked = re.findall(r"(\d\d_\w+)\.ipynb", line[: match.start()])[-1:] + own
                given = {}
                if flag == "y":
                    given = yaml.safe_load(shlex.split(first)[0])
                elif second is not None and asked:
                    given = {first: _resolve_type(shlex.split(second)[0])}
                found += [(where, asked, name, value) for name, value in given.items()]
    return found


def test_parameters_that_a_text_names_are_accepted(monkeypatch):
    monkeypatch.setattr(notebook, "setup", lambda seed, device: torch.device("cpu"))
    told, spaces = commands(), {name: prepared(name) for name in NOTEBOOKS}
    assert {"seeds", "task", "sweep", "run", "features_weights"} <= {name for _, _, name, _ in told}
    for where, asked, name, value in told:
        about = next((each for each in asked if name in spaces[each]), None)
        assert about, f"{where}: {asked} has no parameter {name}"
        exec(cell_with(about, "check_parameters("), spaces[about] | {name: value})


def test_02_refuses_a_scale_of_one():
    with pytest.raises(ValueError, match="scale"):
        exec(cell_with("02_data", "check_parameters("), prepared("02_data", scale=1))


# Checks of the default run do not stop a reader's own


@pytest.mark.parametrize("too_large", [50.0, 1000.0])
def test_01_asks_the_guard_to_stop_only_what_is_far_too_strong(too_large, monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda *_, **__: None)  # not stopped
    times, strong = sorted({1.0, 10.0, 100.0, too_large}), [recipes.get("tiny", "dehaze")]
    space = prepared("01_explain", too_large=too_large, times=times, strong=strong)
    cell = cell_with("01_explain", "train.Diverged")
    if too_large == 1000:
        with pytest.raises(AssertionError, match="guard"):
            exec(cell, space)
    else:
        exec(cell, space)
        assert "guard" in capsys.readouterr().out


def test_03_has_a_floor_for_the_recipe_as_it_is_alone():
    cell = cell_with("03_train", "floor =")
    asked = {"val_side": 192}
    for own in ({"objective": "plain"}, {"learning_rate": 1e-5}, {"history_every": [100, 50]}):
        exec(cell, prepared("03_train", chosen=recipes.get("demo", **asked | own), gain=-1.0))
    with pytest.raises(AssertionError, match="gain"):
        exec(cell, prepared("03_train", chosen=recipes.get("demo", **asked), gain=-1.0))


def lags(every: list[int]) -> pd.DataFrame:
    """As `history_analysis.over_time` gives them, of two moments at which nothing has shrunk."""
    rows = [dict(step=step, history=k, every=s, weights=0.1 * k) for step in (1, 2) for k, s in enumerate(every, 1)]
    return pd.DataFrame(rows).assign(age=1.0, pixels=0.1, features=1.0)


@pytest.mark.parametrize("every", [[5], [10, 100], [20, 20]], ids=["one history", "young first", "equal intervals"])
def test_04_reads_a_run_of_another_schedule(every, said):
    cell, space = cell_with("04_history", "s/2 + s/9"), prepared("04_history", said, lags=lags(every))
    exec(cell, space | {"run": "runs/own"})
    with pytest.raises(AssertionError, match="lag"):  # of the notebook's own run more is known
        exec(cell, space)
    exec(cell_with("04_history", "faster.max"), space)


def test_04_leaves_the_spread_of_a_single_history_out(said, capsys):
    chosen = recipes.get("tiny", "sr", history_every=[10])
    kept = SimpleNamespace(negatives=torch.zeros(2, 1, 3, 8, 8))
    space = prepared("04_history", said, chosen=chosen, kept=kept, past=None)
    for part in ("spread_over_time", "widest", "spread_against_error"):
        exec(cell_with("04_history", part), space)
    assert "single history" in capsys.readouterr().out and not said


def test_06_shows_scores_of_pictures_on_which_protocols_differ_more_than_on_ours(capsys):
    table = pd.DataFrame({"psnr": [20.0, 21.0], "ssim": [0.5, 0.806]})  # Set14 x4 has such a picture
    cell, names = cell_with("06_evaluate", "between protocols"), {"table": table, "name": "comic"}
    exec(cell, names | {"benchmark": "set14"})
    assert "0.3060" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        exec(cell, names | {"benchmark": "embedded"})


def test_06_puts_no_large_picture_through_the_network_as_a_whole(said):
    sizes = []
    run = SimpleNamespace(run=lambda model, lq, tile=None: sizes.append(lq.shape[-2:]) or lq)
    lq = torch.rand(3, 300, 1400)
    space = prepared("06_evaluate", said, model=None, lq=lq, tiles=run)
    exec(cell_with("06_evaluate", "in tiles of 256"), space)
    assert sizes == [(300, 512)] * 2 and space["lq"] is lq


def test_09_shows_a_gpu_of_which_no_price_was_measured(said, monkeypatch, tmp_path):
    (tmp_path / "machine.json").write_text('{"device": "Some GPU", "torch": "2"}')
    lent = measure.read(tmp_path)
    monkeypatch.setattr(measure, "read", lambda: lent)
    for price in (None, pd.DataFrame({"precision": ["float32"], "error": ["out of memory"]})):
        lent = lent._replace(
            price=None if price is None else price.assign(network="edsr", compile="none", step="plain")
        )
        exec(cell_with("09_cost", "lent.price"), prepared("09_cost", said))
    assert sum("Some GPU" in text for text in said) == 2


# What stands below a figure comes from its record


def test_05_says_what_the_record_of_doses_allows(said):
    exec(cell_with("05_compare", "dose_response"), prepared("05_compare", said))
    record = evidence.committed("D")
    assert verdicts.outcome(record) in said and "without Holm" in said[0]
    assert all(any(flaw in text for text in said) for flaw in verdicts.flaws(record))


def test_04_counts_every_task_of_record_p(said):
    exec(cell_with("04_history", "push_study.whole"), prepared("04_history", said))
    runs = push_study.whole(push_study.recorded()[1])[push_study.CELL].drop_duplicates()
    assert all(name in said[0] for name in [*runs.task, *runs.rate, "seeds"])
    looked = set(runs[["task", "rate", "term"]].itertuples(index=False, name=None))
    assert looked == {cell[:3] for cell in push_study.cells()}
