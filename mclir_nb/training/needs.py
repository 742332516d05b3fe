"""The memory of a training step, predicted from one patch before it runs, and whether a GPU has that much."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mclir_nb.evaluation import memory
from mclir_nb.method import distances, precision
from mclir_nb.training import distributed, macs, records
from mclir_nb.training.recipes import Recipe

MODEST = 24e9  # bytes of the GPU that the recipes are looked at for, where there is none
SPARE = 1.15  # work space of operations, and gaps between tensors


class Needs(NamedTuple):
    """Bytes that tensors hold in a step."""

    between: int  # what stays between steps: weights, gradients, two moments, EMA, histories
    patch: int  # kept for the backward pass, per patch
    maps: int  # of the feature network, per image that it looks at at a time
    images: int  # that it looks at at a time, at most
    part: int  # patches that are taken at a time

    @property
    def bytes(self) -> int:
        """At the peak of a step."""
        return self.between + self.part * self.patch + min(self.part, self.images) * self.maps


def of(recipe: Recipe, device: torch.device | str = "cpu", kind: str = "") -> Needs:
    """What a step of a recipe needs in each process, from one patch on a device; nothing is trained.

    `kind`: "cuda" on a CPU tells what it would be on a GPU.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        network = records.build_network(recipe).to(device)
    foreign = recipe.uses_history and recipe.history_of == "another"  # it trains in float32, after the network's step
    with precision.autocast("float32" if foreign else recipe.precision, device):
        patch = memory.kept_for_backward(network, macs.picture(recipe.patch_size // recipe.scale, device))
    copies = 5 + (len(recipe.history_every) if recipe.uses_history else 0)
    copies += (4 if foreign else 0) + (recipe.history_ema_decay is not None)
    stays, part = copies * memory.size(network), _part(recipe, recipe.accumulate)
    if recipe.objective == "plain":
        return Needs(stays, patch, 0, 0, part)
    net, image = macs.feature_network(recipe).to(device), macs.picture(recipe.patch_size, device)
    asked = macs.histories_asked(recipe)
    with precision.autocast(recipe.features_precision, device):
        with torch.no_grad():
            maps = sum(layer.nbytes for layer in net(image).values())
        maps = memory.kept_for_backward(net, image.requires_grad_()) + asked * maps
    pixels = distances.pixels_at_once(net, torch.device(kind or device.type))
    images = max(1, pixels // ((1 + asked) * recipe.patch_size**2))
    return Needs(stays + memory.size(net), patch, maps, images, part)


def _part(recipe: Recipe, parts: int) -> int:
    """Patches that each process takes at a time, with its share of a batch in so many parts."""
    return -(-recipe.batch_size // (distributed.world_size() * parts))


def note(recipe: Recipe, device: torch.device) -> str:
    """A sentence for a recipe whose step is predicted not to fit the device, else nothing.

    On a CPU the recipes that are meant for a GPU, "gpu" and "paper", are looked at for one of 24 GB.
    """
    if device.type == "cpu" and recipe.name not in ("gpu", "paper"):
        return ""
    has = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else MODEST
    found = of(recipe, device, "cuda")
    if SPARE * found.bytes <= has:
        return ""
    wanted = (
        f"A step is predicted to need {SPARE * found.bytes / 1e9:.0f} GB, more than a GPU of {has / 1e9:.0f} GB has"
    )
    most = _part(recipe, 1)
    for parts in range(recipe.accumulate + 1, most + 1):
        less = SPARE * found._replace(part=_part(recipe, parts)).bytes
        if less <= has:
            return f"{wanted}: accumulate={parts} takes the batch in {parts} parts and needs {less / 1e9:.0f} GB."
    return f"{wanted}, even with accumulate={most}: turn patch_size down."
