"""IDT, the image de-raining transformer: windows for detail, attention across windows for reach.

Reference: Xiao, Fu, Liu, Wu, Zha, "Image De-raining Transformer", IEEE TPAMI 2022.
Facts (names, shapes, constants): jiexiaou/IDT @ d72510c, model.py and test_full_size.py.

Input convention: RGB in [0, 1], not normalised, of exactly img_size x img_size pixels (128 in the paper): the
cross-window attention knows one number of windows. `restore` cuts other images into overlapping tiles.

Shape story, for the paper's embed_dim 32; blocks see maps channels last, (B, H, W, C):

    input_proj      3x3 convolution, LeakyReLU                  (B, 32, 128, 128)
    encoderlayer_0  3 window blocks, 1 cross-window block       (B, 32, 128, 128)  -> kept
    dowsample_0     4x4 convolution, stride 2 (official name)   (B, 64, 64, 64)
    encoderlayer_1  the same; 2 and 3 have 2 window blocks      (B, 64, 64, 64)    -> kept
    ...             down to encoderlayer_3                      (B, 256, 16, 16)   -> kept
    bottle          1 window block                              (B, 512, 8, 8)
    upsample_0      2x2 transposed convolution                  (B, 256, 16, 16)
    decoderlayer_0  beside encoder 3; 1 window, 1 cross-window  (B, 512, 16, 16)
    ...             2, 2 and 3 window blocks, to decoderlayer_3 (B, 64, 128, 128)
    output_proj     3x3 convolution, added to the image         (B, 3, 128, 128)
"""

import torch
from torch import nn

from mclir_nb.networks.layers import DropPath, attention, from_windows, named, reflect_pad, relative_offsets, to_windows

TILES_AT_ONCE = 8  # bounds the memory of a large photograph
CROSS_WINDOW = 8  # window side of the cross-window blocks, whatever win_size says


class LinearProjection(nn.Module):
    """Tokens to query, key, value and a second value that only feeds the position branch."""

    def __init__(self, dim: int, bias: bool):
        super().__init__()
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_kv = nn.Linear(dim, 3 * dim, bias=bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, N, C) -> query, key, value and the second value, each (B, N, C)."""
        return self.to_q(x), *self.to_kv(x).chunk(3, dim=-1)


class WindowAttention(nn.Module):
    """Attention among a square of size * size tokens, with a table of biases and a convolved position."""

    def __init__(self, dim: int, size: int, num_heads: int, qkv_bias: bool, k_bound: int = 8):
        super().__init__()
        self.size, self.k_bound = size, k_bound
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * k_bound - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        reach = min(size - 1, 2)  # 5x5, but 3x3 among 2x2 windows
        self.Position_Extract = nn.Sequential(
            nn.Conv2d(dim, dim, 2 * reach + 1, padding=reach, groups=dim), nn.Conv2d(dim, dim, 1, groups=num_heads)
        )
        self.qkv = LinearProjection(dim, qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, N, C), N = size * size."""
        query, key, value, located = self.qkv(x)
        out = attention(query, key, value, self._position_bias())
        square = located.unflatten(1, (self.size, self.size)).permute(0, 3, 1, 2)  # (B, C, size, size)
        position = self.Position_Extract(square).flatten(2).transpose(1, 2)
        return self.proj(out + position)

    def _position_bias(self) -> torch.Tensor:
        """(heads, N, N) from the table; offsets beyond k_bound share its last entry."""
        last = self.k_bound - 1
        table = self.relative_position_bias_table.unflatten(0, (2 * last + 1, 2 * last + 1))
        rows, columns = (offset.clamp(-last, last) + last for offset in relative_offsets(self.size, table.device))
        return table[rows, columns].permute(2, 0, 1)


class LeFF(nn.Module):
    """Feed-forward with a depth-wise 3x3 convolution in the middle, which is added to its own input."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.linear1 = nn.Sequential(nn.Linear(dim, hidden), nn.GELU())
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.GELU())
        self.linear2 = nn.Sequential(nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.linear1(x).permute(0, 3, 1, 2)
        return self.linear2((self.dwconv(x) + x).permute(0, 2, 3, 1))


class IDTBlock(nn.Module):
    """Attention inside win x win windows, then LeFF. No window is ever shifted."""

    def __init__(self, dim, resolution, num_heads, mlp_ratio, qkv_bias, drop_path, win_size):
        super().__init__()
        self.win = min(win_size, resolution)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, self.win, num_heads, qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = LeFF(dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        attended = self.attn(to_windows(self.norm1(x), self.win))
        x = x + self.drop_path(from_windows(attended, self.win, x.shape))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SpatialTransformerLayer(nn.Module):
    """Attention across windows, channel by channel: a window is a token, its 64 pixels are the features."""

    def __init__(self, dim, resolution, num_heads, mlp_ratio, qkv_bias, drop_path, k_bound):
        super().__init__()
        features = CROSS_WINDOW**2
        self.attn = WindowAttention(features, resolution // CROSS_WINDOW, num_heads, qkv_bias, k_bound)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)  # official: no norm1
        self.mlp = LeFF(dim, int(features * mlp_ratio))  # official: as wide for 32 channels as for 512

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, channels = len(x), x.shape[-1]
        windows = to_windows(x, CROSS_WINDOW).unflatten(0, (batch, -1)).permute(0, 3, 1, 2)  # (B, C, windows, 64)
        out = self.attn(windows.flatten(0, 1).contiguous()).reshape(batch, channels, -1).transpose(1, 2)
        # Official quirk: windows are not folded back; 64 pixels of a window are added to 64 pixels in a row.
        x = x + self.drop_path(out.reshape(x.shape))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class BasicIDTLayer(nn.Module):
    """`num` window blocks at one resolution and, unless k_bound is None, one cross-window block."""

    def __init__(self, dim, resolution, num_heads, num, rates, k_bound, win_size, mlp_ratio, qkv_bias):
        super().__init__()
        shared = (dim, resolution, num_heads, mlp_ratio, qkv_bias)
        blocks = [IDTBlock(*shared, rates[0], win_size) for _ in range(num)]
        if k_bound is not None:
            blocks.append(SpatialTransformerLayer(*shared, rates[-1], k_bound))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W), channels last in memory."""
        x = x.permute(0, 2, 3, 1).contiguous()
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


class IDT(nn.Module):
    """The bare network, without the official class's unused mask, shift and checkpointing options."""

    def __init__(
        self,
        img_size: int = 128,  # side of the only image it accepts: 64, 128 or a multiple of 128
        in_chans: int = 3,
        embed_dim: int = 32,  # channels at full size
        depths=(2,) * 9,  # only spread the DropPath rates; the official numbers of blocks are fixed
        num_heads=(1, 2, 4, 8, 16, 16, 8, 4, 2),  # also of the cross-window blocks, so divisors of 64
        win_size: int = 8,  # side of an attention window
        mlp_ratio: float = 4.0,  # hidden width of LeFF per channel
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,  # the largest, reached in the middle of the network
    ):
        super().__init__()
        _check(img_size, embed_dim, depths, num_heads, win_size)
        self.img_size = img_size
        rates = _drop_rates(depths, drop_path_rate)

        def halved(dim, out):
            return named(conv=nn.Sequential(nn.Conv2d(dim, out, 4, stride=2, padding=1)))

        def doubled(dim, out):
            return named(deconv=nn.Sequential(nn.ConvTranspose2d(dim, out, 2, stride=2)))

        def layer(i, dim, level, num, k_bound):
            shape = (dim, img_size >> level, num_heads[i], num, rates[i], k_bound)
            return BasicIDTLayer(*shape, win_size, mlp_ratio, qkv_bias)

        dim = embed_dim
        self.input_proj = named(
            proj=nn.Sequential(nn.Conv2d(in_chans, dim, 3, padding=1), nn.LeakyReLU(0.01, inplace=True))
        )
        self.output_proj = named(proj=nn.Sequential(nn.Conv2d(2 * dim, in_chans, 3, padding=1)))
        self.encoderlayer_0 = layer(0, dim, 0, num=3, k_bound=16)
        self.dowsample_0 = halved(dim, 2 * dim)
        self.encoderlayer_1 = layer(1, 2 * dim, 1, num=3, k_bound=8)
        self.dowsample_1 = halved(2 * dim, 4 * dim)
        self.encoderlayer_2 = layer(2, 4 * dim, 2, num=2, k_bound=4)
        self.dowsample_2 = halved(4 * dim, 8 * dim)
        self.encoderlayer_3 = layer(3, 8 * dim, 3, num=2, k_bound=2)
        self.dowsample_3 = halved(8 * dim, 16 * dim)
        self.bottle = layer(4, 16 * dim, 4, num=1, k_bound=None)
        self.upsample_0 = doubled(16 * dim, 8 * dim)
        self.decoderlayer_0 = layer(5, 16 * dim, 3, num=1, k_bound=2)
        self.upsample_1 = doubled(16 * dim, 4 * dim)
        self.decoderlayer_1 = layer(6, 8 * dim, 2, num=2, k_bound=4)
        self.upsample_2 = doubled(8 * dim, 2 * dim)
        self.decoderlayer_2 = layer(7, 4 * dim, 1, num=2, k_bound=8)
        self.upsample_3 = doubled(4 * dim, dim)
        self.decoderlayer_3 = layer(8, 2 * dim, 0, num=3, k_bound=16)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # official: convolutions keep PyTorch's initialisation
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, img_size, img_size) -> the same shape."""
        side = self.img_size
        if image.shape[-2:] != (side, side):
            found = "x".join(map(str, image.shape[-2:]))
            raise ValueError(f"image is {found}; this IDT takes {side}x{side}, use idt.restore for other sizes")
        level0 = self.encoderlayer_0(self.input_proj(image))
        level1 = self.encoderlayer_1(self.dowsample_0(level0))
        level2 = self.encoderlayer_2(self.dowsample_1(level1))
        level3 = self.encoderlayer_3(self.dowsample_2(level2))
        x = self.bottle(self.dowsample_3(level3))
        x = self.decoderlayer_0(torch.cat([self.upsample_0(x), level3], dim=1))
        x = self.decoderlayer_1(torch.cat([self.upsample_1(x), level2], dim=1))
        x = self.decoderlayer_2(torch.cat([self.upsample_2(x), level1], dim=1))
        x = self.decoderlayer_3(torch.cat([self.upsample_3(x), level0], dim=1))
        return image + self.output_proj(x)


def _check(img_size, embed_dim, depths, num_heads, win_size) -> None:
    """Stop at options that cannot be built."""
    if len(depths) != 9 or len(num_heads) != 9:
        counts = f"{len(depths)} depths and {len(num_heads)} num_heads"
        raise ValueError(f"IDT has nine layers, got {counts}; give nine of each")
    if min(depths) < 1 or sum(depths[5:]) > sum(depths[:4]):
        raise ValueError(f"depths {list(depths)}: use positive ones, the last four no more than the first four")
    sides = [img_size >> level for level in range(5)]
    if img_size % (8 * CROSS_WINDOW) or any(side > win_size and side % win_size for side in sides):
        raise ValueError(f"img_size {img_size}, win_size {win_size}: no whole windows; use 64, 128 or 256 with 8")
    for heads, factor in zip(num_heads, (1, 2, 4, 8, 16, 16, 8, 4, 2), strict=True):
        if embed_dim * factor % heads or CROSS_WINDOW**2 % heads:
            raise ValueError(f"{heads} heads must divide 64 and {embed_dim * factor} channels; use fewer heads")


def _drop_rates(depths, largest: float) -> list[list[float]]:
    """DropPath rates of each layer: rising through the encoder, `largest` in the middle, falling again."""
    count = sum(depths[:4])
    rising = [largest * i / max(count - 1, 1) for i in range(count)]
    schedule = iter([*rising, *[largest] * depths[4], *rising[::-1]])
    return [[next(schedule) for _ in range(depth)] for depth in depths]


def tile_origins(height: int, width: int, tile: int) -> list[tuple[int, int]]:
    """Top left corners of the official tiles by rows (splitimage): 20 of 128 pixels overlap, the last at the edge."""
    step = tile - 20 * tile // 128
    rows, columns = ([*range(0, side - tile, step), side - tile] for side in (height, width))
    return [(top, left) for top in rows for left in columns]


def tile_weights(tile: int, like: torch.Tensor) -> torch.Tensor:
    """(tile, tile) weights 1 / distance to pixel tile / 2, half a pixel off the middle as in get_scoremap."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    squared = (torch.arange(tile, device=like.device, dtype=dtype) - tile / 2).square()
    return (squared[:, None] + squared + 1e-3).rsqrt().to(like.dtype)


def merge_tiles(tiles: torch.Tensor, origins: list[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    """Weighted mean of overlapping tiles, (T, B, C, tile, tile) -> (B, C, height, width)."""
    tile = tiles.shape[-1]
    weights = tile_weights(tile, tiles)
    merged, total = tiles.new_zeros(*tiles.shape[1:3], height, width), tiles.new_zeros(height, width)
    for (top, left), content in zip(origins, tiles, strict=True):
        area = (..., slice(top, top + tile), slice(left, left + tile))
        merged[area] += weights * content
        total[area] += weights
    return merged / total


def restore(core: IDT, lq: torch.Tensor) -> torch.Tensor:
    """The core for images (B, 3, H, W) of any size from 2 on; not clamped.

    An image of img_size x img_size goes straight through, a larger one is cut into the official overlapping
    tiles. A side below img_size is first reflected at its right or bottom border, again and again where it is
    short (official code raises IndexError for sides up to 128).
    """
    tile, (height, width) = core.img_size, lq.shape[-2:]
    padded = reflect_pad(lq, 0, max(0, tile - width), 0, max(0, tile - height))
    if padded.shape[-2:] == (tile, tile):
        return core(padded)[..., :height, :width]
    bottom, right = padded.shape[-2:]
    origins = tile_origins(bottom, right, tile)
    cuts = torch.cat([padded[..., top : top + tile, left : left + tile] for top, left in origins])
    restored = torch.cat([core(part) for part in cuts.split(TILES_AT_ONCE)]).unflatten(0, (len(origins), -1))
    return merge_tiles(restored, origins, bottom, right)[..., :height, :width]


_DEPTHS = [3, 3, 2, 2, 1, 1, 2, 2, 3]
_LAPTOP = {"img_size": 64, "embed_dim": 8, "depths": _DEPTHS, "num_heads": [1, 1, 2, 2, 4, 4, 2, 2, 1]}

# paper: the only published size. demo and tiny are ours, for laptops and tests: 64-pixel tiles, no DropPath
# (made for long runs), 8 channels (fewer hardly learn); the deepest maps hold two thirds of the weights.
SIZES: dict[str, dict] = {
    "paper": {"img_size": 128, "embed_dim": 32, "depths": _DEPTHS},
    "demo": {**_LAPTOP, "mlp_ratio": 2.0, "drop_path_rate": 0.0},
    "tiny": {**_LAPTOP, "mlp_ratio": 1.0, "drop_path_rate": 0.0},
}
