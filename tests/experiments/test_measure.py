"""A borrowed machine: what is measured on it, in which order, within the time, and what goes on later."""

import itertools
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pandas as pd
import pytest
import torch

from mclir_nb import networks
from mclir_nb.__main__ import main
from mclir_nb.experiments import compare, cost, evidence, measure, plans

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
FEW = measure.Sizes("tiny", "tiny", 1, 4, dict(patch_size=64, batch_size=1))
# imported from what the notebooks need and a borrowed machine need not have
NOTEBOOK_STACK = "IPython ipykernel ipywidgets jupyter_client jupyter_core jupyterlab matplotlib_inline nbclient "
NOTEBOOK_STACK += "nbconvert nbformat papermill psutil traitlets zmq"


@pytest.fixture
def small_house(monkeypatch):
    """One network, one notebook and one experiment, so that a whole round takes seconds."""
    monkeypatch.setattr(networks, "names", lambda: ["edsr"])
    monkeypatch.setattr(cost, "PATCHES", {"edsr": cost.PATCHES["edsr"]})
    monkeypatch.setattr(measure, "NOTEBOOKS", ("03_train",))
    arms = (compare.Arm("plain", {"objective": "plain"}), compare.Arm("spn"))
    decided = plans.Experiment("X1", "?", "tiny", ("derain",), arms, (0,), dict(steps=3))
    monkeypatch.setattr(measure, "COMPILED", ())
    monkeypatch.setitem(plans.EXPERIMENTS, "X1", decided)


def test_a_whole_round(tmp_path, small_house, clock_of_flops, capsys):
    fine = measure.measure(tmp_path, 60, sizes=FEW, device="cpu", experiments=["X1"])
    found = measure.read(tmp_path)
    assert set(found.checks.check) == {"network", "training", "same files"}
    assert found.checks[found.checks.check != "training"].ok.all()  # four steps need not gain anything
    assert fine == bool(found.checks.ok.all()) == (not measure.failures(found))
    assert set(found.price.precision) == {"float32", "bfloat16"}
    assert set(found.price.step) == {"plain", "exact", "sampled"}
    ratio = found.price[found.price.precision == "float32"].set_index("step").ratio
    assert ratio.exact > 2 > ratio.sampled > 1 and (found.price.peak_mb > 0).all()
    assert found.notebooks.seconds.gt(0).all()
    assert evidence.read_record("X1", tmp_path / "records" / "X1").runs.arm.nunique() == 2
    assert f"{found.checks.ok.sum()} of {len(found.checks)} checks" in measure.summary(found)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    capsys.readouterr()
    measure.measure(tmp_path, 60, proceed=True, sizes=FEW, device="cpu", experiments=["X1"])  # nothing is left to do
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert not re.search("took|finished", capsys.readouterr().out)
    shutil.rmtree(tmp_path / "runs")  # what a record holds is not run a second time
    measure.measure(tmp_path, 60, proceed=True, sizes=FEW, device="cpu", experiments=["X1"])
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def clock_of_looks(monkeypatch):
    """A minute has passed whenever somebody looks at the clock, however fast the machine is."""
    looks = itertools.count(0, 60)
    clock = types.SimpleNamespace(monotonic=lambda: next(looks), perf_counter=time.perf_counter)
    monkeypatch.setattr(measure, "time", clock)


def test_a_rehearsal_ends_in_time_and_goes_on(tmp_path, small_house, clock_of_looks, monkeypatch, capsys):
    monkeypatch.setattr(measure, "REHEARSAL", FEW)
    out, rest = tmp_path / "out", ["--rehearsal", "--device", "cpu", "--experiments", "X1"]
    assert main(["measure", "--minutes", "20", "--out", str(out), *rest]) == 0
    assert "left out for lack of time" in capsys.readouterr().out
    first = {file: pd.read_csv(file) for file in out.glob("*.csv")}
    main(["measure", "--minutes", "300", "--continue", str(out), *rest])  # four steps need not gain anything
    assert "left out" not in capsys.readouterr().out
    later = {file: pd.read_csv(file) for file in out.glob("*.csv")}
    assert sum(map(len, later.values())) > sum(map(len, first.values())) > 0
    for name, table in first.items():
        pd.testing.assert_frame_equal(later[name].head(len(table)), table, check_dtype=False)
        named = [column for column in (*measure.NAMING, "check", "what", "step") if column in table]
        assert not later[name].duplicated(named).any()
    assert main(["measure", "--minutes", "20", "--out", str(out), *rest]) == 1
    assert "--continue" in capsys.readouterr().err
    assert main(["measure", "--minutes", "20", "--continue", str(out), "--device", "cpu"]) == 1
    assert "sizes" in capsys.readouterr().err


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])  # as in a shell's background job
def test_what_still_runs_when_its_time_is_over_is_interrupted(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(measure.TimeUp), measure.Clock(0.005).limit("seeds"):
            while True:
                time.sleep(0.001)
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("data_root", [None, "nowhere"])
def test_a_data_set_that_is_not_there_is_refused_before_anything_is_measured(tmp_path, data_root):
    with pytest.raises(ValueError, match="data_root"):
        measure.measure(tmp_path / "out", 60, device="cpu", experiments=["D"], data_root=data_root)
    assert not (tmp_path / "out").exists()


def test_a_failure_is_written_named_and_tried_again(tmp_path, small_house, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(cost, "PATCHES", {})
    monkeypatch.setattr(measure, "trainings", broken)
    assert not measure.measure(tmp_path, 10, sizes=FEW, device="cpu", experiments=[])
    assert any("03_train" in line and "no kernel image" in line for line in measure.failures(measure.read(tmp_path)))
    monkeypatch.setattr(measure, "trainings", lambda *_: [])
    measure.measure(tmp_path, 10, proceed=True, sizes=FEW, device="cpu", experiments=[])
    assert measure.read(tmp_path).notebooks.error.isna().all()


@pytest.mark.parametrize("wrong", ["edsr", "nafnet"])
def test_a_network_that_computes_something_else_is_found(wrong, monkeypatch):
    assert all(row["ok"] for row in measure.check_network(wrong, "tiny", CPU, 32))
    build = networks.build

    def shifted(*args, **options):
        network = build(*args, **options)
        network.register_forward_hook(lambda module, args, out: out * (1 if out.dtype == torch.float64 else 1.001))
        return network

    monkeypatch.setattr(networks, "build", shifted)
    rows = {(row["precision"], row["what"][:6]): row["ok"] for row in measure.check_network(wrong, "tiny", CPU, 32)}
    assert not rows["float32", "output"] and rows["bfloat16", "output"]


@pytest.mark.parametrize("notebook", measure.NOTEBOOKS)
def test_what_a_notebook_trains_follows_its_parameters(notebook):
    asked, runs = measure.parameters(notebook), measure.trainings(notebook)
    assert len(set(runs)) == len(runs) == {"04_history": 3, "05_compare": 18, "07_ablate": 8}.get(notebook, 1)
    assert {run.task for run in runs} == {asked.get("task", "dehaze")}
    assert {run.seed for run in runs} == {*asked.get("seeds", [0]), *([1] if notebook == "04_history" else [])}


def test_nothing_is_read_where_nothing_was_measured(tmp_path):
    assert measure.read(tmp_path) is None
    with pytest.raises(ValueError, match="machine.json"):
        measure.measure(tmp_path, 1, proceed=True, device="cpu")
    with pytest.raises(ValueError, match="minutes"):
        measure.measure(tmp_path, 0, device="cpu")
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="other files"):
        measure.measure(tmp_path, 1, device="cpu")


def test_no_notebook_stack_is_needed(tmp_path):
    """The command without the packages of the notebooks, and without any that neither torch nor `make carry` brings."""
    carried = re.search(r"pydantic pydantic-core.*", (ROOT / "Makefile").read_text())[0].replace("-", "_").split()
    brought = "PIL torch torchgen numpy scipy pandas skimage safetensors matplotlib tqdm filelock typing_extensions "
    brought += "sympy mpmath networkx jinja2 markupsafe fsspec dateutil six charset_normalizer functorch setuptools"
    code = f"""
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {NOTEBOOK_STACK.split()!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from mclir_nb.__main__ import main
status = main(["measure", "--rehearsal", "--minutes", "0.1", "--device", "cpu", "--out", {str(tmp_path / "out")!r}])
there = {{name.partition(".")[0]: module for name, module in sys.modules.items() if "." not in name and module}}
paths = {{name: getattr(module, "__file__", None) or "" for name, module in there.items()}}
print("used:", *[name for name, path in paths.items() if "site-packages" in path and name[:2] != "__"])
sys.exit(status)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    used = set(re.search(r"used: (.*)", done.stdout)[1].split())
    helpers = {name for name in used if name.startswith("_")}  # of editable installs and SciPy's compiled parts
    assert used - helpers <= {*brought.split(), *carried}
