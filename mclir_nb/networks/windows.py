"""Attention inside square windows of a feature map, as IDT, SwinIR and DehazeFormer use it.

to_windows, from_windows   (B, H, W, C) to windows of tokens and back
attention                  softmax(q k^T / sqrt(d) + bias + mask) v within each window
all_heads                  the same written out, as the networks' authors do
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mclir_nb.networks import onednn

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


def attention(qkv: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias + mask) v in every window and head.

    Args:
        qkv: query, key and value of the N tokens of each window, (B * n, N, 3, heads, d).
        bias: added to the scores of all windows, (heads, N, N), of any floating type.
        mask: added to the scores of all heads, (n, N, N), the same for every image; a constant of any floating type.
    Returns: (B * n, N, heads * d).

    On a CPU it is written out head by head: PyTorch has no fused kernel for a bias that learns, and gives other bits
    without a graph than with one, so that a history equal to the model would seem to differ from it. More than
    `SCORES` at once (a large image) take PyTorch's kernel and less memory; so do other devices.
    """
    batch, count, _, heads, _ = qkv.shape
    bias, mask = bias.to(qkv.dtype), None if mask is None else mask.to(qkv.dtype)
    fits = batch * heads * count**2 <= SCORES
    if fits and onednn.in_use(qkv):
        tensors = (qkv, bias, mask)
        return (_Attention.apply(*tensors) if torch.is_grad_enabled() else _heads(*tensors)[0]).flatten(2)
    query, key, value = qkv.transpose(1, 3).unbind(2)  # each (B * n, heads, N, d)
    if fits and qkv.device.type == "cpu":  # under autocast, in a compiler, inside `onednn.off`
        return all_heads(query, key, value, bias, mask)
    offset = bias[None] if mask is None else (bias + mask[:, None]).repeat(batch // len(mask), 1, 1, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=offset).transpose(1, 2).flatten(2)


def all_heads(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attention` written out for all heads at once, from three (B * n, heads, N, d)."""
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def _heads(qkv: Tensor, bias: Tensor, mask: Tensor | None, kept: bool = False) -> tuple[Tensor, list[Tensor]]:
    """(B * n, N, heads, d) and, if kept, the shares (B * n, N, N) of each head: what fits a cache at once."""
    batch, count, _, heads, depth = qkv.shape
    out, shares = qkv.new_empty(batch, count, heads, depth), []
    for head in range(heads):
        query, key, value = qkv[:, :, :, head].unbind(2)  # each (B * n, N, d)
        share = _scores(query, key, bias[head], mask).softmax(-1)
        out[:, :, head] = _product(share, value)
        if kept:
            shares.append(share)
    return out, shares


def _scores(query: Tensor, key: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """q k^T / sqrt(d) + bias + mask of one head, (B * n, N, N)."""
    key, scale = key.transpose(1, 2), query.shape[-1] ** -0.5
    if mask is None:
        return torch.baddbmm(bias, query, key, alpha=scale)
    offset = bias + mask.expand(len(query) // len(mask), *mask.shape)  # (B, n, N, N)
    offset = offset.flatten(0, 1)
    return torch.baddbmm(offset, query, key, alpha=scale, out=offset)  # `baddbmm_` escapes torch's counter


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b, (., N, N) and (., N, d) -> (., N, d); through the transposed product where rows of d suit no vector."""
    if b.shape[-1] % 16:
        return torch.bmm(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(a, b)


class _Attention(torch.autograd.Function):
    """Gradients of all heads go straight to their places in one (B * n, N, 3, heads, d)."""

    @staticmethod
    def forward(ctx, qkv, bias, mask):
        out, shares = _heads(qkv, bias, mask, kept=True)
        ctx.save_for_backward(qkv, *shares)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        qkv, *shares = ctx.saved_tensors
        scale, of_qkv, of_bias = qkv.shape[-1] ** -0.5, torch.empty_like(qkv), []
        upstream = upstream.contiguous()
        for head, share in enumerate(shares):
            query, key, value = qkv[:, :, :, head].unbind(2)
            above = upstream[:, :, head]  # (B * n, N, d)
            of_qkv[:, :, 2, head] = _product(share.transpose(1, 2), above)
            of_share = torch.bmm(above, value.transpose(1, 2))
            of_score = torch._softmax_backward_data(of_share, share, -1, share.dtype)
            of_bias.append(of_score.sum(0))
            torch.mul(_product(of_score, key), scale, out=of_qkv[:, :, 0, head])
            torch.mul(_product(of_score.transpose(1, 2), query), scale, out=of_qkv[:, :, 1, head])
        return of_qkv, torch.stack(of_bias), None
