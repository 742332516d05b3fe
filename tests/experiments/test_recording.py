"""Experiments: decided before, run seed by seed, recorded as they turned out, and read back."""

import dataclasses
import shutil

import pandas as pd
import pytest

from mclir_nb import files, root
from mclir_nb.__main__ import main
from mclir_nb.experiments import compare, evidence, plans, recording, run_tables, verdicts
from mclir_nb.experiments.plans import Experiment
from mclir_nb.training import records

SMALL = Experiment(
    name="X1",
    question="Does it work at all?",
    recipe="tiny",
    tasks=("sr",),
    arms=tuple(compare.arms(["plain", "spn"])),
    seeds=(0, 1, 2),
    changes=dict(scale=2, steps=3, patch_size=32, log_every=1, val_every=3, history_every=(2, 1, 1, 1)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two of three decided seeds, run and recorded; (folder of the record, folder of the runs)."""
    folder, out_dir = tmp_path_factory.mktemp("record") / "X1", tmp_path_factory.mktemp("runs")
    assert recording.run(SMALL, out_dir, seeds=2, folder=folder, quiet=True) == folder
    return folder, out_dir


@pytest.fixture
def runs_copy(made, tmp_path):
    """The small files of the runs, to be changed."""
    return shutil.copytree(made[1], tmp_path / "runs", ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.mark.parametrize("name", plans.EXPERIMENTS)
def test_every_experiment_can_be_planned_task_by_task_and_seed_by_seed(name):
    experiment = plans.get(name)
    jobs = experiment.plan()
    each = len(experiment.tasks) * len(experiment.arms)
    assert len({job.name for job in jobs}) == len(jobs) == each * len(experiment.seeds)
    order = [(experiment.tasks.index(job.recipe.task), job.recipe.seed) for job in jobs]
    assert order == sorted(order)
    assert len(experiment.plan(seeds=2)) == 2 * each
    for arm in experiment.arms if name not in ("A1", "C1") else ():  # the newer ones compare at a dose
        assert (arm.changes.get("objective") == "plain") == ("dose" not in arm.changes), arm.name


def test_every_arm_at_equal_dose_is_explained():
    known = {arm.name for name in evidence.NEWER for arm in plans.get(name).arms}
    assert known == set(plans.ARMS)


def test_experiments_of_one_setting_share_what_they_have_in_common():
    shared = [experiment for experiment in plans.EXPERIMENTS.values() if experiment.runs]
    runs: dict = {}
    for experiment in shared:
        for job in experiment.plan():
            assert runs.setdefault((experiment.runs, job.name), job) == job  # an arm's name stands for one recipe
    assert len(shared) > 1 and len(runs) < sum(len(experiment.plan()) for experiment in shared)


def test_the_decision_is_written_before_the_first_run(tmp_path):
    page = recording.begin(SMALL, tmp_path / "X1") / "README.md"
    text = page.read_text()
    for part in (SMALL.question, "Seeds: 0, 1, 2", "edsr (tiny)", "`spn`", "psnr_raw", "No seed is finished yet"):
        assert part in text
    recording.begin(SMALL, tmp_path / "X1")
    assert page.read_text() == text


def test_seeds_that_had_been_seen_are_named_and_the_fresh_ones_count_alone_too(made, tmp_path):
    again = dataclasses.replace(SMALL, name="X2", seeds=(0, 1), seen=1)
    assert "seen" not in SMALL.decision() and again.decision()["seen"] == 1
    page = recording.begin(again, tmp_path / "X2") / "README.md"
    assert "The first 1 seeds are another record's" in page.read_text()
    text = recording.write_record(again, made[1], tmp_path / "X2").joinpath("README.md").read_text()
    assert "- Fresh seeds alone: sr x2 edsr: No conclusion from one seed" in text


def test_a_decision_cannot_be_changed_afterwards(made):
    """Facts decide: another question does not lock a record, and its page stays as it is."""
    changes = ({"seeds": (0, 1)}, {"arms": SMALL.arms[:2]}, {"changes": SMALL.changes | {"steps": 4}})
    for change in changes:
        with pytest.raises(ValueError, match="another decision"):
            recording.begin(dataclasses.replace(SMALL, **change), made[0])
    real = plans.recipes.get  # what the decision does not name is compared with the recorded runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans.recipes, "get", lambda *names, **fields: real(*names, **fields).replace(ema_decay=0.5))
        with pytest.raises(ValueError, match="ema_decay"):
            recording.recorded_runs(SMALL, made[0])
    text = (made[0] / "README.md").read_text()
    recording.begin(dataclasses.replace(SMALL, question="Does it work?"), made[0])
    assert (made[0] / "README.md").read_text() == text


def test_the_record_holds_whole_seeds_and_what_follows_from_them(made):
    folder, out_dir = made
    record = evidence.read_record("X1", folder)
    assert sorted(set(record.runs["seed"])) == [0, 1] and len(record.runs) == 6
    assert len(record.images) == 6 * record.images["image"].nunique()
    assert set(record.curves["run"]) == set(record.runs["run"])
    collected = run_tables.collect(out_dir).set_index("run").loc[record.runs["run"]]
    assert record.runs["psnr_raw"].to_numpy() == pytest.approx(collected["psnr_raw"].to_numpy(), abs=1e-5)
    text = (folder / "README.md").read_text()
    assert SMALL.question in text and "Finished seeds of 3: sr 2" in text
    assert all(f"- {line}" in text for line in verdicts.outcome(record).splitlines())


def test_finished_runs_of_a_seed_that_is_not_whole_wait(runs_copy, made, tmp_path, monkeypatch):
    """They are shown nowhere, are not run again from whichever folder, and end in the same record."""
    folder, scores = tmp_path / "record", runs_copy / "sr-x2-edsr-spn-1" / "scores.csv"
    kept = scores.read_bytes()
    scores.unlink()
    record = evidence.read_record("X1", recording.write_record(SMALL, runs_copy, folder))
    assert set(record.runs["seed"]) == {0} and "No conclusion from one seed" in verdicts.outcome(record)
    assert len(files.read_table(folder / "unfinished" / "runs.csv")) == 2
    scores.write_bytes(kept)
    ran = []
    monkeypatch.setattr(compare, "run", lambda jobs, *_, **__: ran.extend(job.name for job in jobs))
    recording.run(SMALL, tmp_path / "fresh", seeds=2, folder=folder)
    assert ran == ["sr-x2-edsr-spn-1"]
    (tmp_path / "fresh").mkdir()
    scores.parent.rename(tmp_path / "fresh" / scores.parent.name)
    recording.write_record(SMALL, tmp_path / "fresh", folder)
    for name in evidence.FILES:
        assert (folder / f"{name}.csv").read_bytes() == (made[0] / f"{name}.csv").read_bytes()
    assert not list((folder / "unfinished").iterdir())


def test_committed_runs_are_done_again_only_when_asked_and_then_compared(
    made, runs_copy, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(plans.EXPERIMENTS, "X1", SMALL)
    monkeypatch.setattr(evidence, "root", lambda: tmp_path)
    committed, ran = tmp_path / "data" / "records" / "X1", []
    shutil.copytree(made[0], committed)
    monkeypatch.setattr(compare, "run", lambda jobs, *_, **__: ran.extend(job.name for job in jobs))
    command = ["compare", "X1", "--seeds", "2", "--out", str(runs_copy), "--record", str(tmp_path / "mine")]
    assert main(command) == 0 and ran == [] and "record, too" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "mine")
    table = files.read_table(committed / "runs.csv")
    changed = table["psnr_raw"] + 0.25 * (table["run"] == "sr-x2-edsr-spn-1")
    table.assign(psnr_raw=changed).to_csv(committed / "runs.csv", index=False)
    assert main([*command, "--again"]) == 0 and len(ran) == 6
    said = "6 of 6 runs are in a committed record, too; PSNR differs by 0.2500 dB at most (sr-x2-edsr-spn-1)"
    assert said in capsys.readouterr().out
    shutil.rmtree(committed)
    assert main([*command, "--again"]) == 0 and "None of these runs has a score" in capsys.readouterr().out
    assert main([*command[:-2], "--again"]) == 1 and "name another folder" in capsys.readouterr().err


def test_a_record_may_begin_with_a_part_of_a_seed(runs_copy, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plans.EXPERIMENTS, "X1", SMALL)
    for seed in (0, 1):
        (runs_copy / f"sr-x2-edsr-spn-{seed}" / "scores.csv").unlink()
    assert main(["compare", "X1", "--collect", "--out", str(runs_copy), "--record", str(tmp_path / "X1")]) == 0
    assert "No seed is finished yet" in capsys.readouterr().out
    with pytest.raises(ValueError, match="runs.csv"):
        evidence.read_record("X1", tmp_path / "X1")


def test_runs_that_diverged_are_recorded_as_they_come(runs_copy, tmp_path):
    """They have no scores of pictures, and count all the same, the first of a seed as well as the last."""
    folder = tmp_path / "record"
    of_seed = [runs_copy / f"sr-x2-edsr-{arm}-1" for arm in ("spn", "plain", "plain-at-equal-cost")]
    kept = {run: (run / "scores.csv").read_bytes() for run in of_seed}
    for run in of_seed:
        (run / "scores.csv").unlink()
    files.write_json(of_seed[0] / "arm.json", {"arm": "spn", "stopped": "step 2: the loss is not finite"})
    recording.write_record(SMALL, runs_copy, folder)
    assert list(files.read_table(folder / "unfinished" / "runs.csv")["run"]) == [of_seed[0].name]
    for run in of_seed[1:]:
        (run / "scores.csv").write_bytes(kept[run])
    record = evidence.read_record("X1", recording.write_record(SMALL, runs_copy, folder))
    assert (record.runs["stopped"] != "").sum() == 1 and set(record.runs["seed"]) == {0, 1}
    assert set(record.runs["run"]) - set(record.images["run"]) == {of_seed[0].name}


def test_a_record_uses_runs_of_another_with_the_same_setting(made, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "root", lambda: tmp_path)
    first, second = (dataclasses.replace(SMALL, name=name, runs="shared", seeds=(0, 1)) for name in ("X1", "X2"))
    for experiment in (first, second):
        monkeypatch.setitem(plans.EXPERIMENTS, experiment.name, experiment)
    recording.write_record(first, made[1])
    recording.write_record(second, tmp_path / "no runs here")
    assert evidence.recorded() == ["X1", "X2"]
    assert evidence.read_record("X2").runs.equals(evidence.read_record("X1").runs)
    more = (*SMALL.arms, compare.Arm("more", {"lambda_neg": 1e-3}))  # not run yet: no seed is whole, and none waits
    third = recording.write_record(dataclasses.replace(first, name="X3", arms=more), tmp_path / "no runs here")
    assert not list(third.glob("**/*.csv"))


def test_what_is_withdrawn_is_shown_no_more_and_said(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    taken = {"arms": ["plain at equal cost"], "columns": ["r"], "why": "The scales were broken."}
    files.write_json(tmp_path / "withdrawn.json", taken)
    record = evidence.read_record("X1", tmp_path)
    assert set(record.runs["arm"]) == set(record.images["arm"]) == {"plain", "spn"}
    assert record.runs["r"].isna().all() and record.withdrawn == taken["why"]
    assert "equal cost" not in verdicts.outcome(record)
    recording.write_page("X1", tmp_path)
    assert taken["why"] in (tmp_path / "README.md").read_text()


def test_records_of_another_version_are_refused(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    old = pd.read_csv(tmp_path / "runs.csv").drop(columns=["psnr_ema", "scale"])
    old.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(ValueError, match="scale, psnr_ema"):
        evidence.read_record("X1", tmp_path)


def test_no_folder_of_the_machine_is_written(runs_copy, tmp_path):
    private = dict(dataset="bsds500", data_root=str(tmp_path / "private/bsds"))
    for run in runs_copy.iterdir():
        files.write_json(run / "recipe.json", records.read_recipe(run).replace(**private).model_dump())
    one = dataclasses.replace(SMALL, seeds=(0,))
    folder = recording.write_record(one, runs_copy, tmp_path / "record")
    assert set(pd.read_csv(folder / "runs.csv")["data_root"]) == {"bsds"}


def test_the_command_line_runs_and_records(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plans.EXPERIMENTS, "X1", SMALL)
    folder, out_dir = made
    arguments = ["compare", "X1", "--out", str(out_dir), "--record", str(tmp_path / "X1"), "--seeds", "2"]
    assert main(arguments) == 0  # its runs are there
    assert "spn against plain" in capsys.readouterr().out
    assert (tmp_path / "X1" / "runs.csv").read_bytes() == (folder / "runs.csv").read_bytes()
    assert main([*arguments, "--collect"]) == 0 and "spn against plain" in capsys.readouterr().out
    assert main(["compare", "X1", "--collect", "--out", str(tmp_path / "none"), "--record", str(tmp_path / "Y")]) == 1
    assert "no run of X1 is finished" in capsys.readouterr().err
    assert main(["compare", "c1"]) == 1 and "'C1'" in capsys.readouterr().err
    assert main(["compare", "X1", "--seeds", "4"]) == 1 and "3 decided seeds" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in evidence.recorded() if name in plans.EXPERIMENTS])
def test_the_page_of_a_committed_record_is_what_its_numbers_say(name, tmp_path):
    there = root() / "data" / "records" / name
    folder = shutil.copytree(there, tmp_path / name)
    recording.write_page(name, folder)
    assert (folder / "README.md").read_text() == (there / "README.md").read_text()


@pytest.mark.parametrize("name", evidence.recorded())
def test_committed_records_say_what_their_numbers_say(name):
    record, folder = evidence.read_record(name), root() / "data" / "records" / name
    if name in plans.EXPERIMENTS:
        decided = plans.EXPERIMENTS[name].decision()
        assert {key: record.decision[key] for key in decided} == decided
    text = (folder / "README.md").read_text()
    assert record.withdrawn in text and all(line in text for line in verdicts.outcome(record).splitlines())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_500_000  # rows, no weights
    assert "/home/" not in text + (folder / "runs.csv").read_text()


def test_a_readers_runs_are_those_that_are_named(made):
    names = ["sr-x2-edsr-plain-0", "sr-x2-edsr-spn-0", "sr-x2-edsr-spn-2"]  # the last one is not there
    assert evidence.from_runs(made[1], names).runs["run"].tolist() == names[:2]
    assert len(evidence.from_runs(made[1]).runs) == 6


def test_a_page_names_every_machine(made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    runs = pd.read_csv(tmp_path / "runs.csv")
    runs.assign(torch=["1.0", "2.0"] * 3).to_csv(tmp_path / "runs.csv", index=False)
    recording.write_page("X1", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "torch 1.0" in text and "torch 2.0" in text


def test_markdown_tables():
    rows = pd.DataFrame({"name": ["a|b", None], "value": [0.25, float("nan")]})
    assert files.as_markdown(rows).splitlines() == ["| name | value |", "| --- | --: |", r"| a\|b | 0.25 |", "|  |  |"]
