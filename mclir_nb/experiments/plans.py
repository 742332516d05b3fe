"""The experiments, as they were decided before their first run; `recording` runs and records them.

    S    plain training, SPN and the sampled step, which costs about what plain training costs
    D    dose-response: how does the gain depend on the dose?
    D2   on rain, where D's seeds scatter most, with eight fresh seeds beside them
    D3   eight more: D2's intervals are wider than 0.08 dB to each side, and its hint is of seeds that were seen
    V    variants of SPN, and controls, at equal dose
    R    the rivals at equal dose
    L    a small learning rate, a longer run, histories as old as the official ones
    C2   three tasks, with more pictures than C1; dehazing waits for photographs with depth
    B2   what is left of B1's variants, at equal dose
    E1   on a GPU: super-resolution x4 with EDSR as large as the paper's baseline
    E2   on a GPU: dehazing with FFA-Net of 3 x 6 blocks, on RESIDE's indoor photographs
    E5   on a GPU: super-resolution x4 with SwinIR-light

All but E1, E2 and E5 fit two cores and an evening to a week. Objectives are compared at equal dose, the length of the
second term's part of an optimiser step beside that of L1; lambda follows from it before a run, see `training.dose`.
Experiments of one setting keep their runs in one folder, so that an arm that several of them have is trained once. A
decision is not changed once a run of it has been started: give the changed experiment another name. C1 and A1 are older
and weaker: one lambda for every task, so unequal doses, ten training and four test pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from mclir_nb import check_choice
from mclir_nb.data import tasks
from mclir_nb.experiments import compare, intervals
from mclir_nb.experiments.compare import Arm, Job
from mclir_nb.training import recipes
from mclir_nb.training.recipes import Recipe


@dataclass(frozen=True)
class Experiment:
    """What is compared, decided beforehand."""

    name: str  # of the record
    question: str  # that it is to answer
    recipe: str  # name of a recipe
    tasks: tuple[str, ...]  # one plan for each, one after the other
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    changes: dict = field(default_factory=dict)  # recipe fields in which all arms differ from the named recipe
    by_task: dict[str, dict] = field(default_factory=dict)  # further ones of a task
    baseline: str = "plain"  # name of the arm that the others are compared with
    runs: str = ""  # name of the folder of its runs, below runs/; "": that of the experiment
    seen: int = 0  # so many of its seeds, the first, had been seen in another record when this was decided

    def plan(self, seeds: int | None = None, **changes) -> list[Job]:
        """The runs of the first so many decided seeds (None: all), task by task; `changes`: such as data_root."""
        if seeds is not None and not 1 <= seeds <= len(self.seeds):
            raise ValueError(f"{self.name} has {len(self.seeds)} decided seeds; {seeds} is not one to that many")
        chosen = self.seeds[:seeds]
        return [job for recipe in self.recipes(**changes) for job in compare.plan(recipe, self.arms, chosen)]

    def recipes(self, **changes) -> list[Recipe]:
        """What the arms have in common, one recipe per task."""
        common = {task: self.changes | self.by_task.get(task, {}) | changes for task in self.tasks}
        return [recipes.get(self.recipe, task, **fields) for task, fields in common.items()]

    def continues(self, other: Experiment) -> bool:
        """Whether this is another decided experiment with more seeds, so that its runs say what the other's do."""
        same = (self.tasks, self.arms, self.baseline) == (other.tasks, other.arms, other.baseline)
        return same and 0 < self.seen == len(other.seeds) and self.seeds[: self.seen] == other.seeds

    def decision(self) -> dict:
        """What is fixed before the first run, as facts that JSON can hold; a record is of one decision."""
        shared, settings, arms = self.recipes(), [], []
        for recipe in shared:
            task = tasks.get(recipe.task, recipe.scale)
            setting = {
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
            settings.append(setting)
        for arm in self.arms:
            own = shared[0].replace(**arm.changes)
            known = own.objective == "plain" or (own.lambda_ratio is None and own.dose is None)
            weight = own.weight if known else None  # None: follows from what the term turns out to be
            changes = {"changes": dict(arm.changes), "at_cost_of": arm.at_cost_of}
            arms.append({"name": arm.name} | changes | {"lambda_neg": weight})
        facts: dict = {"question": self.question, "recipe": self.recipe, "changes": self.changes, "settings": settings}
        facts |= {"arms": arms, "seeds": self.seeds, "baseline": self.baseline, "scores": intervals.BOTH}
        facts |= {"seen": self.seen} if self.seen else {}
        return json.loads(json.dumps(facts))  # lists for tuples, as they come back from a file


DOSE = 0.1  # of every arm with a second term, where the dose itself is not what is varied
OTHER_DOSES = (0.02, 0.05, 0.2, 0.4)


def at_dose(name: str, objective: str = "spn", dose: float = DOSE, **changes) -> Arm:
    """An arm whose second term has a dose."""
    return Arm(name, {"objective": objective, "dose": dose} | changes)


PLAIN, SPN = Arm("plain", {"objective": "plain"}), at_dose("spn")
TOWARDS = at_dose("history-positive", "history-positive")
SAMPLED = at_dose("sampled", sampling="sampled")
SMOOTH = at_dose("smooth", "spn-smooth", history_of="ema", history_ema_decay=0.995)  # a mean over 200 steps
SLOW_SMOOTH = at_dose("smooth", "spn-smooth", history_of="ema", history_ema_decay=0.998)  # over 500 steps
EQUAL_COST = Arm("plain at equal cost", {"objective": "plain"}, at_cost_of="spn")
UNDOSED = Arm("spn", {"objective": "spn"})  # of the older experiments: lambda 0.0003 for every task

# Photographs of BSDS500, tested on the 100 of B100. Deraining learns from images/test alone: the clean pictures of the
# public rain benchmarks are photographs of images/train. Validation is only looked at, and costs time.
_BSDS: dict = dict(dataset="bsds500", log_every=40, val_every=400)
_DEMO: dict = dict(recipe="demo", tasks=("sr", "derain"), seeds=tuple(range(8)), changes=_BSDS, runs="demo-bsds500")
_DEMO |= dict(by_task={"derain": dict(dataset="bsds500-test")})
_FIVE: dict = dict(seeds=tuple(range(5)))
_GPU: dict = dict(recipe="gpu") | _FIVE
_LONG: dict = dict(steps=10_000, learning_rate=4e-4, ema_decay=0.998, log_every=100, val_every=2000)
_LONG |= dict(history_every=(1000, 500, 200, 100))

# A1, at CPU size. Intervals of the tiny recipe are 50, 25, 10, 5 steps, lambda is 0.0003; lambda x 0 is plain.
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
    Arm("history-positive", {"objective": "history-positive"}),
)
_ALL = ("dehaze", "derain", "deblur", "sr")

_DECIDED = (
    Experiment(
        "S",
        "Does the sampled step do what exact SPN does, and does plain training do as well?",
        arms=(PLAIN, SPN, SAMPLED),
        baseline="spn",
        **_DEMO,
    ),
    Experiment(
        "D",
        "How does the gain of SPN depend on its dose?",
        arms=(*(PLAIN, SPN), *(at_dose(f"spn {dose}", dose=dose) for dose in OTHER_DOSES), TOWARDS),
        **_DEMO,
    ),
    Experiment(
        "D2",
        "With twice the seeds on rain: does SPN gain, or its opposite, moving towards the past?",
        arms=(PLAIN, SPN, TOWARDS),
        seen=8,
        **_DEMO | dict(tasks=("derain",), seeds=tuple(range(16))),
    ),
    Experiment(
        "D3",
        "With three times the seeds on rain: does SPN gain, or its opposite, moving towards the past?",
        arms=(PLAIN, SPN, TOWARDS),
        seen=16,
        **_DEMO | dict(tasks=("derain",), seeds=tuple(range(24))),
    ),
    Experiment(
        "V",
        "Which part of SPN does the work, and does any variant give more, at the same dose?",
        arms=(
            *(PLAIN, SPN, EQUAL_COST, SAMPLED),
            at_dose("histories of the EMA", history_of="ema"),
            SMOOTH,
            at_dose("oldest history", history_every=(100,), history_decay=(0.1,)),
            at_dose("squared", "spn-squared"),
            *(at_dose(name, name) for name in ("ratio", "margin", "infonce")),
            at_dose("another's past", history_of="another"),
            at_dose("noise", negatives="noise"),
        ),
        **_DEMO,
    ),
    Experiment(
        "R",
        "Do SPN and the published rivals gain over plain training at the same dose?",
        arms=(PLAIN, SPN, *(at_dose(name, name) for name in ("vgg", "cr", "c2r", "pcl"))),
        **_DEMO | _FIVE,
    ),
    Experiment(
        "L",
        "Does SPN gain at a small learning rate, in a long run, with the official intervals?",
        recipe="demo",
        tasks=("sr",),
        arms=(PLAIN, SPN, SLOW_SMOOTH),
        changes=_BSDS | _LONG,
        **_FIVE,
    ),
    Experiment(
        "C2",
        "Does SPN help small networks, at the same dose, on any of three tasks?",
        arms=(PLAIN, SPN, SMOOTH, EQUAL_COST),
        **_DEMO | dict(tasks=("sr", "derain", "deblur")),
    ),
    Experiment(
        "B2",
        "Do SPN and the variants of B1 gain over plain training at the same dose?",
        arms=(
            *(PLAIN, SPN, EQUAL_COST),
            at_dose("geometric ages", history_every=(128, 32, 8, 2)),
            at_dose("lambda falls with the rate", lambda_follows_rate=True),
            at_dose("huber", "spn-huber"),
            at_dose("weighted by uncertainty", "spn-uncertainty"),
        ),
        **_DEMO | _FIVE,
    ),
    Experiment(
        "E1",
        "Does SPN help an EDSR of paper size in super-resolution x4, at the same dose?",
        tasks=("sr",),
        arms=(PLAIN, SPN, SLOW_SMOOTH, SAMPLED, EQUAL_COST),
        changes=dict(dataset="bsds500"),
        **_GPU,
    ),
    Experiment(
        "E2",
        "Does SPN help FFA-Net of 3 x 6 blocks on indoor haze, at the same dose?",
        tasks=("dehaze",),
        arms=(PLAIN, SPN, SLOW_SMOOTH, SAMPLED, EQUAL_COST),
        changes=dict(network_size="gpu", dataset="reside-its"),
        **_GPU,
    ),
    Experiment(
        "E5",
        "Does SPN help SwinIR-light in super-resolution x4, at the same dose?",
        tasks=("sr",),
        arms=(PLAIN, SPN),
        changes=dict(network="swinir-light", dataset="bsds500"),
        **_GPU,
    ),
    Experiment(
        "C1",
        "Does SPN help small networks on a CPU, on any of four tasks?",
        recipe="demo",
        tasks=_ALL,
        by_task=dict.fromkeys(_ALL, dict(dose=None)),  # decided before there was one
        arms=(PLAIN, UNDOSED),
        **_FIVE,
    ),
    Experiment(
        "A1",
        "Which of SPN's settings matters in a very small derain run?",
        recipe="tiny",
        tasks=("derain",),
        arms=(PLAIN, UNDOSED, *_ABLATED),
        seeds=(0, 1, 2),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _DECIDED}

# fmt: off
ARMS = {  # of the experiments at equal dose: what an arm changes, and what it asks
    "plain": ("L1 alone", "what all others are compared with"),
    "spn": ("away from the outputs of four history models", "does the push help?"),
    **{f"spn {dose}": (f"spn at a dose of {dose}, not {DOSE}", "how much of it is best?") for dose in OTHER_DOSES},
    "plain at equal cost": ("plain, for as many steps as SPN's multiplications pay for", "are more steps worth more?"),
    "history-positive": ("towards the histories' outputs, not away", "is it the direction that matters?"),
    "sampled": ("the term in one random step of several, against one random history and as many times as strong",
                "does a step at nearly the price of plain do the same?"),
    "histories of the EMA": ("histories are copies of the averaged weights, as in DCKD", "does a calmer past help?"),
    "smooth": ("the direction in which an average of the weights left its own past, applied to the network",
               "does a direction without the wobble of single steps help?"),
    "oldest history": ("one history, the one refreshed least often", "are four worth their price?"),
    "squared": ("squared distances in place of absolute ones", "does a push that fades with the distance help?"),
    "ratio": ("distance to the truth / distance to the histories, minimised (DCKD)", "does a bounded term help?"),
    "margin": ("the push stops once the distance is large enough (SEC-Depth)", "does a push that knows an end help?"),
    "infonce": ("the truth is to be told from the histories by its distance (PNE-Net)", "does a bounded term help?"),
    "another's past": ("away from the past of another network, which trains beside it", "must it be the own past?"),
    "noise": ("away from the own output plus noise, as far away as the histories", "must it be a past at all?"),
    "vgg": ("nearer to the truth in features, no negative (FFA-Net's option)", "is the push needed?"),
    "cr": ("nearer to the truth than to the degraded input (AECR-Net)", "is the input as good a negative?"),
    "c2r": ("cr with the histories as further negatives (C2PNet, without its curriculum)", "are histories better?"),
    "pcl": ("nearer to sharpened than to blurred truths (PCL, with the gradient its code loses)",
            "are made negatives better ones?"),
    "geometric ages": ("history refreshes a factor of 4 apart", "do ages that spread evenly help?"),
    "lambda falls with the rate": ("lambda follows the learning rate to zero", "is the push too strong at the end?"),
    "huber": ("distances that are squared near zero, absolute far away", "do the signs of tiny distances harm?"),
    "weighted by uncertainty": ("L1 counts more where the histories disagree", "is their spread worth something?"),
}
# fmt: on


def get(name: str) -> Experiment:
    """The experiment called `name`; ValueError with the names there are."""
    check_choice("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
