"""The visual language: images are shown as they are."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from mclir_nb.views import style

GT = np.random.default_rng(0).random((24, 32, 3)).astype(np.float32)

# Of linear RGB, for readers without the long, the middle, or the short cones: Machado, Oliveira and Fernandes, "A
# physiologically-based model for simulation of color vision deficiency", IEEE TVCG 15(6), 2009, severity 1.0.
# fmt: off
COLOUR_BLIND = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
# fmt: on


@pytest.mark.parametrize("matrix", [np.eye(3), *map(np.array, COLOUR_BLIND.values())], ids=["none", *COLOUR_BLIND])
@pytest.mark.parametrize("grey", [0.6, 0.98], ids=["dark grey", "pale grey"])  # the ends of aim_picture's
def test_towards_and_away_can_be_told_apart_by_the_colour_blind(matrix, grey):
    def seen(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        simulated = np.clip(matrix @ linear, 0, 1)
        return rgb2lab(np.where(simulated <= 0.0031308, 12.92 * simulated, 1.055 * simulated ** (1 / 2.4) - 0.055))

    pair = [np.array(to_rgb(style.COLOURS[role])) for role in ("towards", "away")]
    for opacity in (1, 0.5):
        one, other = (seen(opacity * colour + (1 - opacity) * grey) for colour in pair)
        assert deltaE_ciede2000(one, other) > 20


def test_picture_accepts_every_layout():
    tensor = torch.from_numpy(GT).permute(2, 0, 1)
    for image in (tensor, tensor[None], GT.transpose(2, 0, 1), GT, GT.astype(np.float64)):
        np.testing.assert_array_equal(style.picture(image), GT)
    narrow = torch.rand(3, 5, 3)  # of a tensor channels are the first
    np.testing.assert_array_equal(style.picture(narrow), narrow.permute(1, 2, 0))


def test_picture_scales_bytes_repeats_grey_and_clips():
    assert style.picture(np.full((2, 2, 3), 51, np.uint8)) == pytest.approx(0.2)
    assert style.picture(torch.full((3, 2, 2), 255, dtype=torch.uint8)).max() == 1
    assert style.picture(np.array([[-1.0, 0.25]])).tolist() == [[[0, 0, 0], [0.25, 0.25, 0.25]]]


def test_picture_refuses_other_shapes_and_nan():
    with pytest.raises(ValueError, match=r"gt.*\(2, 3, 4, 4\)"):
        style.picture(np.zeros((2, 3, 4, 4)), "gt")
    with pytest.raises(ValueError, match="NaN"):
        style.picture(np.full((4, 4), np.nan))


def test_difference_is_the_mean_over_channels():
    other = GT.copy()
    other[0, 0] = np.clip(GT[0, 0] + (0.3 if GT[0, 0].max() < 0.7 else -0.3), 0, 1)
    expected = np.abs(other[0, 0] - GT[0, 0]).mean()
    error = style.difference(other, GT)
    assert error[0, 0] == pytest.approx(expected) and error.sum() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"\(24, 32\).*\(8, 32\)"):
        style.difference(GT, GT[:8])


def test_error_limit_is_shared_and_round():
    assert style.error_limit([np.full((4, 4), 0.031), np.full((4, 4), 0.012)]) == pytest.approx(0.04)
    assert style.error_limit([np.zeros((4, 4))]) == pytest.approx(0.02)
    assert style.error_limit([np.full((4, 4), 0.06)]) == pytest.approx(0.06)


def test_encode_and_render_can_be_read_back():
    smooth = np.linspace(0, 1, 64)[None, :, None] * np.ones((48, 1, 3))
    seen = np.asarray(Image.open(io.BytesIO(style.encode(smooth)))) / 255
    assert np.abs(seen - smooth).max() < 0.03
    figure = Figure((2, 1), dpi=100)
    for form, kind in (("jpeg", "JPEG"), ("png", "PNG")):
        picture = Image.open(io.BytesIO(style.render(figure, form)))
        assert picture.format == kind and picture.size == (200, 100)
    few = Image.open(io.BytesIO(style.render(figure, "png", colours=16)))
    assert few.mode == "P" and len(few.convert("RGB").getcolors()) <= 16
