"""Worker processes: the same items in the same order, clean ends, and errors that arrive as one sentence."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mclir_nb.data import datasets, images, loading, patches, samples, tasks
from mclir_nb.data.layouts import Entry
from mclir_nb.data.loading import load_in_order
from mclir_nb.data.patches import Benchmark, Patches


class Squares(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return index * index, torch.full((2,), index), f"item {index}", os.getpid()


def children():
    return [child.pid for child in multiprocessing.active_children()]


def gone(pids, seconds=10):
    """Whether all processes have ended, waiting a little for them."""
    until = time.time() + seconds
    while set(pids) & set(children()) and time.time() < until:
        time.sleep(0.05)
    return not set(pids) & set(children())


@pytest.mark.parametrize("number", [0, 1, 3])
def test_items_come_in_order_and_unchanged(number):
    items = list(load_in_order(Squares(), range(5, 40, 3), number))
    assert [item[0] for item in items] == [i * i for i in range(5, 40, 3)]
    assert all(torch.equal(item[1], torch.full((2,), i)) for i, item in zip(range(5, 40, 3), items, strict=True))
    assert items[0][2] == "item 5"
    assert len({item[3] for item in items} - {os.getpid()}) == number


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    list(load_in_order(Squares(), range(4), 2))
    assert torch.equal(before, torch.get_rng_state())


def test_processes_end_when_the_items_are_used_up_or_forgotten():
    before = children()
    list(load_in_order(Squares(), range(9), 2))
    assert gone(set(children()) - set(before))
    items = load_in_order(Squares(), range(1000), 2)
    next(items)
    started = set(children()) - set(before)
    assert len(started) == 2
    del items
    assert gone(started)


def test_processes_leave_ctrl_c_to_the_main_process():
    for _ in range(5):
        items = load_in_order(Squares(), range(50), 2)
        for pid in children():  # even while they begin
            os.kill(pid, signal.SIGINT)
        assert len(list(items)) == 50
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # here it works as before


def test_processes_end_with_a_killed_main_process():
    code = """
import os, time, torch
from mclir_nb.data.loading import load_in_order
from mclir_nb.data.patches import Benchmark, Patches
from mclir_nb.data.layouts import Entry
class Pids(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return os.getpid()
items = load_in_order(Pids(), range(10**6), 1)
print(next(items), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        process.kill()
    until = time.time() + 20
    while not _has_ended(worker) and time.time() < until:
        time.sleep(0.1)
    assert _has_ended(worker)


def _has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


# ---------------------------------------------------------------------------------------------------- patches


def write(path, size=(40, 48), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(images.png(images.Picture(pixels)))


@pytest.mark.parametrize("task", tasks.names())
def test_batches_do_not_depend_on_processes_or_threads(task):
    cut = Patches(datasets.embedded("train"), tasks.get(task), 64, 3, 0)
    here = list(cut.batches(1, 6, workers=0))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threaded = list(cut.batches(1, 6, workers=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    for other in (threaded, list(cut.batches(1, 6, workers=2))):
        for (gt, lq, names), (gt2, lq2, names2) in zip(here, other, strict=True):
            assert torch.equal(gt, gt2) and torch.equal(lq, lq2) and names == names2


@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_picture_is_one_sentence_from_any_process(tmp_path, number):
    for i in range(6):
        write(tmp_path / f"train/{i}.png", seed=i)
    write(tmp_path / "val/0.png")
    (tmp_path / "train/3.png").write_bytes((tmp_path / "train/3.png").read_bytes()[:400])
    denoise = tasks.get("denoise")
    cut = Patches(datasets.open_set("folder", denoise, "train", tmp_path), denoise, 16, 2, 0)
    before, start = children(), time.time()
    with pytest.raises(ValueError) as caught:
        list(cut.batches(1, 20, workers=number))
    assert gone(set(children()) - set(before)) and time.time() - start < 4
    assert "3.png cannot be read as a picture" in str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_smaller_than_the_patch_is_passed_over(tmp_path):
    write(tmp_path / "train/small.png", size=(12, 40))
    write(tmp_path / "train/large.png", size=(20, 24))
    write(tmp_path / "val/0.png")
    denoise = tasks.get("denoise")
    opened = datasets.open_set("folder", denoise, "train", tmp_path)
    datasets.check(opened, denoise, 16)
    names = [name for _, _, names in Patches(opened, denoise, 16, 2, 0).batches(1, 5) for name in names]
    assert names == ["large"] * 10
    with pytest.raises(ValueError, match="no picture of folder is as large as the patch of 32"):
        list(Patches(opened, denoise, 32, 2, 0).batches(1, 1))


def test_each_process_keeps_its_share_of_memory():
    images_ = samples.ImageSet("any", [], memory=1000)
    steps = patches._Steps(Patches(images_, tasks.get("denoise"), 16, 1, 0))
    patches._share_memory(steps, 4)
    assert images_.memory == 250


def test_decoded_pictures_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    for i in range(5):
        write(tmp_path / f"{i}.png", size=(10, 10))
    entries = [Entry(str(i), tmp_path / f"{i}.png") for i in range(5)]
    kept = samples.ImageSet("any", entries, memory=750)  # two pictures of 300 bytes
    for index in (0, 1, 2, 3, 4, 3, 0):
        assert kept[index].name == str(index)
        assert kept._bytes == sum(samples._size(sample) for sample in kept._kept.values()) <= 750
    assert [entry.name for entry in kept._kept] == ["4", "0"] or len(kept._kept) == 2
    large = samples.ImageSet("any", entries, memory=1)
    assert large[0].gt.shape == (3, 10, 10) and len(large._kept) == 1


def test_a_benchmark_is_indexed_counted_and_repeated():
    pictures = Benchmark(datasets.embedded("test"), tasks.get("denoise"), 64)
    assert len(pictures) == len(list(pictures)) == len(list(pictures)) == len(datasets.embedded("test"))
    name, gt, lq = pictures[1]
    assert torch.equal(list(pictures)[1][2], lq) and gt.shape == (3, 64, 64)


def test_paired_benchmarks_are_cut_in_the_middle_of_both(tmp_path):
    write(tmp_path / "gt.png", size=(40, 48))
    write(tmp_path / "lq.png", size=(20, 24), seed=1)
    entry = Entry("a", tmp_path / "gt.png", tmp_path / "lq.png", scale=2)
    _, gt, lq = Benchmark(samples.ImageSet("any", [entry]), tasks.get("sr", 2), 16)[0]
    whole_gt, whole_lq = (images.read_image(tmp_path / name).float() / 255 for name in ("gt.png", "lq.png"))
    assert torch.equal(gt, whole_gt[:, 12:28, 16:32]) and torch.equal(lq, whole_lq[:, 6:14, 8:16])


def test_processors_are_counted():
    assert 0 <= loading.worker_count(1) <= 1
