"""One recipe on several processes, one per GPU: each takes its share of every batch, gradients are averaged.

    accelerate launch --multi_gpu --num_processes 4 -m mclir_nb train --recipe paper --out runs/many ...
    torchrun --nproc-per-node 4 -m mclir_nb train --recipe paper --out runs/many ...
    accelerate.notebook_launcher(train.train, (recipe, run_dir), num_processes=4)     # in a notebook

All three only set the variables RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; nothing else is asked of
them. A recipe's batch is that of all processes together, so their number does not change the experiment: every
process holds the same weights, EMA, history models and optimiser, and takes the same step. Process 0 alone writes,
validates and prints. Without these variables there is one process, and every function here does nothing.

Equal to one process up to the rounding of sums, except where a loss or a layer looks at the batch as a whole:
see `COUPLED`, and random depth (drop path), whose draws differ per process.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

COUPLED = {  # objectives that are no mean over pictures: what each process takes from its own share instead
    "cr": "its ratio of feature distances is formed",
    "c2r": "its ratio of feature distances is formed",
    "spn-uncertainty": "its mean spread of the histories is taken",
}
PATIENCE = timedelta(days=1)  # others wait while process 0 scores a whole benchmark
Result = TypeVar("Result")


def world() -> int:
    """The number of processes that share this training; 1 before `join`."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that prints and writes, before `join` as well."""
    return os.environ.get("RANK", "0") == "0"


def join() -> None:
    """Join the processes that a launcher started, once and until this process ends.

    Once, because a second group on the same port could meet the first one's store in another process.
    Raises: ValueError if the variables of a launcher are there in part.
    """
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if size == 1 or dist.is_initialized():
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the processes with `accelerate launch` "
            "or `torchrun`, or unset WORLD_SIZE to train in one."
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def refuse(what: str) -> None:
    """Raise ValueError if a launcher started several processes for something that one of them does alone."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError(
            f"{what} shares out whole runs, not batches: start it without a launcher, and use processes or scheduler."
        )


def place(device: torch.device) -> torch.device:
    """The device of this process: with several, cuda means the GPU of its number on this machine.

    Raises: ValueError if there are fewer GPUs than processes.
    """
    if world() == 1 or device.type != "cuda":
        return device
    number = int(os.environ.get("LOCAL_RANK") or rank())
    if number >= torch.cuda.device_count():
        raise ValueError(
            f"process {number} of this machine has no GPU of its own: {torch.cuda.device_count()} are here. Start as "
            "many processes as there are GPUs."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def share(batch_size: int) -> range:
    """Which patches of a batch are this process's. Raises: ValueError if they cannot be shared evenly."""
    if batch_size % world():
        lower = batch_size // world() * world()
        raise ValueError(
            f"batch_size {batch_size} cannot be shared evenly by {world()} processes; use a multiple, such as "
            f"{lower or world()} or {lower + world()}."
        )
    part = batch_size // world()
    return range(rank() * part, (rank() + 1) * part)


def caution(objective: str) -> str:
    """One sentence if the objective is another one on several processes; else empty."""
    if world() == 1 or objective not in COUPLED:
        return ""
    return (
        f"{objective} looks at a batch as a whole: on {world()} processes {COUPLED[objective]} within each process's "
        "share, so the run is close to that of one process, not equal."
    )


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one message; call after `backward`.

    The mean of the shares' mean losses is the mean loss of the batch, so this is the gradient of one process. One
    message after the backward pass is simple and exact; these networks have few parameters for their work.
    """
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= world()
    parts = together.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)])


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if world() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world()
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them must ask."""
    if world() == 1:
        return flag
    flags = torch.tensor(float(flag))  # on the CPU: no device has to finish first
    dist.all_reduce(flags)
    return bool(flags)


@contextmanager
def held_by_first(context: AbstractContextManager):
    """Enter a context, such as a lock, in process 0 alone; all wait until it is entered."""
    with ExitStack() as stack:
        on_first(lambda: [stack.enter_context(context)] and None)
        yield


def on_first(work: Callable[..., Result], *arguments) -> Result:
    """Do `work` in process 0 while the others wait; its result, or its error, is that of all of them."""
    if world() == 1:
        return work(*arguments)
    outcome: list = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work(*arguments)
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
