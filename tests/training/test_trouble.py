"""Numerical trouble and lack of memory: one sentence with step, pictures, the last good state and what to do."""

import math

import killing
import pytest
import torch

from mclir_nb.training import checkpoint, recipes, train, trouble

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which 1.00 GiB is "
    "free. Including non-PyTorch memory, this process has 13.00 GiB memory in use. Of the allocated memory 12.00 GiB "
    "is allocated by PyTorch, and 500.00 MiB is reserved by PyTorch but unallocated."
)


def advice(error=CUDA, fixed=2**30, **changes) -> str:
    recipe = recipes.get("gpu", **changes)
    return trouble.out_of_memory(recipe, 7, fixed, torch.OutOfMemoryError(error))


def test_the_batch_is_turned_down_first():
    assert advice(batch_size=8).startswith(
        "step 7: out of memory (2.00 GiB more were asked for). Turn batch_size down first: 4 instead of 8. "
        "That is another recipe, so choose another out_dir too"
    )


def test_how_far_follows_from_what_there_was():
    """12 GiB are ours, 1 is free, weights take 1: 12 are left for a batch that wants at least 11 + 30."""
    little = CUDA.replace("allocate 2.00", "allocate 30.00")  # 12 / 41 of 8, less a tenth
    assert "batch_size down first: 2 instead of 8" in advice(little, batch_size=8)
    assert "batch_size down first: 1 instead of 3" in advice(batch_size=3)


def test_the_predicted_need_counts_where_it_is_larger():
    sentence = trouble.out_of_memory(recipes.get("gpu"), 7, 2**30, torch.OutOfMemoryError(CUDA), predicted=49 * 2**30)
    assert "batch_size down first: 1 instead of 8" in sentence  # 12 / 48 of 8, less a tenth


def test_then_the_patch_and_then_the_width():
    assert "patch_size down: 88 instead of 128" in advice(batch_size=1)  # 128 / sqrt(2), a multiple of 8
    assert "use network_size 'demo'" in advice(batch_size=1, patch_size=16)
    smallest = advice(batch_size=1, patch_size=16, network_size="tiny")
    assert "as small as can be; free memory, or use another machine" in smallest


@pytest.mark.parametrize(
    "changes", [dict(batch_size=2), dict(batch_size=1), dict(batch_size=1, patch_size=24, task="sr", scale=2)]
)
def test_the_advice_is_a_recipe_that_exists(changes):
    changes = changes | ({"patch_size": 48} if changes.get("task") == "sr" else {})
    recipe, share = recipes.get("gpu", **changes), 0.5
    name, value = trouble._smaller(recipe, share).split(" instead of ")[0].split()[-2:]
    field = "batch_size" if "batch_size down" in trouble._smaller(recipe, share) else "patch_size"
    smaller = recipe.replace(**{field: int(value)})
    amount = [r.batch_size * r.patch_size**2 for r in (smaller, recipe)]
    assert amount[0] < amount[1]


def test_errors_without_numbers_and_of_the_cpu_are_understood():
    on_cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
    for error in (on_cpu, MemoryError(), torch.OutOfMemoryError("CUDA error: out of memory")):
        assert trouble.is_out_of_memory(error)
        assert "out of memory. Turn batch_size down first: 4" in trouble.out_of_memory(recipes.get("gpu"), 1, 0, error)
    assert not trouble.is_out_of_memory(RuntimeError("out of luck"))


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
    raise torch.OutOfMemoryError(CUDA)


def test_a_run_without_memory_names_knob_and_last_good_state(tmp_path, monkeypatch):
    with pytest.raises(
        RuntimeError, match="step 3: out of memory .* batch_size down first: 1 instead of 2.*"
    ) as caught:
        troubled(tmp_path, monkeypatch, 4, exhausted)
    assert f"The last good state is that after step 3, in {tmp_path / checkpoint.FILE}." in str(caught.value)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_names_step_pictures_and_last_good_state(precision, tmp_path, monkeypatch):
    with pytest.raises(train.Diverged) as caught:
        troubled(tmp_path, monkeypatch, 3, lambda gt: gt * math.inf, precision=precision)
    names = train.Trainer(killing.short(), torch.device("cpu")).patches.batch(3)[2]
    message = str(caught.value)
    assert message.startswith("step 3: ") and all(name in message for name in names)
    assert "The last good state is that after step 2, in" in message
    assert checkpoint.read(tmp_path / checkpoint.FILE)["run"]["step"] == 2


def test_the_guard_on_lambda_works_in_bfloat16(tmp_path):
    recipe = killing.short(precision="bfloat16", lambda_neg=1e3, history_start=0.5)
    with pytest.raises(train.Diverged, match="outweighs the reconstruction .* No state had been saved before"):
        train.train(recipe, tmp_path, device="cpu", quiet=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_is_named_before_anything_is_trained_on_it(value):
    gt, lq = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    trouble.check_batch(4, gt, lq, ["a", "b", "c"])
    lq[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"step 4: lq holds NaN or infinite values \(pictures: b\). Nothing was"):
        trouble.check_batch(4, gt, lq, ["a", "b", "c"])


def test_a_state_that_is_not_finite_never_replaces_a_good_one(tmp_path):
    trainer = train.Trainer(killing.short(), torch.device("cpu"))
    trainer.save(tmp_path)
    next(trainer.model.parameters()).data.fill_(math.nan)  # as a GPU leaves it until somebody looks
    with pytest.raises(train.Diverged, match="not finite, so this state is not saved"):
        trainer.save(tmp_path)
    assert checkpoint.restore(tmp_path, trainer) and not any(p.isnan().any() for p in trainer.model.parameters())


def test_a_very_long_run_logs_no_more_rows_than_promised():
    for steps, rows in ((500_000, 5000), (2_000_000, 10_000), (30_000_001, 10_000)):
        recipe = recipes.get("paper", steps=steps, features_weights="random")
        every = train.log_interval(recipe)
        assert every % recipe.log_every == 0 and rows * 0.9 < steps / every <= rows
