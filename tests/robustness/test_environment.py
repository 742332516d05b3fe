"""Everything that says what to install agrees: pyproject.toml, constraints.txt, environment.yml, Makefile, .ci/run."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from setuptools import find_packages

import mclir_nb

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WANTED = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
ROOMS = list(ROOT.glob("mclir_nb/*/__init__.py"))
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(r.name): r for r in map(Requirement, LINES)}


def test_the_package_is_this_checkout_and_every_part_of_it_is_installed():
    assert Path(mclir_nb.__file__).is_relative_to(ROOT)
    assert mclir_nb.__version__ == PROJECT["version"]
    found = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    assert set(find_packages(ROOT, **found)) >= {"mclir_nb", *(f"mclir_nb.{room.parent.name}" for room in ROOMS)}


@pytest.mark.parametrize("wanted", WANTED, ids=lambda r: r.name)
def test_every_requirement_has_a_tested_version(wanted):
    (pin,) = PINS[canonicalize_name(wanted.name)].specifier
    assert pin.operator == "==" and wanted.specifier.contains(pin.version)
    assert "+" not in pin.version and "*" not in pin.version  # no local build, no range


def test_constraints_name_no_host_and_the_newest_torch_is_the_tested_one():
    assert not re.search(r"https?:|--|@", "\n".join(LINES))
    (torch,) = [r for r in WANTED if r.name == "torch"]
    (pin,) = PINS["torch"].specifier
    major, minor = map(int, pin.version.split(".")[:2])
    assert torch.specifier.contains("2.11.0") and not torch.specifier.contains(f"{major}.{minor + 1}.0")


def test_conda_gives_python_and_pip_the_rest():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"] and environment["channels"] == ["conda-forge"]
    python, *others = environment["dependencies"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(re.fullmatch(r"python=(3\.\d+)", python)[1])
    assert others == ["pip", {"pip": ["-c constraints.txt", "-e .[test]"]}]


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (["-B", ".venv/.ok"], ["-c constraints.txt -e '.[test]'"]),  # as environment.yml
        (["train", "TASK=sr"], ["notebooks/03_train.ipynb runs/03_train-sr.ipynb -p task sr"]),  # README: the first
        (["test"], ["ruff check", "ruff format --check", "/mypy", "-m pytest"]),  # and the second command
    ],
)
def test_what_make_does(target, parts):
    dry = subprocess.run(["make", "-n", *target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(part in dry for part in parts)


def test_ci_runs_the_second_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and script.read_text().splitlines()[-1] == "make test"
