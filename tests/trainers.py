"""Small trainers for the tests, and whether two networks hold the same."""

from contextlib import contextmanager

import pytest
import torch

from mclir_nb import files
from mclir_nb.training import recipes, records
from mclir_nb.training.trainer import Trainer

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def derain(**changes) -> recipes.Recipe:
    """A recipe of six steps with two histories, where it has any, and a row of the log for each."""
    fields = dict(steps=6, log_every=1, val_every=6, save_every=3, batch_size=2)
    histories = {} if changes.get("objective") in ("plain", "vgg", "cr", "pcl") else dict(history_every=(4, 2))
    return recipes.get("tiny", "derain", **fields | histories | changes)


def untrained_run(folder, recipe: recipes.Recipe):
    """The folder of a finished run, of a network that has learnt nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "recipe.json", recipe.model_dump())
    for name in ("model", "ema"):
        files.write_tensors(folder / f"{name}.safetensors", records.build_network(recipe).state_dict())
    (folder / "scores.csv").write_text("image,psnr_restored\nx,20\n")
    return folder


def trainer(recipe: recipes.Recipe, steps: int = 0, device: str = "cpu") -> Trainer:
    return advance(Trainer(recipe, torch.device(device)), steps)


def advance(made: Trainer, last: int, rows: bool = False) -> Trainer:
    """Steps until `last` is done, with a row of the log after each if `rows`."""
    for batch in made.patches.batches(made.step + 1, last):
        made.advance(*batch)
        if rows:
            made.log_row()
    return made


def flat(network) -> torch.Tensor:
    """All weights one after the other, as they are now."""
    return torch.cat([weight.detach().cpu().flatten() for weight in network.parameters()])


def same(one, other) -> bool:
    return torch.equal(flat(one), flat(other))


class Stopped(Exception):
    """A training that ends without a word, as if it were killed."""


def stop(*_):
    raise Stopped


@contextmanager
def before_step(step: int, happens):
    """Meanwhile `happens(trainer, gt)` before this step of every training in this process."""
    real = Trainer.advance

    def disturbed(self, gt, lq, names):
        if self.step == step - 1:
            happens(self, gt)
        real(self, gt, lq, names)

    Trainer.advance = disturbed
    try:
        yield
    finally:
        Trainer.advance = real
