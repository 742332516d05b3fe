"""The price of a step: counted, predicted and measured; and what is left of the gradient where it is made cheaper."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mclir_nb.experiments import cost, gradient_fidelity, timing
from mclir_nb.method import losses
from mclir_nb.training import machine, macs, needs, recipes
from mclir_nb.training.dose import Lambda

CPU = torch.device("cpu")


def tiny(task="derain", **changes):
    return recipes.get("tiny", task, batch_size=1, **changes)


def test_a_run_costs_what_its_networks_and_its_objective_are_asked():
    plain, spn = tiny(objective="plain"), tiny()
    counts, steps = macs.count(spn), spn.steps
    assert macs.run_macs(plain) == 3 * counts.network * steps
    ratio = 1 + 4 / 3 + 6 * counts.features / (3 * counts.network)
    assert 1 + counts.surplus == pytest.approx(ratio)
    assert macs.run_macs(spn) == pytest.approx(ratio * macs.run_macs(plain))
    added = macs.run_macs(spn) - macs.run_macs(plain)
    one = macs.run_macs(tiny(sampling="sampled", sampled_every=1)) - macs.run_macs(plain)
    assert one == steps * (counts.network + 3 * counts.features)
    every_third = macs.run_macs(tiny(sampling="sampled", sampled_every=3)) - macs.run_macs(plain)
    assert every_third == pytest.approx(one / 3)
    assert macs.run_macs(tiny(lambda_from=151)) - macs.run_macs(plain) == pytest.approx(added / 2)


# passes through the feature network: two for the output, one for each image it is compared with
@pytest.mark.parametrize(
    ("objective", "passes"), [("plain", 0), ("spn", 6), ("vgg", 3), ("cr", 4), ("c2r", 8), ("pcl", 10)]
)
def test_every_objective_is_counted_by_itself(objective, passes):
    known = {} if objective in ("plain", "spn") else {"lambda_neg": 0.1}
    counts = macs.count(tiny(objective=objective, **known))
    assert counts.term == passes * counts.features


def test_further_negatives_and_the_average_are_counted():
    spn, noised = macs.count(tiny()), macs.count(tiny(noised_inputs=2))
    assert noised.histories == spn.histories + 2 and noised.term == spn.term + 2 * spn.features
    smooth = macs.count(tiny(objective="spn-smooth", history_of="ema", lambda_neg=0.1))
    assert smooth.histories == spn.histories + 1 and smooth.term == spn.term + spn.features
    noise = macs.count(tiny(negatives="noise"))
    assert noise.histories == spn.histories + 1 and noise.term == spn.term
    beside, plain = macs.run_macs(tiny(history_of="another")), macs.run_macs(tiny(objective="plain"))
    assert beside == macs.run_macs(tiny()) + plain


def test_an_objective_of_ones_own_is_counted(monkeypatch):
    def own(restored, gt, negatives, *, features, **_):
        l_rec, theirs = F.l1_loss(restored, gt), features(gt)
        l_neg = sum(F.l1_loss(ours, theirs[layer]) for layer, ours in features(restored).items())
        return losses.LossParts(l_rec, l_neg, l_rec + l_neg)

    monkeypatch.setitem(losses.OBJECTIVES, "own", own)
    counts = macs.count(tiny(objective="own", lambda_neg=0.1))
    assert counts.term == 3 * counts.features


def test_the_table_of_the_cost_model_agrees_with_counts_at_full_size():
    row = cost.table(["edsr"]).iloc[0]
    assert row["V/F"] == pytest.approx(1.50, abs=0.01)  # PAPER 4.2, EDSR x4
    assert (row["N = 0"], row["N = 1"], row["N = 4"]) == pytest.approx((1, 2.83, 5.34), abs=0.02)
    assert row["as released"] == pytest.approx(8.34, abs=0.03)
    swin = cost.table(["swinir-light", "swinir"])
    assert list(swin["V/F"]) == pytest.approx([2.80, 0.228], rel=0.005)  # PAPER 4.2, attention included


@pytest.mark.parametrize("objective", ["plain", "spn"])
@pytest.mark.parametrize(("task", "network"), [("dehaze", "ffanet"), ("derain", "nafnet")])
def test_memory_is_predicted_before_it_is_used(task, network, objective):
    recipe = tiny(task, network=network, objective=objective)
    assert 0.6 < needs.of(recipe).bytes / cost.measure_bytes(recipe, CPU) < 1.25


def test_weights_that_are_the_most_of_it_are_counted_once():
    recipe = tiny(objective="plain", patch_size=16)
    assert 0.94 < needs.of(recipe).bytes / cost.measure_bytes(recipe, CPU) < 1.06


def test_the_step_that_has_the_term_is_the_one_whose_memory_is_measured():
    often, seldom = (cost.measure_bytes(tiny(sampling="sampled", sampled_every=every), CPU) for every in (1, 60))
    assert often == pytest.approx(seldom, rel=0.01) and often > 1.3 * cost.measure_bytes(tiny(objective="plain"), CPU)


def test_time_is_predicted_from_one_patch_and_read_off_a_step(monkeypatch):
    monkeypatch.setattr(cost, "one_patch", lambda recipe, device: 0.1)
    recipe = tiny().replace(batch_size=4)
    ratio = macs.run_macs(recipe) / macs.run_macs(recipe.replace(objective="plain"))
    for share, busy in ((0.9, False), (0.3, True)):
        monkeypatch.setattr(cost, "measure_step", lambda *_, share=share: cost.MeasuredStep(2.0, 0.0, share))
        facts = cost.estimate_run(recipe, CPU)
        assert facts["predicted step here"] == f"{0.1 * 4 * ratio * 1000:.0f} ms"
        assert facts["predicted run / plain run"] == f"{ratio:.2f} (by MACs)"
        assert facts["measured step here"] == "2000 ms"
        assert f"about {2 * recipe.steps / 60:.1f} minutes" in facts["training time here"]
        assert ("other programs" in facts["training time here"]) == busy


def test_the_cost_of_a_run_is_told_before_it_starts():
    facts = cost.estimate_run(tiny(), CPU)
    assert {"predicted memory", "predicted step here", "measured step here", "training time here"} <= set(facts.index)
    taken = cost.measure_step(tiny(), CPU, steps=2)
    assert taken.seconds > 0 and taken.waiting > 0 and 0 < taken.share < 1.5 and cost.measure_batch(tiny(), 3) > 0


def test_too_little_memory_is_said_and_names_the_knob(monkeypatch):
    def full(recipe, device):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(cost, "measure_step", full)
    with pytest.raises(machine.OutOfMemory, match="batch_size"):  # the sentence that training has
        cost.estimate_run(tiny(), CPU)


def test_arms_take_turns_and_the_median_counts(monkeypatch):
    order, lasted = [], [9, 5, 1, 6, 2, 7]  # of a, b, a, b, a, b
    monkeypatch.setattr(timing, "seconds", lambda step, device: step() or lasted.pop(0))
    arms = {name: partial(order.append, name) for name in "ab"}
    assert timing.median_seconds(arms, rounds=3, device=CPU, warm_up=1) == {"a": 2, "b": 6}
    assert order == ["a", "b"] * 4
    order.clear()
    lasted += [1] * 10
    timing.median_seconds(arms, rounds=5, device=CPU, warm_up=1, in_a_row=3)
    assert order == ["a", "b", *["a"] * 4, *["b"] * 4, *["a"] * 3, *["b"] * 3]


def test_our_step_is_compared_with_a_reference(clock_of_flops):
    """Both start from the same numbers; more histories cost more."""

    def naive(parts, histories):
        F.l1_loss(parts.model(parts.lq), parts.gt).backward()

    ours = timing.OurSteps(tiny("sr"), CPU)
    parts = timing.reference(ours)
    with torch.no_grad():
        torch.testing.assert_close(parts.model(parts.lq), ours.trainer.model(parts.lq), atol=1e-5, rtol=1e-4)
    table = timing.compare(tiny("sr"), naive, rounds=2).set_index("arm")
    assert tuple(table.index) == timing.ARMS and table.ratio["reference plain"] == 1
    ours = table.loc[["plain", "sampled SPN", "exact SPN"]]
    assert list(ours.seconds / ours.seconds["plain"]) == pytest.approx(ours.counted, rel=0.1)
    assert 1 < table.counted["sampled SPN"] <= macs.PRICE < table.counted["exact SPN"]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["edsr", "ffanet", "swinir", "swinir-light"])  # without grouped convolutions
def test_a_sampled_step_costs_little_more_than_a_plain_one(network, clock_of_flops):
    """At full size, by what a step computes; data/records/price has what the clock says of every network."""
    price = timing.sampled_price(timing.OurSteps(cost.benchmark_recipe(network), CPU), rounds=1)
    assert price["counted"] <= macs.PRICE and 1 < price["sampled"] <= 1.12


def test_the_pieces_of_a_step_make_a_whole():
    shares = timing.pieces(tiny(), rounds=2)
    assert list(shares.index) == list(timing.PIECES) and shares.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def late():
    recipe = recipes.get("tiny", "dehaze", steps=120, patch_size=48, batch_size=2, history_every=(20, 10, 5, 2))
    return gradient_fidelity.precisions_while_training(recipe, (60, 120))


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
    assert end.signal["bf16 both"] < end.signal["float32"] and end.signal["float32"] > 0.9


def test_the_noise_of_an_estimate_is_that_of_many_drawn_steps():
    """The closed form beside steps that are drawn one by one: batch, patches of it, history and step."""
    draw, batch = torch.Generator().manual_seed(0), 4

    def patches(count):  # gradients of two weights; histories differ by a shift, and the term goes with L1
        pulls = torch.randn(count, 2, generator=draw, dtype=torch.float64)
        shift = torch.tensor([[1.0, 0.0], [-0.5, 0.5], [0.0, 2.0]], dtype=torch.float64)
        own = torch.randn(count, 3, 2, generator=draw, dtype=torch.float64)
        return pulls + 1, 0.3 * pulls[:, None] + shift + own

    for one in (("all", 3, 1, 4), ("few", 3, 4, 4), ("one", 1, 3, 4), ("share", 1, 1, 2)):
        one = gradient_fidelity.Estimate(*one)
        pulls, pushes = (part.unflatten(0, (50_000, batch)) for part in patches(50_000 * batch))
        history = torch.randint(3, (50_000,), generator=draw)
        drawn = pushes[torch.arange(50_000), :, history] if one.histories == 1 else pushes.mean(2)
        xi = torch.rand(50_000, 1, generator=draw, dtype=torch.float64) < 1 / one.every
        steps = pulls.mean(1) + one.every * xi * drawn[:, : one.patches].mean(1)
        expected = steps.var(0).sum().item()
        assert gradient_fidelity.noise(*patches(20_000), one, batch) == pytest.approx(expected, rel=0.03)


def test_noise_is_that_of_the_stated_dose(monkeypatch):
    """The added noise grows with the square of lambda, so a recipe's dose must reach it."""
    monkeypatch.setattr(gradient_fidelity.dose, "choose", lambda recipe, *_, **__: Lambda(1e-3 * recipe.dose, 0.1, ()))
    asked = tiny().replace(batch_size=4)
    weak, strong = (
        gradient_fidelity.sampling_noise(asked.replace(dose=dose), steps=3, patches=6, rounds=1).added.max()
        for dose in (0.1, 1.0)
    )
    assert strong / weak == pytest.approx(100, rel=0.3)


def test_cheaper_estimates_cost_less_and_add_noise(clock_of_flops):
    table = gradient_fidelity.sampling_noise(tiny("sr").replace(batch_size=4), steps=7, patches=6, rounds=1)
    assert table.added[0] == 0 and list(table.measured) == pytest.approx(table.counted, rel=0.1)
    for _, rows in table[table.every > 1].groupby("name"):
        assert rows.counted.is_monotonic_decreasing and rows.added.is_monotonic_increasing
        assert rows.counted.min() > 1
