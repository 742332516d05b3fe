"""Checkpoints: a state comes back as it was, damage is noticed, and nothing is silently half there."""

import json
import math

import pytest
import torch
from trainers import advance, derain, trainer

from mclir_nb import files
from mclir_nb.training import checkpoint, run_folder


class Run:
    """Anything with a state: tensors and plain values of every kind."""

    def __init__(self, state: dict):
        self.state = state

    def load_state_dict(self, state: dict):
        self.state = {name: state[name] for name in ("run", "model", "optimiser")}


def state(seed: int) -> dict:
    chance = torch.Generator().manual_seed(seed)
    run = dict(step=seed, level=0.1 + 0.2 * seed, none=None, text="ä", numbers=[1, math.inf])
    run |= {"flag": torch.tensor(True), "empty": torch.zeros(0, 3), "half": torch.rand(2, generator=chance).bfloat16()}
    moments = {str(number): {"exp_avg": torch.rand(3, generator=chance)} for number in range(11)}
    return {"run": run, "model": {"0.weight": torch.rand(3, 4, generator=chance)}, "optimiser": moments}


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def saved(folder, *seeds) -> None:
    for seed in seeds:
        checkpoint.save(folder, state(seed))


def test_a_state_comes_back_and_equal_states_give_equal_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        saved(tmp_path / name, 1)
    new = Run(state(2))
    assert not same(new.state, state(1))
    assert checkpoint.restore(tmp_path / "a", new) == tmp_path / "a" / checkpoint.FILE
    assert same(new.state, state(1))
    assert (tmp_path / "a" / checkpoint.FILE).read_bytes() == (tmp_path / "b" / checkpoint.FILE).read_bytes()


def test_the_digest_knows_which_tensor_has_which_name(tmp_path):
    checkpoint.save(tmp_path, {"model": {"a": torch.zeros(2), "b": torch.zeros(2)}, "ema": {"a": torch.ones(2)}})
    tensors, facts = files.read_tensors(tmp_path / checkpoint.FILE)
    tensors["model/c"] = tensors.pop("model/b")
    files.write_tensors(tmp_path / checkpoint.FILE, tensors, facts)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.read(tmp_path / checkpoint.FILE)


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "text", "fact"])
def test_the_checkpoint_before_replaces_a_damaged_one(damage, tmp_path):
    saved(tmp_path, 1, 2, 3)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([checkpoint.FILE, checkpoint.PREVIOUS])
    file, new = tmp_path / checkpoint.FILE, Run({})
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        other = content.replace(b"0.7", b"0.6", 1)
        changed = {"cut": content[:-1], "bit": flipped, "text": b"<html>", "fact": other}[damage]
        assert changed != content
        file.write_bytes(changed)
    assert checkpoint.restore(tmp_path, new) == tmp_path / checkpoint.PREVIOUS
    assert same(new.state, state(2))


def test_the_last_good_state_is_a_whole_one(tmp_path):
    saved(tmp_path, 1, 2)
    assert "after step 2" in checkpoint.last_saved(tmp_path)
    (tmp_path / checkpoint.FILE).write_bytes(b"damaged")
    assert f"after step 1, in {tmp_path / checkpoint.PREVIOUS}" in checkpoint.last_saved(tmp_path)


def test_two_damaged_checkpoints_are_an_error_and_none_is_a_beginning(tmp_path):
    assert checkpoint.restore(tmp_path, Run({})) is None
    for name in (checkpoint.FILE, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=f"{checkpoint.PREVIOUS}.*another out_dir"):
        checkpoint.restore(tmp_path, Run({}))


def test_a_state_of_another_run_or_version_is_refused(tmp_path):
    checkpoint.save(tmp_path, {"run": {"step": 1}})
    with pytest.raises(ValueError, match=f"{checkpoint.FILE} .*another version.*out_dir"):
        checkpoint.restore(tmp_path, Run({}))


def test_a_run_says_when_it_goes_on_from_the_checkpoint_before(tmp_path):
    made = trainer(derain())
    for step in (1, 2):
        advance(made, step).save(tmp_path)
    (tmp_path / checkpoint.FILE).write_bytes(b"damaged")
    assert checkpoint.FILE in made.restore(tmp_path) and made.step == 1


def test_where_a_run_went_on_is_noted(tmp_path):
    for step, version in enumerate("112112"):
        run_folder.write_provenance(tmp_path, {"torch": version, "threads": 1}, step)
    assert json.loads((tmp_path / "provenance.json").read_text()) == {
        "torch": "1",
        "threads": 1,
        "continued": [{"step": n, "torch": t} for n, t in ((2, "2"), (3, "1"), (5, "2"))],
    }
