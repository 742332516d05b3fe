"""A run's log as TensorBoard scalars: the same numbers, no points of an earlier life."""

import sys

import pytest
from trainers import derain

from mclir_nb.training import log, train


@pytest.mark.filterwarnings("default")  # of the package and what it imports
def test_the_scalars_are_those_of_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'mclir-nb[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train.train(derain(steps=4, val_every=2), tmp_path, quiet=True, tensorboard=True)
    earlier = log.Scalars(tmp_path, 4, True)  # as if the run went on at step 3 afterwards
    earlier.add({"step": 9, "l_rec": 1.0})
    earlier.close()
    again = log.Scalars(tmp_path, 5, True)
    again.add({"step": 6, "l_rec": 2.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("l_rec")]
    assert points[:4] == [(row.step, pytest.approx(row.l_rec)) for row in run.log.itertuples()]
    assert [step for step, _ in points] == [1, 2, 3, 4, 6]  # 9 was of an earlier life
    assert {"image_ratio", "dose", "dose_cosine", "progress_0", "gap_1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("val_psnr")] == [2, 4]  # empty cells are left out


def test_without_the_package_the_way_on_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'mclir-nb\[tensorboard\]'"):
        train.train(derain(), tmp_path / "run", quiet=True, tensorboard=True)
    assert not (tmp_path / "run").exists()
