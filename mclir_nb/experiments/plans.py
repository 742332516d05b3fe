"""The experiments, as they were decided before their first run; `evidence` runs and records them.

They fit a laptop. A decision is not changed once a run of it has been started: give the changed experiment another
name. B2 takes the place of B1, whose control at equal time rested on timings of a busy machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from mclir_nb.data import tasks
from mclir_nb.experiments import compare
from mclir_nb.experiments.compare import Arm, Job
from mclir_nb.training import recipes
from mclir_nb.training.recipes import Recipe


@dataclass(frozen=True)
class Experiment:
    """What is compared, decided beforehand.

    Attributes:
        name: of the record.
        question: what it is to answer.
        recipe: name of a recipe.
        tasks: one plan for each.
        arms, seeds: as in `compare.plan`.
        changes: recipe fields in which all arms differ from the named recipe.
        baseline: name of the arm that the others are compared with.
        scores: keys of `intervals.SCORES`, compared each for itself.
    """

    name: str
    question: str
    recipe: str
    tasks: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    changes: dict = field(default_factory=dict)
    baseline: str = "plain"
    scores: tuple[str, ...] = ("psnr_raw", "psnr_ema")

    def plan(self, seeds: int | None = None, **changes) -> list[Job]:
        """The runs of the first so many decided seeds (None: all), seed by seed; changes: such as data_root."""
        if seeds is not None and not 1 <= seeds <= len(self.seeds):
            raise ValueError(f"{self.name} has {len(self.seeds)} decided seeds; {seeds} is not one to that many")
        jobs: list[Job] = []
        for recipe in self.recipes(**changes):
            jobs += compare.plan(recipe, self.arms, self.seeds[:seeds])
        return sorted(jobs, key=lambda job: job.recipe.seed)

    def recipes(self, **changes) -> list[Recipe]:
        """What the arms have in common, one recipe per task."""
        return [recipes.get(self.recipe, task, **self.changes | changes) for task in self.tasks]

    def decision(self) -> dict:
        """What is fixed before the first run, as facts that JSON can hold; a record is of one decision."""
        shared = self.recipes()
        arms = []
        for arm in self.arms:
            own = shared[0].replace(**arm.changes)
            known = own.lambda_ratio is None and own.dose is None
            weight = own.weight if known else None  # None: follows from what the term turns out to be
            arms.append(
                {"name": arm.name, "changes": dict(arm.changes), "at_cost_of": arm.at_cost_of, "lambda_neg": weight}
            )
        facts = {
            "question": self.question,
            "recipe": self.recipe,
            "changes": self.changes,
            "settings": [_setting(recipe) for recipe in shared],
            "arms": arms,
            "seeds": self.seeds,
            "baseline": self.baseline,
            "scores": self.scores,
        }
        return json.loads(json.dumps(facts))  # lists for tuples, as they come back from a file


def _setting(recipe: Recipe) -> dict:
    """What is trained on what, and how it is scored."""
    task = tasks.get(recipe.task, recipe.scale)
    return {
        "task": f"{recipe.task} x{recipe.scale}" if recipe.scale > 1 else recipe.task,
        "network": f"{recipe.network} ({recipe.network_size})",
        "data": recipe.dataset,
        "steps": recipe.steps,
        "batch": recipe.batch_size,
        "patch": recipe.patch_size,
        "histories every": recipe.history_every,
        "features": recipe.features,
        "protocol": f"{task.protocol}, border {task.crop}",
    }


PLAIN, SPN = Arm("plain", {"objective": "plain"}), Arm("spn", {"objective": "spn"})
EQUAL_COST = Arm("plain at equal cost", {"objective": "plain"}, at_cost_of="spn")
POSITIVE = Arm("history-positive", {"objective": "history-positive"})

# The ablation at CPU size. Intervals of the tiny recipe are 50, 25, 10, 5 steps, lambda is 0.0003; lambda x 0 is plain.
_ABLATED = (
    Arm("lambda x 0.1", {"lambda_neg": 3e-5}),
    Arm("lambda x 10", {"lambda_neg": 3e-3}),
    Arm("one history", {"history_every": (10,), "history_decay": (0.1,)}),
    Arm("two histories", {"history_every": (25, 5), "history_decay": (0.1, 0.1)}),
    Arm("refreshed 4 times less often", {"history_every": (200, 100, 40, 20)}),
    Arm("slow average", {"history_every": (1,), "history_decay": (0.98,)}),  # looks back 50 steps, the longest interval
    Arm("first weights, frozen", {"history_every": (0,), "history_decay": (0.1,)}),
    Arm("random network, frozen", {"history_every": (0,), "history_decay": (0.1,), "history_start": 1.0}),
    Arm("official start", {"history_start": 0.1}),
    Arm("adaptive rule", {"history_threshold": 0.022}),
    POSITIVE,
)
# Variants that might give more than SPN at equal or lower cost. "squared" and "huber" have the lambda of SPN: half way
# through a tiny run their distances are as large as the L1 distance.
_BEYOND = (
    Arm("one random history", {"history_draw": True}),
    Arm("geometric ages", {"history_every": (64, 16, 4, 1)}),
    Arm("switched on half way", {"lambda_from": 151}),
    Arm("lambda falls with the rate", {"lambda_follows_rate": True}),
    Arm("squared distance", {"objective": "spn-squared"}),
    Arm("huber distance", {"objective": "spn-huber"}),
    Arm("weighted by uncertainty", {"objective": "spn-uncertainty"}),
)

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            name="C1",
            question="Does SPN help small networks on a CPU, on any of four tasks?",
            recipe="demo",
            tasks=("dehaze", "derain", "deblur", "sr"),
            arms=(PLAIN, SPN),
            seeds=(0, 1, 2, 3, 4),
        ),
        Experiment(
            name="A1",
            question="Which of SPN's settings matters in a very small derain run?",
            recipe="tiny",
            tasks=("derain",),
            arms=(PLAIN, SPN, *_ABLATED),
            seeds=(0, 1, 2),
        ),
        Experiment(
            name="B2",
            question="Does a variant of SPN give more than SPN, or than plain at its cost, in a very small derain run?",
            recipe="tiny",
            tasks=("derain",),
            arms=(PLAIN, SPN, EQUAL_COST, *_BEYOND),
            seeds=(0, 1, 2),
        ),
    )
}
