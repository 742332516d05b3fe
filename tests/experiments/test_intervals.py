"""Statistics of paired runs: numbers by hand, agreement with scipy and with simulation, refusals."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mclir_nb.experiments import intervals


def runs(**arms):
    """A table of runs: one list of PSNR per arm, seeds from 0."""
    rows = [
        dict(
            task="sr",
            scale=2,
            network="edsr",
            arm=arm,
            seed=seed,
            psnr_raw=value,
            psnr_ema=value + 1,
            steps=10,
            macs=1e9 * (1 + 0.5 * (arm != "plain")),
            mclir_nb="0.1.0",
        )
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


PLAIN, SPN = [30.0, 31.0, 29.0, 30.5], [30.2, 31.1, 29.4, 30.6]


def test_differences_are_taken_seed_by_seed():
    table = intervals.differences(runs(plain=PLAIN, spn=SPN).sample(frac=1, random_state=1))
    found = table.set_index("seed")["difference"].sort_index()
    assert found.tolist() == pytest.approx([0.2, 0.1, 0.4, 0.1])
    assert set(table["arm"]) == {"spn"}


def test_the_interval_is_that_of_a_paired_t_test():
    (row,) = intervals.paired(runs(plain=PLAIN, spn=SPN)).itertuples()
    test = stats.ttest_rel(SPN, PLAIN).confidence_interval()
    assert row.mean == pytest.approx(0.2) and row.sd == pytest.approx(np.std([0.2, 0.1, 0.4, 0.1], ddof=1))
    assert (row.low, row.high) == pytest.approx((test.low, test.high))
    assert 0.1 <= row.boot_low < row.mean < row.boot_high <= 0.4 and row.seeds == 4
    table = runs(plain=PLAIN, spn=SPN)
    assert intervals.paired(table, draws=50, seed=3).equals(intervals.paired(table, draws=50, seed=3))


def test_pairing_beats_the_spread_between_seeds():
    """Seeds differ by 2 dB, arms by 0.2: only the paired view can see it."""
    (row,) = intervals.paired(runs(plain=PLAIN, spn=[v + 0.2 for v in PLAIN])).itertuples()
    assert row.low == pytest.approx(0.2) and row.detectable < 1e-6
    assert stats.ttest_ind(PLAIN, [v + 0.2 for v in PLAIN]).pvalue > 0.5


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_smallest_detectable_difference_is_seen_four_times_in_five(seeds):
    sd = 0.1
    difference = intervals.smallest_detectable(seeds, sd)
    drawn = np.random.default_rng(0).normal(difference, sd, (4000, seeds))
    seen = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5, 12, 40])
def test_seeds_needed_undoes_the_smallest_detectable_difference(seeds):
    difference = intervals.smallest_detectable(seeds, 0.07)
    assert intervals.seeds_needed(1.0001 * difference, 0.07) == seeds
    assert intervals.seeds_needed(-0.9999 * difference, 0.07) == seeds + 1


def test_seeds_needed_at_the_edges():
    assert intervals.seeds_needed(0.1, 0.0) == 2
    for difference, sd in ((0.0, 0.1), (math.nan, 0.1), (0.1, -1.0), (0.1, math.nan)):
        with pytest.raises(ValueError, match="difference"):
            intervals.seeds_needed(difference, sd)


def test_costs_are_those_of_the_whole_run():
    table = intervals.costs(runs(plain=PLAIN, spn=SPN)).set_index("arm")
    assert table["run_cost"].to_dict() == pytest.approx({"plain": 1.0, "spn": 1.5})
    assert table["steps"].tolist() == [10, 10]


def test_pictures_are_a_view_of_their_own():
    parts = [runs(plain=PLAIN, spn=SPN).assign(image=name) for name in "abc"]
    parts[2].loc[parts[2]["arm"] == "spn", "psnr_raw"] -= 1  # picture c loses
    (row,) = intervals.by_image(pd.concat(parts)).itertuples()
    assert (row.pictures, row.better) == (3, 2)
    assert (row.worst, row.best, row.mean) == pytest.approx((-0.8, 0.2, -0.4 / 3))
    with pytest.raises(ValueError, match="image"):
        intervals.by_image(parts[0].drop(columns="image"))


def test_several_settings_are_kept_apart():
    derain = runs(plain=PLAIN, spn=[v - 1 for v in SPN]).assign(task="derain", scale=1, network="nafnet")
    table = intervals.paired(pd.concat([runs(plain=PLAIN, spn=SPN), derain])).set_index("task")
    assert table["mean"].to_dict() == pytest.approx({"sr": 0.2, "derain": -0.8})


def test_conclusions_follow_the_intervals():
    better, worse = (
        [v + 0.2 + 0.01 * i for i, v in enumerate(PLAIN)],
        [v - 0.2 - 0.01 * i for i, v in enumerate(PLAIN)],
    )
    table = intervals.paired(runs(plain=PLAIN, up=better, down=worse, none=[30.1, 30.8, 29.2, 30.4]))
    up, down, none, many = intervals.conclusion(table).splitlines()
    assert up.startswith("sr x2 edsr, up against plain (PSNR, raw weights): better by 0.215 dB (95 % interval +0.1")
    assert "down against plain" in down and "worse by 0.215 dB" in down
    assert "no effect visible at this size: +0.000 dB" in none and "four times in five" in none
    assert many.startswith("3 intervals were looked at; each misses the truth once in 20 times")
    assert len(intervals.conclusion(table[:1]).splitlines()) == 1


def test_a_run_that_diverged_is_said_and_not_left_out():
    table = intervals.paired(runs(plain=PLAIN, spn=[30.2, math.nan, 29.4, 30.6]))
    assert table["stopped"].tolist() == [1] and table["mean"].isna().all()
    assert "1 of 4 pairs have no score, because a run diverged" in intervals.conclusion(table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (runs(plain=[30.0], spn=[30.1]), "spn"),
        (runs(plain=PLAIN, spn=SPN[:3]), "0, 1, 2, 3 .*0, 1, 2"),
        (runs(spn=SPN, vgg=SPN), "'plain'"),
        (runs(plain=PLAIN), "plain"),
        (pd.concat([runs(plain=PLAIN, spn=SPN)] * 2), "seed 0"),
        (runs(plain=PLAIN, spn=SPN).drop(columns=["scale", "psnr_raw"]), "scale, psnr_raw"),
        (runs(plain=PLAIN, spn=SPN)[:0], "no runs"),
    ],
    ids=["one seed", "unequal", "no baseline", "one arm", "twice", "another version", "empty"],
)
def test_what_cannot_be_compared_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        intervals.paired(table)
