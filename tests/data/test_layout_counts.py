"""The published file names and counts: every set laid out in full with hard links to two small pictures."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mclir_nb.data import datasets, images, layouts, published, tasks

A = ("0.8", "0.85", "0.9", "0.95", "1")
BETA = ("0.04", "0.06", "0.08", "0.1", "0.12", "0.16", "0.2")
Files = Iterator[str]


@pytest.fixture
def root():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def lay_out(root: Path, names: Files) -> None:
    """Files of these names: links to one picture, a new one before the file system's limit of links."""
    pixels = np.zeros((2, 2, 3), np.uint8)
    folders, source = set(), root / "source"
    for number, name in enumerate(names):
        if number % 30_000 == 0:
            source = root / f"source{number}.tmp"
            source.write_bytes(images.png(images.Picture(pixels)))
        folder = os.path.dirname(name)
        if folder not in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            folders.add(folder)
        os.link(source, root / name)


def its() -> Files:
    yield from (f"RESIDE/ITS/clear/{i}.png" for i in range(1, 1400))
    yield from (f"RESIDE/ITS/hazy/{i}_{k}_0.9{k % 10}.png" for i in range(1, 1400) for k in range(1, 11))


def sots(kind: str = "indoor") -> Files:
    if kind == "indoor":
        yield from (f"RESIDE/SOTS/indoor/clear/{i}.png" for i in range(1400, 1450))
        yield from (f"RESIDE/SOTS/indoor/hazy/{i}_{k}.png" for i in range(1400, 1450) for k in range(1, 11))
    else:
        yield from (f"RESIDE/SOTS/outdoor/clear/{i:04}.png" for i in range(1, 493))
        yield from (f"RESIDE/SOTS/outdoor/hazy/{i:04}_0.8_0.2.jpg" for i in range(1, 493))
        yield from (f"RESIDE/SOTS/outdoor/hazy/{i:04}_0.9_0.16.jpg" for i in range(1, 9))


def ots() -> Files:
    yield from (f"OTS/clear/{i:04}.jpg" for i in range(1, 2062))
    yield from (f"OTS/part{1 + i % 4}/{i:04}_{a}_{b}.jpg" for i in range(1, 2062) for a in A for b in BETA)


def equal(*sides: str, count: int, first: int = 1) -> Files:
    """The same number in the template of each side."""
    yield from (side.format(i) for side in sides for i in range(first, first + count))


def dehazeformer(name: str, train: int, test: int) -> Files:
    yield from equal(f"{name}/train/GT/{{}}.png", f"{name}/train/hazy/{{}}.png", count=train)
    yield from equal(f"{name}/test/GT/{{}}.png", f"{name}/test/hazy/{{}}.png", count=test)


def rain100(kind: str, train: int) -> Files:
    yield from equal(f"RainTrain{kind}/rain-{{}}.png", f"RainTrain{kind}/norain-{{}}.png", count=train)
    yield from equal(f"RainTrain{kind}/rainstreak-{{}}.png", count=train)  # not part of a pair
    yield from equal(f"Rain100{kind}/rainy/rain-{{:03}}.png", f"Rain100{kind}/norain-{{:03}}.png", count=100)


def rain200(word: str) -> Files:
    for split, count in (("train", 1800), ("test", 200)):
        top = f"rain_data_{split}_{word}"
        yield from equal(f"{top}/rain/X2/norain-{{}}x2.png", f"{top}/norain/norain-{{}}.png", count=count)


def did() -> Files:
    for density in ("Heavy", "Medium", "Light"):
        yield from equal(f"DID-MDN-training/Rain_{density}/train2018new/{{}}.jpg", count=4000)
    yield from equal("DID-MDN-test/{}.jpg", count=1200)


def ddn() -> Files:
    yield from equal("Rain12600/ground_truth/{}.jpg", count=900)
    yield from equal("Rain1400/ground_truth/{}.jpg", count=100, first=901)
    for i, j in itertools.product(range(1, 1001), range(1, 15)):
        yield f"{'Rain12600' if i <= 900 else 'Rain1400'}/rainy_image/{i}_{j}.jpg"


def spa_test() -> Files:
    yield from equal("real_test_1000/rain/{:03}.png", "real_test_1000/gt/{:03}gt.png", count=1000, first=0)


def spa_train() -> Files:
    yield from equal("sparain/input/{}.png", "sparain/groundtruth/{}.png", count=638_464)
    yield from spa_test()


def div2k() -> Files:
    yield from equal("DIV2K_train_HR/{:04}.png", "DIV2K_train_LR_bicubic/X4/{:04}x4.png", count=800)
    valid = ("DIV2K_valid_HR/{:04}.png", "DIV2K_valid_LR_bicubic/X4/{:04}x4.png")
    yield from equal(*valid, count=100, first=801)


def div2k_sub() -> Files:
    """800 photographs in 32,592 pieces: 40 of most, 41 of 592."""
    for side in ("DIV2K_train_HR_sub", "DIV2K_train_LR_bicubic/X4_sub"):
        yield from (f"{side}/{i:04}_s{k:03}.png" for i in range(1, 801) for k in range(1, 41 + (i <= 592)))
    yield from div2k()


def benchmark(name: str, count: int, kind: str) -> Files:
    sides = {
        "edsr": (f"{name}/HR/im{{}}.png", f"{name}/LR_bicubic/X4/im{{}}x4.png"),
        "basicsr": (f"{name}/GTmod12/im{{}}.png", f"{name}/LRbicx4/im{{}}.png"),
    }
    yield from equal(*sides[kind], count=count)


def gopro() -> Files:
    """2,103 and 1,111 frames in 22 and 11 sequences, as released."""
    for split, frames, sequences in (("train", 2103, 22), ("test", 1111, 11)):
        for side in ("blur", "sharp", "blur_gamma"):
            for i in range(frames):
                yield f"{split}/GOPR{i % sequences:04}_11_00/{side}/{i // sequences:06}.png"


def bsds500() -> Files:
    excluded = sorted(map(int, published.BSDS_EXCLUDED))
    yield from (f"BSDS500/images/train/{i}.jpg" for i in [*range(1000, 1196), *excluded])
    yield from equal("BSDS500/images/test/{}.jpg", count=200, first=2000)
    yield from equal("BSDS500/images/val/{}.jpg", count=100, first=3000)


def airnet() -> Files:
    yield from equal("data/Train/Denoise/{}.png", count=5144)
    train = "data/Train/Derain"
    yield from equal(f"{train}/rainy/rain-{{}}.png", f"{train}/gt/norain-{{}}.png", count=200)
    yield from (
        name.replace("OTS/clear", "data/Train/Dehaze/original").replace("OTS/", "data/Train/Dehaze/synthetic/")
        for name in ots()
    )
    yield from equal("test/denoise/bsd68/test{:03}.png", count=68)
    yield from equal("test/derain/Rain100L/input/{}.png", "test/derain/Rain100L/target/{}.png", count=100)
    for name in sots("outdoor"):
        yield (name.replace("RESIDE/SOTS/outdoor", "test/dehaze").replace("hazy", "input").replace("clear", "target"))


SETS = {  # data set: (its files, task, {split: pairs of each part})
    "reside-its": (lambda: (*its(), *sots()), "dehaze", {"train": [13_990], "test": [500]}),
    "sots-indoor": (sots, "dehaze", {"test": [500]}),
    "sots-outdoor": (lambda: sots("outdoor"), "dehaze", {"test": [500]}),
    "reside-6k": (lambda: dehazeformer("RESIDE-6K", 6000, 1000), "dehaze", {"train": [6000], "test": [1000]}),
    "reside-in": (lambda: dehazeformer("RESIDE-IN", 9, 500), "dehaze", {"test": [500]}),
    "rain100l": (lambda: rain100("L", 200), "derain", {"train": [200], "test": [100]}),
    "rain100h": (lambda: rain100("H", 1800), "derain", {"train": [1800], "test": [100]}),
    "rain200l": (lambda: rain200("Light"), "derain", {"train": [1800], "test": [200]}),
    "rain200h": (lambda: rain200("Heavy"), "derain", {"train": [1800], "test": [200]}),
    "did": (did, "derain", {"train": [12_000], "test": [1200]}),
    "ddn": (ddn, "derain", {"train": [12_600], "test": [1400]}),
    "spa-data": (spa_test, "derain", {"test": [1000]}),
    "div2k": (div2k, "sr", {"train": [800], "test": [100]}),
    "set5": (lambda: benchmark("Set5", 5, "edsr"), "sr", {"test": [5]}),
    "set14": (lambda: benchmark("Set14", 14, "basicsr"), "sr", {"test": [14]}),
    "b100": (lambda: benchmark("B100", 100, "edsr"), "sr", {"test": [100]}),
    "urban100": (lambda: benchmark("Urban100", 100, "basicsr"), "sr", {"test": [100]}),
    "manga109": (lambda: benchmark("Manga109", 109, "edsr"), "sr", {"test": [109]}),
    "gopro": (gopro, "deblur", {"train": [2103], "test": [1111]}),
    "bsds500": (bsds500, "denoise", {"train": [396], "test": [100]}),
}
LARGE = {
    "reside-ots": (lambda: (*ots(), *sots("outdoor")), "dehaze", {"train": [72_135], "test": [500]}),
    "airnet": (airnet, "denoise", {"train": [5144 * 3, 200, 72_135], "test": [204, 100, 500]}),
    "div2k": (div2k_sub, "sr", {"train": [32_592], "test": [100]}),
    "spa-data": (spa_train, "derain", {"train": [638_464], "test": [1000]}),
}


@pytest.mark.parametrize("name", SETS)
def test_names_and_counts_as_published(root, name):
    complete(root, name, *SETS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_names_and_counts_of_the_largest(root, name):
    complete(root, name, *LARGE[name])


def complete(root, name, files, task, counts):
    """Everything is found and paired, nothing is left over, and the workbook knows the number."""
    lay_out(root, files())
    layout, task = published.get(name), tasks.get(task)
    for split, wanted in counts.items():
        founds = published.survey(layout, split, root, task)
        assert [len(found.entries) for found in founds] == wanted
        for found in founds:
            assert not found.lq_alone and not found.twice and (found.packing.many_to_one or not found.gt_alone)
            assert found.packing.counts in ((), (len(found.entries),)) or len(found.entries) in found.packing.counts
        assert datasets.open_set(name, task, split, root, cache="off").note == ""


def test_one_file_less_is_noticed(root):
    lay_out(root, sots())
    (root / "RESIDE/SOTS/indoor/hazy/1449_10.png").unlink()
    note = datasets.open_set("sots-indoor", tasks.get("dehaze"), "test", root).note
    assert "499 of 500 published pictures" in note


# ------------------------------------------------------------------------------------------------ any folder

NAMES = (
    "1.png",
    "2.jpg",
    "001.png",
    "1_2.png",
    "1_2_0.8.png",
    "_.png",
    "rain-1.png",
    "norain-1.png",
    "._1.png",
    "1.txt",
    "1x4.png",
    "ä ö.png",
    "a\nb.png",
    "(x|y).png",
    "{id}.png",
    "*.png",
    "9" * 30 + ".png",
    "0001_s001.png",
    "img_001_SRF_4_HR.png",
    "img_001_SRF_4_LR.png",
    "real_world.txt",
)
FOLDERS = (
    ".",
    ".",
    "ITS/hazy",
    "ITS/clear",
    "gt",
    "lq",
    "train/gt",
    "train/lq",
    "RainTrainL",
    "Rain100L",
    "Rain100L/rainy",
    "Set5/HR",
    "Set5/LR_bicubic/X4",
    "Set5/image_SRF_4",
    "images/train",
    "images/val",
    "DIV2K_train_HR",
    "train/GOPR1/blur",
    "train/GOPR1/sharp",
    "data/Train/Derain/gt",
    "data/Train/Derain/rainy",
    "1.png",
)


def test_500_random_trees_give_a_set_or_a_sentence(root):
    """Readers of folders: files and folders of any name in any place, a folder named like a picture included."""
    chance, opened = np.random.default_rng(0), 0
    known = [name for name in datasets.names() if name != "embedded"]
    for tree in range(500):
        place = root / str(tree)
        place.mkdir()
        folders = chance.choice(FOLDERS, chance.integers(1, 4))
        for _ in range(chance.integers(1, 30)):
            file = place / str(chance.choice(folders)) / str(chance.choice(NAMES))
            if not file.exists() and not any(above.is_file() for above in file.parents):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(chance.bytes(20))
        name = "folder" if tree % 2 else str(chance.choice(known))
        split = str(chance.choice(datasets.SPLITS))
        task = tasks.get(datasets.fitting_task(name, "derain"))
        try:
            found = datasets.open_set(name, task, split, place, cache="off")
            opened += 1
            assert all(entry.gt.is_file() for entry in found.entries)
        except ValueError as error:
            assert str(place) in str(error) or "for testing only" in str(error)
    assert 5 < opened < 400


def test_500_random_pair_lists(root):
    """The list of SPA-Data: any bytes in it give pairs inside the folder, or nothing."""
    chance = np.random.default_rng(1)
    lay_out(root, (f"real_world{side}/000/1.png" for side in ("", "_gt")))
    good = b"./real_world/000/1.png ./real_world_gt/000/1.png\n"
    (packing, *_) = published.SPA_TRAIN
    for _ in range(500):
        text = bytearray(good * 3)
        for _ in range(chance.integers(1, 20)):
            text[chance.integers(len(text))] = chance.choice(list(b"\0\xff/. \n~..") + [chance.integers(256)])
        (root / "real_world.txt").write_bytes(bytes(text))
        found = layouts.find((packing,), root)
        for entry in found.entries if found else []:
            assert entry.gt.is_relative_to(root) and entry.lq.is_relative_to(root)
