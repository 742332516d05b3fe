"""Items computed ahead by worker processes, in the order they are asked for."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

AHEAD = 4  # items that each process may be ahead


def in_order(
    items: torch.utils.data.Dataset,
    order: Sequence[int],
    workers: int,
    *,
    pin: bool = False,
    begin: Callable[[Any, int], None] | None = None,
) -> Iterator:
    """items[i] for every i of `order`, the same whatever the number of processes.

    The processes end with the iterator: when it is used up, closed or forgotten, or when this process dies. Ctrl-C
    is left to this process.

    Args:
        items: anything with `__getitem__`; what it raises in a process arrives as a traceback, so errors meant for
            people should be values.
        order: the indices.
        workers: processes; 0 computes each item here when it is asked for.
        pin: put tensors into page-locked memory, from where a GPU copies while computing.
        begin: called in every process with `items` and the number of processes, before the first item.
    """
    with _interrupts_held(), warnings.catch_warnings():
        # more processes than processors are the caller's choice
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        # Python 3.12 warns of forking beside other threads; torch's own are idle here, and loaders always fork
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        loader = torch.utils.data.DataLoader(
            items,
            batch_size=None,
            sampler=order,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=pin,
            collate_fn=_as_it_is,
            worker_init_fn=_Begin(begin),
            generator=torch.Generator(),  # otherwise the loader draws from the global generator
        )
        return iter(loader)


@contextmanager
def _interrupts_held():
    """Keep Ctrl-C waiting while processes begin: they inherit that, so it never reaches them at all."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def several(most: int = 8) -> int:
    """A number of processes for work that only reads and decodes."""
    return min(most, processors())


def _as_it_is(item):
    return item


class _Begin:
    def __init__(self, begin: Callable[[Any, int], None] | None):
        self.begin = begin

    def __call__(self, number: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        info = torch.utils.data.get_worker_info()
        if self.begin:
            self.begin(info.dataset, info.num_workers)
