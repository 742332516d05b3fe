"""The run folder: what a run writes (see `FILES`), and reading it back.

Files are written aside, flushed and renamed; tensors never travel as pickles.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from mclir_nb import did_you_mean, files, networks, root
from mclir_nb.data import datasets, tasks
from mclir_nb.training import checkpoint
from mclir_nb.training.recipes import Recipe

FILES = {
    "recipe.json": "every field of the recipe",
    "dose.json": "lambda as it was chosen for the recipe's dose, and the dose at each look it was chosen from",
    "own.json": "source of your own network, task or objective",
    "provenance.json": "versions, device, revision, feature network, fingerprints of the data",
    "log.csv": "losses, r, dose, progress and gap of the histories, validation: one row per logging step",
    "scores.csv": "input, restored and EMA scores: one row per test picture",
    "checkpoint.safetensors": "everything a resumed run needs",
    "checkpoint-previous.safetensors": "the checkpoint before it, in case that is damaged",
    "model.safetensors": "the trained network",
    "ema.safetensors": "its evaluation EMA",
    "history.safetensors": "the history models",
    "frames.safetensors": "moments of the run: what network and histories made of one picture",
}
# fields of a recipe that say where something lies; those of a start, and the file that counts in a run folder
STARTS = {"initial_weights": "model.safetensors", "continues": checkpoint.FILE}
PLACES = ("data_root", "features_weights", *STARTS)
RETIRED = dict(negatives_every=1, features_crop=None)  # of older recipes; what meant nothing


def different_fields(old: Recipe, new: Recipe, places: Sequence[str] = ()) -> str:
    """The fields in which two recipes differ, as one readable phrase; empty if none.

    What the fields `PLACES` name is compared by its content, not by its path, except for those in `places`.
    """
    moved = {name for name in PLACES if name not in STARTS or None not in (getattr(old, name), getattr(new, name))}
    names = [name for name in Recipe.model_fields if name not in moved or name in places]
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    return ", ".join(f"{name}: {a!r} there, {b!r} now" for name, a, b in pairs if a != b)


def start_file(recipe: Recipe, field: str) -> Path | None:
    """The file that a field of `STARTS` names, in a run folder or by itself; None if the recipe names none."""
    if (place := getattr(recipe, field)) is None:
        return None
    place = Path(place).expanduser()
    return place / STARTS[field] if place.is_dir() else place


def read_recipe(run_dir: Path) -> Recipe:
    """The recipe of a run folder. Raises ValueError for a folder without, and for one of another version."""
    file = run_dir / "recipe.json"
    if not file.exists():
        raise ValueError(f"{run_dir} is not a run folder: it has no recipe.json.")
    fields = files.read_json(file)
    if fields.pop("history_draw", False):  # the former name
        fields |= {"sampling": "sampled", "sampled_every": fields.pop("negatives_every", None)}
    fields = {name: value for name, value in fields.items() if name not in RETIRED or value != RETIRED[name]}
    if unknown := sorted(set(fields) - set(Recipe.model_fields)):
        raise ValueError(f"{file} is not a recipe of this version: it has the fields {', '.join(unknown)}.")
    try:
        return Recipe(**fields)
    except ValueError as error:
        own = " If it is your own, run the cell or import the module that adds it; own.json beside it keeps the source."
        raise ValueError(f"{file}: {error}{own if str(error).startswith('unknown') else ''}") from error


def runs_dir() -> Path:
    """The folder runs/ of the workbook, or the one that the variable MCLIR_NB_RUNS names."""
    return Path(os.environ.get("MCLIR_NB_RUNS") or root() / "runs")


def default_dir(recipe: Recipe) -> Path:
    """Where a run goes when nothing else is said: runs/TASK-NETWORK-OBJECTIVE-RECIPE-SEED, see `runs_dir`."""
    parts = (recipe.task, recipe.network, recipe.objective, recipe.name, recipe.seed)
    return runs_dir() / "-".join(map(str, parts))


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run, read from its folder."""

    dir: Path

    @property
    def recipe(self) -> Recipe:
        return read_recipe(self.dir)

    @property
    def provenance(self) -> dict:
        return files.read_json(self.dir / "provenance.json")

    @property
    def log(self) -> pd.DataFrame:
        """One row per logging step: step, l_rec, l_neg, r, lr, distances of the histories, validation PSNR, seconds."""
        return pd.DataFrame(files.read_rows(self.dir / "log.csv"))

    @property
    def scores(self) -> pd.DataFrame:
        """One row per test image: image, psnr_input, psnr_restored, ssim_input, ssim_restored, psnr_ema, ssim_ema."""
        return files.read_table(self.dir / "scores.csv")

    @property
    def is_finished(self) -> bool:
        """Whether training and scoring came to their end; the scores are written last."""
        return all((self.dir / name).is_file() for name in ("model.safetensors", "ema.safetensors", "scores.csv"))

    def files(self) -> pd.DataFrame:
        """What the folder holds: file, size in kB, content."""
        there = [(self.dir / name, what) for name, what in FILES.items() if (self.dir / name).is_file()]
        rows = [(file.name, round(file.stat().st_size / 1000), what) for file, what in there]
        return pd.DataFrame(rows, columns=["file", "kB", "holds"])

    def model(self) -> networks.Restorer:
        """The trained network (raw weights), in eval mode on the CPU."""
        return self._load(build_network(self.recipe), "model.safetensors")

    def ema_model(self) -> networks.Restorer:
        """The evaluation EMA of the trained network."""
        return self._load(build_network(self.recipe), "ema.safetensors")

    def history_models(self) -> list[networks.Restorer]:
        """The history models as they stood after the last step, in the order of `recipe.history_every`."""
        if not self.recipe.uses_history:
            raise ValueError(f"{self.dir} has no history models: its objective, {self.recipe.objective}, keeps none.")
        histories = [build_network(self.recipe) for _ in self.recipe.history_every]
        return list(self._load(nn.ModuleList(histories), "history.safetensors"))

    def _load(self, network, name: str):
        """The network with the weights in a file of the folder, in eval mode."""
        if not (self.dir / name).is_file():
            there = [other for other in ("model.safetensors", "ema.safetensors") if (self.dir / other).is_file()]
            hint = f"the files of weights in it are {', '.join(there) or 'none'}; give such a file instead"
            if not (self.dir / "scores.csv").is_file():
                hint = "the run is not finished; run the same command again to continue it"
            raise ValueError(f"{self.dir} has no {name}: {hint}.")
        try:
            network.load_state_dict(files.read_tensors(self.dir / name)[0])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.dir / name} does not fit the recipe beside it ({reason}).") from error
        return network.eval()


def build_network(recipe: Recipe) -> networks.Restorer:
    """The network a recipe names, with torch's current random state deciding its initial weights."""
    return networks.build(recipe.network, recipe.scale, **networks.options(recipe.network, recipe.network_size))


def where_data_lie(place: str | Path, recipe: Recipe, benchmark: str, data_root=None) -> tuple[str | None, str | None]:
    """Where a run's network is to be scored, and the folder of own pictures it has learnt from, as it is called now.

    A folder that was moved is known by its content: of the pictures in it only those held out are scored.

    Args:
        place: the run folder, or a file in it.
        benchmark: the data set to score on, in `data_root`; None: where that of the run is, if it is the same set.

    Returns:
        Data_root and trained_on of `datasets.open_set`.
    """
    learnt_from = recipe.data_root if recipe.dataset == "folder" else None
    if benchmark != recipe.dataset:
        return data_root, learnt_from
    if data_root is None or learnt_from is None:
        return data_root or recipe.data_root, learnt_from
    place = Path(os.path.expanduser(place))
    folder = place if place.is_dir() else place.parent
    kept = files.read_json(folder / "provenance.json").get("content", {}).get("train")
    try:
        train = datasets.open_splits(benchmark, tasks.get(recipe.task, recipe.scale), data_root)["train"]
    except ValueError:  # what cannot be shared out was not trained on
        return data_root, learnt_from
    return data_root, data_root if train.fingerprint() == kept else learnt_from


def shipped(task: str, scale: int | None = None) -> Path:
    """The weights that come along for a task: a file for `open_checkpoint`, with the recipe, log and scores beside it.

    Raises ValueError for a task or scale (of super-resolution; None: 4) without weights, naming those with.
    """
    chosen = tasks.get(task, scale)  # refuses another word, or a scale that the task has not
    name = f"sr-x{chosen.scale}" if task == "sr" else task
    found = {place.parent.name: place for place in sorted((root() / "data" / "weights").glob("*/ema.safetensors"))}
    if name not in found:
        wanted, *there = (each.replace("sr-x", "sr --scale ") for each in (name, *found))
        raise ValueError(
            f"no weights come along for {wanted}, only for {', '.join(there)}; give a checkpoint, or train one: "
            f"`python -m mclir_nb train --task {wanted} --out RUN`."
        )
    return found[name]


def open_checkpoint(
    place: str | Path, network: str | None = None, scale: int | None = None, task: str | None = None, entry=None
) -> tuple[networks.Restorer, Recipe | None]:
    """A trained network on the CPU in eval mode, and the recipe of its run; None for a file of weights without a run.

    Args:
        place: a run folder, a file of weights in one, or any other file of weights.
        network: which network a file is for; None: that of its run, or the default of `task`.
        scale: of super-resolution; None: that of the run, or 4.
        task: what it was trained for; None: that of the run.
        entry: which network of a file that holds several, such as "params_ema".

    Raises:
        ValueError: for a place that does not exist, a file that says not what it is for, and for a network, scale or
            task that contradicts the run.
    """
    place = Path(place).expanduser()
    if not place.exists():
        beside = [other.name for other in place.parent.iterdir()] if place.parent.is_dir() else []
        raise ValueError(
            f"checkpoint {place} does not exist{did_you_mean(place.name, beside)}; give a run folder or a file of "
            "weights."
        )
    folder, recipe = place if place.is_dir() else place.parent, None
    if place.is_dir() or (not network and (folder / "recipe.json").is_file()):
        recipe = read_recipe(folder)
        for name, given in (("network", network), ("scale", scale), ("task", task)):
            if given not in (None, own := getattr(recipe, name)):
                raise ValueError(f"{name} {given} contradicts {folder}: that run has {name} {own}; leave {name} out.")
        if place.is_dir() and entry:
            raise ValueError("an entry is for a file of weights; of a run folder name the file: ema.safetensors.")
        if place.is_dir():
            return Run(folder).model(), recipe
        built = build_network(recipe)
    else:
        if not task and network in networks.NETWORKS and networks.NETWORKS[network].task == "sr":
            task = "sr"
        chosen = tasks.get(task, scale) if task else None
        network = network or (chosen.network if chosen else None)
        if not network:
            raise ValueError(f"give the network for the file {place}; one of {', '.join(networks.names())}.")
        built = networks.build(network, chosen.scale if chosen else scale or 1)
    networks.load_checkpoint(built, place, entry)
    return built.eval(), recipe
