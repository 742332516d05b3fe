"""Scores on a benchmark: the protocol, the cost, the interval, the paper's row, and the published baselines."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from golden import SHARED, needs_data
from pictures import write
from torch import nn
from trainers import untrained_run

from mclir_nb import networks
from mclir_nb.__main__ import main
from mclir_nb.data import datasets, degrade, tasks
from mclir_nb.data.patches import Benchmark
from mclir_nb.evaluation import evaluate, metrics
from mclir_nb.training import recipes


class Same(nn.Module):
    """Gives back what it gets, enlarged as the baseline is; remembers how often it was asked."""

    def __init__(self, scale=1):
        super().__init__()
        self.scale, self.calls = scale, 0
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, lq):
        self.calls += 1
        return degrade.bicubic(lq, self.scale) if self.scale > 1 else lq + self.weight


def test_one_row_per_picture_with_the_protocol_of_the_task():
    chosen = tasks.get("derain")
    rain = Benchmark(datasets.open_set("embedded", chosen, "test"), chosen, side=64)
    scores = evaluate.evaluate(Same().requires_grad_(False), rain, quiet=True)  # as an average of weights is
    assert list(scores.image) == [name for name, _, _ in rain] and len(scores) == 4
    assert scores.attrs == {"protocol": "idt", "crop": 0, "ensemble": False, "network": "Same, 1 parameters"}
    _, gt, lq = rain[1]
    assert scores.psnr_input[1] == scores.psnr_restored[1] == metrics.psnr(lq, gt, "idt")
    assert scores.ssim_input[1] == scores.ssim_restored[1] == metrics.ssim(lq, gt, "idt")
    assert (scores.seconds > 0).all() and (scores.tiles == 1).all()


def test_super_resolution_leaves_out_a_border_and_is_compared_with_bicubic():
    chosen = tasks.get("sr", 2)
    pictures = Benchmark(datasets.open_set("embedded", chosen, "test"), chosen, side=48)
    scores = evaluate.evaluate(Same(2), pictures, quiet=True)
    assert scores.attrs["protocol"] == "basicsr-y" and scores.attrs["crop"] == 2
    assert evaluate.evaluate(Same(2), pictures, crop=0, quiet=True).attrs["crop"] == 0
    _, gt, lq = pictures[0]
    wanted = metrics.psnr(degrade.bicubic((lq * 255).round().to(torch.uint8), 2), gt, "basicsr-y", 2)
    assert scores.psnr_input[0] == wanted
    assert abs(scores.psnr_restored - scores.psnr_input).max() < 0.1  # but for the 8 bits between the passes


def test_a_network_of_another_scale_is_refused():
    chosen = tasks.get("sr", 4)
    pictures = Benchmark(datasets.open_set("embedded", chosen, "test"), chosen, side=64)
    with pytest.raises(ValueError, match="scale 2"):
        evaluate.evaluate(Same(2), pictures, quiet=True)
    with pytest.raises(ValueError, match="no pictures"):
        evaluate.evaluate(Same(), [], quiet=True)


def test_large_pictures_are_scored_in_tiles_with_the_same_result():
    torch.manual_seed(0)
    network = networks.build("edsr", 2, num_feat=8, num_block=2)
    gt = torch.rand(3, 600, 640, generator=torch.Generator().manual_seed(0))
    made = [("large", gt, degrade.bicubic(gt, 0.5).clamp(0, 1))]
    whole, tiled = (evaluate.evaluate(network, made, "ffanet", tile=t, quiet=True) for t in (None, 256))
    assert whole.tiles[0] == 1 and tiled.tiles[0] == 4
    assert tiled.psnr_restored[0] == pytest.approx(whole.psnr_restored[0], abs=1e-4)


def test_validation_is_the_mean_of_what_evaluate_scores():
    """Small, odd and large pictures take the same path, in eval mode, in tiles."""
    torch.manual_seed(0)
    network = networks.build("edsr", 2, num_feat=8, num_block=2).train()
    made = [(str(h), gt, degrade.bicubic(gt, 0.5).clamp(0, 1)) for h in (30, 50) for gt in [torch.rand(3, h, 40)]]
    scores = evaluate.evaluate(network, made, "basicsr-y", 2, quiet=True)
    assert evaluate.mean_psnr(network, made, "basicsr-y", 2) == pytest.approx(scores.psnr_restored.mean())
    assert network.training


def test_protocol_crop_and_ensemble_are_options():
    gt = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    network, made = Same(), [("0", gt, (gt + 0.05 * torch.randn(gt.shape)).clamp(0, 1))]
    scores = evaluate.evaluate(network, made, "nafnet", 3, ensemble=True, quiet=True)
    assert network.calls == 8 and scores.attrs["ensemble"]
    assert scores.psnr_restored[0] == pytest.approx(metrics.psnr(made[0][2], gt, "nafnet", 3), abs=1e-3)


def table(restored, given=20.0):
    restored = np.asarray(restored, float)
    return pd.DataFrame({"psnr_input": given, "ssim_input": 0.5, "psnr_restored": restored, "ssim_restored": 0.6})


def test_the_interval_is_that_of_a_mean_over_pictures():
    values = np.random.default_rng(0).normal(30, 2, 200)
    row = evaluate.summary(table(values)).loc["psnr_restored"]
    half = 1.96 * values.std() / math.sqrt(200)
    assert row["mean"] == pytest.approx(values.mean()) and row.pictures == 200
    assert row.low == pytest.approx(values.mean() - half, abs=0.03)
    assert row.high == pytest.approx(values.mean() + half, abs=0.03)
    assert evaluate.summary(table(values)).equals(evaluate.summary(table(values)))


def test_the_gain_is_paired_with_its_own_input():
    given = np.random.default_rng(1).normal(20, 5, 30)
    gain = evaluate.summary(table(given + 1, given)).loc["psnr_gain"]
    assert (gain["mean"], gain.low, gain.high) == pytest.approx((1, 1, 1))  # whatever the pictures' spread


def test_no_interval_where_there_is_none():
    assert evaluate.summary(table([25])).low.isna().all()
    row = evaluate.summary(table([25, np.inf])).loc["psnr_restored"]
    assert row["mean"] == np.inf and math.isnan(row.low)


def test_the_parts_of_a_mixture_have_means_of_their_own():
    names = ["bsd68/a noise 15", "bsd68/a noise 25", "bsd68/b noise 15", "Rain100L/1", "dehaze/0001_0.8_0.2"]
    parts = evaluate.parts(table([30, 28, 32, 35, 31]).assign(image=names))
    assert parts.psnr_restored.to_dict() == {"bsd68 noise 15": 31, "bsd68 noise 25": 28, "Rain100L": 35, "dehaze": 31}
    assert parts.pictures.tolist() == [2, 1, 1, 1]
    assert len(evaluate.parts(table([30, 31]).assign(image=["baby", "bird"]))) == 1


BICUBIC = {  # mean PSNR-Y and SSIM of data/README.md, convention P; Set14's grey picture read as three channels
    ("set5", 2): (33.678, 0.9304),
    ("set5", 4): (28.431, 0.8113),
    ("set14", 2): (30.329, 0.8700),
    ("set14", 4): (26.093, 0.7049),
}


@needs_data
@pytest.mark.parametrize(("name", "scale"), BICUBIC)
def test_bicubic_enlargement_comes_out_at_the_published_values(name, scale):
    """`evaluate` as it is used, on the benchmark as it is opened: the column psnr_input is the bicubic baseline."""
    task = tasks.get("sr", scale)
    benchmark = Benchmark(datasets.open_set(name, task, "test", SHARED / "data"), task)
    rows = [evaluate.score(evaluate.enlarge(lq, gt), gt, "input", task.protocol, task.crop) for _, gt, lq in benchmark]
    psnr, ssim = BICUBIC[name, scale]
    mean = pd.DataFrame(rows).mean()
    assert mean.psnr_input == pytest.approx(psnr, abs=0.02)
    assert mean.ssim_input == pytest.approx(ssim, abs=0.001)


def test_an_official_checkpoint_by_path_on_a_benchmark(tmp_path, capsys):
    for name in ("baby", "bird"):
        write(tmp_path / f"Set5/HR/{name}.png", (48, 60), seed=1)
        write(tmp_path / f"Set5/LR_bicubic/X2/{name}x2.png", (24, 30), seed=2)
    network = networks.build("edsr", 2)
    torch.save({"params": network.core.state_dict()}, tmp_path / "EDSR_x2.pth")  # as BasicSR writes it
    command = ["evaluate", "set5", str(tmp_path), "--checkpoint", str(tmp_path / "EDSR_x2.pth"), "--device", "cpu"]
    assert main(command) == 1 and "network" in capsys.readouterr().err
    command += ["--network", "edsr", "--scale", "2", "--out", str(tmp_path / "scores.csv")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "psnr_gain" in shown and "measured here" in shown and "basicsr-y, crop 2" in shown
    written = pd.read_csv(tmp_path / "scores.csv")
    task = tasks.get("sr", 2)
    benchmark = Benchmark(datasets.open_set("set5", task, "test", tmp_path), task)
    wanted = evaluate.evaluate(network, benchmark, quiet=True)
    assert written.psnr_restored.tolist() == pytest.approx(wanted.psnr_restored.tolist())
    assert set(written.protocol) == {"basicsr-y"} and set(written["crop"]) == {2}
    assert main(command) == 1 and "scores.csv" in capsys.readouterr().err


def test_a_run_on_a_benchmark_warns_of_what_both_share(tmp_path, capsys):
    recipe = recipes.get("tiny", "derain", dataset="bsds500", data_root=str(tmp_path))
    untrained_run(tmp_path / "run", recipe)
    write(tmp_path / "Rain100L/norain-001.png", seed=1)
    write(tmp_path / "Rain100L/rainy/rain-001.png", seed=2)
    assert main(["evaluate", "rain100l", str(tmp_path), "--checkpoint", str(tmp_path / "run"), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "bsds500 and rain100l" in shown and "1 of 100" in shown and "idt, crop 0" in shown


def test_an_official_nafnet_is_scored_as_its_authors_do():
    """NAFNetLocal: the same weights, windows of 384 pixels; other pictures than those larger stay the same."""
    network = networks.build("nafnet", width=4, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1))
    for block in network.core.middle_blks:
        nn.init.constant_(block.beta, 1.0)
    large, small = torch.rand(1, 3, 32, 500), torch.rand(1, 3, 32, 380)
    before = [network(lq) for lq in (large, small)]
    after = [evaluate.as_published(network)(lq) for lq in (large, small)]
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
