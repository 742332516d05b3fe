"""The cache of decoded pictures: the same pixels, once; changed and damaged files; no room."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from pictures import write

from mclir_nb.data import cache, datasets, images, tasks
from mclir_nb.data.cache import Cache
from mclir_nb.data.patches import Patches

DERAIN = tasks.get("derain")


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, in order."""
    read, paths = images.read_image, []
    monkeypatch.setattr(cache, "read_image", lambda path: paths.append(path.name) or read(path))
    return paths


def test_a_picture_is_decoded_once_and_cannot_be_changed_by_its_reader(tmp_path, decoded):
    file, store = write(tmp_path / "a.png"), Cache(tmp_path / "cache")
    for reader in (store, store, Cache(tmp_path / "cache")):
        image = reader.read(file)
        assert image.dtype == torch.uint8 and torch.equal(image, images.read_image(file))
        image.zero_()
    assert decoded == ["a.png"]


def test_a_changed_picture_is_decoded_again(tmp_path, decoded):
    file, store = write(tmp_path / "a.png"), Cache(tmp_path / "cache")
    store.read(file)
    write(file, seed=1)
    os.utime(file, ns=(0, 5))  # even within one tick of the clock
    other = write(tmp_path / "other/a.png", seed=2)  # of the same name
    os.utime(other, ns=(0, 5))
    for path in (file, other):
        assert torch.equal(store.read(path), images.read_image(path))
    assert len(decoded) == 3


@pytest.mark.parametrize("keep", [0, 6, 60, 500, "other"])
def test_a_damaged_copy_counts_as_missing(tmp_path, decoded, keep):
    file, store = write(tmp_path / "a.png"), Cache(tmp_path / "cache")
    store.read(file)
    (copy,) = (tmp_path / "cache").rglob("*.npy")
    copy.write_bytes(b"x" * 5000 if keep == "other" else copy.read_bytes()[:keep])
    for _ in range(2):
        assert torch.equal(store.read(file), images.read_image(file))
    assert len(decoded) == 2


def test_without_permission_or_the_file_all_is_as_without_a_cache(tmp_path):
    (tmp_path / "file").touch()
    blocked, file = Cache(tmp_path / "file"), write(tmp_path / "a.png")
    assert torch.equal(blocked.read(file), images.read_image(file))
    (tmp_path / "b.png").write_text("no picture")
    for path in (tmp_path / "b.png", tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=path.name):
            Cache(tmp_path / "cache").read(path)


def test_a_folder_that_may_not_be_looked_into_is_as_without_a_cache(tmp_path, monkeypatch):
    locked, stat = tmp_path / "locked", os.stat

    def deny(path, *arguments, **options):
        if str(path).startswith(f"{locked}/"):
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **options)

    locked.mkdir()
    monkeypatch.setenv("MCLIR_NB_CACHE", str(locked / "cache"))
    monkeypatch.setattr(os, "stat", deny)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    assert cache.choose([write(tmp_path / "a.png")], memory=0)[0] is None


def test_only_training_sets_too_large_for_memory_are_cached(tmp_path, monkeypatch):
    for i in range(20):
        write(tmp_path / f"pairs/lq/{i}.png", seed=i)
        write(tmp_path / f"pairs/gt/{i}.png", seed=100 + i)
    monkeypatch.setenv("MCLIR_NB_CACHE", str(tmp_path / "cache"))

    def opened(split="train"):
        return datasets.open_set("folder", DERAIN, split, tmp_path / "pairs")

    plain = opened()
    assert plain.cache is None
    monkeypatch.setattr(datasets, "MEMORY", 1000)
    cached = opened()
    assert cached.cache.folder == tmp_path / "cache" and opened("val").cache is None
    for workers in (0, 2):
        batches = (Patches(images, DERAIN, 16, 4, 0).batches(1, 10, workers=workers) for images in (plain, cached))
        for (gt, lq, names), (cached_gt, cached_lq, cached_names) in zip(*batches, strict=True):
            assert torch.equal(gt, cached_gt) and torch.equal(lq, cached_lq) and names == cached_names
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(len(cached))] * 20:
        cached[index]
    assert len(os.listdir("/proc/self/fd")) <= before
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=50_000))
    assert opened().cache  # what an earlier run has kept is used, though half of the disk is full by now
    shutil.rmtree(tmp_path / "cache")
    full = opened()  # it would take more than half of what is free
    assert full.cache is None and "MCLIR_NB_CACHE" in full.note
    monkeypatch.setenv("MCLIR_NB_CACHE", "off")
    assert opened().cache is None


def test_without_a_home_folder_nothing_is_cached(monkeypatch):
    for name in ("MCLIR_NB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user that nobody knows
    assert cache.default_folder() is None
    monkeypatch.setenv("MCLIR_NB_CACHE", "~no-such-user/cache")
    assert cache.default_folder() is None
