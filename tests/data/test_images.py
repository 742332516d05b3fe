"""Reading pictures: every kind that is accepted, every kind of damage, and a few thousand random ones."""

import io
import os
import random
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mclir_nb.data import images

RGB = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (9, 11, 3), dtype=np.uint16)


def save(path, mode="RGB", **options):
    picture = Image.fromarray(DEEP[:, :, 0]) if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    picture.save(path, **options)
    return path


def refusal(path, **options):
    """The sentence with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        images.read_picture(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what is
# read


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp"])
def test_lossless_formats_give_the_stored_pixels(tmp_path, name):
    image = images.read_image(save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {})))
    assert image.dtype == torch.uint8 and image.shape == (3, 9, 11)
    assert np.array_equal(image.permute(1, 2, 0), RGB)


def test_jpeg_is_decoded_as_pillow_does(tmp_path):
    file = save(tmp_path / "a.jpg", quality=80)
    with Image.open(file) as picture:
        assert np.array_equal(images.read_image(file).permute(1, 2, 0), np.array(picture))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_grey_palette_and_transparent_files_become_rgb(tmp_path, mode):
    file = save(tmp_path / "a.png", mode)
    with Image.open(file) as picture:
        wanted = np.array(picture.convert("RGBA").convert("RGB") if mode == "RGBA" else picture.convert("RGB"))
    assert np.array_equal(images.read_image(file).permute(1, 2, 0), wanted)


def test_colours_below_transparency_are_kept(tmp_path):
    layers = np.dstack([RGB, np.zeros((9, 11), np.uint8)])
    Image.fromarray(layers).save(tmp_path / "a.png")
    picture = images.read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.colour, RGB) and not picture.alpha.any()


def test_a_cmyk_jpeg_is_read_as_colour(tmp_path):
    image = images.read_image(save(tmp_path / "a.jpg", "CMYK", quality=95))
    assert image.shape == (3, 9, 11) and image.float().std() > 10


def test_sixteen_bits_are_kept_in_a_picture_and_rounded_in_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(images.encode_png(images.Picture(DEEP)))
    assert np.array_equal(images.read_picture(tmp_path / "a.png").colour, DEEP)
    image = images.read_image(tmp_path / "a.png").permute(1, 2, 0).numpy()
    assert np.array_equal(image, np.round(DEEP / 257).astype(np.uint8))


def test_sixteen_bit_grey_is_not_clipped_at_255(tmp_path):
    for name in ("a.png", "a.tif"):
        picture = images.read_picture(save(tmp_path / name, "I;16"))
        assert picture.grey and np.array_equal(picture.colour[:, :, 1], DEEP[:, :, 0])


def sixteen_bit_tiff(order="<", planar=1):
    """An uncompressed RGB TIFF written by hand: Pillow cannot write one."""
    pixels = DEEP.astype(order + "u2")
    data = (pixels if planar == 1 else pixels.transpose(2, 0, 1)).tobytes()
    short = lambda *values: np.array(values, order + "u2").tobytes()  # noqa: E731
    long = lambda *values: np.array(values, order + "u4").tobytes()  # noqa: E731
    tags = [
        (256, 3, short(11, 0)),
        (257, 3, short(9, 0)),
        (258, 3, None),
        (259, 3, short(1, 0)),
        (262, 3, short(2, 0)),
        (273, 4, None),
        (277, 3, short(3, 0)),
        (279, 4, long(len(data))),
        (284, 3, short(planar, 0)),
    ]
    after = 8 + 2 + 12 * len(tags) + 4
    body = short(len(tags))
    for tag, kind, value in tags:
        count = 3 if tag == 258 else 1
        value = {258: long(after), 273: long(after + 6)}.get(tag, value)
        body += short(tag, kind) + long(count) + value
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + long(8) + body + long(0) + short(16, 16, 16) + data


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_tiff_keeps_its_lower_bytes(tmp_path, order):
    (tmp_path / "a.tif").write_bytes(sixteen_bit_tiff(order))
    assert np.array_equal(images.read_picture(tmp_path / "a.tif").colour, DEEP)


def test_floating_point_grey_runs_from_0_to_1(tmp_path):
    Image.fromarray(np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11)).save(tmp_path / "a.tif")
    picture = images.read_picture(tmp_path / "a.tif")
    assert picture.grey and picture.colour.min() == 0 and picture.colour.max() == 65535


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_only_when_asked(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / name, exif=exif)
    with Image.open(file) as picture:
        upright = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(images.read_picture(file, upright=True).colour, upright)
    if name != "a.tif":  # Pillow turns a TIFF by itself
        assert images.read_picture(file).colour.shape == (9, 11, 3)


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png").flatten().tolist() == [1, 2, 3]


def test_size_comes_from_the_header(tmp_path):
    assert images.read_size(save(tmp_path / "a.jpg")) == (9, 11)


def test_depth_layers_of_8_and_16_bits_run_from_0_to_1(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "16.png")
    assert images.read_depth(tmp_path / "8.png").tolist() == images.read_depth(tmp_path / "16.png").tolist() == [[0, 1]]


# --------------------------------------------------------------------------------------------- what is
# refused


def test_a_truncated_png(tmp_path):
    file = save(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:150])
    assert "damaged" in refusal(file)


def test_a_truncated_jpeg(tmp_path):
    file = save(tmp_path / "a.jpg")
    file.write_bytes(file.read_bytes()[:-60])
    assert "truncated" in refusal(file)


def test_a_text_file_named_png(tmp_path):
    (tmp_path / "a.png").write_text("<html>404</html>")
    assert "is not a PNG, JPEG" in refusal(tmp_path / "a.png")


def test_an_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    assert "it is empty" in refusal(tmp_path / "a.png")


def test_a_missing_file_a_folder_and_a_pipe(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.png")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refusal(tmp_path / "pipe.png")  # opening it would wait for ever


def test_a_file_without_permission(tmp_path, monkeypatch):
    file = save(tmp_path / "a.png")
    file.chmod(0)
    if os.access(file, os.R_OK):  # the superuser may read everything

        def denied(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", denied)
    assert "permission denied" in refusal(file)


def test_other_formats_are_not_even_tried(tmp_path):
    save(tmp_path / "a.gif", "P")
    (tmp_path / "a.gif").rename(tmp_path / "a.png")
    assert "is not a PNG, JPEG" in refusal(tmp_path / "a.png")


def bomb(width, height):
    """A PNG header that claims a size, followed by nearly nothing."""
    data = images.encode_png(images.Picture(RGB))
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def test_an_absurd_header_is_refused_before_memory_is_taken(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(bomb(100_000, 100_000))
    assert "more than 178 million pixels" in refusal(file)
    file.write_bytes(bomb(12_000, 12_000))
    assert "has only" in refusal(file)


def test_the_largest_size_can_be_lowered(tmp_path):
    assert "it is 11x9" in refusal(save(tmp_path / "a.png"), max_pixels=98)


def test_nan_and_out_of_range_values_of_a_floating_point_tiff(tmp_path):
    for value, reason in ((np.nan, "NaN"), (200.0, "accepted are 0 to 1")):
        Image.fromarray(np.full((3, 3), value, np.float32)).save(tmp_path / "a.tif")
        assert reason in refusal(tmp_path / "a.tif")


def test_sixteen_bit_planes_that_pillow_misreads(tmp_path):
    (tmp_path / "a.tif").write_bytes(sixteen_bit_tiff(planar=2))
    assert "separate colour planes" in refusal(tmp_path / "a.tif")


# ---------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("values", [RGB, DEEP])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
def test_png_holds_what_was_written(tmp_path, values, grey, transparent):
    colour = np.repeat(values[:, :, :1], 3, 2) if grey else values
    picture = images.Picture(colour, values[:, :, 1] if transparent else None, grey, b"a profile" * 30)
    (tmp_path / "a.png").write_bytes(images.encode_png(picture))
    with Image.open(tmp_path / "a.png") as file:  # Pillow's own reading: bands, upper bytes, profile
        assert file.info["icc_profile"] == b"a profile" * 30
        bands = 4 if grey and transparent and values is DEEP else (1 if grey else 3) + transparent
        assert len(file.getbands()) == bands
    back = images.read_picture(tmp_path / "a.png")
    if grey and transparent and values is DEEP:  # the one kind of which Pillow gives 8 bits only
        assert np.array_equal(back.colour, (colour >> 8).astype(np.uint8))
        return
    assert np.array_equal(back.colour, colour) and back.grey == grey
    assert (back.alpha is None) if not transparent else np.array_equal(back.alpha, picture.alpha)


# -------------------------------------------------------------------------------------------------- anything


def originals():
    """Small files of every accepted kind."""
    kinds = [("PNG", mode, {}) for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")]
    kinds += [("JPEG", mode, {"progressive": late}) for mode in ("RGB", "L", "CMYK") for late in (False, True)]
    kinds += [
        ("TIFF", mode, {"compression": how})
        for mode in ("RGB", "L", "CMYK", "RGBA", "I;16", "P")
        for how in ("raw", "tiff_lzw", "tiff_deflate")
    ]
    kinds += [("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True})]
    kinds += [("BMP", mode, {}) for mode in ("RGB", "L", "P", "1")]
    files = [images.encode_png(images.Picture(DEEP)), sixteen_bit_tiff()]
    for kind, mode, options in kinds:
        buffer = io.BytesIO()
        save(buffer, mode, format=kind, **options)
        files.append(buffer.getvalue())
    return files


def damaged(data, files, chance):
    data, kind, place = bytearray(data), chance.randrange(5), chance.randrange(len(data))
    if kind == 0:
        del data[place:]
    elif kind == 1:
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 2:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(min(64, len(data)))] = chance.choice((0, 1, 127, 128, 255))
    elif kind == 3:
        data[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
    else:
        other = chance.choice(files)
        data[place:] = other[chance.randrange(len(other)) :]
    return bytes(data)


def test_2500_damaged_files_give_a_picture_or_a_sentence(capfd):
    files, chance, shown = originals(), random.Random(0), 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        file = Path(folder) / "any.png"
        for _ in range(2500):
            file.write_bytes(damaged(chance.choice(files), files, chance))
            try:
                image = images.read_image(file, upright=True)
            except ValueError as error:
                assert str(error).startswith(f"{file} cannot be read as a picture: ")
            else:
                assert image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3
                shown += 1
    capfd.readouterr()  # libtiff writes its own remarks to stderr
    assert 250 < shown < 2250  # neither reads nothing nor notices nothing
