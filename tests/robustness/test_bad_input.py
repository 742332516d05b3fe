"""What goes wrong with real data, from the user's door: one sentence on stderr, status 1, nothing left behind."""

import os

import numpy as np
import pytest
from PIL import Image

from mclir_nb import files
from mclir_nb.__main__ import main
from mclir_nb.data import images, layouts, tasks
from mclir_nb.evaluation import evaluate, restore
from mclir_nb.training import recipes, records

RGB = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a network that restores."""
    folder, recipe = tmp_path_factory.mktemp("run"), recipes.get("tiny", "sr", scale=2)
    files.write_json(folder / "recipe.json", recipe.model_dump())
    files.write_tensors(folder / "model.safetensors", records.build_network(recipe).state_dict())
    return folder


def refused(capsys, *command):
    """The one sentence that a command ends with."""
    assert main([*map(str, command), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


# ------------------------------------------------------------------------------------------- one's own picture


def png(path, pixels=RGB):
    Image.fromarray(pixels).save(path)
    return path


def truncated_png(path):
    png(path).write_bytes(path.read_bytes()[:2000])


def decompression_bomb(path):
    data = png(path).read_bytes()
    header = (60_000).to_bytes(4, "big") * 2 + data[24:29]
    path.write_bytes(data[:8] + images._chunk(b"IHDR", header) + data[33:])


def nan_in_a_float_tiff(path):
    Image.fromarray(np.full((80, 90), np.nan, np.float32)).save(path, format="TIFF")


def no_permission(path):
    png(path).chmod(0)


PICTURES = {  # what is wrong: (how it is made, what the sentence says)
    "truncated PNG": (truncated_png, "it is damaged (OSError: image file is truncated"),
    "text named .png": (lambda path: path.write_text("404"), "is not a PNG, JPEG, TIFF, WEBP, BMP file, whatever"),
    "decompression bomb": (decompression_bomb, "claims more than 178 million pixels; make it smaller or remove"),
    "NaN in a float TIFF": (nan_in_a_float_tiff, "holds NaN or infinite values; export it again with finite ones"),
    "no permission": (no_permission, "permission denied"),
    "missing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("what", PICTURES)
def test_a_picture_that_cannot_be_restored(tmp_path, run, capsys, what, monkeypatch):
    make, sentence = PICTURES[what]
    make(tmp_path / "photo.png")
    if what == "no permission" and os.access(tmp_path / "photo.png", os.R_OK):
        pytest.skip("the superuser may read everything; tests/test_images.py pretends")
    before = sorted(tmp_path.iterdir())
    error = refused(capsys, "restore", tmp_path / "photo.png", "--checkpoint", run)
    assert sentence in error and str(tmp_path / "photo.png") in error
    assert sorted(tmp_path.iterdir()) == before


def test_one_pixel_and_cmyk_are_pictures(tmp_path, run):
    png(tmp_path / "one.png", RGB[:1, :1])
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk.jpg")
    command = ["restore", str(tmp_path / "one.png"), str(tmp_path / "cmyk.jpg"), "--checkpoint", str(run)]
    assert main([*command, "--device", "cpu"]) == 0
    assert images.read_size(tmp_path / "one_restored.png") == (2, 2)
    assert images.read_size(tmp_path / "cmyk_restored.png") == (160, 180)


# ----------------------------------------------------------------------------------------------- a data set


def sound(root):
    """Ten pairs of pictures as large as the patch."""
    for number in range(10):
        for side, shift in (("lq", 10), ("gt", 0)):
            (root / f"train/{side}").mkdir(parents=True, exist_ok=True)
            png(root / f"train/{side}/{number}.png", np.roll(RGB, number + shift, 0))


def half_a_download(root):
    (root / "train/gt/3.png").unlink()


def two_gt_for_one_lq(root):
    Image.fromarray(RGB).save(root / "train/gt/3.jpg")


def smaller_than_the_patch(root):
    for file in root.rglob("*.png"):
        png(file, np.roll(RGB[:40, :40], int(file.stem) + ("lq" in str(file)), 0))


def one_pixel(root):
    for file in root.rglob("*.png"):
        png(file, RGB[int("lq" in str(file)) :][:1, :1])


def truncated(root):
    truncated_png(root / "train/lq/0.png")


def one_folder_twice(root):
    for file in (root / "train/lq").iterdir():
        file.write_bytes((root / "train/gt" / file.name).read_bytes())


def nothing(root):
    for file in root.rglob("*.png"):
        file.unlink()


SETS = {
    "half a download": (half_a_download, "1 of 10 files of folder in", "no partner of the same name: lq/3.png; add"),
    "two gt for one lq": (two_gt_for_one_lq, "have a partner that is taken already: gt/3.", "check-data folder"),
    "smaller than the patch": (smaller_than_the_patch, "is 40x40, smaller than the patch of 64; use patch_size 40"),
    "one pixel": (one_pixel, "is 1x1, smaller than the patch of 64; no patch_size is that small; use pictures of at"),
    "truncated PNG": (truncated, "train/lq/0.png cannot be read as a picture: it is damaged"),
    "one folder twice": (one_folder_twice, "is the same picture as lq and gt; training would learn to copy"),
    "nothing": (nothing, "no train files of folder found below"),
}


@pytest.mark.parametrize("what", SETS)
def test_a_data_set_that_cannot_be_trained_on(tmp_path, capsys, what):
    spoil, *sentences = SETS[what]
    sound(tmp_path / "data")
    spoil(tmp_path / "data")
    command = ["train", "--task", "derain", "--recipe", "tiny", "--dataset", "folder", "--steps", "1"]
    command += ["--data-root", tmp_path / "data", "--patch-size", "64", "--out", tmp_path / "run"]
    assert main([*map(str, command), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    for sentence in sentences:
        assert sentence in error
    assert not (tmp_path / "run").exists()


def test_a_wrong_root_prints_the_tree_and_the_publisher(tmp_path, capsys):
    assert main(["check-data", "reside-its", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert "does not exist" in error and "RESIDE/ITS/hazy/ID_*" in error and "nothing is downloaded" in error
    (tmp_path / "file").touch()
    assert main(["check-data", "reside-its", str(tmp_path / "file")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_folder_that_may_not_be_listed(tmp_path, capsys, monkeypatch):
    sound(tmp_path)
    list_it = os.scandir

    def scandir(place):
        if str(place).endswith("lq"):
            raise PermissionError(13, "Permission denied")
        return list_it(place)

    monkeypatch.setattr(layouts.os, "scandir", scandir)
    assert main(["check-data", "folder", str(tmp_path), "--task", "derain"]) == 1
    assert "train/lq cannot be listed: permission denied; give yourself the right" in capsys.readouterr().err


def test_a_benchmark_picture_too_small_to_be_scored_is_named():
    small = [("tiny-picture", *(restore.torch.rand(3, 8, 9) for _ in range(2)))]
    network = records.build_network(recipes.get("tiny", "denoise"))
    with pytest.raises(ValueError, match="tiny-picture: SSIM .* needs at least 11x11 pixels, found 9x8"):
        evaluate.evaluate(network, small, tasks.get("denoise").protocol, quiet=True)
