"""FFA-Net for dehazing: three groups of blocks that weigh their features per channel and per pixel.

Reference: Qin et al., FFA-Net: Feature Fusion Attention Network for Single Image Dehazing, AAAI 2020,
    arXiv:1911.07559; official code zhilin007/FFA-Net @ 6651bcf, net/models/FFA.py (no licence; not copied).
Input: RGB in [0, 1] normalised with `mean` and `std` below (`restore` does it); output: RGB in [0, 1].
    The global skip adds the normalised input, as the released weights expect.
Shapes: (B, 3, H, W) -> pre (B, dim, H, W) -> g1, g2, g3 (B, dim, H, W) each -> weighted sum -> (B, 3, H, W).
    Nothing is downsampled, so any size fits. Attributes keep the official state_dict names.
"""

import torch
from torch import Tensor, nn

from mclir_nb.networks.layers import named

SIZES = {
    "paper": {"gps": 3, "blocks": 19, "dim": 64},
    "gpu": {"gps": 3, "blocks": 6, "dim": 64},
    "demo": {"gps": 3, "blocks": 2, "dim": 16},
    "tiny": {"gps": 3, "blocks": 1, "dim": 16},
}


def gate(channels: int, hidden: int, weights: int) -> nn.Sequential:
    """Two 1x1 convolutions and a sigmoid: `channels` values in, weights in (0, 1) out."""
    first, last = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, weights, 1)
    return nn.Sequential(first, nn.ReLU(inplace=True), last, nn.Sigmoid())


class Block(nn.Module):
    """Two convolutions with a short skip around the first, both attentions, and a skip around all."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.calayer = named(ca=gate(dim, dim // 8, dim))
        self.palayer = named(pa=gate(dim, dim // 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv2(self.conv1(x).relu() + x)
        features = features * self.calayer(features.mean((2, 3), keepdim=True))  # a weight per channel
        return features * self.palayer(features) + x  # and one per pixel


class Group(nn.Module):
    """`blocks` blocks and a convolution, with a skip around them."""

    def __init__(self, dim: int, blocks: int):
        super().__init__()
        self.gp = nn.Sequential(*(Block(dim) for _ in range(blocks)), nn.Conv2d(dim, dim, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gp(x) + x


class FFANet(nn.Module):
    """The bare network: normalised hazy image (B, 3, H, W) in, clear image in [0, 1] out (not clamped)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        gps: int = 3,  # groups; the official fusion is written for exactly 3
        blocks: int = 19,  # per group
        dim: int = 64,  # feature width, a multiple of 16; officially 64
    ):
        super().__init__()
        if gps != 3 or dim < 16 or dim % 16:
            raise ValueError(f"FFA-Net has gps=3 and a dim that is a multiple of 16, got gps={gps} and dim={dim}")
        self.gps, self.dim = gps, dim
        self.g1, self.g2, self.g3 = Group(dim, blocks), Group(dim, blocks), Group(dim, blocks)
        # the leading Identity keeps the official indices ca.1 and ca.3; the pooling happens in `fuse`
        self.ca = nn.Sequential(nn.Identity(), *gate(gps * dim, dim // 16, gps * dim))
        self.palayer = named(pa=gate(dim, dim // 8, 1))
        self.pre = nn.Sequential(nn.Conv2d(3, dim, 3, padding=1))
        self.post = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.Conv2d(dim, 3, 3, padding=1))
        self.register_buffer("mean", torch.tensor([0.64, 0.6, 0.58]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.14, 0.15, 0.152]).view(1, 3, 1, 1), persistent=False)

    def fuse(self, groups: list[Tensor]) -> Tensor:
        """Sum of the groups' features, weighted per group and channel by their means."""
        means = torch.cat(groups, 1).mean((2, 3), keepdim=True)  # (B, gps*dim, 1, 1), group-major
        first, second, third = self.ca(means).chunk(self.gps, 1)  # (B, dim, 1, 1) each
        return first * groups[0] + second * groups[1] + third * groups[2]

    def forward(self, x: Tensor) -> Tensor:
        first = self.g1(self.pre(x))
        second = self.g2(first)
        fused = self.fuse([first, second, self.g3(second)])
        return self.post(fused * self.palayer(fused)) + x


def restore(core: FFANet, lq: Tensor) -> Tensor:
    """Clear image of a hazy one: (B, 3, H, W) RGB in [0, 1] in, the same shape out, not clamped."""
    return core((lq - core.mean) / core.std)
