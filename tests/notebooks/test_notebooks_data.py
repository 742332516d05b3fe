"""The notebooks on a data set of one's own disk: trained on, scored on and checked by its name and its folder."""

from pathlib import Path

import numpy as np
import pytest
import run_notebooks
from nbclient.exceptions import CellExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from mclir_nb import root
from mclir_nb.data import images
from mclir_nb.training import recipes, records, train


@pytest.fixture
def reside(tmp_path) -> Path:
    """RESIDE as unpacked, small: 10 scenes of ITS with 2 hazes each, 2 of SOTS indoor, clear files larger."""
    chance = np.random.default_rng(0)
    for top, scenes in (("ITS", range(1, 11)), ("SOTS/indoor", (1400, 1401))):
        for side in ("hazy", "clear"):
            (tmp_path / "RESIDE" / top / side).mkdir(parents=True)
        for scene in scenes:
            clear = chance.integers(0, 256, (88, 96, 3), dtype=np.uint8)
            write(tmp_path / f"RESIDE/{top}/clear/{scene}.png", clear)
            for haze in (1, 2):
                hazy = clear[4:-4, 4:-4] // (1 + haze) + 80 * haze
                write(tmp_path / f"RESIDE/{top}/hazy/{scene}_{haze}.png", hazy.astype(np.uint8))
    return tmp_path / "RESIDE"


def write(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(images.encode_png(images.Picture(pixels)))


def executed(name: str, runs: Path, **parameters) -> str:
    """What a notebook printed, run as papermill runs it."""
    source = load_notebook_node(str(root() / "notebooks" / f"{name}.ipynb"))
    given = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
    done = run_notebooks.execute(given, MCLIR_NB_RUNS=str(runs))
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_a_network_is_trained_and_scored_on_a_data_set_by_name(reside, tmp_path):
    own = dict(data_root=str(reside), seed=1, device="cpu")
    out = str(tmp_path / "run")
    shown = executed("03_train", tmp_path, recipe="tiny", dataset="reside-its", steps=4, out_dir=out, **own)
    assert "20 of 13,990" in shown and "4/4" in shown and "measured step here" in shown
    run = records.Run(Path(out))
    assert run.recipe.dataset == "reside-its" and run.recipe.steps == 4
    assert list(run.scores.image) == ["1400_1", "1400_2", "1401_1", "1401_2"]  # SOTS indoor
    shown = executed("03_train", tmp_path, recipe="tiny", dataset="reside-its", steps=4, out_dir=out, **own)
    assert "finished already" in shown and "measured step here" not in shown  # no second trainer for a finished run
    shown = executed("06_evaluate", tmp_path, checkpoint=out, device="cpu")  # the data are known to the run
    assert "scored as dehaze on reside-its" in shown and "4 of 500" in shown
    assert f"{run.scores.psnr_restored[0]:.3f}" in shown  # the same score as after training
    with pytest.raises(CellExecutionError, match="task derain.*dehaze"):
        executed("06_evaluate", tmp_path, checkpoint=out, task="derain", device="cpu")


def test_a_run_of_super_resolution_is_scored_at_its_scale(tmp_path):
    recipe = recipes.get("tiny", "sr", scale=2, steps=2)
    train.train(recipe, tmp_path / "run", quiet=True)
    shown = executed("06_evaluate", tmp_path, checkpoint=str(tmp_path / "run"), device="cpu")
    assert "edsr, scale 2" in shown and "scored as sr on embedded" in shown


@pytest.mark.slow
def test_a_data_set_is_checked_in_the_notebook(reside, tmp_path):
    shown = executed("02_data", tmp_path, dataset="reside-its", data_root=str(reside))
    assert "train: 20 pairs in" in shown and "published 13,990" in shown and "The first pairs of reside-its" in shown
    (reside / "ITS/clear/3.png").unlink()
    shown = executed("02_data", tmp_path, dataset="reside-its", data_root=str(reside))
    assert "2 unpaired" in shown and "ITS/hazy/3_1.png" in shown and "refused: 2 of" in shown
