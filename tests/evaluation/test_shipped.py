"""The weights that come along: one network per task, as good as their records say, used by default."""

import numpy as np
import pytest
import torch
from PIL import Image

from mclir_nb import files, root
from mclir_nb.__main__ import main
from mclir_nb.data import datasets, images, tasks
from mclir_nb.data.patches import Benchmark
from mclir_nb.evaluation import evaluate, restore
from mclir_nb.training import records

SHIPPED = sorted(place.parent.name for place in (root() / "data/weights").glob("*/ema.safetensors"))


def shipped(name):
    """The file of weights that comes along under a name."""
    task, _, scale = name.partition("-x")
    return records.shipped(task, int(scale) if scale else None)


def test_there_are_weights_for_every_task_of_the_first_notebook():
    assert {"dehaze", "derain", "deblur", "sr-x2", "sr-x4"} <= set(SHIPPED)
    for task, scale, words in (
        ("denoise", None, "denoise.*dehaze, derain, sr --scale 2, sr --scale 4.*train --task denoise --out"),
        ("sr", 3, "train --task sr --scale 3 --out"),
        ("sr-x4", None, "unknown task 'sr-x4'; choose .*sr"),  # a folder's name is no task
        ("dehase", None, "did you mean 'dehaze'"),
    ):
        with pytest.raises(ValueError, match=words):
            records.shipped(task, scale)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_comes_along_scores_what_its_record_says(name):
    place = shipped(name)
    network, recipe = records.open_checkpoint(place)
    task, recorded = tasks.get(recipe.task, recipe.scale), files.read_table(place.parent / "scores.csv")
    assert place.stat().st_size < 2_000_000
    pair = next(iter(Benchmark(datasets.embedded("test"), task)))
    measured = evaluate.evaluate(network, [pair], protocol=task.protocol, crop=task.crop, quiet=True).iloc[0]
    row = recorded.set_index("image").loc[pair[0]]
    assert measured.psnr_restored == pytest.approx(row.psnr_restored, abs=0.01)
    assert measured.ssim_restored == pytest.approx(row.ssim_restored, abs=0.001)


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_colour_stays_plain(name):
    """Sky and walls, on which nothing hides what a network prints; in units of 1/255."""
    network, _ = records.open_checkpoint(shipped(name))
    for grey in (0.2, 0.5, 0.8):
        restored = restore.restore(network, torch.full((3, 96, 96), grey))
        assert 255 * restored[:, 16:-16, 16:-16].std(dim=(1, 2)).max() < 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_recorded_scores_reach_the_bar(name):
    """Every test picture gains in PSNR, and the mean in SSIM."""
    scores = files.read_table(shipped(name).parent / "scores.csv")
    assert len(scores) == 4 and (scores.psnr_restored > scores.psnr_input).all()
    assert scores.ssim_restored.mean() > scores.ssim_input.mean()


def test_the_command_line_restores_with_the_weights_that_come_along(tmp_path, capsys):
    Image.fromarray(np.arange(18 * 20, dtype=np.uint8).reshape(18, 20)).save(tmp_path / "grey.png")
    assert main(["restore", str(tmp_path / "grey.png"), "--device", "cpu"]) == 1
    assert "--task" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "grey.png"), "--task", "sr", "--scale", "2", "--device", "cpu"]) == 0
    assert images.read_size(tmp_path / "grey_restored.png") == (36, 40)
    assert main(["restore", str(tmp_path / "grey.png"), "--task", "sr", "--network", "edsr"]) == 1
    assert "leave it out" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "grey.png"), "--task", "denoise", "--device", "cpu"]) == 1
    assert "dehaze" in capsys.readouterr().err
