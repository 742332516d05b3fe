"""NAFNet for deblurring: a U-shaped network that multiplies channel halves instead of using activations.

Reference: Chen et al., Simple Baselines for Image Restoration, ECCV 2022, arXiv:2204.04676; local pooling:
    Chu et al., Improving Image Restoration by Revisiting Global Information Aggregation (TLC), ECCV 2022,
    arXiv:2112.04491; official code megvii-research/NAFNet @ 2b4af71, basicsr/models/archs/NAFNet_arch.py and
    local_arch.py (MIT).
Input: RGB in [0, 1], not normalised; the network adds its output to the input.
Shapes: (B, 3, H, W), zero-padded right and below to a multiple of 2^levels -> level l holds
    (B, 2^l*width, H/2^l, W/2^l) -> (B, 3, H, W) after cropping.
Oddities kept: gates beta and gamma start at zero (a fresh block is the identity); `sca` has no sigmoid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.networks.layers import LayerNorm2d

GOPRO = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
SIZES = {
    "32": {"width": 32, **GOPRO},
    "64": {"width": 64, **GOPRO},
    "gpu": {"width": 16, **GOPRO},
    "demo": {"width": 16, "middle_blk_num": 1, "enc_blk_nums": [1, 1, 1], "dec_blk_nums": [1, 1, 1]},
    "tiny": {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
}


def box_mean(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Mean over every window of `kernel` (rows, columns) that fits: (B, C, H, W) -> (B, C, H-k+1, W-l+1).

    Running sums, one direction after the other: the cost does not grow with the window, and sums stay short.
    """
    sums = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    for dim, size in ((3, kernel[1]), (2, kernel[0])):
        ends = sums.cumsum(dim)
        count = ends.shape[dim] - size
        first, later = ends.narrow(dim, size - 1, 1), ends.narrow(dim, size, count) - ends.narrow(dim, 0, count)
        sums = torch.cat([first, later], dim) / size
    return sums.to(x.dtype)


class Pool(nn.Module):
    """Channel means over the whole image or, once `kernel` is set, over a window around each pixel (TLC).

    Windows are moved inside the image: the means of the outermost whole windows are repeated up to the border.
    """

    kernel: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.kernel is None or (self.kernel[0] >= height and self.kernel[1] >= width):
            return x.mean((2, 3), keepdim=True)
        means = box_mean(x, (min(self.kernel[0], height), min(self.kernel[1], width)))
        rows, columns = height - means.shape[-2], width - means.shape[-1]
        return F.pad(means, (columns // 2, (columns + 1) // 2, rows // 2, (rows + 1) // 2), mode="replicate")


def gate(x: Tensor) -> Tensor:
    """Product of the two channel halves: (B, 2C, H, W) -> (B, C, H, W)."""
    first, second = x.chunk(2, 1)
    return first * second


class Block(nn.Module):
    """x + beta * spatial part(x), then the same with gamma and a per-pixel part."""

    def __init__(self, dim: int):
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.conv1 = nn.Conv2d(dim, 2 * dim, 1)
        self.conv2 = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim)
        self.conv3 = nn.Conv2d(dim, dim, 1)
        self.sca = nn.Sequential(Pool(), nn.Conv2d(dim, dim, 1))
        self.conv4 = nn.Conv2d(dim, 2 * dim, 1)
        self.conv5 = nn.Conv2d(dim, dim, 1)
        self.norm1 = LayerNorm2d(dim, eps=1e-6)
        self.norm2 = LayerNorm2d(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.beta.dtype)  # the running sum stays in full precision under autocast, as in the official code
        spatial = gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(spatial * self.sca(spatial))
        return x + self.gamma * self.conv5(gate(self.conv4(self.norm2(x))))


class NAFNet(nn.Module):
    """The network: RGB image (B, img_channel, H, W) in [0, 1] in, the same shape out, not clamped."""

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,  # features at full resolution, doubled per level
        middle_blk_num: int = 1,  # blocks at the lowest resolution
        enc_blk_nums: Sequence[int] = (1, 1, 1, 28),  # blocks per level on the way down; as many as levels
        dec_blk_nums: Sequence[int] = (1, 1, 1, 1),  # and on the way up
    ):
        super().__init__()
        levels = len(enc_blk_nums)
        if len(dec_blk_nums) != levels:
            raise ValueError(f"NAFNet needs as many decoder as encoder levels, got {len(dec_blk_nums)} and {levels}")
        dims = [width << level for level in range(levels + 1)]
        self.intro = nn.Conv2d(img_channel, width, 3, padding=1)
        self.ending = nn.Conv2d(width, img_channel, 3, padding=1)
        self.encoders = nn.ModuleList(blocks(d, n) for d, n in zip(dims, enc_blk_nums, strict=False))
        self.decoders = nn.ModuleList(blocks(d, n) for d, n in zip(dims[-2::-1], dec_blk_nums, strict=True))
        self.middle_blks = blocks(dims[-1], middle_blk_num)
        ups = (nn.Sequential(nn.Conv2d(d, 2 * d, 1, bias=False), nn.PixelShuffle(2)) for d in dims[:0:-1])
        self.ups = nn.ModuleList(ups)
        self.downs = nn.ModuleList(nn.Conv2d(d, 2 * d, 2, stride=2) for d in dims[:-1])

    def pool_locally(self, train_size: int = 256) -> None:
        """Become NAFNetLocal, the official test-time variant: means over windows of 1.5 training patches a side.

        The same weights; other numbers only for images larger than that (384 pixels).
        """
        levels = len(self.encoders)
        padded = -(-train_size // 2**levels) * 2**levels
        stages = [*self.encoders, self.middle_blks, *self.decoders]
        for stage, level in zip(stages, [*range(levels + 1), *range(levels - 1, -1, -1)], strict=True):
            side = (padded >> level) * int(1.5 * train_size) // train_size
            for block in stage:
                block.sca[0].kernel = (side, side)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        multiple = 2 ** len(self.encoders)
        image = F.pad(image, (0, -width % multiple, 0, -height % multiple))
        x = self.intro(image.contiguous(memory_format=torch.channels_last))  # suits the norms and 1x1 convolutions
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.middle_blks(x)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + skips.pop())
        return (self.ending(x) + image)[..., :height, :width]


def blocks(dim: int, count: int) -> nn.Sequential:
    """`count` blocks of width `dim`."""
    return nn.Sequential(*(Block(dim) for _ in range(count)))
