"""Comparisons: what is planned, what is run and what is not run again, what is collected."""

import json
import os
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mclir_nb.experiments import compare, pool
from mclir_nb.experiments.compare import Arm
from mclir_nb.training import recipes, records, train

ARMS = compare.arms(["plain", "spn"])


def recipe(**changes):
    """The smallest run there is."""
    small = dict(scale=2, steps=3, patch_size=32, log_every=1, val_every=3, history_every=(2, 1))
    return recipes.get("tiny", "sr", **small | changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two seeds of plain, spn and plain at equal time; (folder, plan, table of runs)."""
    folder, plan = tmp_path_factory.mktemp("comparison"), compare.plan(recipe(), ARMS, (0, 1))
    return folder, plan, compare.run(plan, folder, quiet=True)


@pytest.fixture
def copy(done, tmp_path):
    """A comparison that may be damaged: the small files of one."""
    for file in done[0].glob("*/*"):
        if file.suffix in (".csv", ".json"):
            (tmp_path / file.parent.name).mkdir(exist_ok=True)
            (tmp_path / file.parent.name / file.name).write_bytes(file.read_bytes())
    return tmp_path


# --- planning ---


def test_a_plan_goes_seed_by_seed_and_changes_nothing_but_the_arm():
    plan = compare.plan(recipe(), ARMS, (3, 5))
    assert [job.arm for job in plan] == ["plain", "spn", "plain at equal time"] * 2
    assert [job.recipe.seed for job in plan] == [3, 3, 3, 5, 5, 5]
    assert plan[1].recipe == plan[0].recipe.replace(objective="spn")
    assert plan[1].name == "sr-x2-edsr-spn-3" and plan[2].as_long_as == plan[1].name and plan[2].twin == plan[0].name


def test_equal_time_needs_both_plain_and_spn():
    assert [arm.name for arm in compare.arms(["spn", "vgg"])] == ["spn", "vgg"]


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [
        ([Arm("a"), Arm("a")], (0,), "arms .* each different"),
        ([Arm("a"), Arm("A")], (0,), "arms .* each different"),  # one folder
        ([], (0,), "at least one"),
        ([Arm("a")], (0, 0), "seeds .* each different"),
        ([Arm("a")], (), "seeds .* at least one"),
        ([Arm("a"), Arm("b", as_long_as="spn")], (0,), "as long as 'spn', which is no arm with its own steps"),
        ([Arm("spn", {"objective": "spn"}), Arm("b", {"objective": "cr"}, "spn")], (0,), "seconds per step are known"),
        ([Arm("a", {"objectiv": "spn"})], (0,), "did you mean 'objective'"),
    ],
)
def test_impossible_plans_are_refused(arms, seeds, message):
    with pytest.raises(ValueError, match=message):
        compare.plan(recipe(), arms, seeds)


# --- running ---


def test_every_run_is_one_row(done):
    _, plan, runs = done
    assert runs["run"].tolist() == [job.name for job in plan]
    assert set(runs.columns) >= set(recipes.Recipe.model_fields) - {"name"} | {"recipe"}
    numbers = ["psnr_input", "psnr_raw", "psnr_ema", "ssim_raw", "ssim_ema", "seconds_per_step"]
    assert runs[numbers].gt(0).all().all() and (runs["stopped"] == "").all()
    assert runs.loc[runs["arm"] == "spn", "feature_network"].str.contains("EfficientNet").all()
    assert (runs["torch"] == torch.__version__).all() and runs["peak_memory_mb"].isna().all()


def test_the_mean_is_that_of_the_pictures(done):
    folder, plan, runs = done
    pictures = compare.images(folder)
    for column in ("psnr_raw", "psnr_ema", "psnr_input"):
        means = pictures.groupby("run")[column].mean()
        assert runs.set_index("run")[column].to_dict() == pytest.approx(means.to_dict())
    scores = records.Run(folder / plan[0].name).scores
    assert pictures.query("run == @plan[0].name")["psnr_raw"].tolist() == scores["psnr_restored"].tolist()


def test_equal_time_takes_the_steps_that_fit_into_the_other_run(done):
    _, _, runs = done
    for _, seed in runs.groupby("seed"):
        rows = seed.set_index("arm")
        plain, spn, timed = (rows.loc[arm] for arm in ("plain", "spn", "plain at equal time"))
        assert timed["steps"] == max(1, round(3 * spn["seconds_per_step"] / plain["seconds_per_step"]))
        assert timed["objective"] == "plain" and spn["steps"] == plain["steps"] == 3


def test_finished_runs_are_never_repeated(done, monkeypatch):
    folder, plan, runs = done
    monkeypatch.setattr(train, "train", lambda *a, **k: pytest.fail("trained again"))
    again = compare.run(plan, folder, quiet=True)
    pd.testing.assert_frame_equal(runs, again)


def test_a_half_written_run_goes_on_and_the_others_stay(copy, done):
    _, plan, runs = done
    (copy / plan[0].name / "scores.csv").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 runs .* are not finished \(sr-x2-edsr-plain-0\); run the same"):
        compare.collect(copy)
    assert len(compare.collect(copy, finished_only=True)) == 5
    before = {name: (copy / job.name / "scores.csv").stat().st_mtime_ns for job in plan[1:] for name in [job.name]}
    again = compare.run(plan, copy, quiet=True)
    assert before == {name: (copy / name / "scores.csv").stat().st_mtime_ns for name in before}
    assert again["psnr_raw"].tolist() == pytest.approx(runs["psnr_raw"].tolist(), abs=1e-12)


def test_a_folder_of_another_recipe_stops_before_anything_is_run(copy, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(ValueError, match=r"another recipe \(steps: 3 there, 4 now\); choose another out_dir"):
        compare.run(compare.plan(recipe(steps=4), ARMS, (7, 0)), copy, quiet=True)


def test_a_run_that_diverges_is_a_result(tmp_path):
    plan = compare.plan(recipe(steps=20), [Arm("strong", {"objective": "spn", "lambda_neg": 1e4})], (0,))
    runs = compare.run(plan, tmp_path, quiet=True)
    assert "the negative term outweighs" in runs["stopped"][0] and runs["psnr_raw"].isna().all()
    assert compare.run(plan, tmp_path, quiet=True).equals(runs)
    with pytest.raises(ValueError, match="all of them diverged"):
        compare.images(tmp_path)


def test_own_processes_give_the_same_weights_and_outlive_one_that_fails(done, tmp_path):
    bad = compare.plan(recipe(), [Arm("bad", {"objective": "vgg", "features": "vgg16"})], (0,))  # no weight file
    good = done[1][0]
    with pytest.raises(RuntimeError, match=r"1 runs did not finish \(sr-x2-edsr-bad-0\): ValueError: .*vgg16"):
        compare.run([*bad, good], tmp_path, processes=2, quiet=True)
    (row,) = compare.collect(tmp_path, finished_only=True).itertuples()
    assert row.arm == "plain" and (sys.platform == "win32" or 100 < row.peak_memory_mb < 10_000)
    if os.environ.get("OMP_NUM_THREADS") == "1":  # another number of threads rounds differently
        here, there = (load_file(place / good.name / "model.safetensors") for place in (done[0], tmp_path))
        assert all(torch.equal(here[key], there[key]) for key in here)


def test_processes_must_be_a_number_of_them(tmp_path):
    with pytest.raises(ValueError, match="processes is 0"):
        compare.run(compare.plan(recipe(), ARMS, (0,)), tmp_path, processes=0, quiet=True)


def test_a_comparison_is_not_for_a_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a comparison shares out whole runs, not batches: start it without"):
        compare.run(compare.plan(recipe(), ARMS, (0,)), tmp_path, quiet=True)


# --- a cluster ---


def test_without_dask_the_way_on_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'mclir-nb\[cluster\]'"):
        compare.run(compare.plan(recipe(), ARMS, (0,)), tmp_path, scheduler="local", quiet=True)


def test_a_scheduler_that_does_not_answer_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs dask.distributed")
    monkeypatch.setattr(pool, "PATIENCE", 1)
    with pytest.raises(ValueError, match="no Dask scheduler answered at 'tcp://127.0.0.1:9' within 1 s"):
        compare.run(compare.plan(recipe(), ARMS, (0,)), tmp_path, scheduler="tcp://127.0.0.1:9", quiet=True)


def test_a_worker_that_writes_elsewhere_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "on_cluster", lambda work, jobs, scheduler, count: [job.name for job in jobs])
    with pytest.raises(ValueError, match="Give an out_dir that all machines share"):
        compare.run(compare.plan(recipe(), ARMS, (0,)), tmp_path, scheduler="tcp://there:1", quiet=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # dask's own, when a worker dies
def test_a_lost_worker_is_replaced_and_the_result_is_the_same(done, tmp_path):
    pytest.importorskip("distributed", reason="needs dask.distributed")
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as local:
        plan = compare.plan(recipe(steps=60, save_every=5), ARMS[:2], (0,))
        killer = _kill_when(tmp_path / plan[0].name / "checkpoint.safetensors", local)
        runs = compare.run(plan, tmp_path, scheduler=local.scheduler_address, quiet=True)
        killer.join()
    alone = compare.run(plan[:1], tmp_path / "alone", quiet=True)
    assert killer.killed and runs["psnr_raw"][0] == pytest.approx(alone["psnr_raw"][0], abs=1e-9)


def _kill_when(file, local):
    """A thread that kills the worker once a run has saved its first checkpoint and is not finished."""
    import signal
    import threading
    import time

    def kill():
        while not file.exists():
            time.sleep(0.05)
        if not (file.parent / "scores.csv").exists():
            os.kill(local.workers[0].pid, signal.SIGKILL)
            thread.killed = True

    thread = threading.Thread(target=kill, daemon=True)
    thread.killed = False
    thread.start()
    return thread


# --- collecting ---


def test_seconds_per_step_ignore_validation_and_start():
    log = pd.DataFrame({"step": [10, 20, 30, 40, 50], "seconds": [9.0, 10.0, 14.0, 15.0, 16.0]})
    assert compare.seconds_per_step(log) == pytest.approx(0.1)
    assert compare.seconds_per_step(log[:1]) == pytest.approx(0.9)


def test_curves_are_thinned_but_keep_what_was_validated(done):
    table = compare.curves(done[0], rows=1)
    assert table.groupby("run")["val_psnr"].count().ge(1).all()
    full = compare.curves(done[0], rows=100)
    assert len(full) == sum(len(records.Run(done[0] / job.name).log) for job in done[1])
    assert len(table) < len(full) and {"arm", "seed", "l_rec", "l_neg", "r"} <= set(table.columns)


def test_runs_made_alone_count_with_their_objective(done, copy):
    (copy / done[1][1].name / "arm.json").unlink()
    assert "spn" in set(compare.collect(copy)["arm"])


def test_scores_of_another_version_are_refused(copy, done):
    file = copy / done[1][0].name / "scores.csv"
    pd.read_csv(file).drop(columns="psnr_ema").to_csv(file, index=False)
    with pytest.raises(ValueError, match="no column psnr_ema: it was written by another version"):
        compare.collect(copy)


def test_a_recipe_of_another_version_is_refused(copy, done):
    file = copy / done[1][0].name / "recipe.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"momentum": 0.9}))
    with pytest.raises(ValueError, match="momentum"):
        compare.collect(copy)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run folders"):
        compare.collect(tmp_path)
