"""What notebook 01 draws: right numbers, small figures."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mclir_nb.experiments.trajectory import Watched
from mclir_nb.views import explain_figures, toy
from mclir_nb.views.style import render


def test_a_history_is_on_average_as_old_as_its_formula_says():
    """Refreshed every s steps with decay d: between s d / (1 - d) and that plus s, as seen by the loss."""
    table = explain_figures.ages((100, 10), (0.1, 0.5), 3000)
    later = table[table.step > 2000]
    assert later["every 100"].mean() == pytest.approx(100 / 2 + 100 * 0.1 / 0.9, abs=1)
    assert later["every 10"].mean() == pytest.approx(10 / 2 + 10 * 0.5 / 0.5, abs=1)


def test_a_slow_average_stays_at_its_first_copy():
    table = explain_figures.ages((1000,), (0.999,), 4000, record=100)
    assert len(table) == 40 and (table["every 1000"] > 0.99 * table.step).all()


def test_ages_by_hand():
    table = explain_figures.ages((2,), (0.25,), 4)
    assert table["every 2"].tolist() == [1, 2, 3 - 1.5, 4 - 1.5]


def fake() -> Watched:
    gt = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    table = pd.DataFrame({"step": [0, 5], "psnr": [10.0, 12], "psnr_history_0": [10.0, 11]})
    table["alignment"] = [np.nan, 0.1]
    return Watched(["one"], gt, gt, [gt * 0.5, gt * 0.8], [[gt * 0.5], [gt * 0.7]], table, "")


FIGURES = {
    "numbers": lambda: explain_figures.number_pictures({"a": np.eye(4), "b": np.eye(4) / 2}, ("gt", "history")),
    "ages": lambda: explain_figures.age_curves({"official": explain_figures.ages((4, 2), (0.1, 0.1), 20)}),
    "negatives": lambda: explain_figures.negatives_over_time(fake(), {"lq": 9.0}),
    "direction": lambda: explain_figures.direction_of_push(fake(), explain_figures.extrapolations(fake()), 0.02),
    "paths": lambda: toy.paths({"λ = 0": toy.descend(0.0, steps=20), "λ = 0.1": toy.descend(0.1, steps=20)}),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_figure_is_small_and_has_something_on_it(make):
    figure = make()
    width, height = figure.get_size_inches()
    assert width <= 10 and height <= 4
    pixels = np.asarray(Image.open(io.BytesIO(render(figure, "png")))).astype(int)
    assert len(np.unique(pixels.sum(-1))) > 20
