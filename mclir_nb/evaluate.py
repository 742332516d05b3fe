"""A network on a benchmark under a named protocol: one row per image."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sized

import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb import degrade, metrics
from mclir_nb.progress import Progress
from mclir_nb.tasks import to_uint8

Pair = tuple[str, Tensor, Tensor]  # name, gt (3,H,W), lq (3,H/scale,W/scale), float32 in [0,1]


def evaluate(
    network: nn.Module,
    benchmark: Iterable[Pair],
    protocol: str = "basicsr-rgb",
    crop: int = 0,
    quiet: bool = False,
) -> pd.DataFrame:
    """Score a network and its untouched input.

    Args:
        network: maps (1,3,H,W) RGB [0,1] to (1,3,H*scale,W*scale); scored in eval mode on its own device.
        benchmark: pairs, for example `datasets.benchmark`, which reads one at a time.
        protocol: a key of `metrics.PROTOCOLS`; crop: border left out, in gt pixels.
    Returns: columns image, psnr_input, ssim_input, psnr_restored, ssim_restored (dB and 1), seconds. For
        super-resolution the input is the bicubic enlargement of lq.
    """
    rows = []
    bar = Progress(benchmark if isinstance(benchmark, Sized) else list(benchmark), "scoring", quiet=quiet)
    for name, gt, lq in bar:
        start = time.perf_counter()
        restored = restore_batch(network, lq[None])[0]
        seconds = time.perf_counter() - start
        row = {"image": name}
        for kind, image in (("input", enlarge(lq, gt)), ("restored", restored)):
            row |= score(image, gt, kind, protocol, crop)
        rows.append(row | {"seconds": seconds})
        bar.note = f"{name} {row['psnr_restored']:.2f} dB"
    if not rows:
        raise ValueError("the benchmark holds no pictures; check its folder and split.")
    return pd.DataFrame(rows)


def score(image: Tensor, gt: Tensor, kind: str, protocol: str, crop: int) -> dict[str, float]:
    """PSNR and SSIM of one picture, as columns psnr_KIND and ssim_KIND."""
    shown = image.clamp(0, 1)
    return {
        f"psnr_{kind}": metrics.psnr(shown, gt, protocol=protocol, crop=crop),
        f"ssim_{kind}": metrics.ssim(shown, gt, protocol=protocol, crop=crop),
    }


@torch.inference_mode()
def restore_batch(network: nn.Module, lq: Tensor) -> Tensor:
    """The network's output for a batch, in eval mode, back on the CPU, clamped to [0,1]; the mode is put back."""
    training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        return network(lq.to(device)).clamp(0, 1).float().cpu()
    finally:
        network.train(training)


def enlarge(lq: Tensor, gt: Tensor) -> Tensor:
    """lq at the size of gt: itself, or MATLAB's 8-bit bicubic enlargement."""
    if lq.shape == gt.shape:
        return lq
    return degrade.bicubic(to_uint8(lq), gt.shape[-1] // lq.shape[-1]).float() / 255


def side_by_side(
    network: nn.Module, histories: list[nn.Module], benchmark: Iterable[Pair], limit: int
) -> list[dict]:
    """What the network and its histories make of the first `limit` pictures: rows for `figures.comparison`.

    Returns: dicts with name, lq, restored, negatives (one per history) and gt, all (3,H,W) in [0,1].
    """
    rows = []
    for name, gt, lq in itertools.islice(benchmark, limit):
        restored, *negatives = (restore_batch(net, lq[None])[0] for net in (network, *histories))
        rows.append({"name": name, "lq": lq, "restored": restored, "negatives": negatives, "gt": gt})
    return rows


def mean_psnr(network: nn.Module, pairs: Iterable[Pair], protocol: str, crop: int) -> float:
    """Mean over images of the PSNR in dB; for validation during training."""
    values = [
        metrics.psnr(restore_batch(network, lq[None])[0], gt, protocol=protocol, crop=crop)
        for _, gt, lq in pairs
    ]
    return sum(values) / len(values)
