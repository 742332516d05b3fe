"""A reader's own network, degradation, objective and pictures, through the same doors as the package's."""

import functools
import json

import pictures
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mclir_nb import files, networks
from mclir_nb.data import tasks
from mclir_nb.method import losses
from mclir_nb.training import macs, recipes, records, run_folder, train, user_code

SHORT = {"steps": 3, "log_every": 1, "val_every": 0, "batch_size": 1, "patch_size": 16, "history_every": (2,)}


class Small(nn.Module):
    """The network of the tests."""

    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    @staticmethod
    def shape():
        return "never called, but part of the definition"

    def forward(self, lq):
        return lq + self.layers(lq)


def dim(gt, depth, generator):
    """Darker, and grainy."""
    return gt * 0.5 + 0.02 * torch.randn(gt.shape, generator=generator)


def pixel_spn(restored, gt, negatives, *, lambda_neg, **_):
    """SPN with a squared distance of pixels."""
    l_rec = F.l1_loss(restored, gt)
    l_neg = torch.stack([F.mse_loss(restored, negative) for negative in negatives]).mean()
    return losses.LossParts(l_rec, l_neg, l_rec - lambda_neg * l_neg)


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """The three added to their tables, and a folder of pictures; a function that makes recipes with them."""
    monkeypatch.setitem(networks.NETWORKS, "mine", networks.own(Small, width=6))
    monkeypatch.setitem(tasks.TASKS, "dim", tasks.Task("dim", dim, "mine", "basicsr-rgb"))
    monkeypatch.setitem(losses.OBJECTIVES, "pixel-spn", pixel_spn)
    monkeypatch.setattr(losses, "USES_HISTORY", losses.USES_HISTORY | {"pixel-spn"})
    for number in range(4):
        pictures.write(tmp_path / "pictures" / f"{number}.png", (24, 32), number)
    fields = dict(objective="pixel-spn", lambda_neg=0.1, dataset="folder", data_root=str(tmp_path / "pictures"))
    return functools.partial(recipes.get, "tiny", "dim", **fields, **SHORT)


def test_everything_of_ones_own_is_trained_and_read_back(mine, tmp_path):
    run = train.train(mine(), tmp_path / "run", quiet=True)
    assert run.recipe.network == "mine" and len(run.history_models()) == 1
    assert isinstance(run.model().core, Small) and run.model().core.layers[0].out_channels == 6
    assert (run.log.total - (run.log.l_rec - 0.1 * run.log.l_neg)).abs().max() < 1e-6 and run.log.l_neg.iloc[-1] > 0
    assert len(run.scores) > 0 and run.scores.psnr_input.max() < 15
    kept = json.loads((run.dir / user_code.FILE).read_text())
    assert list(kept) == ["network 'mine'", "task 'dim'", "objective 'pixel-spn'"]
    assert "width" in kept["network 'mine'"] and "lq + self.layers(lq)" in kept["network 'mine'"]
    assert "never called" in kept["network 'mine'"]
    assert "randn" in kept["task 'dim'"] and "mse_loss" in kept["objective 'pixel-spn'"]


class Bound(Small):
    """A frozen first layer, and one convolution in two places."""

    def __init__(self):
        super().__init__()
        self.layers[0].requires_grad_(False)
        self.inner = nn.Conv2d(4, 4, 1)
        self.again = self.inner

    def forward(self, lq):
        first, relu, last = self.layers
        return lq + last(self.again(relu(self.inner(first(lq)))))


def test_a_network_with_frozen_and_shared_parts_is_trained_to_a_dose_and_read_back(mine, tmp_path, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "mine", networks.own(Bound))
    run = train.train(mine(objective="spn", lambda_neg=None, dose=0.1), tmp_path / "run", quiet=True)
    core, begun = run.model().core, records.build_network(run.recipe).core
    assert core.again is core.inner and not core.layers[0].weight.requires_grad
    weights = files.read_tensors(run.dir / "model.safetensors")[0]
    assert torch.equal(weights["core.inner.weight"], weights["core.again.weight"])
    assert torch.equal(weights["core.inner.weight"], core.inner.weight)
    assert run.log.dose.notna().any()
    begun.load_state_dict({name.removeprefix("core."): tensor for name, tensor in weights.items()})
    assert torch.equal(begun.again.weight, core.again.weight)


def test_a_changed_definition_does_not_go_on_with_the_old_run(mine, tmp_path, monkeypatch):
    run_folder.claim(tmp_path, mine(), resume=True)
    user_code.keep_definitions(tmp_path, mine())  # the same again
    with monkeypatch.context() as changed:
        darker = functools.partial(tasks.TASKS["dim"].degrade)  # other text, the same name
        changed.setitem(tasks.TASKS, "dim", tasks.Task("dim", darker, "mine", "basicsr-rgb"))
        with pytest.raises(ValueError, match="task 'dim'"):
            user_code.keep_definitions(tmp_path, mine())
    with monkeypatch.context() as changed:
        changed.setitem(networks.NETWORKS, "mine", networks.own(Small, width=8))
        with pytest.raises(ValueError, match="network 'mine'"):
            train.train(mine(), tmp_path, quiet=True)


def test_a_run_of_the_package_is_not_one_of_a_redefined_name(tmp_path, monkeypatch):
    recipe = recipes.get("tiny", "derain", **SHORT | {"patch_size": 32})
    run_folder.claim(tmp_path, recipe, resume=True)
    run_folder.write_provenance(tmp_path, {"torch": "1"}, 0)
    for other in (pixel_spn, functools.partial(losses.spn, distance="squared")):
        monkeypatch.setitem(losses.OBJECTIVES, "spn", other)
        with pytest.raises(ValueError, match="another definition of objective 'spn'"):
            user_code.keep_definitions(tmp_path, recipe)
    assert not (tmp_path / user_code.FILE).exists()


def edge(restored, gt, negatives, *, features, **_):
    """A term."""
    return (restored - gt).square().mean()


@pytest.mark.parametrize(
    "made",
    [
        lambda n: losses.objective(edge, sign=1 - 2 * n),
        lambda n: functools.partial(losses.spn, distance=("squared", "huber")[n]),
        lambda n: losses.objective(losses.rivals.cr, sign=1 - 2 * n),
    ],
)
def test_what_a_function_is_set_to_is_part_of_its_definition(made, mine, monkeypatch):
    kept = []
    for number in (0, 1, 1):
        monkeypatch.setitem(losses.OBJECTIVES, "pixel-spn", made(number))
        kept.append(user_code.definitions(mine())["objective 'pixel-spn'"])
    assert kept[0] != kept[1] == kept[2]


def test_a_process_that_does_not_know_them_says_what_to_do(mine, tmp_path, monkeypatch):
    recipe = mine()
    run_folder.claim(tmp_path, recipe, resume=True)
    for table, name in ((networks.NETWORKS, "mine"), (tasks.TASKS, "dim"), (losses.OBJECTIVES, "pixel-spn")):
        with monkeypatch.context() as elsewhere:
            elsewhere.delitem(table, name)
            with pytest.raises(ValueError, match=f"unknown .*'{name}'.*run the cell or import the module"):
                records.read_recipe(tmp_path)


def test_an_objective_of_ones_own_needs_its_weight_and_is_stopped_when_it_runs_away(mine, tmp_path):
    with pytest.raises(ValueError, match="lambda_neg"):
        mine(lambda_neg=None)
    with pytest.raises(train.Diverged, match="lambda_neg"):
        train.train(mine(lambda_neg=1e9), tmp_path, quiet=True)


def test_a_damaged_definition_is_named(mine, tmp_path):
    (tmp_path / user_code.FILE).write_text("{")
    with pytest.raises(ValueError, match=user_code.FILE):
        user_code.keep_definitions(tmp_path, mine())


def test_the_cost_of_a_redefined_network_is_counted_anew(mine, monkeypatch):
    narrow = macs.count(mine()).network
    monkeypatch.setitem(networks.NETWORKS, "mine", networks.own(Small, width=12))
    assert macs.count(mine()).network == 2 * narrow


def test_the_source_of_a_function_without_a_file_is_not_invented(mine, monkeypatch):
    space: dict = {"__name__": "elsewhere"}
    exec("def made(gt, depth, generator): return gt", space)
    monkeypatch.setitem(tasks.TASKS, "dim", tasks.Task("dim", space["made"], "mine", "basicsr-rgb"))
    assert user_code.UNKNOWN in user_code.definitions(mine())["task 'dim'"]
