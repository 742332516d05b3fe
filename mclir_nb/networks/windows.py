"""Attention inside square windows of a feature map, as IDT, SwinIR and DehazeFormer use it.

to_windows, from_windows   (B, H, W, C) to windows of tokens and back
attention                  softmax(q k^T / sqrt(d) + bias) v within each window
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mclir_nb import onednn

SCORES = 2**26  # held at once when written out, 256 MB


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * n, N, C), windows in reading order."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def from_windows(x: Tensor, window: int, shape: torch.Size) -> Tensor:
    """The inverse of `to_windows`; `shape` is the (B, H, W, C) to restore."""
    b, h, w, c = shape
    x = x.reshape(b, h // window, w // window, window, window, c)
    return x.transpose(2, 3).reshape(b, h, w, c)


def attention(qkv: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in every window and head.

    Args:
        qkv: query, key and value of the N tokens of each window, (B, N, 3, heads, d).
        bias: added to the scores, (1 or B, heads, N, N).
    Returns: (B, N, heads * d).

    On a CPU it is written out head by head: PyTorch has no fused kernel for a bias that learns, and gives other bits
    without a graph than with one, so that a history equal to the model would seem to differ from it. More than
    `SCORES` at once (a large image) take PyTorch's kernel and less memory; so do other devices.
    """
    batch, count, _, heads, depth = qkv.shape
    fits = batch * heads * count**2 <= SCORES
    if fits and onednn.in_use(qkv):
        out = _Attention.apply(qkv, bias) if torch.is_grad_enabled() else _heads(qkv, bias)[0]
        return out.flatten(2)
    query, key, value = qkv.transpose(1, 3).unbind(2)  # each (B, heads, N, d)
    if fits and qkv.device.type == "cpu":  # as the authors write it
        out = (query * depth**-0.5 @ key.transpose(-2, -1) + bias).softmax(-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


def _heads(qkv: Tensor, bias: Tensor, kept: bool = False) -> tuple[Tensor, list[Tensor]]:
    """(B, N, heads, d) and, if they are to be kept, the shares (B, N, N) of each head: what fits a cache at once."""
    batch, count, _, heads, depth = qkv.shape
    out, shares = qkv.new_empty(batch, count, heads, depth), []
    for head in range(heads):
        query, key, value = qkv[:, :, :, head].unbind(2)  # each (B, N, d)
        offset = bias[:, head].expand(batch, -1, -1)
        share = torch.baddbmm(offset, query, key.transpose(1, 2), alpha=depth**-0.5).softmax(-1)
        out[:, :, head] = _product(share, value)
        if kept:
            shares.append(share)
    return out, shares


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b, (B, N, N) and (B, N, d) -> (B, N, d); through the transposed product where rows of d suit no vector."""
    if b.shape[-1] % 16:
        return torch.bmm(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(a, b)


class _Attention(torch.autograd.Function):
    """Gradients of all heads go straight to their places in one (B, N, 3, heads, d)."""

    @staticmethod
    def forward(ctx, qkv, bias):
        out, shares = _heads(qkv, bias, kept=True)
        ctx.save_for_backward(qkv, *shares)
        ctx.windows = len(bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        qkv, *shares = ctx.saved_tensors
        scale, of_qkv, of_bias = qkv.shape[-1] ** -0.5, torch.empty_like(qkv), []
        upstream = upstream.contiguous()
        for head, share in enumerate(shares):
            query, key, value = qkv[:, :, :, head].unbind(2)
            above = upstream[:, :, head]  # (B, N, d)
            of_qkv[:, :, 2, head] = _product(share.transpose(1, 2), above)
            of_share = torch.bmm(above, value.transpose(1, 2))
            of_score = torch._softmax_backward_data(of_share, share, -1, share.dtype)
            of_bias.append(of_score.sum(0, keepdim=True) if ctx.windows == 1 else of_score)
            torch.mul(_product(of_score, key), scale, out=of_qkv[:, :, 0, head])
            torch.mul(_product(of_score.transpose(1, 2), query), scale, out=of_qkv[:, :, 1, head])
        return of_qkv, torch.stack(of_bias, 1)
