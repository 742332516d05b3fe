"""How a clean picture becomes a degraded one: haze, rain, camera shake, noise and MATLAB's bicubic resizing.

Pure functions of an image and, where chance is involved, of a `torch.Generator`: the same generator state gives the
same result (random numbers are drawn on the generator's device and then moved to the image's). Images are RGB tensors
(3, H, W), float32 or float64, in [0, 1]; results keep dtype and device. Depth is *normalised* here: 0 at the camera, 1
at the farthest point of the picture, so `beta` is the optical depth of that farthest point. A wrong image, or a number
outside the range written here, is a ValueError that names the argument.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F

from mclir_nb import check_choice, whole

CURTAINS = (1.0, 0.6, 0.35)  # image scale of the near, middle and far curtain of rain


def _check_image(gt: torch.Tensor) -> None:
    if not isinstance(gt, torch.Tensor) or gt.dtype not in (torch.float32, torch.float64):
        found = gt.dtype if isinstance(gt, torch.Tensor) else type(gt).__name__
        raise ValueError(f"gt is {found}; it must be a float32 or float64 tensor, divide 8-bit images by 255")
    if gt.ndim != 3 or gt.shape[0] != 3 or gt.numel() == 0:
        raise ValueError(f"gt has shape {tuple(gt.shape)}; it must be one RGB image (3, H, W)")
    low, high = (float(value) for value in gt.aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also catches NaN
        raise ValueError(f"gt has values from {low:g} to {high:g}; they must be in [0, 1], divide 8 bit by 255")


def _check_number(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not low <= value <= high:  # also catches NaN
        raise ValueError(f"{name} is {value}; it must be a number from {low:g} to {high:g}{unit}")


def transmission(depth: torch.Tensor, beta: float) -> torch.Tensor:
    """Share of the scene's light that reaches the camera: t = exp(-beta * depth), in [0, 1].

    Args:
        depth: any shape, float, >= 0; normalised (see the module) or metres.
        beta: scattering coefficient, >= 0, per unit of depth; 0 is clear air.
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta is {beta}; it must be a finite number >= 0 (0: no haze)")
    if not isinstance(depth, torch.Tensor) or not depth.is_floating_point() or depth.numel() == 0:
        raise ValueError("depth is no float tensor or empty; divide an 8-bit layer by 255, a 16-bit one by 65535")
    low, high = (float(value) for value in depth.aminmax())
    if not (low >= 0 and math.isfinite(high)):
        raise ValueError(f"depth has values from {low:g} to {high:g}; it must be finite and >= 0, fill holes first")
    return torch.exp(-beta * depth)


def haze(gt: torch.Tensor, depth: torch.Tensor, beta: float, airlight) -> torch.Tensor:
    """Atmospheric scattering: I = J t + A (1 - t) with t = exp(-beta * depth).

    Args:
        gt: (3, H, W) in [0, 1], the clear scene J.
        depth: (H, W) or (1, H, W), >= 0; normalised to [0, 1] in this workbook.
        beta: >= 0, optical depth of the point at depth 1.
        airlight: A, one value or one per channel (three), in [0, 1].

    Source:
        Li et al., RESIDE, TIP 2019 (arXiv:1712.04143). Like RESIDE it works on the stored, gamma encoded values:
        there the channels of a SOTS-outdoor pair agree on t to 0.01, in linear light only to 0.03.
    """
    _check_image(gt)
    t = transmission(depth, beta).to(gt)
    size = tuple(gt.shape[1:])
    if tuple(t.shape) not in (size, (1, *size)):
        raise ValueError(f"depth has shape {tuple(t.shape)}, the image {size}; depth must be (H, W) or (1, H, W)")
    light = torch.as_tensor(airlight, dtype=gt.dtype, device=gt.device).flatten()
    if light.numel() not in (1, 3) or not bool(((light >= 0) & (light <= 1)).all()):
        raise ValueError(f"airlight is {airlight}; it must be one value or three (R, G, B), each in [0, 1]")
    return gt * t + light.view(-1, 1, 1) * (1 - t)


def rain(
    gt: torch.Tensor,
    density: float = 5.0,
    length: float = 20.0,
    angle: float = 10.0,
    brightness: float = 0.7,
    width: float = 1.5,
    *,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rain streaks in three curtains, near to far: I = J (1 - a) + a, with a the streaks' opacity.

    A falling drop covers a pixel for a part of the exposure, so opacity is what a streak adds, not light. Each curtain
    is sparse random noise convolved with a soft line; a farther one has shorter, thinner and more streaks, and a streak
    thinner than a pixel loses opacity in proportion. Stacked: 1 - a / brightness = product of (1 - a_k).

    Args:
        gt: (3, H, W) in [0, 1].
        density: streaks per 1000 pixels, all curtains together, 0 (returns gt unchanged) to 200.
        length: of the nearest streaks in pixels, 1 to 200.
        angle: degrees from the vertical, -90 to 90; positive moves the lower end to the right.
        brightness: opacity of the strongest streak, 0 to 1 (drops show the bright sky, so they are white).
        width: full width at half maximum of the nearest streaks in pixels, 0.2 to 20.

    Source:
        the model of Garg and Nayar, "Vision and Rain", IJCV 2007. The curtains and their constants are ours.
    """
    _check_image(gt)
    _check_number("density", density, 0, 200, " streaks per 1000 pixels")
    _check_number("length", length, 1, 200, " pixels")
    _check_number("angle", angle, -90, 90, " degrees from the vertical")
    _check_number("brightness", brightness, 0, 1)
    _check_number("width", width, 0.2, 20, " pixels")
    opacity = brightness * _streaks(gt.shape[1:], density, length, angle, width, generator).to(gt)
    return gt * (1 - opacity) + opacity


def _streaks(size, density, length, angle, width, generator) -> torch.Tensor:
    """Opacity of the rain for brightness 1, (H, W) in [0, 1]."""
    device = generator.device
    reach = math.ceil(length / 2 + 2 * width) + 1
    padded = (len(CURTAINS), size[0] + 2 * reach, size[1] + 2 * reach)
    share = torch.tensor([1 / scale for scale in CURTAINS], device=device).view(-1, 1, 1)  # more streaks far away
    share = share / share.sum() * (density / 1000)
    tilt = angle + 1.5 * torch.randn(len(CURTAINS), generator=generator, device=device)
    strength = 0.3 + 0.7 * torch.rand(padded, generator=generator, device=device)
    drops = strength * (torch.rand(padded, generator=generator, device=device) < share)
    lines = torch.stack([_line(reach, length * s, width * s, a) for s, a in zip(CURTAINS, tilt, strict=True)])
    return 1 - (1 - _convolve(drops, lines).clamp(0, 1)).prod(0)


def _line(reach: int, length: float, width: float, angle: torch.Tensor) -> torch.Tensor:
    """One soft streak, (2 reach + 1)^2: a Gaussian across, a box with soft ends along; peak at most 1."""
    sigma = width / 2.355
    seen = math.hypot(sigma, 0.4)  # a pixel has a size: it blurs the streak and weakens a thin one
    at = torch.arange(-reach, reach + 1.0, device=angle.device)
    sine, cosine = torch.sin(torch.deg2rad(angle)), torch.cos(torch.deg2rad(angle))
    along, across = at * sine + at[:, None] * cosine, at * cosine - at[:, None] * sine
    ends = torch.sigmoid((length / 2 - along.abs()) / (0.06 * length + 0.2))
    return sigma / seen * torch.exp(-0.5 * (across / seen) ** 2) * ends


def _convolve(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """True convolution, only where the kernel lies inside the image; (..., H, W) with (..., k, k)."""
    k = kernel.shape[-1]
    size = [math.ceil(side / 8) * 8 for side in image.shape[-2:]]  # sizes a fast Fourier transform likes
    spectrum = torch.fft.rfft2(image, s=size) * torch.fft.rfft2(kernel, s=size)
    return torch.fft.irfft2(spectrum, s=size)[..., k - 1 : image.shape[-2], k - 1 : image.shape[-1]]


def srgb_to_linear(image: torch.Tensor) -> torch.Tensor:
    """Stored sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    bright = ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(image <= 0.04045, image / 12.92, bright)


def linear_to_srgb(light: torch.Tensor) -> torch.Tensor:
    """Linear light in [0, 1] to stored sRGB values, the inverse of `srgb_to_linear`."""
    bright = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, bright)


def motion_blur(gt: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Camera shake, where it happens: in linear light. I = srgb(kernel * linear(J)).

    True convolution: the kernel is the picture of a point of light. The image is mirrored without repeating its edge.

    Args:
        gt: (3, H, W) in [0, 1], sRGB.
        kernel: (k, k), k odd, >= 0, sum 1 (within 1e-3); k // 2 smaller than H and W.

    Source:
        the uniform-blur model of Levin et al., CVPR 2009; the transfer curve is IEC 61966-2-1.
    """
    _check_image(gt)
    shape, size = tuple(kernel.shape), tuple(gt.shape[1:])
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] % 2 == 0 or shape[0] // 2 >= min(size):
        raise ValueError(f"kernel has shape {shape}; it must be square with an odd side, and fit an image of {size}")
    low, total = float(kernel.min()), float(kernel.sum())
    if not (low >= 0 and abs(total - 1) < 1e-3):
        raise ValueError(f"kernel has minimum {low:g} and sum {total:g}; it must be >= 0, divide it by its sum")
    light = F.pad(srgb_to_linear(gt)[None], [shape[0] // 2] * 4, mode="reflect")[0]
    return linear_to_srgb(_convolve(light, kernel.to(gt)).clamp(0, 1))


def camera_shake_kernel(size: int, *, generator: torch.Generator) -> torch.Tensor:
    """A random camera-shake kernel: the path of a point of light while a hand holds the camera.

    A smooth random walk (velocity with inertia, plus a steady drift), scaled to reach 55 to 100 % of the half side. Its
    centre of mass is the middle of the kernel, so blurring does not move the picture.

    `size`: side in pixels, odd, 3 to 99. Returns: (size, size) float32, >= 0, sum 1.
    Source: ours; a test compares its spread with the eight measured kernels of Levin et al., CVPR 2009.
    """
    if whole(size) not in range(3, 100, 2):
        raise ValueError(f"size is {size!r}; it must be an odd number from 3 to 99")
    moments, inertia, device = 400, 0.97, generator.device
    push = torch.randn(moments, 2, generator=generator, device=device).double()
    decay = inertia ** torch.arange(moments, device=device).double()[:, None]
    velocity = decay * torch.cumsum(push / decay, dim=0)  # v(t) = inertia * v(t - 1) + push(t)
    drift = torch.randn(1, 2, generator=generator, device=device).double() * velocity.std()
    path = torch.cumsum(velocity + drift, dim=0)
    path = path - path.mean(0)
    reach = 0.55 + 0.45 * torch.rand(1, generator=generator, device=device).double()
    return _draw_path(path * (reach * (size // 2 - 0.5) / path.abs().max()), size).float()


def _draw_path(path: torch.Tensor, size: int) -> torch.Tensor:
    """Share of the exposure spent in each pixel, bilinear weights, (size, size) with sum 1."""
    at = path + size // 2
    corner = at.floor().clamp(0, size - 2)
    part = at - corner
    kernel = torch.zeros(size * size, dtype=path.dtype, device=path.device)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (part[:, 0] if dy else 1 - part[:, 0]) * (part[:, 1] if dx else 1 - part[:, 1])
            kernel.index_add_(0, ((corner[:, 0] + dy) * size + corner[:, 1] + dx).long(), weight)
    return (kernel / kernel.sum()).view(size, size)


def noise(gt: torch.Tensor, sigma: float, *, generator: torch.Generator, clip: bool = True) -> torch.Tensor:
    """Additive white Gaussian noise: I = J + n, n ~ N(0, (sigma / 255)^2), independent per pixel and channel.

    `sigma` in 8-bit levels: 15, 25, 50 in the literature. Without `clip` the result may leave [0, 1].
    """
    _check_image(gt)
    _check_number("sigma", sigma, 0, 255, " (8-bit levels)")
    drawn = torch.randn(gt.shape, generator=generator, device=generator.device)
    noisy = gt + (sigma / 255) * drawn.to(gt)
    return noisy.clamp(0, 1) if clip else noisy


def bicubic(
    image: torch.Tensor, scale: float, *, border: str = "symmetric", round_between: bool = True
) -> torch.Tensor:
    """MATLAB's imresize(image, scale, "bicubic"), with its antialiasing when shrinking.

    Cubic kernel with a = -0.5, widened by 1 / scale when scale < 1, weights normalised per output pixel; rows (height)
    first, then columns. The output has ceil(size * scale) pixels per side.

    Args:
        image: (C, H, W) or (B, C, H, W); uint8, float32 or float64.
        scale: output size / input size: 0.5, 1/3, 0.25 to shrink, 2, 3, 4 to enlarge; 1/64 to 64.
        border: "symmetric" (MATLAB today, BasicSR, the Set5 files of SwinIR) or "replicate" (older MATLAB, the Set14
            and B100 files of SelfExSR).
        round_between: round uint8 images between the two passes too, as MATLAB does. False: at the end only (BasicSR).

    Returns:
        The same dtype. Float images are neither rounded nor clipped; uint8 images are rounded half up and clipped.

    Source:
        MATLAB's documentation of imresize. Float results equal XPixelGroup/BasicSR @ 8d56e3a,
        utils/matlab_functions.py; uint8 results equal the shipped files of Set5, Set14, B100 in every pixel.
    """
    if not isinstance(image, torch.Tensor) or image.dtype not in (torch.uint8, torch.float32, torch.float64):
        found = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
        raise ValueError(f"image is {found}; it must be a uint8, float32 or float64 tensor")
    if image.ndim not in (3, 4) or image.numel() == 0:
        raise ValueError(f"image has shape {tuple(image.shape)}; it must be (C, H, W) or (B, C, H, W)")
    if not torch.isfinite(image).all():
        raise ValueError("image has NaN or infinite values; repair it before resizing")
    _check_number("scale", scale, 1 / 64, 64, " (output size / input size)")
    check_choice("border", border, ("symmetric", "replicate"))
    whole = image.dtype == torch.uint8
    work = _resize_rows(image.double() if whole else image, scale, border)
    work = _to_levels(work) if whole and round_between else work
    work = _resize_rows(work.mT, scale, border).mT.contiguous()
    return _to_levels(work).to(torch.uint8) if whole else work


def _to_levels(values: torch.Tensor) -> torch.Tensor:
    """Whole 8-bit levels, half rounded up as in MATLAB (torch.round would round half to even)."""
    return torch.floor(values + 0.5).clamp(0, 255)


def _resize_rows(image: torch.Tensor, scale: float, border: str) -> torch.Tensor:
    """Weighted sums of rows, tap by tap, so that values half way between two levels round alike on every machine."""
    weights, rows = _taps(image.shape[-2], float(scale), border, image.dtype, image.device)
    result = image.new_zeros(())
    for weight, row in zip(weights, rows, strict=True):
        result = result + weight[:, None] * image.index_select(-2, row)
    return result


@lru_cache(maxsize=128)
def _taps(length: int, scale: float, border: str, dtype: torch.dtype, device: torch.device):
    """Weights and source rows of every output row, each (taps, output length)."""
    stretch = max(1.0, 1 / scale)
    centre = (torch.arange(math.ceil(length * scale), dtype=torch.float64) + 0.5) / scale - 0.5
    count = math.ceil(4 * stretch) + 2
    rows = torch.floor(centre - 2 * stretch) + torch.arange(count, dtype=torch.float64)[:, None]
    weights = _cubic((centre - rows) / stretch)
    weights = weights / weights.sum(0)
    rows = rows.long()
    if border == "replicate":
        rows = rows.clamp(0, length - 1)
    else:  # half-sample mirror: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
        rows = rows % (2 * length)
        rows = torch.minimum(rows, 2 * length - 1 - rows)
    used = weights.abs().amax(1) > 0
    return weights[used].to(device, dtype), rows[used].to(device)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


# Ranges from which a training draws, uniformly.
#
# Haze, for normalised depth. Indoor (ITS): beta 0.6 to 1.8 and A 0.7 to 1 are the commonly stated values; the paper was
# not at hand to check them, nor that RESIDE's indoor depth is normalised as ours is. Outdoor (OTS): the file names list
# beta 0.04 to 0.2 and A 0.8 to 1; solving I = J t + A (1 - t) for t on the SOTS pair 0001_0.8_0.2 gives optical depths
# of 0.46 to 0.78. So beta 0.2 means 0.78 at the far end there, and OTS covers 0.16 to 0.78.
Ranges = dict[str, tuple[float, float]]
RESIDE_INDOOR: Ranges = {"beta": (0.6, 1.8), "airlight": (0.7, 1.0)}
RESIDE_OUTDOOR: Ranges = {"beta": (0.16, 0.78), "airlight": (0.8, 1.0)}

# Rain: ours; lq has about the PSNR of Rain100L and DDN pairs. Units as in `rain`.
RAIN: Ranges = dict(density=(3, 12), length=(15, 40), angle=(-30, 30), brightness=(0.4, 0.9), width=(1.2, 2.5))

# Odd sides of a shake kernel in pixels (Levin's measured kernels: 13 to 27, for larger pictures).
KERNEL_SIZES = range(5, 12, 2)


def _uniform(ranges: Ranges, generator: torch.Generator) -> dict[str, float]:
    drawn = torch.rand(len(ranges), generator=generator, device=generator.device).tolist()
    return {name: low + (high - low) * u for u, (name, (low, high)) in zip(drawn, ranges.items(), strict=True)}


def sample_haze(generator: torch.Generator, ranges: Ranges = RESIDE_INDOOR) -> dict[str, float]:
    """Random arguments for `haze`: beta and airlight."""
    return _uniform(ranges, generator)


def sample_rain(generator: torch.Generator, ranges: Ranges = RAIN) -> dict[str, float]:
    """Random arguments for `rain`: density, length, angle, brightness and width."""
    return _uniform(ranges, generator)


def sample_blur_kernel(generator: torch.Generator) -> torch.Tensor:
    """A camera-shake kernel of random odd size, for `motion_blur`."""
    drawn = torch.randint(0, len(KERNEL_SIZES), (1,), generator=generator, device=generator.device)
    return camera_shake_kernel(KERNEL_SIZES[int(drawn)], generator=generator)
