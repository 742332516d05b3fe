"""Reading pictures: every kind that is accepted, and every kind of damage (thousands more are in test_fuzz)."""

import os
import zlib

import numpy as np
import pytest
import tifffile
import torch
from pictures import noise
from PIL import Image, ImageOps

from mclir_nb.data import images

RGB = noise(9, 11)
DEEP = np.random.default_rng(1).integers(0, 65536, (9, 11, 3), dtype=np.uint16)


def save(path, mode="RGB", **options):
    picture = Image.fromarray(DEEP[:, :, 0]) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    picture.save(path, **options)
    return path


def channels_last(image):
    return image.permute(1, 2, 0).numpy()


KINDS = [(name, "RGB") for name in ("a.png", "a.tif", "a.bmp", "a.webp", "a.jpg")] + [("a.jpg", "CMYK")]
KINDS += [("a.png", mode) for mode in ("L", "1", "P", "RGBA", "LA")]


@pytest.mark.parametrize(("name", "mode"), KINDS)
def test_every_kind_of_file_becomes_the_rgb_that_pillow_decodes(tmp_path, name, mode):
    file = save(tmp_path / name, mode)
    image = images.read_image(file)
    assert image.dtype == torch.uint8 and images.read_size(file) == (9, 11)
    with Image.open(file) as picture:
        assert np.array_equal(channels_last(image), np.array(picture.convert("RGB")))


def test_colours_below_transparency_are_kept(tmp_path):
    clear = np.dstack([RGB, np.zeros((9, 11), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "a.png")
    assert np.array_equal(images.read_picture(tmp_path / "a.png").layers, clear)


def test_sixteen_bits_are_kept_in_a_picture_and_rounded_in_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(images.encode_png(images.Picture(DEEP)))
    for order in "<>":
        tifffile.imwrite(tmp_path / f"{order}.tif", DEEP, byteorder=order, photometric="rgb")
    for file in tmp_path.iterdir():
        assert np.array_equal(images.read_picture(file).colour, DEEP)
        assert np.array_equal(channels_last(images.read_image(file)), np.round(DEEP / 257).astype(np.uint8))
    for name in ("grey.png", "grey.tif"):
        assert np.array_equal(images.read_picture(save(tmp_path / name, "I;16")).layers, DEEP[:, :, :1])


def test_floating_point_grey_runs_from_0_to_1(tmp_path):
    Image.fromarray(np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11)).save(tmp_path / "a.tif")
    layers = images.read_picture(tmp_path / "a.tif").layers
    assert layers.shape == (9, 11, 1) and layers.min() == 0 and layers.max() == 65535


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_only_when_asked(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / name, exif=exif)
    with Image.open(file) as picture:
        upright = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(images.read_picture(file, upright=True).colour, upright)
    assert images.read_picture(file).orientation == (1 if name == "a.tif" else orientation)
    if name != "a.tif":  # Pillow turns a TIFF by itself
        assert images.read_picture(file).colour.shape == (9, 11, 3)


def test_one_colour_is_not_called_damaged_however_small_its_file(tmp_path):
    Image.new("1", (4000, 4000)).save(tmp_path / "black.png")
    Image.new("RGB", (2000, 1500), "white").save(tmp_path / "white.webp", lossless=True)
    assert images.read_image(tmp_path / "black.png").max() == 0
    assert images.read_image(tmp_path / "white.webp").min() == 255


def bomb(width, height):
    """A PNG header that claims a size, followed by nearly nothing."""
    data = images.encode_png(images.Picture(RGB))
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def planar_tiff(path):
    tifffile.imwrite(path, DEEP.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate")


def float_tiff(value):
    return lambda path: Image.fromarray(np.full((3, 3), value, np.float32)).save(path, "TIFF")


REFUSED = {
    "truncated PNG": (lambda path: path.write_bytes(save(path).read_bytes()[:150]), "damaged"),
    "truncated JPEG": (lambda path: path.write_bytes(save(path, format="JPEG").read_bytes()[:-60]), "truncated"),
    "text": (lambda path: path.write_text("<html>404</html>"), "no PNG, JPEG"),
    "empty": (lambda path: path.touch(), "empty"),
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "folder"),
    "pipe": (os.mkfifo, "not a regular file"),  # opening it would wait for ever
    "another format": (lambda path: save(path, "P", format="GIF"), "no PNG, JPEG"),
    "absurd header": (lambda path: path.write_bytes(bomb(100_000, 100_000)), "million pixels"),
    "false header": (lambda path: path.write_bytes(bomb(12_000, 12_000)), "12000x12000"),
    "NaN": (float_tiff(np.nan), "NaN"),
    "out of range": (float_tiff(200), "0 to 1"),
    "16-bit planes, which Pillow misreads": (planar_tiff, "planes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_picture_is_one_sentence_with_its_name(tmp_path, what):
    make, reason = REFUSED[what]
    make(tmp_path / "a.png")
    with pytest.raises(ValueError, match=reason) as caught:
        images.read_picture(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_permission(tmp_path, monkeypatch):
    file = save(tmp_path / "a.png")
    file.chmod(0)
    if os.access(file, os.R_OK):  # the superuser may read everything

        def denied(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ValueError, match="permission denied"):
        images.read_picture(file)


def test_a_sound_file_that_needs_too_much_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def full(_):
        raise MemoryError

    monkeypatch.setattr(images, "pixels", full)
    with pytest.raises(ValueError, match="a.png .*memory") as caught:
        images.read_picture(save(tmp_path / "a.png"))
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("values", [RGB, DEEP])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_holds_what_was_written(tmp_path, values, channels):
    layers = np.dstack([values, values[:, ::-1, :1]])[:, :, :channels]
    (tmp_path / "a.png").write_bytes(images.encode_png(images.Picture(layers, b"a profile" * 30)))
    back = images.read_picture(tmp_path / "a.png")
    if channels == 2 and values is DEEP:  # the one kind of which Pillow gives 8 bits only, as RGBA
        layers = (layers[:, :, [0, 0, 0, 1]] >> 8).astype(np.uint8)
    assert np.array_equal(back.layers, layers) and back.profile == b"a profile" * 30
