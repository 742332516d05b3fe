"""A reader's own network, task or objective: what a recipe names and this package does not contain.

They are added to the tables `networks.NETWORKS`, `tasks.TASKS` and `losses.OBJECTIVES`, in a notebook cell or a module.
A recipe holds names only, so a run also keeps the text behind them, and refuses to go on with another one.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from mclir_nb import files, networks
from mclir_nb.data import tasks
from mclir_nb.method import losses
from mclir_nb.training.recipes import Recipe

FILE = "own.json"
UNKNOWN = "(its source is not available)"


def definitions(recipe: Recipe) -> dict[str, str]:
    """Options and source of the reader's own things in a recipe, but not of what they call, by kind and name."""
    network, task = networks.NETWORKS[recipe.network], tasks.TASKS[recipe.task]
    objective = losses.OBJECTIVES[recipe.objective]
    found = {}
    if not isinstance(network.family, ModuleType):
        options = networks.options(recipe.network, recipe.network_size)
        found[f"network {recipe.network!r}"] = f"{options}\n{_source(network.core)}"
    if _is_own(task.degrade):
        fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.name != "degrade"}
        found[f"task {recipe.task!r}"] = f"{fields}\n{_source(task.degrade)}"
    if _is_own(objective):
        found[f"objective {recipe.objective!r}"] = _source(objective)
    return found


def keep_definitions(run_dir: Path, recipe: Recipe) -> None:
    """Keep the reader's own definitions with the run. Raises ValueError if it was made with other ones."""
    file, now = run_dir / FILE, definitions(recipe)
    if now and not file.exists():
        files.write_json(file, now)
    then = json.loads(file.read_text()) if file.exists() else {}
    if changed := sorted(name for name in now | then if now.get(name) != then.get(name)):
        raise ValueError(
            f"{run_dir} holds a run made with another definition of {', '.join(changed)} (kept in its {FILE}); "
            "choose another out_dir, delete that folder, or put the definition back."
        )


def _is_own(thing: Callable) -> bool:
    return not inspect.unwrap(_inner(thing)).__module__.startswith("mclir_nb.")


def _inner(thing: Callable) -> Callable:
    """The function inside a `functools.partial`."""
    return thing.func if isinstance(thing, functools.partial) else thing


def _source(thing: Callable) -> str:
    """The text of a function, or of the functions of a class (of a class in a notebook Python 3.11 has no more)."""
    set_to = f"{thing.args} {thing.keywords}\n" if isinstance(thing, functools.partial) else ""
    thing = _inner(thing)
    parts = [getattr(part, "__func__", part) for part in vars(thing).values()]  # static methods hold one
    parts = [part for part in parts if inspect.isfunction(part)]
    try:
        return set_to + "\n".join(map(inspect.getsource, parts if inspect.isclass(thing) else [thing]))
    except (OSError, TypeError):
        return set_to + UNKNOWN
