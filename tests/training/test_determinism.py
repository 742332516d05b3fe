"""The same command gives the same files, but for the times in them; on a GPU in its deterministic mode.

What is asked of a GPU is asked of the CPU too, so that the tests are known to work before a GPU sees them.
"""

import signal

import killing
import pytest
import torch
from killing import finish, same_runs, short, work

from mclir_nb import networks
from mclir_nb.training import checkpoint, machine, recipes, train

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.skipif(killing.CONTEXT is None, reason="forks processes, on Linux only")
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_command_in_two_processes_gives_the_same_files(threads, tmp_path):
    """Of one thread count: torch promises nothing between two, because sums are ordered differently."""
    for name in "ab":
        assert finish(work, short(steps=6), tmp_path / name, threads) == 0
    same_runs(tmp_path / "a", tmp_path / "b")


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
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(how, straight, tmp_path, monkeypatch):
    """Killed after step 7, it goes on from step 6; interrupted, in the midst of what the log sums up."""
    (folder, device), real = straight, train.Trainer.advance

    def stops(self, *batch):
        real(self, *batch)
        if self.step == 7 and how == "killed":
            raise EOFError
        if self.step == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train.Trainer, "advance", stops)
    with pytest.raises(EOFError if how == "killed" else KeyboardInterrupt):
        work(short(), tmp_path / "run", device=device)
    saved = checkpoint.read(tmp_path / "run" / checkpoint.FILE)["run"]["step"]
    assert saved == (6 if how == "killed" else 7)
    monkeypatch.setattr(train.Trainer, "advance", real)
    work(short(), tmp_path / "run", device=device)
    same_runs(folder, tmp_path / "run")


def trained(task: str, network: str, steps: int, device: str, **changes) -> train.Trainer:
    recipe = recipes.get("tiny", task, network=network, steps=20, batch_size=2, **changes)
    trainer = train.Trainer(recipe, torch.device(device))
    with machine.deterministic(trainer.device):
        for batch in trainer.patches.batches(1, steps):
            trainer.advance(*batch)
    return trainer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["ffanet", "dehazeformer-t", "idt", "swinir-light", "edsr", "nafnet", "promptir"])
def test_two_steps_of_every_family_are_repeatable(family, device):
    task = networks.NETWORKS[family].task
    start, one, other = (trained(task, family, steps, device).model.state_dict() for steps in (0, 2, 2))
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name
    assert sum(not torch.equal(weight, start[name]) for name, weight in one.items()) > 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.002), ("bfloat16", 0.1)])
def test_twenty_steps_agree_with_the_cpu(precision, tolerance, device):
    """The distance of the weights as a share of how far they moved; without random depth, whose draws differ."""
    start, there, here = (
        trained("derain", "nafnet", steps, where, precision=kind)
        for steps, where, kind in ((0, "cpu", "float32"), (20, "cpu", "float32"), (20, device, precision))
    )
    weights = [torch.cat([p.detach().cpu().flatten() for p in one.model.parameters()]) for one in (start, there, here)]
    moved, apart = weights[1] - weights[0], weights[2] - weights[1]
    assert apart.norm() < tolerance * moved.norm()
    for i, history in enumerate(there.history.models):
        theirs = here.history.models[i].parameters()
        assert all(torch.allclose(a, b.cpu(), atol=0.01) for a, b in zip(history.parameters(), theirs, strict=True))


def test_the_deterministic_mode_puts_back_what_was_set():
    flags = torch.are_deterministic_algorithms_enabled, lambda: torch.backends.cudnn.deterministic
    before = [flag() for flag in flags]
    with machine.deterministic(torch.device("cuda")):
        assert all(flag() for flag in flags)
    assert [flag() for flag in flags] == before
