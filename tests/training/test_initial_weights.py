"""Where a run starts: from weights of a file or another run, or from the whole state of a finished run."""

import hashlib
import shutil

import pictures
import pytest
import torch
from killing import same_runs, work
from safetensors.torch import load_file
from trainers import Stopped, before_step, same, stop, trainer, untrained_run

from mclir_nb.__main__ import main
from mclir_nb.training import build, checkpoint, recipes, records, train

SMALL = dict(network="nafnet", patch_size=32, batch_size=2, log_every=2, val_every=4, save_every=2)
SPN = dict(history_every=(3, 2))


def recipe(**changes):
    histories = {} if "objective" in changes else SPN
    return recipes.get("tiny", "derain", **SMALL | histories | dict(steps=4, cosine_steps=3) | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    work(recipe(), folder)
    return folder


def start(place, **changes) -> train.Trainer:
    return trainer(recipe(initial_weights=str(place), **changes))


def test_a_run_starts_from_the_raw_weights_of_a_run_or_from_its_ema(run):
    raw, averaged = records.Run(run).model(), records.Run(run).ema_model()
    assert not same(raw, averaged)
    assert same(start(run).model, raw) and same(start(run / "ema.safetensors").model, averaged)


def test_histories_ema_and_all_arms_start_as_exact_copies(run):
    spn, plain = start(run), start(run, objective="plain")
    for network in (plain.model, spn.ema, *spn.history.models):
        assert same(network, spn.model)
    carried = recipe(history_start=0.1).replace(initial_weights=str(run))
    mixed = trainer(carried)  # as the paper recipe carries it
    assert same(mixed.history.models[0], spn.model)
    assert torch.equal(plain.patches.batch(1)[1], spn.patches.batch(1)[1])


def test_a_published_file_is_taken_by_entry(run, tmp_path):
    raw = {name.removeprefix("core."): tensor for name, tensor in load_file(run / "model.safetensors").items()}
    torch.save({"params": raw, "params_ema": {name: 0.5 * raw[name] for name in raw}}, tmp_path / "net.pth")
    for entry, factor in (("params", 1), (None, 0.5)):
        begun = start(tmp_path / "net.pth", initial_entry=entry)
        assert torch.equal(begun.model.core.intro.weight, factor * raw["intro.weight"])


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (dict(network_size="demo"), "initial_weights.*another shape.*network_size 'demo'"),
        (dict(network="ffanet"), "initial_weights.*missing.*ffanet"),
        (dict(initial_entry="params"), "initial_weights.*params"),
        (dict(history_start=0.1), "history_start.*no effect"),
    ],
)
def test_what_does_not_fit_is_listed_before_anything_is_written(fields, match, run, tmp_path):
    with pytest.raises(ValueError, match=match):
        train.train(recipe(initial_weights=str(run), **fields), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_place_without_weights_and_an_entry_without_a_place_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "make_data", lambda _: pytest.fail("the data were read first"))
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match="initial_weights.*does not exist"):
            train.train(recipe(initial_weights=str(place)), tmp_path / "run")
    with pytest.raises(ValueError, match="initial_entry.*no effect"):
        recipe(initial_entry="params")


def test_a_run_keeps_the_hash_of_its_start_and_goes_on_from_nothing_else(run, tmp_path):
    first = recipe(initial_weights=str(run), objective="plain")
    work(first, tmp_path / "tuned")
    provenance = records.Run(tmp_path / "tuned").provenance
    assert provenance["initial_weights"] == str(run)
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["content"]["initial_weights"] == digest
    moved = shutil.copy(run / "model.safetensors", tmp_path / "moved.safetensors")
    train.train(first.replace(initial_weights=str(moved)), tmp_path / "tuned", quiet=True)  # moved, the same run
    for other in (first.replace(initial_weights=str(run / "ema.safetensors")), first.replace(initial_weights=None)):
        with pytest.raises(ValueError, match="initial_weights"):
            train.train(other, tmp_path / "tuned", quiet=True)


def test_a_finished_run_that_is_continued_ends_with_the_bits_of_a_longer_one(run, tmp_path, capsys):
    """It knows the run it continues, and goes on without it when it is stopped itself."""
    work(recipe(steps=8), tmp_path / "longer")
    copy = shutil.copytree(run, tmp_path / "copy")
    command = ["train", "--continue", str(copy), "--steps", "8", "--out", str(tmp_path / "more"), "--device", "cpu"]
    with pytest.raises(Stopped), before_step(8, stop):
        main(command)
    assert "goes on after step 4 to step 8" in capsys.readouterr().out
    for file in {*copy.iterdir()} - {copy / "recipe.json"}:
        file.unlink()
    (tmp_path / "more" / checkpoint.FILE).rename(tmp_path / "more" / checkpoint.PREVIOUS)  # killed while it saved
    assert main(command) == 0
    longer, more = (records.Run(tmp_path / name) for name in ("longer", "more"))
    command[2:5] = [str(tmp_path / "more"), "--steps", "9"]
    command[6] = str(tmp_path / "most")
    with pytest.raises(Stopped), before_step(9, stop):  # a continued run is continued once more
        main(command)
    digest = hashlib.sha256((run / "checkpoint.safetensors").read_bytes()).hexdigest()
    assert more.provenance["content"]["continues"] == digest
    columns = [c for c in longer.log if c != "seconds" and not c.startswith("dose")]  # measured at other steps
    assert longer.log[columns].equals(more.log[columns])
    for name in ("recipe.json", "provenance.json", "log.csv", "frames.safetensors", "scores.csv"):  # of other pictures
        (more.dir / name).write_bytes((longer.dir / name).read_bytes())
    same_runs(longer.dir, more.dir)


def test_what_cannot_be_continued_is_refused(run, tmp_path):
    for place, steps, match in ((run, 4, "steps is 4"), (tmp_path, 8, "no finished run")):
        with pytest.raises(ValueError, match=match), before_step(1, stop):  # not even the short run of the dose
            train.train(recipe(steps=steps, continues=str(place), dose=0.2), tmp_path / "more", quiet=True)
    with pytest.raises(ValueError, match=f"no {checkpoint.FILE}.*--initial-weights"):
        bare = untrained_run(tmp_path / "bare", recipe())
        train.train(recipe(steps=8, continues=str(bare)), tmp_path / "more", quiet=True)
    plain = untrained_run(tmp_path / "plain", recipe(objective="plain"))
    trainer(recipe(objective="plain")).save(plain)
    pictures.fill(tmp_path / "data", *(f"{number}.png" for number in range(8)), size=(48, 56))
    cut = shutil.copytree(run, tmp_path / "cut")
    for file in checkpoint.saved(cut):
        file.write_bytes(file.read_bytes()[:5000])
    for place, changes, match in (
        (plain, {}, "objective: 'plain' there, 'spn' now.*--initial-weights"),
        (run, dict(network="ffanet"), r"\(network: 'nafnet' there, 'ffanet' now, dose: .*0.2 now\)"),
        (run, dict(history_of="another"), "history_of: 'network' there, 'another' now"),
        (run, dict(dataset="folder", data_root=str(tmp_path / "data")), "other data"),
        (cut, {}, f"^((?!remove).)*Nothing can go on from {cut}((?!remove).)*$"),  # it is a finished run
    ):
        changed = recipe(steps=8, continues=str(place), dose=0.2, **changes)
        with pytest.raises(ValueError, match=match), before_step(1, stop):
            train.train(changed, tmp_path / "more", quiet=True)
    with pytest.raises(ValueError, match="initial_weights.*no effect"):
        recipe(continues=str(run), initial_weights=str(run))
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("words", [(), ("--steps", "8", "--recipe", "tiny"), ("--steps", "8", "--task", "derain")])
def test_the_command_line_continues_with_the_recipe_of_the_run(words, run, tmp_path, capsys):
    assert main(["train", "--continue", str(run), "--out", str(tmp_path / "more"), *words]) == 1
    assert "--steps" in capsys.readouterr().err


def test_weights_of_another_scale_are_taken_as_far_as_they_fit(tmp_path, capsys):
    """As EDSR is trained: x4 begins with the body of x2."""
    small = dict(steps=2, patch_size=64, batch_size=1, log_every=1, val_every=2)
    twice = train.train(recipes.get("tiny", "sr", scale=2, objective="plain", **small), tmp_path, quiet=True)
    four = recipes.get("tiny", "sr", scale=4, objective="plain", initial_weights=str(tmp_path), **small)
    with pytest.raises(ValueError, match="initial_strict"):
        trainer(four)
    drawn, begun = (trainer(four.replace(**c)).model for c in (dict(initial_weights=None), dict(initial_strict=False)))
    drawn, begun, earlier = (network.state_dict() for network in (drawn, begun, twice.model()))
    said = capsys.readouterr().out
    fit = {name for name in begun if name in earlier and earlier[name].shape == begun[name].shape}
    assert fit and all(torch.equal(begun[name], (earlier if name in fit else drawn)[name]) for name in begun)
    assert all(name.removeprefix("core.") in said for name in begun.keys() - fit)
