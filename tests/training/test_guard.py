"""The guard of a run, and what a recipe can change about its negative term."""

import math

import pytest
import torch

from mclir_nb.training import checkpoint, recipes, train
from mclir_nb.training.guard import Diverged, Guard


def short(**changes):
    fields = dict(steps=12, batch_size=1, patch_size=32, log_every=3, val_every=0, save_every=3, val_side=64)
    return recipes.get("tiny", changes.pop("task", "derain"), **fields | changes)


def trainer(**changes):
    return train.Trainer(short(**changes), torch.device("cpu"))


def steps(made, count=3):
    for batch in made.patches.batches(1, count):
        made.advance(*batch)
    return made


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dict(total=math.nan, l_rec=1.0, r=0.0), "not finite"),
        (dict(total=-0.5, l_rec=1.0, r=1.5), "r = 1.50.*0.01 and 0.1"),
    ],
)
def test_the_guard_stops_with_an_explanation(row, message):
    with pytest.raises(Diverged, match=message):
        Guard(short()).check(row | {"step": 7})
    if row["r"]:
        Guard(short(guard_r=2.0)).check(row | {"step": 7})
        Guard(short(objective="history-positive")).check(row | {"step": 7, "total": 2.0})  # bounded below


def test_a_fall_of_validation_is_noticed():
    guard = Guard(short(guard_drop=3.0))
    row = dict(step=5, total=0.9, l_rec=1.0)
    guard.check_validation(row | {"val_psnr": 27.1}, best=30.0)
    for psnr in (26.9, math.nan):
        with pytest.raises(Diverged, match="validation fell to .* from 30.00 dB"):
            guard.check_validation(row | {"val_psnr": psnr}, best=30.0)
    guard.check_validation(row | {"val_psnr": 20.0, "total": 1.0}, best=30.0)  # nothing is subtracted
    guard.check_validation(row | {"val_psnr": 58.0}, best=math.inf)  # one validation was right to the last bit
    with pytest.raises(Diverged):
        guard.check_validation(row | {"val_psnr": 30.0}, best=math.inf)


def test_lambda_is_lowered_only_when_asked_and_not_forever():
    assert not Guard(short()).lower(1.0)
    guard = Guard(short(guard="lower-lambda"))
    halved = 0
    while guard.lower(guard.factor):
        halved += 1
    assert halved == 10 and guard.factor == 2**-10


def test_a_rescued_run_goes_on_and_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    recipe = short(lambda_neg=0.2, guard="lower-lambda", guard_r=0.1, learning_rate=1e-2, save_every=2)
    monkeypatch.setattr(train, "_finish", lambda *_: None)  # scoring takes longer than these steps
    run = train.train(recipe, tmp_path / "straight")
    assert "with lambda_neg" in capsys.readouterr().out
    assert run.log.lambda_neg.iloc[-1] < 0.2 and run.log.r.max() <= 0.1 and list(run.log.step) == [3, 6, 9, 12]

    real = train.Trainer.advance

    def killed(self, *batch):
        if self.guard.factor < 1 and self.step == 5:
            raise KeyboardInterrupt
        real(self, *batch)

    monkeypatch.setattr(train.Trainer, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, tmp_path / "killed", quiet=True)
    monkeypatch.setattr(train.Trainer, "advance", real)
    again = train.train(recipe, tmp_path / "killed", quiet=True)
    assert checkpoint.read(run.dir / checkpoint.FILE)["guard"]["factor"] < 1
    assert (run.dir / checkpoint.FILE).read_bytes() == (again.dir / checkpoint.FILE).read_bytes()


def test_every_third_step_pushes_three_times():
    made = trainer(negatives_every=3)
    weights = [made.recipe.weight_at(step) for step in (1, 2, 3, 6)]
    assert weights == [0, 0, *[pytest.approx(3 * made.recipe.weight)] * 2]
    image = torch.rand(1, 3, 32, 32)
    assert [len(made.negatives.outputs(image, image, 1, weight)) for weight in weights] == [0, 0, 4, 4]


def test_frozen_and_random_histories_come_from_a_recipe():
    frozen = steps(trainer(history_every=(0, 0)))
    assert len(frozen.history.models) == 2
    assert not torch.equal(weights(frozen.model), weights(frozen.history.models[0]))
    start = trainer(history_every=(0, 0))
    assert torch.equal(weights(start.history.models[1]), weights(frozen.history.models[1]))
    random = trainer(history_every=(0,), history_start=1.0)
    assert not torch.allclose(weights(random.history.models[0]), weights(random.model), atol=1e-3)


def test_official_quirks_are_one_switch():
    quirky = recipes.get("tiny", quirks="official", grad_clip=0.05, steps=500)
    assert (quirky.history_start, quirky.cosine_steps, quirky.clipping) == (0.1, 100, None)
    assert recipes.get("tiny", grad_clip=0.05).clipping == 0.05
    same = recipes.get("tiny", history_start=0.1, cosine_steps=100, steps=500)
    a, b = (train.Trainer(r.replace(batch_size=1), torch.device("cpu")) for r in (quirky, same))
    for made in (a, b):
        steps(made, 2)
    assert torch.equal(weights(a.model), weights(b.model))
    assert quirky.learning_rate_at(101) < quirky.learning_rate_at(201)


def test_c2r_with_its_curriculum_is_a_recipe():
    made = trainer(objective="c2r", negatives="synthetic", lambda_neg=0.1)
    assert made.history is None
    lq, gt = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    made.best_psnr = 0.0
    early = made._loss(gt, lq)[0].l_neg
    made.best_psnr = 50.0  # better than all: every negative weighs more, lq less
    assert made._loss(gt, lq)[0].l_neg != early
    steps(made)

    own = steps(trainer(objective="c2r", curriculum="measured", lambda_neg=0.1))
    own.log()
    own.validate()
    assert len(own.negatives.thresholds) == 4 and min(own.negatives.thresholds) > 0
    steps(own, 1)
