"""Files that survive a crash: written aside, flushed and renamed. JSON, tables of numbers, tensors as safetensors.

Tensors are never written as pickles, and weight files of others are read as data: nothing in them runs. Reading
anything that is not what it should be raises ValueError with the file's name.
"""

from __future__ import annotations

import csv
import html
import json
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

LARGEST_JSON = 2**20  # bytes

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


def _blank(path: str) -> type:
    """A class that calls itself `path`, accepts anything and does nothing."""
    module, _, name = path.rpartition(".")
    ignored = dict.fromkeys(("__init__", "__setstate__"), lambda self, *args: None)
    return type(name, (), {"__module__": module, **ignored})


def printable(name: str | Path) -> str:
    """A file's name for people, tables and consoles: bytes that are no text and control characters as escapes."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


def write_file(path: Path, content: bytes | str, keep: Path | None = None) -> None:
    """Write a file so that a crash leaves either the old or the new content, never a part.

    Args:
        path: where; its folder exists.
        content: text is written as UTF-8.
        keep: where the old content is moved to, if there is any.
    Raises:
        OSError: it cannot be written; the old content is unchanged.
    """
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(aside, path)
        _flush_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); the file as it was before is unchanged. "
            "Free space or choose another out_dir, then run the same command again."
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make renames outlive a power cut, where a folder can be flushed."""
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: dict) -> None:
    write_file(path, json.dumps(content, indent=2) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict | None = None, keep: Path | None = None) -> None:
    """Tensors and short facts (as one JSON text, so that equal content gives equal bytes) as one safetensors file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"facts": json.dumps(facts, sort_keys=True)} if facts else None
    write_file(path, save(contiguous, metadata=header), keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of a safetensors file.

    Raises:
        ValueError: it is not one.
    """
    with _safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _facts(file)  # noqa: SIM118


def read_facts(path: Path) -> dict:
    """The facts of a safetensors file alone.

    Raises:
        ValueError: it is not one.
    """
    with _safetensors(path) as file:
        return _facts(file)


def _facts(file) -> dict:
    return dict(json.loads((file.metadata() or {}).get("facts", "{}")))


@contextmanager
def _safetensors(path: Path):
    """The open file; safetensors raises its own type for damaged files and OSError for missing ones."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}).") from error


def read_weights(path: str | Path) -> dict:
    """The content of a weight file, read as data: nothing that the file names is imported or run.

    Args:
        path: a safetensors file, or what torch.save wrote of tensors, numbers, text and containers of them.
    Returns:
        The dictionary in the file, on the CPU: tensors by name, or dictionaries of tensors beside other entries.
    Raises:
        ValueError: the file is missing, damaged, a program (TorchScript), asks to run code, or holds no dictionary.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = "is a folder; name the file inside it" if path.is_dir() else "does not exist; check the path"
        raise ValueError(f"{path} {kind}")
    with path.open("rb") as file:
        start = file.read(32)
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
    stand_ins: list[Any] = [_blank(path) for path in BESIDE_WEIGHTS] + [(OrderedDict, path) for path in DICTIONARIES]
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


def read_rows(path: Path) -> list[dict[str, float]]:
    """A table of numbers, every digit as it was written; an empty cell is NaN.

    Raises:
        ValueError: anything else.
    """
    try:
        with open(path, newline="") as file:
            rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
        return [row | {"step": int(row["step"])} for row in rows]
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: it is no table of numbers with a column step ({error}).") from error


def read_table(path: Path) -> pd.DataFrame:
    """Any table; the names in a column `image` stay as they are: 0001 is no number and NA not missing.

    Raises:
        ValueError: the file is none.
    """
    try:
        numbers = {name: ["", "nan"] for name in pd.read_csv(path, nrows=0).columns if name != "image"}
        return pd.read_csv(path, dtype={"image": str}, keep_default_na=False, na_values=numbers)
    except (ValueError, OSError, OverflowError) as error:  # the parser's own errors are ValueErrors
        raise ValueError(f"{path} cannot be read as a table ({error}).") from error


def as_markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, without its index: numbers to the right, an empty cell for NaN."""

    def cell(value) -> str:
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return ""
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")

    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rows = [table.columns, ["--:" if number else "---" for number in numbers]]
    rows += table.itertuples(index=False)
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in rows)


def read_json(file: Path) -> dict:
    """A small JSON file with an object in it.

    Raises:
        ValueError: it is anything else.
    """
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it is larger than {LARGEST_JSON} bytes")
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as a JSON object ({error}); copy it again.") from error
