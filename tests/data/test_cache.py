"""The cache of decoded pictures: the same pixels, once; changed and damaged files; no room."""

import os

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

    def counting(path):
        paths.append(path.name)
        return read(path)

    monkeypatch.setattr(cache, "read_image", counting)
    return paths


def stored(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_picture_is_decoded_once_and_cannot_be_changed_by_its_reader(tmp_path, decoded):
    file, store = write(tmp_path / "a.png"), Cache(tmp_path / "cache")
    for reader in (store, store, Cache(tmp_path / "cache")):
        image = reader.read(file)
        assert image.dtype == torch.uint8 and torch.equal(image, images.read_image(file))
        image.zero_()
    assert decoded == ["a.png"] and len(stored(tmp_path / "cache")) == 1


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
    (copy,) = stored(tmp_path / "cache")
    copy.write_bytes(b"x" * 5000 if keep == "other" else copy.read_bytes()[:keep])
    for _ in range(2):
        assert torch.equal(store.read(file), images.read_image(file))
    assert len(decoded) == 2


def test_an_unreadable_picture_says_the_same_as_without_a_cache(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    for path in (tmp_path / "a.png", tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=path.name):
            Cache(tmp_path / "cache").read(path)


def test_without_room_or_permission_pictures_are_decoded_each_time(tmp_path, decoded, monkeypatch):
    file = write(tmp_path / "a.png")
    (tmp_path / "file").touch()
    blocked = Cache(tmp_path / "file")
    for _ in range(2):
        assert torch.equal(blocked.read(file), images.read_image(file))
    assert decoded == ["a.png"] * 2 and blocked.full
    monkeypatch.setattr(cache, "RESERVE", 1 << 60)
    Cache(tmp_path / "small").read(file)
    assert not stored(tmp_path / "small")


@pytest.fixture
def album(tmp_path):
    for i in range(20):
        write(tmp_path / f"pairs/lq/{i}.png", seed=i)
        write(tmp_path / f"pairs/gt/{i}.png", seed=100 + i)
    return tmp_path / "pairs"


def test_a_set_read_through_the_cache_is_the_same_and_keeps_no_file_open(tmp_path, album):
    plain = datasets.open_set("folder", DERAIN, "train", album, cache="off")
    cached = datasets.open_set("folder", DERAIN, "train", album, cache=tmp_path / "cache")
    for workers in (0, 2):
        batches = (Patches(images, DERAIN, 16, 4, 0).batches(1, 10, workers=workers) for images in (plain, cached))
        for (gt, lq, names), (cached_gt, cached_lq, cached_names) in zip(*batches, strict=True):
            assert torch.equal(gt, cached_gt) and torch.equal(lq, cached_lq) and names == cached_names
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(len(cached))] * 20:
        cached[index]
    assert len(os.listdir("/proc/self/fd")) <= before


def test_only_training_sets_too_large_for_memory_are_cached(tmp_path, album, monkeypatch):
    monkeypatch.setenv("MCLIR_NB_CACHE", str(tmp_path / "cache"))
    small = datasets.open_set("folder", DERAIN, "train", album)
    assert small.cache is None and cache.predicted_bytes(small.files()) == 32 * 20 * 24 * 3
    monkeypatch.setattr(datasets, "MEMORY", 1000)
    assert datasets.open_set("folder", DERAIN, "train", album).cache.folder == tmp_path / "cache"
    assert datasets.open_set("folder", DERAIN, "val", album).cache is None
    monkeypatch.setattr(datasets, "predicted_bytes", lambda paths: 1 << 60)
    full = datasets.open_set("folder", DERAIN, "train", album)  # it would fill the disk
    assert full.cache is None and "MCLIR_NB_CACHE" in full.note
    monkeypatch.setenv("MCLIR_NB_CACHE", "off")
    assert datasets.open_set("folder", DERAIN, "train", album).cache is None

    for name in ("MCLIR_NB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user that nobody knows
    assert cache.default_folder() is None
