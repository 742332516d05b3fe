"""The process's memory after training."""

import sys

import psutil
import pytest
import torch

from mclir_nb.training import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc on Linux")


def test_memory_that_was_kept_is_given_back():
    resident = psutil.Process().memory_info
    memory.keep_freed_memory()
    tensors = [torch.ones(2**18) for _ in range(300)]  # 1 MB each
    last = torch.ones(1)  # above them in the heap, so that its end stays in use
    del tensors
    kept = resident().rss
    memory.return_freed_memory()
    assert kept - resident().rss > 200e6 and last.item() == 1
