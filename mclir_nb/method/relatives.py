"""Terms of SPN's neighbours that also use the past as a negative, all ADAPTED to SPN's features and call shape.

SPN's term has no lower bound: it pays to move away without end. `ratio`, `infonce` and `margin` have one. The first two
hold the distance to the ground truth as well and come back by themselves, however strong; a strong `margin` can still
drag network and histories away from the images together, so the guard watches its validation. As in `rivals`, each is
the term before its weight, and only `restored`, (B, 3, H, W), receives a gradient. D_l is the mean absolute difference
of the feature maps of layer l, d = sum_l w_l D_l. Not adapted and left out: teachers, codebooks, cached outputs of the
epoch before, growing weights.
"""

import torch
from torch import Tensor

from mclir_nb.method.distances import frozen_features, layer_distances, weighted_sum
from mclir_nb.method.rivals import contrast


def ratio(restored, gt, negatives, *, features, **_) -> Tensor:
    """DCKD's ratio: the distance to the ground truth over that to the histories.

    term = sum_l w_l D_l(restored, gt) / (sum_k D_l(restored, n_k) + 1e-7)

    At least 0. Published weight 0.1 with the features of a VQGAN, which are not these. In a run's first step the
    histories are exact copies of the network unless `history_start` is above 0: the term divides by 1e-7, and Adam's
    second moment remembers that gradient for hundreds of steps. 0.1 keeps them apart.

    Source: DCKD, arXiv:2412.08939; super-SSS/DCKD @ 66fe400. Adapted: the positive is gt, not a teacher's output; no
        codebook term.
    """
    return contrast(restored, gt, negatives, (1.0,) * len(negatives), features)


def infonce(restored, gt, negatives, *, features, **_) -> Tensor:
    """PNE-Net's InfoNCE: the ground truth must be told from the histories by its distance.

    term = sum_l w_l -log( e_l(gt) / (e_l(gt) + sum_k e_l(n_k)) ),  e_l(x) = exp(-D_l(restored, x) / 2)

    At least 0. Published weight 0.01 with VGG19.

    Source: PNE-Net, IEEE TMM 2024; YanLi-LY/PNE-Net @ 5dec2b8. Adapted: the negatives come from history models, not
        from the cached outputs of the epoch before.
    """
    terms = {}
    for layer, distances in layer_distances(restored, [gt, *negatives], features).items():
        likeness = -distances / 2
        terms[layer] = likeness.logsumexp(dim=0) - likeness[0]
    return weighted_sum(terms, features)


def margin(restored, gt, negatives, *, features, **_) -> Tensor:
    """SEC-Depth's margin: push away from a history until it is far enough, then not at all.

    term = mean_k max(alpha_k - d(restored, n_k), 0),  alpha_k = d(gt, n_k)

    Between 0 and the mean of alpha. Far enough means as far as the truth is from that history: at the truth the term is
    0, and the margin shrinks as the histories learn.

    Source: SEC-Depth, arXiv:2511.15167, a loss for depth. Adapted: its alpha follows a schedule that is not published;
        this one is OURS.
    """
    enough, found = (
        weighted_sum(layer_distances(image, negatives, features), features)  # d(image, n_k) for every k
        for image in (gt, restored)
    )
    return (enough - found).clamp_min(0).mean()


def smooth(restored, gt, negatives, *, features, averaged, **_) -> Tensor:
    """The smooth push, OURS: directions from the averaged network's progress, applied where the network is.

    term = mean_k sum_l w_l mean s_kl (phi_l(restored) - phi_l(averaged)),  s_kl = sign(phi_l(averaged) - phi_l(n_k))

    with `averaged` the output of the evaluation EMA for the same lq, and n_k the outputs of the EMA's own histories.
    Its gradient is SPN's with other signs: single steps of a network swing around their average, and where an average
    came from may say more about where it is going. It is subtracted, as SPN's term is, and not bounded below.
    """
    reference, *past = frozen_features([averaged.to(restored.dtype), *negatives], features)
    ours, value = features(restored), {}
    for layer, own in ours.items():
        direction = torch.stack([(reference[layer] - other[layer]).sign() for other in past]).mean(dim=0)
        value[layer] = (direction * (own - reference[layer])).mean()
    return weighted_sum(value, features)
