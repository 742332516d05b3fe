"""Training: one recipe in, one run folder out, resumable bit for bit. One step of it is `trainer.Trainer.advance`."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch

from mclir_nb import files
from mclir_nb.data.patches import Benchmark
from mclir_nb.evaluation import evaluate
from mclir_nb.networks.layers import DropPath
from mclir_nb.progress import Progress
from mclir_nb.training import build, checkpoint, distributed, dose, frames, machine, macs, needs, records, run_folder
from mclir_nb.training.distributed import is_first_rank, on_first_rank
from mclir_nb.training.guard import TIMES, Diverged, check_batch
from mclir_nb.training.log import Scalars, interval, summary_writer
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer

SCORES = ["image", "psnr_input", "psnr_restored", "ssim_input", "ssim_restored", "psnr_ema", "ssim_ema"]


def train(
    recipe: Recipe,
    run_dir: str | Path,
    resume: bool = True,
    *,
    device: str = "auto",
    quiet: bool = False,
    tensorboard: bool = False,
    deterministic: bool = False,
    doses: Path | None = None,
) -> records.Run:
    """Train one network with one objective.

    Args:
        recipe: what to do; see `recipes.get`.
        run_dir: the run folder, made if needed. If it holds an unfinished run of the same recipe, that run continues.
            A finished one is only read, whoever made it and wherever.
        resume: False refuses a folder that already holds a run.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1"; never changes the experiment.
        tensorboard: write the log as TensorBoard scalars as well.
        deterministic: on CUDA, the same bits each time, in more time; see `machine.deterministic`.
        doses: a file through which several runs share the short runs that choose lambda, see `dose.lambda_for`.

    Raises:
        ValueError, OSError: a folder or data that do not fit; a folder that is in use, or cannot be written.
        Diverged, OutOfMemory: with what to turn down; the last good checkpoint is kept.
        KeyboardInterrupt: after saving.
    """
    distributed.init_process_group()
    run, quiet = records.Run(Path(run_dir).expanduser()), quiet or not is_first_rank()
    run_folder.check(run.dir, recipe, resume)
    if run.is_finished:
        on_first_rank(run_folder.check_finished, run.dir, recipe)
        return run
    try:
        place = machine.pick_device(distributed.rank_device(device))
        if place.type == "cuda":
            torch.cuda.set_device(place)
        with machine.deterministic(place, deterministic):
            _train(recipe, run.dir, resume, place, quiet, tensorboard, doses)
    except Exception:
        distributed.leave()
        raise
    finally:
        machine.return_freed_memory()
    return run


def _train(
    recipe: Recipe, run_dir: Path, resume: bool, device: torch.device, quiet: bool, tensorboard: bool, doses
) -> None:
    """Everything that can be wrong is looked at before a file is written, in a folder that is held meanwhile."""
    if tensorboard:
        summary_writer()  # refused here if it is not installed
    build.check_weights(recipe)
    data = build.make_data(recipe)
    on_first_rank(build.check_scored_pictures, data)
    with ExitStack() as held:  # by rank 0 alone
        on_first_rank(held.enter_context, run_folder.hold(run_dir))
        before = Path(recipe.continues).expanduser() if recipe.continues and not checkpoint.saved(run_dir) else None
        if before:
            on_first_rank(run_folder.check_continued, before, recipe)
        if not quiet:
            notes = [images.note for images in data.sets.values()] + [macs.sampling_note(macs.with_period(recipe))]
            notes += [_rounding_note(recipe, device), _ratio_note(recipe), _rate_note(recipe)]
            notes += [needs.note(recipe, device)] if device.type == "cuda" else []
            for note in filter(None, notes):
                print(note)
        with _with_last_state(recipe, run_dir):
            if before and recipe.dose is not None:  # what does not fit is refused before the short run
                _take_over(Trainer(recipe.at(1.0), device, data), before, recipe)
            chosen = dose.choose(recipe, run_dir, device, quiet, doses)
            trainer = Trainer(dose.with_lambda(recipe, chosen), device, data)
            trainer.guard.dose = recipe.dose if chosen else None
        if before:
            said = _take_over(trainer, before, recipe)
            print(end="" if quiet else f"{said}\n")
        content = on_first_rank(run_folder.content, data.sets, trainer.features, recipe)
        on_first_rank(run_folder.claim, run_dir, recipe, resume, content)
        on_first_rank(dose.keep, run_dir, chosen)
        _run(trainer, run_dir, content, quiet, tensorboard)


def _take_over(trainer: Trainer, run_dir: Path, recipe: Recipe) -> str:
    """Take over the finished run that a recipe continues; say so. Raises ValueError with what is another there."""
    alone = recipe.replace(continues=None)  # that run may have continued another one
    run_folder.check_content(run_dir, on_first_rank(run_folder.content, trainer.data.sets, trainer.features, alone))
    try:
        return trainer.take_over(run_dir)
    except checkpoint.Misfit as error:
        onward = {"steps": recipe.steps, "continues": recipe.continues}
        before = records.read_recipe(run_dir).model_copy(update=onward)
        if not (differing := records.different_fields(before, recipe)):
            raise
        raise ValueError(
            f"{run_dir} cannot be continued by another recipe ({differing}); leave out what makes it another, or "
            f"`--initial-weights {run_dir}` starts anew from its weights."
        ) from error


def _run(trainer: Trainer, run_dir: Path, content: dict, quiet: bool, tensorboard: bool) -> None:
    """All that is left of a run: its steps, from the last checkpoint on, and the scores."""
    recipe = trainer.recipe
    random_depth = any(isinstance(part, DropPath) and part.rate for part in trainer.model.modules())
    notes = [trainer.restore(run_dir), distributed.coupling_note(recipe.objective, recipe.accumulate, random_depth)]
    for note in filter(None, [] if quiet else notes):
        print(note)
    facts = run_folder.provenance(trainer.device, str(trainer.features.source) if trainer.features else "none")
    facts |= {field: getattr(recipe, field) for field in records.STARTS if getattr(recipe, field)}
    facts |= {"content": content} | ({"sampled_every": recipe.period} if recipe.sampling == "sampled" else {})
    on_first_rank(run_folder.write_provenance, run_dir, facts, trainer.step)
    scalars = Scalars(run_dir, trainer.step, tensorboard and is_first_rank())
    with closing(scalars), machine.catch_signals() as stop, _with_last_state(recipe, run_dir):
        if recipe.guard == "lower-lambda":
            on_first_rank(_save_first, trainer, run_dir)
        while trainer.step < recipe.steps:
            try:
                _steps(trainer, run_dir, stop, scalars, quiet)
            except Diverged as error:
                _go_back(trainer, run_dir, error, quiet)
    on_first_rank(_finish, trainer, run_dir, quiet)


def _save_first(trainer: Trainer, run_dir: Path) -> None:
    """A state to go back to, where there is none. Only the process that writes may ask: another may come after it."""
    if not checkpoint.saved(run_dir):
        trainer.save(run_dir)


def _rounding_note(recipe: Recipe, device: torch.device) -> str:
    """A sentence for a network in fewer digits that is compared with histories, else nothing."""
    full = recipe.precision == "float32" or (recipe.precision == "tf32" and device.type != "cuda")
    if full or not recipe.uses_history:
        return ""
    return (
        f"precision {recipe.precision} rounds the network's output, and the push is its difference to the histories: "
        "part of the push is rounding. signal_k in log.csv says how much is left; precision float32 keeps it."
    )


def _ratio_note(recipe: Recipe) -> str:
    """A sentence for the objective that divides by the distance to histories where that is 0, else nothing."""
    apart = recipe.history_start and not recipe.initial_weights  # with these the histories begin as exact copies
    held = recipe.lambda_ratio is not None  # then the first step has no such term
    if recipe.objective != "ratio" or apart or held or recipe.history_of == "another" or recipe.continues:
        return ""
    other = "infonce has no such step" if recipe.initial_weights else "history_start 0.1 keeps them apart"
    return (
        "objective ratio divides by the distance to the histories, and they begin as exact copies of the network: the "
        f"first step is so large that Adam remembers it for hundreds of steps. {other}."
    )


def _rate_note(recipe: Recipe) -> str:
    """A sentence for a learning rate that was meant to fall and is high at the end, else nothing."""
    field = "milestones" if recipe.milestones else "cosine_steps"
    first, last = (recipe.learning_rate_at(step) for step in (1, recipe.steps))
    if not getattr(recipe, field) or last <= first / 2:
        return ""
    fit = "cosine_steps None is one fall over all of them" if field == "cosine_steps" else "choose some before its end"
    return (
        f"learning_rate is {first:g} in the first step and {last:g} in the last: {field} {getattr(recipe, field)} does "
        f"not fit steps {recipe.steps}; {fit}."
    )


@contextmanager
def _with_last_state(recipe: Recipe, run_dir: Path):
    """Say with every trouble of a run's steps, or of the short run before them, where its last good state is."""
    try:
        with machine.explain_out_of_memory(recipe):
            yield
    except (Diverged, machine.OutOfMemory) as error:
        raise type(error)(f"{error} {checkpoint.last_saved(run_dir)}") from error


def _go_back(trainer: Trainer, run_dir: Path, error: Diverged, quiet: bool) -> None:
    """To the last checkpoint with half of lambda, if the recipe asks for that, `TIMES` times; else the error stands."""
    factor = trainer.guard.factor / 2
    if trainer.recipe.guard != "lower-lambda" or factor < 0.5**TIMES:
        raise error
    trainer.restore(run_dir)
    trainer.guard.factor = factor
    on_first_rank(trainer.save, run_dir)
    if not quiet:
        lowered = trainer.recipe.weight * factor
        print(f"{error} Going on from step {trainer.step} with lambda_neg {lowered:g}, as guard says.")


def _steps(trainer: Trainer, run_dir: Path, stop: threading.Event, scalars: Scalars, quiet: bool) -> None:
    """Step after step to the end, with what is to be kept, logged, validated and saved between them."""
    recipe = trainer.recipe
    batches = trainer.patches.batches(trainer.step + 1, recipe.steps, device=trainer.device)
    label = f"{recipe.task} {recipe.network} {recipe.objective}"
    moments = frames.steps(recipe.steps) if trainer.history and recipe.history_every else []
    cut = Benchmark(trainer.data.sets["val"], trainer.task, min(recipe.val_side or frames.SIDE, frames.SIDE))
    looks = dose.look_steps(recipe)
    bar = Progress(batches, label, total=recipe.steps, start=trainer.step, quiet=quiet)
    for gt, lq, names in bar:
        check_batch(trainer.step + 1, gt, lq, names)
        trainer.advance(gt, lq, names)
        last = trainer.step == recipe.steps
        if trainer.step in moments:
            past_of = trainer.past_of if recipe.history_of != "network" else None
            on_first_rank(frames.keep, run_dir, trainer.step, trainer.model, trainer.history, cut[0], past_of)
        validating = last or (recipe.val_every and trainer.step % recipe.val_every == 0)
        if trainer.step % interval(recipe) == 0 or validating:
            row = trainer.log_row()
            if trainer.step in looks:
                row |= dose.columns(trainer)
            if validating:
                trainer.validate()
                bar.note = f"l_rec {row['l_rec']:.4f}, validation {row['val_psnr']:.2f} dB"
            scalars.add(row)
        stopping = distributed.any_rank(stop.is_set())
        if trainer.step % recipe.save_every == 0 or last or stopping:
            trainer.log.sums = distributed.mean(trainer.log.sums)
            if trainer.step > trainer.log.last_step:
                trainer.guard.check(trainer.log.means(trainer.step))  # what is saved is a state to go back to
            on_first_rank(trainer.save, run_dir)
        if stopping:
            raise KeyboardInterrupt(f"stopped after step {trainer.step} and saved; run the same command to go on.")


def _finish(trainer: Trainer, run_dir: Path, quiet: bool) -> None:
    """Write the networks and score both kinds of weights on the test pictures."""
    files.write_tensors(run_dir / "model.safetensors", trainer.model.state_dict())
    files.write_tensors(run_dir / "ema.safetensors", trainer.ema.state_dict())
    if trainer.history:
        files.write_tensors(run_dir / "history.safetensors", trainer.history.state_dict())
    if (run_dir / "scores.csv").exists():
        return
    raw = evaluate.evaluate(trainer.model, trainer.data.test, quiet=quiet)
    ema = evaluate.evaluate(trainer.ema, trainer.data.test, quiet=True)
    scores = raw.assign(psnr_ema=ema.psnr_restored, ssim_ema=ema.ssim_restored)
    files.write_file(run_dir / "scores.csv", scores[SCORES].to_csv(index=False))
