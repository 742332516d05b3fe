"""Patches and benchmarks: deterministic, physically consistent, independent of who loads them."""

import time

import pytest
import torch
from pictures import write

from mclir_nb import stream
from mclir_nb.data import checks, datasets, degrade, images, tasks
from mclir_nb.data.image_set import ImageSet, Sample
from mclir_nb.data.layouts import Entry
from mclir_nb.data.patches import Benchmark, Patches, patch
from mclir_nb.data.tasks import to_uint8

DENOISE = tasks.get("denoise")


def _patches(task, seed=0, size=64, batch=4):
    return Patches(datasets.embedded("train"), tasks.get(task), size, batch, seed)


def _equal(batches, others):
    for (gt, lq, names), (gt2, lq2, names2) in zip(batches, others, strict=True):
        assert torch.equal(gt, gt2) and torch.equal(lq, lq2) and names == names2


@pytest.mark.parametrize("task", tasks.names())
def test_a_patch_is_a_function_of_seed_and_number(task):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    gt, lq, name = _patches(task)[5]
    again_gt, again_lq, again_name = _patches(task)[5]
    assert name == again_name and torch.equal(gt, again_gt) and torch.equal(lq, again_lq)
    assert gt.shape == (3, 64, 64) and lq.shape == (3, *[64 // tasks.get(task).scale] * 2)
    assert not torch.equal(gt, _patches(task, seed=1)[5][0])
    assert torch.equal(lq, to_uint8(lq).float() / 255), "lq lies on the 8-bit grid"
    assert 0 <= gt.min() and gt.max() <= 1
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_small_picture_cut_from_a_patch_equals_the_patch_cut_from_the_small_picture(scale):
    """The margin is enough: patch-wise bicubic is MATLAB's bicubic of the whole picture."""
    task, sample = tasks.get("sr", scale), datasets.embedded("train")[0]
    height, width = (side // scale * scale for side in sample.gt.shape[1:])
    whole = degrade.bicubic(sample.gt[:, :height, :width], 1 / scale).float() / 255
    _, lq = patch(sample, task, 24 * scale, stream(3))
    assert any(_places(lq, whole, turns, flip) for turns in range(4) for flip in (0, 1))


def _places(lq, whole, turns, flip):
    """Where lq, put back into the picture's orientation, occurs in the whole lq."""
    upright = torch.rot90(lq.flip(2) if flip else lq, -turns, (1, 2))
    first = (whole[:, : -lq.shape[1], : -lq.shape[2]] == upright[:, :1, :1]).all(0).nonzero().tolist()
    size = lq.shape[1]
    return [(y, x) for y, x in first if torch.equal(whole[:, y : y + size, x : x + size], upright)]


def test_every_picture_is_seen_once_per_pass():
    patches = _patches("sr")
    count = len(patches.images)
    for turn in range(3):
        assert sorted(patches.picture(turn * count + i) for i in range(count)) == list(range(count))
    first, second = ([patches.picture(turn * count + i) for i in range(count)] for turn in (0, 1))
    assert first != second
    alone = Patches(ImageSet("one", patches.images.entries[:1]), patches.task, 64, 4, 0)
    assert alone[0][2] == alone[1][2] and not torch.equal(alone[0][0], alone[1][0])


def test_a_patch_lies_anywhere_and_any_way_round():
    numbered = torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3).repeat(3, 1, 1)
    sample, chance = Sample("nine", numbered, lq=numbered), stream(0)
    seen = {tuple((patch(sample, DENOISE, 2, chance)[0][0] * 255).round().flatten().int().tolist()) for _ in range(500)}
    assert len(seen) == 4 * 8  # four corners, eight orientations


@pytest.mark.parametrize("task", tasks.names())
def test_batches_do_not_depend_on_processes_threads_or_where_they_start(task):
    cut = _patches(task, batch=3)
    here = list(cut.batches(1, 6, workers=0))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        _equal(here, cut.batches(1, 6, workers=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    _equal(here[2:], cut.batches(3, 6, workers=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_one_sentence_from_any_process(tmp_path, workers):
    for i in range(6):
        write(tmp_path / f"train/{i}.png", (40, 48), seed=i)
    write(tmp_path / "val/0.png")
    (tmp_path / "train/3.png").write_bytes((tmp_path / "train/3.png").read_bytes()[:400])
    cut = Patches(datasets.open_set("folder", DENOISE, "train", tmp_path), DENOISE, 16, 2, 0)
    start = time.time()
    with pytest.raises(ValueError, match="3.png") as caught:
        list(cut.batches(1, 20, workers=workers))
    assert time.time() - start < 10 and "\n" not in str(caught.value)


def test_a_picture_smaller_than_the_patch_is_passed_over(tmp_path):
    write(tmp_path / "train/small.png", size=(12, 40))
    write(tmp_path / "train/large.png", size=(20, 24))
    write(tmp_path / "val/0.png")
    write(tmp_path / "test/0.png")
    opened = datasets.open_set("folder", DENOISE, "train", tmp_path)
    checks.check_trained(opened, DENOISE, 16)
    assert "1 of 2" in opened.note
    names = [name for _, _, names in Patches(opened, DENOISE, 16, 2, 0).batches(1, 5) for name in names]
    assert names == ["large"] * 10
    with pytest.raises(ValueError, match="patch of 32"):
        list(Patches(opened, DENOISE, 32, 2, 0).batches(1, 1))


def test_decoded_pictures_are_kept_up_to_a_bound(tmp_path):
    entries = [Entry(str(i), write(tmp_path / f"{i}.png", (10, 10), i)) for i in range(5)]
    kept = ImageSet("any", entries, memory=750)  # two pictures of 300 bytes
    first = [kept[index] for index in range(5)]
    assert [sample.name for sample in first] == list("01234")
    assert kept[4] is first[4] and kept[3] is first[3] and kept[0] is not first[0]
    assert ImageSet("any", entries, memory=1)[0].gt.shape == (3, 10, 10)


@pytest.mark.parametrize("task", ["dehaze", "denoise"])
def test_a_benchmark_never_changes_and_knows_no_seed(task):
    first, second = (Benchmark(datasets.embedded("test"), tasks.get(task), 64) for _ in range(2))
    assert len(first) == len(list(first)) == len(datasets.embedded("test"))
    for one, again in zip(first, second, strict=True):
        assert one[0] == again[0] and torch.equal(one[1], again[1]) and torch.equal(one[2], again[2])
        assert one[1].shape == (3, 64, 64)


def test_paired_benchmarks_are_cut_in_the_middle_of_both(tmp_path):
    entry = Entry("a", write(tmp_path / "gt.png", (42, 48)), write(tmp_path / "lq.png", (21, 24), 1), scale=2)
    _, gt, lq = Benchmark(ImageSet("any", [entry]), tasks.get("sr", 2), 16)[0]
    whole_gt, whole_lq = (images.read_image(tmp_path / name).float() / 255 for name in ("gt.png", "lq.png"))
    assert torch.equal(gt, whole_gt[:, 12:28, 16:32]) and torch.equal(lq, whole_lq[:, 6:14, 8:16])
