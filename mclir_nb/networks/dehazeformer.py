"""DehazeFormer: a five-stage U-shaped transformer for dehazing.

Reference: Song, He, Qian, Du, "Vision Transformers for Single Image Dehazing", arXiv:2204.03883.
Facts (names, shapes, constants): IDKiro/DehazeFormer @ 5af7c34, models/dehazeformer.py.

Input convention: the core takes and returns RGB in [-1, 1]; `restore` maps from and to [0, 1].

Shape story, for an image (B, 3, H, W) reflected to multiples of 4 and the widths of size T:

    patch_embed    3x3 convolution                  (B, 24, H,   W)
    layer1         blocks                           (B, 24, H,   W)    -> kept as skip1
    patch_merge1   2x2 convolution, stride 2        (B, 48, H/2, W/2)
    layer2         blocks                           (B, 48, H/2, W/2)  -> kept as skip2
    patch_merge2   and layer3                       (B, 96, H/4, W/4)
    patch_split1   1x1 convolution, pixel shuffle   (B, 48, H/2, W/2), fused with skip2, then layer4
    patch_split2   the same                         (B, 24, H,   W), fused with skip1, then layer5
    patch_unembed  3x3 convolution                  (B, 4, H, W) = K (1 channel) and B (3 channels)
    result         K * image - B + image            (B, 3, H, W)

A block is x + mix(x), then x + mlp(x). The last `attn_ratio` share of a layer's blocks mixes with window
attention beside a convolution and is rescaled around it (RLN); the others have the convolution and no norm.
"""

import math

import torch
from torch import nn

from mclir_nb.networks.layers import (
    ReflectConv2d,
    attention,
    from_windows,
    named,
    reflect_pad,
    relative_offsets,
    to_windows,
)


class RLN(nn.Module):
    """Rescaled layer norm: one mean and one deviation per image over (C, H, W), kept for the way back."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.meta1 = nn.Conv2d(1, dim, 1)  # deviation -> rescale
        self.meta2 = nn.Conv2d(1, dim, 1)  # mean -> rebias
        for meta, start in ((self.meta1, 1.0), (self.meta2, 0.0)):
            nn.init.trunc_normal_(meta.weight, std=0.02)
            assert meta.bias is not None
            nn.init.constant_(meta.bias, start)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, C, H, W) -> normalised (B, C, H, W), rescale (B, C, 1, 1), rebias (B, C, 1, 1)."""
        mean = x.mean((1, 2, 3), keepdim=True)
        std = ((x - mean).square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        normalised = (x - mean) / std * self.weight + self.bias
        return normalised, self.meta1(std), self.meta2(mean)


class WindowAttention(nn.Module):
    """Attention inside windows, with a position bias that a small network makes from log-spaced offsets."""

    def __init__(self, window_size: int, num_heads: int):
        super().__init__()
        self.window_size = window_size
        offset = torch.stack(relative_offsets(window_size), dim=-1)
        spaced = offset.sign() * offset.abs().double().log1p()  # a float32 log differs between machines
        self.register_buffer("relative_positions", spaced.to(torch.get_default_dtype()))  # (N, N, 2)
        # The last bias of meta adds one number to all scores of a head: softmax cancels it, it never learns.
        self.meta = nn.Sequential(nn.Linear(2, 256), nn.ReLU(inplace=True), nn.Linear(256, num_heads))

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Q, K, V maps stacked as (B, 3C, H, W), H and W multiples of the window -> (B, C, H, W)."""
        batch, channels, height, width = qkv.shape
        query, key, value = to_windows(qkv.permute(0, 2, 3, 1), self.window_size).chunk(3, dim=-1)
        bias = self.meta(self.relative_positions).permute(2, 0, 1)  # (heads, N, N)
        out = attention(query, key, value, bias)
        return from_windows(out, self.window_size, (batch, height, width, channels // 3)).permute(0, 3, 1, 2)


def _conv3x3(dim: int, out: int) -> nn.Conv2d:
    """3x3 convolution that sees the reflected border."""
    return ReflectConv2d(dim, out, 3, padding=1)


class Attention(nn.Module):
    """What a block mixes with: a convolution (5x5 depth-wise or two 3x3), window attention, or their sum."""

    def __init__(self, network_depth, dim, num_heads, window_size, shift_size, use_attn, conv_type):
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.use_attn, self.conv_type = use_attn, conv_type
        if conv_type == "Conv":
            self.conv = nn.Sequential(_conv3x3(dim, dim), nn.ReLU(inplace=True), _conv3x3(dim, dim))
        elif conv_type == "DWConv":
            self.conv = ReflectConv2d(dim, dim, 5, padding=2, groups=dim)
        if use_attn or conv_type == "DWConv":
            self.V = nn.Conv2d(dim, dim, 1)
            self.proj = nn.Conv2d(dim, dim, 1)
        if use_attn:
            self.QK = nn.Conv2d(dim, 2 * dim, 1)
            self.attn = WindowAttention(window_size, num_heads)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                _narrow_normal_(module, gain=1.0 if name == "QK" else (8 * network_depth) ** -0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.use_attn:
            return self.conv(x) if self.conv_type == "Conv" else self.proj(self.conv(self.V(x)))
        value = self.V(x)
        out = self._attend(torch.cat([self.QK(x), value], dim=1))
        return self.proj(out if self.conv_type is None else self.conv(value) + out)

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Window attention over the reflected map: a shift moves the grid, nothing is rolled or masked.

        Official code stops at maps too small for their padding: 4 to 6 pixels, so images below 25.
        """
        height, width = qkv.shape[-2:]
        size, shift = self.window_size, self.shift_size
        padded = reflect_pad(qkv, shift, -(shift + width) % size, shift, -(shift + height) % size)
        return self.attn(padded)[:, :, shift : shift + height, shift : shift + width]


def _mlp(network_depth: int, dim: int, hidden: int) -> nn.Sequential:
    """Two 1x1 convolutions with a ReLU between."""
    first, last = nn.Conv2d(dim, hidden, 1), nn.Conv2d(hidden, dim, 1)
    for layer in (first, last):
        _narrow_normal_(layer, gain=(8 * network_depth) ** -0.25)
    return named(mlp=nn.Sequential(first, nn.ReLU(inplace=True), last))


def _narrow_normal_(layer: nn.Conv2d, gain: float) -> None:
    """Official initialisation: truncated normal of Glorot width times `gain`, zero bias."""
    fans = layer.weight[0, 0].numel() * (layer.weight.shape[0] + layer.weight.shape[1])
    nn.init.trunc_normal_(layer.weight, std=gain * math.sqrt(2.0 / fans))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


class TransformerBlock(nn.Module):
    """x + rescale * mix(normalised x) + rebias, then x + mlp(x); without attention nothing is normalised."""

    def __init__(self, network_depth, dim, num_heads, mlp_ratio, window_size, shift_size, use_attn, conv_type):
        super().__init__()
        self.norm1 = RLN(dim) if use_attn else None
        self.attn = Attention(network_depth, dim, num_heads, window_size, shift_size, use_attn, conv_type)
        self.mlp = _mlp(network_depth, dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm1 is None:
            x = x + self.attn(x)
        else:
            normalised, rescale, rebias = self.norm1(x)
            x = x + self.attn(normalised) * rescale + rebias
        return x + self.mlp(x)  # official quirk: a norm before the mlp is written there but never switched on


class BasicLayer(nn.Module):
    """`depth` blocks at one resolution; the last attn_ratio * depth of them attend."""

    def __init__(self, network_depth, window_size, dim, depth, num_heads, mlp_ratio, attn_ratio, conv_type):
        super().__init__()
        self.blocks = nn.ModuleList()
        for index in range(depth):
            shift_size = window_size // 2 if index % 2 else 0  # by place in the layer, attending or not
            use_attn = index >= depth - attn_ratio * depth
            shape = (network_depth, dim, num_heads, mlp_ratio, window_size, shift_size, use_attn, conv_type)
            self.blocks.append(TransformerBlock(*shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def _to_coarser(dim: int, out: int) -> nn.Sequential:
    return named(proj=nn.Conv2d(dim, out, 2, 2))


def _to_finer(dim: int, out: int) -> nn.Sequential:
    return named(proj=nn.Sequential(nn.Conv2d(dim, 4 * out, 1), nn.PixelShuffle(2)))


class SKFusion(nn.Module):
    """Selective-kernel fusion: a softmax between two maps, channel by channel, from their pooled sum."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = max(dim // 8, 4)
        first, last = nn.Conv2d(dim, hidden, 1, bias=False), nn.Conv2d(hidden, 2 * dim, 1, bias=False)
        self.mlp = nn.Sequential(first, nn.ReLU(inplace=True), last)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Two (B, C, H, W) maps -> their weighted sum."""
        first, second = maps
        pooled = (first + second).mean((2, 3), keepdim=True)
        share = self.mlp(pooled).unflatten(1, (2, -1)).softmax(dim=1)  # (B, 2, C, 1, 1)
        return first * share[:, 0] + second * share[:, 1]


class DehazeFormer(nn.Module):
    """The bare network; five values per list, one for each layer. The official norm_layer argument is always RLN."""

    patch_size = 4  # two halvings

    def __init__(
        self,
        in_chans: int = 3,
        out_chans: int = 4,  # one for K, the rest for B
        window_size: int = 8,  # side of an attention window, even
        embed_dims=(24, 48, 96, 48, 24),  # channels; symmetric, because skips are fused by addition
        mlp_ratios=(2.0, 4.0, 4.0, 2.0, 2.0),  # hidden width of the MLPs per channel
        depths=(16, 16, 16, 8, 8),  # blocks
        num_heads=(2, 4, 6, 1, 1),
        attn_ratio=(0.25, 0.5, 0.75, 0, 0),  # share of attending blocks, counted from the end of the layer
        conv_type=("DWConv",) * 5,  # "DWConv", "Conv" or None (attention only, so attn_ratio must be 1)
    ):
        super().__init__()
        lists = (embed_dims, depths, num_heads, mlp_ratios, attn_ratio, conv_type)
        _check(*lists)
        layers = [BasicLayer(sum(depths), window_size, *options) for options in zip(*lists, strict=True)]
        dims = embed_dims
        self.patch_embed = named(proj=_conv3x3(in_chans, dims[0]))
        self.layer1 = layers[0]
        self.patch_merge1 = _to_coarser(dims[0], dims[1])
        self.skip1 = nn.Conv2d(dims[0], dims[0], 1)
        self.layer2 = layers[1]
        self.patch_merge2 = _to_coarser(dims[1], dims[2])
        self.skip2 = nn.Conv2d(dims[1], dims[1], 1)
        self.layer3 = layers[2]
        self.patch_split1 = _to_finer(dims[2], dims[3])
        self.fusion1 = SKFusion(dims[3])
        self.layer4 = layers[3]
        self.patch_split2 = _to_finer(dims[3], dims[4])
        self.fusion2 = SKFusion(dims[4])
        self.layer5 = layers[4]
        self.patch_unembed = named(proj=nn.Sequential(_conv3x3(dims[4], out_chans)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1], H and W from 9 -> the same shape, nominally [-1, 1]."""
        height, width = image.shape[-2:]
        if min(height, width) < 9:  # a 5x5 convolution cannot reflect the coarsest map
            raise ValueError(f"image is {height}x{width}; DehazeFormer needs 9 pixels a side, enlarge it first")
        image = reflect_pad(image, 0, -width % self.patch_size, 0, -height % self.patch_size)
        skip1 = self.layer1(self.patch_embed(image))
        skip2 = self.layer2(self.patch_merge1(skip1))
        x = self.patch_split1(self.layer3(self.patch_merge2(skip2)))
        x = self.layer4(self.fusion1([x, self.skip2(skip2)]) + x)  # the deeper map counts twice
        x = self.patch_split2(x)
        x = self.layer5(self.fusion2([x, self.skip1(skip1)]) + x)
        gain, offset = self.patch_unembed(x).tensor_split([1], dim=1)  # K and B of the paper
        return (gain * image - offset + image)[:, :, :height, :width]


def _check(*lists) -> None:
    """Stop at options that cannot be built."""
    if lengths := [len(values) for values in lists if len(values) != 5]:
        raise ValueError(f"DehazeFormer has five layers, a list has {lengths[0]} values; give five in each")
    dims = lists[0]
    if dims[0] != dims[4] or dims[1] != dims[3]:
        raise ValueError(f"embed_dims {list(dims)} are not symmetric; use [a, b, c, b, a]")
    for dim, _, heads, _, share, kind in zip(*lists, strict=True):
        if share and dim % heads:
            raise ValueError(f"{dim} channels cannot be split over {heads} heads; use a divisor of {dim}")
        if kind not in ("DWConv", "Conv") and (kind is not None or share < 1):
            raise ValueError(f"conv_type {kind!r}, attn_ratio {share}: use 'DWConv', 'Conv', or None with ratio 1")


def restore(core: DehazeFormer, lq: torch.Tensor) -> torch.Tensor:
    """The core for images in [0, 1], (B, 3, H, W), any H and W from 16; not clamped."""
    return core(lq * 2 - 1) * 0.5 + 0.5


def _size(embed_dims, depths, attn_ratio, conv_type="DWConv") -> dict:
    """Constructor options of one family member."""
    return dict(embed_dims=embed_dims, depths=depths, attn_ratio=attn_ratio, conv_type=[conv_type] * 5)


_SLIM, _WIDE, _SHARE = [24, 48, 96, 48, 24], [48, 96, 192, 96, 48], [0.25, 0.5, 0.75, 0, 0]

# t, s, b, m, l: official factories. demo and tiny are ours, for laptops and tests.
SIZES: dict[str, dict] = {
    "t": _size(_SLIM, [4, 4, 4, 2, 2], [0, 0.5, 1, 0, 0]),
    "s": _size(_SLIM, [8, 8, 8, 4, 4], _SHARE),
    "b": _size(_SLIM, [16, 16, 16, 8, 8], _SHARE),
    "m": _size(_SLIM, [12, 12, 12, 6, 6], _SHARE, "Conv"),
    "l": _size(_WIDE, [16, 16, 16, 12, 12], _SHARE, "Conv"),
    "demo": _size([16, 32, 48, 32, 16], [2, 2, 2, 1, 1], [0, 0.5, 1, 0, 0]),
    "tiny": _size([8, 16, 24, 16, 8], [1, 2, 2, 1, 1], [0, 0.5, 1, 0, 0]),
}
