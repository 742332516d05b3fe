"""Run folders of an older version: what was trained can be used, and a state that cannot go on says so."""

import shutil
from pathlib import Path

import pytest
import torch

from mclir_nb.training import checkpoint, frames, records, train

OLD = Path(__file__).parents[1] / "old_runs"


def test_networks_scores_and_moments_are_read():
    run = records.Run(OLD / "finished")
    kept = frames.read(run.dir)
    assert run.is_finished and len(run.log) == kept.steps[-1] == run.recipe.steps == 2
    with torch.inference_mode():
        model, ema, history = (
            network(kept.lq[None])[0] for network in (run.model(), run.ema_model(), *run.history_models())
        )
    assert torch.allclose(model, kept.restored[-1], atol=1e-3)
    assert torch.allclose(history, kept.negatives[-1, 0], atol=1e-3) and not torch.equal(ema, model)
    assert run.scores.psnr_restored.notna().all()


def test_a_finished_run_is_not_trained_again(tmp_path):
    folder = shutil.copytree(OLD / "finished", tmp_path / "run")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    train.train(records.read_recipe(folder), folder, quiet=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_state_of_the_older_form_is_refused_and_stays(tmp_path):
    folder = shutil.copytree(OLD / "unfinished", tmp_path / "run")
    before = (folder / checkpoint.FILE).read_bytes()
    with pytest.raises(ValueError, match=f"{checkpoint.FILE} .*another version.*out_dir"):
        train.train(records.read_recipe(folder), folder, quiet=True)
    assert (folder / checkpoint.FILE).read_bytes() == before
