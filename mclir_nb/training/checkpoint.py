"""The checkpoint of a run: one file with everything that a resumed run needs, and the one before it.

A state is a dictionary of dictionaries, as torch's `state_dict` methods return them. Tensors go into the safetensors
file under their path, such as "optimiser/0/exp_avg"; numbers, text, None and lists go into the JSON text in its header.
One file, so that a run is never half at one step and half at another. Pickles are never written and never read.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mclir_nb import files

FILE, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"
FORM = 2  # of the state; raise it when the paths or their meaning change


def save(run_dir: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; the one that was there is kept as `PREVIOUS`. After an OSError all is as it was."""
    flat = dict(_flatten(state)) | {"form": FORM}
    tensors = {place: value.detach().cpu().contiguous() for place, value in flat.items() if isinstance(value, Tensor)}
    facts = {place: value for place, value in flat.items() if not isinstance(value, Tensor)}
    facts["sha256"] = _digest(tensors, facts)
    files.write_tensors(run_dir / FILE, tensors, facts, keep=run_dir / PREVIOUS)


def saved(run_dir: Path) -> list[Path]:
    """The checkpoints that a run folder holds, the newest first; that alone may be missing after a crash."""
    return [file for file in (run_dir / FILE, run_dir / PREVIOUS) if file.exists()]


class Misfit(ValueError):
    """A whole checkpoint of another run or another version."""


def restore(run_dir: Path, target) -> Path | None:
    """Bring `target`, by its `load_state_dict`, to the newest whole checkpoint of a run folder; None if there is none.

    Raises:
        Misfit: what is in it is of another version or another run.
        ValueError: all checkpoints are damaged.
    """
    damage = []
    for file in saved(run_dir):
        try:
            state = read(file)
        except ValueError as error:
            damage.append(str(error))
            continue
        try:
            if state.get("form") != FORM:
                raise ValueError("the form of its state is another one")
            target.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
            raise Misfit(
                f"{file} cannot be continued: it is of another version of this package, or of another run "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}). Choose another out_dir."
            ) from error
        return file
    if damage:
        raise ValueError(f"{' '.join(damage)} Nothing can go on from {run_dir}; begin anew in another out_dir.")
    return None


def read(file: Path) -> dict[str, Any]:
    """The state in a checkpoint. Raises ValueError if the file is damaged or something else."""
    tensors, facts = files.read_tensors(file)
    if facts.pop("sha256", None) != _digest(tensors, facts):
        raise ValueError(f"{file} is damaged: what it holds is not what was written.")
    state: dict[str, Any] = {}
    for place, value in (tensors | facts).items():
        *path, key = place.split("/")
        inner = state
        for name in path:
            inner = inner.setdefault(name, {})
        inner[key] = value
    return state


def load_moments(optimiser: torch.optim.Optimizer, state: dict[str, dict[str, Tensor]]) -> None:
    """Give an optimiser the state of each of its weights, by number: laid out in memory as the weights are."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    optimiser.state.clear()
    for number, moments in state.items():
        weight = weights[int(number)]
        optimiser.state[weight] = {
            key: torch.empty_like(weight.detach()).copy_(value) if value.dim() else value.to(weight.device)
            for key, value in moments.items()
        }


def last_saved(run_dir: Path) -> str:
    """A sentence on the last whole state that was saved."""
    for file in saved(run_dir):
        with suppress(ValueError):  # damaged: the one before counts
            return f"The last good state is that after step {read(file)['run']['step']}, in {file}."
    return "No state had been saved before."


def _flatten(state: dict[str, Any], path: str = ""):
    """(path, value) of everything in a dictionary of dictionaries."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def _digest(tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """SHA-256 over names, kinds, shapes and contents: safetensors has no checksum of its own."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
