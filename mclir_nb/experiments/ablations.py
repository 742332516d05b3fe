"""Ablations by name: the arms of one question, relative to a recipe, for `compare.plan`."""

from __future__ import annotations

from mclir_nb import check_choice
from mclir_nb.experiments.compare import Arm
from mclir_nb.training.recipes import Recipe

QUESTIONS = {
    "lambda": "How strong should the push be?",
    "histories": "How many history models?",
    "schedule": "How often should they be refreshed?",
    "memory": "Nearly a copy at each refresh, or a slow average?",
    "negatives": "Does it have to be the network's own past?",
    "start": "Exact first copies, or the official mix with a random network?",
    "features": "In whose features is the distance measured?",
    "rule": "The schedule, or the authors' adaptive rule?",
    "sign": "Away from the past, or towards it?",
}


def names() -> list[str]:
    """The sweeps that `arms` knows."""
    return list(QUESTIONS)


def arms(name: str, recipe: Recipe, dose: float | None = None) -> list[Arm]:
    """Plain, SPN as the recipe has it, and what the sweep changes.

    Args:
        name: one of `names()`.
        recipe: whose lambda and intervals the arms are multiples of.
        dose: of the second term, the same for all arms, see `training.dose`; the sweep
            "lambda" has multiples of it. None: the recipe's own, or its lambda.
    """
    check_choice("sweep", name, QUESTIONS)
    dose = recipe.dose if dose is None else dose
    spn = recipe.replace(objective="spn")
    every, decay = spn.history_every, spn.history_decay
    longest = max(interval or 1 for interval in every)  # 0 and None: never refreshed
    random_vgg = {"features": "vgg16", "features_weights": "random"}
    frozen = {"history_every": (0,), "history_decay": decay[:1]}
    field, base = ("lambda_neg", spn.weight) if dose is None else ("dose", dose)
    changes: dict[str, dict[str, dict]] = {
        "lambda": {f"{field.removesuffix('_neg')} x {f:g}": {field: base * f} for f in (0.1, 3, 10)},
        "histories": {
            f"{count} of {len(every)}": {"history_every": every[-count:], "history_decay": decay[-count:]}
            for count in range(1, len(every))
        },
        "schedule": {f"{f} times less often": {"history_every": tuple(f * (e or 0) for e in every)} for f in (2, 4)},
        "memory": {"slow average": {"history_every": (1,), "history_decay": (1 - 1 / longest,)}},
        "negatives": {"first weights, frozen": frozen, "random network, frozen": frozen | {"history_start": 1.0}},
        "start": {"official mix": {"history_start": 0.1}},
        "features": {"random VGG16": random_vgg if dose else random_vgg | {"lambda_neg": spn.weight}},
        "rule": {"adaptive": {"history_threshold": 0.022}},
        "sign": {"history-positive": {"objective": "history-positive"}},
    }
    strength = {} if dose is None else {"dose": dose}
    terms = {"spn": {}} | changes[name]
    return [
        Arm("plain", {"objective": "plain"}),
        *(Arm(arm, {"objective": "spn"} | strength | own) for arm, own in terms.items()),
    ]
