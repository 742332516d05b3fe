"""The embedded photographs: whole, unchanged, fairly split, documented, and what the maker script makes."""

import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mclir_nb.data import degrade

DATA = Path(__file__).resolve().parents[2] / "data"
SAMPLES = DATA / "samples"


def rows(name):
    with open(SAMPLES / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


INDEX = rows("index")
each = pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["name"])


@each
def test_files_are_whole_and_unchanged(entry):
    for file, checksum in (("file", "sha256"), ("depth_file", "depth_sha256")):
        assert hashlib.sha256((SAMPLES / entry[file]).read_bytes()).hexdigest() == entry[checksum]
    with Image.open(SAMPLES / entry["file"]) as picture, Image.open(SAMPLES / entry["depth_file"]) as depth:
        assert picture.mode == "RGB" and depth.mode == "L"
        assert picture.size == depth.size and 256 <= max(picture.size) <= 512
        assert picture.width % 4 == picture.height % 4 == 0
        pixels, layer = np.array(picture), np.array(depth)
    assert pixels.dtype == np.uint8 and pixels.std() > 20
    assert layer.max() >= 250 and layer.min() <= 200  # 255 is the farthest point, and something is nearer


def test_split():
    counts = {split: [e["name"] for e in INDEX if e["split"] == split] for split in ("train", "val", "test")}
    assert [len(names) for names in counts.values()] == [10, 3, 4] and len(INDEX) == 17
    assert "motorcycle" in counts["test"]


def test_no_photograph_is_there_twice():
    """Names, files, sources and originals differ, and no two pictures look alike at 8 x 8 pixels."""
    for entries, columns in ((INDEX, ("name", "file", "depth_file", "sha256")), (rows("originals"), ("path",))):
        for column in columns:
            assert len({e[column] for e in entries}) == len(INDEX)
    small = [Image.open(SAMPLES / e["file"]).convert("L").resize((8, 8)) for e in INDEX]
    likeness = np.corrcoef([np.array(s, float).ravel() for s in small])
    assert np.abs(likeness - np.eye(len(INDEX))).max() < 0.93


def test_every_file_is_listed_and_the_whole_is_small():
    listed = {e[column] for e in INDEX for column in ("file", "depth_file")}
    assert listed == {path.name for path in SAMPLES.glob("*.png")}
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 6e6


@each
def test_source_and_licence_are_written_down(entry):
    text = (DATA / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{entry['file']}` |")]
    for value in (entry["licence"], entry["source"], entry["split"], entry["depth_kind"]):
        assert f"| {value} |" in line
    assert entry["sha256"][:16] in line and entry["depth_sha256"][:16] in line


def test_depth_is_measured_where_it_can_be():
    estimated = {p["name"] for p in rows("points")}
    for entry in INDEX:
        assert entry["depth_kind"] == ("estimated" if entry["name"] in estimated else "measured")
    assert [e["name"] for e in INDEX if e["depth_kind"] == "measured"] == ["motorcycle"]


@pytest.mark.parametrize("name", ["picos", "aitzgorri", "sunset", "pagoda"])
def test_skies_are_far_and_grounds_are_near(name):
    depth = np.array(Image.open(SAMPLES / f"{name}_depth.png")) / 255
    height = len(depth) // 12
    assert depth[:height].mean() > 0.9 and depth[-height:].mean() < 0.45


def test_haze_on_the_pictures_has_the_strength_of_reside():
    """Mean PSNR of hazy pictures between 10 and 18 dB (the one SOTS-outdoor pair at hand: 16.1)."""
    generator, psnr = torch.Generator().manual_seed(0), []
    for entry in INDEX:
        gt = torch.from_numpy(np.array(Image.open(SAMPLES / entry["file"]))).permute(2, 0, 1) / 255
        depth = torch.from_numpy(np.array(Image.open(SAMPLES / entry["depth_file"]))) / 255
        lq = degrade.haze(gt, depth, **degrade.sample_haze(generator))
        psnr.append(-10 * float(((lq - gt) ** 2).mean().log10()))
    assert 10 < np.mean(psnr) < 18


@pytest.fixture(scope="module")
def maker():
    """data/make_samples.py as a module."""
    sys.path.insert(0, str(DATA))
    try:
        import make_samples
    finally:
        sys.path.remove(str(DATA))
    return make_samples


INSTALLED = [e for e in rows("originals") if e["package"] == "skimage"]


@pytest.mark.parametrize("entry", INSTALLED, ids=lambda entry: entry["name"])
def test_maker_makes_the_committed_pictures(maker, entry):
    """Those whose original comes with scikit-image; the others need a download."""
    made = maker.shrink(maker.decode(entry, maker.read_original(entry, None)))
    committed = np.array(Image.open(SAMPLES / f"{entry['name']}.png"))
    allowed = 0 if entry["path"].endswith(".png") else 2  # JPEG decoders and colour engines may differ
    assert np.abs(made.astype(int) - committed).max() <= allowed


REMADE = [
    pytest.param(e["name"], marks=[] if e["name"] in ("motorcycle", "dandelion") else pytest.mark.slow) for e in INDEX
]


@pytest.mark.parametrize("name", REMADE)
def test_maker_makes_the_committed_depth(maker, name):
    """Within one of 255 levels: the linear solver may round differently elsewhere."""
    made = maker.depth_layer(name, np.array(Image.open(SAMPLES / f"{name}.png")))
    committed = np.array(Image.open(SAMPLES / f"{name}_depth.png"))
    assert np.abs(made.astype(int) - committed).max() <= 1


def test_maker_refuses_a_missing_or_changed_original(maker, tmp_path):
    raccoon = next(e for e in rows("originals") if e["name"] == "raccoon")
    with pytest.raises(FileNotFoundError, match="no scipy-1.9.3"):
        maker.read_original(raccoon, tmp_path)
    with pytest.raises(ValueError, match="has SHA-256 .*, expected 0"):
        maker.read_original(INSTALLED[0] | {"original_sha256": "0"}, None)
