import pytest

from mclir_nb.__main__ import main
from mclir_nb.training import recipes, records


def test_train_from_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["train", "--task", "sr", "--recipe", "tiny", "--seed", "3", "--out", out]
    extra = ["--steps", "4", "--scale", "2", "--patch-size", "32", "--history-every", "2", "1", "--device", "cpu"]
    assert main([*arguments, *extra]) == 0
    recipe = records.Run(tmp_path / "run").recipe
    wanted = dict(seed=3, steps=4, scale=2, patch_size=32, history_every=(2, 1))
    assert recipe == recipes.get("tiny", "sr", **wanted)
    assert "psnr_restored" in capsys.readouterr().out


def test_a_wrong_value_is_one_sentence_and_status_1(tmp_path, capsys):
    assert main(["train", "--task", "dehase", "--out", str(tmp_path / "run")]) == 1
    assert "did you mean 'dehaze'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_unknown_options_stop(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--out", "x", "--epochs", "3"])
    assert "--epochs" in capsys.readouterr().err
