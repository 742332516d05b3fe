"""The authors' recipes: what they say, where it stands, and that they train."""

import pytest
from killing import work

from mclir_nb import networks
from mclir_nb.training import paper_recipes, recipes, records

TASK = {"idt": "derain", "nafnet": "deblur", "edsr": "sr", "swinir": "sr", "swinir-light": "sr"}


@pytest.mark.parametrize("dataset", [None, "reside-6k"])
@pytest.mark.parametrize("network", paper_recipes.RECIPES)
def test_every_field_has_a_source_and_makes_a_recipe(network, dataset):
    root = dataset and "data"
    recipe = recipes.get("paper", TASK.get(network, "dehaze"), network=network, dataset=dataset, data_root=root)
    table = paper_recipes.table(network, dataset)
    assert network in networks.names() and recipe.network_size == "paper" and recipe.objective == "spn"
    for row in table.itertuples():
        assert row.value == str(getattr(recipe, row.field))
        assert "@" in row.source or row.source.startswith("ours")
    spn = table[table.field.isin(["features", "lambda_neg", "history_every", "history_decay", "history_start"])]
    assert len(spn) == 5 and spn.source.str.startswith("ours").all() == (network != "ffanet" or dataset is not None)


def test_dehazeformer_has_a_recipe_of_its_own_on_reside_6k():
    """batch_size, lr and epochs of configs/reside6k/dehazeformer-t.json and -b.json, over 6,000 pairs."""
    for network, steps, batch, rate in (("dehazeformer-t", 187_000, 32, 2e-4), ("dehazeformer-b", 375_000, 16, 1e-4)):
        recipe = recipes.get("paper", "dehaze", network=network, dataset="reside-6k", data_root="data")
        assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (steps, batch, rate)
    indoors = recipes.get("paper", "dehaze", network="dehazeformer-t", dataset="reside-its", data_root="data")
    assert (indoors.steps, indoors.learning_rate, indoors.learning_rate_min) == (131_100, 4e-4, 4e-4 * 1e-2)


def test_who_chose_a_recipe_depends_on_data_and_scale():
    """A file is for some data and one scale; DehazeFormer's indoor ones name no number of pairs, so steps are ours."""
    authors = [("ffanet", 1, "reside-its"), ("dehazeformer-b", 1, "reside-6k"), ("nafnet", 1, "gopro")]
    authors += [("swinir", 2, "div2k"), ("swinir-light", 2, "div2k"), ("edsr", 4, "div2k")]
    ours = [("ffanet", 1, "folder"), ("dehazeformer-t", 1, "reside-its"), ("dehazeformer-t", 1, "reside-ots")]
    ours += [(network, scale, "div2k") for network in ("swinir", "swinir-light") for scale in (3, 4)]
    assert {paper_recipes.whose(*asked) for asked in authors} == {"authors"}
    assert {paper_recipes.whose(*asked) for asked in ours} == {"ours"}
    sources = paper_recipes.table("dehazeformer-t").set_index("field")["source"]
    assert "13,990" in sources["steps"] and "@" in sources["batch_size"]
    assert paper_recipes.table("nafnet", "folder")["source"].str.startswith("ours").all()


def test_the_rate_is_halved_at_milestones():
    recipe = recipes.get("paper", "sr")
    assert [recipe.learning_rate_at(step) for step in (1, 200_000, 200_001, 300_000)] == [1e-4, 1e-4, 5e-5, 5e-5]


def test_nafnets_gradients_are_clipped():
    assert recipes.get("paper", "deblur").clipping == 0.01 and recipes.get("paper", "dehaze").clipping is None


def test_a_recipe_keeps_the_lq_patch_at_other_scales_and_has_ffanets_where_there_is_none():
    assert recipes.get("paper", "sr").patch_size == 192 and recipes.get("paper", "sr", scale=2).patch_size == 96
    assert recipes.get("paper", "denoise").cosine_steps == recipes.get("paper", "dehaze").cosine_steps == 100_000
    with pytest.raises(ValueError, match="promptir.*ffanet"):
        paper_recipes.table("promptir")


def test_the_papers_recipe_trains_its_network(tmp_path):
    small = dict(steps=2, batch_size=1, patch_size=16, val_side=32)
    small |= dict(features_weights="random", lambda_neg=1e-3)  # no VGG file here
    work(recipes.get("paper", "dehaze", **small), tmp_path)
    run = records.Run(tmp_path)
    assert sum(p.numel() for p in run.model().parameters()) == 4_455_913  # FFA-Net's
    assert run.log["l_neg"].iloc[-1] > 0 and len(run.history_models()) == 4 and "VGG16" in run.provenance["features"]
