"""Linear maps and 1x1 convolutions on the CPU, through the kernels that are fastest there.

PyTorch multiplies float32 matrices with MKL, which on an AMD processor takes twice the time of oneDNN, and on one
thread it leaves 1x1 convolutions of small batches to MKL as well. Both are one matrix product, and oneDNN, which
PyTorch brings along for all other convolutions, has that too. `notebooks/09_cost.ipynb` measures the step with and
without. Other devices, other number types and tiny products take PyTorch's own path, and so does a PyTorch without
the operator. Numbers agree up to the order of a sum.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

SMALLEST = 2**20  # multiply-accumulates below which the call costs more than it saves
IMAGES = 16  # over which the rows of a gradient are shared out, see `_of_weight`
_in_use = True


@contextmanager
def off() -> Iterator[None]:
    """PyTorch's own paths inside this block: the reference of a measurement."""
    global _in_use
    before, _in_use = _in_use, False
    try:
        yield
    finally:
        _in_use = before


def _flops(x, weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * weight[0] * x[-1] * torch.Size(x[:-1]).numel()  # as for mm


# oneDNN's linear map, or None where PyTorch has none
_OPERATOR = None
if torch.backends.mkldnn.is_available():
    _OPERATOR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if _OPERATOR is not None:
    register_flop_formula(_OPERATOR)(_flops)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias; of either, rows or columns lie without gaps, or oneDNN takes its slow reference path."""
    return _OPERATOR(x, weight, bias, "none", [], "")


def in_use(x: Tensor) -> bool:
    """Whether a tensor on the CPU takes our own paths at all: not inside `off`, autocast or a compiler."""
    eager = not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    return _in_use and x.device.type == "cpu" and eager


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes this product: float32 on the CPU, outside autocast, and large enough to gain."""
    return (
        in_use(x)
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= SMALLEST
        and _OPERATOR is not None
    )


class _Product(torch.autograd.Function):
    """x weight^T + bias over the last axis, or over the channels of images."""

    @staticmethod
    def forward(ctx, x, weight, bias, images):
        ctx.save_for_backward(x, weight)
        ctx.images = images
        return _forward(x, weight, bias, images).data  # not a view of anything: it may be changed in place

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, weight = ctx.saved_tensors
        if ctx.images:
            x, upstream = x.permute(0, 2, 3, 1), upstream.permute(0, 2, 3, 1)
        rows, gradients = upstream.reshape(-1, len(weight)).contiguous(), [None, None, None, None]
        if ctx.needs_input_grad[0]:
            gradients[0] = _multiply(rows, weight.t()).view(x.shape)
            if ctx.images:
                gradients[0] = gradients[0].permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            gradients[1] = _of_weight(rows, x.reshape(-1, x.shape[-1]), weight)
        if ctx.needs_input_grad[2]:
            gradients[2] = rows.sum(0)
        return tuple(gradients)


def _of_weight(rows: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """rows^T x, (M, O) and (M, I) -> (O, I), the gradient by `weight`.

    As a product, oneDNN would first turn one factor over in memory; as the same gradient of a 1x1 convolution it need
    not, which is faster for many rows. PyTorch passes it such a convolution, on one thread too, from 16 images on.
    """
    if x.numel() * rows.shape[1] < 4 * SMALLEST:
        return rows.t() @ x
    if len(x) % IMAGES or len(x) <= max(weight.shape):
        return _multiply(rows.t(), x.t())
    images = (t.view(IMAGES, -1, 1, t.shape[1]).permute(0, 3, 1, 2) for t in (rows, x))
    geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, not transposed, groups
    wanted = (False, True, False)  # of the image, the weight, the bias
    backward = torch.ops.aten.convolution_backward
    return backward(*images, weight[:, :, None, None], None, *geometry, wanted)[1].flatten(1)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, images: bool) -> Tensor:
    if images:  # (B, I, H, W) in channels-last order: rows are pixels
        return _multiply(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return _multiply(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias over the last axis, (..., I) -> (..., O), as `F.linear`; differentiable once."""
    if not suits(x, weight):
        return F.linear(x, weight, bias)
    x = x.contiguous()
    return _Product.apply(x, weight, bias, False) if torch.is_grad_enabled() else _forward(x, weight, bias, False)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution, (B, I, H, W) -> (B, O, H, W) with weight (O, I, 1, 1), as `F.conv2d`."""
    # one image decides, so that its numbers do not depend on the batch it comes in
    if not (suits(x[:1], weight) and x.is_contiguous(memory_format=torch.channels_last)):
        return F.conv2d(x, weight, bias)
    weight = weight.flatten(1)
    return _Product.apply(x, weight, bias, True) if torch.is_grad_enabled() else _forward(x, weight, bias, True)


class Linear(nn.Linear):
    """`nn.Linear` through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Pointwise(nn.Conv2d):
    """A 1x1 `nn.Conv2d` through `pointwise`."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


def use(network: nn.Module) -> nn.Module:
    """Let the linear maps and 1x1 convolutions of a network run here; parameters and names stay. Returns: it."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
        elif type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = Pointwise
    return network


def _is_pointwise(conv: nn.Conv2d) -> bool:
    plain = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
    return plain and conv.padding in ((0, 0), 0, "valid", "same")
