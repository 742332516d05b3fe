"""Recipes: what the named ones say, what is refused, and that a given value counts."""

import json
import math
import pickle

import pytest

from mclir_nb.data import tasks
from mclir_nb.method import losses
from mclir_nb.training import recipes, records
from mclir_nb.training.recipes import OWN, Recipe

VGG = {"objective": "vgg", "lambda_neg": 0.04}


def test_every_recipe_exists_for_every_task_of_the_paper():
    for name in recipes.names():
        for task in ("dehaze", "derain", "deblur", "sr"):
            recipe = recipes.get(name, task)
            assert recipe.task == task and recipe.scale == (4 if task == "sr" else 1)


def test_a_recipe_is_a_value():
    recipe = recipes.get("tiny", steps=7, history_every=[4, 2])
    assert recipe == recipes.get("tiny", steps=7, history_every=(4, 2)) != recipes.get("tiny")
    assert {recipe: 1}[pickle.loads(pickle.dumps(recipe))] == 1
    assert Recipe(**json.loads(recipe.model_dump_json())) == recipe
    assert recipe.history_decay == (0.1, 0.1) and recipe.replace(steps=8).steps == 8
    with pytest.raises(ValueError):
        recipe.steps = 3
    assert all(field.description for field in Recipe.model_fields.values())


def test_untrained_features_have_no_published_lambda():
    for name in ("paper", "gpu"):
        with pytest.raises(ValueError, match="random vgg16"):
            recipes.get(name, features="vgg16", features_weights="random")
        assert recipes.get(name, features="vgg16", features_weights="random", dose=0.1).lambda_neg is None


@pytest.mark.parametrize("task", tasks.names())
def test_the_demo_recipe_states_a_dose_and_another_strength_takes_its_place(task):
    recipe = recipes.get("demo", task)
    assert recipe.dose == 0.1 and recipe.lambda_neg is None and recipes.get("demo", task, objective="cr").dose == 0.1
    for strength in (dict(lambda_neg=1e-3), dict(lambda_ratio=0.05)):
        for changed in (recipes.get("demo", task, **strength), recipe.replace(**strength)):
            assert changed.dose is None
    assert recipes.get("paper", "dehaze", dose=0.1).lambda_neg is None
    assert recipe.replace(lambda_neg=1e-3).replace(dose=0.2).lambda_neg is None
    assert recipe.replace(objective="plain").weight == 0 and recipe.at(2e-3).weight == 2e-3


@pytest.mark.parametrize("features", recipes.FEATURES)
@pytest.mark.parametrize("objective", sorted(set(losses.OBJECTIVES) - {"plain"}))
def test_no_objective_has_a_lambda_of_its_own_but_in_its_own_features(objective, features):
    kind = {"history-positive", "spn", "spn-squared", "spn-huber", "spn-uncertainty"}
    known = {"vgg": {"vgg16": 0.04}, "cr": {"vgg19": 0.1}, "c2r": {"vgg19": 0.2}}.get(objective, {})
    known = {"lite0": 3e-4, "vgg16": 1e-3} if objective in kind else known
    fields = {"objective": objective, "features": features}
    if features in known:
        assert recipes.get("gpu", **fields).weight == known[features]
    else:
        with pytest.raises(ValueError, match="lambda_neg"):
            recipes.get("gpu", **fields)
    assert recipes.get("gpu", **fields, lambda_neg=0.5).weight == 0.5


def test_an_old_recipe_is_read_where_what_is_gone_meant_nothing(tmp_path):
    """Written before recipes were models: other order, lists for tuples, whole numbers for others, fields now gone."""
    recipe = recipes.get("tiny", "sr", objective="c2r", lambda_neg=0.1, history_every=(4, 2))
    fields = json.loads(json.dumps(dict(sorted(recipe, reverse=True)))) | {"guard_drop": 10, "weight_decay": 0}
    idle = {"history_draw": False, "negatives_every": 1, "features_crop": None}
    (tmp_path / "recipe.json").write_text(json.dumps(fields | idle))
    assert records.read_recipe(tmp_path) == recipe
    drawn = json.dumps(dict(recipes.get("tiny")) | {"history_draw": True, "negatives_every": 4})
    (tmp_path / "recipe.json").write_text(drawn)
    assert records.read_recipe(tmp_path) == recipes.get("tiny", sampling="sampled", sampled_every=4)
    (tmp_path / "recipe.json").write_text(json.dumps(fields | {"features_crop": 32}))
    with pytest.raises(ValueError, match="features_crop"):
        records.read_recipe(tmp_path)


def test_a_given_value_counts_and_none_where_it_is_one():
    own = recipes.get("tiny")
    assert own.val_side == 64 and recipes.get("tiny", val_side=None).val_side is None
    assert recipes.get("paper", cosine_steps=None).cosine_steps is None
    assert recipes.get("tiny", lambda_neg=0.0).lambda_neg == 0.0
    assert recipes.get("tiny", steps=None, network=None, val_side=OWN, lambda_neg=OWN) == own  # not given
    assert recipes.get("tiny", lambda_neg=1).lambda_neg == 1.0  # a whole number is a number


def test_the_parameters_of_notebooks_are_fields_of_a_recipe():
    recipe, accepted = recipes.get("tiny"), recipes.accepted()
    assert set(accepted) - set(Recipe.model_fields) == {"recipe"}
    for name, valid in accepted.items():
        value = getattr(recipe, "name" if name == "recipe" else name)
        assert value in valid if isinstance(valid, list) else isinstance(value, valid | tuple), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("network", "nafnett"), ("objective", "spnn"), ("dataset", "imagenet"), ("precision", "float8")),
        *(("quirks", "oficial"), ("network_size", "huge"), ("task", "dehase"), ("compile", "fast")),
        *(("steps", 0), ("steps", True), ("steps", "3"), ("steps", 2.0), ("patch_size", 50), ("val_side", 0)),
        *(("lambda_neg", -1.0), ("lambda_neg", math.nan), ("learning_rate", math.inf), ("guard_r", 0.0)),
        *(("history_decay", (0.1, None, 0.1, 0.1)), ("history_every", (4, -2)), ("betas", (0.9,)), ("scale", 2)),
        *(("betas", (1.0, 0.9)), ("betas", (0.9, 1.0)), ("network", "swinir-light")),
        *(("lambda_from", 301), ("lambda_ratio", 1.0), ("history_threshold", -1.0), ("learning_rat", 1.0)),
        *(("sampling", "every"), ("sampled_every", 0), ("negatives", "synthetic")),
    ],
)
def test_an_impossible_value_is_refused_by_its_field_in_one_sentence(field, value):
    with pytest.raises(ValueError, match=field if field != "network_size" else "huge") as caught:
        recipes.get(**{"name": "tiny", field: value})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError):
        recipes.get("tiny").replace(**{field: value})


def test_a_validation_square_is_larger_than_the_border_that_is_left_out():
    with pytest.raises(ValueError, match="val_side is 8.* 12"):
        recipes.get("tiny", "sr", val_side=8)
    assert recipes.get("tiny", "sr", val_side=12).scale == 4 and recipes.get("tiny", "sr", scale=2, val_side=8)


def test_a_misspelt_name_is_recognised():
    for given, meant in (({"network": "nafnett"}, "nafnet"), ({"learning_rat": 1.0}, "learning_rate")):
        with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
            recipes.get("tiny", **given)
    with pytest.raises(ValueError, match="tiny, demo"):
        recipes.get("huge")


CONTRADICTIONS = [
    {"history_every": (4, 2), "history_decay": (0.1,)},
    *({"sampling": "sampled", "objective": name, "lambda_neg": 0.1} for name in ("spn-uncertainty", "c2r", "ratio")),
    {"sampling": "sampled", "lambda_ratio": 0.05},
    *({"lambda_ratio": 0.05, "objective": name} for name in ("c2r", "spn-smooth")),
    *({"history_every": (), "objective": name, "lambda_neg": 0.1} for name in ("spn", "ratio", "spn-uncertainty")),
    {"history_every": (), "objective": "c2r", "lambda_neg": 0.1, "noised_inputs": 1},
    {"history_every": (4,), "objective": "spn-uncertainty"},
    {"curriculum": "measured", "objective": "c2r", "lambda_neg": 0.1, "noised_inputs": 1},
    {"lambda_follows_rate": True, "learning_rate": 0.0},
    {"accumulate": 6},
    {"accumulate": 2, "lambda_ratio": 0.05},
    *({"dose": value} for value in (0.0, math.nan)),
]


@pytest.mark.parametrize("fields", CONTRADICTIONS, ids=str)
def test_fields_that_contradict_each_other_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        recipes.get("tiny", **fields)


IDLE = [
    *({"objective": "plain", field: value} for field, value in (("lambda_neg", 0.1), ("features", "vgg16"))),
    *({"objective": "plain", field: value} for field, value in (("history_start", 0.1), ("guard", "lower-lambda"))),
    *(VGG | {field: value} for field, value in (("sampling", "sampled"), ("noised_inputs", 2))),
    VGG | {"history_precision": "tf32"},
    {"objective": "pcl", "lambda_ratio": 0.1},
    {"objective": "c2r", "lambda_neg": 0.2, "negatives": "synthetic", "history_start": 0.1},
    {"curriculum": "measured"},
    {"objective": "c2r", "lambda_neg": 0.1, "val_every": 0, "curriculum": "measured"},
    {"history_threshold": 0.02, "history_decay": (0.5,) * 4},
    {"lambda_ratio": 0.05, "guard": "lower-lambda"},
    {"lambda_ratio": 0.05, "lambda_follows_rate": True},
    {"sampled_every": 4},
    *({"lambda_ratio": 0.05, strength: 0.1} for strength in ("lambda_neg", "dose")),
    {"dose": 0.1, "lambda_neg": 0.0},
    {"objective": "plain", "dose": 0.1},
    {"history_ema_decay": 0.9},
    {"milestones": (100,), "cosine_steps": 50},
    *({"milestones": (100, step)} for step in (-1, 0, 300)),
    {"data_root": "pictures"},
]


@pytest.mark.parametrize("fields", [{"learning_rate_min": 0.1}, {"learning_rate": 1e-9}], ids=str)
def test_a_rate_that_would_rise_is_refused(fields):
    for change in (lambda: recipes.get("tiny", **fields), lambda: recipes.get("tiny").replace(**fields)):
        with pytest.raises(ValueError, match="learning_rate_min .* learning_rate"):
            change()
    assert recipes.get("tiny", learning_rate=1e-9, learning_rate_min=1e-9).learning_rate_at(300) == 1e-9


def test_milestones_of_a_named_recipe_are_left_alone_where_steps_are_fewer():
    assert recipes.get("paper", "sr", steps=1000).replace(steps=500).milestones == (200_000,)


@pytest.mark.parametrize("fields", IDLE, ids=str)
def test_a_setting_without_effect_is_refused(fields):
    with pytest.raises(ValueError, match=f"{list(fields)[-1]} .* no effect"):
        recipes.get("tiny", **fields)
    with pytest.raises(ValueError, match="no effect"):
        recipes.get("tiny").replace(**fields)


def test_what_is_only_carried_along_may_be_idle():
    spn = recipes.get("tiny", history_every=(4, 2), guard="lower-lambda", lambda_neg=0.1, sampling="sampled")
    plain = spn.replace(objective="plain")
    assert plain.weight == 0 and Recipe(**plain.model_dump()) == plain
    assert recipes.get("paper", objective="plain").history_start == 0.1  # the table's own
    with pytest.raises(ValueError, match="guard"):  # it would go on with the same push, ten times
        spn.replace(lambda_ratio=0.05, sampling="exact")
