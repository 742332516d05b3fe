"""Experiments: decided before, run seed by seed, recorded as they turned out, and what their records allow to say."""

import dataclasses
import math
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


def table(gain: float, seeds: int = 3, arms=("spn",)) -> pd.DataFrame:
    """Runs of plain and other arms: a gain with a small spread."""
    rows = []
    for seed in range(seeds):
        for number, arm in enumerate(("plain", *arms)):
            score = 20 + seed + (gain + 0.01 * seed * (-1) ** number if number else 0)
            run = dict(task="derain", scale=1, network="nafnet", arm=arm, seed=seed, stopped="", psnr_raw=score)
            run |= dict(objective="spn" if number else "plain", device="cpu", lambda_used=0.002)
            facts = dict(dose=0.1, dose_measured=0.12, r=0.01, pictures=4, steps=9, macs=1.0 + number)
            rows.append(run | dict(psnr_ema=score) | facts)
    return pd.DataFrame(rows)


@pytest.fixture
def record(monkeypatch):
    """Make `evidence` answer with records of these tables."""
    decided = {"question": "Does it?", "seeds": [0, 1, 2, 3, 4], "baseline": "plain", "scores": ["psnr_raw"]}

    def known(**tables):
        there = {name: evidence.Record(name, decided, runs, runs, runs) for name, runs in tables.items()}
        monkeypatch.setattr(evidence, "recorded", lambda: sorted(there))
        monkeypatch.setattr(evidence, "read_record", lambda name: there[name])

    return known


def test_results_say_everything_a_gain_has_to_be_read_with(made):
    record = evidence.read_record("X1", made[0])
    found = verdicts.results(record).set_index("arm")
    assert set(found.index) == {"spn", "plain at equal cost"}
    pairs = record.runs.pivot(index="seed", columns="arm", values="psnr_raw")
    gain = pairs["spn"] - pairs["plain"]
    macs = record.runs.groupby("arm")["macs"].mean()
    costs = [macs[arm] / macs["plain"] for arm in found.index]
    assert found.loc["spn", "gain_raw"] == pytest.approx(gain.mean())
    assert found.loc["spn", "half_raw"] == pytest.approx(12.706 * gain.std() / 2**0.5, rel=1e-3)  # t(0.975, 1)
    assert found["holm_raw"].ge(found["half_raw"]).all() and found["run_cost"].tolist() == pytest.approx(costs)
    spn = record.runs[record.runs["arm"] == "spn"]
    assert found.loc["spn", "r"] == pytest.approx(spn["r"].mean()) and found["pictures"].tolist() == [4, 4]
    assert found.loc["spn", "dose_measured"] == pytest.approx(spn["dose_measured"].mean())
    asked = verdicts.results(evidence.read_record("S"), "spn").set_index(["task", "arm"])["dose"]
    assert asked["sr", "sampled"] == 0.1 and math.isnan(asked["sr", "plain"])  # whose recipe has the field, too
    text = verdicts.shown(verdicts.results(record)).to_string()
    assert "spn" in text and "dose" not in verdicts.shown(verdicts.results(record))  # lambda was given


def test_a_summary_has_one_line_per_record_and_one_for_what_is_not_run(record):
    record(D=table(0.5), C1=table(0.0))
    told = verdicts.summary("../").splitlines()
    dose, older, waiting = told
    assert "(../data/records/D/README.md)" in dose and "derain 3 of 5 seeds" in dose
    assert "Of 2 differences to plain, 2 can be told from zero after correction: spn, derain nafnet, raw +0.4" in dose
    assert "not run yet" in waiting and all(f"[{name}]" in waiting for name in evidence.NEWER if name != "D")
    assert older.count("[C1]") == 1 and "none can be told from zero" in older
    assert evidence.committed("C1").name == "C1" and evidence.committed("E9") is None


def test_an_answer_is_two_sentences_from_the_intervals(record):
    record(D=table(0.5, arms=("spn", "vgg")), C1=table(0.0), L=table(0.0, seeds=5), R=table(0.5, seeds=1))
    clear, null, one = (verdicts.answer(evidence.read_record(name)) for name in ("D", "L", "R"))
    assert clear.startswith(
        "Provisional, for not all 5 decided seeds are there: over 3 paired seeds (weak evidence: fewer than 5) SPN is "
        "better than plain training (derain"
    )
    assert "at 2.0 times its multiplications, which plain training was not given; fresh seeds" in clear
    assert "3 of 5 seeds, so provisional" in verdicts.state(evidence.read_record("D"))
    assert null.startswith("Over 5") and "rovisional" not in verdicts.state(evidence.read_record("L"))
    assert "differ from plain training after Holm's correction: vgg" in clear
    assert "no visible effect" in null and "weak" not in null and "No other arm" in null
    assert one.startswith("Not known yet")
    assert evidence.main_record("R", "E9", "C1", "D").name == "C1" and evidence.main_record("R").name == "R"


def test_an_answer_names_the_control_at_equal_cost():
    runs = table(0.5, arms=("spn", "plain at equal cost"))
    arms = [{"name": "spn", "changes": {"dose": 0.1}}, {"name": "plain at equal cost", "at_cost_of": "spn"}]
    decided = {"seeds": [0, 1, 2], "baseline": "plain", "arms": arms}
    said = verdicts.answer(evidence.Record("V", decided, runs, runs, runs))
    assert "where plain training at its cost gains derain nafnet +0.5" in said and "No other arm" in said


def diverged(runs: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The runs with the first one of an arm gone astray."""
    scores = {"psnr_raw": math.nan, "psnr_ema": math.nan, "pictures": 0, "stopped": "step 2: the loss is not finite"}
    return runs.assign(**{k: runs[k].mask((runs["arm"] == arm) & (runs["seed"] == 0), v) for k, v in scores.items()})


def test_an_arm_that_diverged_is_named_and_nothing_false_is_said(record):
    both = table(0.5, arms=("spn", "vgg"))
    record(D=diverged(both, "vgg"), L=diverged(table(0.5), "spn"), V=diverged(both, "spn"), R=diverged(both, "plain"))
    other, spn, rest, plain = (evidence.read_record(name) for name in "DLVR")
    assert "SPN is better" in verdicts.answer(other) and "No other arm" not in verdicts.answer(other)
    for kept, arm in ((other, "vgg"), (spn, "spn"), (rest, "spn"), (plain, "plain")):
        for said in (verdicts.answer(kept), verdicts.state(kept)):
            assert f"A run of {arm} on derain nafnet diverged, so nothing is said of" in said
    assert verdicts.answer(spn).startswith("Not known yet") and "no two seeds" not in verdicts.answer(spn)
    assert "SPN cannot be judged" in verdicts.answer(rest) and "Holm's correction: vgg" in verdicts.answer(rest)
    assert verdicts.results(other).set_index("arm")["pictures"].to_dict() == {"spn": 4, "vgg": 4}


def test_the_main_record_is_the_one_with_the_most_seeds(record, monkeypatch):
    settings = [{"task": "sr x4"}, {"task": "derain"}]
    derain, sr = table(0.0, seeds=8), table(0.0, seeds=8).assign(task="sr", scale=4)
    one = derain[derain["seed"] < 1]
    record(S=pd.concat([sr, derain]), D=sr, V=pd.concat([sr, one]))
    for kept in map(evidence.read_record, "SDV"):
        kept.decision["settings"] = settings
    assert evidence.main_record("V", "D", "S").name == "S"
    for name, count in (("D", 0), ("V", 1)):
        kept = evidence.read_record(name)
        assert "Of derain there are not yet two seeds" in verdicts.answer(kept)
        assert f"derain {count} of 5 seeds" in verdicts.state(kept)
        assert f"{count} of 5 decided seeds of derain" in verdicts.flaws(kept)
    assert "not yet two" not in verdicts.answer(evidence.read_record("S"))


def test_a_verdict_of_the_ema_alone_is_told_with_its_numbers():
    runs = table(0.006, seeds=8)
    spn = runs["arm"] == "spn"
    noise = [0.006 * (-1) ** seed for seed in runs["seed"]]
    runs["psnr_ema"] = (20.0 + runs["seed"]).where(~spn, 20.006 + runs["seed"] + [value / 10 for value in noise])
    runs["psnr_raw"] = (20.0 + runs["seed"]).where(~spn, 20.004 + runs["seed"] + noise)
    kept = evidence.Record("D", {"baseline": "plain"}, runs, runs, runs)
    assert "is better" in verdicts.answer(kept) and "with the EMA +0.006" in verdicts.answer(kept)
    assert "**+0.006" in verdicts.shown(verdicts.results(kept))["gain, EMA"][0]


def test_a_record_without_spn_is_no_answer_about_it(record):
    record(D=table(0.5, arms=("vgg",)))
    said = verdicts.answer(evidence.read_record("D"))
    assert "SPN cannot be judged" in said and "correction: vgg (derain" in said


def test_fading_shows_r_and_the_dose_along_the_runs(made):
    record = evidence.read_record("X1", made[0])
    found = verdicts.fading(record)
    spn = record.curves[(record.curves["arm"] == "spn") & record.curves["dose"].notna()]
    assert len(found) and found["dose"].mean() == pytest.approx(spn["dose"].mean(), abs=1e-3)
    assert verdicts.fading(evidence.read_record("C1")).empty  # its runs did not look
    last, curves = found["step"].max(), record.curves
    ended = record._replace(curves=curves[(curves["step"] < last) | (curves["seed"] < 1)])  # one run is shorter
    assert verdicts.fading(ended)["step"].tolist() == found["step"][found["step"] < last].tolist()


def test_flaws_are_computed():
    old = verdicts.flaws(evidence.read_record("A1"))
    assert any("lambda was given" in flaw for flaw in old) and "3 seeds" in old and "4 test pictures" in old
    whole = evidence.read_record("D")
    part = whole._replace(runs=whole.runs[whole.runs["seed"] < 7])
    assert "7 of 8 decided seeds" in verdicts.flaws(part) and "decided seeds" not in str(verdicts.flaws(whole))
    new = {"arms": [{"changes": {"objective": "plain"}}, {"changes": {"objective": "spn", "dose": 0.1}}]}
    runs = table(0.1, seeds=8).assign(pictures=100)
    assert verdicts.flaws(evidence.Record("D", new, runs, None, None)) == []
    (flaw,) = verdicts.flaws(evidence.Record("D", new, runs.assign(dose=0.1, dose_measured=0.25), None, None))
    assert "spn: 0.25 on derain" in flaw
    more = pd.concat([runs, table(0.1, seeds=3).assign(pictures=5, task="sr")])
    assert verdicts.flaws(evidence.Record("D", new, more, None, None)) == ["3 seeds of sr", "5 test pictures of sr"]
    few = pd.concat([table(0.1, seeds=n).assign(pictures=100, task=task) for n, task in ((2, "sr"), (3, "derain"))])
    assert verdicts.flaws(evidence.Record("D", new, few, None, None)) == ["2 seeds of sr", "3 seeds of derain"]


def test_what_should_be_equal_in_a_record_and_is_not_is_a_flaw():
    runs = table(0.1, seeds=8, arms=("spn", "spn 0.2")).assign(pictures=100, dose_measured=0.1)
    runs["dose"] = runs["dose"].mask(runs["arm"] == "spn 0.2", 0.2)

    def flaws(**changes):
        return verdicts.flaws(evidence.Record("D", {}, runs.assign(**changes), None, None))

    (lambdas,) = flaws()  # the same lambda for two doses
    assert "lambda for a dose was chosen more than once for spn on derain" in lambdas and "0.01 " in lambdas
    right = runs["lambda_used"] * runs["dose"] / 0.1
    assert flaws(lambda_used=right) == []
    assert flaws(lambda_used=right, history_every=runs["arm"]) == []  # other histories, another lambda
    (device,) = flaws(lambda_used=right, device=runs["arm"].map({"plain": "cpu"}).fillna("gpu"))
    assert "different devices (cpu, gpu)" in device
    mixed = runs["arm"].map({"plain": "a" * 40}).fillna("b" * 40)
    (revision,) = flaws(lambda_used=right, revision=mixed)
    assert revision.endswith("revisions of the workbook (aaaaaaa, bbbbbbb)")
    known = mixed.where(runs["arm"] == "plain")  # older rows do not know their processor
    assert flaws(lambda_used=right, processor=known) == []
    assert any("chosen more than once for spn on sr" in flaw for flaw in verdicts.flaws(evidence.read_record("D")))


def test_what_a_record_measured_is_said_of_the_tasks_that_are_named(record):
    runs = table(0.5).assign(dataset="bsds500-test", network_size="tiny")
    record(D=pd.concat([runs, runs.assign(task="sr", dataset="bsds500", network_size="paper")]))
    assert "plain, spn on derain (tiny networks, bsds500-test pictures)" in verdicts.measured("plain spn", "derain")[0]
    assert "on derain, sr (tiny and paper networks" in verdicts.measured("plain spn")[0]


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


def test_nothing_is_claimed_without_records_or_with_one_seed(record):
    record()
    (waiting,) = verdicts.summary().splitlines()
    assert "not run yet" in waiting and waiting.count("](") == len(evidence.NEWER)
    record(D=table(0.5, seeds=1))
    assert "No conclusion" in verdicts.summary()


def test_markdown_tables():
    rows = pd.DataFrame({"name": ["a|b", None], "value": [0.25, float("nan")]})
    assert files.as_markdown(rows).splitlines() == ["| name | value |", "| --- | --: |", r"| a\|b | 0.25 |", "|  |  |"]


def test_a_record_may_compare_with_another_arm_than_plain(record):
    """S asks for the difference of two ways to take SPN's step; the answer is about plain training all the same."""
    runs = table(0.5, arms=("spn", "sampled"))
    decided = {"question": "Does it?", "seeds": [0, 1, 2], "baseline": "spn", "scores": ["psnr_raw"]}
    kept = evidence.Record("S", decided, runs, runs, runs)
    assert "sampled against spn" in verdicts.outcome(kept) and "plain against spn" in verdicts.outcome(kept)
    assert "differences to spn" in verdicts.state(kept) and "SPN is better" in verdicts.answer(kept)
    assert set(verdicts.results(kept)["arm"]) == {"spn", "sampled"}
