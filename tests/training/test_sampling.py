"""Sampling: the term in one step of every k, against one random history, is the exact term on average."""

import pytest
import torch

from mclir_nb import files
from mclir_nb.method import losses
from mclir_nb.training import dose, macs, recipes, records, train
from mclir_nb.training.trainer import Trainer

CPU = torch.device("cpu")


def short(**changes):
    fields = dict(steps=12, log_every=3, val_every=12, save_every=6, history_every=(3, 2), batch_size=2)
    return recipes.get("tiny", "derain", **fields | changes)


def draws(recipe, steps):
    """Which step of each period has the term, counted from 0."""
    return [(step - 1) % recipe.period for step in steps if recipe.has_term(step)]


def test_each_period_has_the_term_once_in_a_step_of_equal_chance():
    recipe = short(sampling="sampled", sampled_every=3, steps=900)
    places = draws(recipe, range(1, 901))
    assert len(places) == 300 and all(70 < places.count(place) < 130 for place in range(3))
    assert [recipe.has_term(step) for step in range(1, 31)] == [recipe.has_term(step) for step in range(1, 31)]
    assert places != draws(recipe.replace(seed=1), range(1, 901))
    assert {recipe.weight_at(step) / recipe.weight for step in range(1, 31)} == {0.0, 3.0}


def test_the_mean_over_all_draws_is_the_exact_gradient():
    """Every step of a period times every history, in float64: exactly, not on average over some draws."""
    trainer = Trainer(short(batch_size=1), CPU)
    for batch in trainer.patches.batches(1, 4):
        trainer.advance(*batch)
    model, features = trainer.model.double(), trainer.features.double()
    for network in trainer.history.models:
        network.double()
    gt, lq = (image.double() for image in trainer.patches.batch(5)[:2])

    def gradient(negatives, weight):
        parts = losses.spn(model(lq), gt, negatives, features=features, lambda_neg=weight)
        return torch.cat([g.flatten() for g in torch.autograd.grad(parts.total, list(model.parameters()))])

    exact = gradient(trainer.negatives.outputs(lq, gt, 1), weight=0.1)
    pull = gradient([], weight=0.0)
    assert (exact - pull).norm() > 1e-4 * pull.norm()
    every, drawn, seed = 3, {}, -1
    while len(drawn) < every * 2:
        seed += 1
        recipe = short(sampling="sampled", sampled_every=every, lambda_neg=0.1, seed=seed)
        sampled = train.build.make_negatives(recipe, trainer.history)
        weights = [recipe.weight_at(step) for step in range(1, every + 1)]
        asked = [sampled.outputs(lq, gt, step, weight) for step, weight in enumerate(weights, start=1)]
        (step,) = (k for k, negatives in enumerate(asked) if negatives)
        which = [torch.equal(asked[step][0], network(lq)) for network in trainer.history.models].index(True)
        if (step, which) not in drawn:
            found = [gradient(negatives, weight) for negatives, weight in zip(asked, weights, strict=True)]
            drawn[step, which] = sum(found) / every
    torch.testing.assert_close(
        sum(drawn.values()) / len(drawn), exact, rtol=1e-9, atol=1e-12 * float(exact.abs().max())
    )


def test_the_period_follows_from_the_counted_cost_and_is_kept(tmp_path, capsys):
    recipe = short(sampling="sampled")
    every = macs.with_period(recipe).sampled_every
    plain, sampled = (
        macs.run_macs(one.replace(steps=100 * every)) for one in (short().replace(objective="plain"), recipe)
    )
    assert 1 < sampled / plain <= macs.PRICE
    one_less = macs.run_macs(recipe.replace(steps=100 * (every - 1), sampled_every=every - 1))
    assert one_less / (plain * (every - 1) / every) > macs.PRICE
    recipe = recipe.replace(steps=2)
    run = train.train(recipe, tmp_path)
    assert f"every {every}" in capsys.readouterr().out
    assert files.read_json(tmp_path / "provenance.json")["sampled_every"] == every
    assert run.recipe == recipe and recipes.get("demo", sampling="sampled").sampled_every is None
    assert macs.with_period(short(sampling="sampled", sampled_every=7)).sampled_every == 7
    assert macs.with_period(short()).sampled_every is None


def test_log_and_guard_see_the_mean_not_the_spikes():
    """With 6 times lambda in single steps r is what it is in exact training, in rows of part of a period too."""
    rows = {}
    for name, changes in (("exact", {}), ("sampled", dict(sampling="sampled", sampled_every=6))):
        far = dict(history_every=(0, 0), history_start=1.0, learning_rate=1e-6, batch_size=1)  # and staying there
        trainer = Trainer(short(lambda_neg=1e-2, log_every=1, steps=18, **far, **changes), CPU)
        for batch in trainer.patches.batches(1, 18):
            trainer.advance(*batch)
            if trainer.step in (9, 10, 11, 12, 18):
                trainer.log_row()
        rows[name] = trainer.log.rows
    exact, sampled = rows["exact"][-1], rows["sampled"][-1]
    assert sampled["l_rec"] == pytest.approx(exact["l_rec"], rel=0.01)
    assert sampled["r"] == pytest.approx(exact["r"], rel=0.3)  # some histories' distance in place of all of them
    for row in rows["sampled"]:  # a row without such a step repeats the last
        assert row["lambda_neg"] == pytest.approx(1e-2, rel=1e-3) and row["total"] < row["l_rec"]


def test_the_dose_is_that_of_the_exact_term():
    recipe = short(lambda_neg=1e-3, sampling="sampled", sampled_every=4)
    trainer = Trainer(recipe, CPU)
    trainer.advance(*trainer.patches.batch(1))
    sampled = dose.measured(trainer, 1e-3, 2)
    trainer.recipe = recipe.replace(sampling="exact")
    assert sampled == dose.measured(trainer, 1e-3, 2)
    one, other = (dose.lambda_for(r, 0.1, CPU, looks=1, quiet=True) for r in (recipe, short(lambda_neg=1e-3)))
    assert one == other


def test_a_sampled_run_resumes_to_the_same_bits(tmp_path):
    recipe = short(sampling="sampled", sampled_every=4)
    whole = train.train(recipe, tmp_path / "whole", quiet=True)
    half = Trainer(recipe, CPU)
    for batch in half.patches.batches(1, 6):
        half.advance(*batch)
        if half.step % 3 == 0:
            half.log_row()
    with train.run_folder.claim(tmp_path / "half", recipe, resume=True):
        half.save(tmp_path / "half")
    again = train.train(recipe, tmp_path / "half", quiet=True)
    for name in ("model.safetensors", "history.safetensors", "ema.safetensors"):
        assert (whole.dir / name).read_bytes() == (again.dir / name).read_bytes()
    columns = ["l_rec", "l_neg", "total", "r", "lambda_neg", "image_ratio", "val_psnr"]
    assert whole.log[columns].equals(again.log[columns])


def test_recipes_of_runs_from_before_sampling_are_read(tmp_path):
    old = {"history_draw": False, "negatives_every": 1, "features_crop": None}
    saved = {k: v for k, v in short().model_dump().items() if not k.startswith("sampl")}

    def read(**fields):
        files.write_json(tmp_path / "recipe.json", saved | old | fields)
        return records.read_recipe(tmp_path)

    assert read() == short()
    assert read(history_draw=True) == short(sampling="sampled", sampled_every=1)
    assert read(history_draw=True, negatives_every=4).sampled_every == 4
    for gone in (dict(negatives_every=4), dict(features_crop=32)):
        with pytest.raises(ValueError, match=f"{next(iter(gone))}.*sampling"):
            read(**gone)
