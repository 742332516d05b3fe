"""Experiments: decided before, run seed by seed, recorded as they turned out."""

import dataclasses

import pandas as pd
import pytest

from mclir_nb import files, root
from mclir_nb.__main__ import main
from mclir_nb.experiments import compare, evidence
from mclir_nb.experiments.evidence import Experiment
from mclir_nb.training import records

SMALL = Experiment(
    name="X1",
    question="Does it work at all?",
    recipe="tiny",
    tasks=("sr",),
    arms=tuple(compare.arms(["plain", "spn"])),
    seeds=(0, 1, 2),
    changes=dict(scale=2, steps=3, patch_size=32, log_every=1, val_every=3, history_every=(2, 1)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two of three decided seeds, run and recorded; (folder of the record, folder of the runs)."""
    folder, out_dir = tmp_path_factory.mktemp("record") / "X1", tmp_path_factory.mktemp("runs")
    assert evidence.run(SMALL, out_dir, seeds=2, folder=folder, quiet=True) == folder
    return folder, out_dir


def test_c1_is_what_was_decided():
    c1 = evidence.get("C1")
    plan = c1.plan()
    assert len(plan) == len({job.name for job in plan}) == 4 * 2 * 5
    assert [job.recipe.seed for job in plan] == [seed for seed in range(5) for _ in range(8)]
    assert {(job.recipe.task, job.recipe.name) for job in plan} == {
        (task, "demo") for task in ("dehaze", "derain", "deblur", "sr")
    }
    assert {job.recipe.objective for job in plan} == {"plain", "spn"}
    assert len(c1.plan(seeds=2)) == 16


def test_the_decision_is_written_before_the_first_run(tmp_path):
    page = evidence.begin(SMALL, tmp_path / "X1") / "README.md"
    text = page.read_text()
    for part in (
        "# X1: Does it work at all?",
        "Seeds: 0, 1, 2",
        "| sr x2 | edsr (tiny)",
        "`spn` (objective = spn; lambda",
        "as long as spn",
        "PSNR, raw weights (`psnr_raw`), PSNR, EMA weights",
        "No seed is finished yet",
    ):
        assert part in text
    evidence.begin(SMALL, tmp_path / "X1")
    assert page.read_text() == text


@pytest.mark.parametrize("change", [{"seeds": (0, 1)}, {"scores": ("psnr_ema",)}, {"arms": SMALL.arms[:2]}])
def test_a_decision_cannot_be_changed_afterwards(made, change):
    with pytest.raises(ValueError, match="holds another decision"):
        evidence.begin(dataclasses.replace(SMALL, **change), made[0])


def test_the_record_holds_whole_seeds_and_what_follows_from_them(made):
    folder, _ = made
    record = evidence.read_record("X1", folder)
    assert sorted(set(record.runs["seed"])) == [0, 1] and len(record.runs) == 6
    assert len(record.images) == 6 * record.images["image"].nunique()
    assert set(record.curves["run"]) == set(record.runs["run"])
    text = (folder / "README.md").read_text()
    assert text.startswith(evidence.decision(SMALL)) and "2 of 3 decided seeds are finished: 6 runs, of which 0" in text
    for line in evidence.outcome(record).splitlines():
        assert f"- {line}" in text
    assert "python -m mclir_nb compare X1" in text and "| plain at equal time |" in text


def test_a_record_reads_back_as_it_was_collected(made):
    folder, out_dir = made
    record, runs = evidence.read_record("X1", folder), compare.collect(out_dir)
    both = runs.set_index("run").loc[record.runs["run"], "psnr_raw"].to_numpy()
    assert record.runs["psnr_raw"].to_numpy() == pytest.approx(both, abs=1e-5)
    assert (record.runs["stopped"] == "").all()


def test_a_seed_that_is_not_whole_is_left_out(made, tmp_path):
    folder, out_dir = made
    half = tmp_path / "runs"
    for file in out_dir.glob("*/*"):
        if file.suffix in (".csv", ".json"):
            (half / file.parent.name).mkdir(parents=True, exist_ok=True)
            (half / file.parent.name / file.name).write_bytes(file.read_bytes())
    (half / "sr-x2-edsr-spn-1" / "scores.csv").unlink()
    record = evidence.read_record("X1", evidence.write_record(SMALL, half, tmp_path / "record"))
    assert set(record.runs["seed"]) == {0} and evidence.outcome(record).startswith("No conclusion: an interval needs")
    (half / "sr-x2-edsr-spn-0" / "scores.csv").unlink()
    with pytest.raises(ValueError, match="no seed of X1 is finished"):
        evidence.write_record(SMALL, half, tmp_path / "record")


def test_records_of_another_version_or_none_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match="has no runs.csv, images.csv, curves.csv; make the record with"):
        evidence.read_record("X1", tmp_path)
    for table in evidence.FILES:
        (tmp_path / f"{table}.csv").write_bytes((made[0] / f"{table}.csv").read_bytes())
    old = pd.read_csv(tmp_path / "runs.csv").drop(columns=["psnr_ema", "scale"])
    old.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(ValueError, match="no column scale, psnr_ema: it was written by another version"):
        evidence.read_record("X1", tmp_path)


def test_no_folder_of_the_machine_is_written(made, tmp_path):
    for name in ("sr-x2-edsr-plain-0", "sr-x2-edsr-spn-0"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in (made[1] / name).glob("*.*"):
            (tmp_path / "runs" / name / file.name).write_bytes(file.read_bytes())
        recipe = records.read_recipe(made[1] / name).replace(
            dataset="bsds500", data_root=str(tmp_path / "private/bsds")
        )
        files.write_json(tmp_path / "runs" / name / "recipe.json", recipe.model_dump())
    one = dataclasses.replace(SMALL, arms=SMALL.arms[:2], seeds=(0,))
    folder = evidence.write_record(one, tmp_path / "runs", tmp_path / "record")
    assert pd.read_csv(folder / "runs.csv")["data_root"].tolist() == ["bsds", "bsds"]


def test_the_command_line_runs_and_records(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(evidence.EXPERIMENTS, "X1", SMALL)
    folder, out_dir = made
    arguments = ["compare", "X1", "--out", str(out_dir), "--record", str(tmp_path / "X1"), "--seeds", "2"]
    assert main(arguments) == 0  # its runs are there
    assert "spn against plain (PSNR, EMA weights)" in capsys.readouterr().out
    assert (tmp_path / "X1" / "runs.csv").read_bytes() == (folder / "runs.csv").read_bytes()
    assert main(["compare", "c1"]) == 1
    assert "unknown experiment 'c1'. The experiments are: C1" in capsys.readouterr().err
    assert main(["compare", "X1", "--seeds", "4"]) == 1
    assert "3 decided seeds" in capsys.readouterr().err


@pytest.mark.parametrize("name", evidence.recorded())
def test_committed_records_say_what_their_numbers_say(name):
    record, folder = evidence.read_record(name), root() / "data" / "records" / name
    text = (folder / "README.md").read_text()
    assert text.startswith(evidence.decision(evidence.get(name)))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 500_000
    assert "/home/" not in text + (folder / "runs.csv").read_text()
    for line in evidence.outcome(record).splitlines():
        assert line in text


def test_markdown_tables():
    table = pd.DataFrame({"name": ["a|b", None], "value": [0.25, float("nan")]})
    assert files.as_markdown(table).splitlines() == ["| name | value |", "| --- | --: |", r"| a\|b | 0.25 |", "|  |  |"]
