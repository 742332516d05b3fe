"""What other papers add to L1: the terms of FFA-Net's option (VGG), AECR-Net (CR), C2PNet (C2R) and PCL.

Each is the term before its weight; `losses.OBJECTIVES` holds |restored - gt|_1 + lambda_neg * term. Arguments and
context are those of `losses`; only `restored`, (B, 3, H, W), receives a gradient. D_l below is the mean absolute
difference of the feature maps of layer l.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mclir_nb.method.distances import frozen_features, layer_distances, layer_weights, weighted_sum


def vgg(restored, gt, negatives=(), *, features, **_) -> Tensor:
    """Positive only: the squared feature distance to the ground truth, FFA-Net's perceptual option.

    term = mean_l mean (phi_l(restored) - phi_l(gt))^2

    Equal layer weights; official lambda 0.04 with relu1_2, relu2_2, relu3_3 of VGG16.

    Source: zhilin007/FFA-Net @ 6651bcf, net/main.py. Differs in: the features' own input normalisation is kept.
    """
    (target,) = frozen_features([gt], features)
    ours = features(restored)
    return torch.stack([F.mse_loss(ours[layer], target[layer]) for layer in ours]).mean()


def cr(restored, gt, negatives=(), *, features, lq, **_) -> Tensor:
    """Contrastive regularisation of AECR-Net: closer to the ground truth than to the degraded input.

    term = sum_l w_l D_l(restored, gt) / (D_l(restored, lq) + 1e-7)

    w = 1/32, 1/16, 1/8, 1/4, 1 with VGG19's relu1_1 ... relu5_1 and no input normalisation ("vgg19"). The negative is
    `lq` (a smaller one is upscaled bicubically); `negatives` is not used.

    Source: GlassyWu/AECR-Net @ d046d0f, models/CR.py.
    """
    return contrast(restored, gt, [at_size(lq, gt)], (1.0,), features)


def c2r(restored, gt, negatives, *, features, lq, best_psnr=0.0, thresholds=None, **_) -> Tensor:
    """Curricular contrastive regularisation of C2PNet: several negatives, each weighted by its difficulty.

    term = sum_l w_l D_l(restored, gt) / (sum_k v_k D_l(restored, n_k) + 1e-7)

    n_k are the given negatives and, last, `lq`; v = curriculum_weights(best_psnr, thresholds); w_l as in `cr`. Without
    thresholds all negatives count alike and `lq` as much as all of them; so for history models, whose PSNR is nobody's
    published number. Official negatives: the outputs of six dehazing networks, with `C2R_INDOOR`.

    Source: YuZheng9/C2PNet @ b09e79c, C2R.py and main.py. Differs in: `lq` is the un-normalised image (there the
        network input); the curriculum of own-history negatives is ours.
    """
    if thresholds is None:
        shares = curriculum_weights(best_psnr, (0.0,) * len(negatives), step=0.0)
    else:
        shares = curriculum_weights(best_psnr, thresholds)
    return contrast(restored, gt, [*negatives, at_size(lq, gt)], shares, features)


# PSNR in dB of DCP, AOD-Net, GCANet, GridDehazeNet, FFA-Net and a later FFA-Net
C2R_INDOOR = (17.0, 19.0, 31.0, 32.0, 36.0, 40.0)


def curriculum_weights(best_psnr: float, thresholds: Sequence[float] = C2R_INDOOR, step: float = 0.25) -> list[float]:
    """Shares of C2R's negatives and, last, of the degraded input; they add up to 1.

    A negative weighs 1 + step once the best validation PSNR of the model is strictly above its threshold (both dB),
    1 - step before; the degraded input weighs as many as there are negatives (at least 1).

    Source: YuZheng9/C2PNet @ b09e79c, main.py. A quirk there: the PSNR is that of the first test image only.
    """
    raw = [1 + step if best_psnr > threshold else 1 - step for threshold in thresholds]
    raw.append(max(len(thresholds), 1))
    return [weight / sum(raw) for weight in raw]


def contrast(restored: Tensor, gt: Tensor, others: Sequence[Tensor], shares: Sequence[float], features) -> Tensor:
    """The ratio of the distances to gt and, weighted by `shares`, to `others`, summed over the layers."""
    ratios = {}
    for layer, (near, *far) in layer_distances(restored, [gt, *others], features).items():
        ratios[layer] = near / (sum(share * d for share, d in zip(shares, far, strict=True)) + 1e-7)
    return weighted_sum(ratios, features)


def at_size(lq: Tensor, gt: Tensor) -> Tensor:
    """`lq` at the size of `gt`: super-resolution input is upscaled bicubically and clamped to [0, 1]."""
    lq = lq.detach().to(gt.dtype)
    if lq.shape[-2:] == gt.shape[-2:]:
        return lq
    return F.interpolate(lq, size=gt.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)


def pcl(restored, gt, negatives=(), *, features, lq, generator=None, **_) -> Tensor:
    """PCL, InfoNCE with sharpened and blurred ground truths, WITH the gradient that its released code loses.

    term = mean_p -log( e^{s(p)} / (e^{s(p)} + sum_n e^{s(n)}) )

    s is the cosine similarity of feature vectors averaged over positions, then over layers with the features' weights;
    no temperature. Positives p: gt and three sharpened gt (factor U(0.5, 3)); negatives n: lq upscaled bicubically and
    three Gaussian-blurred gt (odd size 3-11, deviation U(0.1, 2) pixels), drawn anew in each call from `generator`.
    `negatives` is not used.

    Source: Aitical/PCL-SISR @ a4bc6f3, src/loss/adversarial.py, data/div2k.py. Differs in: the released code computes
        the features of `restored` under no_grad, so its term trains nothing; here it does. The embedding there is a
        discriminator trained along on wavelet bands, here the frozen features.
    """
    draws = torch.rand(9, generator=generator).tolist()
    positives = [gt] + [sharpen(gt, 0.5 + 2.5 * u) for u in draws[:3]]
    shapes = zip(draws[3:6], draws[6:], strict=True)
    blurred = [blur(gt, 3 + 2 * int(5 * u), 0.1 + 1.9 * v) for u, v in shapes]
    theirs = frozen_features([*positives, at_size(lq, gt), *blurred], features)
    ours = features(restored)
    total = sum(layer_weights(features, ours).values())
    scores = []
    for other in theirs:
        cosines = {k: F.cosine_similarity(x, other[k], dim=1).mean(dim=(1, 2)) for k, x in ours.items()}  # (B,)
        scores.append(weighted_sum(cosines, features) / total)
    similarity = torch.stack(scores, dim=1)
    good, bad = similarity[:, : len(positives)], similarity[:, len(positives) :]  # (B, P), (B, N)
    return (torch.logaddexp(good, bad.logsumexp(dim=1, keepdim=True)) - good).mean()


def sharpen(image: Tensor, factor: float) -> Tensor:
    """Blend of a smoothed image (factor 0) and the image (1), extrapolated above 1; clamped to [0, 1]."""
    kernel = image.new_full((3, 3), 1 / 13)
    kernel[1, 1] = 5 / 13
    smooth = _depthwise(image, kernel)
    return (smooth + factor * (image - smooth)).clamp(0, 1)


def blur(image: Tensor, size: int, sigma: float) -> Tensor:
    """Gaussian blur with a size x size kernel of deviation sigma pixels."""
    x = torch.arange(size, device=image.device, dtype=image.dtype) - size // 2
    line = torch.exp(-(x**2) / (2 * sigma**2))
    return _depthwise(image, torch.outer(line, line) / line.sum() ** 2)


def _depthwise(image: Tensor, kernel: Tensor) -> Tensor:
    """Every channel convolved with one 2-D kernel, borders repeated."""
    channels, pad = image.shape[1], kernel.shape[0] // 2
    weight = kernel.expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(image, (pad,) * 4, mode="replicate"), weight, groups=channels)
