"""Measure what the doses of the workbook's own recipes rest on: `python tools/doses.py`, a minute or more for each.

Writes data/records/doses.json, what the short runs of `training.dose` found. Those that are there are left; remove the
file to measure all anew.
"""

import torch

from mclir_nb.training import dose, recipes

# the demo recipe of each task, and what the notebooks change in it
RUNS = [(task, {}) for task in ("dehaze", "derain", "sr", "deblur", "denoise")]
RUNS += [("derain", {"steps": 400})]  # 04_history
RUNS += [("derain", {"objective": rival}) for rival in ("vgg", "cr", "c2r", "pcl")]  # 05_compare


def main() -> None:
    torch.set_num_threads(1)  # with more, sums round otherwise, and a short training tells
    for task, changes in RUNS:
        recipe = recipes.get("demo", task, **changes)
        chosen = dose.lambda_for(recipe, recipe.dose, torch.device("cpu"), shared=dose.KNOWN)
        print(f"{task} {changes}: lambda {chosen.lambda_neg:.3g} for dose {chosen.dose:g}")


if __name__ == "__main__":
    main()
