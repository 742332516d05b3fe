"""Reading published and own checkpoints into a network: as data, and checked before any weight changes.

Layouts read (see the official loading code of each project):
    FFA-Net      {"model": {"module.*"}, "step", "psnrs", ...: NumPy numbers}
    DehazeFormer {"state_dict": {"module.*"}}
    IDT          {"module.*"}
    BasicSR      {"params": {...}, "params_ema": {...}}: EDSR, SwinIR, NAFNet, MCLIR
    PromptIR     {"state_dict": {"net.*"}, ...}: PyTorch Lightning
    own runs     safetensors with "core.*", or "<entry>/core.*" when one file holds several networks
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mclir_nb import files

ENTRIES = ("params_ema", "params", "state_dict", "model")  # looked for in this order
PREFIXES = ("module.", "_orig_mod.", "net.", "core.")  # DataParallel, torch.compile, Lightning, ours
DERIVED = ("attn_mask", "relative_position_index", "relative_positions")  # buffers that follow from the options
Shapes = dict[str, tuple[int, ...]]


def load(
    network: nn.Module,
    path: str | Path,
    entry: str | None = None,
    known: Callable[[], Iterable[tuple[str, Shapes]]] = tuple,
) -> nn.Module:
    """`networks.load_checkpoint`; `known` lists networks to suggest: (how to build it, names and shapes)."""
    core = getattr(network, "core", network)
    tensors = choose(read(path), entry, path)
    own = {k: v for k, v in core.state_dict().items() if not _derived(k)}
    found = {k: v for k, v in tensors.items() if not _derived(k)}
    problems = differences(own, found)
    if problems:
        shapes = {k: tuple(v.shape) for k, v in found.items()}
        fitting = [label for label, wanted in known() if shapes == {k: wanted[k] for k in wanted if not _derived(k)}]
        advice = f"it fits {' or '.join(fitting)}" if fitting else "it fits no network this package knows"
        raise ValueError(f"{path} does not fit {_label(network)}: {', '.join(problems)}; {advice}")
    core.load_state_dict(found | {k: v for k, v in core.state_dict().items() if _derived(k)}, strict=True)
    return network


def read(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file by entry; "" is the top level. Raises: ValueError if it holds none."""
    content = files.read_weights(path)
    entries: dict[str, dict[str, Tensor]] = {}
    for name, value in content.items():
        if isinstance(value, Tensor):
            entry, _, key = str(name).rpartition("/")
            entries.setdefault(entry, {})[key] = value
        elif isinstance(value, Mapping):
            inner = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
            entries |= {str(name): inner} if inner else {}
    if not entries:
        names = ", ".join(repr(k) for k in list(content)[:5]) or "nothing"
        raise ValueError(f"{path} holds no weights, only {names}; a state_dict of tensors is needed")
    return entries


def choose(entries: dict[str, dict[str, Tensor]], entry: str | None, path: str | Path) -> dict[str, Tensor]:
    """The weights of one entry, without the prefixes that wrappers put before every name."""
    if entry is None:
        entry = next((e for e in (*ENTRIES, "") if e in entries), None if len(entries) > 1 else next(iter(entries)))
    if entry not in entries:
        raise ValueError(f"{path} holds {', '.join(map(repr, entries))}; choose one of them with entry=")
    tensors = entries[entry]
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), None):
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What keeps `found` from being copied into `own`: counts and the first few names of each kind."""
    shapes = [
        f"{k} is {tuple(found[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in found and found[k].shape != own[k].shape
    ]
    kinds = [f"{k} is {_kind(found[k])}, not {_kind(own[k])}" for k in own if k in found and _odd(own[k], found[k])]
    listed = {
        f"of {len(own)} tensors missing": [k for k in own if k not in found],
        "unknown": [k for k in found if k not in own],
        "of another shape": shapes,
        "of another kind": kinds,
    }
    return [f"{len(v)} {what} ({'; '.join(v[:3])}{'; ...' if len(v) > 3 else ''})" for what, v in listed.items() if v]


def _label(network: nn.Module) -> str:
    """The network's name as `build` knows it, or its class."""
    if hasattr(network, "core"):
        return f"{network.name} at scale {network.scale}"
    return type(network).__name__


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
