"""Worker processes: the same items in the same order, clean ends, and a number that fits the machine."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mclir_nb.data import datasets, loading, patches, tasks
from mclir_nb.data.loading import load_in_order, worker_count


class Squares:
    def __call__(self, index):
        return index * index, torch.full((2,), index), f"item {index}", os.getpid()


def children():
    return {child.pid for child in multiprocessing.active_children()}


def gone(pids, seconds=10):
    """Whether all processes have ended, waiting a little for them."""
    until = time.time() + seconds
    while pids & children() and time.time() < until:
        time.sleep(0.05)
    return not pids & children()


@pytest.mark.parametrize("number", [0, 1, 3])
def test_items_come_in_order_and_unchanged(number):
    before = torch.get_rng_state()
    items = list(load_in_order(Squares(), range(5, 40, 3), number))
    assert [item[0] for item in items] == [i * i for i in range(5, 40, 3)]
    assert all(torch.equal(item[1], torch.full((2,), i)) for i, item in zip(range(5, 40, 3), items, strict=True))
    assert items[0][2] == "item 5"
    assert len({item[3] for item in items} - {os.getpid()}) == number
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"


def test_processes_end_when_the_items_are_used_up_or_forgotten():
    before = children()
    list(load_in_order(Squares(), range(9), 2))
    assert gone(children() - before)
    items = load_in_order(Squares(), range(1000), 2)
    next(items)
    started = children() - before
    assert len(started) == 2
    del items
    assert gone(started)


def test_processes_leave_ctrl_c_to_the_main_process():
    for _ in range(3):
        items = load_in_order(Squares(), range(50), 2)
        for pid in children():  # even while they begin
            os.kill(pid, signal.SIGINT)
        assert len(list(items)) == 50
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)  # here it works as before


NOTEBOOK = """
import multiprocessing, os
from mclir_nb.data import loading

def here(index):
    return index * index, os.getpid()

multiprocessing.set_start_method("forkserver")  # as Python 3.14 does
for forks in (loading.FORKS, False):
    loading.FORKS = forks
    items = list(loading.load_in_order(here, range(5), 2))
    print([item[0] for item in items], len({item[1] for item in items} - {os.getpid()}))
"""


@pytest.mark.skipif(not loading.FORKS, reason="processes are not forked here")
def test_what_a_notebook_defines_is_loaded_whatever_way_processes_begin():
    ran = subprocess.run([sys.executable, "-c", NOTEBOOK], capture_output=True, text=True, timeout=120)
    assert ran.stdout.splitlines() == ["[0, 1, 4, 9, 16] 2", "[0, 1, 4, 9, 16] 0"], ran.stderr


def test_workers_share_the_processors_with_the_trainings_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert worker_count() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert worker_count() == 0


def test_batches_come_from_workers_only_where_a_gpu_trains(monkeypatch):
    """The device of the training counts, not what the machine has."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(patches, "load_in_order", lambda items, order, workers, **_: iter(asked.append(workers) or []))
    monkeypatch.setattr(patches, "worker_count", lambda: 5)
    cut = patches.Patches(datasets.embedded("train"), tasks.get("denoise"), 16, 1, 0)
    for device in (None, torch.device("cpu"), torch.device("cuda:1")):
        list(cut.batches(1, 1, device=device))
    assert asked == [0, 0, 5]
