"""The process's memory."""

import resource

import pytest
import torch

from mclir_nb.training import memory


def test_freed_memory_is_used_again():
    if not memory.keep_freed_memory():
        pytest.skip("this C library has no such setting")

    def pages() -> int:
        """New pages the system had to hand out for one tensor of 80 MB, about 20,000 pages."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(20_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert min(pages() for _ in range(20)) < 1000  # the heap takes a few turns to settle
