"""Items computed ahead by worker processes, in the order they are asked for."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

AHEAD = 4  # items that each process may be ahead
Begin = Callable[[Any, int], None]


def load_in_order(
    items: torch.utils.data.Dataset,
    order: Sequence[int],
    workers: int,
    *,
    pin: bool = False,
    begin: Begin | None = None,
) -> Iterator:
    """items[i] for every i of `order`, the same whatever the number of processes.

    The processes end with the iterator: when it is used up, closed or forgotten, or when this process dies. Ctrl-C
    reaches this process alone.

    Args:
        items: what it raises in a process arrives as a traceback, so errors meant for people should be values.
        workers: processes; 0 computes each item here when it is asked for.
        pin: put tensors into page-locked memory, from where a GPU copies while computing.
        begin: called in every process with `items` and the number of processes, before the first item.
    """
    with _interrupts_blocked(), warnings.catch_warnings():
        # more processes than processors are the caller's choice
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        # Python 3.12 warns of forking beside other threads; torch's own are idle here, and loaders always fork
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        loader = DataLoader(
            items,
            batch_size=None,
            sampler=order,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=pin,
            worker_init_fn=partial(_begin, begin),
            generator=torch.Generator(),  # otherwise the loader draws from the global generator
        )
        return iter(loader)


@contextmanager
def _interrupts_blocked():
    """Keep Ctrl-C waiting while processes begin: they inherit that, so it never reaches them at all."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_count() -> int:
    """Worker processes beside this one: its share of the processors it may use, less its own; at most 8."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trainings = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # that torchrun started on this machine
    return max(0, min(8, processors // trainings - 1))


def _begin(begin: Begin | None, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    info = get_worker_info()
    if begin and info:
        begin(info.dataset, info.num_workers)
