import dataclasses

import pytest

from mclir_nb.data import tasks
from mclir_nb.training import recipes


def test_every_recipe_exists_for_every_task_of_the_paper():
    for name in recipes.names():
        for task in ("dehaze", "derain", "deblur", "sr"):
            recipe = recipes.get(name, task)
            assert recipe.task == task and recipe.scale == (4 if task == "sr" else 1)


def test_a_recipe_is_frozen_and_overrides_win():
    recipe = recipes.get("tiny", steps=7, lambda_neg=0.0)
    assert recipe.steps == 7 and recipe.lambda_neg == 0.0
    assert recipes.get("tiny", steps=None).steps == recipes.get("tiny").steps
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.steps = 3


def test_the_paper_recipe_of_ffanet_is_the_official_one():
    recipe = recipes.get("paper", "dehaze")
    assert (recipe.steps, recipe.cosine_steps, recipe.batch_size, recipe.patch_size) == (500_000, 100_000, 4, 128)
    assert (recipe.learning_rate, recipe.betas, recipe.weight_decay) == (2e-4, (0.9, 0.9), 0.0)
    assert (recipe.features, recipe.weight, recipe.history_start) == ("vgg16", 1e-3, 0.1)
    assert recipe.history_every == (1000, 500, 200, 100) and recipe.history_decay == (0.1,) * 4
    assert recipe.grad_clip is None  # the key of the official file is never read


def test_a_schedule_of_another_length_gets_its_decays():
    assert recipes.get("tiny", history_every=(4, 2)).history_decay == (0.1, 0.1)


def test_the_parameters_of_notebooks_are_fields_of_a_recipe():
    fields = {field.name for field in dataclasses.fields(recipes.Recipe)}
    assert set(recipes.accepted()) - fields == {"recipe"}
    recipe, accepted = recipes.get("tiny"), recipes.accepted()
    for name, valid in accepted.items():
        value = getattr(recipe, "name" if name == "recipe" else name)
        assert value in valid if isinstance(valid, list) else isinstance(value, valid), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(name="huge"), "recipes are: tiny, demo"),
        (dict(name="tiny", task="dehase"), "did you mean 'dehaze'"),
        (dict(name="tiny", task="sr", scale=5), "use scale 2, 3 or 4"),
        (dict(name="tiny", scale=2), "keeps the image size"),
        (dict(name="tiny", network="nafnett"), "did you mean 'nafnet'"),
        (dict(name="tiny", objective="spnn"), "did you mean 'spn'"),
        (dict(name="tiny", learning_rat=1.0), "did you mean 'learning_rate'"),
        (dict(name="tiny", patch_size=50), "use 48 or 56"),
        (dict(name="tiny", steps=0), "whole number of at least 1"),
        (dict(name="tiny", lambda_neg=-1.0), "must be a number >= 0"),
        (dict(name="tiny", history_every=(4, 2), history_decay=(0.1,)), "one decay per interval"),
        (dict(name="tiny", history_decay=(0.1, None, 0.1, 0.1)), "must be of type"),
        (dict(name="tiny", precision="float8"), "Accepted: float32, tf32, bfloat16, float16"),
        (dict(name="tiny", dataset="imagenet"), "dataset 'imagenet' is unknown"),
    ],
)
def test_wrong_recipes_are_refused_with_what_is_accepted(arguments, words):
    with pytest.raises(ValueError, match=words):
        recipes.get(**arguments)


def test_tasks_say_their_scale_and_border():
    assert tasks.get("sr", 2).crop == 2 and tasks.get("dehaze").crop == 0
    assert tasks.get("sr", 3).margin % 3 == 0
