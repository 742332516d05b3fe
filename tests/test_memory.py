"""The process's memory."""

import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from mclir_nb import memory

def pages():  # new ones that the system had to hand out for one tensor of 80 MB, about 20,000 pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(memory.return_freed_memory(), min(pages() for _ in range(20)))
print(memory.keep_freed_memory(), min(pages() for _ in range(20)))  # the heap takes a few turns to settle
"""


def test_freed_memory_is_used_again_or_returned():
    said = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True).stdout
    returned, kept = (line.split() for line in said.splitlines())
    if kept[0] == "False":
        pytest.skip("this C library has no such setting")
    assert returned[0] == "True" and int(returned[1]) > 10_000
    assert int(kept[1]) < 1000
