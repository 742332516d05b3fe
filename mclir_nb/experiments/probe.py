"""Does the push help where it is applied? Directions at moments of a run, beside what pulls and what any push does.

Training goes through a few moments and keeps its state at each of them. `look` then asks there, of held-out patches:
does a small step of the weights along a direction lower the L1 loss (`push.helps`), at the network's weights and at
their evaluation EMA? And is a history worse than the network by more than its squared distance (`push.condition`)?
Nothing of the run is changed by a look. `probe` does one run, moment by moment, and goes on where it was stopped;
`branch` goes on from one moment with other terms, for as many steps as one asks.
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

from mclir_nb import files
from mclir_nb.data.patches import Patches
from mclir_nb.evaluation.evaluate import enlarge
from mclir_nb.method import losses, push
from mclir_nb.method.history import HistoryModels
from mclir_nb.progress import Progress
from mclir_nb.seeds import stream
from mclir_nb.training import checkpoint, distributed, frames
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer

MOMENTS, BATCHES = 9, 16  # of a run; of training patches for the directions, and as many held-out ones
HELD_OUT = 12_345  # seed of the held-out patches, the same for every run
SLOW = "slow"  # in the kept state: the histories of the EMA
HELPS, PASTS = "helps.csv", "pasts.csv"
Pair = tuple[Tensor, Tensor]  # lq and gt of a batch


class Moment(NamedTuple):
    """A run at one of its steps.

    Attributes:
        trainer: its state; the histories are the network's own past.
        slow: histories of the evaluation EMA, with the same intervals.
        foreign: histories of another run at the same step.
    """

    trainer: Trainer
    slow: HistoryModels
    foreign: HistoryModels


def moments(steps: int, count: int = MOMENTS) -> list[int]:
    """The steps at which a run is looked at: as `frames.steps` spreads them, without its end, where nothing moves."""
    return frames.steps(steps, count + 1)[:-1]


def train_through(recipe: Recipe, folder: Path, count: int = MOMENTS, quiet: bool = False) -> None:
    """Train up to the last moment, keeping the state at each of them; goes on from the last one that was kept.

    Args:
        recipe: of an objective with history models; lambda 0 for a plain run with its histories beside it.
        folder: of the run; made if needed. Each moment lies in a folder of its own.
        count: how many moments.
        quiet: print nothing.

    Raises:
        ValueError: an objective without history models.
    """
    if not recipe.uses_history:
        raise ValueError(f"objective {recipe.objective} has no histories to look at; take spn, with lambda 0 for plain")
    trainer = Trainer(recipe, torch.device("cpu"))
    slow, wanted = _histories(trainer, trainer.ema), moments(recipe.steps, count)
    for step in reversed(wanted):
        if checkpoint.restore(_place(folder, step), trainer):
            _load(slow, _place(folder, step), SLOW)
            break
    steps = trainer.patches.batches(trainer.step + 1, wanted[-1])
    bar = Progress(steps, f"train {folder.name}", wanted[-1], start=trainer.step, quiet=quiet)
    for batch in bar:
        trainer.advance(*batch)
        slow.update(trainer.ema, trainer.step)
        if trainer.step in wanted:
            _place(folder, trainer.step).mkdir(parents=True, exist_ok=True)
            states = nn.ModuleList(slow.models).state_dict()
            checkpoint.save(_place(folder, trainer.step), trainer.state_dict() | {SLOW: states})


def open_moment(recipe: Recipe, folder: Path, step: int, foreign: Path) -> Moment:
    """A run as it was after `step`, with the histories that the run in `foreign` had then."""
    trainer = Trainer(recipe, torch.device("cpu"))
    if not checkpoint.restore(_place(folder, step), trainer):
        raise ValueError(f"{folder} holds no moment after step {step}; train through it first")
    slow, other = _histories(trainer, trainer.ema), _histories(trainer, trainer.model)
    _load(slow, _place(folder, step), SLOW)
    _load(other, _place(foreign, step), "history")
    return Moment(trainer, slow, other)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _histories(trainer: Trainer, model: nn.Module) -> HistoryModels:
    return HistoryModels(model, trainer.recipe.history_every, trainer.recipe.history_decay)


def _load(histories: HistoryModels, place: Path, part: str) -> None:
    nn.ModuleList(histories.models).load_state_dict(checkpoint.read(place / checkpoint.FILE)[part])


def probe(
    recipe: Recipe, folder: Path, foreign: Path, *, count: int = MOMENTS, batches: int = BATCHES, quiet: bool = False
) -> None:
    """Look at every moment of a run that was not looked at yet; a probe that is killed loses one moment at most.

    Args:
        recipe: of the run.
        folder: where `train_through` has kept it. Its tables `HELPS` and `PASTS` grow by one moment at a time.
        foreign: folder of another run with the same moments.
        count: moments of the run.
        batches: of training patches, and as many held-out ones.
        quiet: print nothing.
    """
    wanted = moments(recipe.steps, count)
    there = {name: files.read_table(folder / name) for name in (HELPS, PASTS) if (folder / name).exists()}
    tables = {name: there.get(name, pd.DataFrame({"step": []})) for name in (HELPS, PASTS)}
    done = set(tables[HELPS]["step"])
    bar = Progress([step for step in wanted if step not in done], f"look {folder.name}", quiet=quiet)
    for step in bar:
        moment = open_moment(recipe, folder, step, foreign)
        for name, found in zip((PASTS, HELPS), look(moment, batches), strict=True):  # helps last: it says what is done
            before = tables[name][tables[name]["step"] != step]
            tables[name] = pd.concat([before, found.assign(step=step)] if len(before) else [found.assign(step=step)])
            files.write_file(folder / name, tables[name].to_csv(index=False))


def look(moment: Moment, batches: int = BATCHES) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What every direction and every past is good for at a moment.

    Args:
        moment: of a run.
        batches: of training patches beyond the run's last step, and as many held-out ones.

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
        negatives = {name: one.negatives(lq) for name, one in _pasts(moment).items()}
        chance = stream(trainer.recipe.seed, "probe", number)
        found = directions(trainer.model, lq, gt, negatives, averaged, trainer.features, chance)
        for name, step in found.items():
            steps.setdefault(name, []).append(step)
    ema = copy.deepcopy(trainer.ema).requires_grad_(True)
    uphill = {"weights": _uphill(trainer.model, held), "ema": _uphill(ema, held)}
    rows = []
    for form in ("plain", "adam"):
        if form == "adam":
            steps = {n: [push.preconditioned(s, trainer.optimiser) for s in part] for n, part in steps.items()}
        lengths = {name: push.length(_mean(part)) for name, part in steps.items()}
        for place, gradients in uphill.items():
            table = push.helps(gradients, steps).assign(form=form, place=place)
            table["relative"] = [lengths[name] / lengths["pull"] for name in table["direction"]]
            back = table[table["direction"] == "push"].assign(direction="towards")
            back = back.assign(help_cos=-back["help_cos"], low=-back["high"], high=-back["low"])
            rows += [table, back]
    return pasts(moment, held), pd.concat(rows, ignore_index=True)


def held_out(trainer: Trainer, batches: int) -> list[Pair]:
    """Batches of random patches of the validation pictures, on which nothing trains; the same for every run."""
    recipe, task = trainer.recipe, trainer.task
    patches = Patches(trainer.data.sets["val"], task, recipe.patch_size, recipe.batch_size, HELD_OUT)
    return [(lq, gt) for gt, lq, _ in map(patches.batch, range(1, batches + 1))]


def _uphill(model: nn.Module, batches: Sequence[Pair]) -> list[push.Gradient]:
    """The gradient of the mean |model(lq) - gt| for each batch."""
    weights = list(model.parameters())
    return [list(torch.autograd.grad(F.l1_loss(model(lq), gt), weights)) for lq, gt in batches]


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
        model: the trained network.
        lq, gt: the batch, (B, 3, h, w) and (B, 3, H, W), [0, 1].
        negatives: outputs of the own, the foreign and the slow histories, the most rarely refreshed first.
        averaged: output of the evaluation EMA, (B, 3, H, W).
        features: the feature network of the loss.
        chance: of what is drawn.

    Returns:
        pull: towards gt, as L1 does; push: SPN, away from the own histories; oldest: away from the first of them;
        foreign: away from another run's; noise: away from the output with white noise as far away as each own history
        is; lq: away from the input; smooth, smooth-oldest: `relatives.smooth` with all and with the first of the EMA's
        histories; random: Gaussian numbers in the weights.
    """
    weights = list(model.parameters())
    with torch.enable_grad():
        restored = model(lq).to(gt.dtype)
    at, own = restored.detach(), negatives["own"]

    def away(*pasts: Tensor) -> Tensor:
        return push.image_push(at, pasts, features)

    def smooth(*pasts: Tensor) -> Tensor:
        objective = losses.OBJECTIVES["spn-smooth"]
        return -push.image_gradients(at, gt, pasts, objective, features=features, averaged=averaged)[2]

    noise = [torch.randn(at.shape, generator=chance) for _ in own]
    wanted = {
        "pull": (gt - at).sign() / gt.numel(),
        "push": away(*own),
        "oldest": away(own[0]),
        "foreign": away(*negatives["foreign"]),
        "noise": away(*(at + (n - at).square().mean().sqrt() * white for n, white in zip(own, noise, strict=True))),
        "lq": away(enlarge(lq, gt)),
        "smooth": smooth(*negatives["slow"]),
        "smooth-oldest": smooth(negatives["slow"][0]),
    }
    steps = {name: list(torch.autograd.grad(restored, weights, way, retain_graph=True)) for name, way in wanted.items()}
    return steps | {"random": [torch.randn(weight.shape, generator=chance) for weight in weights]}


@torch.no_grad()
def pasts(moment: Moment, batches: Sequence[Pair]) -> pd.DataFrame:
    """Progress, gap and votes of every history of a moment on some batches, see `look`."""
    trainer, rows = moment.trainer, []
    assert trainer.features
    truth = torch.cat([gt for _, gt in batches])
    for past, histories in _pasts(moment).items():
        network = trainer.ema if past == "slow" else trainer.model
        restored = [network(lq) for lq, _ in batches]
        present = torch.cat(restored)
        for k, (every, history) in enumerate(zip(histories.every, histories.models, strict=True)):
            outputs = [history(lq) for lq, _ in batches]
            condition = push.condition(present, torch.cat(outputs), truth)
            right = [
                push.votes(ours, gt, [theirs], trainer.features)
                for ours, (_, gt), theirs in zip(restored, batches, outputs, strict=True)
            ]
            first = not every or trainer.step < every
            row = {"past": past, "history": k + 1, "age": trainer.step if first else trainer.step % every}
            row |= {"first": first, "mse": (present - truth).square().mean().item()}
            rows.append(row | condition._asdict() | {"votes": float(np.mean(right))})
    return pd.DataFrame(rows)


def _pasts(moment: Moment) -> dict[str, HistoryModels]:
    assert moment.trainer.history
    return {"own": moment.trainer.history, "foreign": moment.foreign, "slow": moment.slow}


def _mean(gradients: Sequence[push.Gradient]) -> push.Gradient:
    return [torch.stack(parts).mean(dim=0) for parts in zip(*gradients, strict=True)]


def branch(
    trainer: Trainer,
    batches: Sequence[Pair],
    arms: Mapping[str, Mapping],
    *,
    steps: int = 20,
    repeats: int = 4,
    quiet: bool = False,
) -> pd.DataFrame:
    """Go on from one moment with other terms, on the same training patches: what becomes of the held-out L1 loss?

    Args:
        trainer: at the moment, see `open_moment`; it stays as it is.
        batches: held-out ones, see `held_out`.
        arms: {name: recipe fields in which it goes on}, such as {"spn": {"lambda_neg": 5e-4}}.
        steps: how many, at least 2.
        repeats: each on other training patches.
        quiet: print nothing.

    Returns:
        One row per repeat and arm: repeat, arm; and, in percent of going on with lambda 0, by how much the held-out L1
        is higher, with the last weights (last), the mean of the weights of the second half of the steps (mean), and
        the evaluation EMA (ema). Below 0 the arm is better.
    """
    distributed.require_one_process("a branch")
    state, recipe, rows = copy.deepcopy(trainer.state_dict()), trainer.recipe, []
    without: dict[str, Mapping] = {"without": {"lambda_neg": 0.0, "dose": None, "lambda_ratio": None}}
    for repeat in Progress(range(repeats), "branches", repeats, quiet=quiet):
        base = {}
        for name, changes in (without | dict(arms)).items():
            arm = Trainer(Recipe(**dict(recipe) | dict(changes)), trainer.device, trainer.data)
            arm.load_state_dict(copy.deepcopy(state))
            mean, seen = copy.deepcopy(arm.model), 0
            for step in range(steps):
                arm.advance(*trainer.patches.batch(recipe.steps + 1 + repeat * steps + step))
                if step >= steps // 2:
                    seen += 1
                    with torch.no_grad():
                        for kept, new in zip(mean.parameters(), arm.model.parameters(), strict=True):
                            kept.lerp_(new, 1 / seen)
            networks = {"last": arm.model, "mean": mean, "ema": arm.ema}
            with torch.no_grad():
                found = {
                    place: float(np.mean([F.l1_loss(network(lq), gt).item() for lq, gt in batches]))
                    for place, network in networks.items()
                }
            if name == "without":
                base = found
            else:
                percent = {place: 100 * (value / base[place] - 1) for place, value in found.items()}
                rows.append({"repeat": repeat, "arm": name} | percent)
    return pd.DataFrame(rows)
