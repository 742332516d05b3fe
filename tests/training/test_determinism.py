"""The same command gives the same files, but for the times in them; on a GPU in its deterministic mode.

What is asked of a GPU is asked of the CPU too, so that the tests are known to work before a GPU sees them.
"""

import signal

import pytest
import torch
from killing import same_runs, short, work
from trainers import DEVICES, Stopped, advance, before_step, flat, stop

from mclir_nb import networks
from mclir_nb.training import checkpoint, machine, recipes, train


@pytest.fixture(scope="module", params=DEVICES)
def straight(request, tmp_path_factory):
    """A run that nobody disturbs, and its device."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    work(short(), folder, device=request.param)
    return folder, request.param


def test_a_run_is_repeatable(straight, tmp_path):
    folder, device = straight
    work(short(), tmp_path / "again", device=device)
    same_runs(folder, tmp_path / "again")


def test_a_state_is_restored_as_it_was_saved(straight, tmp_path):
    folder, device = straight
    trainer = train.Trainer(short(), torch.device(device))
    checkpoint.restore(folder, trainer)
    checkpoint.save(tmp_path, trainer.state_dict())
    assert (tmp_path / checkpoint.FILE).read_bytes() == (folder / checkpoint.FILE).read_bytes()


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(how, straight, tmp_path):
    """In step 7: killed, it goes on from step 6; interrupted, in the midst of what the log sums up."""
    folder, device = straight
    happens = stop if how == "killed" else lambda *_: signal.raise_signal(signal.SIGINT)
    with pytest.raises((Stopped, KeyboardInterrupt)), before_step(7, happens):
        work(short(), tmp_path / "run", device=device)
    saved = checkpoint.read(tmp_path / "run" / checkpoint.FILE)["run"]["step"]
    assert saved == (6 if how == "killed" else 7)
    work(short(), tmp_path / "run", device=device)
    same_runs(folder, tmp_path / "run")


def trained(task: str, network: str, steps: int, device: str, **changes) -> train.Trainer:
    recipe = recipes.get("tiny", task, network=network, steps=20, batch_size=2, **changes)
    made = train.Trainer(recipe, torch.device(device))
    with machine.deterministic(made.device):
        return advance(made, steps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["ffanet", "dehazeformer-t", "idt", "swinir-light", "edsr", "nafnet", "promptir"])
def test_two_steps_of_every_family_are_repeatable(family, device):
    task = networks.NETWORKS[family].task
    start, one, other = (trained(task, family, steps, device).model for steps in (0, 2, 2))
    assert torch.equal(flat(one), flat(other)) and (flat(one) != flat(start)).float().mean() > 0.5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.002), ("bfloat16", 0.1)])
def test_twenty_steps_agree_with_the_cpu(precision, tolerance, device):
    """The distance of the weights as a share of how far they moved; without random depth, whose draws differ."""
    start, there, here = (
        trained("derain", "nafnet", steps, where, precision=kind)
        for steps, where, kind in ((0, "cpu", "float32"), (20, "cpu", "float32"), (20, device, precision))
    )
    moved, apart = flat(there.model) - flat(start.model), flat(here.model) - flat(there.model)
    assert apart.norm() < tolerance * moved.norm()
    for one, other in zip(there.history.models, here.history.models, strict=True):
        assert torch.allclose(flat(one), flat(other), atol=0.01)
