"""Whether a recipe fits a GPU is told before its first step."""

import pytest
from trainers import CPU

from mclir_nb.method import distances
from mclir_nb.training import needs, recipes


@pytest.mark.parametrize(("name", "network", "fits"), [("gpu", "edsr", True), ("paper", "swinir-light", False)])
def test_recipes_that_do_not_fit_24_gb_say_so_and_name_what_helps(name, network, fits):
    recipe = recipes.get(name, "sr", network=network)
    note = needs.note(recipe, CPU)
    if fits:
        assert not note
    else:
        assert note.count("GB") == 3 and "accumulate=" in note and "\n" not in note
        parts = int(note.split("accumulate=")[1].split()[0])
        assert not needs.note(recipe.replace(accumulate=parts), CPU)
        assert parts == 2 or needs.note(recipe.replace(accumulate=parts - 1), CPU)


def test_a_gpu_holds_the_feature_maps_of_larger_pieces():
    recipe = recipes.get("gpu", "sr")
    here, there = needs.of(recipe), needs.of(recipe, kind="cuda")
    assert here.images == 1 and there.images >= distances.ON_CUDA
    assert there.bytes > here.bytes and there._replace(images=here.images) == here


def test_parts_of_a_batch_need_less_and_hold_the_same_between_steps():
    whole, parts = (needs.of(recipes.get("tiny", "derain", batch_size=4, accumulate=count)) for count in (1, 2))
    assert parts.between == whole.between and parts.bytes < whole.bytes and whole.part == 2 * parts.part
