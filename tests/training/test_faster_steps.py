"""What lets a step fit a GPU or fill it, tried on the CPU as far as that goes: a batch in parts, compiled networks."""

import shutil

import pytest
import torch
import trainers
from trainers import DEVICES

from mclir_nb.training import checkpoint, distributed, dose, recipes, train

SMALL = dict(batch_size=5, log_every=1, val_every=0)


def trainer(task="derain", device="cpu", steps=0, **changes) -> train.Trainer:
    histories = {} if "objective" in changes else dict(history_every=(2, 1))
    return trainers.trainer(recipes.get("tiny", task, **SMALL | histories | changes), steps, device)


def gradients(made: train.Trainer) -> torch.Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in made.model.parameters() if p.grad is not None])


def one_step(start: train.Trainer, **changes) -> train.Trainer:
    """The next step of another trainer's state."""
    made = train.Trainer(start.recipe.replace(**changes), start.device)
    made.load_state_dict(start.state_dict())
    made.advance(*made.patches.batch(start.step + 1))
    return made


def apart(one: train.Trainer, other: train.Trainer) -> float:
    """Distance of two gradients as a share of their length."""
    return ((gradients(one) - gradients(other)).norm() / gradients(one).norm()).item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("derain", dict(objective="plain", network="dehazeformer-t")),
        ("dehaze", dict(network="ffanet", noised_inputs=2)),
        ("sr", dict(network="edsr", patch_size=32, scale=2)),
        ("deblur", dict(objective="spn-smooth", lambda_neg=1e-3, history_every=(2, 1))),
    ],
)
def test_a_batch_in_parts_gives_the_gradients_of_the_whole(task, fields, device):
    """With networks without random depth, and objectives that are means over pictures; 5 in 2 parts are 3 and 2."""
    start = trainer(task, device, steps=2, **fields)
    whole = one_step(start)
    for parts in (2, 5):
        made = one_step(start, accumulate=parts)
        assert apart(whole, made) < 1e-3
        assert torch.allclose(whole.log.sums, made.log.sums, rtol=1e-3)
        assert made.last is None or made.last[0].shape == whole.last[0].shape


def test_the_network_beside_a_run_takes_a_batch_in_the_same_parts():
    start, sizes = trainer(steps=1, history_of="another"), []
    whole, parts = one_step(start), train.Trainer(start.recipe.replace(accumulate=5), start.device)
    parts.load_state_dict(start.state_dict())
    parts.another.model.register_forward_hook(lambda network, images, _: sizes.append(len(images[0])))
    parts.advance(*parts.patches.batch(2))
    assert sizes == [1] * 5 and apart(whole.another, parts.another) < 1e-3


def test_the_dose_is_measured_in_the_same_parts():
    start = trainer(steps=3, batch_size=4)
    found = [dose.measured(one_step(start, accumulate=parts), 1.0, 2) for parts in (1, 2)]
    assert found[0].update == pytest.approx(found[1].update, rel=0.05)


@pytest.mark.parametrize("objective", ["cr", "ratio", "infonce"])
def test_what_looks_at_a_batch_as_a_whole_says_so(objective):
    start = trainer(steps=3, objective=objective, lambda_neg=0.1)
    assert apart(one_step(start), one_step(start, accumulate=2)) > 1e-3
    assert objective in distributed.coupling_note(objective, 2)


def test_random_depth_says_so(tmp_path, capsys):
    fields = dict(SMALL, steps=1, batch_size=2, accumulate=2, network="swinir-light", objective="plain", scale=2)
    train.train(recipes.get("tiny", "sr", **fields), tmp_path / "run")
    assert "random depth" in capsys.readouterr().out


@pytest.fixture
def graphs(monkeypatch):
    """torch.compile without its compiler: networks are traced, then run as they are. What was traced."""
    traced = []

    def keep(graph, inputs):
        traced.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, mode, **how: real(network, backend=keep, **how))
    return traced


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_networks_train_and_are_saved_under_plain_names(graphs, tmp_path):
    start = trainer("sr", steps=2, network="edsr", scale=2, patch_size=32)
    made = one_step(start, compile="default")
    assert 2 <= len(graphs) <= 3  # the network with its gradient, and histories
    assert apart(one_step(start), made) < 0.01
    made.log_row()
    made.validate()
    made.advance(*made.patches.batch(4))
    made.save(tmp_path)
    assert len(graphs) <= 3  # pictures of other sizes are restored by the plain network
    state, plain = checkpoint.read(tmp_path / checkpoint.FILE), start.model.state_dict()
    assert state["model"].keys() == state["ema"].keys() == plain.keys()
    assert state["history"].keys() == {f"{k}.{name}" for k in (0, 1) for name in plain}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", ["edsr", "nafnet"])
def test_a_compiled_step_is_close_to_a_plain_one(network, device):
    if device == "cpu" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    task, mode = ("sr" if network == "edsr" else "derain"), "default" if device == "cpu" else "reduce-overhead"
    start = trainer(task, device, steps=2, network=network)
    plain, compiled = one_step(start), one_step(start, compile=mode)
    assert apart(plain, compiled) < 0.01
    for step in (4, 5, 6):  # graphs are recorded in the second step, and must see weights that change in place
        compiled.load_state_dict(plain.state_dict())
        for made in (plain, compiled):
            made.advance(*made.patches.batch(step))
        assert apart(plain, compiled) < 0.01


def test_cuda_graphs_need_cuda():
    with pytest.raises(ValueError, match="compile"):
        trainer(compile="reduce-overhead")
