"""Files that survive a crash: written aside, flushed and renamed. JSON, tables of numbers, tensors as safetensors.

Reading anything that is not what it should be raises ValueError with the file's name; for weight files of others see
`weight_files`.
"""

from __future__ import annotations

import csv
import hashlib
import html
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pandas as pd
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

LARGEST_JSON = 2**20  # bytes


def printable(name: str | Path) -> str:
    """A file's name for people, tables and consoles: bytes that are no text and control characters as escapes."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


def write_file(path: Path, content: bytes | str, keep: Path | None = None) -> None:
    """Write a file so that a crash, or OSError, leaves either the old or the new content, never a part.

    Text is written as UTF-8. The old content, if there is any, is moved to `keep`.
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
        if hasattr(os, "O_DIRECTORY"):  # not on Windows: renames outlive a power cut
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        with suppress(OSError):  # where nothing can be written
            aside.unlink(missing_ok=True)
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); the file as it was before is unchanged. "
            "Free space or choose another folder, then run the same command again."
        ) from error


def write_json(path: Path, content: dict) -> None:
    write_file(path, json.dumps(content, indent=2) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict | None = None, keep: Path | None = None) -> None:
    """Tensors and short facts (as one JSON text, so that equal content gives equal bytes) as one safetensors file.

    Tensors that share memory, as of a module that stands in two places, are each written out: safetensors refuses them.
    """
    contiguous: dict[str, Tensor] = {}
    memory = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        contiguous[name] = tensor.clone() if place in memory else tensor
        memory.add(place)
    header = {"facts": json.dumps(facts, sort_keys=True)} if facts else None
    write_file(path, save(contiguous, metadata=header), keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of a safetensors file. Raises: ValueError if it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(json.loads((file.metadata() or {}).get("facts", "{}")))
            return {name: file.get_tensor(name) for name in file.keys()}, facts
    except Exception as error:  # safetensors raises its own type for damaged files and OSError for missing ones
        raise ValueError(f"{path} cannot be read as safetensors ({error}).") from error


def sha256(path: Path) -> str:
    """The checksum of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(path: Path) -> list[dict[str, float]]:
    """A table of numbers, every digit as it was written; an empty cell is NaN. Raises: ValueError for anything else."""
    try:
        with open(path, newline="") as file:
            rows = [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
        return [row | {"step": int(row["step"])} for row in rows]
    except (OSError, ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table of numbers with a column step ({error}).") from error


def read_table(path: Path) -> pd.DataFrame:
    """Any table; names in a column `image` stay as they are: 0001 is no number and NA not missing.

    Raises: ValueError if the file is none.
    """
    try:
        numbers = {name: ["", "nan"] for name in pd.read_csv(path, nrows=0).columns if name != "image"}
        table = pd.read_csv(path, dtype={"image": str}, keep_default_na=False, na_values=numbers)
        return table.copy()  # joined in memory: pandas warns where columns are added to hundreds that are not
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
    """A small JSON file with an object in it. Raises: ValueError if it is anything else."""
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it is larger than {LARGEST_JSON} bytes")
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as a JSON object ({error}); copy it again.") from error
