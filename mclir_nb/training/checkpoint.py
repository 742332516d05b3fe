"""The checkpoint of a run: one file with everything that a resumed run needs, and the one before it.

A run is a table of parts by name. A part has torch's own pair of methods, `state_dict()` and `load_state_dict(state)`.
Its tensors go into the file as tensors, whatever else it holds (numbers, text, None, lists of these) as facts:

    part/key    a tensor, or an entry of the JSON text in the header of the safetensors file

The name of a part may have a "/", its keys not.

So a new part, such as the state of a guard, needs no change here. Because all parts are in one file, a run is never
half at one step and half at another. Pickles are never written and never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mclir_nb import files

FILE, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"


class Part(Protocol):
    """Something with a state: a module, `Moments`, a schedule. Tuples come back as lists."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Moments:
    """The state of an optimiser as a part: "N.exp_avg" and so on for parameter N."""

    def __init__(self, optimiser: torch.optim.Optimizer):
        self.optimiser = optimiser

    def state_dict(self) -> dict[str, Any]:
        state = self.optimiser.state_dict()["state"]
        return {f"{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        entries: dict[int, dict] = {}
        for place, value in state.items():
            number, key = place.split(".")
            if isinstance(value, Tensor) and value.dim():
                # the fused optimiser wants its moments laid out in memory as the weights are
                value = torch.empty_like(parameters[int(number)]).copy_(value)
            entries.setdefault(int(number), {})[key] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": entries})


def save(run_dir: Path, parts: Mapping[str, Part]) -> None:
    """Write the checkpoint. The one that was there is kept as `PREVIOUS`, and none before that.

    Raises: OSError if it cannot be written; what was there is still there then.
    """
    tensors, facts = {}, {}
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
            else:
                facts[f"{name}/{key}"] = value
    facts["sha256"] = _digest(tensors, facts)
    files.write_tensors(run_dir / FILE, tensors, facts, keep=run_dir / PREVIOUS)


def restore(run_dir: Path, parts: Mapping[str, Part]) -> Path | None:
    """Bring the parts to the newest whole checkpoint of a run folder.

    Returns: its file; None if there is none, so that the run begins at the beginning.
    Raises: ValueError if every checkpoint is damaged, or if what is in it does not fit the parts.
    """
    damage = []
    for file in (run_dir / FILE, run_dir / PREVIOUS):
        if not file.exists():  # killed between two renames, or never saved
            continue
        try:
            states = read(file)
        except ValueError as error:
            damage.append(str(error))
        else:
            _fill(parts, states, file)
            return file
    if damage:
        raise ValueError(f"{' '.join(damage)} To begin this run again, remove its folder {run_dir}.")
    return None


def last(run_dir: Path) -> str:
    """A sentence on the last state that was saved."""
    for file in (run_dir / FILE, run_dir / PREVIOUS):
        if file.exists():
            step = files.read_facts(file).get("run/step", "unknown")
            return f"The last good state is that after step {step}, in {file}."
    return "No state had been saved before."


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The states in a checkpoint, by part. Raises: ValueError if the file is damaged or something else."""
    tensors, facts = files.read_tensors(file)
    if facts.pop("sha256", None) != _digest(tensors, facts):
        raise ValueError(f"{file} is damaged: what it holds is not what was written.")
    states: dict[str, dict[str, Any]] = {}
    for place, value in (tensors | facts).items():
        name, _, key = place.rpartition("/")
        states.setdefault(name, {})[key] = value
    return states


def _fill(parts: Mapping[str, Part], states: dict[str, dict[str, Any]], file: Path) -> None:
    try:
        strange = states.keys() - parts.keys()
        if strange:
            raise KeyError(", ".join(sorted(strange)))
        for name, part in parts.items():
            part.load_state_dict(states.get(name, {}))  # an optimiser that never stepped has an empty state
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file} does not fit this run ({type(error).__name__}: {reason[:200]}); it was made by another version, "
            "or put here from another run. Choose another out_dir."
        ) from error


def _digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """SHA-256 over names, kinds, shapes and contents: safetensors has no checksum of its own."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
