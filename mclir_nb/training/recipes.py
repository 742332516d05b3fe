"""Recipes: everything that decides a training run, as one frozen value. The device is not part of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, get_args

import pydantic
import torch
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationInfo

from mclir_nb import check_choice, did_you_mean, networks, stream
from mclir_nb.data import datasets, tasks
from mclir_nb.method import losses, precision
from mclir_nb.training import paper_recipes

PRECISIONS, COMPILE = precision.NAMES, ("none", "default", "reduce-overhead")
FEATURES = ("lite0", "vgg16", "vgg19")
OWN = "the recipe's own"  # as a value of `get`: as if it had not been given, where None is a value too


def _among(*accepted: str | Callable[[], Iterable[str]]) -> pydantic.AfterValidator:
    """The constraint of a field with a name in it; tables are asked each time, for a reader may add a line to them."""

    def check(value: str, field: ValidationInfo) -> str:
        names = [name for one in accepted for name in ([one] if isinstance(one, str) else one())]
        check_choice(str(field.field_name), value, names)
        return value

    return pydantic.AfterValidator(check)


Share = Annotated[float, Field(ge=0, le=1)]
ShareBelow1 = Annotated[float, Field(ge=0, lt=1)]
Precision = Annotated[str, _among(*PRECISIONS)]
AsTuple = pydantic.BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class Recipe(BaseModel):
    """One training run; see `get`. Values are refused, not converted: True is no number and "3" no whole number.

    "official" below is options/FFANet_RESIDE_IN_fromScratch.yml of Aitical/MCLIR @ e42fb40 as its code reads it.
    "ours" is not in the paper.
    """

    model_config = dict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: str
    """Which row of the table this started from: tiny, demo, gpu or paper."""

    # Data
    task: Annotated[str, _among(tasks.names)]
    """What is restored, see `tasks.names()`."""
    scale: PositiveInt = 1
    """Gt pixels per lq pixel; 2, 3 or 4 in super-resolution."""
    dataset: Annotated[str, _among(datasets.names)] = "embedded"
    """The photographs that come along, "folder", or a public set."""
    data_root: str | None = None
    """Folder of the data set; None for the embedded photographs."""
    batch_size: PositiveInt
    """Patches per step."""
    accumulate: PositiveInt = 1
    """Parts in which a batch is taken, one after the other, so that a GPU need not hold all of it."""
    patch_size: PositiveInt
    """Side of a square patch in gt pixels, a multiple of 8 lq pixels."""
    seed: int = 0
    """Of initial weights, order of pictures, crops and degradations."""

    # Network
    network: Annotated[str, _among(networks.names)]
    """Public name, see `networks.names()`."""
    network_size: str
    """"paper", or a smaller member of the family: "gpu" (some families), "demo", "tiny"."""
    initial_weights: str | None = None
    """Run folder (its raw weights) or file of weights to start from; None: drawn from the seed."""
    initial_entry: str | None = None
    """Which network of a file that holds several, such as "params"; None: the first that fits, averages first."""
    initial_strict: bool = True
    """Whether all weights must fit; False: those that fit are taken, as from scale 2 to 4, and the others are named."""
    continues: str | None = None
    """Finished run whose whole state is taken over, for more steps; its steps count among these."""
    precision: Precision = "float32"
    """Of the trained network; 16 bits, and "tf32" on CUDA, round part of the push away. "float32": no TF32;
    "float16": a scaled loss."""
    compile: Annotated[str, _among(*COMPILE)] = "none"
    """Mode of torch.compile for network and histories in a step; rounds differently. "reduce-overhead": CUDA graphs."""

    # Optimiser: AdamW
    steps: PositiveInt
    """Optimiser steps."""
    learning_rate: Share = 2e-4
    """At the start; official."""
    learning_rate_min: Share = 1e-8
    """At the foot of the cosine; official eta_min."""
    cosine_steps: PositiveInt | None = None
    """Half period of the cosine; None: `steps`, one fall. Official: 100k of 500k, so that it rises again."""
    milestones: Annotated[tuple[int, ...], AsTuple] = ()
    """Steps after which the rate is halved, instead of the cosine; before the last."""
    betas: Annotated[tuple[ShareBelow1, ShareBelow1], AsTuple] = (0.9, 0.9)
    """Official."""
    weight_decay: NonNegativeFloat = 0.0
    """Official."""
    grad_clip: NonNegativeFloat | None = None
    """Largest norm of the gradient; None: not clipped, as in the official code, whose key for it is never read."""
    ema_decay: Share = 0.999
    """Of the evaluation EMA, which is never a history model; official."""
    quirks: Annotated[str, _among("none", "official")] = "none"
    """"official": mixed first copies, a cosine that rises again, `grad_clip` never read; see `get`."""

    # SPN and its rivals
    objective: Annotated[str, _among(lambda: losses.OBJECTIVES)] = "spn"
    """The loss, see `losses.OBJECTIVES`; "plain" is the baseline."""
    lambda_neg: NonNegativeFloat | None = None
    """Weight of the term beside L1, whose sign is in the loss; None: the published one, in its own features."""
    dose: PositiveFloat | None = None
    """Length of the term's part of a step beside that of L1; lambda follows from it, see `training.dose`. Ours."""
    lambda_from: NonNegativeInt = 0
    """Step before which lambda is 0; ours."""
    lambda_follows_rate: bool = False
    """Lambda falls as the learning rate does; ours."""
    lambda_ratio: ShareBelow1 | None = None
    """r = lambda * l_neg / l_rec is held at this value, whatever lambda that takes; 0 while the histories are exact
    copies of the network, as in the first step. Ours; the authors advise 0.01 to 0.1."""
    features: Annotated[str, _among(*FEATURES)] = "lite0"
    """Network in whose features distances are measured; official vgg16."""
    features_weights: str | None = None
    """File of VGG weights, "download" or "random"; None: embedded (lite0 only)."""
    history_every: Annotated[tuple[NonNegativeInt | None, ...], AsTuple] = (1000, 500, 200, 100)
    """Steps between refreshes, one per history model; 0 or None: never refreshed. Official."""
    history_decay: Annotated[tuple[Share, ...], AsTuple] = (0.1, 0.1, 0.1, 0.1)
    """Weight kept from the old copy at a refresh, one per history model; official."""
    history_start: Share = 0.0
    """Share of a fresh random network in the first copies; official 0.1."""
    history_threshold: NonNegativeFloat | None = None
    """The authors' adaptive rule: one history in turn is refreshed while the error spreads wider; official 0.022.
    None: the schedule of `history_every`."""
    history_of: Annotated[str, _among("network", "ema", "another")] = "network"
    """Whose past the histories are: the network's; its evaluation EMA's, as in DCKD; or, as a control of ours, that of
    another network, which trains beside it from other first weights on the same batches with L1 alone."""
    history_ema_decay: Share | None = None
    """Of an average of its own whose past the histories are, with history_of "ema"; None: the evaluation EMA. Ours."""
    noised_inputs: NonNegativeInt = 0
    """DCKD: further negatives, the first history's outputs for this many noised copies of lq."""
    negatives: Annotated[str, _among("history", "synthetic", "noise")] = "history"
    """"synthetic", for c2r: the degradation taken back in part, see `negatives.partly_restored`. "noise", a control of
    ours: the network's own output with white noise, as far away as the histories' outputs are."""
    curriculum: Annotated[str, _among("none", "measured")] = "none"
    """Of c2r over histories: "none" weights them alike, "measured" by their validation PSNR; ours."""

    # Approximations
    sampling: Annotated[str, _among("exact", "sampled")] = "exact"
    """"sampled": the term in one step of every k, drawn at random, against one random history and k times as strong.
    Its gradient is right on average, at nearly the price of a plain step; ours."""
    sampled_every: PositiveInt | None = None
    """k of "sampled"; None: the smallest with which a step costs at most 1.1 plain ones on average, see `macs`."""
    history_precision: Precision = "float32"
    """Of the history models; less loses the SPN gradient late in training."""
    features_precision: Precision = "float32"
    """Of the feature network; likewise."""

    # Guard
    guard: Annotated[str, _among("stop", "lower-lambda")] = "stop"
    """When the loss runs away: stop, or go on from the last checkpoint with half of lambda."""
    guard_r: PositiveFloat = 1.0
    """The largest r that is let pass."""
    guard_drop: PositiveFloat = 10.0
    """dB that validation may fall below its best."""

    # Logging
    log_every: PositiveInt = 10
    """Steps between two rows of the log."""
    val_every: NonNegativeInt = 100
    """Steps between validations; 0: only at the end."""
    val_side: PositiveInt | None = 128
    """Side of the centre square of each validation picture, gt pixels; None: whole pictures."""
    save_every: PositiveInt = 200
    """Steps between checkpoints."""

    def __init__(self, /, **fields):
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise ValueError(_sentence(error)) from None

    @pydantic.model_validator(mode="after")
    def _fields_fit_each_other(self) -> Recipe:
        task = tasks.get(self.task, self.scale)
        networks.options(self.network, self.network_size)  # "gpu" is not in every family
        scales = networks.NETWORKS[self.network].scales
        if self.scale not in scales:
            raise ValueError(
                f"network {self.network} has no scale {self.scale}, which task {self.task} asks for; it has "
                f"{', '.join(map(str, scales))}. Choose another network, task or scale."
            )
        _check_sizes(self, task.crop)
        _check_term(self)
        _ = self.weight  # not known in all features
        return self

    def replace(self, **changes) -> Recipe:
        """A copy with some fields changed, checked again; a change without effect is refused too.

        What is only carried along may have no effect: an SPN recipe becomes a plain one by
        `replace(objective="plain")`. Of lambda_neg, lambda_ratio and dose the one that is named replaces the others.
        """
        changed = Recipe(**_one_strength(dict(self), changes) | changes)
        _refuse_idle(changed, [name for name in changes if getattr(changed, name) != getattr(self, name)])
        return changed

    @property
    def clipping(self) -> float | None:
        """The largest gradient norm in effect."""
        return None if self.quirks == "official" else self.grad_clip

    @property
    def weight(self) -> float:
        """Lambda, which multiplies the objective's second term, by default as published; `weight_at` knows the steps.

        Raises:
            ValueError: none is known in these features. The term's gradient has another size in each feature network:
                C2R's published weight in lite0's features makes its gradient 3.5 times that of L1, VGG's 93 times.
        """
        if self.objective == "plain":
            return 0.0
        if self.lambda_ratio is not None or self.dose is not None:  # lambda is not known here; not 0, that is all
            return 1.0
        if self.lambda_neg is not None:
            return self.lambda_neg
        features = f"random {self.features}" if self.features_weights == "random" else self.features
        known = LAMBDAS.get(self.objective, {})
        if features not in known:
            published = ", ".join(f"{value:g} for {name}" for name, value in known.items()) or "none"
            raise ValueError(
                f"lambda_neg of objective {self.objective!r} is not known in the features of {features} (known: "
                f"{published}); give lambda_neg, a number >= 0, or a dose such as 0.1."
            )
        return known[features]

    def at(self, lambda_neg: float) -> Recipe:
        """With this lambda in place of a dose; a recipe that states no dose, or has no term, as it is."""
        if self.dose is None or self.objective == "plain":
            return self
        return Recipe(**dict(self) | dict(dose=None, lambda_neg=lambda_neg))

    @property
    def uses_history(self) -> bool:
        """Whether history models are kept: the objective asks for negatives, and they are not synthetic ones."""
        return self.objective in losses.USES_HISTORY and self.negatives != "synthetic"

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 1: a cosine that falls once or in waves, or halves."""
        if self.milestones:
            return self.learning_rate * 0.5 ** sum(step > milestone for milestone in self.milestones)
        turn = math.pi * (step - 1) / (self.cosine_steps or self.steps)
        low = self.learning_rate_min
        return low + 0.5 * (self.learning_rate - low) * (1 + math.cos(turn))

    def lambda_at(self, step: int) -> float:
        """Lambda around a step, counted from 1: 0 before `lambda_from`; it may fall as the learning rate does."""
        if step < self.lambda_from:
            return 0.0
        return self.weight * (self.learning_rate_at(step) / self.learning_rate if self.lambda_follows_rate else 1.0)

    @property
    def period(self) -> int:
        """Steps of which one has the term."""
        if self.sampling == "exact":
            return 1
        assert self.sampled_every is not None  # `macs.with_period` puts a number there
        return self.sampled_every

    def has_term(self, step: int) -> bool:
        """Whether a step, counted from 1, has the term: with sampling, one drawn from the seed of each `period`."""
        if self.period == 1:
            return True
        block, place = divmod(step - 1, self.period)
        return place == int(torch.randint(self.period, (), generator=stream(self.seed, "sampled step", block)))

    def weight_at(self, step: int) -> float:
        """What multiplies the term in a step: lambda, saved up for the step that is drawn."""
        return self.lambda_at(step) * self.period if self.has_term(step) else 0.0


# lambda per objective and feature network. SPN's kind, vgg16: the official perceptual_weight (for ImageNet weights);
# lite0: ours, so that r = lambda * l_neg / l_rec is near 0.01 early in the demo runs, the lower end of the authors'
# advice (0.005 to 0.02).
LAMBDAS = losses.OFFICIAL_LAMBDA | dict.fromkeys(
    ("spn", "history-positive", "spn-uncertainty", "spn-squared", "spn-huber"), {"lite0": 3e-4, "vgg16": 1e-3}
)
SOME_LAMBDA = 1e-6  # in place of a dose that nobody has measured, for what does not depend on it: time and memory
STRENGTH = ("lambda_neg", "lambda_ratio", "dose")  # three ways to say how strong the term is


# fmt: off
_SIZES: dict[str, dict[str, Any]] = {
    # for tests: seconds on one core
    "tiny": dict(network_size="tiny", steps=300, batch_size=4, patch_size=32, learning_rate=2e-3, ema_decay=0.8,
                 history_every=(50, 25, 10, 5), log_every=10, val_every=100, save_every=100, val_side=64),
    # two cores, minutes
    "demo": dict(network_size="demo", steps=800, batch_size=8, patch_size=48, learning_rate=4e-3, ema_decay=0.98,
                 history_every=(100, 50, 20, 10), log_every=20, val_every=100, save_every=100, dose=0.1),
    # one modest GPU, an hour
    "gpu": dict(network_size="paper", steps=20_000, batch_size=8, patch_size=128, learning_rate=2e-4,
                log_every=100, val_every=1000, save_every=1000, val_side=None),
    # the recipe of a network's authors, on RESIDE-6K their other one, see `paper_recipes`; without one, that of FFA-Net
    "paper": dict(network_size="paper", steps=500_000, batch_size=4, patch_size=128,
                  features="vgg16", history_start=0.1, log_every=100, val_every=5000, save_every=5000, val_side=None),
}
# what a task or network changes in a recipe; super-resolution works on lq pixels, so its gt patch is larger
_CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("tiny", "sr"): dict(patch_size=64, steps=400, learning_rate=4e-3),
    ("demo", "sr"): dict(steps=1200, patch_size=96),
    # a veil is seen on large patches
    ("demo", "dehaze"): dict(steps=1500, patch_size=128, batch_size=2, learning_rate=3e-3),
    ("tiny", "dehaze"): dict(patch_size=64, batch_size=2),
    ("gpu", "sr"): dict(patch_size=192, batch_size=16),
    ("gpu", "promptir"): dict(batch_size=4),  # 8 need more than 24 GB
}
# fmt: on


def names() -> list[str]:
    """The recipe names `get` accepts."""
    return list(_SIZES)


def get(name: str, task: str = "dehaze", **overrides) -> Recipe:
    """The recipe "tiny" (tests), "demo" (two cores, minutes), "gpu" (one modest GPU, an hour) or "paper" for a task.

    Args:
        overrides: fields of `Recipe`. A value that is given counts: val_side=None asks for whole pictures. `OWN`
            stands for one that is not given, and so does None for a field that cannot be None. quirks="official"
            starts histories with 0.1 of a random network and lets the cosine rise again after a fifth of the steps,
            unless these are given too.

    Raises:
        ValueError: an unknown name, an impossible value, or a setting that would have no effect, in one sentence.
    """
    check_choice("recipe", name, _SIZES)
    given = {field: value for field, value in overrides.items() if not _means_own(field, value)}
    table = _table(name, task, given)
    recipe = Recipe(**table | given)
    was = {field: info.default for field, info in Recipe.model_fields.items()} | table
    _refuse_idle(recipe, [field for field in given if getattr(recipe, field) != was[field]])
    return recipe


def _means_own(field: str, value) -> bool:
    """Whether a value stands for the recipe's own. Lambda's None does; an unknown field is refused later."""
    if value is None and field in Recipe.model_fields:
        return field == "lambda_neg" or type(None) not in get_args(Recipe.model_fields[field].annotation)
    return isinstance(value, str) and value == OWN


def _table(name: str, task: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fields that the named recipe sets for a task, and for what else was asked for."""
    chosen = tasks.get(task, given.get("scale"))
    network = given.get("network", chosen.network)
    fields = dict(name=name, task=task, network=chosen.network, scale=chosen.scale)
    fields |= _SIZES[name] | _CHANGES.get((name, task), {}) | _CHANGES.get((name, str(network)), {})
    if name == "paper":
        check_choice("network", network, networks.names())
        fields |= paper_recipes.fields(network, chosen.scale, given.get("dataset"))
        asked = dict(objective="spn", features="vgg16", features_weights=None) | given
        if asked["objective"] != "spn" or asked["features"] != "vgg16" or asked["features_weights"] == "random":
            fields.pop("lambda_neg", None)  # it is SPN's in these features
    fields = _one_strength(fields, given)
    if given.get("objective") == "spn-smooth":
        fields["history_of"] = "ema"
    if given.get("quirks") == "official":
        steps = given.get("steps", fields["steps"])
        fields |= dict(history_start=0.1, cosine_steps=max(1, steps // 5) if isinstance(steps, int) else None)
    if isinstance(given.get("history_every"), list | tuple):
        fields["history_decay"] = (0.1,) * len(given["history_every"])
    return fields


def _one_strength(carried: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """Fields without the strengths of the term that another one, named, takes the place of."""
    if all(named.get(field) is None for field in STRENGTH):
        return carried
    return {field: value for field, value in carried.items() if field not in STRENGTH or field in named}


def accepted() -> dict[str, Any]:
    """What the parameters of a notebook that become a recipe may be, for `notebook.check_parameters`.

    None stands for "the recipe's own", or is a value, see `get`, which checks the rest.
    """
    return {
        **dict(recipe=names(), task=tasks.names(), dataset=datasets.names(), objective=list(losses.OBJECTIVES)),
        **dict(network=[None, *networks.names()], features=[None, *FEATURES], compile=[None, *COMPILE]),
        **dict(precision=[None, *PRECISIONS], sampling=[None, "exact", "sampled"], scale=[None, 1, *tasks.SCALES]),
        **dict(seed=int, val_side=int | str | None, dose=float | str | None),
        **dict.fromkeys(("data_root", "features_weights", "initial_weights"), str | None),
        **dict.fromkeys(("steps", "batch_size", "accumulate", "patch_size"), int | None),
        **dict.fromkeys(("lambda_neg", "learning_rate", "history_start"), float | None),
        **dict.fromkeys(("history_every", "history_decay"), list | tuple | None),
    }


def _sentence(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong: field, what was found, what is accepted."""
    first = error.errors(include_url=False)[0]
    field, *place = first["loc"] or ("recipe",)
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        return f"unknown recipe field {field!r}{did_you_mean(field, Recipe.model_fields)}; see `Recipe` for its fields."
    if first["type"] == "missing":
        return f"{field} is {first['input']!r:.80}, too few values." if place else f"{field} is missing in the recipe."
    where = f"{field}[{place[0]}]" if place else field
    return f"{where} is {first['input']!r:.80}; {first['msg'].replace('Input should be', 'it must be')}."


def _check_sizes(recipe: Recipe, crop: int) -> None:
    """Refuse squares that do not fit networks or features, or of which scoring would leave nothing."""
    patch, unit, side = recipe.patch_size, 8 * recipe.scale, recipe.val_side
    if patch % unit or patch < 2 * unit:
        down = max(patch // unit, 2) * unit
        raise ValueError(
            f"patch_size {patch} must be a multiple of {unit} and at least {2 * unit} (8 lq pixels times scale "
            f"{recipe.scale}); use {down} or {down + unit}."
        )
    if side is not None and side < 2 * crop + recipe.scale:
        raise ValueError(
            f"val_side is {side}; at scale {recipe.scale} a border of {crop} is left out, so it must be at least "
            f"{2 * crop + recipe.scale}."
        )


def _check_term(recipe: Recipe) -> None:
    """Refuse a negative term that cannot be meant."""
    objective = recipe.objective
    if recipe.accumulate > recipe.batch_size:
        raise ValueError(f"accumulate is {recipe.accumulate}; it must be at most the batch_size, {recipe.batch_size}.")
    if recipe.accumulate > 1 and recipe.lambda_ratio is not None:
        raise ValueError("accumulate takes a batch in parts, and lambda_ratio looks at all of it; give lambda_neg.")
    if recipe.lambda_from > recipe.steps:
        raise ValueError(f"lambda_from is {recipe.lambda_from}; it must be a step from 0 to {recipe.steps}.")
    if len(recipe.history_every) != len(recipe.history_decay):
        raise ValueError(
            f"history_every has {len(recipe.history_every)} entries and history_decay {len(recipe.history_decay)}; "
            "give one decay per interval."
        )
    if recipe.uses_history and not recipe.history_every and (objective != "c2r" or recipe.noised_inputs):
        raise ValueError(f"history_every is empty, so {objective} has no negatives; give one interval or more.")
    if objective == "spn-uncertainty" and len(recipe.history_every) + recipe.noised_inputs < 2:
        raise ValueError(
            f"history_every is {recipe.history_every}, and spn-uncertainty needs the spread of two negatives or more; "
            "give another interval, or noised_inputs."
        )
    if objective == "c2r" and recipe.curriculum == "measured" and recipe.uses_history and recipe.noised_inputs:
        raise ValueError("curriculum 'measured' counts histories, and noised_inputs are none; leave one of them out.")
    if recipe.lambda_follows_rate and not recipe.learning_rate:
        raise ValueError("lambda_follows_rate has no learning_rate to follow where that is 0; leave one of them out.")
    if objective == "spn-smooth" and recipe.history_of != "ema":
        raise ValueError("history_of must be 'ema' for spn-smooth: its push is that of the EMA away from its own past.")
    if recipe.sampling == "sampled" and objective in losses.NEEDS_ALL_NEGATIVES:
        raise ValueError(f"sampling 'sampled' asks one history, and {objective} needs all of them; use 'exact'.")
    if recipe.sampling == "sampled" and recipe.lambda_ratio is not None:
        raise ValueError("sampling 'sampled' asks one history, and lambda_ratio needs all of them; use a dose instead.")
    if recipe.negatives == "synthetic" and objective in losses.USES_HISTORY - {"c2r"}:
        raise ValueError(f"negatives 'synthetic' belong to objective c2r, not to {objective}; use 'history' there.")
    if objective in ("c2r", "spn-smooth") and recipe.lambda_ratio is not None:
        raise ValueError(f"lambda_ratio does not go with {objective}; give it a lambda_neg, or a dose such as 0.1.")


HISTORY_FIELDS = (
    *("history_every", "history_decay", "history_start", "history_threshold", "history_of"),
    *("history_precision", "lambda_ratio", "sampling", "sampled_every", "noised_inputs"),
)
TERM_FIELDS = (
    *("lambda_neg", "dose", "lambda_from", "lambda_follows_rate", "features", "features_weights", "negatives"),
    *("features_precision", "guard", "guard_r", "guard_drop"),
)
LAMBDA_FIELDS = ("lambda_follows_rate", "guard")  # they act on lambda, which lambda_ratio sets anew


def _refuse_idle(recipe: Recipe, given: list[str]) -> None:
    """Refuse a setting that would change nothing, or would let the rate rise, among the fields that were given."""
    for fields, reason in _idle_fields(recipe):
        for field in fields:
            value, default = getattr(recipe, field), Recipe.model_fields[field].default
            clash = field in LAMBDA_FIELDS and recipe.lambda_ratio is not None and "lambda_ratio" in given
            if value != default and (field in given or clash):
                raise ValueError(f"{field} {value!r} would have no effect: {reason}.")
    low, high = recipe.learning_rate_min, recipe.learning_rate
    if low > high and not recipe.milestones and {"learning_rate_min", "learning_rate"} & set(given):
        raise ValueError(f"learning_rate_min is {low:g}; it must be at most learning_rate, {high:g}: give both.")


def _idle_fields(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str]]:
    """Fields without effect in this recipe, and why."""
    objective = recipe.objective
    if objective == "plain":
        yield TERM_FIELDS, "objective plain has no second term"
    if not recipe.uses_history:
        which = f"objective {objective}" if recipe.negatives != "synthetic" else "c2r with synthetic negatives"
        yield HISTORY_FIELDS, f"{which} has no history models"
    if recipe.history_threshold is not None:
        yield ("history_decay",), "the adaptive rule of history_threshold keeps 0.001 of the old copy"
    if recipe.history_of != "ema":
        yield ("history_ema_decay",), "the histories are not those of an average; use history_of 'ema'"
    if recipe.sampling == "exact":
        yield ("sampled_every",), "sampling 'exact' has the term in every step"
    if objective != "c2r" or not recipe.uses_history:
        yield ("curriculum",), "a curriculum is for objective c2r over histories"
    elif not recipe.val_every:
        yield ("curriculum",), "validations measure the histories, and val_every is 0"
    if objective not in losses.USES_HISTORY:
        yield ("negatives",), f"objective {objective} takes no negatives"
    if recipe.lambda_ratio is not None:
        yield ("lambda_neg", "dose", *LAMBDA_FIELDS), "lambda_ratio sets lambda anew in each step"
    if recipe.dose is not None:
        yield ("lambda_neg",), "lambda follows from the dose"
    if recipe.milestones:
        yield ("cosine_steps", "learning_rate_min"), "milestones halve the rate, in place of the cosine"
    if not all(0 < milestone < recipe.steps for milestone in recipe.milestones):
        yield ("milestones",), f"of {recipe.steps} steps the rate can be halved after steps 1 to {recipe.steps - 1}"
    if recipe.initial_weights is not None:
        yield ("history_start",), "with initial_weights the histories start as exact copies of them"
    else:
        yield ("initial_entry", "initial_strict"), "there is no file of initial_weights"
    if recipe.continues is not None:
        yield ("initial_weights", "history_start"), "the run that is continued brings its networks"
    if recipe.dataset == "embedded":
        yield ("data_root",), "the embedded photographs need no folder; give a dataset too, such as 'folder'"
