"""What is promised: the same command gives the same files, but for the times in them.

That batches depend on neither threads nor processes is shown in test_workers.
"""

import sys

import pytest
from killing import finish, same_runs, short, work

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes, on Linux only")


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_command_in_two_processes_gives_the_same_files(threads, tmp_path):
    """Of one thread count: torch promises nothing between two, because sums are ordered differently."""
    for name in "ab":
        assert finish(work, short(steps=6), tmp_path / name, threads) == 0
    same_runs(tmp_path / "a", tmp_path / "b")
