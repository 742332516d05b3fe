"""The command line: what a command does, and what it says to a wrong word."""

import os
import sys

import pytest
from pictures import write
from trainers import untrained_run

from mclir_nb import __main__ as command_line
from mclir_nb.__main__ import main
from mclir_nb.evaluation import evaluate
from mclir_nb.evaluation.restore import restore_file
from mclir_nb.training import recipes, records


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "base", recipes.get("tiny", "derain"))


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """a.jpg, b.jpg and c.jpg in the current folder; b.jpg is cut off."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write(tmp_path / f"{name}.jpg", (24, 32))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:300])
    return tmp_path


def said(capsys, *command, status=1):
    """What a command prints to stderr."""
    assert main([*map(str, command)]) == status
    return capsys.readouterr().err


def test_train_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["train", "--task", "sr", "--recipe", "tiny", "--seed", "3", "--out", out, "--device", "cpu"]
    extra = ["--steps", "4", "--scale", "2", "--patch-size", "32", "--history-every", "2", "None", "--val-side", "None"]
    assert main([*arguments, *extra]) == 0
    wanted = dict(seed=3, steps=4, scale=2, patch_size=32, history_every=(2, None), val_side=None)
    assert records.Run(tmp_path / "run").recipe == recipes.get("tiny", "sr", **wanted)
    assert "psnr_restored" in capsys.readouterr().out


def test_a_wrong_value_is_one_sentence_and_leaves_nothing(tmp_path, capsys):
    error = said(capsys, "train", "--task", "dehase", "--out", tmp_path / "run")
    assert "did you mean 'dehaze'" in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        *(("--epochs", "3"), ("--steps", "many"), ("--val-side", "all"), ("--objectiv", "plain"), ("--out", "")),
        *(("--protocol", "foo", "evaluate"), ("--crop", "-1", "evaluate"), ("--patch-size", "0", "check-data")),
    ],
)
def test_unknown_options_and_impossible_values_stop(capsys, words):
    first, value, *command = words
    with pytest.raises(SystemExit):
        main([*(command or ["train", "--out", "x"]), *(["x", "x"] if command else []), first, value])
    assert first in capsys.readouterr().err


def test_somebodys_files_are_not_overwritten(tmp_path, capsys):
    (tmp_path / "model.safetensors").write_text("mine")
    error = said(capsys, "train", "--recipe", "tiny", "--steps", "1", "--out", tmp_path, "--device", "cpu")
    assert "model.safetensors" in error and [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_text() == "mine"


def test_more_steps_on_a_finished_run_says_the_way_onward(run, capsys):
    error = said(capsys, "train", "--recipe", "tiny", "--task", "derain", "--steps", "600", "--out", run)
    assert "steps: 300 there, 600 now" in error and "--continue" in error and "--initial-weights" in error


def test_one_bad_picture_does_not_end_the_list(run, pictures, capsys):
    command = ("restore", "a.jpg", "b.jpg", "c.jpg", "--checkpoint", run, "--out", "new/E", "--device", "cpu")
    *told, last = said(capsys, *command).splitlines()
    assert sorted(os.listdir("new/E")) == ["a_restored.png", "c_restored.png"]
    assert "b.jpg" in last and "1 of 3" in last and any("b.jpg" in line for line in told)


def test_results_are_not_restored_again(run, pictures, capsys):
    restore = ["restore", "--checkpoint", run, "--device", "cpu"]
    for given in (["a.jpg"], ["a.jpg", "a_restored.png", "c.jpg"], ["c_restored.png"]):
        said(capsys, *restore, *given, status=0)
    made = ["a_restored.png", "a_restored_2.png", "c_restored.png", "c_restored_2.png"]
    assert sorted(file.name for file in pictures.glob("*.png")) == made
    assert "one.png" in said(capsys, *restore, "a.jpg", "c.jpg", "--out", "one.png")


def test_an_interrupted_list_says_what_is_written(run, pictures, capsys, monkeypatch):
    def interrupted(network, picture, *arguments, **options):
        if picture.name == "c.jpg":
            raise KeyboardInterrupt
        return restore_file(network, picture, *arguments, **options)

    monkeypatch.setattr(command_line, "restore_file", interrupted)
    pictures = ("a.jpg", "b.jpg", "c.jpg", "--checkpoint", run, "--device", "cpu")
    last = said(capsys, "restore", *pictures, status=130).splitlines()[-1]  # b.jpg is no picture
    assert "1 of 3" in last and "c.jpg" in last and "same command" not in last


def test_a_name_that_the_console_cannot_print(run, pictures, monkeypatch, tmp_path):
    os.rename("a.jpg", b"\xce\xed.jpg")
    with open(tmp_path / "console", "w", encoding="ascii") as console:
        monkeypatch.setattr(sys, "stdout", console)
        assert main(["restore", os.fsdecode(b"\xce\xed.jpg"), "--checkpoint", str(run), "--device", "cpu"]) == 0
    assert os.path.exists(b"\xce\xed_restored.png")


@pytest.mark.parametrize(
    ("checkpoint", "flags", "words"),
    [
        ("bsae", (), ("bsae", "did you mean 'base'")),
        (".", (), ("not a run folder", "recipe.json")),
        ("base", ("--network", "ffanet"), ("network ffanet", "nafnet")),
        ("base", ("--scale", "2"), ("scale 2", "scale 1")),
        ("base", ("--entry", "params"), ("entry",)),
        ("weights.pth", (), ("network",)),
    ],
)
def test_a_wrong_checkpoint_says_what_it_is(run, pictures, capsys, checkpoint, flags, words):
    (run.parent / "weights.pth").touch()
    error = said(capsys, "restore", "a.jpg", "--checkpoint", run.parent / checkpoint, *flags, "--device", "cpu")
    assert all(word in error for word in words) and error.count("\n") == 1, error


def test_a_file_of_a_run_is_known_by_its_folder(run, pictures, capsys):
    said(capsys, "restore", "a.jpg", "--checkpoint", run / "ema.safetensors", "--device", "cpu", status=0)


def test_a_path_below_the_home_folder(run, pictures, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    said(capsys, "restore", "a.jpg", "--checkpoint", "~/base", "--device", "cpu", status=0)
    with pytest.raises(SystemExit):
        main(["restore", "a.jpg", "--checkpoint", "~nobody-of-this-name/base"])
    assert "~nobody-of-this-name/base" in capsys.readouterr().err


def test_too_few_numbers_are_one_sentence(tmp_path, capsys):
    assert "betas" in (error := said(capsys, "train", "--betas", "0.9", "--out", tmp_path)) and "few" in error


def test_a_scale_is_for_super_resolution_alone(tmp_path, capsys):
    assert "task 'derain' has scale 1" in said(capsys, "check-data", "rain100l", tmp_path, "--scale", "2")
    assert "holds pairs for derain, not for sr" in said(capsys, "check-data", "rain100l", tmp_path, "--task", "sr")


def test_evaluate_refuses_what_it_cannot_mean_before_it_works(run, tmp_path, capsys, monkeypatch):
    assert "trained to derain" in said(capsys, "evaluate", "set5", tmp_path, "--checkpoint", run, "--device", "cpu")
    error = said(capsys, "evaluate", "sots-indoor", tmp_path, "--checkpoint", run, "--device", "cpu")
    assert "derain" in error and "--task dehaze" in error
    for out in (tmp_path / "missing" / "scores.csv", run / "scores.csv"):
        assert str(out) in said(capsys, "evaluate", "embedded", "--checkpoint", run, "--out", out)
    out = tmp_path / "scores.csv"
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    assert f"{out} lies in a folder that may not be written" in said(capsys, "evaluate", "embedded", "--out", out)


def test_a_damaged_picture_is_named_before_any_is_scored(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: pytest.fail("the network was asked"))
    for i in range(1, 3):
        write(tmp_path / f"Rain100L/norain-{i:03}.png", seed=i)
        last = write(tmp_path / f"Rain100L/rainy/rain-{i:03}.png", seed=10 + i)
    last.write_bytes(last.read_bytes()[:300])
    error = said(capsys, "evaluate", "rain100l", tmp_path, "--checkpoint", run, "--device", "cpu")
    assert "rain-002.png" in error and "damaged" in error
