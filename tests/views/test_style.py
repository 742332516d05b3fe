"""The visual language: images are shown as they are."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mclir_nb.views import style

GT = np.random.default_rng(0).random((24, 32, 3)).astype(np.float32)


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
