"""The dose of a run: which lambda makes the second term's part of an optimiser step so long beside that of L1.

The same lambda is a strong push in one task, network or feature network and none in another. `lambda_for` looks along
a short plain run, in which the term is only watched, and gives the lambda for a dose (`push.Dose.update`, on average
over the looks). It is fixed before the run that uses it, kept in its folder, and the run measures its dose again.

What the short runs of the workbook's own recipes and experiments have found is committed (`KNOWN`, written by
tools/doses.py): a first command need not wait, and has the same lambda on every machine. Any other recipe gets a short
run of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock

from mclir_nb import files, root
from mclir_nb.data import datasets, tasks
from mclir_nb.method import precision, push
from mclir_nb.progress import Progress
from mclir_nb.training import build, distributed, machine, records, user_code
from mclir_nb.training.log import interval
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer

FILE = "dose.json"
KNOWN = root() / "data" / "records" / "doses.json"
SEED = 20_231  # of the short plain run; no experiment uses it
LOOKS, BATCHES = 8, 16  # moments of the short run, and batches whose mean gradient is taken at each
LOOKS_INSIDE = 3  # moments of a run at which its dose is measured again
# what a short run does not look at
IDLE = ("name", "seed", "guard", "guard_r", "guard_drop", "log_every", "val_every", "val_side", "save_every")
# what makes a recipe a plain run whose histories are only watched
PLAIN: dict = dict(lambda_neg=0.0, dose=None, lambda_ratio=None, lambda_from=0, lambda_follows_rate=False)
PLAIN |= dict(sampling="exact", sampled_every=None, cosine_steps=None, milestones=())
# what may be another in a run that goes on with the lambda of the one before; data and weights are compared elsewhere
CONTINUED = {*IDLE, *PLAIN, *records.PLACES, "steps", "initial_entry", "initial_strict", "history_start"}


class Lambda(NamedTuple):
    """The lambda for a dose, and how far it can be trusted."""

    lambda_neg: float
    dose: float  # what was asked for
    looks: tuple[float, ...]  # the dose of this lambda at each look of the short run; their mean is `dose`


@precision.full_float32()
def measured(trainer: Trainer, lambda_neg: float, batches: int = BATCHES) -> push.Dose:
    """The dose of a trainer's objective for a lambda at this moment, from `batches` beyond the last step of the run.

    Neither the network, its running statistics included, nor the optimiser is changed.

    Raises:
        ValueError: an objective without a second term, no step yet, or a gradient that is not finite.
    """
    statistics = [buffer.clone() for buffer in trainer.model.buffers()]
    with torch.random.fork_rng(devices=[]):  # drop path draws from it
        found = push.dose(_gradients(trainer, batches), lambda_neg, trainer.optimiser)
    for buffer, kept in zip(trainer.model.buffers(), statistics, strict=True):
        buffer.copy_(kept)
    return found


def _gradients(trainer: Trainer, batches: int) -> Iterator[push.Gradients]:
    """Of each batch, or part of one that is taken in parts; on several processes the mean over their shares."""
    exact = build.make_negatives(trainer.recipe.replace(sampling="exact"), trainer.history, trainer.model)
    for step in range(trainer.recipe.steps + 1, trainer.recipe.steps + 1 + batches):
        gt, lq, _ = trainer.patches.batch(step)
        gt, lq = gt.to(trainer.device), lq.to(trainer.device)
        negatives = exact.outputs(lq, gt, step)
        parts = trainer.recipe.accumulate  # what does not fit at once in a step does not fit here
        for true, given, *past in zip(*(images.chunk(parts) for images in (gt, lq, *negatives)), strict=True):
            context = dict(features=trainer.features) | trainer.context(given, past)
            found = push.gradients(trainer.model, true, past, trainer.objective, **context)
            yield push.Gradients(*([distributed.mean(gradient) for gradient in part] for part in found))


def look_steps(recipe: Recipe) -> set[int]:
    """The steps of a run at which its dose is measured again: rows of the log, evenly spread, none for plain."""
    if recipe.objective == "plain":
        return set()
    every, parts = interval(recipe), LOOKS_INSIDE
    rows = recipe.steps // every
    return {every * max(1, round(rows * (k + 0.5) / parts)) for k in range(parts)} if rows else set()


def columns(trainer: Trainer) -> dict[str, float]:
    """The dose of a run at this step, for its log; from fewer batches in a short run, so that it stays cheap."""
    recipe = trainer.recipe
    lambda_neg = recipe.lambda_at(trainer.step) * trainer.guard.factor
    if recipe.lambda_ratio is not None or not lambda_neg:
        return {}
    found = measured(trainer, lambda_neg, min(BATCHES, max(2, recipe.steps // 100)))
    return {"dose": found.update, "dose_cosine": found.cosine}


def lambda_for(
    recipe: Recipe, dose: float, device: torch.device, *, looks: int = LOOKS, quiet=False, shared: Path | None = None
) -> Lambda:
    """The lambda that gives a recipe's objective a dose, from a short plain run with a seed of its own.

    It takes a quarter of the recipe's steps, at least 8 per look, with the whole fall of the learning rate and the
    same histories; a look takes 16 batches, fewer where the run is short.

    Args:
        recipe: the run that is planned; its own lambda does not matter.
        dose: what is wanted, > 0: length of the term's part of an optimiser step / that of L1.
        looks: moments at which the dose is measured, evenly spread.
        shared: a JSON file in which short runs are kept for other runs: what they find does not depend on the dose.

    Raises:
        ValueError: the objective has no second term, the dose is not above 0, or the term's gradient is 0.
    """
    if recipe.objective == "plain":
        raise ValueError("objective plain has no second term, so no lambda gives it a dose; choose another objective")
    if not dose > 0:
        raise ValueError(f"dose is {dose}; it must be above 0: for no push use objective plain")
    steps = max(recipe.steps // 4, 8 * looks)
    batches = min(BATCHES, max(4, recipe.steps // 50))
    short = Recipe(**dict(recipe) | PLAIN | dict(steps=steps, seed=SEED))
    definitions = repr(user_code.definitions(short))
    # what the short run depends on: the fields that are not the default, without those that change nothing or say where
    # something lies; a data set that has a name is the same in every folder
    content = _content(short)
    idle = {*IDLE, "data_root", *content}
    fields = {k: v for k, v in short.model_dump(mode="json", exclude_defaults=True).items() if k not in idle}
    own = {} if definitions == "{}" else {"own": hashlib.sha256(definitions.encode()).hexdigest()[:16]}
    key = json.dumps(fields | own | content | dict(looks=looks, batches=batches), sort_keys=True)
    updates = (_read(shared) | _read(KNOWN)).get(key)
    if updates is None:
        updates = _updates(short, key, device, looks, batches, quiet)
        if shared:
            with FileLock(f"{shared}.lock"):  # another process may have added to the file meanwhile
                files.write_json(shared, _read(shared) | {key: updates})
    if not np.mean(updates) > 0:
        raise ValueError(f"the term of objective {recipe.objective} has no gradient here, so no lambda gives it a dose")
    lambda_neg = dose / float(np.mean(updates))
    return Lambda(lambda_neg, dose, tuple(lambda_neg * update for update in updates))


def _content(recipe: Recipe) -> dict[str, str]:
    """What a short run learns and starts from, where a recipe says only where it lies: hashes, as in `run_folder`."""
    found, file = {}, records.start_file(recipe, "initial_weights")
    if recipe.dataset == "folder":
        task = tasks.get(recipe.task, recipe.scale)
        found["train"] = datasets.open_splits(recipe.dataset, task, recipe.data_root)["train"].fingerprint()
    if file and file.is_file():
        found["initial_weights"] = files.sha256(file)
    return found


def _read(file: Path | None) -> dict:
    """What short runs have found, by what they depend on."""
    return files.read_json(file) if file and file.exists() else {}


@functools.lru_cache(maxsize=32)  # the seeds of a comparison share it
def _updates(short: Recipe, key: str, device: torch.device, looks: int, batches: int, quiet: bool) -> tuple[float, ...]:
    """The dose of lambda 1 at each look along a plain run; `key` tells runs of other content or definitions apart."""
    trainer = Trainer(short, device)
    moments = {round(short.steps * (k + 1) / looks) for k in range(looks)}
    steps = trainer.patches.batches(1, short.steps, device=device)
    updates = []
    with machine.catch_signals() as stop:
        for gt, lq, names in Progress(steps, f"dose of {short.objective}", short.steps, quiet=quiet):
            trainer.advance(gt, lq, names)
            if trainer.step in moments:
                updates.append(float(np.float32(measured(trainer, 1.0, batches).update)))  # as those of older runs
            if distributed.any_rank(stop.is_set()):
                raise KeyboardInterrupt
    return tuple(updates)


def choose(
    recipe: Recipe, run_dir: Path | None, device: torch.device, quiet: bool, shared: Path | None = None
) -> Lambda | None:
    """The lambda of a run whose recipe states a dose: the one its folder keeps, else that of `lambda_for`.

    None for a recipe that names its lambda itself, or has no term. `shared`: see `lambda_for`.
    """
    if recipe.dose is None or recipe.objective == "plain":
        return None
    if run_dir and (run_dir / FILE).exists():
        return _kept_lambda(run_dir)
    if recipe.continues:
        before = Path(recipe.continues).expanduser()
        if (before / FILE).exists() and _dose_fields(records.read_recipe(before)) == _dose_fields(recipe):
            return _kept_lambda(before)
    try:
        return lambda_for(recipe, recipe.dose, device, quiet=quiet, shared=shared)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "stopped in the short run that finds lambda for the dose: the run itself had not begun, and the same "
            "command starts with the short run anew."
        ) from None


def _dose_fields(recipe: Recipe) -> dict:
    """The fields on which the lambda of a dose depends, for a run and the one that it continues."""
    return {"dose": recipe.dose} | {k: v for k, v in dict(recipe).items() if k not in CONTINUED}


def _kept_lambda(run_dir: Path) -> Lambda:
    """What `keep` wrote into a run folder."""
    found = files.read_json(run_dir / FILE)
    try:
        return Lambda(**found)
    except TypeError as error:
        raise ValueError(
            f"{run_dir / FILE} must hold {', '.join(Lambda._fields)} and holds {', '.join(found) or 'nothing'}; copy "
            "it again, or remove the run's folder to begin anew."
        ) from error


def with_lambda(recipe: Recipe, chosen: Lambda | None) -> Recipe:
    """The recipe with the chosen lambda in place of its dose; ValueError if it states none, and so keeps its own."""
    if chosen is None:
        return recipe
    if recipe.dose is None:
        raise ValueError(f"lambda was chosen for a dose of {chosen.dose:g}, and the recipe states no dose; give it one")
    return recipe.at(chosen.lambda_neg)


def keep(run_dir: Path, chosen: Lambda | None) -> None:
    """Write the chosen lambda into the run folder, once."""
    if chosen is not None and not (run_dir / FILE).exists():
        files.write_json(run_dir / FILE, chosen._asdict())
