"""Data are known by what is in them: moved, they go on; others in their place are refused."""

import shutil

import numpy as np
import pytest
from killing import same_runs
from PIL import Image

from mclir_nb.training import checkpoint, recipes, records, train


def pictures(folder, seed: int = 0):
    """Eight noisy pictures; of one seed always the same."""
    chance = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(8):
        Image.fromarray(chance.integers(0, 256, (48, 56, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def recipe(folder, **changes):
    small = dict(steps=4, save_every=2, log_every=2, val_every=4, patch_size=32, batch_size=1, objective="plain")
    return recipes.get("tiny", "denoise", network="nafnet", dataset="folder", data_root=str(folder), **small | changes)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run that was stopped after step 2, and the folder of its data."""
    data, real = pictures(tmp_path / "data"), train.Trainer.advance

    def stops(self, *batch):
        if self.step == 2:
            raise RuntimeError("stopped")
        real(self, *batch)

    monkeypatch.setattr(train.Trainer, "advance", stops)
    with pytest.raises(RuntimeError, match="stopped"):
        train.train(recipe(data), tmp_path / "run", quiet=True)
    monkeypatch.setattr(train.Trainer, "advance", real)
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
