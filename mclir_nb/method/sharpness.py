"""Sharper and blurrier versions of an image: PCL's positives and negatives. Tensors (B, C, H, W) in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _depthwise(image: Tensor, kernel: Tensor) -> Tensor:
    """Every channel convolved with one 2-D kernel, borders repeated."""
    channels, pad = image.shape[1], kernel.shape[0] // 2
    weight = kernel.expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(image, (pad,) * 4, mode="replicate"), weight, groups=channels)


def sharpen(image: Tensor, factor: float) -> Tensor:
    """Blend of a smoothed image (factor 0) and the image (1), extrapolated above 1; clamped to [0, 1]."""
    kernel = image.new_full((3, 3), 1 / 13)
    kernel[1, 1] = 5 / 13
    smooth = _depthwise(image, kernel)
    return (smooth + factor * (image - smooth)).clamp(0, 1)


def blur(image: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussian blur with a size x size kernel of deviation sigma pixels."""
    x = torch.arange(size, device=image.device, dtype=image.dtype) - size // 2
    line = torch.exp(-(x**2) / (2 * sigma**2))
    return _depthwise(image, torch.outer(line, line) / line.sum() ** 2)
