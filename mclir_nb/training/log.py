"""The log of a run, log.csv: means of the very numbers that were optimised, between one row and the next."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb import files
from mclir_nb.method import precision, push
from mclir_nb.method.history import HistoryModels
from mclir_nb.training import distributed
from mclir_nb.training.recipes import Recipe

FILE = "log.csv"
ROWS = 10_000  # at most, beside those of validations


def interval(recipe: Recipe) -> int:
    """Steps between two rows: the recipe's, or a multiple that keeps a long run below `ROWS` rows."""
    return recipe.log_every * math.ceil(recipe.steps / (recipe.log_every * ROWS))


class Log:
    """The rows of a run.

    Attributes:
        sums: l_rec, l_neg and total, summed over the steps since the last row; on the device, so that no step waits.
        image_ratio: see `push.image_ratio`, of the step that ends an interval; on the device.
        rows: one dictionary per row, the columns of the file.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.sums = recipe, torch.zeros(3, device=device)
        self.image_ratio: Tensor | None = None
        self.rows: list[dict] = []
        self.clock = time.perf_counter()

    @property
    def last_step(self) -> int:
        """The step of the last row, 0 before the first."""
        return self.rows[-1]["step"] if self.rows else 0

    def means(self, step: int) -> dict:
        """Mean losses since the last row, and r = lambda * l_neg / l_rec.

        With sampling l_neg is the mean over the steps that had the term, and total counts lambda once for every step.
        Where no step had it, both repeat the term of the row before.
        """
        l_rec, l_neg, total = (distributed.mean(self.sums) / (step - self.last_step)).tolist()
        if self.recipe.period > 1:
            share = sum(map(self.recipe.has_term, range(self.last_step + 1, step + 1))) / (step - self.last_step)
            if share:
                l_neg, total = l_neg / share, l_rec + (total - l_rec) / (share * self.recipe.period)
            elif self.rows:
                last = self.rows[-1]
                l_neg, total = last["l_neg"], l_rec + last["total"] - last["l_rec"]
        r = abs(total - l_rec) / l_rec if self.recipe.objective != "plain" else math.nan
        return {"step": step, "l_rec": l_rec, "l_neg": l_neg, "total": total, "r": r}

    def close(self, step: int, columns: dict[str, float]) -> dict:
        """The row of the steps since the last one, with more columns; whoever finds it good appends it to `rows`."""
        row = self.means(step)
        self.sums.zero_()
        row["lambda_neg"] = row["r"] * row["l_rec"] / row["l_neg"] if row["l_neg"] else math.nan
        row["lr"] = self.recipe.learning_rate_at(step)
        if self.recipe.objective != "plain":
            row["image_ratio"] = math.nan if self.image_ratio is None else self.image_ratio.item()
            row |= dict.fromkeys(("dose", "dose_cosine"), math.nan)
            self.image_ratio = None
        row |= columns | {"val_psnr": math.nan, "val_psnr_ema": math.nan}
        row["seconds"] = time.perf_counter() - self.clock
        return row

    def write(self, run_dir: Path) -> None:
        """The file with all rows so far. Raises OSError if there is no room."""
        if self.rows:
            files.write_file(run_dir / FILE, pd.DataFrame(self.rows).to_csv(index=False))

    def read(self, run_dir: Path, step: int) -> None:
        """Take over the rows up to a step; those after it are of a life that was cut off."""
        rows = files.read_rows(run_dir / FILE) if (run_dir / FILE).exists() else []
        self.rows = [row for row in rows if row["step"] <= step]
        self.clock = time.perf_counter() - (self.rows[-1]["seconds"] if self.rows else 0.0)


def history_columns(
    recipe: Recipe, model: nn.Module, history: HistoryModels, last: tuple | None, features: nn.Module
) -> dict[str, float]:
    """What a row says of each history: how far its weights are, and how it did in the `last` step, if that is known.

    Args:
        last: restored, gt and the negatives.

    Returns:
        distance_k, of the weights; progress_k and gap_k, see `push.condition`; signal_k, the share of its gradient
        above rounding in the recipe's precisions.
    """
    columns = {f"distance_{k}": float(d) for k, d in enumerate(history.distances(model))}
    restored, gt, negatives = last or (None, None, [])
    if not negatives or len(negatives) < len(history.models):
        return columns
    for k, negative in enumerate(negatives):
        condition = push.condition(restored, negative, gt)
        columns |= {f"progress_{k}": condition.progress, f"gap_{k}": condition.gap}
    formats = recipe.precision, recipe.history_precision, recipe.features_precision
    coarsest = max(precision.ROUNDING[name] for name in formats)
    with precision.full_float32():
        shares = precision.signal(restored, negatives, features, coarsest).tolist()
    return columns | {f"signal_{k}": share for k, share in enumerate(shares)}


def summary_writer() -> type:
    """TensorBoard's class. Raises ValueError if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "tensorboard=True needs the package tensorboard, which is not installed; pip install "
            "'mclir-nb[tensorboard]', or leave it out: log.csv holds the same numbers."
        ) from None
    return SummaryWriter


class Scalars:
    """The rows as TensorBoard scalars too, to watch a run by; points after `step`, of an earlier life, go.

    `python -m mclir_nb train ... --tensorboard`, then `tensorboard --logdir runs`. Switched off it does nothing.
    """

    def __init__(self, run_dir: Path, step: int, on: bool):
        self.writer = summary_writer()(str(run_dir / "tensorboard"), purge_step=step + 1) if on else None

    def add(self, row: dict) -> None:
        """One row of the log, by its column names; empty values are left out."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    self.writer.add_scalar(name, value, row["step"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
