"""The recipes of the paper's networks as their authors released them, every value with the file it stands in.

Only FFA-Net's recipe with SPN was released. For the other networks the base recipe is that of their own repository,
and everything about SPN is OURS: what the released FFA-Net recipe says, because nothing else is known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd


class Setting(NamedTuple):
    """A recipe field's value and where it stands."""

    value: Any
    source: str


MCLIR = "Aitical/MCLIR @ e42fb40, options/FFANet_RESIDE_IN_fromScratch.yml"
OURS = "ours: SPN's setting for this network is not published; this is the one for FFA-Net"
NAFNET = "megvii-research/NAFNet @ 01a4c86, options/train/GoPro/NAFNet-width32.yml"
EDSR = "XPixelGroup/BasicSR @ 06fb33a, options/train/EDSR/train_EDSR_Mx4.yml"
LIGHT = "cszn/KAIR @ 70ccf76, options/swinir/train_swinir_sr_lightweight.json"
CLASSICAL = "cszn/KAIR @ 4614f66, options/swinir/train_swinir_sr_classical.json"
DEHAZEFORMER = "IDKiro/DehazeFormer, configs/indoor/dehazeformer-{}.json @ 7a6d600 and train.py @ 607a167"
LOSS = "the released code of SPN: L1; NAFNet's own file asks for a PSNR loss instead"
NONE = "ours: the authors' repository holds no training code or recipe (jiexiaou/IDT @ 65281a1)"


def _all(source: str, **values) -> dict[str, Setting]:
    return {field: Setting(value, source) for field, value in values.items()}


_SPN = dict(
    objective="spn",
    features="vgg16",
    lambda_neg=1e-3,
    history_every=(1000, 500, 200, 100),
    history_decay=(0.1,) * 4,
    history_start=0.1,
)


def _dehazeformer(size: str, batch_size: int, learning_rate: float, source: str) -> dict[str, Setting]:
    """300 passes over the 13,990 pairs of RESIDE's indoor training set, incomplete batches dropped."""
    steps = 300 * (13_990 // batch_size)
    return _all(
        source,
        steps=steps,
        batch_size=batch_size,
        patch_size=256,
        learning_rate=learning_rate,
        learning_rate_min=learning_rate * 1e-2,
        betas=(0.9, 0.999),
        weight_decay=0.01,
    ) | _all(OURS, **_SPN)


def _swinir(source: str, batch_size: int, lq_patch: int) -> dict[str, Setting]:
    return _all(
        source,
        steps=500_000,
        batch_size=batch_size,
        patch_size=4 * lq_patch,
        learning_rate=2e-4,
        betas=(0.9, 0.999),
        milestones=(250_000, 400_000, 450_000, 475_000),
        ema_decay=0.999,
    ) | _all(OURS, **_SPN)


_NOT_SEEN = "; the file of this size was not seen, values as in that of size "
RECIPES: dict[str, dict[str, Setting]] = {
    "ffanet": _all(
        MCLIR,
        steps=500_000,
        cosine_steps=100_000,
        batch_size=4,
        patch_size=128,
        learning_rate=2e-4,
        learning_rate_min=1e-8,
        betas=(0.9, 0.9),
        weight_decay=0.0,
        ema_decay=0.999,
        val_every=5000,
        **_SPN,
    ),
    "dehazeformer-t": _dehazeformer("t", 32, 4e-4, DEHAZEFORMER.format("t")),
    "dehazeformer-s": _dehazeformer("s", 16, 2e-4, DEHAZEFORMER.format("s")),
    "dehazeformer-b": _dehazeformer("b", 16, 2e-4, DEHAZEFORMER.format("s") + _NOT_SEEN + "s"),
    "dehazeformer-m": _dehazeformer("m", 16, 2e-4, DEHAZEFORMER.format("s") + _NOT_SEEN + "s"),
    "idt": _all(NONE, steps=300_000, batch_size=8, patch_size=128, learning_rate=2e-4, betas=(0.9, 0.999))
    | _all(OURS, **_SPN),
    "swinir-light": _swinir(LIGHT, 64, 64),
    "swinir": _swinir(CLASSICAL, 32, 48),
    "edsr": _all(
        EDSR,
        steps=300_000,
        batch_size=16,
        patch_size=192,
        learning_rate=1e-4,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        milestones=(200_000,),
    )
    | _all(OURS, **_SPN),
    "nafnet": _all(
        NAFNET,
        steps=200_000,
        batch_size=32,
        patch_size=256,
        learning_rate=1e-3,
        learning_rate_min=1e-7,
        betas=(0.9, 0.9),
        weight_decay=0.0,
    )
    | _all(OURS, **_SPN),
}
NOTES = {
    "ffanet": "Its key use_grad_norm is never read, so gradients are not clipped; two and a half waves of the cosine; "
    "the data paths in the file are placeholders.",
    "dehazeformer-t": "Official: mixed precision in 16 bits, the rate changes once per pass over the data.",
    "nafnet": "Official: minus PSNR as reconstruction loss, 8 GPUs with 4 crops each. Here L1, as SPN's code has it.",
    "edsr": "Official: x4 starts from the trained x2 network; here from fresh weights.",
    "swinir": "Official: x3 and x4 start from the trained x2 network with halved schedule; here from fresh weights.",
    "swinir-light": "Official: x3 and x4 start from the trained x2 network with halved schedule; here fresh weights.",
    "idt": "Nothing about its training is released.",
}


def fields(network: str, scale: int = 1) -> dict[str, Any]:
    """The recipe fields of a network's paper recipe; of FFA-Net's for a network that the paper does not train.

    The gt patch of super-resolution stands for x4; at another scale the lq patch is kept.
    """
    found = {field: setting.value for field, setting in RECIPES.get(network, RECIPES["ffanet"]).items()}
    if scale in (2, 3):
        found["patch_size"] = found["patch_size"] * scale // 4
    return found


def table(network: str) -> pd.DataFrame:
    """One row per field: field, value, source. Raises: ValueError for a network without a recipe."""
    if network not in RECIPES:
        raise ValueError(f"{network} has no paper recipe; those with one: {', '.join(RECIPES)}.")
    rows = [(field, str(setting.value), setting.source) for field, setting in RECIPES[network].items()]
    return pd.DataFrame(rows, columns=["field", "value", "source"])
