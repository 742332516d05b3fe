"""The one measure of peak memory, against allocations whose size is known."""

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


def test_what_a_network_holds_and_keeps_by_hand():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
    assert memory.size(layers) == 4 * (2 * 3 * 4 * 9 + 4 + 3)
    # kept: the input, and the ReLU's output, which the second convolution shares
    assert memory.kept_for_backward(layers, torch.rand(1, 3, 10, 10)) == (3 + 4) * 100 * 4
