"""How much memory a step needs: counted from the tensors, not from what the process happens to hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile


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
