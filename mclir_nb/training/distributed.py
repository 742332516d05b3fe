"""One recipe on several processes, one per GPU: each takes its share of every batch, gradients are averaged.

    accelerate launch --multi_gpu --num_processes 4 -m mclir_nb train --recipe paper --out runs/many ...
    torchrun --nproc-per-node 4 -m mclir_nb train --recipe paper --out runs/many ...
    accelerate.notebook_launcher(train.train, (recipe, run_dir), num_processes=4)     # in a notebook

All three only set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; without them there is one process, and
every function here does nothing. A recipe's batch is that of all processes together: each holds the same weights, EMA,
histories and optimiser, and takes the same step, equal to that of one process up to the rounding of sums, except for
`COUPLED` objectives and random depth (drop path), whose draws differ. Rank 0 alone writes, validates and prints.
"""

from __future__ import annotations

import atexit
import os
import pickle
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# objectives that are no mean over pictures: each piece is a batch to them
COUPLED = ("cr", "c2r", "spn-uncertainty", "ratio", "infonce", "margin")
PATIENCE = timedelta(minutes=10)  # until all processes have come, and for the slowest of them in a step
WHILE_FIRST_WORKS = timedelta(days=1)  # the others wait while rank 0 scores a whole benchmark
Result = TypeVar("Result")
_first_works: dist.ProcessGroup | None = None


def world_size() -> int:
    """The number of processes that share this training; 1 before `init_process_group`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first_rank() -> bool:
    """Whether this process is the one that prints and writes, before `init_process_group` as well."""
    return os.environ.get("RANK", "0") == "0"


def init_process_group(patience: timedelta = PATIENCE) -> None:
    """Join the processes that a launcher started, until this process ends: a second group could meet the first's store.

    Raises:
        ValueError: the variables of a launcher are there in part.
        RuntimeError: not all processes came.
    """
    global _first_works
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1 or dist.is_initialized():
        return
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise ValueError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the processes with `accelerate launch` "
            "or `torchrun`, or unset WORLD_SIZE to train in one."
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=patience)
    except RuntimeError as error:
        raise RuntimeError(
            f"the {size} processes of WORLD_SIZE did not come together at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} within {patience}: start all of them, or unset WORLD_SIZE to train in one."
        ) from error
    _first_works = dist.new_group(backend="gloo", timeout=WHILE_FIRST_WORKS)
    atexit.register(dist.destroy_process_group)


def require_one_process(what: str) -> None:
    """Raise ValueError if a launcher started several processes for something that one of them does alone."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError(
            f"{what} shares out whole runs, not batches: start it without a launcher, and use processes or scheduler."
        )


def rank_device(name: str) -> str:
    """The name of this process's device: with several, cuda means the GPU of its number."""
    if world_size() == 1 or not (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
        return name
    return f"cuda:{os.environ.get('LOCAL_RANK') or rank()}"


def batch_share(batch_size: int) -> range:
    """Which patches of a batch are this process's. Raises ValueError if they cannot be shared evenly."""
    size, part = world_size(), batch_size // world_size()
    if batch_size % size:
        multiples = " or ".join(str(count * size) for count in (part, part + 1) if count)
        raise ValueError(
            f"batch_size {batch_size} cannot be shared evenly by {size} processes; use a multiple, such as {multiples}."
        )
    return range(rank() * part, (rank() + 1) * part)


def coupling_note(objective: str, parts: int = 1, random_depth: bool = False) -> str:
    """One sentence if a batch is not quite the same in pieces, `parts` in each process; else empty."""
    pieces = world_size() * parts
    reasons = [f"{objective} looks at each as a whole batch"] if objective in COUPLED else []
    reasons += ["random depth draws anew in each"] if random_depth else []
    if pieces == 1 or not reasons:
        return ""
    return (
        f"A batch is taken in {pieces} pieces ({world_size()} processes, accumulate {parts}): {' and '.join(reasons)}, "
        "so the run is close to that of an undivided batch, not equal."
    )


def data_parallel(model: nn.Module) -> nn.Module:
    """The model as a step calls it: on several processes its gradients are the means over them, as of one process.

    Taken in parts, a batch is averaged with each of them: `no_sync` does not go with a static graph.
    """
    if world_size() == 1:
        return model
    # of depth-wise convolutions, whose channels_last layout has two spellings; it costs a copy of small gradients
    warnings.filterwarnings("ignore", "\\s*Grad strides do not match bucket view strides", UserWarning)
    return DistributedDataParallel(model, static_graph=True)


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def any_rank(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them must ask."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag))  # on the CPU: no device has to finish first
    dist.all_reduce(flags)
    return bool(flags)


def on_first_rank(work: Callable[..., Result], *arguments) -> Result:
    """Do `work` in rank 0 while the others wait; its result, or its error, is that of all of them."""
    if world_size() == 1:
        return work(*arguments)
    outcome: list = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work(*arguments)
        except (Exception, KeyboardInterrupt) as error:
            outcome[1] = error
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # one that cannot be sent to the others: its words alone
                outcome[1] = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    dist.broadcast_object_list(outcome, src=0, group=_first_works, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def leave() -> None:
    """After an error: end without waiting for the others, whom the launcher or their next sum ends."""
    atexit.unregister(dist.destroy_process_group)
