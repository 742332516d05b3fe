"""What several networks share: official names, norm, windows and attention in them, borders, upsampling, drop path."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

WINDOWS_AT_ONCE = 2**15  # times heads; bounds the memory of large images, and CUDA's kernel refuses more than 65535


def named(**modules: nn.Module) -> nn.Sequential:
    """Modules in a row under the names that they have in the official state_dict."""
    return nn.Sequential(OrderedDict(modules))


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation of each pixel over its channels, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * n, N, C): n windows of N = window * window tokens, in reading order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def from_windows(x: Tensor, window: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `to_windows`; `shape` is the (B, H, W, C) to restore."""
    b, h, w, c = shape
    x = x.reshape(b, h // window, w // window, window, window, c)
    return x.transpose(2, 3).reshape(b, h, w, c)


def reflect_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Reflect padding of any width: as `F.pad` where that works, else reflected again at the new border.

    In PyTorch's deterministic mode by `index_select`: the gradient of `F.pad` has no deterministic kernel on CUDA.
    """
    if torch.are_deterministic_algorithms_enabled():
        rows, columns = _reflected(x.shape[-2], top, bottom, x.device), _reflected(x.shape[-1], left, right, x.device)
        return x.index_select(-2, rows).index_select(-1, columns)
    while left or right or top or bottom:
        height, width = x.shape[-2:]
        step = (min(left, width - 1), min(right, width - 1), min(top, height - 1), min(bottom, height - 1))
        x = F.pad(x, step, mode="reflect")
        left, right, top, bottom = left - step[0], right - step[1], top - step[2], bottom - step[3]
    return x


def _reflected(size: int, before: int, after: int, device: torch.device) -> Tensor:
    """The indices of a line of `size` pixels with `before` and `after` reflected ones around it."""
    period = max(2 * size - 2, 1)
    places = torch.arange(-before, size + after, device=device) % period
    return torch.minimum(places, period - places)


class ReflectConv2d(nn.Conv2d):
    """A convolution whose input is reflected at the border: padding_mode "reflect" by way of `reflect_pad`."""

    def forward(self, x: Tensor) -> Tensor:
        down, across = (int(width) for width in self.padding)
        padded = reflect_pad(x, across, across, down, down)
        return F.conv2d(padded, self.weight, self.bias, groups=self.groups)


def relative_offsets(window: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Offsets in rows and in columns between every two tokens of a window, each (N, N)."""
    along = torch.arange(window, device=device)
    rows, columns = along.repeat_interleave(window), along.repeat(window)
    return rows[:, None] - rows, columns[:, None] - columns


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v in every window and head.

    On a CPU it is computed as it is written. PyTorch's fused kernel would give other bits without a graph than with
    one, so that a history equal to the model would seem to differ from it. On CUDA the fused kernel does the same.

    Args:
        query, key, value: (windows, N, heads * d), the windows of an image one after the other.
        bias: added to the scores of all windows, (heads, N, N).
        mask: added to the scores of all heads, (n, N, N), the same for every image of n windows; a constant.

    Returns:
        (windows, N, heads * d).
    """
    windows, heads = len(query), len(bias)
    bias = bias.to(query.dtype)
    mask = None if mask is None else mask.to(query.dtype)
    at_once = WINDOWS_AT_ONCE // heads
    if windows > at_once:
        parts = [query.split(at_once), key.split(at_once), value.split(at_once)]
        count = len(parts[0])
        masks = [None] * count if mask is None else mask.repeat(windows // len(mask), 1, 1).split(at_once)
        return torch.cat([attention(q, k, v, bias, m) for q, k, v, m in zip(*parts, masks, strict=True)])
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    attend = fused_attention if query.is_cuda else plain_attention
    return attend(query, key, value, bias, mask).transpose(1, 2).flatten(2)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """`attention` as it is written, (windows, heads, N, d)."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias  # (windows, heads, N, N)
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    return scores.softmax(-1) @ value


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """`attention` by PyTorch's memory-efficient kernel, (windows, heads, N, d).

    The kernel wants d to be a multiple of 8, so zeros are appended. With a mask, the windows of an image stand beside
    its heads, so that the mask of one image serves all of them. A model and its history take the same kernel.
    """
    shape, depth = query.shape, query.shape[-1]
    offset = bias
    if mask is not None:
        offset = (bias + mask[:, None]).flatten(0, 1)  # (n * heads, N, N)
    query, key, value = (F.pad(t.reshape(-1, *offset.shape[:2], depth), (0, -depth % 8)) for t in (query, key, value))
    offset = offset.expand(len(query), -1, -1, -1)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):  # the second for float64
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=offset, scale=depth**-0.5)
    return out[..., :depth].reshape(shape)


def upsampler(features: int, scale: int) -> nn.Sequential:
    """Convolution and pixel shuffle: once with factor 3, or once for each factor 2."""
    if scale not in (2, 3, 4, 8):
        raise ValueError(f"upscale {scale} does not exist; use 2, 3, 4 or 8")
    layers: list[nn.Module] = []
    for factor in [3] if scale == 3 else [2] * (scale.bit_length() - 1):
        layers += [nn.Conv2d(features, factor**2 * features, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers)


class DropPath(nn.Module):
    """Stochastic depth: in training, each sample of the batch loses the branch with probability `rate`.

    What is kept is scaled up, so that the mean stays. The draw is made on the CPU: the device does not change it.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)
        return x * kept.to(x)
