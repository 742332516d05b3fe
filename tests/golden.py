"""Access to the numbers of the official implementations, kept beside the project in ../shared/golden."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "golden").is_dir(), reason="needs ../shared/golden")
needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")


def load(name: str) -> tuple[dict, dict]:
    """Fixture `name` as (json description, {tensor name: tensor})."""
    folder = SHARED / "golden"
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


def part(tensors: dict, prefix: str) -> dict:
    """The tensors below `prefix`, with the prefix removed."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
