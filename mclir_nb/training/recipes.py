"""Recipes: everything that decides a training run, as one frozen value.

The device is not part of a recipe: the same recipe is the same experiment everywhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from mclir_nb import networks
from mclir_nb.data import datasets, tasks
from mclir_nb.method import losses, precision
from mclir_nb.training import paper_recipes

PRECISIONS = precision.NAMES
FEATURES = ("lite0", "vgg16", "vgg19")


@dataclass(frozen=True)
class Recipe:
    """One training run. Sources are given where a default follows the official recipe.

    "official" below is options/FFANet_RESIDE_IN_fromScratch.yml of Aitical/MCLIR @ e42fb40 as its code reads it.
    """

    name: str  # tiny, demo, gpu or paper: which row of the table this started from
    task: str
    network: str  # public name, see networks.names()
    network_size: str  # "paper", or a smaller member of the family: "gpu" (some), "demo", "tiny"
    steps: int  # optimiser steps
    batch_size: int  # patches per step
    patch_size: int  # gt pixels, square
    scale: int = 1  # gt pixels per lq pixel
    objective: str = "spn"
    lambda_neg: float | None = None  # weight of the term beside L1; None: the objective's own, for these features
    features: str = "lite0"  # network in whose features distances are measured
    features_weights: str | None = None  # file of VGG weights, "download" or "random"; None: embedded (lite0 only)
    learning_rate: float = 2e-4  # official
    learning_rate_min: float = 1e-8  # official eta_min
    cosine_steps: int | None = None  # half period of the cosine; None: `steps`, one fall. Official: 100k of 500k
    milestones: tuple[int, ...] = ()  # steps after which the rate is halved, instead of the cosine
    betas: tuple[float, float] = (0.9, 0.9)  # official AdamW
    weight_decay: float = 0.0  # official
    grad_clip: float | None = None  # largest gradient norm; official: none, its key `use_grad_norm` is never read
    ema_decay: float = 0.999  # of the evaluation EMA (never a history model); official
    history_every: tuple[int | None, ...] = (1000, 500, 200, 100)  # steps between refreshes, one per history; official
    history_decay: tuple[float, ...] = (0.1, 0.1, 0.1, 0.1)  # weight kept from the old copy; official
    history_start: float = 0.0  # share of a fresh random network in the first copies; official 0.1
    history_threshold: float | None = (
        None  # the authors' adaptive rule instead of the schedule: while the error spreads wider, one history in turn
        # is refreshed; official 0.022
    )
    history_draw: bool = False  # one history per step, drawn at random: right on average, at the cost of one; ours
    lambda_from: int = 0  # step before which lambda is 0; ours
    lambda_follows_rate: bool = False  # lambda falls as the learning rate does; ours
    lambda_ratio: float | None = (
        None  # r = lambda * l_neg / l_rec is held at this value, whatever lambda that takes; ours. Authors: 0.01 to 0.1
    )
    precision: str = "float32"  # of the trained network, see precision.NAMES; "float32" is without TF32
    history_precision: str = "float32"  # of the history models; less loses the SPN gradient late in training
    features_precision: str = "float32"  # of the feature network; likewise
    negatives: str = "history"  # "synthetic" for c2r: see negatives.partly_restored
    curriculum: str = "none"  # c2r over histories: "none" weights them alike, "measured" by their validation PSNR
    negatives_every: int = 1  # approximation: the term in every k-th step only, k times as strong
    features_crop: int | None = None  # approximation: side of the square of the patch that features see, gt pixels
    guard: str = "stop"  # when the loss runs away: "stop", or "lower-lambda" from the last checkpoint on
    guard_r: float = 1.0  # the largest r that is let pass
    guard_drop: float = 10.0  # dB that validation may fall below its best
    quirks: str = "none"  # "official": mixed start, a cosine that rises again, grad_clip never read; see get
    dataset: str = "embedded"
    data_root: str | None = None
    seed: int = 0
    log_every: int = 10  # steps
    val_every: int = 100  # steps; 0: only at the end
    val_side: int | None = 128  # centre square of each validation picture; None: whole pictures
    save_every: int = 200  # steps between checkpoints

    def __post_init__(self):
        _check(self)

    def replace(self, **changes) -> Recipe:
        """A copy with some fields changed, checked again."""
        _known(changes)
        return dataclasses.replace(self, **changes)

    @property
    def clipping(self) -> float | None:
        """The largest gradient norm in effect: with the official quirks, the key is there and never read."""
        return None if self.quirks == "official" else self.grad_clip

    @property
    def weight(self) -> float:
        """The number that multiplies the objective's second term."""
        return default_lambda(self.objective, self.features) if self.lambda_neg is None else self.lambda_neg


# lambda of SPN per feature network. vgg16: the official perceptual_weight (for ImageNet weights). lite0: ours, so that
# r = lambda * l_neg / l_rec is near 0.01 early in the demo runs, the lower end of the authors' advice (0.005 to 0.02).
# vgg19 is the feature network of CR and C2R; with SPN its lambda is not tuned.
SPN_LAMBDA = {"lite0": 3e-4, "vgg16": 1e-3, "vgg19": 1e-3}


def default_lambda(objective: str, features: str) -> float:
    """The weight of an objective's second term when the recipe gives none."""
    if objective == "plain":
        return 0.0
    if objective in ("spn", "history-positive", "spn-uncertainty", "spn-squared", "spn-huber"):
        return SPN_LAMBDA[features]
    if objective not in losses.OFFICIAL_LAMBDA:
        raise ValueError(f"objective {objective!r} has no weight of its own; give lambda_neg, a number >= 0.")
    return losses.OFFICIAL_LAMBDA[objective][0]


_SIZES: dict[str, dict[str, Any]] = {
    # for tests: seconds on one core
    "tiny": dict(network_size="tiny", steps=300, batch_size=4, patch_size=32, learning_rate=2e-3, ema_decay=0.8,
                 history_every=(50, 25, 10, 5), log_every=10, val_every=100, save_every=100, val_side=64),
    # two cores, minutes
    "demo": dict(network_size="demo", steps=800, batch_size=8, patch_size=48, learning_rate=4e-3, ema_decay=0.98,
                 history_every=(100, 50, 20, 10), log_every=20, val_every=100, save_every=100),
    # one modest GPU, an hour
    "gpu": dict(network_size="paper", steps=20_000, batch_size=8, patch_size=128, learning_rate=2e-4,
                log_every=100, val_every=1000, save_every=1000, val_side=None),
    # the recipe of a network's authors, see `paper_recipes`; for a network without one, that of FFA-Net
    "paper": dict(network_size="paper", steps=500_000, batch_size=4, patch_size=128,
                  features="vgg16", history_start=0.1, log_every=100, val_every=5000, save_every=5000, val_side=None),
}  # fmt: skip

# what a task changes in a recipe; super-resolution works on lq pixels, so its gt patch is larger
_TASK_CHANGES = {
    ("tiny", "sr"): dict(patch_size=64, steps=400, learning_rate=4e-3),
    ("demo", "sr"): dict(steps=1200, patch_size=96),
    # a veil is seen on large patches
    ("demo", "dehaze"): dict(steps=1500, patch_size=128, batch_size=2, learning_rate=3e-3),
    ("tiny", "dehaze"): dict(patch_size=64, batch_size=2),
    ("gpu", "sr"): dict(patch_size=192, batch_size=16),
}


def names() -> list[str]:
    """The recipe names `get` accepts."""
    return list(_SIZES)


def get(name: str, task: str = "dehaze", **overrides) -> Recipe:
    """The named recipe for a task, with some fields changed.

    Args:
        name: "tiny" (tests), "demo" (two cores, minutes), "gpu" (one modest GPU, an hour) or "paper".
        task: one of `tasks.names()`.
        overrides: fields of `Recipe`; None means "the recipe's own". quirks="official" starts histories with 0.1 of a
            random network and lets the cosine rise again after a fifth of the steps, unless these are given too.
    Raises: ValueError for unknown names and impossible values, saying what is accepted.
    """
    if not isinstance(name, str) or name not in _SIZES:
        raise ValueError(f"unknown recipe {name!r}{_near(name, _SIZES)} The recipes are: {', '.join(_SIZES)}.")
    overrides = {key: value for key, value in overrides.items() if value is not None}
    _known(overrides)
    scale = tasks.get(task, overrides.get("scale")).scale
    fields = _SIZES[name] | _TASK_CHANGES.get((name, task), {})
    fields = dict(network=tasks.get(task).network, scale=scale) | fields
    if name == "paper":
        fields |= paper_recipes.fields(overrides.get("network", fields["network"]), scale)
    if overrides.get("quirks") == "official":
        steps = overrides.get("steps", fields["steps"])
        fields |= dict(history_start=0.1, cosine_steps=max(1, steps // 5))
    fields |= overrides
    if isinstance(overrides.get("history_every"), tuple) and "history_decay" not in overrides:
        fields["history_decay"] = (0.1,) * len(fields["history_every"])
    return Recipe(name=name, task=task, **fields)


def accepted() -> dict[str, Any]:
    """What the parameters of a notebook that become a recipe may be, as `notebook.check_parameters` wants it.

    Lists of values or types; None stands for "the recipe's own". `get` checks numbers and lengths.
    """
    return {
        "recipe": names(),
        "task": tasks.names(),
        "network": [None, *networks.names()],
        "objective": list(losses.OBJECTIVES),
        "scale": [None, 1, *tasks.SCALES],
        "dataset": datasets.names(),
        "features": [None, *FEATURES],
        "precision": [None, *PRECISIONS],
        "seed": int,
        **dict.fromkeys(("data_root", "features_weights"), str | None),
        **dict.fromkeys(("steps", "batch_size", "patch_size"), int | None),
        **dict.fromkeys(("lambda_neg", "learning_rate", "history_start"), float | None),
        **dict.fromkeys(("history_every", "history_decay"), list | tuple | None),
    }


def _near(name, accepted) -> str:
    near = difflib.get_close_matches(str(name), accepted, 1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _known(fields: dict) -> None:
    accepted = [f.name for f in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in accepted:
            raise ValueError(f"unknown recipe field {name!r}{_near(name, accepted)} Fields: {', '.join(accepted)}.")


_TYPES = {field.name: field.type for field in dataclasses.fields(Recipe)}


def _fits(value, kind) -> bool:
    """Whether a value is of an annotated type; a whole number is a float, True is no number."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        right = len(value) == len(parts) or parts[-1] is ... if isinstance(value, tuple) else False
        return right and all(_fits(one, parts[0]) for one in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return math.isfinite(value)
    kind = numbers.Integral if kind in (int, float) else kind
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _check(recipe: Recipe) -> None:
    """Refuse what cannot be trained, with what is accepted."""
    for name, kind in get_type_hints(Recipe).items():
        value = getattr(recipe, name)
        if not _fits(value, kind):
            raise ValueError(f"{name} is {str(value)[:80]!r}; it must be of type {_TYPES[name]}, and finite.")
    for field, value, accepted in (
        ("task", recipe.task, tasks.names()),
        ("network", recipe.network, networks.names()),
        ("objective", recipe.objective, list(losses.OBJECTIVES)),
        ("precision", recipe.precision, PRECISIONS),
        ("history_precision", recipe.history_precision, PRECISIONS),
        ("features_precision", recipe.features_precision, PRECISIONS),
        ("negatives", recipe.negatives, ("history", "synthetic")),
        ("curriculum", recipe.curriculum, ("none", "measured")),
        ("guard", recipe.guard, ("stop", "lower-lambda")),
        ("quirks", recipe.quirks, ("none", "official")),
        ("features", recipe.features, FEATURES),
        ("dataset", recipe.dataset, datasets.names()),
        ("network_size", recipe.network_size, ("paper", "gpu", "demo", "tiny")),
    ):
        if value not in accepted:
            raise ValueError(f"{field} {value!r} is unknown{_near(value, accepted)} Accepted: {', '.join(accepted)}.")
    networks.options(recipe.network, recipe.network_size)  # "gpu" not in every family
    for field in ("steps", "batch_size", "patch_size", "log_every", "save_every"):
        value = getattr(recipe, field)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{field} is {value!r}; it must be a whole number of at least 1.")
    if not isinstance(recipe.lambda_from, int) or not 0 <= recipe.lambda_from <= recipe.steps:
        raise ValueError(f"lambda_from is {recipe.lambda_from!r}; it must be a step between 0 and {recipe.steps}.")
    if recipe.lambda_ratio is not None and not (
        0 <= recipe.lambda_ratio < 1 and recipe.objective in losses.USES_HISTORY - {"c2r"}
    ):
        raise ValueError(
            f"lambda_ratio is {recipe.lambda_ratio!r} with objective {recipe.objective}; it must be at least 0 and "
            "below 1, and the objective one of spn's kind or history-positive."
        )
    if recipe.history_draw and recipe.objective == "spn-uncertainty":
        raise ValueError("history_draw leaves one history in a step, and spn-uncertainty needs the spread of two.")
    if recipe.history_threshold is not None and not recipe.history_threshold >= 0:
        raise ValueError(
            f"history_threshold is {recipe.history_threshold!r}; it must be a number >= 0 (official 0.022), or None "
            "for the schedule of history_every."
        )
    for field in ("learning_rate", "learning_rate_min", "ema_decay", "history_start", "betas", "history_decay"):
        value = getattr(recipe, field)
        if not all(0 <= one <= 1 for one in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{field} is {value!r}; it must lie between 0 and 1.")
    for field in ("weight_decay", "val_every", "history_every", "grad_clip", "cosine_steps", "val_side"):
        value = getattr(recipe, field)
        if not all((one or 0) >= 0 for one in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{field} is {value!r}; it must not be negative.")
    _ = recipe.weight  # an objective of one's own has none unless it is given
    if recipe.lambda_neg is not None and not 0 <= recipe.lambda_neg < float("inf"):
        raise ValueError(f"lambda_neg is {recipe.lambda_neg!r}; it must be a number >= 0 (the sign is in the loss).")
    if len(recipe.history_every) != len(recipe.history_decay):
        raise ValueError(
            f"history_every has {len(recipe.history_every)} entries and history_decay {len(recipe.history_decay)}; "
            "give one decay per interval."
        )
    _check_negatives(recipe)
    if recipe.patch_size % (8 * recipe.scale) or recipe.patch_size // recipe.scale < 16:
        unit = 8 * recipe.scale
        down = max(recipe.patch_size // unit, 2) * unit
        raise ValueError(
            f"patch_size {recipe.patch_size} must be a multiple of {unit} and at least {16 * recipe.scale} "
            f"(8 lq pixels times scale {recipe.scale}); use {down} or {down + unit}."
        )


def _check_negatives(recipe: Recipe) -> None:
    """Refuse approximations that cannot be meant."""
    if not isinstance(recipe.negatives_every, int) or recipe.negatives_every < 1:
        raise ValueError(f"negatives_every is {recipe.negatives_every!r}; it must be a whole number, 1 or more.")
    if recipe.negatives_every > 1 and recipe.objective == "c2r":
        raise ValueError("negatives_every is for objectives with histories alone; c2r needs its negatives, use 1.")
    if recipe.curriculum == "measured" and recipe.history_draw:
        raise ValueError("curriculum 'measured' weights all histories; with history_draw leave it at 'none'.")
    side = recipe.features_crop
    if side is not None and (side % 8 or not 16 <= side <= recipe.patch_size):
        raise ValueError(
            f"features_crop is {side}; it must be a multiple of 8 from 16 to the patch_size {recipe.patch_size}."
        )
    if recipe.negatives == "synthetic" and recipe.objective != "c2r":
        raise ValueError(
            f"negatives 'synthetic' belong to objective c2r, not to {recipe.objective}; use 'history' there."
        )
    for field in ("guard_r", "guard_drop"):
        if not getattr(recipe, field) > 0:
            raise ValueError(f"{field} is {getattr(recipe, field)!r}; it must be a number above 0.")
