"""Measure what the doses of the workbook's own recipes rest on: `python tools/doses.py`, a minute or more for each.

Writes data/records/doses.json, what the short runs of `training.dose` found. Those that are there are left; remove the
file to measure all anew. `python tools/doses.py BSDS500` measures those of the experiments with the demo recipe on that
data set, too.
"""

import sys

import torch

from mclir_nb.experiments.plans import EXPERIMENTS
from mclir_nb.training import dose, recipes

# the demo recipe of each task, and what the notebooks change in it
RUNS = [(task, {}) for task in ("dehaze", "derain", "sr", "deblur", "denoise")]
RUNS += [("derain", {"steps": 400})]  # 04_history
RUNS += [("derain", {"objective": rival}) for rival in ("vgg", "cr", "c2r", "pcl")]  # 05_compare


def main(data_root: str | None = None) -> None:
    torch.set_num_threads(1)  # with more, sums round otherwise, and a short training tells
    chosen = {f"{task} {changes}": recipes.get("demo", task, **changes) for task, changes in RUNS}
    if data_root:
        on_it = [asked for asked in EXPERIMENTS.values() if asked.recipe == "demo" and "dataset" in asked.changes]
        chosen |= {job.name: job.recipe for asked in on_it for job in asked.plan(1, data_root=data_root)}
    for name, recipe in chosen.items():
        if recipe.dose and recipe.objective != "plain":
            found = dose.lambda_for(recipe, recipe.dose, torch.device("cpu"), shared=dose.KNOWN)
            print(f"{name}: lambda {found.lambda_neg:.3g} for dose {found.dose:g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
