"""Figures of pictures and of one run show what they are given, on fixed scales, and change nothing global."""

import io
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from live_views import pushes
from matplotlib.figure import Figure

from mclir_nb.experiments import evidence, history_analysis, intervals, paper, push_study, trajectory, verdicts
from mclir_nb.experiments.trajectory import Watched
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
A1 = evidence.read_record("A1")
RESULTS = verdicts.results(A1).assign(dose=0.1, dose_measured=0.12)


def log(**columns):
    """A log of five steps."""
    return pd.DataFrame({"step": [10, 20, 30, 40, 50]} | columns)


def arm_log() -> pd.DataFrame:
    """Curves of two arms, two seeds and two steps."""
    keys = pd.MultiIndex.from_product([["plain", "spn"], [0, 2], [1, 2]], names=["arm", "seed", "step"])
    table = keys.to_frame(index=False)
    return table.assign(val_psnr_ema=20 + table.seed + table.step, l_rec=0.1, r=0.01)


def lag_table() -> pd.DataFrame:
    """Two moments of two histories, the second of which is an exact copy."""
    rows = [
        dict(step=step, history=k, weights=0.5, pixels=0.1 * (2 - k), features=0.1, every=every, age=5)
        for step in (30, 40)
        for k, every in ((1, 20), (2, None))
    ]
    return pd.DataFrame(rows)


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


def helps() -> pd.DataFrame:
    return push_study.summary(push_study.recorded()[0])


def steps_table() -> pd.DataFrame:
    ratios = pd.Series({"reference SPN": 4.0, "plain": 0.8, "sampled SPN": 0.9, "exact SPN": 2.0}, name="ratio")
    table = ratios.rename_axis("arm").reset_index().assign(network="edsr")
    return pd.concat([table.assign(threads=threads) for threads in (1, 2)])


FIGURES = {
    "schematic": lambda: schematic(),
    "schematic with pictures": lambda: schematic(GT, GT, [GT, GT], GT),
    "comparison": lambda: figures.comparison([ROW]),
    "grid": lambda: figures.image_grid([{"a": GT, "b": GT}], ["row"]),
    "maps": lambda: figures.maps([{"a": GT, "b": GT[..., 0]}], ["row"]),
    "curves": lambda: figures.curves(log(l_rec=[5, 4, 3, 2, 1], l_neg=[1.0] * 5, r=[0.05] * 5, lr=[1e-3] * 5)),
    "paired": lambda: evidence_figures.paired_differences(intervals.by_weights(A1.runs)),
    "dose response": lambda: evidence_figures.dose_response(RESULTS),
    "probe": lambda: evidence_figures.probe({"raw weights": helps(), "EMA": helps()}, ["push", "towards"]),
    "gain beside cost": lambda: evidence_figures.gain_beside_cost(RESULTS),
    "arm curves": lambda: evidence_figures.arm_curves(A1.curves),
    "improvements": lambda: paper_figures.improvements(paper.gains(), paper.retrainings()),
    "lags": lambda: history_figures.lags(lag_table()),
    "progress and gap": lambda: history_figures.progress_and_gap(pushes()),
    "moments": lambda: history_figures.moments(pushes()),
    "correlations": lambda: history_figures.correlations(
        log(spread=[0.5] * 5, edges=[0.1] * 5, change=[0.2] * 5, spread_beyond=[0.0] * 5)
    ),
    "groups": lambda: history_figures.by_groups({"one": pd.DataFrame({"mean": [0, 1]})}, by="spread", mean="error"),
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


def test_comparison_shows_every_picture_with_one_error_scale_and_the_metric():
    worse = ROW | {"restored": 0.5 * GT, "lq": GT[::2, ::2]}
    figure = figures.comparison([ROW, worse], metric=lambda image, gt: float(np.abs(image - gt).max() * 100))
    titles = [axes.get_title() for axes in figure.axes]
    names = ["lq", "restored", "history 1", "history 2", "gt", "|restored - gt|"]
    assert [title.split("\n")[0] for title in titles] == [*names, *names, ""]
    top = 100 * GT.max()
    assert titles[1] == f"restored\n{0.1 * top:.2f} dB" and titles[7] == f"restored\n{0.5 * top:.2f} dB"
    assert "dB" not in titles[6]  # of another size than gt
    one, two = (figure.axes[k].images[0] for k in (5, 11))
    np.testing.assert_allclose(one.get_array(), style.difference(0.9 * GT, GT))
    assert one.get_clim() == two.get_clim() and one.get_clim()[1] >= np.percentile(style.difference(0.5 * GT, GT), 99)


def test_names_of_pictures_are_no_formulas():
    figure = figures.image_grid([{"cost $_{a$.png": GT, "b": GT}], ["row $_{b$"])
    figure.savefig(io.BytesIO())
    texts = [axes.get_title() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    assert "cost $_{a$.png" in texts and "row $_{b$" in texts


def test_pictures_and_names_of_all_rows_are_needed():
    for draw in (figures.image_grid, figures.comparison, figures.maps):
        with pytest.raises(ValueError, match="no picture"):
            draw([])
    with pytest.raises(ValueError):
        figures.image_grid([{"a": GT}], ["one", "two"])


def test_maps_of_a_kind_share_a_scale_and_signed_ones_are_centred():
    low, high = np.full((8, 8), 0.01), np.full((8, 8), 0.04)
    rows = [{"gt": GT[:8, :8], "one": low, "two": high, "gain": low - high}, {"gt": GT[:8, :8], "one": high}]
    scales = lambda figure: {x.get_title(): x.images[0].get_clim() for x in figure.axes if x.images and x.get_title()}  # noqa: E731
    drawn = scales(figures.maps(rows, ["a", "b"]))
    assert drawn["one"] == drawn["two"] == (0, pytest.approx(0.04)) and drawn["gt"] == (0, 1)
    assert drawn["gain"] == (pytest.approx(-0.03), pytest.approx(0.03))
    drawn = scales(figures.maps(rows, limits={"two": 0.5}))
    assert drawn["two"] == (0, 0.5) and drawn["one"] == (0, pytest.approx(0.04))
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
    figure = paper_figures.ablations(paper.read("neighbours"), paper.our_ablations(A1))
    pdf, svg = style.export(figure, tmp_path / "new" / "ablations")
    assert pdf.read_bytes().startswith(b"%PDF") and "<svg" in svg.read_text()


# Curves and intervals.


def test_curves_draw_what_was_measured_and_leave_the_rest_out():
    nothing, some = [np.nan] * 5, [np.nan, 20, np.nan, 21, np.nan]
    loss, push, validation = figures.curves(
        log(l_rec=[1.0] * 5, l_neg=[0.0] * 5, r=[0.02] * 5, dose=some, val_psnr=some, lr=nothing)
    ).axes
    assert [len(axes.lines) for axes in (loss, push, validation)] == [1, 2, 1]
    assert validation.lines[0].get_xdata().tolist() == push.lines[1].get_xdata().tolist() == [20, 40]
    (band,) = push.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.01, 0.1))
    with pytest.raises(ValueError, match="no values"):
        figures.curves(log(l_rec=nothing))


def test_the_names_beside_the_push_cover_no_line():
    figure = figures.curves(
        log(r=[0.02, 0.04, 0.03, 0.01, 0.004], image_ratio=[0.3, 0.8, 0.5, 0.9, 1.1], dose=[0.1] * 5)
    )
    figure.draw_without_rendering()
    (push,) = figure.axes
    names = push.get_legend().get_window_extent()
    for line in push.lines:
        assert not any(names.contains(*push.transData.transform(point)) for point in line.get_xydata())
    assert push.get_window_extent().x0 <= names.x0 and names.x1 <= push.get_window_extent().x1


def test_paired_differences_write_mean_and_interval():
    frame = pd.DataFrame({"arm": ["spn"] * 3 + ["cr"], "seed": [0, 1, 2, 0], "difference": [0.1, 0.2, 0.3, -0.1]})
    (axes,) = evidence_figures.paired_differences(frame).axes
    spn, cr = (text.get_text() for text in axes.texts)
    # t(0.975, 2 degrees of freedom) = 4.303, standard error = 0.1 / sqrt(3): half width 0.248
    assert "+0.200 ± 0.248" in spn and "-0.100" in cr and "no interval" in cr
    with pytest.raises(ValueError, match="no rows"):
        evidence_figures.paired_differences(frame[:0])


def test_one_arm_far_off_does_not_hide_the_others():
    frame = pd.DataFrame({"arm": ["spn", "cr", "longer"] * 2, "difference": [0.1, 0.2, 3.0] * 2})
    far, near = (evidence_figures.paired_differences(part).axes[0] for part in (frame, frame[frame["arm"] != "longer"]))
    assert far.get_xscale() == "symlog" and "logarithmic" in far.get_title()
    assert near.get_xscale() == "linear" and not near.get_title()
    assert len(set(far.get_xticks())) == len(far.get_xticks())
    middle, end = (np.ptp(far.transData.transform([(low, 0), (high, 0)])[:, 0]) for low, high in ((0, 0.2), (1, 3)))
    assert middle > end  # 0.2 dB near zero take more room than 2 dB far off
    alike = frame.assign(difference=frame["difference"] + 3)
    assert evidence_figures.paired_differences(alike).axes[0].get_xscale() == "linear"


def test_settings_are_panels_and_the_ema_is_drawn_where_it_differs():
    runs = A1.runs[A1.runs["arm"].isin(["plain", "spn", "two histories"])].assign(psnr_ema=lambda t: t["psnr_raw"])
    two = pd.concat([runs, runs.assign(task="deblur")])
    figure = evidence_figures.paired_differences(intervals.by_weights(two))
    assert [axes.get_title() for axes in figure.axes] == ["derain nafnet", "deblur nafnet"]
    assert all(len(axes.containers) == 2 for axes in figure.axes)  # raw = EMA
    few = two[(two["task"] == "derain") | (two["seed"] == 0)]
    titles = [axes.get_title() for axes in evidence_figures.paired_differences(intervals.by_weights(few)).axes]
    assert titles == ["derain nafnet", "deblur nafnet (one seed: no interval)"]
    apart = two.assign(psnr_ema=two["psnr_ema"] + 0.1 * (two["arm"] == "spn"))
    figure = evidence_figures.paired_differences(intervals.by_weights(apart))
    assert all(len(axes.containers) == 4 for axes in figure.axes)
    many = pd.concat([runs.assign(network=f"n{k}") for k in range(4)])
    (axes,) = evidence_figures.paired_differences(intervals.by_weights(many)).axes
    assert len(axes.get_yticklabels()) == 8


def test_an_arm_with_a_run_that_diverged_has_dots_and_no_mean():
    """Below the others, with the number of its runs that are lost, in one panel and in several."""
    rows = [("a", 0.1), ("a", 0.3), ("lost", np.nan), ("lost", np.nan), ("b", 0.9), ("b", np.nan), ("c", 0.1), ("c", 0)]
    frame = pd.DataFrame(rows, columns=["arm", "difference"]).assign(task="sr", scale=4, network="edsr", seed=0)
    for part in (frame, pd.concat([frame, frame.assign(task="derain")])):
        axes = evidence_figures.paired_differences(part).axes[0]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "c", "b", "lost"]
        assert len(axes.containers) == 2  # means of a and c
        assert [text.get_text() for text in axes.texts][-2:] == ["1 of 2 diverged", "2 of 2 diverged"]


def test_arms_are_in_the_order_of_what_is_drawn():
    """Raw weights come first; those of the EMA, which are drawn nowhere here, do not count."""
    raw = pd.DataFrame({"arm": list("aabb"), "seed": [0, 1] * 2, "difference": [0.100, 0.200, 0.101, 0.201]})
    ema = raw.assign(difference=[0.104, 0.204, 0.099, 0.199], weights="ema")
    (axes,) = evidence_figures.paired_differences(pd.concat([raw.assign(weights="raw"), ema])).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "a"] and len(axes.containers) == 2


def test_the_probe_has_a_row_per_weights_and_learning_rate():
    """A task that was not looked at with a rate is said to be missing."""
    table = helps().query("rate == 'demo'")
    slow = table[table["task"] == "sr"].assign(rate="eighth")
    figure = evidence_figures.probe({"raw weights": pd.concat([table, slow]), "EMA": table}, ["push", "towards"])
    looked = [axes.get_title() for axes in figure.axes if axes.containers]
    assert len(looked) == 7 and looked[3].startswith("sr, raw weights, rate: eighth\nseeds: ")
    part = table[(table["task"] != "sr") | (table["term"] == "plain")]  # a term that is missing in one task
    assert (
        "spn 0"
        in evidence_figures.probe({"EMA": part}, ["push"]).axes[list(part["task"].unique()).index("sr")].get_title()
    )
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["not looked at"] * 5
    assert all("rate" not in axes.get_title() for axes in evidence_figures.probe({"EMA": table}, ["push"]).axes)


def test_gain_beside_cost_stands_at_the_cost_of_the_run():
    (axes,) = evidence_figures.gain_beside_cost(RESULTS).axes
    places = [bar.lines[0].get_xdata()[0] for bar in axes.containers]
    costs = RESULTS["run_cost"].sort_values()
    assert places == pytest.approx(costs, abs=0.1 * np.ptp(costs)) and np.diff(sorted(places)).min() > 0.01
    assert np.mean(places) == pytest.approx(costs.mean()) and axes.get_yscale() == "linear"
    far = RESULTS.assign(gain_raw=RESULTS["gain_raw"].mask(RESULTS.index == 0, -9.0))
    assert evidence_figures.gain_beside_cost(far).axes[0].get_yscale() == "symlog"
    assert "side by side" in axes.get_xlabel()
    one = evidence_figures.gain_beside_cost(RESULTS[:1]).axes[0]
    assert "side by side" not in one.get_xlabel() and not one.figure.get_suptitle()
    for panel in evidence_figures.gain_beside_cost(verdicts.results(evidence.read_record("V"))).axes:
        assert np.diff(sorted(bar.lines[0].get_xdata()[0] for bar in panel.containers)).min() > 0.03
        assert max(panel.containers, key=lambda bar: bar.lines[0].get_zorder()).get_label() == "spn"
    many = pd.concat([RESULTS.assign(scale=scale) for scale in (1, 2, 3, 4)])
    assert evidence_figures.gain_beside_cost(many).get_suptitle() == "3 of 4 settings"


def test_dose_response_draws_gains_at_the_dose_asked_for():
    table = RESULTS.replace({"arm": {"lambda x 10": "spn 0.2"}})
    table.loc[table["arm"] == "spn 0.2", "dose"] = 0.2
    (axes,) = evidence_figures.dose_response(table).axes
    raw, ema, *_ = (container.lines[0] for container in axes.containers)
    assert raw.get_xdata() == pytest.approx([0.097, 0.194]) and len(axes.containers) == 4  # SPN, and its opposite
    assert list(raw.get_ydata()) == list(table.set_index("arm")["gain_raw"][["spn", "spn 0.2"]])
    with pytest.raises(ValueError, match="dose"):
        evidence_figures.dose_response(table.assign(dose=np.nan))
    lost = table.assign(gain_raw=table["gain_raw"].mask(table["arm"] == "spn 0.2"))
    for draw in (evidence_figures.dose_response, evidence_figures.gain_beside_cost):
        assert "a run diverged: spn 0.2" in draw(lost).axes[0].get_title()


def test_every_arm_of_a_figure_has_its_own_look_and_known_ones_the_same_everywhere():
    arms = ["spn", *(f"arm {k}" for k in range(40)), *style.ARMS]
    looks = style.arm_styles(arms)
    assert list(looks) == list(dict.fromkeys(arms))
    assert len({tuple(look.values()) for look in looks.values()}) == len(looks)
    assert len({look["color"] for look in style.arm_styles(A1.runs["arm"]).values()}) == A1.runs["arm"].nunique()
    assert style.arm_styles(["spn"])["spn"] == looks["spn"]
    figure = evidence_figures.arm_curves(A1.curves)
    drawn = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[1].lines]
    assert len(set(drawn)) == len(drawn) == A1.runs["arm"].nunique()


def test_arm_curves_are_means_over_seeds():
    first = evidence_figures.arm_curves(arm_log()).axes[0]
    assert [list(line.get_ydata()) for line in first.lines] == [[22, 23], [22, 23]]
    ended = evidence_figures.arm_curves(arm_log()[:-1]).axes[0]  # the second run of spn has no second step
    assert [list(line.get_ydata()) for line in ended.lines] == [[22, 23], [22]]
    with pytest.raises(ValueError, match="derain x2 edsr, sr x2 edsr"):
        tasks = [arm_log().assign(task=task, scale=2, network="edsr") for task in ("derain", "sr")]
        evidence_figures.arm_curves(pd.concat(tasks))


def test_the_papers_gains_are_all_drawn_and_retrainings_only_of_the_same_recipe():
    gains, retrained = paper.gains(), paper.retrainings()
    retrained.loc[0, "same_recipe"] = "no"
    lines = [line for axes in paper_figures.improvements(gains, retrained).axes for line in axes.lines]
    bars = sorted(x for line in lines if line.get_marker() == "|" for x in line.get_xdata())
    dots = sorted(x for line in lines if line.get_marker() != "|" for x in line.get_xdata())
    assert dots == sorted(gains["gain_db"])
    assert bars == sorted(retrained["difference_db"].abs()[1:])


def test_labels_of_estimates_do_not_touch():
    names = ["one history, every k-th step", "all histories, every k-th step"]
    table = pd.DataFrame({"name": names, "every": [2, 4], "patches": 8, "counted": [1.231, 1.332], "added": 0.008})
    figure = cost_figures.noise(table.assign(measured=table.counted))
    style.pixels(figure)
    for axes in figure.axes:
        one, other = [text.get_window_extent() for text in axes.texts]
        assert not one.overlaps(other)


def test_an_arm_without_push_is_dotted_wherever_it_is_drawn():
    for axes in FIGURES["paths"]().axes:
        assert ":" in {line.get_linestyle() for line in axes.lines if line.get_color() == style.COLOURS["plain"]}


def test_no_price_and_no_line_of_a_negative_is_cut_off():
    for price in (2.3, 5.3):
        for axes in cost_figures.noise(noise_table().assign(measured=[price, 1.12])).axes:
            assert axes.get_xlim()[1] >= max(3, price)
    found = watched()
    right = explain_figures.negatives_over_time(found, {"far": 40.0}).axes[1]
    low, high = right.get_ylim()
    assert low < (found.table.psnr_history_0 - found.table.psnr).min() and high > (40 - found.table.psnr).max()


def test_lags_draw_every_history_and_leave_zero_lags_out():
    logs = history_figures.lags(lag_table()).axes
    assert [len(line.get_xdata()) for line in logs[1].lines] == [2, 0]
    assert [text.get_text() for text in logs[0].get_legend().get_texts()] == ["every 20 steps", "never refreshed"]


def test_progress_and_gap_say_how_a_history_is_refreshed():
    found = pushes()

    def titles(**columns):
        figure = history_figures.progress_and_gap(replace(found, table=found.table.assign(**columns)))
        return [axes.get_title() for axes in figure.axes if axes.get_title().startswith("past")]

    assert titles() == ["past 1, every 5 steps", "past 2, every 10 steps"]
    assert titles(every=[5, None] * 3) == ["past 1, every 5 steps", "past 2, never refreshed"]
    assert titles(age=np.nan) == ["past 1, adaptive rule", "past 2, adaptive rule"]


def test_progress_and_gap_are_shaded_by_which_is_larger():
    found = pushes()  # progress of the first history is above the gap, of the second below
    panels = [axes for axes in history_figures.progress_and_gap(found).axes if axes.get_title().startswith("past")]
    assert "log" in panels[0].get_ylabel() and {panel.title.get_color() for panel in panels} == {"black"}
    colours = [matplotlib.colors.to_rgb(style.COLOURS[role]) for role in ("towards", "away")]
    for panel, larger in zip(panels, colours, strict=True):
        (shown,) = [tuple(c.get_facecolor()[0][:3]) for c in panel.collections if len(c.get_paths())]
        assert shown == larger


def test_the_aim_is_blue_towards_the_truth_and_gold_away_whatever_its_size():
    towards = np.concatenate([np.full((8, 8), 1e-6), np.full((8, 8), -1e-6)])
    drawn = style.aim_picture(np.ones((16, 8, 3)), towards)
    np.testing.assert_allclose(drawn[0, 0], matplotlib.colors.to_rgb(style.COLOURS["towards"]), atol=1e-6)
    np.testing.assert_allclose(drawn[-1, 0], matplotlib.colors.to_rgb(style.COLOURS["away"]), atol=1e-6)
    np.testing.assert_allclose(drawn[0, 0] + drawn[-1, 0], 1, atol=1e-6)  # from afar equal parts are grey, not blue
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
