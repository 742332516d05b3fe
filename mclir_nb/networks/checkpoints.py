"""Reading published and own checkpoints into a network: as data, and checked before any weight changes.

Layouts of the official projects (see their loading code):
    FFA-Net      {"model": {"module.*"}, "step", "psnrs", ...: NumPy numbers}
    DehazeFormer {"state_dict": {"module.*"}}
    IDT          {"module.*"}
    BasicSR      {"params": {...}, "params_ema": {...}}: EDSR, SwinIR, NAFNet, MCLIR
    PromptIR     {"state_dict": {"net.*"}, ...}: PyTorch Lightning
    own runs     safetensors with "core.*", or "<entry>/core.*" when one file holds several networks

Any other layout is read as well if somewhere in it all names of the network stand together, whatever comes before them:
the names decide, not a list of wrappers. What is beside them is left out, and said.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mclir_nb import weight_files

ENTRIES = ("params_ema", "params", "state_dict", "model")  # taken in this order where several fit
DERIVED = ("attn_mask", "relative_position_index", "relative_positions")  # buffers that follow from the options
# what torch.compile, activation checkpoints and FSDP put into the middle of names
WRAPPERS = re.compile(r"\b(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_forward_module)\.")
DEPTH = 4  # of dictionaries in dictionaries that are searched
Shapes = dict[str, tuple[int, ...]]


class Part(NamedTuple):
    """Tensors that may be one network: those of an entry of the file whose names begin alike."""

    entry: str
    prefix: str
    tensors: dict[str, Tensor]  # by their names without the prefix
    beside: list[str]  # other names of the entry

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.entry, self.prefix.rstrip("."))))

    @property
    def rank(self) -> tuple:
        """Where several fit: the known entries, then averages, then what comes first."""
        known = ENTRIES.index(self.entry) if self.entry in ENTRIES else len(ENTRIES)
        return known, "ema" not in self.name


def load(
    network: nn.Module,
    path: str | Path,
    entry: str | None = None,
    known: Callable[[], Iterable[tuple[str, Shapes]]] = tuple,
    *,
    strict: bool = True,
) -> nn.Module:
    """`networks.load_checkpoint`; `known` lists networks to suggest: (how to build it, names and shapes)."""
    core = getattr(network, "core", network)
    label = f"{network.name} at scale {network.scale}" if core is not network else type(network).__name__
    own = {k: v for k, v in core.state_dict().items() if not _derived(k)}
    parts = [part for name, tensors in read(path).items() for part in _parts(name, tensors, own)]
    asked = [part for part in parts if entry in (None, part.entry, part.prefix.rstrip("."), part.name)]
    if not asked:
        names = dict.fromkeys(repr(part.name) for part in parts if not differences(own, part.tensors))
        raise ValueError(f"{path} has no entry {entry!r}; {label} fits {_listed(names, 8) or 'nothing in it'}")
    if not strict:
        _load_what_fits(core, own, asked, f"{path} does not fit {label}")
        return network
    fitting = sorted((part for part in asked if not differences(own, part.tensors)), key=lambda part: part.rank)
    nearest = fitting or sorted(asked, key=lambda part: (-len(own.keys() & part.tensors.keys()), part.rank))
    extras = [k for k in nearest[0].tensors if k not in own]
    others = _suggestions(nearest[0].tensors, known) if not fitting or _large(nearest[0].tensors, extras) else []
    if not fitting or others:
        problems = differences(own, nearest[0].tensors) or [f"{len(extras)} unknown ({_listed(extras)})"]
        advice = f"it fits {' or '.join(others)}" if others else "it fits no network this package knows"
        raise ValueError(f"{path} does not fit {label}: {', '.join(problems)}; {advice}")
    if entry is None and len(fitting) > 1:
        listed = _listed([repr(part.name) for part in fitting], 8)
        print(f"{path} holds {len(fitting)} networks that fit: {listed}; the first is taken, entry names another.")
    if extras := extras + nearest[0].beside:
        print(f"{path}: {len(extras)} tensors that are not of {label} are left out: {_listed(extras)}")
    weights = {k: nearest[0].tensors[k] for k in own}
    core.load_state_dict({k: weights.get(k, v) for k, v in core.state_dict().items()}, strict=True)
    return network


def _load_what_fits(core: nn.Module, own: dict[str, Tensor], parts: list[Part], problem: str) -> None:
    """Copy what has the same name, shape and kind from the entry that has most of it, and say what is left."""
    taken: list[dict[str, Tensor]] = [
        {k: v for k, v in part.tensors.items() if k in own and v.shape == own[k].shape and not _odd(own[k], v)}
        for part in sorted(parts, key=lambda part: part.rank)
    ]
    weights = max(taken, key=len)
    if not weights:
        raise ValueError(f"{problem}: no tensor has the name and shape of one of its own")
    if left := [k for k in own if k not in weights]:
        print(f"{len(weights)} of {len(own)} tensors are taken; these stay as they are drawn: {_listed(left, 8)}")
    core.load_state_dict(weights, strict=False)


def read(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by entry: "" is the top level, dictionaries within dictionaries are "ema/module".

    Raises: ValueError if it cannot be read, or holds no tensors.
    """
    content = weight_files.read(path)
    entries: dict[str, dict[str, Tensor]] = {}

    def collect(items: Mapping, place: str, depth: int) -> None:
        for name, value in items.items():
            if isinstance(value, Tensor):
                entry, _, key = f"{place}{name}".rpartition("/")
                entries.setdefault(entry, {})[WRAPPERS.sub("", key)] = value
            elif isinstance(value, (Mapping, list, tuple)) and depth:
                inner = value if isinstance(value, Mapping) else dict(enumerate(value))
                collect(inner, f"{place}{name}/", depth - 1)

    collect(content, "", DEPTH)
    if not entries:
        found = _listed([repr(k) for k in content]) or "nothing"
        raise ValueError(f"{path} holds no weights, only {found}; a state_dict of tensors is needed")
    return entries


def differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps `found` from being copied into `own`: counts and the first few names of each kind.

    Names that `own` does not have are no hindrance where they are beside the network (its first level has no such
    name) or hold a single number, such as the counts that profilers and averages keep.
    """
    tops = {k.partition(".")[0] for k in own}
    missing = [k for k in own if k not in found]
    unknown = [k for k in found if k not in own]
    if not missing:
        unknown = [k for k in _large(found, unknown) if k.partition(".")[0] in tops]
    both = {k: (found[k], own[k]) for k in own if k in found}
    shapes = [f"{k} is {tuple(f.shape)}, not {tuple(o.shape)}" for k, (f, o) in both.items() if f.shape != o.shape]
    kinds = [f"{k} is {_kind(f)}, not {_kind(o)}" for k, (f, o) in both.items() if _odd(o, f)]
    listed = {f"of {len(own)} tensors missing": missing, "unknown": unknown}
    listed |= {"of another shape": shapes, "of another kind": kinds}
    return [f"{len(names)} {what} ({_listed(names)})" for what, names in listed.items() if names]


def _parts(entry: str, tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> list[Part]:
    """The entry as a whole, and what stands in it behind a prefix if that has names of the network."""
    plain = {k: v for k, v in tensors.items() if not _derived(k)}
    prefixes = Counter({"": 0})
    for name in plain:
        words = name.split(".")
        prefixes.update(name[: -len(end)] for i in range(len(words)) if (end := ".".join(words[i:])) in own)
    parts = []
    for prefix, count in prefixes.items():
        if count == max(prefixes.values()) or not prefix:
            behind = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
            parts.append(Part(entry, prefix, behind, [k for k in plain if not k.startswith(prefix)]))
    return parts


def _suggestions(found: Mapping[str, Tensor], known: Callable[[], Iterable[tuple[str, Shapes]]]) -> list[str]:
    """How to build the known networks that have exactly these tensors, behind whatever prefix all have in common."""

    def of_size(shapes: Shapes) -> Shapes:
        return {k: shape for k, shape in shapes.items() if math.prod(shape) > 1 and not _derived(k)}

    shapes = of_size({k: tuple(v.shape) for k, v in found.items()})
    fitting: list[str] = []
    while shapes and not fitting:
        fitting = [call for call, wanted in known() if of_size(wanted) == shapes]
        first, *others = (k.partition(".")[0] + "." for k in shapes)
        alike = all(other == first for other in others) and all(k.startswith(first) for k in shapes)
        shapes = {k.removeprefix(first): shape for k, shape in shapes.items()} if alike else {}
    return fitting


def _large(tensors: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """Those of the names whose tensor holds more than a single number."""
    return [k for k in names if tensors[k].numel() > 1]


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return "; ".join(names[:most]) + ("; ..." if len(names) > most else "")


def _derived(key: str) -> bool:
    """Whether a buffer is computed from the constructor options (SwinIR's masks depend on img_size)."""
    return key.rpartition(".")[2] in DERIVED


def _odd(own: Tensor, found: Tensor) -> bool:
    """Whether values cannot simply be copied: sparse, quantised, without data, or integers for reals."""
    plain = found.layout == torch.strided and found.device.type == "cpu" and not found.is_quantized
    return not plain or found.is_floating_point() != own.is_floating_point()


def _kind(tensor: Tensor) -> str:
    """dtype, and layout and device where unusual."""
    words = [str(tensor.dtype), str(tensor.layout), tensor.device.type]
    return " ".join(w.removeprefix("torch.") for w in words if w not in ("torch.strided", "cpu", "cuda"))
