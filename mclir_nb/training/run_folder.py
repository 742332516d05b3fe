"""Whose a run folder is: locked while somebody trains, of one recipe and one data, and noted where it was made."""

from __future__ import annotations

import platform
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn

from mclir_nb import __version__, files, root
from mclir_nb.data import datasets, tasks
from mclir_nb.data.image_set import ImageSet
from mclir_nb.method import features
from mclir_nb.training import checkpoint, distributed, user_code
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.records import FILES, PLACES, STARTS, Run, different_fields, read_recipe, start_file

LOCK = "run.lock"


@contextmanager
def acquire_lock(run_dir: Path):
    """Keep other processes from training into the folder while the block runs. A process that dies frees it.

    Raises:
        ValueError: another process holds the folder.
        OSError: the folder cannot be written.
    """
    lock = FileLock(run_dir / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{run_dir} is in use: another process is training into it. Wait for it or stop it, or choose another "
            "out_dir."
        ) from None
    except OSError as error:
        raise OSError(
            f"cannot write into {run_dir} ({error.strerror or error}); choose another out_dir, or make it writable."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes the file when the lock is released
            (run_dir / LOCK).unlink()
        lock.release()


def check(run_dir: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse a folder that holds another recipe's run, somebody's files or, without `resume`, any run: ValueError.

    Where data and feature weights lie may differ, see `check_content`.
    """
    if not (run_dir / "recipe.json").exists():
        if foreign := [name for name in FILES if (run_dir / name).exists()]:
            raise ValueError(
                f"{run_dir} holds {', '.join(foreign)} and no recipe.json, so they are of no run that could go on, and "
                "would be overwritten; choose another out_dir."
            )
        return
    if not resume:
        raise ValueError(f"{run_dir} already holds a run; choose another out_dir, or use resume to continue it.")
    places = () if "content" in _provenance(run_dir) else PLACES
    if differing := different_fields(read_recipe(run_dir), recipe, places):
        raise ValueError(
            f"{run_dir} holds a run of another recipe ({differing}). A run keeps its recipe, for the learning rate "
            "falls over all of its steps: to train otherwise choose another out_dir. For more steps of a finished run, "
            f"in another out_dir too: `--continue {run_dir} --steps N` takes over everything, optimiser and histories "
            f"included, and counts on; `--initial-weights {run_dir}` starts anew from its weights."
        )


def check_continued(run_dir: Path, recipe: Recipe) -> None:
    """Refuse a run that `recipe` cannot go on from, by what is there and how long it is: ValueError."""
    if not Run(run_dir).is_finished:
        raise ValueError(f"{run_dir} is no finished run that could be continued; the command that made it ends it.")
    if not checkpoint.saved(run_dir):
        anew = f"`--initial-weights {run_dir}` starts anew from its weights."
        raise ValueError(f"{run_dir} has no {checkpoint.FILE} to go on from; {anew}")
    if (taken := read_recipe(run_dir).steps) >= recipe.steps:
        raise ValueError(f"steps is {recipe.steps}; {run_dir} has taken {taken} already, so give more.")


def content(sets: dict[str, ImageSet], features: nn.Module | None, recipe: Recipe) -> dict[str, str]:
    """What a run learns and starts from, wherever it lies: fingerprints of the splits, hashes of files of weights."""
    found = {split: images.fingerprint() for split, images in sets.items()}
    if features:
        found["features"] = str(features.source).rpartition("sha256 ")[2]
    for field in STARTS:
        file = start_file(recipe, field)
        if file and file.is_file():
            found[field] = files.sha256(file)
    return found


def check_content(run_dir: Path, found: dict[str, str]) -> None:
    """Refuse to go on with other data than a run began with: ValueError with what is another."""
    known = _provenance(run_dir).get("content", {})
    if changed := [name for name, value in found.items() if known.get(name, value) != value]:
        raise ValueError(
            f"{run_dir} holds a run that began with other data ({', '.join(changed)}) than {' and '.join(PLACES)} "
            "name now; put them back, or choose another out_dir."
        )


def check_finished(run_dir: Path, recipe: Recipe) -> None:
    """A finished run is only read. Its data may be gone, but no others may have taken their place: ValueError."""
    if (run_dir / LOCK).exists():  # of a process that was killed after its last file
        with suppress(ValueError, OSError), acquire_lock(run_dir):
            pass
    user_code.keep_definitions(run_dir, recipe)
    there, network = read_recipe(run_dir), None
    try:
        sets = datasets.open_splits(recipe.dataset, tasks.get(recipe.task, recipe.scale), recipe.data_root)
    except (ValueError, OSError):
        if recipe.data_root != there.data_root:
            raise
        return
    if recipe.features_weights != there.features_weights:
        network = features.build(recipe.features, recipe.features_weights)
    check_content(run_dir, content(sets, network, recipe))


@contextmanager
def hold(run_dir: Path):
    """Make a folder, and keep other processes out of it while the block runs; one that stays empty goes again.

    Raises:
        ValueError: as `acquire_lock`.
        OSError: the folder cannot be made or written.
    """
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot create the run folder {run_dir} ({error.strerror}); choose another out_dir.") from error
    try:
        with acquire_lock(run_dir):
            yield
    finally:
        if made:
            with suppress(OSError):  # something was written
                run_dir.rmdir()


def claim(run_dir: Path, recipe: Recipe, resume: bool, found: dict[str, str] | None = None) -> None:
    """Make a folder that is held this recipe's. `found`, its `content`, is compared with that of a run that goes on.

    Raises ValueError: as `check` and `check_content`, or own definitions are others.
    """
    check(run_dir, recipe, resume)  # once more: another process may have begun here
    check_content(run_dir, found or {})
    file = run_dir / "recipe.json"
    if not file.exists() or different_fields(read_recipe(run_dir), recipe, PLACES):
        files.write_json(file, recipe.model_dump())
    user_code.keep_definitions(run_dir, recipe)
    for name in FILES:
        for part in run_dir.glob(f".{name}.*.part"):  # of a killed process
            part.unlink()


def write_provenance(run_dir: Path, facts: dict, step: int) -> None:
    """Keep where and with what a run was begun; what differs when it goes on is added to its list `continued`."""
    file, first = run_dir / "provenance.json", _provenance(run_dir)
    if not first:
        files.write_json(file, facts)
        return
    last = first | {key: value for entry in first.get("continued", []) for key, value in entry.items()}
    changed = {key: value for key, value in facts.items() if last.get(key) != value}
    if changed:
        files.write_json(file, first | {"continued": [*first.get("continued", []), {"step": step} | changed]})


def provenance(device: torch.device, features_source: str) -> dict:
    """Where and with what a run was made."""
    return {
        "mclir_nb": __version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "processor": _processor(),
        "deterministic": device.type == "cpu" or torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "features": features_source,
    }


def _processor() -> str:
    """The model of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _revision() -> str:
    """The git commit of the workbook, "+" when files differ from it, or "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _provenance(run_dir: Path) -> dict:
    """Where a run was begun; nothing if that is not known."""
    try:
        return files.read_json(run_dir / "provenance.json")
    except ValueError:
        return {}
