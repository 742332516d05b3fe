"""Doing many jobs at once: processes on this machine, or a Dask cluster.

`work(job)` must be importable by the other processes; `job.name` names it in messages. Results come as they finish. A
job that fails does not stop the others: all failed ones are named together at the end.

On a cluster under SLURM, start a scheduler with dask-jobqueue and hand its address on:

    from dask_jobqueue import SLURMCluster
    cluster = SLURMCluster(cores=1, processes=1, memory="8GB", walltime="02:00:00")
    cluster.scale(jobs=10)
    compare.run(jobs, "/shared/folder", scheduler=cluster.scheduler_address)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import get_context

import torch

RETRIES = 3  # of a job on a cluster, beyond what the scheduler does for lost workers
PATIENCE = 10  # seconds that a scheduler may take to answer


def in_processes(work: Callable, jobs: Sequence, processes: int) -> Iterator:
    """Results of jobs, so many at once, each in a new process of its own with its share of the cores."""
    if processes < 1:
        raise ValueError(f"processes is {processes}; it must be at least 1, or None for none of their own")
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes))
    spawn = get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    pool = ProcessPoolExecutor(processes, spawn, torch.set_num_threads, (threads,), max_tasks_per_child=1)
    names = {pool.submit(work, job): job.name for job in jobs}
    try:
        yield from _finish(names, as_completed(names))
    finally:
        pool.shutdown(cancel_futures=True)


def on_cluster(work: Callable, jobs: Sequence, scheduler: str, workers: int) -> Iterator:
    """Results of jobs done by the workers of a Dask scheduler: its address, or "local" for a cluster on this machine.

    The local one has so many single-threaded `workers`. Raises ValueError if dask is not installed, or no scheduler
    answers.
    """
    try:
        import distributed
    except ImportError:
        raise ValueError(
            f"scheduler {scheduler!r} needs dask.distributed, which is not installed; pip install "
            "'mclir-nb[cluster]', or leave scheduler out (processes=2 needs nothing more)"
        ) from None
    with ExitStack() as stack:
        if scheduler == "local":
            local = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            scheduler = stack.enter_context(local).scheduler_address
        try:
            client = stack.enter_context(distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False))
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(
                f"no Dask scheduler answered at {scheduler!r} within {PATIENCE} s ({type(error).__name__}); check the "
                "address that `dask scheduler` printed, or use scheduler='local'"
            ) from error
        names = {client.submit(work, job, pure=False, retries=RETRIES): job.name for job in jobs}
        yield from _finish(names, distributed.as_completed(names, loop=client.loop))


def _finish(names: Mapping, futures: Iterable) -> Iterator:
    """Results as they come; then, if any failed, one error that names them all."""
    failed: dict[str, BaseException] = {}
    for future in futures:
        if (error := future.exception()) is None:
            yield future.result()
        else:
            failed[names[future]] = error
    if failed:
        first = next(iter(failed.values()))
        lost = "its process ended without a word, perhaps for lack of memory"
        why = lost if isinstance(first, BrokenProcessPool) else f"{type(first).__name__}: {first}"
        raise RuntimeError(
            f"{len(failed)} runs did not finish ({', '.join(failed)}): {why}. The same command goes on from what was "
            "saved."
        ) from first
