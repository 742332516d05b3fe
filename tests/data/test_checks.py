"""The report on a download: every kind of defect is found and named, and a sound set is called sound."""

import numpy as np
import pytest

from mclir_nb.__main__ import main
from mclir_nb.data import checks, images


def picture(path, seed, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(images.png(images.Picture(pixels)))
    return path


@pytest.fixture
def rain(tmp_path):
    """A sound Rain100L of the published size, of 8x8 pixels."""
    for i in range(1, 201):
        picture(tmp_path / f"RainTrainL/rain-{i}.png", i)
        picture(tmp_path / f"RainTrainL/norain-{i}.png", 1000 + i)
    for i in range(1, 101):
        picture(tmp_path / f"Rain100L/rainy/rain-{i:03}.png", 2000 + i)
        picture(tmp_path / f"Rain100L/norain-{i:03}.png", 3000 + i)
    return tmp_path


def checked(root, name="rain100l", **options):
    return checks.check_data(name, root, patch_size=options.pop("patch_size", 8), quiet=True, **options)


def test_a_sound_set(rain):
    report = checked(rain)
    assert report.ok and not any(report.problems.values()), report
    text = str(report)
    assert f"train: 200 pairs in {rain / 'RainTrainL'}, published 200" in text
    assert "test: 100 pairs" in text and "Everything is in order." in text
    assert "known leak: clean images of Rain100L/H and Rain200L/H are photographs of BSDS500" in text
    assert "10.png sorts before 2.png" in text and "Not Rain200L" in text


def test_every_defect_is_named(rain):
    train, test = rain / "RainTrainL", rain / "Rain100L"
    (train / "norain-1.png").unlink()  # half a download
    (train / "rain-2.png").write_bytes((train / "rain-2.png").read_bytes()[:100])
    (train / "norain-3.png").write_text("404")
    picture(train / "rain-4.png", 4, size=(8, 9))
    (train / "rain-5.png").write_bytes((train / "norain-5.png").read_bytes())
    (train / "rain-6.png").write_bytes((train / "rain-7.png").read_bytes())
    picture(train / "norain-8.jpg", 9999)  # two gt for one lq
    (train / "norain-9.png").write_bytes((test / "norain-001.png").read_bytes())
    report = checked(rain)
    assert report.incomplete == [f"train: 199 of 200 pairs in {train}"]
    assert report.unpaired == ["RainTrainL/rain-1.png"]
    assert [("rain-2" in line, "norain-3" in line) for line in report.unreadable] == [(True, False), (False, True)]
    assert len(report.differently_sized) == 1 and "rain-4.png is 9x8" in report.differently_sized[0]
    assert report.lq_equals_gt == ["RainTrainL/rain-5.png"]
    assert report.duplicate == ["RainTrainL/rain-7.png is RainTrainL/rain-6.png"]
    assert report.taken in (["RainTrainL/norain-8.jpg"], ["RainTrainL/norain-8.png"])
    assert report.shared == ["Rain100L/norain-001.png (test) is RainTrainL/norain-9.png (train)"]
    assert not report.ok
    for kind in ("unpaired", "unreadable", "shared"):
        assert checks.REPAIR[kind] in str(report)


def test_several_processes_find_the_same(rain):
    (rain / "RainTrainL/rain-150.png").write_bytes(b"")
    assert str(checked(rain, workers=2)) == str(checked(rain, workers=0))


def test_small_pictures_are_listed_but_not_wrong(rain):
    report = checked(rain, patch_size=16)
    assert len(report.too_small) == 200 and report.ok
    assert "and 180 more" in str(report)


def test_a_missing_test_set_is_reported_with_its_tree(tmp_path):
    for i in range(3):
        picture(tmp_path / f"ITS/hazy/{i}_1.png", i)
        picture(tmp_path / f"ITS/clear/{i}.png", 10 + i, size=(10, 12))
    report = checked(tmp_path, "reside-its")
    assert len(report.missing) == 1 and "SOTS/indoor/hazy/ID_*" in report.missing[0]
    assert report.incomplete == [f"train: 3 of 13,990 pairs in {tmp_path / 'ITS'}"]
    assert not report.differently_sized  # centre-cropped


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="nothing of gopro found below .*\n.*Expected"):
        checked(tmp_path, "gopro")
    with pytest.raises(ValueError, match="does not exist"):
        checked(tmp_path / "no", "gopro")
    with pytest.raises(ValueError, match="need no check"):
        checked(tmp_path, "embedded")


def test_your_own_clean_pictures_and_a_repeated_one(tmp_path):
    for i in range(12):
        picture(tmp_path / f"{i}.png", i % 11)
    report = checked(tmp_path, "folder")
    assert report.duplicate == ["11.png is 0.png"] and report.counts == [f"train: 12 pictures in {tmp_path}"]


def test_from_the_command_line(rain, capsys):
    assert main(["check-data", "rain100l", str(rain), "--patch-size", "8"]) == 0
    assert "Everything is in order." in capsys.readouterr().out
    (rain / "RainTrainL/rain-1.png").unlink()
    assert main(["check-data", "rain100l", str(rain)]) == 1
    shown = capsys.readouterr()
    assert "RainTrainL/norain-1.png" in shown.out and shown.err.startswith("error: rain100l is not complete")
