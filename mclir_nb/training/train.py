"""Training: one recipe in, one run folder out, resumable bit for bit.

The state of a run is the weights, their EMA, the history models and the optimiser. Everything random is a function
of (seed, step), so a resumed run needs no random states and no place in the data.
"""

from __future__ import annotations

import copy
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mclir_nb import files
from mclir_nb.data import tasks
from mclir_nb.evaluation import evaluate
from mclir_nb.method import losses, precision
from mclir_nb.method.history import error_spread
from mclir_nb.progress import Progress
from mclir_nb.seeds import stream
from mclir_nb.training import build, checkpoint, distributed, frames, machine, records, tensorboard_log
from mclir_nb.training.distributed import is_first_rank, on_first_rank
from mclir_nb.training.guard import Diverged, Guard, check_batch
from mclir_nb.training.log import Log, history_columns, interval
from mclir_nb.training.recipes import Recipe

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
) -> records.Run:
    """Train one network with one objective.

    Args:
        recipe: what to do; see `recipes.get`.
        run_dir: the run folder, made if needed. If it holds an unfinished run of the same recipe, that run continues.
            A finished one is only read, whoever made it and wherever.
        resume: False refuses a folder that already holds a run.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1"; never changes the experiment.
        quiet: print nothing.
        tensorboard: write the log as TensorBoard scalars as well, see `tensorboard_log`.
        deterministic: on CUDA, the same bits each time, in more time; see `machine.deterministic`.

    Returns:
        The finished run.

    Raises:
        ValueError, OSError: a folder or data that do not fit; a folder that is in use, or cannot be written.
        Diverged, OutOfMemory: with what to turn down; the last good checkpoint is kept.
        KeyboardInterrupt: after saving.
    """
    distributed.init_process_group()
    run, quiet = records.Run(Path(run_dir).expanduser()), quiet or not is_first_rank()
    records.check(run.dir, recipe, resume)
    if run.is_finished:
        on_first_rank(records.check_finished, run.dir, recipe)
        return run
    try:
        with distributed.fail_together():
            trainer = Trainer(recipe, distributed.rank_device(machine.pick_device(device)))
            on_first_rank(build.check_scored_pictures, trainer.validation, trainer.test)
            found = on_first_rank(trainer.content)
            with (
                distributed.entered_on_first_rank(records.claim(run.dir, recipe, resume, found)),
                machine.deterministic(trainer.device, deterministic),
            ):
                _run(trainer, run.dir, found, quiet, tensorboard)
    finally:
        trainer = None
        machine.return_freed_memory()
    return run


class Trainer:
    """The state of a run and one step of it."""

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.device, self.step, self.best_psnr = recipe, device, 0, 0.0
        if device.type == "cpu":
            machine.keep_freed_memory()
        self.task = tasks.get(recipe.task, recipe.scale)
        self.patches, self.validation, self.test = build.make_data(recipe, self.task)
        self.model = build.make_network(recipe, device, "weights")
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.history = build.make_history(recipe, self.model, device)
        self.features = build.make_features(recipe, device)
        self.negatives = build.make_negatives(recipe, self.history, self.features)
        self.objective, self.guard = losses.OBJECTIVES[recipe.objective], Guard(recipe)
        self.parallel = distributed.data_parallel(self.model)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        # The small numbers of a float16 gradient vanish unless the loss is scaled up. In other precisions the scale is
        # 1, and what counts is that a step with a gradient that is not finite is left out, without waiting for a GPU.
        self.scale = 2.0**16 if recipe.precision == "float16" else 1.0
        self.scaler = torch.amp.GradScaler(device.type, init_scale=self.scale)
        self.last: tuple[Tensor, list[Tensor]] | None = None  # output and negatives of the step just made
        self.log = Log(recipe, device)

    def content(self) -> dict[str, str]:
        """What the run learns from, see `records.content`."""
        sets = {"train": self.patches.images, "val": self.validation.images, "test": self.test.images}
        return records.content(sets, self.features)

    def advance(self, gt: Tensor, lq: Tensor, names: list[str]) -> None:
        """One optimiser step on a batch; the order of its lines is the method.

        Args:
            gt: (B, 3, P, P) ground truth, [0, 1].
            lq: (B, 3, P / scale, P / scale) degraded patches, [0, 1].
            names: of the pictures, for what there is to say about them.
        """
        recipe, self.step = self.recipe, self.step + 1
        key = ("step", self.step, distributed.rank()) if distributed.rank() else ("step", self.step)
        torch.manual_seed(stream(recipe.seed, *key).initial_seed())  # drop path
        gt, lq = (image.to(self.device, memory_format=torch.channels_last, non_blocking=True) for image in (gt, lq))
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate_at(self.step)

        with precision.autocast("tf32" if recipe.precision == "tf32" else "float32", self.device):
            parts, restored = self._loss(gt, lq)
            self.optimiser.zero_grad()
            self.scaler.scale(parts.total).backward()
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if recipe.clipping is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), recipe.clipping, norm)
        seen = torch.stack([part.detach() for part in parts])
        if self.scale == 1:  # else a gradient may be infinite: the step is left out and the scale lowered
            seen += 0 * norm
        self.guard.watch(self.step, seen, names)
        if self.history and recipe.history_threshold is not None:
            spread = distributed.mean(error_spread(restored, gt)).item()
            self.history.adaptive_update(self.model, spread, recipe.history_threshold)
        self.scaler.step(self.optimiser)
        self.scaler.update(1.0 if self.scale == 1 else None)
        self.update_ema()
        if self.history and recipe.history_threshold is None:
            self.history.update(self.model, self.step)
        self.log.sums += seen

    def _loss(self, gt: Tensor, lq: Tensor) -> tuple[losses.LossParts, Tensor]:
        """Negatives, forward pass and objective, each in its precision."""
        recipe = self.recipe
        weight = recipe.weight_at(self.step) * self.guard.factor
        outputs = self.negatives.outputs(lq, gt, self.step, weight)  # first, while no graph of the model takes memory
        with precision.autocast(recipe.precision, self.device):
            restored = self.parallel(lq).float()
        with precision.autocast(recipe.features_precision, self.device):
            parts = self.objective(
                restored,
                gt,
                outputs,
                features=self.features,
                lambda_neg=weight,
                lq=lq,
                best_psnr=self.best_psnr,
                thresholds=self.negatives.thresholds if outputs else None,
                generator=stream(recipe.seed, "objective", self.step),
            )
        self.last = (restored.detach(), outputs) if outputs else None
        if recipe.lambda_ratio is not None and outputs:
            sign = 1 if recipe.objective == "history-positive" else -1
            means = distributed.mean(torch.stack(parts[:2]).detach())
            parts = losses.with_ratio(parts, recipe.lambda_ratio, means, sign)
        return parts, restored

    @torch.no_grad()
    def update_ema(self) -> None:
        """The evaluation EMA: parameters averaged, buffers copied."""
        for kept, new in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            kept.lerp_(new, 1 - self.recipe.ema_decay)
        for kept, new in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            kept.copy_(new)

    def log_row(self) -> dict:
        """Close a logging interval, and the guard looks at it."""
        self.guard.check_finite()
        columns = {}
        if self.history:
            columns = history_columns(self.recipe, self.model, self.history, self.last, self.features)
        row = self.log.close(self.step, columns)
        self.guard.check(row)
        self.log.rows.append(row)
        return row

    def validate(self) -> None:
        """Validation PSNR of both kinds of weights, into the last log row."""
        row = self.log.rows[-1]
        row["val_psnr"], row["val_psnr_ema"] = (self._val_psnr(network) for network in (self.model, self.ema))
        if self.recipe.curriculum == "measured" and self.history:
            self.negatives.set_thresholds([self._val_psnr(history) for history in self.history.models])
        self.guard.check_validation(row, self.best_psnr)
        self.best_psnr = max(self.best_psnr, row["val_psnr"])

    def _val_psnr(self, network: nn.Module) -> float:
        return on_first_rank(evaluate.mean_psnr, network, self.validation, self.task.protocol, self.task.crop)

    def state_dict(self) -> dict:
        """Everything a resumed run needs, see `checkpoint`."""
        turn = self.history.turn if self.history else 0
        state = {
            "run": {"step": self.step, "best_psnr": self.best_psnr, "sums": self.log.sums, "turn": turn},
            "guard": self.guard.state_dict(),
            "negatives": self.negatives.state_dict(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
        }
        if self.history:
            state["history"] = nn.ModuleList(self.history.models).state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        run = state["run"]
        self.step, self.best_psnr = run["step"], run["best_psnr"]
        self.log.sums.copy_(run["sums"])
        for name in ("guard", "negatives", "model", "ema", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        if self.history:
            self.history.turn = run["turn"]
            nn.ModuleList(self.history.models).load_state_dict(state["history"])
        checkpoint.load_moments(self.optimiser, state.get("optimiser", {}))  # none before the first step

    def save(self, run_dir: Path) -> None:
        """The log, then the checkpoint: rows after the checkpoint's step are cut off when a run goes on.

        Raises:
            Diverged: rather than replace a good state by one with NaN.
            OSError: there is no room.
        """
        self.guard.check_finite()
        if not torch.isfinite(nn.utils.get_total_norm([p.detach() for p in self.model.parameters()])):
            raise Diverged(f"step {self.step}: a weight is not finite, so this state is not saved.")
        self.log.write(run_dir)
        checkpoint.save(run_dir, self.state_dict())

    def restore(self, run_dir: Path) -> str:
        """Continue from the folder's checkpoint, if there is one. Returns what a reader should know, else nothing."""
        file = checkpoint.restore(run_dir, self)
        if file:
            self.log.read(run_dir, self.step)
        damaged = file and file.name == checkpoint.PREVIOUS and (run_dir / checkpoint.FILE).exists()
        return f"{checkpoint.FILE} is damaged; going on from the one before, step {self.step}." if damaged else ""


def _run(trainer: Trainer, run_dir: Path, content: dict, quiet: bool, tensorboard: bool) -> None:
    """All that is left of a run: its steps, from the last checkpoint on, and the scores."""
    recipe, sets = trainer.recipe, (trainer.patches, trainer.validation, trainer.test)
    notes = [*(one.images.note for one in sets), trainer.restore(run_dir), distributed.coupling_note(recipe.objective)]
    for note in filter(None, [] if quiet else notes):
        print(note)
    facts = records.provenance(trainer.device, trainer.features.source if trainer.features else "none")
    on_first_rank(records.write_provenance, run_dir, facts | {"content": content}, trainer.step)
    scalars = tensorboard_log.Scalars(run_dir, trainer.step, tensorboard and is_first_rank())
    with closing(scalars), machine.catch_signals() as stop, _with_last_state(recipe, run_dir):
        if recipe.guard == "lower-lambda" and trainer.step == 0:
            on_first_rank(trainer.save, run_dir)  # a state to go back to
        while trainer.step < recipe.steps:
            try:
                _steps(trainer, run_dir, stop, scalars, quiet)
            except Diverged as error:
                _go_back(trainer, run_dir, error, quiet)
    on_first_rank(_finish, trainer, run_dir, quiet)


@contextmanager
def _with_last_state(recipe: Recipe, run_dir: Path):
    """Say with every trouble of a run's steps where its last good state is."""
    try:
        with machine.explain_out_of_memory(recipe):
            yield
    except (Diverged, machine.OutOfMemory) as error:
        raise type(error)(f"{error} {checkpoint.last_saved(run_dir)}") from error


def _go_back(trainer: Trainer, run_dir: Path, error: Diverged, quiet: bool) -> None:
    """To the last checkpoint with half of lambda, where the recipe asks for that; else the error stands."""
    if not trainer.guard.lower(trainer.guard.factor):
        raise error
    factor = trainer.guard.factor
    trainer.restore(run_dir)
    trainer.guard.factor = factor
    on_first_rank(trainer.save, run_dir)
    if not quiet:
        lowered = trainer.recipe.weight * factor
        print(f"{error} Going on from step {trainer.step} with lambda_neg {lowered:g}, as guard says.")


def _steps(
    trainer: Trainer, run_dir: Path, stop: threading.Event, scalars: tensorboard_log.Scalars, quiet: bool
) -> None:
    """Step after step to the end, with what is to be kept, logged, validated and saved between them."""
    recipe = trainer.recipe
    batches = trainer.patches.batches(trainer.step + 1, recipe.steps, device=trainer.device)
    label = f"{recipe.task} {recipe.network} {recipe.objective}"
    moments = frames.steps(recipe.steps) if trainer.history and recipe.history_every else []
    bar = Progress(batches, label, total=recipe.steps, start=trainer.step, quiet=quiet)
    for gt, lq, names in bar:
        check_batch(trainer.step + 1, gt, lq, names)
        trainer.advance(gt, lq, names)
        last = trainer.step == recipe.steps
        if trainer.step in moments:
            picture = frames.centre(trainer.validation[0])
            on_first_rank(frames.keep, run_dir, trainer.step, trainer.model, trainer.history, picture)
        validating = last or (recipe.val_every and trainer.step % recipe.val_every == 0)
        if trainer.step % interval(recipe) == 0 or validating:
            row = trainer.log_row()
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
        histories = nn.ModuleList(trainer.history.models)
        files.write_tensors(run_dir / "history.safetensors", histories.state_dict())
    if (run_dir / "scores.csv").exists():
        return
    task = trainer.task
    raw = evaluate.evaluate(trainer.model, trainer.test, task.protocol, task.crop, quiet)
    ema = evaluate.evaluate(trainer.ema, trainer.test, task.protocol, task.crop, quiet=True)
    scores = raw.assign(psnr_ema=ema.psnr_restored, ssim_ema=ema.ssim_restored)
    files.write_file(run_dir / "scores.csv", scores[SCORES].to_csv(index=False))
