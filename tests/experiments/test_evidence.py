"""Findings from records, ablations by name, and what a row would take."""

import pandas as pd
import pytest

from mclir_nb.experiments import ablations, compare, evidence, paper, reproduce
from mclir_nb.training import recipes


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
