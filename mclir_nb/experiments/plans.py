"""The experiments, as they were decided before their first run; `experiments` runs and records them.

C1, A1 and B1 fit a laptop. E1 to E7 need a GPU, in this order; one that does not fit is cut in seeds, never in arms.
A decision is not changed once a run of it has been started: give the changed experiment another name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mclir_nb.experiments import compare
from mclir_nb.experiments.compare import Arm, Job
from mclir_nb.training import recipes


@dataclass(frozen=True)
class Experiment:
    """What is compared, decided beforehand.

    Attributes:
        name: of the record. question: what it is to answer.
        recipe: name of a recipe; changes: fields in which all arms differ from it.
        tasks: one plan for each. arms, seeds: as in `compare.plan`. baseline: name of an arm.
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
        for task in self.tasks:
            recipe = recipes.get(self.recipe, task, **self.changes | changes)
            jobs += compare.plan(recipe, self.arms, self.seeds[:seeds])
        return sorted(jobs, key=lambda job: job.recipe.seed)


PLAIN, SPN = Arm("plain", {"objective": "plain"}), Arm("spn", {"objective": "spn"})
EQUAL_TIME = Arm("plain at equal time", {"objective": "plain"}, as_long_as="spn")
POSITIVE = Arm("history-positive", {"objective": "history-positive"})
HELD = Arm("r held at 0.05", {"objective": "spn", "lambda_ratio": 0.05})

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
# E1 to E5, of which the recipe `gpu` decides the rest. Haze needs depth layers, so it is made on the embedded
# photographs; everything else trains on BSDS500. Features are the embedded ones, so that no file has to be fetched.
_SR = {"dataset": "bsds500", "steps": 20_000, "batch_size": 16, "patch_size": 192}
_HAZE = {"network_size": "gpu", "steps": 20_000, "batch_size": 8, "patch_size": 128}
_PHOTO = {"network": "nafnet", "network_size": "gpu", "dataset": "bsds500", "steps": 20_000, "batch_size": 8}
_RIVALS = (*compare.arms(["vgg", "cr"]), POSITIVE, EQUAL_TIME)
_FIVE, _THREE = (0, 1, 2, 3, 4), (0, 1, 2)
_BEYOND_GPU = (
    Arm("one random history", {"history_draw": True}),
    Arm("geometric ages", {"history_every": (1000, 100, 10, 1)}),
    Arm("switched on half way", {"lambda_from": 10_001}),
    *_BEYOND[3:],
)
_ABLATED_GPU = (
    *_ABLATED[:2],
    Arm("one history", {"history_every": (200,), "history_decay": (0.1,)}),
    Arm("two histories", {"history_every": (500, 100), "history_decay": (0.1, 0.1)}),
    Arm("slow average", {"history_every": (1,), "history_decay": (0.999,)}),
    *_ABLATED[7:],
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
            name="B1",
            question="Does a variant of SPN give more than SPN in a very small derain run?",
            recipe="tiny",
            tasks=("derain",),
            arms=(PLAIN, SPN, EQUAL_TIME, *_BEYOND),
            seeds=(0, 1, 2),
        ),
        Experiment(
            name="E1",
            question="Does SPN help EDSR at paper size, and is it the history that helps?",
            recipe="gpu",
            tasks=("sr",),
            arms=(PLAIN, SPN, HELD, *_RIVALS),
            seeds=_FIVE,
            changes=_SR,
        ),
        Experiment(
            name="E2",
            question="Does SPN help FFA-Net, and is it the history that helps?",
            recipe="gpu",
            tasks=("dehaze",),
            arms=(PLAIN, SPN, HELD, *_RIVALS, Arm("c2r with own histories", {"objective": "c2r", "lambda_neg": 0.2})),
            seeds=_FIVE,
            changes=_HAZE,
        ),
        Experiment(
            name="E3",
            question="Does SPN help NAFNet of width 16 against rain?",
            recipe="gpu",
            tasks=("derain",),
            arms=(PLAIN, SPN, POSITIVE),
            seeds=_FIVE,
            changes=_PHOTO,
        ),
        Experiment(
            name="E4",
            question="Does SPN help NAFNet of width 16 against camera shake?",
            recipe="gpu",
            tasks=("deblur",),
            arms=(PLAIN, SPN, POSITIVE),
            seeds=_FIVE,
            changes=_PHOTO,
        ),
        Experiment(
            name="E5",
            question="Does SPN help SwinIR-light?",
            recipe="gpu",
            tasks=("sr",),
            arms=(PLAIN, SPN),
            seeds=_THREE,
            changes=_SR | {"network": "swinir-light"},
        ),
        Experiment(
            name="E6",
            question="Which of SPN's settings matters?",
            recipe="gpu",
            tasks=("dehaze",),
            arms=(PLAIN, SPN, *_ABLATED_GPU),
            seeds=_THREE,
            changes=_HAZE | {"steps": 8_000},
        ),
        Experiment(
            name="E7-sr",
            question="Does a variant of SPN give more than SPN, for EDSR?",
            recipe="gpu",
            tasks=("sr",),
            arms=(PLAIN, SPN, EQUAL_TIME, *_BEYOND_GPU),
            seeds=_THREE,
            changes=_SR,
        ),
        Experiment(
            name="E7-dehaze",
            question="Does a variant of SPN give more than SPN, for FFA-Net?",
            recipe="gpu",
            tasks=("dehaze",),
            arms=(PLAIN, SPN, EQUAL_TIME, *_BEYOND_GPU),
            seeds=_THREE,
            changes=_HAZE,
        ),
    )
}
