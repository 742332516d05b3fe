"""Numerical trouble and lack of memory: one sentence with step, pictures, the last good state and what to do."""

import math
import os
import signal

import killing
import pytest
import torch
from trainers import before_step, derain, flat, trainer

from mclir_nb.data.patches import Patches
from mclir_nb.training import checkpoint, machine, run_folder, train


def troubled(folder, step: int, happens, **changes):
    """A run of five steps that saves each and meets trouble in one."""
    with before_step(step, happens):
        train.train(killing.short(steps=5, save_every=1, **changes), folder, device="cpu", quiet=True)


def exhausted(*_):
    raise torch.OutOfMemoryError


def interrupted(*_):
    raise KeyboardInterrupt


def terminated(*_):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_without_memory_names_the_knob_and_the_last_good_state(tmp_path):
    with pytest.raises(machine.OutOfMemory, match=f"batch_size .*after step 3.*{checkpoint.FILE}"):
        troubled(tmp_path, 4, exhausted)


@pytest.mark.parametrize(("happens", "word"), [(exhausted, "accumulate .*No state"), (terminated, "short run anew")])
def test_the_short_run_of_a_dose_speaks_as_a_run_does_and_leaves_nothing(happens, word, tmp_path):
    with pytest.raises((machine.OutOfMemory, KeyboardInterrupt), match=word):
        troubled(tmp_path / "run", 1, happens, dose=0.1)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_had_is_refused_before_the_short_run_of_a_dose(tmp_path):
    (tmp_path / "file").touch()
    recipe = killing.short(dose=0.1)
    with run_folder.hold(tmp_path / "held"), before_step(1, interrupted):
        for name in ("file/run", "held"):
            with pytest.raises((OSError, ValueError), match=f"{name} .*out_dir"):
                train.train(recipe, tmp_path / name, device="cpu", quiet=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_names_step_pictures_and_last_good_state(precision, tmp_path):
    with pytest.raises(train.Diverged) as caught:
        troubled(tmp_path, 3, lambda _, gt: gt.mul_(math.inf), precision=precision)
    names = trainer(killing.short()).patches.batch(3)[2]
    message = str(caught.value)
    assert message.startswith("step 3: ") and all(name in message for name in names)
    assert "after step 2, in" in message
    assert checkpoint.read(tmp_path / checkpoint.FILE)["run"]["step"] == 2


@pytest.mark.parametrize(("which", "value"), [("lq", math.nan), ("gt", math.inf)])
def test_a_batch_that_is_not_finite_is_named_before_anything_is_trained_on_it(which, value, tmp_path, monkeypatch):
    real = Patches.batch

    def batch(self, step):
        gt, lq, names = real(self, step)
        if step == 2:
            dict(gt=gt, lq=lq)[which][1, 2, 3, 4] = value
        return gt, lq, names

    monkeypatch.setattr(Patches, "batch", batch)
    recipe = killing.short(steps=3, save_every=1)
    with pytest.raises(ValueError, match=f"step 2: {which} .*pictures"):
        train.train(recipe, tmp_path, device="cpu", quiet=True)
    assert checkpoint.read(tmp_path / checkpoint.FILE)["run"]["step"] == 1


def test_a_state_that_is_not_finite_never_replaces_a_good_one(tmp_path):
    made = trainer(derain())
    made.save(tmp_path)
    next(made.model.parameters()).data.fill_(math.nan)  # as a GPU leaves it until somebody looks
    with pytest.raises(train.Diverged, match="not finite"):
        made.save(tmp_path)
    assert checkpoint.restore(tmp_path, made) and flat(made.model).isfinite().all()
