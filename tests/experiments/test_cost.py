"""The price of a step: counted, predicted, measured, and what lower precision and shortcuts do to the gradient."""

import time

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mclir_nb.evaluation import memory
from mclir_nb.experiments import approximations, cost, gradient_precision, timing
from mclir_nb.training import recipes

CPU = torch.device("cpu")


def tiny(task="derain", **changes):
    return recipes.get("tiny", task, batch_size=1, **changes)


def test_macs_of_a_convolution_by_hand():
    assert timing.macs(nn.Conv2d(3, 8, 3, padding=1), torch.rand(2, 3, 10, 10)) == 2 * 10 * 10 * 8 * 3 * 9


def test_the_cost_model_is_the_papers():
    count = cost.counted(tiny())
    by_hand = 1 + 4 / 3 + 6 * count["V"] / (3 * count["F"])
    assert count["ratio"] == pytest.approx(by_hand) and count["histories"] == 4
    assert cost.counted(tiny(objective="plain"))["ratio"] == 1
    one = cost.counted(tiny(history_draw=True))
    assert one["ratio"] == pytest.approx(1 + 1 / 3 + 3 * count["V"] / (3 * count["F"])) and one["histories"] == 4
    lazy = cost.counted(tiny(negatives_every=4))
    assert lazy["ratio"] - 1 == pytest.approx((by_hand - 1) / 4)
    assert cost.counted(tiny(features_crop=16))["V"] < 0.3 * count["V"]


def test_the_table_of_the_paper_is_counted_not_typed():
    row = cost.table(["edsr"]).iloc[0]
    assert row["V/F"] == pytest.approx(1.50, abs=0.01)  # PAPER 4.2, EDSR x4
    assert (row["N = 0"], row["N = 1"], row["N = 4"]) == pytest.approx((1, 2.83, 5.34), abs=0.02)
    assert row["as released"] == pytest.approx(8.34, abs=0.03)
    swin = cost.table(["swinir-light", "swinir"])
    assert list(swin["V/F"]) == pytest.approx([2.80, 0.228], rel=0.005)  # PAPER 4.2, attention included


def test_a_record_is_kept_and_read(tmp_path):
    row = dict(network="edsr", patch=64, batch=1, threads=2, step="ours", histories=4, seconds=0.5, ratio=2.12345)
    table = pd.DataFrame([row | dict(floor=1.01, MB=80.04, weights=24.0)])
    timing.keep(table, tmp_path / "new")
    back = timing.recorded(folder=tmp_path / "new")
    assert "seconds" not in back and back.ratio[0] == 2.123 and back.MB[0] == 80.0
    again, other, one = row | {"ratio": 3.0}, row | {"network": "ffanet"}, row | {"threads": 1}
    timing.keep(pd.DataFrame([again, other, one]), tmp_path / "new")
    back = timing.recorded(folder=tmp_path / "new")
    assert list(zip(back.network, back.threads, back.ratio, strict=True)) == [
        ("ffanet", 2, 2.123),
        ("edsr", 2, 3.0),
        ("edsr", 1, 2.123),
    ]
    peaks = table.drop(columns=["threads", "seconds", "ratio", "floor"])
    timing.keep(peaks, tmp_path / "new", "memory")
    assert timing.recorded("memory", tmp_path / "new").MB[0] == 80.0
    committed = timing.recorded()
    assert set(committed.network) <= set(timing.PATCHES) and (committed.ratio > 0).all()


@pytest.mark.parametrize("objective", ["plain", "spn"])
@pytest.mark.parametrize(("task", "network"), [("dehaze", "ffanet"), ("derain", "nafnet")])
def test_memory_is_predicted_before_it_is_used(task, network, objective):
    recipe = tiny(task, network=network, objective=objective)
    n = 4 if objective == "spn" else 0
    ours = timing.OurSteps(recipe, CPU)
    ours(n)
    measured = ours.held(n) + memory.peak(lambda: ours(n), CPU)[1]
    assert 0.6 < cost.counted(recipe)["bytes"] / measured < 1.25


def test_the_card_tells_time_and_memory_for_a_recipe():
    facts = cost.card(tiny(), CPU)
    assert {"predicted memory", "predicted step here", "measured step here", "training time here"} <= set(facts.index)
    assert "MB" in facts["predicted memory"] and facts["predicted step here"].endswith(" ms")


@pytest.mark.parametrize(("share", "said"), [(0.3, True), (0.9, False)])
def test_the_card_says_when_other_programs_slow_the_machine(monkeypatch, share, said):
    monkeypatch.setattr(cost, "probe", lambda recipe, device: (0.1, share))
    assert cost.card(tiny(), CPU)["training time here"].endswith("other programs here are done") == said


def test_a_trial_of_a_recipe_tells_seconds_and_its_share_of_the_processor():
    seconds, share = cost.probe(tiny(), CPU, steps=2)
    assert seconds > 0 and 0 < share < 1.5


def test_the_time_of_a_batch_is_measured_without_training(monkeypatch):
    made, batch = [], cost.Patches.batch
    monkeypatch.setattr(cost.Patches, "batch", lambda patches, step: made.append(step) or batch(patches, step))
    assert cost.supply(tiny(), steps=3) > 0
    assert made == [1, 2, 3, 4, 5]  # the first two read files and do not count


def test_arms_take_turns_and_the_median_counts():
    order = []

    def arm(name, wait):
        def step():
            order.append(name)
            end = time.process_time() + wait
            while time.process_time() < end:
                pass

        return step

    taken = timing.in_turn({"a": arm("a", 0.002), "b": arm("b", 0.004)}, rounds=3, device=CPU, warm_up=1)
    assert order == ["a", "b"] * 4
    assert 1.5 < taken["b"] / taken["a"] < 3
    order.clear()
    timing.in_turn({"a": arm("a", 0), "b": arm("b", 0)}, rounds=5, device=CPU, warm_up=1, in_a_row=3)
    assert order == ["a", "b", *["a"] * 4, *["b"] * 4, *["a"] * 3, *["b"] * 3]


def naive(parts, histories):
    """As in 09_cost."""
    restored = parts.model(parts.lq)
    total = F.l1_loss(restored, parts.gt)
    for history in parts.histories[:histories]:
        with torch.no_grad():
            theirs = parts.features(history(parts.lq))
        ours = parts.features(restored)
        weights = parts.features.layer_weights
        total = total - 3e-4 / histories * sum(w * F.l1_loss(ours[k], theirs[k]) for k, w in weights.items())
    parts.optimiser.zero_grad()
    total.backward()
    parts.optimiser.step()


def test_a_comparison_measures_both_steps_and_judges_the_goals():
    recipe = tiny()
    table = timing.compare(recipe, naive, rounds=2)
    assert [(r.step, r.histories) for r in table.itertuples()] == [
        ("reference", 0),
        ("reference", 4),
        ("ours", 0),
        ("ours", 1),
        ("ours", 2),
        ("ours", 4),
    ]
    ours = table[table.step == "ours"]
    assert ours.seconds.is_monotonic_increasing and ours.MB.is_monotonic_increasing
    assert table.ratio[0] == 1 and (0 < table.floor).all() and (table.floor < table.ratio).all()
    peaks = timing.memories(recipe)
    assert len(peaks) == 2
    judged = timing.goals(table, peaks).set_index("goal").measured["memory of SPN / (plain + history weights)"]
    assert judged == peaks.MB[1] / (peaks.MB[0] + peaks.weights[1])
    goals = timing.goals(table)
    assert len(goals) == 4 and (goals.met == (goals.measured <= goals.limit)).all()
    twice = pd.concat([table, table.assign(threads=7)])
    assert len(timing.goals(twice)) == 8


def test_histories_run_before_the_model_keeps_a_graph():
    ours, order = timing.OurSteps(tiny(), CPU), []
    ours.trainer.model.register_forward_hook(lambda *_: order.append("model"))
    for history in ours.history.models:
        history.register_forward_hook(lambda *_: order.append("history"))
    ours(4)
    assert order == ["history"] * 4 + ["model"]


def test_the_multiplications_of_a_step_are_those_of_the_cost_model():
    recipe = tiny()
    ours, count = timing.OurSteps(recipe, CPU), cost.counted(recipe)
    plain, exact = (timing.multiplications(ours, n) for n in (0, 4))
    assert plain == 3 * count["F"] and exact / plain == pytest.approx(count["ratio"])
    assert timing.fastest(CPU, 3) > 1e9


def test_reference_and_ours_start_from_the_same_numbers():
    ours = timing.OurSteps(tiny(), CPU)
    parts = timing.reference(ours)
    assert not parts.lq.is_contiguous(memory_format=torch.channels_last) or parts.lq.shape[1] == 1
    with torch.no_grad():
        torch.testing.assert_close(parts.model(parts.lq), ours.trainer.model(parts.lq), atol=1e-5, rtol=1e-4)
    naive(parts, 4)
    ours(4)
    for a, b in zip(parts.model.parameters(), ours.trainer.model.parameters(), strict=True):
        assert a.shape == b.shape


def test_the_pieces_of_a_step_make_a_whole():
    shares = timing.pieces(tiny(), rounds=2)
    assert list(shares.index) == list(timing.PIECES) and shares.sum() == pytest.approx(1)
    assert (shares > 0).all()


def test_only_networks_with_a_patch_are_measured():
    assert timing.small("edsr").network_size == "paper"
    with pytest.raises(ValueError, match="no patch size is set for network 'edsrr'; choose from ffanet"):
        timing.small("edsrr")


@pytest.fixture(scope="module")
def late():
    recipe = recipes.get("tiny", "dehaze", steps=120, patch_size=48, batch_size=2, history_every=(20, 10, 5, 2))
    return gradient_precision.while_training(recipe, (60, 120))


def test_float32_keeps_the_gradient_where_16_bits_lose_it(late):
    by_step = {step: rows.set_index("arm") for step, rows in late.groupby("step")}
    early, end = by_step[60], by_step[120]
    distances = [c for c in late if c.startswith("distance_")]
    assert early[distances].iloc[0].min() > 1e-3  # the histories differ: the promise is for this moment
    assert early.cosine["float32"] > 0.99
    assert end[distances].iloc[0].min() < 1e-3  # and at the end of the cosine they hardly do
    for arm in ("bf16 histories", "bf16 features", "bf16 both", "fp16 both"):
        assert end.cosine[arm] < 0.9 < end.cosine["float32"]
        assert end.cosine[arm] < early.cosine[arm]
    assert end.l_neg["bf16 both"] > 1.05  # rounding looks like distance
    assert (end.signal["bf16 both"] < end.signal["float32"]) and end.signal["float32"] > 0.9


def test_what_shortcuts_save_and_what_they_do_to_the_gradient():
    table = approximations.survey(tiny(steps=200), steps=12, draws=16, rounds=2).set_index("name")
    assert table.cost["exact"] == 1 and (table.cost[["one random history", "every 4th step"]] < 0.95).all()
    assert table.one_draw["exact"] == pytest.approx(1) and table.one_draw["every 4th step"] == pytest.approx(1)
    assert table.one_draw["one random history"] < 0.999
    assert table.mean_of_draws["one random history"] > table.one_draw["one random history"]
    assert table.mean_of_draws["every 4th step"] == pytest.approx(1)
    assert 0 < table.one_draw["features on a quarter"] < table.mean_of_draws["features on a quarter"] < 1
