"""Numerical trouble and lack of memory: one sentence with step, pictures, the last good state and what to do."""

import math

import killing
import pytest
import torch

from mclir_nb.data.patches import Patches
from mclir_nb.training import checkpoint, machine, train


def troubled(folder, monkeypatch, at: int, trouble_itself, **changes):
    """A run of five steps that saves each and meets trouble in step `at`."""
    real = train.Trainer.advance

    def advance(self, gt, lq, names):
        gt = trouble_itself(gt) if self.step == at - 1 else gt
        real(self, gt, lq, names)

    monkeypatch.setattr(train.Trainer, "advance", advance)
    recipe = killing.short(steps=5, save_every=1, **changes)
    train.train(recipe, folder, device="cpu", quiet=True)


def exhausted(gt):
    raise torch.OutOfMemoryError


def test_a_run_without_memory_names_the_knob_and_the_last_good_state(tmp_path, monkeypatch):
    with pytest.raises(machine.OutOfMemory, match=f"batch_size .*after step 3.*{checkpoint.FILE}"):
        troubled(tmp_path, monkeypatch, 4, exhausted)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_names_step_pictures_and_last_good_state(precision, tmp_path, monkeypatch):
    with pytest.raises(train.Diverged) as caught:
        troubled(tmp_path, monkeypatch, 3, lambda gt: gt * math.inf, precision=precision)
    names = train.Trainer(killing.short(), torch.device("cpu")).patches.batch(3)[2]
    message = str(caught.value)
    assert message.startswith("step 3: ") and all(name in message for name in names)
    assert "after step 2, in" in message
    assert checkpoint.read(tmp_path / checkpoint.FILE)["run"]["step"] == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_named_before_anything_is_trained_on_it(value, tmp_path, monkeypatch):
    real = Patches.batch

    def batch(self, step):
        gt, lq, names = real(self, step)
        lq[1, 2, 3, 4] = value if step == 2 else lq[1, 2, 3, 4]
        return gt, lq, names

    monkeypatch.setattr(Patches, "batch", batch)
    recipe = killing.short(steps=3, save_every=1)
    with pytest.raises(ValueError, match="step 2: lq .*pictures"):
        train.train(recipe, tmp_path, device="cpu", quiet=True)
    assert checkpoint.read(tmp_path / checkpoint.FILE)["run"]["step"] == 1


def test_a_state_that_is_not_finite_never_replaces_a_good_one(tmp_path):
    trainer = train.Trainer(killing.short(), torch.device("cpu"))
    trainer.save(tmp_path)
    next(trainer.model.parameters()).data.fill_(math.nan)  # as a GPU leaves it until somebody looks
    with pytest.raises(train.Diverged, match="not finite"):
        trainer.save(tmp_path)
    assert checkpoint.restore(tmp_path, trainer) and not any(p.isnan().any() for p in trainer.model.parameters())
