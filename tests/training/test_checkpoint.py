"""Checkpoints: every part comes back as it was, damage is noticed, and nothing is silently half there."""

import math

import pytest
import torch
from torch import nn

from mclir_nb.training import checkpoint, recipes, records, train


class Guard:
    """Any other part: tensors and plain values of every kind."""

    def __init__(self, **state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def stepped(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    optimiser.step()
    return network, optimiser


def parts(seed: int) -> dict:
    network, optimiser = stepped(seed)
    values = dict(level=0.1 + 0.2 * seed, none=None, text="ä", numbers=[1, math.inf], half=torch.rand(2).bfloat16())
    values |= {"flag": torch.tensor(True), "empty": torch.zeros(0, 3)}
    return {"model": network, "optimiser": checkpoint.Moments(optimiser), "guard/0": Guard(**values)}


def same(a: dict, b: dict) -> bool:
    for name in a:
        one, two = a[name].state_dict(), b[name].state_dict()
        assert one.keys() == two.keys() and one
        for key, value in one.items():
            equal = torch.equal(value, two[key]) if isinstance(value, torch.Tensor) else value == two[key]
            if not equal:
                return False
    return True


def test_every_part_comes_back(tmp_path):
    old, new = parts(1), parts(2)
    assert not same(old, new)
    checkpoint.save(tmp_path, old)
    assert checkpoint.restore(tmp_path, new) == tmp_path / checkpoint.FILE
    assert same(old, new)
    moment = new["optimiser"].optimiser.state[new["model"].weight]["exp_avg"]
    assert moment.stride() == new["model"].weight.stride()


def test_equal_states_give_equal_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        checkpoint.save(tmp_path / name, parts(1))
    assert (tmp_path / "a" / checkpoint.FILE).read_bytes() == (tmp_path / "b" / checkpoint.FILE).read_bytes()


def test_the_history_of_checkpoints_is_bounded_to_two(tmp_path):
    for seed in range(5):
        checkpoint.save(tmp_path, {"guard": Guard(seed=seed)})
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([checkpoint.FILE, checkpoint.PREVIOUS])
    assert checkpoint.read(tmp_path / checkpoint.PREVIOUS)["guard"]["seed"] == 3


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "text", "fact"])
def test_the_checkpoint_before_replaces_a_damaged_one(damage, tmp_path):
    for seed in (1, 2):
        checkpoint.save(tmp_path, parts(seed))
    file, new = tmp_path / checkpoint.FILE, parts(3)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        other = content.replace(b"0.5,", b"0.4,")
        changed = {"cut": content[:-1], "bit": flipped, "text": b"<html>", "fact": other}[damage]
        assert changed != content
        file.write_bytes(changed)
    assert checkpoint.restore(tmp_path, new) == tmp_path / checkpoint.PREVIOUS
    assert same(new, parts(1))


def test_two_damaged_checkpoints_are_an_error_and_not_a_new_beginning(tmp_path):
    for name in (checkpoint.FILE, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="cannot be read as safetensors.* To begin this run again, remove"):
        checkpoint.restore(tmp_path, parts(1))


def test_no_checkpoint_is_a_beginning(tmp_path):
    assert checkpoint.restore(tmp_path, parts(1)) is None
    assert checkpoint.last(tmp_path) == "No state had been saved before."


@pytest.mark.parametrize(
    "strange",
    [
        {"other": Guard(x=1)},
        {"model": Guard(weight=torch.zeros(3))},
        {"model": nn.Conv2d(3, 5, 3)},
        {"optimiser": Guard(**{"9.exp_avg": torch.zeros(3)})},
        {"optimiser": Guard(**{"what": 1})},
    ],
)
def test_a_checkpoint_of_something_else_is_explained(strange, tmp_path):
    checkpoint.save(tmp_path, parts(1) | strange)
    with pytest.raises(ValueError, match="does not fit this run .* made by another version, or put here"):
        checkpoint.restore(tmp_path, parts(2))


def test_a_run_says_when_it_goes_on_from_the_checkpoint_before(tmp_path, capsys):
    recipe = recipes.get("tiny", steps=3, save_every=1, patch_size=32)
    train.train(recipe, tmp_path, quiet=True)
    (tmp_path / "scores.csv").unlink()
    whole = (tmp_path / checkpoint.FILE).read_bytes()
    (tmp_path / checkpoint.FILE).write_bytes(b"damaged")
    train.train(recipe, tmp_path)
    assert "checkpoint.safetensors is damaged; going on from the one before, step 2." in capsys.readouterr().out
    assert (tmp_path / checkpoint.FILE).read_bytes() == whole


def test_a_finished_run_is_only_read(tmp_path):
    recipe = recipes.get("tiny", steps=1, patch_size=32)
    train.train(recipe, tmp_path, quiet=True)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    train.train(recipe, tmp_path, quiet=True)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


def test_where_a_run_went_on_is_noted(tmp_path):
    for step, version in enumerate("112112"):
        records.note_provenance(tmp_path, {"torch": version, "threads": 1}, step)
    assert records.Run(tmp_path).provenance == {
        "torch": "1",
        "threads": 1,
        "continued": [{"step": n, "torch": t} for n, t in ((2, "2"), (3, "1"), (5, "2"))],
    }
