"""Doses: lambda for a stated share of the update, kept and measured again; relatives of SPN in a run."""

import json

import numpy as np
import pytest
import torch

from mclir_nb.training import dose, recipes, train
from mclir_nb.training.trainer import Trainer

CPU = torch.device("cpu")


def short(**changes):
    spn = dict(history_every=(8, 4), history_decay=(0.1, 0.1), lambda_neg=1e-3)
    if changes.get("objective") in ("plain", "cr"):
        spn = dict(lambda_neg=None)
    fields = dict(steps=24, batch_size=2, patch_size=32, log_every=4, val_every=0)
    return recipes.get("tiny", "derain", **fields | spn | changes)


def test_measured_dose_is_linear_in_lambda_and_changes_nothing():
    runs = [Trainer(short(), CPU) for _ in range(2)]
    for step in range(1, 7):
        for trainer in runs:
            trainer.advance(*trainer.patches.batch(step))
        one, two = (dose.measured(runs[0], weight, 2) for weight in (1e-3, 2e-3))
        assert two.update == pytest.approx(2 * one.update) and two.cosine == pytest.approx(one.cosine)
    for a, b in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("objective", ["spn", "cr"])
def test_a_run_gets_the_dose_it_asks_for(tmp_path, objective):
    recipe = short(objective=objective, lambda_neg=None, dose=0.1)
    run = train.train(recipe, tmp_path / "run", quiet=True)
    chosen = json.loads((tmp_path / "run" / "dose.json").read_text())
    assert np.mean(chosen["looks"]) == pytest.approx(0.1) and chosen["lambda_neg"] > 0
    inside = run.log.dose.dropna()
    assert len(inside) == dose.LOOKS_INSIDE and 0.01 < inside.mean() < 1  # of another seed, in fewer batches
    assert run.log.lambda_neg.iloc[-1] == pytest.approx(chosen["lambda_neg"], rel=1e-2)
    again = dose.lambda_for(recipe, 0.1, CPU, quiet=True)
    assert again.lambda_neg == chosen["lambda_neg"] and again.variation > 0


def test_doses_of_one_objective_share_a_short_run(tmp_path, monkeypatch):
    recipe, file = short(objective="cr", lambda_neg=None, dose=0.1), tmp_path / "doses.json"
    first = dose.lambda_for(recipe, 0.1, CPU, quiet=True, shared=file)
    monkeypatch.setattr(dose, "_updates", None)  # whoever measures again fails
    assert dose.lambda_for(recipe.replace(seed=7), 0.1, CPU, quiet=True, shared=file) == first
    double = dose.lambda_for(recipe, 0.2, CPU, quiet=True, shared=file)
    assert double.lambda_neg == pytest.approx(2 * first.lambda_neg)
    with pytest.raises(TypeError):
        dose.lambda_for(recipe.replace(learning_rate=1e-3), 0.1, CPU, quiet=True, shared=file)


def test_log_shows_image_ratio_progress_and_gap(tmp_path):
    log = train.train(short(), tmp_path / "run", quiet=True).log
    assert (log.image_ratio > 0).all()
    for k in range(2):
        assert (log[f"gap_{k}"] >= 0).all() and log[f"progress_{k}"].notna().all()
    rival = train.train(short(objective="cr", lambda_neg=1e-3, steps=8), tmp_path / "rival", quiet=True).log
    assert (rival.image_ratio > 0).all()
    plain = train.train(short(objective="plain"), tmp_path / "plain", quiet=True).log
    assert not {"dose", "image_ratio"} & set(plain.columns)


@pytest.mark.parametrize(
    ("changes", "share"), [(dict(sampling="sampled", sampled_every=4), 1), (dict(lambda_from=20), None)]
)
def test_dose_is_that_of_lambda_not_of_its_spikes(changes, share):
    """Every 4th step four times as strong is the same dose; before lambda sets in there is none."""
    trainer = Trainer(short(**changes), CPU)
    for step in range(1, 5):
        trainer.advance(*trainer.patches.batch(step))
    found = dose.columns(trainer)
    assert found.get("dose") == (None if share is None else dose.measured(trainer, share * 1e-3, 2).update)


@pytest.mark.parametrize(
    "changes",
    [dict(objective=name) for name in ("ratio", "infonce", "margin", "spn-smooth")]
    + [dict(history_of="ema"), dict(noised_inputs=2)],
    ids=str,
)
def test_relatives_train(tmp_path, changes):
    run = train.train(short(steps=8, **changes), tmp_path / "run", quiet=True)
    assert run.is_finished and (run.log.l_neg != 0).any()


def test_histories_of_the_ema_follow_the_ema():
    trainer = Trainer(short(history_of="ema", history_every=(4,), history_decay=(0.0,), ema_decay=0.9), CPU)
    for step in range(1, 5):
        trainer.advance(*trainer.patches.batch(step))
    (history,) = trainer.history.models
    for old, averaged in zip(history.parameters(), trainer.ema.parameters(), strict=True):
        assert torch.equal(old, averaged)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(objective="plain", lambda_neg=None),
        dict(lambda_neg=1e-3),
        dict(lambda_neg=0.0),
        dict(lambda_neg=None, lambda_ratio=0.05),
        dict(lambda_neg=None, dose=0.0),
        dict(lambda_neg=None, dose=float("nan")),
    ],
    ids=str,
)
def test_a_dose_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="dose|lambda"):
        short(**dict(dose=0.1) | wrong)


def test_a_dose_that_cannot_be_reached_is_refused_before_the_first_step(tmp_path):
    without = short(lambda_neg=None, dose=0.1, history_every=(), history_decay=())
    with pytest.raises(ValueError, match="no negatives"):
        train.train(without, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "log.csv").exists()
    for asked, word in ((short(objective="plain"), "plain"), (short(lambda_neg=None, dose=0.1), "above 0")):
        with pytest.raises(ValueError, match=word):
            dose.lambda_for(asked, 0.0 if word == "above 0" else 0.1, CPU, quiet=True)
    with pytest.raises(ValueError, match="not chosen yet"):
        Trainer(short(lambda_neg=None, dose=0.1), CPU)


def test_a_look_without_gradients_or_with_nan_is_refused():
    trainer = Trainer(short(), CPU)
    with pytest.raises(ValueError, match="step of Adam"):
        dose.measured(trainer, 1e-3, 1)
    trainer.advance(*trainer.patches.batch(1))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        dose.measured(trainer, 1e-3, 1)


@pytest.mark.parametrize(
    "changes",
    [
        dict(sampling="sampled", sampled_every=4),
        dict(lambda_from=9),
        dict(lambda_follows_rate=True),
        dict(guard="lower-lambda"),
    ],
)
def test_what_acts_on_lambda_acts_on_the_lambda_of_a_dose(changes):
    """Lambda is that of the recipe without it: the dose is meant for where the term acts at full strength."""
    asked = short(lambda_neg=None, dose=0.1)
    chosen = dose.lambda_for(asked, 0.1, CPU, quiet=True)
    recipe = asked.replace(**changes)
    assert dose.with_lambda(recipe, dose.choose(recipe, None, CPU, quiet=True)) == asked.replace(**changes).at(
        chosen.lambda_neg
    )


def known(recipe):
    """The committed short run of a recipe, as `lambda_for` finds it; fails where it would have to measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dose, "_updates", None)
        return dose.lambda_for(recipe, recipe.dose, CPU, quiet=True)


@pytest.mark.parametrize("task", ["dehaze", "derain", "deblur", "sr"])
def test_a_first_command_need_not_measure(task):
    chosen = known(recipes.get("demo", task))
    assert chosen.lambda_neg > 0 and np.mean(chosen.looks) == pytest.approx(0.1)
    assert known(recipes.get("demo", task, seed=5, val_every=0)).lambda_neg == chosen.lambda_neg
    with pytest.raises(TypeError):  # not measured, and so not known
        known(recipes.get("demo", task, learning_rate=1e-3))


@pytest.mark.slow
def test_what_is_committed_is_what_a_short_run_finds(monkeypatch):
    recipe = recipes.get("demo", "derain")
    committed = known(recipe)
    monkeypatch.setattr(dose, "KNOWN", dose.KNOWN.with_name("none.json"))
    assert dose.lambda_for(recipe, recipe.dose, CPU, quiet=True).looks == pytest.approx(committed.looks, rel=0.1)
