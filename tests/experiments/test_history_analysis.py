"""Lags, mistakes, spread and gains, on pictures small enough to know the answer."""

from dataclasses import replace

import pytest
import torch

from mclir_nb.experiments import history_analysis
from mclir_nb.method import features, losses
from mclir_nb.training import frames as moments
from mclir_nb.training import recipes, train
from mclir_nb.training.frames import Frames

SMALL = dict(steps=8, batch_size=1, patch_size=32, log_every=4, val_every=0, val_side=64, lambda_neg=1e-3)
GRADIENT = torch.linspace(0, 1, 32).expand(3, 32, 32).contiguous()


@pytest.fixture(scope="module")
def lite0():
    return features.build("lite0")


def schedule(*every, **changes):
    """A recipe with these intervals."""
    return recipes.get("tiny", history_every=every, history_decay=(0.1,) * len(every), **changes)


def kept(restored, negatives, gt, steps=(30, 40)) -> Frames:
    """Moments with the same outputs at every step."""
    count = len(steps)
    pasts = torch.stack(negatives).expand(count, -1, -1, -1, -1)
    gaps = torch.full((count, len(negatives)), 0.5)
    return Frames("x", gt, gt, list(steps), restored.expand(count, -1, -1, -1), pasts, gaps)


def test_lags_are_those_of_a_picture_made_by_hand(lite0):
    restored, gt = GRADIENT * 0.5, GRADIENT
    negatives = [restored - 0.01, restored.clone(), restored + 0.1 * (restored - gt)]
    table = history_analysis.over_time(kept(restored, negatives, gt), schedule(20, 7, None), lite0)
    assert len(table) == 6 and table.weights.eq(0.5).all()
    first = table[table.step == 30].reset_index()
    assert first.age.tolist() == [10, 2, 30] and first.history.tolist() == [1, 2, 3]
    assert first.pixels[0] == pytest.approx(0.01) and first.pixels[1] == 0
    assert first.features[1] == 0 and first.features[0] > 0
    assert first.gap[1] == 0 and first.progress[1] == 0 and first.votes[1] == 0.5  # no way gone
    assert first.cosine[2] == pytest.approx(1)  # the history is behind on the very line that leads to gt
    assert first.progress[2] > first.gap[2] > 0 and first.votes[2] > 0.5


def test_the_features_are_those_of_the_loss(lite0):
    torch.manual_seed(0)
    restored, one, two, gt = torch.rand(4, 3, 32, 32)
    table = history_analysis.over_time(kept(restored, [one, two], gt, steps=(1,)), schedule(1, 1), lite0)
    loss = losses.spn_loss(restored[None], gt[None], [one[None], two[None]], features=lite0, lambda_neg=1.0)
    assert table.features.mean() == pytest.approx(float(loss.l_neg), rel=1e-5)


@pytest.mark.parametrize("objective", ["spn", "history-positive", "spn-smooth"])
def test_the_push_of_a_run_is_the_gradient_of_its_own_term(tmp_path, lite0, objective):
    recipe = recipes.get("tiny", "derain", **SMALL, history_every=(4, 2), history_decay=(0.1, 0.1), objective=objective)
    run = train.train(recipe, tmp_path / "run", quiet=True)
    found, kept = history_analysis.pushes(run.dir), moments.read(run.dir)
    assert found.push.shape == kept.restored.shape
    assert found.lambdas == pytest.approx([1e-3] * len(kept.steps), rel=0.01)
    assert len(found.table) == 2 * len(kept.steps) and (kept.averaged is not None) == (objective == "spn-smooth")
    far = (kept.present[:, None] - kept.negatives).abs().mean(dim=(2, 3, 4)).flatten()
    torch.testing.assert_close(torch.tensor(found.table["pixels"].tolist()), far)
    image, pasts = kept.restored[-1][None].requires_grad_(), list(kept.negatives[-1][:, None])
    context = dict(features=lite0, lambda_neg=found.lambdas[-1], averaged=kept.present[-1][None])
    parts = losses.OBJECTIVES[objective](image, kept.gt[None], pasts, **context)
    pull, whole = (torch.autograd.grad(part, image, retain_graph=True)[0] for part in (parts.l_rec, parts.total))
    torch.testing.assert_close(found.push[-1], (pull - whole)[0] * image.numel(), rtol=1e-3, atol=1e-4)
    towards = (-pull * (pull - whole))[0].mean(0) * image.numel() ** 2
    torch.testing.assert_close(found.towards(found.push)[-1], towards, rtol=1e-3, atol=1e-4)


def test_lambda_at_a_moment_is_that_of_the_log_around_it(tmp_path):
    recipe = recipes.get("tiny", "derain", history_every=(4,), history_decay=(0.1,), **SMALL)
    run = train.train(recipe, tmp_path / "run", quiet=True)
    log = run.log.assign(lambda_neg=lambda rows: rows["step"] / 1000)
    log.to_csv(run.dir / "log.csv", index=False)
    steps = moments.read(run.dir).steps
    assert 4 in steps and log["step"].tolist() == [4, 8]
    expected = [0.004 if step <= 4 else 0.008 for step in steps]
    assert history_analysis.pushes(run.dir).lambdas == pytest.approx(expected)


def test_the_push_has_controls_and_its_aim_is_counted(tmp_path):
    recipe = recipes.get("tiny", "derain", history_every=(4,), history_decay=(0.1,), **SMALL)
    own, other = (train.train(recipe.replace(seed=k), tmp_path / str(k), quiet=True) for k in (0, 1))
    found = history_analysis.pushes(own.dir, foreign=other.dir)
    assert set(found.controls) == {history_analysis.NOISE, history_analysis.FOREIGN}
    assert all(x.shape == found.push.shape and not torch.equal(x, found.push) for x in found.controls.values())
    to_gt = (found.kept.gt - found.kept.restored).sign()
    half = to_gt.clone()
    half[:, :, :32] = -2 * half[:, :, :32]  # in the upper half away from gt, twice as hard
    table = replace(found, push=half, controls={"pull": to_gt}).aims().groupby("direction")[["share", "net"]].mean()
    assert table.loc["pull"].tolist() == pytest.approx([1, 1], abs=0.01)
    assert table.loc[history_analysis.PUSH].tolist() == pytest.approx([1 / 3, -0.5], abs=0.01)
    assert table.net.isna()[history_analysis.MOVED]
    still = replace(found, push=torch.zeros_like(to_gt), controls={}).aims()
    assert still[still.direction == history_analysis.PUSH].share.isna().all()  # no push, no aim
    shorter = train.train(recipe.replace(seed=1, steps=6), tmp_path / "shorter", quiet=True)
    with pytest.raises(ValueError, match="foreign"):
        history_analysis.pushes(own.dir, foreign=shorter.dir)


def test_under_the_adaptive_rule_no_age_is_invented_and_the_recipe_must_fit(lite0):
    moments = kept(GRADIENT * 0.5, [GRADIENT, GRADIENT], GRADIENT)
    table = history_analysis.over_time(moments, schedule(20, 7, history_threshold=0.02), lite0)
    assert table.age.isna().all() and table.pixels.notna().all()
    with pytest.raises(ValueError, match="1 histories .* 2"):
        history_analysis.over_time(moments, schedule(5), lite0)


def test_a_mistake_shared_and_a_mistake_of_its_own():
    gt = GRADIENT
    table = history_analysis.mistakes(gt + 0.1, [gt + 0.2, gt - 0.1], gt).set_index("image")
    assert table.error.tolist() == pytest.approx([0.1, 0.2, 0.1])
    assert table.same.tolist() == pytest.approx([1, 1, -1])


def test_a_spread_that_knows_the_error_and_one_that_does_not():
    torch.manual_seed(0)
    gt, lq = torch.rand(2, 3, 24, 24)
    size = torch.rand(24, 24)  # of the error, different at every pixel
    knowing = history_analysis.spread_against_error(gt + size, [gt + size * f for f in (0.5, 1.0, 1.5)], gt, lq)
    assert knowing["spread"] > 0.99 and abs(knowing["edges"]) < 0.6 and knowing["spread_beyond"] > 0.98
    blind = history_analysis.spread_against_error(gt + size, [gt + torch.rand(24, 24) * f for f in (0.5, 1.0)], gt, lq)
    assert abs(blind["spread"]) < 0.2


@pytest.mark.parametrize("rival", ["edges", "change"])
def test_a_spread_that_only_follows_a_rival_has_nothing_beyond_it(rival):
    torch.manual_seed(0)
    restored, lq = torch.rand(2, 3, 40, 40)
    strength = history_analysis.edges(restored) if rival == "edges" else (restored - lq).abs().mean(0)
    gt = restored - strength * (1 + 0.5 * torch.rand(40, 40))  # wrong where the rival is large
    same = [restored + strength * f * (1 + 0.5 * torch.rand(40, 40)) for f in (1, 2)]
    found = history_analysis.spread_against_error(restored, same, gt, lq)
    assert found["spread"] > 0.5 and found[rival] > 0.8 and abs(found["spread_beyond"]) < 0.15


def test_the_spread_over_time_has_a_row_per_moment_with_a_spread():
    torch.manual_seed(0)
    gt, error = torch.rand(3, 16, 16), torch.rand(16, 16)
    frames = kept(gt + error, [gt + error * f for f in (0.5, 1.5)], gt)
    table = history_analysis.spread_over_time(replace(frames, lq=torch.rand(3, 8, 8)))  # super-resolution
    assert table.step.tolist() == [30, 40] and (table.spread > 0.99).all()
    assert history_analysis.spread_over_time(kept(gt, [gt, gt], gt)).empty


def test_edges_are_the_slope_and_flat_pictures_have_none():
    assert torch.allclose(history_analysis.edges(GRADIENT)[:, 1:-1], torch.tensor(1 / 31), atol=1e-6)
    assert history_analysis.edges(torch.full((3, 8, 8), 0.4)).max() == 0


def test_maps_without_ranks_are_refused():
    with pytest.raises(ValueError, match="spread"):
        history_analysis.spread_against_error(GRADIENT * 0.9, [GRADIENT, GRADIENT], GRADIENT, GRADIENT)
    with pytest.raises(ValueError, match="2 history models"):
        history_analysis.spread([GRADIENT])


def test_maps_and_groups_by_hand():
    zeros, ones, by = torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.arange(100.0).view(10, 10)
    assert torch.equal(history_analysis.spread([zeros, ones]), torch.full((2, 2), 0.5))
    nearer = history_analysis.improvement(0.4 * ones, 0.1 * ones, zeros)  # above 0 where the second is
    assert torch.allclose(nearer, torch.full((2, 2), 0.3))
    table = history_analysis.grouped(by, by * 2, groups=4)
    assert table.by.tolist() == pytest.approx([12, 37, 62, 87])
    assert table["mean"].tolist() == pytest.approx([24, 74, 124, 174])


def test_a_history_is_on_average_as_old_as_its_formula_says():
    """Refreshed every s steps with decay d: s / 2 + s d / (1 - d), as seen by the loss; a slow average stays behind."""
    assert history_analysis.ages((2,), (0.25,), 4)["every 2"].tolist() == [1, 2, 3 - 1.5, 4 - 1.5]
    table = history_analysis.ages((100, 10), (0.1, 0.5), 3000)
    later = table[table.step > 2000]
    assert later["every 100"].mean() == pytest.approx(100 / 2 + 100 * 0.1 / 0.9, abs=1)
    assert later["every 10"].mean() == pytest.approx(10 / 2 + 10 * 0.5 / 0.5, abs=1)
    slow = history_analysis.ages((1000,), (0.999,), 4000)
    assert (slow["every 1000"] > 0.99 * slow.step).all()
