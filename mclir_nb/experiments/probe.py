"""Does the push help where it is applied? Directions at moments of a run, beside what pulls and what any push does.

Training goes through a few moments and keeps its state at each of them. `look` then asks there, of held-out patches:
does a small step of the weights along a direction lower the L1 loss (`push.helps`), at the network's weights and at
their evaluation EMA? And is a history worse than the network by more than its squared distance (`push.condition`)?
Nothing of the run is changed by a look. `probe` does one run, moment by moment, and goes on where it was stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb import files, stream
from mclir_nb.data.patches import Patches
from mclir_nb.evaluation.evaluate import enlarge
from mclir_nb.method import losses, push
from mclir_nb.method.history import HistoryModels
from mclir_nb.progress import Progress
from mclir_nb.training import checkpoint, frames
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer

MOMENTS, BATCHES = 9, 16  # of a run; of training patches for the directions, and as many held-out ones
HELD_OUT = 12_345  # seed of the held-out patches, the same for every run
SLOW = "slow"  # in the kept state: the histories of the EMA
HELPS, PASTS = "helps.csv", "pasts.csv"
Pair = tuple[Tensor, Tensor]  # lq and gt of a batch


class Moment(NamedTuple):
    """A run at one of its steps."""

    trainer: Trainer  # its state; the histories are the network's own past
    slow: HistoryModels  # of the evaluation EMA, with the same intervals
    foreign: HistoryModels  # of another run at the same step

    @property
    def pasts(self) -> dict[str, HistoryModels]:
        assert self.trainer.history
        return {"own": self.trainer.history, "foreign": self.foreign, "slow": self.slow}


def moments(steps: int, count: int = MOMENTS) -> list[int]:
    """The steps at which a run is looked at: as `frames.steps` spreads them, without its end, where nothing moves."""
    return frames.steps(steps, count + 1)[:-1]


def train_through(recipe: Recipe, folder: Path, count: int = MOMENTS, quiet: bool = False) -> None:
    """Train up to the last of `count` moments, keeping the state at each; goes on from the last one that was kept.

    The objective has history models; lambda 0 is a plain run with its histories beside it. Each moment has a folder of
    its own in that of the run.
    """
    if not recipe.uses_history:
        raise ValueError(f"objective {recipe.objective} has no histories to look at; take spn, with lambda 0 for plain")
    trainer = Trainer(recipe, torch.device("cpu"))
    slow, wanted = _histories(trainer.ema, recipe), moments(recipe.steps, count)
    for place in (_place(folder, step) for step in reversed(wanted)):
        if checkpoint.restore(place, trainer):
            slow = _histories(trainer.ema, recipe, place, SLOW)
            break
    steps = trainer.patches.batches(trainer.step + 1, wanted[-1])
    for batch in Progress(steps, f"train {folder.name}", wanted[-1], start=trainer.step, quiet=quiet):
        trainer.advance(*batch)
        slow.update(trainer.ema, trainer.step)
        if trainer.step in wanted:
            place = _place(folder, trainer.step)
            place.mkdir(parents=True, exist_ok=True)
            checkpoint.save(place, trainer.state_dict() | {SLOW: nn.ModuleList(slow.models).state_dict()})


def open_moment(recipe: Recipe, folder: Path, step: int, foreign: Path) -> Moment:
    """A run as it was after `step`, with the histories that the run in `foreign` had then."""
    trainer = Trainer(recipe, torch.device("cpu"))
    if not checkpoint.restore(_place(folder, step), trainer):
        raise ValueError(f"{folder} holds no moment after step {step}; train through it first")
    slow = _histories(trainer.ema, recipe, _place(folder, step), SLOW)
    return Moment(trainer, slow, _histories(trainer.model, recipe, _place(foreign, step), "history"))


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _histories(model: nn.Module, recipe: Recipe, place: Path | None = None, part: str = "") -> HistoryModels:
    """Histories of a model, as a part of the state in a folder keeps them."""
    histories = HistoryModels(model, recipe.history_every, recipe.history_decay)
    if place:
        nn.ModuleList(histories.models).load_state_dict(checkpoint.read(place / checkpoint.FILE)[part])
    return histories


def probe(
    recipe: Recipe, folder: Path, foreign: Path, *, count: int = MOMENTS, batches: int = BATCHES, quiet: bool = False
) -> None:
    """Look at every moment of a run that was not looked at yet; a probe that is killed loses one moment at most.

    Args:
        folder: where `train_through` has kept the run. Its tables `HELPS` and `PASTS` grow by one moment at a time.
        foreign: folder of another run with the same moments.
        count, batches: moments of the run; batches of training patches, and as many held-out ones.
    """
    there = {name: folder / name for name in (PASTS, HELPS)}  # helps last: it says what is done
    tables = {n: files.read_table(f) if f.exists() else pd.DataFrame({"step": []}) for n, f in there.items()}
    left = [step for step in moments(recipe.steps, count) if step not in set(tables[HELPS]["step"])]
    for step in Progress(left, f"look {folder.name}", quiet=quiet):
        for name, found in zip(there, look(open_moment(recipe, folder, step, foreign), batches), strict=True):
            before = tables[name][tables[name]["step"] != step]
            tables[name] = pd.concat([*([before] if len(before) else []), found.assign(step=step)])
            files.write_file(there[name], tables[name].to_csv(index=False))


def look(moment: Moment, batches: int = BATCHES) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What every past and every direction is good for at a moment.

    `batches` of training patches beyond the run's last step are taken, and as many held-out ones.

    Returns:
        `PASTS`: per history of the network (own), of another run (foreign) and of the EMA (slow; measured from the
        EMA's output): its age in steps, whether it still is the first network, mse of network and history; progress,
        gap and cosine of `push.condition`; votes of `push.votes`.
        `HELPS`: per direction (see `directions`; "towards" is the opposite of "push"), per form of the step (plain:
        the gradient; adam: as the optimiser would make it), and per place (weights, ema): help_cos, low and high of
        `push.helps`, and relative, the length of the mean step beside that of the pull, at lambda 1.
    """
    trainer, held = moment.trainer, held_out(moment.trainer, batches)
    assert trainer.features
    steps: dict[str, list[push.Gradient]] = {}
    for number in range(trainer.recipe.steps + 1, trainer.recipe.steps + 1 + batches):
        gt, lq, _ = trainer.patches.batch(number)
        with torch.no_grad():
            averaged = trainer.ema(lq)
        negatives = {name: one.negatives(lq) for name, one in moment.pasts.items()}
        chance = stream(trainer.recipe.seed, "probe", number)
        found = directions(trainer.model, lq, gt, negatives, averaged, trainer.features, chance)
        for name, step in found.items():
            steps.setdefault(name, []).append(step)
    uphill = {}
    for place, network in (("weights", trainer.model), ("ema", copy.deepcopy(trainer.ema).requires_grad_(True))):
        weights = list(network.parameters())
        uphill[place] = [list(torch.autograd.grad(F.l1_loss(network(lq), gt), weights)) for lq, gt in held]
    adam = {n: [push.preconditioned(s, trainer.optimiser) for s in part] for n, part in steps.items()}
    rows = []
    for form, asked in (("plain", steps), ("adam", adam)):
        means = {n: [torch.stack(w).mean(dim=0) for w in zip(*part, strict=True)] for n, part in asked.items()}
        lengths = {name: push.length(step) for name, step in means.items()}
        for place, gradients in uphill.items():
            table = push.helps(gradients, asked).assign(form=form, place=place)
            table["relative"] = table["direction"].map(lengths) / lengths["pull"]
            back = table[table["direction"] == "push"].assign(direction="towards")
            back = back.assign(help_cos=-back["help_cos"], low=-back["high"], high=-back["low"])
            rows += [table, back]
    return pasts(moment, held), pd.concat(rows, ignore_index=True)


def held_out(trainer: Trainer, batches: int) -> list[Pair]:
    """Batches of random patches of the validation pictures, on which nothing trains; the same for every run."""
    recipe, task = trainer.recipe, trainer.task
    patches = Patches(trainer.data.sets["val"], task, recipe.patch_size, recipe.batch_size, HELD_OUT)
    return [(lq, gt) for gt, lq, _ in map(patches.batch, range(1, batches + 1))]


def directions(
    model: nn.Module,
    lq: Tensor,
    gt: Tensor,
    negatives: Mapping[str, Sequence[Tensor]],
    averaged: Tensor,
    features: nn.Module,
    chance: torch.Generator,
) -> dict[str, push.Gradient]:
    """The steps that one batch asks of the weights, each by where it moves the output.

    Args:
        lq, gt: the batch, (B, 3, h, w) and (B, 3, H, W), [0, 1].
        negatives: outputs of the own, the foreign and the slow histories, the most rarely refreshed first.
        averaged: output of the evaluation EMA, (B, 3, H, W).

    Returns:
        pull: towards gt, as L1 does; push: SPN, away from the own histories; oldest: away from the first of them;
        foreign: away from another run's; noise: away from the output with white noise as far away as each own history
        is; lq: away from the input; smooth, smooth-oldest: `relatives.smooth` with all and with the first of the EMA's
        histories; random: Gaussian numbers in the weights.
    """
    weights = list(model.parameters())
    with torch.enable_grad():
        restored = model(lq).to(gt.dtype)
    at, own, slow = restored.detach(), negatives["own"], negatives["slow"]
    white = [torch.randn(at.shape, generator=chance) for _ in own]
    noise = [at + (n - at).square().mean().sqrt() * x for n, x in zip(own, white, strict=True)]
    wanted = {"pull": (gt - at).sign() / gt.numel()}
    away = {"push": own, "oldest": own[:1], "foreign": negatives["foreign"], "noise": noise, "lq": [enlarge(lq, gt)]}
    wanted |= {name: push.image_push(at, pasts, features) for name, pasts in away.items()}
    for name, pasts in (("smooth", slow), ("smooth-oldest", slow[:1])):
        objective = losses.OBJECTIVES["spn-smooth"]
        wanted[name] = -push.image_gradients(at, gt, pasts, objective, features=features, averaged=averaged)[1]
    steps = {name: list(torch.autograd.grad(restored, weights, way, retain_graph=True)) for name, way in wanted.items()}
    return steps | {"random": [torch.randn(weight.shape, generator=chance) for weight in weights]}


@torch.no_grad()
def pasts(moment: Moment, batches: Sequence[Pair]) -> pd.DataFrame:
    """Progress, gap and votes of every history of a moment on some batches, see `look`."""
    trainer, rows = moment.trainer, []
    assert trainer.features
    truth = torch.cat([gt for _, gt in batches])
    for past, histories in moment.pasts.items():
        network = trainer.ema if past == "slow" else trainer.model
        restored = [network(lq) for lq, _ in batches]
        present = torch.cat(restored)
        for k, (every, history) in enumerate(zip(histories.every, histories.models, strict=True)):
            outputs = [history(lq) for lq, _ in batches]
            right = [
                push.votes(ours, gt, [theirs], trainer.features)
                for ours, (_, gt), theirs in zip(restored, batches, outputs, strict=True)
            ]
            first = not every or trainer.step < every
            row = {"past": past, "history": k + 1, "age": trainer.step if first else trainer.step % every}
            row |= {"first": first, "mse": (present - truth).square().mean().item()}
            row |= push.condition(present, torch.cat(outputs), truth)._asdict()
            rows.append(row | {"votes": float(np.mean(right))})
    return pd.DataFrame(rows)
