"""Directions and pasts whose answer is known, a probe that is stopped and goes on, and the record it leaves."""

import copy
import shutil
import types

import pandas as pd
import pytest
import torch
from toys import Pixels, Scale, constant

from mclir_nb import files, stream
from mclir_nb.data import datasets, tasks
from mclir_nb.experiments import probe, push_study
from mclir_nb.method import push
from mclir_nb.method.history import HistoryModels
from mclir_nb.training import dose, recipes
from mclir_nb.training.recipes import Recipe
from mclir_nb.training.trainer import Trainer


def test_directions_of_a_linear_model(monkeypatch):
    """What each direction asks of the one weight, 0.5 where gt needs 1: away from its past, or to the truth."""
    left, real = [], push.image_push
    monkeypatch.setattr(
        push, "image_push", lambda at, pasts, *features: left.append(pasts) or real(at, pasts, *features)
    )

    def asked(**negatives):
        past = dict(own=[constant(0.2), constant(0.7)], foreign=[constant(0.9)], slow=[constant(0.3)]) | negatives
        found = probe.directions(Scale(0.5), constant(1), constant(1), past, constant(0.4), Pixels(), stream(0, "test"))
        return {name: step[0].item() for name, step in found.items()}

    found = asked()
    assert found["pull"] == pytest.approx(1) and found["push"] == pytest.approx(0)  # one history on either side
    assert found["oldest"] == pytest.approx(1)  # it is behind
    assert found["foreign"] == found["lq"] == pytest.approx(-1)  # both ahead
    assert found["smooth"] == found["smooth-oldest"] == pytest.approx(1)  # the average came from below
    sizes = [(noise - 0.5).square().mean().sqrt().item() for noise in left[3]]
    assert sizes == pytest.approx([0.3, 0.2], rel=0.3)  # as far away as each own history
    assert abs(found["noise"]) < 0.5 and asked(slow=[constant(0.45)])["smooth"] == pytest.approx(-1)


def test_a_past_that_is_worse_by_construction():
    own, other, earlier = (HistoryModels(Scale(w), (None, 5), (0.1, 0.1)) for w in (0.5, 1.1, 0.4))
    trainer = types.SimpleNamespace(model=Scale(0.8), ema=Scale(0.7), step=7, features=Pixels(), history=own)
    table = probe.pasts(probe.Moment(trainer, earlier, other), [(constant(1), constant(1)), (constant(1), constant(1))])
    own, foreign, slow = (table[table.past == past].iloc[1] for past in ("own", "foreign", "slow"))
    assert (own.progress, own.gap) == pytest.approx((0.25 - 0.04, 0.09)) and own.votes == 1
    assert foreign.progress < 0 < foreign.gap and foreign.votes == 0  # past the truth, and nearer to it
    assert (slow.mse, slow.progress, slow.gap) == pytest.approx((0.09, 0.36 - 0.09, 0.09))
    assert (own.age, own["first"]) == (2, False) and table.iloc[0][["age", "first"]].tolist() == [7, True]


def watched(**changes):
    fields = dict(steps=12, batch_size=1, patch_size=32, val_every=0, history_every=(4, 2), history_decay=(0.1, 0.1))
    recipe = recipes.get("tiny", "derain", objective="spn", lambda_neg=0.0, **fields)
    return Recipe(**dict(recipe) | dose.PLAIN | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs with two moments each; the first one looked at."""
    place = tmp_path_factory.mktemp("probe")
    for seed in (0, 1):
        probe.train_through(watched(seed=seed), place / str(seed), 2, quiet=True)
    probe.probe(watched(), place / "0", place / "1", count=2, batches=2, quiet=True)
    return place


def test_a_look_at_a_run(folder):
    helps, pasts = (pd.read_csv(folder / "0" / name) for name in (probe.HELPS, probe.PASTS))
    assert set(helps.step) == set(pasts.step) == set(probe.moments(12, 2)) and len(pasts) == 2 * 3 * 2
    table = helps[(helps.form == "plain") & (helps.place == "weights")].set_index("direction")
    assert (table.relative["pull"] == 1).all() and (table.relative["push"] > 0).all()
    assert table.help_cos["towards"].tolist() == (-table.help_cos["push"]).tolist()
    assert table.help_cos["random"].abs().max() < 0.1 and (helps.low <= helps.high).all()


def test_a_look_is_at_the_kept_state(folder):
    """Its histories, those of the average and of the other run, and the steps that Adam makes of the gradients."""
    moment, other = (
        probe.open_moment(watched(seed=seed), folder / str(seed), 3, folder / str(1 - seed)) for seed in (0, 1)
    )
    trainer = Trainer(watched(), torch.device("cpu"))
    first = copy.deepcopy(trainer.ema)
    for batch in trainer.patches.batches(1, 2):
        trainer.advance(*batch)
    refreshed = [0.1 * old + 0.9 * new for old, new in zip(first.parameters(), trainer.ema.parameters(), strict=True)]
    torch.testing.assert_close(list(moment.slow.models[1].parameters()), refreshed)  # after step 2
    for theirs, own in zip(moment.foreign.models, other.trainer.history.models, strict=True):
        torch.testing.assert_close(theirs.state_dict(), own.state_dict(), rtol=0, atol=0)
    helps = pd.read_csv(folder / "0" / probe.HELPS)
    by_adam = helps[(helps.step == 3) & (helps.form == "adam") & (helps.direction == "push")]
    assert by_adam.relative.tolist() == pytest.approx([dose.measured(moment.trainer, 1.0, 2).update] * 2)


def test_slopes_are_those_of_held_out_pictures_at_the_weights_and_at_their_average(monkeypatch):
    """The average is past the truth, so what helps the weights harms it."""
    monkeypatch.setattr(probe, "held_out", lambda *_: [(constant(1), constant(1))])
    model, asked = Scale(0.5), []
    optimiser = torch.optim.Adam(model.parameters(), lr=0)
    model.weight.grad = torch.tensor(1.0)
    optimiser.step()
    patches = types.SimpleNamespace(batch=lambda step: asked.append(step) or (constant(1), constant(1), None))
    run = dict(recipe=types.SimpleNamespace(steps=5, seed=0), patches=patches, step=3, features=Pixels())
    own, slow, foreign = (HistoryModels(Scale(weight), (10,), (0.1,)) for weight in (0.4, 1.2, 0.9))
    trainer = types.SimpleNamespace(model=model, ema=Scale(1.5), history=own, optimiser=optimiser, **run)
    _, helps = probe.look(probe.Moment(trainer, slow, foreign), batches=2)
    assert asked == [6, 7]  # beyond the run
    cosines = helps[helps.form == "plain"].pivot(index="direction", columns="place", values="help_cos")
    assert cosines["weights"]["pull"] == cosines["weights"]["push"] == pytest.approx(1)
    assert (cosines["ema"] == -cosines["weights"]).all()


def test_held_out_patches_are_of_validation_pictures_and_the_same_for_every_run():
    sets = {"val": datasets.embedded("val")}
    one, other = (
        probe.held_out(
            types.SimpleNamespace(
                recipe=watched(seed=seed), task=tasks.get("derain"), data=types.SimpleNamespace(sets=sets)
            ),
            2,
        )
        for seed in (0, 1)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(one) == 2 and not torch.equal(one[0][0], one[1][0])


def test_a_probe_that_is_stopped_goes_on_to_the_same_rows(folder, tmp_path, monkeypatch):
    real, seen = probe.look, []

    def killed(moment, batches):
        if seen:
            raise KeyboardInterrupt
        seen.append(moment.trainer.step)
        return real(moment, batches)

    probe.train_through(watched(), tmp_path, 1, quiet=True)  # its only moment is not among the two
    for count in (1, 2):  # a life that ends early, and the next
        probe.train_through(watched(), tmp_path / "run", count, quiet=True)
    monkeypatch.setattr(probe, "look", killed)
    with pytest.raises(KeyboardInterrupt):
        probe.probe(watched(), tmp_path / "run", folder / "1", count=2, batches=2, quiet=True)
    assert set(pd.read_csv(tmp_path / "run" / probe.HELPS).step) == set(seen)
    monkeypatch.setattr(probe, "look", real)
    probe.probe(watched(), tmp_path / "run", folder / "1", count=2, batches=2, quiet=True)
    for name in (probe.HELPS, probe.PASTS):
        assert (tmp_path / "run" / name).read_bytes() == (folder / "0" / name).read_bytes()


def test_a_moment_that_is_not_there_and_a_run_without_histories_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="step 11"):
        probe.open_moment(watched(), folder / "0", 11, folder / "1")
    with pytest.raises(ValueError, match="plain"):
        probe.train_through(recipes.get("tiny", "derain", objective="plain"), tmp_path)


def test_the_study_leaves_a_record(tmp_path, monkeypatch):
    cells = list(push_study.cells())
    assert len(cells) == len(set(cells)) == 36 and cells[0] == push_study.Cell("sr", "demo", "plain", 0)
    assert [cell.rate for cell in cells] == ["demo"] * 18 + ["eighth"] * 18
    assert [cells[0]._replace(seed=seed).foreign.seed for seed in push_study.SEEDS] == [1, 2, 0]
    record = tmp_path / "record"
    page = push_study.write_record(tmp_path / "runs", record) / "README.md"
    assert "Outcome" not in page.read_text() and not push_study.read(tmp_path / "runs")
    small = dict(steps=12, batch_size=1, patch_size=64, history_every=(4, 2), history_decay=(0.1, 0.1))
    small |= dict(network_size="tiny", dataset="embedded")
    for term in push_study.TERMS:
        cell = push_study.Cell("sr", "demo", term, 2)
        push_study.run_cell(cell, tmp_path / "runs", None, count=2, quiet=True, **small)
    push_study.write_record(tmp_path / "runs", record)
    helps, pasts = (pd.read_csv(record / name) for name in (probe.HELPS, probe.PASTS))
    assert len(helps) == 2 * 2 * 10 and set(pasts.past) == {"own", "foreign", "slow"}
    assert "Outcome" not in page.read_text()  # 2 of 9 moments
    monkeypatch.setattr(probe, "MOMENTS", 2)
    push_study.write_record(tmp_path / "runs", record)
    text = page.read_text()
    assert "2 of 36 runs were looked at, 4 moments" in text and "sr demo plain 0, 1;" in text
    found = push_study.summary(helps).set_index(["term", "direction"])
    pushes = helps[(helps.term == "plain") & (helps.direction == "push")].help_plain_weights
    assert found["mean"]["plain", "push"] == pytest.approx(pushes.mean()) and (found.seeds == 1).all()
    numbers = [helps[helps.term == term].filter(like="help").to_numpy() for term in push_study.TERMS]
    assert (numbers[0] != numbers[1]).any()
    assert (helps.lambda_neg > 0).equals(helps.term == "spn") and (helps.lambda_neg >= 0).all()

    other = push_study.Cell("sr", "demo", "plain", 1)  # the runs are lost, the record is not
    push_study.run_cell(other, tmp_path / "fresh", None, count=2, quiet=True, **small)
    push_study.write_record(tmp_path / "fresh", record)
    grown = pd.read_csv(record / probe.HELPS)
    assert grown[grown.seed == 2].reset_index(drop=True).equals(helps) and grown.seed[0] == 1
    assert "3 of 36 runs" in page.read_text()
    for name in (probe.HELPS, probe.PASTS):  # fewer moments of a run that the record holds replace nothing
        table = files.read_table(tmp_path / "fresh" / other.name / name)
        table[table["step"] == table["step"].min()].to_csv(tmp_path / "fresh" / other.name / name, index=False)
    push_study.write_record(tmp_path / "fresh", record)
    assert pd.read_csv(record / probe.HELPS).equals(grown)
    begun = []
    monkeypatch.setattr(push_study, "run_cell", lambda cell, *_, **__: begun.append(cell))
    push_study.run(tmp_path / "fresh", "", record, quiet=True)
    assert len(begun) == 33 and not {other, cell} & set(begun)


@pytest.mark.parametrize(("term", "lambda_neg"), [("plain", 0.0), ("spn", 0.002)])
def test_a_cell_and_the_one_whose_past_is_foreign_to_it_are_trained_alike(term, lambda_neg, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(dose, "choose", lambda recipe, *_: dose.Lambda(0.02 * recipe.dose, recipe.dose, ()))
    train, look = (
        lambda recipe, folder, *_: asked.append((folder.name, recipe.seed, recipe.lambda_neg)),
        lambda recipe, folder, foreign, **_: asked.append((folder.name, foreign.name, recipe.lambda_neg)),
    )
    monkeypatch.setattr(probe, "train_through", train)
    monkeypatch.setattr(probe, "probe", look)
    push_study.run_cell(push_study.Cell("sr", "demo", term, 2), tmp_path, None, quiet=True, dataset="embedded")
    own, other = f"sr-demo-{term}-2", f"sr-demo-{term}-0"
    pairs = (other, 0), (own, 2), (own, other)
    assert asked == [(*pair, pytest.approx(lambda_neg)) for pair in pairs]


def test_the_page_of_the_committed_record_is_what_its_numbers_say(tmp_path):
    there = push_study.RECORD
    folder = shutil.copytree(there, tmp_path / "record")
    push_study.write_record(tmp_path / "no runs", folder)
    assert (folder / "README.md").read_text() == (there / "README.md").read_text()


def test_the_answer_counts_a_table_made_by_hand(monkeypatch):
    """Two settings of five seeds and one of a single seed, which has no interval; noise does nothing."""
    monkeypatch.setattr(probe, "MOMENTS", 1)
    setting = {"sr": (-0.5, 0.0), "derain": (-0.4, 0.2), "dehaze": (0.9, 0.9)}  # the push at the weights, at the EMA
    rows = [
        [task, "demo", "plain", seed, 1, direction, *(side * values[direction] for side in sides)]
        for task, sides in setting.items()
        for seed, spread in enumerate((1.0,) if task == "dehaze" else (1.0, 1.1, 0.9, 1.2, 0.8))
        for values in [{"push": spread, "foreign": 1.0, "noise": 0.0}]
        for direction in values
    ]
    helps = pd.DataFrame(rows, columns=[*push_study.CELL, "step", "direction", "help_plain_weights", "help_plain_ema"])
    said = push_study.answer(helps)
    assert "harms (its interval lies beside zero) in 2 and helps in 0 of 2 settings" in said
    assert "at the EMA in 0 and 1. " in said  # rain
    assert "the past of another seed it is worse in 0 and better in 0 of 2 settings, at the EMA in 0 and 0;" in said
    assert "at the same distance it is worse in 2 and better in 0 of 2 settings, at the EMA in 0 and 1. " in said
    assert "Of these 12 intervals, 6 can be told from zero" in said and "weak" not in said
    assert (
        "asks the clearest of them to lie 6 standard errors away" in said
    )  # t of 5 seeds at 0.05 / 12, two-sided: 5.6
    single = "An interval of one seed is over its moments"
    assert single in said and single not in push_study.answer(helps[helps["task"] != "dehaze"])
    assert "weak evidence" in push_study.answer(helps[helps["seed"] < 4])
    assert push_study.answer(helps[helps["seed"] < 1]) == "No setting of task, rate and term has two seeds yet."


def test_a_run_that_was_looked_at_in_part_is_named_and_not_counted(tmp_path):
    helps, pasts = push_study.recorded()
    first = (helps[push_study.CELL] == ["sr", "demo", "plain", 0]).all(axis=1)
    rest = helps[~first | (helps["step"] > helps["step"][first].min())]
    for name, table in {probe.HELPS: rest, probe.PASTS: pasts}.items():
        table.to_csv(tmp_path / name, index=False)
    text = (push_study.write_record(tmp_path / "no runs", tmp_path) / "README.md").read_text()
    count = len(helps[push_study.CELL].drop_duplicates()) - 1
    assert f"{count} of 36 runs" in text and "sr demo plain 0 (8 of 9 moments" in text
    assert "weak evidence" in text and "after Holm's correction" in text  # of three seeds at most
    found = push_study.summary(rest).set_index(["task", "rate", "term", "direction"])
    assert found["seeds"]["sr", "demo", "plain", "push"] == 2


def test_the_slow_run_is_the_same_in_slow_motion(monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
    fast, slow = (
        push_study.Cell("dehaze", rate, "plain", 0).recipe(None, dataset="embedded") for rate in push_study.RATES
    )
    assert slow.steps == 4 * fast.steps and slow.learning_rate == pytest.approx(fast.learning_rate / 8)
    assert slow.history_every == tuple(4 * every for every in fast.history_every)
    gt = torch.rand(3, 32, 32)
    hazy = [tasks.get(push_study.HAZE).degrade(gt, None, stream(seed, "haze")) for seed in (0, 0, 1)]
    assert torch.equal(hazy[0], hazy[1]) and not torch.equal(hazy[0], hazy[2]) and hazy[0].shape == gt.shape
