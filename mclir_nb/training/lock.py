"""One process per run folder: a lock file that names its owner and is taken over from a dead one.

The file says which process holds the folder: host, process number, and when that process began, because numbers are
used again. On the same host the process table tells whether the owner lives. For an owner elsewhere (a folder that
several machines share) the file itself tells: its owner touches it every `BEAT` seconds.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = "run.lock"
BEAT = 5.0  # seconds between two signs of life


@contextmanager
def held(run_dir: Path):
    """Hold the folder while the block runs.

    Raises: ValueError if another process that lives holds it; OSError if the folder cannot be written.
    """
    file = run_dir / FILE
    try:
        _take(file)
    except OSError as error:
        raise OSError(
            f"cannot write into {run_dir} ({error.strerror or error}); choose another out_dir, or make it writable."
        ) from error
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(file, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with suppress(OSError), _alone(file) as handle:  # a folder that is gone needs no freeing
            if _owner(handle) == _me():
                file.unlink()


def clear(run_dir: Path) -> None:
    """Remove the lock of an owner that died; nothing happens if it lives, or if the folder cannot be written."""
    file = run_dir / FILE
    if file.exists():
        with suppress(OSError), _alone(file) as handle:
            if _lives(_owner(handle)) is False:
                file.unlink()


def _take(file: Path) -> None:
    """Write this process into the lock file, unless its owner lives."""
    while True:
        with _alone(file) as handle:
            owner = _owner(handle)
            lives = _lives(owner)
            if lives is False:
                _write(handle, _me())
                return
            seen = os.fstat(handle.fileno()).st_mtime_ns
        if lives or _beats(file, seen):
            raise ValueError(
                f"{file.parent} is in use: process {owner['pid']} on {owner['host']} is training into it. Wait for it "
                "or stop it, or choose another out_dir."
            )
        with _alone(file) as handle:
            if _owner(handle) == owner:  # nobody else was quicker
                _write(handle, _me())
                return


@contextmanager
def _alone(file: Path):
    """The lock file, made if needed and open for reading and writing, while no other process of this host has it."""
    while True:
        with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+") as handle:
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX)  # for moments only: children inherit it, and they may live longer
            if _is_at(handle, file):
                yield handle
                return
        # its owner removed it between opening and locking: once more


def _is_at(handle, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(file))
    except FileNotFoundError:
        return False


def _owner(handle) -> dict | None:
    """Who wrote the file; None if nobody did, or somebody died while writing."""
    handle.seek(0)
    try:
        owner = json.loads(handle.read(4096))
        return {key: owner[key] for key in ("host", "boot", "space", "began")} | {"pid": int(owner["pid"])}
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _write(handle, owner: dict) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(json.dumps(owner) + "\n")
    handle.flush()


def _me() -> dict:
    """This process: host, the time since the host was switched on, the space in which its number counts, number."""
    try:
        boot, space = (Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        boot = space = ""
    pid = os.getpid()
    return {"host": platform.node(), "boot": boot, "space": space, "pid": pid, "began": _began(pid)}


def _lives(owner: dict | None) -> bool | None:
    """Whether an owner lives, by the process table; None if it is on another host, or in another container."""
    if owner is None:
        return False
    me = _me()
    if owner["host"] != me["host"]:
        return None
    if owner["boot"] != me["boot"]:
        return False
    if owner["space"] != me["space"]:
        return None
    began = _began(owner["pid"])
    return began is not None and began == owner["began"]


def _began(pid: int) -> float | None:
    """When a process began, in units that differ between systems; None if there is none, or only its remains."""
    try:
        if os.path.exists("/proc/self/stat"):  # clock ticks, which no change of the clock moves
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if state in "ZX" else float(fields[18])
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (OSError, psutil.Error):
        return None


def _beats(file: Path, seen: int) -> bool:
    """Whether the owner elsewhere gives a sign of life within three beats."""
    end = time.monotonic() + 3 * BEAT
    while time.monotonic() < end:
        time.sleep(min(BEAT / 5, 1.0))
        with suppress(FileNotFoundError):
            if os.stat(file).st_mtime_ns != seen:
                return True
    return False


def _beat(file: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):  # a folder that is gone is noticed by whoever writes into it
            os.utime(file)
