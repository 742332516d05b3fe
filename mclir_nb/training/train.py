"""Training: one recipe in, one run folder out, resumable bit for bit.

The state of a run is the weights, their EMA, the history models and the optimiser. Everything random is a function
of (seed, step), so a resumed run needs no random states and no place in the data.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb import files
from mclir_nb.data import checks, datasets, tasks
from mclir_nb.data.patches import Benchmark, Patches
from mclir_nb.evaluation import evaluate
from mclir_nb.method import features, losses, precision
from mclir_nb.method.history import HistoryModels, error_spread
from mclir_nb.method.negatives import Negatives, Window
from mclir_nb.progress import Progress
from mclir_nb.seeds import stream
from mclir_nb.training import (
    checkpoint,
    distributed,
    frames,
    interrupt,
    memory,
    records,
    tensorboard_log,
    trouble,
    user_code,
)
from mclir_nb.training.guard import Diverged, Guard
from mclir_nb.training.recipes import Recipe

LOG_ROWS = 10_000  # at most, beside those of validations; a row covers all steps since the one before


def train(
    recipe: Recipe,
    run_dir: str | Path,
    resume: bool = True,
    *,
    device: str = "auto",
    quiet: bool = False,
    tensorboard: bool = False,
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
    Returns: the finished run.
    Raises: ValueError for a folder or data that do not fit, or a folder that another process is training into; OSError
        for a folder that cannot be written; Diverged; KeyboardInterrupt after saving.
    """
    distributed.join()
    first, run_dir, quiet = distributed.on_first, Path(run_dir).expanduser(), quiet or not distributed.is_first()
    records.check(run_dir, recipe, resume)
    if records.Run(run_dir).is_finished:
        first(records.remove_stale_lock, run_dir)
        user_code.keep_definitions(run_dir, recipe)
        return records.Run(run_dir)
    trainer = Trainer(recipe, distributed.place(pick_device(device)))
    for images, smallest in ((trainer.validation.images, 1), (trainer.test, checks.SMALLEST_SCORED)):
        first(checks.check_scored, images, trainer.task, smallest)  # a bad picture is better met now than at the end
    first(records.make, run_dir)
    with distributed.held_by_first(records.acquire_lock(run_dir)):
        first(records.adopt, run_dir, recipe, resume)
        first(user_code.keep_definitions, run_dir, recipe)
        sets = (trainer.patches.images, trainer.validation.images, trainer.test)
        notes = (*(images.note for images in sets), trainer.restore(run_dir))
        for note in (*notes, distributed.caution(recipe.objective)):
            if note and not quiet:
                print(note)
        facts = records.provenance(trainer.device, trainer.features_source)
        first(records.note_provenance, run_dir, facts, trainer.step)
        shown = tensorboard_log.Scalars(run_dir, trainer.step, tensorboard and distributed.is_first())
        with interrupt.noticed() as interrupted, trouble.explained(trainer, run_dir), closing(shown):
            _loop(trainer, run_dir, interrupted, quiet, shown)
        first(_finish, trainer, run_dir, quiet)
    del trainer
    memory.return_freed_memory()
    return records.Run(run_dir)


def pick_device(name: str) -> torch.device:
    """The device called `name`. Raises: ValueError if there is none like it here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices); use auto or cpu.")
    return device


def log_interval(recipe: Recipe) -> int:
    """Steps between two rows of the log: the recipe's, or a multiple that keeps a long run below `LOG_ROWS` rows."""
    return recipe.log_every * math.ceil(recipe.steps / (recipe.log_every * LOG_ROWS))


def make_negatives(recipe: Recipe, history: HistoryModels | None, net: nn.Module | None) -> Negatives:
    """The negatives that a recipe asks for, of these history models and this feature network."""
    return Negatives(
        history,
        net,
        seed=recipe.seed,
        draw=recipe.history_draw,
        precision=recipe.history_precision,
        synthetic=recipe.negatives == "synthetic",
    )


class Trainer:
    """The state of a run and one step of it."""

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.device, self.step, self.best_psnr = recipe, device, 0, 0.0
        if device.type == "cpu":
            memory.keep_freed_memory()
        self.task = tasks.get(recipe.task, recipe.scale)
        sets = datasets.open_splits(recipe.dataset, self.task, recipe.data_root)
        checks.check_trained(sets["train"], self.task, recipe.patch_size)
        share = distributed.share(recipe.batch_size)
        self.patches = Patches(sets["train"], self.task, recipe.patch_size, recipe.batch_size, recipe.seed, share)
        self.validation = Benchmark(sets["val"], self.task, recipe.val_side)
        self.test = sets["test"]
        self.model = self._network("weights")
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        uses_history = recipe.objective in losses.USES_HISTORY and recipe.negatives == "history"
        self.history = self._history() if uses_history else None
        self.objective = losses.OBJECTIVES[recipe.objective]
        self.features = self._features()
        self.negatives, self.guard = make_negatives(recipe, self.history, self.features), Guard(recipe)
        self.last: tuple[Tensor, list[Tensor]] | None = None  # output and negatives of the step just made
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
        self.sums = torch.zeros(3, device=device)  # l_rec, l_neg, total since the last logged step
        self.rows: list[dict] = []
        self.clock = time.perf_counter()

    # ---- parts

    def _network(self, *key) -> nn.Module:
        """A freshly initialised network whose weights depend on the seed and `key` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(self.recipe.seed, *key).initial_seed())
            network = records.build_network(self.recipe)
        network = network.to(self.device)
        for weight in network.parameters():
            if weight.ndim == 4:  # PromptIR's prompts have five dimensions, which Module.to(memory_format=) refuses
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return network.train()

    def _history(self) -> HistoryModels:
        recipe = self.recipe
        numbers = iter(range(len(recipe.history_every)))
        return HistoryModels(
            self.model,
            recipe.history_every,
            recipe.history_decay,
            recipe.history_start,
            fresh=lambda: self._network("history", next(numbers)),
        )

    def _features(self) -> nn.Module | None:
        if self.recipe.objective == "plain":
            return None
        net = features.build(self.recipe.features, self.recipe.features_weights)
        net = net.to(self.device, memory_format=torch.channels_last)
        side = self.recipe.features_crop
        return net if side is None else Window(net, side, self.recipe.patch_size)

    @property
    def features_source(self) -> str:
        return "none" if self.features is None else self.features.source

    # ---- one step

    def advance(self, gt: Tensor, lq: Tensor, names: list[str]) -> None:
        """One optimiser step on a batch; the order of its lines is the method."""
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
        distributed.average_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if recipe.clipping is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), recipe.clipping, norm)
        seen = torch.stack([part.detach() for part in parts])
        if self.scale == 1:  # else a gradient may be infinite: the step is left out and the scale lowered
            seen += 0 * norm
        if self.device.type == "cpu":  # a GPU would have to wait; there the next row of the log shows it
            self._check_finite(seen, names)
        if self.history and recipe.history_threshold is not None:
            spread = distributed.mean(error_spread(restored, gt)).item()
            self.history.adaptive_update(self.model, spread, recipe.history_threshold)
        self.scaler.step(self.optimiser)
        self.scaler.update(1.0 if self.scale == 1 else None)
        self._average()
        if self.history and recipe.history_threshold is None:
            self.history.update(self.model, self.step)
        self.sums += seen

    def _loss(self, gt: Tensor, lq: Tensor) -> tuple[losses.LossParts, Tensor]:
        """Negatives, forward pass and objective, each in its precision."""
        recipe = self.recipe
        weight = recipe.weight_at(self.step) * self.guard.factor
        outputs = self.negatives.outputs(lq, gt, self.step, weight)  # first, while no graph of the model takes memory
        with precision.autocast(recipe.precision, self.device):
            restored = self.model(lq).float()
        curriculum = {"thresholds": self.negatives.thresholds} if recipe.objective == "c2r" and outputs else {}
        with precision.autocast(recipe.features_precision, self.device):
            parts = self.objective(
                restored,
                gt,
                outputs,
                features=self.features,
                lambda_neg=weight,
                lq=lq,
                best_psnr=self.best_psnr,
                generator=stream(recipe.seed, "objective", self.step),
                **curriculum,
            )
        self.last = (restored.detach(), outputs) if outputs else None
        if recipe.lambda_ratio is not None and outputs:
            sign = 1 if recipe.objective == "history-positive" else -1
            means = distributed.mean(torch.stack(parts[:2]).detach())
            parts = losses.with_ratio(parts, recipe.lambda_ratio, means, sign)
        return parts, restored

    @torch.no_grad()
    def _average(self) -> None:
        """The evaluation EMA: parameters averaged, buffers copied."""
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - self.recipe.ema_decay)
        for kept, new in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            kept.copy_(new)

    def _check_finite(self, seen: Tensor, names: list[str]) -> None:
        if not seen.isfinite().all():
            raise Diverged(
                f"step {self.step}: the loss or a gradient is not finite (pictures of the batch: "
                f"{', '.join(sorted(set(names)))}). The weights were not changed by this step. Try a smaller "
                "learning_rate or lambda_neg, or remove a damaged picture."
            )

    # ---- looking at it

    def log(self) -> dict:
        """Close a logging interval: the means of the very numbers that were optimised, and the guard on them."""
        row, recipe = self._means(), self.recipe
        self.sums.zero_()
        l_rec, l_neg, r = row["l_rec"], row["l_neg"], row["r"]
        row["lambda_neg"] = r * l_rec / l_neg if l_neg else math.nan
        row["lr"] = recipe.learning_rate_at(self.step)
        if self.history:
            distances = self.history.distances(self.model)
            row |= {f"distance_{i}": float(d) for i, d in enumerate(distances)}
            row |= {f"signal_{i}": share for i, share in enumerate(self._signal())}
        row |= {"val_psnr": math.nan, "val_psnr_ema": math.nan}
        row["seconds"] = time.perf_counter() - self.clock
        self.guard.check(row)
        self.rows.append(row)
        return row

    def _means(self) -> dict:
        """The losses since the last row of the log."""
        steps = self.step - (self.rows[-1]["step"] if self.rows else 0)
        l_rec, l_neg, total = (distributed.mean(self.sums) / steps).tolist()
        r = abs(total - l_rec) / l_rec if self.recipe.objective != "plain" else math.nan  # lambda l_neg / l_rec
        return {"step": self.step, "l_rec": l_rec, "l_neg": l_neg, "total": total, "r": r}

    @precision.full_float32()
    def _signal(self) -> list[float]:
        """Share of the gradient above rounding, per history, if all of them took part in the step just made."""
        if self.last is None or len(self.last[1]) < len(self.history.models):
            return []
        coarsest = max(precision.ROUNDING[p] for p in (self.recipe.history_precision, self.recipe.features_precision))
        return precision.signal(*self.last, self.features, coarsest).tolist()

    def validate(self) -> None:
        """Validation PSNR of both kinds of weights, into the last log row."""
        row, task = self.rows[-1], self.task
        for column, network in (("val_psnr", self.model), ("val_psnr_ema", self.ema)):
            row[column] = distributed.on_first(evaluate.mean_psnr, network, self.validation, task.protocol, task.crop)
        if self.recipe.curriculum == "measured" and self.history:
            known = (self.validation, task.protocol, task.crop)
            self.negatives.set_thresholds(
                [distributed.on_first(evaluate.mean_psnr, history, *known) for history in self.history.models]
            )
        self.guard.check_validation(row, self.best_psnr)
        self.best_psnr = max(self.best_psnr, row["val_psnr"])

    # ---- keeping it

    def fixed_bytes(self) -> int:
        """Memory that does not depend on the batch: weights, gradients, moments, EMA, histories, features."""
        own = sum(p.nbytes for p in self.model.parameters())
        copies = 5 + (len(self.history.models) if self.history else 0)
        looking = self.features.parameters() if self.features else ()
        return own * copies + sum(p.nbytes for p in looking)

    def state_dict(self) -> dict:
        """Everything a resumed run needs, see `checkpoint`."""
        turn = self.history.turn if self.history else 0
        state = {
            "run": {"step": self.step, "best_psnr": self.best_psnr, "sums": self.sums, "turn": turn},
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
        run = state["run"]
        self.step, self.best_psnr = run["step"], run["best_psnr"]
        self.sums.copy_(run["sums"])
        for name in ("guard", "negatives", "model", "ema", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        if self.history:
            self.history.turn = run["turn"]
            nn.ModuleList(self.history.models).load_state_dict(state["history"])
        self.optimiser.state.clear()
        weights = list(self.model.parameters())
        for number, moments in state.get("optimiser", {}).items():  # none before the first step
            weight = weights[int(number)].detach()
            self.optimiser.state[weights[int(number)]] = {
                # the fused optimiser wants its moments laid out in memory as the weights are
                key: torch.empty_like(weight).copy_(value) if value.dim() else value.to(self.device)
                for key, value in moments.items()
            }

    def save(self, run_dir: Path) -> None:
        """The log, then the checkpoint: rows after the checkpoint's step are cut off when a run goes on.

        Raises: Diverged rather than replace a good state by one with NaN; OSError if there is no room.
        """
        sizes = torch.stack(torch._foreach_norm([p.detach() for p in self.model.parameters()]))
        if not (sizes.isfinite().all() and self.sums.isfinite().all()):
            raise Diverged(f"step {self.step}: the loss or a weight is not finite, so this state is not saved.")
        if self.rows:
            files.write_file(run_dir / "log.csv", pd.DataFrame(self.rows).to_csv(index=False))
        checkpoint.save(run_dir, self.state_dict())

    def restore(self, run_dir: Path) -> str:
        """Continue from the folder's checkpoint, if there is one. Returns: what a reader should know, else empty."""
        file = checkpoint.restore(run_dir, self)
        if file and (run_dir / "log.csv").exists():
            self.rows = [row for row in files.read_rows(run_dir / "log.csv") if row["step"] <= self.step]
            self.clock = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)
        damaged = file and file.name == checkpoint.PREVIOUS and (run_dir / checkpoint.FILE).exists()
        return f"{checkpoint.FILE} is damaged; going on from the one before, step {self.step}." if damaged else ""


def _loop(
    trainer: Trainer, run_dir: Path, interrupted: threading.Event, quiet: bool, shown: tensorboard_log.Scalars
) -> None:
    """All steps, from where the trainer is; after a rescue by the guard, from the last checkpoint."""
    if trainer.recipe.guard == "lower-lambda" and trainer.step == 0:
        distributed.on_first(trainer.save, run_dir)  # a state to go back to
    while trainer.step < trainer.recipe.steps:
        try:
            _steps(trainer, run_dir, interrupted, quiet, shown)
        except Diverged as error:
            _go_back(trainer, run_dir, error, quiet)


def _go_back(trainer: Trainer, run_dir: Path, error: Diverged, quiet: bool) -> None:
    """To the last checkpoint with half of lambda, where the recipe asks for that; else the error stands."""
    if not trainer.guard.lower(trainer.guard.factor):
        raise error
    factor, trainer.rows = trainer.guard.factor, []
    trainer.restore(run_dir)
    trainer.guard.factor = factor
    distributed.on_first(trainer.save, run_dir)
    if not quiet:
        lowered = trainer.recipe.weight * factor
        print(f"{error} Going on from step {trainer.step} with lambda_neg {lowered:g}, as guard says.")


def _steps(
    trainer: Trainer, run_dir: Path, interrupted: threading.Event, quiet: bool, shown: tensorboard_log.Scalars
) -> None:
    recipe, first = trainer.recipe, distributed.on_first
    batches = trainer.patches.batches(trainer.step + 1, recipe.steps, device=trainer.device)
    label = f"{recipe.task} {recipe.network} {recipe.objective}"
    kept = frames.steps(recipe.steps) if trainer.history and recipe.history_every else []
    bar = Progress(batches, label, total=recipe.steps, start=trainer.step, quiet=quiet)
    for gt, lq, names in bar:
        trouble.check_batch(trainer.step + 1, gt, lq, names)
        trainer.advance(gt, lq, names)
        if trainer.step in kept:
            picture = frames.centre(trainer.validation[0])
            first(frames.keep, run_dir, trainer.step, trainer.model, trainer.history, picture)
        last = trainer.step == recipe.steps
        validating = last or (recipe.val_every and trainer.step % recipe.val_every == 0)
        if trainer.step % log_interval(recipe) == 0 or validating:
            row = trainer.log()
            if validating:
                trainer.validate()
                bar.note = f"l_rec {row['l_rec']:.4f}, validation {row['val_psnr']:.2f} dB"
            shown.add(row)
        stop = distributed.any_of(interrupted.is_set())
        if trainer.step % recipe.save_every == 0 or last or stop:
            trainer.sums = distributed.mean(trainer.sums)
            if trainer.step > (trainer.rows[-1]["step"] if trainer.rows else 0):
                trainer.guard.check(trainer._means())  # what is saved is a state to go back to
            first(trainer.save, run_dir)
        if stop:
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
    pairs = Benchmark(trainer.test, task)
    raw = evaluate.evaluate(trainer.model, pairs, task.protocol, task.crop, quiet).drop(columns="seconds")
    ema = evaluate.evaluate(trainer.ema, pairs, task.protocol, task.crop, quiet=True)
    scores = raw.assign(psnr_ema=ema.psnr_restored, ssim_ema=ema.ssim_restored)
    order = ["image", "psnr_input", "psnr_restored", "ssim_input", "ssim_restored", "psnr_ema", "ssim_ema"]
    files.write_file(run_dir / "scores.csv", scores[order].to_csv(index=False))
