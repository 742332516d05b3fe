"""History models: the schedule in closed form, the official trajectories and an official training run."""

import pytest
import torch
from golden import load, needs_shared, part
from torch import nn

from mclir_nb.method import features as feature_networks
from mclir_nb.method.history import HistoryModels, error_spread
from mclir_nb.method.losses import spn_loss


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


def change(model, by):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by)


def weights(model):
    return torch.cat([p.flatten() for p in model.parameters()])


def test_first_copies_are_exact_frozen_and_apart():
    model = network().to(memory_format=torch.channels_last)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    history = HistoryModels(model, every=(4, 2), decay=(0.1, 0.1))
    change(model, 1.0)
    for copy in history.models:
        assert not copy.training
        assert all(not p.requires_grad and p.grad is None for p in copy.parameters())
        assert copy[0].weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(weights(copy), weights(model) - 1)


def test_updates_follow_the_closed_form():
    """Two schedules of copies, and a snapshot, a slow average and a frozen network."""
    model = network()
    first = weights(model).clone()
    history = HistoryModels(model, every=(3, 2, 1, 1, None), decay=(0.1, 0.5, 0.0, 0.9, 0.1))
    refreshed = []
    for step in range(1, 7):
        change(model, 1.0)
        refreshed.append(history.update(model, step))
    assert refreshed == [[2, 3], [1, 2, 3], [0, 2, 3], [1, 2, 3], [2, 3], [0, 1, 2, 3]]
    slow = 0.1 * sum(step * 0.9 ** (6 - step) for step in range(1, 7))
    moved = (0.9 * 6 + 0.09 * 3, 0.5 * 6 + 0.25 * 4 + 0.125 * 2, 6, slow, 0)
    for copy, way in zip(history.models, moved, strict=True):
        torch.testing.assert_close(weights(copy), first + way)


def test_buffers_are_averaged_or_copied():
    model = network()
    history = HistoryModels(model, every=(1,), decay=(0.1,))
    model[1].running_mean += 1.0
    model[1].num_batches_tracked += 5
    history.update(model, 1)
    torch.testing.assert_close(history.models[0][1].running_mean, torch.full((4,), 0.9))
    assert history.models[0][1].num_batches_tracked == 5


def test_a_snapshot_forgets_a_broken_past():
    model = network()
    history = HistoryModels(model, every=(1,), decay=(0.0,))
    change(history.models[0], float("nan"))
    history.update(model, 1)
    torch.testing.assert_close(weights(history.models[0]), weights(model))


def test_start_mixes_in_a_fresh_network_per_history():
    model, seeds = network(), iter((1, 2))
    history = HistoryModels(model, (5, 5), (0.1, 0.1), start=0.25, fresh=lambda: network(next(seeds)))
    for seed, copy in zip((1, 2), history.models, strict=True):
        torch.testing.assert_close(weights(copy), 0.25 * weights(network(seed)) + 0.75 * weights(model))
    random = HistoryModels(model, (None,), (0.1,), start=1.0, fresh=lambda: network(3))
    torch.testing.assert_close(weights(random.models[0]), weights(network(3)))


def test_negatives_take_part_in_a_backward_pass():
    model, lq = network(), torch.rand(2, 3, 8, 8)
    history = HistoryModels(model, every=(2, 1), decay=(0.1, 0.1))
    change(model, 0.1)
    restored, negatives = model(lq), history.negatives(lq)
    assert [n.shape for n in negatives] == [restored.shape] * 2
    assert not any(n.requires_grad or n.is_inference() for n in negatives)
    nn.functional.l1_loss(restored, negatives[0]).backward()
    assert model[0].weight.grad.abs().sum() > 0
    (second,) = history.negatives(lq, only=1)
    torch.testing.assert_close(second, negatives[1])


def test_state_round_trip():
    model = network()
    history = HistoryModels(model, every=(2, 1), decay=(0.1, 0.2))
    change(model, 1.0)
    history.update(model, 1)
    other = HistoryModels(network(7), every=(2, 1), decay=(0.1, 0.2))
    other.load_state_dict(history.state_dict())
    for a, b in zip(history.models, other.models, strict=True):
        assert torch.equal(weights(a), weights(b))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        HistoryModels(model, every=(2,), decay=(0.1,)).load_state_dict(history.state_dict())


def test_distances():
    model = network()
    history = HistoryModels(model, every=(None, 1), decay=(0.1, 0.0))
    change(model, 1.0)
    history.update(model, 1)
    far, near = history.distances(model)
    moved = torch.ones_like(weights(model)).norm() / weights(model).norm()
    torch.testing.assert_close(far, moved.detach())
    assert near == 0
    assert HistoryModels(model, (), ()).distances(model).shape == (0,)


def test_adaptive_rule_refreshes_in_turn_while_the_error_spreads():
    model = network()
    history = HistoryModels(model, every=(None,) * 2, decay=(0.1,) * 2)
    change(model, 1.0)
    gt = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    spreads = [error_spread(image, gt).item() for image in (gt, 1 - gt, gt + 0.5, 1 - gt, 1 - gt)]
    turns = [history.adaptive_update(model, spread) for spread in spreads]
    assert turns == [[], [0], [], [1], [0]]  # a constant error has no spread
    assert history.distances(model).max() < 0.01


@needs_shared
def test_error_spread_agrees_with_the_official_code():
    described, tensors = load("losses")
    expected = described["cases"]["spn"]["adaptive_variant_statistics_float64"]["std_v"]
    found = error_spread(tensors["spn/output"].double(), tensors["spn/gt"].double())
    assert found.item() == pytest.approx(expected, rel=1e-12)


class Two(nn.Module):
    """The fixture's toy network: two scalars."""

    def __init__(self, values):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(values, dtype=torch.float64))


@needs_shared
@pytest.mark.parametrize("case", ["official_decay_0.1", "distinct_decays"])
def test_trajectories_agree_with_the_official_code(case):
    described, tensors = load("losses")
    facts = described["cases"][f"ema/{case}"]
    path, expected = tensors["ema/network"], tensors[f"ema/{case}/history"]
    model, fresh = Two(facts["net0"]), iter(facts["neg0"])
    every = facts["neg_iter"][::-1]  # the official code reverses the intervals and not the decays
    history = HistoryModels(model, every, facts["neg_decay"], facts["neg_start"], lambda: Two(next(fresh)))
    ours = [torch.stack([m.p.clone() for m in history.models])]
    for step in range(1, facts["steps"] + 1):
        model.p.data.copy_(path[step])
        history.update(model, step)
        ours.append(torch.stack([m.p.clone() for m in history.models]))
    torch.testing.assert_close(torch.stack(ours), expected, rtol=0, atol=1e-14)


class Toy(nn.Module):
    """The network of the fixture's training run, with the official FFA-Net input normalisation in front."""

    def __init__(self, state):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
        self.load_state_dict(state)

    def forward(self, hazy):
        mean, std = (hazy.new_tensor(v).view(3, 1, 1) for v in ((0.64, 0.6, 0.58), (0.14, 0.15, 0.152)))
        x = (hazy - mean) / std
        return self.net(x) + 0.5


@needs_shared
@pytest.mark.parametrize("dtype, suffix, atol", [(torch.float32, "", 1e-5), (torch.float64, "_f64", 2e-6)])
def test_training_run_agrees_with_the_official_code(dtype, suffix, atol):
    described, tensors = load("losses")
    facts, data = described["cases"]["training"], part(tensors, "training/")
    features = feature_networks.build("vgg16", "random")
    features.load_state_dict({k: v.float() for k, v in part(tensors, "vgg16/").items()})
    features.to(dtype)
    model = Toy(part(data, "initial_network/"))
    fresh = (Toy(part(data, f"history_{k}_random_init/")) for k in range(4))
    history = HistoryModels(model, facts["neg_iter"][::-1], facts["neg_decay"], facts["neg_start"], lambda: next(fresh))
    for m in (model, *history.models):
        m.to(dtype)
    ema = HistoryModels(model, every=(1,), decay=(facts["ema_decay"],))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.9), weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=1e-8)
    rows = []
    for step in range(1, facts["steps"] + 1):
        if step > 1:
            schedule.step()
        hazy, gt = (data[k][step - 1].to(dtype) for k in ("hazy01", "gt"))
        negatives = history.negatives(hazy)
        parts = spn_loss(model(hazy), gt, negatives, features=features, lambda_neg=facts["weight"])
        optimizer.zero_grad()
        parts.total.backward()
        optimizer.step()
        ema.update(model, step)
        history.update(model, step)
        rows.append([parts.l_rec.item(), facts["weight"] * parts.l_neg.item(), optimizer.param_groups[0]["lr"]])
    close = dict(rtol=0, atol=atol)
    expected = data[f"per_iteration_l_pix_l_neg_lr{suffix}"]
    torch.testing.assert_close(torch.tensor(rows, dtype=torch.float64), expected, **close)
    networks = {"net": model, "ema": ema.models[0]} | {f"history_{k}": m for k, m in enumerate(history.models)}
    for name, m in networks.items():
        for key, value in m.state_dict().items():
            torch.testing.assert_close(value, data[f"final_{name}{suffix}/{key}"], **close)


@pytest.mark.parametrize(
    "field, arguments",
    [
        ("every", dict(every=(2, 1), decay=(0.1,))),
        ("every", dict(every=(-1,), decay=(0.1,))),
        ("decay", dict(every=(1,), decay=(1.5,))),
        ("start", dict(every=(1,), decay=(0.1,), start=2.0)),
        ("fresh", dict(every=(1,), decay=(0.1,), start=0.1)),
        ("step 0", dict(every=(1,), decay=(0.1,))),
    ],
)
def test_bad_schedules_speak(field, arguments):
    with pytest.raises(ValueError, match=field):
        HistoryModels(network(), **arguments).update(network(), 0)
