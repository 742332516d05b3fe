"""Variants of the term that a recipe can ask for: lambda over time, which histories there are and which are asked."""

import math

import pytest
import torch
from safetensors.torch import load_file

from mclir_nb.training import recipes, run_folder, train


def recipe(**changes):
    small = dict(steps=6, log_every=1, val_every=6, save_every=3, history_every=(4, 2))
    return recipes.get("tiny", "derain", **small).replace(**{"history_decay": (0.1,) * 2} | changes)


def trainer(**changes) -> train.Trainer:
    return train.Trainer(recipe(**changes), torch.device("cpu"))


def advanced(made: train.Trainer, steps: int) -> train.Trainer:
    for batch in made.patches.batches(made.step + 1, steps):
        made.advance(*batch)
        made.log_row()
    return made


def test_lambda_waits_falls_and_is_constant_otherwise():
    constant = recipe(steps=100)
    assert {constant.weight_at(step) for step in (1, 50, 100)} == {constant.weight}
    waiting = recipe(steps=100, lambda_from=51)
    assert waiting.weight_at(50) == 0 and waiting.weight_at(51) == waiting.weight
    falling = recipe(steps=100, lambda_follows_rate=True)
    assert falling.weight_at(1) == falling.weight and falling.weight_at(100) < 1e-3 * falling.weight


def test_before_its_step_spn_is_plain_and_asks_no_history():
    waiting, plain = advanced(trainer(lambda_from=3), 2), advanced(trainer(objective="plain"), 2)
    assert waiting.log.rows[-1]["l_neg"] == 0 and waiting.log.rows[-1]["r"] == 0
    for one, other in zip(waiting.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert advanced(waiting, 3).log.rows[-1]["l_neg"] > 0


def test_r_is_held():
    for objective in ("spn", "history-positive"):
        rows = advanced(trainer(objective=objective, lambda_ratio=0.05), 4).log.rows
        assert [row["r"] for row in rows[1:]] == pytest.approx([0.05] * 3, rel=1e-3)
        assert (rows[-1]["total"] < rows[-1]["l_rec"]) == (objective == "spn")


CONTROLS = {
    "another": dict(history_of="another"),
    "noise": dict(negatives="noise"),
    "slow average": dict(objective="spn-smooth", history_of="ema", history_ema_decay=0.9, lambda_neg=1e-3),
}


@pytest.mark.parametrize("changes", CONTROLS.values(), ids=CONTROLS.keys())
def test_controls_resume_to_the_same_bits(tmp_path, changes):
    whole = train.train(recipe(**changes), tmp_path / "whole", quiet=True)
    half = advanced(trainer(**changes), 3)
    with run_folder.claim(tmp_path / "half", half.recipe, resume=True):
        half.save(tmp_path / "half")
    train.train(recipe(**changes), tmp_path / "half", quiet=True)
    for name in ("model", "ema", "history"):
        one, other = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "half"))
        assert all(torch.equal(one[key], other[key]) for key in one), name
    assert whole.log["l_neg"].iloc[-1] != 0


def test_the_past_of_another_is_not_the_runs_own():
    """It begins elsewhere, learns by itself, and leaves the run as it would be: with lambda 0 that is plain."""
    made, plain = advanced(trainer(history_of="another", lambda_neg=0.0), 4), advanced(trainer(objective="plain"), 4)
    for one, other in zip(made.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    history, another = made.history.models[1], made.another.model  # refreshed in steps 2 and 4
    apart = [made.history.distances(network)[1].item() for network in (another, made.model)]
    assert 0 < apart[0] < 0.05 < 0.5 < apart[1] and history is not another
    start = trainer(history_of="another").another.model
    assert not torch.equal(next(start.parameters()), next(another.parameters()))


def test_a_slow_average_is_apart_from_the_ema_that_is_scored():
    made = advanced(trainer(**CONTROLS["slow average"]), 5)
    plain = advanced(trainer(objective="plain"), 0)
    start = next(plain.model.parameters())
    moved = [(next(network.parameters()) - start).norm() for network in (made.average, made.ema, made.model)]
    assert moved[0] < moved[1] < moved[2]  # decays 0.9, 0.8 and none
    assert made.past_of is made.average and trainer(history_of="ema").past_of is not made.average
    with pytest.raises(ValueError, match="history_ema_decay"):
        recipe(history_ema_decay=0.9)


def test_the_adaptive_rule_takes_turns_and_resumes_to_the_same_bits(tmp_path):
    changes = dict(history_threshold=0.0, history_every=(3, 2))
    whole = train.train(recipe(**changes), tmp_path / "whole", quiet=True)
    half = advanced(trainer(**changes), 3)
    assert half.history.turn == 1  # three refreshes of two histories in turn
    with run_folder.claim(tmp_path / "half", half.recipe, resume=True):
        half.save(tmp_path / "half")
    train.train(recipe(**changes), tmp_path / "half", quiet=True)
    one, other = (load_file(tmp_path / run / "history.safetensors") for run in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one) and whole.log["distance_0"].iloc[-1] > 0
    never = advanced(trainer(history_threshold=1e9), 2)
    assert math.isclose(float(never.history.distances(never.model)[0]), never.log.rows[-1]["distance_0"])
    assert never.history.turn == 0


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_frozen_and_random_histories_come_from_a_recipe():
    start, frozen = trainer(history_every=(0, 0)), advanced(trainer(history_every=(0, 0)), 3)
    assert not torch.equal(flat(frozen.model), flat(frozen.history.models[0]))
    assert torch.equal(flat(start.history.models[1]), flat(frozen.history.models[1]))
    random = trainer(history_every=(0,), history_decay=(0.1,), history_start=1.0)
    assert not torch.allclose(flat(random.history.models[0]), flat(random.model), atol=1e-3)


def test_official_quirks_are_one_switch():
    fields = dict(batch_size=1, steps=500)
    quirky = recipes.get("tiny", quirks="official", grad_clip=0.05, **fields)
    assert quirky.clipping is None and recipes.get("tiny", grad_clip=0.05).clipping == 0.05
    same = recipes.get("tiny", history_start=0.1, cosine_steps=100, **fields)
    a, b = (advanced(train.Trainer(one, torch.device("cpu")), 2) for one in (quirky, same))
    assert torch.equal(flat(a.model), flat(b.model))
    assert quirky.learning_rate_at(101) < quirky.learning_rate_at(201)


def test_c2r_counts_its_negatives_by_their_psnr():
    synthetic, again = (trainer(objective="c2r", lambda_neg=0.1, negatives="synthetic") for _ in range(2))
    again.best_psnr = 50.0  # better than all: every negative weighs more, lq less
    assert synthetic.history is None
    assert advanced(synthetic, 1).log.rows[-1]["l_neg"] != advanced(again, 1).log.rows[-1]["l_neg"]
    own = advanced(trainer(objective="c2r", lambda_neg=0.1, curriculum="measured"), 3)
    own.validate()
    assert len(own.negatives.thresholds) == 2 and min(own.negatives.thresholds) > 0
    advanced(own, 1)
