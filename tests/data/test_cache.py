"""The cache of decoded pictures: the same pixels, once; changed, damaged and interrupted files; no room."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mclir_nb.data import cache, datasets, images, tasks
from mclir_nb.data.cache import Cache
from mclir_nb.data.patches import Patches

DERAIN = tasks.get("derain")


def picture(path, seed=0, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(images.png(images.Picture(pixels)))
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, in order."""
    read, paths = images.read_image, []

    def counting(path):
        paths.append(path.name)
        return read(path)

    monkeypatch.setattr(cache, "read_image", counting)
    return paths


def stored(store):
    return [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_picture_is_decoded_once_and_comes_back_exactly(tmp_path, decoded):
    file, store = picture(tmp_path / "a.png"), Cache(tmp_path / "cache")
    first, again, elsewhere = store.read(file), store.read(file), Cache(tmp_path / "cache").read(file)
    for image in (first, again, elsewhere):
        assert torch.equal(image, images.read_image(file)) and image.dtype == torch.uint8
    assert decoded == ["a.png"] and store.holds(file) and len(stored(store)) == 1


def test_a_mapped_picture_cannot_change_the_file(tmp_path):
    file, store = picture(tmp_path / "a.png"), Cache(tmp_path / "cache")
    store.read(file)
    store.read(file).zero_()
    assert torch.equal(store.read(file), images.read_image(file))


def test_a_changed_picture_is_noticed_and_its_old_copy_removed(tmp_path, decoded):
    file, store = picture(tmp_path / "a.png"), Cache(tmp_path / "cache")
    store.read(file)
    picture(file, seed=1)
    os.utime(file, ns=(0, 5))  # even within one tick of the clock
    assert torch.equal(store.read(file), images.read_image(file)) and len(decoded) == 2
    assert len(stored(store)) == 1


def test_files_of_one_name_in_two_folders_are_two_pictures(tmp_path):
    files, store = [picture(tmp_path / f"{i}/a.png", i) for i in range(2)], Cache(tmp_path / "cache")
    for file in files:
        os.utime(file, ns=(0, 0))
        assert torch.equal(store.read(file), images.read_image(file))
        assert torch.equal(store.read(file), images.read_image(file))


@pytest.mark.parametrize("content", [b"", b"MCLIRGB1", b"MCLIRGB1" + bytes(8), b"x" * 5000])
def test_a_damaged_copy_counts_as_missing(tmp_path, decoded, content):
    file, store = picture(tmp_path / "a.png"), Cache(tmp_path / "cache")
    store.read(file)
    stored(store)[0].write_bytes(content)
    assert torch.equal(store.read(file), images.read_image(file)) and len(decoded) == 2
    assert store.holds(file)


def test_a_cut_copy_counts_as_missing(tmp_path, decoded):
    file, store = picture(tmp_path / "a.png"), Cache(tmp_path / "cache")
    store.read(file)
    os.truncate(stored(store)[0], 1000)
    assert torch.equal(store.read(file), images.read_image(file)) and len(decoded) == 2


def test_an_unreadable_picture_says_the_same_as_without_a_cache(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    for path in (tmp_path / "a.png", tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as a picture"):
            Cache(tmp_path / "cache").read(path)


def test_without_room_or_permission_pictures_are_decoded_each_time(tmp_path, decoded, monkeypatch):
    file = picture(tmp_path / "a.png")
    (tmp_path / "file").touch()
    blocked = Cache(tmp_path / "file")
    for _ in range(2):
        assert torch.equal(blocked.read(file), images.read_image(file))
    assert decoded == ["a.png"] * 2 and "cannot be written" in blocked.full
    monkeypatch.setattr(cache, "RESERVE", 1 << 60)
    small = Cache(tmp_path / "small")
    small.read(file)
    assert "would be left free" in small.full and not stored(small)


@pytest.mark.parametrize("workers", [0, 2])
def test_prepare_decodes_what_is_not_there(tmp_path, workers, capsys):
    files = [picture(tmp_path / f"{i}.png", i) for i in range(20)]
    (tmp_path / "bad.png").write_text("no picture")
    store = Cache(tmp_path / "cache")
    store.read(files[0])
    refusals = store.prepare([*files, tmp_path / "bad.png", *files], workers)
    assert all(map(store.holds, files)) and len(stored(store)) == 20
    assert len(refusals) == 1 and "bad.png" in refusals[0]
    assert "decoding: 20/20" in capsys.readouterr().out
    assert store.prepare(files, workers) == [] and not capsys.readouterr().out


def test_what_interrupted_processes_left_is_removed(tmp_path):
    store = Cache(tmp_path / "cache")
    for name, age in (("old", 2 * cache.ABANDONED), ("young", 0)):
        part = tmp_path / f"cache/ab/.{name}.rgb.1.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        os.utime(part, (time.time() - age,) * 2)
    store.prepare([picture(tmp_path / "a.png")], 0, quiet=True)
    assert [path.name for path in stored(store) if path.suffix == ".part"] == [".young.rgb.1.part"]


def test_killed_at_any_moment_the_cache_holds_only_whole_pictures(tmp_path):
    files = [picture(tmp_path / f"{i}.png", i, size=(150, 200)) for i in range(60)]
    code = f"""
from pathlib import Path
from mclir_nb.data.cache import Cache
from mclir_nb.data.patches import Patches
store = Cache({str(tmp_path / "cache")!r})
print("ready", flush=True)
for i in range(60):
    store.read(Path({str(tmp_path)!r}) / f"{{i}}.png")
"""
    chance, store = random.Random(0), Cache(tmp_path / "cache")
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.01, 0.1))
            process.send_signal(signal.SIGKILL)
    there = [file for file in files if store.holds(file)]
    for file in there:
        assert torch.equal(store.read(file), images.read_image(file))
    assert store.prepare(files, 0, quiet=True) == [] and all(map(store.holds, files))


# ---------------------------------------------------------------------------------------------- in a data set


@pytest.fixture
def pairs(tmp_path):
    for i in range(20):
        picture(tmp_path / f"pairs/lq/{i}.png", i)
        picture(tmp_path / f"pairs/gt/{i}.png", 100 + i)
    return tmp_path / "pairs"


def test_a_set_read_through_the_cache_is_the_same(tmp_path, pairs):
    plain = datasets.open_set("folder", DERAIN, "train", pairs, cache="off")
    cached = datasets.open_set("folder", DERAIN, "train", pairs, cache=tmp_path / "cache")
    assert plain.cache is None and cached.prepare(0, quiet=True) == [] and len(stored(cached.cache)) == 2 * 16
    for task_patches in zip(
        Patches(plain, DERAIN, 16, 4, 0).batches(1, 10),
        Patches(cached, DERAIN, 16, 4, 0).batches(1, 10, workers=2),
        strict=True,
    ):
        (gt, lq, names), (cached_gt, cached_lq, cached_names) = task_patches
        assert torch.equal(gt, cached_gt) and torch.equal(lq, cached_lq) and names == cached_names


def test_a_cached_set_keeps_neither_memory_nor_file_handles(tmp_path, pairs):
    cached = datasets.open_set("folder", DERAIN, "train", pairs, cache=tmp_path / "cache")
    cached.prepare(0, quiet=True)
    cached[0]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        for index in range(len(cached)):
            cached[index]
    assert len(os.listdir("/proc/self/fd")) <= before and not cached._kept


def test_only_training_sets_too_large_for_memory_are_cached(tmp_path, pairs, monkeypatch):
    monkeypatch.setenv("MCLIR_NB_CACHE", str(tmp_path / "cache"))
    assert datasets.open_set("folder", DERAIN, "train", pairs).cache is None
    monkeypatch.setattr(datasets, "MEMORY", 1000)
    opened = datasets.open_set("folder", DERAIN, "train", pairs)
    assert opened.cache.folder == tmp_path / "cache" and not opened.note
    assert datasets.open_set("folder", DERAIN, "val", pairs).cache is None
    monkeypatch.setenv("MCLIR_NB_CACHE", "off")
    assert datasets.open_set("folder", DERAIN, "train", pairs).cache is None


def test_a_cache_that_would_fill_the_disk_is_not_begun(tmp_path, pairs, monkeypatch):
    monkeypatch.setenv("MCLIR_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "predicted_bytes", lambda paths: 1 << 60)
    opened = datasets.open_set("folder", DERAIN, "train", pairs)
    assert opened.cache is None and "Set MCLIR_NB_CACHE to a folder with room" in opened.note


def test_the_size_is_predicted_from_headers(tmp_path, pairs):
    images_ = datasets.open_set("folder", DERAIN, "train", pairs)
    assert cache.predicted_bytes(images_.files()) == 32 * 20 * 24 * 3


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("MCLIR_NB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "mclir_nb"
