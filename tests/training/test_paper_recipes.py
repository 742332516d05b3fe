"""The authors' recipes: what they say, where it stands, and the real command on a small folder of the same layout."""

from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image

from mclir_nb import networks
from mclir_nb.data import tasks
from mclir_nb.training import paper_recipes, recipes, records

TASK = {"idt": "derain", "nafnet": "deblur", "edsr": "sr", "swinir": "sr", "swinir-light": "sr"}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("network", paper_recipes.RECIPES)
def test_every_field_has_a_source_and_makes_a_recipe(network):
    recipe = recipes.get("paper", TASK.get(network, "dehaze"), network=network)
    table = paper_recipes.table(network)
    assert network in networks.names() and recipe.network_size == "paper" and recipe.objective == "spn"
    for row, (field, setting) in zip(table.itertuples(), paper_recipes.RECIPES[network].items(), strict=True):
        assert getattr(recipe, field) == setting.value and (row.field, row.value) == (field, str(setting.value))
        assert "@" in row.source or row.source.startswith("ours")
    spn = table[table.field.isin(["features", "lambda_neg", "history_every", "history_decay", "history_start"])]
    assert len(spn) == 5 and spn.source.str.startswith("ours").all() == (network != "ffanet")


def test_ffanet_is_as_released_and_the_others_differ_from_it():
    ffanet, edsr = recipes.get("paper", "dehaze"), recipes.get("paper", "sr")
    assert (ffanet.steps, ffanet.cosine_steps, ffanet.batch_size, ffanet.betas) == (500_000, 100_000, 4, (0.9, 0.9))
    assert (edsr.steps, edsr.cosine_steps, edsr.batch_size, edsr.patch_size) == (300_000, None, 16, 192)
    assert recipes.get("paper", "sr", scale=2).patch_size == 96  # the lq patch stays
    assert recipes.get("paper", "deblur").learning_rate == 1e-3
    assert recipes.get("paper", "dehaze", network="dehazeformer-t").steps == 300 * 437
    assert recipes.get("paper", "denoise").cosine_steps == 100_000  # no recipe of its own: that of FFA-Net
    with pytest.raises(ValueError, match="promptir.*ffanet"):
        paper_recipes.table("promptir")


def test_the_rate_is_halved_at_milestones():
    recipe = recipes.get("paper", "sr")
    assert [recipe.learning_rate_at(step) for step in (1, 200_000, 200_001, 300_000)] == [1e-4, 1e-4, 5e-5, 5e-5]


def _its(folder: Path) -> None:
    """RESIDE as published, very small: 12 scenes with 2 hazes each, and two test pictures."""
    chance = np.random.default_rng(0)
    for number in [*range(1, 13), 1400, 1401]:
        part = "SOTS/indoor" if number >= 1400 else "ITS"
        clear = chance.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        names = [f"{number}_1.png"] if number >= 1400 else [f"{number}_{k}_0.{80 + k}.png" for k in (1, 2)]
        for place, picture in [(f"clear/{number}.png", clear), *((f"hazy/{n}", clear // 2 + 100) for n in names)]:
            file = folder / "RESIDE" / part / place
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)


def test_the_papers_command_trains_on_a_folder_of_that_layout(tmp_path):
    _its(tmp_path)
    parameters = dict(recipe="paper", network="ffanet", dataset="reside-its", data_root=str(tmp_path / "RESIDE"))
    small = dict(
        features_weights="random", lambda_neg=1e-3, val_side=None, steps=2, batch_size=1, patch_size=16, device="cpu"
    )  # no VGG file here
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        ROOT / "notebooks" / "03_train.ipynb",
        out,
        parameters | small | {"out_dir": str(tmp_path / "run")},
        kernel_name="python3",
        progress_bar=False,
    )
    run = records.Run(tmp_path / "run")
    asked = recipes.get("paper", "dehaze", **parameters_of(run.recipe, parameters | small))
    assert not records.different_fields(run.recipe, asked)
    assert sum(p.numel() for p in run.model().parameters()) == 4_455_913  # the paper's FFA-Net
    assert run.log["l_neg"].iloc[-1] > 0 and len(run.history_models()) == 4 and len(run.scores) == 2
    assert "VGG16" in run.provenance["features"] and tasks.get("dehaze").protocol == "basicsr-rgb"
    assert nbformat.read(out, 4).cells[-1]


def parameters_of(recipe: recipes.Recipe, given: dict) -> dict:
    """What was given and is a field of a recipe."""
    return {name: value for name, value in given.items() if hasattr(recipe, name) and name not in ("recipe", "device")}
