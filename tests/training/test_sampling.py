"""Sampling: the term in one step of every k, against one random history, is the exact term on average."""

import pytest
import torch
from trainers import derain, trainer

from mclir_nb import files
from mclir_nb.method import losses
from mclir_nb.training import build, macs, recipes, train


def test_each_period_has_the_term_once_in_a_step_of_equal_chance():
    recipe = derain(sampling="sampled", sampled_every=3, steps=900)

    def draws(recipe):
        return [(step - 1) % 3 for step in range(1, 901) if recipe.has_term(step)]

    places = draws(recipe)
    assert len(places) == 300 and all(70 < places.count(place) < 130 for place in range(3))
    assert places == draws(recipe) != draws(recipe.replace(seed=1))
    assert {recipe.weight_at(step) / recipe.weight for step in range(1, 31)} == {0.0, 3.0}


def test_the_mean_over_all_draws_is_the_exact_gradient():
    """Every step of a period times every history, in float64: exactly, not on average over some draws."""
    made = trainer(derain(batch_size=1, history_every=(3, 2)), 4)
    model, features = made.model.double(), made.features.double()
    for network in made.history.models:
        network.double()
    gt, lq = (image.double() for image in made.patches.batch(5)[:2])

    def gradient(negatives, weight):
        parts = losses.spn(model(lq), gt, negatives, features=features, lambda_neg=weight)
        return torch.cat([g.flatten() for g in torch.autograd.grad(parts.total, list(model.parameters()))])

    exact, pull = gradient(made.negatives.outputs(lq, gt, 1), weight=0.1), gradient([], weight=0.0)
    assert (exact - pull).norm() > 1e-4 * pull.norm()
    every, drawn, seed = 3, {}, -1
    while len(drawn) < every * 2:
        seed += 1
        recipe = derain(sampling="sampled", sampled_every=every, lambda_neg=0.1, seed=seed)
        sampled = build.make_negatives(recipe, made.history)
        weights = [recipe.weight_at(step) for step in range(1, every + 1)]
        asked = [sampled.outputs(lq, gt, step, weight) for step, weight in enumerate(weights, start=1)]
        (step,) = (k for k, negatives in enumerate(asked) if negatives)
        which = [torch.equal(asked[step][0], network(lq)) for network in made.history.models].index(True)
        if (step, which) not in drawn:
            found = [gradient(negatives, weight) for negatives, weight in zip(asked, weights, strict=True)]
            drawn[step, which] = sum(found) / every
    mean = sum(drawn.values()) / len(drawn)
    torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-12 * float(exact.abs().max()))


def test_the_period_follows_from_the_counted_cost_and_is_kept(tmp_path, capsys):
    recipe = derain(sampling="sampled")
    every = macs.with_period(recipe).sampled_every

    def price(k):
        sampled = recipe.replace(steps=100 * k, sampled_every=k)
        return macs.run_macs(sampled) / macs.run_macs(sampled.replace(objective="plain"))

    assert 1 < price(every) <= macs.PRICE < price(every - 1)
    recipe = recipe.replace(steps=2)
    run = train.train(recipe, tmp_path)
    assert f"every {every}" in capsys.readouterr().out and run.recipe == recipe
    assert files.read_json(tmp_path / "provenance.json")["sampled_every"] == every
    assert recipes.get("demo", sampling="sampled").sampled_every is None
    assert macs.with_period(derain(sampling="sampled", sampled_every=7)).sampled_every == 7
    assert macs.with_period(derain()).sampled_every is None


def test_log_and_guard_see_the_mean_not_the_spikes():
    """With 6 times lambda in single steps r is what it is in exact training, in rows of part of a period too."""
    rows = {}
    for name, changes in (("exact", {}), ("sampled", dict(sampling="sampled", sampled_every=6))):
        far = dict(history_every=(0, 0), history_start=1.0, learning_rate=1e-6, batch_size=1)  # and staying there
        made = trainer(derain(lambda_neg=1e-2, steps=18, **far, **changes))
        for batch in made.patches.batches(1, 18):
            made.advance(*batch)
            if made.step in (9, 10, 11, 12, 18):
                made.log_row()
        rows[name] = made.log.rows
    exact, sampled = rows["exact"][-1], rows["sampled"][-1]
    assert sampled["l_rec"] == pytest.approx(exact["l_rec"], rel=0.01)
    assert sampled["r"] == pytest.approx(exact["r"], rel=0.3)  # some histories' distance in place of all of them
    for row in rows["sampled"]:  # a row without such a step repeats the last
        assert row["lambda_neg"] == pytest.approx(1e-2, rel=1e-3) and row["total"] < row["l_rec"]
