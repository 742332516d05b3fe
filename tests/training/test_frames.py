"""The moments a run keeps: which ones, how exactly, and the same after a killed and resumed run."""

import copy

import pytest
import torch
from torch import nn

from mclir_nb.method.history import HistoryModels
from mclir_nb.training import frames, recipes, run_folder


@pytest.mark.parametrize("total", [1, 5, 300, 800, 1200, 500_000])
def test_moments_are_few_spread_over_the_run_and_end_with_it(total):
    kept = frames.steps(total)
    assert len(kept) <= frames.COUNT and kept[-1] == total and kept[0] >= 1 and kept == sorted(set(kept))
    for every in (100, 50, 20, 10) if total >= 800 else ():  # histories of all ages
        ages = [step % every / every for step in kept[:-1]]
        assert 0.25 < sum(ages) / len(ages) < 0.75 and len(set(ages)) >= 4


class Net(nn.Module):
    """One convolution; its place in channels-last memory and its mode must survive being looked at."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return x + self.drop(self.conv(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture
def pair():
    """Name, gt and lq of a picture."""
    return "cat", torch.rand(3, 40, 40), torch.rand(3, 40, 40)


def test_a_lag_of_a_ten_thousandth_survives_the_file(tmp_path, net, pair):
    history = HistoryModels(net, every=(10, 10), decay=(0.1, 0.1))
    with torch.no_grad():
        history.models[0].conv.bias += 1e-4
        history.models[1].conv.bias -= 3e-6
    frames.keep(tmp_path, 7, net, history, pair)
    kept = frames.read(tmp_path)
    assert kept.name == "cat" and kept.steps == [7] and net.training
    assert torch.equal(kept.gt, pair[1]) and torch.equal(kept.lq, pair[2])
    gaps = kept.negatives[0].double() - kept.restored[0]
    assert gaps[0].mean().item() == pytest.approx(1e-4, rel=0.01)
    assert gaps[1].mean().item() == pytest.approx(-3e-6, rel=0.1)
    net.eval()
    with torch.no_grad():
        assert (kept.restored[0] - net(pair[2][None])[0]).abs().max() < 1e-3
    assert torch.allclose(kept.distances[0], history.distances(net))


def test_of_an_emas_histories_the_ema_is_kept_too(tmp_path, net, pair):
    ema = copy.deepcopy(net)
    with torch.no_grad():
        ema.conv.bias += 0.3
    history = HistoryModels(ema, every=(10,), decay=(0.1,))
    frames.keep(tmp_path, 7, net, history, pair, ema)
    kept = frames.read(tmp_path)
    assert kept.averaged is not None and torch.equal(kept.present, kept.averaged) and kept.distances.item() == 0
    assert (kept.averaged - kept.restored).mean().item() == pytest.approx(0.3, abs=1e-3)
    assert torch.equal(kept.negatives[:, 0], kept.averaged)


def test_moments_at_or_after_a_step_are_made_again(tmp_path, net, pair):
    history, later = HistoryModels(net, (10,), (0.1,)), copy.deepcopy(net)
    with torch.no_grad():
        later.conv.bias += 1
    for step, model in ((3, net), (5, later), (9, later), (5, net)):
        frames.keep(tmp_path, step, model, history, pair)
    kept = frames.read(tmp_path)
    assert kept.steps == [3, 5] and torch.equal(kept.restored[0], kept.restored[1])


def test_a_damaged_file_does_not_stop_a_run(tmp_path, net, pair, capsys):
    (tmp_path / frames.FILE).write_bytes(b"not a safetensors file")
    frames.keep(tmp_path, 5, net, HistoryModels(net, (10,), (0.1,)), pair)
    assert "The moments in it are lost" in capsys.readouterr().out
    assert frames.read(tmp_path).steps == [5]


def test_a_folder_without_moments_says_why(tmp_path):
    run_folder.claim(tmp_path, recipes.get("tiny", objective="plain"), resume=True)
    with pytest.raises(ValueError, match="objective plain"):
        frames.read(tmp_path)
    with pytest.raises(ValueError, match="not a run folder"):
        frames.read(tmp_path / "nowhere")
