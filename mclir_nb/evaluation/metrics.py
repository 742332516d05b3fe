"""PSNR and SSIM as the papers compute them: one name per protocol.

The same pair of pictures scores up to two decibels and 0.1 SSIM apart in different papers, because they
differ in colour (RGB, Y, rounded Y), rounding to 8 bits, border crop, and the window and border of SSIM. A
number can only be compared with a paper under that paper's protocol, so the protocol is a name, never a flag:

    psnr(restored, gt, protocol="basicsr-y", crop=4)

Images come as (H, W, 3) or (H, W) numpy arrays, or (3, H, W), (1, H, W) or (H, W) tensors; **RGB**, never BGR; uint8,
or float in [0, 1]. A float `restored` may overshoot and is clamped, as the official scripts do. Then the 8-bit
protocols round it to the nearest of 256 levels (in float32, half to even, as BasicSR's `tensor2img`), the others keep
its fractions. A grey picture is compared as it is, in every protocol. Arithmetic is float64; the official float32
scripts (Y of BasicSR, FFA-Net, DehazeFormer, NAFNet's SSIM) stay within 1e-6 dB and 1e-5.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter

from mclir_nb import check_choice


@dataclass(frozen=True)
class Protocol:
    """How one family of papers turns two pictures into PSNR and SSIM."""

    sentence: str  # what it does, for a table or a caption
    source: str  # repository @ commit, file
    eight_bit: bool  # rounds to 256 levels and works on 0..255; otherwise on 0..1, not rounded
    colour: str = "rgb"  # "rgb" | "y" (BT.601 16..235, fractions kept) | "y-rounded"
    window: str = "valid"  # "valid" | "zero" | "pooled" | "volume" | "uniform": the SSIM window, see `ssim`
    identical: float = float("inf")  # the PSNR printed for two equal pictures

    @property
    def peak(self) -> float:
        return 255.0 if self.eight_bit else 1.0


PROTOCOLS: dict[str, Protocol] = {
    "basicsr-rgb": Protocol(
        "8-bit RGB, all channels in one mean; SSIM per channel, 11x11 Gaussian, valid area",
        source="XPixelGroup/BasicSR @ 8d56e3a, basicsr/metrics/psnr_ssim.py (also Aitical/MCLIR @ e42fb40)",
        eight_bit=True,
    ),
    "basicsr-y": Protocol(
        "Y (16..235) of 8-bit RGB, not rounded again; SSIM with an 11x11 Gaussian, valid area",
        source="XPixelGroup/BasicSR @ 8d56e3a, basicsr/metrics/psnr_ssim.py with Y; SwinIR @ 6545850",
        eight_bit=True,
        colour="y",
    ),
    "ffanet": Protocol(
        "float RGB, not rounded; SSIM per channel, 11x11 Gaussian, zero padding, border included",
        source="zhilin007/FFA-Net @ 6651bcf, net/metrics.py (used by AECR-Net and C2PNet, too)",
        eight_bit=False,
        window="zero",
        identical=100.0,
    ),
    "dehazeformer": Protocol(
        "float RGB, not rounded; SSIM after pooling by round(min(H, W) / 256), 11x11 Gaussian, valid area",
        source="IDKiro/DehazeFormer @ 5af7c34, test.py with pytorch_msssim 1.0.0",
        eight_bit=False,
        window="pooled",
    ),
    "idt": Protocol(
        "MATLAB: Y (16..235) of 8-bit RGB, rounded to 8 bits; SSIM with an 11x11 Gaussian, valid area",
        source="jiexiaou/IDT @ d72510c, evaluaterain.m (Restormer's deraining script does the same)",
        eight_bit=True,
        colour="y-rounded",
    ),
    "nafnet": Protocol(
        "8-bit RGB; SSIM with one 11x11x11 Gaussian over height, width and colour, edges repeated, full area",
        source="megvii-research/NAFNet @ 2b4af71, basicsr/metrics/psnr_ssim.py, default ssim3d=True; "
        "its switch to peak 1 for pictures darker than 2 of 255 levels is left out",
        eight_bit=True,
        window="volume",
    ),
    "skimage": Protocol(
        "float RGB, not rounded; SSIM per channel, 7x7 uniform window, sample covariance, valid area",
        source="va1shn9v/PromptIR @ 106159a, utils/val_utils.py (AirNet, too): scikit-image, data_range 1",
        eight_bit=False,
        window="uniform",
    ),
}


def psnr(restored, gt, protocol: str = "basicsr-rgb", crop: int = 0) -> float:
    """Peak signal-to-noise ratio of one picture, in dB: 10 log10(peak^2 / mean((restored - gt)^2)).

    Average the decibels over a test set, not the errors: all the papers do.

    Args:
        restored, gt: the same size, RGB or grey, uint8 or float in [0, 1] (module docstring).
        protocol: a name in `PROTOCOLS`; it decides colour and rounding.
        crop: pixels removed on each side first; its papers remove the scale for super-resolution, else nothing.

    Returns:
        dB; for identical pictures what the official script prints (inf, or 100 under "ffanet").

    Raises:
        ValueError: an unknown protocol, odd or unequal shapes, NaN, values off the range, a bad crop.
    """
    rules = _rules(protocol)
    x, y = _pair(restored, gt, rules, crop)
    mse = float(np.mean((x - y) ** 2))
    return rules.identical if mse == 0 else float(10 * np.log10(rules.peak**2 / mse))


def ssim(restored, gt, protocol: str = "basicsr-rgb", crop: int = 0) -> float:
    """Structural similarity of one picture (Wang et al., 2004), K = 0.01 and 0.03, under a named protocol.

    mean of (2 mx my + c1)(2 cov + c2) / ((mx^2 + my^2 + c1)(vx + vy + c2)), moments under a sliding window: "valid"
    11x11 Gaussian (sigma 1.5) where it fits; "zero" the same over zero padding; "pooled" valid after average pooling of
    large pictures; "volume" 11x11x11, over the colours, too; "uniform" 7x7 mean with sample covariance.

    Arguments are those of `psnr`, and so are errors; a picture smaller than a window that must fit is one more.
    Returns: at most 1; 1 for identical pictures.
    """
    rules = _rules(protocol)
    x, y = _pair(restored, gt, rules, crop)
    need = {"zero": 1, "volume": 1, "uniform": 7}.get(rules.window, 11)  # a pooled picture always has them, see `_pool`
    if min(x.shape[1:]) < need:
        found = f"{x.shape[2]}x{x.shape[1]}{f' after the crop of {crop}' if crop else ''}"
        raise ValueError(
            f"SSIM under {protocol!r} needs at least {need}x{need} pixels, found {found}; score a larger one"
        )
    if rules.window == "pooled":
        x, y = _pool(x), _pool(y)
    averages: dict[str, Callable] = {"zero": _blur, "volume": _gaussian_volume, "uniform": _uniform}
    average = averages.get(rules.window, _gaussian)
    unbiased = 49 / 48 if rules.window == "uniform" else 1.0
    return float(_ssim_map(x, y, average, rules.peak, unbiased).mean())


def mean_psnr(restored: Iterable, gt: Iterable, protocol: str = "basicsr-rgb", crop: int = 0) -> float:
    """Mean over pictures of the PSNR in dB, for example of two batches; each picture as for `psnr`."""
    return float(np.mean([psnr(one, true, protocol, crop) for one, true in zip(restored, gt, strict=True)]))


def table(restored, gt, crop: int = 0) -> pd.DataFrame:
    """One pair under every protocol (the index), all with one crop: crop | psnr (dB) | ssim | rule (in words)."""
    columns = ["protocol", "crop", "psnr", "ssim", "rule"]
    rows = [
        (name, crop, psnr(restored, gt, name, crop), ssim(restored, gt, name, crop), rules.sentence)
        for name, rules in PROTOCOLS.items()
    ]
    return pd.DataFrame(rows, columns=columns).set_index("protocol")


def _rules(protocol: str) -> Protocol:
    check_choice("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]


def _pair(restored, gt, rules: Protocol, crop: int) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures checked, cropped, and in the numbers the protocol compares."""
    planes = {"restored": _planes(restored, "restored"), "gt": _planes(gt, "gt")}
    shape = planes["gt"].shape
    if planes["restored"].shape != shape:
        found = ", ".join(f"{role} {_size(p.shape)}" for role, p in planes.items())
        raise ValueError(f"the pictures differ in size: {found}; crop or resize one of them first")
    if isinstance(crop, bool) or not isinstance(crop, int | np.integer) or crop < 0:
        raise ValueError(f"crop is {crop!r}; give a whole number of pixels per side, 0 or more")
    if 2 * crop >= min(shape[1:]):
        raise ValueError(f"crop {crop} leaves nothing of a {_size(shape)} picture; give a smaller crop")
    _check_range(planes["restored"], planes["gt"])
    inside = (slice(None), slice(crop, shape[1] - crop), slice(crop, shape[2] - crop))
    x, y = (_compared(planes[role][inside], rules) for role in ("restored", "gt"))
    return x, y


def _planes(image, role: str) -> np.ndarray:
    """One picture as a (1 or 3, H, W) array of uint8 or float."""
    if isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        accepted = "(3, H, W), (1, H, W) or (H, W) for a tensor"
    else:
        array = np.asarray(image)
        array = np.moveaxis(array, -1, 0) if array.ndim == 3 else array
        accepted = "(H, W, 3), (H, W, 1) or (H, W) for an array"
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[0] not in (1, 3) or array.size == 0:
        found = tuple(image.shape) if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"{role} has shape {found}; accepted is {accepted}, one picture at a time")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"{role} has type {array.dtype}; accepted is uint8, or float in [0, 1]: convert it")
    return array


def _check_range(restored: np.ndarray, gt: np.ndarray) -> None:
    """Refuse what clamping would hide: NaN, 0..255 floats, a ground truth that leaves [0, 1]."""
    for role, planes in (("restored", restored), ("gt", gt)):
        if planes.dtype != np.uint8 and not np.isfinite(planes).all():
            bad = int((~np.isfinite(planes)).sum())
            raise ValueError(f"{role} has {bad} values that are NaN or infinite; a score needs finite ones")
    if gt.dtype != np.uint8 and (gt.min() < -1e-6 or gt.max() > 1 + 1e-6):
        raise ValueError(
            f"gt goes from {gt.min():.4g} to {gt.max():.4g}; accepted is float in [0, 1] or uint8: "
            "divide 0..255 by 255, map -1..1 by (x + 1) / 2"
        )
    if restored.dtype != np.uint8 and (mean := restored.mean(dtype=np.float64)) > 4:
        raise ValueError(
            f"restored has the mean {mean:.4g}; accepted is float near [0, 1] or uint8: "
            "divide 0..255 by 255 (or the network has diverged)"
        )


def _compared(planes: np.ndarray, rules: Protocol) -> np.ndarray:
    """The float64 numbers a protocol compares: clamped, and rounded or turned to Y where it says so."""
    if not rules.eight_bit:
        scaled = planes / 255.0 if planes.dtype == np.uint8 else planes.astype(np.float64)
        return np.clip(scaled, 0, 1)
    if planes.dtype != np.uint8:
        planes = np.round(np.clip(planes.astype(np.float32), 0, 1) * np.float32(255))
    planes = planes.astype(np.float64)
    if rules.colour != "rgb" and len(planes) == 3:  # Y of BT.601: 16 + (65.481 R + 128.553 G + 24.966 B) / 255
        planes = 16 + np.tensordot([65.481 / 255, 128.553 / 255, 24.966 / 255], planes, 1)[None]
        planes = np.floor(planes + 0.5) if rules.colour == "y-rounded" else planes  # MATLAB rounds halves up
    return planes


def _ssim_map(x, y, average, peak: float, unbiased: float) -> np.ndarray:
    """SSIM at every window position; `average` is the windowed mean, `unbiased` the covariance correction."""
    mx, my = average(x), average(y)
    product, squares = mx * my, mx * mx + my * my
    covariance = unbiased * (average(x * y) - product)
    variances = unbiased * (average(x * x + y * y) - squares)  # only the sum of both is needed
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _blur(planes: np.ndarray, mode: str = "constant") -> np.ndarray:
    """11x11 Gaussian mean (sigma 1.5) of each plane, same size; unless told otherwise over zeros beyond the border."""
    return gaussian_filter(planes, 1.5, mode=mode, radius=5, axes=(2, 1))


def _gaussian(planes: np.ndarray) -> np.ndarray:
    return _blur(planes)[:, 5:-5, 5:-5]


def _gaussian_volume(planes: np.ndarray) -> np.ndarray:
    """The 11x11x11 Gaussian mean with repeated edges; over the few colours it is a small matrix."""
    mixing = gaussian_filter1d(np.eye(len(planes)), 1.5, axis=0, mode="nearest", radius=5)
    return np.tensordot(mixing, _blur(planes, "nearest"), 1)


def _uniform(planes: np.ndarray) -> np.ndarray:
    return uniform_filter(planes, 7, axes=(2, 1))[:, 3:-3, 3:-3]


def _pool(planes: np.ndarray) -> np.ndarray:
    """Average pooling by round(min(H, W) / 256), Python's half-to-even rounding; small pictures stay."""
    height, width = planes.shape[1:]
    ratio = max(1, round(min(height, width) / 256))
    size = (int(height / ratio), int(width / ratio))
    return torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(planes), size).numpy()


def _size(shape: tuple) -> str:
    """(C, H, W) as a reader writes it."""
    return f"{shape[2]}x{shape[1]} ({'grey' if shape[0] == 1 else 'RGB'})"
