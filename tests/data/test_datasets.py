"""Data sets on disk: every packing that is read, its pairing rule, its splits, and what is refused."""

import numpy as np
import pytest
import torch
from golden import SHARED

from mclir_nb.data import datasets, images, layouts, published, tasks
from mclir_nb.data.patches import Benchmark

DEHAZE, DERAIN, DEBLUR, DENOISE = (tasks.get(name) for name in ("dehaze", "derain", "deblur", "denoise"))
SR2, SR4 = tasks.get("sr", 2), tasks.get("sr", 4)
needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(root, *names, size=(6, 6), seed=0):
    """Files of one content. The suffix decides the format; what is not a picture is text."""
    content = images.png(images.Picture(picture(*size, seed)))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)  # readers look at the content, not at the suffix


def pairs(root, *names_lq, gt, size=(6, 6), gt_size=None):
    """Degraded files and the clean ones that `gt` names for them, of other content."""
    fill(root, *names_lq, size=size, seed=1)
    fill(root, *{gt(name) for name in names_lq}, size=gt_size or size, seed=2)


def opened(name, task, split, root):
    images_ = datasets.open_set(name, task, split, root)
    for entry in images_.entries:
        assert entry.gt.is_file() and (entry.lq is None or entry.lq.is_file())
    return images_


def refusal(*arguments):
    with pytest.raises(ValueError) as caught:
        datasets.open_set(*arguments)
    return str(caught.value)


# -------------------------------------------------------------------------------------- templates and pairing


def test_alternatives_are_tried_outermost_first():
    assert layouts.alternatives("(A/|)B(/C|)") == ["A/B/C", "A/B", "B/C", "B"]


def test_names_sort_as_numbers(tmp_path):
    pairs(tmp_path, *(f"train/lq/{i}.png" for i in (10, 9, 100, 1)), gt=lambda n: n.replace("lq", "gt"))
    assert [e.name for e in layouts.find(published.FOLDER.train[0], tmp_path).entries] == ["1", "9", "10", "100"]


def test_hidden_and_foreign_files_are_passed_over(tmp_path):
    pairs(tmp_path, *(f"train/lq/{i}.png" for i in range(4)), gt=lambda n: n.replace("lq", "gt"))
    fill(tmp_path, "train/lq/._0.png", "train/lq/Thumbs.db", "train/gt/readme.txt")
    assert len(opened("folder", DERAIN, "train", tmp_path)) == 2


def test_every_public_set_describes_itself():
    for name in published.names():
        layout = published.get(name)
        assert layout.title and layout.where and (layout.train or layout.test)
        for task in map(tasks.get, layout.tasks or ["denoise"]):
            text = datasets.tree(layout, task)
            assert layout.where in text and "nothing is downloaded" in text and "{" not in text


# ---------------------------------------------------------------------------------------------------- RESIDE


def its(root, scenes=30, each=10):
    names = [f"ITS/hazy/{i}_{k}_0.{70 + k}.png" for i in range(1, scenes + 1) for k in range(1, each + 1)]
    pairs(root, *names, gt=lambda n: f"ITS/clear/{n.split('/')[-1].split('_')[0]}.png", gt_size=(8, 8))


def sots_indoor(root):
    names = [f"SOTS/indoor/hazy/{i}_{k}.png" for i in range(1400, 1450) for k in range(1, 11)]
    pairs(root, *names, gt=lambda n: f"SOTS/indoor/clear/{n.split('/')[-1].split('_')[0]}.png", gt_size=(8, 8))


def test_reside_indoor_pairs_many_hazy_with_one_clear_and_tests_on_sots(tmp_path):
    its(tmp_path / "RESIDE")
    sots_indoor(tmp_path / "RESIDE")
    train, val, test = (opened("reside-its", DEHAZE, split, tmp_path) for split in datasets.SPLITS)
    assert (len(train), len(val), len(test)) == (270, 30, 500) and len({e.gt for e in test.entries}) == 50
    assert not {e.gt for e in train.entries} & {e.gt for e in val.entries}
    assert all(e.lq.stem.split("_")[0] == e.gt.stem for s in (train, val, test) for e in s.entries)
    assert test[0].name == "1400_1" and not test.note
    assert "270" in train.note or "300 of 13990" in train.note


def test_sots_clear_images_are_centre_cropped(tmp_path):
    sots_indoor(tmp_path)
    sample = opened("sots-indoor", DEHAZE, "test", tmp_path)[0]
    assert torch.equal(sample.gt, torch.from_numpy(picture(8, 8, 2)).permute(2, 0, 1)[:, 1:7, 1:7])
    assert sample.lq.shape == (3, 6, 6)


def test_a_clear_image_smaller_than_the_hazy_one_is_refused(tmp_path):
    pairs(tmp_path, "SOTS/indoor/hazy/1400_1.png", gt=lambda n: "SOTS/indoor/clear/1400.png", gt_size=(4, 6))
    with pytest.raises(ValueError, match="6x4 but lq .* is 6x6"):
        opened("sots-indoor", DEHAZE, "test", tmp_path)[0]


@pytest.mark.parametrize("inside", ["", "RESIDE", "RESIDE/SOTS", "RESIDE/SOTS/outdoor"])
def test_the_root_may_be_any_folder_of_the_tree(tmp_path, inside):
    pairs(tmp_path, "RESIDE/SOTS/outdoor/hazy/0001_0.8_0.2.jpg", gt=lambda n: "RESIDE/SOTS/outdoor/clear/0001.png")
    (entry,) = opened("sots-outdoor", DEHAZE, "test", tmp_path / inside).entries
    assert (entry.lq.name, entry.gt.name, entry.name) == ("0001_0.8_0.2.jpg", "0001.png", "0001_0.8_0.2")


@pytest.mark.parametrize("hazy", ["OTS/hazy", "OTS/part1", "OTS/hazy/part2"])
def test_reside_outdoor_in_one_folder_or_in_parts(tmp_path, hazy):
    names = [f"{hazy}/{i:04}_{a}_{b}.jpg" for i in range(20) for a in ("0.8", "1") for b in ("0.04", "0.2")]
    pairs(tmp_path, *names, gt=lambda n: f"OTS/clear/{n.split('/')[-1][:4]}.jpg")
    fill(tmp_path, "OTS/clear/9999.jpg")  # clear images without a hazy one are usual here
    assert len(opened("reside-ots", DEHAZE, "train", tmp_path)) == 72
    assert len(opened("reside-ots", DEHAZE, "val", tmp_path)) == 8


@pytest.mark.parametrize("name", ["reside-6k", "reside-in", "reside-out"])
def test_dehazeformer_repacking_has_equal_names(tmp_path, name):
    for split, count in (("train", 20), ("test", 3)):
        files = [f"{name.upper()}/{split}/hazy/{i}.png" for i in range(count)]
        pairs(tmp_path, *files, gt=lambda n: n.replace("hazy", "GT"))
    assert [len(opened(name, DEHAZE, split, tmp_path)) for split in datasets.SPLITS] == [18, 2, 3]


# ---------------------------------------------------------------------------------------------------
# deraining


def test_rain100l_as_prenet_packs_it(tmp_path):
    flat = [f"RainTrainL/rain-{i}.png" for i in range(1, 201)]
    pairs(tmp_path, *flat, gt=lambda n: n.replace("rain-", "norain-"))
    fill(tmp_path, "RainTrainL/rainstreak-1.png", "RainTrainL/rainregion-1.png")
    padded = [f"Rain100L/rainy/rain-{i:03}.png" for i in range(1, 101)]
    pairs(tmp_path, *padded, gt=lambda n: n.replace("rainy/rain-", "norain-"))
    sets = [opened("rain100l", DERAIN, split, tmp_path) for split in datasets.SPLITS]
    assert [len(s) for s in sets] == [180, 20, 100] and not any(s.note for s in sets)
    assert sets[2].entries[9].lq.name == "rain-010.png" and sets[2].entries[9].gt.name == "norain-010.png"


@pytest.mark.parametrize("top", ["test/derain", "test/derain/Rain100L", "Datasets/test/Rain100L"])
def test_rain100l_test_as_airnet_promptir_and_restormer_pack_it(tmp_path, top):
    pairs(tmp_path, *(f"{top}/input/{i}.png" for i in range(1, 5)), gt=lambda n: n.replace("input", "target"))
    assert len(opened("rain100l", DERAIN, "test", tmp_path)) == 4


def test_rain100h(tmp_path):
    pairs(tmp_path, *(f"RainTrainH/rain-{i}.png" for i in range(20)), gt=lambda n: n.replace("rain-", "norain-"))
    assert len(opened("rain100h", DERAIN, "train", tmp_path)) == 18


RAIN200 = {
    "rain_data_train_Light/rain/norain-{}x2.png": "rain_data_train_Light/norain/norain-{}.png",
    "rain_data_train_Light/rain/X2/norain-{}x2.png": "rain_data_train_Light/norain/norain-{}.png",
    "Light/input/rain-{}.png": "Light/groundtruth/norain-{}.png",
    "Rain200L/train/input/rain-{}.png": "Rain200L/train/groundtruth/norain-{}.png",
    "Rain200L/train/input/{}.png": "Rain200L/train/target/{}.png",
}


@pytest.mark.parametrize("lq", RAIN200)
def test_rain200l_packings(tmp_path, lq):
    for i in range(1, 21):
        pairs(tmp_path, lq.format(i), gt=lambda n, i=i: RAIN200[lq].format(i))
    assert len(opened("rain200l", DERAIN, "train", tmp_path)) == 18
    assert "no test files" in refusal("rain200l", DERAIN, "test", tmp_path)


def test_rain200h_test_set(tmp_path):
    names = [f"rain_data_test_Heavy/rain/X2/norain-{i}x2.png" for i in range(1, 201)]
    pairs(tmp_path, *names, gt=lambda n: n.replace("rain/X2", "norain").replace("x2.png", ".png"))
    test = opened("rain200h", DERAIN, "test", tmp_path)
    assert len(test) == 200 and not test.note


def test_ddn_has_fourteen_rains_each_and_splits_at_900(tmp_path):
    names = [f"DDN-Data/rainy_image/{i}_{j}.jpg" for i in (1, 2, 899, 900, 901, 1000) for j in range(1, 15)]
    pairs(tmp_path, *names, gt=lambda n: f"DDN-Data/ground_truth/{n.split('/')[-1].split('_')[0]}.jpg")
    train, val, test = (opened("ddn", DERAIN, split, tmp_path) for split in datasets.SPLITS)
    assert (len(train), len(val), len(test)) == (42, 14, 28)
    assert {e.gt.stem for e in test.entries} == {"901", "1000"} and {e.gt.stem for e in val.entries} == {"900"}


@pytest.mark.parametrize("top", ["rainy_image_dataset/testing", "Rain1400"])
def test_ddn_test_as_released_and_as_prenet_packs_it(tmp_path, top):
    names = [f"{top}/rainy_image/{i}_{j}.jpg" for i in range(901, 1001) for j in range(1, 15)]
    pairs(tmp_path, *names, gt=lambda n: f"{top}/ground_truth/{n.split('/')[-1].split('_')[0]}.jpg")
    test = opened("ddn", DERAIN, "test", tmp_path)
    assert len(test) == 1400 and not test.note


def test_did_files_hold_both_halves(tmp_path):
    for density in ("Heavy", "Medium", "Light"):
        top = f"DID-MDN-training/Rain_{density}/train2018new"
        fill(tmp_path, *(f"{top}/{i}.jpg" for i in range(1, 21)), size=(6, 12))
    train, val = (opened("did", DERAIN, split, tmp_path) for split in ("train", "val"))
    assert len(train) == 54 and len(val) == 6
    assert not {e.gt.name for e in train.entries} & {e.gt.name for e in val.entries}  # i in all densities at once
    both = torch.from_numpy(picture(6, 12)).permute(2, 0, 1)
    assert torch.equal(train[0].lq, both[:, :, :6]) and torch.equal(train[0].gt, both[:, :, 6:])
    assert train[0].name == "Heavy/1"


def test_did_split_as_idt_expects_it(tmp_path):
    pairs(tmp_path, *(f"DID-MDN/input/{i}.jpg" for i in range(1, 21)), gt=lambda n: n.replace("input", "groundtruth"))
    assert len(opened("did", DERAIN, "train", tmp_path)) == 18


def test_spa_data_is_paired_by_its_list(tmp_path):
    lines = []
    for video in range(4):
        for x in range(5):
            lq, gt = (
                f"{top}/{video:03}/{video:03}-1/{video:03}-1_{x}_0.png" for top in ("real_world", "real_world_gt")
            )
            pairs(tmp_path, lq, gt=lambda n, gt=gt: gt)
            lines.append(f"./{lq} ./{gt}")
    (tmp_path / "real_world.txt").write_text("\n".join(lines) + "\n")
    train, val = (opened("spa-data", DERAIN, split, tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5) and {e.gt.parent.name for e in val.entries} == {"003-1"}


def test_a_pair_list_cannot_lead_out_of_its_folder(tmp_path):
    fill(tmp_path, "secret.png", "SPA-Data/real_test_1000/rain/000.png", seed=1)
    (tmp_path / "SPA-Data/real_test_1000.txt").write_text(
        "/real_test_1000/rain/000.png /real_test_1000/../../secret.png\n"
    )
    assert "no partner" in refusal("spa-data", DERAIN, "test", tmp_path)


def test_spa_test_set_without_its_list(tmp_path):
    names = [f"real_test_1000/rain/{i:03}.png" for i in range(1000)]
    pairs(tmp_path, *names, gt=lambda n: n.replace("rain/", "gt/").replace(".png", "gt.png"))
    test = opened("spa-data", DERAIN, "test", tmp_path)
    assert len(test) == 1000 and not test.note and test.entries[7].gt.name == "007gt.png"


# ----------------------------------------------------------------------------------------------
# super-resolution


def test_div2k_names_carry_the_scale(tmp_path):
    for i in range(1, 21):
        fill(tmp_path, f"DIV2K/DIV2K_train_HR/{i:04}.png", size=(24, 24), seed=2)
        fill(tmp_path, f"DIV2K/DIV2K_train_LR_bicubic/X4/{i:04}x4.png", size=(6, 6), seed=1)
    for i in range(801, 804):
        fill(tmp_path, f"DIV2K/DIV2K_valid_HR/{i:04}.png", size=(24, 24), seed=2)
        fill(tmp_path, f"DIV2K/DIV2K_valid_LR_bicubic/X4/{i:04}x4.png", size=(6, 6), seed=1)
    sets = [opened("div2k", SR4, split, tmp_path) for split in datasets.SPLITS]
    assert [len(s) for s in sets] == [18, 2, 3]
    assert sets[2].entries[0].name == "0801" and sets[2][0].lq.shape == (3, 6, 6)
    assert datasets.open_set("div2k", SR2, "train", tmp_path).entries[0].lq is None  # no X2 files: made by the task


def test_div2k_sub_images_of_one_photograph_stay_together(tmp_path):
    for i in range(1, 21):
        names = [f"{i:04}_s{k:03}.png" for k in range(1, 4)]
        fill(tmp_path, *(f"DIV2K_train_HR_sub/{n}" for n in names), size=(12, 12), seed=2)
        fill(tmp_path, *(f"DIV2K_train_LR_bicubic/X2_sub/{n}" for n in names), size=(6, 6), seed=1)
    train, val = (opened("div2k", SR2, split, tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (54, 6) and {e.name[:4] for e in val.entries} == {"0019", "0020"}


BENCHMARKS = {  # three packings: HR and LR names
    "Set5/HR/baby.png": "Set5/LR_bicubic/X{0}/babyx{0}.png",
    "Set5/GTmod12/baby.png": "Set5/LRbicx{0}/baby.png",
    "Set5/image_SRF_{0}/img_001_SRF_{0}_HR.png": "Set5/image_SRF_{0}/img_001_SRF_{0}_LR.png",
}


@pytest.mark.parametrize("hr", BENCHMARKS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_benchmark_packings_crop_hr_at_the_right_and_bottom(tmp_path, hr, scale):
    fill(tmp_path, hr.format(scale), size=(6 * scale + 1, 7 * scale), seed=2)
    fill(tmp_path, BENCHMARKS[hr].format(scale), size=(6, 7), seed=1)
    task = tasks.get("sr", scale)
    test = opened("set5", task, "test", tmp_path)
    assert test[0].gt.shape == (3, 6 * scale, 7 * scale) and test[0].lq.shape == (3, 6, 7)
    whole = torch.from_numpy(picture(6 * scale + 1, 7 * scale, 2)).permute(2, 0, 1)
    assert torch.equal(test[0].gt, whole[:, : 6 * scale])
    assert test[0].name in ("baby", "img_001")


def test_selfexsr_urban100_x2_is_not_the_benchmark(tmp_path):
    for scale in (2, 4):
        fill(tmp_path, f"Urban100/image_SRF_{scale}/img_001_SRF_{scale}_HR.png", size=(24, 24), seed=2)
        fill(tmp_path, f"Urban100/image_SRF_{scale}/img_001_SRF_{scale}_LR.png", size=(24 // scale,) * 2, seed=1)
    assert len(opened("urban100", SR4, "test", tmp_path)) == 1
    assert "no test files" in refusal("urban100", SR2, "test", tmp_path)


@pytest.mark.parametrize("name", ["set14", "b100", "manga109"])
def test_other_benchmarks(tmp_path, name):
    fill(tmp_path, f"benchmark/{name.capitalize()}/HR/a.png", size=(12, 12), seed=2)
    fill(tmp_path, f"benchmark/{name.capitalize()}/LR_bicubic/X2/ax2.png", size=(6, 6), seed=1)
    assert len(opened(name, SR2, "test", tmp_path)) == 1
    assert "for testing only" in refusal(name, SR2, "train", tmp_path)


def test_hr_files_serve_other_tasks_as_clean_pictures(tmp_path):
    fill(tmp_path, "Set5/HR/baby.png", size=(12, 12))
    assert opened("set5", DENOISE, "test", tmp_path).entries[0].lq is None


def test_b100_is_cut_from_bsds500(tmp_path):
    fill(tmp_path, "BSDS500/images/val/101085.jpg", size=(33, 49))
    assert opened("b100", SR2, "test", tmp_path)[0].gt.shape == (3, 32, 48)


# ------------------------------------------------------------------------------- deblurring, clean,
# all-in-one


@pytest.mark.parametrize("joined", [False, True])
def test_gopro_packings_hold_out_whole_sequences(tmp_path, joined):
    for sequence in range(4):
        for frame in range(3):
            name = f"GOPR0{sequence}_11_00{'-' if joined else '/@/'}{frame:06}.png"
            lq, gt = (
                (f"input/{name}", f"target/{name}") if joined else (name.replace("@", s) for s in ("blur", "sharp"))
            )
            pairs(tmp_path, f"train/{lq}", f"test/{lq}", gt=lambda n, gt=gt: f"{n.split('/')[0]}/{gt}")
    fill(tmp_path, "train/GOPR00_11_00/blur_gamma/000000.png")
    sets = [opened("gopro", DEBLUR, split, tmp_path) for split in datasets.SPLITS]
    assert [len(s) for s in sets] == [9, 3, 12]
    assert all("GOPR03" in str(e.gt) for e in sets[1].entries)


def test_gopro_lmdb_is_named_as_the_reason(tmp_path):
    (tmp_path / "GoPro/test/input.lmdb").mkdir(parents=True)
    assert "LMDB folders are there, but they are not read" in refusal("gopro", DEBLUR, "test", tmp_path)


def test_bsds500_leaves_out_what_is_in_test_sets(tmp_path):
    fill(tmp_path, *(f"images/train/{i}.jpg" for i in (*published.BSDS_EXCLUDED, *range(2000, 2018))))
    fill(tmp_path, "images/test/3000.jpg", "images/test/3001.jpg", "images/val/4000.jpg", size=(33, 49))
    train, val, test = (opened("bsds500", DENOISE, split, tmp_path) for split in datasets.SPLITS)
    assert (len(train), len(val), len(test)) == (18, 2, 1) and test[0].gt.shape == (3, 32, 48)
    assert not {e.name for e in train.entries} & set(published.BSDS_EXCLUDED)


def airnet(root):
    fill(root, *(f"data/Train/Denoise/w{i}.bmp" for i in range(10)), size=(33, 34))
    rain = [f"data/Train/Derain/rainy/rain-{i}.png" for i in range(1, 11)]
    pairs(root, *rain, gt=lambda n: n.replace("rainy/rain-", "gt/norain-"), size=(33, 34))
    haze = [f"data/Train/Dehaze/synthetic/part1/{i:04}_0.8_{b}.jpg" for i in range(10) for b in ("0.1", "0.2")]
    pairs(root, *haze, gt=lambda n: f"data/Train/Dehaze/original/{n.split('/')[-1][:4]}.jpg", size=(33, 34))
    fill(root, "test/denoise/bsd68/test001.png", size=(33, 34))
    pairs(root, "test/derain/Rain100L/input/1.png", gt=lambda n: n.replace("input", "target"), size=(33, 34))
    pairs(root, "test/dehaze/input/0001_0.8_0.2.jpg", gt=lambda n: "test/dehaze/target/0001.png", size=(33, 34))


def test_the_all_in_one_mixture(tmp_path):
    airnet(tmp_path)
    train, val, test = (opened("airnet", DENOISE, split, tmp_path) for split in datasets.SPLITS)
    assert len(train) == 9 * 3 * 3 + 9 * 120 + 9 * 2 and len(val) == 3 + 1 + 2
    assert [e.name for e in test.entries][:3] == [f"bsd68/test001 noise {s}" for s in (15, 25, 50)]
    assert len(test) == 5
    sample = train[0]
    assert sample.noise == 15 and sample.gt.shape == (3, 32, 32)  # centre-cropped to multiples of 16
    assert train[100].lq is not None and train[100].gt.shape == (3, 32, 32)


def test_each_part_of_the_mixture_is_degraded_in_its_own_way(tmp_path):
    airnet(tmp_path)
    test = opened("airnet", DENOISE, "test", tmp_path)
    errors = [float((lq - gt).std() * 255) for _, gt, lq in Benchmark(test, DENOISE)][:3]
    assert errors[0] < errors[1] < errors[2] and 12 < errors[0] < 16
    _, _, lq = Benchmark(test, DENOISE)[1]
    assert torch.equal(lq, Benchmark(test, DENOISE)[1][2])


# --------------------------------------------------------------------------------------------------- own
# pictures


def test_own_pictures_in_one_place_are_shared_out(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(20)))
    sets = [opened("folder", DENOISE, split, tmp_path) for split in datasets.SPLITS]
    assert [len(s) for s in sets] == [16, 2, 2]
    assert len({e.gt for s in sets for e in s.entries}) == 20


def test_own_pairs_with_own_splits(tmp_path):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        files = [f"{split}/lq/{i}.jpg" for i in range(count)]
        pairs(tmp_path, *files, gt=lambda n: n.replace("lq", "gt").replace("jpg", "png"))
    assert [len(opened("folder", DERAIN, split, tmp_path)) for split in datasets.SPLITS] == [4, 2, 3]


# --------------------------------------------------------------------------------------------- what is
# refused


def test_a_picture_too_small_for_its_crop(tmp_path):
    fill(tmp_path, "BSDS500/images/val/1.jpg", size=(15, 40))
    with pytest.raises(ValueError, match="too small"):
        opened("b100", SR2, "test", tmp_path)[0]


def test_wrong_names_and_roots(tmp_path):
    assert "did you mean 'reside-its'" in refusal("reside-it", DEHAZE, "train", tmp_path)
    assert "the splits are" in refusal("folder", DENOISE, "trian", tmp_path)
    assert "needs data_root" in refusal("reside-its", DEHAZE, "train", None)
    assert "does not exist" in refusal("reside-its", DEHAZE, "train", tmp_path / "nowhere")


def test_a_missing_set_shows_the_tree_and_where_it_is_published(tmp_path):
    text = refusal("reside-its", DEHAZE, "train", tmp_path)
    assert "RESIDE/ITS/hazy/ID_*   with   RESIDE/ITS/clear/ID" in text
    assert published.RESIDE in text and "nothing is downloaded" in text


def test_pairs_for_another_task(tmp_path):
    its(tmp_path, scenes=2, each=1)
    assert "holds pairs for dehaze, not for derain" in refusal("reside-its", DERAIN, "train", tmp_path)


def test_clean_pictures_cannot_be_hazed_without_depth(tmp_path):
    fill(tmp_path, *(f"{i}.png" for i in range(20)))
    assert "needs a depth layer" in refusal("folder", DEHAZE, "train", tmp_path)


def test_half_a_download(tmp_path):
    pairs(tmp_path, *(f"RainTrainL/rain-{i}.png" for i in range(9)), gt=lambda n: n.replace("rain-", "norain-"))
    (tmp_path / "RainTrainL/norain-3.png").unlink()
    text = refusal("rain100l", DERAIN, "train", tmp_path)
    assert "have no partner of the same name: rain-3.png" in text and "check-data rain100l" in text


def test_two_gt_for_one_lq(tmp_path):
    pairs(tmp_path, *(f"train/lq/{i}.png" for i in range(4)), gt=lambda n: n.replace("lq", "gt"))
    fill(tmp_path, "train/gt/2.jpg")
    assert "taken already: gt/2." in refusal("folder", DERAIN, "train", tmp_path)


def test_too_few_pictures_to_hold_some_out(tmp_path):
    fill(tmp_path, "1.png")
    assert "too few pictures" in refusal("folder", DENOISE, "train", tmp_path)


def test_equal_folders_small_pictures_and_wrong_sizes_are_noticed_before_training(tmp_path):
    fill(tmp_path, *(f"train/{side}/{i}.png" for side in ("lq", "gt") for i in range(4)))
    with pytest.raises(ValueError, match="same picture as lq and gt"):
        datasets.check(opened("folder", DERAIN, "train", tmp_path), DERAIN, 4)
    fill(tmp_path, *(f"train/lq/{i}.png" for i in range(4)), seed=3)
    with pytest.raises(ValueError, match="smaller than the patch of 32"):
        datasets.check(opened("folder", DERAIN, "train", tmp_path), DERAIN, 32)
    datasets.check(opened("folder", DERAIN, "train", tmp_path), DERAIN, 6)
    fill(tmp_path, "train/lq/1.png", size=(6, 5), seed=3)
    with pytest.raises(ValueError, match="1: gt .* is 6x6 but lq .* is 5x6"):
        datasets.check(opened("folder", DERAIN, "train", tmp_path), DERAIN, 6)


# --------------------------------------------------------------------------------------------- real samples


@needs_data
def test_real_sots_pair(tmp_path):
    (tmp_path / "SOTS").symlink_to(SHARED / "data/sots_sample")
    test = opened("sots-outdoor", DEHAZE, "test", tmp_path)
    ((name, gt, lq),) = Benchmark(test, DEHAZE)
    error = float(((gt - lq) ** 2).mean())
    assert name == "0001_0.8_0.2" and abs(-10 * np.log10(error) - 16.1293) < 1e-3


@needs_data
def test_real_rain100l_pair(tmp_path):
    (tmp_path / "Rain100L").symlink_to(SHARED / "data/rain100l_sample")
    test = opened("rain100l", DERAIN, "test", tmp_path)
    ((_, gt, lq),) = Benchmark(test, DERAIN)
    assert gt.shape == (3, 320, 480) and abs(-10 * np.log10(float(((gt - lq) ** 2).mean())) - 25.9660) < 1e-3


@needs_data
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("name", "count"), [("set5", 5), ("set14", 14)])
def test_real_benchmarks(name, count, scale):
    test = opened(name, tasks.get("sr", scale), "test", SHARED / "data")
    assert len(test) == count and not test.note and test.paired
    sample = test[0]
    assert sample.gt.shape[1] == sample.lq.shape[1] * scale


@needs_data
def test_real_bsds500():
    train, val, test = (opened("bsds500", DENOISE, split, SHARED / "data") for split in datasets.SPLITS)
    assert (len(train), len(val), len(test)) == (376, 20, 100) and not train.note
    assert {tuple(test[i].gt.shape[1:]) for i in range(10)} <= {(320, 480), (480, 320)}
