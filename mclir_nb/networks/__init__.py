"""Every network of the paper behind one door: RGB in [0, 1] of any size in, that size times `scale` out.

Each family has a file with the bare network (official constructor names and state_dict keys), with
`SIZES`, its constructor options, and where something surrounds it (normalisation, padding, tiling, cropping) with
`restore(core, image)`. To add a network, write such a file and add one line to `NETWORKS`; to try one of your
own from a notebook, `NETWORKS["mine"] = own(MyClass)` is enough.
"""

import copy
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mclir_nb import check_choice, whole
from mclir_nb.networks import checkpoints, dehazeformer, edsr, ffanet, idt, nafnet, promptir, swinir

__all__ = ["NETWORKS", "Restorer", "build", "check_finite", "load_checkpoint", "names", "options", "own", "table"]

SMALLEST = 16  # pixels; the least height and width every network accepts


class Network(NamedTuple):
    """One line of the table below."""

    family: ModuleType | SimpleNamespace  # the file, or what stands for it: SIZES and, where needed, restore
    core: Callable[..., nn.Module]
    paper: str  # the key of SIZES with the published options
    scales: tuple[int, ...]
    task: str
    year: int
    reference: str


X1, SR = (1,), (2, 3, 4)


def own(
    core: Callable[..., nn.Module],
    restore: Callable[[nn.Module, Tensor], Tensor] | None = None,
    scales: tuple[int, ...] = X1,
    **options: Any,
) -> Network:
    """A line for the table, of a network that is not in the package: `NETWORKS["mine"] = own(MyClass, width=16)`.

    Args:
        core: the class, or a function that returns a module: (B, 3, H, W) in [0, 1] in, the same size times the scale
            out, for any H and W from 16 on.
        restore: (core, lq) -> restored, for a core that wants other input, such as padded sizes; None: core(lq).
        scales: the scales it has. With others than 1 the core is built with `upscale=scale`.
        options: constructor options; every size of a recipe uses them.
    """
    family = SimpleNamespace(SIZES=dict.fromkeys(("paper", "demo", "tiny"), options))
    if restore:
        family.restore = restore
    return Network(family, core, "paper", tuple(scales), "own", 0, "own")


_DEHAZEFORMER = "DehazeFormer, arXiv:2204.03883"
NETWORKS = {
    "ffanet": Network(ffanet, ffanet.FFANet, "paper", X1, "dehaze", 2020, "FFA-Net, arXiv:1911.07559"),
    **{
        f"dehazeformer-{size}": Network(
            dehazeformer, dehazeformer.DehazeFormer, size, X1, "dehaze", 2023, _DEHAZEFORMER
        )
        for size in "tsbml"
    },
    "idt": Network(idt, idt.IDT, "paper", X1, "derain", 2022, "IDT, Xiao et al., TPAMI 2022"),
    "swinir-light": Network(swinir, swinir.SwinIR, "light", SR, "sr", 2021, "SwinIR lightweight, arXiv:2108.10257"),
    "swinir": Network(swinir, swinir.SwinIR, "classical", SR, "sr", 2021, "SwinIR classical, arXiv:2108.10257"),
    "edsr": Network(edsr, edsr.EDSR, "paper", SR, "sr", 2017, "EDSR baseline, arXiv:1707.02921"),
    "nafnet": Network(nafnet, nafnet.NAFNet, "32", X1, "deblur", 2022, "NAFNet width 32, arXiv:2204.04676"),
    "nafnet-64": Network(nafnet, nafnet.NAFNet, "64", X1, "deblur", 2022, "NAFNet width 64, arXiv:2204.04676"),
    "promptir": Network(promptir, promptir.PromptIR, "paper", X1, "denoise", 2023, "PromptIR, arXiv:2306.13090"),
}


class Restorer(nn.Module):
    """A network as the rest of the workbook sees it; `build(name, scale, **options)` makes one like it.

    `core` is the bare network with the official state_dict keys and input convention.
    """

    def __init__(self, name: str, scale: int, options: dict[str, Any]):
        super().__init__()
        self.name, self.scale, self.options = name, scale, options
        network = NETWORKS[name]
        self.restore = getattr(network.family, "restore", None)  # kept: the table may be edited later
        self.core = network.core(**options, **({} if network.scales == X1 else {"upscale": scale}))

    def forward(self, lq: Tensor) -> Tensor:
        """Restore a batch: (B, 3, H, W), floating point, RGB in [0, 1], H and W from 16 -> times scale, not clamped.

        Raises: ValueError for another shape or type, and on the CPU for values that are not finite. On a GPU that test
            would make every step wait; callers at the edge use `check_finite`.
        """
        if lq.ndim != 4 or lq.shape[1] != 3:
            raise ValueError(f"{self.name} needs images of shape (B, 3, H, W), got {tuple(lq.shape)}; add or drop axes")
        if not lq.is_floating_point():
            raise ValueError(f"{self.name} needs floating point RGB in [0, 1], got {lq.dtype}; divide uint8 by 255.0")
        if min(lq.shape[2:]) < SMALLEST:
            raise ValueError(f"{self.name} needs {SMALLEST}x{SMALLEST} pixels or more, got {lq.shape[2]}x{lq.shape[3]}")
        if lq.device.type == "cpu" and not torch.compiler.is_compiling():
            check_finite(lq)
        return self.restore(self.core, lq) if self.restore else self.core(lq)


def check_finite(lq: Tensor) -> None:
    """Raise ValueError if an image holds NaN or infinity. On a GPU this waits for the device."""
    if not torch.isfinite(lq).all():
        bad = int((~torch.isfinite(lq)).sum())
        raise ValueError(f"the image holds {bad} values that are NaN or infinite; repair or leave out that image")


def names() -> list[str]:
    """The names `build` accepts."""
    return list(NETWORKS)


def options(name: str, size: str = "paper") -> dict[str, Any]:
    """Constructor options of one size, to be passed on: `build(name, scale, **options(name, "tiny"))`.

    Sizes: "paper", or "demo" and "tiny": smaller members of the family, ours, for a laptop and for tests; some families
    have one in between, "gpu". Raises: ValueError for an unknown name or size.
    """
    network = _network(name)
    sizes = ["paper", *(s for s in ("gpu", "demo", "tiny") if s in network.family.SIZES)]
    check_choice(f"size of {name}", size, sizes)
    return copy.deepcopy(network.family.SIZES[network.paper if size == "paper" else size])


def build(name: str, scale: int = 1, **overrides: Any) -> Restorer:
    """A network with fresh weights, at paper size unless options are overridden.

    Args:
        name: one of `names()`.
        scale: output size / input size: 2, 3 or 4 for super-resolution networks, 1 for all others.
        overrides: constructor options of the core, as its signature lists them.

    Raises:
        ValueError: an unknown name, a scale the network does not have, or an unknown option.
    """
    network = _network(name)
    if whole(scale) not in network.scales:
        raise ValueError(f"{name} has no scale {scale!r}; build it with scale={' or '.join(map(str, network.scales))}")
    accepted = [p for p in inspect.signature(network.core).parameters if p != "upscale"]
    for option in overrides:
        check_choice(f"option of {name}", option, accepted)
    return Restorer(name, int(scale), options(name) | overrides)


def table() -> pd.DataFrame:
    """All networks at paper size: network | year | task | scale | parameters | macs | reference.

    `macs` are multiply-accumulates of convolutions and matrix products for one restored image of 256x256 pixels (at
    scale 4 for super-resolution), counted while the network runs without data, not quoted. Both counts are missing for
    a network of your own that needs data.
    """
    rows = []
    for name, network in NETWORKS.items():
        scale = network.scales[-1]
        counts = {"parameters": math.nan, "macs": math.nan}
        with suppress(Exception):  # the meta device has no numbers, which a constructor of the reader's own may ask for
            with torch.device("meta"):
                restorer, lq = build(name, scale).eval(), torch.empty(1, 3, 256 // scale, 256 // scale)
            counts = {"parameters": sum(p.numel() for p in restorer.parameters()), "macs": count_macs(restorer, lq)}
        row = {"network": name, "year": network.year, "task": network.task, "scale": scale}
        rows.append(row | counts | {"reference": network.reference})
    return pd.DataFrame(rows)


def count_macs(network: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, as torch's counter sees them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops() // 2


def load_checkpoint(
    network: nn.Module, path: str | Path, entry: str | None = None, *, strict: bool = True
) -> nn.Module:
    """Copy the weights of an official or own checkpoint into a network; the file is data and never runs.

    Reads PyTorch files and safetensors in every layout of `checkpoints`. Names and shapes must match; only SwinIR's
    masks, which follow from img_size, may differ. Tensors beside the network are left out and listed.

    Args:
        network: a `Restorer`, or a bare core; changed in place, and only if the whole file fits.
        path: the file.
        entry: which network to take if there are several, for instance "params" rather than "params_ema" (which is
            taken first, as the official test scripts do): the name of a dictionary, or what stands before the names.
        strict: False takes the tensors whose name and shape fit and says which of the network's own are left as they
            are, as from scale 2 to scale 4.

    Returns:
        The network.

    Raises:
        ValueError: the file is missing, damaged, asks to run code, holds no such entry, or belongs to another
        network: the sentence says which names or shapes differ and which network would fit.
    """
    return checkpoints.load(network, path, entry, known=_known, strict=strict)


def _known() -> list[tuple[str, checkpoints.Shapes]]:
    """Every network, scale and size: how to build it, and the names and shapes of its tensors.

    A network of the reader's own that cannot be built without data is passed over.
    """
    listing = []
    for name, network in NETWORKS.items():
        for scale in network.scales:
            for size in ("paper", "demo", "tiny"):
                call = f"build({name!r}" + (f", scale={scale}" if scale > 1 else "")
                call += ")" if size == "paper" else f", **options({name!r}, {size!r}))"
                with suppress(Exception):
                    listing.append((call, _shapes(name, scale, options(name, size))))
    return listing


_SHAPES: dict[tuple, checkpoints.Shapes] = {}  # what `_shapes` has counted


def _shapes(name: str, scale: int, wanted: dict) -> checkpoints.Shapes:
    """Names and shapes of a core's tensors, counted once: building the large ones takes a second, even without data."""
    key = (NETWORKS[name].core, scale, repr(wanted))
    if key not in _SHAPES:
        with torch.device("meta"):
            core = build(name, scale, **wanted).core
        _SHAPES[key] = {k: tuple(t.shape) for k, t in core.state_dict().items()}
    return _SHAPES[key]


def _network(name: str) -> Network:
    """The table's line for `name`."""
    check_choice("network", name, NETWORKS)
    return NETWORKS[name]
