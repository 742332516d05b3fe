"""The process's memory: how it is kept between steps, and how much a step needed at its peak."""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt
_KEPT = 2**30  # bytes


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB that tensors have freed, instead of returning it after every operation.

    By default glibc maps large blocks afresh and gives them back when freed, so each step pays for thousands of
    pages that the system hands out and clears. The numbers do not change; a training step on the CPU takes up to
    20 % less time, the most for small networks. Once per process.

    Returns: whether this C library has the setting (glibc on Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def size(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def peak(step: Callable[[], object], device: torch.device) -> int:
    """The most bytes that tensors held during a step, above what they held before it.

    Counted from PyTorch's own allocations and releases, so other programs and what the C library keeps do not
    matter; work space inside a kernel is not seen on a CPU.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0)


def saved(network: nn.Module, image: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, without the network's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their addresses apart

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(image)
    return sum(storage.nbytes() for storage in kept.values())
