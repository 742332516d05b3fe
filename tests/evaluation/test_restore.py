"""Tiles that agree with the whole image, memory that is predicted, and pictures of every kind."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mclir_nb import files, networks
from mclir_nb.__main__ import main
from mclir_nb.data import images
from mclir_nb.evaluation import restore, tiles
from mclir_nb.training import recipes, records


class Local(nn.Module):
    """Four 3x3 convolutions, optionally enlarging: looks 4 pixels far."""

    def __init__(self, scale=1, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )
        self.sizes = []

    def forward(self, lq):
        self.sizes.append(tuple(lq.shape[2:]))
        return 0.5 + 0.2 * self.layers(lq - 0.5)


class Windows(nn.Module):
    """Averages 8x8 windows: only tiles that begin where windows do agree with the whole image."""

    scale = 1

    def forward(self, lq):
        height, width = lq.shape[2:]
        padded = nn.functional.pad(lq, (0, -width % 8, 0, -height % 8), "reflect")
        means = nn.functional.avg_pool2d(padded, 8)
        return nn.functional.interpolate(means, scale_factor=8)[:, :, :height, :width]


class Same(nn.Module):
    """Gives back what it gets, enlarged by repetition."""

    def __init__(self, scale=1):
        super().__init__()
        self.scale = scale

    def forward(self, lq):
        return lq.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def photo(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def whole(network, lq):
    with torch.no_grad():
        return network(lq).clamp(0, 1)


# ------------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("length", [1, 256, 257, 300, 384, 385, 1000, 4001])
def test_tiles_cover_a_line_once_in_all(length):
    places = tiles.spans(length, 256)
    total = torch.zeros(length)
    for first, last in places:
        assert first % 64 == 0 and (last - first == 256 or last == length)
        total[first:last] += tiles._weights(first, last, length, 1)
    assert torch.allclose(total, torch.ones(length), atol=1e-6)


@pytest.mark.parametrize(("network", "size"), [(Local(), (300, 500)), (Local(2), (260, 390)), (Windows(), (301, 437))])
def test_tiles_agree_with_the_whole_image(network, size):
    lq = photo(*size)
    tiled = tiles.run(network, lq, tile=256)
    assert (tiled - whole(network, lq)).abs().max() < 1e-5


SMALL = {  # networks that look no farther than a tile's context, or nearly so
    "edsr": (2, dict(num_feat=8, num_block=4)),
    "swinir-light": (2, dict(embed_dim=12, depths=[2, 2], num_heads=[2, 2])),
}


@pytest.mark.parametrize("name", SMALL)
def test_tiles_of_the_workbooks_networks_agree_within_a_thousandth(name):
    scale, options = SMALL[name]
    torch.manual_seed(0)
    network, lq = networks.build(name, scale, **options).eval(), photo(272, 400)
    assert (tiles.run(network, lq, tile=256) - whole(network, lq)).abs().max() < 1e-3


def test_a_network_that_looks_at_the_whole_image_is_only_approximated():
    class Mean(Same):
        def forward(self, lq):
            return lq * 0.5 + lq.mean((2, 3), keepdim=True) * 0.5

    lq = photo(300, 500) * torch.linspace(0, 1, 500)
    tiled = tiles.run(Mean(), lq, tile=256)
    assert 0.01 < (tiled - whole(Mean(), lq)).abs().max() < 0.3
    assert (tiled - whole(Mean(), lq)).diff(dim=3).abs().max() < 0.01  # but no visible seam


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (17, 250)])
def test_images_below_a_tile_are_whole(size):
    network = Local(3)
    output = tiles.run(network, photo(*size))
    assert output.shape == (1, 3, 3 * size[0], 3 * size[1]) and len(network.sizes) == 1
    if min(size) >= 16:
        assert torch.equal(output, whole(network, photo(*size)))


def test_the_ensemble_is_the_mean_over_eight_views():
    network, lq = Local(2), photo(20, 30)
    views = []
    for turns in range(4):
        for flip in (False, True):
            view = torch.rot90(lq.flip(3) if flip else lq, turns, (2, 3))
            back = torch.rot90(network(view), -turns, (2, 3))
            views.append(back.flip(3) if flip else back)
    wanted = torch.stack(views).mean(0).clamp(0, 1)
    assert torch.allclose(tiles.run(network, lq, ensemble=True), wanted, atol=1e-6)
    assert not torch.allclose(tiles.run(network, lq), wanted, atol=1e-3)
    lq = photo(20, 280)
    whole_image = tiles.run(network, lq, ensemble=True, tile=512)
    assert torch.allclose(tiles.run(network, lq, ensemble=True, tile=256), whole_image, atol=1e-5)


def test_the_mode_of_the_network_is_put_back():
    network = Local().train()
    tiles.run(network, photo(20, 20))
    assert network.training


def test_what_tiles_refuse():
    with pytest.raises(ValueError, match="tile 100 must be a multiple of 64 and at least 256; use 256"):
        tiles.run(Local(), photo(20, 20), tile=100)
    with pytest.raises(ValueError, match="tile 500 must be .* use 512"):
        tiles.run(Local(), photo(20, 20), tile=500)
    network = Local()
    nn.init.constant_(network.layers[0].bias, float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity; its weights"):
        tiles.run(network, photo(20, 20))


# ------------------------------------------------------------------------------------------------------ memory


def test_memory_is_counted_without_running():
    network = Local(width=32).train()
    most = tiles._watched(network, 64, torch.device("meta"))
    assert most == (2 * 32 + 3) * 64 * 64 * 4  # a layer's input and output, and the shifted image
    assert network.training and network.layers[0].weight.grad is None
    assert tiles.predicted_memory(network, 512, 256) == pytest.approx(2 * most * 512 * 256 / 64**2)


def test_memory_of_a_network_that_looks_at_values():
    class Curious(Local):
        def forward(self, lq):
            return super().forward(lq) * (1 if lq.mean().item() < 2 else 0)

    assert tiles._most_alive(Curious())[2] >= 2 * 6 * 64 * 64 * 4


def test_tiles_are_as_large_as_memory_allows():
    network = Local(width=32)
    need = tiles.predicted_memory(network, 320, 320)
    assert tiles.automatic_tile(network, 4000, 3000, need) == 320
    network.sizes.clear()
    tiles.run(network, photo(300, 700), memory=need)
    assert max(map(max, network.sizes)) == 320
    assert tiles.automatic_tile(network, 400, 300, 1 << 40) >= 400
    with pytest.raises(ValueError, match="a tile of 256x256 needs about 35 MB and 1 MB may be used"):
        tiles.automatic_tile(network, 4000, 3000, 1_000_000)


RESIDENT = """
import sys
from pathlib import Path
import torch
from mclir_nb import images, networks, recipes, records, restore, tiles

def resident(kind):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[kind].split()[0]) * 1024
"""
FORWARD = """
name, scale, height, width = sys.argv[1], *map(int, sys.argv[2:])
network = networks.build(name, scale).eval()
predicted = tiles.predicted_memory(network, height, width)
with torch.inference_mode():
    network(torch.rand(1, 3, 192, 192))  # what the libraries load and build at their first use is no matter of size
    before = resident("VmRSS")
    network(torch.rand(1, 3, height, width))
print(predicted, resident("VmHWM") - before)
"""
linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")


def in_a_process(code, *arguments):
    """What a process of its own prints; here the C library may keep memory that earlier tests freed."""
    command = [sys.executable, "-c", RESIDENT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@linux
@pytest.mark.parametrize(("name", "scale", "size"), [("edsr", 2, (256, 320)), ("nafnet", 1, (512, 1024))])
def test_memory_is_predicted_not_discovered(name, scale, size):
    """What a forward pass really takes lies below the prediction, and not far below."""
    predicted, used = map(int, in_a_process(FORWARD, name, scale, *size))
    assert 0.25 * predicted < used < predicted


TWELVE = """
network = records.build_network(recipes.get("tiny", "derain"))
restore.restore(network, torch.zeros(3, 300, 300))
before = resident("VmRSS")
print(restore.restore_file(network, sys.argv[1], memory=int(sys.argv[2])))
print(resident("VmHWM") - before)
"""


@linux
@pytest.mark.slow
def test_twelve_megapixels_in_bounded_memory(tmp_path):
    """A 4000x3000 JPEG: the memory given to the network, and some copies of the picture (144 MB as float32) on top."""
    rows, columns = np.mgrid[0:3000, 0:4000]
    layers = [(columns // 16 + rows // 8) % 256, columns // 8 % 256, rows // 12 % 256]
    Image.fromarray(np.stack(layers, -1).astype(np.uint8)).save(tmp_path / "a.jpg", quality=92)
    budget, floats = 300_000_000, 4000 * 3000 * 3 * 4
    written, peak = in_a_process(TWELVE, tmp_path / "a.jpg", budget)
    print(f"12 megapixels: peak {int(peak) / 1e6:.0f} MB")
    assert images.read_size(written) == (3000, 4000)
    assert int(peak) < budget + 4 * floats


def test_free_memory_is_read_from_the_system_and_the_container(tmp_path):
    assert tiles.free_memory(torch.device("cpu")) > 1 << 20
    (tmp_path / "meminfo").write_text("MemTotal: 10 kB\nMemAvailable:     7 kB\n")
    assert tiles._available(tmp_path / "meminfo") == 7 * 1024
    assert tiles._available(tmp_path / "none") is None and tiles._container_rest(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert tiles._container_rest(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert tiles._container_rest(tmp_path) is None


# ---------------------------------------------------------------------------------------------- kinds of picture

BYTES = np.random.default_rng(0).integers(0, 256, (18, 20, 4), dtype=np.uint8)
WORDS = np.random.default_rng(1).integers(0, 65536, (18, 20, 4), dtype=np.uint16)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("values", [BYTES, WORDS, (BYTES / 255).astype(np.float32), BYTES / 255])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_come_back_as_they_were(values, channels, scale):
    array = values[:, :, 0] if channels is None else values[:, :, :channels]
    restored = restore.restore(Same(scale), array)
    assert restored.dtype == array.dtype and restored.shape == (18 * scale, 20 * scale, *array.shape[2:])
    colours = restored[::scale, ::scale][..., :3] if array.ndim == 3 else restored[::scale, ::scale]
    assert np.allclose(colours, array[..., :3] if array.ndim == 3 else array, atol=1e-6)
    if channels == 4 and scale == 1:
        assert np.allclose(restored, array, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "I;16", "P", "CMYK"])
def test_pil_images_come_back_as_pil_images(mode):
    picture = Image.fromarray(WORDS[:, :, 0]) if mode == "I;16" else Image.fromarray(BYTES[:, :, :3]).convert(mode)
    restored = restore.restore(Same(), picture)
    assert restored.mode == {"P": "RGB", "CMYK": "RGB"}.get(mode, mode) and restored.size == (20, 18)
    wanted = picture.convert("RGB") if mode in ("P", "CMYK") else picture
    assert np.array_equal(np.asarray(restored), np.asarray(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
@pytest.mark.parametrize("shape", [(3, 18, 20), (1, 3, 18, 20)])
def test_tensors_come_back_as_they_were(shape, dtype):
    image = (torch.rand(shape) * 255).to(torch.uint8) if dtype == torch.uint8 else torch.rand(shape).to(dtype)
    restored = restore.restore(Same(2), image)
    assert restored.dtype == dtype and restored.shape == (*shape[:-2], 36, 40)
    assert torch.equal(restored[..., ::2, ::2], image.float().to(dtype))
    restored += 0  # not an inference tensor


def test_a_restored_tensor_can_be_used_in_training():
    weight = torch.ones((), requires_grad=True)
    (restore.restore(Local(), torch.rand(3, 20, 20)) * weight).sum().backward()
    assert weight.grad > 0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("photo.jpg", "use restore_file"),
        ([1, 2], "cannot restore a list"),
        (torch.rand(2, 3, 9, 9), "not one picture"),
        (torch.rand(1, 9, 9), "not one picture"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), "torch.int64 is not accepted"),
        (torch.full((3, 9, 9), 255.0), "run from 255 to 255"),
        (np.zeros((9, 9, 5), np.uint8), "is not a picture"),
        (np.zeros((0, 9, 3), np.uint8), "is not a picture"),
        (np.zeros((9, 9), np.int32), "int32 is not accepted"),
        (np.full((9, 9), np.nan), "NaN"),
    ],
)
def test_what_is_not_a_picture(image, reason):
    with pytest.raises(ValueError, match=reason):
        restore.restore(Same(), image)


# ------------------------------------------------------------------------------------------------------- files


def test_a_file_is_written_beside_the_original_and_nothing_is_overwritten(tmp_path):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.jpg", quality=90)
    before = (tmp_path / "a.jpg").read_bytes()
    written = [restore.restore_file(Same(), tmp_path / "a.jpg").name for _ in range(3)]
    assert written == ["a_restored.png", "a_restored_2.png", "a_restored_3.png"]
    assert (tmp_path / "a.jpg").read_bytes() == before and len(list(tmp_path.iterdir())) == 4
    first, original = (images.read_image(tmp_path / name) for name in ("a_restored.png", "a.jpg"))
    assert torch.equal(first, original)


def test_files_keep_16_bits_transparency_greyness_and_profile(tmp_path):
    pictures = [
        images.Picture(WORDS[:, :, :3], WORDS[:, :, 3], False, b"a profile" * 20),
        images.Picture(np.repeat(WORDS[:, :, :1], 3, 2), None, True),
        images.Picture(np.repeat(BYTES[:, :, :1], 3, 2), BYTES[:, :, 1], True),
    ]
    for picture in pictures:
        (tmp_path / "a.png").write_bytes(images.png(picture))
        back = images.read_picture(restore.restore_file(Same(), tmp_path / "a.png"))
        assert np.array_equal(back.colour, picture.colour) and back.grey == picture.grey
        assert back.profile == picture.profile
        assert back.alpha is None if picture.alpha is None else np.array_equal(back.alpha, picture.alpha)


def test_exif_rotation_is_applied_and_the_place_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png", exif=exif)
    with Image.open(restore.restore_file(Same(), tmp_path / "a.png")) as restored:
        assert restored.size == (18, 20) and not restored.getexif()
        assert np.array_equal(np.asarray(restored), np.rot90(BYTES[:, :, :3], -1))


def test_a_name_or_a_folder_can_be_given(tmp_path):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")
    (tmp_path / "there").mkdir()
    assert restore.restore_file(Same(), tmp_path / "a.png", tmp_path / "there").parent.name == "there"
    assert restore.restore_file(Same(), tmp_path / "a.png", tmp_path / "b.png").name == "b.png"
    for out, reason in (("b.png", "never overwritten"), ("b.jpg", "written as PNG"), ("no/b.png", "does not exist")):
        with pytest.raises(ValueError, match=reason):
            restore.restore_file(Same(), tmp_path / "a.png", tmp_path / out)


def test_a_full_disk_leaves_no_empty_file(tmp_path, monkeypatch):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write_file", full)
    with pytest.raises(OSError, match="No space"):
        restore.restore_file(Same(), tmp_path / "a.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_an_unreadable_file_is_one_sentence(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match="a.png cannot be read as a picture"):
        restore.restore_file(Same(), tmp_path / "a.png")


# ------------------------------------------------------------------------------------------------ command line


def test_from_the_command_line_with_a_file_of_weights(tmp_path, capsys):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")
    network = networks.build("edsr", 2)
    files.write_tensors(tmp_path / "w.safetensors", network.core.state_dict())
    command = ["restore", str(tmp_path / "a.png"), "--checkpoint", str(tmp_path / "w.safetensors")]
    assert main(command) == 1 and "give --network for a file of weights" in capsys.readouterr().err
    assert main([*command, "--network", "edsr", "--scale", "2", "--device", "cpu"]) == 0
    assert f"written: {tmp_path / 'a_restored.png'}" in capsys.readouterr().out
    wanted = restore.restore(network, BYTES[:, :, :3])
    assert np.array_equal(images.read_picture(tmp_path / "a_restored.png").colour, wanted)


def test_from_the_command_line_with_a_run_folder(tmp_path):
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "a.png")
    Image.fromarray(BYTES[:, :, :3]).save(tmp_path / "b.png")
    recipe = recipes.get("tiny", "sr", scale=2)
    (tmp_path / "run").mkdir()
    files.write_json(tmp_path / "run/recipe.json", dataclasses.asdict(recipe))
    files.write_tensors(tmp_path / "run/model.safetensors", records.build_network(recipe).state_dict())
    pictures = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert main(["restore", *pictures, "--checkpoint", str(tmp_path / "run"), "--ensemble", "--device", "cpu"]) == 0
    assert images.read_size(tmp_path / "b_restored.png") == (36, 40)
