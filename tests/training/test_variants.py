"""Variants of SPN that a recipe can ask for: distances that fade, lambda over time, which histories are asked."""

import math

import pytest
import torch
from safetensors.torch import load_file

from mclir_nb.experiments import evidence, plans
from mclir_nb.training import recipes, train


def recipe(**changes):
    small = dict(steps=6, log_every=1, val_every=6, save_every=3, history_every=(4, 2))
    return recipes.get("tiny", "derain", **small).replace(**{"history_decay": (0.1,) * 2} | changes)


def trainer(**changes) -> train.Trainer:
    return train.Trainer(recipe(**changes), torch.device("cpu"))


def advanced(made: train.Trainer, steps: int) -> train.Trainer:
    for batch in made.patches.batches(made.step + 1, steps):
        made.advance(*batch)
        made.log()
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
    assert waiting.rows[-1]["l_neg"] == 0 and waiting.rows[-1]["r"] == 0
    for one, other in zip(waiting.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert advanced(waiting, 3).rows[-1]["l_neg"] > 0


def test_r_is_held():
    for objective in ("spn", "history-positive"):
        rows = advanced(trainer(objective=objective, lambda_ratio=0.05), 4).rows
        assert [row["r"] for row in rows[1:]] == pytest.approx([0.05] * 3, rel=1e-3)
        assert (rows[-1]["total"] < rows[-1]["l_rec"]) == (objective == "spn")


def test_the_adaptive_rule_takes_turns_and_resumes_to_the_same_bits(tmp_path):
    changes = dict(history_threshold=0.0, history_every=(3, 2))
    whole = train.train(recipe(**changes), tmp_path / "whole", quiet=True)
    half = advanced(trainer(**changes), 3)
    assert half.history.turn == 1  # three refreshes of two histories in turn
    train.records.make(tmp_path / "half")
    train.records.adopt(tmp_path / "half", half.recipe, True)
    half.save(tmp_path / "half")
    train.train(recipe(**changes), tmp_path / "half", quiet=True)
    one, other = (load_file(tmp_path / run / "history.safetensors") for run in ("whole", "half"))
    assert all(torch.equal(one[name], other[name]) for name in one) and whole.log["distance_0"].iloc[-1] > 0
    never = advanced(trainer(history_threshold=1e9), 2)
    assert math.isclose(float(never.history.distances(never.model)[0]), never.rows[-1]["distance_0"])
    assert never.history.turn == 0


def test_every_experiment_can_be_planned():
    for name in plans.EXPERIMENTS:
        experiment = evidence.get(name)
        jobs = experiment.plan(**{} if "dataset" not in experiment.changes else {"data_root": "somewhere"})
        assert len(jobs) == len(experiment.tasks) * len(experiment.arms) * len(experiment.seeds), name
        assert len({job.name for job in jobs}) == len(jobs), name
        text = evidence.decision(experiment)
        assert all(f"`{arm.name}`" in text for arm in experiment.arms), name
    assert set(plans.EXPERIMENTS) >= {"C1", "A1", "B1", "E1", "E2", "E3", "E4", "E5", "E6", "E7-sr", "E7-dehaze"}
