"""The report on a download, and the check before a run: what would stop or spoil it is named, and nothing else."""

import shlex

import pytest
from pictures import noise, write
from PIL import Image

from mclir_nb.__main__ import main
from mclir_nb.data import checks, datasets, tasks

DERAIN = tasks.get("derain")


@pytest.fixture
def rain(tmp_path):
    """A sound Rain100L of the published size, of 12x12 pixels."""
    names = [(f"RainTrainL/rain-{i}", f"RainTrainL/norain-{i}") for i in range(1, 201)]
    names += [(f"Rain100L/rainy/rain-{i:03}", f"Rain100L/norain-{i:03}") for i in range(1, 101)]
    for seed, name in enumerate(name for pair in names for name in pair):
        write(tmp_path / f"{name}.png", (12, 12), seed)
    return tmp_path


@pytest.fixture
def album(tmp_path):
    """Sound pairs of one's own, each split in a folder of its own."""
    names = [f"{split}/{side}/{i}" for split in datasets.SPLITS for side in ("lq", "gt") for i in range(3)]
    for seed, name in enumerate(names):
        write(tmp_path / "album" / f"{name}.png", (32, 40), seed)
    return tmp_path / "album"


def checked(root, name="folder", task="derain", patch_size=8):
    return checks.check_data(name, root, task, patch_size, quiet=True)


def found(report):
    return {kind: len(lines) for kind, lines in report.problems.items() if lines}


def test_a_sound_set_is_in_order(rain, album):
    report = checked(rain, "rain100l")
    assert report.ok and not found(report), report
    assert f"train: 200 pairs in {rain / 'RainTrainL'}, published 200" in str(report)
    assert "BSDS500" in str(report) and "Not Rain200L" in str(report)
    assert checked(album).ok
    assert [len(images) for images in datasets.open_splits("folder", DERAIN, album).values()] == [3, 3, 3]


def test_every_defect_of_a_download_is_named(rain):
    train, test = rain / "RainTrainL", rain / "Rain100L"
    (train / "norain-1.png").unlink()
    (train / "rain-2.png").write_bytes((train / "rain-2.png").read_bytes()[:100])
    (train / "norain-3.png").write_text("404")
    write(train / "rain-4.png", (12, 13), 4)
    (train / "rain-5.png").write_bytes((train / "norain-5.png").read_bytes())
    (train / "rain-6.png").write_bytes((train / "rain-7.png").read_bytes())
    write(train / "norain-8.jpg", (12, 12), 9999)  # two gt for one lq
    (train / "norain-9.png").write_bytes((test / "norain-001.png").read_bytes())
    problems = checked(rain, "rain100l").problems
    assert problems["incomplete"] == [f"train: 199 of 200 pairs in {train}"]
    assert problems["unpaired"] == ["RainTrainL/rain-1.png"]
    assert [("rain-2" in line, "norain-3" in line) for line in problems["unreadable"]] == [(True, False), (False, True)]
    assert len(problems["differently_sized"]) == 1 and "rain-4.png is 13x12" in problems["differently_sized"][0]
    assert len(problems["lq_equals_gt"]) == 1 and "rain-5.png" in problems["lq_equals_gt"][0]
    assert problems["duplicate"] == ["RainTrainL/rain-7.png is RainTrainL/rain-6.png"]
    assert len(problems["taken"]) == 1 and "norain-8." in problems["taken"][0]
    assert problems["shared"] == ["Rain100L/norain-001.png (test) is RainTrainL/norain-9.png (train)"]


def test_small_pictures_are_listed_and_wrong_only_if_all_of_them_are(album):
    write(album / "train/gt/0.png", (20, 40))
    write(album / "train/lq/0.png", (20, 40), 1)
    report = checked(album, patch_size=32)
    assert found(report) == {"too_small": 1} and report.ok
    assert not checked(album, patch_size=48).ok
    train = datasets.open_set("folder", DERAIN, "train", album)
    with pytest.raises(ValueError, match="patch of 48; use patch_size 32"):
        checks.check_trained(train, DERAIN, 48)


def test_a_missing_test_set_is_reported_with_its_tree(tmp_path):
    for i in range(3):
        write(tmp_path / f"ITS/hazy/{i}_1.png", seed=i)
        write(tmp_path / f"ITS/clear/{i}.png", (22, 26), 10 + i)
    report = checked(tmp_path, "reside-its", None)
    assert "SOTS/indoor/hazy/ID_*" in report.problems["missing"][0]
    assert set(found(report)) == {"missing", "incomplete"}  # the larger clear pictures are centre-cropped


def test_nothing_there(tmp_path):
    for name in ("gopro", "embedded"):
        with pytest.raises(ValueError, match=name):
            checked(tmp_path, name, None)


def a_picture_too_small_for_scores(root):
    for seed, side in enumerate(("lq", "gt")):
        write(root / "test" / side / "2.png", (10, 10), 100 + seed)


def a_truncated_test_picture(root):
    file = root / "test/lq/2.png"
    file.write_bytes(file.read_bytes()[:200])


SPOILT = [
    (a_picture_too_small_for_scores, "unscorable", "test/gt/2.png"),
    (a_truncated_test_picture, "unreadable", "test/lq/2.png"),
    (lambda root: write(root / "screenshot.png"), "unread", "screenshot.png"),
    (lambda root: write(root / "train/gt/more/4.png"), "unread", "train/gt/more/4.png"),
    (lambda root: Image.fromarray(noise(32, 40)).save(root / "train/gt/9.gif"), "unread", "train/gt/9.gif"),
]


@pytest.mark.parametrize(("spoil", "kind", "file"), SPOILT)
def test_what_would_stop_or_spoil_a_run_is_named(album, spoil, kind, file):
    spoil(album)
    report = checked(album)
    assert found(report) == {kind: 1} and file in report.problems[kind][0] and not report.ok


def test_a_folder_that_training_refuses_is_not_in_order(tmp_path):
    write(tmp_path / "one/1.png")
    for name, task, word in (("one", "denoise", "too few"), ("some", "dehaze", "depth")):
        for i in range(12):
            write(tmp_path / "some" / f"{i}.png", seed=i)
        report = checked(tmp_path / name, task=task)
        assert found(report) == {"refused": 1} and word in report.problems["refused"][0]


def test_a_folder_called_test_is_not_in_order_as_one_to_train_on(album):
    report = checked(album / "test")
    assert found(report) == {"refused": 1} and "3 pictures" in report.problems["refused"][0]
    a_truncated_test_picture(album)
    assert found(checked(album / "test")) == {"refused": 1, "unreadable": 2}  # as train, and as test


def test_before_a_run_every_picture_to_be_scored_is_read(album):
    test = datasets.open_set("folder", DERAIN, "test", album)
    checks.check_scored(test, DERAIN)
    for spoil in (a_picture_too_small_for_scores, a_truncated_test_picture):
        spoil(album)
        with pytest.raises(ValueError, match="2.png"):
            checks.check_scored(test, DERAIN)
    a_picture_too_small_for_scores(album)
    checks.check_scored(test, DERAIN, smallest=1)


def test_a_border_is_left_out_on_both_sides(tmp_path):
    task = tasks.get("sr", 4)
    for side in (16, 20):
        write(tmp_path / str(side) / "test/1.png", (side, 40))
    checks.check_scored(datasets.open_set("folder", task, "test", tmp_path / "20"), task)
    with pytest.raises(ValueError, match="border of 4"):
        checks.check_scored(datasets.open_set("folder", task, "test", tmp_path / "16"), task)


def test_a_repaired_picture_is_read_again(tmp_path):
    gt, lq = (write(tmp_path / f"test/{side}/1.png", (32, 40)) for side in ("gt", "lq"))
    test = datasets.open_set("folder", DERAIN, "test", tmp_path)
    with pytest.raises(ValueError, match="same picture"):
        checks.check_scored(test, DERAIN)
    write(lq, (32, 40), 1)
    checks.check_scored(test, DERAIN)


def test_clean_photographs_of_ones_own_are_in_order(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i}.png", (32, 40), i)
    assert checked(tmp_path, task=None).ok


def test_another_exif_orientation_on_one_side_is_named_and_trains(album):
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(noise(40, 40)).save(album / "train/lq/1.png", exif=tag)
    Image.fromarray(noise(40, 40) // 2).save(album / "train/gt/1.png")
    report = checked(album)
    assert found(report) == {"exif": 1} and "train/lq/1.png" in report.problems["exif"][0]
    checks.check_trained(datasets.open_set("folder", DERAIN, "train", album), DERAIN, 32)


def test_many_pictures_are_read_by_several_processes_with_one_result(album, monkeypatch):
    a_truncated_test_picture(album)
    alone = str(checked(album))
    monkeypatch.setattr(checks, "FEW", 0)
    monkeypatch.setattr(checks, "worker_count", lambda: 2)
    assert str(checked(album)) == alone


def test_the_command_that_a_refusal_names_finds_what_was_refused(tmp_path, capsys):
    album = tmp_path / "my photos"
    for i in range(3):
        write(album / f"test/gt/{i}.png", (32, 40), i)
        write(album / f"test/lq/{i}.png", (16, 20), 10 + i)
    (album / "test/lq/1.png").rename(album / "test/lq/0.jpg")
    with pytest.raises(ValueError, match=r"1 of 3 files of folder .* no partner of the same name: gt/1.png") as caught:
        datasets.open_set("folder", tasks.get("sr", 2), "test", album)
    command = shlex.split(str(caught.value).split("`")[1])
    assert command[:4] == ["python", "-m", "mclir_nb", "check-data"] and main(command[3:]) == 1
    shown = capsys.readouterr().out
    assert "test/gt/1.png" in shown and "test/lq/0.png" in shown and "differently" not in shown


def test_a_name_that_is_there_twice_is_refused_as_that(tmp_path):
    for name in ("1.png", "1.jpg", "2.png"):
        write(tmp_path / name)
    with pytest.raises(ValueError, match=r"1 of 3 files .* have the same name as another file: 1.png; keep one"):
        datasets.open_set("folder", tasks.get("denoise"), "test", tmp_path)


def test_from_the_command_line(rain, capsys):
    assert main(["check-data", "rain100l", str(rain), "--patch-size", "8"]) == 0
    assert "Everything is in order." in capsys.readouterr().out
    (rain / "RainTrainL/rain-1.png").unlink()
    assert main(["check-data", "rain100l", str(rain)]) == 1
    shown = capsys.readouterr()
    assert "RainTrainL/norain-1.png" in shown.out and "rain100l" in shown.err
