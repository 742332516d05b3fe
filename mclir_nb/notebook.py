"""What every notebook calls: setup, checked parameters, figures with captions, the package's own source."""

import ast
import base64
import html
import inspect
import os
import platform
import random
import re
import shutil
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import matplotlib
import numpy as np
import psutil
import torch
from IPython import get_ipython
from IPython.display import Markdown, display

from mclir_nb import __version__, did_you_mean, root
from mclir_nb.method import precision
from mclir_nb.views import style


def setup(seed: int, device: str = "auto") -> torch.device:
    """Seed everything, choose the device, forbid TF32, set the plot style; print versions, device and seed.

    Args:
        seed: of Python, NumPy and torch, 0 to 2^32 - 1.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1". It never changes the experiment.
    """
    from mclir_nb.training.machine import pick_device  # here, so that figures and widgets do without the training code

    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {2**32 - 1}")
    chosen = pick_device(device)
    for seed_it in (random.seed, np.random.seed, torch.manual_seed):
        seed_it(seed)
    precision.forbid_tf32()  # what a cell computes is compared with what the package computes
    matplotlib.rcParams.update(style.STYLE)  # type: ignore[arg-type]  # matplotlib types every key
    if hasattr(get_ipython(), "kernel"):  # a reader's own figures appear below the cell, with or without pyplot
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("png")
    threads = torch.get_num_threads()
    what = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
    print(f"mclir_nb {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"device {chosen} ({what}), seed {seed}")
    return chosen


COMMON = {"seed": int, "device": str, "out_dir": str | None}  # parameters that mean the same in every notebook


def check_parameters(namespace: dict, **accepted) -> None:
    """Refuse misspelt parameters, which papermill would ignore, and wrong values, before any work is done.

    check_parameters(globals(), task=tasks.names(), steps=int | None)

    Args:
        namespace: the notebook's `globals()`.
        accepted: for every parameter of the notebook but seed, device and out_dir its valid values, or its type.
            An int is a valid float, a bool is not a valid int.

    Raises:
        ValueError: naming the parameter, what was found, what is accepted and the nearest valid spelling.
    """
    accepted |= {name: kind for name, kind in COMMON.items() if name in namespace}
    for name in _assigned(namespace, set(accepted)):
        if name not in accepted:
            near, known = did_you_mean(name, accepted), ", ".join(accepted)
            raise ValueError(f"unknown parameter {name!r}{near}; the parameters of this notebook are {known}")
    for name, valid in accepted.items():
        if name not in namespace:
            raise ValueError(f"parameter {name!r} is not set; run the cell of parameters first")
        _check_value(name, namespace[name], valid)


def _check_value(name: str, value, valid) -> None:
    """Accept one of the valid values, or a value of the valid type."""
    if isinstance(valid, type | UnionType):
        kinds = get_args(valid) or (valid,)
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"parameter {name} is {value!r}; it must be of type {wanted}")
    elif not any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in valid):
        listed = ", ".join(map(repr, valid))
        raise ValueError(f"parameter {name} is {value!r}{did_you_mean(value, valid)}; it must be one of {listed}")


def _assigned(namespace: dict, known: set[str]) -> list[str]:
    """Names set by the cell of parameters and by the cell papermill adds below it, newest first."""
    found = []
    for source in reversed(namespace.get("In", [])):
        names = _literals(source)
        injected = source.startswith("# Parameters")
        if injected or known & set(names):
            found += names
        if known & set(names) and not injected:
            break  # older versions of the cell do not count
    return found


def _literals(source: str) -> list[str]:
    """The names a cell assigns, if it does nothing but assign literals; otherwise none."""
    try:
        statements: list[Any] = ast.parse(source).body
        names = []
        for statement in statements:
            ast.literal_eval(statement.value)
            target: Any = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            names.append(target.id)
    except (SyntaxError, ValueError, AttributeError, TypeError):
        return []
    return names


def check_machine() -> None:
    """Print what this machine offers the workbook: one line per fact, [OK] or what to do."""
    samples = root() / "data" / "samples" / "index.csv"
    torch_version = tuple(map(int, torch.__version__.split(".")[:2]))
    disk, memory = shutil.disk_usage(root()).free, psutil.virtual_memory().available
    checks = [
        ("Python 3.11 or newer", sys.version_info >= (3, 11), "install Python 3.11 or newer"),
        ("torch 2.9 or newer", torch_version >= (2, 9), "install torch>=2.9"),
        ("2 GB of memory free", memory >= 2e9, "close other programs, or use smaller batches and patches"),
        ("1 GB of disk free", disk >= 1e9, "free some space: runs are written to runs/"),
        ("embedded photographs", samples.is_file(), "get the whole repository, not only the package"),
        ("a runs folder to write to", os.access(root(), os.W_OK), "give every notebook an out_dir of your own"),
        ("sliders (ipywidgets)", find_spec("ipywidgets") is not None, "pip install ipywidgets"),
    ]
    for what, fine, advice in checks:
        print(f"[OK] {what}" if fine else f"[{advice}] {what} not found")
    gpu = "a CUDA device" if torch.cuda.is_available() else "no CUDA device: everything small runs on the CPU"
    print(f"[OK] {gpu}")


def show_figure(figure, caption: str, export: str | Path | None = None) -> None:
    """Show a figure with its caption, which is also its alternative text.

    Photographs are stored as JPEG, plots as PNG, at the figure's own resolution: the notebook stays small.

    Args:
        figure: a matplotlib `Figure`.
        caption: what to see, in one or two sentences.
        export: path without ending; the figure is written there as PDF and as SVG too.
    """
    if export is not None:
        style.export(figure, export)
    panels = [panel for axes in figure.axes for panel in (axes, *axes.child_axes)]
    form = "jpeg" if any(panel.images for panel in panels) else "png"
    mime = f"image/{form}"
    data = {mime: base64.b64encode(style.render(figure, form, colours=256)).decode(), "text/plain": caption}
    display(data, metadata={mime: {"alt": caption}}, raw=True)
    display(Markdown(f"*{html.escape(caption, quote=False)}*"))  # it may hold names of files


def say(text: object) -> None:
    """Print sentences with their lines broken between words, as JupyterLab does not; a line's indent is kept."""
    for line in str(text).splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        print(textwrap.fill(line, 96, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def show_fields(fields: dict) -> None:
    """Display names and values as a table, one below the other in three columns."""
    items = [(name, str(value)) for name, value in fields.items()]
    rows = -(-len(items) // 3)
    body = ""
    for row in range(rows):
        cells = items[row::rows]
        body += "<tr>" + "".join(f"<th>{html.escape(n)}</th><td>{html.escape(v)}</td>" for n, v in cells) + "</tr>"
    plain = "\n".join(f"{name}: {value}" for name, value in items)
    display({"text/html": f"<table>{body}</table>", "text/plain": plain}, raw=True)


def show_source(*objects, docstring: bool = True) -> None:
    """Show the package's own code in a notebook, highlighted; as plain text where Markdown is not shown.

    Args:
        objects: functions, classes or modules.
        docstring: False keeps only the first line of each docstring.
    """
    for thing in objects:
        source = textwrap.dedent(inspect.getsource(thing)).rstrip()
        source = source if docstring else _shorten_docstrings(source)
        place, home = Path(inspect.getsourcefile(inspect.unwrap(thing)) or ""), Path(__file__).parents[1]
        where = place.relative_to(home).as_posix() if place.is_relative_to(home) else place.name
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", source)), default=0))
        text = f"From `{where}`:\n\n{fence}python\n{source}\n{fence}"
        display({"text/markdown": text, "text/plain": source}, raw=True)


def _shorten_docstrings(source: str) -> str:
    """Source with the first line of each docstring only."""
    lines = source.splitlines()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, kinds) and ast.get_docstring(n)]
    for node in sorted(nodes, key=lambda n: -n.body[0].lineno):
        docstring = ast.get_docstring(node) or ""
        first, last = node.body[0].lineno - 1, node.body[0].end_lineno
        start = lines[first][: lines[first].index('"')]
        lines[first:last] = [f'{start}"""{docstring.splitlines()[0]}"""']
    return "\n".join(lines)
