"""A reader's own network, task or objective: what a recipe names and this package does not contain.

They are added to the tables `networks.NETWORKS`, `tasks.TASKS` and `losses.OBJECTIVES`, in a notebook cell or a module.
A recipe holds names only, so a run also keeps the text behind them, and refuses to go on with another one.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from mclir_nb import files, networks
from mclir_nb.data import tasks
from mclir_nb.method import losses
from mclir_nb.training.recipes import Recipe

FILE = "own.json"
UNKNOWN = "(its source is not available)"
OBJECTIVES = dict(losses.OBJECTIVES)  # of the package, before a reader changes the table


def definitions(recipe: Recipe) -> dict[str, str]:
    """Options and source of the reader's own things in a recipe, but not of what they call, by kind and name."""
    network, task = networks.NETWORKS[recipe.network], tasks.TASKS[recipe.task]
    objective = losses.OBJECTIVES[recipe.objective]
    found = {}
    if not isinstance(network.family, ModuleType):
        options = networks.options(recipe.network, recipe.network_size)
        found[f"network {recipe.network!r}"] = f"{options}\n{_source(network.core)}"
    if not _is_in_package(task.degrade):
        fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.name != "degrade"}
        found[f"task {recipe.task!r}"] = f"{fields}\n{_source(task.degrade)}"
    if objective is not OBJECTIVES.get(recipe.objective) or not _is_in_package(objective):
        found[f"objective {recipe.objective!r}"] = _source(objective)
    return found


def keep_definitions(run_dir: Path, recipe: Recipe) -> None:
    """Keep the reader's own definitions with a run that begins. Raises ValueError if it was made with other ones."""
    file, now = run_dir / FILE, definitions(recipe)
    if now and not file.exists() and not (run_dir / "provenance.json").exists():
        files.write_json(file, now)
    then = files.read_json(file) if file.exists() else {}
    if changed := sorted(name for name in now | then if now.get(name) != then.get(name)):
        raise ValueError(
            f"{run_dir} holds a run made with another definition of {', '.join(changed)} (its {FILE} keeps what was "
            "not the package's); choose another out_dir, delete that folder, or put the definition back."
        )


def _is_in_package(thing: Callable) -> bool:
    return inspect.unwrap(_inner(thing)).__module__.startswith("mclir_nb.")


def _inner(thing: Callable) -> Callable:
    """The function inside a `functools.partial`."""
    return thing.func if isinstance(thing, functools.partial) else thing


def _enclosed(thing: Callable) -> dict:
    """Plain values from where a function was made, such as the sign that `losses.objective` was given."""
    if not inspect.isfunction(thing):
        return {}
    found = inspect.getclosurevars(thing).nonlocals.items()
    return {name: value for name, value in found if isinstance(value, bool | int | float | str | None)}


def _source(thing: Callable) -> str:
    """The text of a function, or of the functions of a class (of a class in a notebook Python 3.11 has no more).

    Before it what the function is set to; of a function of the package the name alone.
    """
    set_to = f"{thing.args} {thing.keywords}\n" if isinstance(thing, functools.partial) else ""
    thing = _inner(thing)
    set_to += f"{enclosed}\n" if (enclosed := _enclosed(thing)) else ""
    if inspect.isfunction(thing) and _is_in_package(thing):
        return f"{set_to}{thing.__module__}.{thing.__qualname__}"
    parts = [getattr(part, "__func__", part) for part in vars(thing).values()]  # static methods hold one
    parts = [part for part in parts if inspect.isfunction(part)]
    try:
        return set_to + "\n".join(map(inspect.getsource, parts if inspect.isclass(thing) else [thing]))
    except (OSError, TypeError):
        return set_to + UNKNOWN
