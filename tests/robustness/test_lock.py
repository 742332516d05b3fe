"""One process per run folder, whatever became of the last one."""

import contextlib
import json
import os
import signal

import killing
import pytest

from mclir_nb.training import lock


def hold(folder):
    with lock.held(folder):
        (folder / "there").touch()
        signal.pause()


def owner(folder, **changes) -> None:
    """Write the lock file of another process."""
    other = lock._me() | {"pid": 1, "began": lock._began(1)} | changes
    (folder / lock.FILE).write_text(json.dumps(other))


def is_free(folder) -> bool:
    try:
        with lock.held(folder):
            assert json.loads((folder / lock.FILE).read_text()) == lock._me()
    except ValueError:
        return False
    assert not (folder / lock.FILE).exists()
    return True


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    process = killing.start(hold, tmp_path)
    while not (tmp_path / "there").exists():
        assert process.is_alive()
        process.join(0.05)
    with pytest.raises(ValueError, match=rf"is in use: process {process.pid} on .* or choose another out_dir"):
        with lock.held(tmp_path):
            pass
    os.kill(process.pid, signal.SIGKILL)  # not waited for: a dead process whose parent has not looked counts as dead
    while lock._began(process.pid) is not None:
        pass
    assert is_free(tmp_path)
    process.join()


def test_the_lock_of_a_dead_owner_alone_is_cleared(tmp_path):
    lock.clear(tmp_path)
    owner(tmp_path)
    lock.clear(tmp_path)
    assert (tmp_path / lock.FILE).exists()
    owner(tmp_path, boot="an earlier time")
    lock.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_free_after_an_error_and_after_the_owner_freed_it(tmp_path):
    with contextlib.suppress(RuntimeError), lock.held(tmp_path):
        raise RuntimeError
    assert is_free(tmp_path) and is_free(tmp_path)


def test_the_number_of_a_dead_process_that_another_has_now_is_noticed(tmp_path):
    owner(tmp_path)
    assert not is_free(tmp_path)
    owner(tmp_path, began=lock._began(1) - 1)
    assert is_free(tmp_path)


def test_a_lock_from_before_the_machine_was_switched_on_is_void(tmp_path):
    owner(tmp_path, boot="an earlier time")
    assert is_free(tmp_path)


ENDLESS = '{"host": "", "boot": "", "space": "", "began": 0, "pid": 1e999}'


@pytest.mark.parametrize("text", ["", "{", ENDLESS, '{"host": "here"}', '{"pid": null}', "[]", "\xff\x00", "9" * 5000])
def test_a_lock_file_that_names_nobody_is_void(text, tmp_path):
    (tmp_path / lock.FILE).write_text(text, encoding="latin-1")
    assert is_free(tmp_path)


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"space": "another container"}])
def test_an_owner_elsewhere_lives_as_long_as_it_touches_the_file(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.1)
    owner(tmp_path, **elsewhere)
    assert is_free(tmp_path)  # silent for three beats
    owner(tmp_path, **elsewhere)
    touched = iter(range(1, 10))
    real = lock.time.sleep
    monkeypatch.setattr(lock.time, "sleep", lambda s: (os.utime(tmp_path / lock.FILE, (next(touched),) * 2), real(s)))
    assert not is_free(tmp_path)


def test_the_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with lock.held(tmp_path):
        os.utime(tmp_path / lock.FILE, (0, 0))
        assert lock._beats(tmp_path / lock.FILE, 0)


def test_where_there_is_no_table_in_proc_psutil_is_asked(monkeypatch):
    monkeypatch.setattr(lock.os.path, "exists", lambda path: False)
    assert lock._began(os.getpid()) == lock.psutil.Process().create_time()
    assert lock._began(2**22 + 1) is None
