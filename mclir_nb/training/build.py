"""The parts of a run, built from its recipe: data, networks, history models, features, negatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mclir_nb import networks, stream
from mclir_nb.data import checks, datasets, tasks
from mclir_nb.data.image_set import ImageSet
from mclir_nb.data.patches import Benchmark, Patches
from mclir_nb.data.tasks import Task
from mclir_nb.method import features, precision
from mclir_nb.method.history import HistoryModels
from mclir_nb.method.negatives import Negatives
from mclir_nb.training import checkpoint, distributed, records
from mclir_nb.training.recipes import Recipe


class Data(NamedTuple):
    """The pictures of a run: patches to train on (on several processes, this one's share), to validate, to score."""

    task: Task
    sets: dict[str, ImageSet]  # by split
    patches: Patches
    validation: Benchmark
    test: Benchmark


def make_data(recipe: Recipe) -> Data:
    """The pictures that a recipe names. Raises ValueError for what cannot be trained on."""
    task = tasks.get(recipe.task, recipe.scale)
    sets = datasets.open_splits(recipe.dataset, task, recipe.data_root)
    checks.check_trained(sets["train"], task, recipe.patch_size)
    share = distributed.batch_share(recipe.batch_size)
    patches = Patches(sets["train"], task, recipe.patch_size, recipe.batch_size, recipe.seed, share)
    return Data(task, sets, patches, Benchmark(sets["val"], task, recipe.val_side), Benchmark(sets["test"], task))


def check_scored_pictures(data: Data) -> None:
    """Read every picture that will be scored: a bad one is better met before the first step than after the last."""
    checks.check_scored(data.sets["val"], data.task, 1)
    checks.check_scored(data.sets["test"], data.task, checks.SMALLEST_SCORED)


def make_network(recipe: Recipe, device: torch.device, *key) -> nn.Module:
    """A freshly initialised network whose weights depend on the seed and `key` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(recipe.seed, *key).initial_seed())
        network = records.build_network(recipe)
    network = network.to(device)
    for weight in network.parameters():
        if weight.ndim == 4:  # PromptIR's prompts have five dimensions, which Module.to(memory_format=) refuses
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network.train()


def make_start(recipe: Recipe, device: torch.device) -> nn.Module:
    """The network as training begins: drawn from the seed, or with the recipe's initial weights.

    Raises ValueError if they are not there, or not of this network, with what does not fit.
    """
    network, file = make_network(recipe, device, "weights"), records.start_file(recipe, "initial_weights")
    if file is None:
        return network
    try:
        return networks.load_checkpoint(network, file, recipe.initial_entry, strict=recipe.initial_strict)
    except ValueError as error:
        raise ValueError(
            f"initial_weights: {error}. The recipe's network is {recipe.network} of network_size "
            f"{recipe.network_size!r}; published weights are of size 'paper'. initial_strict=False takes what fits."
        ) from error


def make_optimiser(recipe: Recipe, network: nn.Module) -> torch.optim.AdamW:
    """The recipe's optimiser for a network; the learning rate is set in each step."""
    rate, betas, decay = recipe.learning_rate, recipe.betas, recipe.weight_decay
    return torch.optim.AdamW(network.parameters(), lr=rate, betas=betas, weight_decay=decay, fused=True)


def make_history(recipe: Recipe, model: nn.Module, device: torch.device) -> HistoryModels | None:
    """The history models, copies of the model with a share of fresh networks; None for objectives without."""
    if not recipe.uses_history:
        return None
    numbers = iter(range(len(recipe.history_every)))
    return HistoryModels(
        model,
        recipe.history_every,
        recipe.history_decay,
        0.0 if recipe.initial_weights else recipe.history_start,
        fresh=lambda: make_network(recipe, device, "history", next(numbers)),
    )


def make_features(recipe: Recipe, device: torch.device) -> nn.Module | None:
    """The network in whose features distances are measured; None for the plain objective."""
    if recipe.objective == "plain":
        return None
    network = features.build(recipe.features, recipe.features_weights)
    return network.to(device, memory_format=torch.channels_last)


def check_weights(recipe: Recipe) -> None:
    """Refuse a recipe whose files of weights are missing, before its data are read. Raises ValueError."""
    file, weights = records.start_file(recipe, "initial_weights"), recipe.features_weights
    if file and not file.is_file():
        raise ValueError(f"initial_weights: {file} does not exist; give a file of weights or the folder of a run.")
    if recipe.objective == "plain" or weights in ("download", "random"):
        return
    try:
        features.locate(recipe.features, weights)
    except ValueError as error:
        raise ValueError(f"features_weights is {weights!r}: {error}") from error


def make_negatives(recipe: Recipe, history: HistoryModels | None, model: nn.Module | None = None) -> Negatives:
    """The negatives that a recipe asks for, of these history models; noise needs the network around whose output."""
    return Negatives(
        history,
        seed=recipe.seed,
        draw=recipe.sampling == "sampled",
        precision=recipe.history_precision,
        noised=recipe.noised_inputs,
        synthetic=recipe.negatives == "synthetic",
        noise_around=model if recipe.negatives == "noise" else None,
        parts=recipe.accumulate,
        share=(distributed.rank(), distributed.world_size()),
    )


class Companion:
    """Another network beside a run, whose past is a foreign past: does it have to be one's own history?

    It begins with other first weights and learns from the run's own batches with L1 alone, in float32, at the same
    learning rate.
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe, self.device = recipe, device
        self.model = make_network(recipe, device, "another")
        self.parallel = distributed.data_parallel(self.model)
        self.optimiser = make_optimiser(recipe, self.model)

    def advance(self, gt: Tensor, lq: Tensor, step: int) -> None:
        """One step on a batch, (B, 3, H, W) and (B, 3, h, w) in [0, 1]; `step` is that of the run."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        self.optimiser.zero_grad()
        count = self.recipe.accumulate
        with precision.autocast("float32", self.device):
            for true, given in zip(gt.chunk(count), lq.chunk(count), strict=True):
                (F.l1_loss(self.parallel(given), true) * (len(true) / len(gt))).backward()
        self.optimiser.step()

    def state_dict(self) -> dict:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()["state"]}

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        checkpoint.load_moments(self.optimiser, state.get("optimiser", {}))
