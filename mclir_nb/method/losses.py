"""Training objectives of one call shape: the SPN loss and the objectives it is compared with.

    objective(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None)

Images are (B, 3, H, W), nominally [0, 1], and enter the feature network unclamped, as in the official codes.
Only `restored` receives a gradient; its features are computed once, all other images go through the feature
network in one batch without a graph. Call outside autocast, or the features run in low precision too;
`restored` and negatives of a lower precision are converted to that of `gt` first.

Every objective is `L1(restored, gt)` plus or minus one further term. That term is `l_neg`, before lambda;
"spn" and "spn-uncertainty" subtract it, "vgg", "cr", "c2r", "pcl" and "history-positive" add it. An objective
ignores the arguments that its description does not name.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb.method import sharpness


class LossParts(NamedTuple):
    """What was summed: `total` is `l_rec` minus or plus lambda times `l_neg`; all scalars with gradient."""

    l_rec: Tensor
    l_neg: Tensor
    total: Tensor


# -- the method ------------------------------------------------------------------------------------


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

    with |.|_1 the mean over all elements. The sign is a minus (the code; the official README's pseudo-code
    writes a plus).

    Args:
        restored: (B, 3, H, W), nominally [0, 1]; the only argument that receives a gradient.
        gt: same shape, [0, 1].
        negatives: one (B, 3, H, W) tensor per history model, detached; an empty list gives the baseline loss.
        features: frozen module returning {layer: (B, C_l, H_l, W_l)}, w_l in its `layer_weights` (absent: 1 /
            layers).
        lambda_neg: weight >= 0; 0.001 in the official dehazing recipe with ImageNet-trained VGG16.
        distance: a key of `DISTANCES`; "l1" is the method, the others are ours.

    Returns: the parts `l_rec`, `l_neg` (before lambda, both >= 0) and `total`.
    Raises: ValueError if shapes differ, a negative carries a gradient or lambda is negative.
    Source: arXiv:2309.06023; Aitical/MCLIR @ e42fb40, basicsr/losses/basic_loss.py (PerceptualLoss) and
        basicsr/models/image_restoration_ffanet_neg_model.py. Differs in: the features of `restored` are
        computed once instead of once per negative; same numbers.
    """
    restored = _checked(restored, gt, negatives, lambda_neg)
    l_rec = F.l1_loss(restored, gt)
    if not negatives:
        return LossParts(l_rec, torch.zeros_like(l_rec), l_rec)
    l_neg = feature_distance(restored, negatives, features, distance)
    return LossParts(l_rec, l_neg, l_rec - lambda_neg * l_neg)


HUBER = 0.1  # difference of two features up to which "huber" is quadratic
# {name: (value, slope) of a difference of features, element by element}. The L1 push has the same strength however
# close the output has come to its histories; the others fade with the difference.
DISTANCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "l1": (torch.abs, torch.sign),
    "squared": (torch.square, lambda d: 2 * d),
    "huber": (
        lambda d: torch.where(d.abs() < HUBER, d.square() / (2 * HUBER), d.abs() - HUBER / 2),
        lambda d: (d / HUBER).clamp(-1, 1),
    ),
}


def feature_distance(restored: Tensor, others: Sequence[Tensor], features: nn.Module, distance: str = "l1") -> Tensor:
    """mean_k sum_l w_l |phi_l(restored) - phi_l(others[k])|_1, a scalar with gradient for `restored` only.

    |.|_1 is the mean of absolute differences, or of another of `DISTANCES`.

    Exact, and cheap in memory: the gradient with respect to the image is taken at once, for a few images at a
    time (`features.pixels_at_once`), so that no feature map waits for the backward pass of the network. It
    cannot be differentiated twice.
    """
    others = [other.to(restored.dtype) for other in others]
    return _FeatureDistance.apply(restored, features, DISTANCES[distance], *others)


class _FeatureDistance(torch.autograd.Function):
    """The work of `feature_distance`: value and image gradient together, in chunks of the batch."""

    @staticmethod
    def forward(ctx, restored, features, distance, *others):
        pixels = (1 + len(others)) * restored[0, 0].numel()
        size = max(1, _pixels_at_once(features) // pixels)
        value, gradients = 0.0, []
        for start in range(0, len(restored), size):
            chunk = slice(start, start + size)
            image = restored[chunk].detach().requires_grad_(ctx.needs_input_grad[0])
            chunks = [other[chunk] for other in others]
            part, gradient = _distance_and_gradient(image, chunks, features, distance)
            value = value + part * (len(image) / len(restored))
            gradients.append(gradient * (len(image) / len(restored)) if image.requires_grad else None)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
        return value

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0], *(None for _ in ctx.needs_input_grad[1:])


def _distance_and_gradient(
    image: Tensor, others: Sequence[Tensor], features: nn.Module, distance: tuple[Callable, Callable]
) -> tuple[Tensor, Tensor | None]:
    """Distance of a chunk and, if the image wants one, its gradient; |x|' is sign(x), 0 at 0."""
    value_of, slope_of = distance
    with torch.enable_grad():
        ours = features(image)
    weights, value = _layer_weights(features, ours), 0.0
    scales = {layer: weights[layer] / len(others) for layer in ours}
    slopes = {layer: torch.zeros_like(own) for layer, own in ours.items()}
    at_once = max(1, _pixels_at_once(features) // (2 * image[:, 0].numel()))
    for start in range(0, len(others), at_once):
        for theirs in frozen_features(others[start : start + at_once], features):
            for layer, own in ours.items():
                difference = own.detach() - theirs.pop(layer)
                value = value + scales[layer] * value_of(difference).mean()
                slopes[layer] += slope_of(difference)
    if not image.requires_grad:
        return value, None
    # a power of two, taken out again below: keeps the small numbers of a gradient within float16, and changes no bit
    unit = 2.0 ** max(own.numel() for own in ours.values()).bit_length()
    for layer, slope in slopes.items():
        slope.mul_(scales[layer] * unit / slope.numel())
    return value, torch.autograd.grad(list(ours.values()), image, list(slopes.values()))[0].div_(unit)


def _pixels_at_once(features: nn.Module) -> int:
    """Pixels of a batch that go through the feature network together, see `features.Vgg`."""
    return getattr(features, "pixels_at_once", 2**16)


def layer_distances(restored: Tensor, others: Sequence[Tensor], features: nn.Module) -> dict[str, Tensor]:
    """Mean absolute feature difference between `restored` and each other image, {layer: (len(others),)}.

    Not weighted. The gradient flows to `restored` only.
    """
    theirs = frozen_features([other.to(restored.dtype) for other in others], features)
    ours = features(restored)
    return {layer: torch.stack([F.l1_loss(ours[layer], other[layer]) for other in theirs]) for layer in ours}


@torch.no_grad()
def frozen_features(images: Sequence[Tensor], features: nn.Module) -> list[dict[str, Tensor]]:
    """Features of several image batches, computed together and without a graph, as one dict per batch."""
    together = features(torch.cat(list(images)))
    parts = {layer: x.chunk(len(images)) for layer, x in together.items()}
    return [{layer: x[k] for layer, x in parts.items()} for k in range(len(images))]


def with_ratio(parts: LossParts, ratio: float, means: Sequence[Tensor], sign: int = -1) -> LossParts:
    """The same parts, with lambda set so that lambda * l_neg / l_rec is `ratio`. OURS; the authors advise 0.01 to 0.1.

    Args:
        parts: as an objective returned them.
        ratio: share of the reconstruction that the second term has.
        means: l_rec and l_neg, detached: those of `parts`, or their means over the processes that share a batch.
        sign: -1 if the objective subtracts its second term, 1 if it adds it.

    Returns:
        The parts with another total. The gradient sees lambda as a constant; nothing waits for the device.
    """
    l_rec, l_neg = means
    weight = ratio * l_rec / l_neg.clamp_min(1e-12)
    return parts._replace(total=parts.l_rec + sign * weight * parts.l_neg)


# -- one call shape for all ------------------------------------------------------------------------


def plain(restored, gt, negatives=(), *, features=None, lambda_neg=0.0, lq=None, best_psnr=0.0, generator=None):
    """The baseline: L = |restored - gt|_1. Negatives, features and lambda are ignored; `l_neg` is 0."""
    restored = _checked(restored, gt, (), 0.0)
    l_rec = F.l1_loss(restored, gt)
    return LossParts(l_rec, torch.zeros_like(l_rec), l_rec)


def spn(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """The SPN loss, see `spn_loss`."""
    return spn_loss(restored, gt, negatives, features=features, lambda_neg=lambda_neg)


def spn_squared(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """SPN with squared feature differences: OURS, a push that fades as the histories come close."""
    options = dict(features=features, lambda_neg=lambda_neg, distance="squared")
    return spn_loss(restored, gt, negatives, **options)


def spn_huber(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """SPN with Huber's distance of features: OURS, SPN where they differ by more than `HUBER`, squared below."""
    options = dict(features=features, lambda_neg=lambda_neg, distance="huber")
    return spn_loss(restored, gt, negatives, **options)


def spn_uncertainty(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """SPN whose reconstruction counts more where the history models disagree.

    L = mean(w |restored - gt|) - lambda_neg * l_neg,  w = (u + mean u + 1e-6) / (2 mean u + 1e-6)

    with u the standard deviation over the negatives, averaged over RGB, per pixel; w has mean 1 and is at
    least 1/2. `l_rec` is the weighted value. Needs two negatives or more (none: the baseline). This is OURS:
    an uncertainty-aware loss belongs to the paper's extended version, whose formula is not available.
    """
    restored = _checked(restored, gt, negatives, lambda_neg)
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


def history_positive(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """The control with the opposite sign: the histories' outputs are targets to stay close to.

    L = |restored - gt|_1 + lambda_neg * mean_k sum_l w_l |phi_l(restored) - phi_l(negatives[k])|_1

    Neighbour: SSC-SR (arXiv:2404.00260), which pulls towards an average of the past through a projection
    head; here only the sign of SPN changes, so that a comparison isolates it.
    """
    l_rec, l_neg, _ = spn_loss(restored, gt, negatives, features=features, lambda_neg=lambda_neg)
    return LossParts(l_rec, l_neg, l_rec + lambda_neg * l_neg)


def vgg(restored, gt, negatives=(), *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """Positive-only perceptual loss, FFA-Net's option.

    L = |restored - gt|_1 + lambda_neg * mean_l mean (phi_l(restored) - phi_l(gt))^2

    Equal layer weights; official lambda 0.04 with relu1_2, relu2_2, relu3_3 of VGG16.
    Source: zhilin007/FFA-Net @ 6651bcf, net/main.py. Differs in: the features' own input normalisation is
        kept.
    """
    restored = _checked(restored, gt, (), lambda_neg)
    l_rec = F.l1_loss(restored, gt)
    (target,) = frozen_features([gt], features)
    ours = features(restored)
    term = torch.stack([F.mse_loss(ours[layer], target[layer]) for layer in ours]).mean()
    return LossParts(l_rec, term, l_rec + lambda_neg * term)


def cr(restored, gt, negatives=(), *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """Contrastive regularisation of AECR-Net: closer to the ground truth than to the degraded input.

    L = |restored - gt|_1 + lambda_neg * sum_l w_l D_l(restored, gt) / (D_l(restored, lq) + 1e-7)

    D_l is the mean absolute feature difference; w = 1/32, 1/16, 1/8, 1/4, 1 with VGG19's relu1_1 ... relu5_1
    and no input normalisation ("vgg19"). The negative is `lq` (a smaller one is upscaled bicubically);
    `negatives` is not used.
    Source: GlassyWu/AECR-Net @ d046d0f, models/CR.py.
    """
    return _contrast(restored, gt, [_at_size(lq, gt, "cr")], (1.0,), features, lambda_neg)


def c2r(restored, gt, negatives, *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None, thresholds=None):
    """Curricular contrastive regularisation of C2PNet: several negatives, each weighted by its difficulty.

    L = |restored - gt|_1 + lambda_neg * sum_l w_l D_l(restored, gt) / (sum_k v_k D_l(restored, n_k) + 1e-7)

    n_k are the given negatives and, last, `lq`; v = curriculum_weights(best_psnr, thresholds); D_l and w_l as
    in `cr`.

    Args:
        negatives: outputs of simpler restorers (official: six dehazing networks, `thresholds=C2R_INDOOR`) or
            of history models.
        best_psnr: best validation PSNR of the model so far, dB; 0 at the start.
        thresholds: PSNR in dB of what made each negative, one per negative. None: all negatives count alike
            (v_k = 1 before normalisation) and `lq` as much as all of them; so for history models, whose PSNR
            is nobody's published number.

    Raises: ValueError if lq is missing or the thresholds do not match the negatives.
    Source: YuZheng9/C2PNet @ b09e79c, C2R.py and main.py. Differs in: `lq` is the un-normalised image (there
        the network input); the curriculum of own-history negatives is ours.
    """
    if thresholds is not None and len(thresholds) != len(negatives):
        raise ValueError(
            f"c2r got {len(negatives)} negatives and {len(thresholds)} thresholds; give one PSNR per negative"
        )
    if thresholds is None:
        shares = curriculum_weights(best_psnr, (0.0,) * len(negatives), step=0.0)
    else:
        shares = curriculum_weights(best_psnr, thresholds)
    return _contrast(restored, gt, [*negatives, _at_size(lq, gt, "c2r")], shares, features, lambda_neg)


# PSNR in dB of DCP, AOD-Net, GCANet, GridDehazeNet, FFA-Net and a later FFA-Net; the official file never uses
# its outdoor list.
C2R_INDOOR = (17.0, 19.0, 31.0, 32.0, 36.0, 40.0)
C2R_OUTDOOR = (17.43, 18.12, 30.86, 31.98, 32.98, 33.57)


def curriculum_weights(best_psnr: float, thresholds: Sequence[float] = C2R_INDOOR, step: float = 0.25) -> list[float]:
    """Shares of C2R's negatives and, last, of the degraded input; they add up to 1.

    A negative weighs 1 + step once the model is strictly better than its PSNR, 1 - step before; the degraded
    input weighs as many as there are negatives (at least 1).

    Args:
        best_psnr: best validation PSNR of the model so far, dB.
        thresholds: PSNR in dB of what made each negative.
        step: 0.25 in the official code; 0 weights all negatives alike.

    Source: YuZheng9/C2PNet @ b09e79c, main.py. A quirk there: the PSNR is that of the first test image only.
    """
    raw = [1 + step if best_psnr > threshold else 1 - step for threshold in thresholds]
    raw.append(max(len(thresholds), 1))
    return [weight / sum(raw) for weight in raw]


def pcl(restored, gt, negatives=(), *, features, lambda_neg, lq=None, best_psnr=0.0, generator=None):
    """PCL, InfoNCE with sharpened and blurred ground truths, WITH the gradient that its released code loses.

    L = |restored - gt|_1 + lambda_neg * mean_p -log( e^{s(p)} / (e^{s(p)} + sum_n e^{s(n)}) )

    s is the cosine similarity of feature vectors averaged over positions, then over layers with the features'
    weights; no temperature. Positives p: gt and three sharpened gt (factor U(0.5, 3)); negatives n: lq
    upscaled bicubically and three Gaussian-blurred gt (odd size 3-11, deviation U(0.1, 2) pixels), drawn anew
    each call from `generator` (on the CPU). `negatives` is not used.
    Source: Aitical/PCL-SISR @ a4bc6f3, src/loss/adversarial.py, data/div2k.py. Differs in: the released code
        computes the features of `restored` under no_grad, so its term trains nothing; here it does. The
        embedding there is a discriminator trained along on wavelet bands, here the frozen features.
    """
    restored = _checked(restored, gt, (), lambda_neg)
    draws = torch.rand(9, generator=generator).tolist()
    positives = [gt] + [sharpness.sharpen(gt, 0.5 + 2.5 * u) for u in draws[:3]]
    shapes = zip(draws[3:6], draws[6:], strict=True)
    blurred = [sharpness.blur(gt, 3 + 2 * int(5 * u), 0.1 + 1.9 * v) for u, v in shapes]
    theirs = frozen_features([*positives, _at_size(lq, gt, "pcl"), *blurred], features)
    ours = features(restored)
    total = _weighted(dict.fromkeys(ours, 1.0), features)
    cosines = [_weighted(_cosine(ours, other), features) / total for other in theirs]
    similarity = torch.stack(cosines, dim=1)  # (B, P + N)
    good, bad = similarity[:, : len(positives)], similarity[:, len(positives) :]
    term = (torch.logaddexp(good, bad.logsumexp(dim=1, keepdim=True)) - good).mean()
    l_rec = F.l1_loss(restored, gt)
    return LossParts(l_rec, term, l_rec + lambda_neg * term)


OBJECTIVES: dict[str, Callable[..., LossParts]] = {
    "plain": plain,
    "spn": spn,
    "vgg": vgg,
    "cr": cr,
    "c2r": c2r,
    "pcl": pcl,
    "history-positive": history_positive,
    "spn-uncertainty": spn_uncertainty,
    "spn-squared": spn_squared,
    "spn-huber": spn_huber,
}
# The objectives whose `negatives` come from history models.
USES_HISTORY = {"spn", "c2r", "history-positive", "spn-uncertainty", "spn-squared", "spn-huber"}


class OfficialLambda(NamedTuple):
    """A published weight; it says nothing without the feature network it belongs to."""

    value: float
    features: str
    source: str


OFFICIAL_LAMBDA: dict[str, OfficialLambda] = {
    "spn": OfficialLambda(0.001, "vgg16", "Aitical/MCLIR @ e42fb40, FFANet_RESIDE_IN_fromScratch.yml"),
    "vgg": OfficialLambda(0.04, "vgg16", "zhilin007/FFA-Net @ 6651bcf, net/main.py"),
    "cr": OfficialLambda(0.1, "vgg19", "AECR-Net paper, unverified; its released script defaults to 0"),
    "c2r": OfficialLambda(0.2, "vgg19", "YuZheng9/C2PNet @ b09e79c, main.py"),
    "pcl": OfficialLambda(5.0, "discriminator", "Aitical/PCL-SISR @ a4bc6f3, RCAN script; 3 for NLSN"),
}


# -- private ---------------------------------------------------------------------------------------


def _checked(restored: Tensor, gt: Tensor, negatives: Sequence[Tensor], lambda_neg: float) -> Tensor:
    """`restored` in the precision of `gt`, after refusing what cannot be meant."""
    for name, image in (("restored", restored), *((f"negatives[{k}]", n) for k, n in enumerate(negatives))):
        if image.shape != gt.shape:
            raise ValueError(f"{name} has shape {tuple(image.shape)}, gt {tuple(gt.shape)}; they must be equal")
    for k, negative in enumerate(negatives):
        if negative.requires_grad:
            raise ValueError(
                f"negatives[{k}] carries a gradient; detach it, only `restored` may be trained by this loss"
            )
    if not isinstance(lambda_neg, Tensor) and not lambda_neg >= 0:
        raise ValueError(f"lambda_neg = {lambda_neg} is not >= 0; the sign stands in the objective")
    return restored.to(gt.dtype)


def _weighted(values: dict[str, Tensor], features: nn.Module) -> Tensor:
    """Sum over the layers of w_l values[l]."""
    weights = _layer_weights(features, values)
    return sum(weights[layer] * value for layer, value in values.items())


def _layer_weights(features: nn.Module, values: dict) -> dict[str, float]:
    """w_l of these features, 1 / layers if they name none; Python numbers, so nothing waits for a device."""
    weights = getattr(features, "layer_weights", None) or dict.fromkeys(values, 1 / len(values))
    if weights.keys() != values.keys():
        raise ValueError(f"features return layers {list(values)}, layer_weights names {list(weights)}; make them equal")
    return weights


def _contrast(restored, gt, others, shares, features, lambda_neg) -> LossParts:
    """L1 plus the ratio of distances to gt and, weighted by `shares`, to `others`, per layer."""
    restored = _checked(restored, gt, others, lambda_neg)
    l_rec = F.l1_loss(restored, gt)
    ratios = {}
    for layer, d in layer_distances(restored, [gt, *others], features).items():  # d: (1 + K,)
        ratios[layer] = d[0] / (sum(share * d[k] for k, share in enumerate(shares, start=1)) + 1e-7)
    term = _weighted(ratios, features)
    return LossParts(l_rec, term, l_rec + lambda_neg * term)


def _at_size(lq: Tensor | None, gt: Tensor, objective: str) -> Tensor:
    """`lq` at the size of `gt`: super-resolution input is upscaled bicubically and clamped to [0, 1]."""
    if lq is None:
        raise ValueError(f"objective {objective!r} uses the degraded input as a negative; give lq=")
    lq = lq.detach().to(gt.dtype)
    if lq.shape[-2:] == gt.shape[-2:]:
        return lq
    return F.interpolate(lq, size=gt.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)


def _cosine(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cosine similarity of the feature vectors, averaged over positions: {layer: (B,)}."""
    return {layer: F.cosine_similarity(x, theirs[layer], dim=1).mean(dim=(1, 2)) for layer, x in ours.items()}
