"""Every packing that is read, its pairing rule and its published counts; any other folder gives a set or a sentence."""

import os
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from golden import SHARED, needs_data
from pictures import fill, noise, pairs, write

from mclir_nb import files
from mclir_nb.data import datasets, layouts, overlaps, published, tasks
from mclir_nb.data.datasets import Survey

# data set, split, template of the degraded files, of the clean ones. {i} is the scene, {k} one of its several files.
PACKINGS = """
reside-its    train  RESIDE/ITS/hazy/{i}_{k}_0.9.png                    RESIDE/ITS/clear/{i}.png
reside-its    train  data/train/indoor/hazy/{i}_{k}.png                 data/train/indoor/clear/{i}.png
reside-its    test   SOTS/indoor/hazy/{i}_{k}.png                       SOTS/indoor/clear/{i}.png
reside-ots    train  OTS/hazy/{i:04}_0.{k}_0.2.jpg                      OTS/clear/{i:04}.jpg
reside-ots    train  OTS/part{k}/{i:04}_0.{k}_0.2.jpg                   OTS/clear/{i:04}.jpg
reside-ots    train  OTS/hazy/part2/{i:04}_0.{k}_0.2.jpg                OTS/clear/{i:04}.jpg
reside-ots    train  data/Train/Dehaze/synthetic/part1/{i:04}_{k}_1.jpg data/Train/Dehaze/original/{i:04}.jpg
sots-indoor   test   RESIDE/nyuhaze500/hazy/{i}_{k}.png                 RESIDE/nyuhaze500/gt/{i}.png
sots-outdoor  test   data/test/SOTS/outdoor/hazy/{i:04}_0.8_0.{k}.jpg   data/test/SOTS/outdoor/clear/{i:04}.png
sots-outdoor  test   test/dehaze/input/{i:04}_0.8_0.{k}.jpg             test/dehaze/target/{i:04}.png
reside-6k     train  data/RESIDE-6K/train/hazy/{i}.png                  data/RESIDE-6K/train/GT/{i}.png
reside-in     test   RESIDE-IN/test/hazy/{i}.png                        RESIDE-IN/test/GT/{i}.png
reside-out    train  RESIDE-OUT/train/hazy/{i}.png                      RESIDE-OUT/train/GT/{i}.png
rain100l      train  RainTrainL/rain-{i}.png                            RainTrainL/norain-{i}.png
rain100l      train  data/Train/Derain/rainy/rain-{i}.png               data/Train/Derain/gt/norain-{i}.png
rain100l      test   Rain100L/rainy/rain-{i:03}.png                     Rain100L/norain-{i:03}.png
rain100l      test   test/derain/input/{i}.png                          test/derain/target/{i}.png
rain100l      test   Datasets/test/Rain100L/input/{i}.png               Datasets/test/Rain100L/target/{i}.png
rain100h      train  RainTrainH/rain-{i}.png                            RainTrainH/norain-{i}.png
rain200l      train  rain_data_train_Light/rain/norain-{i}x2.png        rain_data_train_Light/norain/norain-{i}.png
rain200l      train  rain_data_train_Light/rain/X2/norain-{i}x2.png     rain_data_train_Light/norain/norain-{i}.png
rain200l      train  Light/input/rain-{i}.png                           Light/groundtruth/norain-{i}.png
rain200l      train  Rain200L/train/input/rain-{i}.png                  Rain200L/train/groundtruth/norain-{i}.png
rain200l      train  Rain200L/train/input/{i}.png                       Rain200L/train/target/{i}.png
rain200h      test   rain_data_test_Heavy/rain/X2/norain-{i}x2.png      rain_data_test_Heavy/norain/norain-{i}.png
ddn           train  Rain12600/rainy_image/{i}_{k}.jpg                  Rain12600/ground_truth/{i}.jpg
ddn           test   DDN-Data/testing/rainy_image/{i}_{k}.jpg           DDN-Data/testing/ground_truth/{i}.jpg
did           train  DID-MDN/input/{i}.jpg                              DID-MDN/groundtruth/{i}.jpg
spa-data      train  sparain/input/{i}.png                              sparain/groundtruth/{i}.png
spa-data      test   real_test_1000/rain/{i:03}.png                     real_test_1000/gt/{i:03}gt.png
div2k         train  DIV2K/DIV2K_train_LR_bicubic/X4/{i:04}x4.png       DIV2K/DIV2K_train_HR/{i:04}.png
div2k         test   DIV2K/DIV2K_valid_LR_bicubic/X4/{i:04}x4.png       DIV2K/DIV2K_valid_HR/{i:04}.png
set5          test   Set5/LR_bicubic/X4/im{i}x4.png                     Set5/HR/im{i}.png
set14         test   benchmark/Set14/LRbicx4/im{i}.png                  benchmark/Set14/GTmod12/im{i}.png
b100          test   BSD100/LR_bicubic/X4/{i}x4.png                     BSD100/HR/{i}.png
urban100      test   Urban100/image_SRF_4/img_{i:03}_SRF_4_LR.png       Urban100/image_SRF_4/img_{i:03}_SRF_4_HR.png
manga109      test   Manga109/LR_bicubic/X4/m{i}x4.png                  Manga109/HR/m{i}.png
gopro         train  train/GOPR{i:04}_11_00/blur/{k:06}.png             train/GOPR{i:04}_11_00/sharp/{k:06}.png
gopro         train  GoPro/train/input/GOPR{i:04}_11_00-{k:06}.png      GoPro/train/target/GOPR{i:04}_11_00-{k:06}.png
gopro         test   test/GOPR{i:04}_11_00/blur/{k:06}.png              test/GOPR{i:04}_11_00/sharp/{k:06}.png
folder        train  train/lq/{i}.jpg                                   train/gt/{i}.png
folder        train  lq/{i}.jpg                                         gt/{i}.png
folder        test   test/lq/{i}.jpg                                    test/gt/{i}.png
"""


def task_of(name):
    return tasks.get(datasets.fitting_task(name, "derain"))


@pytest.mark.parametrize("line", PACKINGS.strip().splitlines(), ids=lambda line: " ".join(line.split()[:3]))
def test_a_packing_is_found_and_paired_by_its_rule(tmp_path, line):
    name, split, lq, gt = line.split()
    wanted = {tmp_path / lq.format(i=i, k=k): tmp_path / gt.format(i=i, k=k) for i in range(1, 21) for k in range(1, 3)}
    for file in (*wanted, *wanted.values()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    hidden = next(iter(wanted))
    hidden.with_name(f"._{hidden.name}").touch()  # as macOS writes them
    hidden.with_name("Thumbs.db").touch()
    opened = Survey.of(name, task_of(name), tmp_path)
    (found,) = opened.parts(split)
    assert {entry.lq: entry.gt for entry in found.entries} == wanted
    assert not found.unpaired and not found.twice
    kept, val = datasets.hold_out(found.entries)
    assert len({entry.gt for entry in kept} & {entry.gt for entry in val}) == 0 and len(val) == len(wanted) // 10


REPEATED = [
    ("reside-out", "RESIDE-OUT/train/{side}/{i:04}_0.{k}_0.2.png", ("GT", "hazy"), 35),
    ("ddn", "DDN-Data/train/{side}/{i}_{k}.jpg", ("norain", "rain"), 14),
]


@pytest.mark.parametrize(("name", "template", "sides", "each"), REPEATED)
def test_a_clean_file_that_is_repeated_under_each_name_is_one_scene(tmp_path, name, template, sides, each):
    names = [(i, k, side) for i in range(1, 31) for k in range(each) for side in sides]
    fill(tmp_path, *(template.format(i=i, k=k, side=side) for i, k, side in names), size=(2, 2))
    train, val = (datasets.open_set(name, task_of(name), split, tmp_path) for split in ("train", "val"))
    trained, held_out = ({int(entry.name.split("_")[0]) for entry in split.entries} for split in (train, val))
    assert trained == set(range(1, 28)) and held_out == {28, 29, 30}


@needs_data
def test_published_counts_are_those_of_the_sources():
    """Every number that is promised of a set stands in the notes made from its repositories."""
    text = (SHARED / "data" / "LAYOUTS.md").read_text().replace(",", "")
    computed = {"bsds500": {396}, "airnet": {204}}  # 400 without the 4 shared ones; 68 at three noise levels
    for name in published.LAYOUTS:
        layout = published.get(name)
        for part in (*layout.train, *layout.test):
            for count in {count for packing in part for count in packing.counts} - computed.get(name, set()):
                assert str(count) in text, (name, count)


def test_every_public_set_describes_itself():
    for name in published.LAYOUTS:
        layout = published.get(name)
        assert layout.title and layout.where and (layout.train or layout.test)
        text = datasets.tree(layout, task_of(name))
        assert layout.where in text and "{" not in text and "|" not in text
    assert list(published.table().index) == list(published.LAYOUTS)
    fitting = [("rain200l", "deblur", "derain"), ("bsds500", "deblur", "deblur")]
    fitting += [(dataset, "mine", "mine") for dataset in ("folder", "embedded")]
    for dataset, asked, given in fitting:
        assert datasets.fitting_task(dataset, asked) == given


def test_pictures_that_sets_share_are_known_by_both_names():
    for trained, scored, known in (
        ("bsds500", "rain200l", True),
        ("bsds500", "set5", False),
        ("reside-ots", "sots-outdoor", True),
        ("reside-its", "sots-indoor", False),
        ("reside-6k", "sots-outdoor", True),
        ("reside-ots", "reside-6k", True),
    ):
        assert bool(overlaps.overlap_warnings(trained, scored)) == known
    assert overlaps.known_overlaps("set5") and not overlaps.known_overlaps("gopro")
    named = {name for trained, scored, _ in overlaps.OVERLAPS for name in trained + scored}
    assert named <= set(published.LAYOUTS)


def test_a_name_that_is_there_twice_makes_one_pair_and_is_told(tmp_path):
    """A camera writes .JPG; beside it lies a copy in another format."""
    pairs(tmp_path, *(f"test/lq/{i}.JPG" for i in range(3)), gt=lambda n: n.replace("lq", "gt"))
    fill(tmp_path, "test/lq/1.png", "test/gt/2.TIFF")
    (found,) = Survey.of("folder", tasks.get("derain"), tmp_path).parts("test")
    assert [entry.name for entry in found.entries] == ["0", "1", "2"] and not found.unpaired
    assert sorted(file.name for file in found.twice) == ["1.png", "2.TIFF"]


def test_clean_files_alone_are_of_no_scale(tmp_path):
    fill(tmp_path, "Set5/HR/baby.png", "Set14/HR/lenna.png", "Set14/LR_bicubic/X2/lennax2.png")
    asked = tasks.get("sr", 2)
    made, given = (datasets.open_set(name, asked, "test", tmp_path).entries[0] for name in ("set5", "set14"))
    assert (made.lq, made.scale) == (None, 1) and given.lq and given.scale == 2


@pytest.mark.parametrize("inside", ["", "RESIDE", "RESIDE/SOTS", "RESIDE/SOTS/outdoor"])
def test_the_root_may_be_any_folder_on_the_way_down(tmp_path, inside):
    pairs(tmp_path, "RESIDE/SOTS/outdoor/hazy/0001_0.8_0.2.jpg", gt=lambda n: "RESIDE/SOTS/outdoor/clear/0001.png")
    (entry,) = datasets.open_set("sots-outdoor", tasks.get("dehaze"), "test", tmp_path / inside).entries
    assert (entry.lq.name, entry.gt.name, entry.name) == ("0001_0.8_0.2.jpg", "0001.png", "0001_0.8_0.2")


def test_nothing_outside_the_named_folder_is_taken(tmp_path):
    """A folder inside another set, or one whose name is part of a packing, is the folder that was meant."""
    for split, count in (("train", 12), ("test", 3)):
        for top, fewer in (("data", 0), ("data/mine", 1)):
            names = [f"{top}/RESIDE-6K/{split}/hazy/{i}.png" for i in range(count - fewer)]
            pairs(tmp_path, *names, gt=lambda n: n.replace("hazy", "GT"))
    fill(tmp_path, *(f"train/birds/{i}.png" for i in range(12)), "train/screenshot.png")
    named = tmp_path / "data/mine/RESIDE-6K"
    test = datasets.open_set("reside-6k", tasks.get("dehaze"), "test", named)
    assert len(test) == 2 and all(named in entry.gt.parents for entry in test.entries) and str(named) in test.note
    birds = datasets.open_splits("folder", tasks.get("denoise"), tmp_path / "train/birds")
    assert sum(map(len, birds.values())) == 12
    for sibling in ("data/other", "data/mine/RESIDE-6K/train/GT"):
        (tmp_path / sibling).mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="no test files"):
            datasets.open_set("reside-6k", tasks.get("dehaze"), "test", tmp_path / sibling)


def test_names_are_compared_as_text_however_their_accents_are_stored(tmp_path):
    for side, form in (("lq", "NFC"), ("gt", "NFD")):
        for i in range(3):
            write(tmp_path / "test" / side / unicodedata.normalize(form, f"Übung{i}.png"), seed=i)
    test = datasets.open_set("folder", tasks.get("derain"), "test", tmp_path)
    assert [entry.name for entry in test.entries] == ["Übung0", "Übung1", "Übung2"]


@pytest.mark.parametrize("raw", ["雾".encode("gbk"), "é".encode("latin-1"), b"a\nb", b"NA", b"0001", b"-x", b"%s{}"])
def test_any_file_name_works_and_can_be_printed(tmp_path, raw):
    for side in ("lq", "gt"):
        (tmp_path / "test" / side).mkdir(parents=True)
        place = os.fsencode(tmp_path / "test" / side) + b"/" + raw + b".png"
        os.rename(write(tmp_path / f"{side}.png", seed=len(side + "x" * (side == "gt"))), place)
    test = datasets.open_set("folder", tasks.get("derain"), "test", tmp_path)
    (name,) = [entry.name for entry in test.entries]
    assert name.encode().isascii() and name.isprintable()
    assert test[0].gt.shape[0] == 3 and test.fingerprint()


def test_names_stay_names_in_a_table(tmp_path):
    names = ["0001", "NA", "nan", "1e5", "", "a,b", 'say "x"', "雾"]
    table = pd.DataFrame({"image": names, "psnr": [20.0, float("nan"), float("inf"), *range(5)], "note": ""})
    files.write_file(tmp_path / "scores.csv", table.to_csv(index=False))
    back = files.read_table(tmp_path / "scores.csv")
    assert back.image.tolist() == names and back.note.isna().all()
    assert back.psnr.dtype == float and back.psnr.isna().tolist() == [False, True] + [False] * 6


def test_names_sort_as_numbers(tmp_path):
    pairs(tmp_path, *(f"test/lq/{i}.png" for i in (10, 9, 100, 1)), gt=lambda n: n.replace("lq", "gt"))
    test = datasets.open_set("folder", tasks.get("derain"), "test", tmp_path)
    assert [entry.name for entry in test.entries] == ["1", "9", "10", "100"]


def test_did_files_hold_both_halves(tmp_path):
    for density in ("Heavy", "Medium", "Light"):
        fill(tmp_path, *(f"DID-MDN-training/Rain_{density}/train2018new/{i}.jpg" for i in range(1, 21)), size=(6, 12))
    train, val = (datasets.open_set("did", tasks.get("derain"), split, tmp_path) for split in ("train", "val"))
    assert len(train) == 54 and len(val) == 6 and train[0].name == "Heavy/1"
    assert not {e.gt.name for e in train.entries} & {e.gt.name for e in val.entries}  # i in all densities at once
    both = torch.from_numpy(noise(6, 12)).permute(2, 0, 1)
    assert torch.equal(train[0].lq, both[:, :, :6]) and torch.equal(train[0].gt, both[:, :, 6:])


def test_ddn_that_is_not_split_yet_is_split_at_900(tmp_path):
    names = [f"DDN-Data/rainy_image/{i}_{j}.jpg" for i in (1, 2, 899, 900, 901, 1000) for j in range(1, 15)]
    pairs(tmp_path, *names, gt=lambda n: f"DDN-Data/ground_truth/{n.split('/')[-1].split('_')[0]}.jpg")
    train, val, test = (datasets.open_set("ddn", tasks.get("derain"), split, tmp_path) for split in datasets.SPLITS)
    assert (len(train), len(val), len(test)) == (42, 14, 28)
    assert {e.gt.stem for e in test.entries} == {"901", "1000"} and {e.gt.stem for e in val.entries} == {"900"}


def spa_list(root, text):
    (root / "real_world.txt").write_bytes(text)
    return layouts.find(published.SPA_TRAIN, root)


def test_spa_data_is_paired_by_its_list(tmp_path):
    for video in range(4):
        for side in ("real_world", "real_world_gt"):
            fill(tmp_path, *(f"{side}/{video:03}/{video:03}-1/{x}.png" for x in range(5)), seed=len(side))
    names = [f"{video:03}/{video:03}-1/{x}.png" for video in range(4) for x in range(5)]
    spa_list(tmp_path, "".join(f"./real_world/{n} ./real_world_gt/{n}\n" for n in names).encode())
    train, val = (datasets.open_set("spa-data", tasks.get("derain"), split, tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5) and {e.gt.parent.name for e in val.entries} == {"003-1"}


def test_a_pair_list_cannot_lead_out_of_its_folder(tmp_path):
    root, good = tmp_path / "SPA-Data", b"./real_world/000/1.png /real_world_gt/000/1.png\n"
    fill(root, "real_world/000/1.png", "real_world_gt/000/1.png")
    fill(tmp_path, "1.png", "real_world/000/1.png")
    assert len(spa_list(root, good).entries) == 1
    outside = (b"../1.png", b"/real_world/../../1.png", b"../real_world/000/1.png", os.fsencode(tmp_path / "1.png"))
    for path in (*outside, b"\0", b"~/1.png", b"\xff"):
        assert not spa_list(root, path + b" ./real_world_gt/000/1.png\n").entries


FOLDERS = ". . ITS/hazy ITS/clear gt lq train/gt RainTrainL Rain100L/rainy Set5/HR Set5/LR_bicubic/X4 1.png".split()
NAMES = "1.png 2.jpg 1_2.png _.png rain-1.png ._1.png 1.txt 1x4.png ä.png (x|y).png {id}.png *.png".split()
NAMES += ["9" * 30 + ".png", "a\nb.png"]


def test_random_trees_give_a_set_or_a_sentence(tmp_path):
    """Files and folders of any name in any place, a folder named like a picture included."""
    chance, opened = np.random.default_rng(0), 0
    for tree in range(100):
        place = tmp_path / str(tree)
        for _ in range(chance.integers(1, 30)):
            file = place / str(chance.choice(FOLDERS)) / str(chance.choice(NAMES))
            if not file.exists() and not any(above.is_file() for above in file.parents):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        name = "folder" if tree % 2 else str(chance.choice(list(published.LAYOUTS)))
        try:
            datasets.open_set(name, task_of(name), str(chance.choice(datasets.SPLITS)), place)
            opened += 1
        except ValueError as error:
            assert str(place) in str(error) or "for testing only" in str(error)
    assert 5 < opened < 95
