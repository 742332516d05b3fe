"""Picture files: decoding what comes from anywhere, and writing PNG.

A file becomes arrays or one ValueError that names it; never another exception, a warning, or memory for a picture that
its header only claims. Accepted: PNG, JPEG, TIFF, WebP and BMP, the first frame of each; 8 or 16 bits; grey, palette,
colour or CMYK; with or without transparency. Colour profiles are kept for writing but not applied.

Pillow decodes. It gives only the upper byte of 16-bit colour and cannot write it, so that is done here (tifffile reads
no PNG, and no TIFF with LZW compression unless imagecodecs is installed).

Shapes on the way: file -> `Picture.layers` (H,W,1..4) -> `read_image` (3,H,W).
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from mclir_nb.files import printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")  # no other decoder of Pillow is ever tried

BELIEVED = 25_000_000  # pixels that any header may claim: one colour takes no bits at all in a lossless WebP
MAX_PIXELS_PER_BYTE = 9_000  # a 1-bit PNG of one colour has 8,256; of more than that a header is false


@dataclass(frozen=True)
class Picture:
    """A decoded file."""

    layers: np.ndarray  # (H,W,1..4) uint8 or uint16: grey, grey and alpha, RGB or RGBA; the largest alpha is opaque
    profile: bytes | None = None  # its ICC profile, where it describes RGB or grey values
    orientation: int = 1  # of EXIF, 1 to 8; 1 is upright

    @property
    def colour(self) -> np.ndarray:
        """(H,W,3) RGB, three equal channels of a grey file."""
        return np.repeat(self.layers[:, :, :1], 3, axis=2) if self.layers.shape[2] <= 2 else self.layers[:, :, :3]

    def image(self) -> Tensor:
        """The colours as (3,H,W) uint8, full scale on full scale."""
        values = self.colour
        if values.dtype == np.uint16:
            values = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return torch.from_numpy(np.array(values.transpose(2, 0, 1), order="C"))


def read_image(path: str | Path, upright: bool = False) -> Tensor:
    """A file as (3,H,W) uint8 RGB, as training and benchmarks use it.

    16 bits are rounded to 8 (v * 255 / 65535); transparency is dropped, the colours below it kept, as the readers of
    the official implementations do; CMYK is converted without a colour profile.

    With `upright` it is turned as its EXIF orientation says. Off for data sets: the pixels of lq and gt belong together
    as stored. (A TIFF is always turned, by Pillow.) Raises: ValueError naming the file.
    """
    return read_picture(path, upright).image()


def read_picture(path: str | Path, upright: bool = False) -> Picture:
    """A file with its 16 bits, transparency and colour profile; see `read_image` for the rest.

    Of 16-bit grey with transparency Pillow gives 8 bits, as RGBA.
    """
    with _opened(Path(path)) as image:
        low = _low_bytes(image)
        values = pixels(image)
        if low is not None and low.shape == values.shape:
            values = values.astype(np.uint16) << 8 | low
        orientation = 1
        with suppress(Exception):  # a damaged EXIF block says nothing; the pixels are what counts
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        orientation = orientation if orientation in range(1, 9) else 1
        values = _turned(values, orientation) if upright else values
        return Picture(np.ascontiguousarray(np.atleast_3d(values)), colour_profile(image), orientation)


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the header alone; a file that has one may still be damaged further on."""
    with _opened(Path(path)) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path):
    """The file as a Pillow image whose header is plausible; whatever goes wrong becomes one sentence."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is a folder; name its files" if path.is_dir() else "it is not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of metadata that are not used here
            with Image.open(path, formats=FORMATS) as image:
                _check_header(image, path.stat().st_size)
                yield image
    except Exception as error:  # decoders raise nearly anything on damaged input: struct.error, KeyError, TypeError ...
        raise ValueError(f"{printable(path)} cannot be read as a picture: {_reason(error, path)}.") from error


def _check_header(image: ImageFile.ImageFile, file_size: int) -> None:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(284) == 2 and 16 in tags.get(258, ()):  # Pillow reads these wrongly
        raise ValueError("it is a 16-bit TIFF with separate colour planes; save it with interleaved ones")
    claimed, size = image.width * image.height, f"{image.width}x{image.height}"
    if claimed > max(BELIEVED, file_size * MAX_PIXELS_PER_BYTE):
        raise ValueError(f"its header claims {size} but the file has only {file_size} bytes; it is damaged, remove it")


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, UnidentifiedImageError):
        if not path.stat().st_size:
            return "it is empty; copy it again"
        return (
            f"it is no {', '.join(FORMATS)} file, whatever its name says, or damaged; save it as PNG, or copy it again"
        )
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # where Pillow stops, a picture of 13,000 x 13,000
        return f"its header claims more than {limit / 1e6:.0f} million pixels; cut it into parts, or remove it"
    if isinstance(error, MemoryError):
        return "there is too little memory to decode it; free some, or reduce the picture"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror[0].lower()}{error.strerror[1:]}"
    if type(error) is ValueError and str(error).startswith("it"):
        return str(error)
    detail = " ".join(str(error).split()).rstrip(".") or "no details"
    return f"it is damaged ({type(error).__name__}: {detail}); copy it again, or remove it"


def colour_profile(image: Image.Image) -> bytes | None:
    """The ICC profile, where it describes RGB or grey values, as `pixels` gives them."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and image.mode not in ("CMYK", "LAB", "YCbCr") else None


def pixels(image: Image.Image) -> np.ndarray:
    """(H,W) or (H,W,2..4): grey, grey and alpha, RGB, or RGBA; uint8, or uint16 where Pillow keeps it."""
    image.load()
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        return _wide_values(np.asarray(image))
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.asarray(image.convert("L"))
    if image.mode in ("LA", "La"):
        return np.asarray(image.convert("LA"))
    transparent = image.mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _wide_values(values: np.ndarray) -> np.ndarray:
    """32-bit whole numbers in 0..65535, or floating point in 0..1, as uint16."""
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values; export it again with finite ones")
    top = 1 if values.dtype.kind == "f" else 65535
    low, high = values.min(), values.max()
    if low < 0 or high > top:
        raise ValueError(f"its values run from {low:g} to {high:g}; accepted are 0 to {top}, so rescale it")
    return np.round(values * (65535 / top)).astype(np.uint16)


def _low_bytes(image: ImageFile.ImageFile) -> np.ndarray | None:
    """The lower byte of every sample of 16-bit colour, or None for other files (and grey with transparency).

    Pillow unpacks the upper byte. Read a second time as if the samples had the other byte order, that is the lower one.
    """
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    if not arguments or not re.fullmatch(r"RGBA?;16[BLN]", str(arguments[0][0])):
        return None
    other = {"B": "L", "L": "B", "N": "B"}  # N: this machine's order, taken to be little-endian
    with Image.open(image.filename, formats=FORMATS) as second:
        tiles: list[Any] = [  # plain tuples, which Pillow takes as well
            (*tile[:3], (mode[:-1] + other[mode[-1]], *rest))
            for tile, (mode, *rest) in zip(second.tile, arguments, strict=True)
        ]
        second.tile = tiles
        return pixels(second)


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Upright values from those stored with an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def encode_png(picture: Picture) -> bytes:
    """A picture as the bytes of a PNG file, with its 8 or 16 bits, transparency and colour profile."""
    samples = picture.layers
    height, width, channels = samples.shape
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)  # 2: each row is its difference to the one above
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * samples.dtype.itemsize, colour_type, 0, 0, 0))]
    if picture.profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.profile)))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    framed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
