"""Degradations: by hand on toys, by their physics, against official resizing and shipped benchmark files."""

import csv

import numpy as np
import pytest
import torch
from golden import SHARED, needs_data, needs_shared
from PIL import Image

from mclir_nb.data import degrade

DATA = SHARED / "data"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(height=64, width=64, dtype=torch.float32):
    return torch.rand(3, height, width, generator=seeded(7), dtype=dtype)


def pixels(path):
    return np.array(Image.open(path))


def test_haze_by_hand():
    gt = torch.tensor([0.5, 0.2, 0.0]).view(3, 1, 1)
    half = torch.tensor([[np.log(2.0)]])  # with beta 1 half of the light arrives
    assert torch.allclose(degrade.haze(gt, half, 1.0, 0.8).flatten(), torch.tensor([0.65, 0.5, 0.4]))
    coloured = degrade.haze(gt, half, 1.0, (1.0, 0.8, 0.6))
    assert torch.allclose(coloured.flatten(), torch.tensor([0.75, 0.5, 0.3]))


def test_rain_is_seeded_only_brightens_and_stays_in_range():
    gt = picture(50, 70)
    one, two, other = (degrade.rain(gt, density=60, brightness=1.0, generator=seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == gt.shape and (one >= gt - 1e-6).all() and one.max() <= 1
    for nothing in ({"density": 0}, {"brightness": 0}):
        assert torch.equal(degrade.rain(gt, **nothing, generator=seeded()), gt)


MORE = [("density", 2, 8), ("length", 8, 24), ("brightness", 0.2, 0.6), ("width", 0.5, 2)]


@pytest.mark.parametrize("name, less, more", MORE)
def test_more_rain_adds_more_light(name, less, more):
    black = torch.zeros(3, 256, 256)
    low, high = (degrade.rain(black, **{name: v}, generator=seeded()).mean() for v in (less, more))
    assert high / low == pytest.approx(more / less, rel=0.25)


@pytest.mark.parametrize("angle", [-40, 0, 25, 90])
def test_streaks_lean_as_told(angle):
    """The structure tensor's direction of least change is that of the streaks, within 4 degrees."""
    black = torch.zeros(3, 256, 256, dtype=torch.float64)
    layer = degrade.rain(black, density=2, length=60, width=6, angle=angle, generator=seeded())[0]
    dy, dx = (layer[2:, 1:-1] - layer[:-2, 1:-1], layer[1:-1, 2:] - layer[1:-1, :-2])
    tensor = torch.tensor([[(dx * dx).sum(), (dx * dy).sum()], [(dx * dy).sum(), (dy * dy).sum()]])
    x, y = torch.linalg.eigh(tensor).eigenvectors[:, 0].tolist()  # smallest eigenvalue; y points down
    found = np.degrees(np.arctan2(x, y))
    assert abs((found - angle + 90) % 180 - 90) < 4


@needs_data
def test_sampled_rain_is_as_strong_as_in_the_data_sets():
    """Rain100L's pair is at 26.0 dB, DDN's at 25.3 and 19.5: the sampler's mean lies between."""
    gt = torch.from_numpy(pixels(DATA / "rain100l_sample" / "target" / "1.png")).permute(2, 0, 1) / 255
    generator = seeded()
    errors = [degrade.rain(gt, **degrade.sample_rain(generator), generator=generator) - gt for _ in range(12)]
    assert 20 < np.mean([-10 * float((e**2).mean().log10()) for e in errors]) < 27


def test_blur_equals_a_direct_sum_in_linear_light():
    gt, kernel = picture(20, 17, torch.float64), degrade.camera_shake_kernel(7, generator=seeded()).double()
    kernel = kernel / kernel.sum()
    wide = np.pad(degrade.srgb_to_linear(gt).numpy(), [(0, 0), (3, 3), (3, 3)], mode="reflect")
    # true convolution: a point of light shows the kernel itself, not its mirror image
    total = sum(float(kernel[i, j]) * wide[:, 6 - i : 26 - i, 6 - j : 23 - j] for i in range(7) for j in range(7))
    lq = degrade.motion_blur(gt, kernel)
    assert torch.allclose(degrade.srgb_to_linear(lq), torch.from_numpy(total), atol=1e-9)
    assert float(degrade.srgb_to_linear(torch.tensor(0.5))) == pytest.approx(0.2140, abs=1e-4)


def spread(kernel):
    """Root mean square distance from the centre of mass, as a share of the kernel's side; and that centre."""
    kernel = torch.as_tensor(kernel).double()
    at = torch.arange(len(kernel)) - len(kernel) // 2
    centre = [float((kernel.sum(axis) * at).sum()) for axis in (1, 0)]
    square = sum(float((kernel.sum(axis) * (at - c) ** 2).sum()) for axis, c in zip((1, 0), centre, strict=True))
    return square**0.5 / len(kernel), centre


@pytest.mark.parametrize("size", [3, np.int64(9), 27])
def test_shake_kernels_are_kernels(size):
    for seed in range(10):
        kernel = degrade.camera_shake_kernel(size, generator=seeded(seed))
        assert kernel.shape == (size, size) and (kernel >= 0).all()
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
        assert np.abs(spread(kernel)[1]).max() < 1e-3  # centred: blurring moves nothing
        reach = (kernel > 0).nonzero().sub(size // 2).abs().max()
        assert 0.5 * (size // 2) <= reach <= size // 2
        assert torch.equal(kernel, degrade.camera_shake_kernel(size, generator=seeded(seed)))


@needs_data
def test_shake_kernels_spread_like_measured_ones():
    """Mean spread within a quarter of that of Levin's eight kernels; each inside 0.1 to 0.4 of the side."""
    with np.load(DATA / "blur_kernels" / "levin09_kernels.npz") as file:
        measured = [spread(file[name])[0] for name in file]
    ours = [spread(degrade.camera_shake_kernel(19, generator=seeded(s)))[0] for s in range(40)]
    assert np.mean(ours) == pytest.approx(np.mean(measured), rel=0.25)
    assert min(ours) > 0.1 and max(ours) < 0.4 and max(measured) < 0.4


def test_noise_has_the_named_strength():
    gt = torch.full((3, 128, 128), 0.5)
    lq = degrade.noise(gt, 25, generator=seeded())
    assert float((lq - gt).std() * 255) == pytest.approx(25, rel=0.02)
    assert torch.equal(lq, degrade.noise(gt, 25, generator=seeded()))
    dark = torch.zeros(3, 32, 32)
    assert degrade.noise(dark, 25, generator=seeded()).min() == 0
    assert degrade.noise(dark, 25, generator=seeded(), clip=False).min() < 0


def test_bicubic_by_hand():
    """Doubling [0, 1]: each output pixel lies a quarter pixel beside an input one; Keys' weights."""
    row = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 1, 2)
    wide = degrade.bicubic(row, 2)[0, 0]
    near, next_, far, farther = 0.8671875, 0.2265625, -0.0703125, -0.0234375
    assert float(wide[1]) == pytest.approx(next_ + farther)  # taps at 0 | 0 1 | 1: pixel 0 and its mirror are 0
    assert float(wide[2]) == pytest.approx(near + far)
    assert torch.allclose(wide + wide.flip(0), torch.ones(4, dtype=torch.float64))


def test_bicubic_has_exact_sizes():
    for side in range(3, 300, 3):
        assert degrade.bicubic(torch.zeros(1, 1, side), 1 / 3).shape[-1] == side // 3
    assert degrade.bicubic(torch.zeros(3, 31, 45), 0.25).shape == (3, 8, 12)  # ceil
    batch = torch.stack([picture(24, 36), picture(24, 36).flip(0)])
    assert torch.equal(degrade.bicubic(batch, 0.5)[1], degrade.bicubic(batch[1], 0.5))


def test_bicubic_rounds_between_only_when_told():
    eight = (picture(40, 40) * 255).round().to(torch.uint8)
    matlab, late = degrade.bicubic(eight, 0.5), degrade.bicubic(eight, 0.5, round_between=False)
    exact = degrade.bicubic(eight.double(), 0.5)
    assert torch.equal(late.double(), (exact + 0.5).floor().clamp(0, 255))
    assert not torch.equal(matlab, late) and (matlab.int() - late.int()).abs().max() <= 2


@needs_shared
@pytest.mark.parametrize("size", ["36x48", "31x45"])
@pytest.mark.parametrize("name, scale", [("x1_2", 1 / 2), ("x1_3", 1 / 3), ("x1_4", 1 / 4), ("x2", 2)])
def test_bicubic_equals_basicsr(size, name, scale):
    with np.load(SHARED / "golden" / "metrics.npz") as file:
        names = ("input", f"{name}_official_float32", f"{name}_float64")
        image, single, double = (torch.from_numpy(file[f"imresize/{size}/{n}"]).permute(2, 0, 1) for n in names)
    assert (degrade.bicubic(image / 255.0, scale) - single).abs().max() < 1e-6
    assert (degrade.bicubic(image.double() / 255, scale) - double).abs().max() < 1e-12


def check_low_resolution(pairs, scale, border):
    """Every pixel of every shipped low-resolution file is reproduced."""
    pairs = list(pairs)
    assert pairs
    for high, low in pairs:
        high, low = (torch.from_numpy(np.atleast_3d(pixels(file))).permute(2, 0, 1) for file in (high, low))
        high = high[:, : high.shape[1] // scale * scale, : high.shape[2] // scale * scale]
        assert torch.equal(degrade.bicubic(high, 1 / scale, border=border), low)


@needs_data
@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_reproduces_set5_and_set14(scale):
    low = DATA / "Set5" / "LR_bicubic" / f"X{scale}"
    high = sorted((DATA / "Set5" / "HR").glob("*.png"))
    check_low_resolution(((p, low / f"{p.stem}x{scale}.png") for p in high), scale, "symmetric")
    high = sorted((DATA / "Set14" / f"image_SRF_{scale}").glob("*_HR.png"))
    check_low_resolution(((p, p.with_name(p.name.replace("_HR", "_LR"))) for p in high), scale, "replicate")


ALL2, ALL4 = (pytest.param(scale, 1, marks=pytest.mark.slow) for scale in (2, 4))


@needs_data
@pytest.mark.parametrize("scale, every", [(2, 20), (4, 20), ALL2, ALL4])
def test_bicubic_reproduces_b100(scale, every):
    with open(DATA / "B100_LR" / "id_map.csv", newline="") as file:
        names = [(row["b100_name"], row["bsds500_val_file"]) for row in csv.DictReader(file)][::every]
    low, high = DATA / "B100_LR" / f"image_SRF_{scale}", DATA / "BSDS500" / "images" / "val"
    pairs = ((high / file, low / f"{name}_SRF_{scale}_LR.png") for name, file in names)
    check_low_resolution(pairs, scale, "replicate")


def test_samplers_stay_in_their_ranges():
    generator = seeded()
    for _ in range(50):
        for ranges, drawn in (
            (degrade.RESIDE_INDOOR, degrade.sample_haze(generator)),
            (degrade.RESIDE_OUTDOOR, degrade.sample_haze(generator, degrade.RESIDE_OUTDOOR)),
            (degrade.RAIN, degrade.sample_rain(generator)),
        ):
            assert set(drawn) == set(ranges)
            assert all(low <= drawn[name] <= high for name, (low, high) in ranges.items())
        assert len(degrade.sample_blur_kernel(generator)) in degrade.KERNEL_SIZES


GT, FLAT, SEED = picture(16, 16), torch.zeros(16, 16), seeded()
WRONG = [  # the argument at fault, and a call
    ("gt", lambda: degrade.haze(GT.to(torch.uint8), FLAT, 1, 1)),
    ("gt", lambda: degrade.haze(GT[None], FLAT, 1, 1)),
    ("gt", lambda: degrade.rain(255 * GT, generator=SEED)),
    ("gt", lambda: degrade.noise(GT * float("nan"), 1, generator=SEED)),
    ("beta", lambda: degrade.haze(GT, FLAT, float("nan"), 1)),
    ("depth", lambda: degrade.haze(GT, FLAT - 1, 1, 1)),
    ("depth", lambda: degrade.haze(GT, torch.zeros(16, 15), 1, 1)),
    ("airlight", lambda: degrade.haze(GT, FLAT, 1, (0.5, 0.5))),
    ("angle", lambda: degrade.rain(GT, angle=91, generator=SEED)),
    ("kernel", lambda: degrade.motion_blur(GT, torch.full((4, 4), 1 / 16))),
    ("kernel", lambda: degrade.motion_blur(GT, torch.ones(3, 3))),
    ("kernel", lambda: degrade.motion_blur(GT[:, :1], torch.full((3, 3), 1 / 9))),
    ("unknown border", lambda: degrade.bicubic(GT, 2, border="wrap")),
    ("size", lambda: degrade.camera_shake_kernel(8, generator=SEED)),
    ("size is '5", lambda: degrade.camera_shake_kernel("5", generator=SEED)),
    ("sigma", lambda: degrade.noise(GT, -1, generator=SEED)),
    ("image", lambda: degrade.bicubic([1], 2)),
    ("image", lambda: degrade.bicubic(GT * float("nan"), 2)),
    ("scale", lambda: degrade.bicubic(GT, 0)),
]


@pytest.mark.parametrize("argument, call", WRONG)
def test_bad_input_is_named(argument, call):
    with pytest.raises(ValueError, match=f"^{argument}\\b"):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_same_pictures():
    gt, kernel = picture(), degrade.sample_blur_kernel(seeded())
    for make in (
        lambda image: degrade.rain(image, generator=seeded()),
        lambda image: degrade.noise(image, 25, generator=seeded()),
        lambda image: degrade.motion_blur(image, kernel),
        lambda image: degrade.haze(image, torch.ones(64, 64), 1, 0.8),
        lambda image: degrade.bicubic(image, 0.25),
    ):
        assert torch.allclose(make(gt), make(gt.cuda()).cpu(), atol=2e-5)
    on_device = torch.Generator("cuda").manual_seed(0)
    assert degrade.rain(gt.cuda(), **degrade.sample_rain(on_device), generator=on_device).is_cuda
