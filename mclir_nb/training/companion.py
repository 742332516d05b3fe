"""Another network beside a run, whose past is a foreign past: does it have to be one's own history?

It begins with other first weights and learns from the run's own batches with L1 alone, in float32, at the same learning
rate. What it does not share with the run is the way to its weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mclir_nb.method import precision
from mclir_nb.training import build, checkpoint, distributed
from mclir_nb.training.recipes import Recipe


class Companion:
    """The other network, `model`, and one step of it."""

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.device = recipe, device
        self.model = build.make_network(recipe, device, "another")
        self.parallel = distributed.data_parallel(self.model)
        self.optimiser = build.make_optimiser(recipe, self.model)

    def advance(self, gt: Tensor, lq: Tensor, step: int) -> None:
        """One step on a batch, (B, 3, H, W) and (B, 3, h, w) in [0, 1]; `step` is that of the run."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        self.optimiser.zero_grad()
        with precision.autocast("float32", self.device):
            F.l1_loss(self.parallel(lq), gt).backward()
        self.optimiser.step()

    def state_dict(self) -> dict:
        """Everything a resumed run needs, see `checkpoint`."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()["state"]}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        checkpoint.load_moments(self.optimiser, state.get("optimiser", {}))
