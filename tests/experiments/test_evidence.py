"""Findings from records, ablations by name, what a row would take, and the figures of evidence."""

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from mclir_nb.experiments import ablations, compare, evidence, intervals, paper, reproduce
from mclir_nb.method import features
from mclir_nb.training import recipes
from mclir_nb.views import evidence_figures


def table(gain: float, seeds: int = 3, arms=("spn",)) -> pd.DataFrame:
    """Runs of plain and other arms: a gain with a small spread."""
    rows = []
    for seed in range(seeds):
        for number, arm in enumerate(("plain", *arms)):
            score = 20 + seed + (gain + 0.01 * seed * (-1) ** number if number else 0)
            run = dict(task="derain", scale=1, network="nafnet", arm=arm, seed=seed, stopped="", steps=9)
            scores = dict(psnr_raw=score, psnr_ema=score)
            rows.append(run | scores | dict(seconds_per_step=1.0 + number, peak_memory_mb=9.0))
    return pd.DataFrame(rows)


@pytest.fixture
def record(monkeypatch):
    """Make `experiments` answer with records of these tables."""

    def known(**tables):
        records = {name: evidence.Record(name, runs, runs, runs) for name, runs in tables.items()}
        monkeypatch.setattr(evidence, "recorded", lambda: sorted(records))
        monkeypatch.setattr(evidence, "read_record", lambda name: records[name])

    return known


# --- findings ---


def test_without_records_nothing_is_claimed(record):
    record()
    assert "nothing is claimed" in evidence.summary() and evidence.committed("C1") is None


def test_a_finding_is_computed(record):
    record(C1=table(0.5), X9=table(0.0))
    told = evidence.summary()
    assert "**[C1](data/records/C1/README.md)** Does SPN help" in told and "6 runs, 3 seeds of 5 decided, 0 div" in told
    assert told.count("better by 0.4") == 2 and "Of 2 intervals 2 lie beside zero" in told
    assert told.count("no effect visible at this size: ") == 2 and "none lie beside zero" in told


def test_of_a_long_record_the_clear_ones_are_listed(record):
    record(
        A1=pd.concat(
            [table(0.0, arms=[f"arm {i}" for i in range(5)]), table(0.7, arms=["clear"]).query("arm=='clear'")]
        )
    )
    told = evidence.summary()
    assert "Of 12 intervals 2 lie beside zero" in told and "The other 10: no effect visible" in told
    assert "clear against plain" in told and "arm 3" not in told


def test_links_lead_to_the_record_from_a_notebook_and_a_missing_record_names_its_command(record):
    record(C1=table(0.5))
    assert "**[C1](../data/records/C1/README.md)**" in evidence.summary(["C1"], "../")
    assert evidence.summary(["E9"]) == "- No record E9 yet: `python -m mclir_nb compare E9`"


def test_one_seed_allows_no_finding(record):
    record(C1=table(0.5, seeds=1))
    assert "No conclusion: an interval needs at least 2 seeds" in evidence.summary()


# --- sweeps ---


@pytest.mark.parametrize("name", ablations.names())
def test_every_sweep_can_be_planned_for_every_task(name):
    for task in ("dehaze", "derain", "deblur", "sr"):
        recipe = recipes.get("tiny", task)
        arms = ablations.arms(name, recipe)
        jobs = compare.plan(recipe, arms, (0, 1))
        assert [arm.name for arm in arms[:2]] == ["plain", "spn"] and len(arms) >= 3
        assert len({job.recipe for job in jobs}) == len(jobs)


def test_an_unknown_sweep_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown sweep 'lamda'; the sweeps are lambda, histories"):
        ablations.arms("lamda", recipes.get("tiny"))


# --- what a row would take ---


@pytest.mark.parametrize(
    ("network", "scale", "patch", "giga"),  # counted once at full size, with attention's products: PAPER 4.1
    [("ffanet", 1, 128, 71.82), ("nafnet", 1, 256, 15.96), ("edsr", 4, 192, 4.57), ("dehazeformer-t", 1, 256, 6.64)],
)
def test_counts_at_a_small_size_are_those_of_the_full_size(network, scale, patch, giga):
    forward, looked_at = reproduce.per_pixel(network, scale)
    assert forward * patch**2 / 1e9 == pytest.approx(giga, rel=0.05)
    assert looked_at * 128**2 / 1e9 == pytest.approx(3.048, rel=0.01)


def test_every_row_of_the_paper_has_a_training(monkeypatch):
    monkeypatch.setattr(reproduce, "per_pixel", lambda network, scale: (1e6, 1e5))
    table = reproduce.table(10.0)
    assert sum(len(rows.split(", ")) for rows in table["rows"]) == len(paper.gains())
    assert (table["hours SPN"] > table["hours plain"]).all() and table["command"].is_unique
    ffanet = table.iloc[0]
    assert ffanet["hours plain"] == pytest.approx(3 * 1e6 * 128**2 * 4 * 500_000 / 1e13 / 3600)
    assert reproduce.table(20.0)["hours SPN"].sum() == pytest.approx(table["hours SPN"].sum() / 2)
    with pytest.raises(ValueError, match="tera_macs is 0"):
        reproduce.table(0)


# --- figures ---


def test_gain_beside_cost_draws_both_weights_of_every_arm():
    runs = table(0.1, arms=("spn", "cr"))
    figure = evidence_figures.gain_beside_cost(intervals.gains(runs), intervals.costs(runs))
    assert isinstance(figure, Figure) and len(figure.axes[0].containers) == 4
    assert figure.axes[0].get_yscale() == "linear"
    far = intervals.gains(table(-9.0, arms=("spn", "cr")))
    assert evidence_figures.gain_beside_cost(far, intervals.costs(runs)).axes[0].get_yscale() == "symlog"
    with pytest.raises(ValueError, match="no costs are known for cr"):
        evidence_figures.gain_beside_cost(intervals.gains(runs), intervals.costs(runs).query("arm != 'cr'"))
    other = intervals.gains(runs).assign(task=lambda t: ["sr", *t["task"][1:]])
    with pytest.raises(ValueError, match="more than one setting"):
        evidence_figures.gain_beside_cost(other, intervals.costs(runs))


def test_arm_curves_are_means_over_seeds():
    curves = pd.DataFrame(
        [
            dict(arm=arm, seed=seed, step=step, val_psnr_ema=20 + seed + step, l_rec=0.1, r=0.01)
            for arm in ("plain", "spn")
            for seed in (0, 2)
            for step in (1, 2)
        ]
    )
    first = evidence_figures.arm_curves(curves).axes[0]
    assert [list(line.get_ydata()) for line in first.lines] == [[22, 23], [22, 23]]
    assert len(evidence_figures.arm_curves(curves, ["spn"]).axes[0].lines) == 1
    with pytest.raises(ValueError, match="no curves of cr; arms: plain, spn"):
        evidence_figures.arm_curves(curves, ["cr"])


def test_the_papers_gains_are_all_drawn():
    axes = evidence_figures.improvements(paper.gains(), paper.retrainings()).axes[0]
    assert len(axes.patches) == len(paper.gains()) and axes.get_xscale() == "log"
    assert len(axes.lines[0].get_xdata()) == len(paper.retrainings())


def test_the_divergence_is_the_scaled_difference():
    pair = ("x", torch.full((3, 32, 32), 0.5), torch.full((3, 32, 32), 0.5))
    plain, other = (_Add(value) for value in (0.0, 0.1))
    (row,) = evidence_figures.divergence(plain, other, [pair, pair], limit=1, factor=5.0)
    assert list(row) == ["x: lq", "plain", "SPN", "gt", "5 x |SPN - plain|"]
    assert torch.allclose(row["5 x |SPN - plain|"], torch.full((3, 32, 32), 0.5), atol=1e-6)
    (row,) = evidence_figures.divergence(plain, _Add(0.03), [pair], limit=1)
    assert "20 x |SPN - plain|" in row  # 0.03 apart: 20 times is 0.6, 50 times would be cut off


class _Add(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, lq):
        return lq + self.value


def test_random_vgg_is_there_for_the_sweep_of_features():
    assert "random" in features.build("vgg16", "random").source.lower()
