"""SwinIR, a Swin Transformer for super-resolution; the SPN paper uses its "light" and "classical" sizes.

Reference: Liang et al., arXiv:2108.10257. Keys, shapes, initial values and numbers agree with
JingyunLiang/SwinIR @ 6545850, models/network_swinir.py (and with BasicSR @ 8d56e3a, which pads outside the
network). Options that none of its super-resolution models for clean images uses are left out: dropout,
absolute position embedding, the heads for real-world and same-size images.

Convention: RGB in [0, 1] of any size goes in and comes out. The DIV2K mean, `img_range`, the padding to whole
windows and the final crop are inside the class. (main_test_swinir.py, which made the published benchmark numbers,
pads otherwise: mirrored with the border pixel, always 1 to `window_size` pixels.)

Shapes, with C = embed_dim, d = C / heads, and n windows of N = window_size ** 2 tokens:

    image            (B, 3, H, W)          minus the mean, padded to whole windows
    conv_first       (B, C, H, W)          shallow features
    patch_embed      (B, H, W, C)          one token per pixel; the official code flattens to (B, H * W, C)
      layers[i]      (B, H, W, C)          blocks of window attention and MLP, then a convolution and a skip
        attention    (B * n, heads, N, d)  every second block sees windows shifted by half a window
    conv_after_body  (B, C, H, W)          after a last norm; plus the shallow features
    head             (B, 3, s * H, s * W)  plus the mean, cropped to the size of the image
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.networks.layers import DropPath, attention, from_windows, named, relative_offsets, to_windows, upsampler

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K; a plain attribute officially, never in the state_dict

_SR = dict(window_size=8, img_range=1.0, mlp_ratio=2, resi_connection="1conv")
SIZES: dict[str, dict] = {  # add `upscale=`; `img_size` fixes the attn_mask buffers: the DF2K files want 64
    "light": dict(img_size=64, embed_dim=60, depths=[6] * 4, num_heads=[6] * 4, upsampler="pixelshuffledirect", **_SR),
    "classical": dict(img_size=48, embed_dim=180, depths=[6] * 6, num_heads=[6] * 6, upsampler="pixelshuffle", **_SR),
    "demo": dict(img_size=48, embed_dim=40, depths=[4, 4], num_heads=[4, 4], upsampler="pixelshuffledirect", **_SR),
    "tiny": dict(img_size=24, embed_dim=16, depths=[2], num_heads=[2], upsampler="pixelshuffledirect", **_SR),
}


def relative_position_index(window: int) -> Tensor:
    """(N, N) row of the bias table for each pair of tokens: row offset * (2 * window - 1) + column offset, from 0."""
    row, column = relative_offsets(window)
    return (row + window - 1) * (2 * window - 1) + column + window - 1


def shift_mask(height: int, width: int, window: int, device: torch.device | None = None) -> Tensor:
    """(n, N, N), added to the scores in shifted windows: -100 between pixels from opposite image sides.

    The cyclic shift brings the first rows below the last ones. So each axis has three bands (untouched, own
    part of the last window, wrapped part), and attention stays inside one of the 3 x 3 regions.
    """

    def band(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).long() + (position >= size - window // 2).long()

    region = 3 * band(height)[:, None] + band(width)  # (H, W)
    region = to_windows(region[None, :, :, None], window).squeeze(-1)  # (n, N)
    return (region[:, :, None] != region[:, None, :]) * -100.0


class WindowAttention(nn.Module):
    """Multi-head attention inside each window, with a learned bias per head and relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int):
        super().__init__()
        self.window = window
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, W, C) -> the same shape, H and W multiples of the window."""
        query, key, value = self.qkv(to_windows(x, self.window)).chunk(3, dim=-1)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, N, N)
        out = attention(query, key, value, bias, mask)
        return from_windows(self.proj(out), self.window, x.shape)


class SwinBlock(nn.Module):
    """Window attention and MLP, both pre-normalised residual branches; with a `mask`, in shifted windows."""

    attn_mask: Tensor

    def __init__(self, dim: int, heads: int, window: int, mask: Tensor | None, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.shift = 0 if mask is None else window // 2
        if mask is not None:  # for images of img_size; in the state_dict, so a checkpoint fixes img_size
            self.register_buffer("attn_mask", mask.clone())
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = named(fc1=nn.Linear(dim, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, dim))

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention in plain or shifted windows; `mask` replaces the stored one at other image sizes."""
        if not self.shift:
            return self.attn(x, None)
        x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self.attn(x, self.attn_mask if mask is None else mask)
        return x.roll((self.shift, self.shift), (1, 2))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """The only kind of convolution in this network."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class SwinLayer(nn.Module):
    """Residual Swin Transformer block (RSTB) of the paper: blocks, convolution, skip."""

    def __init__(self, dim: int, blocks: list[SwinBlock]):
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})  # for the sake of the official keys
        self.conv = conv3x3(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = x
        for block in self.residual_group["blocks"].children():
            y = block(y, mask)
        return self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + x  # channels last in memory throughout


class SwinIR(nn.Module):
    """SwinIR with the official state_dict, argument names and, but for `upsampler`, defaults; shapes: see the top."""

    mean: Tensor

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 64,  # for which attn_mask is stored; any other size is masked in passing
        in_chans: int = 3,
        embed_dim: int = 96,  # C
        depths: list[int] | tuple[int, ...] = (6, 6, 6, 6),  # blocks of each layer
        num_heads: list[int] | tuple[int, ...] = (6, 6, 6, 6),  # of each layer
        window_size: int = 7,  # side of a window in LR pixels; img_size is a multiple
        mlp_ratio: float = 4.0,  # hidden width of the MLPs relative to C
        drop_path_rate: float = 0.1,  # stochastic depth in training, growing linearly from 0 over the blocks
        upscale: int = 2,
        img_range: float = 1.0,  # unit inside the network, 1.0 or 255.0
        upsampler: str = "pixelshuffle",  # the head: this one (classical) or "pixelshuffledirect" (lightweight)
        resi_connection: str = "1conv",  # the only one
    ):
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        size = (height, width)
        _check(size, embed_dim, depths, num_heads, window_size, resi_connection)
        self.img_size, self.window_size = size, window_size
        self.upscale, self.upsampler, self.img_range = upscale, upsampler, img_range
        mean = torch.tensor(RGB_MEAN if in_chans == 3 else (0.0,)).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)

        # official: an img_size of one window switches shifting off, at all image sizes
        mask = shift_mask(height, width, window_size) if min(size) > window_size else None
        rates = iter([drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))])
        self.conv_first = conv3x3(in_chans, embed_dim)
        self.patch_embed = named(norm=nn.LayerNorm(embed_dim))
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            masks = [mask if i % 2 else None for i in range(depth)]
            blocks = [SwinBlock(embed_dim, heads, window_size, m, mlp_ratio, next(rates)) for m in masks]
            self.layers.append(SwinLayer(embed_dim, blocks))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv3x3(embed_dim, embed_dim)
        self._build_head(embed_dim, in_chans)
        self.apply(_initialise)

    def _build_head(self, dim: int, channels: int, features: int = 64) -> None:
        """From feature maps to the image; the attribute names are the official keys."""
        if self.upsampler == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(conv3x3(dim, features), nn.LeakyReLU(0.01, inplace=True))
            self.upsample = upsampler(features, self.upscale)
            self.conv_last = conv3x3(features, channels)
        elif self.upsampler == "pixelshuffledirect":  # one step for every factor, and no conv_last
            self.upsample = nn.Sequential(conv3x3(dim, channels * self.upscale**2), nn.PixelShuffle(self.upscale))
        else:
            raise ValueError(f"upsampler {self.upsampler!r} is unknown; use 'pixelshuffle' or 'pixelshuffledirect'")

    def body(self, shallow: Tensor) -> Tensor:
        """All layers, with the global skip: (B, C, H, W) -> (B, C, H, W)."""
        x = self.patch_embed(shallow.permute(0, 2, 3, 1))
        height, width = x.shape[1:3]
        stored = (height, width) == self.img_size
        mask = None if stored else shift_mask(height, width, self.window_size, x.device)  # one for all blocks
        for layer in self.layers:
            x = layer(x, mask)
        return self.conv_after_body(self.norm(x).permute(0, 3, 1, 2)) + shallow

    def head(self, x: Tensor) -> Tensor:
        """Features to pixels: (B, C, H, W) -> (B, channels, H * upscale, W * upscale)."""
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(x)
        return self.conv_last(self.upsample(self.conv_before_upsample(x)))

    def forward(self, lq: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, H * upscale, W * upscale), not clamped."""
        height, width = lq.shape[-2:]
        lq = F.pad(lq, (0, -width % self.window_size, 0, -height % self.window_size), "reflect")
        x = (lq - self.mean) * self.img_range
        out = self.head(self.body(self.conv_first(x))) / self.img_range + self.mean
        return out[..., : height * self.upscale, : width * self.upscale]


def _initialise(module: nn.Module) -> None:
    """Official start values of the linear maps; all other layers keep PyTorch's.

    Officially trunc_normal_ with std 0.02, whose cut at +-2 is 100 standard deviations away: a plain normal.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(size, dim, depths, num_heads, window, resi_connection) -> None:
    """One sentence about the first argument that does not fit."""
    if any(side < window or side % window for side in size):
        raise ValueError(f"img_size {size} is not made of windows of {window}; use multiples of window_size")
    if len(depths) != len(num_heads):
        raise ValueError(f"depths has {len(depths)} layers and num_heads {len(num_heads)}; give one number each")
    for heads in num_heads:
        if dim % heads:
            raise ValueError(f"embed_dim {dim} does not split into {heads} heads; use a multiple of num_heads")
    if resi_connection != "1conv":
        raise ValueError(f"resi_connection {resi_connection!r} is not supported; use '1conv'")
