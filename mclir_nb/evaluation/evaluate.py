"""A network on a benchmark under a named protocol: one row per picture, what it cost, and how sure the mean is."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from mclir_nb.data import degrade
from mclir_nb.data.tasks import Task, to_uint8
from mclir_nb.evaluation import memory, metrics, tiles
from mclir_nb.progress import Progress

Pair = tuple[str, Tensor, Tensor]  # name, gt (3,H,W), lq (3,H/scale,W/scale), float32 in [0,1]

SCORES = ["psnr_input", "ssim_input", "psnr_restored", "ssim_restored", "psnr_gain", "ssim_gain"]
LEVEL = 0.95  # of the intervals, two-sided


def evaluate(
    network: nn.Module,
    benchmark: Iterable[Pair],
    protocol: str | None = None,
    crop: int | None = None,
    quiet: bool = False,
    *,
    tile: int | None = None,
    ensemble: bool = False,
) -> pd.DataFrame:
    """Score a network and its untouched input.

    Args:
        network: maps (1,3,H,W) RGB [0,1] to (1,3,H*scale,W*scale); scored in eval mode on its own device.
        benchmark: pairs, for example `patches.Benchmark`, which reads one at a time.
        protocol: a key of `metrics.PROTOCOLS`; None: that of the benchmark's task, "basicsr-rgb" without one.
        crop: border left out, in gt pixels; None: that of the benchmark's task, 0 without one.
        quiet: show no progress.
        tile, ensemble: as in `tiles.run`.

    Returns:
        Columns image, psnr_input, ssim_input, psnr_restored, ssim_restored (dB and 1), seconds (of the network),
        memory_mb (peak of `memory.peak`; NaN on a CPU, where measuring it would slow the network), tiles (1: the
        picture as a whole). For super-resolution the input is the bicubic enlargement of lq. `attrs` holds protocol,
        crop, ensemble and network (its name and number of parameters).

    Raises:
        ValueError: an empty benchmark, a network of another scale, an impossible protocol, crop or tile.
    """
    task: Task | None = getattr(benchmark, "task", None)
    protocol = protocol or (task.protocol if task else "basicsr-rgb")
    crop = crop if crop is not None else task.crop if task else 0
    options = dict(tile=tile, ensemble=ensemble)
    rows = []
    bar = Progress(benchmark if isinstance(benchmark, Sized) else list(benchmark), "scoring", quiet=quiet)
    for name, gt, lq in bar:
        try:
            rows.append({"image": name} | _row(network, gt, lq, protocol, crop, options))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        bar.note = f"{name} {rows[-1]['psnr_restored']:.2f} dB"
    if not rows:
        raise ValueError("the benchmark holds no pictures; check its folder and split.")
    table = pd.DataFrame(rows)
    size = sum(parameter.numel() for parameter in network.parameters())
    label = f"{getattr(network, 'name', type(network).__name__)}, {size:,} parameters"
    table.attrs = {"protocol": protocol, "crop": crop, "ensemble": ensemble, "network": label}
    return table


def _row(network: nn.Module, gt: Tensor, lq: Tensor, protocol: str, crop: int, options: dict) -> dict:
    """The scores of one picture and what they cost."""
    wanted, found = tiles.scale_of(network), gt.shape[-1] / lq.shape[-1]
    if found != wanted:
        raise ValueError(
            f"gt is {found:g} times as large as lq, but the network enlarges {wanted} times; "
            f"open the benchmark with scale {wanted}, or use a network of scale {found:g}."
        )
    device, held = tiles.device_of(network), math.nan
    start = time.perf_counter()
    if device.type == "cuda":
        restored, held = memory.peak(lambda: tiles.run(network, lq[None], **options), device)
    else:
        restored = tiles.run(network, lq[None], **options)
    cost = {"seconds": time.perf_counter() - start, "memory_mb": held / 1e6}
    cost["tiles"] = tiles.count(lq, options["tile"])
    row = score(enlarge(lq, gt), gt, "input", protocol, crop)
    return row | score(restored[0], gt, "restored", protocol, crop) | cost


def as_published(network: nn.Module) -> nn.Module:
    """The network in the form in which its authors score it; changes and returns it.

    NAFNet then averages over windows of 1.5 training patches (NAFNetLocal, TLC) where pictures are larger than 384
    pixels; IDT always cuts its official tiles; all others are scored as they are.
    """
    core: Any = getattr(network, "core", network)
    if hasattr(core, "pool_locally"):
        core.pool_locally()
    return network


def score(image: Tensor, gt: Tensor, kind: str, protocol: str, crop: int) -> dict[str, float]:
    """PSNR and SSIM of one picture, as columns psnr_KIND and ssim_KIND."""
    return {
        f"psnr_{kind}": metrics.psnr(image, gt, protocol=protocol, crop=crop),
        f"ssim_{kind}": metrics.ssim(image, gt, protocol=protocol, crop=crop),
    }


def enlarge(lq: Tensor, gt: Tensor) -> Tensor:
    """lq at the size of gt: itself, or MATLAB's 8-bit bicubic enlargement."""
    if lq.shape == gt.shape:
        return lq
    return degrade.bicubic(to_uint8(lq), gt.shape[-1] // lq.shape[-1]).float() / 255


def side_by_side(network: nn.Module, histories: list[nn.Module], benchmark: Iterable[Pair], limit: int) -> list[dict]:
    """What the network and its histories make of the first `limit` pictures: rows for `figures.comparison`.

    Each has name, lq, restored, negatives (one per history) and gt, all (3,H,W) in [0,1].
    """
    rows = []
    for name, gt, lq in itertools.islice(benchmark, limit):
        restored, *negatives = (tiles.run(net, lq[None])[0] for net in (network, *histories))
        rows.append({"name": name, "lq": lq, "restored": restored, "negatives": negatives, "gt": gt})
    return rows


def mean_psnr(network: nn.Module, pairs: Iterable[Pair], protocol: str, crop: int) -> float:
    """Mean over images of the PSNR in dB, for validation during training: restored as `evaluate` restores."""
    values = [metrics.psnr(tiles.run(network, lq[None])[0], gt, protocol, crop) for _, gt, lq in pairs]
    return sum(values) / len(values)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over the pictures with bootstrap intervals, the gain over the input paired picture by picture.

    The interval answers "what if other pictures of this kind had been chosen?" for this one network. It says nothing
    about training again with another seed: for that see `intervals.paired`.

    Args:
        scores: as `evaluate` returns it; the same table gives the same numbers.

    Returns:
        Index `SCORES`; columns mean, low, high (95 %, percentiles of the resampled means; NaN for one picture, or
        where a PSNR is infinite), pictures.
    """
    table = scores.assign(
        psnr_gain=scores.psnr_restored - scores.psnr_input, ssim_gain=scores.ssim_restored - scores.ssim_input
    )[SCORES].to_numpy(float)
    picked = np.random.default_rng(0).integers(len(table), size=(10_000, len(table)))
    rows = []
    for values in table.T:
        low, high = (math.nan, math.nan)
        if len(values) > 1 and np.isfinite(values).all():
            low, high = np.quantile(values[picked].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        rows.append({"mean": values.mean(), "low": low, "high": high, "pictures": len(values)})
    return pd.DataFrame(rows, index=pd.Index(SCORES, name="score"))


def parts(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of each part of a mixture: one mean over noise, rain and haze together would mean nothing.

    Pictures of a mixture are called "PART/NAME", or "PART/NAME noise SIGMA". Returns: one row per part (the index) in
    the order of the pictures, columns `SCORES` without the gains | pictures.
    """
    names = scores.image.str.extract(r"^(?:(.*)/)?.*?( noise \S+)?$").fillna("")
    groups = scores.groupby((names[0] + names[1]).rename("part"), sort=False)
    return groups[SCORES[:4]].mean().assign(pictures=groups.size())
