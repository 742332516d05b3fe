"""Damaged and hostile input, thousands of times: a result or a ValueError within two seconds, and nothing written.

Mutations of whole files of every kind that the package reads, and of the values it is called with.
"""

import random
import signal
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from mclir_nb import files, networks, notebook, root, weight_files
from mclir_nb.data import images
from mclir_nb.experiments import evidence
from mclir_nb.networks import checkpoints
from mclir_nb.training import checkpoint, frames, recipes, records

LIMIT = 2.0  # seconds for one input
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")
RUNS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
WORDS = (b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'"', b",", b"9" * 30, b"../../x", b"<b>")
watched: list[str] = []  # what was done that reading must not do, while `watching`
watching = threading.Event()


def _audit(event: str, arguments: tuple) -> None:
    if watching.is_set():
        writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writing or event in WRITES or event in RUNS:
            watched.append(f"{event} {arguments}")


sys.addaudithook(_audit)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file with one to four kinds of damage."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 8, 64))
        kind = chance.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = chance.randbytes(length)
        elif kind == 4:
            data[place : place + length] = data[place : place + length] * chance.choice((2, 100))
        elif kind == 5:
            data[place : place + length] = chance.choice((b"\0", b"\xff")) * length
        else:
            data[place:place] = chance.choice(WORDS)
    return bytes(data)


NASTY = [
    *(None, True, -1, 0, 10**30, -(10**30), 1e308, float("nan"), float("inf"), 1 + 2j, int, object()),
    *("", "x" * 10_000, "../../etc", "<script>", "a\0b", b"bytes", np.int64(3), np.float32(0.5), torch.tensor(1.0)),
    *([], [1], (), (0,), (-1, 1), (float("nan"),) * 4, (None,) * 4, ("a",), {}, {"a": 1}, set()),
]


def called(chance: random.Random) -> None:
    """A recipe, or the check of a notebook's parameters, with a nasty value or two."""
    fields = [*recipes.Recipe.model_fields, "unknown"]
    given = {chance.choice(fields): chance.choice(NASTY) for _ in range(chance.randint(1, 2))}
    if chance.random() < 0.5:
        recipes.get(given.pop("name", "tiny"), given.pop("task", "dehaze"), **given)
    else:
        values = {name: chance.choice(NASTY) for name in ("task", "seed", "steps")}
        notebook.check_parameters(values, task=["dehaze", "sr"], seed=int, steps=int | None)


def write_pictures(folder) -> list[str]:
    """Small files of every accepted kind; their names."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    deep = np.random.default_rng(1).integers(0, 65536, (9, 11, 3), np.uint16)
    tifffile.imwrite(folder / "deep.tif", deep, photometric="rgb")
    files.write_file(folder / "deep.png", images.encode_png(images.Picture(deep)))
    names = ["deep.png", "deep.tif"]
    kinds = [("png", mode, {}) for mode in ("RGB", "P", "LA", "1")] + [("bmp", "RGB", {}), ("webp", "RGBA", {})]
    kinds += [("jpg", "RGB", {}), ("jpg", "CMYK", {"progressive": True})]
    kinds += [("tif", mode, {"compression": how}) for mode, how in (("RGB", "tiff_lzw"), ("CMYK", "tiff_deflate"))]
    for ending, mode, options in kinds:
        names.append(f"{mode}.{ending}")
        pixels.convert(mode).save(folder / names[-1], **options)
    return names


@pytest.fixture(scope="module")
def readable(tmp_path_factory) -> list:
    """(file, how it is read) for every kind of file."""
    folder = tmp_path_factory.mktemp("fuzz")
    recipe = recipes.get("tiny", objective="spn", history_every=(2, 1), history_decay=(0.1, 0.1))
    run = records.Run(folder)
    network = networks.build("edsr", 2, **networks.options("edsr", "tiny"))
    files.write_json(folder / "recipe.json", recipe.model_dump())
    files.write_json(folder / "provenance.json", {"torch": "2", "continued": [{"step": 3, "threads": 1}]})
    rows = [{"step": n, "l_rec": 0.1 * n, "l_neg": 0.2, "seconds": float(n)} for n in range(1, 9)]
    files.write_file(folder / "log.csv", pd.DataFrame(rows).to_csv(index=False))
    files.write_file(folder / "scores.csv", pd.DataFrame(rows).to_csv(index=False))
    checkpoint.save(folder, {"model": network.state_dict(), "run": {"step": 3, "turn": None}})
    small = {str(k): torch.rand(2, 3) for k in range(9)}
    files.write_tensors(folder / "model.safetensors", small, {"step": 3})
    sides = {"lq": torch.rand(3, 8, 8), "gt": torch.rand(3, 8, 8), "4/restored": torch.rand(3, 8, 8)}
    sides |= {"4/gaps": torch.rand(2, 3, 8, 8), "4/distances": torch.rand(2)}
    files.write_tensors(folder / frames.FILE, sides, {"name": "a picture"})
    torch.save({"params": small}, folder / "zip.pth")
    torch.save({"params": small}, folder / "old.pth", _use_new_zipfile_serialization=False)
    pictures = write_pictures(folder)
    readers = [
        ("recipe.json", lambda file: run.recipe),
        ("provenance.json", lambda file: run.provenance),
        ("log.csv", lambda file: run.log),
        ("scores.csv", lambda file: run.scores),
        (checkpoint.FILE, checkpoint.read),
        ("model.safetensors", files.read_tensors),
        ("model.safetensors", checkpoints.read),
        (frames.FILE, lambda file: frames.read(folder)),
        ("zip.pth", checkpoints.read),
        ("old.pth", checkpoints.read),
        ("zip.pth", weight_files.read),
        *((picture, lambda file: images.read_image(file, upright=True)) for picture in pictures),
        *((picture, images.read_size) for picture in pictures[:3]),
    ]
    for name in evidence.recorded()[:1]:
        for file in ("decision.json", *(f"{table}.csv" for table in evidence.FILES)):
            (folder / file).write_bytes((root() / "data" / "records" / name / file).read_bytes())
            readers.append((file, lambda _, name=name: evidence.read_record(name, folder)))
    return [(folder / name, reader) for name, reader in readers]


def late(number, frame):
    raise TimeoutError(f"one input took more than {LIMIT} s")


@pytest.mark.skipif(sys.platform == "win32", reason="no timer signals")
@pytest.mark.parametrize("inputs", [600, pytest.param(12_000, marks=pytest.mark.slow)])
def test_damaged_input_gives_a_result_or_a_sentence(readable, inputs):
    """So many mutated inputs, in turn for every reader."""
    seed = 8 if inputs == 600 else time.time_ns()
    chance, known = random.Random(seed), {file: file.read_bytes() for file, _ in readable}
    folder = readable[0][0].parent
    names, refused = sorted(folder.iterdir()), 0
    before = signal.signal(signal.SIGALRM, late)
    try:
        for number in range(inputs):
            file, read = (*readable, (None, None))[number % (len(readable) + 1)]
            content = file and mutated(known[file], chance)
            if file:
                file.write_bytes(content)
            watching.set()
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            try:
                read(file) if file else called(chance)
            except ValueError:
                refused += 1
            except Exception as error:
                where = file.name if file else "a call"
                raise AssertionError(f"seed {seed}, input {number}, {where}: {error!r}; {content!r:.2000}") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                watching.clear()
                if file:
                    file.write_bytes(known[file])
            assert not watched, watched
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sorted(folder.iterdir()) == names
    assert inputs * 0.4 < refused < inputs  # most damage is noticed; some is harmless, such as to a pixel
