"""Figures of pictures and of one run show what they are given, on fixed scales, and change nothing global."""

import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from mclir_nb.experiments import evidence, history_analysis, intervals, paper, trajectory
from mclir_nb.experiments.trajectory import Watched
from mclir_nb.training.frames import Frames
from mclir_nb.views import (
    cost_figures,
    evidence_figures,
    explain_figures,
    figures,
    history_figures,
    paper_figures,
    style,
    toy,
)
from mclir_nb.views.schematic import schematic

GT = np.random.default_rng(0).random((24, 32, 3)).astype(np.float32)
ROW = {"name": "one", "lq": 0.5 * GT, "restored": 0.9 * GT, "negatives": [0.8 * GT, 0.7 * GT], "gt": GT}


def log(**columns):
    """A log of five steps."""
    return pd.DataFrame({"step": [10, 20, 30, 40, 50]} | columns)


def runs(gain: float, seeds: int = 3, arms=("spn",)) -> pd.DataFrame:
    """Runs of plain and other arms: a gain with a small spread."""
    rows = []
    for seed in range(seeds):
        for number, arm in enumerate(("plain", *arms)):
            score = 20 + seed + (gain + 0.01 * seed * (-1) ** number if number else 0)
            run = dict(task="derain", scale=1, network="nafnet", arm=arm, seed=seed, stopped="", steps=9)
            scores = dict(psnr_raw=score, psnr_ema=score)
            rows.append(run | scores | dict(macs=1.0 + number))
    return pd.DataFrame(rows)


def results(gain: float, arms=("spn", "cr"), seeds: int = 3) -> pd.DataFrame:
    table = runs(gain, seeds, arms).assign(dose=0.1, dose_measured=0.12, r=0.01, pictures=4)
    return evidence.results(evidence.Record("X", {}, table, table, table))


def gain_beside_cost(gain: float, arms=("spn", "cr")):
    return evidence_figures.gain_beside_cost(results(gain, arms))


def probed() -> pd.DataFrame:
    rows = [
        dict(task=task, rate="demo", term=term, direction=direction, seeds=3, mean=0.1, low=-0.1, high=0.3)
        for task in ("sr", "derain")
        for term in ("plain", "spn")
        for direction in ("push", "towards", "noise")
    ]
    return pd.DataFrame(rows)


def arm_log() -> pd.DataFrame:
    """Curves of two arms, two seeds and two steps."""
    return pd.DataFrame(
        [
            dict(arm=arm, seed=seed, step=step, val_psnr_ema=20 + seed + step, l_rec=0.1, r=0.01)
            for arm in ("plain", "spn")
            for seed in (0, 2)
            for step in (1, 2)
        ]
    )


def lag_table() -> pd.DataFrame:
    """Two moments of two histories, the second of which is an exact copy."""
    rows = [
        dict(step=step, history=k, weights=0.5, pixels=0.1 * (2 - k), features=0.1, every=every, age=5)
        for step in (30, 40)
        for k, every in ((1, 20), (2, None))
    ]
    return pd.DataFrame(rows)


def steps_table() -> pd.DataFrame:
    ratios = {"reference plain": 1.0, "reference SPN": 4.0, "plain": 0.8, "sampled SPN": 0.9, "exact SPN": 2.0}
    table = pd.DataFrame({"arm": ratios.keys(), "ratio": ratios.values()}).assign(network="edsr", threads=1)
    return pd.concat([table, table.assign(threads=2)])


def noise_table() -> pd.DataFrame:
    rows = [("exact", 1, 8, 2.4, 2.3, 0.0), ("one history, every k-th step", 4, 8, 1.1, 1.12, 0.02)]
    return pd.DataFrame(rows, columns=["name", "every", "patches", "counted", "measured", "added"])


def cosine_table() -> pd.DataFrame:
    rows = [dict(arm=arm, step=step, cosine=0.9, distance_1=0.1, distance_2=0.01) for arm in "ab" for step in (1, 2)]
    return pd.DataFrame(rows)


def watched() -> Watched:
    gt = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    table = pd.DataFrame({"step": [0, 5], "psnr": [10.0, 12], "psnr_history_0": [10.0, 11]})
    table["alignment"] = table["control"] = [np.nan, 0.1]
    return Watched(["one"], gt, gt, [gt * 0.5, gt * 0.8], [[gt * 0.5], [gt * 0.7]], table, "")


def correlation_table() -> pd.DataFrame:
    return log(spread=[0.5] * 5, edges=[0.1] * 5, change=[0.2] * 5, spread_beyond=[0.0] * 5)


def some_pushes() -> history_analysis.Pushes:
    """Two moments of three histories; of the first history progress is above the gap, then below."""
    gt = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    kept = Frames(
        "x", gt, gt, [3, 8], torch.stack([gt * 0.8] * 2), torch.stack([gt * 0.7] * 6).view(2, 3, 3, 16, 16), None
    )
    rows = [
        dict(step=s, history=k, every=5, age=s % 5, progress=0.01 - 0.001 * s, gap=0.005)
        for s in (3, 8)
        for k in (1, 2, 3)
    ]
    return history_analysis.Pushes(None, kept, [1e-3] * 2, kept.restored, {}, pd.DataFrame(rows))


GROUPS = history_analysis.grouped(torch.rand(9, 9), torch.rand(9, 9))
FIGURES = {
    "schematic": lambda: schematic(),
    "schematic with pictures": lambda: schematic(GT, GT, [GT, GT], GT),
    "comparison": lambda: figures.comparison([ROW]),
    "grid": lambda: figures.image_grid([{"a": GT, "b": GT}], ["row"]),
    "maps": lambda: figures.maps([{"a": GT, "b": GT[..., 0]}], ["row"]),
    "curves": lambda: figures.curves(log(l_rec=[5, 4, 3, 2, 1], l_neg=[1.0] * 5, r=[0.05] * 5, lr=[1e-3] * 5)),
    "paired": lambda: evidence_figures.paired_differences(intervals.by_weights(runs(0.1))),
    "dose response": lambda: evidence_figures.dose_response(results(0.1)),
    "probe": lambda: evidence_figures.probe(probed(), ["push", "towards"]),
    "gain beside cost": lambda: gain_beside_cost(0.1),
    "arm curves": lambda: evidence_figures.arm_curves(arm_log()),
    "improvements": lambda: paper_figures.improvements(paper.gains(), paper.retrainings()),
    "lags": lambda: history_figures.lags(lag_table()),
    "progress and gap": lambda: history_figures.progress_and_gap(some_pushes()),
    "moments": lambda: history_figures.moments(some_pushes()),
    "correlations": lambda: history_figures.correlations(correlation_table()),
    "groups": lambda: history_figures.by_groups({"one": GROUPS}, by="spread", mean="error"),
    "prices": lambda: cost_figures.prices(steps_table()),
    "profile": lambda: cost_figures.profile(pd.DataFrame({"forward": [0.4], "backward": [0.6]}, index=["edsr"])),
    "noise": lambda: cost_figures.noise(noise_table()),
    "cosines": lambda: cost_figures.cosines(cosine_table()),
    "numbers": lambda: explain_figures.number_pictures({"a": np.eye(4), "b": np.eye(4) / 2}, ("gt", "history")),
    "ages": lambda: explain_figures.age_curves({"official": history_analysis.ages((4, 2), (0.1, 0.1), 20)}),
    "negatives": lambda: explain_figures.negatives_over_time(watched(), {"lq": 9.0}),
    "direction": lambda: explain_figures.direction_of_push(watched(), trajectory.extrapolations(watched())),
    "paths": lambda: toy.paths({"λ = 0": toy.descend(0.0, steps=20), "λ = 0.1": toy.descend(0.1, steps=20)}),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES.keys())
def test_every_figure_fits_the_page_can_be_drawn_and_changes_nothing_global(make):
    before = dict(matplotlib.rcParams)
    figure = make()
    assert style.render(figure, "png")
    assert dict(matplotlib.rcParams) == before
    assert isinstance(figure, Figure) and figure.dpi == style.DPI and figure.get_figwidth() <= 10


# Pictures.


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


@pytest.mark.parametrize(
    ("rows", "options", "named"),
    [
        ([{"lq": GT}], {}, "row 1 has no gt, restored"),
        ([ROW | {"negatives": [GT[:8]]}], {}, "history 1 of row 1"),
        ([ROW | {"lq": GT[:16]}], {}, "lq of row 1"),
        ([ROW], {"crop": (20, 0, 8, 8)}, r"\(20, 0, 8, 8\).*\(24, 32\)"),
        ([], {}, "no picture"),
    ],
)
def test_comparison_refuses_what_does_not_fit(rows, options, named):
    with pytest.raises(ValueError, match=named):
        figures.comparison(rows, **options)


def test_names_of_pictures_are_no_formulas():
    figure = figures.image_grid([{"cost $_{a$.png": GT, "b": GT}], ["row $_{b$"])
    figure.savefig(io.BytesIO())
    texts = [axes.get_title() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    assert "cost $_{a$.png" in texts and "row $_{b$" in texts


def test_image_grid_needs_pictures_and_labels_for_every_row():
    with pytest.raises(ValueError, match="no picture"):
        figures.image_grid([])
    with pytest.raises(ValueError):
        figures.image_grid([{"a": GT}], ["one", "two"])


def test_maps_of_a_kind_share_a_scale_and_signed_ones_are_centred():
    low, high = np.full((8, 8), 0.01), np.full((8, 8), 0.04)
    rows = [{"gt": GT[:8, :8], "one": low, "two": high, "gain": low - high}, {"gt": GT[:8, :8], "one": high}]
    figure = figures.maps(rows, ["a", "b"], limits={})
    drawn = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images and axes.get_title()}
    assert drawn["one"].get_clim() == drawn["two"].get_clim() == (0, pytest.approx(0.04))
    assert drawn["gain"].get_clim() == (pytest.approx(-0.03), pytest.approx(0.03))
    assert drawn["gt"].get_clim() == (0, 1)
    one = figures.maps(rows, limits={"two": 0.5})
    limits = {axes.get_title(): axes.images[0].get_clim()[1] for axes in one.axes if axes.images and axes.get_title()}
    assert limits["two"] == 0.5 and limits["one"] == pytest.approx(0.04)
    with pytest.raises(ValueError, match="error"):
        figures.maps([{"error": np.full((4, 4), np.nan)}])


def test_a_visual_comparison_cuts_the_box_out_of_every_picture_and_scores_the_whole():
    gt = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    outputs, box = {"lq": gt * 0.5, "plain": gt * 0.7, "spn": gt * 0.9}, (8, 20, 16, 24)
    score = lambda image, gt: 10 * float(image.mean() / gt.mean())  # noqa: E731
    figure = paper_figures.visual_comparison(gt, outputs, box, score=score, signed={"gain": gt[0] - 0.5})
    whole, lq, _, spn, clear, gain, *unused = figure.axes
    assert not any(axes.axison for axes in unused)  # no empty frame
    (marked,) = whole.patches
    assert (marked.get_y(), marked.get_x(), marked.get_height(), marked.get_width()) == box
    assert whole.images[0].get_array().shape == (40, 60, 3)
    np.testing.assert_allclose(spn.images[0].get_array(), (gt * 0.9)[:, 8:24, 20:44].permute(1, 2, 0))
    assert "5.00" in lq.get_xlabel() and "9.00" in spn.get_xlabel() and "dB" not in clear.get_xlabel()
    low, high = gain.images[0].get_clim()
    assert low == -high and gain.images[0].get_array().shape == (16, 24)
    with pytest.raises(ValueError, match="40, 60"):
        paper_figures.visual_comparison(gt, outputs, (30, 0, 16, 16))


def test_the_busiest_square_is_where_a_map_is_largest():
    values = torch.zeros(30, 50)
    values[12:18, 31:37] = 1
    assert paper_figures.busiest(values, 6) == (12, 31, 6, 6)


def test_a_figure_is_exported_for_print(tmp_path):
    figure = paper_figures.ablations(paper.neighbours(), paper.our_ablations(evidence.read_record("A1")))
    pdf, svg = style.export(figure, tmp_path / "new" / "ablations")
    assert pdf.read_bytes().startswith(b"%PDF") and "<svg" in svg.read_text()


# Curves and intervals.


def test_curves_leave_out_panels_without_data():
    titles = lambda frame: [axes.get_title() for axes in figures.curves(frame).axes]  # noqa: E731
    nothing = [np.nan] * 5
    plain = log(l_rec=[1.0] * 5, l_neg=[0.0] * 5, r=nothing, val_psnr=nothing, val_psnr_ema=nothing, lr=[1e-3] * 5)
    assert titles(plain) == ["Loss", "Learning rate"]
    assert titles(log(val_psnr=[np.nan, 20, np.nan, 21, np.nan])) == ["Validation"]
    with pytest.raises(ValueError, match="column step"):
        figures.curves(pd.DataFrame({"loss": [1.0]}))
    with pytest.raises(ValueError, match="no values"):
        figures.curves(log(l_rec=nothing))


def test_curves_draw_measured_steps_and_the_band():
    figure = figures.curves(
        log(r=[0.02] * 5, dose=[np.nan, 0.1, np.nan, 0.2, np.nan], val_psnr=[np.nan, 20, np.nan, 21, np.nan]),
        band=(0.01, 0.1),
    )
    push, validation = figure.axes
    assert validation.lines[0].get_xdata().tolist() == [20, 40]
    assert [line.get_xdata().tolist() for line in push.lines] == [[10, 20, 30, 40, 50], [20, 40]]
    (band,) = push.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.01, 0.1))


def test_paired_differences_write_mean_and_interval():
    frame = pd.DataFrame({"arm": ["spn"] * 3 + ["cr"], "seed": [0, 1, 2, 0], "difference": [0.1, 0.2, 0.3, -0.1]})
    (axes,) = evidence_figures.paired_differences(frame).axes
    spn, cr = (text.get_text() for text in axes.texts)
    # t(0.975, 2 degrees of freedom) = 4.303, standard error = 0.1 / sqrt(3): half width 0.248
    assert "+0.200 ± 0.248" in spn and "-0.100" in cr and "no interval" in cr
    with pytest.raises(ValueError, match="difference, seed"):
        evidence_figures.paired_differences(pd.DataFrame({"arm": ["spn"]}))


def test_settings_are_panels_and_the_ema_is_drawn_where_it_differs():
    two = pd.concat([runs(0.1, arms=("spn", "cr")), runs(0.2, arms=("spn", "cr")).assign(task="deblur")])
    figure = evidence_figures.paired_differences(intervals.by_weights(two))
    assert [axes.get_title() for axes in figure.axes] == ["derain nafnet", "deblur nafnet"]
    assert all(len(axes.containers) == 2 for axes in figure.axes)  # raw = EMA
    apart = two.assign(psnr_ema=two["psnr_ema"] + 0.1 * (two["arm"] == "spn"))
    figure = evidence_figures.paired_differences(intervals.by_weights(apart))
    assert all(len(axes.containers) == 4 for axes in figure.axes)
    many = pd.concat([runs(0.1).assign(network=f"n{k}") for k in range(4)])
    (axes,) = evidence_figures.paired_differences(intervals.by_weights(many)).axes
    assert len(axes.get_yticklabels()) == 4


def test_gain_beside_cost_stands_at_the_cost_of_the_run():
    (axes,) = gain_beside_cost(0.1).axes
    assert len(axes.containers) == 2 and axes.get_yscale() == "linear"
    assert [bar.lines[0].get_xdata()[0] for bar in axes.containers] == pytest.approx([2, 3], rel=0.01)
    assert gain_beside_cost(-9.0).axes[0].get_yscale() == "symlog"


def test_dose_response_draws_gains_at_the_dose_asked_for():
    table = results(0.1, ("spn", "spn 0.2", "history-positive", "cr"))
    table.loc[table["arm"] == "spn 0.2", "dose"] = 0.2
    (axes,) = evidence_figures.dose_response(table).axes
    raw, ema, *_ = (container.lines[0] for container in axes.containers)
    assert raw.get_xdata() == pytest.approx([0.097, 0.194]) and len(axes.containers) == 4  # cr is left out
    assert list(raw.get_ydata()) == pytest.approx([0.09, 0.11])
    with pytest.raises(ValueError, match="dose"):
        evidence_figures.dose_response(table.assign(dose=np.nan))


def test_an_arm_has_one_colour_everywhere():
    assert style.arm_colour("spn") == style.COLOURS["restored"] and style.arm_colour("plain") == style.COLOURS["plain"]
    assert style.arm_colour("my own") == style.arm_colour("my own")
    assert len(set(style.ARMS.values())) == len(style.ARMS)


def test_arm_curves_are_means_over_seeds():
    first = evidence_figures.arm_curves(arm_log()).axes[0]
    assert [list(line.get_ydata()) for line in first.lines] == [[22, 23], [22, 23]]
    assert len(evidence_figures.arm_curves(arm_log(), ["spn"]).axes[0].lines) == 1
    with pytest.raises(ValueError, match="cr.*plain, spn"):
        evidence_figures.arm_curves(arm_log(), ["cr"])


def test_the_papers_gains_are_all_drawn_and_retrainings_only_of_the_same_recipe():
    gains, retrained = paper.gains(), paper.retrainings()
    lines = [line for axes in paper_figures.improvements(gains, retrained).axes for line in axes.lines]
    bars = sorted(x for line in lines if line.get_marker() == "|" for x in line.get_xdata())
    dots = sorted(x for line in lines if line.get_marker() != "|" for x in line.get_xdata())
    assert dots == sorted(gains["gain_db"])
    same = retrained[retrained["network"] != "DehazeFormer-S"]  # trained with another batch size
    assert bars == sorted(same["difference_db"].abs()) and len(bars) == len(retrained) - 1


def test_lags_draw_every_history_and_leave_zero_lags_out():
    logs = history_figures.lags(lag_table()).axes
    assert [len(line.get_xdata()) for line in logs[1].lines] == [2, 0]
    assert [text.get_text() for text in logs[0].get_legend().get_texts()] == ["every 20 steps", "never refreshed"]


def test_tables_without_rows_are_refused():
    for draw in (history_figures.lags, history_figures.correlations):
        with pytest.raises(ValueError):
            draw(pd.DataFrame())
    with pytest.raises(ValueError):
        history_figures.by_groups({}, by="", mean="")


def test_the_aim_is_green_towards_the_truth_and_brown_away_whatever_its_size():
    towards = np.concatenate([np.full((8, 8), 1e-6), np.full((8, 8), -1e-6)])
    drawn = style.aim_picture(np.ones((16, 8, 3)), towards)
    np.testing.assert_allclose(drawn[0, 0], matplotlib.colors.to_rgb(style.COLOURS["gt"]), atol=1e-6)
    np.testing.assert_allclose(drawn[-1, 0], matplotlib.colors.to_rgb(style.COLOURS["away"]), atol=1e-6)
    still = style.aim_picture(GT, np.zeros(GT.shape[:2]))
    assert still.min() >= 0.6 and np.ptp(still, axis=-1).max() == 0  # no direction: the picture, pale and grey


def test_a_zoom_shows_the_square_again_larger_and_nothing_outside_it():
    image = np.zeros((40, 60, 3))
    image[10:16, 20:26] = 0.5
    shown = style.with_zoom(image, (10, 20, 6))
    assert shown.shape == (80, 120, 3)
    np.testing.assert_allclose(shown[-22:-2, -22:-2], 0.5)  # the inset within its frame, and where it was taken from
    np.testing.assert_allclose(shown[22:30, 42:50], 0.5)
    assert not shown[: 2 * 10].any() and shown[20, 40:52].min() == 1
    with pytest.raises(ValueError, match="square"):
        style.with_zoom(image, (38, 0, 6))


def test_progress_and_gap_have_a_panel_per_history_shaded_by_which_is_larger():
    figure = history_figures.progress_and_gap(some_pushes())
    panels = [axes for axes in figure.axes if axes.get_title().startswith("past")]
    assert len(panels) == 3
    fills = {tuple(c.get_facecolor()[0][:3].round(3)): len(c.get_paths()) for c in panels[0].collections}
    assert len(fills) == 2 and all(fills.values())
