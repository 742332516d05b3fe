"""The visual language: images are shown as they are, figures keep their promises, nothing global changes."""

import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mclir_nb.views import figures, style

RNG = np.random.default_rng(0)
GT = RNG.random((24, 32, 3)).astype(np.float32)
ROW = {"name": "one", "lq": 0.5 * GT, "restored": 0.9 * GT, "negatives": [0.8 * GT, 0.7 * GT], "gt": GT}


def log(**columns):
    """A log of five steps."""
    return pd.DataFrame({"step": [10, 20, 30, 40, 50]} | columns)


# --- pictures ---


@pytest.mark.parametrize(
    "image",
    [
        torch.from_numpy(GT).permute(2, 0, 1),
        torch.from_numpy(GT).permute(2, 0, 1)[None],
        GT.transpose(2, 0, 1),
        GT,
        GT.astype(np.float64),
    ],
    ids=["tensor", "batch of one", "channels first", "channels last", "double"],
)
def test_picture_accepts_every_layout(image):
    np.testing.assert_array_equal(style.picture(image), GT)


def test_picture_of_tensor_three_pixels_wide_has_channels_first():
    image = torch.rand(3, 5, 3)
    np.testing.assert_array_equal(style.picture(image), image.permute(1, 2, 0))


def test_picture_scales_bytes_repeats_grey_and_clips():
    assert style.picture(np.full((2, 2, 3), 51, np.uint8)) == pytest.approx(0.2)
    assert style.picture(torch.full((3, 2, 2), 255, dtype=torch.uint8)).max() == 1
    assert style.picture(np.array([[-1.0, 0.25]])).tolist() == [[[0, 0, 0], [0.25, 0.25, 0.25]]]


def test_picture_refuses_other_shapes_and_nan():
    with pytest.raises(ValueError, match=r"gt has shape \(2, 3, 4, 4\); it must be one RGB image"):
        style.picture(np.zeros((2, 3, 4, 4)), "gt")
    with pytest.raises(ValueError, match="NaN"):
        style.picture(np.full((4, 4), np.nan))


def test_difference_is_the_mean_over_channels():
    other = GT.copy()
    other[0, 0] = np.clip(GT[0, 0] + (0.3 if GT[0, 0].max() < 0.7 else -0.3), 0, 1)
    expected = np.abs(other[0, 0] - GT[0, 0]).mean()
    error = style.difference(other, GT)
    assert error[0, 0] == pytest.approx(expected) and error.sum() == pytest.approx(expected)
    with pytest.raises(ValueError, match="cannot be compared; crop or resize one"):
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


# --- figures ---


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(style.render(figure, "png"))))


FIGURES = {
    "schematic": lambda: figures.schematic(),
    "schematic with pictures": lambda: figures.schematic(GT, GT, [GT, GT], GT),
    "comparison": lambda: figures.comparison([ROW]),
    "curves": lambda: figures.curves(log(l_rec=[5, 4, 3, 2, 1], l_neg=[1.0] * 5, r=[0.05] * 5, lr=[1e-3] * 5)),
    "grid": lambda: figures.image_grid([{"a": GT, "b": GT}], ["row"], arrows=True),
    "paired": lambda: figures.paired_differences(
        pd.DataFrame({"arm": ["spn"] * 3, "seed": [0, 1, 2], "difference": [0.1, 0.2, 0.0]})
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_figure_is_drawn_small_enough_and_changes_nothing_global(make):
    before = dict(matplotlib.rcParams)
    figure = make()
    assert dict(matplotlib.rcParams) == before
    assert isinstance(figure, Figure) and figure.dpi == 110
    width, height = figure.get_size_inches()
    assert width <= 10 and height <= 4
    assert len(np.unique(pixels(figure).astype(int).sum(-1))) > 20  # something is on the page


def test_comparison_shows_the_same_crop_of_every_column():
    lq = GT[::2, ::2]
    figure = figures.comparison([ROW | {"lq": lq}], crop=(8, 4, 8, 16))
    shown = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.get_title()}
    assert list(shown) == ["lq", "restored", "history 1", "history 2", "gt", "|restored - gt|"]
    np.testing.assert_allclose(shown["gt"], GT[8:16, 4:20])
    np.testing.assert_allclose(shown["lq"], lq[4:8, 2:10])
    np.testing.assert_allclose(shown["|restored - gt|"], style.difference(0.9 * GT, GT)[8:16, 4:20])


def test_comparison_shares_one_error_scale_and_writes_the_metric():
    worse = ROW | {"restored": 0.5 * GT, "negatives": []}
    figure = figures.comparison([ROW, worse], metric=lambda image, gt: float(np.abs(image - gt).max() * 100))
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.get_title().startswith("|restored")}
    assert len(limits) == 1 and limits.pop()[1] >= np.percentile(style.difference(0.5 * GT, GT), 99)
    titles = [axes.get_title() for axes in figure.axes]
    top = 100 * GT.max()
    assert f"restored\n{0.1 * top:.2f} dB" in titles and f"restored\n{0.5 * top:.2f} dB" in titles


def test_comparison_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="row 1 has no gt, restored; a row needs"):
        figures.comparison([{"lq": GT}])
    with pytest.raises(ValueError, match="negative|history 1 of row 1 is"):
        figures.comparison([ROW | {"negatives": [GT[:8]]}])
    with pytest.raises(ValueError, match="whole factor"):
        figures.comparison([ROW | {"lq": GT[:16]}])
    with pytest.raises(ValueError, match=r"crop \(20, 0, 8, 8\) leaves the \(24, 32\) pixels of gt"):
        figures.comparison([ROW], crop=(20, 0, 8, 8))
    with pytest.raises(ValueError, match="no row"):
        figures.comparison([])


def test_curves_leaves_out_panels_without_data():
    titles = lambda frame: [axes.get_title() for axes in figures.curves(frame).axes]  # noqa: E731
    nothing = [np.nan] * 5
    plain = log(l_rec=[1.0] * 5, l_neg=[0.0] * 5, r=nothing, val_psnr=nothing, val_psnr_ema=nothing, lr=[1e-3] * 5)
    assert titles(plain) == ["Loss", "Learning rate"]
    assert titles(log(val_psnr=[np.nan, 20, np.nan, 21, np.nan])) == ["Validation"]


def test_curves_draws_measured_steps_and_the_band():
    figure = figures.curves(log(r=[0.02] * 5, val_psnr=[np.nan, 20, np.nan, 21, np.nan]), band=(0.01, 0.1))
    push, validation = figure.axes
    assert validation.lines[0].get_xdata().tolist() == [20, 40]
    (band,) = push.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.01, 0.1))


def test_curves_refuses_an_empty_log():
    with pytest.raises(ValueError, match="no column step"):
        figures.curves(pd.DataFrame({"loss": [1.0]}))
    with pytest.raises(ValueError, match="no values to draw"):
        figures.curves(log(l_rec=[np.nan] * 5))


def test_paired_differences_writes_mean_and_interval():
    frame = pd.DataFrame({"arm": ["spn"] * 3 + ["cr"], "seed": [0, 1, 2, 0], "difference": [0.1, 0.2, 0.3, -0.1]})
    (axes,) = figures.paired_differences(frame).axes
    texts = [text.get_text() for text in axes.texts]
    # t(0.975, 2 degrees of freedom) = 4.303, standard error = 0.1 / sqrt(3): half width 0.248
    assert texts == ["+0.200 ± 0.248  3 seeds", "-0.100  one seed: no interval"]
    with pytest.raises(ValueError, match="no column difference, seed"):
        figures.paired_differences(pd.DataFrame({"arm": ["spn"]}))


def test_image_grid_needs_pictures_and_labels_for_every_row():
    with pytest.raises(ValueError, match="no picture to show"):
        figures.image_grid([])
    with pytest.raises(ValueError):
        figures.image_grid([{"a": GT}], ["one", "two"])


# --- maps ---


def test_maps_of_a_kind_share_a_scale_and_signed_ones_are_centred():
    low, high = np.full((8, 8), 0.01), np.full((8, 8), 0.04)
    rows = [{"gt": GT[:8, :8], "one": low, "two": high, "gain": low - high}, {"gt": GT[:8, :8], "one": high}]
    figure = figures.maps(rows, ["a", "b"], limits={})
    drawn = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images and axes.get_title()}
    assert drawn["one"].get_clim() == drawn["two"].get_clim() == (0, pytest.approx(0.04))
    assert drawn["gain"].get_clim() == (pytest.approx(-0.03), pytest.approx(0.03))
    assert drawn["gt"].get_clim() == (0, 1) and figure.get_figwidth() <= 10
    one = figures.maps(rows, limits={"two": 0.5})
    limits = {axes.get_title(): axes.images[0].get_clim()[1] for axes in one.axes if axes.images and axes.get_title()}
    assert limits["two"] == 0.5 and limits["one"] == pytest.approx(0.04)


def test_maps_refuse_nothing_and_nan():
    with pytest.raises(ValueError, match="no picture to show"):
        figures.maps([])
    with pytest.raises(ValueError, match="error has NaN"):
        figures.maps([{"error": np.full((4, 4), np.nan)}])
