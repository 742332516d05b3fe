"""Statistics of paired runs: numbers by hand, agreement with scipy and with simulation, refusals."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mclir_nb.experiments import intervals


def runs(**arms):
    """A table of runs: one list of PSNR per arm, seeds from 0."""
    common = dict(task="sr", scale=2, network="edsr")
    rows = [
        common | dict(arm=arm, seed=seed, psnr_raw=value, psnr_ema=value + 1)
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


PLAIN, SPN = [30.0, 31.0, 29.0, 30.5], [30.2, 31.1, 29.4, 30.6]


def test_differences_are_taken_seed_by_seed():
    table = intervals.differences(runs(plain=PLAIN, spn=SPN).sample(frac=1, random_state=1))
    assert table.set_index("seed")["difference"].sort_index().tolist() == pytest.approx([0.2, 0.1, 0.4, 0.1])
    assert set(table["arm"]) == {"spn"}


def raw(table, **how):
    return intervals.paired(table, scores=["psnr_raw"], **how)


def test_the_interval_is_that_of_a_paired_t_test():
    (row,) = raw(runs(plain=PLAIN, spn=SPN)).itertuples()
    test = stats.ttest_rel(SPN, PLAIN)
    limits = test.confidence_interval()
    assert row.mean == pytest.approx(0.2) and row.sd == pytest.approx(np.std([0.2, 0.1, 0.4, 0.1], ddof=1))
    assert (row.low, row.high, row.p) == pytest.approx((limits.low, limits.high, test.pvalue))
    assert row.seeds == 4 and row.half_holm == pytest.approx(row.half)  # alone there is nothing to correct
    assert [intervals.t_interval(np.array(values))["p"] for values in ([0.5, 0.5], [0.0, 0.0])] == [0, 1]


def test_levels_are_those_of_holm_by_hand():
    """m = 4: 0.05/4 holds for 0.01, 0.05/3 for 0.015, 0.05/2 not for 0.04, and then all that follow have that level."""
    p = np.array([0.04, 0.01, math.nan, 0.015, 0.045])
    levels = intervals.holm_levels(p)
    assert levels == pytest.approx([0.025, 0.0125, math.nan, 0.05 / 3, 0.025], nan_ok=True)
    assert (p < levels).tolist() == [False, True, False, True, False]


def test_a_hand_made_table_is_corrected_and_concluded():
    """d = 0.2, 0.1, 0.4, 0.1: mean 0.2, sd 0.1414, t(3) = 3.1824, half 0.225; of 3 intervals with p 0.066 nothing."""
    table = raw(runs(plain=PLAIN, spn=SPN, up=[v + 0.2 + 0.01 * i for i, v in enumerate(PLAIN)], none=PLAIN))
    found = table.set_index("arm")
    assert found.loc["spn", ["mean", "half", "p"]].tolist() == pytest.approx([0.2, 0.22504, 0.06623], rel=1e-3)
    # up: 0.2, 0.21, 0.22, 0.23: mean 0.215, sd 0.01291, tested first, at 0.05/3: t(3) = 4.857
    assert found.loc["up", "half_holm"] == pytest.approx(4.857 * 0.01291 / 2, rel=1e-3)
    # spn comes second and fails at 0.05/2: t(3) = 4.1765
    assert found.loc["spn", "half_holm"] == pytest.approx(4.1765 * 0.14142 / 2, rel=1e-3)
    assert found.loc["none", ["p", "half"]].tolist() == [1, 0]
    assert intervals.clear(table).tolist() == [False, True, False]
    first, *_ = intervals.conclusion(table).splitlines()
    assert "up against plain" in first and "also after Holm's correction for 3" in first


def test_an_interval_that_only_just_leaves_zero_is_weak_among_many():
    noise = {f"arm {k}": [v + d for v, d in zip(PLAIN, (0.1, -0.1, 0.05, -0.04), strict=True)] for k in range(9)}
    just = [v + d for v, d in zip(PLAIN, (0.1, 0.2, 0.1, 0.2), strict=True)]
    table = raw(runs(plain=PLAIN, just=just, **noise))
    assert intervals.clear(table, corrected=False).sum() == 1 and not intervals.clear(table).any()
    weak, rest = intervals.conclusion(table).splitlines()
    assert "just against plain" in weak and "weak evidence" in weak
    assert rest.startswith("The other 9 of 10 intervals hold zero") and "four times in five" in rest


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_smallest_detectable_difference_is_seen_four_times_in_five(seeds):
    sd = 0.1
    difference = intervals.smallest_detectable(seeds, sd)
    drawn = np.random.default_rng(0).normal(difference, sd, (4000, seeds))
    seen = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


def test_pictures_are_a_view_of_their_own():
    parts = [runs(plain=PLAIN, spn=SPN).assign(image=name) for name in "abc"]
    parts[2].loc[parts[2]["arm"] == "spn", "psnr_raw"] -= 1  # picture c loses
    (row,) = intervals.by_image(pd.concat(parts)).itertuples()
    assert (row.pictures, row.better) == (3, 2)
    assert intervals.by_image(runs(plain=PLAIN, spn=PLAIN).assign(image="a"))["better"].item() == 0
    assert (row.worst, row.best, row.mean) == pytest.approx((-0.8, 0.2, -0.4 / 3))


def test_pictures_of_a_run_that_diverged_are_missing_and_its_arm_has_no_gain():
    """In one seed, or in all of them; in another setting nothing is missing."""
    made = runs(plain=PLAIN, spn=SPN, vgg=SPN, cr=SPN)
    made = pd.concat([made, made[made["arm"].isin(["plain", "spn"])].assign(task="derain")])
    images = pd.concat([made.assign(image=name) for name in "ab"])
    lost = (images["arm"] == "vgg") & (images["seed"] == 0) | (images["arm"] == "cr")
    table = intervals.by_image(images[~lost], runs=made)
    assert table["arm"].tolist() == ["spn", "vgg", "cr", "spn"] and table["pictures"].tolist() == [2] * 4
    for column in ("better", "mean", "worst", "best"):
        assert table[column].isna().tolist() == [False, True, True, False]
    assert intervals.by_image(images[~lost])["mean"].isna().tolist() == [False, True, False]  # vgg's one run is missing


def test_several_settings_are_kept_apart():
    derain = runs(plain=PLAIN, spn=[v - 1 for v in SPN]).assign(task="derain", scale=1, network="nafnet")
    table = raw(pd.concat([runs(plain=PLAIN, spn=SPN), derain])).set_index("task")
    assert table["mean"].to_dict() == pytest.approx({"sr": 0.2, "derain": -0.8})


def test_conclusions_follow_the_intervals():
    better, worse = ([v + sign * (0.2 + 0.01 * i) for i, v in enumerate(PLAIN)] for sign in (1, -1))
    table = raw(runs(plain=PLAIN, up=better, down=worse, none=[30.1, 30.8, 29.2, 30.4]))
    said = intervals.conclusion(table)
    assert "sr x2 edsr, up against plain (PSNR, raw weights): better by 0.215 dB (95 % interval +0.1" in said
    assert "down against plain" in said and "worse by 0.215 dB" in said
    assert "no effect visible at this size: +0.000 dB" in said and "four times in five" in said
    assert "Holm" not in intervals.conclusion(raw(runs(plain=PLAIN, up=better)))


def test_a_run_that_diverged_is_said_and_not_left_out():
    table = raw(runs(plain=PLAIN, spn=[30.2, math.nan, 29.4, 30.6], other=SPN))
    assert table["stopped"].tolist() == [1, 0] and table["mean"].isna().tolist() == [True, False]
    assert "1 of 4 pairs have no score, because a run diverged" in intervals.conclusion(table)
    assert table["half_holm"].isna().tolist() == [True, False]
    others = {f"other {k}": [30.1, 30.8, 29.2, 30.4] for k in range(intervals.FEW)}
    said = intervals.conclusion(raw(runs(plain=PLAIN, spn=[30.2, math.nan, 29.4, 30.6], **others))).splitlines()
    assert len(said) == 2 and "1 of 4 pairs" in said[0]
    said = intervals.conclusion(raw(runs(plain=PLAIN, **others))).splitlines()
    assert len(said) == intervals.FEW and all("no effect visible" in line for line in said)


@pytest.mark.parametrize("seeds", [2, intervals.SEEDS - 1, intervals.SEEDS])
def test_few_seeds_that_agree_are_weak_evidence(seeds):
    plain = [30.0 + seed for seed in range(seeds)]
    up, down = ([v + sign * (0.2 + 1e-6 * i) for i, v in enumerate(plain)] for sign in (1, -1))
    for arms in ({"up": up}, {"down": down}, {"up": up, "down": down}):
        for line in intervals.conclusion(raw(runs(plain=plain, **arms))).splitlines():
            assert ("better by" in line) or ("worse by" in line)
            assert ("weak evidence" in line) == (seeds < intervals.SEEDS)


def test_one_seed_allows_nothing():
    table = raw(runs(plain=[30.0], spn=[30.1]))
    assert table[["low", "p", "low_holm"]].isna().all(axis=None)
    assert "No conclusion" in intervals.conclusion(table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (runs(plain=PLAIN, spn=SPN[:3]), "0, 1, 2, 3].*0, 1, 2]"),
        (runs(spn=SPN, vgg=SPN), "'plain'"),
        (runs(plain=PLAIN), "plain"),
        (pd.concat([runs(plain=PLAIN, spn=SPN)] * 2), "seed 0"),
        (runs(plain=PLAIN, spn=SPN).drop(columns=["scale", "psnr_raw"]), "scale, psnr_raw"),
        (runs(plain=PLAIN, spn=SPN)[:0], "no runs"),
    ],
    ids=["unequal", "no baseline", "one arm", "twice", "another version", "empty"],
)
def test_what_cannot_be_compared_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        intervals.paired(table)
