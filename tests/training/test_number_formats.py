"""Number formats: float32 means every digit wherever networks run, and float16 trains on gradients that are there.

The switches can be read on a CPU, where they change nothing; on a GPU "tf32" here would be ten bits.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from trainers import CPU, Stopped, advance, before_step, derain, flat, stop, trainer

from mclir_nb import notebook
from mclir_nb.evaluation import evaluate, restore
from mclir_nb.experiments import cost, gradient_fidelity, timing
from mclir_nb.method import push
from mclir_nb.training import frames, log, recipes, train
from mclir_nb.training.guard import Diverged

SHORT = dict(steps=4, log_every=1, val_every=0, batch_size=1, history_every=(2, 1))


@pytest.fixture(autouse=True)
def tf32_is_allowed():
    """As somebody sets it who wants a fast GPU; training must work with it too."""
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "tf32"
    yield
    assert torch.backends.fp32_precision == "tf32"
    torch.backends.fp32_precision = before


@contextmanager
def formats_seen():
    """The number formats of every module that runs meanwhile."""
    seen = set()

    def look(module, inputs):
        backends = torch.backends.cudnn.conv, torch.backends.cuda.matmul
        low = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        seen.update([low] if low else [backend.fp32_precision for backend in backends])

    handle = register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def trained(**changes) -> train.Trainer:
    made = trainer(recipes.get("tiny", "deblur", **SHORT | changes), 2)
    made.validation = [made.validation[0]]  # one picture is enough to look at
    return made


@pytest.fixture(scope="module")
def spn():
    return trained()


DOORS = {
    "a step": lambda made, _: made.advance(*made.patches.batch(3)),
    "the log": lambda made, _: made.log_row(),
    "validation": lambda made, _: made.validate(),
    "frames": lambda made, folder: frames.keep(folder, 1, made.model, made.history, made.validation[0]),
    "scores": lambda made, _: evaluate.evaluate(made.model, made.validation, quiet=True),
    "pictures": lambda made, _: evaluate.side_by_side(made.model, made.history.models, made.validation, 1),
    "restore": lambda made, _: restore.restore(made.model, made.validation[0][2]),
    "push": lambda made, _: push.image_push(*_images(made), made.features),
    "gradients": lambda made, _: _gradients(made),
    "a reference": lambda made, _: timing.compare(made.recipe, lambda parts, n: parts.model(parts.lq), rounds=1),
    "prediction": lambda made, _: cost.one_patch(made.recipe, torch.device("cpu"), times=1),
}


def _images(made):
    _, lq, _ = made.patches.batch(3)
    return torch.rand(1, 3, *lq.shape[2:]), [lq]


def _gradients(made):
    gt, lq, _ = made.patches.batch(3)
    return push.gradients(made.model, gt, [0.9 * gt], made.objective, lq=lq, features=made.features)


@pytest.mark.parametrize("door", DOORS)
def test_networks_run_in_full_float32(door, spn, tmp_path):
    with formats_seen() as seen:
        DOORS[door](spn, tmp_path)
    assert seen == {"ieee"}


def test_each_network_of_a_step_has_the_precision_it_was_given():
    made = trained(precision="bfloat16", features_precision="float32")
    with formats_seen() as seen:
        made.advance(*made.patches.batch(3))
    assert seen == {torch.bfloat16, "ieee"}
    with formats_seen() as seen:
        made.log_row()
        made.validate()
    assert seen == {"ieee"}


@pytest.mark.parametrize(("objective", "said"), [("spn", True), ("plain", False)])
def test_a_run_says_that_16_bits_round_the_push(objective, said, tmp_path, capsys):
    histories = {} if objective == "plain" else dict(history_every=(1,))
    fields = dict(steps=1, batch_size=1, objective=objective, precision="bfloat16") | histories
    with before_step(1, stop), pytest.raises(Stopped):
        train.train(recipes.get("tiny", "derain", **fields), tmp_path, device="cpu")
    assert ("part of the push is rounding" in capsys.readouterr().out) == said


def test_the_signal_of_a_network_in_16_bits_is_below_that_of_float32(spn):
    shares = []
    for name in ("float32", "bfloat16"):
        recipe = spn.recipe.replace(precision=name)
        columns = log.history_columns(recipe, spn.model, spn.history, spn.last, spn.features)
        shares.append([columns[f"signal_{k}"] for k in range(2)])
    assert all(coarse < fine for fine, coarse in zip(*shares, strict=True))


def test_noise_around_the_network_may_have_another_precision():
    """The network runs twice in such a step, in two formats."""
    made = trained(precision="bfloat16", history_precision="float16", negatives="noise")
    assert all(p.grad is not None for p in made.model.parameters()) and made.log.sums.isfinite().all()


def test_a_survey_of_precisions_compares_with_full_float32(spn):
    """Its arms lower the histories and the features; the model's own output is the same in all."""
    formats = []

    def look(module, inputs):
        formats.append((torch.backends.cudnn.conv.fp32_precision, torch.is_autocast_enabled("cpu")))

    handle = spn.model.register_forward_pre_hook(look)
    gradient_fidelity.precisions(spn.model, spn.history.models, spn.patches.batch(3)[1], spn.features)
    handle.remove()
    assert set(formats) == {("ieee", False)}


def test_a_notebook_forbids_tf32(capsys):
    try:
        notebook.setup(seed=0, device="cpu")
        assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = "tf32"


@pytest.mark.parametrize(("task", "network"), [("sr", "edsr"), ("dehaze", "ffanet")])
def test_gradients_of_float16_are_those_of_float32(task, network):
    """Unscaled, most of EDSR's are 0; the first scales may be too large, and then a step is left out."""
    gradients = {}
    for name in ("float32", "float16"):
        made = trainer(recipes.get("tiny", task, network=network, precision=name, objective="plain", batch_size=2))
        batch, before = made.patches.batch(1), made.model.state_dict()
        for _ in range(6):
            made.model.load_state_dict(before)
            made.advance(*batch)
        gradients[name] = [p.grad for p in made.model.parameters() if p.grad is not None and p.grad.norm() > 0]
    assert len(gradients["float32"]) == len(gradients["float16"]) > 4
    for one, other in zip(*gradients.values(), strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


def test_a_float16_run_resumes_with_its_scale(tmp_path):
    whole = trained(precision="float16")
    whole.scaler.update(2.0**12)  # as after some steps that were left out
    whole.log_row()
    whole.save(tmp_path)
    resumed = trainer(whole.recipe)
    resumed.restore(tmp_path)
    assert resumed.scaler.get_scale() == 2.0**12


def test_a_float16_run_whose_gradients_stay_infinite_stops():
    """The scale is halved after each; below 1 it is not what makes them infinite."""
    made = trained(precision="float16", steps=20)
    made.scaler.update(2.0**3)
    before = flat(made.model)
    next(made.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Diverged, match="step 6: .*bfloat16"):
        advance(made, 20, rows=True)
    assert torch.equal(before, flat(made.model))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_changes_no_weight_and_is_seen(device, precision):
    made = trainer(recipes.get("tiny", "derain", **SHORT, precision=precision), 1, device)
    before = flat(made.model)
    gt, lq, names = made.patches.batch(2)
    with pytest.raises(Diverged, match=f"step 2: .*{names[0]}"):
        made.advance(torch.full_like(gt, float("nan")), lq, names)
        made.log_row()
    assert torch.equal(before, flat(made.model))


def test_a_format_that_rounds_the_push_away_is_told():
    cuda = torch.device("cuda")
    for name, device in (("tf32", cuda), ("bfloat16", CPU), ("float16", cuda)):
        assert f"precision {name}" in train._rounding_note(derain(precision=name), device)
    plain = derain(objective="plain", precision="tf32")
    for recipe, device in ((derain(precision="tf32"), CPU), (derain(), cuda), (plain, cuda)):  # of tf32 a CPU has none
        assert not train._rounding_note(recipe, device)
