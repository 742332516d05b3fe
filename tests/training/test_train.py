"""Training end to end on the embedded photographs, with the smallest recipe."""

import json
import math
import os
import signal
import threading

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mclir_nb.data import datasets
from mclir_nb.training import checkpoint, recipes, records, train

FILES = ("model", "ema", "history", "checkpoint")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny dehazing run with SPN."""
    folder = tmp_path_factory.mktemp("runs") / "spn"
    return train.train(recipes.get("tiny"), folder, quiet=True)


def _short(**changes):
    return recipes.get("tiny", **{"steps": 6, "save_every": 2, "log_every": 2, "val_every": 4, **changes})


def _same(a, b, names=FILES):
    for name in names:
        left, right = load_file(a / f"{name}.safetensors"), load_file(b / f"{name}.safetensors")
        assert left.keys() == right.keys()
        for key in left:
            assert torch.equal(left[key], right[key]), f"{name}: {key}"


def test_a_run_leaves_everything_a_reader_needs(finished):
    for name in ("recipe.json", "provenance.json", "log.csv", "scores.csv", *(f"{n}.safetensors" for n in FILES)):
        assert (finished.dir / name).is_file(), name
    assert finished.recipe == recipes.get("tiny")
    assert list(finished.scores.columns) == [
        "image",
        "psnr_input",
        "psnr_restored",
        "ssim_input",
        "ssim_restored",
        "psnr_ema",
        "ssim_ema",
    ]
    assert len(finished.scores) == len(datasets.embedded("test"))
    assert finished.provenance["features"] and finished.provenance["torch"] == torch.__version__


def test_training_restores(finished):
    gain = (finished.scores.psnr_restored - finished.scores.psnr_input).mean()
    assert gain > 0.5, f"the trained network gains {gain:.2f} dB over its own input"


def test_the_log_holds_the_numbers_that_were_optimised(finished):
    log, weight = finished.log, finished.recipe.weight
    assert (log.total - (log.l_rec - weight * log.l_neg)).abs().max() < 1e-6
    assert (log.r - weight * log.l_neg / log.l_rec).abs().max() < 1e-6
    assert log.step.tolist() == list(range(10, 301, 10)) and log.val_psnr.notna().sum() == 3


def test_the_networks_come_back_from_the_folder(finished):
    lq = torch.rand(1, 3, 32, 40)
    model, ema, histories = finished.model(), finished.ema_model(), finished.history_models()
    assert len(histories) == 4 and not model.training
    with torch.no_grad():
        outputs = [net(lq) for net in (model, ema, *histories)]
    assert all(out.shape == lq.shape for out in outputs)
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_the_same_recipe_gives_the_same_run(tmp_path):
    for name in "ab":
        train.train(_short(), tmp_path / name, quiet=True)
    _same(tmp_path / "a", tmp_path / "b")
    a, b = (pd.read_csv(tmp_path / n / "log.csv").drop(columns="seconds") for n in "ab")
    pd.testing.assert_frame_equal(a, b)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_a_killed_run_continues_to_the_same_bits(tmp_path, monkeypatch, stop):
    train.train(_short(), tmp_path / "straight", quiet=True)
    real = train.Trainer.advance

    def dies(self, *batch):
        if self.step == stop:
            raise Stop
        real(self, *batch)

    monkeypatch.setattr(train.Trainer, "advance", dies)
    with pytest.raises(Stop):
        train.train(_short(), tmp_path / "killed", quiet=True)
    monkeypatch.setattr(train.Trainer, "advance", real)
    train.train(_short(), tmp_path / "killed", quiet=True)
    _same(tmp_path / "straight", tmp_path / "killed")
    straight, killed = (pd.read_csv(tmp_path / n / "log.csv").drop(columns="seconds") for n in ("straight", "killed"))
    pd.testing.assert_frame_equal(straight, killed)


def test_an_interrupt_saves_between_steps_and_says_so(tmp_path, monkeypatch):
    real = train.Trainer.advance

    def interrupted(self, *batch):
        real(self, *batch)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(train.Trainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3 and saved"):
        train.train(_short(), tmp_path / "run", quiet=True)
    assert checkpoint.read(tmp_path / "run" / "checkpoint.safetensors")["run"]["step"] == 3
    monkeypatch.setattr(train.Trainer, "advance", real)
    train.train(_short(), tmp_path / "run", quiet=True)
    train.train(_short(), tmp_path / "straight", quiet=True)
    _same(tmp_path / "straight", tmp_path / "run")


def test_arms_of_one_seed_share_weights_and_data():
    plain, spn = (train.Trainer(_short(objective=o), torch.device("cpu")) for o in ("plain", "spn"))
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), spn.model.parameters(), strict=True))
    assert torch.equal(next(plain.patches.batches(1, 1))[1], next(spn.patches.batches(1, 1))[1])
    other = train.Trainer(_short(seed=1), torch.device("cpu"))
    assert not all(torch.equal(a, b) for a, b in zip(other.model.parameters(), spn.model.parameters(), strict=True))


def test_the_cosine_falls_once_or_rises_again():
    once = recipes.get("tiny", steps=100)
    assert once.learning_rate_at(1) == once.learning_rate
    assert once.learning_rate_at(100) < 1e-3 * once.learning_rate
    waves = recipes.get("tiny", steps=500, cosine_steps=100)
    rates = [waves.learning_rate_at(step) for step in (1, 101, 201, 301, 401)]
    assert rates[0] == rates[2] == rates[4] and math.isclose(rates[1], waves.learning_rate_min) and rates[1] == rates[3]


def test_too_large_a_lambda_is_stopped_with_an_explanation(tmp_path):
    with pytest.raises(train.Diverged, match="r = .* the authors keep it between 0.01 and 0.1"):
        train.train(_short(lambda_neg=1e3, steps=40), tmp_path / "run", quiet=True)


def test_a_loss_that_is_not_finite_names_step_and_pictures():
    trainer = train.Trainer(_short(), torch.device("cpu"))
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(train.Diverged, match="step 1: .*cat-1"):
        trainer.advance(torch.full((1, 3, 32, 32), math.nan), torch.rand(1, 3, 32, 32), ["cat-1"])  # gt is NaN
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_a_folder_of_another_recipe_is_left_alone(tmp_path, finished):
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        train.train(recipes.get("tiny", seed=1), finished.dir, quiet=True)
    with pytest.raises(ValueError, match="already holds a run"):
        train.train(recipes.get("tiny"), finished.dir, resume=False, quiet=True)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot create the run folder"):
        train.train(_short(), tmp_path / "file" / "run", quiet=True)


def test_an_unfinished_run_says_how_to_finish(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(recipes.get("tiny").model_dump()))
    with pytest.raises(ValueError, match="the run is not finished"):
        records.Run(tmp_path).model()
    with pytest.raises(ValueError, match="not a run folder"):
        _ = records.Run(tmp_path / "nowhere").recipe


@pytest.mark.parametrize(
    ("task", "network"),
    [("dehaze", "dehazeformer-t"), ("derain", "idt"), ("sr", "swinir-light"), ("denoise", "promptir")],
)
def test_every_family_takes_a_step_with_spn(task, network):
    trainer = train.Trainer(recipes.get("tiny", task, network=network, batch_size=1), torch.device("cpu"))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.advance(*next(trainer.patches.batches(1, 1)))
    assert sum(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)) > 5
