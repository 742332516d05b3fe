"""A network on an image of any size: overlapping tiles that agree with the whole image.

Two neighbouring tiles share OVERLAP = 128 lq pixels. Of these each tile throws away the outer 48, which were
only context, and the 32 in the middle are cross-faded. So where a network looks no farther than 48 pixels (EDSR
baseline: 36) tiles and the whole image agree to rounding, seams included. Tiles begin at multiples of 64, so that
windows (8), pooling (16) and padding lie as they do in the whole image. A network that looks at the whole image
(the channel attention of FFA-Net, NAFNet and PromptIR averages over it) sees only its tile; there the result is an
approximation with soft seams.

The side of a tile is a number, the same on every machine: whether a picture is cut, and with it its score, does not
depend on how much memory is free. Every picture of the paper's benchmarks is one tile of the default side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from mclir_nb.method import precision
from mclir_nb.networks import check_finite
from mclir_nb.progress import Progress

TILE = 1280  # lq pixels: GoPro's 1280x720 is one tile
ALIGN, CONTEXT, FADE = 64, 48, 32  # lq pixels
OVERLAP = 2 * CONTEXT + FADE
SMALLEST_TILE = 2 * OVERLAP  # so that no pixel lies in more than two tiles of a row or column
SMALLEST_IMAGE = 16  # what every network accepts; a smaller image is extended by its edge
ENSEMBLE = tuple((turns, flip) for flip in (False, True) for turns in range(4))


@precision.full_float32()
def run(
    network: nn.Module, lq: Tensor, tile: int | None = None, *, ensemble: bool = False, quiet: bool = True
) -> Tensor:
    """The network's output for one image, in eval mode and without TF32; the mode is put back.

    Args:
        network: maps (1,3,H,W) in [0,1] to (1,3,H*scale,W*scale), with `scale` as an attribute (else 1).
        lq: (1,3,H,W) float32 in [0,1].
        tile: side of a tile in lq pixels, a multiple of 64 and at least 256; None: `TILE`. A smaller image is not cut.
        ensemble: the mean over the eight flips and rotations; takes eight times as long.
        quiet: show no progress.

    Returns:
        (1,3,H*scale,W*scale) float32 on the CPU, clamped to [0,1].

    Raises:
        ValueError: an impossible tile, a tile that does not fit into memory, or an image or output that is not finite.
    """
    check_finite(lq)
    height, width = lq.shape[2:]
    rows, columns = (max(0, SMALLEST_IMAGE - side) for side in (height, width))
    lq = functional.pad(lq, (0, columns, 0, rows), "replicate") if rows or columns else lq
    scale, side = scale_of(network), checked(tile)
    views = ENSEMBLE if ensemble else ENSEMBLE[:1]
    total = len(views) * count(lq, side)
    bar = iter(Progress(range(total), "restoring", quiet=quiet or total == 1))
    training = network.training
    network.eval()
    try:
        output = _mean_over(views, network, lq, side, bar)
    finally:
        network.train(training)
    next(bar, None)
    if not torch.isfinite(output).all():
        raise ValueError("the network's output holds NaN or infinity; its weights are damaged or do not fit it.")
    return output[:, :, : height * scale, : width * scale].clamp_(0, 1)


def scale_of(network: nn.Module) -> int:
    """Output size / input size."""
    return int(getattr(network, "scale", 1))


def device_of(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Where the tiles of one axis begin and end; the last ends at the border and may be shorter."""
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(starts[-1] + tile - OVERLAP)
    return [(start, min(start + tile, length)) for start in starts]


def count(lq: Tensor, tile: int | None = None) -> int:
    """How many tiles an image (..., H, W) is cut into."""
    return math.prod(len(spans(length, checked(tile))) for length in lq.shape[-2:])


def checked(tile: int | None) -> int:
    """The side of a tile, `TILE` for None. Raises ValueError for an impossible one."""
    if tile is None:
        return TILE
    if tile % ALIGN or tile < SMALLEST_TILE:
        better = max(SMALLEST_TILE, round(tile / ALIGN) * ALIGN)
        raise ValueError(f"tile {tile} must be a multiple of {ALIGN} and at least {SMALLEST_TILE}; use {better}.")
    return tile


def _mean_over(views, network: nn.Module, lq: Tensor, tile: int, bar: Iterator) -> Tensor:
    if len(views) == 1:
        return _tiled(network, lq, tile, bar)
    total = torch.zeros(())
    for turns, flip in views:
        turned = torch.rot90(lq.flip(3) if flip else lq, turns, (2, 3))
        back = torch.rot90(_tiled(network, turned, tile, bar), -turns, (2, 3))
        total = total + (back.flip(3) if flip else back)
    return total / len(views)


def _tiled(network: nn.Module, lq: Tensor, tile: int, bar: Iterator) -> Tensor:
    """The output for the whole of `lq`, tile after tile."""
    scale, device = scale_of(network), device_of(network)
    rows, columns = (spans(side, tile) for side in lq.shape[2:])
    output = torch.zeros(1, 3, lq.shape[2] * scale, lq.shape[3] * scale)
    for top, bottom in rows:
        down = _weights(top, bottom, lq.shape[2], scale)[:, None]
        for left, right in columns:
            piece = _piece(network, lq[:, :, top:bottom, left:right], device)
            weight = down * _weights(left, right, lq.shape[3], scale)
            place = output[:, :, top * scale : bottom * scale, left * scale : right * scale]
            place += piece * weight if len(rows) + len(columns) > 2 else piece
            next(bar)
    return output


def _piece(network: nn.Module, lq: Tensor, device: torch.device) -> Tensor:
    try:
        with torch.inference_mode():
            return network(lq.to(device)).float().cpu()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        side = max(lq.shape[2:])
        smaller = max(SMALLEST_TILE, side // 2 // ALIGN * ALIGN)
        advice = [f"give a smaller tile (tile={smaller})"] if smaller + ALIGN <= side else []
        advice += ["free some memory" if device.type == "cpu" else "use the CPU"]
        raise ValueError(
            f"{device} has too little memory for {lq.shape[3]}x{lq.shape[2]} pixels at once; {', or '.join(advice)}."
        ) from error


def _weights(first: int, last: int, length: int, scale: int) -> Tensor:
    """How much each output pixel of a tile counts along one axis: 0, a ramp, then 1, at every inner border."""
    weights = torch.ones((last - first) * scale)
    fade = FADE * scale
    ramp = torch.cat([torch.zeros(CONTEXT * scale), (torch.arange(fade) + 0.5) / fade])
    if first > 0:
        weights[: len(ramp)] = ramp
    if last < length:
        weights[-len(ramp) :] = ramp.flip(0)
    return weights
