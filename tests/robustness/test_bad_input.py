"""What goes wrong with real pictures and data, from the user's door: the file is named, status 1, nothing is left."""

import os

import pictures
import pytest
import torch
from trainers import untrained_run

from mclir_nb.__main__ import main
from mclir_nb.data import tasks
from mclir_nb.evaluation import evaluate
from mclir_nb.training import recipes, records


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("run"), recipes.get("tiny", "sr", scale=2))


def refused(capsys, *command):
    """The one sentence that a command ends with."""
    assert main([*map(str, command)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


def cut_off(path):
    pictures.write(path, (80, 90)).write_bytes(path.read_bytes()[:2000])


def test_a_picture_that_cannot_be_restored_is_named(tmp_path, run, capsys):
    """Every kind of damage is in tests/data/test_images.py."""
    cut_off(tmp_path / "photo.png")
    before = sorted(tmp_path.iterdir())
    error = refused(capsys, "restore", tmp_path / "photo.png", "--checkpoint", run, "--device", "cpu")
    assert "damaged" in error and str(tmp_path / "photo.png") in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def sound(root):
    """Ten pairs of pictures as large as the patch."""
    for number in range(10):
        for side, seed in (("lq", 10 + number), ("gt", number)):
            pictures.write(root / f"train/{side}/{number}.png", (80, 90), seed)


SETS = {  # how it is spoilt, and words of the sentence; every other kind is in tests/data/test_checks.py
    "half a download": (lambda root: (root / "train/gt/3.png").unlink(), "1 of 10 files", "no partner", "lq/3.png"),
    "truncated": (lambda root: cut_off(root / "train/lq/0.png"), "train/lq/0.png", "damaged"),
}


@pytest.mark.parametrize("what", SETS)
def test_a_data_set_that_cannot_be_trained_on(tmp_path, capsys, what):
    spoil, *words = SETS[what]
    sound(tmp_path / "data")
    spoil(tmp_path / "data")
    command = ["train", "--task", "derain", "--recipe", "tiny", "--dataset", "folder", "--steps", "1"]
    command += ["--data-root", tmp_path / "data", "--patch-size", "64", "--out", tmp_path / "run", "--device", "cpu"]
    error = refused(capsys, *command)
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_folder_that_may_not_be_looked_into(tmp_path, capsys, monkeypatch, call):
    sound(tmp_path)
    look = getattr(os, call)

    def deny(place, *arguments, **options):
        if str(place).endswith("lq"):
            raise PermissionError(13, "Permission denied", str(place))
        return look(place, *arguments, **options)

    monkeypatch.setattr(os, call, deny)
    error = refused(capsys, "check-data", "folder", tmp_path, "--task", "derain")
    assert "train/lq" in error and "chmod" in error


def test_a_benchmark_picture_too_small_to_be_scored_is_named():
    small = [("tiny-picture", *torch.zeros(2, 3, 8, 9))]
    network = records.build_network(recipes.get("tiny", "denoise"))
    with pytest.raises(ValueError, match="tiny-picture"):
        evaluate.evaluate(network, small, tasks.get("denoise").protocol, quiet=True)
