"""Channel means over a whole image, as FFA-Net, NAFNet and DehazeFormer weigh their channels by."""

import torch
from torch import Tensor

from mclir_nb.networks import onednn


def channel_means(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1), the numbers of `x.mean((2, 3), keepdim=True)`.

    Its gradient is one value per channel and, on a CPU, stays so in memory. PyTorch's own writes it out for every
    pixel, channels first, and then reads it crosswise to add it to gradients that lie channels last.
    """
    return _ChannelMeans.apply(x) if onednn.in_use(x) else x.mean((2, 3), keepdim=True)


class _ChannelMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx, upstream):
        return (upstream / ctx.shape[2:].numel()).expand(ctx.shape)
