"""Memory in bytes: what a network holds, what its backward pass keeps, and what a computation needs at its peak."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def size(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def peak(step: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """The most bytes that tensors held during a step, above what they held before it.

    On CUDA the allocator counts. On a CPU, PyTorch's profiler notes every allocation and release of a tensor, which
    slows the step down; work space inside a kernel is not seen. Other programs, and memory that the C library keeps,
    do not matter, and nothing outside this function is reset on a CPU. Returns what the step returned, and the bytes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = step()
        return result, torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler tells stderr that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = step()
    with tempfile.TemporaryDirectory() as folder:
        seen.export_chrome_trace(f"{folder}/trace.json")
        trace = json.loads(Path(folder, "trace.json").read_text())
    changes = sorted((event for event in trace["traceEvents"] if event["name"] == "[memory]"), key=lambda e: e["ts"])
    held = itertools.accumulate(event["args"]["Bytes"] for event in changes)
    return result, max(held, default=0)


def kept_for_backward(network: nn.Module, image: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, without the network's own tensors."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their addresses apart

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(image)
    return sum(storage.nbytes() for storage in kept.values())
