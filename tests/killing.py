"""Real training processes that are killed: at any moment from outside, or at a chosen one from inside.

The processes are forked from a server that has imported the package once, so that each begins in a fraction of a
second.
"""

import io
import multiprocessing
import os
import signal
import sys

import torch

from mclir_nb import files
from mclir_nb.training import build, recipes, records, train

CONTEXT = multiprocessing.get_context("forkserver") if sys.platform == "linux" else None


def short(**changes):
    """A run of a second or two that logs, validates and saves more than once."""
    return recipes.get(
        "tiny", **{"steps": 12, "save_every": 3, "log_every": 2, "val_every": 4, "patch_size": 32, **changes}
    )


def start(call, *arguments):
    """A process that does `call(*arguments)`."""
    CONTEXT.set_forkserver_preload(["mclir_nb.training.train", "killing"])
    process = CONTEXT.Process(target=call, args=arguments)
    process.start()
    return process


def finish(call, *arguments) -> int:
    """Do it to the end in a process of its own. Returns: the exit code, negative for a signal."""
    process = start(call, *arguments)
    process.join(900)  # far more than it takes on a busy machine
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def work(recipe, folder, threads=1, device="cpu"):
    """Train in the deterministic mode; the test pictures are cut to their middle, which saves most of the time."""
    real = build.Benchmark
    build.Benchmark = lambda images, task, side=48: real(images, task, side)
    torch.set_num_threads(threads)
    try:
        train.train(recipe, folder, device=device, quiet=True, deterministic=True)
    finally:
        build.Benchmark = real


def die_at_write(recipe, folder, moment, name=""):
    """Train, and kill this very process at the moment-th moment around its writes of the files NAME, counted from 0.

    A write has four: half of the content written; all of it, not flushed; flushed, not renamed; renamed. That of a
    checkpoint has two more when the one before is kept: before and after that is renamed.
    """
    passed = iter(range(10**9))

    def pass_by(file):
        if name in str(file) and next(passed) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    class Halting(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            pass_by(self.name)
            super().write(data[len(data) // 2 :])
            pass_by(self.name)

    def replace(source, target, real=os.replace):
        pass_by(source)
        real(source, target)
        pass_by(source)

    files.open = lambda name, mode="r", **kw: Halting(name, mode) if mode == "wb" else open(name, mode, **kw)
    os.replace = replace
    work(recipe, folder)


def same_runs(one, other) -> None:
    """Two run folders hold the same, bit for bit, but for the times in the log."""
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    for name in names:
        if name.endswith(".safetensors"):
            (a, facts), (b, others) = files.read_tensors(one / name), files.read_tensors(other / name)
            assert a.keys() == b.keys() and facts == others, name
            assert not [key for key in a if not torch.equal(a[key], b[key])], name
        if name == "log.csv":
            assert _without_seconds(one / name) == _without_seconds(other / name)
        elif name == "provenance.json":  # the checkout may be edited while its tests run
            a, b = (records.Run(folder).provenance for folder in (one, other))
            assert all(a[key] == b[key] for key in a if key not in ("revision", "continued"))
        else:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def _without_seconds(file) -> list[list[str]]:
    head, *rows = [line.split(",") for line in file.read_text().splitlines()]
    place = head.index("seconds")
    return [row[:place] + row[place + 1 :] for row in [head, *rows]]
