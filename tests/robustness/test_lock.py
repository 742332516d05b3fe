"""One process per run folder, whatever became of the last one."""

import os
import shutil
import signal

import killing
import pytest

from mclir_nb.training import records, run_folder, train

pytestmark = pytest.mark.skipif(killing.CONTEXT is None, reason="forks processes, on Linux only")
RECIPE = killing.short(steps=3, objective="plain")


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run that lacks its scores."""
    folder = tmp_path_factory.mktemp("unfinished") / "run"
    killing.work(RECIPE, folder)
    (folder / "scores.csv").unlink()
    return folder


def hold(folder):
    """Hold the folder, and start a process that lives on when this one is killed."""
    with run_folder.acquire_lock(folder):
        if os.fork() == 0:
            os.execlp("sleep", "sleep", "20")
        (folder / "there").touch()
        signal.pause()


def test_a_second_run_is_refused_until_the_first_is_dead(unfinished, tmp_path):
    folder = shutil.copytree(unfinished, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    process = killing.start(hold, folder)
    try:
        while not (folder / "there").exists():
            assert process.is_alive()
            process.join(0.05)
        with pytest.raises(ValueError, match="run is in use"):
            train.train(RECIPE, folder, device="cpu", quiet=True)
    finally:
        process.kill()
        process.join()
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {name: after[name] for name in before} == before and after.keys() - before == {"there", run_folder.LOCK}
    killing.work(RECIPE, folder)
    assert records.Run(folder).is_finished and not (folder / run_folder.LOCK).exists()
