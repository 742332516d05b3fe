"""The recipes of the paper's networks as their authors released them, every value with the file it stands in.

Only FFA-Net's recipe with SPN was released. For the other networks the base recipe is that of their own repository,
and everything about SPN is OURS: what the released FFA-Net recipe says, because nothing else is known.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

MCLIR = "Aitical/MCLIR @ e42fb40, options/FFANet_RESIDE_IN_fromScratch.yml"
OURS = "ours: SPN's setting for this network is not published; this is the one for FFA-Net"
NAFNET = "megvii-research/NAFNet @ 01a4c86, options/train/GoPro/NAFNet-width32.yml"
EDSR = "XPixelGroup/BasicSR @ 06fb33a, options/train/EDSR/train_EDSR_Mx4.yml"
LIGHT = "cszn/KAIR @ 70ccf76, options/swinir/train_swinir_sr_lightweight.json"
CLASSICAL = "cszn/KAIR @ 4614f66, options/swinir/train_swinir_sr_classical.json"
DEHAZEFORMER = "IDKiro/DehazeFormer, configs/{}/dehazeformer-{}.json @ 7a6d600 and train.py @ 607a167"
NONE = "ours: the authors' repository holds no training code or recipe (jiexiaou/IDT @ 65281a1)"

# fmt: off
_SPN = dict(objective="spn", features="vgg16", lambda_neg=1e-3,
            history_every=(1000, 500, 200, 100), history_decay=(0.1,) * 4, history_start=0.1)
_SWINIR = dict(steps=500_000, learning_rate=2e-4, betas=(0.9, 0.999), ema_decay=0.999,
               milestones=(250_000, 400_000, 450_000, 475_000))
_NOT_SEEN = "ours: the file of this size was not seen; as in " + DEHAZEFORMER.format("indoor", "s")


def _dehazeformer(batch_size: int, rate: float) -> dict[str, Any]:
    """A file of DehazeFormer, without steps: it counts passes over the data, whose incomplete batches are dropped."""
    return dict(batch_size=batch_size, patch_size=256, learning_rate=rate, learning_rate_min=rate * 1e-2,
                betas=(0.9, 0.999), weight_decay=0.01)


_S, _S_STEPS = _dehazeformer(16, 2e-4), dict(steps=300 * (13_990 // 16))
_ITS = ("ours: 300 passes, as in the file, over the 13,990 pairs of the standard ITS; the authors say that they used "
        "ITS of RESIDE v0, about 110,000 (github.com/IDKiro/DehazeFormer/issues/26)")

# network -> where it stands -> fields of a recipe
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    # its key use_grad_norm is never read, so gradients are not clipped; two and a half waves of the cosine; the data
    # paths in the file are placeholders
    "ffanet": {MCLIR: dict(steps=500_000, cosine_steps=100_000, batch_size=4, patch_size=128, learning_rate=2e-4,
                           learning_rate_min=1e-8, betas=(0.9, 0.9), weight_decay=0.0, ema_decay=0.999, val_every=5000,
                           **_SPN)},
    # official: mixed precision in 16 bits, and the rate changes once per pass over the data
    "dehazeformer-t": {DEHAZEFORMER.format("indoor", "t"): _dehazeformer(32, 4e-4),
                       _ITS: dict(steps=300 * (13_990 // 32)), OURS: _SPN},
    "dehazeformer-s": {DEHAZEFORMER.format("indoor", "s"): _S, _ITS: _S_STEPS, OURS: _SPN},
    "dehazeformer-b": {_NOT_SEEN: _S | _S_STEPS, OURS: _SPN},
    "dehazeformer-m": {_NOT_SEEN: _S | _S_STEPS, OURS: _SPN},
    # nothing about its training is released
    "idt": {NONE: dict(steps=300_000, batch_size=8, patch_size=128, learning_rate=2e-4, betas=(0.9, 0.999)),
            OURS: _SPN},
    # official, for x2; x3 and x4 start from the trained x2 network with halved schedule, here from fresh weights
    "swinir-light": {LIGHT: dict(batch_size=64, patch_size=4 * 64, **_SWINIR), OURS: _SPN},
    "swinir": {CLASSICAL: dict(batch_size=32, patch_size=4 * 48, **_SWINIR), OURS: _SPN},
    # official: x4 starts from the trained x2 network; here from fresh weights
    "edsr": {EDSR: dict(steps=300_000, batch_size=16, patch_size=192, learning_rate=1e-4, betas=(0.9, 0.99),
                        weight_decay=0.0, milestones=(200_000,)), OURS: _SPN},
    # official: minus PSNR as reconstruction loss, 8 GPUs with 4 crops each; here L1, as SPN's released code has it.
    # Clipping stands in basicsr/models/image_restoration_model.py, whose default the file leaves alone
    "nafnet": {NAFNET: dict(steps=200_000, batch_size=32, patch_size=256, learning_rate=1e-3, learning_rate_min=1e-7,
                            betas=(0.9, 0.9), weight_decay=0.0, grad_clip=0.01), OURS: _SPN},
}
# the same for RESIDE-6K, whose files are others; official: mirrored there, but not turned
ON_RESIDE_6K: dict[str, dict[str, dict[str, Any]]] = {
    "dehazeformer-t": {DEHAZEFORMER.format("reside6k", "t"): dict(steps=1000 * (6_000 // 32),
                                                                   **_dehazeformer(32, 2e-4)), OURS: _SPN},
    "dehazeformer-b": {DEHAZEFORMER.format("reside6k", "b"): dict(steps=1000 * (6_000 // 16),
                                                                   **_dehazeformer(16, 1e-4)), OURS: _SPN},
}
# the data and the scale that the files of RECIPES are for, where that matters
DATA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ffanet", "dehazeformer-t", "dehazeformer-s"), ("reside-its", "reside-in")),
    **dict.fromkeys(("swinir-light", "swinir", "edsr"), ("div2k",)), "nafnet": ("gopro",),
}
SCALE = {"swinir-light": 2, "swinir": 2}
# fmt: on


def fields(network: str, scale: int = 1, dataset: str | None = None) -> dict[str, Any]:
    """The recipe fields of a network's paper recipe; of FFA-Net's for a network that the paper does not train.

    The gt patch of super-resolution is that of x4; at another scale the lq patch is kept.
    """
    found = {field: value for part in _parts(network, scale, dataset).values() for field, value in part.items()}
    if scale in (2, 3):
        found["patch_size"] = found["patch_size"] * scale // 4
    return found


def table(network: str, dataset: str | None = None) -> pd.DataFrame:
    """Where every field of the paper recipe of a network in `RECIPES` stands: field, value, source.

    `dataset`: to train on; None: that of the file. Super-resolution: x4.
    """
    if network not in RECIPES:
        raise ValueError(f"{network} has no paper recipe; those with one: {', '.join(RECIPES)}.")
    parts = _parts(network, 4, dataset).items()
    rows = [(field, str(value), source) for source, part in parts for field, value in part.items()]
    return pd.DataFrame(rows, columns=["field", "value", "source"])


def whose(network: str, scale: int, dataset: str) -> str:
    """Who chose steps, batch, patch and rate: "authors" if a file for this network, scale and data has all of them."""
    chosen = {"steps", "batch_size", "patch_size", "learning_rate"}
    sources = [source for source, part in _parts(network, scale, dataset).items() if chosen & part.keys()]
    return "ours" if any(source.startswith("ours") for source in sources) else "authors"


def _parts(network: str, scale: int, dataset: str | None) -> dict[str, dict[str, Any]]:
    """{where it stands: fields}; at another scale or on other data than those of the file it is ours."""
    if dataset == "reside-6k" and network in ON_RESIDE_6K:
        return ON_RESIDE_6K[network]
    parts, data = RECIPES.get(network, RECIPES["ffanet"]), DATA.get(network, ())
    if dataset in (None, *data) and scale == SCALE.get(network, scale):
        return parts
    return {source if source.startswith("ours") else f"ours here: {source}": part for source, part in parts.items()}
