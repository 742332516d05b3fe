"""Splits of data sets: what belongs to which, how pictures get one size, what is said and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from golden import SHARED, needs_data
from pictures import fill, noise, pairs, write

from mclir_nb.data import checks, datasets, published, tasks
from mclir_nb.data.patches import Benchmark

DEHAZE, DERAIN, DEBLUR, DENOISE = (tasks.get(name) for name in ("dehaze", "derain", "deblur", "denoise"))
SR2, SR4 = tasks.get("sr", 2), tasks.get("sr", 4)


def refusal(*arguments):
    with pytest.raises(ValueError) as caught:
        datasets.open_set(*arguments)
    return str(caught.value)


def opened(name, task, root):
    return [datasets.open_set(name, task, split, root) for split in datasets.SPLITS]


def test_sots_clear_images_are_centre_cropped_and_never_enlarged(tmp_path):
    pairs(tmp_path, "SOTS/indoor/hazy/1400_1.png", gt=lambda n: "SOTS/indoor/clear/1400.png", gt_size=(8, 8))
    sample = datasets.open_set("sots-indoor", DEHAZE, "test", tmp_path)[0]
    assert torch.equal(sample.gt, torch.from_numpy(noise(8, 8, 2)).permute(2, 0, 1)[:, 1:7, 1:7])
    write(tmp_path / "SOTS/indoor/clear/1400.png", (4, 6))
    with pytest.raises(ValueError, match="6x6 .*1400.png is 6x4"):
        datasets.open_set("sots-indoor", DEHAZE, "test", tmp_path)[0]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_benchmarks_crop_hr_at_the_right_and_bottom(tmp_path, scale):
    write(tmp_path / "Set5/HR/baby.png", (6 * scale + 1, 7 * scale), 2)
    write(tmp_path / f"Set5/LR_bicubic/X{scale}/babyx{scale}.png", (6, 7), 1)
    test = datasets.open_set("set5", tasks.get("sr", scale), "test", tmp_path)
    whole = torch.from_numpy(noise(6 * scale + 1, 7 * scale, 2)).permute(2, 0, 1)
    assert torch.equal(test[0].gt, whole[:, : 6 * scale]) and test[0].lq.shape == (3, 6, 7)
    assert "for testing only" in refusal("set5", SR2, "train", tmp_path)


def test_missing_low_resolution_files_are_made_and_hr_files_serve_other_tasks(tmp_path):
    fill(tmp_path, *(f"DIV2K_train_HR/{i:04}.png" for i in range(20)), "Set5/HR/baby.png", size=(12, 12))
    assert datasets.open_set("div2k", SR2, "train", tmp_path).entries[0].lq is None
    assert datasets.open_set("set5", DENOISE, "test", tmp_path).entries[0].lq is None


def test_selfexsr_urban100_x2_is_not_the_benchmark(tmp_path):
    fill(tmp_path, *(f"Urban100/image_SRF_2/img_001_SRF_2_{side}.png" for side in ("HR", "LR")))
    said = refusal("urban100", SR2, "test", tmp_path)
    assert "no test files" in said and "LR_bicubic/X2/NAMEx2 " in said and "SRF" not in said


def test_b100_is_cut_from_bsds500_which_leaves_out_what_is_in_test_sets(tmp_path):
    fill(tmp_path, *(f"BSDS500/images/train/{i}.jpg" for i in (*published.BSDS_EXCLUDED, *range(2000, 2018))))
    fill(tmp_path, *(f"BSDS500/images/{name}.jpg" for name in ("test/3000", "test/3001", "val/4000")), size=(33, 49))
    train, val, test = opened("bsds500", DENOISE, tmp_path)
    assert (len(train), len(val), len(test)) == (18, 2, 1) and test[0].gt.shape == (3, 32, 48)
    assert not {e.name for e in train.entries} & set(published.BSDS_EXCLUDED)
    assert datasets.open_set("b100", SR2, "test", tmp_path)[0].gt.shape == (3, 32, 48)


def test_sub_images_of_one_photograph_and_frames_of_one_film_stay_together(tmp_path):
    for i in range(1, 21):
        names = [f"{i:04}_s{k:03}.png" for k in range(1, 4)]
        fill(tmp_path, *(f"DIV2K_train_HR_sub/{n}" for n in names), size=(12, 12), seed=2)
        fill(tmp_path, *(f"DIV2K_train_LR_bicubic/X2_sub/{n}" for n in names), size=(6, 6), seed=1)
    train, val = (datasets.open_set("div2k", SR2, split, tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (54, 6) and {e.name[:4] for e in val.entries} == {"0019", "0020"}
    films = [f"train/GOPR0{film}_11_00/blur/{frame:06}.png" for film in range(4) for frame in range(3)]
    pairs(tmp_path, *films, gt=lambda n: n.replace("blur", "sharp"))
    train, val = (datasets.open_set("gopro", DEBLUR, split, tmp_path) for split in ("train", "val"))
    assert len(train) == 9 and all("GOPR03" in str(e.gt) for e in val.entries)
    (tmp_path / "GoPro/test/input.lmdb").mkdir(parents=True)
    assert "LMDB" in refusal("gopro", DEBLUR, "test", tmp_path)


def test_the_all_in_one_mixture_degrades_each_part_in_its_own_way(tmp_path):
    big = dict(size=(33, 34))
    fill(tmp_path, *(f"data/Train/Denoise/w{i}.bmp" for i in range(10)), "test/denoise/bsd68/test001.png", **big)
    rain = [f"data/Train/Derain/rainy/rain-{i}.png" for i in range(1, 11)]
    pairs(tmp_path, *rain, gt=lambda n: n.replace("rainy/rain-", "gt/norain-"), **big)
    haze = [f"data/Train/Dehaze/synthetic/part1/{i:04}_0.8_{b}.jpg" for i in range(10) for b in ("0.1", "0.2")]
    pairs(tmp_path, *haze, gt=lambda n: f"data/Train/Dehaze/original/{n.split('/')[-1][:4]}.jpg", **big)
    pairs(tmp_path, "test/derain/Rain100L/input/1.png", gt=lambda n: n.replace("input", "target"), **big)
    pairs(tmp_path, "test/dehaze/input/0001_0.8_0.2.jpg", gt=lambda n: "test/dehaze/target/0001.png", **big)
    train, val, test = opened("airnet", DENOISE, tmp_path)
    assert len(train) == 9 * 3 * 3 + 9 * 120 + 9 * 2 and len(val) == 3 + 1 + 2 and len(test) == 5
    assert [e.name for e in test.entries][:3] == [f"bsd68/test001 noise {s}" for s in (15, 25, 50)]
    assert train[0].noise == 15 and train[0].gt.shape == (3, 32, 32)  # centre-cropped to multiples of 16
    assert train[100].lq is not None and train[100].gt.shape == (3, 32, 32)
    errors = [float((lq - gt).std() * 255) for _, gt, lq in Benchmark(test, DENOISE)][:3]
    assert errors[0] < errors[1] < errors[2] and 12 < errors[0] < 16


def test_a_plain_folder_is_shared_out_for_training_and_scored_whole(tmp_path, monkeypatch):
    pairs(tmp_path, *(f"lq/{i:02}.png" for i in range(30)), gt=lambda n: n.replace("lq", "gt"))
    splits = datasets.open_splits("folder", DERAIN, tmp_path)
    assert [len(splits[split]) for split in datasets.SPLITS] == [24, 3, 3]
    assert len({e.gt for images in splits.values() for e in images.entries}) == 30
    assert "24 of the 30" in splits["train"].note and "3 of the 30" in splits["test"].note
    test = datasets.open_set("folder", DERAIN, "test", tmp_path)
    assert len(test) == 30 and "30 pairs" in test.note and str(tmp_path) in test.note
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for same in (tmp_path / "." / "lq" / "..", f"~/{tmp_path.name}"):
        unseen = datasets.open_set("folder", DERAIN, "test", tmp_path, trained_on=same)
        assert unseen.entries == splits["test"].entries


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("below", ["", "gt/"])
def test_a_folder_called_like_a_split_is_never_trained_and_scored_on(tmp_path, split, below):
    names = [f"{split}/{below}{i:02}.png" for i in range(12)]
    fill(tmp_path, *names, *(name.replace("gt", "lq") for name in names))
    for place in (tmp_path / split, tmp_path / split / "." / ".." / split):
        with pytest.raises(ValueError, match=f"12 pictures .* are in train and in {split}.*00.png.* folder above"):
            datasets.open_splits("folder", DERAIN, place)
    assert len(datasets.open_set("folder", DERAIN, split, tmp_path / split)) == 12  # alone it may be scored
    fill(tmp_path, "train/a.png", "train/b.png", "train/c.png")
    splits = datasets.open_splits("folder", DERAIN, tmp_path).values()
    assert len({e.gt for images in splits for e in images.entries}) == sum(map(len, splits)) == 15


def test_what_is_passed_over_is_said(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(5)), "more/a.png", "more/b.jpg", "c.gif")
    note = datasets.open_set("folder", DENOISE, "test", tmp_path).note
    assert "5 pictures" in note and "3 of the pictures below it" in note and "c.gif" in note


def test_what_a_run_says_of_the_photographs_that_come_along_is_not_said_to_the_next():
    first, second = (datasets.open_set("embedded", DENOISE, "train") for _ in range(2))
    assert first[0] is second[0]  # decoded once
    checks.check_trained(first, DENOISE, 400)
    assert "passed over" in first.note and not second.note


def test_the_disk_is_looked_at_once(tmp_path, monkeypatch):
    fill(tmp_path, *(f"train/{i}.png" for i in range(5)), "val/a.png")
    looked, find = [], datasets.find
    monkeypatch.setattr(datasets, "find", lambda *arguments: looked.append(arguments) or find(*arguments))
    datasets.open_splits("folder", DENOISE, tmp_path)
    assert len(looked) == 3  # one for each split


def test_a_set_is_known_by_its_content(tmp_path):
    fill(tmp_path, *(f"one/{i}.png" for i in range(5)))
    one = datasets.open_set("folder", DENOISE, "test", tmp_path / "one").fingerprint()

    def copy(name, **changed):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        for file, seed in changed.items():
            write(tmp_path / name / f"{file[1:]}.png", (6, 6), seed)
        return datasets.open_set("folder", DENOISE, "test", tmp_path / name).fingerprint()

    assert copy("moved") == one
    assert len({one, copy("another_picture", _3=1), copy("one_more", _9=0)}) == 3


def test_wrong_names_and_roots(tmp_path):
    assert "reside-its" in refusal("reside-it", DEHAZE, "train", tmp_path)
    assert "train, val, test" in refusal("folder", DENOISE, "trian", tmp_path)
    assert "data_root" in refusal("reside-its", DEHAZE, "train", None)
    assert str(tmp_path) in refusal("embedded", DEHAZE, "test", tmp_path)  # it would be passed over
    (tmp_path / "file").touch()
    for root in (tmp_path / "nowhere", tmp_path, tmp_path / "file", "~no-such-user/photos"):
        text = refusal("reside-its", DEHAZE, "train", root)
        assert str(root) in text and published.RESIDE in text  # and the tree that is expected:
        assert "[RESIDE/]ITS/hazy/ID_*   with   [RESIDE/]ITS/clear/ID" in text


def test_pictures_of_another_kind_are_told_which_are_read(tmp_path):
    (tmp_path / "IMG_1.HEIC").touch()
    assert ".png, .jpg, " in refusal("folder", DENOISE, "train", tmp_path)


def test_what_a_task_cannot_use_is_refused(tmp_path):
    pairs(tmp_path, "ITS/hazy/1_1.png", gt=lambda n: "ITS/clear/1.png")
    assert "dehaze, not for derain" in refusal("reside-its", DERAIN, "train", tmp_path)
    fill(tmp_path / "clean", *(f"{i}.png" for i in range(20)))
    assert "depth" in refusal("folder", DEHAZE, "train", tmp_path / "clean")
    fill(tmp_path / "few", "1.png")
    assert "too few pictures" in refusal("folder", DENOISE, "train", tmp_path / "few")


def test_the_scale_of_a_task_is_its_own_and_whole(monkeypatch):
    mine = tasks.Task("mine", SR2.degrade, "edsr", "basicsr-y", scale=2)
    monkeypatch.setitem(tasks.TASKS, "mine", mine)
    assert tasks.get("mine") is tasks.get("mine", 2) is mine
    assert tasks.get("mine", np.int64(2)) is mine and type(tasks.get("sr", np.int64(2)).scale) is int
    for name, scale in (("mine", 1), ("mine", 2.0), ("derain", 4), ("derain", True), ("sr", 5), ("sr", "2")):
        with pytest.raises(ValueError, match=f"{scale!r} is not"):
            tasks.get(name, scale)


def test_a_picture_too_small_for_its_crop(tmp_path):
    fill(tmp_path, "BSDS500/images/val/1.jpg", size=(15, 40))
    with pytest.raises(ValueError, match="1.jpg is too small"):
        datasets.open_set("b100", SR2, "test", tmp_path)[0]


@needs_data
@pytest.mark.parametrize("name, task, psnr", [("sots-outdoor", DEHAZE, 16.1293), ("rain100l", DERAIN, 25.9660)])
def test_real_pairs(tmp_path, name, task, psnr):
    (tmp_path / "SOTS").symlink_to(SHARED / "data/sots_sample")
    (tmp_path / "Rain100L").symlink_to(SHARED / "data/rain100l_sample")
    ((_, gt, lq),) = Benchmark(datasets.open_set(name, task, "test", tmp_path), task)
    assert abs(-10 * np.log10(float(((gt - lq) ** 2).mean())) - psnr) < 1e-3
