"""Patches of the embedded photographs: deterministic, physically consistent, independent of who loads them."""

import pytest
import torch

from mclir_nb.data import datasets, tasks
from mclir_nb.data.patches import Benchmark, Patches, patch
from mclir_nb.data.tasks import to_uint8
from mclir_nb.seeds import stream

ALL = ("dehaze", "derain", "deblur", "sr", "denoise")


def _patches(task, seed=0, size=64):
    return Patches(datasets.embedded("train"), tasks.get(task), size, 4, seed)


@pytest.mark.parametrize("task", ALL)
def test_a_patch_is_a_function_of_seed_and_number(task):
    gt, lq, name = _patches(task)[5]
    again_gt, again_lq, again_name = _patches(task)[5]
    assert name == again_name and torch.equal(gt, again_gt) and torch.equal(lq, again_lq)
    assert gt.shape == (3, 64, 64) and lq.shape == (3, 64 // tasks.get(task).scale) * 1 + (64 // tasks.get(task).scale,)
    assert not torch.equal(gt, _patches(task, seed=1)[5][0])
    assert torch.equal(lq, to_uint8(lq).float() / 255), "lq lies on the 8-bit grid"
    assert 0 <= gt.min() and gt.max() <= 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_small_picture_cut_from_a_patch_equals_the_patch_cut_from_the_small_picture(scale):
    """The margin is enough: patch-wise bicubic is MATLAB's bicubic of the whole picture."""
    from mclir_nb.data import degrade

    task, sample = tasks.get("sr", scale), datasets.embedded("train")[0]
    height, width = (side // scale * scale for side in sample.gt.shape[1:])
    whole = degrade.bicubic(sample.gt[:, :height, :width], 1 / scale).float() / 255
    gt, lq = patch(sample, task, 24 * scale, stream(3))
    found = [
        (turns, flip, top, left)
        for turns in range(4)
        for flip in (0, 1)
        for top, left in _places(lq, whole, turns, flip)
    ]
    assert found, "the patch's lq is nowhere in the whole picture's lq"


def _places(lq, whole, turns, flip):
    """Where lq, put back into the picture's orientation, occurs in the whole lq."""
    upright = torch.rot90(lq.flip(2) if flip else lq, -turns, (1, 2))
    first = (whole[:, : -lq.shape[1], : -lq.shape[2]] == upright[:, :1, :1]).all(0).nonzero().tolist()
    size = lq.shape[1]
    return [(y, x) for y, x in first if torch.equal(whole[:, y : y + size, x : x + size], upright)]


def test_batches_do_not_depend_on_where_they_start_or_on_workers():
    patches = _patches("derain", size=32)
    straight = list(patches.batches(1, 4))
    later = list(patches.batches(3, 4))
    shared = list(patches.batches(1, 4, workers=2))
    for (gt, lq, names), (gt2, lq2, names2) in zip(straight[2:] + straight, later + shared, strict=True):
        assert torch.equal(gt, gt2) and torch.equal(lq, lq2) and list(names) == list(names2)


def test_every_picture_is_seen_once_per_pass():
    patches = _patches("sr")
    count = len(patches.images)
    for turn in range(3):
        assert sorted(patches.picture(turn * count + i) for i in range(count)) == list(range(count))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    next(_patches("dehaze").batches(1, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_the_benchmark_never_changes_and_knows_no_seed():
    task = tasks.get("dehaze")
    first, second = (list(Benchmark(datasets.embedded("test"), task, 64)) for _ in range(2))
    assert [n for n, _, _ in first] == [n for n, _, _ in second]
    assert all(torch.equal(a[2], b[2]) and a[1].shape == (3, 64, 64) for a, b in zip(first, second, strict=True))
