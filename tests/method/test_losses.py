"""Objectives against hand-made numbers and the official implementations."""

import math
import zlib

import numpy as np
import pytest
import torch
from golden import load, needs_shared, part
from torch import nn
from toys import Pixels, constant, photo

from mclir_nb.method import distances, losses, precision, rivals
from mclir_nb.method import features as feature_networks
from mclir_nb.method.losses import OBJECTIVES, spn_loss


class Edges(nn.Module):
    """Features that can be computed by hand: the image itself and twice its horizontal differences."""

    def forward(self, x):
        return {"pixels": x, "edges": 2 * (x[..., 1:] - x[..., :-1])}


def weighted(**weights):
    network = Edges()
    network.layer_weights = weights
    return network


def test_spn_by_hand_on_4x4():
    restored, gt, near, far = constant(0.5), constant(0.4), constant(0.4), constant(0.2)
    far[..., 2:] = 0.4  # an edge of 0.2 between the second and the third column
    parts = spn_loss(restored, gt, [near, far], features=Edges(), lambda_neg=0.1)
    # pixels: 0.1 from near, (0.3 + 0.1) / 2 from far; edges: 0, and 2 * 0.2 at one of three places
    l_neg = (0.5 * 0.1 + 0.5 * 0.2 + 0.5 * 0.4 / 3) / 2
    assert parts.l_rec.item() == pytest.approx(0.1)
    assert parts.l_neg.item() == pytest.approx(l_neg)
    assert parts.total.item() == pytest.approx(0.1 - 0.1 * l_neg)


def test_layer_weights_are_taken_by_name():
    parts = spn_loss(constant(0.5), constant(), [constant(0.3)], features=weighted(edges=0.0, pixels=3.0), lambda_neg=1)
    assert parts.l_neg.item() == pytest.approx(0.6)


@pytest.mark.parametrize("name", sorted(losses.USES_HISTORY - {"c2r"}))
def test_without_histories_it_is_the_baseline(name):
    restored, gt = photo(1), photo(2)
    parts = OBJECTIVES[name](restored, gt, [], features=Edges(), lambda_neg=0.1, averaged=restored)
    assert parts == OBJECTIVES["plain"](restored, gt) and not parts.l_neg


@pytest.mark.parametrize("at_once", [1, 2 * 3 * 32**2, 10**9], ids=["one image", "two images", "all"])
@pytest.mark.parametrize("name", distances.DISTANCES)
def test_value_and_gradient_are_those_of_the_formula(name, at_once):
    """However many images go through the feature network at a time."""
    net, chance = feature_networks.build("lite0"), torch.Generator().manual_seed(0)
    net.pixels_at_once = at_once
    image, *others = (torch.rand(3, 3, 32, 32, generator=chance) for _ in range(3))
    formula = {
        "l1": torch.abs,
        "squared": torch.square,
        "huber": lambda d: (
            nn.functional.huber_loss(d, torch.zeros_like(d), reduction="none", delta=distances.HUBER) / distances.HUBER
        ),
    }[name]
    weights = net.layer_weights
    by_hand, image = image.clone().requires_grad_(), image.requires_grad_()
    ours = net(by_hand)
    pairs = [(weights[layer], ours[layer] - net(other)[layer].detach()) for other in others for layer in ours]
    expected = sum(weight * formula(difference).mean() for weight, difference in pairs) / len(others)
    found = distances.feature_distance(image, others, net, name)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    expected.backward()
    assert nn.functional.cosine_similarity(image.grad.flatten(), by_hand.grad.flatten(), dim=0) > 0.99999
    assert image.grad.norm() == pytest.approx(float(by_hand.grad.norm()), rel=1e-4)


def test_validation_needs_no_gradient():
    with torch.no_grad():
        parts = spn_loss(photo(1), photo(2), [photo(3)], features=Edges(), lambda_neg=0.1)
    assert not parts.total.requires_grad and parts.l_neg > 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_answers_the_same_call(name):
    """Only `restored` is trained, half precision is lifted and total = l_rec -/+ lambda * l_neg."""
    torch.manual_seed(0)  # of the features: with some, every negative is farther than margin asks
    network = feature_networks.Vgg(((4,), (6, 6)), {"relu1_1": 0.5, "relu2_2": 0.5}, imagenet_input=True)
    restored, gt, lq = photo(1).half().requires_grad_(), photo(2), photo(5)
    options = dict(
        features=network, lambda_neg=0.5, lq=lq, best_psnr=20.0, averaged=photo(6), generator=torch.Generator()
    )
    parts = OBJECTIVES[name](restored, gt, [photo(3).half(), photo(4).half()], **options)
    sign = 0 if name == "plain" else -1 if name.startswith("spn") else 1
    assert parts.total.dtype == torch.float32
    torch.testing.assert_close(parts.total, parts.l_rec + sign * 0.5 * parts.l_neg)
    assert parts.l_neg.requires_grad == (name != "plain")  # released PCL fails this
    parts.total.backward()
    assert restored.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters()) and gt.grad is None
    if sign:
        l_neg = OBJECTIVES[name](restored, gt, [photo(3), photo(4)], **options).l_neg
        assert torch.autograd.grad(l_neg, restored)[0].abs().sum() > 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("features", ["lite0", "vgg16"])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "plain"])
def test_every_objective_agrees_with_float64_on_every_device(name, features, device):
    """Value and gradient; a GPU takes larger pieces of a batch, and has its own kernels."""
    images, found = [photo(k, (3, 3, 32, 32)) for k in range(5)], []
    images[2:4] = [torch.lerp(images[0], past, 0.3) for past in images[2:4]]  # nearer than the truth, for the margin
    for where, dtype in (("cpu", torch.float64), (device, torch.float32)):
        network = feature_networks.build(features, "random").to(where, dtype)
        restored, gt, *negatives, lq = (image.to(where, dtype) for image in images)
        averaged = torch.lerp(negatives[0], gt, 0.1)
        context = dict(lq=lq, best_psnr=20.0, averaged=averaged, generator=torch.Generator().manual_seed(0))
        with precision.full_float32():
            parts = OBJECTIVES[name](
                restored.requires_grad_(), gt, negatives, features=network, lambda_neg=0.1, **context
            )
            parts.l_neg.backward()
        found.append((parts.l_neg.item(), restored.grad.double().cpu().flatten()))
    (exact, expected), (value, gradient) = found
    assert value == pytest.approx(exact, rel=1e-4)
    assert nn.functional.cosine_similarity(gradient, expected, dim=0) > 0.999


NEAR, FAR = math.exp(-0.2 / 2), math.exp(-0.1 / 2)
BY_HAND = [  # objective, restored, gt, negatives, the term; lq is 0.1
    ("vgg", 0.5, 0.3, [], 0.2**2),
    ("cr", 0.5, 0.4, [], 0.1 / 0.4),
    ("c2r", 0.5, 0.4, [0.4, 0.2], 0.1 / ((0.1 + 0.3 + 2 * 0.4) / 4)),  # lq counts as much as both histories
    ("ratio", 0.5, 0.7, [0.4, 0.2], 0.2 / (0.1 + 0.3)),
    ("infonce", 0.5, 0.7, [0.4], -math.log(NEAR / (NEAR + FAR))),
    ("margin", 0.5, 0.7, [0.4, 0.2], 0.2),  # the truth is 0.3 and 0.5 from the histories, the network 0.1 and 0.3
    ("margin", 0.5, 0.7, [0.4, 0.9], 0.1),  # of the second, 0.4 away where the truth is 0.2, no push is left
    ("margin", 0.7, 0.7, [0.4], 0),  # at the truth
    ("margin", 0.5, 0.4, [0.2], 0),  # far enough: no push is left
]


@pytest.mark.parametrize(("name", "restored", "gt", "negatives", "term"), BY_HAND)
def test_terms_by_hand(name, restored, gt, negatives, term):
    negatives = [constant(value) for value in negatives]
    parts = OBJECTIVES[name](
        constant(restored), constant(gt), negatives, features=Pixels(), lambda_neg=1, lq=constant(0.1)
    )
    assert parts.l_neg.item() == pytest.approx(term, rel=1e-5)


def test_the_smooth_push_goes_where_the_average_came_from():
    """Its sign is that of averaged - past, wherever the network stands."""
    restored, averaged, past = photo(1).requires_grad_(), photo(2), photo(3)
    common = dict(features=Pixels(), lambda_neg=1, averaged=averaged)
    l_neg = OBJECTIVES["spn-smooth"](restored, photo(4), [past], **common).l_neg
    l_neg.backward()
    way = (averaged - past).sign() / restored.numel()
    torch.testing.assert_close(restored.grad, way)
    torch.testing.assert_close(l_neg, ((restored - averaged) * way).sum())


@pytest.mark.parametrize("name", sorted(losses.USES_HISTORY - {"c2r"}))
def test_bounded_objectives_do_not_run_away(name):
    """A step that only goes where the loss falls: SPN's kind falls without end, its bounded relatives do not."""
    at, gt, past = constant(0.5).requires_grad_(), constant(0.6), [constant(0.4), constant(0.45)]
    optimiser = torch.optim.SGD([at], lr=300.0)
    for _ in range(200):
        optimiser.zero_grad()
        OBJECTIVES[name](at, gt, past, features=Pixels(), lambda_neg=3.0, averaged=constant(0.55)).total.backward()
        optimiser.step()
    ran_away = (at.detach() - gt).abs().max().item() > 100
    assert ran_away == name.startswith("spn")


def test_curriculum_is_strict():
    assert rivals.curriculum_weights(17.0, (17.0,)) == pytest.approx([0.75 / 1.75, 1 / 1.75])
    assert rivals.curriculum_weights(17.1, (17.0,)) == pytest.approx([1.25 / 2.25, 1 / 2.25])


def test_uncertainty_weighs_where_the_histories_disagree():
    gt, calm, torn = constant(0.3), constant(0.5), constant(0.5)
    torn[..., 2:] = 0.9
    left, right = constant(0.3), constant(0.3)
    left[..., :2] = 0.1
    right[..., 2:] = 0.5
    common = dict(features=Edges(), lambda_neg=0.0)
    run = OBJECTIVES["spn-uncertainty"]
    # spread 0 on the left, 0.2 on the right, mean 0.1: weights 1/2 and 3/2
    assert run(left, gt, [calm, torn], **common).l_rec.item() == pytest.approx(0.1 * 0.5, rel=1e-4)
    assert run(right, gt, [calm, torn], **common).l_rec.item() == pytest.approx(0.1 * 1.5, rel=1e-4)
    assert run(right, gt, [calm, calm], **common).l_rec.item() == pytest.approx(0.1)  # agreement: plain L1


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_pcl_by_hand(monkeypatch, weight):
    """With positives equal to the anchor and negatives orthogonal to it: -log(e / (e + 4)), whatever a layer weighs."""
    directions = torch.eye(3).view(3, 3, 1, 1)
    red, green = (directions[k : k + 1].expand(1, 3, 4, 4) for k in (0, 1))
    monkeypatch.setattr(rivals, "sharpen", lambda image, factor: image)
    monkeypatch.setattr(rivals, "blur", lambda image, size, sigma: green)
    features = Pixels()
    features.layer_weights = {"pixels": weight}
    parts = OBJECTIVES["pcl"](red, red, [], features=features, lambda_neg=5.0, lq=green)
    assert parts.l_neg.item() == pytest.approx(-np.log(np.e / (np.e + 4)), rel=1e-5)


def test_pcl_draws_from_the_generator():
    def term(seed):
        generator = torch.Generator().manual_seed(seed)
        return OBJECTIVES["pcl"](
            photo(1), photo(2), [], features=Edges(), lambda_neg=1.0, lq=photo(3), generator=generator
        ).l_neg

    assert term(0) == term(0) != term(1)


def test_pcl_draws_as_its_authors_do(monkeypatch):
    """Factors from 0.5 to 3, odd sizes from 3 to 11, deviations from 0.1 to 2, all over their ranges."""
    drawn, generator = [], torch.Generator().manual_seed(0)
    for name in ("sharpen", "blur"):
        monkeypatch.setattr(rivals, name, lambda image, *how: (drawn.append(how), image)[1])
    for _ in range(100):
        OBJECTIVES["pcl"](
            constant(), constant(), [], features=Pixels(), lambda_neg=1, lq=constant(), generator=generator
        )
    assert [len(how) for how in drawn] == [1, 1, 1, 2, 2, 2] * 100
    (factors,), (sizes, deviations) = (
        zip(*(how for how in drawn if len(how) == count), strict=True) for count in (1, 2)
    )
    assert set(sizes) == {3, 5, 7, 9, 11}
    for values, low, high in ((factors, 0.5, 3), (deviations, 0.1, 2)):
        assert low <= min(values) < low + 0.1 and high - 0.1 < max(values) <= high
        assert len(set(values)) == 300


def test_sharpening_and_blurring():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 0.5
    assert torch.equal(rivals.sharpen(edge, 1.0), edge)
    assert rivals.sharpen(edge, 2.0)[0, 0, 4, 4] == pytest.approx(0.5 + 3 / 13 * 0.5)
    assert rivals.sharpen(2 * edge, 3.0).max() == 1
    point = torch.zeros(1, 3, 7, 7)
    point[..., 3, 3] = 1
    line = torch.tensor([0, np.exp(-2), np.exp(-0.5), 1, np.exp(-0.5), np.exp(-2), 0])  # deviation of one pixel
    torch.testing.assert_close(rivals.blur(point, 5, 1.0)[0, 0], (torch.outer(line, line) / line.sum() ** 2).float())
    wide = rivals.blur(point, 7, 2.0)[0, 0, 3]
    assert wide[5] / wide[3] == pytest.approx(np.exp(-0.5))
    torch.testing.assert_close(rivals.blur(constant(0.3), 11, 2.0), constant(0.3))


@pytest.mark.parametrize("name", ["cr", "c2r", "pcl"])
def test_small_input_of_super_resolution_is_upscaled(name):
    lq = photo(5, (2, 3, 4, 4))
    large = nn.functional.interpolate(lq, size=(16, 16), mode="bicubic", align_corners=False).clamp(0, 1)
    terms = []
    for given in (lq, large):
        options = dict(features=Edges(), lambda_neg=1.0, lq=given, generator=torch.Generator().manual_seed(0))
        terms.append(OBJECTIVES[name](photo(1), photo(2), [photo(3)], **options).l_neg)
    assert terms[0] == terms[1]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("spn", dict(restored=constant(size=5)), "restored"),
        ("spn", dict(negatives=[constant(), constant(size=5)]), r"negatives\[1\]"),
        ("spn", dict(negatives=[constant().requires_grad_()]), "gradient"),
        ("cr", dict(lambda_neg=-1), "lambda_neg"),
        ("spn-uncertainty", dict(), "negative"),
        ("spn", dict(features=weighted(pixels=1.0)), "layer_weights"),
    ],
)
def test_bad_input_speaks(name, changes, message):
    call = dict(
        restored=constant(), gt=constant(), negatives=[constant()], features=Edges(), lambda_neg=1, lq=constant()
    )
    with pytest.raises(ValueError, match=message):
        OBJECTIVES[name](**call | changes)


def test_a_held_ratio_is_what_the_gradient_sees():
    restored, gt = photo(1).requires_grad_(), photo(2)
    parts = spn_loss(restored, gt, [photo(3)], features=Edges(), lambda_neg=7.0)
    held = losses.with_ratio(parts, 0.05, [part.detach() for part in parts[:2]])
    assert ((held.l_rec - held.total) / held.l_rec).item() == pytest.approx(0.05, rel=1e-4)
    weight = (0.05 * parts.l_rec / parts.l_neg).item()
    expected = torch.autograd.grad(parts.l_rec - weight * parts.l_neg, restored, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(held.total, restored)[0], expected)


@needs_shared
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_spn_agrees_with_the_official_code(kind):
    described, tensors = load("losses")
    dtype, expected = getattr(torch, kind), described["cases"]["spn"][kind]
    network = official_vgg16(tensors).to(dtype)
    data = {k: v.to(dtype) for k, v in part(tensors, "spn/").items() if "grad" not in k}
    restored, negatives = data["output"].requires_grad_(), [data[f"negative_{k}"] for k in range(4)]
    close = dict(rtol=0, atol=1e-12) if dtype == torch.float64 else dict(rtol=2e-6, atol=1e-9)

    parts = spn_loss(restored, data["gt"], negatives, features=network, lambda_neg=0.001)
    values = torch.stack([parts.l_rec, 0.001 * parts.l_neg, parts.total])
    torch.testing.assert_close(
        values, torch.tensor([expected["l_pix"], expected["l_neg"], expected["total"]], dtype=dtype), **close
    )
    layers = torch.stack(list(distances.layer_distances(restored, negatives, network).values()), dim=1)
    torch.testing.assert_close(layers, torch.tensor(expected["per_layer"], dtype=dtype), **close)
    grad_neg = torch.autograd.grad(0.001 * parts.l_neg, restored, retain_graph=True)[0]
    grad = torch.autograd.grad(parts.total, restored)[0]
    if dtype == torch.float64:
        torch.testing.assert_close(grad_neg, tensors["spn/grad_l_neg_wrt_output_f64"], rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(grad, tensors["spn/grad_total_wrt_output_f64"], rtol=1e-9, atol=1e-15)
    else:
        torch.testing.assert_close(grad, tensors["spn/grad_total_wrt_output"], rtol=0, atol=3e-9)
        torch.testing.assert_close(grad_neg.double(), tensors["spn/grad_l_neg_wrt_output_f64"], rtol=0, atol=3e-9)


def official_vgg16(tensors):
    network = feature_networks.build("vgg16", "random")
    network.load_state_dict({k: v.float() for k, v in part(tensors, "vgg16/").items()})
    return network


def official_vgg19(tensors, size):
    """The fixture's VGG19s: narrow with stored weights, or full and filled by golden/README's rule."""
    weights = {f"relu{i}_1": 2.0 ** (i - 6) for i in range(1, 5)} | {"relu5_1": 1.0}
    if size == "full":
        network = feature_networks.build("vgg19", "random")
        network.load_state_dict({k: filled(k, v.shape) for k, v in network.state_dict().items()})
        return network
    blocks = ((8, 8), (16, 16), (32,) * 4, (64,) * 4, (64,))
    network = feature_networks.Vgg(blocks, weights, imagenet_input=False)
    network.load_state_dict({k: v.float() for k, v in part(tensors, "vgg19_small/").items()})
    return network


def filled(key, shape):
    draw = np.random.default_rng(zlib.crc32(("vgg19:" + key).encode())).standard_normal(tuple(shape))
    value = 0.05 * draw if key.endswith("bias") else 2**0.5 * draw / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


@needs_shared
@pytest.mark.parametrize(
    "size, name, best",
    [
        ("small", "CR", None),
        ("small", "C2R_difficulty_0", 0),
        ("small", "C2R_difficulty_31.5", 31.5),
        ("full", "C2R_difficulty_31.5", 31.5),
    ],
)
def test_cr_and_c2r_agree_with_the_official_code(size, name, best):
    described, tensors = load("losses")
    network = official_vgg19(tensors, size).double()
    data = {k: v.double() for k, v in part(tensors, "contrastive_small_vgg19/").items() if "grad" not in k}
    restored, gt, lq = data["anchor"].requires_grad_(), data["positive"], data["hazy_input"]
    common = dict(features=network, lambda_neg=0.2, lq=lq)
    if best is None:
        parts = OBJECTIVES["cr"](restored, gt, [], **common)
    else:
        six = [data[f"negative_{k}"] for k in range(1, 7)]
        parts = OBJECTIVES["c2r"](restored, gt, six, best_psnr=best, thresholds=rivals.C2R_INDOOR, **common)
    folder = f"contrastive_{size}_vgg19"
    assert parts.l_neg.item() == pytest.approx(described["cases"][folder][name]["float64"]["value"], rel=1e-9)
    assert parts.total.item() == pytest.approx(parts.l_rec.item() + 0.2 * parts.l_neg.item())
    expected = tensors[f"{folder}/{name.lower()}_grad_float64"].double()
    grad = torch.autograd.grad(parts.l_neg, restored)[0]
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item())


@needs_shared
def test_curriculum_weights_agree_with_the_official_code():
    expected = load("losses")[0]["cases"]["curriculum_weights"]
    outdoor = (17.43, 18.12, 30.86, 31.98, 32.98, 33.57)
    for name, thresholds in (("its_test", rivals.C2R_INDOOR), ("OTS_test_list", outdoor)):
        for best, weights in expected[name].items():
            assert rivals.curriculum_weights(float(best), thresholds) == pytest.approx(weights, abs=1e-12)
