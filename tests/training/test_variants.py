"""Variants of the term that a recipe can ask for: lambda over time, which histories there are and which are asked."""

import pytest
import torch
from killing import work
from trainers import advance, derain, flat, same, trainer

from mclir_nb.training import frames, macs, records, run_folder, train
from mclir_nb.training.recipes import Recipe


def test_lambda_waits_falls_and_is_constant_otherwise():
    constant = derain(steps=100)
    assert {constant.weight_at(step) for step in (1, 50, 100)} == {constant.weight}
    waiting = derain(steps=100, lambda_from=51)
    assert waiting.weight_at(50) == 0 and waiting.weight_at(51) == waiting.weight
    falling = derain(steps=100, lambda_follows_rate=True)
    assert falling.weight_at(1) == falling.weight and falling.weight_at(100) < 1e-3 * falling.weight


def test_before_its_step_spn_is_plain_and_asks_no_history():
    waiting, plain = (advance(trainer(r), 2, rows=True) for r in (derain(lambda_from=3), derain(objective="plain")))
    assert waiting.log.rows[-1]["l_neg"] == 0 and waiting.log.rows[-1]["r"] == 0 and same(waiting.model, plain.model)
    assert advance(waiting, 3, rows=True).log.rows[-1]["l_neg"] > 0


@pytest.mark.parametrize("objective", ["spn", "history-positive", "ratio", "infonce", "margin"])
def test_r_is_held_with_the_sign_of_the_term(objective):
    rows = advance(trainer(derain(objective=objective, lambda_ratio=0.05)), 4, rows=True).log.rows
    assert [row["r"] for row in rows] == pytest.approx([0.0] + [0.05] * 3, rel=1e-3)  # at first they are exact copies
    assert (rows[-1]["total"] < rows[-1]["l_rec"]) == (objective == "spn")


@pytest.mark.parametrize(("start", "said"), [(0.0, True), (0.1, False)])
def test_a_ratio_to_histories_that_are_exact_copies_is_told_before_it_throws_the_run_off(tmp_path, capsys, start, said):
    recipe = derain(objective="ratio", lambda_neg=1e-5, history_start=start)
    run = train.train(recipe, tmp_path / "run", device="cpu")
    assert ("history_start 0.1 keeps them apart" in capsys.readouterr().out) == said
    assert (run.log["r"].iloc[0] > 1) == said  # many times L1 in the first step, or a small addition
    fine = recipe.replace(history_start=0.0, initial_weights=str(run.dir))  # with it history_start is refused
    for begun in (fine, Recipe(**dict(fine) | dict(history_start=0.1))):  # carried along, as by the recipe paper
        assert "infonce has no such step" in train._ratio_note(begun)
    assert not train._ratio_note(fine.replace(lambda_ratio=0.05))


def test_a_held_ratio_leaves_the_first_step_as_it_is_without_a_term():
    """Its histories are exact copies: divided by their distance, which is rounding, the term would be all of it."""
    held, plain = (trainer(recipe, 1) for recipe in (derain(lambda_ratio=0.05), derain(objective="plain")))
    assert same(held.model, plain.model)


VARIANTS = {
    "another": dict(history_of="another"),
    "noise": dict(negatives="noise"),
    "slow average": dict(objective="spn-smooth", history_of="ema", history_ema_decay=0.9, lambda_neg=1e-3),
    "adaptive": dict(history_threshold=0.0),
    "sampled": dict(sampling="sampled", sampled_every=2),
    "no history": dict(objective="c2r", lambda_neg=0.1, history_every=()),
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_resume_to_the_same_bits(tmp_path, changes):
    recipe = derain(**changes)
    work(recipe, tmp_path / "whole")
    half = advance(trainer(recipe), 3, rows=True)
    with run_folder.hold(tmp_path / "half"):
        run_folder.claim(tmp_path / "half", recipe, resume=True)
        half.save(tmp_path / "half")
    work(recipe, tmp_path / "half")
    for name in ("model", "ema", "history"):
        one, other = (tmp_path / run / f"{name}.safetensors" for run in ("whole", "half"))
        assert one.read_bytes() == other.read_bytes(), name
    one, other = (records.Run(tmp_path / run).log for run in ("whole", "half"))
    columns = [name for name in one if name != "seconds" and not name.startswith("dose")]
    assert one[columns].equals(other[columns]) and (one.l_neg != 0).any()
    if recipe.history_every:
        last = one[["distance_0", "distance_1"]].iloc[-1].tolist()
        assert frames.read(tmp_path / "whole").distances[-1].tolist() == pytest.approx(last)


def test_the_past_of_another_is_not_the_runs_own():
    """It begins elsewhere, learns by itself, and leaves the run as it would be: with lambda 0 that is plain."""
    made, start = (trainer(derain(history_of="another", lambda_neg=0.0), steps) for steps in (4, 0))
    assert same(made.model, trainer(derain(objective="plain"), 4).model)
    another = made.another.model
    apart = [made.history.distances(network)[1].item() for network in (another, made.model)]
    assert 0 < apart[0] < 0.05 < 0.5 < apart[1]  # refreshed in steps 2 and 4
    assert not same(start.another.model, another)
    carried, plain = made.recipe.replace(objective="plain"), derain(objective="plain")
    assert trainer(carried).another is None and macs.run_macs(carried) == macs.run_macs(plain)


def test_histories_of_an_average_follow_it():
    made = trainer(derain(history_of="ema", history_every=(4,), history_decay=(0.0,), ema_decay=0.9), 4)
    assert made.past_of is made.ema and same(made.history.models[0], made.ema)
    slow = trainer(derain(**VARIANTS["slow average"]), 5)
    start = flat(trainer(derain(objective="plain")).model)
    moved = [(flat(network) - start).norm() for network in (slow.average, slow.ema, slow.model)]
    assert moved[0] < moved[1] < moved[2] and slow.past_of is slow.average  # decays 0.9, 0.8 and none


def test_the_adaptive_rule_takes_turns():
    assert trainer(derain(history_threshold=0.0), 3).history.turn == 1  # three refreshes of two histories
    never = trainer(derain(history_threshold=1e9), 2)
    assert never.history.turn == 0 and same(never.history.models[0], trainer(never.recipe).model)


def test_frozen_and_random_histories_come_from_a_recipe():
    start, frozen = (trainer(derain(history_every=(0, 0)), steps) for steps in (0, 3))
    assert not same(frozen.model, frozen.history.models[0]) and same(start.history.models[1], frozen.history.models[1])
    random = trainer(derain(history_every=(0,), history_start=1.0))
    assert not torch.allclose(flat(random.history.models[0]), flat(random.model), atol=1e-3)


def test_official_quirks_are_one_switch():
    quirky = derain(quirks="official", grad_clip=0.05, steps=500)
    assert quirky.clipping is None and derain(grad_clip=0.05).clipping == 0.05
    assert same(trainer(quirky, 2).model, trainer(derain(history_start=0.1, cosine_steps=100, steps=500), 2).model)
    assert quirky.learning_rate_at(101) < quirky.learning_rate_at(201)


def test_c2r_counts_its_negatives_by_their_psnr():
    recipe = derain().replace(objective="c2r", lambda_neg=0.1, negatives="synthetic")
    synthetic, again = (trainer(recipe) for _ in range(2))
    again.best_psnr = 50.0  # better than all: every negative weighs more, lq less
    assert synthetic.history is None
    counted = [advance(made, 1, rows=True).log.rows[-1]["l_neg"] for made in (synthetic, again)]
    assert counted[0] != counted[1]
    own = advance(trainer(derain(objective="c2r", lambda_neg=0.1, curriculum="measured")), 3, rows=True)
    own.validate()
    assert len(own.negatives.thresholds) == 2 and min(own.negatives.thresholds) > 0
    advance(own, 4)
