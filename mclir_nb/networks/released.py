"""The paper's networks in the steps of their released code: the reference that a measurement of cost needs.

The networks beside this file compute the same numbers with fewer passes over memory: attention goes head by head,
weights are multiplied instead of maps, sums are made in place, a bias is computed once per offset. `as_released` takes
that back.

Facts (which maps are made, in which layout): zhilin007/FFA-Net @ 9b4047c, net/models/FFA.py; IDKiro/DehazeFormer
@ 7a6d600, models/dehazeformer.py; jiexiaou/IDT @ b256edb, model.py; JingyunLiang/SwinIR @ 33f6166,
models/network_swinir.py; megvii-research/NAFNet @ 01a4c86, basicsr/models/archs/NAFNet_arch.py and arch_util.py;
XPixelGroup/BasicSR @ 8d56e3a, basicsr/archs/arch_util.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.networks import dehazeformer, edsr, ffanet, idt, nafnet, swinir
from mclir_nb.networks.windows import all_heads, from_windows, to_windows


def as_released(network: nn.Module) -> nn.Module:
    """Let the modules of a network take the steps of the released code; parameters and names stay. Returns: it."""
    for module in network.modules():
        module.__class__ = _RELEASED.get(type(module), type(module))
    return network


class _FFABlock(ffanet.Block):
    def forward(self, x: Tensor) -> Tensor:
        features = self.conv2(self.conv1(x).relu_() + x)
        features = features * self.calayer(features)
        return (features * self.palayer(features)).add_(x)


class _FFANet(ffanet.FFANet):
    def fuse(self, groups: list[Tensor]) -> Tensor:
        weights = self.ca(torch.cat(groups, 1).mean((2, 3), keepdim=True)).chunk(self.gps, 1)
        first, second, third = (weight * group for weight, group in zip(weights, groups, strict=True))
        return first + second + third


class _EDSRBlock(edsr.ResidualBlock):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).relu_()) * self.res_scale


class _NormOfPixels(torch.autograd.Function):
    """Layer normalisation over channels, from means and products of whole maps, forwards and backwards."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        mean = x.mean(1, keepdim=True)
        deviation = ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        normal = (x - mean) / deviation
        ctx.save_for_backward(normal, deviation, weight)
        return weight.view(1, -1, 1, 1) * normal + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx, upstream):
        normal, deviation, weight = ctx.saved_tensors
        inner = upstream * weight.view(1, -1, 1, 1)
        along = (inner * normal).mean(1, keepdim=True)
        of_x = 1.0 / deviation * (inner - normal * along - inner.mean(1, keepdim=True))
        of_weight, of_bias = (t.sum(3).sum(2).sum(0) for t in (upstream * normal, upstream))
        return of_x, of_weight, of_bias


class _NAFNorm(nafnet.LayerNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _NormOfPixels.apply(x, self.weight, self.bias)


class _NAFBlock(nafnet.Block):
    def forward(self, x: Tensor) -> Tensor:
        spatial = nafnet.gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(spatial * self.sca(spatial)) * self.beta
        return x + self.conv5(nafnet.gate(self.conv4(self.norm2(x)))) * self.gamma


class _NAFNet(nafnet.NAFNet):
    memory_format = torch.contiguous_format


def _parts(x: Tensor, parts: int, heads: int) -> list[Tensor]:
    """(B * n, N, parts * C) -> parts x (B * n, heads, N, d). Taken one by one, each has a gradient as large as x."""
    stacked = x.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4)
    return [stacked[part] for part in range(parts)]


class _SwinAttention(swinir.WindowAttention):
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = _parts(self.qkv(to_windows(x, self.window)), 3, self.heads)
        out = all_heads(*qkv, self._position_bias(), mask)
        return from_windows(self.proj(out), self.window, x.shape)


class _IDTAttention(idt.WindowAttention):
    def forward(self, x: Tensor) -> Tensor:
        (query,) = _parts(self.qkv.to_q(x), 1, self.num_heads)
        key, value, located = _parts(self.qkv.to_kv(x), 3, self.num_heads)
        out = all_heads(query, key, value, self._position_bias())
        # channels first, in a copy
        square = located.transpose(2, 3).reshape(len(x), -1, self.size, self.size)
        return self.proj(out + self.Position_Extract(square).flatten(2).transpose(1, 2))


class _LeFF(idt.LeFF):
    def forward(self, x: Tensor) -> Tensor:
        x = self.linear1(x).permute(0, 3, 1, 2)
        return self.linear2((self.dwconv(x) + x).permute(0, 2, 3, 1))


def _channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), in a copy."""
    return x.permute(0, 3, 1, 2).contiguous()


class _CrossWindow(idt.SpatialTransformerLayer):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, win = x.shape[0], x.shape[3], idt.CROSS_WINDOW
        columns = F.unfold(_channels_first(x), win, stride=win)  # (B, C * win^2, windows)
        out = self.attn(columns.reshape(batch * channels, win**2, -1).transpose(1, 2))
        x = x + self.drop_path(out.reshape(batch, channels, -1).transpose(1, 2).reshape(x.shape))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _Downsample(idt.Downsample):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_channels_first(x)).permute(0, 2, 3, 1).contiguous()


class _Upsample(idt.Upsample):
    def forward(self, x: Tensor) -> Tensor:
        return self.deconv(_channels_first(x)).permute(0, 2, 3, 1).contiguous()


class _RLN(dehazeformer.RLN):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean((1, 2, 3), keepdim=True)
        std = ((x - mean).pow(2).mean((1, 2, 3), keepdim=True) + self.eps).sqrt()
        return (x - mean) / std * self.weight + self.bias, self.meta1(std), self.meta2(mean)


class _DehazeAttention(dehazeformer.WindowAttention):
    def forward(self, qkv: Tensor) -> Tensor:
        pixels = qkv.permute(0, 2, 3, 1)
        parts = _parts(to_windows(pixels, self.window_size), 3, self.num_heads)
        # every pair of pixels on its own
        bias = self.meta(self.relative_positions).permute(2, 0, 1).contiguous()
        shape = (*pixels.shape[:3], pixels.shape[3] // 3)
        return from_windows(all_heads(*parts, bias), self.window_size, shape).permute(0, 3, 1, 2)


class _DehazeBlock(dehazeformer.TransformerBlock):
    def forward(self, x: Tensor) -> Tensor:
        if self.norm1 is None:
            x = x + self.attn(x)
        else:
            normalised, rescale, rebias = self.norm1(x)
            x = x + (self.attn(normalised) * rescale + rebias)
        return x + self.mlp(x)


class _SKFusion(dehazeformer.SKFusion):
    def forward(self, maps: list[Tensor]) -> Tensor:
        both = torch.cat(maps, 1).unflatten(1, (2, -1))  # (B, 2, C, H, W)
        share = self.mlp(both.sum(1).mean((2, 3), keepdim=True)).unflatten(1, (2, -1)).softmax(1)
        return (both * share).sum(1)


_RELEASED: dict[type[nn.Module], type[nn.Module]] = {
    ffanet.Block: _FFABlock,
    ffanet.FFANet: _FFANet,
    edsr.ResidualBlock: _EDSRBlock,
    nafnet.LayerNorm2d: _NAFNorm,
    nafnet.Block: _NAFBlock,
    nafnet.NAFNet: _NAFNet,
    swinir.WindowAttention: _SwinAttention,
    idt.WindowAttention: _IDTAttention,
    idt.LeFF: _LeFF,
    idt.SpatialTransformerLayer: _CrossWindow,
    idt.Downsample: _Downsample,
    idt.Upsample: _Upsample,
    dehazeformer.RLN: _RLN,
    dehazeformer.WindowAttention: _DehazeAttention,
    dehazeformer.TransformerBlock: _DehazeBlock,
    dehazeformer.SKFusion: _SKFusion,
}
