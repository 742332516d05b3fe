"""The guard of a run: when it stops, and how a run goes on with a smaller lambda."""

import math

import pytest
import torch
from trainers import Stopped, advance, before_step, derain, stop, trainer

from mclir_nb.training import checkpoint, recipes, train
from mclir_nb.training.guard import Diverged, Guard


def short(**changes):
    fields = dict(steps=12, batch_size=1, patch_size=32, log_every=3, val_every=0, save_every=3)
    return recipes.get("tiny", "derain", **fields | changes)


def test_it_stops_where_the_loss_is_not_finite_or_the_push_outweighs():
    lost, strong = dict(step=7, total=math.nan, l_rec=1.0, r=0.0), dict(step=7, total=-0.5, l_rec=1.0, r=1.5)
    for row, word in ((lost, "not finite"), (strong, "r = 1.50")):
        with pytest.raises(Diverged, match=f"step 7.*{word}.*lambda_neg"):
            Guard(short()).check(row)
    with pytest.raises(Diverged, match="smaller learning_rate") as caught:
        Guard(short(objective="plain")).check(lost)
    assert "lambda" not in str(caught.value)
    Guard(short(guard_r=2.0)).check(strong)
    Guard(short(objective="history-positive")).check(strong | {"total": 2.0})  # bounded below


@pytest.mark.parametrize(
    ("changes", "dose", "named"),
    [
        (dict(), None, "lambda_neg, now 0.0003"),
        (dict(), 0.1, "dose, now 0.1"),
        (dict(lambda_ratio=0.05), None, "lambda_ratio, now 0.05"),
        (dict(objective="plain"), None, None),
        (dict(lambda_neg=0.0), None, None),  # histories that are only watched
    ],
)
def test_it_says_which_setting_of_the_recipe_to_turn_down_and_where(changes, dose, named):
    guard = Guard(short(**changes))
    guard.dose = dose
    looks = (lambda: guard.watch(3, torch.tensor(math.nan), ["cat"]), lambda: guard.check(dict(step=3, total=math.nan)))
    for look in looks:
        with pytest.raises(Diverged, match="learning_rate.* another out_dir") as caught:
            look()
        words = [word for word in ("lambda_neg", "dose", "lambda_ratio") if word in str(caught.value)]
        assert words == ([named.split(",")[0]] if named else []) and (named or "") in str(caught.value)


@pytest.mark.parametrize("best", [30.0, math.inf])  # infinite: a validation was right to the last bit
def test_it_stops_where_validation_falls(best):
    guard, row = Guard(short(guard_drop=3.0)), dict(step=5, total=0.9, l_rec=1.0)
    highest = min(best, 60.0)
    guard.check_validation(row | {"val_psnr": highest - 2.9}, best)
    Guard(short(objective="plain")).check_validation(row | {"val_psnr": 20.0, "total": 1.0}, best)  # no term
    margin = Guard(short(objective="margin", lambda_neg=1.0, guard_drop=3.0))  # bounded, and histories may run with it
    with pytest.raises(Diverged, match="guard_drop"):
        margin.check_validation(row | {"val_psnr": 20.0, "total": 2.0}, best)
    for psnr in (highest - 3.1, math.nan):
        with pytest.raises(Diverged, match="guard_drop"):
            guard.check_validation(row | {"val_psnr": psnr}, best)


@pytest.mark.parametrize("name", ["ratio", "infonce", "spn"])
def test_bounded_relatives_come_back_without_the_guard(name):
    """A term stronger than the pull: after 80 steps SPN is wrong by more than from black to white, they are not."""
    strong = dict(objective=name, lambda_neg=1.0, steps=80, history_every=(8,))
    made = trainer(short(**strong), 79)
    before = made.log.sums[0].item()
    assert (advance(made, 80).log.sums[0] - before > 1) == (name == "spn")  # the last step's mean absolute error
    if name != "spn":
        made.log_row()  # r is above 1 here, and the guard lets it pass: nothing is subtracted


def test_a_rescued_run_goes_on_and_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    recipe = short(lambda_neg=0.2, guard="lower-lambda", guard_r=0.1, learning_rate=1e-2, save_every=2)
    monkeypatch.setattr(train, "_finish", lambda *_: None)  # scoring takes longer than these steps
    run = train.train(recipe, tmp_path / "straight")
    assert "with lambda_neg" in capsys.readouterr().out
    assert run.log.lambda_neg.iloc[-1] < 0.2 and run.log.r.max() <= 0.1 and list(run.log.step) == [3, 6, 9, 12]

    def stop_when_rescued(made, gt):
        if made.guard.factor < 1:
            raise Stopped

    with pytest.raises(Stopped), before_step(6, stop_when_rescued):
        train.train(recipe, tmp_path / "killed", quiet=True)
    again = train.train(recipe, tmp_path / "killed", quiet=True)
    with pytest.raises(Diverged, match="r = "):  # however small lambda gets
        train.train(recipe.replace(guard_r=1e-9), tmp_path / "never", quiet=True)
    assert checkpoint.read(tmp_path / "never" / checkpoint.FILE)["guard"]["factor"] == 2**-10
    assert checkpoint.read(run.dir / checkpoint.FILE)["guard"]["factor"] < 1
    assert (run.dir / checkpoint.FILE).read_bytes() == (again.dir / checkpoint.FILE).read_bytes()


def test_all_processes_wait_for_the_first_state_whatever_each_of_them_sees(tmp_path, monkeypatch):
    """One that comes late finds the state of the first already there: it must not wait less often."""
    waits, real = [], train.on_first_rank

    def watched(work, *arguments):
        waits[-1].append(work.__name__)
        return real(work, *arguments)

    monkeypatch.setattr(train, "on_first_rank", watched)
    for _ in range(2):
        waits.append([])
        with pytest.raises(Stopped), before_step(1, stop):
            train.train(derain(guard="lower-lambda"), tmp_path, quiet=True)
        assert checkpoint.saved(tmp_path)
    assert waits[0] == waits[1]


def test_a_step_that_is_not_finite_is_made_again_with_half_of_lambda(tmp_path, capsys):
    harm = iter([math.nan])  # once
    with before_step(3, lambda _, gt: gt.mul_(next(harm, 1.0))):
        run = train.train(derain(guard="lower-lambda", save_every=2), tmp_path)
    assert "step 3: the loss" in capsys.readouterr().out
    factors = run.log.lambda_neg / run.recipe.weight  # unknown in step 1, in which the histories equal the network
    assert factors.tolist()[1:] == pytest.approx([1] + [0.5] * 4, rel=1e-2)


def test_what_was_seen_before_a_run_goes_back_is_forgotten():
    """On a GPU the look at a bad step comes later; a tensor without values is looked at as late."""
    guard = Guard(short())
    guard.watch(3, torch.zeros(3, device="meta"), ["cat"])
    guard.load_state_dict({"factor": 0.5})
    guard.check_finite()
