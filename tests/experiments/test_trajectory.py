"""A watched run is the run that `train` makes, looked at; nothing stops it but numbers that are not finite."""

import math

import pytest
import torch

from mclir_nb.evaluation import metrics
from mclir_nb.experiments import trajectory
from mclir_nb.training import recipes, train

SMALL = dict(network="nafnet", steps=6, patch_size=32, val_side=32, batch_size=1, history_every=(4, 2))


@pytest.fixture(scope="module")
def watched():
    return trajectory.watch(recipes.get("tiny", "dehaze", **SMALL), looks=3)


def test_frames_show_the_run_of_train(watched):
    recipe = recipes.get("tiny", "dehaze", **SMALL)
    trainer = train.Trainer(recipe, torch.device("cpu"))
    for batch in trainer.patches.batches(1, recipe.steps):
        trainer.advance(*batch)
    assert watched.steps[0] == 0 and watched.steps[-1] == 6 and len(watched.steps) == 4
    with torch.no_grad():
        torch.testing.assert_close(watched.restored[-1], trainer.model(watched.lq).clamp(0, 1))
    expected = [image.clamp(0, 1) for image in trainer.history.negatives(watched.lq)]
    torch.testing.assert_close(watched.negatives[-1], expected)


def test_the_table_says_how_the_histories_stand(watched):
    first, last = watched.table.iloc[0], watched.table.iloc[-1]
    assert first.l_neg == 0 and first.psnr == first.psnr_history_0 == first.psnr_history_1
    assert math.isnan(first.alignment) and -1 <= last.alignment <= 1
    assert math.isnan(first.control) and -1 <= last.control <= 1 and last.control != last.alignment
    assert last.r == pytest.approx(3e-4 * last.l_neg / last.l_rec)
    assert last.psnr == pytest.approx(metrics.mean_psnr(watched.restored[-1], watched.gt))


def test_going_back_the_whole_way_gives_the_mean_of_the_past(watched):
    gains = trajectory.extrapolations(watched)
    past = torch.stack(watched.negatives[-1]).mean(0)
    expected = metrics.mean_psnr(past, watched.gt) - watched.table.psnr.iloc[-1]
    assert gains[-1].iloc[-1] == pytest.approx(expected) and gains[0.5].iloc[0] == 0


def test_a_run_may_diverge_before_ones_eyes_but_needs_histories():
    recipe = recipes.get("tiny", "dehaze", **SMALL | {"steps": 3}, lambda_neg=10.0)
    watched = trajectory.watch(recipe, looks=3)
    assert watched.table.r.max() > 1 and watched.stopped == ""
    assert "not finite" in trajectory.watch(recipe.replace(lambda_neg=1e38), looks=3).stopped
    with pytest.raises(ValueError, match="'plain'"):
        trajectory.watch(recipes.get("tiny", "dehaze", objective="plain"))


def test_a_network_with_drop_path_is_looked_at_as_it_restores():
    """In eval mode, as the histories are: untrained exact copies then agree; the training goes on in train mode."""
    fields = SMALL | {"network": "swinir-light", "steps": 2}
    watched = trajectory.watch(recipes.get("tiny", "sr", scale=2, **fields), looks=1)
    assert watched.table.l_neg[0] == 0 and watched.table.psnr[0] == watched.table.psnr_history_0[0]
