"""PromptIR, one network for several degradations at once: a Restormer whose decoder asks learned prompts.

Reference: Potlapalli et al., arXiv:2306.13090. Keys, shapes, initial values and numbers agree with
va1shn9v/PromptIR @ 106159a, net/model.py; the released weights belong to `PromptIR(decoder=True)`.

Convention: RGB in [0, 1] without normalisation, height and width multiples of 8; the network adds its input
to the last convolution. `restore` pads images of any other size.

Shapes, with C = dim; "+ p" are the channels of a prompt, (64, 128, 320) officially:

    patch_embed, encoder_level1   (B, C, H, W)               a copy of each encoder level goes to the decoder
    down1_2, encoder_level2       (B, 2C, H / 2, W / 2)
    down2_3, encoder_level3       (B, 4C, H / 4, W / 4)
    down3_4, latent               (B, 8C, H / 8, W / 8)
      prompt3, noise_level3       (B, 8C + p3, H / 8, W / 8) -> reduce_noise_level3 -> 4C
    up4_3, + level 3              (B, 2C + 4C, H / 4, W / 4) -> reduce_chan_level3 -> 4C -> decoder_level3
      prompt2, noise_level2       (B, 4C + p2, H / 4, W / 4) -> reduce_noise_level2 -> 4C
    up3_2, + level 2              (B, 2C + 2C, H / 2, W / 2) -> reduce_chan_level2 -> 2C -> decoder_level2
      prompt1, noise_level1       (B, 2C + p1, H / 2, W / 2) -> reduce_noise_level1 -> 2C
    up2_1, + level 1              (B, C + C, H, W)           decoder_level1 and refinement stay at 2C
    output                        (B, 3, H, W)               plus the image
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.networks.layers import LayerNorm2d, named

_SHALLOW = dict(num_blocks=[1, 1, 1, 1], num_refinement_blocks=1)
SIZES: dict[str, dict] = {
    "paper": dict(decoder=True),
    "demo": dict(decoder=True, dim=12, prompt_dims=(16, 32, 64), prompt_sizes=(32, 16, 8), **_SHALLOW),
    "tiny": dict(decoder=True, dim=8, prompt_dims=(4, 8, 16), prompt_sizes=(16, 8, 4), **_SHALLOW),
}


def restore(core: "PromptIR", lq: Tensor) -> Tensor:
    """The core for images (B, 3, H, W) of any size: reflected right and below to multiples of 8, cropped again.

    The official demo.py pads like this; the tests beside it crop to multiples of 16 instead.
    """
    height, width = lq.shape[-2:]
    lq = F.pad(lq, (0, -width % 8, 0, -height % 8), "reflect")
    return core(lq)[..., :height, :width]


class Attention(nn.Module):
    """Attention between channels (MDTA): d x d scores for heads of d channels, whatever the image size."""

    def __init__(self, dim: int, num_heads: int, bias: bool):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels do not split into {num_heads} heads; change dim, prompt_dims or heads")
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv_dwconv(self.qkv(x)).permute(0, 2, 3, 1).flatten(1, 2)  # (B, HW, 3C)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, HW, d)
        q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)  # each channel to length 1 over all pixels
        scores = q.transpose(-2, -1) @ k * self.temperature  # cosines, (B, heads, d, d)
        out = v @ scores.softmax(-1).transpose(-2, -1)
        b, c, h, w = x.shape
        out = out.transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return self.project_out(out)


class FeedForward(nn.Module):
    """Gated feed-forward (GDFN): one half of the channels, through an exact GELU, multiplies the other."""

    def __init__(self, dim: int, ffn_expansion_factor: float, bias: bool):
        super().__init__()
        hidden = int(dim * ffn_expansion_factor)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * value)


class TransformerBlock(nn.Module):
    """Channel attention and feed-forward, both pre-normalised residual branches: (B, C, H, W) -> same."""

    def __init__(self, dim: int, num_heads: int, ffn_expansion_factor: float, bias: bool):
        super().__init__()
        self.norm1 = named(body=LayerNorm2d(dim))
        self.attn = Attention(dim, num_heads, bias)
        self.norm2 = named(body=LayerNorm2d(dim))
        self.ffn = FeedForward(dim, ffn_expansion_factor, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


def downsample(dim: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, 2C, H / 2, W / 2)."""
    return named(body=nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)))


def upsample(dim: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, C / 2, 2H, 2W)."""
    return named(body=nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, padding=1, bias=False), nn.PixelShuffle(2)))


class PromptGenBlock(nn.Module):
    """A prompt for these features: (B, lin_dim, H, W) -> (B, prompt_dim, H, W).

    The mean of the features chooses a mixture of `prompt_len` learned maps, which is resized and filtered.
    """

    def __init__(self, prompt_dim: int, prompt_len: int, prompt_size: int, lin_dim: int):
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, prompt_len, prompt_dim, prompt_size, prompt_size))
        self.linear_layer = nn.Linear(lin_dim, prompt_len)
        self.conv3x3 = nn.Conv2d(prompt_dim, prompt_dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.linear_layer(x.mean((-2, -1))).softmax(1)  # (B, prompt_len)
        prompt = torch.einsum("bl,lchw->bchw", weights, self.prompt_param[0])
        if prompt.shape[-2:] != x.shape[-2:]:  # the gradient of resizing is not deterministic on CUDA
            prompt = F.interpolate(prompt, x.shape[-2:], mode="bilinear", align_corners=False)
        return self.conv3x3(prompt)


class PromptIR(nn.Module):
    """PromptIR with the official argument names, defaults and state_dict; for shapes see the top of the file."""

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,  # the same, because the input is added to the output
        dim: int = 48,  # C
        num_blocks: list[int] | tuple[int, ...] = (4, 6, 6, 8),  # of levels 1 to 4, in encoder and decoder alike
        num_refinement_blocks: int = 4,
        heads: list[int] | tuple[int, ...] = (1, 2, 4, 8),  # of levels 1 to 4
        ffn_expansion_factor: float = 2.66,  # hidden width of the feed-forward parts per channel, rounded down
        bias: bool = False,  # of convolutions inside the blocks and of 1x1 convolutions
        LayerNorm_type: str = "WithBias",  # the only one
        decoder: bool = False,  # whether the prompts exist; False is the official default, and cannot run
        *,
        # Constants officially, which binds `dim` to 48; arguments here for small members.
        prompt_dims: tuple[int, int, int] = (64, 128, 320),  # channels of the learned prompts 1 to 3
        prompt_sizes: tuple[int, int, int] = (64, 32, 16),  # their side
        prompt_len: int = 5,  # how many there are to mix
    ):
        super().__init__()
        if LayerNorm_type != "WithBias":
            raise ValueError(f"LayerNorm_type {LayerNorm_type!r} is not supported; use 'WithBias'")

        def blocks(channels: int, level: int, count: int) -> nn.Sequential:
            return nn.Sequential(*[block(channels, level) for _ in range(count)])

        def block(channels: int, level: int) -> TransformerBlock:
            return TransformerBlock(channels, heads[level - 1], ffn_expansion_factor, bias)

        def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 1, bias=bias)

        p1, p2, p3 = prompt_dims
        self.decoder = decoder
        self.patch_embed = named(proj=nn.Conv2d(inp_channels, dim, 3, padding=1, bias=False))  # whatever `bias` says
        if decoder:
            self.prompt1 = PromptGenBlock(p1, prompt_len, prompt_sizes[0], 2 * dim)
            self.prompt2 = PromptGenBlock(p2, prompt_len, prompt_sizes[1], 4 * dim)
            self.prompt3 = PromptGenBlock(p3, prompt_len, prompt_sizes[2], 8 * dim)
        # official: chnl_reduce* and reduce_noise_channel_* are in every checkpoint and never used
        p3_reduced = p3 * 4 // 5
        self.chnl_reduce1 = conv1x1(p1, p1)
        self.chnl_reduce2 = conv1x1(p2, p2)
        self.chnl_reduce3 = conv1x1(p3, p3_reduced)

        self.reduce_noise_channel_1 = conv1x1(dim + p1, dim)
        self.encoder_level1 = blocks(dim, 1, num_blocks[0])
        self.down1_2 = downsample(dim)
        self.reduce_noise_channel_2 = conv1x1(2 * dim + p2, 2 * dim)
        self.encoder_level2 = blocks(2 * dim, 2, num_blocks[1])
        self.down2_3 = downsample(2 * dim)
        self.reduce_noise_channel_3 = conv1x1(4 * dim + p3_reduced, 4 * dim)
        self.encoder_level3 = blocks(4 * dim, 3, num_blocks[2])
        self.down3_4 = downsample(4 * dim)
        self.latent = blocks(8 * dim, 4, num_blocks[3])

        # official: all three noise levels have the heads of level 3, and level 2 is reduced to 4C only
        self.up4_3 = upsample(4 * dim)
        self.reduce_chan_level3 = conv1x1(6 * dim, 4 * dim)
        self.noise_level3 = block(8 * dim + p3, 3)
        self.reduce_noise_level3 = conv1x1(8 * dim + p3, 4 * dim)
        self.decoder_level3 = blocks(4 * dim, 3, num_blocks[2])
        self.up3_2 = upsample(4 * dim)
        self.reduce_chan_level2 = conv1x1(4 * dim, 2 * dim)
        self.noise_level2 = block(4 * dim + p2, 3)
        self.reduce_noise_level2 = conv1x1(4 * dim + p2, 4 * dim)
        self.decoder_level2 = blocks(2 * dim, 2, num_blocks[1])
        self.up2_1 = upsample(2 * dim)  # level 1 concatenates without a reduction
        self.noise_level1 = block(2 * dim + p1, 3)
        self.reduce_noise_level1 = conv1x1(2 * dim + p1, 2 * dim)
        self.decoder_level1 = blocks(2 * dim, 1, num_blocks[0])
        self.refinement = blocks(2 * dim, 1, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def forward(self, lq: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], H and W multiples of 8 -> same shape, not clamped."""
        if not self.decoder:
            raise ValueError("PromptIR(decoder=False) has nothing to make the input of up4_3; use decoder=True")
        if lq.shape[-2] % 8 or lq.shape[-1] % 8:
            raise ValueError(f"an image of {lq.shape[-2]} x {lq.shape[-1]} is no multiple of 8; use promptir.restore")
        # pixels in the outer axes of memory: the norms and products over channels then need no copies
        x = lq.contiguous(memory_format=torch.channels_last)
        level1 = self.encoder_level1(self.patch_embed(x))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.latent(self.down3_4(level3))

        x = self.noise_level3(torch.cat([x, self.prompt3(x)], 1))
        x = self.up4_3(self.reduce_noise_level3(x))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([x, level3], 1)))

        x = self.noise_level2(torch.cat([x, self.prompt2(x)], 1))
        x = self.up3_2(self.reduce_noise_level2(x))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([x, level2], 1)))

        x = self.noise_level1(torch.cat([x, self.prompt1(x)], 1))
        x = self.up2_1(self.reduce_noise_level1(x))
        x = self.refinement(self.decoder_level1(torch.cat([x, level1], 1)))
        return lq + self.output(x)
