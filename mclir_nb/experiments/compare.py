"""Comparing arms over seeds: plan and run, resumable, in parallel or on a Dask cluster.

    arms = [Arm("plain", {"objective": "plain"}), Arm("spn", {"objective": "spn"})]
    runs = run(plan(recipes.get("tiny"), arms, seeds=range(3)), "runs/comparison")
    print(intervals.conclusion(intervals.paired(runs)))

Runs of one seed share initial weights, order of pictures, crops and degradations: `train` draws everything random
from (seed, step) alone, never from the arm. So their scores are subtracted seed by seed (`intervals`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mclir_nb import files
from mclir_nb.experiments import pool, run_tables
from mclir_nb.method import losses
from mclir_nb.progress import Progress
from mclir_nb.training import distributed, macs, records, train, user_code
from mclir_nb.training.recipes import Recipe

DOSES = "doses.json"  # beside the run folders: what the short runs found that choose lambda, one for all its doses


@dataclass(frozen=True)
class Arm:
    """One way of training that is compared with others."""

    name: str  # for tables and figures
    changes: Mapping = field(default_factory=dict)  # the recipe fields in which it differs: {"objective": "spn"}
    # name of another arm: this one then takes as many steps as that one's run pays for, in counted multiplications
    # (`macs.run_macs`), the control at equal cost, decided before anything is run
    at_cost_of: str | None = None


@dataclass(frozen=True)
class Job:
    """One run of a plan."""

    name: str  # of the run folder
    arm: str
    recipe: Recipe


def arms(objectives: Sequence[str], equal_cost: bool = True, dose: float | None = None) -> list[Arm]:
    """One arm per objective; with "plain" and "spn" among them also plain at the cost of spn.

    Args:
        objectives: keys of `losses.OBJECTIVES`.
        equal_cost: False leaves that last arm out.
        dose: of the second term, the same for all objectives, see `training.dose`. The
            short runs that choose lambda are no part of an arm's cost. None: each objective has what the recipe says,
            a dose or a lambda, but a rival its published lambda, whose gradient may be many times that of L1 in other
            features.
    """
    rivals = ("vgg", "cr", "c2r", "pcl")
    published = {name: {"lambda_neg": value} for name in rivals for value in losses.OFFICIAL_LAMBDA[name].values()}
    chosen = []
    for name in objectives:
        term = {} if name == "plain" else published.get(name, {}) if dose is None else {"dose": dose}
        chosen.append(Arm(name, {"objective": name} | term))
    if equal_cost and {"plain", "spn"} <= set(objectives):
        chosen.append(Arm("plain at equal cost", {"objective": "plain"}, at_cost_of="spn"))
    return chosen


def plan(recipe: Recipe, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Job]:
    """All runs of a comparison, seed by seed, so that whole seeds are there when time runs out.

    Args:
        recipe: what the arms have in common; its seed is replaced.
        arms, seeds: one or more, each different.

    Raises:
        ValueError: no or equal names or seeds, an unknown arm in `at_cost_of`, an impossible recipe.
    """
    slugs = {arm.name: re.sub(r"[^a-z0-9.]+", "-", arm.name.lower()).strip("-") for arm in arms}
    named = [arm.name for arm in arms]
    for what, given, keys in (("arms (in letters or digits)", named, slugs.values()), ("seeds", seeds, seeds)):
        if not given or len(set(keys)) < len(given):
            listed = ", ".join(map(str, given)) or "none"
            raise ValueError(f"give one or more different {what}; given: {listed}")
    chosen = {arm.name: recipe.replace(**arm.changes) for arm in arms}
    for arm in (arm for arm in arms if arm.at_cost_of is not None):
        if arm.at_cost_of not in chosen or arm.at_cost_of == arm.name:
            raise ValueError(f"arm {arm.name!r} is to cost what {arm.at_cost_of!r} costs, which is no other arm here")
        own = chosen[arm.name]
        steps = own.steps * macs.run_macs(chosen[arm.at_cost_of]) / macs.run_macs(own)
        chosen[arm.name] = own.replace(steps=max(1, round(steps)))
    jobs = []
    for seed in seeds:
        for name, own in chosen.items():
            scale = f"-x{own.scale}" if own.scale > 1 else ""
            folder = f"{own.task}{scale}-{own.network}-{slugs[name]}-{seed}"
            jobs.append(Job(folder, name, own.replace(seed=seed)))
    return jobs


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
        processes: None: one run after another in this process. A number: so many at once, each in its own process.
        scheduler: "local" for a Dask cluster on this machine, or the address of a Dask scheduler; None: no Dask. A
            run lost with its worker is done again, from its last checkpoint.
        quiet: print nothing.

    Returns:
        `run_tables.collect` of these runs.

    Raises:
        ValueError: a folder holds a run of another recipe, or the cluster cannot be used.
        RuntimeError: naming the runs that failed.
        KeyboardInterrupt: after saving.
    """
    distributed.require_one_process("a comparison")
    out_dir = Path(out_dir).expanduser().resolve()
    left = [job for job in jobs if not _is_done(job, out_dir)]
    work = functools.partial(_work, out_dir=out_dir, device=device)
    done: Iterable[str] = map(work, left)
    if scheduler is not None:
        done = pool.on_cluster(work, left, scheduler, processes or 1)
    elif processes is not None:
        done = pool.in_processes(work, left, processes)
    bar = Progress(done, "runs", total=len(left), quiet=quiet)
    for name in bar if left else ():
        bar.note = name
        if not run_tables.is_finished(out_dir / name):
            raise ValueError(
                f"a worker finished {name}, but {out_dir / name} holds no result: it wrote on its own disk. Give an "
                "out_dir that all machines share."
            )
    return run_tables.collect(out_dir, [job.name for job in jobs])


def _is_done(job: Job, out_dir: Path) -> bool:
    """Whether a run needs nothing more. Raises ValueError if its folder holds a run of another recipe or definition."""
    folder = out_dir / job.name
    if not (folder / "recipe.json").exists():
        return False
    if differing := records.different_fields(records.read_recipe(folder), job.recipe):
        raise ValueError(f"{folder} holds a run of another recipe ({differing}); choose another out_dir.")
    user_code.keep_definitions(folder, job.recipe)
    return run_tables.is_finished(folder)


def _work(job: Job, out_dir: Path, device: str) -> str:
    """Train one job; arm.json keeps what `run_tables` needs beside the run's own files. Returns the job's name."""
    folder = out_dir / job.name
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "arm.json", {"arm": job.arm})
    try:
        train.train(job.recipe, folder, device=device, quiet=True, doses=out_dir / DOSES)
    except train.Diverged as error:
        files.write_json(folder / "arm.json", {"arm": job.arm, "stopped": str(error)})
    return job.name
