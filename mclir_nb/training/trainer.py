"""The state of a run and one step of it: `Trainer.advance` is the method.

The state is the weights, their EMA, the history models and the optimiser. Everything random is a function of
(seed, step), so a resumed run needs no random states and no place in the data.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mclir_nb import stream
from mclir_nb.evaluation import evaluate
from mclir_nb.method import losses, precision, push
from mclir_nb.method.history import error_spread
from mclir_nb.training import build, checkpoint, distributed, machine, macs
from mclir_nb.training.distributed import on_first_rank
from mclir_nb.training.guard import Diverged, Guard
from mclir_nb.training.log import Log, history_columns, interval
from mclir_nb.training.recipes import Recipe


class Trainer:
    """The state of a run and one step of it."""

    def __init__(self, recipe: Recipe, device: torch.device, data: build.Data | None = None):
        if recipe.dose is not None and recipe.objective != "plain":
            raise ValueError(
                f"dose is {recipe.dose:g} and its lambda is not chosen yet; `train.train` chooses it, or use "
                "`dose.lambda_for` and `Recipe.at`."
            )
        recipe = macs.with_period(recipe)
        self.recipe, self.device, self.step, self.best_psnr = recipe, device, 0, 0.0
        if device.type == "cpu":
            machine.keep_freed_memory()
        self.data = data or build.make_data(recipe)
        self.task, self.patches, self.validation = self.data.task, self.data.patches, self.data.validation
        self.model = build.make_start(recipe, device)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.average = self.ema if recipe.history_ema_decay is None else copy.deepcopy(self.ema)
        foreign = recipe.uses_history and recipe.history_of == "another"
        self.another = build.Companion(recipe, device) if foreign else None
        self.history = build.make_history(recipe, self.past_of, device)
        self.features = build.make_features(recipe, device)
        self.negatives = build.make_negatives(recipe, self.history, self.model)
        self.objective, self.guard = losses.OBJECTIVES[recipe.objective], Guard(recipe)
        self.parallel = distributed.data_parallel(self._compiled(self.model))
        if self.history:
            self.history.answering = [self._compiled(history) for history in self.history.models]
        self.optimiser = build.make_optimiser(recipe, self.model)
        # The small numbers of a float16 gradient vanish unless the loss is scaled up. In other precisions the scale is
        # 1, and what counts is that a step with a gradient that is not finite is left out, without waiting for a GPU.
        self.scale = 2.0**16 if recipe.precision == "float16" else 1.0
        self.scaler = self._make_scaler()
        self.last: tuple | None = None  # restored, gt and negatives of the step just made, if it had any
        self.log = Log(recipe, device)

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

        self.optimiser.zero_grad()
        with precision.autocast("tf32" if recipe.precision == "tf32" else "float32", self.device):
            seen, restored = self._backward(gt, lq)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if recipe.clipping is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), recipe.clipping, norm)
        if self.scale == 1:  # else a gradient may be infinite: the step is left out and the scale lowered
            seen += 0 * norm
        self.guard.watch(self.step, seen, names)
        if self.history and recipe.history_threshold is not None:
            spread = distributed.mean(error_spread(restored, gt)).item()
            self.history.adaptive_update(self.past_of, spread, recipe.history_threshold)
        self.scaler.step(self.optimiser)
        self.scaler.update(1.0 if self.scale == 1 else None)
        self.update_ema()
        if self.another:
            self.another.advance(gt, lq, self.step)
        if self.history and recipe.history_threshold is None:
            self.history.update(self.past_of, self.step)
        self.log.sums += seen

    def _make_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, init_scale=self.scale)

    def _backward(self, gt: Tensor, lq: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of a batch, of `accumulate` parts one after the other; l_rec, l_neg and total, and the output."""
        if self.recipe.compile == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # what the graphs of the last step returned may be overwritten
        count, weight = self.recipe.accumulate, self.recipe.weight_at(self.step) * self.guard.factor
        negatives = self.negatives.outputs(lq, gt, self.step, weight)  # first, while no graph of the model takes memory
        seen, outputs, ratios = torch.zeros(3, device=self.device), [], []
        logs = self.step % interval(self.recipe) == 0
        for true, given, *past in zip(*(images.chunk(count) for images in (gt, lq, *negatives)), strict=True):
            share = len(true) / len(gt)
            parts, restored = self._loss(true, given, past, weight)
            if logs and parts.l_neg.requires_grad:
                ratios.append(share * push.image_ratio(parts, restored) / self.recipe.period)
            self.scaler.scale(parts.total * share).backward()
            seen += share * torch.stack([part.detach() for part in parts])
            outputs.append(restored.detach())
        restored = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        self.log.image_ratio = torch.stack(ratios).sum() if ratios else self.log.image_ratio
        self.last = (restored, gt, negatives) if negatives else None
        return seen, restored

    def _loss(self, gt: Tensor, lq: Tensor, negatives: list[Tensor], weight: float) -> tuple[losses.LossParts, Tensor]:
        """Forward pass and objective of a part of the batch, each in its precision."""
        recipe = self.recipe
        with precision.autocast(recipe.precision, self.device):
            restored = self.parallel(lq).float()
        with precision.autocast(recipe.features_precision, self.device):
            context = self.context(lq, negatives)
            parts = self.objective(restored, gt, negatives, features=self.features, lambda_neg=weight, **context)
        if recipe.lambda_ratio is not None and negatives:
            means = distributed.mean(torch.stack(parts[:2]).detach())
            # histories that are exact copies, as in a first step: what the features make of their outputs is rounding
            apart = torch.stack([(negative != restored).any() for negative in negatives]).any()
            parts = losses.with_ratio(parts, recipe.lambda_ratio * apart, means)
        return parts, restored

    def _compiled(self, network: nn.Module) -> Any:  # torch's annotation of what it returns is a function
        """A network as steps call it, compiled if the recipe asks for it; what is saved and scored is the plain one."""
        mode = self.recipe.compile
        if mode == "reduce-overhead" and self.device.type != "cuda":
            raise ValueError("compile 'reduce-overhead' is for CUDA graphs and there is no GPU here; use 'default'.")
        return network if mode == "none" else torch.compile(network, mode=mode, dynamic=False)

    @property
    def past_of(self) -> nn.Module:
        """The network whose past the histories are: the trained one, an average of it, or another."""
        if self.another:
            return self.another.model
        return self.average if self.recipe.history_of == "ema" else self.model

    def context(self, lq: Tensor, negatives: list[Tensor]) -> dict:
        """What an objective may read beside the images, see `losses`."""
        context = dict(
            lq=lq,
            best_psnr=self.best_psnr,
            thresholds=self.negatives.thresholds if negatives else None,
            generator=stream(self.recipe.seed, "objective", self.step),
        )
        if self.recipe.objective == "spn-smooth" and negatives:
            with torch.no_grad(), precision.autocast(self.recipe.history_precision, self.device):
                context["averaged"] = self.average(lq)
        return context

    @torch.no_grad()
    def update_ema(self) -> None:
        """The evaluation EMA, and the average of the histories: parameters averaged, buffers copied."""
        averages = [(self.ema, self.recipe.ema_decay)]
        if self.recipe.history_ema_decay is not None:
            averages.append((self.average, self.recipe.history_ema_decay))
        for average, decay in averages:
            for kept, new in zip(average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
            for copied, buffer in zip(average.buffers(), self.model.buffers(), strict=True):
                copied.copy_(buffer)

    def log_row(self) -> dict:
        """Close a logging interval, and the guard looks at it."""
        self.guard.check_finite()
        self.guard.check_scale(self.step, self.scaler.get_scale())
        columns = {}
        if self.history and self.features:
            columns = history_columns(self.recipe, self.past_of, self.history, self.last, self.features)
        row = self.log.close(self.step, columns)
        self.guard.check(row)
        self.log.rows.append(row)
        return row

    def validate(self) -> None:
        """Validation PSNR of both kinds of weights, into the last log row."""
        row = self.log.rows[-1]
        row["val_psnr"], row["val_psnr_ema"] = (self._val_psnr(network) for network in (self.model, self.ema))
        if self.recipe.curriculum == "measured" and self.history:
            self.negatives.thresholds = tuple(self._val_psnr(history) for history in self.history.models)
        self.guard.check_validation(row, self.best_psnr)
        self.best_psnr = max(self.best_psnr, row["val_psnr"])

    def _val_psnr(self, network: nn.Module) -> float:
        return on_first_rank(evaluate.mean_psnr, network, self.validation, self.task.protocol, self.task.crop)

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its name in a checkpoint."""
        parts = {name: getattr(self, name) for name in ("guard", "negatives", "model", "ema", "scaler")}
        if self.history and self.history.models:
            parts["history"] = self.history
        if self.recipe.history_ema_decay is not None:
            parts["average"] = self.average
        return parts | ({"another": self.another} if self.another else {})

    def state_dict(self) -> dict:
        """Everything a resumed run needs, see `checkpoint`."""
        turn = self.history.turn if self.history else 0
        run = {"step": self.step, "best_psnr": self.best_psnr, "sums": self.log.sums, "turn": turn}
        state = {"run": run, "optimiser": self.optimiser.state_dict()["state"]}
        return state | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        run = state["run"]
        self.step, self.best_psnr = run["step"], run["best_psnr"]
        self.scaler = self._make_scaler()  # the old one may be in the middle of a step that was not finite
        self.log.sums.copy_(run["sums"])
        if self.history:
            self.history.turn = run["turn"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        checkpoint.load_moments(self.optimiser, state.get("optimiser", {}))  # none before the first step

    def save(self, run_dir: Path) -> None:
        """The log, then the checkpoint: rows after its step are cut off when a run goes on.

        Raises Diverged rather than replace a good state by one with NaN, and OSError if there is no room.
        """
        self.guard.check_finite()
        if not torch.isfinite(nn.utils.get_total_norm([p.detach() for p in self.model.parameters()])):
            raise Diverged(f"step {self.step}: a weight is not finite, so this state is not saved.")
        self.log.write(run_dir)
        checkpoint.save(run_dir, self.state_dict())

    def take_over(self, run_dir: Path) -> str:
        """Take over all of a finished run, its log too, for the steps that are left of this recipe; say so."""
        self.restore(run_dir)
        rate, steps = self.recipe.learning_rate_at(self.step + 1), self.recipe.steps
        return f"{run_dir} goes on after step {self.step} to step {steps}, with learning rate {rate:g} at first."

    def restore(self, run_dir: Path) -> str:
        """Continue from the folder's checkpoint, if there is one. Returns what a reader should know, else nothing."""
        file = checkpoint.restore(run_dir, self)
        if file:
            self.log.read(run_dir, self.step)
        damaged = file and file.name == checkpoint.PREVIOUS and (run_dir / checkpoint.FILE).exists()
        return f"{checkpoint.FILE} is damaged; going on from the one before, step {self.step}." if damaged else ""
