"""Weight files of others, read as data: nothing in them is imported or run."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# How files begin that are taken for weight files, and what they are.
NOT_WEIGHTS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; run git lfs pull or download the file",
    b"<": "is a web page or other text, not the file itself; download it again",
    b"\x89HDF": "is an HDF5 file, as Keras writes; a PyTorch state_dict or a safetensors file is needed",
    b"\x1f\x8b": "is a gzip archive; unpack it first",
}


# What trainers save beside the weights: scores as NumPy's numbers (under the names of NumPy 1 and 2), options, paths.
# All are read as blanks, not as what they name: NumPy's own `scalar` unpickles, and so runs, what it is given.
BESIDE_WEIGHTS = (
    *("numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray"),
    *("numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct"),
    *("argparse.Namespace", "types.SimpleNamespace", "pathlib.PosixPath", "pathlib.WindowsPath", "datetime.datetime"),
)
DICTIONARIES = (  # read as plain ones
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "easydict.EasyDict"),
)


def read(path: str | Path) -> dict:
    """The dictionary in a safetensors file or in what torch.save wrote, on the CPU.

    It holds tensors by name, or dictionaries of tensors beside numbers and text.

    Raises:
        ValueError: the file is missing, may not be read, is damaged or a program (TorchScript), asks to run code, or
            holds no dictionary.
    """
    path = Path(os.path.expanduser(path))
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise ValueError(f"{path} is {'a folder' if os.path.isdir(path) else 'no regular file'}; name the file itself")
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError for a name with a NUL byte
        raise ValueError(f"{path} cannot be read ({error}); check the path and your right to read it") from error
    tensors_only = start[8:9] == b"{"  # safetensors: the length of a JSON text, then the text
    if not tensors_only:
        _refuse_other_files(path, start)
    try:
        content = load_file(path) if tensors_only else _load_pickle(path)
    except Exception as error:  # damaged files make the readers fail in many ways
        raise ValueError(f"{path} {_why_unreadable(error)}") from error
    if not isinstance(content, dict):
        kind = f"an object of type {type(content).__name__}"
        raise ValueError(f"{path} holds no weights, only {kind}; a state_dict of tensors is needed")
    return content


def _refuse_other_files(path: Path, start: bytes) -> None:
    """Raise ValueError for what is known to be no pickle of tensors, before anything of it is read."""
    if not start:
        raise ValueError(f"{path} is empty; download or copy it again")
    for beginning, what in NOT_WEIGHTS.items():
        if start.startswith(beginning):
            raise ValueError(f"{path} {what}")
    if start[:1] == b"\x80" and start[1:2] > b"\x02":  # a newer protocol than any that torch.save writes
        raise ValueError(
            f"{path} is refused: it is a pickle of Python objects, which could run code; "
            "save the network's state_dict() with torch.save or as safetensors"
        )
    if not start.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        raise ValueError(f"{path} {_why_unreadable(error)}") from error
    if any("/code/" in entry.filename or entry.filename.endswith("/archive_format") for entry in entries):
        raise ValueError(
            f"{path} is a program (TorchScript or torch.export), not weights, and is not run; "
            "save the state_dict() of the network it was made from"
        )
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > size:  # torch.save compresses nothing
        raise ValueError(
            f"{path} is refused: it has {size} bytes and would unpack to {unpacked}, which no weight file does; "
            "it is damaged or made to exhaust memory"
        )


def _load_pickle(path: Path) -> object:
    """torch.load that builds tensors, numbers, text and containers, and blanks for `BESIDE_WEIGHTS`."""
    stand_ins: list[Any] = [(OrderedDict, path) for path in DICTIONARIES]
    for module, _, name in (path.rpartition(".") for path in BESIDE_WEIGHTS):  # accept anything and do nothing
        ignored = dict.fromkeys(("__init__", "__setstate__"), lambda self, *args: None)
        stand_ins.append(type(name, (), {"__module__": module, **ignored}))
    # an open file: by its name torch.load would take anything called .safetensors for one
    with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")  # about pickle protocols and storage classes of old files
        return torch.load(file, map_location="cpu", weights_only=True)


def _why_unreadable(error: Exception) -> str:
    """Why a weight file was not read, as the end of a sentence that starts with its path."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return (
            f"is refused: reading it would run or build {named[1]!r}, but a checkpoint may hold only "
            "tensors, numbers and text; save the network's state_dict() instead"
        )
    return (
        f"is damaged, cut short or not a checkpoint ({type(error).__name__}); "
        "PyTorch state_dict files and safetensors are read: download or save it again"
    )
