"""What it would take to repeat a row of the paper's tables: data set, recipe, GPU hours, the command to type."""

from __future__ import annotations

import pandas as pd

from mclir_nb.experiments import paper
from mclir_nb.training import macs, recipes

NETWORKS = {theirs: ours for ours, theirs in paper.NETWORKS.items()}
TRAINS_ON = {  # data set of the table: (task, data set to train on)
    "SOTS-indoor": ("dehaze", "reside-its"),
    "SOTS-mix": ("dehaze", "reside-6k"),
    "SPA": ("derain", "spa-data"),
    "Rain100L": ("derain", "rain200l"),
    "Rain100H": ("derain", "rain200h"),
    "DID": ("derain", "did"),
    "DDN": ("derain", "ddn"),
    "GoPro": ("deblur", "gopro"),
    "Set14": ("sr", "div2k"),
    "B100": ("sr", "div2k"),
    "Urban100": ("sr", "div2k"),
    "Manga109": ("sr", "div2k"),
}


def table(tera_macs: float) -> pd.DataFrame:
    """One row per training run behind the paper's rows with SPN.

    Args:
        tera_macs: 10^12 multiply-accumulates per second that a GPU sustains in training; > 0. It decides the hours
            alone, and no GPU was measured here.

    Returns:
        Columns network, trained on, rows of the tables, steps, batch, patch, GMACs (network, one patch), ratio
        (SPN step / plain step, by MACs), hours plain, hours SPN, command (to type, with the folders of one's own).
    """
    if not tera_macs > 0:
        raise ValueError(f"tera_macs is {tera_macs!r}; give the speed of your GPU, a number above 0")
    runs: dict[tuple[str, str, str, str], list[str]] = {}
    for row in paper.gains().itertuples():
        runs.setdefault((row.network, *TRAINS_ON[row.dataset], row.scale), []).append(row.dataset)
    rows = []
    for (name, task, data, scale), datasets in runs.items():
        network, factor = NETWORKS[name], int(scale.removeprefix("x") or 1)
        recipe = recipes.get("paper", task, network=network, scale=factor, dataset=data)
        counts = macs.count(recipe)
        hours = 3 * counts.network * recipe.batch_size * recipe.steps / (tera_macs * 1e12) / 3600
        words = f"-p recipe paper -p task {task} -p network {network} -p dataset {data} -p data_root DATA"
        words += f" -p scale {factor}" if factor > 1 else ""
        row = {"network": f"{name} {scale}".strip(), "trained on": data, "rows": ", ".join(datasets)}
        row |= {"steps": recipe.steps, "batch": recipe.batch_size, "patch": recipe.patch_size}
        row |= {"GMACs": counts.network / 1e9, "ratio": 1 + counts.surplus, "hours plain": hours}
        row["hours SPN"] = hours * row["ratio"]
        row["command"] = f"papermill notebooks/03_train.ipynb out.ipynb {words} -p features_weights VGG16"
        rows.append(row)
    return pd.DataFrame(rows)
