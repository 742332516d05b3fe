"""Optional: a run's log as TensorBoard scalars, for watching it. The run folder's log.csv stays the truth.

    python -m mclir_nb train ... --tensorboard          then   tensorboard --logdir runs

Inside JupyterLab: `%load_ext tensorboard` and `%tensorboard --logdir runs` in a cell show it in the notebook.
"""

from __future__ import annotations

import math
from pathlib import Path

FOLDER = "tensorboard"  # in the run folder


class Scalars:
    """Writes rows of a run's log as they come; one that is switched off does nothing.

    Args:
        run_dir: the run folder.
        step: of the run when it begins or goes on; later points of an earlier life go.
        on: False writes nothing.

    Raises:
        ValueError: tensorboard is not installed.
    """

    def __init__(self, run_dir: Path, step: int, on: bool):
        self.writer = None
        if not on:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard=True needs the package tensorboard, which is not installed; pip install "
                "'mclir-nb[tensorboard]', or leave it out: log.csv holds the same numbers."
            ) from None
        self.writer = SummaryWriter(str(run_dir / FOLDER), purge_step=step + 1)

    def add(self, row: dict) -> None:
        """One row of the log, by its column names; empty values are left out."""
        if self.writer is None:
            return
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        """Nothing more will come."""
        if self.writer is not None:
            self.writer.close()
