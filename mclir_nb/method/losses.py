"""Training objectives of one call shape: the SPN loss, its relatives and the rivals it is compared with.

    parts = OBJECTIVES[name](restored, gt, negatives, features=..., lambda_neg=..., **context)

Images are (B, 3, H, W), nominally [0, 1], and enter the feature network unclamped, as in the official codes. Only
`restored` receives a gradient; it and negatives of a lower precision are converted to that of `gt` first. Call outside
autocast, or the features run in low precision too.

Every objective is mean |restored - gt| (`l_rec`) plus or minus lambda_neg times one further term (`l_neg`, which SPN
subtracts). It names what it reads of the context and ignores the rest:

    lq           degraded input, (B, 3, h, w)
    best_psnr    best validation PSNR of the model so far, dB
    thresholds   PSNR in dB of what made each negative
    averaged     output of the evaluation EMA for lq, (B, 3, H, W)
    generator    source of what is drawn at random, on the CPU

An objective of your own: a function of this call shape in `OBJECTIVES`, and in `USES_HISTORY` if it wants histories.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.method import relatives, rivals
from mclir_nb.method.distances import feature_distance


class LossParts(NamedTuple):
    """What was summed: `total` is `l_rec` minus or plus lambda times `l_neg`; all scalars with gradient."""

    l_rec: Tensor
    l_neg: Tensor
    total: Tensor


def spn_loss(
    restored: Tensor,
    gt: Tensor,
    negatives: Sequence[Tensor],
    *,
    features: nn.Module,
    lambda_neg: float,
    distance: str = "l1",
) -> LossParts:
    """Reconstruction loss minus the distance to the history models' outputs.

    L = |restored - gt|_1 - lambda_neg * mean_k sum_l w_l |phi_l(restored) - phi_l(negatives[k])|_1

    with |.|_1 the mean over all elements. The sign is a minus (the code; the official README's pseudo-code writes a
    plus).

    Args:
        restored: (B, 3, H, W), nominally [0, 1]; the only argument that receives a gradient.
        gt: same shape, [0, 1].
        negatives: one (B, 3, H, W) tensor per history model, detached; an empty list gives the baseline loss.
        features: frozen module returning {layer: (B, C_l, H_l, W_l)}, w_l in its `layer_weights` (absent: 1 / layers).
        lambda_neg: weight >= 0; 0.001 in the official dehazing recipe with ImageNet-trained VGG16.
        distance: a key of `distances.DISTANCES`; "l1" is the method, the others are ours.

    Returns:
        The parts `l_rec`, `l_neg` (before lambda, both >= 0) and `total`.

    Raises:
        ValueError: shapes differ, a negative carries a gradient or lambda is negative.

    Source:
        arXiv:2309.06023; Aitical/MCLIR @ e42fb40, basicsr/losses/basic_loss.py (PerceptualLoss) and
        basicsr/models/image_restoration_ffanet_neg_model.py. Differs in: the features of `restored` are computed once
        instead of once per negative; same numbers.
    """
    restored = check_images(restored, gt, negatives, lambda_neg)
    l_rec = F.l1_loss(restored, gt)
    if not negatives:
        return LossParts(l_rec, torch.zeros_like(l_rec), l_rec)
    l_neg = feature_distance(restored, negatives, features, distance)
    return LossParts(l_rec, l_neg, l_rec - lambda_neg * l_neg)


def check_images(restored: Tensor, gt: Tensor, negatives: Sequence[Tensor], lambda_neg: float = 0.0) -> Tensor:
    """`restored` in the precision of `gt`; ValueError for what cannot be meant."""
    for name, image in (("restored", restored), *((f"negatives[{k}]", n) for k, n in enumerate(negatives))):
        if image.shape != gt.shape:
            raise ValueError(f"{name} has shape {tuple(image.shape)}, gt {tuple(gt.shape)}; they must be equal")
    for k, negative in enumerate(negatives):
        if negative.requires_grad:
            raise ValueError(f"negatives[{k}] carries a gradient; detach it, this loss trains `restored` alone")
    if not isinstance(lambda_neg, Tensor) and not lambda_neg >= 0:
        raise ValueError(f"lambda_neg = {lambda_neg} is not >= 0; the sign stands in the objective")
    return restored.to(gt.dtype)


def plain(restored, gt, negatives=(), **_) -> LossParts:
    """The baseline: L = |restored - gt|_1. Negatives, features and lambda are ignored; `l_neg` is 0."""
    restored = check_images(restored, gt, ())
    l_rec = F.l1_loss(restored, gt)
    return LossParts(l_rec, torch.zeros_like(l_rec), l_rec)


def spn(restored, gt, negatives, *, features, lambda_neg, distance="l1", **_) -> LossParts:
    """`spn_loss` in the call shape of all objectives; its distances other than "l1" are OURS."""
    return spn_loss(restored, gt, negatives, features=features, lambda_neg=lambda_neg, distance=distance)


def spn_uncertainty(restored, gt, negatives, *, features, lambda_neg, **_) -> LossParts:
    """SPN whose reconstruction counts more where the history models disagree.

    L = mean(w |restored - gt|) - lambda_neg * l_neg,  w = (u + mean u + 1e-6) / (2 mean u + 1e-6)

    with u the standard deviation over the negatives (two or more), averaged over RGB, per pixel; w has mean 1 and is
    at least 1/2. OURS: the uncertainty-aware loss of the paper's extended version is not available.
    """
    restored = check_images(restored, gt, negatives, lambda_neg)
    if not negatives:
        return plain(restored, gt)
    if len(negatives) < 2:
        raise ValueError("spn-uncertainty got 1 negative; a spread needs 2 or more history models in a step")
    outputs = torch.stack([negative.to(gt.dtype) for negative in negatives])
    spread = outputs.std(dim=0, correction=0).mean(dim=1, keepdim=True)  # (B, 1, H, W)
    weight = (spread + spread.mean() + 1e-6) / (2 * spread.mean() + 1e-6)
    l_rec = (weight * (restored - gt).abs()).mean()
    l_neg = feature_distance(restored, negatives, features)
    return LossParts(l_rec, l_neg, l_rec - lambda_neg * l_neg)


def history_positive(restored, gt, negatives, *, features, lambda_neg, **_) -> LossParts:
    """The control with the opposite sign: the histories' outputs are targets to stay close to.

    Only the sign of SPN changes. A neighbour is SSC-SR (arXiv:2404.00260), which pulls towards an average of the past.
    """
    l_rec, l_neg, _total = spn_loss(restored, gt, negatives, features=features, lambda_neg=lambda_neg)
    return LossParts(l_rec, l_neg, l_rec + lambda_neg * l_neg)


def objective(term: Callable[..., Tensor], *, sign: int = 1, past: bool = False) -> Callable[..., LossParts]:
    """The objective |restored - gt|_1 + sign * lambda_neg * term, with a term of `rivals` or `relatives`.

    `past`: the term is about the histories' outputs; without any this is the baseline.
    """

    @functools.wraps(term)
    def objective(restored, gt, negatives=(), *, features, lambda_neg, **context) -> LossParts:
        restored = check_images(restored, gt, negatives, lambda_neg)
        if past and not negatives:
            return plain(restored, gt)
        l_rec = F.l1_loss(restored, gt)
        l_neg = term(restored, gt, negatives, features=features, **context)
        return LossParts(l_rec, l_neg, l_rec + sign * lambda_neg * l_neg)

    return objective


OBJECTIVES: dict[str, Callable[..., LossParts]] = {
    "plain": plain,
    "spn": spn,
    "vgg": objective(rivals.vgg),
    "cr": objective(rivals.cr),
    "c2r": objective(rivals.c2r),
    "pcl": objective(rivals.pcl),
    "history-positive": history_positive,
    "spn-uncertainty": spn_uncertainty,
    "spn-squared": functools.partial(spn, distance="squared"),
    "spn-huber": functools.partial(spn, distance="huber"),
    "spn-smooth": objective(relatives.smooth, sign=-1, past=True),
    "ratio": objective(relatives.ratio, past=True),
    "infonce": objective(relatives.infonce, past=True),
    "margin": objective(relatives.margin, past=True),
}
# The objectives whose `negatives` come from history models.
USES_HISTORY = {"spn", "c2r", "history-positive", "spn-uncertainty", "spn-squared", "spn-huber"}
USES_HISTORY |= {"spn-smooth", "ratio", "infonce", "margin"}
# Those among them whose term is no mean over the negatives, so that no single one stands for all on average.
NEEDS_ALL_NEGATIVES = {"c2r", "spn-uncertainty", "ratio", "infonce"}


# Published weights; they say nothing without the feature network they belong to.
OFFICIAL_LAMBDA = {
    "spn": {"vgg16": 0.001},  # Aitical/MCLIR @ e42fb40, FFANet_RESIDE_IN_fromScratch.yml
    "vgg": {"vgg16": 0.04},  # zhilin007/FFA-Net @ 6651bcf, net/main.py
    "cr": {"vgg19": 0.1},  # AECR-Net paper, unverified; its released script defaults to 0
    "c2r": {"vgg19": 0.2},  # YuZheng9/C2PNet @ b09e79c, main.py
    "pcl": {"discriminator": 5.0},  # Aitical/PCL-SISR @ a4bc6f3, RCAN script; 3 for NLSN
}


def with_ratio(parts: LossParts, ratio: float | Tensor, means: Sequence[Tensor] | Tensor) -> LossParts:
    """The same parts, with lambda set so that lambda * l_neg / l_rec is `ratio`. OURS; the authors advise 0.01 to 0.1.

    The gradient sees lambda as a constant, and nothing waits for the device.

    Args:
        parts: as an objective returned them, with a lambda above 0 and an `l_neg` of 0 or more.
        ratio: share of the reconstruction that the second term has, a number or a scalar; 0 leaves the term out.
        means: l_rec and l_neg, detached: those of `parts`, or their means over the processes that share a batch.
    """
    l_rec, l_neg = means
    (slope,) = torch.autograd.grad(parts.total, parts.l_neg, retain_graph=True)  # lambda, below 0 if subtracted
    weight = slope.sign() * ratio * l_rec / l_neg.clamp_min(1e-12)
    return parts._replace(total=parts.l_rec + weight * parts.l_neg)
