"""Makes data/weights/ again: fetches freely licensed photographs, trains the small networks on them, scores them.

    python data/make_weights.py photographs   # 44 MB of Debian's gcompris-qt-data, by apt-get download
    python data/make_weights.py train dehaze  # or derain, deblur, sr-x2, sr-x4; can be stopped and goes on
    python data/make_weights.py ship dehaze   # weights, recipe, log and scores into data/weights/dehaze

dehaze goes on from dehaze-photographs, which is trained first, without its grid (`without_grid`) and with pictures of
plain skies among the photographs.
Everything but the last goes below runs/weights/. The photographs are not committed: `weights/photographs.csv` names
each with its author, licence, source and checksum. Public domain and CC0 only; what is left out, and why, is in
`LEFT_OUT`.
"""

import csv
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from make_samples import _from_deb
from PIL import Image

from mclir_nb import files, root
from mclir_nb.data import datasets, degrade, tasks
from mclir_nb.data.patches import Benchmark
from mclir_nb.evaluation import evaluate
from mclir_nb.training import recipes, records, train

WORK, SHIPPED = records.runs_dir() / "weights", root() / "data" / "weights"
PACKAGE = "gcompris-qt-data"
RESOURCES = ("explore_monuments", "explore_world_animals", "explore_farm_animals")
LEFT_OUT = {
    **dict.fromkeys(("bentPyramid", "meidumPyramid", "goldenTemple"), "hazy"),
    **dict.fromkeys(("castleClinton",), "black and white"),
    **dict.fromkeys(("georgeWashingtonBirthplace",), "a frame in the picture"),
    **dict.fromkeys(("greatStupa", "greatPyramidOfGiza", "fortSumter"), "a scan, faded or over-sharpened"),
}


def photographs() -> None:
    """Fetch the package, keep what is public domain or CC0, reduce it to half, and write the list."""
    (WORK / "debian").mkdir(parents=True, exist_ok=True)
    if not list((WORK / "debian").glob(f"{PACKAGE}_*.deb")):
        print(f"fetching {PACKAGE} with apt-get download")
        subprocess.run(["apt-get", "download", PACKAGE], cwd=WORK / "debian", check=True)
    package, lines = next((WORK / "debian").glob(f"{PACKAGE}_*.deb")), []
    for split in ("train", "val", "test"):
        (WORK / "photographs" / split).mkdir(parents=True, exist_ok=True)
        for entry in datasets.embedded(split).entries:
            shutil.copy(entry.gt, WORK / "photographs" / split)
    for resource in RESOURCES:
        content = unpack_resource(_from_deb(package, f"usr/share/gcompris-qt/rcc/{resource}.rcc"))
        statements = licences(next(text for name, text in content.items() if name.endswith("README")).decode())
        for path, author, licence, source in statements:
            name = Path(path).stem
            picture = next((data for file, data in content.items() if Path(file).name == Path(path).name), None)
            free = licence.startswith(("CC0", "Public Domain"))
            if picture is None or not path.endswith(".webp") or not free or name in LEFT_OUT:
                continue
            whole = torch.from_numpy(np.array(Image.open(BytesIO(picture)).convert("RGB"))).permute(2, 0, 1)
            half = degrade.bicubic(whole, 0.5).permute(1, 2, 0).numpy()
            Image.fromarray(half).save(WORK / "photographs" / "train" / f"{name}.png")
            lines.append([name, author, licence, source, f"{resource}.rcc", hashlib.sha256(picture).hexdigest()])
    SHIPPED.mkdir(exist_ok=True)
    with open(SHIPPED / "photographs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["name", "author", "licence", "source", "resource", "sha256"], *lines])
    skies()
    print(f"{len(lines)} photographs of {package.name} and the embedded ones are in {WORK / 'photographs'}")


def skies(count: int = 16, side: int = 256) -> None:
    """Beside the photographs of training some pictures of nothing but smooth colour, from flat to strongly shaded."""
    shutil.copytree(WORK / "photographs", WORK / "skies", dirs_exist_ok=True)
    chance = torch.Generator().manual_seed(0)
    for number in range(count):
        colour = 0.1 + 0.85 * torch.rand(1, generator=chance) + 0.05 * torch.randn(1, 3, 1, 1, generator=chance)
        coarse = colour + 0.3 * number / count * torch.randn(1, 1, 3, 3, generator=chance)
        smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0]
        picture = Image.fromarray(tasks.to_uint8(smooth.clamp(0, 1)).permute(1, 2, 0).numpy())
        picture.save(WORK / "skies" / "train" / f"sky{number:02}.png")


@torch.no_grad()
def without_grid(network: torch.nn.Module, rank: int = 32) -> torch.nn.Module:
    """A NAFNet that prints no grid on plain colour; changes and returns it. OURS.

    It enlarges three times by sub-pixels: four channels become four neighbours. Trained as briefly as here these still
    answer differently where there is nothing to see, and a grid of eight pixels lies on sky and walls. So each
    enlargement loses that part of the difference between its four which plain colours call forth: the `rank` strongest
    directions of what it is given for them.
    """
    chance, seen = torch.Generator().manual_seed(0), []
    colours = torch.rand(64, 1, 1, 1, generator=chance) + 0.06 * torch.randn(64, 3, 1, 1, generator=chance)
    plain = colours.clamp(0, 1).expand(-1, -1, 64, 64).contiguous()
    for convolution, _ in network.core.ups:
        with convolution.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
            network(plain)
        given = seen.pop().movedim(1, -1)
        given = given[:, 1:-1, 1:-1].flatten(0, 2)  # beside the border, which is padded with zeros
        directions = torch.linalg.svd(given, full_matrices=False)[2][:rank]
        four = convolution.weight[:, :, 0, 0].unflatten(0, (-1, 4))
        apart = four - four.mean(1, keepdim=True)
        convolution.weight[:, :, 0, 0] -= (apart @ directions.T @ directions).flatten(0, 1)
    return network


def unpack_resource(data: bytes) -> dict[str, bytes]:
    """The files in a Qt resource: a header, a tree of nodes, names in UTF-16, and contents, some of them deflated.

    Source: the format as Qt's documentation of rcc and QResource describes it, version 3.
    """
    magic, version, tree, contents, names = struct.unpack(">4s4I", data[:20])
    if magic != b"qres" or version != 3:
        raise ValueError(f"this is no Qt resource of version 3 but {magic!r} {version}")
    found = {}

    def walk(node: int, above: str) -> None:
        at = tree + 22 * node
        name, flags = struct.unpack(">IH", data[at : at + 6])
        length = struct.unpack(">H", data[names + name : names + name + 2])[0] if node else 0
        path = above + "/" + data[names + name + 6 : names + name + 6 + 2 * length].decode("utf-16be")
        if flags & 2:  # a folder: how many nodes, and the first of them
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                walk(child, path)
        else:
            start = contents + struct.unpack(">I", data[at + 10 : at + 14])[0]
            size = struct.unpack(">I", data[start : start + 4])[0]
            content = data[start + 4 : start + 4 + size]
            found[path] = zlib.decompress(content[4:]) if flags & 1 else content

    walk(0, "")
    return found


def licences(readme: str) -> list[tuple[str, str, str, str]]:
    """(file, author, licence, source) of every picture that a README of GCompris names."""
    found = []
    for block in readme.split("\n\n"):
        facts = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        listed = block.partition("Files:\n")[2].split()
        found += [(file, facts.get("Copyright", ""), facts["License"], facts.get("Source", "")) for file in listed]
    return found


def random_depth(gt: torch.Tensor, generator: torch.Generator, regions: int = 24) -> torch.Tensor:
    """A plausible depth layer for a photograph without one: (H, W), random, with the picture's own outlines. OURS.

    `regions` points thrown on the picture get random depths, on the whole farther towards the top; each pixel then
    takes the depth of the points that are near it and of its colour, so that the layer is smooth within a thing and
    steps where things end. Good for training a dehazer that shall bear any depth; it says nothing about the scene.
    """
    height, width = gt.shape[1:]
    smooth = F.avg_pool2d(gt[None], 9, 1, 4, count_include_pad=False)[0].flatten(1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()]).to(gt) / max(height, width)
    points = torch.randint(height * width, (regions,), generator=generator, device=generator.device).to(gt.device)
    chance = torch.rand(regions + 2, generator=generator, device=generator.device).to(gt)
    lean, slope = 2 * chance[0] - 1, chance[1]  # sideways, and how much of the depth is a slope at all
    towards = 1 - place[0, points] + lean * (place[1, points] - 0.5)
    depth = slope * towards + (1 - slope) * chance[2:]
    unlike = torch.cdist(smooth.T, smooth.T[points]) / 0.3
    away = torch.cdist(place.T, place.T[points]) / 0.15
    layer = torch.softmax(-(unlike**2) - away**2, 1) @ depth
    low, high = layer.aminmax()
    return ((layer - low) / (high - low).clamp(min=1e-6)).view(height, width)


def varied_haze(gt, depth, generator):
    """Haze of any strength and colour on a random depth; the photographs have none of their own."""
    chance = torch.rand(5, generator=generator)  # the first is not used, and drawn for the committed weights' sake
    depth = random_depth(gt, generator)
    depth = chance[1] * 0.6 + (1 - chance[1] * 0.6) * depth  # the nearest thing may be far away
    tint = 0.04 * torch.randn(3, generator=generator) * (chance[2] < 0.5)
    airlight = (0.6 + 0.4 * chance[3] + tint).clamp(0, 1)
    return degrade.haze(gt, depth.clamp(0, 1), 0.05 + 2 * float(chance[4]), airlight)


def varied_rain(gt, depth, generator):
    """Rain from drizzle to downpour, thin and thick, long and short, from upright to slanting."""
    ranges = dict(density=(0.3, 12), length=(8, 110), angle=(-40, 40), brightness=(0.2, 1), width=(0.8, 4.5))
    return degrade.rain(gt, **degrade.sample_rain(generator, ranges), generator=generator)


SHAKE = 15  # how many pixels at most a camera shake reaches to each side


def varied_blur(gt, depth, generator):
    """A camera shake from barely visible to large; half of the time one of the task's own."""
    if torch.rand(1, generator=generator) < 0.5:
        return degrade.motion_blur(gt, degrade.sample_blur_kernel(generator))
    half = int(torch.randint(2, SHAKE + 1, (1,), generator=generator))
    return degrade.motion_blur(gt, degrade.camera_shake_kernel(2 * half + 1, generator=generator))


# Training meets more than the task's own degradation, so that pictures from elsewhere are restored too.
WIDER = {
    "dehaze": dict(degrade=varied_haze, needs_depth=False),
    "derain": dict(degrade=varied_rain),
    "deblur": dict(degrade=varied_blur, margin=SHAKE),
}

COMMON = dict(
    objective="plain", dataset="folder", data_root="photographs", network_size="demo", learning_rate=1.5e-3,
    learning_rate_min=1e-6, betas=(0.9, 0.99), ema_decay=0.995, log_every=50, val_every=500, save_every=250,
)  # fmt: skip
DEHAZE = dict(network="nafnet", batch_size=2, patch_size=192)
RUNS = {
    "dehaze-photographs": DEHAZE | dict(steps=10_000),
    "dehaze": DEHAZE
    | dict(steps=1500, learning_rate=2e-4, data_root="skies", initial_weights="without-grid.safetensors"),
    "derain": dict(network="nafnet", steps=8000, batch_size=4, patch_size=96),
    "deblur": dict(network="nafnet", steps=6000, batch_size=4, patch_size=96),
    "sr-x2": dict(network="edsr", steps=3000, batch_size=8, patch_size=96, scale=2),
    "sr-x4": dict(network="edsr", steps=3000, batch_size=8, patch_size=192, scale=4),
}


def training(name: str) -> None:
    """One run, below runs/weights/NAME; goes on where it was stopped."""
    task = name.partition("-")[0]
    standard = tasks.TASKS[task]
    tasks.TASKS[task] = replace(standard, **WIDER.get(task, {}))
    os.chdir(WORK)  # so that the recipe says "photographs" and no machine's path
    if name == "dehaze":
        start = without_grid(records.open_checkpoint(WORK / "dehaze-photographs" / "ema.safetensors")[0])
        files.write_tensors(WORK / "without-grid.safetensors", start.state_dict())
    train.train(recipes.get("demo", task, **COMMON | RUNS[name]), WORK / name)


RECORD = ("recipe.json", "log.csv", "provenance.json")


def ship(name: str) -> None:
    """The EMA of a finished run into data/weights/NAME, with recipe and log, scored on the embedded test pictures.

    For dehaze also the record of the run that it began with.
    """
    run, target = records.Run(WORK / name), SHIPPED / name
    target.mkdir(parents=True, exist_ok=True)
    task, network = tasks.get(run.recipe.task, run.recipe.scale), run.ema_model()
    scores = evaluate.evaluate(network, Benchmark(datasets.embedded("test"), task))
    files.write_file(target / "scores.csv", scores.to_csv(index=False))
    for file in ("ema.safetensors", *RECORD):
        shutil.copy(run.dir / file, target)
    if name == "dehaze":
        (target / "begun").mkdir(exist_ok=True)
        for file in RECORD:
            shutil.copy(WORK / "dehaze-photographs" / file, target / "begun")
    print(scores.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    {"photographs": photographs, "train": training, "ship": ship}[sys.argv[1]](*sys.argv[2:])
