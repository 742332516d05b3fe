"""Comparing arms over seeds: plan, run (resumable, in parallel or on a Dask cluster), collect.

    arms = [Arm("plain", {"objective": "plain"}), Arm("spn", {"objective": "spn"})]
    runs = run(plan(recipes.get("tiny"), arms, seeds=range(3)), "runs/comparison")
    print(conclusion(paired(runs)))

Runs of one seed share initial weights, order of pictures, crops and degradations: `train` draws everything random
from (seed, step) alone, never from the arm. So their scores are subtracted seed by seed (`intervals`).
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from mclir_nb import files
from mclir_nb.experiments import pool
from mclir_nb.experiments.intervals import (
    by_image,
    conclusion,
    costs,
    differences,
    paired,
    seeds_needed,
    smallest_detectable,
)
from mclir_nb.experiments.run_tables import collect, curves, images, is_finished, seconds_per_step
from mclir_nb.method import losses
from mclir_nb.progress import Progress
from mclir_nb.training import distributed, machine, records, train
from mclir_nb.training.recipes import Recipe

__all__ = ["Arm", "Job", "arms", "by_image", "collect", "conclusion", "costs", "curves", "differences"]
__all__ += ["images", "paired", "plan", "run", "seconds_per_step", "seeds_needed", "smallest_detectable"]


@dataclass(frozen=True)
class Arm:
    """One way of training that is compared with others.

    Attributes:
        name: for tables and figures.
        changes: the recipe fields in which it differs, for example {"objective": "spn"}.
        as_long_as: name of another arm. This arm then takes as many steps as fit into the training time of that
            arm's run with the same seed, by the seconds per step in the two logs: the control at equal time.
    """

    name: str
    changes: Mapping = field(default_factory=dict)
    as_long_as: str | None = None


@dataclass(frozen=True)
class Job:
    """One run of a plan. `as_long_as` and `twin` name the runs whose logs decide the steps of an equal-time run."""

    name: str  # of the run folder
    arm: str
    recipe: Recipe
    as_long_as: str | None = None
    twin: str | None = None


def arms(objectives: Sequence[str], equal_time: bool = True) -> list[Arm]:
    """One arm per objective; with "plain" and "spn" among them also plain at the training time of spn.

    A rival has its published lambda, whatever the features; in others than those it was published for its gradient may
    be many times that of L1.
    """
    rivals = {name: {"lambda_neg": losses.OFFICIAL_LAMBDA[name].value} for name in ("vgg", "cr", "c2r", "pcl")}
    chosen = [Arm(objective, {"objective": objective} | rivals.get(objective, {})) for objective in objectives]
    if equal_time and {"plain", "spn"} <= set(objectives):
        chosen.append(Arm("plain at equal time", {"objective": "plain"}, as_long_as="spn"))
    return chosen


def plan(recipe: Recipe, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Job]:
    """All runs of a comparison, seed by seed, so that whole seeds are there when time runs out.

    Args:
        recipe: what the arms have in common; its seed is replaced.
        arms: with different names. An arm `as_long_as` another needs a twin: an arm with the same changes that takes
            the recipe's own steps, so that its seconds per step are known.
        seeds: whole numbers, each once.
    Raises: ValueError for no or equal names or seeds, an unknown or missing partner, an impossible recipe.
    """
    names, seeds = [arm.name for arm in arms], list(seeds)
    for what, values in (("arms", list(map(_slug, names))), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{what} {values} must be at least one, each different")
    twins = {arm.name: _twin(arm, arms) for arm in arms if arm.as_long_as is not None}
    jobs = []
    for seed in seeds:
        own = {arm.name: recipe.replace(**dict(arm.changes), seed=seed) for arm in arms}
        folder = {name: _folder(name, own[name]) for name in names}
        for arm in sorted(arms, key=lambda arm: arm.as_long_as is not None):
            partners = (folder[arm.as_long_as], folder[twins[arm.name]]) if arm.as_long_as else ()
            jobs.append(Job(folder[arm.name], arm.name, own[arm.name], *partners))
    return jobs


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _folder(arm: str, recipe: Recipe) -> str:
    scale = f"-x{recipe.scale}" if recipe.scale > 1 else ""
    return f"{recipe.task}{scale}-{recipe.network}-{_slug(arm)}-{recipe.seed}"


def _twin(arm: Arm, arms: Sequence[Arm]) -> str:
    """The arm that takes the same step as an equal-time arm."""
    timed = [other for other in arms if other.as_long_as is None]
    if arm.as_long_as not in [other.name for other in timed]:
        raise ValueError(
            f"arm {arm.name!r} is to be as long as {arm.as_long_as!r}, which is no arm with its own steps; "
            f"such arms: {', '.join(other.name for other in timed)}"
        )
    for other in timed:
        if dict(other.changes) == dict(arm.changes):
            return other.name
    raise ValueError(
        f"arm {arm.name!r} needs an arm with the same changes and the recipe's own steps, so that its seconds per "
        f"step are known; add Arm('{arm.name} at equal steps', {dict(arm.changes)})"
    )


# --- running --------------------------------------------------------------------------------------------


def run(
    jobs: Sequence[Job],
    out_dir: str | Path,
    *,
    device: str = "auto",
    processes: int | None = None,
    scheduler: str | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Do what is not done yet, and collect.

    A finished run is never repeated, an unfinished one goes on where it was saved, one that diverged stays as it is.

    Args:
        jobs: from `plan`.
        out_dir: one folder per run below it. With a cluster: a folder that all its workers share.
        device: of every run, see `train.train`.
        processes: None: one run after another in this process. A number: so many at once, each run in a process of its
            own, whose peak memory is then known on the CPU too.
        scheduler: "local" for a Dask cluster on this machine, or the address of a Dask scheduler; None: no Dask. A
            run lost with its worker is done again, from its last checkpoint.
        quiet: print nothing.
    Returns: `collect` of these runs.
    Raises: ValueError if a folder holds a run of another recipe or the cluster cannot be used; RuntimeError naming
        the runs that failed; KeyboardInterrupt after saving.
    """
    distributed.require_one_process("a comparison")
    out_dir = Path(out_dir).expanduser().resolve()
    left = [job for job in jobs if not _is_done(job, out_dir)]
    for wave in (
        [job for job in left if job.twin is None],
        [job for job in left if job.twin is not None],  # their steps depend on logs of the first wave
    ):
        if wave:
            work = functools.partial(_work, out_dir=out_dir, device=device)
            bar = Progress(_results(work, wave, processes, scheduler), "runs", total=len(wave), quiet=quiet)
            for name in bar:
                bar.note = name
                _check_here(out_dir / name)
    return collect(out_dir, [job.name for job in jobs])


def _results(work, jobs: Sequence[Job], processes: int | None, scheduler: str | None) -> Iterable[str]:
    """The names of the jobs as they are done, by whoever does them."""
    if scheduler is not None:
        return pool.on_cluster(work, jobs, scheduler, processes or 1)
    if processes is not None:
        return pool.in_processes(work, jobs, processes)
    return map(work, jobs)


def _check_here(folder: Path) -> None:
    """Raise ValueError if a worker wrote where this process cannot read."""
    if not is_finished(folder):
        raise ValueError(
            f"a worker finished {folder.name}, but {folder} holds no result: it wrote on its own disk. Give an out_dir "
            "that all machines share."
        )


def _is_done(job: Job, out_dir: Path) -> bool:
    """Whether a run needs nothing more. Raises: ValueError if its folder holds another recipe's run."""
    folder = out_dir / job.name
    if not (folder / "recipe.json").exists():
        return False
    there = records.read_recipe(folder)
    wanted = job.recipe if job.twin is None else job.recipe.replace(steps=there.steps)
    differing = records.different_fields(there, wanted)
    if differing:
        raise ValueError(f"{folder} holds a run of another recipe ({differing}); choose another out_dir.")
    return is_finished(folder)


def _work(job: Job, out_dir: Path, device: str, alone: bool = False) -> str:
    """Train one job. What `collect` needs beside the run's own files goes into arm.json. Returns: the job's name."""
    folder = out_dir / job.name
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict = {"arm": job.arm} | ({"as_long_as": job.as_long_as} if job.twin else {})
    files.write_json(folder / "arm.json", facts)
    recipe = _settled(job, out_dir)
    where = machine.pick_device(device)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    try:
        train.train(recipe, folder, device=device, quiet=True)
    except train.Diverged as error:
        facts["stopped"] = str(error)
    memory = _peak_memory(where, alone)
    files.write_json(folder / "arm.json", facts | ({"peak_memory_mb": memory} if memory else {}))
    return job.name


def _settled(job: Job, out_dir: Path) -> Recipe:
    """The recipe with its number of steps; that of an equal-time run is decided once, from the two logs."""
    if job.twin is None:
        return job.recipe
    if (out_dir / job.name / "recipe.json").exists():
        return records.read_recipe(out_dir / job.name)
    for name in (job.as_long_as, job.twin):
        if not (out_dir / name / "log.csv").is_file():
            raise ValueError(
                f"{job.name} is to take the time of {job.as_long_as}, but {name} has no log, so its seconds per "
                "step are not known; look why it stopped, or leave the arm at equal time out"
            )
    longer, own = (seconds_per_step(records.Run(out_dir / name).log) for name in (job.as_long_as, job.twin))
    return job.recipe.replace(steps=max(1, round(job.recipe.steps * longer / own)))


def _peak_memory(device: torch.device, alone: bool) -> int | None:
    """Peak memory of a run in MB: on CUDA of its tensors, on the CPU of its process, if that did nothing else."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    if not alone or sys.platform == "win32":
        return None  # the process's high-water mark never falls: it would be that of an earlier run
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak / 1e3)
