"""The one measure of peak memory, against allocations whose size is known."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from mclir_nb.evaluation import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("megabytes", [1, 40, 300])
def test_a_step_that_allocates_reads_what_it_allocates(megabytes):
    """Within one per cent, whatever the process held before and whatever the C library keeps."""
    floats, before = megabytes * 250_000, torch.ones(10_000_000)

    def step():
        kept = torch.ones(floats // 2)
        passing = torch.ones(floats // 2)
        del passing
        return kept.sum() + before.sum()

    result, held = memory.peak(step, CPU)
    assert held == pytest.approx(megabytes * 1e6, rel=0.01) and result == floats // 2 + 10_000_000
    assert memory.peak(step, CPU)[1] == pytest.approx(held, rel=0.01)  # a second time: no record is left behind


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_measuring_does_not_reset_what_the_system_knows_of_the_process():
    def high_water():
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    torch.ones(75_000_000).sum()  # 300 MB for a moment
    before = high_water()
    memory.peak(lambda: torch.ones(10), CPU)
    assert high_water() >= before


def test_what_a_network_holds_and_keeps_by_hand():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    assert memory.size(layers) == 4 * (2 * 3 * 4 * 9 + 4 + 3)
    # kept: the input, and the ReLU's output, which the second convolution shares
    assert memory.kept_for_backward(layers, torch.rand(1, 3, 10, 10)) == (3 + 4) * 100 * 4
