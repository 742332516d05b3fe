"""A network on an image of any size, in bounded memory: overlapping tiles that agree with the whole image.

Two neighbouring tiles share OVERLAP = 128 lq pixels. Of these each tile throws away the outer 48, which were
only context, and the 32 in the middle are cross-faded. So where a network looks no farther than 48 pixels (EDSR
baseline: 36) tiles and the whole image agree to rounding, seams included. Tiles begin at multiples of 64, so that
windows (8), pooling (16) and padding lie as they do in the whole image. A network that looks at the whole image
(the channel attention of FFA-Net, NAFNet and PromptIR averages over it) sees only its tile; there the result is an
approximation with soft seams.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mclir_nb.progress import Progress

ALIGN, CONTEXT, FADE = 64, 48, 32  # lq pixels
OVERLAP = 2 * CONTEXT + FADE
SMALLEST_TILE = 2 * OVERLAP  # so that no pixel lies in more than two tiles of a row or column
SMALLEST_IMAGE = 16  # what every network accepts; a smaller image is extended by its edge
ENSEMBLE = tuple((turns, flip) for flip in (False, True) for turns in range(4))


def run(
    network: nn.Module,
    lq: Tensor,
    tile: int | None = None,
    *,
    ensemble: bool = False,
    memory: int | None = None,
    quiet: bool = True,
) -> Tensor:
    """The network's output for one image, in eval mode; the mode is put back.

    Args:
        network: maps (1,3,H,W) in [0,1] to (1,3,H*scale,W*scale), with `scale` as an attribute (else 1).
        lq: (1,3,H,W) float32 in [0,1].
        tile: side of a tile in lq pixels, a multiple of 64 and at least 256; None: the whole image if it fits
            into `memory`, else the largest tile that does.
        ensemble: the mean over the eight flips and rotations; takes eight times as long.
        memory: bytes for what the network computes; None: half of what is free on its device.
        quiet: show no progress.
    Returns: (1,3,H*scale,W*scale) float32 on the CPU, clamped to [0,1].
    Raises: ValueError for an impossible tile, too little memory, or an output that is not finite.
    """
    height, width = lq.shape[2:]
    lq, scale = _extended(lq), scale_of(network)
    side = _checked(tile) if tile else automatic_tile(network, *lq.shape[2:], memory)
    views = ENSEMBLE if ensemble else ENSEMBLE[:1]
    count = len(views) * len(spans(lq.shape[2], side)) * len(spans(lq.shape[3], side))
    bar = iter(Progress(range(count), "restoring", total=count, quiet=quiet or count == 1))
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


def _checked(tile: int) -> int:
    if tile % ALIGN or tile < SMALLEST_TILE:
        better = max(SMALLEST_TILE, round(tile / ALIGN) * ALIGN)
        raise ValueError(f"tile {tile} must be a multiple of {ALIGN} and at least {SMALLEST_TILE}; use {better}.")
    return tile


def _extended(lq: Tensor) -> Tensor:
    rows, columns = (max(0, SMALLEST_IMAGE - side) for side in lq.shape[2:])
    return functional.pad(lq, (0, columns, 0, rows), "replicate") if rows or columns else lq


def _mean_over(views, network: nn.Module, lq: Tensor, tile: int, bar: Iterator) -> Tensor:
    if len(views) == 1:
        return _tiled(network, lq, tile, bar)
    total = torch.zeros(())
    for view in views:
        total = total + _turned_back(_tiled(network, _turned(lq, *view), tile, bar), *view)
    return total / len(views)


def _turned(image: Tensor, turns: int, flip: bool) -> Tensor:
    return torch.rot90(image.flip(3) if flip else image, turns, (2, 3))


def _turned_back(image: Tensor, turns: int, flip: bool) -> Tensor:
    image = torch.rot90(image, -turns, (2, 3))
    return image.flip(3) if flip else image


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
            place = (slice(None), slice(None), _scaled(top, bottom, scale), _scaled(left, right, scale))
            output[place] += piece * weight if len(rows) + len(columns) > 2 else piece
            next(bar)
    return output


def _scaled(first: int, last: int, scale: int) -> slice:
    return slice(first * scale, last * scale)


def _piece(network: nn.Module, lq: Tensor, device: torch.device) -> Tensor:
    try:
        with torch.inference_mode():
            return network(lq.to(device)).float().cpu()
    except torch.OutOfMemoryError as error:
        size = f"{lq.shape[3]}x{lq.shape[2]}"
        raise ValueError(
            f"{device} has too little free memory for {size} pixels at once; give a smaller tile, or use the CPU."
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


# ------------------------------------------------------------------------------------------------------ memory

SPARE = 2.0  # for what operations use inside, unseen here; measured need: 1.05 to 1.64 times what is seen


def automatic_tile(network: nn.Module, height: int, width: int, memory: int | None = None) -> int:
    """The side of the largest tile that fits, or that of the image if all of it does.

    Raises: ValueError if not even the smallest tile fits.
    """
    whole = -(-max(height, width) // ALIGN) * ALIGN
    if whole <= SMALLEST_TILE:
        return max(whole, SMALLEST_TILE)
    limit = free_memory(device_of(network)) // 2 if memory is None else memory
    fixed, per_pixel = _memory_model(network)
    if fixed + per_pixel * height * width <= limit:
        return whole
    side = int(max(0.0, (limit - fixed) / per_pixel) ** 0.5) // ALIGN * ALIGN
    if side < SMALLEST_TILE:
        need = predicted_memory(network, SMALLEST_TILE, SMALLEST_TILE)
        raise ValueError(
            f"a tile of {SMALLEST_TILE}x{SMALLEST_TILE} needs about {need / 1e6:,.0f} MB and {limit / 1e6:,.0f} MB "
            "may be used; free some memory, give more with `memory`, or use a smaller network."
        )
    return min(side, whole)


def predicted_memory(network: nn.Module, height: int, width: int) -> int:
    """Bytes that the network's intermediate results take at most for an image, beside its weights.

    Counted on two images of unequal size: what is alive at once grows linearly with the pixels in all networks of
    this workbook (in IDT, which cuts tiles itself, from a few tiles on). Doubled for what operations use inside.
    """
    fixed, per_pixel = _memory_model(network)
    return int(fixed + per_pixel * height * width)


_MODELS: weakref.WeakKeyDictionary[nn.Module, tuple[float, float]] = weakref.WeakKeyDictionary()


def _memory_model(network: nn.Module) -> tuple[float, float]:
    """Bytes = fixed + per_pixel * pixels; counted once for each network."""
    if network not in _MODELS:
        one, other, small, large = _most_alive(network)
        per_pixel = (large - small) / (other**2 - one**2)
        _MODELS[network] = SPARE * max(0.0, small - per_pixel * one**2), SPARE * max(per_pixel, 1.0)
    return _MODELS[network]


def _most_alive(network: nn.Module) -> tuple[int, int, int, int]:
    """Two sides, and for images of each the most bytes of tensors alive at once in a forward pass.

    Runs on shapes alone (the meta device), in no time; a network that cannot, because it looks at values, runs
    in earnest on smaller images.
    """
    training = network.training
    network.eval()
    try:
        meta = torch.device("meta")
        return 256, 384, _watched(network, 256, meta), _watched(network, 384, meta)
    except RuntimeError:
        here = device_of(network)
        return 64, 128, _watched(network, 64, here), _watched(network, 128, here)
    finally:
        network.train(training)


def _watched(network: nn.Module, side: int, device: torch.device) -> int:
    state = dict(network.named_parameters()) | dict(network.named_buffers())
    state = {
        name: torch.empty_like(value, device="meta") if device.type == "meta" else value
        for name, value in state.items()
    }
    lq = torch.full((1, 3, side, side), 0.5, device=device)
    with torch.no_grad(), _Watch([*state.values(), lq]) as watch:
        torch.func.functional_call(network, state, (lq,))
    return watch.most


class _Watch(TorchDispatchMode):
    """Follows the storages that operations make until they are freed."""

    def __init__(self, known: list[Tensor]):
        super().__init__()
        self.now = self.most = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.known:
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def free_memory(device: torch.device) -> int:
    """Bytes that can still be used on a device; on the CPU also within this container's limit."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [_available(Path("/proc/meminfo")), _container_rest(Path("/sys/fs/cgroup"))]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else 4 << 30  # neither is there outside Linux


def _available(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def _container_rest(group: Path) -> int | None:
    limit, used = group / "memory.max", group / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return None
    return max(0, int(limit.read_text()) - int(used.read_text()))
