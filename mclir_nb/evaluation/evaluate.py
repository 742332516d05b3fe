"""A network on a benchmark under a named protocol: one row per picture, what it cost, and how sure the mean is."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sized
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mclir_nb.data import degrade
from mclir_nb.data.tasks import Task, to_uint8
from mclir_nb.evaluation import metrics, tiles
from mclir_nb.experiments import paper
from mclir_nb.progress import Progress

Pair = tuple[str, Tensor, Tensor]  # name, gt (3,H,W), lq (3,H/scale,W/scale), float32 in [0,1]

COST = ["seconds", "memory_mb", "tiles"]  # the columns that depend on the machine
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
    memory: int | None = None,
) -> pd.DataFrame:
    """Score a network and its untouched input.

    Args:
        network: maps (1,3,H,W) RGB [0,1] to (1,3,H*scale,W*scale); scored in eval mode on its own device.
        benchmark: pairs, for example `patches.Benchmark`, which reads one at a time.
        protocol: a key of `metrics.PROTOCOLS`; None: that of the benchmark's task, "basicsr-rgb" without one.
        crop: border left out, in gt pixels; None: that of the benchmark's task, 0 without one.
        tile, ensemble, memory: as in `tiles.run`: a picture that does not fit into memory is cut into tiles.
    Returns: columns image, psnr_input, ssim_input, psnr_restored, ssim_restored (dB and 1), seconds (of the
        network), memory_mb (the most the process held meanwhile, on CUDA the most that was allocated; NaN where it
        is not known), tiles (1: the picture as a whole). For super-resolution the input is the bicubic enlargement
        of lq. `attrs` holds protocol, crop, ensemble and network (its name and number of parameters).
    Raises: ValueError for an empty benchmark, a network of another scale, an impossible protocol, crop or tile.
    """
    task: Task | None = getattr(benchmark, "task", None)
    protocol = protocol or (task.protocol if task else "basicsr-rgb")
    crop = crop if crop is not None else task.crop if task else 0
    options = dict(tile=tile, ensemble=ensemble, memory=memory)
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
    restored, cost = _timed(network, lq[None], options)
    row = score(enlarge(lq, gt), gt, "input", protocol, crop)
    return row | score(restored, gt, "restored", protocol, crop) | cost


def _timed(network: nn.Module, lq: Tensor, options: dict) -> tuple[Tensor, dict[str, float]]:
    """The restored picture (3,H,W) and its row of `COST`."""
    side = options["tile"] or tiles.automatic_tile(network, *lq.shape[2:], options["memory"])
    peak = _Peak(tiles.device_of(network))
    start = time.perf_counter()
    restored = tiles.run(network, lq, **(options | {"tile": side}))[0]
    seconds = time.perf_counter() - start
    pieces = math.prod(len(tiles.spans(length, side)) for length in lq.shape[2:])
    return restored, dict(zip(COST, (seconds, peak.megabytes(), pieces), strict=True))


class _Peak:
    """The most memory held since this was made: CUDA counts its own, Linux the pages of the process."""

    def __init__(self, device: torch.device):
        self.device, self.known = device, True
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        except OSError:
            self.known = False

    def megabytes(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        if not self.known:
            return math.nan
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def as_published(network: nn.Module) -> nn.Module:
    """The network in the form in which its authors score it; changes and returns it.

    NAFNet then averages over windows of 1.5 training patches (NAFNetLocal, TLC) where pictures are larger than 384
    pixels; IDT always cuts its official tiles; all others are scored as they are.
    """
    core = getattr(network, "core", network)
    if hasattr(core, "pool_locally"):
        core.pool_locally(256)  # the side of the GoPro training patches
    return network


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


def side_by_side(network: nn.Module, histories: list[nn.Module], benchmark: Iterable[Pair], limit: int) -> list[dict]:
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
        metrics.psnr(restore_batch(network, lq[None])[0], gt, protocol=protocol, crop=crop) for _, gt, lq in pairs
    ]
    return sum(values) / len(values)


# ------------------------------------------------------------------------------------------------ what it says


def summary(scores: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Means over the pictures with bootstrap intervals, the gain over the input paired picture by picture.

    The interval answers "what if other pictures of this kind had been chosen?" for this one network. It says nothing
    about training again with another seed: for that see `intervals.paired`.

    Args:
        scores: as `evaluate` returns it.
        draws: resampled sets of pictures; seed: of these draws, so that the same table gives the same numbers.
    Returns: index `SCORES`; columns mean, low, high (95 %, percentiles of the resampled means; NaN for one picture, or
        where a PSNR is infinite), pictures.
    """
    table = scores.assign(
        psnr_gain=scores.psnr_restored - scores.psnr_input, ssim_gain=scores.ssim_restored - scores.ssim_input
    )[SCORES].to_numpy(float)
    picked = np.random.default_rng(seed).integers(len(table), size=(draws, len(table)))
    rows = []
    for values in table.T:
        low, high = (math.nan, math.nan)
        if len(values) > 1 and np.isfinite(values).all():
            low, high = np.quantile(values[picked].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        rows.append({"mean": values.mean(), "low": low, "high": high, "pictures": len(values)})
    return pd.DataFrame(rows, index=pd.Index(SCORES, name="score"))


def parts(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of each part of a mixture: one mean over noise, rain and haze together would mean nothing.

    Args: scores: as `evaluate` returns it; pictures of a mixture are called "PART/NAME", or "PART/NAME noise SIGMA".
    Returns: one row per part in the order of the pictures (the index), columns pictures | `SCORES` without the gains.
    """
    names = scores.image.str.extract(r"^(?:(.*)/)?.*?( noise \S+)?$").fillna("")
    groups = scores.groupby((names[0] + names[1]).rename("part"), sort=False)
    return groups[SCORES[:4]].mean().assign(pictures=groups.size())


PAPER_NETWORKS = {
    "ffanet": "FFANet",
    "dehazeformer-t": "DehazeFormer-T",
    "dehazeformer-s": "DehazeFormer-S",
    "dehazeformer-b": "DehazeFormer-B",
    "idt": "IDT",
    "edsr": "EDSR-light",
    "swinir-light": "SwinIR-light",
    "swinir": "SwinIR",
    "nafnet": "NAFNet",
}
PAPER_DATASETS = {  # data set: (its name in the paper, what to know before comparing)
    "reside-its": ("SOTS-indoor", ""),
    "reside-in": ("SOTS-indoor", ""),
    "sots-indoor": ("SOTS-indoor", ""),
    "reside-6k": ("SOTS-mix", "SOTS-mix is RESIDE-6K"),
    "rain200l": ("Rain100L", "the paper prints IDT's Rain200L values under the name Rain100L"),
    "rain200h": ("Rain100H", "the paper prints IDT's Rain200H values under the name Rain100H"),
    "did": ("DID", ""),
    "ddn": ("DDN", ""),
    "spa-data": ("SPA", "the abstract's gain contradicts this row"),
    "set14": ("Set14", ""),
    "b100": ("B100", ""),
    "bsds500": ("B100", "images/val is B100; LR is made here"),
    "urban100": ("Urban100", ""),
    "manga109": ("Manga109", "the x2 values are most likely 8 dB too low, a slip of one digit"),
    "gopro": ("GoPro", "which SSIM gave the SPN value is not known; NAFNet's own is the 3-D one"),
}


def beside_paper(scores: pd.DataFrame, network: str, dataset: str, scale: int = 1) -> pd.DataFrame:
    """The measured means below the paper's rows for the same network and benchmark; every row says whose it is.

    Args:
        scores: as `evaluate` returns it. network, dataset: names of this workbook. scale: of super-resolution.
    Returns: columns source ("paper" or "measured here") | what | pictures (NaN for the paper, which does not say) |
        psnr_db | low | high (of `summary`) | ssim | protocol | note. Without a row in the paper only what was measured.
    """
    means, facts = summary(scores), scores.attrs
    kinds = {"input": "untouched input", "restored": facts.get("network", network)}
    protocol = f"{facts.get('protocol', '')}, crop {facts.get('crop', 0)}"
    rows = _paper_rows(network, dataset, scale)
    for kind, what in kinds.items():
        row = means.loc[f"psnr_{kind}"]
        measured = {"source": "measured here", "what": what, "pictures": row.pictures, "psnr_db": row["mean"]}
        measured |= {"low": row.low, "high": row.high, "ssim": means.loc[f"ssim_{kind}", "mean"]}
        rows.append(measured | {"protocol": protocol, "note": "" if rows else "the paper has no such row"})
    columns = ["source", "what", "pictures", "psnr_db", "low", "high", "ssim", "protocol", "note"]
    return pd.DataFrame(rows, columns=columns)


def _paper_rows(network: str, dataset: str, scale: int) -> list[dict]:
    name, (place, note) = PAPER_NETWORKS.get(network), PAPER_DATASETS.get(dataset, (None, ""))
    table = pd.concat([paper.tables()[task] for task in paper.RESULTS])
    wanted = (table.network == name) & (table.dataset == place) & table.scale.isin(["", f"x{scale}"])
    facts = {"source": "paper", "protocol": "not stated in the paper", "note": note}
    return [
        facts
        | {
            "what": f"{name}{' + SPN' if row.objective == 'SPN' else ''}, {place}",
            "psnr_db": row.psnr_db,
            "ssim": row.ssim,
        }
        for row in table[wanted].itertuples()
    ]
