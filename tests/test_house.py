"""The rooms of the package: imports go down only, and the three rooms of the ground floor do not know each other."""

import ast
import graphlib
import pkgutil
import re
from pathlib import Path

import pytest

from mclir_nb import root

PACKAGE = root() / "mclir_nb"
FLOORS = {
    "views": {"experiments", "training", "evaluation", "method", "networks", "data"},
    "experiments": {"training", "evaluation", "method", "networks", "data"},
    "training": {"evaluation", "method", "networks", "data"},
    "evaluation": {"method", "networks", "data"},
    "method": set(),
    "networks": set(),
    "data": set(),
}
# root modules every room may use; they use each other at most
GROUND = {"files", "weight_files", "progress"}
TOP = {"notebook", "__main__"}


def imported(file: Path) -> set[str]:
    """The modules of the package a file imports, anywhere in it, as paths below the package: 'training.recipes'."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively; write the full path"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mclir_nb.") for name in found if name.startswith("mclir_nb.")}


def test_every_folder_is_a_room():
    folders = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert folders == set(FLOORS)
    files = {file.stem for file in PACKAGE.glob("*.py")}
    assert files == GROUND | TOP | {"__init__"}


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down(room):
    for file in (PACKAGE / room).glob("*.py"):
        for name in imported(file):
            target = name.split(".")[0]
            if (PACKAGE / target).is_dir():
                assert target == room or target in FLOORS[room], f"{room}/{file.name} imports {name}"
            else:
                assert target not in TOP, f"{room}/{file.name} imports {name}"


def test_ground_floor_knows_no_room():
    for name in GROUND:
        for used in imported(PACKAGE / f"{name}.py"):
            assert not (PACKAGE / used.split(".")[0]).is_dir(), f"{name}.py imports {used}"


def test_no_circle():
    place = lambda file: ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")  # noqa: E731
    files = {place(file): file for file in PACKAGE.rglob("*.py")}
    graph = {}
    for name, file in files.items():
        used = {target if target in files else target.rpartition(".")[0] for target in imported(file)}
        graph[name] = used & set(files) - {name}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_names_in_the_pages_exist():
    pages = [page for place in ("*.md", "docs/*.md", "data/**/*.md", "tests/*.md") for page in root().glob(place)]
    named = {name for page in pages for name in re.findall(r"\bmclir_nb(?:\.[A-Za-z_]\w*)+", page.read_text())}
    for name in named:
        pkgutil.resolve_name(name)  # ImportError or AttributeError names it
    assert named
