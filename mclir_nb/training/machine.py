"""What training asks of the machine: a device, freed memory kept between steps, signals noticed between them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mclir_nb.training.recipes import Recipe

LIBC: Any = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt


class OutOfMemory(RuntimeError):
    """There was too little memory for the recipe; the message says which field to turn down."""


def pick_device(name: str) -> torch.device:
    """The device called `name`: auto (CUDA if there is one), cpu, cuda or cuda:N. ValueError if there is none here.

    One of CUDA has a number, without which `torch.cuda.set_device` refuses it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N.")
    device = torch.device("cuda:0" if name == "cuda" else name)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices); use auto or cpu.")
    return device


@contextmanager
def deterministic(device: torch.device, on: bool = True) -> Iterator[None]:
    """The deterministic mode on CUDA, unless `on` is False: no kernels whose sums depend on which thread comes first.

    The same command then gives the same bits on the same GPU and versions, in more time. On a CPU sums are ordered
    anyway, and nothing changes.
    """
    if not on or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at cuBLAS's first use
    cudnn = torch.backends.cudnn
    filling: Any = torch.utils.deterministic  # the annotations lack its switch
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic = True
    filling.fill_uninitialized_memory = False  # nothing here reads what was never written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, filling.fill_uninitialized_memory = before[1:]


def keep_freed_memory() -> None:
    """Let the C library (glibc on Linux) keep what tensors have freed; the numbers do not change.

    By default large blocks are unmapped when freed, and each training step on the CPU pays for thousands of pages that
    the system hands out and clears: three steps of NAFNet take 9.5 processor seconds instead of 6.1.
    """
    if hasattr(LIBC, "mallopt"):
        LIBC.mallopt(M_MMAP_MAX, 0)
        LIBC.mallopt(M_TRIM_THRESHOLD, 2**30)  # bytes at the end of the heap


def return_freed_memory() -> None:
    """Give the system back what `keep_freed_memory` made the process keep; a notebook's kernel lives on for hours."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)


@contextmanager
def explain_out_of_memory(recipe: Recipe) -> Iterator[None]:
    """Say which fields of the recipe to turn down when memory ends. Raises OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        causes = (error, error.__cause__)  # tiles of validation have a sentence of their own
        on_cpu = any("DefaultCPUAllocator" in str(cause) for cause in causes)
        if not (on_cpu or any(isinstance(cause, torch.OutOfMemoryError | MemoryError) for cause in causes)):
            raise
        raise OutOfMemory(
            f"out of memory. Turn accumulate up first, which takes the batch in parts (now {recipe.accumulate}), then "
            f"batch_size down (now {recipe.batch_size}) or patch_size (now {recipe.patch_size}); if it was in "
            f"validation, val_side (now {recipe.val_side}). That is another recipe, so choose another out_dir too, and "
            "change every run that this one is compared with."
        ) from error


@contextmanager
def catch_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, for the loop to look at between steps; then a Ctrl-C stops at once.

    Not so another SIGTERM: SLURM sends it to all processes of a step, and torchrun among them to its own once more.
    Outside the main thread Python allows no handlers, and the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number, frame):
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt("stopped at once; run the same command to go on from the last checkpoint.")
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
