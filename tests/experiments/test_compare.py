"""Comparisons: what is planned, what is run and what is not run again, what is collected."""

import json
import os
import shutil
import signal
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mclir_nb.experiments import ablations, compare, pool, run_tables
from mclir_nb.experiments.compare import Arm
from mclir_nb.training import macs, recipes, records, train, user_code

ARMS = compare.arms(["plain", "spn"])


def recipe(**changes):
    """The smallest run there is."""
    small = dict(scale=2, steps=3, patch_size=32, log_every=1, val_every=3, history_every=(2, 1))
    return recipes.get("tiny", "sr", **small | {"history_decay": (0.1, 0.1)} | changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two seeds of plain, spn and plain at equal cost; (folder, plan, table of runs)."""
    folder, plan = tmp_path_factory.mktemp("comparison"), compare.plan(recipe(), ARMS, (0, 1))
    return folder, plan, compare.run(plan, folder, quiet=True)


@pytest.fixture
def copy(done, tmp_path):
    """A comparison that may be damaged: the small files of one."""
    return shutil.copytree(done[0], tmp_path, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)


def test_a_run_of_another_definition_is_not_taken_for_done(done, copy, monkeypatch):
    monkeypatch.setattr(user_code, "definitions", lambda recipe: {"task 'sr'": "another one"})
    with pytest.raises(ValueError, match="another definition of task 'sr'"):
        compare.run(done[1], copy, quiet=True)


def test_a_plan_goes_seed_by_seed_and_changes_nothing_but_the_arm():
    plan = compare.plan(recipe(), ARMS, (3, 5))
    assert [job.arm for job in plan] == ["plain", "spn", "plain at equal cost"] * 2
    assert [job.recipe.seed for job in plan] == [3, 3, 3, 5, 5, 5]
    assert plan[1].recipe == plan[0].recipe.replace(objective="spn") and plan[1].name == "sr-x2-edsr-spn-3"


def test_equal_cost_is_counted_before_anything_runs():
    plain, spn, equal = compare.plan(recipe(steps=200), ARMS, (0,))
    assert equal.recipe == plain.recipe.replace(steps=equal.recipe.steps) and spn.recipe.steps == 200
    assert macs.run_macs(equal.recipe) == pytest.approx(macs.run_macs(spn.recipe), rel=0.01)


def test_objectives_are_given_one_dose():
    arms = compare.arms(["plain", "spn", "vgg"], dose=0.1)
    assert [arm.changes.get("dose") for arm in arms] == [None, 0.1, 0.1, None]
    assert not any("lambda_neg" in arm.changes for arm in arms)
    assert compare.plan(recipe(), arms, [0])[2].recipe.dose == 0.1


@pytest.mark.parametrize(
    ("arms", "seeds", "said"),
    [
        ([Arm("a"), Arm("A")], (0,), "arms.* given: a, A$"),  # one folder
        ([], (0,), "arms.* given: none"),
        ([Arm("a")], (0, 0), "seeds.* given: 0, 0$"),
        ([Arm("a")], (), "seeds.* given: none"),
        ([Arm("a"), Arm("b", at_cost_of="spn")], (0,), "'spn'"),
        ([Arm("a"), Arm("b", at_cost_of="b")], (0,), "'b'"),
    ],
)
def test_impossible_plans_are_refused(arms, seeds, said):
    with pytest.raises(ValueError, match=said):
        compare.plan(recipe(), arms, seeds)


@pytest.mark.parametrize("name", ablations.names())
def test_every_ablation_can_be_planned_for_every_task(name):
    for task in ("dehaze", "derain", "deblur", "sr"):
        own = recipes.get("tiny", task)
        arms = ablations.arms(name, own)
        jobs = compare.plan(own, arms, (0, 1))
        assert [arm.name for arm in arms[:2]] == ["plain", "spn"] and len(arms) >= 3
        assert len({job.recipe for job in jobs}) == len(jobs)
        dosed = [arm.changes.get("dose") for arm in ablations.arms(name, own, 0.1)]
        assert dosed[:2] == [None, 0.1] and (set(dosed[2:]) == {0.1}) == (name != "lambda")
        assert len(compare.plan(own, ablations.arms(name, own, 0.1), (0,))) == len(arms)
    with pytest.raises(ValueError, match=name):
        ablations.arms(name + "x", own)


def test_arms_in_other_features_have_the_same_lambda_where_no_dose_is_asked_for():
    own = recipes.get("tiny", "derain")
    _, *arms = compare.plan(own, ablations.arms("features", own), (0,))
    assert len(arms) == 2 and {arm.recipe.weight for arm in arms} == {own.weight}  # 07_ablate, exercise 3


def test_every_run_is_one_row_with_the_means_of_its_pictures(done):
    folder, plan, runs = done
    assert runs["run"].tolist() == [job.name for job in plan]
    assert set(runs.columns) >= set(recipes.Recipe.model_fields) - {"name"} | {"recipe"}
    numbers = ["psnr_input", "psnr_raw", "psnr_ema", "ssim_raw", "ssim_ema", "pictures", "macs"]
    assert runs[numbers].gt(0).all().all() and (runs["stopped"] == "").all()
    assert runs.loc[runs["arm"] == "spn", "feature_network"].str.contains("EfficientNet").all()
    assert runs["macs"].tolist() == [macs.run_macs(job.recipe) for job in plan]
    pictures = run_tables.read(folder).images
    for column in ("psnr_raw", "psnr_ema", "psnr_input"):
        means = pictures.groupby("run")[column].mean()
        assert runs.set_index("run")[column].to_dict() == pytest.approx(means.to_dict())
    scores = records.Run(folder / plan[0].name).scores
    assert pictures[pictures["run"] == plan[0].name]["psnr_raw"].tolist() == scores["psnr_restored"].tolist()


def test_finished_runs_are_never_repeated_and_other_recipes_refused(done, monkeypatch):
    folder, plan, runs = done
    monkeypatch.setattr(train, "train", lambda *a, **k: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(runs, compare.run(plan, folder, quiet=True))
    with pytest.raises(ValueError, match="steps"):  # before anything is run
        compare.run(compare.plan(recipe(steps=4), ARMS, (7, 0)), folder, quiet=True)


def test_a_half_written_run_goes_on_and_the_others_stay(copy, done):
    _, plan, runs = done
    (copy / plan[0].name / "scores.csv").unlink()
    with pytest.raises(ValueError, match=plan[0].name):
        run_tables.collect(copy)
    before = {job.name: (copy / job.name / "scores.csv").stat().st_mtime_ns for job in plan[1:]}
    again = compare.run(plan, copy, quiet=True)
    assert before == {name: (copy / name / "scores.csv").stat().st_mtime_ns for name in before}
    assert again["psnr_raw"].tolist() == pytest.approx(runs["psnr_raw"].tolist(), abs=1e-12)


def test_a_run_that_diverges_is_a_result(tmp_path):
    plan = compare.plan(recipe(steps=20), [Arm("strong", {"objective": "spn", "lambda_neg": 1e4})], (0,))
    runs = compare.run(plan, tmp_path, quiet=True)
    assert runs["stopped"][0] and runs["psnr_raw"].isna().all()
    assert compare.run(plan, tmp_path, quiet=True).equals(runs)
    assert run_tables.read(tmp_path).images.empty


def test_own_processes_give_the_same_weights_and_outlive_one_that_fails(done, tmp_path):
    bad = compare.plan(recipe(), [Arm("bad", {"objective": "spn", "features": "vgg16"})], (0,))  # no weight file
    good = done[1][0]
    with pytest.raises(RuntimeError, match=bad[0].name):
        compare.run([*bad, good], tmp_path, processes=2, quiet=True)
    assert run_tables.collect(tmp_path, [good.name])["arm"].tolist() == ["plain"]
    if os.environ.get("OMP_NUM_THREADS") == "1":  # another number of threads rounds differently
        here, there = (load_file(place / good.name / "model.safetensors") for place in (done[0], tmp_path))
        assert all(torch.equal(here[key], there[key]) for key in here)


def test_what_cannot_run_is_refused(tmp_path, monkeypatch):
    plan = compare.plan(recipe(), ARMS[:1], (0,))
    with pytest.raises(ValueError, match="processes"):
        compare.run(plan, tmp_path, processes=0, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="cluster"):
        patch.setitem(sys.modules, "distributed", None)
        compare.run(plan, tmp_path, scheduler="local", quiet=True)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="out_dir"):  # it wrote on its own disk
        patch.setattr(pool, "on_cluster", lambda work, jobs, scheduler, count: [job.name for job in jobs])
        compare.run(plan, tmp_path, scheduler="tcp://there:1", quiet=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a comparison"):  # it shares out runs, not batches
        compare.run(plan, tmp_path, quiet=True)


def test_a_scheduler_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs dask.distributed")
    monkeypatch.setattr(pool, "PATIENCE", 1)
    with pytest.raises(ValueError, match="tcp://127.0.0.1:9"):
        compare.run(compare.plan(recipe(), ARMS, (0,)), tmp_path, scheduler="tcp://127.0.0.1:9", quiet=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # dask's own, when a worker dies
def test_a_lost_worker_is_replaced_and_the_result_is_the_same(tmp_path):
    pytest.importorskip("distributed", reason="needs dask.distributed")
    from distributed import LocalCluster

    killed = threading.Event()
    plan = compare.plan(recipe(steps=60, save_every=5), ARMS[:2], (0,))
    run_dir = tmp_path / plan[0].name

    def kill(cluster):
        """Once a run has saved its first checkpoint and is not finished."""
        while not any(run_dir.glob("checkpoint*")):
            time.sleep(0.05)
        if not (run_dir / "scores.csv").exists():
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
            killed.set()

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local:
        killer = threading.Thread(target=kill, args=(local,), daemon=True)
        killer.start()
        runs = compare.run(plan, tmp_path, scheduler=local.scheduler_address, quiet=True)
        killer.join()
    alone = compare.run(plan[:1], tmp_path / "alone", quiet=True)
    assert killed.is_set() and runs["psnr_raw"][0] == pytest.approx(alone["psnr_raw"][0], abs=1e-9)


def test_curves_are_thinned_but_keep_what_was_validated(done, monkeypatch):
    full = run_tables.read(done[0]).curves
    monkeypatch.setattr(run_tables, "ROWS", 1)
    table = run_tables.read(done[0]).curves
    assert table.groupby("run")["val_psnr"].count().ge(1).all()
    assert len(full) == sum(len(records.Run(done[0] / job.name).log) for job in done[1]) > len(table)


def test_runs_made_alone_count_and_files_of_another_version_are_refused(copy, done, tmp_path):
    (copy / done[1][1].name / "arm.json").unlink()
    assert "spn" in set(run_tables.collect(copy)["arm"])
    scores, saved = copy / done[1][0].name / "scores.csv", copy / done[1][0].name / "recipe.json"
    text = scores.read_text()
    pd.read_csv(scores).drop(columns="psnr_ema").to_csv(scores, index=False)
    with pytest.raises(ValueError, match="psnr_ema"):
        run_tables.collect(copy)
    scores.write_text(text)
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"momentum": 0.9}))
    with pytest.raises(ValueError, match="momentum"):
        run_tables.collect(copy)
    with pytest.raises(ValueError, match="no run folders"):
        run_tables.collect(tmp_path / "elsewhere")
