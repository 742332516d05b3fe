"""Moments of a run, kept to be looked at: what the network and its history models made of one picture.

At most `COUNT` of them, in one file: at most 3.6 MB for the network and each history model, 18 MB with four of them. A
killed and resumed run ends with the same file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mclir_nb import files
from mclir_nb.method import precision
from mclir_nb.method.history import HistoryModels
from mclir_nb.training import records

FILE = "frames.safetensors"
COUNT = 16  # moments of a run
SIDE = 192  # gt pixels of the picture, centre square, at most
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Frames:
    """What a run kept: S moments of K history models on one picture, in [0,1]. Outputs are not clamped."""

    name: str  # of the picture
    lq: Tensor  # (3,H/scale,W/scale)
    gt: Tensor  # (3,H,W)
    steps: list[int]  # training steps, S of them
    restored: Tensor  # (S,3,H,W), of the network
    negatives: Tensor  # (S,K,3,H,W), of the histories
    distances: Tensor  # (S,K), relative distance of the weights, |history - model|_2 / |model|_2
    # (S,3,H,W), of the network whose past the histories are where that is another one, an average of the trained one or
    # a foreign one (distances too are from it); None where they are the network's own
    averaged: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """(S,3,H,W), of the network whose past the histories are."""
        return self.restored if self.averaged is None else self.averaged


def steps(total: int, count: int = COUNT) -> list[int]:
    """The steps at which a run of `total` steps keeps a moment: one in each equal part of it, the last at its end.

    The place within a part moves on by the golden ratio: evenly spaced steps would be multiples of the histories'
    intervals, and show every history just after its refreshing, at its youngest.
    """
    parts = min(count, total)
    places = [(k + (k + 1) * GOLDEN % 1) * total / parts for k in range(parts - 1)]
    return sorted({1 + int(place) for place in places} | {total})


def keep(
    run_dir: Path,
    step: int,
    model: nn.Module,
    history: HistoryModels,
    pair: tuple[str, Tensor, Tensor],
    past_of: nn.Module | None = None,
) -> None:
    """Add the moment after `step` to the run's file; moments of an earlier life at or after this step go.

    A negative is kept as its difference from the restored image, in float16: relative to that difference it is exact
    to 0.0005, however small the difference is. The restored image itself is kept to 0.0003.

    Args:
        pair: name, gt and lq of the picture.
        past_of: the network whose past the histories are, if that is another one.

    Raises:
        OSError: the file cannot be written.
    """
    (name, gt, lq), file = pair, run_dir / FILE
    try:
        earlier = files.read_tensors(file)[0] if file.exists() else {}
    except ValueError as error:  # no reason to stop a training
        print(f"{error} The moments in it are lost; those from here on are kept.")
        earlier = {}
    restored, present, *negatives = (_output(network, lq) for network in (model, past_of or model, *history.models))
    tensors = {key: value for key, value in earlier.items() if _step_of(key) < step} | {
        "lq": lq.float(),
        "gt": gt.float(),
        f"{step}/restored": restored.half(),
        f"{step}/gaps": (torch.stack(negatives) - present).half(),
        f"{step}/distances": history.distances(past_of or model).float(),
    }
    if past_of:
        tensors[f"{step}/averaged"] = present.half()
    files.write_tensors(file, tensors, {"name": name})


def _step_of(key: str) -> int:
    """The step a tensor of the file belongs to; the picture itself, without a step, comes before all."""
    return int(key.split("/")[0]) if "/" in key else 0


@precision.full_float32()
@torch.inference_mode()
def _output(network: nn.Module, lq: Tensor) -> Tensor:
    """What a network makes of the picture, in eval mode, not clamped, on the CPU; the mode is put back."""
    training = network.training
    network.eval()
    try:
        return network(lq[None].to(next(network.parameters()).device))[0].float().cpu()
    finally:
        network.train(training)


def read(run_dir: str | Path) -> Frames:
    """The moments a run has kept so far. Raises ValueError if there are none, with why and what to do."""
    file = Path(run_dir).expanduser() / FILE
    if not file.is_file():
        recipe = records.read_recipe(file.parent)  # not a run folder? say that first
        raise ValueError(
            f"{file.parent} holds no {FILE}. Only runs with history models keep moments (this one: objective "
            f"{recipe.objective}), from their first on; train with objective 'spn', or take another run."
        )
    tensors, facts = files.read_tensors(file)

    def stacked(name: str) -> Tensor:
        return torch.stack([tensors[f"{step}/{name}"].float() for step in kept])

    try:
        kept = sorted({_step_of(key) for key in tensors} - {0})
        restored, gaps, distances = (stacked(name) for name in ("restored", "gaps", "distances"))
        averaged = stacked("averaged") if f"{kept[0]}/averaged" in tensors else None
        negatives = (restored if averaged is None else averaged)[:, None] + gaps
        return Frames(facts["name"], tensors["lq"], tensors["gt"], kept, restored, negatives, distances, averaged)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{file} is damaged or of another version ({type(error).__name__}: {error}).") from error
