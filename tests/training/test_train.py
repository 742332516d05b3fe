"""Training end to end on the embedded photographs, with the smallest recipe."""

import functools
import json
import math

import pytest
import torch
from toys import Normed
from trainers import advance, derain, same, trainer, untrained_run

from mclir_nb import networks
from mclir_nb.data import datasets
from mclir_nb.training import log, recipes, records, train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny dehazing run with SPN."""
    folder = tmp_path_factory.mktemp("runs") / "spn"
    return train.train(recipes.get("tiny"), folder, quiet=True)


def test_a_run_leaves_everything_a_reader_needs(finished):
    assert set(finished.files().file) == set(records.FILES) - {"dose.json", "own.json"}  # it names its lambda
    assert finished.recipe == recipes.get("tiny")
    assert len(finished.scores) == len(datasets.embedded("test"))
    assert finished.provenance["features"] and finished.provenance["torch"] == torch.__version__


@pytest.mark.parametrize("weights", [None, "nowhere.pth"])
def test_missing_feature_weights_are_met_before_the_data(weights, tmp_path):
    recipe = recipes.get("paper", features_weights=weights, dataset="reside-its", data_root=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=weights or "features_weights .* vgg16"):
        train.train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_restores(finished):
    gain = (finished.scores.psnr_restored - finished.scores.psnr_input).mean()
    assert gain > 0.5, f"the trained network gains {gain:.2f} dB over its own input"


def test_the_log_holds_the_numbers_that_were_optimised(finished):
    rows, weight = finished.log, finished.recipe.weight
    assert (rows.total - (rows.l_rec - weight * rows.l_neg)).abs().max() < 1e-6
    assert (rows.r - weight * rows.l_neg / rows.l_rec).abs().max() < 1e-6
    assert rows.step.tolist() == list(range(10, 301, 10)) and rows.val_psnr.notna().sum() == 3


def test_the_networks_come_back_from_the_folder(finished):
    lq = torch.rand(1, 3, 32, 40)
    model, ema, histories = finished.model(), finished.ema_model(), finished.history_models()
    assert len(histories) == 4 and not model.training
    with torch.no_grad():
        outputs = [net(lq) for net in (model, ema, *histories)]
    assert all(out.shape == lq.shape for out in outputs)
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_arms_of_one_seed_share_weights_and_data():
    plain, spn, other = (trainer(derain(**own)) for own in (dict(objective="plain"), {}, dict(seed=1)))
    assert same(plain.model, spn.model) and not same(other.model, spn.model)
    assert torch.equal(plain.patches.batch(1)[1], spn.patches.batch(1)[1])


def test_histories_begin_with_fresh_networks_of_their_own():
    first, second = trainer(derain(history_start=0.5)).history.models
    assert not same(first, second)


def test_each_step_has_its_own_rate_and_its_own_chance_for_drop_path():
    made, rates, chances = trainer(derain()), [], []
    for step in (1, 2):
        advance(made, step)
        rates.append(made.optimiser.param_groups[0]["lr"])
        chances.append(torch.initial_seed())
    assert rates == [made.recipe.learning_rate_at(step) for step in (1, 2)] and rates[0] > rates[1]
    assert chances[0] != chances[1]
    trainer(derain(), 1)
    assert torch.initial_seed() == chances[0]


def test_the_ema_averages_weights_and_copies_running_statistics(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "normed", networks.own(Normed))
    made = trainer(derain(network="normed", objective="plain"), 2)
    assert not same(made.ema, made.model) and made.model.core[1].running_mean.any()
    assert all(torch.equal(*pair) for pair in zip(made.ema.buffers(), made.model.buffers(), strict=True))


def test_the_best_validation_is_the_best_so_far():
    made = trainer(derain(objective="plain"), 1)
    found = made.log_row()
    made.best_psnr = 99.0
    made.validate()
    assert 0 < found["val_psnr"] < made.best_psnr == 99
    made.best_psnr = 0.0
    made.validate()
    assert made.best_psnr == found["val_psnr"]


def test_the_cosine_falls_once_or_rises_again():
    once = recipes.get("tiny", steps=100)
    assert once.learning_rate_at(1) == once.learning_rate
    assert once.learning_rate_at(100) < 1e-3 * once.learning_rate
    waves = recipes.get("tiny", steps=500, cosine_steps=100)
    rates = [waves.learning_rate_at(step) for step in (1, 101, 201, 301, 401)]
    assert rates[0] == rates[2] == rates[4] and math.isclose(rates[1], waves.learning_rate_min) and rates[1] == rates[3]


def test_a_rate_that_is_high_at_the_end_is_told():
    paper = functools.partial(recipes.get, "paper")
    for recipe in (paper(steps=200_000), paper(steps=20_000), paper("sr", steps=20_000)):
        assert "does not fit steps" in train._rate_note(recipe)
    for recipe in (paper(), paper("sr"), paper("deblur", steps=2), recipes.get("demo"), paper(quirks="official")):
        assert not train._rate_note(recipe)


def test_a_finished_run_is_left_alone_without_resume(finished):
    with pytest.raises(ValueError, match="already holds a run"):
        train.train(recipes.get("tiny"), finished.dir, resume=False, quiet=True)


def test_an_unfinished_run_says_how_to_finish(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(recipes.get("tiny").model_dump()))
    with pytest.raises(ValueError, match="not finished"):
        records.Run(tmp_path).model()
    with pytest.raises(ValueError, match="log.csv cannot be read"):
        _ = records.Run(tmp_path).log
    with pytest.raises(ValueError, match="not a run folder"):
        _ = records.Run(tmp_path / "nowhere").recipe


def test_a_finished_run_says_what_it_does_not_hold(tmp_path):
    run = records.Run(untrained_run(tmp_path, recipes.get("tiny", objective="plain")))
    with pytest.raises(ValueError, match="no history models: .* plain"):
        run.history_models()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no model.safetensors: .* ema.safetensors; give such a file"):
        records.open_checkpoint(tmp_path)


def test_a_very_long_run_logs_no_more_rows_than_promised():
    for steps, rows in ((500_000, 5000), (2_000_000, 10_000), (30_000_001, 10_000)):
        recipe = recipes.get("paper", steps=steps)
        every = log.interval(recipe)
        assert every % recipe.log_every == 0 and rows * 0.9 < steps / every <= rows
