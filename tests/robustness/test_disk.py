"""Disks that are full, folders that cannot be written, folders that belong to another run: nothing is lost."""

import contextlib
import shutil
import subprocess

import killing
import pytest
from killing import same_runs, short
from trainers import before_step

from mclir_nb import files
from mclir_nb.training import checkpoint, run_folder, train

RECIPE = short(steps=6, objective="plain")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    killing.work(RECIPE, folder)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB. Skipped where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a small file system is not allowed here ({error})")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_the_old_state_and_a_clear_message(small_disk, straight):
    folder = small_disk / "run"

    def fill(*_):
        with contextlib.suppress(OSError), open(small_disk / "filler", "wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()

    with pytest.raises(OSError, match="run.log.csv .*No space left on device"), before_step(6, fill):
        killing.work(RECIPE, folder)
    assert checkpoint.read(folder / checkpoint.FILE)["run"]["step"] == 3
    assert not list(folder.glob(".*.part")) and not (folder / run_folder.LOCK).exists()
    (small_disk / "filler").unlink()
    killing.work(RECIPE, folder)
    same_runs(straight, folder)


@pytest.mark.parametrize("name", ["file/x.json", "x" * 300])
def test_a_place_where_no_file_can_be_is_the_same_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write .*another folder"):
        files.write_file(tmp_path / name, "{}")


def test_a_folder_that_cannot_be_written_is_a_sentence_and_a_finished_run_in_it_is_read(small_disk, straight):
    shutil.copytree(straight, small_disk / "finished")
    shutil.copytree(straight, small_disk / "unfinished")
    (small_disk / "unfinished" / "scores.csv").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert train.train(RECIPE, small_disk / "finished", quiet=True).is_finished
    with pytest.raises(OSError, match="unfinished.* out_dir"):
        train.train(RECIPE, small_disk / "unfinished", quiet=True)
    with pytest.raises(OSError, match="new .*out_dir"):
        train.train(RECIPE, small_disk / "new", quiet=True)
