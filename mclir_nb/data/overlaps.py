"""Pictures that public data sets are known to share: a score on what was trained on is no score.

Sources: data/README.md of the development data (correlation and SIFT with RANSAC over all of BSDS500, Set5, Set14 and
the samples of SOTS, Rain100L and DDN), the README of csdwren/PReNet @ 6d908d1, the training list of
proteus1991/GridDehazeNet.
"""

from __future__ import annotations

_RAIN = ("rain100l", "rain100h", "rain200l", "rain200h")
_OTS = ("reside-ots", "reside-out", "reside-6k", "airnet")
OVERLAPS = (  # trained on, scored on, and what they share
    (
        ("bsds500",),
        (*_RAIN, "airnet"),
        "clean images of Rain100L/H and Rain200L/H are photographs of BSDS500 images/train; after training on these "
        "(with synthetic rain or otherwise) do not report that benchmark",
    ),
    (
        ("rain100h",),
        ("rain100h",),
        "546 of the 1,800 training images of Rain100H share their background with test images; PReNet trains on the "
        "other 1,254",
    ),
    (
        _OTS,
        (*_OTS, "sots-outdoor"),
        "some clear images of OTS are also in SOTS outdoor; GridDehazeNet's training list leaves them out; RESIDE-6K, "
        "said to be half OTS in training and half SOTS outdoor in testing, probably shares some of them",
    ),
    (
        ("airnet",),
        (*_RAIN, "airnet"),
        "the clean images of Rain100L are photographs of BSDS500, from which airnet's denoising part takes as well",
    ),
    ((), ("set5", "set14"), "Set5 'head' and Set14 img_006 (face) are one photograph: not independent evidence"),
    ((), ("set5", "bsds500"), "Set5 'woman' is BSDS500 train/302003; bsds500 leaves it out of training"),
    ((), ("b100", "bsds500"), "B100 is BSDS500 images/val cropped to 480x320; bsds500 never trains on it"),
    ((), ("ddn",), "Test2800 of the Rain13K collection is another selection of the DDN images"),
)


def known_overlaps(name: str) -> list[str]:
    """What is known about one data set, for the report on a download."""
    return [sentence for trained, scored, sentence in OVERLAPS if name in trained + scored]


def overlap_warnings(trained_on: str, scored_on: str) -> list[str]:
    """Warnings for a network trained on one data set and scored on another; empty where nothing is known."""
    known = [sentence for trained, scored, sentence in OVERLAPS if trained_on in trained and scored_on in scored]
    return [f"Known leak between {trained_on} and {scored_on}: {sentence}." for sentence in known]
