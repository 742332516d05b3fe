"""The authors' recipes: what they say, where it stands, and the real command on a small folder of the same layout."""

from pathlib import Path

import papermill
import pictures
import pytest

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


def test_each_network_has_the_recipe_of_its_authors():
    ffanet, edsr = recipes.get("paper", "dehaze"), recipes.get("paper", "sr")
    assert (ffanet.steps, ffanet.cosine_steps, ffanet.batch_size, ffanet.patch_size) == (500_000, 100_000, 4, 128)
    assert (ffanet.learning_rate, ffanet.betas, ffanet.weight_decay) == (2e-4, (0.9, 0.9), 0.0)
    assert (ffanet.features, ffanet.weight, ffanet.history_start) == ("vgg16", 1e-3, 0.1)
    assert ffanet.history_every == (1000, 500, 200, 100) and ffanet.history_decay == (0.1,) * 4
    assert ffanet.grad_clip is None  # the key of the official file is never read
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
    for number in [*range(1, 13), 1400, 1401]:
        part = folder / "RESIDE" / ("SOTS/indoor" if number >= 1400 else "ITS")
        names = [f"{number}_1.png"] if number >= 1400 else [f"{number}_{k}_0.{80 + k}.png" for k in (1, 2)]
        pictures.write(part / "clear" / f"{number}.png", (24, 24), number)
        for name in names:
            pictures.write(part / "hazy" / name, (24, 24), 2000 + number)


def test_the_papers_command_trains_on_a_folder_of_that_layout(tmp_path):
    _its(tmp_path)
    parameters = dict(recipe="paper", network="ffanet", dataset="reside-its", data_root=str(tmp_path / "RESIDE"))
    small = dict(steps=2, batch_size=1, patch_size=16, val_side=None, features_weights="random", lambda_neg=1e-3)
    own = dict(device="cpu", out_dir=str(tmp_path / "run"))  # and no VGG file here
    notebook = ROOT / "notebooks" / "03_train.ipynb"
    papermill.execute_notebook(
        notebook, tmp_path / "out.ipynb", parameters | small | own, kernel_name="python3", progress_bar=False
    )
    run = records.Run(tmp_path / "run")
    asked = {name: value for name, value in parameters.items() if name != "recipe"} | small
    assert not records.different_fields(run.recipe, recipes.get("paper", "dehaze", **asked))
    assert sum(p.numel() for p in run.model().parameters()) == 4_455_913  # the paper's FFA-Net
    assert run.log["l_neg"].iloc[-1] > 0 and len(run.history_models()) == 4 and len(run.scores) == 2
    assert "VGG16" in run.provenance["features"] and tasks.get("dehaze").protocol == "basicsr-rgb"
