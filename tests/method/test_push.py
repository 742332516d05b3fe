"""The push on cases solved by hand: its identity, its dose, and whether it helps."""

import math

import pytest
import torch
from torch import nn
from toys import Pixels, Scale, constant, photo

from mclir_nb.method import losses, push


def images(*values):
    return [constant(value) for value in values]


def test_push_points_away_from_the_negative_and_keeps_its_strength():
    restored, near, far = images(0.5, 0.49, 0.1)
    for negative in (near, far):
        direction = push.image_push(restored, [negative], Pixels())
        assert torch.equal(direction, torch.full_like(restored, 1 / restored.numel()))
    assert (push.image_push(restored, [restored + 0.1], Pixels()) < 0).all()


def test_push_is_the_gradient_the_optimiser_gets():
    restored, gt, negative = (photo(seed) for seed in range(3))
    restored.requires_grad_(True)
    parts = losses.spn_loss(restored, gt, [negative], features=Pixels(), lambda_neg=0.3)
    whole = torch.autograd.grad(parts.total, restored, retain_graph=True)[0]
    pull = torch.autograd.grad(parts.l_rec, restored)[0]
    torch.testing.assert_close(whole, pull - 0.3 * push.image_push(restored, [negative], Pixels()))


def test_the_ratio_at_the_image_has_lambda_in_it():
    restored, gt, negative = images(0.5, 0.7, 0.2)
    restored.requires_grad_(True)
    parts = losses.spn_loss(restored, gt, [negative], features=Pixels(), lambda_neg=0.3)
    assert push.image_ratio(parts, restored).item() == pytest.approx(0.3)


def test_progress_and_gap_on_paper():
    gt, restored, negative = images(1.0, 0.8, 0.5)
    found = push.condition(restored, negative, gt)
    assert found.progress == pytest.approx(0.25 - 0.04) and found.gap == pytest.approx(0.09)
    assert found.holds and found.cosine == pytest.approx(1)
    beyond = push.condition(*images(1.2, 0.5, 1.0))  # past the truth: moving on makes it worse
    assert not beyond.holds and beyond.cosine == pytest.approx(-1)


def test_votes():
    gt, restored, behind, ahead = images(1.0, 0.8, 0.5, 0.9)
    assert push.votes(restored, gt, [behind], Pixels()) == 1
    assert push.votes(restored, gt, [ahead], Pixels()) == 0
    assert push.votes(restored, gt, [behind, ahead], Pixels()) == 0.5
    assert push.votes(restored, gt, [ahead, behind, ahead, ahead], Pixels()) == 0.25
    assert push.votes(restored, gt, [restored], Pixels()) == 0.5
    assert push.votes(gt, restored, [behind], Pixels()) == 0  # the truth lies on the side of the past
    halved = Pixels()
    halved.layer_weights = {"pixels": 0.5}
    assert push.votes(restored, gt, [behind], halved) == 1


def one_weight(lambda_neg=0.1, weight=0.5, gt=1.0, negative=0.2):
    """A linear model on an lq of ones: restored = weight, every gradient is a sign."""
    model = Scale(weight)
    lq, truth, past = images(1.0, gt, negative)
    found = push.gradients(model, truth, [past], losses.OBJECTIVES["spn"], lq=lq, features=Pixels())
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.9), eps=0.0)
    model.weight.grad = torch.tensor(2.0)
    optimiser.step()
    return found, push.dose([found], lambda_neg, optimiser)


def test_gradients_and_dose_of_a_linear_model():
    found, dose = one_weight()
    assert found.pull[0].item() == pytest.approx(-1) and found.push[0].item() == pytest.approx(-1)
    assert dose == pytest.approx((0.1, 1.0))
    against = one_weight(negative=0.7)[1]  # the past is ahead: the push works against the pull
    assert against.update == pytest.approx(0.1) and against.cosine == pytest.approx(-1)


def test_preconditioner_is_adams_step_per_learning_rate():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.0, 0.9), eps=0.3)
    before = [w.detach().clone() for w in model.parameters()]
    gradient = [torch.randn_like(w) for w in model.parameters()]
    for w, g in zip(model.parameters(), gradient, strict=True):
        w.grad = g.clone()
    optimiser.step()
    for w, old, step in zip(model.parameters(), before, push.preconditioned(gradient, optimiser), strict=True):
        torch.testing.assert_close(w.detach(), old - step)


def test_a_weight_that_nothing_depends_on_takes_no_step():
    used, idle = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimiser = torch.optim.Adam([used, idle])
    used.grad = torch.ones(2)
    optimiser.step()
    assert not push.preconditioned([torch.ones(2), torch.zeros(2)], optimiser)[1].any()
    with pytest.raises(ValueError, match="step of Adam"):
        push.preconditioned([torch.ones(2), torch.ones(2)], optimiser)


def test_a_frozen_weight_has_no_part_in_a_dose():
    """A network that begins with a frozen weight of 1 has the dose of the same network without it."""
    alone, (lq, gt, past) = one_weight()[1], images(1.0, 1.0, 0.2)
    model = nn.Sequential(Scale(1.0).requires_grad_(False), Scale(0.5))
    found = push.gradients(model, gt, [past], losses.OBJECTIVES["spn"], lq=lq, features=Pixels())
    assert [gradient.item() for gradient in found.push] == pytest.approx([0, -1])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.9), eps=0.0)
    model[1].weight.grad = torch.tensor(2.0)
    optimiser.step()
    assert push.dose([found], 0.1, optimiser) == alone


def test_several_batches_average_out():
    model, optimiser = Scale(), None
    lq, *truths = images(1.0, 1.0, 1.0, 0.0)
    (past,) = images(0.2)
    found = [push.gradients(model, gt, [past], losses.OBJECTIVES["spn"], lq=lq, features=Pixels()) for gt in truths]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0, eps=0.0)
    model.weight.grad = torch.tensor(1.0)
    optimiser.step()
    assert push.dose(found, 1.0, optimiser).update == pytest.approx(3)  # pulls -1, -1, +1; pushes all -1


def test_helps_is_the_cosine_with_downhill():
    uphill = [torch.tensor([1.0, 0.0])]
    steps = {
        "down": [[torch.tensor([-2.0, 0.0])]],
        "up": [[torch.tensor([3.0, 0.0])]],
        "aside": [[torch.tensor([0.0, 1.0])]],
        "half": [[torch.tensor([-1.0, 1.0])], [torch.tensor([-1.0, -1.0])]],
    }
    table = push.helps([uphill, uphill], steps, draws=50).set_index("direction")
    assert table.help_cos.to_dict() == pytest.approx({"down": 1, "up": -1, "aside": 0, "half": 1})
    assert table.low["half"] == pytest.approx(math.sqrt(0.5))  # a draw of one of the two batches alone
    either = push.helps([uphill, [torch.tensor([0.0, 1.0])]], {"down": steps["down"]}, draws=50).iloc[0]
    assert (either.low, either.high) == pytest.approx((0, 1))  # a draw of one of the two held-out batches alone
    assert (table.low <= table.help_cos + 1e-12).all() and (table.high >= table.help_cos - 1e-12).all()


RESTORED, GT = images(0.5, 1.0)
NAN = [torch.tensor(math.nan)]
REFUSED = [  # a word of the reason, and a call with gradients and an optimiser before or after its first step
    ("no push", lambda found, fresh, used: push.image_push(RESTORED, [], Pixels())),
    ("no push", lambda found, fresh, used: push.gradients(Scale(), GT, [], losses.plain, lq=RESTORED)),
    ("step of Adam", lambda found, fresh, used: push.dose([found], 0.1, fresh)),
    ("batch", lambda found, fresh, used: push.dose([], 0.1, used)),
    ("not finite", lambda found, fresh, used: push.dose([found._replace(push=NAN)], 0.1, used)),
    ("held-out", lambda found, fresh, used: push.helps([], {"push": []})),
    ("not finite", lambda found, fresh, used: push.helps([[torch.tensor(1.0)]], {"push": [NAN]})),
]


@pytest.mark.parametrize(("reason", "call"), REFUSED)
def test_what_gives_no_push_is_refused(reason, call):
    model = Scale()
    found = push.gradients(model, GT, images(0.2), losses.spn, lq=RESTORED, features=Pixels())
    fresh, used = (torch.optim.Adam(model.parameters()) for _ in range(2))
    model.weight.grad = torch.tensor(1.0)
    used.step()
    with pytest.raises(ValueError, match=reason):
        call(found, fresh, used)
