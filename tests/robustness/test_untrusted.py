"""Files from strangers are data: through no door do they run code, exhaust memory, or reach outside their folder."""

import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from mclir_nb import __main__, files, networks, notebook, root
from mclir_nb.data import checks, datasets, tasks
from mclir_nb.experiments import evidence
from mclir_nb.method import features
from mclir_nb.training import checkpoint, frames, recipes, records, train

RECIPE = recipes.get("tiny", steps=2, patch_size=32)


class Payload:
    """Unpickling this would create the folder `mark`."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return exec, (f"import pathlib; pathlib.Path({str(self.mark)!r}).mkdir()",)


def pickled(path, payload):
    path.write_bytes(pickle.dumps(payload))


def saved(path, payload):
    torch.save({"params": payload}, path)


def saved_as_before(path, payload):
    torch.save({"params": payload}, path, _use_new_zipfile_serialization=False)


@pytest.fixture(params=[pickled, saved, saved_as_before])
def hostile(request, tmp_path):
    """A function that writes a malicious pickle; afterwards nothing of it may have run, though it could have."""
    write, mark = request.param, tmp_path / "mark"
    yield lambda path: write(path, Payload(mark))
    assert not mark.exists(), "code of the file has run"
    write(tmp_path / "real.pth", Payload(mark))
    if write is pickled:
        pickle.loads((tmp_path / "real.pth").read_bytes())
    else:
        torch.load(tmp_path / "real.pth", weights_only=False)
    assert mark.exists()  # an unguarded reader runs it


def test_every_file_of_a_run_folder(hostile, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    files.write_json(folder / "recipe.json", RECIPE.model_dump())
    run = records.Run(folder)
    hostile(folder / checkpoint.FILE)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        train.train(RECIPE, folder, quiet=True)  # it would go on from there
    readers = {
        "model.safetensors": run.model,
        "ema.safetensors": run.ema_model,
        "history.safetensors": run.history_models,
        frames.FILE: lambda: frames.read(folder),
        "log.csv": lambda: run.log,
        "scores.csv": lambda: run.scores,
        "provenance.json": lambda: run.provenance,
        "recipe.json": lambda: run.recipe,
        checkpoint.FILE: lambda: checkpoint.read(folder / checkpoint.FILE),
    }
    for name, read in readers.items():
        hostile(folder / name)
        with pytest.raises(ValueError, match=re.escape(name)):
            read()


def edsr():
    return networks.build("edsr", 2, **networks.options("edsr", "tiny"))


def test_code_cannot_be_smuggled_in_numpy_objects_or_the_first_kind_of_pickle(tmp_path):
    payload = Payload(tmp_path / "mark")
    scores = np.array([payload], dtype=object)
    torch.save({"model": edsr().core.state_dict(), "psnrs": scores}, tmp_path / "numpy.pth")
    (tmp_path / "first.pth").write_bytes(pickle.dumps(payload, protocol=0))
    for name in ("numpy.pth", "first.pth"):
        with pytest.raises(ValueError, match="exec"):
            networks.load_checkpoint(edsr(), tmp_path / name)
    assert not (tmp_path / "mark").exists()


def test_weights_of_networks_and_features_and_the_command(hostile, tmp_path, capsys):
    for name in ("x.pth", "x.safetensors"):
        hostile(tmp_path / name)
        for load in (
            lambda path: networks.load_checkpoint(edsr(), path),
            lambda path: features.build("vgg16", path),
            lambda path: features.build("lite0", path),
        ):
            with pytest.raises(ValueError, match=name):
                load(tmp_path / name)
        arguments = ["restore", str(tmp_path / "p.png"), "--network", "edsr", "--scale", "2", "--checkpoint"]
        assert __main__.main([*arguments, str(tmp_path / name)]) == 1
        assert name in capsys.readouterr().err


def test_records_and_data_sets(hostile, tmp_path):
    (tmp_path / "decision.json").write_text("{}")
    for table in evidence.FILES:
        hostile(tmp_path / f"{table}.csv")
    with pytest.raises(ValueError, match="runs.csv"):
        evidence.read_record("C1", tmp_path)
    for split in ("train", "val", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number in range(4):
            hostile(tmp_path / "data" / split / f"{number}.png")
    task = tasks.get("denoise")
    with pytest.raises(ValueError, match=r"\.png cannot be read as a picture"):
        checks.check_trained(datasets.open_set("folder", task, "train", tmp_path / "data"), task, 32)


def test_an_archive_that_unpacks_to_more_than_it_has_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"params": {"w": torch.zeros(10)}}, tmp_path / "true.pth")
    with zipfile.ZipFile(tmp_path / "true.pth") as true, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in true.namelist():
            bomb.writestr(entry, true.read(entry))
        bomb.writestr("true/data/1", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    for load in (lambda: networks.load_checkpoint(edsr(), path), lambda: features.build("vgg16", path)):
        with pytest.raises(ValueError, match="bomb.pth is refused: it has .* bytes and would unpack to 5"):
            load()


def test_a_record_stays_in_its_folder():
    for name in ("../C1", "/etc", "C1/../../x", "..", "", "a/b"):
        with pytest.raises(ValueError, match="is no name of a record"):
            evidence.read_record(name)


def test_tensors_named_like_paths_write_nothing(tmp_path):
    files.write_tensors(tmp_path / "history.safetensors", {"../../../x.w": torch.zeros(1)})
    files.write_json(tmp_path / "recipe.json", RECIPE.model_dump())
    with pytest.raises(ValueError, match="history.safetensors does not fit"):
        records.Run(tmp_path).history_models()
    assert sorted(os.listdir(tmp_path)) == ["history.safetensors", "recipe.json"]


NAME = '<img src=x onerror="alert(1)">'


def test_names_of_files_and_records_are_escaped_in_notebooks(monkeypatch):
    shown = []
    monkeypatch.setattr(notebook, "display", lambda thing, **_: shown.append(thing))
    import matplotlib.figure

    notebook.show_figure(matplotlib.figure.Figure(), NAME)
    assert "<img" not in shown[-1].data and "&lt;img" in shown[-1].data
    assert "<img" not in files.as_markdown(records.pd.DataFrame({"image": [NAME]}))


def test_nothing_is_fetched_but_over_https():
    assert all(url.startswith("https://") for url, _ in features.DOWNLOADS.values())
    network = re.compile(r"import (urllib|http|socket|ftplib|requests)|from (urllib|http|socket)")
    asking = [file.name for file in root().glob("mclir_nb/**/*.py") if network.search(file.read_text())]
    assert not asking


def test_a_json_file_as_large_as_memory_is_not_read(tmp_path):
    with open(tmp_path / "recipe.json", "wb") as file:
        file.truncate(2**40)  # a hole: no disk is needed
    with pytest.raises(ValueError, match="it is larger than 1048576 bytes"):
        records.read_recipe(tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="it holds a list"):
        records.read_recipe(tmp_path)
