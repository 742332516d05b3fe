"""The embedded photographs: whole, unchanged, fairly split, documented, and what the maker script makes."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mclir_nb import root
from mclir_nb.data import datasets, tasks
from mclir_nb.data.patches import Benchmark

DATA = Path(__file__).resolve().parents[2] / "data"
SAMPLES = DATA / "samples"


def rows(name):
    return pd.read_csv(SAMPLES / f"{name}.csv", dtype=str, keep_default_na=False).to_dict("records")


INDEX = rows("index")


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["name"])
def test_files_are_whole_unchanged_and_documented(entry):
    for file, checksum in (("file", "sha256"), ("depth_file", "depth_sha256")):
        assert hashlib.sha256((SAMPLES / entry[file]).read_bytes()).hexdigest() == entry[checksum]
    with Image.open(SAMPLES / entry["file"]) as picture, Image.open(SAMPLES / entry["depth_file"]) as depth:
        assert picture.mode == "RGB" and depth.mode == "L" and picture.size == depth.size
        assert 256 <= max(picture.size) <= 512 and picture.width % 4 == picture.height % 4 == 0
        assert np.array(depth).max() >= 250 and np.array(depth).min() <= 200  # 255 is the farthest point
    text = (DATA / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{entry['file']}` |")]
    for value in (entry["licence"], entry["source"], entry["split"], entry["depth_kind"]):
        assert f"| {value} |" in line
    assert entry["sha256"][:16] in line and entry["depth_sha256"][:16] in line


def test_the_split_and_what_is_listed():
    counts = {split: [e["name"] for e in INDEX if e["split"] == split] for split in datasets.SPLITS}
    assert [len(names) for names in counts.values()] == [10, 3, 4] and len(INDEX) == 17
    assert counts["test"] == [sample.name for sample in datasets.embedded("test")] and "motorcycle" in counts["test"]
    listed = {e[column] for e in INDEX for column in ("file", "depth_file")}
    assert listed == {path.name for path in SAMPLES.glob("*.png")}
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 6e6
    estimated = {p["name"] for p in rows("points")}
    assert {e["name"] for e in INDEX if e["depth_kind"] == "estimated"} == estimated
    assert {e["name"] for e in INDEX} - estimated == {"motorcycle"}  # measured where it can be


def test_haze_on_the_pictures_has_the_strength_of_reside():
    """Mean PSNR of hazy pictures between 10 and 18 dB (the one SOTS-outdoor pair at hand: 16.1)."""
    dehaze = tasks.get("dehaze")
    pairs = [pair for split in datasets.SPLITS for pair in Benchmark(datasets.embedded(split), dehaze)]
    assert 10 < torch.tensor([-10 * ((lq - gt) ** 2).mean().log10() for _, gt, lq in pairs]).mean() < 18


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


FAST = ("motorcycle", "dandelion")
REMADE = [pytest.param(e["name"], marks=[] if e["name"] in FAST else pytest.mark.slow) for e in INDEX]


@pytest.mark.parametrize("name", REMADE)
def test_maker_makes_the_committed_depth(maker, name):
    """Within one of 255 levels: the linear solver may round differently elsewhere."""
    made = maker.depth_layer(name, np.array(Image.open(SAMPLES / f"{name}.png")))
    committed = np.array(Image.open(SAMPLES / f"{name}_depth.png"))
    assert np.abs(made.astype(int) - committed).max() <= 1


def test_maker_refuses_a_missing_or_changed_original(maker, tmp_path):
    raccoon = next(e for e in rows("originals") if e["name"] == "raccoon")
    with pytest.raises(FileNotFoundError, match="scipy-1.9.3"):
        maker.read_original(raccoon, tmp_path)
    with pytest.raises(ValueError, match="SHA-256"):
        maker.read_original(INSTALLED[0] | {"original_sha256": "0"}, None)


def test_the_photographs_behind_the_weights_are_free_and_each_has_its_author():
    table = pd.read_csv(root() / "data" / "weights" / "photographs.csv")
    assert len(table) > 50 and table.notna().all(axis=None) and table.sha256.is_unique
    assert table.licence.str.startswith(("CC0", "Public Domain")).all()
    assert not set(table.name) & {entry.name for split in datasets.SPLITS for entry in datasets.embedded(split).entries}
