"""Whether a recipe fits a GPU is told before its first step."""

import pytest
from trainers import CPU

from mclir_nb.training import distributed, needs, recipes


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


def test_parts_of_a_batch_need_less_and_hold_the_same_between_steps():
    whole, parts = (needs.of(recipes.get("tiny", "derain", batch_size=4, accumulate=count)) for count in (1, 2))
    assert parts.between == whole.between and parts.bytes < whole.bytes and whole.part == 2 * parts.part


def test_what_changes_the_memory_of_a_step_changes_the_prediction(monkeypatch):
    """Fewer digits, a network beside the own one, the larger pieces of a GPU, processes that share a batch."""

    def needed(kind="", **changes):
        return needs.of(recipes.get("tiny", "derain", **dict(batch_size=8, accumulate=2) | changes), CPU, kind)

    plain = needed()
    assert needed(precision="bfloat16").patch < plain.patch and needed(features_precision="bfloat16").maps < plain.maps
    another = needed(history_of="another", precision="bfloat16")
    assert another.between > 1.3 * plain.between and another.patch == plain.patch  # it trains in float32
    assert needed("cuda").images > plain.images
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    assert plain.part == 4 and needed().part == 1
