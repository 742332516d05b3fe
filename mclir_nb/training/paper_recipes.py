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
DEHAZEFORMER = "IDKiro/DehazeFormer, configs/indoor/dehazeformer-{}.json @ 7a6d600 and train.py @ 607a167"
NONE = "ours: the authors' repository holds no training code or recipe (jiexiaou/IDT @ 65281a1)"

# fmt: off
_SPN = dict(objective="spn", features="vgg16", lambda_neg=1e-3,
            history_every=(1000, 500, 200, 100), history_decay=(0.1,) * 4, history_start=0.1)
_DEHAZEFORMER = dict(patch_size=256, betas=(0.9, 0.999), weight_decay=0.01)
_SWINIR = dict(steps=500_000, learning_rate=2e-4, betas=(0.9, 0.999), ema_decay=0.999,
               milestones=(250_000, 400_000, 450_000, 475_000))
_PASSES = 300  # over the 13,990 pairs of RESIDE's indoor training set, incomplete batches dropped
_T = dict(steps=_PASSES * (13_990 // 32), batch_size=32, learning_rate=4e-4, learning_rate_min=4e-4 * 1e-2)
_S = dict(steps=_PASSES * (13_990 // 16), batch_size=16, learning_rate=2e-4, learning_rate_min=2e-4 * 1e-2)
_NOT_SEEN = DEHAZEFORMER.format("s") + "; the file of this size was not seen, values as in that of size s"

# network -> where it stands -> fields of a recipe
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    # its key use_grad_norm is never read, so gradients are not clipped; two and a half waves of the cosine; the data
    # paths in the file are placeholders
    "ffanet": {MCLIR: dict(steps=500_000, cosine_steps=100_000, batch_size=4, patch_size=128, learning_rate=2e-4,
                           learning_rate_min=1e-8, betas=(0.9, 0.9), weight_decay=0.0, ema_decay=0.999, val_every=5000,
                           **_SPN)},
    # official: mixed precision in 16 bits, and the rate changes once per pass over the data
    "dehazeformer-t": {DEHAZEFORMER.format("t"): _T | _DEHAZEFORMER, OURS: _SPN},
    "dehazeformer-s": {DEHAZEFORMER.format("s"): _S | _DEHAZEFORMER, OURS: _SPN},
    "dehazeformer-b": {_NOT_SEEN: _S | _DEHAZEFORMER, OURS: _SPN},
    "dehazeformer-m": {_NOT_SEEN: _S | _DEHAZEFORMER, OURS: _SPN},
    # nothing about its training is released
    "idt": {NONE: dict(steps=300_000, batch_size=8, patch_size=128, learning_rate=2e-4, betas=(0.9, 0.999)),
            OURS: _SPN},
    # official: x3 and x4 start from the trained x2 network with halved schedule; here from fresh weights
    "swinir-light": {LIGHT: dict(batch_size=64, patch_size=4 * 64, **_SWINIR), OURS: _SPN},
    "swinir": {CLASSICAL: dict(batch_size=32, patch_size=4 * 48, **_SWINIR), OURS: _SPN},
    # official: x4 starts from the trained x2 network; here from fresh weights
    "edsr": {EDSR: dict(steps=300_000, batch_size=16, patch_size=192, learning_rate=1e-4, betas=(0.9, 0.99),
                        weight_decay=0.0, milestones=(200_000,)), OURS: _SPN},
    # official: minus PSNR as reconstruction loss, 8 GPUs with 4 crops each; here L1, as SPN's released code has it
    "nafnet": {NAFNET: dict(steps=200_000, batch_size=32, patch_size=256, learning_rate=1e-3, learning_rate_min=1e-7,
                            betas=(0.9, 0.9), weight_decay=0.0), OURS: _SPN},
}
# fmt: on


def fields(network: str, scale: int = 1) -> dict[str, Any]:
    """The recipe fields of a network's paper recipe; of FFA-Net's for a network that the paper does not train.

    The gt patch of super-resolution is that of x4; at another scale the lq patch is kept.
    """
    parts = RECIPES.get(network, RECIPES["ffanet"]).values()
    found = {field: value for part in parts for field, value in part.items()}
    if scale in (2, 3):
        found["patch_size"] = found["patch_size"] * scale // 4
    return found


def table(network: str) -> pd.DataFrame:
    """Where every field of the paper recipe of a network in `RECIPES` stands: field, value, source."""
    if network not in RECIPES:
        raise ValueError(f"{network} has no paper recipe; those with one: {', '.join(RECIPES)}.")
    parts = RECIPES[network].items()
    rows = [(field, str(value), source) for source, part in parts for field, value in part.items()]
    return pd.DataFrame(rows, columns=["field", "value", "source"])
