"""PSNR and SSIM: the official numbers, a second implementation, values by hand, directions, bad input."""

import json

import numpy as np
import pytest
import skimage.metrics
import torch
from golden import SHARED, needs_shared

from mclir_nb.evaluation import metrics


@pytest.fixture
def pair():
    """A smooth picture and a noisy copy, float64 (40, 52, 3)."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:40, 0:52] / 52
    gt = np.stack([0.2 + 0.6 * columns, 0.5 + 0.3 * np.sin(9 * rows), 0.8 - 0.7 * rows * columns], -1)
    return np.clip(gt + rng.normal(0, 0.04, gt.shape), 0, 1), gt


def as_bytes(image):
    return np.round(image * 255).astype(np.uint8)


def score(*arguments):
    return {"psnr": metrics.psnr(*arguments), "ssim": metrics.ssim(*arguments)}


def golden(name):
    """A golden pair of pictures, and what the official scripts say of it."""
    arrays = np.load(SHARED / "golden/metrics.npz")
    values = json.loads((SHARED / "golden/metrics.json").read_text())["values"][name]
    return arrays[f"{name}/restored_rgb"], arrays[f"{name}/gt_rgb"], values


@needs_shared
@pytest.mark.parametrize("name", ["small_48x56", "odd_101x87", "large_396x388"])
def test_official_values(name):
    restored, gt, values = golden(name)
    whole, nafnet, dehazeformer = values["basicsr"], values["nafnet"], values["dehazeformer"]
    rows = [(f"basicsr-{c}", crop, whole[f"crop{crop}_{c}"].values()) for crop in (0, 2, 4) for c in ("rgb", "y")]
    rows += [("idt", 0, values["idt_rain_matlab_port"].values()), ("skimage", 0, values["promptir_airnet"].values())]
    rows += [("ffanet", 0, values["ffanet"].values())]
    rows += [("dehazeformer", 0, (dehazeformer["psnr"], dehazeformer["ssim"]))]
    rows += [("nafnet", 0, (nafnet["psnr_rgb_crop0"], nafnet["ssim_rgb_crop0_default_3d"]))]
    assert {row[0] for row in rows} == set(metrics.PROTOCOLS)
    for protocol, crop, (psnr, ssim) in rows:
        single = protocol in ("ffanet", "dehazeformer")  # their scripts compute in float32
        decibels, similarity = (1e-4 if single else 1e-6), (1e-5 if single or protocol == "nafnet" else 1e-6)
        assert metrics.psnr(restored, gt, protocol, crop) == pytest.approx(psnr, abs=decibels), (protocol, crop)
        assert metrics.ssim(restored, gt, protocol, crop) == pytest.approx(ssim, abs=similarity), (protocol, crop)


@needs_shared
def test_rgb_at_the_door_not_bgr():
    restored, gt, values = golden("small_48x56")
    swapped = values["basicsr_crop4_y_if_RGB_is_passed_instead_of_BGR"]  # what the official code says of that
    mistaken = score(restored[..., ::-1], gt[..., ::-1], "basicsr-y", 4)
    assert (mistaken["psnr"], mistaken["ssim"]) == pytest.approx((swapped["psnr"], swapped["ssim"]), abs=1e-6)
    assert abs(mistaken["psnr"] - metrics.psnr(restored, gt, "basicsr-y", 4)) > 0.3


def test_agrees_with_scikit_image(pair):
    restored, gt = pair
    both = {"data_range": 1, "channel_axis": -1}
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    psnr = skimage.metrics.peak_signal_noise_ratio(gt, restored, data_range=1)
    assert metrics.psnr(restored, gt, "skimage") == pytest.approx(psnr, abs=1e-10)
    assert metrics.psnr(restored, gt, "ffanet") == metrics.psnr(restored, gt, "dehazeformer") == pytest.approx(psnr)
    ssim = skimage.metrics.structural_similarity(gt, restored, **both)
    assert metrics.ssim(restored, gt, "skimage") == pytest.approx(ssim, abs=1e-10)
    # Gaussian, valid area: DehazeFormer's for a picture this small
    ssim = skimage.metrics.structural_similarity(gt, restored, **both, **gaussian)
    assert metrics.ssim(restored, gt, "dehazeformer") == pytest.approx(ssim, abs=1e-10)
    eight = [as_bytes(image) for image in pair]
    ssim = skimage.metrics.structural_similarity(*eight, **{**both, "data_range": 255}, **gaussian)
    assert metrics.ssim(*eight, "basicsr-rgb") == pytest.approx(ssim, abs=1e-10)


def test_psnr_by_hand():
    gt = np.full((20, 20, 3), 100, np.uint8)
    restored = gt.copy()
    restored[..., 0] += 30  # one of three channels off by 30 levels: mse = 900 / 3
    assert metrics.psnr(restored, gt) == pytest.approx(10 * np.log10(255**2 / 300))
    # Y moves by 65.481 * 30 / 255 = 7.7036, or by 8 levels when rounded (101.88 -> 109.59: 102 -> 110)
    assert metrics.psnr(restored, gt, "basicsr-y") == pytest.approx(20 * np.log10(255 / (65.481 * 30 / 255)))
    assert metrics.psnr(restored, gt, "idt") == pytest.approx(20 * np.log10(255 / 8))


def test_ssim_of_flat_pictures_by_hand():
    """Without structure only the luminance term is left: (2 a b + c1) / (a^2 + b^2 + c1)."""
    a, b, c1 = 0.2, 0.6, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    flat = [np.full((24, 30, 3), value) for value in (a, b)]
    for name in metrics.PROTOCOLS:
        if metrics.PROTOCOLS[name].colour == "rgb" and name != "ffanet":
            assert metrics.ssim(*flat, name) == pytest.approx(expected, abs=1e-9), name
    assert metrics.ssim(*flat, "ffanet") < expected - 0.01  # its zero border is structure that both share unequally


def test_dehazeformer_pools_from_384_pixels_on():
    """By round(min(H, W) / 256), half to even: 383 is left alone, 384 is halved."""
    pictures = np.random.default_rng(0).random((2, 384, 400, 3)) * 0.2 + np.linspace(0, 0.8, 400)[:, None]
    halves = pictures.reshape(2, 192, 2, 200, 2, 3).mean((2, 4))
    assert metrics.ssim(*pictures, "dehazeformer") == pytest.approx(metrics.ssim(*halves, "dehazeformer"), abs=1e-12)
    smaller = metrics.ssim(*pictures[:, :383], "dehazeformer")
    assert abs(smaller - metrics.ssim(*pictures, "dehazeformer")) > 0.01


def test_crop_is_slicing(pair):
    for name in metrics.PROTOCOLS:
        assert score(*pair, name, 4) == score(*(image[4:-4, 4:-4] for image in pair), name)


@pytest.mark.parametrize("name", metrics.PROTOCOLS)
def test_floats_are_clamped_and_rounded_by_the_8_bit_protocols_alone(pair, name):
    """There a float scores as the saved PNG does; elsewhere a quarter of a level counts."""
    wild, gt = pair[0].copy(), pair[1]
    wild[0, 0], wild[1, 1] = 1.3, -0.2
    clamped, eight_bit = np.clip(wild, 0, 1), metrics.PROTOCOLS[name].eight_bit
    assert score(wild, gt, name) == score(clamped, gt, name)
    assert (score(wild, gt, name) == score(as_bytes(clamped), as_bytes(gt), name)) == eight_bit
    for level, nearest in ((127.5, 128), (126.5, 126)):  # half to even
        found = metrics.psnr(np.full((12, 12, 3), level / 255), np.full((12, 12, 3), nearest / 255), name)
        assert found == pytest.approx(np.inf if eight_bit else 20 * np.log10(2 * 255))


@pytest.mark.parametrize("name", metrics.PROTOCOLS)
def test_same_picture_in_every_form(pair, name):
    """uint8, float array, tensor (C, H, W), half precision and non-contiguous views score alike."""
    eight = [as_bytes(image) for image in pair]
    expected = score(*eight, name)
    restored, gt = (torch.from_numpy(image).permute(2, 0, 1) for image in eight)
    for form in (
        [image.astype(np.float64) / 255 for image in eight],
        [restored, gt],
        [restored.double().div(255).requires_grad_(), gt],
        [np.asfortranarray(eight[0]), gt.double() / 255],
    ):
        assert score(*form, name) == pytest.approx(expected)
    assert metrics.psnr((restored / 255).float(), gt, name) == pytest.approx(expected["psnr"], abs=1e-5)
    assert metrics.psnr((restored / 255).bfloat16(), gt, name) == pytest.approx(expected["psnr"], abs=0.2)


@pytest.mark.parametrize("name", metrics.PROTOCOLS)
def test_grey_is_compared_as_it_is(pair, name):
    restored, gt = (as_bytes(image[..., 1]) for image in pair)
    expected = score(restored, gt, "basicsr-rgb")
    assert metrics.psnr(restored, gt, name) == pytest.approx(expected["psnr"], abs=1e-9)
    assert score(restored[..., None], torch.from_numpy(gt)[None], name) == score(restored, gt, name)
    if name in ("basicsr-y", "idt", "dehazeformer"):
        assert metrics.ssim(restored, gt, name) == pytest.approx(expected["ssim"], abs=1e-9)


@pytest.mark.parametrize("name", metrics.PROTOCOLS)
def test_a_noisier_picture_scores_worse_and_an_equal_one_best(pair, name):
    assert metrics.psnr(pair[0], pair[0], name) == (100 if name == "ffanet" else np.inf)
    assert metrics.ssim(pair[0], pair[0], name) == pytest.approx(1, abs=1e-12)
    gt = pair[1]
    noise = np.random.default_rng(1).normal(0, 1, gt.shape)
    scores = [score(np.clip(gt + sigma * noise, 0, 1), gt, name) for sigma in (0.01, 0.03, 0.09)]
    for key in ("psnr", "ssim"):
        values = [row[key] for row in scores]
        assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.1
    assert score(gt, pair[0], name) == pytest.approx(score(pair[0], gt, name))  # symmetric


def test_table_shows_the_folklore(pair):
    table = metrics.table(*pair, crop=2)
    assert list(table.index) == list(metrics.PROTOCOLS)
    assert list(table.columns) == ["crop", "psnr", "ssim", "rule"]
    assert table.loc["idt", "psnr"] == metrics.psnr(*pair, "idt", 2)
    assert table["psnr"].max() - table["psnr"].min() > 1.5
    assert table["ssim"].max() - table["ssim"].min() > 0.02


IMAGE = np.full((16, 20, 3), 0.5)


@pytest.mark.parametrize(
    ("restored", "gt", "arguments", "said"),
    [
        (IMAGE[:, :-1], IMAGE, {}, "19x16"),
        (IMAGE[..., 0], IMAGE, {}, "grey"),
        (IMAGE, np.where(np.eye(16, 20)[..., None] > 0, np.nan, IMAGE), {}, "gt .*NaN"),
        (np.full_like(IMAGE, np.inf), IMAGE, {}, "restored .*infinite"),
        (IMAGE, IMAGE * 2 - 1.5, {}, "gt .*-0.5"),
        (IMAGE, IMAGE * 255, {}, "gt .*127.5"),
        (IMAGE * 255, IMAGE, {}, "restored .*127.5"),
        ((IMAGE * 255).astype(int), IMAGE, {}, "restored .*int64"),
        (IMAGE.transpose(2, 0, 1), IMAGE, {}, "restored .*3, 16, 20"),
        (IMAGE, torch.from_numpy(IMAGE), {}, "gt .*16, 20, 3"),
        (torch.rand(2, 3, 16, 16), IMAGE, {}, "restored .*2, 3, 16, 16"),
        (IMAGE[:0], IMAGE[:0], {}, "restored .*0, 20, 3"),
        ("photo.png", IMAGE, {}, "restored .*str"),
        (IMAGE, IMAGE, {"crop": 8}, "crop 8"),
        (IMAGE, IMAGE, {"crop": -1}, "crop .*-1"),
        (IMAGE, IMAGE, {"crop": 1.5}, "crop .*1.5"),
        (IMAGE, IMAGE, {"protocol": "basic-y"}, "'basic-y'.*'basicsr-y'"),
    ],
)
def test_bad_input_is_named(restored, gt, arguments, said):
    for metric in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match=said):
            metric(restored, gt, **arguments)


def test_black_and_white_are_in_range_and_a_picture_may_be_as_small_as_the_window():
    for name, side in {"basicsr-rgb": 11, "basicsr-y": 11, "dehazeformer": 11, "idt": 11, "skimage": 7}.items():
        extremes = np.zeros((side, side, 3))
        extremes[: side // 2] = 1
        assert metrics.ssim(extremes, extremes, name) == pytest.approx(1)


def test_a_picture_smaller_than_the_window():
    tiny = np.full((10, 30, 3), 0.5)
    for name in ("basicsr-rgb", "basicsr-y", "dehazeformer", "idt"):
        with pytest.raises(ValueError, match="11x11 .*30x10"):
            metrics.ssim(tiny, tiny, name)
    with pytest.raises(ValueError, match="7x7 .*26x6"):
        metrics.ssim(tiny, tiny, "skimage", crop=2)
    for name in ("ffanet", "nafnet"):  # their windows reach over the border, as in the official code
        assert metrics.ssim(tiny, tiny, name) == pytest.approx(1)
    assert metrics.psnr(tiny, tiny) == np.inf
