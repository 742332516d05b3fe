"""Items computed ahead by worker processes, in the order they are asked for."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

AHEAD = 4  # items that each process may be ahead
# Forked, a process has all that this one has; torch's threads are idle here. On macOS Apple's libraries do not bear it.
FORKS = "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"


def load_in_order(
    compute: Callable[[int], Any], order: Sequence[int], workers: int, *, pin: bool = False
) -> Iterator[Any]:
    """compute(i) for every i of `order`, the same whatever the number of processes.

    The processes end with the iterator: when it is used up, closed or forgotten, or when this process dies. Ctrl-C and
    SIGTERM reach this process alone, also where they are sent to all of a command's.

    Args:
        compute: its ValueErrors are raised here as the one sentence that they are.
        workers: processes; 0 computes each item here when it is asked for. So it is with any number where processes
            are not forked (macOS, Windows) and a new one would not find `compute`: a task that a notebook defines.
        pin: put tensors into page-locked memory, from where a GPU copies while computing.
    """
    if workers and not FORKS and not _importable(compute):
        workers = 0
    with _interrupts_blocked(), warnings.catch_warnings():
        # more processes than processors are the caller's choice
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        # Python 3.12 warns of forking beside other threads
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        loader = DataLoader(
            _Items(compute),
            batch_size=None,
            sampler=order,
            num_workers=workers,
            multiprocessing_context="fork" if FORKS and workers else None,  # None: Python's own choice
            prefetch_factor=AHEAD if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),  # otherwise the loader draws from the global generator
        )
        return _checked(iter(loader))


def _importable(compute: Callable[[int], Any]) -> bool:
    """Whether a process that begins with nothing can be handed `compute`: it is pickled, and nothing is in __main__."""
    try:
        return b"__main__" not in pickle.dumps(compute)
    except Exception:  # pickle raises nearly anything
        return False


class _Items(torch.utils.data.Dataset):
    """What a function computes. An error is a value here: from a process it would arrive as a whole traceback."""

    def __init__(self, compute: Callable[[int], Any]):
        self.compute = compute

    def __getitem__(self, index: int) -> Any:
        try:
            return self.compute(index)
        except ValueError as error:
            return ValueError(str(error))


def _checked(items: Iterator) -> Iterator:
    """The items; an error among them is raised. The processes end at once, not when garbage is collected."""
    try:
        for item in items:
            if isinstance(item, ValueError):
                raise ValueError(str(item))  # raising `item` itself would tie it and this frame into a cycle
            yield item
    finally:
        del items


@contextmanager
def _interrupts_blocked():
    """Keep Ctrl-C and SIGTERM waiting while processes begin: they inherit that, so neither ever reaches them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_count() -> int:
    """Worker processes beside this one: its share of the processors it may use, less its own; at most 8."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trainings = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # that torchrun started on this machine
    return max(0, min(8, processors // trainings - 1))
