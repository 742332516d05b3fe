"""EDSR baseline for super-resolution: residual blocks without normalisation, then a learned upsampling.

Reference: Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPR Workshops 2017,
    arXiv:1707.02921; key names and arithmetic of XPixelGroup/BasicSR @ 8d56e3a, basicsr/archs/edsr_arch.py
    (Apache-2.0). The original EDSR-PyTorch names its layers head, body, tail: its files do not fit.
Input: RGB in [0, 1]; inside, the DIV2K mean is subtracted and the range stretched to 0..255.
Shapes: (B, 3, H, W), any size -> features (B, num_feat, H, W) -> (B, 3, upscale*H, upscale*W).
"""

import torch
from torch import Tensor, nn

from mclir_nb.networks.layers import upsampler

SIZES = {
    "paper": {"num_feat": 64, "num_block": 16},
    "demo": {"num_feat": 32, "num_block": 4},
    "tiny": {"num_feat": 16, "num_block": 1},
}


class ResidualBlock(nn.Module):
    """x + res_scale * conv2(relu(conv1(x)))"""

    def __init__(self, num_feat: int, res_scale: float):
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).relu()) * self.res_scale


class EDSR(nn.Module):
    """The network: RGB image (B, 3, H, W) in [0, 1] in, (B, 3, upscale*H, upscale*W) out, not clamped."""

    mean: Tensor

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,  # features
        num_block: int = 16,  # residual blocks
        upscale: int = 4,  # 2, 3, 4 or 8
        res_scale: float = 1.0,  # weight of each residual; 0.1 in the large model
        img_range: float = 255.0,  # [0, 1] is stretched to it inside
        rgb_mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040),  # subtracted and added; officially no key either
    ):
        super().__init__()
        self.img_range = img_range
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = upsampler(num_feat, upscale)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv_first((x - self.mean) * self.img_range)
        deep = self.conv_after_body(self.body(shallow)) + shallow
        return self.conv_last(self.upsample(deep)) / self.img_range + self.mean
