"""Data are known by what is in them: moved, they go on; others in their place are refused."""

import shutil

import pandas as pd
import pytest
from killing import same_runs
from pictures import write
from trainers import Stopped, before_step, stop, untrained_run

from mclir_nb import files
from mclir_nb.__main__ import main
from mclir_nb.training import checkpoint, recipes, records, train


def pictures(folder, seed: int = 0):
    """Eight noisy pictures; of one seed always the same."""
    for number in range(8):
        write(folder / f"{number}.png", (48, 56), 10 * seed + number)
    return folder


def recipe(folder, **changes):
    small = dict(steps=4, save_every=2, log_every=2, val_every=4, patch_size=32, batch_size=1, objective="plain")
    return recipes.get("tiny", "denoise", network="nafnet", dataset="folder", data_root=str(folder), **small | changes)


@pytest.fixture
def interrupted(tmp_path):
    """A run that was stopped after step 2, and the folder of its data."""
    data = pictures(tmp_path / "data")
    with pytest.raises(Stopped), before_step(3, stop):
        train.train(recipe(data), tmp_path / "run", quiet=True)
    return tmp_path / "run", data


def test_a_run_goes_on_with_data_that_were_moved(interrupted, tmp_path):
    run, data = interrupted
    moved = shutil.move(data, tmp_path / "elsewhere")
    train.train(recipe(moved), run, quiet=True)
    whole = train.train(recipe(f"{moved}/"), tmp_path / "whole", quiet=True)
    assert records.read_recipe(run).data_root == str(moved)
    (run / "recipe.json").write_bytes((whole.dir / "recipe.json").read_bytes())
    same_runs(whole.dir, run)
    shutil.move(moved, data)
    assert train.train(recipe(data), run, quiet=True).is_finished


def test_a_finished_run_is_scored_on_its_held_out_pictures_wherever_they_lie(
    interrupted, tmp_path, capsys, monkeypatch
):
    run, data = interrupted
    train.train(recipe(data), run, quiet=True)
    held_out = records.Run(run).scores.image.tolist()
    moved, other = shutil.move(data, tmp_path / "elsewhere"), pictures(tmp_path / "other", seed=1)
    made, checkpointed = records.read_recipe(run), ["--checkpoint", str(run), "--device", "cpu"]
    assert records.where_data_lie(run, made, "folder", str(moved)) == (str(moved), str(moved))
    assert records.where_data_lie(run / "ema.safetensors", made, "folder", str(other)) == (str(other), str(data))
    assert records.where_data_lie(run, made, "folder") == (str(data), str(data))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert records.where_data_lie("~/run", made, "folder", str(moved)) == (str(moved), str(moved))
    for place, pairs in ((moved, len(held_out)), (other, 8)):
        scores = tmp_path / f"{place.name}.csv"
        assert main(["evaluate", "folder", str(place), *checkpointed, "--out", str(scores)]) == 0
        assert len(pd.read_csv(scores)) == pairs
    assert 0 < len(held_out) < 8


def test_other_data_in_the_same_place_are_refused(interrupted, tmp_path):
    run, data = interrupted
    shutil.move(data, tmp_path / "elsewhere")
    pictures(data, seed=1)
    for place in (data, tmp_path / "elsewhere"):
        if place != data:
            train.train(recipe(place), run, quiet=True)  # to its end
        with pytest.raises(ValueError, match="other data .train, val, test. .*data_root"):
            train.train(recipe(data), run, quiet=True)
    shutil.rmtree(data)
    shutil.rmtree(tmp_path / "elsewhere")
    assert train.train(recipe(tmp_path / "elsewhere"), run, quiet=True).is_finished


def test_a_run_that_knows_only_the_path_of_its_data_is_refused_others(interrupted, tmp_path):
    run, data = interrupted
    (run / "provenance.json").unlink()
    with pytest.raises(ValueError, match="data_root"):
        train.train(recipe(shutil.copytree(data, tmp_path / "copy")), run, quiet=True)
    assert checkpoint.read(run / checkpoint.FILE)["run"]["step"] == 2


def test_what_a_run_cannot_have_been_trained_on_is_scored_whole(tmp_path, capsys):
    """A test set alone, two pairs, and a benchmark without its training half."""

    def pairs(lq, gt, count):
        for i in range(1, count + 1):
            for side, name in enumerate((lq, gt)):
                write(tmp_path / name.format(i=i), (48, 56), 100 * side + i)

    pairs("one/test/lq/{i}.png", "one/test/gt/{i}.png", 3)
    pairs("two/lq/{i}.png", "two/gt/{i}.png", 2)
    pairs("three/Rain100L/rainy/rain-{i:03}.png", "three/Rain100L/norain-{i:03}.png", 1)
    for dataset, place, count in (("folder", "one", 3), ("folder", "two", 2), ("rain100l", "three", 1)):
        gone = recipes.get("tiny", "derain", dataset=dataset, data_root=str(tmp_path / "gone"))
        run, scores = untrained_run(tmp_path / f"of-{dataset}", gone), tmp_path / f"{place}.csv"
        files.write_json(run / "provenance.json", {"content": {"train": "another"}})
        command = ["evaluate", dataset, tmp_path / place, "--checkpoint", run, "--out", scores, "--device", "cpu"]
        assert main([*map(str, command)]) == 0, capsys.readouterr().err
        assert len(pd.read_csv(scores)) == count
