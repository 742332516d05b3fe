"""A run that is killed, at any moment, ends with the bits of a run that was not."""

import random
import signal
import time

import killing
import pytest
from killing import die_at_write, finish, same_runs, short, work

pytestmark = pytest.mark.skipif(killing.CONTEXT is None, reason="kills forked processes, on Linux only")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A short run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert finish(work, short(), folder) == 0
    return folder


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_runs_killed_at_random_moments_end_with_the_same_bits(kills, straight, tmp_path):
    """Killed again and again after random times, started again, and compared when they get to their end."""
    longest, done, ended = 2.0, 0, 0
    while done < kills:
        process, began = killing.start(work, short(), tmp_path / str(ended)), time.monotonic()
        process.join(random.uniform(0, longest))
        if process.exitcode is None:
            process.kill()
            process.join()
            done += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            longest = max(1.0, 1.2 * (time.monotonic() - began))
            same_runs(straight, tmp_path / str(ended))
            ended += 1
    assert finish(work, short(), tmp_path / str(ended)) == 0
    same_runs(straight, tmp_path / str(ended))


def killed_while_writing(folder, straight, *moment) -> bool:
    """Whether a run was killed there. It is started again, and compared."""
    code = finish(die_at_write, short(), folder, *moment)
    assert code in (0, -signal.SIGKILL)
    assert finish(work, short(), folder) == 0
    same_runs(straight, folder)
    return code != 0


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        (0, "checkpoint.safetensors"),  # half of the first one is written
        (7, "checkpoint"),  # the old one is moved away, the new one not yet in its place
        (6, "log.csv"),  # a whole new log, not renamed: the checkpoint is older
        (1, "model.safetensors"),
        (3, "scores.csv"),  # the last file is there, and so is the lock
    ],
)
def test_a_run_killed_inside_and_between_writes_ends_with_the_same_bits(moment, name, straight, tmp_path):
    assert killed_while_writing(tmp_path / "run", straight, moment, name)


@pytest.mark.slow
def test_a_run_killed_at_every_moment_around_its_writes_ends_with_the_same_bits(straight, tmp_path):
    moment = 0
    while killed_while_writing(tmp_path / str(moment), straight, moment):
        moment += 1
    assert moment > 60
